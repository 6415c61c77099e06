import Basics

extension Store {
    /// etcd's HashKV: over every retained version up to a revision (0: now), by key, revisions, version and lease, in key order. Sealed
    /// bytes are no part of it: a reseal changes them at an unchanged revision. Members agree on it at equal compaction.
    package func hashKeys(through wanted: Int64) throws(CommandRefusal) -> UInt32 {
        if wanted > revision { throw .futureRevision(current: revision) }
        if wanted > 0, wanted < compactRevision { throw .compacted(compactRevision: compactRevision) }
        let last = wanted > 0 ? wanted : revision
        var hash = StateHash()
        hash.mix(compactRevision)
        index.scan(KeyRange.prefix([])) { entry in
            let key = entry.key
            index.forEachCell(of: entry) { cell in
                guard cell.main <= last else { return }
                hash.mix(key)
                hash.mix(cell.main)
                hash.mix(Int64(cell.sub))
                hash.mix(cell.create)
                hash.mix(cell.version)
                hash.mix(leaseNames[cell.lease])
            }
            return true
        }
        return UInt32(truncatingIfNeeded: hash.value ^ hash.value >> 32)
    }
}
