package import Basics

extension Store {
    /// Answers a range as of its revision, or of now.
    package func range(_ request: RangeRequest) throws(CommandRefusal) -> RangeResult {
        if request.revision > revision { throw .futureRevision(current: revision) }
        if request.revision > 0, request.revision < compactRevision { throw .compacted(compactRevision: compactRevision) }
        return select(request, current: revision)
    }

    /// A range whose revision has been checked. `current` is what "now" means.
    ///
    /// As etcd: with a sort order or a filter everything is fetched, then filtered, sorted and cut; else one more than the limit is fetched
    /// for `more`, and a sort target without an order sorts what was fetched, ascending. `count` is of the whole range, unfiltered.
    func select(_ request: RangeRequest, current: Int64) -> RangeResult {
        let at = request.revision > 0 ? request.revision : current
        if request.countOnly { return RangeResult(versions: [], more: false, count: count(request.range, at: at)) }
        let filters = request.minModificationRevision != 0 || request.maxModificationRevision != 0
            || request.minCreateRevision != 0 || request.maxCreateRevision != 0
        let fetchMax = request.limit > 0 && request.sortOrder == .none && !filters && request.limit < Int64.max ? Int(request.limit) + 1 : Int.max
        var versions: [KeyVersion] = []
        var total: Int64 = 0
        index.scan(request.range) { entry in
            guard let cell = index.cell(of: entry, at: at) else { return true }
            total += 1
            if versions.count < fetchMax, !filters || request.admits(cell) { versions.append(version(entry.key, cell)) }
            return true
        }
        request.sort(&versions)
        var more = false
        if request.limit > 0, versions.count > request.limit {
            versions.removeLast(versions.count - Int(request.limit))
            more = true
        }
        return RangeResult(versions: versions, more: more, count: total)
    }

    /// Keys in the range as of a revision.
    func count(_ range: KeyRange, at revision: Int64) -> Int64 {
        var total: Int64 = 0
        index.scan(range) { entry in
            if index.cell(of: entry, at: revision) != nil { total += 1 }
            return true
        }
        return total
    }

    /// The version of one key as of now.
    package func version(of key: Bytes) -> KeyVersion? {
        guard let entry = index.find(key) else { return nil }
        return index.cell(of: entry, at: revision).map { version(key, $0) }
    }

    /// The data key a record's value is sealed under; `nil` when it is not retained, or a tombstone.
    package func dataKey(of key: Bytes, at revision: Revision) -> DataKeyID? {
        guard let entry = index.find(key), let cell = index.cell(of: entry, written: revision), !cell.isTombstone else { return nil }
        return keys.id(of: cell.dataKey)
    }

    /// What a compare by value must be guarded with.
    package func guardOf(_ range: KeyRange) -> Guard {
        var count: Int64 = 0, greatest: Int64 = 0
        index.scan(range) { entry in
            if entry.isLive {
                count += 1
                greatest = max(greatest, entry.latest.main)
            }
            return true
        }
        return Guard(range, count: count, modificationRevisionMax: greatest)
    }

    /// Every retained version sealed under a data key, in key order from `start` on, at most `limit`: what a rotation has still to reseal.
    package func versions(under dataKey: DataKeyID, from start: Bytes, limit: Int) -> [KeyVersion] {
        var found: [KeyVersion] = []
        index.scan(KeyRange(start, end: [0])) { entry in
            index.forEachCell(of: entry) { cell in
                if !cell.isTombstone, keys.id(of: cell.dataKey) == dataKey { found.append(version(entry.key, cell)) }
            }
            return found.count < limit
        }
        return found
    }

    /// The events of a range from one revision through another, for a watcher that catches up. Revisions are never split: as many whole
    /// ones are answered as have `limit` events together, but at least one revision, whatever its size. Resume after `History.through`.
    package func changes(in range: KeyRange, from: Int64, through: Int64, limit: Int) throws(CommandRefusal) -> History {
        if from < compactRevision { throw .compacted(compactRevision: compactRevision) }
        let last = min(through, revision), limit = max(1, limit)
        if from >= recent.completeFrom { return cut(recentChanges(in: range, from, last, limit), from, last, limit) }
        return cut(indexedChanges(in: range, from, last), from, last, limit)
    }

    /// The same, always by way of the index: for tests.
    func indexedChanges(in range: KeyRange, from: Int64, through: Int64, limit: Int) -> History {
        let last = min(through, revision)
        return cut(indexedChanges(in: range, from, last), from, last, max(1, limit))
    }

    private func cut(_ found: [Change], _ from: Int64, _ last: Int64, _ limit: Int) -> History {
        var end = found.count, told = max(last, from - 1)
        if end > limit {
            let cut = found[limit].revision.main
            // Everything before the revision that crosses the limit, or that one alone.
            end = found.firstIndex { $0.revision.main == cut }!
            if end == 0 { end = found.firstIndex { $0.revision.main > cut } ?? found.count }
            told = end < found.count ? found[end].revision.main - 1 : told
            if Mutant.isActive(.historySplitsRevision) { (end, told) = (limit, found[limit - 1].revision.main) }
        }
        let events = found[..<end].map { event(of: $0.entry, at: $0.revision) }
        return History(events: events, through: told)
    }

    private typealias Change = (revision: Revision, entry: KeyEntry)

    /// In order, until it is known where `changes` will cut.
    private func recentChanges(in range: KeyRange, _ from: Int64, _ last: Int64, _ limit: Int) -> [Change] {
        var found: [Change] = []
        recent.forEach(from: from) { revision, key in
            if revision.main > last { return false }
            if found.count > limit {
                let first = found[0].revision.main, crossing = found[limit].revision.main, latest = found[found.count - 1].revision.main
                if first < crossing || latest > crossing { return false }
            }
            // One replaced within a revision that was then compacted is gone.
            if range.contains(key), let entry = index.find(key), index.cell(of: entry, written: revision) != nil { found.append((revision, entry)) }
            return true
        }
        return found
    }

    private func indexedChanges(in range: KeyRange, _ from: Int64, _ last: Int64) -> [Change] {
        var found: [Change] = []
        index.scan(range) { entry in
            index.forEachCell(of: entry, from: from) { cell in
                if cell.main <= last { found.append((cell.revision, entry)) }
            }
            return true
        }
        found.sort { $0.revision < $1.revision }
        return found
    }

    private func event(of entry: KeyEntry, at revision: Revision) -> WatchEvent {
        let key = entry.key
        guard let cell = index.cell(of: entry, written: revision) else { preconditionFailure("an event without its version") }
        let isMade = !cell.isTombstone && cell.create == cell.main
        let previous = isMade ? nil : index.cell(of: entry, at: revision.main - 1).map { version(key, $0) }
        return WatchEvent(kind: cell.isTombstone ? .delete : .put, version: version(key, cell), previous: previous)
    }
}

extension RangeRequest {
    func admits(_ cell: VersionCell) -> Bool {
        (maxModificationRevision == 0 || cell.main <= maxModificationRevision)
            && (minModificationRevision == 0 || cell.main >= minModificationRevision)
            && (maxCreateRevision == 0 || cell.create <= maxCreateRevision)
            && (minCreateRevision == 0 || cell.create >= minCreateRevision)
    }

    /// Sorts what comes in key order; equal ones stay in it, in both directions.
    func sort(_ versions: inout [KeyVersion]) {
        let descends = sortOrder == .descending
        switch sortTarget {
        case .key: if descends { versions.reverse() }
        case .version: Self.sort(&versions, descends, \.version)
        case .create: Self.sort(&versions, descends, \.createRevision)
        case .modification: Self.sort(&versions, descends, \.revision.main)
        }
    }
    private static func sort(_ versions: inout [KeyVersion], _ descends: Bool, _ field: (KeyVersion) -> Int64) {
        versions.sort { descends ? field($0) > field($1) : field($0) < field($1) }  // the standard library's sort is stable
    }
}
