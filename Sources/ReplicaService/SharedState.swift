import Basics
import MVCC
import Storage
import Synchronization

/// What the replica's thread shares with everyone else.
final class SharedState: Sendable {
    let mailbox = Monitor(Mailbox())
    let overlay = Overlay()
    let pins = ReadPins()
    let status: Monitor<ReplicaStatus>
    let keys: Mutex<KeyTable>
    /// The `pthread_t` of the replica's thread, once it runs.
    let thread = Atomic<UInt>(0)

    init(member: MemberID, keys: KeyTable) {
        self.keys = Mutex(keys)
        status = Monitor(ReplicaStatus(
            condition: .starting, member: member, leader: nil, term: 0, revision: 0, compactRevision: 0, logIndex: 0, commitIndex: 0,
            appliedIndex: 0, storedIndex: 0, databaseBytes: 0, keys: 0, leases: 0, watches: 0, watchesCatchingUp: 0,
            proposalsInFlight: 0, proposalBytesInFlight: 0))
    }
}

func monotonicMilliseconds() -> Int64 { Int64(monotonicNanoseconds() / 1_000_000) }
