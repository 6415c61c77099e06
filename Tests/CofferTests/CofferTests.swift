import Coffer
import Foundation
import Logging
import Testing

/// The embedded library, through its public face alone.
struct CofferTests {
    /// Removed with the last reference.
    final class Folder: Sendable {
        let path = NSTemporaryDirectory() + "coffer-\(UUID().uuidString)"
        init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
        deinit { try? FileManager.default.removeItem(atPath: path) }
    }
    let folder: Folder
    init() throws { folder = try Folder() }

    private func open() async throws(CofferError) -> Coffer {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return try await Coffer.open(folder.path + "/data", unlock: .keyFile(folder.path + "/seal.key"), logger: logger)
    }
    private func secret(_ text: String) throws -> Coffer.Secret { try Coffer.Secret(text) }
    private func code(_ body: () async throws -> Void) async -> CofferError.Code? {
        do { try await body() } catch { return (error as? CofferError)?.code }
        return nil
    }

    @Test("entries are there after closing and opening again, with their versions")
    func entries() async throws {
        var coffer = try await open()
        let first = try await coffer.put("a", secret("1")), second = try await coffer.put("a", secret("2"))
        try await coffer.put("b", secret("3"))
        await coffer.close()
        coffer = try await open()
        let item = try #require(try await coffer.get("a"))
        #expect(item.value.revealedText() == "2" && item.revision == second && item.createRevision == first && item.version == 2)
        #expect(try await coffer.get("a", at: first)?.value.revealedText() == "1")
        #expect(try await coffer.get("missing") == nil)
        let page = try await coffer.range(.all, limit: 1)
        #expect(page.items.map(\.key) == ["a"] && page.count == 2 && page.hasMore)
        #expect(try await coffer.delete(.prefix("a")) == 1)
        #expect(try await coffer.range(.range("a"..<"z")).items.map(\.key) == ["b"])
        await coffer.close()
    }

    @Test("a write under a condition happens only when it holds")
    func conditions() async throws {
        let coffer = try await open()
        let revision = try await coffer.put("a", secret("1"), if: .absent)
        #expect(await code { try await coffer.put("a", try secret("2"), if: .absent) } == .conditionFailed)
        #expect(await code { try await coffer.put("a", try secret("2"), if: .unchanged(since: revision - 1)) } == .conditionFailed)
        try await coffer.put("a", secret("2"), if: .unchanged(since: revision))
        #expect(try await coffer.get("a")?.value.revealedText() == "2")
        await coffer.close()
    }

    @Test("a transaction is all or nothing, in one revision, and may require values")
    func transactions() async throws {
        let coffer = try await open()
        try await coffer.put("a", secret("1"))
        let done = try await coffer.transact(
            if: [.value("a", secret("1")), .absent("b")], then: [.put("b", secret("2")), .put("c", secret("3")), .get("b"), .get("x")])
        #expect(done.succeeded && done.found.map { $0?.value.revealedText() } == ["2", nil])
        let revisions = try await coffer.range(.range("b"..<"d")).items.map(\.revision)
        #expect(revisions == [done.revision, done.revision])
        let refused = try await coffer.transact(if: [.value("a", secret("9"))], then: [.delete(.all)], otherwise: [.get("a")])
        #expect(!refused.succeeded && refused.found.first??.value.revealedText() == "1")
        #expect(try await coffer.range(.all).count == 3)
        await coffer.close()
    }

    @Test("a watch tells changes in order from the revision asked for, and says when that is compacted")
    func watch() async throws {
        let coffer = try await open()
        let first = try await coffer.put("w/0", secret("0"))
        let stream = coffer.watch(.prefix("w/"), after: first - 1)
        for number in 1..<10 { try await coffer.put("w/\(number)", secret("\(number)")) }
        try await coffer.put("other", secret("unseen"))
        try await coffer.delete(.one("w/0"))
        var told: [String] = []
        for try await changes in stream {
            for change in changes.changes {
                switch change {
                case .put(let item): told.append("\(item.key)=\(item.value.revealedText())")
                case .delete(let key, _): told.append("-\(key)")
                }
            }
            if told.last == "-w/0" { break }
        }
        #expect(told == (0..<10).map { "w/\($0)=\($0)" } + ["-w/0"])
        let last = try await coffer.put("w/z", secret("z"))
        try await coffer.compact(before: last)
        #expect(await code { for try await _ in coffer.watch(.all, after: first) {} } == .revisionGone)
        #expect(await code { _ = try await coffer.get("w/1", at: first) } == .revisionGone)
        #expect(await code { _ = try await coffer.get("w/1", at: last + 100) } == .revisionGone)
        await coffer.close()
    }

    @Test("a reader that begins late, after thousands of changes and a rotation, misses nothing")
    func lateReader() async throws {
        let coffer = try await open()
        let stream = coffer.watch(.prefix("w/"))
        var iterator = stream.makeAsyncIterator()
        _ = try await iterator.next()
        for number in 0..<2_000 { try await coffer.put("w/\(number % 7)", secret("v\(number)")) }
        try await coffer.rotateEntries(.dataKey)
        await coffer.rotationsSettled()
        var told: [String] = []
        while told.count < 2_000, let changes = try await iterator.next() {
            for case .put(let item) in changes.changes { told.append(item.value.revealedText()) }
        }
        #expect(told == (0..<2_000).map { "v\($0)" })
        await coffer.close()
        do {
            while try await iterator.next() != nil {}
            Issue.record("the watch ended as if it had been asked to")
        } catch let error as CofferError { #expect(error.code == .unavailable) }
    }

    @Test("what is put with a lease goes when it ends")
    func leases() async throws {
        let coffer = try await open()
        let lease = try await coffer.grantLease(seconds: 60)
        try await coffer.put("a", secret("1"), lease: lease)
        #expect(try await coffer.keepAlive(lease: lease) == 60)
        #expect(try await coffer.get("a")?.lease == lease)
        try await coffer.revoke(lease: lease)
        #expect(try await coffer.get("a") == nil)
        #expect(await code { try await coffer.revoke(lease: lease) } == .notFound)
        #expect(await code { try await coffer.put("a", try secret("1"), lease: lease) } == .notFound)
        await coffer.close()
    }

    @Test("two namespaces' secrets of one name are two secrets")
    func secrets() async throws {
        var coffer = try await open()
        for namespace in ["prod", "test"] {
            try await coffer.createNamespace(namespace)
            try await coffer.putSecret("db", in: namespace, ["password": secret("of \(namespace)"), "user": secret("u")])
        }
        try await coffer.putSecret("db", in: "test", ["password": secret("newer")])
        await coffer.close()
        coffer = try await open()
        #expect(try await coffer.secret("db", in: "prod")?["password"]?.revealedText() == "of prod")
        #expect(try await coffer.secret("db", in: "test")?.mapValues { $0.revealedText() } == ["password": "newer"])
        #expect(try await coffer.namespaces() == ["prod", "test"])
        #expect(try await coffer.secrets(in: "prod") == ["db"])
        try await coffer.deleteSecret("db", in: "prod")
        #expect(try await coffer.secret("db", in: "prod") == nil)
        #expect(await code { try await coffer.deleteSecret("db", in: "prod") } == .notFound)
        #expect(await code { try await coffer.putSecret("db", in: "nowhere", [:]) } == .notFound)
        #expect(await code { try await coffer.putSecret("Not A Name", in: "prod", [:]) } == .invalid)
        #expect(await code { try await coffer.createNamespace("prod") } == .alreadyExists)
        #expect(await code { try await coffer.putSecret("big", in: "prod", ["k": try secret(String(repeating: "x", count: 1 << 20) + "x")]) } == .invalid)
        await coffer.close()
    }

    @Test("after a rotation everything opens, under the new generation alone")
    func rotation() async throws {
        let coffer = try await open()
        try await coffer.createNamespace("prod")
        for number in 0..<20 { try await coffer.putSecret("s\(number)", in: "prod", ["k": secret("v\(number)")]) }
        for number in 0..<20 { try await coffer.put("e\(number)", in: number, secret("v\(number)")) }
        try await coffer.rotate(.dataKey, ofNamespace: "prod")
        try await coffer.rotate(.keyEncryptionKey, ofNamespace: "prod")
        try await coffer.rotateEntries(.dataKey)
        await coffer.rotationsSettled()
        let status = await coffer.keyStatus()
        let prod = try #require(status.first { $0.name == "namespace/prod" }), plain = try #require(status.first { $0.name == "plain" })
        #expect(prod.generation == 2 && prod.keyEncryptionKeyVersion == 2 && plain.generation == 2 && plain.keyEncryptionKeyVersion == 1)
        for number in 0..<20 { #expect(try await coffer.secret("s\(number)", in: "prod")?["k"]?.revealedText() == "v\(number)") }
        #expect(try await coffer.range(.all).items.count == 20)
        #expect(await code { try await coffer.rotate(.dataKey, ofNamespace: "nobody") } == .notFound)
        await coffer.close()
    }

    @Test("a named key wraps, also after its rotation, and never for another context")
    func namedKeys() async throws {
        let coffer = try await open()
        try await coffer.createKey("disk", in: "prod")
        let wrapped = try await coffer.wrap(secret("another program's key"), with: "disk", in: "prod", context: [1])
        #expect(try await coffer.rotateKey("disk", in: "prod") == 2)
        #expect(try await coffer.unwrap(wrapped, with: "disk", in: "prod", context: [1]).revealedText() == "another program's key")
        #expect(await code { _ = try await coffer.unwrap(wrapped, with: "disk", in: "prod", context: [2]) } == .invalid)
        #expect(await code { try await coffer.createKey("disk", in: "prod") } == .alreadyExists)
        #expect(await code { _ = try await coffer.wrap(try secret("x"), with: "none", in: "prod") } == .notFound)
        await coffer.close()
    }

    @Test("a closed store and a directory in use say so")
    func refused() async throws {
        let coffer = try await open()
        #expect(await code { _ = try await open() } == .cannotOpen)
        await coffer.close()
        #expect(await code { try await coffer.put("a", try secret("1")) } == .unavailable)
        #expect(await code { _ = try await coffer.get("a") } == .unavailable)
        let other = folder.path + "/other.key"
        #expect(FileManager.default.createFile(atPath: other, contents: Data(repeating: 1, count: 32), attributes: [.posixPermissions: 0o400]))
        #expect(await code { _ = try await Coffer.open(folder.path + "/data", unlock: .keyFile(other)) } == .cannotOpen)
    }

    @Test("keys and values out of bounds are refused, and no print shows a secret")
    func bounds() async throws {
        let coffer = try await open()
        #expect(await code { try await coffer.put("", try secret("1")) } == .invalid)
        #expect(await code { try await coffer.put(Coffer.Key(Array(repeating: 1, count: 65_536)), try secret("1")) } == .invalid)
        #expect(await code { try await coffer.put("a", try Coffer.Secret(Array(repeating: 1, count: 2 << 20))) } == .invalid)
        try await coffer.put("empty", Coffer.Secret([]))
        #expect(try await coffer.get("empty")?.value.count == 0)
        let item = try #require(try await coffer.get("empty"))
        #expect(!"\(item) \(try secret("hunter2"))".contains("hunter2"))
        await coffer.close()
    }
}

extension Coffer {
    fileprivate func put(_ prefix: String, in number: Int, _ value: Secret) async throws { try await put(Key("\(prefix)/\(number)"), value) }
}
