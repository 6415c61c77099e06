import Basics
import SecretMemory

/// Reads our big-endian format out of foreign raw memory, so that secret bytes go from there straight into `SecretValue`
/// and never through an array. Throws `MalformedBytes`; never traps, never reads past `bytes`.
@safe struct FrameReader {
    private let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0
    init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

    private var remaining: Int { unsafe bytes.count - offset }

    mutating func integer<T: FixedWidthInteger>(_ type: T.Type = T.self) throws(MalformedBytes) -> T {
        let size = T.bitWidth / 8
        guard remaining >= size else { throw MalformedBytes("integer of \(size) bytes cut short", at: offset) }
        let value = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: T.self)
        offset += size
        return T(bigEndian: value)
    }
    mutating func bool() throws(MalformedBytes) -> Bool {
        switch try integer(UInt8.self) {
        case 0: return false
        case 1: return true
        case let other: throw MalformedBytes("\(other) is no boolean", at: offset - 1)
        }
    }
    mutating func string(max: Int) throws(MalformedBytes) -> String {
        let count = try length(max: max, of: "string")
        defer { offset += count }
        let slice = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
        guard let string = unsafe String(validating: slice, as: UTF8.self) else { throw MalformedBytes("text is not UTF-8", at: offset) }
        return string
    }
    mutating func secret(max: Int) throws -> SecretValue {
        let count = try length(max: max, of: "value")
        defer { offset += count }
        return try unsafe SecretValue(copying: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count]))
    }
    /// How many elements follow. Each takes at least a byte, so a count beyond what is left is refused before anything is reserved.
    mutating func count(max: Int, of what: String) throws(MalformedBytes) -> Int {
        let value = Int(try integer(UInt32.self))
        guard value <= max, value <= remaining else { throw MalformedBytes("\(value) is too many \(what)", at: offset - 4) }
        return value
    }
    private mutating func length(max: Int, of what: String) throws(MalformedBytes) -> Int {
        let value = Int(try integer(UInt32.self))
        guard value <= max else { throw MalformedBytes("\(what) of \(value) bytes, \(max) allowed", at: offset - 4) }
        guard value <= remaining else { throw MalformedBytes("\(what) of \(value) bytes cut short", at: offset - 4) }
        return value
    }
    func expectEnd() throws(MalformedBytes) {
        guard remaining == 0 else { throw MalformedBytes("\(remaining) bytes too many", at: offset) }
    }
}
