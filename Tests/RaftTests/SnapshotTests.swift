import Basics
import Raft
import Testing

@Suite("Raft: stores are sent where the log does not reach")
struct SnapshotTests {
    /// Member 3 missed five entries, and the leader's log begins after them.
    private func behind(spares: Int = 0) -> Cluster {
        var cluster = Cluster(3, spares: spares)
        cluster.elect(1)
        for number: UInt8 in 1...5 {
            cluster.step(1, .propose([[number]]))
            cluster.settle(losing: { $0.to == id(3) })
        }
        cluster.compact(1)
        return cluster
    }
    private func settle(_ cluster: inout Cluster, ticks: Int = 3) {
        for _ in 0..<ticks { cluster.step(1, .tick); cluster.settle() }
    }

    @Test("a member that is too far behind is sent the store, then the entries after it")
    func installs() {
        var cluster = behind()
        settle(&cluster)
        #expect(cluster.streams.count == 1 && cluster[1].raft.progress[2].flow == .snapshot)
        cluster.step(1, .propose([[6]]))
        cluster.settle()
        #expect(cluster[1].raft.log.committed == 7 && cluster[3].raft.log.last.index == 1, "nothing is sent to it meanwhile")
        cluster.deliverStream(0)
        settle(&cluster)
        #expect(cluster[3].raft.log.base.index == 6 && cluster[3].released == 7 && cluster[1].raft.progress[2].match == 7)
        cluster.crash(3)
        settle(&cluster)
        #expect(cluster[3].released == 7, "it restarts from the store it received")
    }

    @Test("a stream that broke is asked for again with a heartbeat, not before")
    func broken() {
        var cluster = behind()
        settle(&cluster)
        cluster.deliverStream(0, broken: true)
        #expect(cluster.streams.isEmpty && cluster.wires.isEmpty)
        settle(&cluster, ticks: 1)
        #expect(cluster.streams.count == 1)
        cluster.deliverStream(0)
        settle(&cluster)
        #expect(cluster[3].released == 6)
    }

    @Test("it is not sent to a member that does not answer")
    func inactive() {
        var cluster = behind()
        for _ in 0..<25 { cluster.step(1, .tick); cluster.settle(losing: { $0.from == id(3) }) }
        cluster.step(1, .unreachable(id(3)))
        cluster.step(1, .propose([[6]]))
        #expect(cluster.streams.isEmpty)
    }

    @Test("whoever catches up by itself meanwhile is sent the log again")
    func caughtUp() {
        var cluster = behind()
        settle(&cluster)
        // Another member brought it the entries.
        cluster.step(3, .received(message(1, to: 3, term: 1, .append(
            previous: EntryPosition(index: 1, term: 1), entries: (2...6).map { Entry(index: $0, term: 1, payload: [UInt8($0 - 1)]) }, commit: 6))))
        cluster.settle()
        #expect(cluster[1].raft.progress[2].match == 6 && cluster[1].raft.progress[2].flow == .replicate(InFlight()))
    }

    @Test("learnersNext and autoLeave come with the store: who receives it leaves the joint membership when it leads")
    func jointMembership() throws {
        var cluster = Cluster(3)
        cluster.elect(1)
        let joint = try Membership(voters: [id(2)], outgoing: [id(1), id(2), id(3)], learners: [], learnersNext: [id(1), id(3)], autoLeave: true)
        cluster.step(2, .installed(EntryPosition(index: 10, term: 1), joint))
        #expect(cluster[2].raft.membership == joint && cluster[2].raft.log.base == EntryPosition(index: 10, term: 1) && cluster[2].raft.log.committed == 10)
        var raft = cluster[2].raft, effects: [Raft.Effect] = []
        for voter: UInt64 in [1, 3] { _ = voter; raft.step(.tick, into: &effects) }
        raft.step(.campaign, into: &effects)
        for voter: UInt64 in [1, 3] { raft.step(.received(message(voter, to: 2, term: 2, .preVoteResponse(granted: true))), into: &effects) }
        raft.step(.stored(Raft.Stored(term: 2, last: EntryPosition(index: 10, term: 1))), into: &effects)
        raft.step(.received(message(1, to: 2, term: 2, .voteResponse(granted: true))), into: &effects)
        raft.step(.stored(Raft.Stored(term: 2, last: EntryPosition(index: 11, term: 2))), into: &effects)
        raft.step(.received(message(3, to: 2, term: 2, .appended(through: 11))), into: &effects)
        raft.step(.tick, into: &effects)
        #expect(raft.isLeader && raft.log.last.index == 12 && raft.log[12].kind == .membership && raft.log[12].payload.isEmpty)
        #expect(try joint.leaving().learners == [id(1), id(3)])
    }

    @Test("a store that is older than what was applied is not admitted, unless the log leads on from it")
    func admission() {
        let entries = (5...9).map { Entry(index: $0, term: $0 < 8 ? 1 : 2, payload: []) }
        let log = Log(base: EntryPosition(index: 4, term: 1), entries: entries, committed: 7, applied: 7)
        let raft = Raft(Raft.Configuration(member: id(1), voters: [id(1), id(2)], seed: 1), state: HardState(term: 2, commit: 7), log: log)
        func admits(_ index: LogIndex, _ term: Term) -> Bool { raft.admits(storeAt: EntryPosition(index: index, term: term)) }
        #expect(admits(8, 2) && admits(8, 3) && admits(20, 2) && admits(6, 1) && admits(4, 1))
        #expect(!admits(3, 1) && !admits(4, 2) && !admits(7, 2))
    }

    @Test("the log goes on after a store it agrees with, and begins anew after one it does not; applying goes on from there")
    func restart() {
        let entries = (1...9).map { Entry(index: $0, term: 1, payload: [UInt8($0)]) }
        var agreeing = Log(entries: entries, committed: 6, applied: 6)
        agreeing.restart(at: EntryPosition(index: 4, term: 1))
        #expect(agreeing.base.index == 4 && agreeing.last.index == 9 && agreeing.released == 4 && agreeing.committed == 6 && agreeing.durable == 9)
        #expect(agreeing.release() == 6)
        var other = Log(entries: entries, committed: 6, applied: 6)
        other.restart(at: EntryPosition(index: 8, term: 2))
        #expect(other.base == EntryPosition(index: 8, term: 2) && other.last == other.base && other.count == 0)
        #expect(other.committed == 8 && other.durable == 8 && other.released == 8)
        // A word about a write from before is not believed.
        other.markDurable(through: EntryPosition(index: 9, term: 1))
        #expect(other.durable == 8)
    }

    @Test("the log keeps a window: a member that is a little behind finds it there")
    func window() {
        var cluster = Cluster(3)
        cluster.elect(1)
        for number: UInt8 in 1...9 {
            cluster.step(1, .propose([[number]]))
            cluster.settle(losing: { $0.to == id(3) && number > 6 })
        }
        cluster.compact(1, window: 5)
        #expect(cluster[1].raft.log.base.index == 5)
        settle(&cluster)
        #expect(cluster.streams.isEmpty && cluster[3].released == 10)
    }
}
