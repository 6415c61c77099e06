import Basics

// §5.2 and §9.6 of the dissertation: elections, with the pre-vote that keeps a returning member from disturbing a working
// leader, and the lease that makes members who hear a leader deaf to candidates.
//
//                      timeout              pre-votes of a quorum          votes of a quorum
//     follower ───────────────▶ preCandidate ───────────────▶ candidate ───────────────▶ leader
//        ▲  ▲ │                    │  lost, or a leader heard   ▲ │  lost, or higher term      │ higher term,
//        │  │ └── timeoutNow ──────┼────────────────────────────┘ │                            │ quorum not heard,
//        │  └──────────────────────┘                              │                            │ no voter any more
//        └────────────────────────────────────────────────────────┴────────────────────────────┘

extension Raft {
    private static let termLeapMax: Term = 1 << 32

    mutating func restartElectionTimer() {
        electionElapsed = 0
        wantsToCampaign = false
        electionTimeout = configuration.electionTicks + Int(generator.next() % UInt64(configuration.electionTicks))
    }

    mutating func becomeFollower(term newTerm: Term, leader newLeader: MemberID?) {
        precondition(newTerm >= term, "the term went back")
        if case .leader(let leadership) = role { refuseReads(of: leadership) }
        if newLeader != leader || newTerm > term { refuseForwardedReads() }
        if newTerm > term {
            term = newTerm
            vote = nil
        }
        role = .follower(leader: newLeader)
        farewell = .max
        hastyAttempts = 0
        restartElectionTimer()
    }

    /// A member with a committed change of membership that it has not applied may believe in a quorum that is none any more.
    var canCampaign: Bool {
        membership.isVoter(member) && !isQuarantined && (promisedTicks == 0 || isAlone)
            && !log.hasChange(after: adopted, through: log.committed)
    }

    /// Asks whether an election could be won, without disturbing anyone's term.
    mutating func campaign() {
        guard !isLeader else { return }
        guard canCampaign else {
            // At the first tick at which it can.
            wantsToCampaign = true
            return
        }
        refuseForwardedReads()
        restartElectionTimer()
        if hastyAttempts > 0 {
            hastyAttempts -= 1
            electionTimeout = min(electionTimeout, 2 * membership.electorate.count)
        }
        role = .preCandidate(Ballot())
        for voter in membership.electorate where voter != member {
            outbox.append(send(.preVoteRequest(last: log.last), to: voter, term: term + 1))
        }
        countVote(of: member, granted: true)
    }

    mutating func becomeCandidate(isTransfer: Bool) {
        refuseForwardedReads()
        restartElectionTimer()
        hastyAttempts = 0
        term += 1
        vote = member
        role = .candidate(Ballot())
        // Our own vote counts when it is durable: see `stored`.
        for voter in membership.electorate where voter != member {
            afterwards.append(send(.voteRequest(last: log.last, isTransfer: isTransfer), to: voter))
        }
        if Mutant.isActive(.candidateAsksBeforeDurable) { outbox.append(contentsOf: afterwards) }
    }

    private mutating func becomeLeader() {
        restartElectionTimer()
        var leadership = Leadership(membership, next: log.last.index + 1)
        if let own = leadership.position(of: member) { leadership.progress[own].isDurable(through: log.durable) }
        role = .leader(leadership)
        // §5.4.2: entries of earlier terms commit with the first one of ours.
        log.append(Entry(index: log.last.index + 1, term: term, payload: []))
        lead { leadership, raft in raft.broadcastAppends(&leadership) }
    }

    mutating func countVote(of voter: MemberID, granted: Bool) {
        guard membership.isVoter(voter) else { return }
        switch role {
        case .preCandidate(var ballot):
            ballot.record(voter, granted: granted)
            role = .preCandidate(ballot)
            switch membership.result({ ballot[$0] }) {
            case .won: becomeCandidate(isTransfer: false)
            case .lost: becomeFollower(term: term, leader: nil)
            case .pending: break
            }
        case .candidate(var ballot):
            ballot.record(voter, granted: granted)
            role = .candidate(ballot)
            switch membership.result({ ballot[$0] }) {
            case .won: becomeLeader()
            case .lost: becomeFollower(term: term, leader: nil)
            case .pending: break
            }
        case .follower, .leader: break
        }
    }

    /// Waiting until a leader whose process has ended has been silent for long wins nothing. Like a timeout this may be wrong, and like one it
    /// disturbs nobody: a pre-vote must find a quorum that hears no leader either, and the next word of the leader puts all back.
    ///
    /// All hear of it at about the same time, and must not stand at once: each waits for its turn, two ticks after the one before, and asks again a
    /// round of turns later, should the others not have heard of it before. Where leases count, members have promised to be deaf for an election
    /// timeout, and keep the promise.
    mutating func isGone(_ other: MemberID) {
        guard case .follower(other?) = role, !configuration.leaseReads else { return }
        becomeFollower(term: term, leader: nil)
        guard let turn = membership.electorate.filter({ $0 != other }).firstIndex(of: member) else { return }
        electionTimeout = min(electionTimeout, 1 + 2 * turn)
        hastyAttempts = 2
    }

    /// A damaged member leads no longer: it hands over without waiting for anyone to catch up.
    mutating func quarantine(_ isQuarantined: Bool) {
        self.isQuarantined = isQuarantined
        guard isQuarantined else { return }
        switch role {
        case .follower: break
        case .preCandidate, .candidate: becomeFollower(term: term, leader: nil)
        case .leader: abdicate()
        }
    }

    // MARK: - What others ask and answer

    mutating func receive(_ message: Message) {
        // Legitimate drops: ourselves, strangers to the protocol (no member sends term 0).
        guard message.term > 0, message.from != member, message.to == member else { return }
        // Nor is anyone so many elections ahead: whoever took over the last term there is could never stand again.
        guard message.term <= term || message.term - term <= Self.termLeapMax else { return }
        // True whatever the term.
        if case .committed(let position) = message.body {
            let agrees = log.agrees(with: position) || (Mutant.isActive(.committedWithoutAgreement) && position.index <= log.last.index)
            if !isLeader, agrees { log.commit(through: position.index) }
            return
        }
        if message.term > term {
            guard admitHigherTerm(message) else { return }
        } else if message.term < term {
            return answerLowerTerm(message)
        }
        switch message.body {
        case .append(let previous, let entries, let commit):
            guard follow(message.from) else { return }
            accept(entries, after: previous, commit: commit, from: message.from)
        case .appended(let through):
            lead { leadership, raft in raft.confirmed(through, by: message.from, &leadership) }
        case .appendRejected(let previous, let hint):
            lead { leadership, raft in raft.rejected(previous: previous, hint: hint, by: message.from, &leadership) }
        case .heartbeat(let commit, let readSequence):
            guard follow(message.from) else { return }
            // The leader never says more than what it knows to agree here.
            log.commit(through: min(commit, log.last.index))
            answer(.heartbeatResponse(readSequence: readSequence), about: 0, to: message.from)
        case .heartbeatResponse(let readSequence):
            lead { leadership, raft in raft.heartbeatAnswered(readSequence, by: message.from, &leadership) }
        case .readRequest(let request): answerReadRequest(request, of: message.from)
        case .readResponse(let request, let index):
            guard leader == message.from else { return }
            readAnswered(request, index: index)
        case .preVoteRequest(let last): answerPreVote(message, last: last)
        case .voteRequest(let last, _): answerVote(message, last: last)
        case .preVoteResponse(let granted):
            if Mutant.isActive(.preVoteCountsAsVote), case .candidate = role { return countVote(of: message.from, granted: granted) }
            // A grant names the term we would campaign for, a refusal the voter's own.
            guard case .preCandidate = role, message.term == (granted ? term + 1 : term) else { return }
            countVote(of: message.from, granted: granted)
        case .voteResponse(let granted):
            guard case .candidate = role else { return }
            countVote(of: message.from, granted: granted)
        case .timeoutNow:
            guard follow(message.from), canCampaign else { return }
            becomeCandidate(isTransfer: true)
        case .committed, .outdated: break
        }
    }

    /// Without this, members that are no voters any more but have the longer logs would refuse the only one left that may lead, for ever.
    private mutating func tellCommitted(to candidate: MemberID) {
        guard let committedTerm = log.term(at: log.committed), log.committed > 0 else { return }
        afterwards.append(send(.committed(EntryPosition(index: log.committed, term: committedTerm)), to: candidate))
    }

    /// §6 of the dissertation, "disruptive servers": who hears a leader ignores candidates.
    private var hearsLeader: Bool { promisedTicks > 0 || (leader != nil && electionElapsed < configuration.electionTicks) }

    /// False: the message is to be ignored.
    private mutating func admitHigherTerm(_ message: Message) -> Bool {
        switch message.body {
        case .preVoteRequest: return !hearsLeader
        case .preVoteResponse(granted: true): return true
        case .voteRequest(_, isTransfer: false) where hearsLeader: return false
        case .append, .heartbeat, .timeoutNow: becomeFollower(term: message.term, leader: message.from)
        default: becomeFollower(term: message.term, leader: nil)
        }
        return true
    }

    private mutating func answerLowerTerm(_ message: Message) {
        switch message.body {
        case .append, .heartbeat: afterwards.append(send(.outdated, to: message.from))
        case .preVoteRequest: afterwards.append(send(.preVoteResponse(granted: false), to: message.from))
        case .voteResponse(let granted) where Mutant.isActive(.staleVoteCounts): countVote(of: message.from, granted: granted)
        default: break
        }
    }

    private mutating func answerPreVote(_ message: Message, last: EntryPosition) {
        let granted = message.term > term && !isQuarantined && log.isUpToDate(last)
        afterwards.append(send(.preVoteResponse(granted: granted), to: message.from, term: granted ? message.term : term))
        if !granted { tellCommitted(to: message.from) }
    }

    /// Learners and strangers vote as well: they may be voters by entries they have not applied. Only voters are counted.
    private mutating func answerVote(_ message: Message, last: EntryPosition) {
        let free = vote == message.from || (vote == nil && leader == nil) || Mutant.isActive(.voteTwiceInTerm)
        let granted = free && (!isQuarantined || Mutant.isActive(.quarantinedVotes)) && log.isUpToDate(last)
        if granted {
            vote = message.from
            restartElectionTimer()
        }
        afterwards.append(send(.voteResponse(granted: granted), to: message.from))
        if !granted { tellCommitted(to: message.from) }
    }

    /// The sender leads this term. False when that is us, or another: then it lies, and is ignored.
    private mutating func follow(_ leader: MemberID) -> Bool {
        switch role {
        case .leader: return false
        case .follower(leader?): electionElapsed = 0
        case .follower(let other) where other != nil: return false
        case .follower, .preCandidate, .candidate: becomeFollower(term: term, leader: leader)
        }
        return true
    }
}
