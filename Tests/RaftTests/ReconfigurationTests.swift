import Basics
import Raft
import Testing

@Suite("Raft: members come and go")
struct ReconfigurationTests {
    private func cluster(_ voters: Int, spares: Int = 0) -> Cluster {
        var cluster = Cluster(voters, spares: spares)
        cluster.elect(1)
        return cluster
    }
    private func isHeartbeat(_ message: Message) -> Bool { if case .heartbeat = message.body { true } else { false } }

    @Test("a learner receives the log and is never counted; promoted, it is")
    func learner() {
        var cluster = cluster(3, spares: 1)
        cluster.step(1, Change.event(.addLearner(id(4))))
        cluster.settle()
        cluster.step(1, .propose([[1]]))
        cluster.settle(losing: { $0.to == id(2) || $0.to == id(3) })
        #expect(cluster[4].raft.log.last.index == 3 && cluster[1].raft.log.committed == 2, "a leader and a learner are no majority of three")
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster[1].raft.log.committed == 3)
        cluster.step(1, Change.event(.addVoter(id(4))))
        cluster.settle()
        #expect(cluster[4].raft.membership.voters.voters.count == 4)
        cluster.step(1, .propose([[2]]))
        cluster.settle(losing: { $0.to == id(2) })
        #expect(cluster[1].raft.log.committed == 5)
    }

    @Test("a learner does not answer a timeout by standing for election, nor when it is told to")
    func learnerWaits() {
        var cluster = cluster(3, spares: 1)
        cluster.step(1, Change.event(.addLearner(id(4))))
        cluster.settle()
        cluster.step(4, .campaign)
        cluster.tick(4, 20)
        cluster.step(4, .received(message(1, to: 4, term: 1, .timeoutNow)))
        #expect(cluster[4].raft.standing.position == .follower && cluster.wires.isEmpty && cluster[4].raft.leader != id(4))
    }

    @Test("several changes at once go through a joint membership, left by itself")
    func replace() {
        var cluster = cluster(3, spares: 2)
        cluster.step(1, Change.event(.addVoter(id(4)), .addVoter(id(5)), .remove(id(2)), .addLearner(id(3))))
        cluster.settle()
        let final = cluster[1].raft.membership
        #expect(cluster[1].adoptions.count == 2 && cluster[1].adoptions[0].isJoint && cluster[1].adoptions[0].learnersNext == [id(3)])
        #expect(!final.isJoint && final.voters.voters == [1, 4, 5].map(id) && final.learners == [id(3)])
        cluster.step(1, .propose([[1]]))
        cluster.settle()
        for member in [3, 4, 5] { #expect(cluster[member].raft.membership == final && cluster[member].released == cluster[1].released) }
        #expect(cluster.history.filter { $0.kind == .membership }.map(\.payload.isEmpty) == [false, true])
    }

    @Test("while joint, both majorities decide")
    func joint() {
        var cluster = cluster(3, spares: 3)
        cluster.step(1, Change.event(.addVoter(id(4)), .addVoter(id(5)), .addVoter(id(6)), .remove(id(2)), .remove(id(3)), autoLeave: false))
        cluster.settle()
        #expect(cluster[1].raft.membership.isJoint)
        for alone in [[2, 3], [4, 5, 6]] {
            let before = cluster[1].raft.log.committed
            cluster.step(1, .propose([[1]]))
            cluster.settle(losing: { alone.contains(Int($0.from.rawValue)) || alone.contains(Int($0.to.rawValue)) })
            #expect(cluster[1].raft.log.committed == before, "without \(alone)")
            for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
            #expect(cluster[1].raft.log.committed == before + 1)
        }
        cluster.step(1, .propose([[1]]))
        cluster.settle(losing: { [id(3), id(6)].contains($0.to) })
        #expect(cluster[1].raft.log.committed == cluster[1].raft.log.last.index)
        cluster.step(1, .change(payload: []))
        cluster.settle()
        #expect(!cluster[1].raft.membership.isJoint && cluster[1].raft.membership.voters.voters == [1, 4, 5, 6].map(id))
    }

    @Test("a membership takes effect when it is applied, not before")
    func atApply() {
        var cluster = cluster(3, spares: 2)
        cluster.step(1, Change.event(.addVoter(id(4))))
        #expect(cluster[1].raft.membership.voters.voters.count == 3 && !cluster.wires.contains { $0.to == id(4) })
        cluster.settle(losing: { $0.to == id(1) })
        #expect(cluster[1].raft.membership.voters.voters.count == 3)
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster[1].raft.membership.voters.voters.count == 4 && cluster[4].raft.membership.voters.voters.count == 4)
    }

    @Test("at most one change is under way; a leader makes none before it committed an entry, and none that does not fit")
    func oneAtATime() {
        var cluster = cluster(3, spares: 2)
        cluster.step(1, Change.event(.addLearner(id(4))))
        cluster.step(1, Change.event(.addLearner(id(5))))
        #expect(cluster[1].refusals == [.changeUnderWay])
        cluster.settle()
        cluster.step(1, .change(payload: []))
        cluster.step(2, Change.event(.addLearner(id(5))))
        #expect(cluster[1].refusals == [.changeUnderWay, .wrongMembership] && cluster[2].refusals == [.notLeading])
        cluster.step(1, Change.event(.addVoter(id(4)), .addVoter(id(5)), autoLeave: false))
        cluster.settle()
        cluster.step(1, Change.event(.remove(id(4))))
        #expect(cluster[1].refusals.last == .wrongMembership && cluster[1].raft.membership.isJoint)
        // A new leader, with its first entry not committed yet.
        var other = self.cluster(3, spares: 1)
        for id in [1, 3] { other.tick(id, 10) }
        other.drop { _ in true }
        other.step(2, .campaign)
        other.settle { if case .append = $0.body { true } else { false } }
        #expect(other[2].raft.isLeader)
        other.step(2, Change.event(.addLearner(id(4))))
        #expect(other[2].refusals == [.changeUnderWay])
    }

    @Test("a change left by an earlier leader counts as one under way, committed or not")
    func inheritedChange() {
        var cluster = cluster(3, spares: 2)
        cluster.step(1, Change.event(.addLearner(id(4))))
        cluster.finishWrite(1)
        cluster.drop { _ in true }
        for member in 2...3 { cluster.tick(member, 10) }
        cluster.drop { _ in true }
        cluster.crash(1)
        cluster.step(1, .campaign)
        cluster.settle { message in if case .append(_, let entries, _) = message.body { entries.contains { $0.term == 2 } } else { false } }
        cluster.step(1, Change.event(.addLearner(id(5))))
        #expect(cluster[1].raft.isLeader && cluster[1].refusals == [.changeUnderWay])
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster[1].raft.membership.learners == [id(4)])
        cluster.step(1, Change.event(.addLearner(id(5))))
        #expect(cluster[1].refusals.count == 1)
    }

    @Test("nobody campaigns with a committed change that is not applied; as soon as it is, it may")
    func noCampaign() {
        let change = Entry(index: 1, term: 1, kind: .membership, payload: Change.encode(MembershipChange([.addVoter(id(4))])))
        var raft = Raft(Raft.Configuration(member: id(1), voters: [id(1), id(2), id(3)], seed: 1), state: HardState(term: 1, commit: 1),
                        log: Log(entries: [change], committed: 1))
        var effects: [Raft.Effect] = []
        raft.step(.received(message(2, to: 1, term: 1, .timeoutNow)), into: &effects)
        #expect(effects.contains(.release(through: 1)))
        raft.step(.campaign, into: &effects)
        for _ in 0..<50 { raft.step(.tick, into: &effects) }
        #expect(raft.standing.position == .follower && raft.term == 1)
        effects = []
        raft.adopt(Membership(voters: (1...4).map { id($0) }), at: 1, into: &effects)
        raft.step(.tick, into: &effects)
        #expect(raft.standing.position == .preCandidate)
        #expect(effects.contains { if case .send(let messages) = $0 { messages.map(\.to) == [2, 3, 4].map(id) } else { false } })
    }

    @Test("a leader that is removed sees its removal known to the others, names a successor and steps down")
    func removedLeader() {
        var cluster = cluster(3)
        cluster.step(1, Change.event(.remove(id(1))))
        cluster.finishWrite(1)
        while let position = cluster.wires.firstIndex(where: { $0.to == id(2) }) { cluster.deliver(position) }
        cluster.finishWrite(2)
        while let position = cluster.wires.firstIndex(where: { $0.to == id(1) }) { cluster.deliver(position) }
        #expect(cluster[1].raft.isLeader && !cluster[1].raft.membership.isVoter(id(1)))
        cluster.step(1, .propose([[1]]))
        #expect(cluster[1].refusals == [.transferring])
        cluster.settle()
        #expect(!cluster[1].raft.isLeader && cluster.leader != nil && cluster.leader != 1)
        #expect(cluster[2].raft.membership.voters.voters == [2, 3].map(id) && cluster[3].raft.membership.voters.voters == [2, 3].map(id))
        cluster.step(cluster.leader ?? 2, .propose([[2]]))
        cluster.settle()
        #expect(cluster.history.last?.payload == [2])
    }

    @Test("a removed leader that crashes before the others know leaves them able to elect one")
    func removedLeaderCrashes() {
        var cluster = cluster(2)
        cluster.step(1, Change.event(.remove(id(1))))
        cluster.settle(losing: { message in if case .append(_, let entries, _) = message.body { !entries.contains { $0.kind == .membership } } else { false } })
        // Member 1 adopted its removal and has an entry more; member 2 believes that it needs its vote.
        #expect(!cluster[1].raft.membership.isVoter(id(1)) && cluster[2].raft.membership.isVoter(id(1)))
        cluster.crash(1)
        for _ in 0..<120 { for member in 1...2 { cluster.step(member, .tick) }; cluster.settle() }
        #expect(cluster.leader == 2 && cluster[2].raft.membership.voters.voters == [id(2)])
    }

    @Test("a transfer to a member that is removed is given up, and proposals go on")
    func transferAbortedOnRemoval() {
        var cluster = cluster(3)
        cluster.step(1, Change.event(.remove(id(3))))
        cluster.step(1, .transfer(to: id(3)))
        #expect(cluster[1].raft.transferTarget == id(3))
        cluster.settle(losing: { $0.to == id(3) || $0.from == id(3) })
        #expect(cluster[1].raft.transferTarget == nil && cluster[1].raft.isLeader)
        cluster.step(1, .propose([[1]]))
        #expect(cluster[1].refused == 0)
    }

    @Test("a smaller quorum commits at once what waited for the larger one")
    func smallerQuorum() {
        var cluster = cluster(2, spares: 0)
        cluster.step(1, Change.event(.remove(id(2))))
        cluster.step(1, .propose([[1]]))
        let removal = cluster[1].raft.log.last.index - 1
        cluster.settle { message in message.to == id(2) && { if case .append(_, let entries, _) = message.body { entries.contains { $0.index > removal } } else { false } }() }
        #expect(cluster[1].raft.log.committed == removal + 1 && cluster[1].raft.membership.voters.voters == [id(1)])
    }

    @Test("a new leader leaves the joint membership its predecessor entered")
    func newLeaderLeaves() {
        var cluster = cluster(3, spares: 2)
        cluster.step(1, Change.event(.addVoter(id(4)), .addVoter(id(5))))
        let joining = cluster[1].raft.log.last.index
        cluster.settle { message in if case .append(_, let entries, _) = message.body { entries.contains { $0.index > joining } } else { false } }
        #expect(cluster[2].raft.membership.isJoint)
        cluster.crash(1)
        cluster.elect(2)
        for _ in 0..<5 { cluster.step(2, .tick); cluster.settle() }
        #expect(cluster[2].raft.isLeader && !cluster[2].raft.membership.isJoint && cluster[2].raft.membership.voters.voters.count == 5)
    }
}
