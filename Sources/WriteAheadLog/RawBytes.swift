package import Basics

/// Bytes under construction, kept and reused from one frame to the next. One owner, one thread.
///
/// Invariant: `count <= capacity`, and `base` is valid for `capacity` bytes until `deinit`.
@safe package final class FrameBuffer {
    private var base: UnsafeMutableRawPointer
    private var capacity: Int
    package private(set) var count = 0

    package init(capacity: Int = 64 * 1024) {
        self.capacity = max(capacity, 64)
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: self.capacity, alignment: 4096)
    }
    deinit { unsafe base.deallocate() }

    package func removeAll() { count = 0 }

    /// The next `size` bytes, uninitialised; they belong to the buffer already.
    package func extend(by size: Int) -> UnsafeMutableRawBufferPointer {
        precondition(size >= 0)
        if count + size > capacity { grow(to: count + size) }
        defer { count += size }
        return unsafe UnsafeMutableRawBufferPointer(start: base + count, count: size)
    }
    private func grow(to needed: Int) {
        let larger = max(capacity * 2, needed)
        let moved = UnsafeMutableRawPointer.allocate(byteCount: larger, alignment: 4096)
        unsafe moved.copyMemory(from: base, byteCount: count)
        unsafe base.deallocate()
        unsafe base = moved
        capacity = larger
    }
    package func append<T: FixedWidthInteger>(_ value: T) {
        let target = unsafe extend(by: MemoryLayout<T>.size)
        unsafe target.storeBytes(of: value.bigEndian, as: T.self)
    }
    package func append(_ bytes: UnsafeRawBufferPointer) {
        let target = unsafe extend(by: bytes.count)
        unsafe target.copyMemory(from: bytes)
    }
    package func append(_ bytes: Bytes) {
        unsafe bytes.withUnsafeBytes { unsafe append($0) }
    }
    package func appendZeros(_ size: Int) {
        let target = unsafe extend(by: size)
        unsafe target.initializeMemory(as: UInt8.self, repeating: 0)
    }
    package func store<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<T>.size <= count)
        unsafe base.storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
    }
    /// Valid until the buffer is changed.
    package var bytes: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: base, count: count) }
    package var mutableBytes: UnsafeMutableRawBufferPointer { unsafe UnsafeMutableRawBufferPointer(start: base, count: count) }
}

/// Foreign bytes being read: every access is checked, and answers `nil` beyond the end. Whoever makes one keeps the memory alive.
@safe package struct RawBytes {
    private let bytes: UnsafeRawBufferPointer
    package init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }
    package var count: Int { unsafe bytes.count }
    package var pointer: UnsafeRawBufferPointer { unsafe bytes }

    package func integer<T: FixedWidthInteger>(_ type: T.Type = T.self, at offset: Int) -> T? {
        guard offset >= 0, let end = offset.sum(MemoryLayout<T>.size), end <= count else { return nil }
        return unsafe T(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
    }
    package func slice(at offset: Int, count size: Int) -> RawBytes? {
        guard offset >= 0, size >= 0, let end = offset.sum(size), end <= count else { return nil }
        return unsafe RawBytes(UnsafeRawBufferPointer(rebasing: bytes[offset..<end]))
    }
    package func suffix(from offset: Int) -> RawBytes? { slice(at: offset, count: count - offset) }
    package var copied: Bytes { unsafe Bytes(bytes) }

    /// The offset of the first byte that is not zero.
    package func firstNonZero(from start: Int) -> Int? {
        guard start >= 0 else { return nil }
        var offset = start
        while offset + 8 <= count {
            if unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) != 0 { break }
            offset += 8
        }
        while offset < count {
            if unsafe bytes[offset] != 0 { return offset }
            offset += 1
        }
        return nil
    }
    /// One past the last byte that is not zero; 0 when all are.
    package var endOfContent: Int {
        var end = count
        while end >= 8, unsafe bytes.loadUnaligned(fromByteOffset: end - 8, as: UInt64.self) == 0 { end -= 8 }
        while end > 0, unsafe bytes[end - 1] == 0 { end -= 1 }
        return end
    }
}

extension Int {
    /// `nil` instead of a trap: one of the two may be foreign.
    fileprivate func sum(_ other: Int) -> Int? {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? nil : sum
    }
}
