import Basics

/// What only a leader has.
struct Leadership: Sendable {
    /// §3.10 of the dissertation: the successor this leader chose, which must have its whole log first.
    struct Transfer: Sendable {
        var target: MemberID
        var ticksLeft: Int
    }
    /// Of every member, sorted.
    var progress: [Progress]
    /// Of the entry with which this leader began.
    let firstIndex: LogIndex
    var heartbeatElapsed = 0
    /// Of the payloads this leader proposed. They are forgotten with the leadership.
    var uncommittedBytes = 0
    var transfer: Transfer?
    var reads = ReadQueue()

    /// `next`: the index of the entry with which the leader begins.
    init(_ membership: Membership, next: LogIndex) {
        progress = Progress.of(membership, known: [], next: next)
        firstIndex = next
    }

    func position(of member: MemberID) -> Int? {
        for position in progress.indices where progress[position].member == member { return position }
        return nil
    }
    func match(of member: MemberID) -> LogIndex { position(of: member).map { progress[$0].match } ?? 0 }
}

extension Raft {
    /// Runs `body` if this member leads. The leadership is taken out of the role meanwhile, so that it is changed in place;
    /// `body` does not change the role.
    mutating func lead(_ body: (inout Leadership, inout Raft) -> Void) {
        guard case .leader(var leadership) = role else { return }
        role = .follower(leader: member)
        body(&leadership, &self)
        role = .leader(leadership)
    }

    mutating func tickAsLeader() {
        if electionElapsed >= configuration.electionTicks {
            electionElapsed = 0
            guard quorumIsActive() else { return becomeFollower(term: term, leader: nil) }
        }
        lead { leadership, raft in
            leadership.reads.ticks += 1
            raft.tickTransfer(&leadership)
            leadership.heartbeatElapsed += 1
            guard leadership.heartbeatElapsed >= raft.configuration.heartbeatTicks else { return }
            raft.beat(&leadership)
        }
        leaveJointMembership()
    }

    /// Check-quorum (§6.2 of the dissertation): a leader that no majority answers steps down.
    private mutating func quorumIsActive() -> Bool {
        var result = VoteResult.won
        lead { leadership, raft in
            result = raft.membership.result { $0 == raft.member || leadership.position(of: $0).map { leadership.progress[$0].isActive } == true }
            for position in leadership.progress.indices { leadership.progress[position].isActive = false }
        }
        return result == .won
    }

    mutating func broadcastHeartbeats(_ leadership: inout Leadership) {
        leadership.heartbeatElapsed = 0
        for position in leadership.progress.indices where leadership.progress[position].member != member {
            let match = Mutant.isActive(.heartbeatCommitNotClamped) ? log.committed : leadership.progress[position].match
            outbox.append(send(.heartbeat(commit: min(match, log.committed), readSequence: leadership.reads.sequence),
                               to: leadership.progress[position].member))
        }
    }

    // MARK: - Handing over

    mutating func transfer(to target: MemberID) {
        guard target != member, membership.isVoter(target) else { return }
        lead { leadership, raft in
            guard leadership.transfer?.target != target, let position = leadership.position(of: target) else { return }
            leadership.transfer = Leadership.Transfer(target: target, ticksLeft: raft.configuration.electionTicks)
            // Voters will not wait until they have stopped hearing us; and the word to the target may come late, at any time.
            leadership.reads.lease = .broken
            raft.sendAppends(to: &leadership.progress[position])
            raft.urgeSuccessor(leadership)
        }
    }

    /// As soon as the successor has everything: it may stand.
    mutating func urgeSuccessor(_ leadership: Leadership) {
        guard let transfer = leadership.transfer, leadership.match(of: transfer.target) == log.last.index else { return }
        outbox.append(send(.timeoutNow, to: transfer.target))
    }

    private mutating func tickTransfer(_ leadership: inout Leadership) {
        guard let transfer = leadership.transfer, !Mutant.isActive(.transferNeverEnds) else { return }
        leadership.transfer = transfer.ticksLeft > 1 ? Leadership.Transfer(target: transfer.target, ticksLeft: transfer.ticksLeft - 1) : nil
    }

    /// Steps down, and names the voter that has most of the log.
    mutating func abdicate() {
        lead { leadership, raft in
            let heirs = leadership.progress.filter { $0.member != raft.member && raft.membership.isVoter($0.member) }
            guard let heir = heirs.max(by: { ($0.isActive ? 1 : 0, $0.match) < ($1.isActive ? 1 : 0, $1.match) }) else { return }
            raft.outbox.append(raft.send(.timeoutNow, to: heir.member))
        }
        becomeFollower(term: term, leader: nil)
    }
}
