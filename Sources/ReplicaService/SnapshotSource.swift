package import Basics
import MVCC
import Raft
import Replica
import Storage
import Synchronization

/// The store of this member as one stream of bytes for another: a head, then blocks (`SnapshotBlock`). Read by the transport, on a thread
/// that may block; a transfer that was interrupted goes on a little before where it stopped.
package final class SnapshotSource: Sendable {
    private struct State {
        /// The bytes from `start` on that were made and may be asked for again.
        var retained = Bytes()
        var start: UInt64 = 0
        var tables: UInt64 = 0
        var records: UInt64 = 0
        var isComplete = false
        var hasEnded = false
    }
    /// What an interrupted transfer may have to repeat.
    private static let retainedBytesMax = 32 << 20

    /// What the receiver must know first.
    package let head: Bytes
    package let member: MemberID
    let position: EntryPosition
    private let snapshot: RecordSnapshot
    private let state = Mutex(State())
    private let whenEnded: @Sendable (Bool) -> Void

    init(_ snapshot: RecordSnapshot, from sender: MemberID, to member: MemberID, whenEnded: @escaping @Sendable (Bool) -> Void) {
        self.snapshot = snapshot
        self.member = member
        self.whenEnded = whenEnded
        position = EntryPosition(index: snapshot.applied.applied, term: snapshot.applied.appliedTerm)
        head = SnapshotHead(from: sender, stream: UInt64.random(in: 1...UInt64.max), position: position).encode()
    }
    deinit { ended(installed: false) }

    /// At most `count` bytes from `offset` on; none at the end. Throws when the records cannot be read, or not from there any more.
    package func read(at offset: UInt64, count: Int) throws -> Bytes {
        try state.withLock { state throws in
            guard offset >= state.start else { throw ReplicaError.unavailable("the snapshot has gone on: begin anew") }
            while !state.isComplete, offset >= state.start + UInt64(state.retained.count) { try extend(&state) }
            guard offset - state.start < UInt64(state.retained.count) else { return [] }
            let first = Int(offset - state.start)
            return Bytes(state.retained[first..<min(first + max(0, count), state.retained.count)])
        }
    }

    private func extend(_ state: inout State) throws {
        let block: SnapshotBlock
        switch try snapshot.next() {
        case .tables(let rows)?:
            block = .tables(rows)
            state.tables += UInt64(rows.count)
        case .records(let records)?:
            block = .records(records.map { SnapshotBlock.StoredRecord(version: $0.version, value: $0.value) })
            state.records += UInt64(records.count)
        case nil:
            block = .end(tables: state.tables, records: state.records)
            state.isComplete = true
        }
        state.retained.append(contentsOf: block.encode())
        let excess = state.retained.count - Self.retainedBytesMax
        guard excess > Self.retainedBytesMax / 2 else { return }
        state.retained.removeFirst(excess)
        state.start += UInt64(excess)
    }

    /// The transfer is over: the member said that it holds the store now, or it came to nothing.
    package func ended(installed: Bool) {
        let isFirst = state.withLock { state in
            defer { state.hasEnded = true }
            return !state.hasEnded
        }
        guard isFirst else { return }
        snapshot.close()
        whenEnded(installed)
    }
}
