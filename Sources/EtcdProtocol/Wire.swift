package import Basics
package import NIOCore

// Protocol buffers' wire format, by hand: tag varint (field << 3 | type), then a varint, 8 bytes, a length and bytes, or 4 bytes.

/// Bytes that are no message. Whoever sent them gets INVALID_ARGUMENT; the connection goes on.
package enum WireError: Error, Hashable {
    case truncated
    case varintTooLong
    case badFieldNumber
    case wrongType(field: Int)
    case badWireType
    case nestedTooDeep
    case notText(field: Int)
}

/// Reads one message, or one nested in it. Every length is checked against what is left before it is used.
///
/// Valid only inside `decode`, which lends it the bytes.
package struct WireReader {
    /// Transactions nest two levels each, and hold messages of two more.
    static let depthMax = 2 * Limits.transactionDepthMax + 6

    private let source: ByteBuffer
    private let bytes: UnsafeRawBufferPointer
    private var position: Int
    private let end: Int
    private let depth: Int
    private(set) var field = 0
    private var type: UInt64 = 0

    fileprivate init(source: ByteBuffer, bytes: UnsafeRawBufferPointer) {
        self.init(source: source, bytes: bytes, position: 0, end: bytes.count, depth: 0)
    }
    private init(source: ByteBuffer, bytes: UnsafeRawBufferPointer, position: Int, end: Int, depth: Int) {
        self.source = source; self.bytes = bytes; self.position = position; self.end = end; self.depth = depth
    }

    /// Moves to the next field, leaving its number in `field`; false at the end.
    mutating func nextField() throws(WireError) -> Bool {
        guard position < end else { return false }
        let tag = try readVarint()
        guard tag >> 3 >= 1, tag >> 3 <= 536_870_911 else { throw .badFieldNumber }
        field = Int(tag >> 3)
        type = tag & 7
        return true
    }

    private mutating func readVarint() throws(WireError) -> UInt64 {
        guard position < end else { throw .truncated }
        let first = bytes[position]
        if first < 0x80 {
            position += 1
            return UInt64(first)
        }
        var value: UInt64 = 0, shift: UInt64 = 0
        while position < end {
            let byte = bytes[position]
            position += 1
            if shift == 63, byte > 1 { throw .varintTooLong }
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
            if shift > 63 { throw .varintTooLong }
        }
        throw .truncated
    }

    /// The bounds of a length-delimited field.
    private mutating func readDelimited() throws(WireError) -> Range<Int> {
        guard type == 2 else { throw .wrongType(field: field) }
        let length = try readVarint()
        guard length <= UInt64(end - position) else { throw .truncated }
        defer { position += Int(length) }
        return position..<position + Int(length)
    }

    mutating func uint64() throws(WireError) -> UInt64 {
        guard type == 0 else { throw .wrongType(field: field) }
        return try readVarint()
    }
    mutating func int64() throws(WireError) -> Int64 { Int64(bitPattern: try uint64()) }
    mutating func uint32() throws(WireError) -> UInt32 { UInt32(truncatingIfNeeded: try uint64()) }
    mutating func bool() throws(WireError) -> Bool { try uint64() != 0 }
    mutating func enumeration<E: RawRepresentable>(_ type: E.Type) throws(WireError) -> E? where E.RawValue == Int {
        E(rawValue: Int(Int32(truncatingIfNeeded: try uint64())))
    }

    /// Repeated numbers, packed or not.
    mutating func repeatedVarints(_ body: (UInt64) -> Void) throws(WireError) {
        guard type == 2 else { return body(try uint64()) }
        let range = try readDelimited()
        var packed = WireReader(source: source, bytes: bytes, position: range.lowerBound, end: range.upperBound, depth: depth)
        while packed.position < packed.end { body(try packed.readVarint()) }
    }

    mutating func copiedBytes() throws(WireError) -> Bytes {
        let range = try readDelimited()
        return Bytes(UnsafeRawBufferPointer(rebasing: bytes[range]))
    }
    /// The field's bytes where they lie: values are sealed straight from the network's buffer, never copied in between.
    mutating func slice() throws(WireError) -> ByteBuffer {
        let range = try readDelimited()
        return source.getSlice(at: source.readerIndex + range.lowerBound, length: range.count) ?? ByteBuffer()
    }
    mutating func text() throws(WireError) -> String {
        let range = try readDelimited()
        guard let text = String(validating: UnsafeRawBufferPointer(rebasing: bytes[range]), as: UTF8.self) else { throw .notText(field: field) }
        return text
    }
    mutating func message<M: WireMessage>(_ type: M.Type = M.self) throws(WireError) -> M {
        let range = try readDelimited()
        guard depth < Self.depthMax else { throw .nestedTooDeep }
        var nested = WireReader(source: source, bytes: bytes, position: range.lowerBound, end: range.upperBound, depth: depth + 1)
        return try M(reading: &nested)
    }

    /// A field this version does not know.
    mutating func skip() throws(WireError) {
        switch type {
        case 0: _ = try readVarint()
        case 1: try skip(bytes: 8)
        case 2: _ = try readDelimited()
        case 5: try skip(bytes: 4)
        default: throw .badWireType
        }
    }
    private mutating func skip(bytes count: Int) throws(WireError) {
        guard end - position >= count else { throw .truncated }
        position += count
    }
}

/// Where a message is written to. Two passes over the same code: `WireSizer` counts, `WireWriter` writes.
package protocol WireSink {
    mutating func varint(_ field: Int, _ value: UInt64)
    mutating func bytes(_ field: Int, _ value: UnsafeRawBufferPointer)
    mutating func sealed(_ field: Int, _ value: SealedValue, key: Bytes)
    mutating func message<M: WireMessage>(_ field: Int, _ value: M)
}

extension WireSink {
    // proto3 does not write what is zero, false or empty.
    @inline(__always) mutating func int64(_ field: Int, _ value: Int64) { if value != 0 { varint(field, UInt64(bitPattern: value)) } }
    @inline(__always) mutating func uint64(_ field: Int, _ value: UInt64) { if value != 0 { varint(field, value) } }
    @inline(__always) mutating func bool(_ field: Int, _ value: Bool) { if value { varint(field, 1) } }
    @inline(__always) mutating func bytes(_ field: Int, _ value: Bytes) {
        if !value.isEmpty { value.withUnsafeBytes { bytes(field, $0) } }
    }
    mutating func bytes(_ field: Int, _ value: ByteBuffer) {
        if value.readableBytes > 0 { value.withUnsafeReadableBytes { bytes(field, $0) } }
    }
    mutating func text(_ field: Int, _ value: String) {
        if !value.isEmpty { bytes(field, Bytes(value.utf8)) }
    }
    mutating func optionalMessage<M: WireMessage>(_ field: Int, _ value: M?) { if let value { message(field, value) } }
    mutating func messages<M: WireMessage>(_ field: Int, _ values: [M]) { for value in values { message(field, value) } }
}

@inline(__always) private func varintBytes(_ value: UInt64) -> Int { (70 - (value | 1).leadingZeroBitCount) / 7 }

package struct WireSizer: WireSink {
    var total = 0
    @inline(__always) package mutating func varint(_ field: Int, _ value: UInt64) {
        total += varintBytes(UInt64(field) << 3) + varintBytes(value)
    }
    @inline(__always) private mutating func delimited(_ field: Int, _ count: Int) {
        total += varintBytes(UInt64(field) << 3) + varintBytes(UInt64(count)) + count
    }
    @inline(__always) package mutating func bytes(_ field: Int, _ value: UnsafeRawBufferPointer) { delimited(field, value.count) }
    package mutating func sealed(_ field: Int, _ value: SealedValue, key: Bytes) {
        if value.plaintextByteCount > 0 { delimited(field, value.plaintextByteCount) }
    }
    package mutating func message<M: WireMessage>(_ field: Int, _ value: M) {
        var nested = WireSizer()
        value.write(to: &nested)
        delimited(field, nested.total)
    }
}

/// Opens a sealed value straight into an answer.
package protocol ValueOpener: AnyObject {
    /// Fills `target`, which has the plaintext's size, or throws and leaves it zeroed.
    func open(_ value: SealedValue, key: Bytes, into target: UnsafeMutableRawBufferPointer) throws
}

package struct WireWriter: WireSink {
    private let target: UnsafeMutableRawBufferPointer
    private let opener: (any ValueOpener)?
    private(set) var position = 0
    private(set) var failure: (any Error)?

    init(_ target: UnsafeMutableRawBufferPointer, opener: (any ValueOpener)?) {
        self.target = target
        self.opener = opener
    }

    @inline(__always) private mutating func put(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            target[position] = UInt8(truncatingIfNeeded: rest) | 0x80
            position += 1
            rest >>= 7
        }
        target[position] = UInt8(truncatingIfNeeded: rest)
        position += 1
    }
    @inline(__always) package mutating func varint(_ field: Int, _ value: UInt64) {
        put(UInt64(field) << 3)
        put(value)
    }
    package mutating func bytes(_ field: Int, _ value: UnsafeRawBufferPointer) {
        put(UInt64(field) << 3 | 2)
        put(UInt64(value.count))
        UnsafeMutableRawBufferPointer(rebasing: target[position..<position + value.count]).copyMemory(from: value)
        position += value.count
    }
    package mutating func sealed(_ field: Int, _ value: SealedValue, key: Bytes) {
        let count = value.plaintextByteCount
        guard count > 0 else { return check(value, key) }
        put(UInt64(field) << 3 | 2)
        put(UInt64(count))
        let room = UnsafeMutableRawBufferPointer(rebasing: target[position..<position + count])
        position += count
        do {
            guard let opener else { throw ValueWithoutOpener() }
            try opener.open(value, key: key, into: room)
        } catch {
            room.initializeMemory(as: UInt8.self, repeating: 0)
            failure = error
        }
    }
    /// An empty value leaves no field, and must be authentic all the same.
    private mutating func check(_ value: SealedValue, _ key: Bytes) {
        do {
            guard let opener else { throw ValueWithoutOpener() }
            try opener.open(value, key: key, into: UnsafeMutableRawBufferPointer(start: nil, count: 0))
        } catch {
            failure = error
        }
    }
    package mutating func message<M: WireMessage>(_ field: Int, _ value: M) {
        var size = WireSizer()
        value.write(to: &size)
        put(UInt64(field) << 3 | 2)
        put(UInt64(size.total))
        value.write(to: &self)
    }
}

/// A sealed value met an encoder that was given nothing to open it with.
package struct ValueWithoutOpener: Error {}

/// A message of etcd's protocol: a plain struct that reads and writes itself.
package protocol WireMessage: Sendable {
    init()
    /// Reads the field the reader stands on; `false` for one it does not know.
    mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool
    func write<S: WireSink>(to sink: inout S)
}

extension WireMessage {
    @inline(__always) init(reading reader: inout WireReader) throws(WireError) {
        self.init()
        while try reader.nextField() {
            if try !read(reader.field, from: &reader) { try reader.skip() }
        }
    }

    /// The readable bytes of `buffer` as one message.
    @inline(__always) package init(decoding buffer: ByteBuffer) throws(WireError) {
        let result: Result<Self, WireError> = buffer.withUnsafeReadableBytes { bytes in
            var reader = WireReader(source: buffer, bytes: bytes)
            do throws(WireError) { return .success(try Self(reading: &reader)) } catch { return .failure(error) }
        }
        self = try result.get()
    }

    package var encodedBytes: Int {
        var size = WireSizer()
        write(to: &size)
        return size.total
    }

    /// Appends the message. Throws only when a sealed value does not open; `buffer` is as before then.
    @inline(__always) package func encode(into buffer: inout ByteBuffer, opener: (any ValueOpener)? = nil) throws {
        var size = WireSizer()
        write(to: &size)
        let total = size.total
        var failure: (any Error)?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: total) { room in
            var writer = WireWriter(UnsafeMutableRawBufferPointer(rebasing: room[..<total]), opener: opener)
            write(to: &writer)
            failure = writer.failure
            precondition(failure != nil || writer.position == total, "both passes over a message write the same")
            if failure != nil { UnsafeMutableRawBufferPointer(rebasing: room[..<total]).initializeMemory(as: UInt8.self, repeating: 0) }
            return failure == nil ? total : 0
        }
        if let failure { throw failure }
    }
}
