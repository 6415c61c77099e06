import Basics
import Foundation
import Resources
import SecretMemory
import Testing

@testable import APIClient

@Suite("kubeconfig") struct KubeconfigTests {
    func file(_ text: String, _ folder: String, _ name: String) throws -> String {
        let path = "\(folder)/\(name)"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }
    func withFolder<R>(_ body: (String) throws -> R) throws -> R {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-kubeconfig-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        return try body(folder)
    }
    static let first = """
        apiVersion: v1
        kind: Config
        current-context: a
        clusters:
        - {name: c, cluster: {server: "https://one:6443/", certificate-authority-data: Y2E=, tls-server-name: store}}
        users:
        - {name: u, user: {client-certificate: cert.pem, client-key-data: a2V5}}
        contexts:
        - {name: a, context: {cluster: c, user: u, namespace: team}}
        - {name: broken, context: {cluster: missing, user: u}}
        """

    @Test("server, authority, credentials and namespace come from the context; paths are relative to the file")
    func resolves() throws {
        try withFolder { folder in
            _ = try file("CERT", folder, "cert.pem")
            let files = try KubeconfigFiles(paths: [try file(Self.first, folder, "config")])
            let configuration = try files.resolve()
            #expect(configuration.server == "https://one:6443" && configuration.namespace == "team" && configuration.tlsServerName == "store")
            #expect(configuration.authority == Bytes("ca".utf8) && configuration.certificate == Bytes("CERT".utf8))
            #expect(configuration.key?.withUnsafeBytes { Bytes($0) } == Bytes("key".utf8))
            #expect(try files.resolve(server: "localhost:1").server == "https://localhost:1")
        }
    }

    @Test("of several files the first that names something counts")
    func merges() throws {
        try withFolder { folder in
            _ = try file("CERT", folder, "cert.pem")
            let second = Self.first.replacing("https://one", with: "https://two").replacing("name: a,", with: "name: b,")
            let files = try KubeconfigFiles(paths: [try file(Self.first, folder, "1"), folder + "/absent", try file(second, folder, "2")])
            #expect(try files.resolve(context: "b").server == "https://one:6443")
            #expect(files.currentContext == "a")
        }
    }

    @Test("what is missing is named")
    func errors() throws {
        try withFolder { folder in
            let files = try KubeconfigFiles(paths: [try file(Self.first, folder, "config")])
            func error(_ body: () throws -> Void) -> String? { #expect(throws: ConfigurationError.self) { try body() }?.description }
            #expect(error { _ = try files.resolve(context: "nope") } == "context \"nope\" does not exist")
            #expect(error { _ = try files.resolve(context: "broken") } == "cluster \"missing\" does not exist")
            #expect(error { _ = try files.resolve() }?.hasPrefix("unable to read client-certificate") == true)
            #expect(error { _ = try KubeconfigFiles(paths: [folder + "/absent"]) }?.contains("no such file") == true)
            #expect(error { _ = try KubeconfigFiles(paths: []).resolve() }?.contains("no server is configured") == true)
            let broken = try file("a: [", folder, "broken")
            #expect(error { _ = try KubeconfigFiles(paths: [broken]) }?.contains("line 2") == true)
        }
    }

    @Test("no credential is shown")
    func redacted() throws {
        try withFolder { folder in
            let shown = try KubeconfigFiles(paths: [try file(Self.first, folder, "config")]).redacted.encodedString()
            #expect(!shown.contains("a2V5") && !shown.contains("Y2E=") && shown.contains("REDACTED") && shown.contains("DATA+OMITTED"))
        }
    }

    @Test("the flag wins, then $COFFERCONFIG, then $KUBECONFIG")
    func order() {
        let environment = ["COFFERCONFIG": "/a", "KUBECONFIG": "/b:/c", "HOME": "/nonexistent"]
        #expect(KubeconfigFiles.paths(flag: "/f", environment: environment) == ["/f"])
        #expect(KubeconfigFiles.paths(flag: nil, environment: environment) == ["/a"])
        #expect(KubeconfigFiles.paths(flag: nil, environment: ["KUBECONFIG": "/b:/c"]) == ["/b", "/c"])
        #expect(KubeconfigFiles.paths(flag: nil, environment: ["HOME": "/nonexistent"]) == [])
    }
}

@Suite("requests") struct RequestTests {
    @Test("paths and queries are encoded")
    func targets() throws {
        #expect(APIClient.path(.secrets, namespace: "ns", name: "a/../b") == "/api/v1/namespaces/ns/secrets/a%2F..%2Fb")
        for (namespace, name) in [("ns", ""), ("ns", ".."), ("ns", "."), ("", "a"), ("..", "a"), ("ns", "a\0b")] {
            #expect(throws: ConnectionFailure.self) { try APIClient.objectPath(.secrets, namespace: namespace, name: name) }
        }
        #expect(try APIClient.objectPath(.nodes, namespace: "", name: "n") == "/api/v1/nodes/n")
        #expect(APIClient.path(.secrets, namespace: nil) == "/api/v1/secrets")
        #expect(APIClient.path(.nodes, namespace: "ns", name: "n", subresource: "status") == "/api/v1/nodes/n/status")
        var request = APIRequest(.get, "/x")
        request.query = [("labelSelector", "a in (b, c)"), ("e", "é&=")]
        #expect(request.target == "/x?labelSelector=a%20in%20%28b%2C%20c%29&e=%C3%A9%26%3D")
    }

    @Test("lists are read page by page")
    func pages() async throws {
        let transport = PagedTransport()
        let listing = try await APIClient(transport: transport).list(.secrets, namespace: "ns")
        #expect(listing.items.map(\.name) == ["a", "b"] && listing.resourceVersion == "9")
        #expect(listing.items[0].json["kind"] == "Secret")
    }

    @Test("a watch gives events, remembers its version, skips bookmarks and ends with the server's status")
    func watch() async throws {
        let stream = try await APIClient(transport: PagedTransport()).watch(.secrets, namespace: nil, after: "3")
        #expect(try await stream.next()?.change == .added)
        #expect(stream.resourceVersion == "4")
        #expect(try await stream.next()?.change == .deleted)
        #expect(stream.resourceVersion == "6")
        let end = await #expect(throws: Status.self) { try await stream.next() }
        #expect(end?.code == 410)
    }
}

private struct PagedTransport: APITransport {
    let server = "https://pages:6443"
    func close() async {}
    func send(_ request: APIRequest) async throws -> JSONValue {
        let token = request.query.first { $0.name == "continue" }?.value
        return token == nil
            ? ["metadata": ["resourceVersion": "9", "continue": "t"], "items": [["metadata": ["name": "a"]]]]
            : ["metadata": ["resourceVersion": "9"], "items": [["metadata": ["name": "b"]]]]
    }
    func open(_ request: APIRequest) async throws -> DocumentStream {
        var documents: [JSONValue] = [
            ["type": "ADDED", "object": ["metadata": ["resourceVersion": "4"]]], ["type": "BOOKMARK", "object": ["metadata": ["resourceVersion": "5"]]],
            ["type": "DELETED", "object": ["metadata": ["resourceVersion": "6"]]], ["type": "ERROR", "object": Status.expired(requested: 1, oldest: 2).json],
        ]
        return DocumentStream { documents.isEmpty ? nil : documents.removeFirst() }
    }
}
