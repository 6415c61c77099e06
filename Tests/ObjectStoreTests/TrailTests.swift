import Barrier
import Basics
@testable import ObjectStore
import Resources
import Testing

@Suite struct TrailTests {
    let keyValue = MemoryKeyValue()
    let store: ObjectStore
    init() async throws {
        store = ObjectStore(keyValue: keyValue)
        for name in ["default", "prod"] { _ = try await store.create(namespace(name)) }
    }

    func at(_ seconds: Int64) -> Timestamp { Timestamp(secondsSinceEpoch: 1_800_000_000 + seconds) }
    func holder(_ pod: String, _ version: Int64, secretUID: String = "s1") -> SecretTrail.Holder {
        SecretTrail.Holder(podName: pod, podUID: "uid-" + pod, secretUID: secretUID, resourceVersion: version)
    }
    func key(_ secret: String = "web", in namespace: String = "prod", node: String = "a") throws -> TrailKey {
        try #require(TrailKey(namespace: namespace, secret: secret, node: node))
    }
    /// `pod version from-until end`, a line each.
    func lines(_ trail: SecretTrail) -> [String] {
        trail.spans.map { span in
            let from = span.from.secondsSinceEpoch - at(0).secondsSinceEpoch, until = span.until.map { String($0.secondsSinceEpoch - at(0).secondsSinceEpoch) }
            return "\(span.holder.podName) \(span.holder.resourceVersion) \(from)-\(until ?? "") \(span.end?.rawValue ?? "")"
        }
    }

    @Test("a version is held until another takes its place or it is wiped, per pod; what is said twice changes nothing")
    func spans() {
        var trail = SecretTrail()
        let said = [
            trail.materialized(holder("p", 7), now: at(0)), trail.materialized(holder("p", 7), now: at(1)), trail.materialized(holder("q", 7), now: at(2)),
            trail.materialized(holder("p", 9), now: at(3)), trail.materialized(holder("p", 7), now: at(4)), trail.wiped(podUID: "uid-p", now: at(5)),
            trail.wiped(podUID: "uid-p", now: at(6)), trail.wiped(podUID: "uid-nobody", now: at(6)),
            trail.materialized(holder("q", 4, secretUID: "s2"), now: at(7)),
        ]
        #expect(said == [true, false, true, true, false, true, false, false, true])
        #expect(lines(trail) == ["p 7 0-3 Replaced", "q 7 2-7 Replaced", "p 9 3-5 Wiped", "q 4 7- "])
        #expect(SecretTrail(trail.json) == trail)
    }

    @Test("a clock set back makes no span end before it began")
    func clockBack() {
        var trail = SecretTrail()
        _ = trail.materialized(holder("p", 1), now: at(10))
        _ = trail.wiped(podUID: "uid-p", now: at(3))
        #expect(lines(trail) == ["p 1 10-10 Wiped"])
    }

    @Test("a trail is bounded: the oldest ended spans go first, and their number is told")
    func bounds() {
        var trail = SecretTrail()
        _ = trail.materialized(holder("still", 1), now: at(0))
        for version in 1...Int64(SecretTrail.endedMax) + 11 { _ = trail.materialized(holder("p", version), now: at(version)) }
        #expect(trail.omitted == 10)
        #expect(trail.spans.count == SecretTrail.endedMax + 2)
        #expect(lines(trail).prefix(2) == ["still 1 0- ", "p 11 11-12 Replaced"])
        for number in 0..<SecretTrail.heldMax * 2 { _ = trail.materialized(holder("pod-\(number)", 1), now: at(9_000)) }
        #expect(trail.spans.count { $0.until == nil } == SecretTrail.heldMax)
    }

    @Test("trails are sealed in their namespace's domain, seen by no watch of objects, and go with the namespace")
    func life() async throws {
        let change: (inout SecretTrail) -> Bool = { $0.materialized(self.holder("p", 7), now: self.at(0)) }
        for key in [try key(), try key(node: "b"), try key("web2"), try key(in: "default")] { try await store.updateTrail(key, change) }
        #expect(keyValue.domain(of: "trail/prod/web/a") == "prod")
        let before = try await store.currentRevision()
        try await store.updateTrail(try key(), change)
        #expect(try await store.currentRevision() == before, "nothing new was said")
        #expect(try await store.trails(namespace: "prod", secret: "web").map(\.node) == ["a", "b"])
        #expect(!ObjectKey.all.contains(Bytes("trail/prod/web/a".utf8)))
        _ = try await store.terminateNamespace("prod", .init(), now: moment)
        #expect(try await store.sweepNamespace("prod", now: moment))
        #expect(try await store.trails(namespace: "prod", secret: "web").isEmpty)
        #expect(try await store.trails(namespace: "prod", secret: "web2").isEmpty)
        #expect(try await store.trails(namespace: "default", secret: "web").count == 1)
    }

    @Test("names that could reach another secret's trail have none", arguments: ["", "a/b", "a\u{0}b"])
    func names(name: String) async throws {
        #expect(TrailKey(namespace: "prod", secret: name, node: "a") == nil)
        #expect(TrailKey(namespace: name, secret: "web", node: "a") == nil)
        #expect(try await store.trails(namespace: "prod", secret: name).isEmpty)
    }

    @Test("a trail that does not open is begun anew, and says that something is missing")
    func damaged() async throws {
        try await store.updateTrail(try key()) { $0.materialized(self.holder("p", 7), now: self.at(0)) }
        keyValue.makeUnreadable("trail/prod/web/a", reason: "a flipped bit")
        #expect(try await store.trails(namespace: "prod", secret: "web").map(\.trail.omitted) == [1])
        try await store.updateTrail(try key()) { $0.materialized(self.holder("p", 8), now: self.at(1)) }
        #expect(keyValue.stored("trail/prod/web/a")?.contains("\"omitted\":1") == true)
    }

    @Test("what ended long ago is forgotten, and what began long ago in a pod that nobody knows; the rest stays")
    func forgetting() async throws {
        try await store.updateTrail(try key()) { trail in
            _ = trail.materialized(self.holder("ended", 1), now: self.at(0))
            _ = trail.wiped(podUID: "uid-ended", now: self.at(5))
            _ = trail.materialized(self.holder("known", 1), now: self.at(1))
            _ = trail.materialized(self.holder("unknown", 1), now: self.at(2))
            _ = trail.materialized(self.holder("late", 1), now: self.at(50))
            return true
        }
        try await store.updateTrail(try key("old")) { $0.materialized(self.holder("unknown", 1), now: self.at(2)) }
        try await store.forgetTrails(before: at(10)) { _, holder in holder.podName == "known" }
        let left = try await store.trails(namespace: "prod", secret: "web").map { lines($0.trail) }
        #expect(left == [["known 1 1- ", "late 1 50- "]])
        #expect(keyValue.stored("trail/prod/old/a") == nil)
    }

    @Test("trails of a namespace that is not there are removed with what else an interruption left")
    func orphans() async throws {
        try await store.updateTrail(try key(in: "gone")) { $0.materialized(self.holder("p", 1), now: self.at(0)) }
        try await store.updateTrail(try key()) { $0.materialized(self.holder("p", 1), now: self.at(0)) }
        try await store.discardOrphans()
        #expect(keyValue.stored("trail/gone/web/a") == nil)
        #expect(keyValue.stored("trail/prod/web/a") != nil)
    }
}
