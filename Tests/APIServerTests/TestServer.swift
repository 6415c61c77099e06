@testable import APIServer
import AsyncHTTPClient
import Audit
import Basics
import Certificates
import Foundation
import Logging
import NIOCore
import NIOFoundationCompat
import NIOHTTP1
import NIOSSL
import Resources
import ServiceLifecycle
import Synchronization
import Testing

/// A directory of its own that goes with the test.
final class TemporaryDirectory: Sendable {
    let path: String
    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-api-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Key management that only notes what it is asked.
final class NotedOperations: Operations {
    let asked = Mutex<[String]>([])
    func rotate(_ scope: RotationScope, level: RotationLevel) async throws -> RotationProgress {
        asked.withLock { $0.append("\(level.rawValue) of \(scope.domain)") }
        if scope == .namespace("stuck") { throw Status.conflict(.namespaces, "stuck", "a rotation is under way") }
        return RotationProgress(domain: scope.domain, level: level, state: .running, generation: 2, done: 0, remaining: 7)
    }
    func rotations() async throws -> [RotationProgress] {
        [RotationProgress(domain: "namespace/default", level: .dataKey, state: .complete, generation: 2, done: 7, remaining: 0)]
    }
    func vaultStatus() async throws -> VaultStatus {
        VaultStatus(
            isSealed: false, keyring: "00112233", slots: ["key-file"],
            domains: [.init(name: "default", keyEncryptionKeyVersion: 1, dataKeys: [.init(generation: 1, state: "Active", values: 3)])])
    }
}

struct Reply {
    var code: Int
    var json: JSONValue
    var text: String
    var headers: HTTPHeaders
    var version: HTTPVersion
    var reason: String { json["reason"]?.stringValue ?? "" }
    var message: String { json["message"]?.stringValue ?? "" }
}

/// A server in this process on a free port, over memory, with an authority of its own; and clients of it.
final class TestServer: Sendable {
    let directory: TemporaryDirectory
    let keyValue: MemoryKeyValue
    let operations = NotedOperations()
    let authority: CertificateAuthority
    let port: Int
    let auditPath: String
    let audit: AuditLog
    private let task: Task<Void, any Error>
    private let group: ServiceGroup
    let server: APIServer

    init(keyValue: MemoryKeyValue = MemoryKeyValue(), schedules: Bool = true, heartbeatSeconds: Double = 5, firstBytesMilliseconds: Int64? = nil) async throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        self.keyValue = keyValue
        let pki = CertificateDirectory(path: directory.path + "/pki")
        authority = try pki.authority(now: Date())
        let credential = try pki.server(names: ["localhost", "127.0.0.1"], authority: authority, now: Date())
        var configuration = APIServer.Configuration(
            host: "127.0.0.1", port: 0,
            tls: try TransportSecurity.server(credential, clients: authority.certificate, certificates: .optional))
        let offset = TestClock()
        configuration.schedules = schedules
        configuration.heartbeatSeconds = heartbeatSeconds
        if let firstBytesMilliseconds { configuration.firstBytesMilliseconds = firstBytesMilliseconds }
        configuration.clock = { offset.now() }
        clock = offset
        var logger = Logger(label: "test")
        logger.logLevel = .error
        auditPath = directory.path + "/audit.log"
        audit = try AuditLog(path: auditPath)
        let server = APIServer(configuration: configuration, keyValue: keyValue, operations: operations, audit: audit, logger: logger)
        self.server = server
        let group = ServiceGroup(configuration: .init(services: [.init(service: server)], logger: logger))
        self.group = group
        task = Task { try await group.run() }
        port = try await server.boundPort()
        try await eventually("the default namespace is there") {
            guard try await self.call(.GET, "/readyz").code == 200 else { return false }
            return try await self.call(.GET, "/api/v1/namespaces/default").code == 200
        }
    }
    let clock: TestClock

    func stop() async throws {
        await group.triggerGracefulShutdown()
        try await task.value
    }

    func credential(_ identity: CertificateIdentity) throws -> Credential { try authority.issueClient(identity, now: Date()) }

    func client(_ identity: CertificateIdentity?, http1: Bool = false) throws -> HTTPClient {
        var configuration = HTTPClient.Configuration()
        configuration.tlsConfiguration = try TransportSecurity.client(identity.map { try credential($0) }, servers: authority.certificate)
        configuration.httpVersion = http1 ? .http1Only : .automatic
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }

    /// One request as one client, JSON in and out.
    func call(
        _ method: HTTPMethod, _ path: String, _ body: JSONValue? = nil, as identity: CertificateIdentity? = .administrator, http1: Bool = false,
        contentType: String = "application/json", accept: String? = nil, text: String? = nil, headers: [(String, String)] = []
    ) async throws -> Reply {
        let client = try client(identity, http1: http1)
        defer { Task { try? await client.shutdown() } }
        var request = HTTPClientRequest(url: "https://127.0.0.1:\(port)\(path)")
        request.method = method
        if let accept { request.headers.add(name: "Accept", value: accept) }
        request.headers.add(contentsOf: headers)
        if let bytes = text.map({ Bytes($0.utf8) }) ?? body?.encodedBytes() {
            request.headers.add(name: "Content-Type", value: contentType)
            request.body = .bytes(ByteBuffer(bytes: bytes))
        }
        let response = try await client.execute(request, timeout: .seconds(60))
        let buffer = try await response.body.collect(upTo: 64 << 20)
        let text = String(buffer: buffer)
        return Reply(
            code: Int(response.status.code), json: (try? JSONValue(parsing: Bytes(buffer.readableBytesView))) ?? .null, text: text,
            headers: response.headers, version: response.version)
    }
}

final class TestClock: Sendable {
    private let offset = Mutex(0.0)
    func now() -> Date { Date().addingTimeInterval(offset.withLock { $0 }) }
    func advance(seconds: Double) { offset.withLock { $0 += seconds } }
}

/// Asks again and again until it is so, or the time has passed.
func eventually(_ what: String, seconds: Double = 60, location: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool) async throws {
    let end = ContinuousClock.now + .seconds(seconds)
    while ContinuousClock.now < end {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(10))
    }
    Issue.record("not within \(seconds) s: \(what)", sourceLocation: location)
    throw CancellationError()
}

func secretJSON(_ name: String, _ value: String = "hunter2-hunter2", labels: [String: String] = [:]) -> JSONValue {
    var json: JSONValue = ["apiVersion": "v1", "kind": "Secret", "metadata": ["name": .string(name)], "stringData": ["password": .string(value)]]
    for key in labels.keys.sorted() { json[["metadata", "labels", key]] = labels[key].map { .string($0) } }
    return json
}
func podJSON(_ name: String, secret: String = "web", node: String = "", grace: Int64? = nil) -> JSONValue {
    var spec: JSONValue = [
        "containers": [["name": "main", "image": "busybox", "volumeMounts": [["name": "keys", "mountPath": "/keys"]]]],
        "volumes": [["name": "keys", "secret": ["secretName": .string(secret)]]],
    ]
    if !node.isEmpty { spec["nodeName"] = .string(node) }
    if let grace { spec["terminationGracePeriodSeconds"] = .integer(grace) }
    return ["apiVersion": "v1", "kind": "Pod", "metadata": ["name": .string(name)], "spec": spec]
}
let secretsPath = "/api/v1/namespaces/default/secrets", podsPath = "/api/v1/namespaces/default/pods"
