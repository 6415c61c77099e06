package import Basics

/// One entry of the replicated log. An empty payload is the entry with which a leader begins its term.
package struct Entry: Hashable, Sendable {
    package var index: LogIndex
    package var term: Term
    package var payload: Bytes
    package init(index: LogIndex, term: Term, payload: Bytes) { self.index = index; self.term = term; self.payload = payload }
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
/// `commit` may lag behind: it is found again by the next leader, and only saves time.
package struct HardState: Hashable, Sendable {
    package var term: Term
    package var vote: MemberID?
    package var commit: LogIndex
    package init(term: Term = 0, vote: MemberID? = nil, commit: LogIndex = 0) { self.term = term; self.vote = vote; self.commit = commit }
}
