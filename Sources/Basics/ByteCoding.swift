/// Bytes that end early or do not parse. `at` is the offset within the buffer that was read.
package struct MalformedBytes: Error, Equatable, CustomStringConvertible {
    package var what: String
    package var at: Int
    @usableFromInline package init(_ what: String, at: Int) { self.what = what; self.at = at }
    package var description: String { "malformed bytes at offset \(at): \(what)" }
}

/// Writes our own formats: big-endian integers and length-prefixed bytes. Inlinable, since unspecialised it costs tenfold in other targets.
package struct ByteWriter: Sendable {
    @usableFromInline package internal(set) var bytes: Bytes
    package init(capacity: Int = 64) { bytes = []; bytes.reserveCapacity(capacity) }
    @inlinable package mutating func write<T: FixedWidthInteger>(_ value: T) {
        var shift = T.bitWidth - 8
        while shift >= 0 { bytes.append(UInt8(truncatingIfNeeded: value >> T(shift))); shift -= 8 }
    }
    // The usual ones once more, not generic: callers that are not specialised pay for a witness per byte otherwise.
    package mutating func write(_ value: UInt64) { withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) } }
    package mutating func write(_ value: Int64) { write(UInt64(bitPattern: value)) }
    package mutating func write(_ value: UInt32) { withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) } }
    package mutating func write(_ value: Int32) { write(UInt32(bitPattern: value)) }
    package mutating func write(_ value: UInt8) { bytes.append(value) }
    @inlinable package mutating func write(bool value: Bool) { bytes.append(value ? 1 : 0) }
    @inlinable package mutating func write(raw value: some Sequence<UInt8>) { bytes.append(contentsOf: value) }
    package mutating func write(raw value: Bytes) { bytes.append(contentsOf: value) }
    /// u32 length, then the bytes.
    @inlinable package mutating func write(prefixed value: some Collection<UInt8>) {
        write(UInt32(value.count)); bytes.append(contentsOf: value)
    }
    package mutating func write(prefixed value: Bytes) { write(UInt32(value.count)); bytes.append(contentsOf: value) }
    package mutating func write(prefixed value: ArraySlice<UInt8>) { write(UInt32(value.count)); bytes.append(contentsOf: value) }
    /// 0, or 1 and the length-prefixed bytes.
    @inlinable package mutating func write(optional value: Bytes?) {
        write(bool: value != nil)
        if let value { write(prefixed: value) }
    }
}

/// Reads what `ByteWriter` wrote; throws `MalformedBytes`, never traps.
package struct ByteReader: Sendable {
    @usableFromInline package let bytes: ArraySlice<UInt8>
    @usableFromInline var position: Int
    package init(_ bytes: Bytes) { self.init(bytes[...]) }
    package init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes; position = bytes.startIndex }
    @inlinable package var offset: Int { position - bytes.startIndex }
    @inlinable package var remaining: Int { bytes.endIndex - position }
    package var isAtEnd: Bool { remaining == 0 }

    @inlinable package mutating func read<T: FixedWidthInteger>(_ type: T.Type = T.self) throws(MalformedBytes) -> T {
        let size = T.bitWidth / 8
        guard remaining >= size else { throw MalformedBytes("integer of \(size) bytes cut short", at: offset) }
        var value: T = 0
        for _ in 0..<size {
            value = size == 1 ? T(truncatingIfNeeded: bytes[position]) : (value << 8) | T(truncatingIfNeeded: bytes[position])
            position += 1
        }
        return value
    }
    // As with the writer, the usual ones are not generic.
    package mutating func read(_ type: UInt64.Type = UInt64.self) throws(MalformedBytes) -> UInt64 { UInt64(bigEndian: try load(8, UInt64.self)) }
    package mutating func read(_ type: Int64.Type = Int64.self) throws(MalformedBytes) -> Int64 { Int64(bigEndian: try load(8, Int64.self)) }
    package mutating func read(_ type: UInt32.Type = UInt32.self) throws(MalformedBytes) -> UInt32 { UInt32(bigEndian: try load(4, UInt32.self)) }
    package mutating func read(_ type: UInt8.Type = UInt8.self) throws(MalformedBytes) -> UInt8 { try load(1, UInt8.self) }
    @inline(__always) private mutating func load<T: BitwiseCopyable>(_ size: Int, _ type: T.Type) throws(MalformedBytes) -> T {
        guard remaining >= size else { throw MalformedBytes("integer of \(size) bytes cut short", at: offset) }
        defer { position += size }
        return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: T.self) }
    }
    package mutating func readBool() throws(MalformedBytes) -> Bool {
        switch try read(UInt8.self) {
        case 0: return false
        case 1: return true
        case let other: throw MalformedBytes("\(other) is no boolean", at: offset - 1)
        }
    }
    package mutating func readRaw(_ count: Int) throws(MalformedBytes) -> ArraySlice<UInt8> {
        guard count >= 0, remaining >= count else { throw MalformedBytes("\(count) bytes wanted, \(remaining) left", at: offset) }
        defer { position += count }
        return bytes[position..<position + count]
    }
    package mutating func readPrefixed() throws(MalformedBytes) -> Bytes { Bytes(try readPrefixedPart()) }
    /// As a part of what is read: not copied, and holding on to all of it.
    package mutating func readPrefixedPart() throws(MalformedBytes) -> ArraySlice<UInt8> { try readRaw(Int(try read(UInt32.self))) }
    package mutating func readOptional() throws(MalformedBytes) -> Bytes? {
        try readBool() ? try readPrefixed() : nil
    }
    package func expectEnd() throws(MalformedBytes) {
        guard isAtEnd else { throw MalformedBytes("\(remaining) bytes too many", at: offset) }
    }
}
