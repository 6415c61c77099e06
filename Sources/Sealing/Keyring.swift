package import Basics
import CSodium
package import SecretMemory
import Synchronization

/// The keys of one keyring that are open in this process: the root, KEKs and DEKs. Seals values and opens them.
///
/// Key records come from the replicated key tables: `install` opens a wrapped key and keeps it, `forget` wipes it. New keys are
/// made here too, wrapped, but not installed: they are when the table has accepted them and comes back with them.
///
/// Callable from any thread. The lock is held only while 32 bytes of a key are copied to the stack (and wiped there afterwards);
/// sealing and opening run side by side. DEKs and KEKs lie in locked slabs (`isLockedIntoMemory`).
package final class Keyring: Sendable {
    package let id: KeyringID
    let nonces = NoncePool()
    let state: Mutex<State>

    struct State: ~Copyable {
        var roots: [UInt32: RootKey]
        var rootGeneration: UInt32
        var keyEncryptionKeys: [KeyEncryptionKeyID: Int] = [:]
        var dataKeys: [DataKeyID: Int] = [:]
        var keyEncryptionSlab = KeySlab()
        var dataSlab = KeySlab()
    }

    package init(id: KeyringID, root: RootKey) {
        self.id = id
        state = Mutex(State(roots: [root.generation: root], rootGeneration: root.generation))
    }
    /// A new keyring's name.
    package static func newID() -> KeyringID {
        _ = Sodium.ready
        var bytes = Bytes(repeating: 0, count: 16)
        unsafe bytes.withUnsafeMutableBytes { unsafe randombytes_buf($0.baseAddress!, 16) }
        guard let id = KeyringID(bytes) else { preconditionFailure("16 bytes are a keyring id") }
        return id
    }

    // MARK: Values

    /// Seals for this keyring, the data key's domain and the key's name: the value opens nowhere else.
    package func seal(_ plaintext: UnsafeRawBufferPointer, key: Bytes, under id: DataKeyID) throws(SealingError) -> SealedValue {
        guard plaintext.count <= Self.plaintextBytesMax else { throw .tooLarge }
        let total = plaintext.count + SealedValue.overheadBytes
        var failure: SealingError?
        let bytes = unsafe Bytes(unsafeUninitializedCapacity: total) { target, count in
            let blob = unsafe UnsafeMutableRawBufferPointer(start: target.baseAddress, count: total)
            let start = blob.baseAddress!
            // 0xE1 | alg u8 | flags u16 | dek_gen u32 | domain u64
            unsafe start.storeBytes(of: SealedValue.magic, as: UInt8.self)
            unsafe start.storeBytes(of: Envelope.algorithm, toByteOffset: 1, as: UInt8.self)
            unsafe start.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
            unsafe start.storeBytes(of: id.generation.bigEndian, toByteOffset: 4, as: UInt32.self)
            unsafe start.storeBytes(of: id.domain.rawValue.bigEndian, toByteOffset: 8, as: UInt64.self)
            failure = unsafe withDataKey(id) { dataKey in
                unsafe Envelope.seal(plaintext, as: .value, under: dataKey, context: .init(keyring: self.id, subject: key), nonces: nonces,
                                     headerBytes: SealedValue.headerBytes, into: blob)
                count = total
                return nil
            }
        }
        if let failure { throw failure }
        do { return try SealedValue(parsing: bytes) } catch { preconditionFailure("a value sealed here is a sealed value: \(error)") }
    }

    /// Opens into memory that wipes itself.
    package func open(_ value: SealedValue, key: Bytes) throws(SealingError) -> SecretBytes {
        try sealing { () throws -> SecretBytes in
            try unsafe SecretBytes(capacity: value.plaintextByteCount) { target in try unsafe open(value, key: key, into: target) }
        }
    }

    /// Opens straight into `target`, which has room for `value.plaintextByteCount` bytes; answers their number. When it throws,
    /// nothing of the plaintext is in `target`.
    package func open(_ value: SealedValue, key: Bytes, into target: UnsafeMutableRawBufferPointer) throws(SealingError) -> Int {
        precondition(target.count >= value.plaintextByteCount)
        if let failure = Self.headerFailure(value) { throw failure }
        let failure = unsafe withDataKey(value.dataKey) { dataKey in
            unsafe value.bytes.withUnsafeBytes { blob in
                unsafe Envelope.open(blob, as: .value, under: dataKey, context: .init(keyring: id, subject: key),
                                     headerBytes: SealedValue.headerBytes, into: target)
            }
        }
        if let failure { throw failure }
        return value.plaintextByteCount
    }

    /// Whether values under this data key open here.
    package func has(_ id: DataKeyID) -> Bool { state.withLock { $0.dataKeys[id] != nil } }
    package func has(_ id: KeyEncryptionKeyID) -> Bool { state.withLock { $0.keyEncryptionKeys[id] != nil } }

    /// Whether all keys here are locked into memory. They are not when the memlock limit is too low: worth telling the operator.
    package var isLockedIntoMemory: Bool { state.withLock { $0.dataSlab.isLocked && $0.keyEncryptionSlab.isLocked } }

    /// One blob is one libsodium call; far above every request's limit.
    package static let plaintextBytesMax = 256 << 20

    private static func headerFailure(_ value: SealedValue) -> SealingError? {
        guard value[1] == Envelope.algorithm else { return .unknownAlgorithm(value[1]) }
        let flags = UInt16(value[2]) << 8 | UInt16(value[3])
        return flags == 0 ? nil : .unknownFlags(flags)
    }

    /// Gives `body` a copy of the key on the stack, wiped afterwards.
    private func withDataKey(_ id: DataKeyID, _ body: (UnsafePointer<UInt8>) -> SealingError?) -> SealingError? {
        unsafe withUnsafeTemporaryAllocation(byteCount: Envelope.keyBytes, alignment: 16) { copy in
            let start = copy.baseAddress!
            defer { unsafe sodium_memzero(start, Envelope.keyBytes) }
            // Passed as an integer, since the closure of a lock may not take an unsafe pointer along.
            let address = UInt(bitPattern: start)
            let found = state.withLock { state in
                guard let slot = state.dataKeys[id], let target = unsafe UnsafeMutableRawPointer(bitPattern: address) else { return false }
                unsafe state.dataSlab.copy(slot, to: target)
                return true
            }
            guard found else { return .unknownKey(id) }
            return unsafe body(UnsafePointer(start.assumingMemoryBound(to: UInt8.self)))
        }
    }
}
