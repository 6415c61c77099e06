/// A request that the kernel makes of a file system in a process (FUSE), as `linux/fuse.h` lays it out, version 7.31.
///
/// ```
/// request  length 4 │ operation 4 │ serial 8 │ node 8 │ user 4 │ group 4 │ process 4 │ 4 │ body …
/// answer   length 4 │ -errno 4    │ serial 8 │ body …
/// ```
struct KernelRequest {
    enum Operation: UInt32 {
        case lookup = 1, forget = 2, attributes = 3, setAttributes = 4, makeNode = 8, makeFolder = 9, unlink = 10, removeFolder = 11, rename = 12, link = 13
        case open = 14, read = 15, write = 16, room = 17, release = 18, sync = 20, start = 26, openFolder = 27, readFolder = 28, releaseFolder = 29
        case syncFolder = 30, create = 35, interrupt = 36, end = 38, forgetMany = 42, allocate = 43, renameWithFlags = 45
    }
    static let headerBytes = 40, writeHeaderBytes = 40, writeBytesMax = 1 << 20
    static let bytesMax = writeBytesMax + 4_096
    private let bytes: UnsafeRawBufferPointer

    /// Valid as long as `bytes` are.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.headerBytes, bytes.loadUnaligned(as: UInt32.self) == bytes.count else { return nil }
        self.bytes = bytes
    }
    private func header<Value: FixedWidthInteger & BitwiseCopyable>(_ offset: Int) -> Value { bytes.loadUnaligned(fromByteOffset: offset, as: Value.self) }
    /// `nil` for one that is not known here.
    var operation: Operation? { Operation(rawValue: header(4)) }
    var serial: UInt64 { header(8) }
    var node: UInt64 { header(16) }
    var user: UInt32 { header(24) }
    var group: UInt32 { header(28) }

    var body: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[Self.headerBytes...]) }
    func word(_ offset: Int) -> UInt32 { body.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
    func long(_ offset: Int) -> UInt64 { body.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
    func number(_ offset: Int) -> Int { Int(truncatingIfNeeded: long(offset)) }
    /// The names from here on; each ends with a zero.
    func names(_ offset: Int) -> [String] { body[offset...].split(separator: 0).map { String(decoding: $0, as: UTF8.self) } }
    func name(_ offset: Int = 0) -> String { names(offset).first ?? "" }
}

struct KernelAnswer {
    private(set) var bytes: [UInt8]
    init(to serial: UInt64) {
        bytes = []
        put(UInt32(0), UInt32(0))
        put(serial)
    }
    mutating func put<each Value: FixedWidthInteger>(_ values: repeat each Value) {
        for value in repeat each values { withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) } }
    }
    mutating func put(zeros count: Int) { bytes.append(contentsOf: repeatElement(0, count: count)) }
    mutating func put(_ text: String) { bytes.append(contentsOf: text.utf8) }
    mutating func change(_ body: (inout [UInt8]) -> Void) { body(&bytes) }
    var bodyCount: Int { bytes.count - 16 }

    /// With its length; an error has no body.
    func finished(error: Int32 = 0) -> [UInt8] {
        var result = error == 0 ? bytes : Array(bytes.prefix(16))
        result.withUnsafeMutableBytes { field in
            field.storeBytes(of: UInt32(field.count), toByteOffset: 0, as: UInt32.self)
            field.storeBytes(of: -error, toByteOffset: 4, as: Int32.self)
        }
        return result
    }
}
