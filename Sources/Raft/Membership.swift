package import Basics

/// Who takes part, and how: §4.3 of the dissertation (joint consensus), with learners.
///
///                    addVoter, addLearner, remove: one voter differs
///              ┌───────────────────────────────────────────────────┐
///              ▼                                                   │
///     voters (1 2 3) ── several voters differ ──▶ (1 4 5)&&(1 2 3) │ joint: both majorities decide
///              ▲                                        │          │
///              └─────────────── leaving ────────────────┘──────────┘
///
/// - `voters` decide by majority; while `outgoing` is not empty (joint), a majority of it must agree as well.
/// - `learners` receive the log and are never counted.
/// - `learnersNext` are voters of `outgoing` that become learners on leaving: nobody is voter and learner at one time.
/// - `autoLeave`: the leader leaves the joint membership by itself, as soon as it is adopted.
///
/// Invariants: learners and voters of either side are disjoint; `learnersNext` ⊆ `outgoing`;
/// not joint ⇒ `learnersNext` empty, no `autoLeave`.
package struct Membership: Hashable, Sendable {
    package private(set) var voters: Majority
    package private(set) var outgoing = Majority([])
    /// Sorted, as are `learnersNext`.
    package private(set) var learners: [MemberID] = []
    package private(set) var learnersNext: [MemberID] = []
    package private(set) var autoLeave = false

    /// Without voters: a member that has yet to learn to what it belongs. It never campaigns.
    package init(voters: some Sequence<MemberID> = []) { self.voters = Majority(voters) }

    /// From what was stored or sent.
    package init(
        voters: some Sequence<MemberID>, outgoing: some Sequence<MemberID>, learners: some Sequence<MemberID>,
        learnersNext: some Sequence<MemberID>, autoLeave: Bool
    ) throws(MembershipError) {
        self.voters = Majority(voters)
        self.outgoing = Majority(outgoing)
        self.learners = Majority(learners).voters
        self.learnersNext = Majority(learnersNext).voters
        self.autoLeave = autoLeave
        let isSound = !self.learners.contains(where: isVoter) && self.learnersNext.allSatisfy(self.outgoing.contains)
            && !self.learnersNext.contains(where: self.voters.contains) && !members.contains(MemberID(0))
            && (isJoint ? !self.voters.voters.isEmpty : self.learnersNext.isEmpty && !autoLeave)
        guard isSound else { throw .unsound }
    }

    package var isJoint: Bool { !outgoing.voters.isEmpty }
    /// On either side: it may campaign, lead and vote.
    package func isVoter(_ member: MemberID) -> Bool { voters.contains(member) || outgoing.contains(member) }
    package func isLearner(_ member: MemberID) -> Bool { learners.contains(member) }
    /// Everyone, sorted.
    package var members: [MemberID] { Majority(voters.voters + outgoing.voters + learners).voters }
    /// The voters of both sides, sorted.
    package var electorate: [MemberID] { isJoint ? Majority(voters.voters + outgoing.voters).voters : voters.voters }

    // MARK: - Deciding

    /// The greatest number that a majority, of both sides if joint, has reached.
    package func reached(_ number: (MemberID) -> UInt64) -> UInt64 {
        let incoming = (Mutant.isActive(.learnersCounted) ? Majority(voters.voters + learners) : voters).reached(number)
        return outgoing.voters.isEmpty || Mutant.isActive(.oneSideOfJointDecides) ? incoming : min(incoming, outgoing.reached(number))
    }

    package func result(_ vote: (MemberID) -> Bool?) -> VoteResult {
        let incoming = voters.result(vote), outgoing = outgoing.result(vote)
        if incoming == outgoing { return incoming }
        return incoming == .lost || outgoing == .lost ? .lost : .pending
    }

    // MARK: - Changing

    /// What `change` makes of this: by itself when one voter differs at most, else the joint membership on the way there.
    package func entering(_ change: MembershipChange) throws(MembershipError) -> Membership {
        if isJoint { throw .alreadyJoint }
        let aim = try applying(change.steps)
        return aim.voters.differences(from: voters) <= 1 && !change.isAlwaysJoint ? aim : try jointly(change.steps, autoLeave: change.autoLeave)
    }

    /// `steps` at once, which is safe when the majorities before and after overlap.
    package func simply(_ steps: [MembershipChange.Step]) throws(MembershipError) -> Membership {
        if isJoint { throw .simpleChangeWhileJoint }
        let changed = try applying(steps)
        guard changed.voters.differences(from: voters) <= 1 else { throw .severalVotersDiffer }
        return changed
    }

    package func jointly(_ steps: [MembershipChange.Step], autoLeave: Bool) throws(MembershipError) -> Membership {
        if isJoint { throw .alreadyJoint }
        if voters.voters.isEmpty { throw .noVotersToJoin }
        var joint = self
        joint.outgoing = voters
        joint = try joint.applying(steps)
        joint.autoLeave = autoLeave
        return joint
    }

    package func leaving() throws(MembershipError) -> Membership {
        guard isJoint else { throw .notJoint }
        var left = self
        left.learners = Majority(learners + learnersNext).voters
        left.learnersNext = []
        left.outgoing = Majority([])
        left.autoLeave = false
        return left
    }

    /// The steps in order; each may be repeated, and undone by a later one. A step about nobody (member 0) is void.
    private func applying(_ steps: [MembershipChange.Step]) throws(MembershipError) -> Membership {
        var changed = self
        for step in steps where step.member != MemberID(0) {
            switch step {
            case .addVoter(let member):
                changed.remove(member)
                changed.voters = Majority(changed.voters.voters + [member])
            case .addLearner(let member):
                guard !changed.isLearner(member) else { continue }
                changed.remove(member)
                if outgoing.contains(member) {
                    changed.learnersNext = Majority(changed.learnersNext + [member]).voters
                } else {
                    changed.learners = Majority(changed.learners + [member]).voters
                }
            case .remove(let member): changed.remove(member)
            }
        }
        if changed.voters.voters.isEmpty { throw .noVotersLeft }
        return changed
    }

    /// From everything but `outgoing`, which only `leaving` changes.
    private mutating func remove(_ member: MemberID) {
        if voters.contains(member) { voters = Majority(voters.voters.filter { $0 != member }) }
        learners.removeAll { $0 == member }
        learnersNext.removeAll { $0 == member }
    }
}

/// What is wanted of a membership, in one piece: add, remove, promote (`addVoter` of a learner), demote (`addLearner` of a voter),
/// replace (`addVoter` and `remove`).
package struct MembershipChange: Hashable, Sendable {
    package enum Step: Hashable, Sendable {
        case addVoter(MemberID), addLearner(MemberID), remove(MemberID)
        package var member: MemberID { switch self { case .addVoter(let member), .addLearner(let member), .remove(let member): member } }
    }
    package var steps: [Step]
    /// When it leads through a joint membership: leave that without being asked.
    package var autoLeave: Bool
    /// Through a joint membership even where one step would do.
    package var isAlwaysJoint: Bool
    package init(_ steps: [Step], autoLeave: Bool = true, isAlwaysJoint: Bool = false) {
        self.steps = steps; self.autoLeave = autoLeave; self.isAlwaysJoint = isAlwaysJoint
    }
}

package enum MembershipError: Error, Hashable, Sendable, CustomStringConvertible {
    case alreadyJoint
    case simpleChangeWhileJoint
    case notJoint
    case noVotersToJoin
    case noVotersLeft
    case severalVotersDiffer
    case unsound

    package var description: String {
        switch self {
        case .alreadyJoint: "a change of membership is under way already"
        case .simpleChangeWhileJoint: "the membership is joint: it must be left before it is changed"
        case .notJoint: "the membership is not joint: there is nothing to leave"
        case .noVotersToJoin: "a membership without voters cannot become joint"
        case .noVotersLeft: "no voter would be left"
        case .severalVotersDiffer: "more than one voter differs: this needs a joint membership"
        case .unsound: "not a membership: a member is voter and learner, or stands where only a joint membership has something"
        }
    }
}
