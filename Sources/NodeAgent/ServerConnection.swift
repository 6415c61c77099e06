import AsyncHTTPClient
import Basics
import Foundation
import Logging
import NIOCore
import NIOFoundationCompat
import NIOHTTP1
import NIOSSL
import Mounts
import NodeProtocol

/// Where the server is and who this node is.
package struct ServerOptions: Sendable {
    package var node: String
    /// `https://host:port`
    package var server: String
    package var caFile: String
    package var certificateFile: String
    package var keyFile: String
    package init(node: String, server: String, caFile: String, certificateFile: String, keyFile: String) {
        self.node = node; self.server = server; self.caFile = caFile; self.certificateFile = certificateFile; self.keyFile = keyFile
    }
}

/// The server said no, or nothing.
package struct ServerFailure: Error, CustomStringConvertible {
    package var description: String
    package var status: Int
    /// The server said that it cannot just now, as when its cluster elects a leader.
    var isForNow: Bool { status == 429 || status == 503 }
}

/// One connection's worth of the node's requests. Made anew for every stream, so that renewed certificates are taken up.
struct ServerConnection: Sendable {
    private let client: HTTPClient
    private let options: ServerOptions
    /// The server tells that it lives every few seconds; silence of so long is a dead stream.
    private static let silenceMax = TimeAmount.seconds(30)
    private static let answerBytesMax = 1 << 20

    init(_ options: ServerOptions) throws {
        var tls = TLSConfiguration.makeClientConfiguration()
        for file in [options.caFile, options.certificateFile, options.keyFile] where !FileManager.default.isReadableFile(atPath: file) {
            throw ServerFailure(description: "\(file) cannot be read", status: 0)
        }
        tls.trustRoots = .file(options.caFile)
        do {
            tls.certificateChain = try NIOSSLCertificate.fromPEMFile(options.certificateFile).map { .certificate($0) }
            tls.privateKey = .privateKey(try NIOSSLPrivateKey(file: options.keyFile, format: .pem))
        } catch {
            throw ServerFailure(description: "\(options.certificateFile) and \(options.keyFile) are no certificate and key in PEM", status: 0)
        }
        tls.minimumTLSVersion = .tlsv12
        var configuration = HTTPClient.Configuration(tlsConfiguration: tls)
        configuration.timeout = HTTPClient.Configuration.Timeout(connect: .seconds(5), read: Self.silenceMax)
        client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        self.options = options
    }

    func close() async { try? await client.shutdown() }

    private func request(_ method: HTTPMethod, _ path: String, type: String, body: ByteBuffer) -> HTTPClientRequest {
        var request = HTTPClientRequest(url: options.server + path)
        request.method = method
        request.headers.add(name: "Content-Type", value: type)
        request.headers.add(name: "User-Agent", value: "coffer-agent")
        request.body = .bytes(body)
        return request
    }

    private var nodePath: String { "/apis/coffer.dev/v1/nodes/\(Self.escaped(options.node))" }
    static func escaped(_ name: String) -> String { name.addingPercentEncoding(withAllowedCharacters: .alphanumerics.union(["-", ".", "_"])) ?? "" }

    /// Opens the stream and hands on each message until it ends. Chunks are wiped once they are read, where the memory is ours alone.
    func follow(_ request: SyncRequest, _ deliver: (SyncMessage) async throws -> Void) async throws {
        let response = try await client.execute(
            self.request(.POST, nodePath + "/sync", type: "application/octet-stream", body: ByteBuffer(bytes: request.encode())), deadline: .distantFuture)
        guard response.status == .ok else { throw try await failure("sync", response) }
        var decoder = SyncDecoder()
        for try await var chunk in response.body {
            let messages = try unsafe chunk.withUnsafeReadableBytes { try unsafe decoder.consume($0) }
            chunk.setRepeatingByte(0, count: chunk.readableBytes, at: chunk.readerIndex)
            for message in messages { try await deliver(message) }
        }
        throw ServerFailure(description: "the server closed the stream", status: 0)
    }

    func acknowledge(_ acknowledgement: Acknowledgement) async throws {
        let body = ByteBuffer(bytes: acknowledgement.encode())
        let response = try await client.execute(request(.POST, nodePath + "/acks", type: "application/octet-stream", body: body), timeout: .seconds(10))
        guard (200..<300).contains(Int(response.status.code)) else { throw try await failure("acks", response) }
        try await drain(response)
    }

    // MARK: Kubernetes objects

    private static let patchType = "application/strategic-merge-patch+json"

    /// Makes this node's object when it is not there, and says that it is ready.
    func registerNode() async throws {
        let node = NodeObject(metadata: .init(name: options.node, labels: ["kubernetes.io/hostname": options.node, "kubernetes.io/os": "linux"]))
        let response = try await client.execute(request(.POST, "/api/v1/nodes", type: "application/json", body: try Self.json(node)), timeout: .seconds(10))
        switch Int(response.status.code) {
        case 200..<300, 409: try await drain(response)
        // A server that makes the objects itself may forbid it; the status says whether there is one.
        case 403: try await drain(response)
        default: throw try await failure("node", response)
        }
        try await reportNode()
    }

    func reportNode() async throws {
        let now = Self.timestamp()
        let ready = Condition(
            type: "Ready", status: "True", reason: "AgentReady", message: "the agent delivers secrets", lastTransitionTime: nil, lastHeartbeatTime: now)
        let body = try Self.json(StatusPatch(metadata: nil, status: .init(conditions: [ready])))
        let path = "/api/v1/nodes/\(Self.escaped(options.node))/status"
        let response = try await client.execute(request(.PATCH, path, type: Self.patchType, body: body), timeout: .seconds(10))
        guard (200..<300).contains(Int(response.status.code)) else { throw try await failure("node status", response) }
        try await drain(response)
    }

    /// The pod's condition; its uid goes along, so that a successor of the same name is not meant. False when the pod is gone.
    func report(_ report: PodReport) async throws -> Bool {
        let condition = Condition(type: "coffer.dev/SecretsReady", status: report.isReady ? "True" : "False", reason: report.reason.code.rawValue,
                                  message: String(report.reason.message.prefix(1_024)), lastTransitionTime: Self.timestamp(), lastHeartbeatTime: nil)
        let body = try Self.json(StatusPatch(metadata: .init(uid: report.podUID), status: .init(conditions: [condition])))
        let path = "/api/v1/namespaces/\(Self.escaped(report.namespace))/pods/\(Self.escaped(report.podName))/status"
        let response = try await client.execute(request(.PATCH, path, type: Self.patchType, body: body), timeout: .seconds(10))
        switch Int(response.status.code) {
        case 200..<300:
            try await drain(response)
            return true
        case 403, 404, 409:
            // A pod that was just unbound or deleted is none of this node's any more.
            try await drain(response)
            return false
        default: throw try await failure("pod status", response)
        }
    }

    private func drain(_ response: HTTPClientResponse) async throws { _ = try await response.body.collect(upTo: Self.answerBytesMax) }

    private func failure(_ what: String, _ response: HTTPClientResponse) async throws -> ServerFailure {
        let body = try? await response.body.collect(upTo: 64 << 10)
        let status = body.flatMap { try? JSONDecoder().decode(StatusObject.self, from: Data(buffer: $0)) }
        let code = response.status.code
        return ServerFailure(description: "\(what): \(code) \(status?.message ?? response.status.reasonPhrase)", status: Int(code))
    }

    private static func json(_ value: some Encodable) throws -> ByteBuffer { ByteBuffer(data: try JSONEncoder().encode(value)) }
    private static func timestamp() -> String { Date().formatted(.iso8601) }
}

private struct NodeObject: Encodable {
    struct Metadata: Encodable { var name: String, labels: [String: String] }
    var apiVersion = "v1"
    var kind = "Node"
    var metadata: Metadata
}
private struct Condition: Encodable {
    var type: String
    var status: String
    var reason: String
    var message: String
    var lastTransitionTime: String?
    var lastHeartbeatTime: String?
}
private struct StatusPatch: Encodable {
    struct Metadata: Encodable { var uid: String }
    struct Status: Encodable { var conditions: [Condition] }
    var metadata: Metadata?
    var status: Status
}
private struct StatusObject: Decodable { var message: String? }
