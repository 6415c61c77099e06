package import Basics

/// One entry of the replicated log. Raft does not read payloads.
package struct Entry: Hashable, Sendable {
    package enum Kind: UInt8, Hashable, Sendable {
        /// A command of the host's; with an empty payload, the entry with which a leader begins its term.
        case ordinary = 0
        /// A change of membership; with an empty payload, the one that leaves a joint membership.
        case membership = 1
    }
    package var index: LogIndex
    package var term: Term
    package var kind: Kind
    package var payload: Bytes
    package init(index: LogIndex, term: Term, kind: Kind = .ordinary, payload: Bytes) {
        self.index = index; self.term = term; self.kind = kind; self.payload = payload
    }
    package var position: EntryPosition { EntryPosition(index: index, term: term) }
}

/// An entry's index and term. In Raft these two name the entry and, by log matching, everything before it.
package struct EntryPosition: Hashable, Sendable {
    package var index: LogIndex
    package var term: Term
    package init(index: LogIndex, term: Term) { self.index = index; self.term = term }
    /// Before the first entry.
    package static let start = EntryPosition(index: 0, term: 0)
}

/// What a member must find again after a crash (§5, Figure 2), beside its log.
/// `commit` may lag behind the truth, but not behind what an entry of the same write was told: a member that forgot that a change
/// of membership is committed, and remembered the next one, would ask the wrong voters to elect it.
package struct HardState: Hashable, Sendable {
    package var term: Term
    package var vote: MemberID?
    package var commit: LogIndex
    package init(term: Term = 0, vote: MemberID? = nil, commit: LogIndex = 0) { self.term = term; self.vote = vote; self.commit = commit }
}
