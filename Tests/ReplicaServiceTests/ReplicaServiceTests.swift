import Basics
import Foundation
import MVCC
import ReplicaService
import Storage
import Synchronization
import Testing

@Suite("The replica's service")
struct ReplicaServiceTests {
    @Test("what is put is got, before and after it is stored, and after a restart")
    func putGetRestart() async throws {
        let directory = try TemporaryDirectory()
        var service = try await Fixture.started(directory)
        let (_, revision) = try await service.propose(Fixture.put("a", "one"))
        #expect(revision == 2)
        #expect(try await service.get("a") == Fixture.sealed("one"))
        #expect(await eventually { service.status().storedIndex >= service.status().appliedIndex })
        #expect(try await service.get("a") == Fixture.sealed("one"))
        service.close()
        #expect(service.status().condition == .stopped)
        service = try Fixture.open(directory)
        #expect(try await service.get("a") == Fixture.sealed("one"))
        #expect(service.status().revision == 2)
        #expect(service.keyTable().activeDataKey(of: Fixture.domain) == DataKeyID(Fixture.domain, 1))
        service.close()
    }

    @Test("on a loop it answers as on a thread of its own, wakes for its ticks, and ends with everything stored")
    func loop() async throws {
        let directory = try TemporaryDirectory(), loop = try ThreadLoop(), box = AnswerBox()
        let service = try await Fixture.started(directory) { $0.loop = loop }
        service.submit((0..<500).map { Submission(ticket: $0, sink: box, request: .propose(Fixture.put("k\($0)", "v"))) })
        #expect(await eventually { box.count == 500 })
        #expect(box.duplicates == 0)
        // A checkpoint is a matter of a tick: nothing else wakes the loop.
        #expect(await eventually { service.status().storedIndex >= service.status().appliedIndex })
        _ = try await service.propose(Fixture.put("last", "one"))
        service.close()
        #expect(service.status().condition == .stopped)
        let again = try Fixture.open(directory)
        #expect(try await again.range(RangeRequest(Fixture.everything)).result.count == 501)
        again.close()
    }

    @Test("on a loop ticks come by themselves from the start, whether or not anything reaches the member")
    func ticksOnLoop() async throws {
        let members = try Members(), loop = try ThreadLoop()
        try members.open(1) { $0.loop = loop }
        #expect(await eventually { loop.delayed >= 5 })
    }

    @Test("let go of by the loop it is on, it ends there and does not wait for itself")
    func lastReferenceOnLoop() async throws {
        let directory = try TemporaryDirectory(), loop = try ThreadLoop(), over = AnswerBox()
        var service: ReplicaService? = try await Fixture.started(directory) { $0.loop = loop }
        let held = Mutex(service)
        service = nil
        loop.schedule {
            held.withLock { $0 = nil }
            over.deliver([Answer(ticket: 1, result: .failure(.overloaded))])
            return true
        }
        #expect(await eventually { over.count == 1 })
        try Fixture.open(directory).close()
    }

    @Test("acknowledged writes survive a service that stops dead, again and again")
    func kill() async throws {
        let directory = try TemporaryDirectory()
        var service = try await Fixture.started(directory), expected: [String: String] = [:]
        for round in 0..<6 {
            for number in 0..<20 {
                _ = try await service.propose(Fixture.put("k\(number)", "\(round)"))
                expected["k\(number)"] = "\(round)"
            }
            _ = try await service.propose(Fixture.delete("k\(round)"))
            expected["k\(round)"] = nil
            // What is under way now may or may not happen: to a key of its own.
            service.submit([Submission(ticket: 1, sink: AnswerBox(), request: .propose(Fixture.put("late", "\(round)")))])
            service.abandon()
            service = try Fixture.open(directory)
            for number in 0..<20 {
                let found = try await service.get("k\(number)")
                #expect(found == expected["k\(number)"].map { Fixture.sealed($0) }, "k\(number) after round \(round)")
            }
        }
        service.close()
    }

    @Test("a burst is answered once each, in few deliveries")
    func burst() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory), box = AnswerBox()
        service.submit((0..<2_000).map { Submission(ticket: $0, sink: box, request: .propose(Fixture.put("k\($0)", "v"))) })
        #expect(await eventually { box.count == 2_000 })
        #expect(box.duplicates == 0 && box.deliveries < 100)
        for result in box.all.values { if case .failure(let error) = result { Issue.record("\(error)") } }
        #expect(service.status().proposalsInFlight <= 2_000)
        #expect(await eventually { service.status().proposalsInFlight == 0 && service.status().proposalBytesInFlight == 0 })
        #expect(try await service.range(RangeRequest(Fixture.everything)).result.count == 2_000)
        service.close()
    }

    @Test("beyond its bounds the service says so at once, and goes on")
    func overload() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.proposalsInFlightMax = 10 }, box = AnswerBox()
        #expect(await eventually { service.status().proposalsInFlight == 0 })
        #expect(await eventually { service.status().proposalsInFlight == 0 })
        service.submit((0..<200).map { Submission(ticket: $0, sink: box, request: .propose(Fixture.put("k\($0)", "v"))) })
        #expect(await eventually { box.count == 200 })
        let failures = box.all.values.filter { if case .failure(.overloaded) = $0 { true } else { false } }
        #expect(failures.count == 190)
        _ = try await service.propose(Fixture.put("after", "v"))
        service.close()
    }

    @Test("a command that does not fit the log is refused alone")
    func tooLarge() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.proposalBytesMax = 10_000 }
        await #expect(throws: ReplicaError.refused(.limitReached)) {
            try await service.propose(Fixture.put("a", String(repeating: "x", count: 20_000)))
        }
        _ = try await service.propose(Fixture.put("a", "small"))
        service.close()
    }

    @Test("a command larger than a frame of small segments is refused alone; the largest that fits is stored", arguments: [1 << 18, 1 << 20])
    func largerThanFrame(segmentBytes: Int) async throws {
        let directory = try TemporaryDirectory()
        var options = DiskLane.Options()
        options.segmentBytes = segmentBytes
        #expect(options.payloadBytesMax > segmentBytes - 1_000 && options.payloadBytesMax < segmentBytes)
        var service = try await Fixture.started(directory) { $0.disk.segmentBytes = segmentBytes }
        let overhead = Fixture.put("a", "").encode().count
        // The lengths in the encoding may grow, too: every size around the bound is tried.
        var largest = 0, refused = 0
        for count in (options.payloadBytesMax - overhead - 100)...(options.payloadBytesMax - overhead + 20) where count % 4 == 0 {
            do {
                _ = try await service.propose(Fixture.put("a", String(repeating: "x", count: count)))
                largest = count
            } catch {
                #expect(error == .refused(.limitReached))
                refused += 1
            }
        }
        #expect(largest > 0 && refused > 0)
        #expect(service.status().condition == .running)
        service.close()
        service = try Fixture.open(directory) { $0.disk.segmentBytes = segmentBytes }
        #expect(try await service.get("a") == Fixture.sealed(String(repeating: "x", count: largest)))
        service.close()
    }

    @Test("requests after the end are answered")
    func afterClose() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory)
        service.close()
        await #expect(throws: ReplicaError.unavailable("the store is closed")) { try await service.propose(Fixture.put("a", "v")) }
        await #expect(throws: ReplicaError.unavailable("the store is closed")) { try await service.inspect { $0.revision } }
        let box = WatchBox(service)
        service.watch(Fixture.everything, sink: box)
        #expect(box.cancellation == .unavailable("the store is closed"))
        #expect(service.version(of: Bytes("a".utf8)) == nil)
    }

    @Test("closing finishes what was under way and stores it")
    func closeFlushes() async throws {
        let directory = try TemporaryDirectory(), box = AnswerBox()
        let service = try await Fixture.started(directory) { $0.tickMilliseconds = 60_000 }
        service.submit((0..<500).map { Submission(ticket: $0, sink: box, request: .propose(Fixture.put("k\($0)", "v"))) })
        service.close()
        #expect(box.count == 500)
        for result in box.all.values { if case .failure(let error) = result { Issue.record("\(error)") } }
        #expect(service.status().storedIndex == service.status().appliedIndex)
    }

    @Test("a directory is opened once at a time, and by its owner")
    func owner() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory)
        #expect(throws: ReplicaService.OpenFailure.self) { try Fixture.open(directory) }
        service.close()
        try Fixture.open(directory).close()
    }

    @Test("a compacted version is kept for a reader that holds a pin, and said to be compacted after")
    func pins() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.pinMillisecondsMax = 60_000 }
        _ = try await service.propose(Fixture.put("a", "old"))
        let old = try await service.range(RangeRequest(Fixture.everything)).result.versions[0]
        let pin = service.pin()
        _ = try await service.propose(Fixture.put("a", "new"))
        _ = try await service.propose(.compact(revision: 3))
        let index = service.status().appliedIndex
        // Ticks pass; the record stays.
        let deadline = ContinuousClock.now + .milliseconds(200)
        while ContinuousClock.now < deadline { _ = try await service.propose(Fixture.put("b", "v")) }
        #expect(try service.sealedValue(of: old) == Fixture.sealed("old"))
        #expect(service.status().storedIndex < index)
        pin.release()
        #expect(await eventually { service.status().storedIndex >= index })
        #expect(throws: ReplicaError.refused(.compacted(compactRevision: 3))) { try service.sealedValue(of: old) }
        #expect(try await service.get("a") == Fixture.sealed("new"))
        service.close()
    }

    @Test("a pin that is held too long holds back nothing")
    func pinTimeout() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.pinMillisecondsMax = 50 }
        let pin = service.pin()
        _ = try await service.propose(Fixture.put("a", "old"))
        _ = try await service.propose(Fixture.put("a", "new"))
        _ = try await service.propose(.compact(revision: 3))
        let index = service.status().appliedIndex
        #expect(await eventually { service.status().storedIndex >= index })
        pin.release()
        service.close()
    }

    @Test("an unchanged put is readable as a copy, overlaid and stored, and after its source is compacted")
    func copies() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory)
        _ = try await service.propose(Fixture.put("a", "kept"))
        #expect(await eventually { service.status().storedIndex >= service.status().appliedIndex })
        _ = try await service.propose(.put(PutRequest(key: Bytes("a".utf8), value: .unchanged)))
        #expect(try await service.get("a") == Fixture.sealed("kept"))
        _ = try await service.propose(.compact(revision: 3))
        #expect(try await service.get("a") == Fixture.sealed("kept"))
        let index = service.status().appliedIndex
        #expect(await eventually { service.status().storedIndex >= index })
        #expect(try await service.get("a") == Fixture.sealed("kept"))
        service.close()
    }

    @Test("values are read in one go, each with its own fate")
    func manyValues() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory)
        _ = try await service.propose(Fixture.put("a", "1"))
        _ = try await service.propose(Fixture.delete("a"))
        let results = service.sealedValues(of: [Revision(2), Revision(3), Revision(77)])
        #expect(try results[0].get() == Fixture.sealed("1"))
        #expect(throws: ReplicaError.unavailable("no value at revision 3")) { try results[1].get() }
        #expect(throws: ReplicaError.unavailable("no value at revision 77")) { try results[2].get() }
        service.close()
    }

    @Test("an expired lease's keys go in one revision; a keep-alive prevents it; time and keys are told")
    func leases() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory), box = WatchBox(service)
        guard case .lease(let id, let seconds) = try await service.propose(.leaseGrant(id: 0, seconds: 600)).result else { Issue.record("no lease"); return }
        #expect(id > 0 && seconds == 600)
        for key in ["a", "b", "c"] { _ = try await service.propose(Fixture.put(key, "v", lease: id)) }
        guard case .leaseStatus(let status, _) = try await service.ask(.leaseStatus(id, withKeys: true)) else { Issue.record("no status"); return }
        #expect(status.grantedSeconds == 600 && status.keys.count == 3)
        guard case .leaseKeptAlive(_, seconds: 600, _) = try await service.ask(.leaseKeepAlive(id)) else { Issue.record("not kept alive"); return }
        service.watch(Fixture.everything, sink: box)
        #expect(await eventually { box.isCreated })
        // Two seconds may be over before the keys are there: then under another lease.
        var isHeld = false
        while !isHeld {
            guard case .lease(let brief, 2) = try await service.propose(.leaseGrant(id: 0, seconds: 2)).result else { Issue.record("no lease"); return }
            do {
                for key in ["d", "e", "f"] { _ = try await service.propose(Fixture.put(key, "v", lease: brief)) }
                isHeld = true
            } catch { guard case .refused = error else { throw error } }
        }
        func gone() -> ArraySlice<WatchEvent> { box.events.filter { $0.kind == .delete }.suffix(3) }
        #expect(await eventually { gone().count == 3 && Set(gone().map(\.version.revision.main)).count == 1 })
        guard case .leases(let left, _) = try await service.ask(.leases) else { Issue.record("no list of leases"); return }
        #expect(left == [id])
        service.close()
    }

    @Test("the log is cut as records are stored, and the store still opens")
    func cutting() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.disk.segmentBytes = 1 << 20; $0.disk.frameBytesMax = 1 << 18 }
        for round in 0..<10 {
            let box = AnswerBox(), text = String(repeating: "x", count: 2_000)
            service.submit((0..<200).map { Submission(ticket: $0, sink: box, request: .propose(Fixture.put("k\($0)", text + "\(round)"))) })
            #expect(await eventually { box.count == 200 })
            #expect(await eventually { service.status().storedIndex >= service.status().appliedIndex })
        }
        let path = directory.path + "/log"
        #expect(await eventually { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).count < 6 })
        service.abandon()
        let again = try Fixture.open(directory)
        #expect(try await again.range(RangeRequest(Fixture.everything)).result.count == 200)
        again.close()
    }
}
