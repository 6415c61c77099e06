import Basics

/// The last changes in revision order, so that a watcher which is a little behind catches up by walking what happened
/// and not every key. A ring; older changes are found in the index.
struct RecentChanges: Sendable {
    /// Enough for a watcher that is a second behind at full speed, and a few megabytes at most beside the keys' own buffers.
    static let countMax = 65_536

    private var ring: [(revision: Revision, key: Bytes)] = []
    /// Where the oldest lies, once the ring is full.
    private var oldest = 0
    /// All changes of this main revision and later ones are here.
    private(set) var completeFrom: Int64 = .max

    mutating func append(_ revision: Revision, _ key: Bytes) {
        if ring.isEmpty, revision.sub == 0 { completeFrom = revision.main }
        guard ring.count == Self.countMax else { return ring.append((revision, key)) }
        completeFrom = ring[oldest].revision.main + 1
        ring[oldest] = (revision, key)
        oldest = oldest + 1 == Self.countMax ? 0 : oldest + 1
    }

    /// Visits changes from a main revision on, in order, until `visit` answers false.
    func forEach(from main: Int64, _ visit: (Revision, Bytes) -> Bool) {
        var low = 0, high = ring.count
        while low < high {
            let middle = (low + high) / 2
            if self[middle].revision.main < main { low = middle + 1 } else { high = middle }
        }
        while low < ring.count, visit(self[low].revision, self[low].key) { low += 1 }
    }

    private subscript(position: Int) -> (revision: Revision, key: Bytes) {
        let at = oldest + position
        return ring[at < ring.count ? at : at - ring.count]
    }
}
