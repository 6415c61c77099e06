import Barrier
import Basics
import EtcdClient
import EtcdProtocol
import Foundation
import NIOCore
import ReplicaService
import RPC
import Testing

@Suite struct WatchTests {
    /// Reads responses one at a time.
    private struct Reader: ~Copyable {
        let call: WatchCall
        var iterator: AsyncThrowingMapSequence<AsyncThrowingStream<ByteBuffer, any Error>, WatchResponseMessage>.Iterator
        init(_ store: ServedStore) async throws {
            call = try await store.client.watch()
            iterator = call.responses.makeAsyncIterator()
        }
        mutating func next() async throws -> WatchResponseMessage {
            guard let response = try await iterator.next(isolation: #isolation) else { throw Unexpected() }
            return response
        }
        /// Events until there are so many.
        mutating func events(_ count: Int) async throws -> [EventMessage] {
            var events: [EventMessage] = []
            while events.count < count { events += try await next().events }
            return events
        }
        deinit { call.cancel() }
    }
    private func create(_ key: String, end: Bytes = [], _ change: (inout WatchCreateRequestMessage) -> Void = { _ in }) -> WatchRequestMessage.Request {
        var request = WatchCreateRequestMessage()
        request.key = bytes(key)
        request.rangeEnd = end
        change(&request)
        return .create(request)
    }

    @Test("a watch is told what happens, puts and deletes, with previous values if it asks")
    func watches() async throws {
        try await ServedStore.run { store in
            try await store.put("k", "before")
            var reader = try await Reader(store)
            try reader.call.send(create("k") { $0.prevKV = true })
            let created = try await reader.next()
            #expect(created.created && created.watchID == 0)
            let revision = try await store.put("k", "after")
            _ = try await store.client.deleteRange(DeleteRangeRequestMessage(key: bytes("k")))
            try await store.put("other", "unseen")
            let events = try await reader.events(2)
            #expect(events.map(\.kind) == [.put, .delete])
            #expect(events[0].kv.map { String(buffer: $0.plainValue) } == "after" && events[0].kv?.modRevision == revision)
            #expect(events.map { $0.prevKV.map { String(buffer: $0.plainValue) } } == ["before", "after"])
            #expect(events[1].kv.map { text($0.key) } == "k" && events[1].kv?.modRevision == revision + 1)
        }
    }

    @Test("a watch of the past is told history first, in order")
    func tellsHistory() async throws {
        try await ServedStore.run { store in
            let first = try await store.put("k/1", "1")
            for number in 2...300 { try await store.put("k/\(number)", "\(number)") }
            var reader = try await Reader(store)
            try reader.call.send(create("k/", end: bytes("k0")) { $0.startRevision = first })
            #expect(try await reader.next().created)
            try await store.put("k/301", "301")
            let events = try await reader.events(301)
            #expect(events.compactMap { $0.kv.map { String(buffer: $0.plainValue) } } == (1...301).map(String.init))
        }
    }

    @Test("filters keep puts or deletes away")
    func filters() async throws {
        try await ServedStore.run { store in
            var reader = try await Reader(store)
            try reader.call.send(create("k") { $0.excludesPuts = true })
            _ = try await reader.next()
            try await store.put("k", "1")
            _ = try await store.client.deleteRange(DeleteRangeRequestMessage(key: bytes("k")))
            #expect(try await reader.events(1).map(\.kind) == [.delete])
        }
    }

    @Test("a watch into compacted history is cancelled with the revision")
    func refusesCompacted() async throws {
        try await ServedStore.run { store in
            let first = try await store.put("k", "1")
            let second = try await store.put("k", "2")
            _ = try await store.client.compact(revision: second)
            var reader = try await Reader(store)
            try reader.call.send(create("k") { $0.startRevision = first })
            #expect(try await reader.next().created)
            let cancelled = try await reader.next()
            #expect(cancelled.canceled && cancelled.compactRevision == second)
        }
    }

    @Test("one stream carries many watches, under ids of either side, and cancels one")
    func carriesMany() async throws {
        try await ServedStore.run { store in
            var reader = try await Reader(store)
            try reader.call.send(create("a"))
            #expect(try await reader.next().watchID == 0)
            try reader.call.send(create("b") { $0.watchID = 7 })
            #expect(try await reader.next().watchID == 7)
            try reader.call.send(create("c") { $0.watchID = 7 })
            let duplicate = try await reader.next()
            #expect(duplicate.created && duplicate.canceled && duplicate.watchID == -1)
            try reader.call.send(create("z", end: bytes("a")))
            #expect(try await reader.next().cancelReason == "mvcc: watcher range is empty")
            try reader.call.send(.cancel(watchID: 0))
            let cancelled = try await reader.next()
            #expect(cancelled.canceled && cancelled.watchID == 0)
            try await store.put("a", "unseen")
            try await store.put("b", "seen")
            let response = try await reader.next()
            #expect(response.watchID == 7 && response.events.count == 1)
        }
    }

    @Test("a progress request is answered after all events before it, for the whole stream")
    func tellsProgress() async throws {
        try await ServedStore.run { store in
            var reader = try await Reader(store)
            try reader.call.send(create("k"))
            #expect(try await reader.next().created)
            let revision = try await store.put("k", "1")
            let later = try await store.put("unwatched", "1")
            try reader.call.send(.progress)
            let event = try await reader.next()
            #expect(event.events.count == 1 && event.header?.revision == revision)
            let progress = try await reader.next()
            #expect(progress.watchID == -1 && progress.events.isEmpty && progress.header?.revision == later)
        }
    }

    @Test("a watch that asks for it is told how far it is while nothing happens")
    func notifiesProgress() async throws {
        try await ServedStore.run(progressIntervalMilliseconds: 50) { store in
            var reader = try await Reader(store)
            try reader.call.send(create("k") { $0.progressNotify = true })
            #expect(try await reader.next().created)
            let revision = try await store.put("unwatched", "1")
            var told: Int64 = 0
            while told < revision {
                let progress = try await reader.next()
                #expect(progress.watchID == 0 && progress.events.isEmpty && !progress.canceled)
                told = progress.header?.revision ?? 0
            }
            #expect(told == revision)
        }
    }

    @Test("history of large values comes in several responses, whole revisions each, also to whoever asked for no fragments")
    func splitsHistory() async throws {
        try await ServedStore.run { store in
            let value = String(repeating: "v", count: 700_000), first = try await store.put("k", value)
            for _ in 0..<5 { try await store.put("k", value) }
            var reader = try await Reader(store)
            try reader.call.send(create("k") { $0.startRevision = first })
            #expect(try await reader.next().created)
            var revisions: [Int64] = [], responses = 0
            while revisions.count < 6 {
                let response = try await reader.next()
                #expect(!response.fragment)
                responses += 1
                revisions += response.events.compactMap { $0.kv?.modRevision }
            }
            #expect(revisions == Array(first..<first + 6) && responses >= 3)
        }
    }

    @Test("many watches of one stream begin and end, and ids are given anew")
    func many() async throws {
        try await ServedStore.run { store in
            var reader = try await Reader(store)
            for _ in 0..<2_000 { try reader.call.send(create("k")) }
            try reader.call.send(create("k") { $0.watchID = 2_000 })
            try reader.call.send(create("k"))
            var ids: [Int64] = []
            while ids.count < 2_002 { ids.append(try await reader.next().watchID) }
            #expect(ids == Array(0..<2_000) + [2_000, 2_001])
            try reader.call.send(create("k") { $0.watchID = 7 })
            let refused = try await reader.next()
            #expect(refused.canceled && refused.cancelReason == "mvcc: duplicate watch ID provided on the WatchStream")
        }
    }

    @Test("a large transaction comes in fragments to whoever asked for them")
    func fragments() async throws {
        try await ServedStore.run { store in
            var reader = try await Reader(store)
            try reader.call.send(create("k/", end: bytes("k0")) { $0.fragment = true; $0.prevKV = true })
            #expect(try await reader.next().created)
            for round in 0..<2 {
                var transaction = TransactionRequestMessage()
                transaction.success = (0..<10).map { putOperation("k/\($0)", String(repeating: "\(round)", count: 100_000)) }
                _ = try await store.client.transaction(transaction)
            }
            var responses: [WatchResponseMessage] = [], events = 0
            while events < 20 {
                responses.append(try await reader.next())
                events += responses.last?.events.count ?? 0
            }
            // The second transaction, with its previous values, is two megabytes.
            #expect(responses.map(\.fragment) == [false, true, false])
        }
    }

    @Test("a watcher that does not read slows nobody down, and misses nothing when it reads")
    func survivesSlowReaders() async throws {
        try await ServedStore.run { store in
            var slow = try await Reader(store)
            try slow.call.send(create("k/", end: bytes("k0")))
            #expect(try await slow.next().created)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<400 { group.addTask { try await store.put("k/\(number)", String(repeating: "v", count: 20_000)) } }
                try await group.waitForAll()
            }
            let events = try await slow.events(400)
            #expect(Set(events.compactMap { $0.kv.map { text($0.key) } }).count == 400)
            #expect(events.compactMap { $0.kv?.modRevision } == events.compactMap { $0.kv?.modRevision }.sorted())
        }
    }

    /// Of this process, without files it has mapped.
    private func residentMegabytes() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") })
        return try #require(Int(line.filter(\.isNumber))) / 1_024
    }

    /// Does not take what it does not read: the server waits for it.
    private struct PacedReader: ~Copyable {
        let call: WatchCall
        var iterator: AsyncThrowingStream<ByteBuffer, any Error>.Iterator
        init(_ store: ServedStore) async throws {
            call = try await store.client.watch(paced: true)
            iterator = call.messages.makeAsyncIterator()
        }
        mutating func next() async throws -> WatchResponseMessage {
            guard let message = try await iterator.next(isolation: #isolation) else { throw Unexpected() }
            call.consumed(message)
            return try WatchResponseMessage(decoding: message)
        }
        mutating func events(_ count: Int) async throws -> [EventMessage] {
            var events: [EventMessage] = []
            while events.count < count { events += try await next().events }
            return events
        }
        deinit { call.cancel() }
    }

    private static let largeValues = 240, valueBytes = 512 << 10
    private func fillLarge(_ store: ServedStore) async throws {
        for number in 0..<Self.largeValues { try await store.put("k/\(number)", String(repeating: "v", count: Self.valueBytes)) }
    }

    @Test("history for a watcher that does not read costs little memory, however large the values are, and is told whole when it reads")
    func boundsUnreadHistory() async throws {
        try await ServedStore.run { store in
            try await fillLarge(store)
            let filled = store.barrier.status().appliedIndex // what is not stored yet is in memory
            while store.barrier.status().storedIndex < filled { try await Task.sleep(for: .milliseconds(20)) }
            let before = try residentMegabytes()
            var slow = try await PacedReader(store)
            try slow.call.send(create("k/", end: bytes("k0")) { $0.startRevision = 1 })
            // As long as all of it would take to be fetched.
            let since = ContinuousClock.now
            var most = 0
            while ContinuousClock.now - since < .seconds(2), most < before + 100 {
                most = max(most, try residentMegabytes())
                try await store.put("other", "\(most)")
            }
            #expect(most - before < 40, "of \(Self.largeValues * Self.valueBytes >> 20) MB")
            #expect(try await slow.next().created)
            let events = try await slow.events(Self.largeValues)
            #expect(events.compactMap { $0.kv.map { text($0.key) } } == (0..<Self.largeValues).map { "k/\($0)" })
            #expect(events.allSatisfy { $0.kv?.plainValue.readableBytes == Self.valueBytes })
            let revision = try await store.put("k/last", "1")
            #expect(try await slow.events(1).first?.kv?.modRevision == revision)
        }
    }

    @Test("a watcher that did not read while its history was compacted is told so, after what had left already")
    func compactedWhileUnread() async throws {
        try await ServedStore.run { store in
            try await fillLarge(store)
            for number in 0..<Self.largeValues { _ = try await store.put("k/\(number)", "small") }
            var slow = try await PacedReader(store)
            try slow.call.send(create("k/", end: bytes("k0")) { $0.startRevision = 1 })
            #expect(try await slow.next().created)
            let first = try await slow.events(1)
            let revision = try await store.put("other", "1")
            _ = try await store.client.compact(revision: revision)
            let compacted = store.barrier.status().appliedIndex
            while store.barrier.status().storedIndex < compacted { try await store.put("other", "2") }
            var told = first, ending: WatchResponseMessage?
            while ending == nil {
                let response = try await slow.next()
                told += response.events
                if response.canceled { ending = response }
            }
            #expect(ending?.compactRevision == revision)
            #expect(told.count < Self.largeValues && told.compactMap { $0.kv?.modRevision } == told.compactMap { $0.kv?.modRevision }.sorted())
        }
    }
}
