import Barrier
import Basics
import Foundation
import MVCC
import ReplicaService
import SecretMemory
import Synchronization
import Testing

struct BarrierTests {
    let store: TemporaryStore
    init() throws { store = try TemporaryStore() }

    @Test("objects and plain keys are there after closing and opening again")
    func restart() async throws {
        let first = try await store.open()
        let written = try await first.put(bytes("objects/a"), domain: "prod", value: try secret("object-value"), if: .absent)
        try await first.putPlain("a", "plain-value")
        await first.close()
        let second = try await store.open()
        let entry = try await second.get(bytes("objects/a"), revision: 0)
        #expect(entry?.text == "object-value" && entry?.modificationRevision == written && entry?.version == 1)
        #expect(try await second.getPlain("a") == "plain-value")
        await second.close()
    }

    @Test("what was acknowledged is there after a crash, again and again")
    func crashes() async throws {
        for round in 0..<5 {
            let barrier = try await store.open()
            for earlier in 0..<round { #expect(try await barrier.get(bytes("objects/\(earlier)"), revision: 0)?.text == "value-\(earlier)") }
            _ = try await barrier.put(bytes("objects/\(round)"), domain: "ns-\(round % 2)", value: try secret("value-\(round)"), if: .absent)
            await barrier.abandon()
        }
    }

    @Test("no value, key or namespace name is in any file, raw, in base64 or in hex")
    func canaries() async throws {
        let canaries = ["value-canary-1f3a77", "object-key-canary-22", "namespace-canary-33", "plain-key-canary-4444", "plain-value-canary-55"]
        let barrier = try await store.open()
        for _ in 0..<50 {
            _ = try await barrier.put(bytes("objects/\(canaries[1])"), domain: canaries[2], value: try secret(canaries[0]), if: .none)
            try await barrier.putPlain(canaries[3], canaries[4])
        }
        await barrier.abandon()
        for canary in canaries { #expect(store.findings(of: canary) == []) }
        let again = try await store.open()
        #expect(try await again.get(bytes("objects/\(canaries[1])"), revision: 0)?.text == canaries[0])
        await again.close()
        for canary in canaries { #expect(store.findings(of: canary) == []) }
        // The search finds what is there.
        try Data("x\(canaries[0])".utf8).write(to: URL(fileURLWithPath: store.data + "/planted"))
        try Data(Data(" \(canaries[1])".utf8).base64EncodedString().utf8).write(to: URL(fileURLWithPath: store.data + "/planted64"))
        #expect(store.findings(of: canaries[0]) == ["planted"] && store.findings(of: canaries[1]) == ["planted64"])
    }

    @Test("deleting every plain key leaves Coffer's objects, and neither space sees the other")
    func keyspaces() async throws {
        let barrier = try await store.open()
        _ = try await barrier.put(bytes("objects/a"), domain: "prod", value: try secret("kept"), if: .absent)
        try await barrier.putPlain("objects/a", "plain")
        try await barrier.putPlain("\u{0}objects/a", "tricky")
        #expect(try await barrier.plain(.prefix([])).map { Bytes(Keyspace.name($0.key)) } == [bytes("\u{0}objects/a"), bytes("objects/a")])
        #expect(try await barrier.list(.prefix([]), limit: 0, revision: 0).entries.map(\.text) == ["kept"])
        let all = EtcdTransaction(success: [.deleteRange(DeleteRangeRequest(Keyspace.plain.stored(KeyRange([0], end: [0]))))])
        _ = try await barrier.transaction(all)
        #expect(try await barrier.plain(.prefix([])).isEmpty)
        #expect(try await barrier.get(bytes("objects/a"), revision: 0)?.text == "kept")
        await barrier.close()
    }

    @Test("a put happens only under its precondition, and a refused one tells the present revision")
    func preconditions() async throws {
        let barrier = try await store.open(), key = bytes("objects/a")
        let first = try await barrier.put(key, domain: "p", value: try secret("1"), if: .absent)
        let two = try secret("2"), three = try secret("3")
        await #expect(throws: BarrierError.preconditionFailed(current: first)) { _ = try await barrier.put(key, domain: "p", value: two, if: .absent) }
        let second = try await barrier.put(key, domain: "p", value: two, if: .modificationRevision(first))
        await #expect(throws: BarrierError.preconditionFailed(current: second)) {
            _ = try await barrier.put(key, domain: "p", value: three, if: .modificationRevision(first))
        }
        await #expect(throws: BarrierError.preconditionFailed(current: second)) { _ = try await barrier.delete(key, if: .modificationRevision(first)) }
        #expect(try await barrier.get(key, revision: first)?.text == "1")
        #expect(try await barrier.get(key, revision: 0)?.text == "2")
        let deleted = try await barrier.delete(key, if: .modificationRevision(second))
        #expect(deleted > second)
        #expect(try await barrier.get(key, revision: 0) == nil)
        await #expect(throws: BarrierError.preconditionFailed(current: 0)) { _ = try await barrier.delete(key, if: .none) }
        await barrier.close()
    }

    @Test("a watch tells each change once, in order, opened, from the revision asked for")
    func watch() async throws {
        let barrier = try await store.open()
        let first = try await barrier.put(bytes("objects/0"), domain: "p", value: try secret("v0"), if: .none)
        let events = try await barrier.watch(.prefix(bytes("objects/")), after: first - 1)
        for number in 1..<20 { _ = try await barrier.put(bytes("objects/\(number)"), domain: "p", value: try secret("v\(number)"), if: .none) }
        let last = try await barrier.delete(bytes("objects/0"), if: .none)
        var told: [String] = []
        for try await batch in events {
            told += batch.events.map { "\($0.kind) \(String(decoding: $0.entry.key, as: UTF8.self)) \($0.entry.text ?? "-")" }
            if batch.revision >= last, told.count >= 21 { break }
        }
        #expect(told == (0..<20).map { "put objects/\($0) v\($0)" } + ["delete objects/0 v0"])
        await barrier.close()
    }

    @Test("a value that does not open is listed as unreadable, by key and with the reason, and can be deleted")
    func unreadable() async throws {
        let barrier = try await store.open()
        _ = try await barrier.put(bytes("objects/a"), domain: "lost", value: try secret("gone"), if: .none)
        _ = try await barrier.put(bytes("objects/b"), domain: "kept", value: try secret("here"), if: .none)
        let lost = try #require(barrier.keyTable().domain(named: Domain.namespace("lost").name))
        _ = try await barrier.service.propose(.key(.shredDomain(lost.id)))
        try barrier.follow()
        let listing = try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0)
        #expect(listing.entries.map(\.text) == [nil, "here"])
        #expect(throws: UnreadableValue.self) { try listing.entries[0].value.get() }
        _ = try await barrier.delete(bytes("objects/a"), if: .none)
        #expect(try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0).count == 1)
        await barrier.close()
    }

    // MARK: The etcd face

    @Test("a compare by value sees the value, and an empty range never satisfies one")
    func compareByValue() async throws {
        let barrier = try await store.open()
        try await barrier.putPlain("a", "5")
        func holds(_ key: String, _ relation: Compare.Relation, _ value: String) async throws -> Bool {
            let compare = EtcdCompare.value(Keyspace.plain.stored(KeyRange(bytes(key))), relation, try secret(value))
            let body = try await barrier.transaction(EtcdTransaction(compares: [compare]))
            guard case .command(.operation(.transaction(let succeeded, _)), _) = body else { throw Unexpected() }
            return succeeded
        }
        let cases: [(String, Compare.Relation, String, Bool)] = [
            ("a", .equal, "5", true), ("a", .less, "51", true), ("a", .greater, "4", true), ("a", .notEqual, "", true), ("a", .equal, "4", false),
            ("a", .greater, "5", false), ("missing", .notEqual, "x", false), ("missing", .equal, "", false),
        ]
        for (key, relation, value, expected) in cases { #expect(try await holds(key, relation, value) == expected, "\(key) \(relation) \(value)") }
        await barrier.close()
    }

    @Test("of many compare-and-puts on one key exactly as many succeed as change it")
    func compareAndSwap() async throws {
        let barrier = try await store.open()
        try await barrier.putPlain("counter", "0")
        @Sendable func increment() async throws {
            while true {
                let current = try #require(try await barrier.getPlain("counter"))
                let range = Keyspace.plain.stored(KeyRange(bytes("counter")))
                let put = try bytes(String(Int(current)! + 1)).withUnsafeBytes { try barrier.putRequest(key: bytes("counter"), plaintext: $0) }
                let transaction = EtcdTransaction(compares: [.value(range, .equal, try secret(current))], success: [.put(put)])
                do {
                    if case .command(.operation(.transaction(true, _)), _) = try await barrier.transaction(transaction) { return }
                } catch { guard case .overloaded = error else { throw error } }
            }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 { group.addTask { for _ in 0..<5 { try await increment() } } }
            try await group.waitForAll()
        }
        #expect(try await barrier.getPlain("counter") == "40")
        await barrier.close()
    }

    @Test("versions are sorted by their values on demand")
    func sortByValue() async throws {
        let barrier = try await store.open()
        for (key, value) in [("a", "2"), ("b", "10"), ("c", "1"), ("d", "2")] { try await barrier.putPlain(key, value) }
        let versions = try await barrier.plain(.prefix([]))
        func names(_ versions: [KeyVersion]) -> String { versions.map { String(decoding: Keyspace.name($0.key), as: UTF8.self) }.joined() }
        #expect(try names(barrier.sortedByValue(versions, descending: false)) == "cbad")
        #expect(try names(barrier.sortedByValue(versions, descending: true)) == "adbc")
        await barrier.close()
    }

    @Test("a kube-apiserver's secrets have a domain per namespace, other keys share one")
    func domains() async throws {
        let barrier = try await store.open()
        let keys = ["/registry/secrets/prod/db", "/registry/secrets/test/db", "/registry/pods/prod/web", "x", "/registry/secrets/UPPER/db"]
        for key in keys { try await barrier.putPlain(key, "v") }
        _ = try await barrier.put(bytes("objects/secrets/prod/x"), domain: "prod", value: try secret("v"), if: .none)
        #expect(barrier.domainKeys().map(\.name) == ["namespace/prod", "plain", "registry/prod", "registry/test"])
        await barrier.close()
    }

    private final class Answers: EtcdSink {
        private let answers = Mutex<[EtcdAnswer]>([])
        var all: [EtcdAnswer] { answers.withLock { $0 } }
        func deliver(_ answers: [EtcdAnswer]) { self.answers.withLock { $0 += answers } }
    }

    @Test("a put that a rotation overtook is sealed again, unseen by its client")
    func overtaken() async throws {
        let barrier = try await store.open()
        try await barrier.putPlain("a", "old")
        let stale = try bytes("new").withUnsafeBytes { try barrier.putRequest(key: bytes("a"), plaintext: $0) }
        let rotation = KeyRotation(barrier: barrier)
        #expect(try await rotation.rotate(.plain, level: .dataKey) == 2)
        let sink = Answers()
        barrier.session(sink: sink).submit([EtcdRequest(ticket: 7, kind: .put(stale))])
        #expect(await eventually { !sink.all.isEmpty })
        let answer = try #require(sink.all.first)
        #expect(answer.ticket == 7)
        _ = try answer.result.get()
        #expect(try await barrier.getPlain("a") == "new")
        let version = try #require(try await barrier.plain(KeyRange(bytes("a"))).first)
        #expect(try barrier.sealedValue(of: version).dataKey.generation == 2)
        await barrier.close()
    }
}
