import Basics
import MVCC
import Raft
import Replica
import Testing

@Suite("The replica")
struct ReplicaTests {
    private func started() throws -> Host {
        var host = try Host()
        host.lead()
        host.carryOut(Fixture.createDomain())
        return host
    }

    @Test("a write is answered only after it is durable")
    func answersAfterPersist() throws {
        var host = try started()
        let ticket = host.propose(Fixture.put("a", "1"))
        #expect(host.outcomes[ticket] == nil && host.get("a") == nil && host.events.isEmpty)
        host.finishLogWrites()
        #expect(host.outcomes[ticket] == .applied(.operation(.put(previous: nil)), revision: 2))
        #expect(host.get("a")?.version == 1 && host.events.count == 1)
    }

    @Test("a burst of proposals is one write of the log, and each is answered in order")
    func burst() throws {
        var host = try started()
        host.handle(.proposed((0..<50).map { Proposal(ticket: 1_000 + $0, command: Fixture.put("k\($0)", "v")) }))
        #expect(host.logWrites.count == 1 && host.logWrites[0].entries.count == 50)
        host.finishLogWrites()
        for offset in 0..<50 {
            #expect(host.outcomes[1_000 + Ticket(offset)] == .applied(.operation(.put(previous: nil)), revision: 2 + Int64(offset)))
        }
    }

    @Test("records are told to readers before their write is answered")
    func writtenFirst() throws {
        var host = try started()
        host.carryOut(Fixture.put("a", "1"))
        #expect(host.written[Revision(2)] == .sealed(Fixture.sealed("1")))
    }

    @Test("a refused command is answered with its refusal and writes nothing")
    func refusal() throws {
        var host = try started()
        #expect(host.carryOut(Fixture.put("a", "1", lease: 99)) == .refused(.leaseNotFound))
        #expect(host.written.isEmpty && host.events.isEmpty)
    }

    @Test("a member that does not lead refuses proposals and linearizable questions, and answers others")
    func notLeading() throws {
        var host = try Host()
        let write = host.propose(Fixture.put("a", "1")), read = host.ask(.revision), stale = host.ask(.revision, linearizable: false)
        #expect(host.outcomes[write] == .notLeader(nil) && host.outcomes[read] == .notLeader(nil) && host.outcomes[stale] == .revision(1))
    }

    @Test("a linearizable question asked before the first commit of a term is answered after it")
    func earlyQuestion() throws {
        var host = try Host()
        host.handle(.campaign)
        host.finishLogWrite() // the vote: leads now
        let ticket = host.ask(.revision)
        #expect(host.outcomes[ticket] == nil)
        host.finishLogWrites()
        #expect(host.outcomes[ticket] == .revision(1))
    }

    @Test("a restart replays the log after what is stored")
    func replays() throws {
        var host = try started()
        host.carryOut(Fixture.put("a", "1"))
        host.handle(.storeDue)
        host.finishCheckpoint()
        host.carryOut(Fixture.put("b", "2"))
        let hash = host.replica.store.hash
        var again = try host.crashed()
        #expect(again.get("a") != nil && again.get("b") == nil)
        again.lead()
        #expect(again.get("b")?.revision == Revision(3))
        #expect(again.events.map(\.version.key) == [Bytes("b".utf8)])
        #expect(again.replica.store.hash != hash) // the new term's entry is part of it
    }

    @Test("a crash between the log's write and the record lane's loses nothing")
    func crashBetween() throws {
        var host = try started()
        host.carryOut(Fixture.put("a", "1"))
        host.handle(.storeDue)
        host.carryOut(Fixture.put("b", "2"))
        #expect(host.checkpoints.count == 1)
        var again = try host.crashed()
        again.lead()
        #expect(again.get("a") != nil && again.get("b") != nil)
        #expect(again.replica.store.revision == 3)
    }

    @Test("a write that was not durable may be gone after a crash, and leaves no trace then")
    func unacknowledged() throws {
        var host = try started()
        let ticket = host.propose(Fixture.put("a", "1"))
        #expect(host.outcomes[ticket] == nil)
        var again = try host.crashed()
        again.lead()
        #expect(again.get("a") == nil && again.replica.store.revision == 1)
    }

    @Test("the log is kept back to the checkpoint before the last")
    func logIsCut() throws {
        var host = try started()
        var applied: [LogIndex] = []
        for round in 0..<4 {
            host.carryOut(Fixture.put("a", "\(round)"))
            applied.append(host.replica.store.appliedIndex)
            host.handle(.storeDue)
            host.finishCheckpoint()
        }
        #expect(host.log.entries.first?.index == applied[2])
        var again = try host.crashed()
        again.lead()
        #expect(again.get("a")?.version == 4)
    }

    @Test("nothing is checkpointed twice")
    func checkpointOnce() throws {
        var host = try started()
        host.handle(.storeDue)
        #expect(host.checkpoints.count == 1)
        host.handle(.storeDue)
        #expect(host.checkpoints.count == 1)
    }

    @Test("a log that does not fit the records is refused by name")
    func mismatch() throws {
        var host = try started()
        for _ in 0..<3 {
            host.carryOut(Fixture.put("a", "1"))
            host.handle(.storeDue)
            host.finishCheckpoint()
        }
        let applied = host.records.applied, log = host.log, records = host.records
        func open(_ change: (inout Host.DurableLog) -> Void) throws {
            var log = log
            change(&log)
            _ = try Host(log: log, records: records)
        }
        #expect(throws: Replica.RestartError.logEndsBefore(applied: applied, last: applied - 1)) { try open { $0.entries.removeLast() } }
        #expect(throws: Replica.RestartError.logEndsBefore(applied: applied, last: 0)) { try open { $0.entries = [] } }
        #expect(throws: Replica.RestartError.gap(at: log.entries[0].index + 1)) {
            try open { log in
                log.entries.remove(at: 1)
                log.entries.append(Entry(index: applied + 9, term: 9, payload: []))
            }
        }
        let late = Entry(index: applied + 1, term: 9, payload: [])
        #expect(throws: Replica.RestartError.logDoesNotReach(applied: applied, first: applied + 1)) { try open { $0.entries = [late] } }
    }

    @Test("an entry that does not decode stops the replica instead of the process")
    func undecodable() throws {
        var host = try started()
        var log = host.log
        log.entries.append(Entry(index: log.entries.count > 0 ? log.entries[log.entries.count - 1].index + 1 : 1, term: 1, payload: [0xff, 1, 2]))
        host = try Host(log: log, records: host.records)
        host.lead()
        #expect(host.halted != nil)
        let ticket = host.propose(Fixture.put("a", "1"))
        #expect(host.outcomes[ticket] == .notLeader(nil))
    }
}

@Suite("The replica's leases")
struct ReplicaLeaseTests {
    private func started() throws -> Host {
        var host = try Host()
        host.lead()
        host.carryOut(Fixture.createDomain())
        host.carryOut(.leaseGrant(id: 5, seconds: 10))
        return host
    }

    @Test("an expired lease's keys vanish in one revision, and not early")
    func expiry() throws {
        var host = try started()
        for key in ["a", "b", "c"] { host.carryOut(Fixture.put(key, "v", lease: 5)) }
        let revision = host.replica.store.revision
        host.advance(milliseconds: 9_999)
        host.finishLogWrites()
        #expect(host.get("a") != nil)
        host.advance(milliseconds: 1)
        #expect(host.get("a") != nil, "the revocation is a command like any other")
        host.finishLogWrites()
        #expect(host.get("a") == nil && host.get("b") == nil && host.get("c") == nil)
        #expect(host.replica.store.revision == revision + 1)
    }

    @Test("a keep-alive begins the time anew and is not logged")
    func keepAlive() throws {
        var host = try started()
        host.carryOut(Fixture.put("a", "v", lease: 5))
        host.advance(milliseconds: 9_000)
        let ticket = host.ask(.leaseKeepAlive(5))
        #expect(host.logWrites.isEmpty)
        #expect(host.outcomes[ticket] == .leaseKeptAlive(5, seconds: 10, revision: 2))
        host.advance(milliseconds: 9_999)
        host.finishLogWrites()
        #expect(host.get("a") != nil)
        host.advance(milliseconds: 1)
        host.finishLogWrites()
        #expect(host.get("a") == nil)
        let gone = host.ask(.leaseKeepAlive(5))
        #expect(host.outcomes[gone] == .refused(.leaseNotFound))
    }

    @Test("a lease tells its time and its keys")
    func status() throws {
        var host = try started()
        host.carryOut(Fixture.put("a", "v", lease: 5))
        host.advance(milliseconds: 3_500)
        let ticket = host.ask(.leaseStatus(5, withKeys: true)), list = host.ask(.leases), unknown = host.ask(.leaseStatus(6, withKeys: false))
        #expect(host.outcomes[ticket] == .leaseStatus(5, grantedSeconds: 10, remainingSeconds: 6, keys: [Bytes("a".utf8)], revision: 2))
        #expect(host.outcomes[list] == .leases([5], revision: 2))
        #expect(host.outcomes[unknown] == .refused(.leaseNotFound))
    }

    @Test("after a restart a lease has all its time again, and a little more")
    func restart() throws {
        var host = try started()
        host.carryOut(Fixture.put("a", "v", lease: 5))
        host.advance(milliseconds: 9_000)
        var again = try host.crashed()
        again.lead()
        again.advance(milliseconds: 10_000)
        again.finishLogWrites()
        #expect(again.get("a") != nil)
        again.advance(milliseconds: 1_000)
        again.finishLogWrites()
        #expect(again.get("a") == nil)
    }

    /// With a lease of 1,000 s, whose first checkpoint is on its way to the disk.
    private func checkpointing() throws -> Host {
        var host = try started()
        host.carryOut(.leaseGrant(id: 6, seconds: 1_000))
        host.advance(milliseconds: 300_000)
        return host
    }
    @Test("long leases are checkpointed, so that a new leader does not give them all their time again")
    func checkpoints() throws {
        var host = try checkpointing()
        host.finishLogWrites()
        #expect(host.replica.store.lease(6)?.checkpointSeconds == 700)
        let ticket = host.ask(.leaseKeepAlive(6))
        #expect(host.outcomes[ticket] == nil, "a renewal that a restart would forget is not answered")
        host.finishLogWrites()
        #expect(host.replica.store.lease(6)?.checkpointSeconds == 0)
        host.advance(milliseconds: 100)
        #expect(host.outcomes[ticket] == .leaseKeptAlive(6, seconds: 1_000, revision: 1))
    }

    @Test("a renewal while a checkpoint from before it is under way is answered when that one is taken back")
    func checkpointUnderWay() throws {
        var host = try checkpointing()
        let ticket = host.ask(.leaseKeepAlive(6))
        while !host.logWrites.isEmpty {
            #expect(host.outcomes[ticket] == nil)
            host.finishLogWrite()
        }
        #expect(host.replica.store.lease(6)?.checkpointSeconds == 0)
        host.advance(milliseconds: 100)
        #expect(host.outcomes[ticket] == .leaseKeptAlive(6, seconds: 1_000, revision: 1))
    }

    @Test("a lease that was renewed has all its time after a restart, though the checkpoint before the renewal is applied first")
    func renewedBeforeRestart() throws {
        var host = try checkpointing()
        host.finishLogWrites()
        host.handle(.storeDue)
        host.finishCheckpoint()
        let ticket = host.ask(.leaseKeepAlive(6))
        host.finishLogWrites()
        host.advance(milliseconds: 100)
        #expect(host.outcomes[ticket] == .leaseKeptAlive(6, seconds: 1_000, revision: 1))
        var again = try host.crashed()
        #expect(again.replica.store.lease(6)?.checkpointSeconds == 700, "what takes the checkpoint back is in the log")
        again.lead()
        again.advance(milliseconds: 999_000)
        again.finishLogWrites()
        #expect(again.replica.store.lease(6) != nil)
        again.advance(milliseconds: 2_000)
        again.finishLogWrites()
        #expect(again.replica.store.lease(6) == nil)
    }
}
