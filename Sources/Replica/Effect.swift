package import Basics
package import MVCC
package import Raft

/// What a replica asks of its host, to be carried out in order.
package enum Effect: Sendable {
    /// Make these durable in the log, report `.logged(stored)`, and only then send `afterwards`.
    case persist([Entry], HardState?, afterwards: [PeerMessage], stored: Raft.Stored)
    case send([PeerMessage])
    /// Void is what the log holds: with the next write it begins anew after this entry, which the store has.
    case restartLog(after: EntryPosition)
    /// A member needs the store: send it, and say how that went (`Event.snapshotSent`).
    case snapshotWanted(for: MemberID)
    /// The store was replaced by another member's: what was known of records that are not stored yet is void, and history between the
    /// revision told last and this one was not published.
    case replaced(revision: Int64)
    /// The table of members, or of alarms, is another one.
    case membersChanged
    /// What this member holds is not what the others hold: it answers nothing any more until its store was fetched anew.
    case outOfService(String)
    /// The others know more of this member than its disk does, which was put back to an earlier state. It is out of service until it has
    /// learned again what it forgot, which outlasts a restart; unless there is nobody who could repair it.
    case putBack(String, isRepaired: Bool)
    /// From here on this member takes part, under this number: durable before anything that follows.
    case recognized(run: UInt64)
    /// It votes again: all that it lost is here again.
    case repaired
    /// Records that were just applied: readers must find them before any answer or event that follows.
    case written([Record])
    /// Data keys or their states changed.
    case keysChanged
    case answer([Reply])
    /// All changes of watched keys in one or more revisions, the last of which is `revision`.
    case publish([WatchEvent], revision: Int64)
    /// History before this revision is gone from the index; the records follow with the next `.store`.
    case compacted(Int64)
    /// One transaction of the record lane. When it is durable: `.stored(through:)`.
    case store(Checkpoint)
    case standing(Raft.Standing)
    /// The log before this entry is not needed for a restart any more.
    case cutLog(before: LogIndex)
    /// A committed entry cannot be read: this member must not go on.
    case halt(String)
}

/// What was applied since the last checkpoint; `changes.tables` says where that leaves the store.
package struct Checkpoint: Sendable {
    package var applied: LogIndex
    /// As they were told by `.written`, in order.
    package var batches: [[Record]]
    package var removed: [Revision]
    package var tables: [TableWrite]
    package init(applied: LogIndex, batches: [[Record]], removed: [Revision], tables: [TableWrite]) {
        self.applied = applied; self.batches = batches; self.removed = removed; self.tables = tables
    }
    package var records: some Sequence<Record> { batches.joined() }
}

package struct Reply: Sendable {
    package var ticket: Ticket
    package var outcome: Outcome
    package init(_ ticket: Ticket, _ outcome: Outcome) { self.ticket = ticket; self.outcome = outcome }
}

/// `revision` is the store's at the time of the outcome.
package enum Outcome: Sendable, Equatable {
    case applied(CommandResult, revision: Int64)
    case range(RangeResult, revision: Int64)
    case revision(Int64)
    case leaseKeptAlive(LeaseID, seconds: Int64, revision: Int64)
    case leaseStatus(LeaseID, grantedSeconds: Int64, remainingSeconds: Int64, keys: [Bytes], revision: Int64)
    case leases([LeaseID], revision: Int64)
    case refused(CommandRefusal)
    case notLeader(MemberID?)
    /// It would grow the store, and the leader's disk is full. Nothing was changed.
    case noSpace
    /// Too much waits already; nothing was changed.
    case overloaded
    /// This member is out of service; nothing was changed.
    case unavailable(String)
    /// Leadership was lost, or no word came in time, while it was under way: it may have happened, and may yet.
    case unknown
}

package struct EffectBuffer: Sendable {
    package private(set) var effects: [Effect] = []
    package init() {}
    package mutating func append(_ effect: Effect) { effects.append(effect) }
    package mutating func take() -> [Effect] {
        let taken = effects
        effects.removeAll(keepingCapacity: true)
        return taken
    }
}
