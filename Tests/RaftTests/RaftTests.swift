import Basics
import Raft
import Testing

@Suite("Raft: a single voter follows from the general rules")
struct SingleVoterTests {
    @Test("it leads only when its vote is durable")
    func leadsAfterVote() {
        var cluster = Cluster(1)
        cluster.step(1, .campaign)
        #expect(cluster[1].raft.standing.position == .candidate)
        cluster.finishWrite(1)
        #expect(cluster[1].raft.isLeader)
        #expect(cluster[1].disk.state.vote == MemberID(1))
    }

    @Test("it applies only what is durable")
    func appliesAfterWrite() {
        var cluster = Cluster(1)
        cluster.elect(1)
        cluster.step(1, .propose([[1], [2]]))
        #expect(cluster[1].accepted == [2, 3])
        #expect(cluster[1].released == 1)
        cluster.finishWrite(1)
        #expect(cluster[1].released == 3)
    }

    @Test("one event's proposals are one write")
    func oneWrite() {
        var cluster = Cluster(1)
        cluster.elect(1)
        cluster.step(1, .propose((0..<100).map { [$0] }))
        #expect(cluster[1].writes.count == 1 && cluster[1].writes[0].entries.count == 100)
    }

    @Test("a read waits for the first commit of the term, then for nothing")
    func reads() {
        var cluster = Cluster(1)
        cluster.step(1, .campaign)
        cluster.finishWrite(1)
        cluster.step(1, .read(7))
        #expect(cluster[1].readable[7] == nil)
        cluster.finishWrite(1)
        #expect(cluster[1].readable[7] == 1)
        cluster.step(1, .read(8))
        #expect(cluster[1].readable[8] == 1)
    }

    @Test("proposals and reads are refused by a member that does not lead")
    func refusals() {
        var cluster = Cluster(1)
        cluster.step(1, .propose([[1]]))
        cluster.step(1, .read(1))
        #expect(cluster[1].refused == 1 && cluster[1].readsRefused == [1])
    }

    @Test("after a crash the durable log commits again with the new term's first entry")
    func restarts() {
        var cluster = Cluster(1)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        cluster.finishWrite(1)
        cluster.step(1, .propose([[2]]))
        cluster.crash(1)
        cluster.elect(1)
        #expect(cluster.history.map(\.payload) == [[], [1], []])
        #expect(cluster[1].raft.term == 2)
    }
}

@Suite("Raft: three members")
struct ThreeMemberTests {
    @Test("a leader's entries commit on a majority without the third member")
    func majority() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        cluster.settle(losing: { $0.to == MemberID(3) })
        #expect(cluster[1].released == 2 && cluster[3].released < 2)
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster[3].released == 2)
    }

    @Test("the leader counts itself only after its own write")
    func leaderCountsItselfLast() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        // Member 2 has it durable, the leader not yet.
        while let position = cluster.wires.firstIndex(where: { $0.to == MemberID(2) }) { cluster.deliver(position) }
        cluster.finishWrite(2)
        while let position = cluster.wires.firstIndex(where: { $0.to == MemberID(1) }) { cluster.deliver(position) }
        #expect(cluster[1].raft.log.committed == 1)
        cluster.finishWrite(1)
        #expect(cluster[1].raft.log.committed == 2)
    }

    @Test("a vote is durable before it is answered")
    func voteBeforeAnswer() {
        var cluster = Cluster(3)
        cluster.inject(message(1, to: 2, term: 5, .voteRequest(last: EntryPosition(index: 0, term: 0), isTransfer: false)))
        cluster.deliver(0)
        #expect(cluster.wires.isEmpty)
        cluster.finishWrite(2)
        #expect(cluster.wires == [message(2, to: 1, term: 5, .voteResponse(granted: true))])
        #expect(cluster[2].disk.state == HardState(term: 5, vote: MemberID(1)))
    }

    @Test("entries that a torn write left without their state tell the term; the vote of an earlier term is not taken along")
    func tornState() {
        let log = Log(entries: [Entry(index: 1, term: 1, payload: []), Entry(index: 2, term: 4, payload: [])], committed: 1)
        let configuration = Raft.Configuration(member: id(2), voters: [id(1), id(2), id(3)], seed: 1)
        var raft = Raft(configuration, state: HardState(term: 3, vote: id(3), commit: 1), log: log)
        #expect(raft.hardState == HardState(term: 4, vote: nil, commit: 1))
        var effects: [Raft.Effect] = []
        raft.step(.received(message(3, to: 2, term: 3, .voteRequest(last: EntryPosition(index: 9, term: 4), isTransfer: false))), into: &effects)
        let states = effects.compactMap { if case .persist(_, let state, _, _) = $0 { state } else { nil } }
        #expect(states == [HardState(term: 4, vote: nil, commit: 1)], "the term is made durable with the next word")
        for case .persist(_, _, let afterwards, _) in effects { #expect(!afterwards.contains { $0.body == .voteResponse(granted: true) }) }
    }

    @Test("a vote that comes twice counts once")
    func duplicateVote() {
        var cluster = Cluster(5)
        cluster.step(1, .campaign)
        cluster.drop { _ in true }
        for _ in 0..<2 { for voter: UInt64 in [2, 3] { cluster.inject(message(voter, to: 1, term: 1, .preVoteResponse(granted: true))); cluster.deliver(0) } }
        cluster.finishWrite(1)
        cluster.drop { _ in true }
        for _ in 0..<3 { cluster.inject(message(2, to: 1, term: 1, .voteResponse(granted: true))); cluster.deliver(0) }
        #expect(cluster[1].raft.standing.position == .candidate)
        cluster.inject(message(3, to: 1, term: 1, .voteResponse(granted: true)))
        cluster.deliver(0)
        #expect(cluster[1].raft.isLeader)
    }

    @Test("an entry of an earlier term does not commit by counting (Figure 8)")
    func figureEight() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        cluster.finishWrite(1) // entry 2 is durable on 1 alone
        cluster.drop { _ in true }
        cluster.crash(1)
        for id in 2...3 { for _ in 0..<10 { cluster.step(id, .tick) } }
        cluster.drop { _ in true }
        cluster.step(1, .campaign)
        cluster.settle { if case .append = $0.body { true } else { false } }
        let term = cluster[1].raft.term, log = cluster[1].raft.log
        #expect(cluster[1].raft.isLeader && log[2].term == 1 && log[3].term == term && log.committed <= 1)
        // A majority has entry 2, and that commits nothing.
        cluster.inject(message(2, to: 1, term: term, .appended(through: 2)))
        cluster.deliver(0)
        #expect(cluster[1].raft.log.committed <= 1)
        // Entry 3, of the present term, carries it.
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster[1].raft.log.committed == 3)
    }

    @Test("a stale shorter append truncates nothing")
    func staleAppend() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        let first = cluster.wires.first { $0.to == MemberID(2) }
        cluster.settle()
        cluster.step(1, .propose([[2]]))
        cluster.settle()
        #expect(cluster[2].raft.log.last.index == 3)
        if let first { cluster.inject(first); cluster.settle() }
        #expect(first != nil)
        #expect(cluster[2].raft.log.last.index == 3 && cluster[2].disk.entries.count == 3)
    }

    @Test("the word of a write whose entries were replaced is not believed in a later term")
    func lateStored() {
        var cluster = Cluster(3)
        let one = Entry(index: 1, term: 1, payload: [1]), other = Entry(index: 1, term: 2, payload: [2])
        func append(_ leader: UInt64, _ term: Term, _ entry: Entry) {
            cluster.inject(message(leader, to: 3, term: term, .append(previous: .start, entries: [entry], commit: 0)))
            cluster.deliver(cluster.wires.count - 1)
        }
        append(1, 1, one)
        append(2, 2, other)
        append(1, 3, one)
        #expect(cluster[3].writes.count == 3)
        cluster.finishWrite(3)
        #expect(cluster[3].raft.log.durable == 0)
        cluster.finishWrite(3)
        cluster.finishWrite(3)
        #expect(cluster[3].raft.log.durable == 1)
    }

    @Test("a returning member does not disturb a working leader")
    func preVote() {
        var cluster = Cluster(3)
        cluster.elect(1)
        let term = cluster[1].raft.term
        // Member 3 hears nothing, campaigns again and again, and comes back.
        for _ in 0..<100 {
            cluster.step(3, .tick)
            cluster.step(1, .tick)
            cluster.settle(losing: { $0.to == MemberID(3) || $0.from == MemberID(3) })
        }
        cluster.settle()
        for _ in 0..<3 { cluster.step(1, .tick); cluster.settle() }
        #expect(cluster.leader == 1 && cluster[1].raft.term == term && cluster[3].raft.term == term)
    }

    @Test("a leader that no majority answers steps down, and its unconfirmed reads are refused")
    func checkQuorum() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .read(9))
        for _ in 0..<25 { cluster.step(1, .tick); cluster.settle(losing: { _ in true }) }
        #expect(!cluster[1].raft.isLeader)
        #expect(cluster[1].readable[9] == nil && cluster[1].readsRefused == [9])
    }

    @Test("a read is confirmed by a majority that answered after it was asked")
    func readRound() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .tick)
        let early = cluster.wires
        cluster.drop { _ in true }
        cluster.step(1, .read(1))
        cluster.drop { _ in true }
        // The answer to a heartbeat from before the read confirms nothing.
        for heartbeat in early { cluster.inject(heartbeat) }
        cluster.settle()
        #expect(cluster[1].readable[1] == nil)
        cluster.step(1, .tick)
        cluster.settle()
        #expect(cluster[1].readable[1] == cluster[1].raft.log.committed)
    }

    @Test("messages of term 0, from ourselves or to others, and impossible appends are ignored")
    func hostile() {
        var cluster = Cluster(3)
        cluster.elect(1)
        cluster.step(1, .propose([[1]]))
        cluster.settle()
        let before = cluster[2].raft.log.last
        let gap = [Entry(index: 9, term: 1, payload: [9])]
        let unsorted = [Entry(index: 3, term: 1, payload: []), Entry(index: 4, term: 0, payload: [])]
        for body: Message.Body in [
            .append(previous: EntryPosition(index: 2, term: 1), entries: gap, commit: 9),
            .append(previous: EntryPosition(index: 2, term: 1), entries: unsorted, commit: 9),
            .append(previous: EntryPosition(index: .max, term: 1), entries: gap, commit: .max),
            .append(previous: EntryPosition(index: 0, term: 0), entries: [Entry(index: 1, term: 0, payload: [66])], commit: 0),
        ] { cluster.inject(message(1, to: 2, term: 1, body)) }
        cluster.inject(message(1, to: 2, term: 0, .voteRequest(last: before, isTransfer: false)))
        cluster.inject(message(2, to: 1, term: 1, .appended(through: .max)))
        cluster.inject(message(2, to: 1, term: 1, .heartbeatResponse(readSequence: .max)))
        cluster.inject(message(2, to: 1, term: 1, .appendRejected(previous: .max, hint: EntryPosition(index: .max, term: .max))))
        cluster.settle()
        #expect(cluster[2].raft.log.last == before)
        #expect(cluster[1].raft.log.committed == 2 && cluster.leader == 1)
    }
}
