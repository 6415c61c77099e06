import Basics
import Testing

@testable import MVCC

@Suite("the key index")
struct IndexTests {
    private func cell(_ main: Int64) -> VersionCell { VersionCell(main: main, sub: 3, create: main, version: 1 << 40 | 5, dataKey: 7, lease: 9) }

    @Test("a cell of 32 bytes holds every field to its bound")
    func packing() {
        for cell in [
            VersionCell(main: PackedCell.revisionMax, sub: .max, create: PackedCell.revisionMax, version: PackedCell.revisionMax, dataKey: .max, lease: .max),
            VersionCell(main: 1, sub: 0, create: 1, version: 1, dataKey: 0, lease: 0),
            VersionCell(main: 5, sub: 0, create: 0, version: 0, dataKey: 0, lease: 0),
            VersionCell(main: 5, sub: 0, create: 5, version: 1 << 32, dataKey: 0, lease: 0),
        ] {
            let packed = PackedCell(cell, spare: 0xffff)
            #expect(packed.cell == cell)
            #expect(packed.isTombstone == cell.isTombstone)
            #expect(packed.spare == 0xffff)
        }
        #expect(MemoryLayout<PackedCell>.stride == 32)
    }

    @Test("random insertions and removals keep the tree's invariants and its order", arguments: 1...6 as ClosedRange<UInt64>)
    func randomTree(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed), tree = KeyTree()
        var held: Set<Bytes> = []
        // Few bytes, so that prefixes are shared; now and then a key longer than the slab's blocks.
        func key() -> Bytes {
            let prefix = ["", "registry/pods/", "registry/pods/default/web-"].randomElement(using: &random)!
            let length = Int.random(in: 0..<50, using: &random) == 0 ? 2_000 : Int.random(in: 1...6, using: &random)
            return Bytes(prefix.utf8) + (0..<length).map { _ in [0, 1, 0x61, 0x62, 0xff].randomElement(using: &random)! }
        }
        for phase in 0..<6 {
            let inserting = phase % 2 == 0 ? 80 : 15
            for _ in 0..<2_500 {
                if Int.random(in: 0..<100, using: &random) < inserting {
                    let key = key()
                    _ = key.withUnsafeBytes { tree.findOrInsert($0) }
                    held.insert(key)
                } else {
                    let probe = key()
                    var found: KeyEntry?
                    probe.withUnsafeBytes { tree.scan(from: $0) { found = $0; return false } }
                    if let found {
                        held.remove(found.key)
                        tree.remove(found)
                    }
                }
            }
            try #require(tree.violation() == nil)
            let sorted = held.sorted { $0.lexicographicallyPrecedes($1) }
            var scanned: [Bytes] = []
            tree.scan(from: UnsafeRawBufferPointer(start: nil, count: 0)) { scanned.append($0.key); return true }
            try #require(scanned == sorted)
            for key in sorted { try #require(key.withUnsafeBytes { tree.find($0) }?.key == key) }
            for _ in 0..<500 {
                let probe = key(), expected = sorted.first { !$0.lexicographicallyPrecedes(probe) }
                try #require(probe.withUnsafeBytes { tree.find($0) }?.key == (held.contains(probe) ? probe : nil))
                var next: Bytes?
                probe.withUnsafeBytes { tree.scan(from: $0) { next = $0.key; return false } }
                try #require(next == expected)
            }
        }
    }

    @Test("asking memory for keys ahead finds the entries of those that are there, and changes nothing", arguments: [0, 1, 60, 20_000])
    func prefetch(count: Int) throws {
        var index = KeyIndex(), batch = PrefetchBatch()
        for number in 0..<count {
            let entry = index.findOrInsert(Bytes("registry/\(number)".utf8))
            for version in 1...Int64(1 + number % 3) { index.append(cell(version), to: entry) }
        }
        var random = SeededGenerator(seed: 1)
        for _ in 0..<200 {
            batch.removeAll()
            var present: Set<Bytes> = []
            for _ in 0..<PrefetchBatch.keysMax {
                let isThere = count > 0 && Bool.random(using: &random), number = Int.random(in: 0..<max(1, count), using: &random)
                let key = Bytes((isThere ? "registry/\(number)" : ["a", "registry/", "registry/\(number)x", "z"].randomElement(using: &random)!).utf8)
                batch.append(key[...])
                if isThere { present.insert(key) }
            }
            index.prefetch(&batch)
            var found: Set<Bytes> = []
            batch.forEachEntry { found.insert($0.key) }
            try #require(present.isSubset(of: found))
        }
        #expect(index.violation() == nil && index.keyCount == count)
    }

    @Test("removing every key leaves an empty tree, whichever way one goes", arguments: [0, 1, 2])
    func removeAll(order: Int) throws {
        var tree = KeyTree(), random = SeededGenerator(seed: 5)
        var keys = (0..<8_000).map { Bytes("key/\($0)".utf8) }
        for key in keys { _ = key.withUnsafeBytes { tree.findOrInsert($0) } }
        switch order {
        case 0: break
        case 1: keys.reverse()
        default: keys.shuffle(using: &random)
        }
        for (i, key) in keys.enumerated() {
            let entry = try #require(key.withUnsafeBytes { tree.find($0) })
            tree.remove(entry)
            if i % 1_000 == 0 { try #require(tree.violation() == nil) }
        }
        #expect(tree.count == 0)
        #expect(tree.violation() == nil)
    }

    @Test("keys of one byte and of 65,536 are kept; every byte counts in their order")
    func extremes() throws {
        var tree = KeyTree()
        let long = Bytes(repeating: 7, count: Limits.keyBytesMax)
        var other = long
        other[other.count - 1] = 8
        for key in [long, other, [7], [8], Bytes(long.dropLast())] { _ = key.withUnsafeBytes { tree.findOrInsert($0) } }
        var scanned: [Bytes] = []
        tree.scan(from: UnsafeRawBufferPointer(start: nil, count: 0)) { scanned.append($0.key); return true }
        #expect(scanned == [[7], Bytes(long.dropLast()), long, other, [8]])
        #expect(tree.violation() == nil)
        tree.remove(try #require(long.withUnsafeBytes { tree.find($0) }))
        #expect(other.withUnsafeBytes { tree.find($0) } != nil)
    }

    @Test("a key with thousands of versions is read at each of its revisions, and shrinks by compaction")
    func longHistory() throws {
        var index = KeyIndex()
        let entry = index.findOrInsert(bytes("k"))
        for main in stride(from: 2 as Int64, through: 6_000, by: 2) { index.append(cell(main), to: entry) }
        for main in 2...6_001 as ClosedRange<Int64> { try #require(index.cell(of: entry, at: main)?.main == main / 2 * 2) }
        #expect(index.cell(of: entry, at: 1) == nil)
        var removed: [Int64] = []
        index.compact(at: 4_001) { removed.append($0.main) }
        #expect(removed == Array(stride(from: 2 as Int64, to: 4_000, by: 2)))
        #expect(index.cell(of: entry, at: 4_000)?.main == 4_000)
        #expect(index.violation() == nil)
    }
}
