package import Basics
package import MVCC

/// One request to the replica. `sink` is told the outcome under `ticket`, exactly once.
package struct Submission: Sendable {
    package enum Request: Sendable {
        /// Logged, replicated, applied; answered with `.command`. A `leaseGrant` with id 0 gets an id here.
        case propose(Command)
        /// Answered with `.range`: references to versions, no values (see `ReplicaService.sealedValue(of:)`).
        /// Linearizable: shows every write that was acknowledged before the request began.
        case range(RangeRequest, linearizable: Bool)
        /// A transaction that writes nothing: evaluated without the log; answered with `.command(.operation(.transaction))`.
        case read(Transaction, guards: [Guard], linearizable: Bool)
        /// Answered with `.read` once everything that was acknowledged before is applied here.
        case readIndex
        /// Answered with `.leaseKeptAlive`; not logged.
        case leaseKeepAlive(LeaseID)
        /// Answered with `.leaseStatus`.
        case leaseStatus(LeaseID, withKeys: Bool)
        /// Answered with `.leases`.
        case leases
    }
    package var ticket: UInt64
    package var sink: any AnswerSink
    package var request: Request
    package init(ticket: UInt64, sink: any AnswerSink, request: Request) {
        self.ticket = ticket; self.sink = sink; self.request = request
    }
}

/// Where answers go. `deliver` is called on the replica's thread, once per batch of work and sink: hand over and return,
/// never block. Nothing that `deliver` is told of can be compacted away before it returns: whoever means to fetch
/// values takes a `ReadPin` in it.
package protocol AnswerSink: AnyObject, Sendable {
    func deliver(_ answers: [Answer])
}

package struct Answer: Sendable {
    package var ticket: UInt64
    package var result: Result<AnswerBody, ReplicaError>
    package init(ticket: UInt64, result: Result<AnswerBody, ReplicaError>) { self.ticket = ticket; self.result = result }
}

/// `revision` is the store's revision when the answer was made: etcd's header revision.
package enum AnswerBody: Sendable {
    case command(CommandResult, revision: Int64)
    case range(RangeResult, revision: Int64)
    case read(revision: Int64)
    /// `seconds`: the lease's time to live, counted anew from now.
    case leaseKeptAlive(LeaseID, seconds: Int64, revision: Int64)
    case leaseStatus(LeaseStatus, revision: Int64)
    case leases([LeaseID], revision: Int64)
}

package struct LeaseStatus: Hashable, Sendable {
    package var id: LeaseID
    package var grantedSeconds: Int64
    package var remainingSeconds: Int64
    /// Empty unless asked for.
    package var keys: [Bytes]
    package init(id: LeaseID, grantedSeconds: Int64, remainingSeconds: Int64, keys: [Bytes]) {
        self.id = id; self.grantedSeconds = grantedSeconds; self.remainingSeconds = remainingSeconds; self.keys = keys
    }
}

package enum ReplicaError: Error, Hashable, Sendable {
    /// The store said no; nothing was changed.
    case refused(CommandRefusal)
    /// A queue is full; nothing was changed.
    case overloaded
    /// No leader is known here, or it is another member; nothing was changed.
    case notLeader(MemberID?)
    /// The disk is full and the request would grow the store: nothing was changed. Reads, deletions, compaction and the end of
    /// leases still pass, and so does everything once there is room again.
    case noSpace
    /// Leadership was lost, or the service stopped, while the request was under way: it may or may not happen.
    case outcomeUnknown
    /// The service has stopped, or failed and will not go on; nothing was changed.
    case unavailable(String)
}

/// What the service is and where it stands, as of the last batch.
package struct ReplicaStatus: Hashable, Sendable {
    package enum Condition: Hashable, Sendable {
        case starting, running, stopped
        /// Storage failed: nothing is acknowledged any more.
        case failed(String)
    }
    package var condition: Condition
    package var member: MemberID
    package var leader: MemberID?
    package var term: Term
    package var revision: Int64
    package var compactRevision: Int64
    package var logIndex: LogIndex
    package var commitIndex: LogIndex
    package var appliedIndex: LogIndex
    /// The applied index that the record store holds durably.
    package var storedIndex: LogIndex
    package var databaseBytes: Int
    /// False: the disk is full, and what grows the store is refused with `.noSpace`.
    package var hasSpace = true
    /// A member of several, or of a cluster it does not know yet.
    package var isClustered = false
    package var isLearner = false
    /// Why this member answers nothing, though it runs: it differs from the others, or is being repaired.
    package var outOfService: String?
    /// Entries that are committed and not applied here; of a leader that hears of a follower that is behind, see `progress`.
    package var lag: UInt64 { commitIndex - appliedIndex }
    /// As the leader sees the others: up to which entry they hold the log.
    package var progress: [PeerProgress] = []
    package var alarms: [Alarm] = []
    /// The thread has made its first turn.
    var hasBegun = false
    package var keys: Int
    package var leases: Int
    package var watches: Int
    /// Watches that are reading history.
    package var watchesCatchingUp: Int
    package var proposalsInFlight: Int
    package var proposalBytesInFlight: Int
}

package struct PeerProgress: Hashable, Sendable {
    package var member: MemberID
    package var match: LogIndex
    package var isActive: Bool
    package init(member: MemberID, match: LogIndex, isActive: Bool) { self.member = member; self.match = match; self.isActive = isActive }
}
