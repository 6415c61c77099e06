import Basics
import Raft
import Testing

/// The places where implementations of Raft went wrong before, each by its name. Some have their test beside the feature.
@Suite("Raft: known traps")
struct TrapTests {
    private func start(_ count: Int, tune: @escaping @Sendable (inout Raft.Configuration) -> Void = { _ in }) -> Cluster {
        var cluster = Cluster(count, tune: tune)
        cluster.elect(1)
        return cluster
    }
    private func appends(_ cluster: Cluster, to member: UInt64) -> [(entries: Int, previous: LogIndex)] {
        cluster.wires.compactMap { message in
            guard message.to == id(member), case .append(let previous, let entries, _) = message.body else { return nil }
            return (entries.count, previous.index)
        }
    }

    @Test("a vote is durable before it is answered, and it is given once")
    func voteDurable() {
        var cluster = Cluster(3)
        let last = EntryPosition(index: 0, term: 0)
        cluster.inject(message(1, to: 2, term: 5, .voteRequest(last: last, isTransfer: false)))
        cluster.inject(message(3, to: 2, term: 5, .voteRequest(last: last, isTransfer: false)))
        cluster.deliver(0)
        cluster.deliver(0)
        #expect(cluster.wires.isEmpty)
        cluster.finishWrite(2)
        cluster.finishWrite(2)
        #expect(cluster.wires == [message(2, to: 1, term: 5, .voteResponse(granted: true)), message(2, to: 3, term: 5, .voteResponse(granted: false))])
        cluster.crash(2)
        cluster.drop { _ in true }
        cluster.inject(message(3, to: 2, term: 5, .voteRequest(last: last, isTransfer: false)))
        cluster.settle(losing: { $0.to != id(2) })
        #expect(cluster[2].disk.state.vote == id(1))
    }

    @Test("a vote that was not durable when its giver crashed was never answered")
    func voteLost() {
        var cluster = Cluster(3)
        cluster.inject(message(1, to: 2, term: 5, .voteRequest(last: .start, isTransfer: false)))
        cluster.deliver(0)
        cluster.crash(2)
        #expect(cluster[2].raft.vote == nil && cluster.wires.isEmpty)
    }

    @Test("nothing is answered to an append before it is durable, with its term")
    func appendDurable() {
        var cluster = start(3)
        cluster.step(1, .propose([[1]]))
        cluster.deliver(cluster.wires.firstIndex { $0.to == id(2) } ?? 0)
        #expect(!cluster.wires.contains { $0.from == id(2) })
        cluster.finishWrite(2)
        #expect(cluster.wires.contains(message(2, to: 1, term: 1, .appended(through: 2))))
        // A heartbeat of a new term waits for that term, too.
        cluster.drop { _ in true }
        cluster.inject(message(3, to: 2, term: 7, .heartbeat(commit: 0, readSequence: 0)))
        cluster.deliver(0)
        #expect(cluster.wires.isEmpty)
        cluster.finishWrite(2)
        #expect(cluster.wires == [message(2, to: 3, term: 7, .heartbeatResponse(readSequence: 0))])
    }

    @Test("what is durable already is confirmed without another write")
    func noIdleWrite() {
        var cluster = start(3)
        cluster.inject(message(1, to: 2, term: 1, .append(previous: EntryPosition(index: 1, term: 1), entries: [], commit: 1)))
        cluster.deliver(0)
        #expect(cluster[2].writes.isEmpty)
        #expect(cluster.wires == [message(2, to: 1, term: 1, .appended(through: 1))])
    }

    @Test("the acknowledgement race: an append confirmed in an earlier term confirms nothing in this one")
    func acknowledgementABA() {
        var cluster = Cluster(3)
        func append(_ leader: UInt64, _ term: Term, _ payload: UInt8) {
            cluster.inject(message(leader, to: 3, term: term, .append(previous: .start, entries: [Entry(index: 1, term: term, payload: [payload])], commit: 0)))
            cluster.deliver(cluster.wires.count - 1)
        }
        append(1, 1, 1)
        append(2, 2, 2)
        cluster.finishWrite(3)
        // The word of the first write came after the entry was replaced: its entry is not what is durable.
        #expect(cluster[3].raft.log.durable == 0)
        #expect(cluster.wires == [message(3, to: 1, term: 1, .appended(through: 1))])
        cluster.finishWrite(3)
        #expect(cluster[3].raft.log.durable == 1 && cluster.wires.last == message(3, to: 2, term: 2, .appended(through: 1)))
        // And the first answer, of term 1, is nothing to whoever leads in term 2.
        cluster.drop { _ in true }
        cluster.step(2, .received(message(1, to: 2, term: 2, .voteRequest(last: .start, isTransfer: false))))
        cluster.step(2, .received(message(3, to: 2, term: 1, .appended(through: 1))))
        #expect(cluster[2].raft.log.committed == 0)
    }

    @Test("the uncommitted payloads are limited, and refunded when they commit")
    func uncommittedLimit() {
        var cluster = start(3) { $0.uncommittedBytesMax = 10 }
        cluster.step(1, .propose([[1, 2, 3, 4], [5, 6, 7, 8]]))
        cluster.step(1, .propose([[1, 2, 3]]))
        #expect(cluster[1].refusals == [.tooMuchUncommitted] && cluster[1].raft.log.last.index == 3)
        cluster.step(1, .propose([[1, 2]]))
        #expect(cluster[1].raft.log.last.index == 4)
        cluster.settle()
        cluster.step(1, .propose([Array(repeating: 0, count: 100)]))
        #expect(cluster[1].refusals.count == 1, "one that is larger than the limit goes alone")
        cluster.step(1, .propose([[1]]))
        #expect(cluster[1].refusals == [.tooMuchUncommitted, .tooMuchUncommitted])
        cluster.settle()
        cluster.step(1, .propose([[1]]))
        #expect(cluster[1].refusals.count == 2)
    }

    @Test("the uncommitted payloads are refunded on loss of leadership, and those of others are not counted")
    func uncommittedRefund() {
        var cluster = start(3) { $0.uncommittedBytesMax = 10 }
        cluster.step(1, .propose([Array(repeating: 7, count: 10)]))
        for _ in 0..<25 { cluster.step(1, .tick); cluster.settle(losing: { _ in true }) }
        #expect(!cluster[1].raft.isLeader)
        cluster.elect(1)
        #expect(cluster[1].raft.isLeader && cluster[1].raft.term > 1)
        // The ten bytes committed with the new term; the account stands at zero, not below.
        cluster.step(1, .propose([Array(repeating: 8, count: 10)]))
        cluster.step(1, .propose([[1]]))
        #expect(cluster[1].refusals == [.tooMuchUncommitted])
    }

    @Test("with a full window of lost messages, an empty append after a heartbeat finds out")
    func emptyAppendWhenFull() {
        var cluster = start(3) { $0.inFlightMax = 2; $0.appendBytesMax = 1 }
        cluster.drop { _ in true }
        for number in 0..<5 { cluster.step(1, .propose([[UInt8(number)]])) }
        #expect(appends(cluster, to: 2).map(\.entries) == [1, 1], "no more than the window")
        cluster.settle(losing: { $0.from == id(1) })
        cluster.step(1, .tick)
        while let position = cluster.wires.firstIndex(where: { if case .append = $0.body { false } else { true } }) { cluster.deliver(position) }
        #expect(appends(cluster, to: 2).map(\.entries) == [0] && appends(cluster, to: 2).map(\.previous) == [3])
        cluster.settle()
        #expect(cluster[2].raft.log.last.index == 6 && cluster[1].raft.log.committed == 6)
    }

    @Test("the bytes under way to one member are limited, too")
    func inFlightBytes() {
        var cluster = start(3) { $0.inFlightBytesMax = 10; $0.appendBytesMax = 4 }
        cluster.drop { _ in true }
        for number in 0..<6 { cluster.step(1, .propose([Array(repeating: UInt8(number), count: 4)])) }
        #expect(appends(cluster, to: 2).count == 3)
        cluster.settle()
        #expect(cluster[3].raft.log.committed == 7)
    }

    @Test("a heartbeat's commit index is clamped to what is known to match")
    func heartbeatClamp() {
        var cluster = start(3)
        cluster.step(1, .propose([[1]]))
        cluster.settle(losing: { $0.to == id(3) || $0.from == id(3) })
        cluster.step(1, .tick)
        func commit(_ member: UInt64) -> LogIndex? {
            cluster.wires.compactMap { if $0.to == id(member), case .heartbeat(let commit, _) = $0.body { commit } else { nil } }.first
        }
        #expect(commit(2) == 2 && commit(3) == 1)
        // A follower whose log is shorter and of another history commits nothing of it by a heartbeat.
        cluster.inject(message(1, to: 3, term: 1, .heartbeat(commit: .max, readSequence: 0)))
        cluster.deliver(cluster.wires.count - 1)
        #expect(cluster[3].raft.log.committed <= cluster[3].raft.log.last.index)
    }

    @Test("messages of term 0, to others, from itself, and those only a leader sends are refused from the network")
    func hostileMessages() {
        var cluster = start(3)
        let last = cluster[2].raft.log.last, all: [Message.Body] = [
            .preVoteRequest(last: last), .preVoteResponse(granted: true), .voteRequest(last: last, isTransfer: true), .voteResponse(granted: true),
            .append(previous: last, entries: [Entry(index: 2, term: 0, payload: [9])], commit: 9), .appended(through: 9),
            .appendRejected(previous: 9, hint: last), .heartbeat(commit: 9, readSequence: 9), .heartbeatResponse(readSequence: 9), .outdated,
            .timeoutNow, .readRequest(9), .readResponse(9, index: 9),
        ]
        for body in all {
            cluster.inject(message(1, to: 2, term: 0, body))
            cluster.inject(message(2, to: 2, term: 9, body))
        }
        while !cluster.wires.isEmpty { cluster.deliver(0) }
        cluster.step(2, .received(message(1, to: 3, term: 9, .timeoutNow)))
        // Member 3 does not lead: in the leader's term, its word as one is nothing.
        for body: Message.Body in [.append(previous: last, entries: [Entry(index: 2, term: 1, payload: [9])], commit: 9), .heartbeat(commit: 9, readSequence: 9), .timeoutNow] {
            cluster.step(2, .received(message(3, to: 2, term: 1, body)))
            cluster.step(1, .received(message(3, to: 1, term: 1, body)))
        }
        #expect(cluster[2].raft.log.last == last && cluster[2].raft.log.committed == 1 && cluster[2].raft.term == 1 && cluster[2].writes.isEmpty)
        #expect(cluster[1].raft.isLeader && cluster.wires.isEmpty)
    }

    @Test("messages from the end of all terms are dropped: nobody comes to where terms cannot be counted on",
          arguments: [Term.max, Term.max - 1, 1 << 40] as [Term])
    func lastTerms(term: Term) {
        var cluster = start(3)
        let last = cluster[2].raft.log.last, all: [Message.Body] = [
            .preVoteRequest(last: last), .preVoteResponse(granted: true), .voteRequest(last: last, isTransfer: true), .voteResponse(granted: true),
            .append(previous: last, entries: [], commit: .max), .appended(through: .max), .appendRejected(previous: .max, hint: last),
            .heartbeat(commit: .max, readSequence: .max), .heartbeatResponse(readSequence: .max), .outdated, .timeoutNow, .readRequest(.max),
            .readResponse(.max, index: .max), .committed(EntryPosition(index: .max, term: .max)),
        ]
        for member in [1, 2] {
            for body in all { cluster.step(member, .received(message(3, to: UInt64(member), term: term, body))) }
            cluster.step(member, .received(message(3, to: UInt64(member), term: term, .timeoutNow)))
            #expect(cluster[member].raft.term == 1)
        }
        #expect(cluster[1].raft.isLeader)
    }

    @Test("a lost tail is noticed: a member that rejects what it had confirmed is not counted for it any more")
    func lostTail() {
        var cluster = start(3)
        cluster.step(1, .propose([[1], [2], [3]]))
        cluster.settle()
        #expect(cluster[1].raft.progress[1].match == 4)
        cluster.crash(2, keeping: 1)
        cluster.step(2, .quarantine(true))
        cluster.step(1, .propose([[4]]))
        cluster.deliver(cluster.wires.firstIndex { $0.to == id(2) } ?? 0)
        cluster.finishWrite(2)
        while let position = cluster.wires.firstIndex(where: { $0.from == id(2) }) { cluster.deliver(position) }
        while let position = cluster.wires.firstIndex(where: { $0.to == id(2) }) { cluster.deliver(position) }
        cluster.finishWrite(2)
        while let position = cluster.wires.firstIndex(where: { $0.from == id(2) }) { cluster.deliver(position) }
        #expect(cluster[1].raft.progress[1].match < 4)
        cluster.settle()
        #expect(cluster[1].raft.progress[1].match == 5 && cluster[2].raft.log.last.index == 5)
    }

    @Test("a member told that it is unreachable is probed again, not sent ahead to")
    func unreachable() {
        var cluster = start(3)
        cluster.step(1, .propose([[1]]))
        cluster.drop { $0.to == id(2) }
        cluster.step(1, .unreachable(id(2)))
        #expect(cluster[1].raft.progress[1].flow == .probe(awaitsAnswer: false) && cluster[1].raft.progress[1].next == 2)
        cluster.step(1, .propose([[2]]))
        cluster.settle()
        #expect(cluster[2].raft.log.last.index == 3)
    }

    @Test("a damaged member neither votes nor campaigns nor leads, and receives the log as ever")
    func quarantine() {
        var cluster = start(3)
        cluster.step(1, .quarantine(true))
        #expect(!cluster[1].raft.isLeader)
        cluster.settle()
        #expect(cluster.leader == 2 || cluster.leader == 3, "it handed over at once")
        cluster.step(cluster.leader ?? 2, .propose([[1]]))
        cluster.settle()
        #expect(cluster[1].raft.log.last.index == 3)
        let term = cluster[1].raft.term
        cluster.tick(1, 50)
        #expect(cluster[1].raft.term == term && cluster.wires.isEmpty)
        cluster.inject(message(2, to: 1, term: term + 5, .preVoteRequest(last: EntryPosition(index: 99, term: 99))))
        cluster.inject(message(2, to: 1, term: term + 5, .voteRequest(last: EntryPosition(index: 99, term: 99), isTransfer: true)))
        cluster.deliver(0)
        cluster.deliver(0)
        while cluster.finishWrite(1) {}
        let answers = cluster.wires.compactMap { message -> Bool? in
            switch message.body { case .preVoteResponse(let granted), .voteResponse(let granted): granted; default: nil }
        }
        #expect(answers == [false, false] && cluster[1].raft.vote == nil)
        cluster.drop { _ in true }
        cluster.step(1, .quarantine(false))
        cluster.tick(1, 25)
        #expect(cluster.wires.contains { if case .preVoteRequest = $0.body { true } else { false } })
    }
}
