import Basics
import MVCC
import ReplicaService
import Testing

@Suite("Watches")
struct WatchTests {
    private func write(_ service: ReplicaService, _ range: Range<Int>) async throws {
        for number in range { _ = try await service.propose(Fixture.put("k\(number % 7)", "\(number)")) }
    }
    /// Every revision in the range, in order, each once.
    private func expectExactly(_ revisions: ClosedRange<Int64>, _ box: WatchBox) {
        #expect(box.events.map(\.version.revision.main) == Array(revisions))
    }

    @Test("a watch from now is told what comes, with what was before")
    func fromNow() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory), box = WatchBox(service)
        _ = try await service.propose(Fixture.put("a", "1"))
        service.watch(KeyRange(Bytes("a".utf8)), sink: box)
        #expect(await eventually { box.isCreated })
        _ = try await service.propose(Fixture.put("a", "2"))
        _ = try await service.propose(Fixture.put("b", "x"))
        _ = try await service.propose(Fixture.delete("a"))
        #expect(await eventually { box.events.count == 2 })
        #expect(box.events[0].value == Fixture.sealed("2") && box.events[0].previous?.revision == Revision(2))
        #expect(box.events[1].kind == .delete && box.events[1].previous?.revision == Revision(3))
        service.close()
        #expect(box.cancellation == .unavailable("the store is closed"))
    }

    @Test("watches from the past, from now and from the future see no gap and no repeat under concurrent writes")
    func concurrent() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory)
        try await write(service, 0..<300)
        let past = WatchBox(service), now = WatchBox(service), future = WatchBox(service), slow = WatchBox(service, isSlow: true)
        async let writing: Void = write(service, 300..<900)
        var options = WatchOptions()
        options.startRevision = 2
        service.watch(Fixture.everything, options: options, sink: past)
        service.watch(Fixture.everything, options: options, sink: slow)
        service.watch(Fixture.everything, sink: now)
        options.startRevision = 700
        service.watch(Fixture.everything, options: options, sink: future)
        try await writing
        slow.hurry()
        #expect(await eventually { past.events.count == 900 && slow.events.count == 900 })
        expectExactly(2...901, past)
        expectExactly(2...901, slow)
        #expect(await eventually { future.events.count == 202 })
        expectExactly(700...901, future)
        #expect(await eventually { now.events.last?.version.revision.main == 901 })
        if let first = now.events.first?.version.revision.main { expectExactly(first...901, now) }
        service.close()
    }

    @Test("a slow watch is made to catch up, stalls nobody, and misses nothing")
    func slow() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.watcherEventsMax = 20 }
        let slow = WatchBox(service, isSlow: true), quick = WatchBox(service)
        service.watch(Fixture.everything, sink: slow)
        service.watch(Fixture.everything, sink: quick)
        #expect(await eventually { slow.isCreated && quick.isCreated })
        try await write(service, 0..<200)
        #expect(await eventually { quick.events.count == 200 })
        #expect(slow.events.count <= 20)
        #expect(await eventually { service.status().watchesCatchingUp == 1 })
        slow.hurry()
        #expect(await eventually { slow.events.count == 200 })
        expectExactly(2...201, slow)
        service.close()
    }

    @Test("what waits for a slow watch is bounded in bytes: the rest comes from history, which carries no values")
    func slowLarge() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.watcherBytesMax = 100_000 }
        let slow = WatchBox(service, isSlow: true)
        service.watch(Fixture.everything, sink: slow)
        #expect(await eventually { slow.isCreated })
        for number in 0..<40 { _ = try await service.propose(Fixture.put("k\(number)", String(repeating: "v", count: 20_000))) }
        #expect(await eventually { service.status().watchesCatchingUp == 1 })
        #expect(!slow.events.isEmpty && slow.events.count <= 5)
        slow.hurry()
        #expect(await eventually { slow.events.count == 40 })
        expectExactly(2...41, slow)
        #expect(slow.events.filter { $0.value != nil }.count <= 10, "live ones before, and at most as many after")
        service.close()
    }

    @Test("a watch from a compacted revision is cancelled with the compaction")
    func compacted() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory), box = WatchBox(service), edge = WatchBox(service)
        try await write(service, 0..<20)
        _ = try await service.propose(.compact(revision: 10))
        var options = WatchOptions()
        options.startRevision = 5
        service.watch(Fixture.everything, options: options, sink: box)
        options.startRevision = 10
        service.watch(Fixture.everything, options: options, sink: edge)
        #expect(await eventually { box.cancellation == .compacted(compactRevision: 10) })
        #expect(await eventually { edge.events.last?.version.revision.main == 21 })
        service.close()
    }

    @Test("a cancelled watch says so and is told nothing more")
    func cancelled() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory), box = WatchBox(service)
        let watch = service.watch(Fixture.everything, sink: box)
        service.cancel(watch)
        #expect(await eventually { box.cancellation == .requested })
        _ = try await service.propose(Fixture.put("a", "1"))
        #expect(box.events.isEmpty && service.status().watches == 0)
        service.close()
    }

    @Test("filters leave out puts or deletes")
    func filters() async throws {
        let directory = try TemporaryDirectory(), service = try await Fixture.started(directory)
        let puts = WatchBox(service), deletes = WatchBox(service)
        var options = WatchOptions()
        options.startRevision = 1
        options.withoutDeletes = true
        service.watch(Fixture.everything, options: options, sink: puts)
        (options.withoutPuts, options.withoutDeletes) = (true, false)
        service.watch(Fixture.everything, options: options, sink: deletes)
        _ = try await service.propose(Fixture.put("a", "1"))
        _ = try await service.propose(Fixture.delete("a"))
        #expect(await eventually { puts.events.count == 1 && deletes.events.count == 1 })
        #expect(puts.events[0].kind == .put && deletes.events[0].kind == .delete)
        service.close()
    }

    @Test("progress is never ahead of an event that was not delivered")
    func progress() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.watcherEventsMax = 50 }
        let box = WatchBox(service)
        var options = WatchOptions()
        options.startRevision = 2
        options.progressIntervalMilliseconds = 1
        try await write(service, 0..<100)
        let watch = service.watch(Fixture.everything, options: options, sink: box)
        async let writing: Void = write(service, 100..<400)
        for _ in 0..<50 {
            service.requestProgress(of: [watch], sink: box)
            _ = try await service.ask(.readIndex)
        }
        try await writing
        service.requestProgress(of: [watch], sink: box)
        #expect(await eventually { box.events.count == 400 })
        #expect(await eventually {
            box.deliveries.contains { if case .progress(revision: 401) = $0.content { true } else { false } }
        })
        var told: Int64 = 0, progress = 0
        for delivery in box.deliveries {
            switch delivery.content {
            case .events(let events, let revision):
                for event in events {
                    #expect(event.version.revision.main > told, "progress to \(told) came before revision \(event.version.revision.main)")
                }
                told = max(told, revision)
            case .progress(let revision):
                told = max(told, revision)
                progress += 1
                #expect(delivery.watch == watch || delivery.watch == .all)
            case .created, .cancelled: break
            }
        }
        #expect(progress > 0)
        expectExactly(2...401, box)
        service.close()
    }

    @Test("a transaction's events arrive together")
    func atomic() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory) { $0.watcherEventsMax = 4 }
        let box = WatchBox(service)
        let watch = service.watch(Fixture.everything, sink: box)
        var puts: [Operation] = []
        for number in 0..<10 { if case .put(let put) = Fixture.put("k\(number)", "v") { puts.append(.put(put)) } }
        for _ in 0..<5 { _ = try await service.propose(.transaction(Transaction(success: puts), guards: [])) }
        #expect(await eventually { box.events.count == 50 })
        for delivery in box.deliveries {
            guard case .events(let events, let revision) = delivery.content else { continue }
            #expect(delivery.watch == watch && events.count % 10 == 0 && events.last?.version.revision.main ?? 0 <= revision)
        }
        service.close()
    }
}
