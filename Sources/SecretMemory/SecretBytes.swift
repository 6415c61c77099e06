import CSodium

/// Memory could not be had or locked.
package struct SecretMemoryError: Error, Equatable, CustomStringConvertible {
    package var description: String
}

/// A secret with one owner: wiped when its lifetime ends, and without a description. Guarded ones lie in locked pages of
/// their own; others are kept from swap by the process (`mlockall` in the agent), since pages and not bytes are locked.
///
/// Invariant: `base` is valid for `count` bytes until `deinit`, which wipes before it frees. The bytes lie behind a
/// pointer and never inline: wiping an inline field in `deinit` would wipe a copy.
@safe package struct SecretBytes: ~Copyable, @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    package let count: Int
    private let guarded: Bool

    /// `fill` gets `capacity` zeroed bytes and returns how many it used; they become `count`. When it throws, all are wiped.
    /// `guarded`: own pages with guard pages and a locked page (25 µs and 12 KiB each; for keys of keys only).
    package init(capacity: Int, guarded: Bool = false, fill: (UnsafeMutableRawBufferPointer) throws -> Int) throws {
        precondition(capacity >= 0)
        _ = Sodium.ready
        let size = max(capacity, 1)
        let base: UnsafeMutableRawPointer
        if guarded {
            guard let memory = unsafe sodium_malloc(size) else { throw SecretMemoryError(description: "no guarded memory: the memlock limit is reached") }
            unsafe base = memory
        } else {
            unsafe base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
        }
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        let used: Int
        do {
            used = try unsafe fill(UnsafeMutableRawBufferPointer(start: base, count: capacity))
            precondition(used >= 0 && used <= capacity)
        } catch {
            unsafe Self.release(base, size, guarded: guarded)
            throw error
        }
        unsafe self.base = base
        self.count = used
        self.guarded = guarded
        self.size = size
    }
    private let size: Int

    package init(copying bytes: UnsafeRawBufferPointer, guarded: Bool = false) throws {
        try unsafe self.init(capacity: bytes.count, guarded: guarded) { target in
            unsafe target.copyMemory(from: bytes)
            return bytes.count
        }
    }
    package init(copying bytes: some Collection<UInt8>, guarded: Bool = false) throws {
        try unsafe self.init(capacity: bytes.count, guarded: guarded) { target in
            unsafe target.copyBytes(from: bytes)
            return bytes.count
        }
    }
    /// From the kernel's generator.
    package static func random(count: Int, guarded: Bool = false) throws -> SecretBytes {
        try unsafe SecretBytes(capacity: count, guarded: guarded) { target in
            if let start = target.baseAddress { unsafe randombytes_buf(start, target.count) }
            return target.count
        }
    }

    deinit { unsafe Self.release(base, size, guarded: guarded) }

    private static func release(_ base: UnsafeMutableRawPointer, _ size: Int, guarded: Bool) {
        if guarded {
            unsafe sodium_free(base)
        } else {
            unsafe sodium_memzero(base, size)
            unsafe base.deallocate()
        }
    }

    /// The pointer must not outlive `body`.
    package borrowing func withUnsafeBytes<R: ~Copyable, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try unsafe body(UnsafeRawBufferPointer(start: base, count: count))
    }
    /// The first byte, as C functions take a key. The pointer must not outlive `body`.
    package borrowing func withUnsafeStart<R: ~Copyable, E: Error>(_ body: (UnsafePointer<UInt8>) throws(E) -> R) throws(E) -> R {
        try unsafe body(UnsafePointer(base.assumingMemoryBound(to: UInt8.self)))
    }
    /// To put another secret of the same length into its place. The pointer must not outlive `body`.
    package mutating func withUnsafeMutableBytes<R: ~Copyable, E: Error>(_ body: (UnsafeMutableRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try unsafe body(UnsafeMutableRawBufferPointer(start: base, count: count))
    }
    /// A second owner of the same bytes.
    package borrowing func clone() throws -> SecretBytes {
        try unsafe SecretBytes(copying: UnsafeRawBufferPointer(start: base, count: count), guarded: guarded)
    }
    /// In time that depends on the lengths only.
    package borrowing func isEqual(to other: borrowing SecretBytes) -> Bool {
        guard count == other.count else { return false }
        return unsafe sodium_memcmp(base, other.base, count) == 0
    }
}

/// `sodium_init`, once per process.
package enum Sodium {
    package static let ready: Void = {
        precondition(sodium_init() >= 0, "libsodium could not start: no source of randomness")
    }()
}
