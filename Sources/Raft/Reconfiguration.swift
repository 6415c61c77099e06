package import Basics

// Changes of membership. One is proposed as an entry, takes effect on each member when that applies it, and is followed by
// the next one only after that. So two memberships that are in effect at one time differ by one change, and share a quorum.

extension Raft {
    /// The host applied the change of membership in entry `index`, and this is what it made of it: every member the same, whatever its
    /// log began with; also one that changes nothing, such as a change that the host refused. `effects` are to be carried out after
    /// everything that was released so far.
    package mutating func adopt(_ new: Membership, at index: LogIndex, into effects: inout [Effect]) {
        precondition(index > adopted && index <= log.released, "a membership is adopted once, in order, when it is applied")
        adopted = index
        membership = new
        switch role {
        case .follower: break
        case .preCandidate, .candidate: if !new.isVoter(member) { becomeFollower(term: term, leader: nil) }
        case .leader:
            // A leader that is removed, or made a learner, sees to it that a quorum of the others learns of that.
            if !new.isVoter(member), farewell == .max {
                farewell = log.last.index + 1
                log.append(Entry(index: farewell, term: term, payload: []))
            }
            lead { leadership, raft in raft.takeEffect(new, &leadership) }
            leaveJointMembership()
        }
        finish(into: &effects)
    }

    private mutating func takeEffect(_ new: Membership, _ leadership: inout Leadership) {
        leadership.progress = Progress.of(new, known: leadership.progress, next: log.last.index + 1)
        if let transfer = leadership.transfer, !new.isVoter(transfer.target) { leadership.transfer = nil }
        // Fewer may be needed now.
        advanceCommit(&leadership)
        confirmRounds(&leadership)
        broadcastAppends(&leadership)
    }

    mutating func change(_ payload: Bytes) {
        if let refusal = refusalOfChange(isLeaving: payload.isEmpty) { return signals.append(.refused(count: 1, because: refusal)) }
        lead { leadership, raft in raft.append([payload], .membership, &leadership) }
    }

    private func refusalOfChange(isLeaving: Bool) -> Refusal? {
        guard case .leader(let leadership) = role else { return .notLeading }
        if leadership.transfer != nil || farewell != .max { return .transferring }
        // §4.1, and the correction of 2015: also one of an earlier leader, which this one may yet commit.
        let isUnderWay = log.hasChange(after: adopted, through: log.last.index) && !Mutant.isActive(.twoChangesAtOnce)
        if isUnderWay || log.committed < leadership.firstIndex { return .changeUnderWay }
        return membership.isJoint == isLeaving ? nil : .wrongMembership
    }

    /// What `autoLeave` promises.
    mutating func leaveJointMembership() {
        guard membership.autoLeave, !Mutant.isActive(.autoLeaveForgotten), refusalOfChange(isLeaving: true) == nil else { return }
        log.append(Entry(index: log.last.index + 1, term: term, kind: .membership, payload: []))
        lead { leadership, raft in raft.broadcastAppends(&leadership) }
    }

    // MARK: - Snapshots

    /// May the store be replaced by one as of `position`? Not by one that is older than what was applied and cannot be
    /// brought up to date from the log.
    package func admits(storeAt position: EntryPosition) -> Bool {
        position.index > log.committed || (position.index >= log.base.index && log.agrees(with: position))
    }

    mutating func installed(_ position: EntryPosition, _ new: Membership) {
        precondition(admits(storeAt: position), "an older store that the log cannot bring up to date")
        switch role {
        case .follower: break
        case .preCandidate, .candidate: becomeFollower(term: term, leader: nil)
        case .leader: abdicate()
        }
        if position.term > term { becomeFollower(term: position.term, leader: nil) }
        log.restart(at: position)
        adopted = position.index
        membership = new
        if let leader, leader != member { afterwards.append(send(.appended(through: position.index), to: leader)) }
    }
}
