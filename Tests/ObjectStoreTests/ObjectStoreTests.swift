import Barrier
import Basics
@testable import ObjectStore
import Resources
import SecretMemory
import Testing

let moment = Timestamp(secondsSinceEpoch: 1_800_000_000)

func namespace(_ name: String) -> Resource {
    Resource(.namespaces, tree: ["apiVersion": "v1", "kind": "Namespace", "metadata": ["name": .string(name)], "status": ["phase": "Active"]])
}
func secret(_ name: String, in namespace: String = "default", _ value: String = "s3cret", uid: String = "") throws -> Resource {
    var resource = Resource(
        .secrets,
        tree: [
            "apiVersion": "v1", "kind": "Secret", "metadata": ["name": .string(name), "namespace": .string(namespace)], "type": "Opaque",
            "data": ["password": .secret(try SecretValue(copying: Bytes(value.utf8)))],
        ])
    resource.uid = uid
    return resource
}
func expect<R>(_ reason: Status.Reason, location: SourceLocation = #_sourceLocation, _ body: () async throws(Status) -> R) async -> Status? {
    do throws(Status) {
        _ = try await body()
        Issue.record("succeeded; \(reason) was expected", sourceLocation: location)
        return nil
    } catch {
        #expect(error.reason == reason, sourceLocation: location)
        return error
    }
}

@Suite struct ObjectStoreTests {
    let keyValue = MemoryKeyValue()
    let store: ObjectStore
    init() async throws {
        store = ObjectStore(keyValue: keyValue)
        _ = try await store.create(namespace("default"))
    }
    func key(_ name: String, in namespace: String = "default") throws -> ObjectKey {
        try #require(ObjectKey(.secrets, namespace: namespace, name: name))
    }

    @Test("what is created is read back, with the revision as its resource version, sealed in its namespace's domain")
    func createAndGet() async throws {
        let created = try await store.create(secret("web", "hunter2"))
        let read = try await store.get(.secrets, namespace: "default", name: "web")
        #expect(read == created)
        #expect(read.resourceVersion == "3")
        #expect(Secret(read)["password"] == (try SecretValue(copying: Bytes("hunter2".utf8))))
        #expect(keyValue.domain(of: "objects/secrets/default/web") == "default")
        #expect(keyValue.stored("objects/secrets/default/web")?.contains("resourceVersion") == false)
        #expect(keyValue.stored("objects/secrets/default/web")?.contains("aHVudGVyMg==") == true)
    }

    @Test("what exists is not created again, and what is missing is not found")
    func existence() async throws {
        _ = try await store.create(secret("web"))
        _ = await expect(.alreadyExists) { () async throws(Status) in try await store.create(try! secret("web")) }
        let missing = await expect(.notFound) { () async throws(Status) in try await store.get(.secrets, namespace: "default", name: "other") }
        #expect(missing?.message == "secrets \"other\" not found")
    }

    @Test("names that could reach another range are no keys", arguments: ["", "a/b", "../x", "a\u{0}b"])
    func hostileNames(name: String) {
        #expect(ObjectKey(.secrets, namespace: "default", name: name) == nil)
        #expect(ObjectKey(.secrets, namespace: name, name: "x") == nil)
    }

    @Test("a change that meets another one is made again on the newer version")
    func updateRetries() async throws {
        _ = try await store.create(secret("web"))
        let key = try key("web"), store = store, keyValue = keyValue
        keyValue.beforeWrite { _ in
            keyValue.beforeWrite(nil)
            _ = try? await store.update(key) { (current) throws(Status) in var next = current; next["metadata", "labels", "a"] = "1"; return next }
        }
        let updated = try await store.update(key) { (current) throws(Status) in var next = current; next["metadata", "labels", "b"] = "2"; return next }
        #expect(updated.labels == ["a": "1", "b": "2"])
    }

    @Test("a change that changes nothing writes nothing")
    func noChange() async throws {
        let created = try await store.create(secret("web"))
        let revision = try await store.currentRevision()
        let same = try await store.update(key("web")) { (current) throws(Status) in current }
        #expect(same == created)
        #expect(try await store.currentRevision() == revision)
    }

    @Test("a deletion goes only to the object that was meant")
    func deletionPreconditions() async throws {
        let created = try await store.create(secret("web", uid: "u-1"))
        let key = try key("web")
        _ = await expect(.conflict) { () async throws(Status) in try await store.delete(key, .init(uid: "u-2")) }
        _ = await expect(.conflict) { () async throws(Status) in try await store.delete(key, .init(resourceVersion: "1")) }
        try await store.delete(key, .init(uid: "u-1", resourceVersion: created.resourceVersion))
        _ = await expect(.notFound) { () async throws(Status) in try await store.delete(key) }
    }

    @Test("a list is in pages of one revision, whatever happens meanwhile")
    func pages() async throws {
        for number in 0..<7 { _ = try await store.create(secret("s\(number)")) }
        let first = try await store.list(.secrets, namespace: "default", options: ListOptions(limit: 3))
        #expect(first.items.map(\.key.name) == ["s0", "s1", "s2"])
        #expect(first.remaining == 4)
        try await store.delete(key("s4"))
        _ = try await store.create(secret("s9"))
        let second = try await store.list(.secrets, namespace: "default", options: ListOptions(limit: 3, continueToken: first.continueToken))
        #expect(second.items.map(\.key.name) == ["s3", "s4", "s5"])
        #expect(second.revision == first.revision)
        let third = try await store.list(.secrets, namespace: "default", options: ListOptions(limit: 3, continueToken: second.continueToken))
        #expect(third.items.map(\.key.name) == ["s6"])
        #expect(third.continueToken.isEmpty && third.remaining == nil)
    }

    @Test("a filtered list fills its page from the whole range, and says no count")
    func filteredPages() async throws {
        for number in 0..<9 { _ = try await store.create(secret("s\(number)")) }
        let even = { (resource: Resource) in Int(resource.name.dropFirst())! % 2 == 0 }
        let first = try await store.list(.secrets, namespace: "default", options: ListOptions(limit: 2), matches: even)
        #expect(first.items.map(\.key.name) == ["s0", "s2"])
        #expect(first.remaining == nil)
        let rest = try await store.list(.secrets, namespace: "default", options: ListOptions(continueToken: first.continueToken), matches: even)
        #expect(rest.items.map(\.key.name) == ["s4", "s6", "s8"])
    }

    @Test("a continue token of another namespace is refused")
    func foreignToken() async throws {
        _ = try await store.create(namespace("prod"))
        for number in 0..<3 { _ = try await store.create(secret("s\(number)", in: "prod")) }
        let token = try await store.list(.secrets, namespace: "prod", options: ListOptions(limit: 1)).continueToken
        _ = await expect(.badRequest) { () async throws(Status) in
            try await store.list(.secrets, namespace: "default", options: ListOptions(continueToken: token))
        }
        for bad in ["x", "00", "zz", token.uppercased() + "0", String(repeating: "0", count: 5_000)] {
            _ = await expect(.badRequest) { () async throws(Status) in
                try await store.list(.secrets, namespace: "default", options: ListOptions(continueToken: bad))
            }
        }
    }

    @Test("a continue token whose revision is compacted has expired")
    func expiredToken() async throws {
        for number in 0..<3 { _ = try await store.create(secret("s\(number)")) }
        let token = try await store.list(.secrets, namespace: "default", options: ListOptions(limit: 1)).continueToken
        _ = try await store.create(secret("later"))
        keyValue.compact(try await store.currentRevision())
        _ = await expect(.expired) { () async throws(Status) in
            try await store.list(.secrets, namespace: "default", options: ListOptions(continueToken: token))
        }
    }

    @Test("a list shows the past when asked for it, and refuses the future")
    func versions() async throws {
        _ = try await store.create(secret("a"))
        let past = try await store.currentRevision()
        _ = try await store.create(secret("b"))
        #expect(try await store.list(.secrets, namespace: "default", options: ListOptions(version: .exact(past))).items.map(\.key.name) == ["a"])
        #expect(try await store.list(.secrets, namespace: "default", options: ListOptions(version: .notOlderThan(past))).items.count == 2)
        _ = await expect(.timeout) { () async throws(Status) in
            try await store.list(.secrets, namespace: "default", options: ListOptions(version: .notOlderThan(past + 100)))
        }
    }

    @Test("namespaces whose names begin alike do not mix")
    func prefixNamespaces() async throws {
        for name in ["prod", "prod-2"] {
            _ = try await store.create(namespace(name))
            _ = try await store.create(secret("of-\(name)", in: name))
        }
        #expect(try await store.list(.secrets, namespace: "prod").items.map(\.key.name) == ["of-prod"])
        #expect(try await store.list(.secrets, namespace: nil).items.count == 2)
    }

    @Test("an object that does not open is listed with the reason, is no basis of a change, and can be deleted")
    func unreadable() async throws {
        _ = try await store.create(secret("good"))
        _ = try await store.create(secret("lost"))
        keyValue.makeUnreadable("objects/secrets/default/lost", reason: "no such data key")
        let list = try await store.list(.secrets, namespace: "default")
        #expect(list.items.map(\.key.name) == ["good", "lost"])
        #expect(list.items[1].shown.annotation("coffer.dev/unreadable") == "no such data key")
        #expect(list.items[1].shown.tree["data"] == nil)
        let key = try key("lost")
        _ = await expect(.internalError) { () async throws(Status) in try await store.get(.secrets, namespace: "default", name: "lost") }
        _ = await expect(.internalError) { () async throws(Status) in try await store.update(key) { (current) throws(Status) in current } }
        try await store.delete(key)
        #expect(try await store.list(.secrets, namespace: "default").items.map(\.key.name) == ["good"])
    }

    @Test("failures below are told in the API's words", arguments: [
        (BarrierError.sealed, Status.Reason.serviceUnavailable), (.overloaded, .tooManyRequests), (.tooLarge(limit: 10), .requestEntityTooLarge),
        (.unavailable("no leader"), .serviceUnavailable), (.refused("no"), .internalError),
    ])
    func failures(failure: BarrierError, reason: Status.Reason) async throws {
        keyValue.failWrites(failure)
        _ = await expect(reason) { () async throws(Status) in try await store.create(try! secret("web")) }
    }
}

@Suite struct ObjectWatchTests {
    let keyValue = MemoryKeyValue()
    let store: ObjectStore
    init() async throws {
        store = ObjectStore(keyValue: keyValue)
        _ = try await store.create(namespace("default"))
    }

    @Test("a watch resumes after a revision and tells each change as what it is")
    func events() async throws {
        let start = try await store.currentRevision()
        let created = try await store.create(secret("web"))
        let key = try #require(created.key)
        let watch = try await store.watch(.secrets, namespace: "default", after: start)
        var iterator = watch.makeAsyncIterator()
        let added = try #require(try await iterator.next()?.events.first)
        #expect(added.kind == .added && added.object.shown == created)
        let changed = try await store.update(key) { (current) throws(Status) in var next = current; next["metadata", "labels", "a"] = "1"; return next }
        let modified = try #require(try await iterator.next()?.events.first)
        #expect(modified.kind == .modified && modified.object.shown == changed && modified.previous?.shown == created)
        try await store.delete(key)
        let deleted = try #require(try await iterator.next())
        #expect(deleted.events.first?.kind == .deleted)
        #expect(deleted.events.first?.object.shown.labels == ["a": "1"])
        #expect(deleted.events.first?.object.revision == deleted.revision)
        keyValue.sendBookmarks()
        let bookmark = try #require(try await iterator.next())
        #expect(bookmark.events.isEmpty && bookmark.revision == deleted.revision)
    }

    @Test("a watch from a compacted revision is gone, at once or later")
    func gone() async throws {
        for number in 0..<3 { _ = try await store.create(secret("s\(number)")) }
        let now = try await store.currentRevision()
        keyValue.compact(now)
        let gone = await expect(.expired) { () async throws(Status) in try await store.watch(.secrets, namespace: nil, after: 2) }
        #expect(gone?.code == 410)
        var iterator = try await store.watch(.secrets, namespace: nil, after: now).makeAsyncIterator()
        keyValue.endWatches(.compacted(compactRevision: now + 10))
        await #expect(throws: Status.expired(requested: 0, oldest: now + 10)) { try await iterator.next() }
    }

    @Test("a watch from a revision that is not there yet is refused", arguments: [Int64(1_000), Int64.max])
    func future(revision: Int64) async throws {
        _ = await expect(.timeout) { () async throws(Status) in try await store.watch(.secrets, namespace: nil, after: revision) }
    }

    @Test("a watch of everything sees every kind in order")
    func all() async throws {
        var iterator = try await store.watchAll(after: try await store.currentRevision()).makeAsyncIterator()
        _ = try await store.create(namespace("prod"))
        _ = try await store.create(secret("web", in: "prod"))
        #expect(try await iterator.next()?.events.first?.object.key.description == "namespaces/prod")
        #expect(try await iterator.next()?.events.first?.object.key.description == "secrets/prod/web")
    }
}

@Suite struct NamespaceTests {
    let keyValue = MemoryKeyValue()
    let store: ObjectStore
    init() async throws {
        store = ObjectStore(keyValue: keyValue)
        try await store.ensureNamespace("default") { namespace("default") }
        _ = try await store.create(namespace("prod"))
    }

    @Test("nothing is created in a namespace that is not there")
    func missing() async throws {
        let failure = await expect(.notFound) { () async throws(Status) in try await store.create(try! secret("web", in: "nowhere")) }
        #expect(failure?.message == "namespaces \"nowhere\" not found")
    }

    @Test("a deleted namespace takes nothing new, loses its contents, then goes")
    func lifecycle() async throws {
        _ = try await store.create(secret("web", in: "prod"))
        let marked = try await store.terminateNamespace("prod", .init(), now: moment)
        #expect(marked.json.at("status", "phase")?.stringValue == "Terminating")
        _ = await expect(.forbidden) { () async throws(Status) in try await store.create(try! secret("late", in: "prod")) }
        #expect(try await store.sweepNamespace("prod", now: moment))
        #expect(try await store.list(.secrets, namespace: "prod").items.isEmpty)
        _ = await expect(.notFound) { () async throws(Status) in try await store.get(.namespaces, namespace: "", name: "prod") }
        #expect(try await store.sweepNamespace("prod", now: moment))
    }

    @Test("an object created while its namespace goes is taken back")
    func race() async throws {
        let store = store, keyValue = keyValue
        keyValue.beforeWrite { key in
            guard String(decoding: key, as: UTF8.self).hasSuffix("/late") else { return }
            keyValue.beforeWrite(nil)
            _ = try? await store.terminateNamespace("prod", .init(), now: moment)
            _ = try? await store.sweepNamespace("prod", now: moment)
        }
        _ = await expect(.notFound) { () async throws(Status) in try await store.create(try! secret("late", in: "prod")) }
        #expect(try await store.list(.secrets, namespace: nil).items.isEmpty)
    }

    @Test("a namespace waits for what has finalizers")
    func finalizers() async throws {
        var held = try secret("held", in: "prod")
        held.finalizers = ["example.com/hold"]
        let key = try #require(try await store.create(held).key)
        _ = try await store.terminateNamespace("prod", .init(), now: moment)
        #expect(try await store.sweepNamespace("prod", now: moment) == false)
        #expect(try await store.get(.secrets, namespace: "prod", name: "held").deletionTimestamp == moment)
        try await store.delete(key)
        #expect(try await store.sweepNamespace("prod", now: moment))
    }

    @Test("the default namespace stays, and a living one is not swept")
    func protected() async throws {
        _ = await expect(.forbidden) { () async throws(Status) in try await store.terminateNamespace("default", .init(), now: moment) }
        _ = try await store.create(secret("web", in: "prod"))
        #expect(try await store.sweepNamespace("prod", now: moment) == false)
        #expect(try await store.list(.secrets, namespace: "prod").items.count == 1)
    }

    @Test("what an interruption left in no namespace is found and removed")
    func orphans() async throws {
        let orphan = try secret("orphan", in: "gone")
        _ = try await keyValue.put(Bytes("objects/secrets/gone/orphan".utf8), domain: "gone", value: orphan.json.encodedSecret(), if: .absent)
        _ = try await store.create(secret("kept", in: "prod"))
        try await store.discardOrphans()
        #expect(try await store.list(.secrets, namespace: nil).items.map(\.key.name) == ["kept"])
    }
}
