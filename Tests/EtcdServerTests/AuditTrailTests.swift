import Audit
import Basics
import EtcdClient
import EtcdProtocol
import EtcdServer
import Foundation
import NIOCore
import RPC
import Synchronization
import Testing

@Suite struct AuditTrailTests {
    /// A file trail whose records become durable when the test says so.
    private final class HeldTrail: AuditTrail {
        struct Lost: Error {}
        private let file: FileTrail
        private struct State {
            var isHeld = true
            var waiting: [@Sendable ((any Error)?) -> Void] = []
        }
        private let state = Mutex(State())
        init(_ file: FileTrail) { self.file = file }

        func record(_ operations: [AuditedOperation]) throws -> AuditTicket { try file.record(operations) }
        var durable: AuditTicket { state.withLock { $0.isHeld } ? .none : file.durable }
        func whenDurable(_ ticket: AuditTicket, _ call: @escaping @Sendable ((any Error)?) -> Void) {
            let isHeld = state.withLock { state in
                if state.isHeld { state.waiting.append(call) }
                return state.isHeld
            }
            if !isHeld { file.whenDurable(ticket, call) }
        }
        var waiting: Int { state.withLock { $0.waiting.count } }
        func decide(_ error: (any Error)?) {
            let calls = state.withLock { state in
                state.isHeld = error != nil
                defer { state.waiting = [] }
                return state.waiting
            }
            for call in calls { call(error) }
        }
    }

    private static func run(_ body: (ServedStore, HeldTrail, AuditLog, String) async throws -> Void) async throws {
        let path = NSTemporaryDirectory() + "audit-\(UUID().uuidString).log"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path)
        let trail = HeldTrail(FileTrail(log: log, now: { 1 }))
        try await ServedStore.run(trail: trail) { store in try await body(store, trail, log, path) }
    }
    private func eventually(_ what: String, _ condition: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while try await !condition() {
            try #require(ContinuousClock.now < deadline, "\(what)")
            await Task.yield()
        }
    }
    private func told(_ log: AuditLog, _ path: String) throws -> [String] {
        struct Line: Decodable { var verb: String, resource: String, outcome: String, count: Int }
        try log.flush()
        return try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map { line in
            let line = try JSONDecoder().decode(Line.self, from: Data(line.utf8))
            return "\(line.verb) \(line.resource) \(line.count): \(line.outcome)"
        }
    }

    @Test("a change is answered when its record is durable, though it is done before; a read does not wait")
    func changesWait() async throws {
        try await Self.run { store, trail, log, path in
            let isAnswered = Mutex(false)
            async let put: Int64 = {
                let revision = try await store.put("k", "v")
                isAnswered.withLock { $0 = true }
                return revision
            }()
            try await eventually("the put's answer waits") { trail.waiting == 1 }
            #expect(try await store.get("k") == "v")
            #expect(!isAnswered.withLock { $0 })
            trail.decide(nil)
            #expect(try await put > 0)
            #expect(try told(log, path) == ["put k 1: accepted", "range k 1: accepted"])
        }
    }

    @Test("a change whose record is lost is not acknowledged")
    func lostRecords() async throws {
        try await Self.run { store, trail, _, _ in
            async let put: Status? = { do { _ = try await store.put("k", "v"); return nil } catch { return error as? Status } }()
            try await eventually("the put's answer waits") { trail.waiting == 1 }
            trail.decide(HeldTrail.Lost())
            #expect(await put == Status(.unavailable, "etcdserver: the audit trail cannot be written"))
        }
    }

    @Test("what came to nothing is recorded with the reason, transactions with all their keys, watches with what they told")
    func outcomes() async throws {
        try await Self.run { store, trail, log, path in
            trail.decide(nil)
            try await store.put("k", "v")
            await #expect(throws: Status.self) { try await store.put("k", "v", lease: 77) }
            var request = TransactionRequestMessage()
            request.compare = [compare("a", .equal, value: "no")]
            request.success = [putOperation("b", "1")]
            request.failure = [putOperation("c d", "2")]
            _ = try await store.client.transaction(request)
            let call = try await store.client.watch()
            var create = WatchCreateRequestMessage()
            create.key = bytes("k")
            create.startRevision = 1
            try call.send(.create(create))
            for try await response in call.responses where !response.events.isEmpty { break }
            call.cancel()
            #expect(try told(log, path) == [
                "put k 1: accepted", "put k 1: accepted", "put k 1: etcdserver: requested lease not found",
                "txn read:a write:b write:c%20d 3: accepted", "txn read:a write:b write:c%20d 3: compares failed: the other branch ran",
                "watch k 1: accepted", "watch k 1: told",
            ])
        }
    }
}
