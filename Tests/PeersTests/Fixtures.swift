import Basics
import Certificates
import Foundation
import Logging
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import Peers

/// A folder with a peer authority and the certificates it issued; gone with the test.
final class PeerFolder: Sendable {
    let path: String
    let authority: CertificateAuthority
    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-peers-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        authority = try CertificateAuthority.create(name: "peers", now: Date())
        try PrivateFile.write(authority.credential.certificatePEM, to: path + "/ca.crt", replacing: .allowed)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func files(_ name: String) -> PeerSecurity.Files {
        PeerSecurity.Files(authority: path + "/ca.crt", certificate: path + "/\(name).crt", key: path + "/\(name).key")
    }
    /// Issued now by `authority` (ours, unless another is given), replacing an earlier one.
    @discardableResult
    func issue(_ name: String, by other: CertificateAuthority? = nil) throws -> PeerSecurity.Files {
        let credential = try (other ?? authority).issueMember(name: name, names: ["127.0.0.1", "localhost"], now: Date())
        return try save(credential, name)
    }
    func save(_ credential: Credential, _ name: String) throws -> PeerSecurity.Files {
        try credential.save(certificate: path + "/\(name).crt", key: path + "/\(name).key", replacing: .allowed)
        return files(name)
    }
}

final class RecordingReceiver: PeerReceiver {
    struct State { var messages: [(from: MemberID, message: Bytes)] = [], unreachable: [MemberID] = [], gone: [MemberID] = [], reachable: [MemberID] = [], isRemoved = false }
    let state = Mutex(State())
    func received(_ messages: [Bytes], from member: MemberID) { state.withLock { for message in messages { $0.messages.append((member, message)) } } }
    func unreachable(_ member: MemberID) { state.withLock { $0.unreachable.append(member) } }
    func gone(_ member: MemberID) { state.withLock { $0.gone.append(member) } }
    func reachable(_ member: MemberID) { state.withLock { $0.reachable.append(member) } }
    func removed() { state.withLock { $0.isRemoved = true } }
    var messages: [Bytes] { state.withLock { $0.messages.map(\.message) } }
}

/// One member's transport, listening on a free port of loopback.
struct Node {
    static let keyring = KeyringID(Bytes(repeating: 7, count: 16))!
    let transport: PeerTransport
    let receiver = RecordingReceiver()
    let url: PeerURL
    let member: MemberID
    let log: RecordedLog

    static func start(
        _ id: UInt64, _ name: String, _ files: PeerSecurity.Files, cluster: UInt64 = 1, keyring: KeyringID? = keyring, snapshots: (any SnapshotReceiver)? = nil
    ) async throws -> Node {
        let log = RecordedLog()
        var identity = PeerIdentity(name: name, cluster: cluster, member: MemberID(id), keyring: keyring)
        let transport = PeerTransport(
            identity: identity, security: try PeerSecurity(files), group: MultiThreadedEventLoopGroup.singleton, logger: log.logger)
        let port = try await transport.listen(on: [PeerURL(host: "127.0.0.1", port: 0)])[0]
        identity.peerURLs = ["https://127.0.0.1:\(port)"]
        transport.identify(identity)
        let node = Node(transport: transport, url: PeerURL(host: "127.0.0.1", port: port), member: MemberID(id), log: log)
        transport.attach(receiver: node.receiver, snapshots: snapshots)
        return node
    }
    private init(transport: PeerTransport, url: PeerURL, member: MemberID, log: RecordedLog) {
        self.transport = transport; self.url = url; self.member = member; self.log = log
    }
    var address: PeerAddress { PeerAddress(member: member, urls: [url]) }
    func isConnected(to other: Node) -> Bool { transport.linkStatus().contains { $0.member == other.member && $0.isOpen } }
    func link(to other: Node) -> PeerTransport.LinkStatus? { transport.linkStatus().first { $0.member == other.member } }
}

/// What was logged, as text.
final class RecordedLog: Sendable {
    private let lines = Mutex<[String]>([])
    var text: String { lines.withLock { $0.joined(separator: "\n") } }
    var logger: Logger {
        var logger = Logger(label: "peers") { _ in Handler(log: self) }
        logger.logLevel = .trace
        return logger
    }
    private struct Handler: LogHandler {
        let log: RecordedLog
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.trace
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) {
            log.lines.withLock { $0.append("\(event.message) \(metadata.merging(event.metadata ?? [:]) { $1 })") }
        }
    }
}

/// Polls until it holds; the test fails when it does not within `seconds`.
func eventually(_ what: String, seconds: Double = 60, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record("never: \(what)", sourceLocation: sourceLocation)
            throw NeverHappened()
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}
struct NeverHappened: Error {}

/// Two members that know each other.
func withPair(_ body: (PeerFolder, Node, Node) async throws -> Void) async throws {
    let folder = try PeerFolder()
    let a = try await Node.start(1, "a", try folder.issue("a")), b = try await Node.start(2, "b", try folder.issue("b"))
    for node in [a, b] { node.transport.membersChanged([a.address, b.address]) }
    do {
        try await eventually("both are connected") { a.isConnected(to: b) && b.isConnected(to: a) }
        try await body(folder, a, b)
    } catch {
        await a.transport.shutdown()
        await b.transport.shutdown()
        throw error
    }
    await a.transport.shutdown()
    await b.transport.shutdown()
}
