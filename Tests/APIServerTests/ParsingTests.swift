@testable import APIServer
import Basics
import ObjectStore
import Resources
import SecretMemory
import Testing

@Suite struct RequestTargetTests {
    func target(_ method: String, _ path: String, watch: Bool = false) throws -> ResourceTarget {
        guard case .resource(let target) = try RequestTarget(method: method, path: path, isWatch: watch) else { throw Status.badRequest("no resource") }
        return target
    }

    @Test("paths and methods say what is asked, as Kubernetes reads them", arguments: [
        ("GET", "/api/v1/secrets", "list secrets  "), ("GET", "/api/v1/namespaces/a/secrets", "list secrets a "),
        ("GET", "/api/v1/namespaces/a/secrets/b", "get secrets a b"), ("POST", "/api/v1/namespaces/a/pods/b/binding", "create pods a b/binding"),
        ("PATCH", "/api/v1/namespaces/a/pods/b/status", "patch pods a b/status"), ("GET", "/api/v1/namespaces", "list namespaces  "),
        ("DELETE", "/api/v1/namespaces/a", "delete namespaces  a"), ("GET", "/api/v1/namespaces/a/status", "get namespaces  a/status"),
        ("PUT", "/api/v1/nodes/n/status", "update nodes  n/status"), ("DELETE", "/api/v1/namespaces/a/secrets", "deletecollection secrets a "),
        ("GET", "/api/v1/nodes/n/", "get nodes  n"), ("GET", "/api/v1/namespaces/a%2Db/secrets", "list secrets a-b "),
    ])
    func meaning(method: String, path: String, meaning: String) throws {
        let target = try target(method, path)
        let name = target.name + (target.subresource.isEmpty ? "" : "/" + target.subresource)
        #expect("\(target.verb.rawValue) \(target.type.plural) \(target.namespace) \(name)" == meaning)
    }

    @Test("an empty word within a path names nothing, and is not skipped", arguments: [
        "/api/v1/nodes//n", "/api/v1/namespaces//secrets", "/api/v1/namespaces//secrets/a",
    ])
    func emptyWords(path: String) {
        #expect(throws: Status.noSuchPath) { try RequestTarget(method: "DELETE", path: path, isWatch: false) }
    }

    @Test("a watch is a list or a get that goes on")
    func watch() throws {
        #expect(try target("GET", "/api/v1/secrets", watch: true).verb == .watch)
        #expect(try target("GET", "/api/v1/namespaces/a/secrets/b", watch: true).verb == .watch)
    }

    @Test("a path that cannot be decoded is refused", arguments: ["/api/v1/%zz", "/api/v1/%4", "/api/v1/%00", "/api/v1/%ff%fe", "/a/../b", "/a/%2e/b"])
    func malformed(path: String) {
        #expect(throws: Status.badRequest("the path cannot be read")) { try RequestTarget(method: "GET", path: path, isWatch: false) }
    }
}

@Suite struct RequestQueryTests {
    @Test("parameters are decoded, the first of a name counts, and wrong ones are refused")
    func values() throws {
        let query = try RequestQuery("limit=5&limit=6&labelSelector=a%3Db%2Cc+in+%28d%29&watch")
        #expect(try query.limit() == 5)
        #expect(query["labelSelector"] == "a=b,c in (d)")
        #expect(query.isWatch)
        #expect(throws: Status.self) { try RequestQuery("a=%zz") }
        #expect(throws: Status.self) { try RequestQuery("limit=-1").limit() }
        #expect(throws: Status.self) { try RequestQuery("dryRun=Maybe").isDryRun() }
        #expect(throws: Status.self) { try RequestQuery("fieldValidation=Some").fieldValidation() }
        #expect(throws: Status.self) { try RequestQuery("timeoutSeconds=99999999999999999999").timeoutSeconds() }
    }

    @Test("resource versions of lists are matched as asked", arguments: [
        ("", ListOptions()), ("resourceVersion=0", ListOptions()), ("resourceVersion=7", ListOptions(version: .notOlderThan(7))),
        ("resourceVersion=7&limit=3", ListOptions(limit: 3, version: .exact(7))),
        ("resourceVersion=7&resourceVersionMatch=Exact", ListOptions(version: .exact(7))),
        ("resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=2", ListOptions(limit: 2, version: .notOlderThan(7))),
    ])
    func listOptions(query: String, options: ListOptions) throws { #expect(try RequestQuery(query[...]).listOptions() == options) }

    @Test("a match without a version, or an unknown one, is refused", arguments: ["resourceVersionMatch=Exact", "resourceVersion=7&resourceVersionMatch=x"])
    func badMatch(query: String) { #expect(throws: Status.self) { try RequestQuery(query[...]).listOptions() } }
}

@Suite struct RenderingTests {
    @Test("the first form that can be served is", arguments: [
        (nil, Rendering.object), ("*/*", .object), ("application/json", .object), ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", .table),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", .object),
        ("application/vnd.kubernetes.protobuf;as=Table, application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", .partialMetadata),
        ("text/html, application/*", .object), ("application/json;charset=utf-8", .object),
    ] as [(String?, Rendering)])
    func choice(accept: String?, rendering: Rendering) { #expect(Rendering(accept: accept) == rendering) }

    @Test("what cannot be served is not")
    func none() { #expect(Rendering(accept: "text/html, application/vnd.kubernetes.protobuf") == nil) }
}

@Suite struct KubernetesProtobufTests {
    func document(_ bytes: Bytes) throws -> JSONValue? { try bytes.withUnsafeBytes { try KubernetesProtobuf.document($0) } }
    /// As kubectl 1.32 sends `create secret generic web --from-literal=a=b`.
    static let secret =
        Bytes("k8s\u{0}\n\u{c}\n\u{2}v1\u{12}\u{6}Secret\u{12}\u{1f}".utf8)
        + Bytes("\n\u{13}\n\u{3}web\u{12}\u{0}\u{1a}\u{0}\"\u{0}*\u{0}2\u{0}8\u{0}B\u{0}\u{12}\u{6}\n\u{1}a\u{12}\u{1}b\u{1a}\u{0}\"\u{0}".utf8)

    @Test("a secret as kubectl sends it is read, its values into secrets")
    func read() throws {
        let document = try #require(try document(Self.secret))
        #expect(document == [
            "metadata": ["name": "web"], "data": ["a": .secret(try SecretValue(copying: Bytes("b".utf8)))], "apiVersion": "v1", "kind": "Secret",
        ])
    }

    @Test("cut anywhere, it is refused or read as less, and never more than its bytes")
    func cut() {
        for count in 0..<Self.secret.count { _ = try? document(Bytes(Self.secret[..<count])) }
        #expect(throws: KubernetesProtobuf.Malformed.self) { try document(Bytes(Self.secret[..<10])) }
        #expect(throws: KubernetesProtobuf.Malformed.self) { try document([1, 2, 3]) }
    }

    @Test("random bytes are refused or read, and nothing else happens")
    func random() {
        var generator = SeededGenerator(seed: 3)
        for _ in 0..<5_000 {
            var bytes = Self.secret
            for _ in 0..<3 { bytes[Int.random(in: 4..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator) }
            _ = try? document(bytes)
        }
    }

    @Test("a kind that is not read in this form is told from a malformed one")
    func otherKind() throws {
        #expect(try document(Bytes("k8s\u{0}\n\u{9}\n\u{2}v1\u{12}\u{3}Pod\u{12}\u{0}".utf8)) == nil)
    }
}
