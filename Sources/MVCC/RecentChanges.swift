import Basics

/// The last changes in revision order, so that a watcher which is a little behind catches up by walking what happened
/// and not every key. Older changes are found in the index.
///
/// Keys lie one after the other in blocks, of which the oldest is dropped as a whole.
struct RecentChanges: Sendable {
    /// Enough for a watcher that is a second behind at full speed.
    static let countMax = 65_536
    private static let blockCount = 1_024
    /// A block takes no more keys once it holds so many bytes: so all of them take a few megabytes, whatever the keys.
    private static let blockBytes = 64 << 10

    private struct Block {
        var revisions: [Revision] = []
        var ends: [Int] = []
        var bytes: [UInt8] = []

        init() {
            revisions.reserveCapacity(blockCount)
            ends.reserveCapacity(blockCount)
        }
        var isFull: Bool { revisions.count == blockCount || bytes.count >= blockBytes }
        mutating func append(_ revision: Revision, _ key: Bytes) {
            revisions.append(revision)
            bytes.append(contentsOf: key)
            ends.append(bytes.count)
        }
        func key(_ position: Int) -> Bytes { Bytes(bytes[(position == 0 ? 0 : ends[position - 1])..<ends[position]]) }
    }
    private var blocks: [Block] = []
    /// All changes of this main revision and later ones are here.
    private(set) var completeFrom: Int64 = .max

    mutating func append(_ revision: Revision, _ key: Bytes) {
        if blocks.isEmpty, revision.sub == 0 { completeFrom = revision.main }
        if blocks.last?.isFull ?? true {
            if blocks.count == Self.countMax / Self.blockCount, let last = blocks.removeFirst().revisions.last { completeFrom = last.main + 1 }
            blocks.append(Block())
        }
        blocks[blocks.count - 1].append(revision, key)
    }

    /// Visits changes from a main revision on, in order, until `visit` answers false.
    func forEach(from main: Int64, _ visit: (Revision, Bytes) -> Bool) {
        for block in blocks.drop(while: { $0.revisions.last.map { $0.main < main } ?? true }) {
            for position in block.revisions.indices where block.revisions[position].main >= main {
                guard visit(block.revisions[position], block.key(position)) else { return }
            }
        }
    }
}
