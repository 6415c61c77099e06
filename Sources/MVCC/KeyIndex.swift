import Basics
import CLinux

/// Every key with the history of its versions: the part of the store that is held in memory whole.
///
/// An entry holds the latest version beside the key; older ones, oldest first, lie in a block of their own.
/// Two queues in revision order say what a compaction will remove, so that it costs what it removes and not what it keeps:
/// `superseded` (a version, at the revision that replaced it) and `tombstones` (at their own).
///
/// Invariants: the cells of a key ascend by revision; a key has at least one cell; each version but the latest of each key that is no
/// tombstone has one element in `superseded`, each tombstone one in `tombstones`.
struct KeyIndex: ~Copyable, @unchecked Sendable {
    @safe private struct History {
        var cells: UnsafeMutablePointer<PackedCell>
        var count: Int
        var capacity: Int
    }

    private var tree = KeyTree()
    /// Block 0 is never used: 0 means "no history".
    private var histories: [History?] = [nil]
    private var freeHistories: [Int] = []
    private var superseded = EntryQueue()
    private var tombstones = EntryQueue()
    /// Cells, tombstones included.
    private(set) var cellCount: Int64 = 0
    /// Keys that exist now.
    private(set) var liveCount: Int64 = 0

    /// Keys with at least one cell.
    var keyCount: Int { tree.count }
    /// Memory held, for figures.
    var bytes: Int { tree.bytes + histories.capacity * MemoryLayout<History?>.stride + superseded.bytes + tombstones.bytes }

    // MARK: Reading

    func find(_ key: Bytes) -> KeyEntry? { unsafe key.withUnsafeBytes { unsafe tree.find($0) } }

    /// The version of the key that a read at `revision` sees.
    @inline(__always)
    func cell(of entry: KeyEntry, at revision: Int64) -> VersionCell? {
        let latest = entry.latest
        if latest.main <= revision { return latest.isTombstone ? nil : latest.cell }
        guard let position = position(in: entry, at: revision) else { return nil }
        let older = unsafe histories[entry.history]!.cells[position]
        return older.isTombstone ? nil : older.cell
    }

    /// The last older cell that is not after `revision`.
    private func position(in entry: KeyEntry, at revision: Int64) -> Int? {
        guard let history = histories[entry.history] else { return nil }
        var low = 0, high = history.count
        while low < high {
            let middle = (low + high) >> 1
            if unsafe history.cells[middle].main <= revision { low = middle + 1 } else { high = middle }
        }
        return low > 0 ? low - 1 : nil
    }

    /// The cell written at exactly this revision, tombstones too.
    func cell(of entry: KeyEntry, written revision: Revision) -> VersionCell? {
        let latest = entry.latest.cell
        if latest.revision == revision { return latest }
        guard let history = histories[entry.history], var at = position(in: entry, at: revision.main) else { return nil }
        while unsafe history.cells[at].main == revision.main {
            let cell = unsafe history.cells[at].cell
            if cell.sub == revision.sub { return cell }
            if at == 0 { return nil }
            at -= 1
        }
        return nil
    }

    /// All cells of the key, oldest first.
    func forEachCell(of entry: KeyEntry, from revision: Int64 = 0, _ visit: (VersionCell) -> Void) {
        if entry.latest.main < revision { return }
        if let history = histories[entry.history] {
            var at = position(in: entry, at: revision - 1).map { $0 + 1 } ?? 0
            while at < history.count {
                unsafe visit(history.cells[at].cell)
                at += 1
            }
        }
        visit(entry.latest.cell)
    }

    /// Visits the entries of a range in key order, deleted keys included, until `visit` answers false.
    @inline(__always)
    func scan<E: Error>(_ range: KeyRange, _ visit: (KeyEntry) throws(E) -> Bool) throws(E) {
        guard let end = range.end else {
            if let entry = find(range.key) { _ = try visit(entry) }
            return
        }
        // Bodies are spelled out because closures of `withUnsafeBytes` cannot pass a typed error on.
        let fromKey = range.isFromKey
        let result: Result<Void, E> = unsafe range.key.withUnsafeBytes { low in
            unsafe end.withUnsafeBytes { high in
                do throws(E) {
                    let highBase = unsafe high.baseAddress ?? UnsafeRawPointer(bitPattern: 1)!
                    unsafe try tree.scan(from: low) { entry throws(E) in
                        if !fromKey, unsafe compareBytes(entry.keyBytes, entry.keyByteCount, highBase, high.count) >= 0 { return false }
                        return try visit(entry)
                    }
                    return .success(())
                } catch { return .failure(error) }
            }
        }
        try result.get()
    }

    /// For `findOrInsert` and `append` of each of the keys.
    func prefetch(_ batch: inout PrefetchBatch) {
        tree.prefetch(&batch)
        unsafe histories.withUnsafeBufferPointer { histories in
            batch.forEachEntry { entry in unsafe clinux_prefetch(histories.baseAddress! + entry.history) }
            batch.forEachEntry { entry in
                if let history = unsafe histories[entry.history] { unsafe clinux_prefetch(history.cells + history.count) }
            }
        }
    }

    // MARK: Writing

    mutating func findOrInsert(_ key: Bytes) -> KeyEntry { unsafe key.withUnsafeBytes { unsafe tree.findOrInsert($0) } }

    /// Adds the newest version (or tombstone) of a key. Answers whether the key was live before.
    mutating func append(_ cell: VersionCell, to entry: KeyEntry) {
        let latest = entry.latest
        if latest.main != 0 {
            push(latest, onto: entry)
            if !latest.isTombstone {
                superseded.append(main: cell.main, entry)
                liveCount -= 1
            }
        }
        entry.setLatest(cell)
        cellCount += 1
        if cell.isTombstone { tombstones.append(main: cell.main, entry) } else { liveCount += 1 }
    }

    private mutating func push(_ cell: PackedCell, onto entry: KeyEntry) {
        if entry.history == 0 {
            let slot: Int
            if let free = freeHistories.popLast() { slot = free } else {
                slot = histories.count
                histories.append(nil)
            }
            histories[slot] = makeHistory(capacity: 1)
            entry.history = slot
        }
        let slot = entry.history
        var history = histories[slot]!
        if history.count == history.capacity {
            var larger = makeHistory(capacity: history.capacity * 2)
            unsafe larger.cells.update(from: history.cells, count: history.count)
            larger.count = history.count
            free(history)
            history = larger
        }
        unsafe history.cells[history.count] = cell
        history.count += 1
        histories[slot] = history
    }

    private mutating func makeHistory(capacity: Int) -> History {
        let memory = unsafe tree.slab.allocate(capacity * MemoryLayout<PackedCell>.stride)
        return unsafe History(cells: memory.bindMemory(to: PackedCell.self, capacity: capacity), count: 0, capacity: capacity)
    }
    private mutating func free(_ history: History) {
        unsafe tree.slab.deallocate(UnsafeMutableRawPointer(history.cells), history.capacity * MemoryLayout<PackedCell>.stride)
    }

    /// Replaces the data key of one cell (a reseal). The cell must exist.
    mutating func setDataKey(_ dataKey: UInt32, of entry: KeyEntry, written revision: Revision) {
        func changed(_ packed: PackedCell) -> PackedCell {
            var cell = packed.cell
            cell.dataKey = dataKey
            return PackedCell(cell, spare: packed.spare)
        }
        if entry.latest.cell.revision == revision { entry.latest = changed(entry.latest); return }
        guard let history = histories[entry.history], var at = position(in: entry, at: revision.main) else {
            preconditionFailure("reseal of a cell that is not there")
        }
        while unsafe history.cells[at].cell.sub != revision.sub {
            unsafe precondition(at > 0 && history.cells[at].main == revision.main, "reseal of a cell that is not there")
            at -= 1
        }
        unsafe history.cells[at] = unsafe changed(history.cells[at])
    }

    // MARK: Compaction

    /// Removes every version that no read and no watch from `revision` on can see: what was replaced at or before it, and tombstones before it.
    /// (One at exactly `revision` stays, as in etcd 3.6, for the watch that starts there.)
    mutating func compact(at revision: Int64, _ removed: (VersionCell) -> Void) {
        var emptied: [KeyEntry] = []
        while let entry = superseded.popFirst(through: revision) { compact(entry, at: revision, &emptied, removed) }
        while let entry = tombstones.popFirst(through: revision - 1) { compact(entry, at: revision, &emptied, removed) }
        // All elements of an emptied entry were popped above: its last cell was a tombstone before `revision`.
        for entry in emptied { tree.remove(entry) }
    }

    /// Does nothing the second time, so that an entry may be popped once for each of its cells.
    private mutating func compact(_ entry: KeyEntry, at revision: Int64, _ emptied: inout [KeyEntry], _ removed: (VersionCell) -> Void) {
        let latest = entry.latest
        guard latest.main != 0 else { return }
        var dropped = 0
        if var history = histories[entry.history] {
            while dropped < history.count {
                let cell = unsafe history.cells[dropped]
                let replacedAt = unsafe dropped + 1 < history.count ? history.cells[dropped + 1].main : latest.main
                guard cell.isTombstone ? cell.main < revision : replacedAt <= revision else { break }
                removed(cell.cell)
                dropped += 1
            }
            cellCount -= Int64(dropped)
            if dropped == history.count {
                free(history)
                histories[entry.history] = nil
                freeHistories.append(entry.history)
                entry.history = 0
            } else if dropped > 0 {
                unsafe history.cells.update(from: history.cells + dropped, count: history.count - dropped)
                history.count -= dropped
                histories[entry.history] = history
            }
        }
        if entry.history == 0, latest.isTombstone, latest.main < revision {
            removed(latest.cell)
            cellCount -= 1
            entry.setLatest(VersionCell(main: 0, sub: 0, create: 0, version: 0, dataKey: 0, lease: 0))
            emptied.append(entry)
        }
    }

    /// What is wrong, for tests; `nil` when the invariants hold.
    func violation() -> String? {
        if let found = tree.violation() { return found }
        var cells: Int64 = 0, live: Int64 = 0, found: String?, replaced = 0, deleted = 0
        scan(KeyRange.prefix([])) { entry in
            var last = Revision(0, -1), versions: [VersionCell] = []
            forEachCell(of: entry) { versions.append($0) }
            for (i, cell) in versions.enumerated() {
                if cell.revision <= last { found = "cells out of order" }
                last = cell.revision
                if cell.isTombstone { deleted += 1 } else if i + 1 < versions.count { replaced += 1 }
            }
            cells += Int64(versions.count)
            if entry.isLive { live += 1 }
            return true
        }
        if cells != cellCount { found = "\(cells) cells, \(cellCount) counted" }
        if live != liveCount { found = "\(live) live keys, \(liveCount) counted" }
        if replaced != superseded.count { found = "\(replaced) replaced versions, \(superseded.count) queued" }
        if deleted != tombstones.count { found = "\(deleted) tombstones, \(tombstones.count) queued" }
        return found
    }

    deinit {
        for case let history? in histories where history.capacity * MemoryLayout<PackedCell>.stride > Slab.blockBytesMax {
            unsafe history.cells.deallocate()  // smaller ones go with the slab's chunks
        }
    }
}

/// Entries in order of the revision at which something about them can be removed.
private struct EntryQueue {
    private var elements: [(main: Int64, entry: KeyEntry)] = []
    private var head = 0
    var count: Int { elements.count - head }
    var bytes: Int { elements.capacity * MemoryLayout<(Int64, KeyEntry)>.stride }

    mutating func append(main: Int64, _ entry: KeyEntry) { elements.append((main, entry)) }

    mutating func popFirst(through main: Int64) -> KeyEntry? {
        guard head < elements.count, elements[head].main <= main else {
            if head > elements.count / 2 {
                elements.removeFirst(head)
                head = 0
            }
            return nil
        }
        head += 1
        return elements[head - 1].entry
    }
}
