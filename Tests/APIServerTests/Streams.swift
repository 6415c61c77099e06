import AsyncHTTPClient
import Basics
import Certificates
import Foundation
import NIOCore
import NIOHTTP1
import NodeProtocol
import Resources
import SecretMemory
import Synchronization
import Testing

/// A request whose answer goes on: what came so far, and the end.
final class OpenWatch: Sendable {
    struct Seen: Sendable {
        var events: [(kind: String, name: String)] = []
        var lines: [JSONValue] = []
        var isOver = false
        var code = 0
    }
    let seen = Mutex(Seen())
    private let task: Mutex<Task<Void, Never>?> = Mutex(nil)

    init(_ server: TestServer, _ path: String, as identity: CertificateIdentity = .administrator, http1: Bool = false, accept: String? = nil) throws {
        let client = try server.client(identity, http1: http1)
        var request = HTTPClientRequest(url: "https://127.0.0.1:\(server.port)\(path)")
        if let accept { request.headers.add(name: "Accept", value: accept) }
        let asked = request
        let task = Task { [self] in
            do {
                let response = try await client.execute(asked, timeout: .seconds(60))
                seen.withLock { $0.code = Int(response.status.code) }
                var pending = Bytes()
                for try await piece in response.body {
                    pending += Bytes(piece.readableBytesView)
                    while let end = pending.firstIndex(of: 0x0a) {
                        let line = try JSONValue(parsing: Bytes(pending[..<end]), secrets: .nowhere)
                        pending.removeFirst(end + 1)
                        let object = line["object"]
                        let name = object?.at("metadata", "name")?.stringValue ?? object?["rows"]?.arrayValue?.first?.at("object", "metadata", "name")?.stringValue
                        seen.withLock { $0.events.append((line["type"]?.stringValue ?? "", name ?? "")); $0.lines.append(line) }
                    }
                }
            } catch {}
            seen.withLock { $0.isOver = true }
            try? await client.shutdown()
        }
        self.task.withLock { $0 = task }
    }
    var told: [String] { seen.withLock { $0.events.map { "\($0.kind) \($0.name)" } } }
    var isOver: Bool { seen.withLock { $0.isOver } }
    func close() { task.withLock { $0?.cancel() } }
}

/// A node's end of its stream: the state it has been told.
final class NodeClient: Sendable {
    struct Seen: Sendable {
        var state: DesiredState?
        var snapshots = 0
        var deltas = 0
        var heartbeats = 0
        var goodbye: String?
        var failure: String?
        var isOver = false
        var code = 0
    }
    let name: String
    let seen = Mutex(Seen())
    private let task: Mutex<Task<Void, Never>?> = Mutex(nil)

    init(_ server: TestServer, _ name: String, resume: Int64 = 0, as identity: CertificateIdentity? = nil, http1: Bool = false) throws {
        self.name = name
        let client = try server.client(identity ?? .node(name), http1: http1)
        var request = HTTPClientRequest(url: "https://127.0.0.1:\(server.port)/apis/coffer.dev/v1/nodes/\(name)/sync")
        request.method = .POST
        request.body = .bytes(ByteBuffer(bytes: SyncRequest(node: name, resumeRevision: resume, observedPodUIDs: []).encode()))
        let asked = request
        let task = Task { [self] in
            do {
                let response = try await client.execute(asked, timeout: .seconds(60))
                seen.withLock { $0.code = Int(response.status.code) }
                var decoder = SyncDecoder()
                if response.status == .ok {
                    for try await piece in response.body {
                        let messages = try piece.withUnsafeReadableBytes { try decoder.consume($0) }
                        for message in messages { try take(message) }
                    }
                }
            } catch {
                seen.withLock { $0.failure = "\(error)" }
            }
            seen.withLock { $0.isOver = true }
            try? await client.shutdown()
        }
        self.task.withLock { $0 = task }
    }

    private func take(_ message: SyncMessage) throws {
        try seen.withLock { seen in
            switch message {
            case .snapshot(let state):
                seen.state = state
                seen.snapshots += 1
            case .delta(let delta):
                guard let state = seen.state else { throw ProtocolViolation("a change before a snapshot") }
                seen.state = try state.applying(delta)
                seen.deltas += 1
            case .heartbeat: seen.heartbeats += 1
            case .goodbye(let reason): seen.goodbye = reason
            }
        }
    }

    /// `namespace/name=value` of each secret, values as text.
    var secrets: [String] {
        (seen.withLock { $0.state }?.secrets ?? []).map { secret in
            let content =
                switch secret.content {
                case .data(let entries): entries.map { entry in entry.value.withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }.joined(separator: ",")
                case .unreadable(let reason): "unreadable: \(reason)"
                case .revoked: "revoked"
                }
            return "\(secret.namespace)/\(secret.name)=\(content)"
        }.sorted()
    }
    var pods: [String] { (seen.withLock { $0.state }?.pods ?? []).map { "\($0.namespace)/\($0.name)" }.sorted() }
    func pod(_ name: String) -> DesiredPod? { seen.withLock { $0.state }?.pods.first { $0.name == name } }
    var hasSnapshot: Bool { seen.withLock { $0.state != nil } }
    var isOver: Bool { seen.withLock { $0.isOver } }
    func close() { task.withLock { $0?.cancel() } }

    func acknowledge(_ server: TestServer, _ entries: [Acknowledgement.Entry], as identity: CertificateIdentity? = nil) async throws -> Int {
        let client = try server.client(identity ?? .node(name))
        defer { Task { try? await client.shutdown() } }
        var request = HTTPClientRequest(url: "https://127.0.0.1:\(server.port)/apis/coffer.dev/v1/nodes/\(name)/acks")
        request.method = .POST
        request.body = .bytes(ByteBuffer(bytes: Acknowledgement(node: name, revision: 5, entries: entries).encode()))
        return Int(try await client.execute(request, timeout: .seconds(60)).status.code)
    }
}
