import Basics
import MVCC
import Replica
import Storage
import Synchronization

/// What the replica's thread shares with everyone else.
final class SharedState: Sendable {
    let mailbox = Monitor(Mailbox())
    let overlay = Overlay()
    let pins = ReadPins()
    let status: Monitor<ReplicaStatus>
    let keys: Mutex<KeyTable>
    let records: SharedRecords
    let members = Mutex<(members: [ClusterMember], alarms: [Alarm])>(([], []))
    let witnesses = Mutex<[Witness]>([])
    /// How often this member has begun anew: what is written of an earlier beginning is void.
    let beginnings = Mutex<UInt64>(0)
    /// The `pthread_t` of the replica's thread, once it runs.
    let thread = Atomic<UInt>(0)

    init(member: MemberID, keys: KeyTable, records: RecordLane) {
        self.records = SharedRecords(records)
        self.keys = Mutex(keys)
        status = Monitor(ReplicaStatus(
            condition: .starting, member: member, leader: nil, term: 0, revision: 0, compactRevision: 0, logIndex: 0, commitIndex: 0,
            appliedIndex: 0, storedIndex: 0, databaseBytes: 0, keys: 0, leases: 0, watches: 0, watchesCatchingUp: 0,
            proposalsInFlight: 0, proposalBytesInFlight: 0))
    }
}

func monotonicMilliseconds() -> Int64 { Int64(monotonicNanoseconds() / 1_000_000) }

/// The record lane in use, for readers on any thread. Another takes its place when the store is replaced.
final class SharedRecords: Sendable {
    private let lane: Mutex<RecordLane>
    init(_ lane: RecordLane) { self.lane = Mutex(lane) }

    var current: RecordLane { lane.withLock { $0 } }
    func replace(_ new: RecordLane) { lane.withLock { $0 = new } }

    func read(_ revision: Revision) throws(StorageFailure) -> SealedValue? { try read([revision])[0] }
    func read(_ revisions: [Revision]) throws(StorageFailure) -> [SealedValue?] {
        let lane = current
        do { return try lane.read(revisions) } catch {
            // Replaced meanwhile: the one that took its place has what is still readable.
            let next = current
            guard error == .closed, next !== lane else { throw error }
            return try next.read(revisions)
        }
    }
}
