package import Basics
package import MVCC
package import Raft

/// What happens to a replica.
package enum Event: Sendable {
    /// Monotonic milliseconds. Told before whatever depends on the time, never going back.
    case time(Int64)
    /// One tick of Raft's timers.
    case tick
    /// Try to lead now.
    case campaign
    case proposed([Proposal])
    case asked([Question])
    /// A write of the log became durable.
    case logged(Raft.Stored)
    case received([PeerMessage])
    /// What was sent to a member lately may be lost.
    case unreachable(MemberID)
    /// Its process has ended, as far as can be told from outside.
    case gone(MemberID)
    /// There is a way to a member now, or from it.
    case reachable(MemberID)
    /// Hand over leadership, if it is held here.
    case transfer(to: MemberID)
    /// Answers `.snapshotWanted`: the member holds the store as of entry `at` now, or it came to nothing (`nil`).
    case snapshotSent(to: MemberID, at: LogIndex?)
    /// The record lane takes what was applied: answered by `.store` if there is anything new.
    case storeDue
    /// Whether the disk has run out of room beyond what is set aside: as long as it has, proposals that grow the store are refused.
    case space(isShort: Bool)
    /// The record lane holds durably all that was applied up to here.
    case stored(through: LogIndex)
}

/// The host's name for a request; the outcome comes back under it.
package typealias Ticket = UInt64

package struct Proposal: Sendable {
    /// `nil`: nobody waits for it.
    package var ticket: Ticket?
    package var command: Command
    /// `command`, encoded: what is logged. The decoded form is kept beside it, so that apply here need not decode.
    package var payload: Bytes
    /// Of a forwarded one; `payload` names it then.
    var origin: Origin?
    package init(ticket: Ticket?, command: Command, payload: Bytes) { self.ticket = ticket; self.command = command; self.payload = payload }
    package init(ticket: Ticket?, command: Command) { self.init(ticket: ticket, command: command, payload: command.encode()) }
    init(_ origin: Origin, _ command: Command, payload: Bytes) {
        self.init(ticket: nil, command: command, payload: payload)
        self.origin = origin
    }
}

/// A request that is not logged.
package struct Question: Sendable {
    package enum Kind: Sendable {
        case range(RangeRequest)
        case transaction(Transaction, guards: [Guard])
        case revision
        case leaseKeepAlive(LeaseID)
        case leaseStatus(LeaseID, withKeys: Bool)
        case leases
    }
    package var ticket: Ticket
    package var kind: Kind
    /// Answered from a state that shows everything acknowledged before the question; else from what is applied here.
    package var linearizable: Bool
    package init(ticket: Ticket, _ kind: Kind, linearizable: Bool = true) { self.ticket = ticket; self.kind = kind; self.linearizable = linearizable }
}
