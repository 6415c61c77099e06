import Basics
import MVCC
import Raft
import Replica
import Testing

@Suite("Replicas among others")
struct ClusterTests {
    private func started(_ change: @escaping (inout Replica.Configuration) -> Void = { _ in }) throws -> Trio {
        var trio = try Trio(change)
        trio.elect(1)
        trio.carryOut(1, Fixture.createDomain())
        return trio
    }
    private static let put = Outcome.applied(.operation(.put(previous: nil)), revision: 2)

    @Test("founders are written down by the first leader, and all members know them")
    func founding() throws {
        let trio = try started()
        for number in 1...3 {
            #expect(trio.with(number) { $0.store.members.members } == (1...3).map { Trio.member($0) })
            #expect(trio.with(number) { $0.raft.membership.voters.voters.count } == 3)
        }
        #expect(trio.agree())
    }

    @Test("a follower's write goes through the leader and is answered by the follower, once it is applied there")
    func forwarding() throws {
        var trio = try started()
        #expect(trio.carryOut(2, Fixture.put("a", "1")) == Self.put)
        #expect(trio.get(2, "a") != nil)
        trio.pass()
        #expect((1...3).allSatisfy { trio.get($0, "a")?.version == 1 } && trio.agree())
    }

    @Test("a forwarded command that was sent again and again is applied once")
    func once() throws {
        var trio = try started()
        trio.loses = { if case .raft(let message) = $0.body, case .append = message.body { true } else { false } }
        let ticket = trio.propose(2, Fixture.put("a", "1"))
        trio.pass(ticks: 35)
        let sent = trio.sent.filter { if case .forward = $0.body { true } else { false } }.count
        #expect(sent >= 3 && trio.outcome(2, ticket) == nil)
        trio.loses = { _ in false }
        trio.pass(ticks: 5)
        #expect(trio.outcome(2, ticket) == Self.put)
        #expect((1...3).allSatisfy { trio.get($0, "a")?.version == 1 } && trio.agree())
    }

    @Test("a leader logs a forwarded command once, however often it is sent; one that it does not have, it logs")
    func loggedOnce() throws {
        var trio = try started()
        trio.loses = { if case .raft(let message) = $0.body, case .append = message.body { true } else { false } }
        // Questions between them change nothing about that.
        let tickets = (0..<100).map { number in
            let ticket = trio.propose(2, Fixture.put("a\(number)", "1"))
            trio.settle()
            _ = trio.ask(2, .leaseKeepAlive(6))
            return ticket
        }
        let end = trio.with(1) { $0.raft.log.last.index }
        trio.pass(ticks: 35)
        #expect(trio.with(1) { $0.raft.log.last.index } == end && tickets.allSatisfy { trio.outcome(2, $0) == nil })
        trio.loses = { _ in false }
        trio.pass(ticks: 5)
        #expect(tickets.allSatisfy { if case .applied = trio.outcome(2, $0) { true } else { false } } && trio.agree())
    }

    @Test("forwarded commands that arrive in another order are all applied, each once")
    func reordered() throws {
        var trio = try started()
        // The first of them is lost, the later one arrives, then both are sent again.
        var isLost = false
        let first = trio.propose(2, Fixture.put("a", "1"))
        trio.loses = { message in
            guard case .forward = message.body, !isLost else { return false }
            isLost = true
            return true
        }
        trio.settle()
        let second = trio.propose(2, Fixture.put("b", "1"))
        trio.settle()
        #expect(trio.outcome(2, second) != nil && trio.outcome(2, first) == nil)
        trio.pass(ticks: 20)
        #expect(trio.outcome(2, first) == .applied(.operation(.put(previous: nil)), revision: 3))
        #expect(trio.get(1, "a")?.version == 1 && trio.get(1, "b")?.version == 1 && trio.agree())
    }

    @Test("a linearizable read at a follower shows what was acknowledged before; one that is cut off gives up in time")
    func followerReads() throws {
        var trio = try started()
        trio.carryOut(1, Fixture.put("a", "1"))
        let ticket = trio.ask(3, .revision)
        trio.settle()
        #expect(trio.outcome(3, ticket) == .revision(2))
        trio.cut = [[1, 3], [3, 1], [2, 3], [3, 2]]
        trio.carryOut(1, Fixture.put("a", "2"))
        let cutOff = trio.ask(3, .revision)
        trio.pass(ticks: 60)
        #expect(trio.outcome(3, cutOff) == nil)
        trio.pass(ticks: 30)
        guard case .notLeader? = trio.outcome(3, cutOff) else { Issue.record("\(String(describing: trio.outcome(3, cutOff)))"); return }
    }

    @Test("a leader dies: what it acknowledged stays, and a follower's waiting write reaches its successor")
    func leaderDies() throws {
        var trio = try started()
        trio.carryOut(1, Fixture.put("a", "1"))
        trio.stop(1)
        let ticket = trio.propose(2, Fixture.put("b", "1"))
        trio.elect()
        trio.pass(ticks: 5)
        #expect(trio.leader != 1 && trio.get(2, "a") != nil && trio.get(3, "a") != nil)
        #expect(trio.outcome(2, ticket) == .applied(.operation(.put(previous: nil)), revision: 3))
        try trio.restart(1)
        trio.pass(ticks: 15)
        #expect(trio.get(1, "b") != nil && trio.agree())
    }

    @Test("a write of a leader that was cut off did not happen once another has its place, and may have until then")
    func superseded() throws {
        var trio = try started()
        trio.cut = [[1, 2], [2, 1], [1, 3], [3, 1]]
        let ticket = trio.propose(1, Fixture.put("lost", "1"))
        trio.settle()
        trio.handle(2, .campaign)
        trio.pass(ticks: 25)
        let next = try #require(trio.leader)
        #expect(next != 1 && trio.outcome(1, ticket) == nil)
        trio.carryOut(next, Fixture.put("kept", "1"))
        trio.cut = []
        trio.pass(ticks: 15)
        guard case .notLeader? = trio.outcome(1, ticket) else { Issue.record("\(String(describing: trio.outcome(1, ticket)))"); return }
        #expect(trio.get(1, "lost") == nil && trio.get(1, "kept") != nil && trio.agree())
    }

    @Test("without a quorum a write's outcome is unknown after a while, never wrong")
    func unknown() throws {
        var trio = try started()
        trio.cut = [[1, 2], [2, 1], [1, 3], [3, 1], [2, 3], [3, 2]]
        let leading = trio.propose(1, Fixture.put("a", "1")), following = trio.propose(2, Fixture.put("b", "1"))
        trio.pass(ticks: 120)
        #expect(trio.outcome(1, leading) == .unknown && trio.outcome(2, following) == .unknown)
    }

    @Test("a full disk at the leader refuses a follower's growing write, and takes its deletion")
    func fullLeader() throws {
        var trio = try started()
        trio.handle(1, .space(isShort: true))
        #expect(trio.carryOut(3, Fixture.put("a", "1")) == .noSpace)
        #expect(trio.carryOut(3, Fixture.delete("a")) == .applied(.operation(.deleteRange(deleted: 0, previous: [])), revision: 1))
        trio.handle(1, .space(isShort: false))
        trio.pass(ticks: 3)
        #expect(trio.carryOut(3, Fixture.put("a", "1")) == Self.put)
    }

    @Test("what a leader says of a command of a member's earlier run is not taken for an answer to one of the present run")
    func refusalOfEarlierRun() throws {
        var trio = try started()
        trio.handle(1, .space(isShort: true))
        trio.loses = { if case .outcomes = $0.body { true } else { false } }
        let earlier = trio.propose(3, Fixture.put("a", "1"))
        trio.settle()
        let refusal = try #require(trio.sent.last { if case .outcomes = $0.body { true } else { false } })
        trio.stop(3)
        trio.pass(ticks: 2)
        try trio.restart(3)
        trio.handle(1, .space(isShort: false))
        trio.loses = { _ in false }
        trio.pass(ticks: 15)
        trio.cut = [[3, 1]]
        let ticket = trio.propose(3, Fixture.put("b", "1"))
        trio.handle(3, .received([refusal]))
        #expect(trio.outcome(3, ticket) == nil)
        trio.cut = []
        trio.pass(ticks: 15)
        #expect(trio.outcome(3, ticket) == Self.put && trio.outcome(3, earlier) == nil)
    }

    @Test("a full disk at a follower is an alarm: nobody takes what it has no room for, until it has")
    func fullFollower() throws {
        var trio = try started()
        trio.handle(3, .space(isShort: true))
        trio.pass(ticks: 3)
        #expect(trio.with(1) { $0.store.members.alarms } == [Alarm(.noSpace, of: MemberID(3))])
        #expect(trio.carryOut(1, Fixture.put("a", "1")) == .noSpace && trio.carryOut(2, Fixture.put("a", "1")) == .noSpace)
        #expect(trio.carryOut(2, Fixture.delete("a")) == .applied(.operation(.deleteRange(deleted: 0, previous: [])), revision: 1))
        trio.handle(3, .space(isShort: false))
        trio.pass(ticks: 3)
        #expect(trio.with(2) { $0.store.members.alarms }.isEmpty && trio.carryOut(2, Fixture.put("a", "1")) == Self.put)
    }

    @Test("leases: granted and kept alive by way of a follower, and not ended early by a new leader")
    func leases() throws {
        var trio = try started()
        #expect(trio.carryOut(2, .leaseGrant(id: 5, seconds: 10)) == .applied(.lease(id: 5, seconds: 10), revision: 1))
        trio.carryOut(2, Fixture.put("a", "1", lease: 5))
        trio.pass(ticks: 90)
        let alive = trio.ask(3, .leaseKeepAlive(5)), unknown = trio.ask(3, .leaseKeepAlive(6))
        trio.settle()
        #expect(trio.outcome(3, alive) == .leaseKeptAlive(5, seconds: 10, revision: 2))
        #expect(trio.outcome(3, unknown) == .refused(.leaseNotFound))
        trio.pass(ticks: 50)
        let status = trio.ask(2, .leaseStatus(5, withKeys: true))
        trio.settle()
        #expect(trio.outcome(2, status) == .leaseStatus(5, grantedSeconds: 10, remainingSeconds: 5, keys: [Bytes("a".utf8)], revision: 2))
        trio.stop(1)
        trio.elect()
        trio.pass(ticks: 60)
        #expect(trio.get(2, "a") != nil, "the new leader gives a lease its time again")
        trio.pass(ticks: 60)
        #expect(trio.get(2, "a") == nil && trio.get(3, "a") == nil && trio.agree())
    }

    @Test("a member that is behind the log's window gets the store, and goes on from there")
    func snapshot() throws {
        var trio = try started {
            $0.windowEntriesMax = 5
        }
        trio.stop(3)
        for round in 0..<40 {
            trio.carryOut(1, Fixture.put("k\(round % 7)", "\(round)"))
            trio.store(1)
        }
        #expect(trio.node(1, \.firstEntry) > 20)
        try trio.restart(3)
        trio.pass(ticks: 15)
        #expect(trio.node(3, \.wasReplaced) == 1 && trio.agree())
        #expect(trio.carryOut(3, Fixture.put("after", "1")) != nil)
        trio.pass()
        #expect(trio.agree())
        // What it holds is enough for a restart.
        trio.store(3)
        trio.stop(3)
        try trio.restart(3)
        trio.pass(ticks: 15)
        #expect(trio.agree() && trio.get(3, "after") != nil)
    }

    @Test("with a window, a member that was away for a while catches up from the log")
    func window() throws {
        var trio = try started()
        trio.stop(3)
        for round in 0..<40 {
            trio.carryOut(1, Fixture.put("k\(round % 7)", "\(round)"))
            trio.store(1)
        }
        try trio.restart(3)
        trio.pass(ticks: 15)
        #expect(trio.node(3, \.wasReplaced) == 0 && trio.agree())
    }

    @Test("a leader keeps more of the log for a member that is behind, and lets go of it when that has caught up")
    func reach() throws {
        var trio = try started { $0.windowEntriesMax = 10 }
        trio.stop(3)
        trio.pass()
        let away = trio.with(1) { $0.raft.log.last.index }
        for round in 0..<30 {
            trio.carryOut(1, Fixture.put("k\(round % 7)", "\(round)"))
            trio.store(1)
        }
        #expect(trio.node(1, \.firstEntry) <= away)
        try trio.restart(3)
        trio.pass(ticks: 15)
        #expect(trio.node(3, \.wasReplaced) == 0 && trio.agree())
        for round in 0..<3 {
            trio.carryOut(1, Fixture.put("k\(round)", "later"))
            trio.pass()
            trio.store(1)
        }
        #expect(trio.node(1, \.firstEntry) > away + 15)
    }

    @Test("HashKV is the same on all members, and does not see a reseal")
    func hashKV() throws {
        var trio = try started()
        trio.carryOut(1, Fixture.put("a", "1"))
        trio.carryOut(2, Fixture.put("a", "2"))
        trio.pass()
        let hashes = try (1...3).map { number in try trio.with(number) { try $0.store.hashKeys(through: 0) } }
        let earlier = try trio.with(1) { try $0.store.hashKeys(through: 2) }
        #expect(Set(hashes).count == 1 && earlier != hashes[0])
        let reseal = Reseal(revision: Revision(3), key: Bytes("a".utf8), expected: DataKeyID(Fixture.domain, 1), value: Fixture.sealed("other"))
        #expect(trio.carryOut(1, .reseal([reseal])) == .applied(.resealed(1), revision: 3))
        #expect(try trio.with(1) { try $0.store.hashKeys(through: 0) } == hashes[0])
        trio.carryOut(1, Fixture.put("a", "3"))
        #expect(try trio.with(1) { try $0.store.hashKeys(through: 0) } != hashes[0])
        #expect(try trio.with(1) { try $0.store.hashKeys(through: 3) } == hashes[0])
    }
}

@Suite("Changes of members")
struct MembershipTests {
    private func started(founders: Int = 3) throws -> Trio {
        var trio = try Trio(founders: founders)
        trio.elect(1)
        trio.carryOut(1, Fixture.createDomain())
        trio.carryOut(1, Fixture.put("a", "1"))
        return trio
    }
    private static let done = Outcome.applied(.none, revision: 2)

    @Test("a learner joins, catches up, is promoted; the cluster then lives without one of the founders")
    func learner() throws {
        var trio = try started()
        try trio.join(4)
        #expect(trio.carryOut(2, .member(.change([.add(Trio.member(4, isLearner: true))]))) == Self.done)
        trio.pass(ticks: 5)
        #expect(trio.get(4, "a") != nil && trio.agree())
        #expect(trio.with(4) { $0.raft.membership.isLearner(MemberID(4)) })
        #expect(trio.carryOut(3, .member(.change([.promote(MemberID(4))]))) == Self.done)
        trio.pass()
        #expect(trio.with(4) { $0.raft.membership.voters.voters.count } == 4)
        trio.stop(2)
        #expect(trio.carryOut(1, Fixture.put("b", "1")) == .applied(.operation(.put(previous: nil)), revision: 3))
    }

    @Test("a learner that is behind is not promoted, and nobody's quorum is given away")
    func refusals() throws {
        var trio = try started()
        #expect(trio.carryOut(1, .member(.change([.add(Trio.member(4, isLearner: true))]))) == Self.done)
        #expect(trio.carryOut(2, .member(.change([.promote(MemberID(4))]))) == .refused(.member(.notInSync(MemberID(4)))))
        #expect(trio.carryOut(1, .member(.change([.promote(MemberID(2))]))) == .refused(.member(.notLearner(MemberID(2)))))
        #expect(trio.carryOut(1, .member(.change([.remove(MemberID(9))]))) == .refused(.member(.notFound(MemberID(9)))))
        #expect(trio.carryOut(1, .member(.change([.add(Trio.member(3))]))) == .refused(.member(.exists(MemberID(3)))))
        var taken = Trio.member(5)
        taken.peerURLs = Trio.member(2).peerURLs
        #expect(trio.carryOut(1, .member(.change([.add(taken)]))) == .refused(.member(.peerURLTaken(taken.peerURLs[0]))))
        trio.stop(3)
        trio.pass(ticks: 60)
        #expect(trio.carryOut(1, .member(.change([.remove(MemberID(2))]))) == .refused(.member(.losesQuorum)))
        #expect(trio.carryOut(1, .member(.change([.add(Trio.member(5))]))) == .refused(.member(.losesQuorum)), "four need three")
        #expect(trio.carryOut(1, .member(.change([.remove(MemberID(3))]))) == Self.done, "of the two that are left both are at work")
    }

    @Test("one command replaces a member by way of a joint membership, which the leader leaves by itself")
    func replacement() throws {
        var trio = try started()
        try trio.join(4)
        trio.carryOut(1, .member(.change([.add(Trio.member(4, isLearner: true))])))
        trio.pass(ticks: 5)
        #expect(trio.carryOut(1, .member(.change([.promote(MemberID(4)), .remove(MemberID(3))]))) == Self.done)
        trio.pass(ticks: 5)
        let membership = trio.with(1) { $0.raft.membership }
        #expect(!membership.isJoint && membership.voters.voters == [1, 2, 4].map { MemberID($0) })
        #expect(trio.with(4) { $0.store.members.members.map(\.id.rawValue) } == [1, 2, 4])
        #expect(trio.carryOut(1, .member(.change([.add(Trio.member(3))]))) == .refused(.member(.removed(MemberID(3)))))
    }

    @Test("a leader that removes itself hands over, and the others go on")
    func removesItself() throws {
        var trio = try started()
        trio.carryOut(1, .member(.change([.remove(MemberID(1))])))
        trio.pass(ticks: 30)
        #expect(trio.leader == 2 || trio.leader == 3)
        #expect(trio.carryOut(2, Fixture.put("b", "1")) == .applied(.operation(.put(previous: nil)), revision: 3))
    }

    @Test("a single founder grows to three members")
    func growing() throws {
        var trio = try started(founders: 1)
        for number in 2...3 {
            try trio.join(number)
            #expect(trio.carryOut(1, .member(.change([.add(Trio.member(number))]))) != nil)
            trio.pass(ticks: 10)
        }
        #expect(trio.agree() && trio.with(3) { $0.raft.membership.voters.voters.count } == 3)
        trio.stop(1)
        trio.elect()
        #expect(trio.carryOut(3, Fixture.put("b", "1")) == .applied(.operation(.put(previous: nil)), revision: 3))
    }

    @Test("leadership goes to the member that was asked for")
    func transfer() throws {
        var trio = try started()
        trio.handle(1, .transfer(to: MemberID(3)))
        trio.settle()
        #expect(trio.leader == 3)
        #expect(trio.carryOut(1, Fixture.put("b", "1")) == .applied(.operation(.put(previous: nil)), revision: 3))
    }

    @Test("the survivor of a lost quorum goes on alone, with all it holds, and the others are no members any more")
    func survivor() throws {
        var trio = try started()
        trio.store(1)
        for number in 1...3 { trio.stop(number) }
        trio.change = { $0.survivor = Trio.member(1) }
        try trio.restart(1)
        trio.pass(ticks: 30)
        #expect(trio.leader == 1 && trio.get(1, "a") != nil)
        #expect(trio.with(1) { $0.store.members.members.map(\.id.rawValue) } == [1])
        #expect(trio.with(1) { $0.store.members.removed.map(\.rawValue) } == [2, 3])
        #expect(trio.carryOut(1, Fixture.put("b", "1")) == .applied(.operation(.put(previous: nil)), revision: 3))
        // Once is enough: after that it is a cluster of one.
        trio.change = { _ in }
        trio.store(1)
        trio.stop(1)
        try trio.restart(1)
        trio.pass(ticks: 30)
        #expect(trio.leader == 1 && trio.get(1, "b") != nil)
    }
}

@Suite("Damaged members")
struct DamageTests {
    private func started(_ change: @escaping (inout Replica.Configuration) -> Void = { _ in }) throws -> Trio {
        var trio = try Trio(change)
        trio.elect(1)
        trio.carryOut(1, Fixture.createDomain())
        for round in 0..<10 { trio.carryOut(1, Fixture.put("k\(round)", "v")) }
        return trio
    }

    @Test("a member that holds something else than the others is named by an alarm and taken out of service")
    func corrupt() throws {
        var trio = try started()
        trio.alter = { message in
            guard message.to == MemberID(3), case .raft(let inner) = message.body, case .append(let previous, var entries, let commit) = inner.body,
                  !entries.isEmpty, entries[entries.count - 1].payload.count > 100 else { return message }
            let last = entries[entries.count - 1].payload.count - 1
            entries[entries.count - 1].payload[last] ^= 1
            return PeerMessage(Message(from: inner.from, to: inner.to, term: inner.term, .append(previous: previous, entries: entries, commit: commit)))
        }
        trio.carryOut(1, Fixture.put("x", "one"))
        trio.alter = { $0 }
        trio.pass(ticks: 30)
        #expect(trio.with(1) { $0.store.members.alarms } == [Alarm(.corrupt, of: MemberID(3))])
        #expect(trio.node(3, \.outOfService) != nil && trio.node(1, \.outOfService) == nil && trio.node(2, \.outOfService) == nil)
        let ticket = trio.ask(3, .revision)
        guard case .unavailable? = trio.outcome(3, ticket) else { Issue.record("a corrupt member answered"); return }
        // It fetches its store anew, and serves again.
        try trio.restart(3, losing: true)
        trio.pass(ticks: 60)
        #expect(trio.node(3, \.wasRepaired) && trio.agree())
        #expect(trio.with(1) { $0.store.members.alarms }.isEmpty)
        #expect(trio.carryOut(3, Fixture.put("y", "1")) != nil)
    }

    @Test("a leader that differs from both others is the one that is wrong")
    func corruptLeader() throws {
        var trio = try started()
        trio.alter = { message in
            guard message.from == MemberID(1), case .raft(let inner) = message.body, case .append(let previous, var entries, let commit) = inner.body,
                  !entries.isEmpty, entries[entries.count - 1].payload.count > 100 else { return message }
            entries[entries.count - 1].payload[entries[entries.count - 1].payload.count - 1] ^= 1
            return PeerMessage(Message(from: inner.from, to: inner.to, term: inner.term, .append(previous: previous, entries: entries, commit: commit)))
        }
        trio.carryOut(1, Fixture.put("x", "one"))
        trio.alter = { $0 }
        trio.pass(ticks: 60)
        #expect(trio.node(1, \.outOfService) != nil && trio.node(2, \.outOfService) == nil && trio.node(3, \.outOfService) == nil)
        #expect(trio.leader == 2 || trio.leader == 3)
    }

    @Test("a member that lost everything takes no part until a leader made a learner of it, and is a voter again when it has caught up")
    func lost() throws {
        var trio = try started()
        trio.stop(3)
        trio.pass(ticks: 5)
        let sent = trio.sent.count
        try trio.restart(3, losing: true)
        trio.pass(ticks: 60)
        #expect(trio.node(3, \.wasRepaired) && trio.agree() && trio.get(3, "k9") != nil)
        #expect(trio.with(1) { $0.store.members.alarms }.isEmpty && trio.with(3) { $0.raft.membership.isVoter(MemberID(3)) })
        // Before its repair it said nothing but that it is lost.
        let said = trio.sent[sent...].filter { $0.from == MemberID(3) }
        let readmission = trio.sent[sent...].firstIndex { if case .readmitted = $0.body { true } else { false } } ?? trio.sent.endIndex
        #expect(trio.sent[sent..<readmission].allSatisfy { $0.from != MemberID(3) || $0.body == .lost })
        #expect(!said.isEmpty && !said.contains { message in
            guard case .raft(let inner) = message.body else { return false }
            switch inner.body {
            case .voteResponse(granted: true), .preVoteResponse(granted: true), .voteRequest, .preVoteRequest: return true
            default: return false
            }
        })
        trio.stop(2)
        #expect(trio.carryOut(1, Fixture.put("after", "1")) != nil, "it counts again")
    }

    @Test("a learner that lost everything is a learner again once it has caught up, and answers; it does not become a voter")
    func lostLearner() throws {
        var trio = try started()
        try trio.join(4)
        trio.carryOut(1, .member(.change([.add(Trio.member(4, isLearner: true))])))
        trio.pass(ticks: 5)
        trio.stop(4)
        trio.pass(ticks: 5)
        // Found out by the others, too.
        trio.carryOut(1, .alarm(Alarm(.corrupt, of: MemberID(4)), isRaised: true))
        try trio.restart(4, losing: true)
        trio.pass(ticks: 60)
        #expect(trio.node(4, \.wasRepaired) && trio.agree() && trio.with(4) { $0.isOutOfService } == nil)
        #expect(trio.with(1) { $0.store.members.alarms }.isEmpty && trio.with(1) { $0.raft.membership.isLearner(MemberID(4)) })
        let ticket = trio.ask(4, .range(RangeRequest(KeyRange(Bytes("k9".utf8)))))
        trio.pass(ticks: 3)
        guard case .range(let result, _) = trio.outcome(4, ticket) else { Issue.record("no answer"); return }
        #expect(result.count == 1)
    }

    @Test("a leader that no quorum hears readmits nobody: it may not know that the learner was made a voter since")
    func readmissionNeedsQuorum() throws {
        var trio = try started()
        try trio.join(4)
        trio.carryOut(1, .member(.change([.add(Trio.member(4, isLearner: true))])))
        trio.pass(ticks: 5)
        trio.stop(4)
        try trio.restart(4, losing: true)
        // The damaged one and the leader hear nobody else.
        for other in 2...3 as ClosedRange<UInt64> { for lonely in [1, 4] as [UInt64] { trio.cut.formUnion([[other, lonely], [lonely, other]]) } }
        let sent = trio.sent.count
        trio.handle(4, .tick)
        trio.settle()
        #expect(trio.with(1) { $0.isLeader } && trio.sent[sent...].contains { $0.body == .lost && $0.to == MemberID(1) })
        trio.pass(ticks: 8)
        #expect(!trio.sent[sent...].contains { if case .readmitted = $0.body { true } else { false } })
        trio.cut = []
        trio.pass(ticks: 60)
        #expect(trio.node(4, \.wasRepaired) && trio.agree())
    }

    @Test("a call for help that comes late leaves no alarm behind")
    func lateCall() throws {
        var trio = try started()
        trio.handle(1, .received([PeerMessage(from: MemberID(3), to: MemberID(1), .lost)]))
        trio.settle()
        #expect(trio.with(2) { $0.store.members.alarms } == [Alarm(.repairing, of: MemberID(3))])
        trio.pass(ticks: 20)
        #expect(trio.with(2) { $0.store.members.alarms }.isEmpty && trio.agree() && trio.with(1) { $0.raft.membership.isVoter(MemberID(3)) })
        trio.stop(2)
        #expect(trio.carryOut(1, Fixture.put("after", "1")) != nil)
    }

    @Test("a repaired member whose calendar went back takes a number behind all of its runs that anyone remembers")
    func runsGrow() throws {
        var trio = try started { $0.lastRun = $0.incarnation - 1 }
        trio.handle(1, .received([PeerMessage(from: MemberID(3), to: MemberID(1), .takesPart(run: 1_000, term: 1, index: 2))]))
        trio.settle()
        trio.stop(3)
        let sent = trio.sent.count
        try trio.restart(3, losing: true)
        trio.pass(ticks: 80)
        #expect(trio.node(3, \.wasRepaired) && trio.node(3, \.lastRun) == 1_001)
        let told = trio.sent[sent...].filter { if case .takesPart(run: 1_001, _, _) = $0.body { $0.from == MemberID(3) } else { false } }.map(\.to.rawValue)
        #expect(Set(told) == [1, 2])
    }

    // MARK: Those who know nobody any more

    /// Members 1 and 2 are gone for good, 4 and 5 have their places; 3 was away and knows nothing of it.
    private func exchanged(_ change: @escaping (inout Replica.Configuration) -> Void) throws -> Trio {
        var trio = try Trio(change)
        trio.elect(1)
        trio.carryOut(1, Fixture.createDomain())
        for number in 0..<10 { trio.carryOut(1, Fixture.put("k\(number)", "1")) }
        trio.pass(ticks: 12)
        for number in 1...3 { trio.store(number) }
        trio.stop(3)
        for (number, leaving) in [(4, 1), (5, 2)] {
            try trio.join(number)
            var at = try #require(trio.leader)
            trio.carryOut(at, .member(.change([.add(Trio.member(number, isLearner: true))])))
            trio.pass(ticks: 5)
            trio.carryOut(at, .member(.change([.promote(MemberID(UInt64(number)))])))
            trio.pass(ticks: 5)
            at = try #require(trio.leader)
            trio.carryOut(at, .member(.change([.remove(MemberID(UInt64(leaving)))])))
            trio.pass(ticks: 5)
            trio.stop(leaving)
            trio.elect()
        }
        #expect(trio.with(try #require(trio.leader)) { $0.raft.membership.voters.voters } == [3, 4, 5].map { MemberID($0) })
        return trio
    }
    private static func knowsFounders(_ configuration: inout Replica.Configuration) {
        if !configuration.founders.isEmpty { configuration.founders = (1...3).map { Trio.member($0) } }
    }

    @Test("a member that lost everything while all others were exchanged calls those it meets, and is a voter again")
    func lostAmongStrangers() throws {
        var trio = try exchanged(Self.knowsFounders)
        try trio.restart(3, losing: true)
        trio.pass(ticks: 60)
        #expect(trio.node(3, \.wasRepaired) && trio.get(3, "k9") != nil)
        let leader = try #require(trio.leader), other = 9 - leader
        #expect(trio.with(leader) { $0.store.members.alarms }.isEmpty && trio.with(3) { $0.raft.membership.isVoter(MemberID(3)) })
        trio.stop(other)
        #expect(trio.carryOut(leader, Fixture.put("after", "1")) != nil, "it counts again")
    }

    @Test("a member that was away while all others were exchanged asks those it meets what they know of it, and takes part again")
    func awayAmongStrangers() throws {
        var trio = try exchanged { configuration in
            Self.knowsFounders(&configuration)
            configuration.lastRun = configuration.incarnation - 1
        }
        let sent = trio.sent.count
        try trio.restart(3)
        trio.pass(ticks: 40)
        #expect(trio.node(3, \.outOfService) == nil)
        let asked = trio.sent[sent...].filter { if case .recall = $0.body { $0.from == MemberID(3) } else { false } }.map(\.to.rawValue)
        #expect(Set(asked).isSuperset(of: [4, 5]), "the leader spoke to it, and told of the other one")
        let leader = try #require(trio.leader), other = 9 - leader
        trio.stop(other)
        #expect(trio.carryOut(leader, Fixture.put("after", "1")) != nil, "it counts")
    }

    @Test("a member that knows as a learner who alone is left to vote with it asks that one, too, and takes part again")
    func awayWhileAnotherWasPromoted() throws {
        var trio = try Trio { $0.lastRun = $0.incarnation - 1 }
        trio.elect(2)
        trio.carryOut(2, Fixture.createDomain())
        trio.carryOut(2, .member(.change([.demote(MemberID(1))])))
        trio.pass(ticks: 3)
        trio.store(3)
        // 3 has the promotion in its log, and does not hear that it is committed.
        trio.loses = { message in
            guard message.to == MemberID(3), case .raft(let inner) = message.body else { return false }
            return switch inner.body { case .append(_, let entries, _): entries.isEmpty case .heartbeat: true default: false }
        }
        trio.carryOut(2, .member(.change([.promote(MemberID(1))])))
        trio.stop(3)
        trio.loses = { _ in false }
        trio.carryOut(2, .member(.change([.remove(MemberID(2))])))
        trio.pass(ticks: 3)
        trio.stop(2)
        #expect(trio.with(1) { $0.raft.membership.voters } == Majority([MemberID(1), MemberID(3)]))
        #expect(!trio.with(3) { $0.raft.membership.isVoter(MemberID(1)) })
        try trio.restart(3)
        trio.pass(ticks: 60)
        let leader = try #require(trio.leader)
        #expect(trio.carryOut(leader, Fixture.put("after", "1")) != nil && trio.with(3) { $0.raft.membership.isVoter(MemberID(1)) })
    }

    @Test("what a member holds of its term when it begins is remembered, so that a log put back to before a quick restart is noticed")
    func putBackOverRestart() throws {
        var trio = try started { $0.lastRun = $0.incarnation - 1 }
        for number in 1...3 { trio.carryOut(1, Fixture.put("k\(number)", "1")) }
        trio.pass(ticks: 3)
        trio.stop(3)
        let before = trio.log(of: 3)
        try trio.restart(3)
        trio.cut = [[1, 3], [3, 1]]
        trio.pass(ticks: 25)
        trio.stop(3)
        #expect(trio.with(2) { $0.witnesses.first { $0.member == MemberID(3) }?.index } == trio.with(3) { $0.raft.log.last.index })
        trio.putBack(3, log: before, entries: 4)
        trio.cut = []
        try trio.restart(3)
        trio.pass(ticks: 3)
        #expect(trio.node(3, \.outOfService)?.contains("put back") == true)
    }

    @Test("who lost what it held does not count as being at work when members are changed")
    func lostIsNotAtWork() throws {
        var trio = try started()
        trio.stop(3)
        trio.pass(ticks: 5)
        try trio.restart(3, losing: true)
        // It calls for help once; what the leader does about that gets lost.
        trio.loses = { $0.body != .lost }
        trio.handle(3, .tick)
        trio.settle()
        // Before it is a learner: two are left who could help it, and neither may go.
        let ticket = trio.propose(1, .member(.change([.remove(MemberID(2))])))
        trio.settle()
        #expect(trio.outcome(1, ticket) == .refused(.member(.losesQuorum)))
    }
}

@Suite("Peer messages")
struct PeerMessageTests {
    @Test("no bytes make the readers trap: cut, flipped and random ones are refused or read as something else")
    func hostile() throws {
        var random = SeededGenerator(seed: 5)
        let entries = (1...3).map { number in
            Entry(index: 9 + LogIndex(number), term: 3, kind: number == 2 ? .membership : .ordinary, payload: Bytes(repeating: 7, count: number * 5))
        }
        let position = EntryPosition(index: 9, term: 2)
        let bodies: [PeerMessage.Body] = [
            .raft(Message(from: MemberID(1), to: MemberID(2), term: 3, .append(previous: position, entries: entries, commit: 8))),
            .raft(Message(from: MemberID(1), to: MemberID(2), term: 3, .voteRequest(last: position, isTransfer: true))),
            .forward([ForwardedCommand(sequence: 4, payload: [1, 2, 3]), ForwardedCommand(sequence: 5, payload: [])]),
            .questions([ForwardedQuestion(ForwardedID(9, 1), .leaseStatus(5, withKeys: true))]),
            .outcomes([ForwardedOutcome(ForwardedID(9, 6), .leaseStatus(5, grantedSeconds: 10, remainingSeconds: 4, keys: [[1], [2, 3]], revision: 8)),
                       ForwardedOutcome(ForwardedID(9, 7), .notLeader(nil)), ForwardedOutcome(ForwardedID(9, 8), .refused(.losesQuorum))]),
            .hash(index: 5, StateHash(77)), .lost, .readmitted(through: 9),
            .recall(run: 3), .takesPart(run: 3, term: 4, index: 5), .noted(run: 3),
            .recalled(Recollection(asked: 3, run: 2, term: 7, index: .max, membership: Membership(voters: [MemberID(1), MemberID(2)]), asOf: 9)),
        ]
        for body in bodies {
            let message = PeerMessage(from: MemberID(1), to: MemberID(2), body), bytes = message.encode()
            #expect(try PeerMessage(decoding: bytes) == message)
            for length in bytes.indices { #expect(throws: MalformedBytes.self) { try PeerMessage(decoding: bytes[..<length]) } }
            for _ in 0..<2_000 {
                var changed = bytes
                for _ in 0..<Int.random(in: 1...4, using: &random) {
                    changed[Int.random(in: 0..<changed.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
                }
                if let read = try? PeerMessage(decoding: changed) { #expect(try PeerMessage(decoding: read.encode()) == read) }
                _ = try? SnapshotBlock(decoding: changed[...])
                _ = try? SnapshotHead(decoding: changed)
                _ = try? Membership(decoding: changed)
            }
        }
        let last = Message(from: MemberID(1), to: MemberID(2), term: 1, .append(previous: EntryPosition(index: .max, term: 1), entries: [], commit: 0))
        var bytes = PeerMessage(last).encode()
        bytes[bytes.count - 1] = 1
        bytes += Bytes(repeating: 0, count: 13)
        #expect(throws: MalformedBytes.self) { try PeerMessage(decoding: bytes) }
    }
}
