import Basics

/// One version of a key as the index holds it; `version` 0 is a tombstone.
struct VersionCell: Equatable {
    var main: Int64
    var sub: Int32
    var create: Int64
    var version: Int64
    /// The interned data key (see `KeyTable`); 0 for a tombstone.
    var dataKey: UInt32
    /// The interned lease id (see `LeaseNames`); 0 for none.
    var lease: UInt32

    var isTombstone: Bool { version == 0 }
    var revision: Revision { Revision(main, sub) }
}

/// A `VersionCell` in 32 bytes:
///
///     word 0   version bits 32…47 (16) | main (48)
///     word 1   spare (16)              | create (48)
///     word 2   version bits 0…31 (32)  | sub (32)
///     word 3   data key (32)           | lease (32)
///
/// Revisions of 48 bits last 89 years at 100,000 a second; `Store` refuses to write beyond them.
/// In a `KeyEntry` the spare bits hold the key's length less one.
struct PackedCell {
    var word0, word1, word2, word3: UInt64

    static let revisionMax: Int64 = 1 << 48 - 1

    init(_ cell: VersionCell, spare: UInt64) {
        let version = UInt64(truncatingIfNeeded: cell.version)
        word0 = UInt64(truncatingIfNeeded: cell.main) | (version >> 32) << 48
        word1 = UInt64(truncatingIfNeeded: cell.create) | spare << 48
        word2 = version << 32 | UInt64(UInt32(bitPattern: cell.sub))
        word3 = UInt64(cell.dataKey) << 32 | UInt64(cell.lease)
    }

    @inline(__always) var main: Int64 { Int64(bitPattern: word0 & 0xffff_ffff_ffff) }
    @inline(__always) var isTombstone: Bool { word2 >> 32 == 0 && word0 >> 48 == 0 }
    @inline(__always) var spare: UInt64 { word1 >> 48 }
    @inline(__always) var dataKey: UInt32 { UInt32(truncatingIfNeeded: word3 >> 32) }

    var cell: VersionCell {
        VersionCell(
            main: main, sub: Int32(truncatingIfNeeded: word2), create: Int64(bitPattern: word1 & 0xffff_ffff_ffff),
            version: Int64(bitPattern: word2 >> 32 | (word0 >> 48) << 32), dataKey: dataKey, lease: UInt32(truncatingIfNeeded: word3))
    }
}

/// A key and its latest version in one block of memory that never moves while the key is in the index:
///
///     PackedCell 32 | history u32 | key bytes
///
/// `history` names the block of older versions (0: none). Separators of inner nodes have the same form and no versions.
/// Valid until the index removes the key; never leaves this module.
@safe struct KeyEntry: Equatable {
    let memory: UnsafeMutableRawPointer
    @inline(__always) static func == (a: KeyEntry, b: KeyEntry) -> Bool { unsafe a.memory == b.memory }
    static let headerBytes = 36

    @inline(__always) var latest: PackedCell {
        get { unsafe memory.load(as: PackedCell.self) }
        nonmutating set { unsafe memory.storeBytes(of: newValue, as: PackedCell.self) }
    }
    @inline(__always) var history: Int {
        get { unsafe Int(memory.load(fromByteOffset: 32, as: UInt32.self)) }
        nonmutating set { unsafe memory.storeBytes(of: UInt32(truncatingIfNeeded: newValue), toByteOffset: 32, as: UInt32.self) }
    }
    /// 1 … 65,536.
    @inline(__always) var keyByteCount: Int { unsafe Int(memory.load(fromByteOffset: 8, as: UInt64.self) >> 48) + 1 }
    @inline(__always) var keyBytes: UnsafeRawPointer { unsafe UnsafeRawPointer(memory + Self.headerBytes) }
    @inline(__always) var keyBuffer: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: keyBytes, count: keyByteCount) }
    var key: Bytes { unsafe Bytes(keyBuffer) }
    /// No version yet, or none any more.
    @inline(__always) var isEmpty: Bool { latest.main == 0 }
    /// Its key exists now.
    @inline(__always) var isLive: Bool { !latest.isTombstone }

    nonmutating func setLatest(_ cell: VersionCell) { latest = PackedCell(cell, spare: UInt64(keyByteCount - 1)) }
}

/// Memory in blocks of 8 to 1,024 bytes, in steps of 8, cut from 64 KiB chunks that live as long as the slab; greater ones are the system's.
/// Half as much overhead as malloc for blocks of 90 bytes, which is what an index of a million keys is made of.
@safe struct Slab: ~Copyable {
    private static let chunkBytes = 64 << 10
    static let blockBytesMax = 1024
    private var free: [UnsafeMutableRawPointer?]
    private var chunks: [UnsafeMutableRawPointer] = unsafe []
    private var cursor = 0
    /// What is held from the system, for figures.
    private(set) var bytes = 0

    init() { unsafe free = unsafe Array(repeating: nil, count: Self.blockBytesMax / 8 + 1) }

    mutating func allocate(_ count: Int) -> UnsafeMutableRawPointer {
        let size = (count + 7) & ~7
        guard size <= Self.blockBytesMax else {
            bytes += size
            return .allocate(byteCount: size, alignment: 8)
        }
        if let block = unsafe free[size / 8] {
            unsafe free[size / 8] = unsafe block.load(as: UnsafeMutableRawPointer?.self)
            return unsafe block
        }
        if unsafe chunks.isEmpty || cursor + size > Self.chunkBytes {
            unsafe chunks.append(.allocate(byteCount: Self.chunkBytes, alignment: 16))
            bytes += Self.chunkBytes
            cursor = 0
        }
        defer { cursor += size }
        return unsafe chunks[chunks.count - 1] + cursor
    }

    mutating func deallocate(_ block: UnsafeMutableRawPointer, _ count: Int) {
        let size = (count + 7) & ~7
        guard size <= Self.blockBytesMax else {
            bytes -= size
            return unsafe block.deallocate()
        }
        unsafe block.storeBytes(of: free[size / 8], as: UnsafeMutableRawPointer?.self)
        unsafe free[size / 8] = unsafe block
    }

    deinit { for unsafe chunk in unsafe chunks { unsafe chunk.deallocate() } }
}

/// Byte order of keys, eight bytes a step.
@inline(__always)
func compareBytes(_ a: UnsafeRawPointer, _ aCount: Int, _ b: UnsafeRawPointer, _ bCount: Int) -> Int {
    let common = min(aCount, bCount)
    var i = 0
    while i + 8 <= common {
        let x = unsafe a.loadUnaligned(fromByteOffset: i, as: UInt64.self), y = unsafe b.loadUnaligned(fromByteOffset: i, as: UInt64.self)
        if x != y { return x.bigEndian < y.bigEndian ? -1 : 1 }
        i += 8
    }
    while i < common {
        let x = unsafe a.load(fromByteOffset: i, as: UInt8.self), y = unsafe b.load(fromByteOffset: i, as: UInt8.self)
        if x != y { return x < y ? -1 : 1 }
        i += 1
    }
    return aCount - bCount
}

/// `a` < `b`, much faster than `lexicographicallyPrecedes` for long keys.
@inline(__always)
func precedes(_ a: Bytes, _ b: Bytes) -> Bool {
    unsafe a.withUnsafeBytes { a in
        unsafe b.withUnsafeBytes { b in
            guard let bBase = b.baseAddress else { return false }
            guard let aBase = a.baseAddress else { return b.count > 0 }
            return unsafe compareBytes(aBase, a.count, bBase, b.count) < 0
        }
    }
}

@inline(__always)
func commonPrefixCount(_ a: UnsafeRawPointer, _ aCount: Int, _ b: UnsafeRawPointer, _ bCount: Int) -> Int {
    let common = min(aCount, bCount)
    var i = 0
    while i < common, unsafe a.load(fromByteOffset: i, as: UInt8.self) == b.load(fromByteOffset: i, as: UInt8.self) { i += 1 }
    return i
}
