package import Basics

/// What members say to each other. `term` is the sender's; in the pre-vote exchange, the term it would campaign for.
/// There are no messages of a member to itself, so none can be forged.
package struct Message: Hashable, Sendable {
    package enum Body: Hashable, Sendable {
        case preVoteRequest(last: EntryPosition)
        case preVoteResponse(granted: Bool)
        /// `isTransfer`: the leader itself asked the sender to stand, so that hearing that leader is no reason to ignore it.
        case voteRequest(last: EntryPosition, isTransfer: Bool)
        case voteResponse(granted: Bool)
        /// Entries that follow `previous`, contiguous; none is a probe, or news of the commit index.
        case append(previous: EntryPosition, entries: [Entry], commit: LogIndex)
        /// Everything up to `through` is durable at the sender and equal to the leader's log.
        case appended(through: LogIndex)
        /// The entry at `previous` is missing or another one. `hint` is the sender's last entry that could agree.
        case appendRejected(previous: LogIndex, hint: EntryPosition)
        /// `readSequence` numbers the read round that the answer confirms.
        case heartbeat(commit: LogIndex, readSequence: UInt64)
        case heartbeatResponse(readSequence: UInt64)
        /// The answer to a leader of an earlier term: it steps down when it sees this message's term.
        case outdated
        /// The leader hands over: stand for election at once.
        case timeoutNow
        /// A follower asks the leader up to where it must apply before it may read; `request` is the follower's name for it.
        case readRequest(UInt64)
        case readResponse(UInt64, index: LogIndex)
        /// To a candidate that was refused: this entry is committed. Its log may hold the change of membership by which the sender's vote,
        /// or its own quorum, counts no more, without knowing that.
        case committed(EntryPosition)
    }
    package var from: MemberID
    package var to: MemberID
    package var term: Term
    package var body: Body
    package init(from: MemberID, to: MemberID, term: Term, _ body: Body) {
        self.from = from; self.to = to; self.term = term; self.body = body
    }
}
