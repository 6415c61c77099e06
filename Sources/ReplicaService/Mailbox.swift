import Basics
import MVCC
import Raft
import Replica
import Storage
import WriteAheadLog

/// What reaches the replica's thread, between two of its turns.
struct Mail {
    struct Request: Sendable {
        enum Content: Sendable {
            case proposal(Command, payload: Bytes)
            case question(Question.Kind, linearizable: Bool)
        }
        var sink: any AnswerSink
        var ticket: UInt64
        var content: Content
    }
    enum WatchOrder: Sendable {
        case register(WatchID, KeyRange, WatchOptions, any WatchSink)
        case cancel(WatchID)
        case consumed(WatchID, events: Int)
        case progress([WatchID], any WatchSink)
    }
    enum PeerOrder: Sendable {
        case unreachable(MemberID)
        case gone(MemberID)
        case reachable(MemberID)
        case snapshotSent(MemberID, at: LogIndex?)
        /// Told when it leads, or why it does not.
        case transfer(to: MemberID, @Sendable (ReplicaError?) -> Void)
    }
    enum Ending: Sendable {
        /// Finish what was begun, store everything, then stop.
        case graceful
        /// Stop at once, as a crash would.
        case abrupt
    }

    var requests: [Request] = []
    var rejected: [(sink: any AnswerSink, ticket: UInt64, error: ReplicaError)] = []
    var logged: [(stored: Raft.Stored, anchor: LogAnchor, beginning: UInt64)] = []
    var received: [PeerMessage] = []
    var peerOrders: [PeerOrder] = []
    var installations: [Installation] = []
    var replacements: [Replacement] = []
    /// A reader found a record that is damaged.
    var damage: String?
    var stored: [LogIndex] = []
    var watchOrders: [WatchOrder] = []
    var calls: [@Sendable (borrowing Store) -> Void] = []
    var failure: String?
    var ending: Ending?

    /// Nothing for which the thread is to wake.
    func isEmpty(awaitingLog awaitsLog: Bool) -> Bool {
        (logged.isEmpty || !awaitsLog) && requests.isEmpty && rejected.isEmpty && stored.isEmpty && watchOrders.isEmpty && calls.isEmpty
            && received.isEmpty && peerOrders.isEmpty && installations.isEmpty && replacements.isEmpty && damage == nil && failure == nil && ending == nil
    }
}

/// The mailbox of the replica's thread, with the bounds on what waits in it or is under way behind it.
struct Mailbox {
    var mail = Mail()
    var proposalsInFlight = 0
    var proposalBytesInFlight = 0
    /// Of `mail.received`, as they came.
    private var receivedBytes = 0
    /// Why nothing is taken any more.
    var closed: ReplicaError?
    /// Whether the thread is to be woken for what became durable; else it finds it at its next turn.
    var awaitsLog = true
    /// The thread has ended: nobody reads this any more.
    var isAbandoned = false

    /// Admits a proposal if it fits the bounds.
    mutating func admits(_ bytes: Int, _ options: ReplicaService.Options) -> Bool {
        guard proposalsInFlight < options.proposalsInFlightMax, proposalBytesInFlight + bytes <= options.proposalBytesInFlightMax else { return false }
        proposalsInFlight += 1
        proposalBytesInFlight += bytes
        return true
    }
    /// Messages of other members; those beyond the bounds are dropped, and sent again.
    mutating func receive(_ messages: [PeerMessage], bytes: Int) {
        guard mail.received.count + messages.count <= Limits.peerMessagesWaitingMax, receivedBytes + bytes <= Limits.peerBytesWaitingMax else { return }
        receivedBytes += bytes
        mail.received.append(contentsOf: messages)
    }
    mutating func take() -> Mail {
        var taken = Mail()
        receivedBytes = 0
        swap(&taken, &mail)
        return taken
    }
}
