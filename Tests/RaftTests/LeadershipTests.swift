import Basics
import Raft
import Testing

@Suite("Raft: leadership is handed over")
struct TransferTests {
    private func isVoteRequest(_ message: Message) -> Bool { if case .voteRequest = message.body { true } else { false } }

    @Test("to a member that has everything at once, past those who still hear the leader")
    func upToDate() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .transfer(to: id(3)))
        #expect(cluster.wires == [message(1, to: 3, term: 1, .timeoutNow)])
        cluster.settle()
        #expect(cluster.leader == 3 && cluster[3].raft.term == 2 && !cluster[1].raft.isLeader)
    }

    @Test("to a member that lacks something when it has that; proposals and changes are refused meanwhile")
    func behind() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        cluster.settle(losing: { $0.to == id(3) })
        cluster.step(1, .transfer(to: id(3)))
        #expect(!cluster.wires.contains { $0.body == .timeoutNow } && cluster[1].raft.transferTarget == id(3))
        cluster.step(1, .propose([[2]]))
        cluster.step(1, .change(payload: [1]))
        #expect(cluster[1].refusals == [.transferring, .transferring])
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster.leader == 3 && cluster[3].raft.log[2].payload == [1])
    }

    @Test("or is given up after an election timeout, and proposals go on")
    func aborted() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .transfer(to: id(3)))
        for _ in 0..<10 {
            #expect(cluster[1].raft.transferTarget == id(3))
            cluster.step(1, .tick)
            cluster.settle(losing: { $0.to == id(3) })
        }
        #expect(cluster[1].raft.transferTarget == nil && cluster[1].raft.isLeader)
        cluster.step(1, .propose([[1]]))
        #expect(cluster[1].refused == 0)
    }

    @Test("never to itself, a learner or a stranger; another target replaces the first")
    func targets() {
        var cluster = Cluster(3, spares: 2)
        cluster.elect(1)
        cluster.step(1, Change.event(.addLearner(id(4))))
        cluster.settle()
        for target in [1, 4, 5] { cluster.step(1, .transfer(to: id(UInt64(target)))) }
        cluster.step(2, .transfer(to: id(2)))
        #expect(cluster[1].raft.transferTarget == nil && cluster.wires.isEmpty)
        cluster.step(1, .propose([[1]]))
        cluster.drop { _ in true }
        cluster.step(1, .transfer(to: id(2)))
        cluster.step(1, .transfer(to: id(3)))
        #expect(cluster[1].raft.transferTarget == id(3))
    }

    @Test("the word to stand for election counts only from the leader of the term")
    func timeoutNow() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(2, .received(message(3, to: 2, term: 1, .timeoutNow)))
        #expect(cluster[2].raft.standing.position == .follower && cluster[2].raft.term == 1)
        cluster.step(2, .received(message(1, to: 2, term: 1, .timeoutNow)))
        #expect(cluster[2].raft.standing.position == .candidate && cluster[2].raft.term == 2 && cluster.wires.isEmpty)
        cluster.finishWrite(2)
        #expect(cluster.wires.count == 2 && cluster.wires.allSatisfy(isVoteRequest))
    }
}

@Suite("Raft: a leader that has ended is replaced without waiting for its silence")
struct GoneTests {
    private func hear(_ ids: [Int], _ gone: UInt64, in cluster: inout Cluster) { for id in ids { cluster.step(id, .gone(MemberID(gone))) } }

    @Test("those who hear of it stand in turn, two ticks apart: the first is elected at its first tick")
    func turns() {
        var cluster = Cluster(3)
        cluster.elect(1)
        hear([2, 3], 1, in: &cluster)
        #expect(cluster[2].raft.leader == nil && cluster.wires.isEmpty)
        cluster.step(3, .tick)
        cluster.step(3, .tick)
        #expect(cluster.wires.isEmpty)
        cluster.step(2, .tick)
        cluster.settle(losing: { $0.to == id(1) })
        #expect(cluster.leader == 2 && cluster[2].raft.term == 2 && cluster[3].raft.leader == id(2))
    }

    @Test("the second stands when the first came to nothing: it had not heard of it, has ended too, or lacks what is committed")
    func second() {
        for (heard, ticking) in [([3], [2, 3]), ([2, 3], [3]), ([2, 3], [2, 3])] {
            var cluster = Cluster(5)
            cluster.elect(1)
            cluster.step(1, .propose([[7]]))
            cluster.settle(losing: { $0.to == id(2) })
            hear(heard + [4, 5], 1, in: &cluster)
            for _ in 0..<3 {
                for id in ticking + [4, 5] { cluster.step(id, .tick) }
                cluster.settle(losing: { [id(1), ticking.contains(2) ? id(1) : id(2)].contains($0.to) })
            }
            #expect(cluster.leader == 3 && cluster[3].raft.log.last.index == 3, "heard by \(heard)\(cluster.summary)")
        }
    }

    @Test("the first asks again when it stood before the others had heard of it")
    func tooEarly() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[7]]))
        cluster.settle(losing: { $0.to == id(3) })
        hear([2], 1, in: &cluster)
        cluster.step(2, .tick)
        cluster.settle(losing: { $0.to == id(1) })
        #expect(cluster[2].raft.standing.position == .preCandidate)
        hear([3], 1, in: &cluster)
        for _ in 0..<6 {
            for id in [2, 3] { cluster.step(id, .tick) }
            cluster.settle(losing: { $0.to == id(1) })
        }
        #expect(cluster.leader == 2, "3 lacks an entry, and cannot lead\(cluster.summary)")
    }

    @Test("where it is not true nothing comes of it: a pre-vote finds nobody, and the leader's next word puts all back")
    func rumour() {
        var cluster = Cluster(3)
        cluster.elect(1)
        hear([2], 1, in: &cluster)
        cluster.step(2, .tick)
        #expect(cluster[2].raft.standing.position == .preCandidate)
        cluster.settle()
        cluster.step(1, .tick)
        cluster.settle()
        #expect(cluster[1].raft.isLeader && (1...3).allSatisfy { cluster[$0].raft.term == 1 && cluster[$0].raft.leader == id(1) })
        for _ in 0..<9 { cluster.step(2, .tick) }
        #expect(cluster[2].raft.standing.position == .follower, "it waits for as long as ever again")
    }

    @Test("of a member that does not lead it means nothing, nor to a leader, a learner or a stranger")
    func others() {
        var cluster = Cluster(3, spares: 2)
        cluster.elect(1)
        cluster.step(1, Change.event(.addLearner(id(4))))
        cluster.settle()
        hear([1, 2], 3, in: &cluster)
        hear([1, 4, 5], 1, in: &cluster)
        for id in [2, 3, 4, 5] { for _ in 0..<9 { cluster.step(id, .tick) } }
        #expect(cluster[1].raft.isLeader && cluster[2].raft.leader == id(1) && cluster.wires.isEmpty)
        #expect((2...5).allSatisfy { cluster[$0].raft.standing.position == .follower })
    }

    @Test("where leases count, all are as deaf as they have promised")
    func leases() {
        var cluster = Cluster(3, leaseReads: true)
        cluster.elect(1)
        hear([2, 3], 1, in: &cluster)
        cluster.step(2, .campaign)
        cluster.settle(losing: { $0.to == id(1) })
        #expect(cluster[3].raft.leader == id(1) && cluster[2].raft.standing.position == .preCandidate)
    }
}

@Suite("Raft: reads")
struct ReadTests {
    private func cluster(_ count: Int = 3, leaseReads: Bool = false, tune: @escaping @Sendable (inout Raft.Configuration) -> Void = { _ in }) -> Cluster {
        var cluster = Cluster(count, leaseReads: leaseReads, tune: tune)
        cluster.elect(1)
        return cluster
    }
    private func isHeartbeat(_ message: Message) -> Bool { if case .heartbeat = message.body { true } else { false } }

    @Test("what is asked while enough rounds are under way shares the next one")
    func batches() {
        var cluster = cluster { $0.readRoundsMax = 2 }
        for context: UInt64 in 1...10 { cluster.step(1, .read(context)) }
        #expect(cluster.wires.filter(isHeartbeat).count == 4, "two rounds to two members")
        while let position = cluster.wires.firstIndex(where: { $0.to == id(2) }) { cluster.deliver(position) }
        while let position = cluster.wires.firstIndex(where: { $0.from == id(2) }) { cluster.deliver(position) }
        #expect(cluster[1].readable.keys.sorted() == [1, 2], "the others began after these answers left")
        cluster.settle()
        #expect(cluster[1].readable.count == 10)
    }

    @Test("rounds are confirmed by their place in the queue: the answer to a later one confirms those before it")
    func queuePosition() {
        var cluster = cluster()
        for context: UInt64 in 1...3 { cluster.step(1, .read(context)) }
        let last = cluster.wires.last { $0.to == id(2) }
        cluster.drop { _ in true }
        if let last { cluster.inject(last) }
        cluster.settle()
        #expect(cluster[1].readable.count == 3)
    }

    @Test("they are refused when leadership is lost, and nothing that comes later confirms them")
    func dropped() {
        var cluster = cluster()
        cluster.step(1, .read(1))
        let heartbeats = cluster.wires
        cluster.drop { _ in true }
        cluster.step(1, .received(message(2, to: 1, term: 3, .outdated)))
        #expect(!cluster[1].raft.isLeader && cluster[1].readsRefused == [1])
        cluster.elect(1)
        for heartbeat in heartbeats { cluster.inject(heartbeat) }
        cluster.settle()
        #expect(cluster[1].readable.isEmpty)
    }

    @Test("a follower asks its leader, and reads at the index it is told")
    func forwarded() {
        var cluster = cluster()
        cluster.step(1, .propose([[1]]))
        cluster.settle(losing: { $0.to == id(2) })
        cluster.step(2, .read(5))
        cluster.step(2, .read(6))
        cluster.settle()
        #expect(cluster[2].readable == [5: 2, 6: 2] && cluster[2].readsRefused.isEmpty)
    }

    @Test("a follower asks again when question or answer is lost, and gives up after an election timeout")
    func forwardedLost() {
        var cluster = cluster()
        cluster.step(2, .read(5))
        cluster.drop { _ in true }
        cluster.step(2, .tick)
        cluster.settle()
        #expect(cluster[2].readable[5] == 1)
        cluster.step(2, .read(6))
        for _ in 0..<10 { cluster.step(2, .tick); cluster.drop { _ in true } }
        #expect(cluster[2].readsRefused == [6])
        // Who knows no leader refuses at once.
        cluster.crash(3)
        cluster.step(3, .read(7))
        #expect(cluster[3].readsRefused == [7])
    }

    @Test("a follower's reads are refused when it hears another leader")
    func forwardedToOldLeader() {
        var cluster = cluster()
        cluster.step(2, .read(5))
        cluster.step(2, .received(message(3, to: 2, term: 2, .heartbeat(commit: 0, readSequence: 0))))
        #expect(cluster[2].readsRefused == [5])
        cluster.settle()
        #expect(cluster[2].readable.isEmpty)
    }

    @Test("an answer to a question from before a restart answers nothing")
    func reusedContext() {
        var cluster = cluster()
        cluster.step(2, .read(1))
        while let position = cluster.wires.firstIndex(where: { if case .readResponse = $0.body { false } else { true } }) { cluster.deliver(position) }
        let late = cluster.wires
        #expect(late.count == 1)
        cluster.drop { _ in true }
        cluster.crash(2)
        cluster.step(1, .propose([[1]]))
        cluster.settle()
        cluster.step(2, .read(1))
        let question = cluster.wires
        cluster.drop { _ in true }
        for answer in late { cluster.inject(answer) }
        cluster.settle()
        #expect(cluster[2].readable.isEmpty && question.count == 1)
    }

    @Test("a request that comes twice is answered once; one from a stranger is not")
    func duplicates() {
        var cluster = cluster()
        for _ in 0..<3 { cluster.step(1, .received(message(2, to: 1, term: 1, .readRequest(77)))) }
        cluster.step(1, .received(message(9, to: 1, term: 1, .readRequest(78))))
        let rounds = cluster.wires.count { isHeartbeat($0) }
        #expect(rounds == 2)
        while let position = cluster.wires.firstIndex(where: { $0.to == id(3) }) { cluster.deliver(position) }
        while let position = cluster.wires.firstIndex(where: { $0.from == id(3) }) { cluster.deliver(position) }
        #expect(cluster.wires.filter { !isHeartbeat($0) } == [message(1, to: 2, term: 1, .readResponse(77, index: 1))])
    }

    @Test("more than can wait are refused")
    func bounded() {
        var cluster = cluster { $0.readRoundsMax = 1; $0.readsWaitingMax = 3 }
        for context: UInt64 in 1...6 { cluster.step(1, .read(context)) }
        #expect(cluster[1].readsRefused == [5, 6])
        for context: UInt64 in 11...16 { cluster.step(2, .read(context)) }
        #expect(cluster[2].readsRefused == [15, 16])
    }

    @Test("leases are off unless asked for: a leader that is cut off answers no read")
    func noLease() {
        var cluster = cluster()
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        cluster.step(1, .read(1))
        #expect(cluster[1].readable.isEmpty)
    }

    @Test("with leases, a leader that a quorum heard answers at once, until nearly an election timeout later")
    func lease() {
        var cluster = cluster(leaseReads: true)
        cluster.step(1, .tick)
        cluster.settle()
        cluster.step(1, .read(1))
        #expect(cluster[1].readable == [1: 1])
        for _ in 0..<8 { cluster.step(1, .tick); cluster.drop { _ in true } }
        cluster.step(1, .read(2))
        #expect(cluster[1].readable[2] != nil)
        cluster.step(1, .tick)
        cluster.step(1, .read(3))
        #expect(cluster[1].readable[3] == nil)
    }

    @Test("a leader that tried to hand over has no lease any more, since its word may still be on the way")
    func leaseAndTransfer() {
        var cluster = cluster(leaseReads: true)
        cluster.step(1, .tick)
        cluster.settle()
        cluster.step(1, .transfer(to: id(2)))
        let word = cluster.wires
        cluster.drop { _ in true }
        for _ in 0..<10 { cluster.step(1, .tick); cluster.settle(losing: { $0.body == .timeoutNow }) }
        #expect(cluster[1].raft.transferTarget == nil && word.contains { $0.body == .timeoutNow })
        cluster.step(1, .read(1))
        #expect(cluster[1].readable.isEmpty)
    }

    @Test("where leases count, a restarted member is deaf to candidates for an election timeout: it may have promised that")
    func leaseAndRestart() {
        var cluster = cluster(leaseReads: true)
        cluster.step(1, .tick)
        cluster.settle()
        cluster.crash(2)
        cluster.step(2, .received(message(3, to: 2, term: 2, .voteRequest(last: EntryPosition(index: 9, term: 1), isTransfer: false))))
        cluster.step(2, .campaign)
        cluster.step(2, .tick)
        #expect(cluster[2].raft.term == 1 && cluster[2].raft.standing.position == .follower)
        cluster.tick(2, 10)
        #expect(cluster[2].raft.standing.position == .preCandidate, "it stands as soon as it may")
    }
}
