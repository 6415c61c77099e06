import Barrier
import CofferClient
import EtcdClient
import EtcdServer
import Faults
import Foundation
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import ReplicaService
import RPC
import Storage
import Synchronization
import Testing

/// An etcd port over a store of its own, in this process; it can be stopped and started again on the same port.
final class ServedStore: Sendable {
    private let folder: TemporaryFolder
    private let tls: NIOSSLContext?
    private let clusterID: UInt64
    private struct Running {
        let barrier: Barrier
        let service: EtcdService
        let server: Server
    }
    private let running = Mutex<Running?>(nil)
    let port: Int

    init(clusterID: UInt64 = 11, tls: NIOSSLContext? = nil) throws {
        folder = try TemporaryFolder("client")
        self.clusterID = clusterID
        self.tls = tls
        port = try freePorts(1)[0]
    }
    var endpoint: String { (tls == nil ? "http" : "https") + "://127.0.0.1:\(port)" }

    func start() async throws {
        var options = ReplicaService.Options()
        options.disk.segmentBytes = 1 << 20
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let barrier = try await Barrier.open(folder.path + "/data", seal: .keyFile(path: folder.path + "/seal.key"), options: options, logger: logger)
        let service = EtcdService(barrier: barrier, identity: .init(clusterID: clusterID, memberID: 22, name: "one", clientURLs: [endpoint]), logger: logger)
        let server = try await Server.listen(.init(host: "127.0.0.1", port: port, tls: tls), group: MultiThreadedEventLoopGroup.singleton, factory: service, logger: logger)
        running.withLock { $0 = Running(barrier: barrier, service: service, server: server) }
    }
    func stop() async {
        let running = running.withLock { running in
            defer { running = nil }
            return running
        }
        guard let running else { return }
        await running.server.shutdown(grace: .milliseconds(100))
        await running.service.shutdown()
        await running.barrier.close()
    }

    static func run(_ store: ServedStore, _ body: (ServedStore) async throws -> Void) async throws {
        try await store.start()
        do { try await body(store) } catch {
            await store.stop()
            throw error
        }
        await store.stop()
    }
    static func run(_ body: (ServedStore) async throws -> Void) async throws { try await run(try ServedStore(), body) }
}

/// Debian's etcd: one process, or three that form a cluster.
final class Etcd: Sendable {
    static let program = Subprocess.find("etcd")
    private let folder: TemporaryFolder
    private let ports: [Int]
    private let peerPorts: [Int]
    private let processes: Mutex<[Subprocess?]>
    let size: Int
    var endpoints: [String] { ports.map { "http://127.0.0.1:\($0)" } }
    func port(_ member: Int) -> Int { ports[member] }

    init(members: Int) throws {
        size = members
        folder = try TemporaryFolder("etcd")
        let all = try freePorts(2 * members)
        (ports, peerPorts) = (Array(all[..<members]), Array(all[members...]))
        processes = Mutex(Array(repeating: nil, count: members))
    }

    func start(_ member: Int) throws {
        let client = endpoints[member], peer = "http://127.0.0.1:\(peerPorts[member])", home = folder.path + "/m\(member)"
        try FileManager.default.createDirectory(atPath: home, withIntermediateDirectories: true)
        let process = try Subprocess(try #require(Self.program), [
            "--name", "m\(member)", "--data-dir", home + "/data", "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", peerPorts.enumerated().map { "m\($0)=http://127.0.0.1:\($1)" }.joined(separator: ","),
        ], folder: home)
        processes.withLock { $0[member] = process }
    }
    func signal(_ member: Int, _ number: Int32) { processes.withLock { $0[member] }?.signal(number) }
    func kill(_ member: Int) async throws { try await processes.withLock { $0[member] }?.end() }

    static func run(members: Int = 1, _ body: (Etcd) async throws -> Void) async throws {
        let etcd = try Etcd(members: members)
        do {
            for member in 0..<members { try etcd.start(member) }
            try await body(etcd)
        } catch {
            for member in 0..<members { try await etcd.kill(member) }
            throw error
        }
        for member in 0..<members { try await etcd.kill(member) }
    }
}

func secret(_ text: String) throws -> CofferClient.Secret { try CofferClient.Secret(text) }

extension CofferClient {
    /// Fast to fail over, for tests that cut.
    static func quick(_ endpoints: [String], timeout: Duration = .seconds(20), _ change: (inout Configuration) -> Void = { _ in }) async throws -> CofferClient {
        var configuration = Configuration(endpoints: endpoints)
        configuration.timeout = timeout
        configuration.attemptTimeout = .milliseconds(300)
        configuration.connectTimeout = .milliseconds(700)
        configuration.restMax = .milliseconds(200)
        configuration.watchSilence = .milliseconds(300)
        change(&configuration)
        return try await CofferClient.connect(configuration)
    }
    func text(_ key: Key) async throws -> String? { try await get(key)?.value.revealedText() }
}

/// What a watch was told, gathered by a task of its own.
final class Told: Sendable {
    struct Content {
        var changes: [String] = []
        var revisions: [Int64] = []
        var progress: Int64 = 0
        var error: CofferClientError?
        var isOver = false
    }
    private let content = Mutex(Content())
    private let task: Mutex<Task<Void, Never>?> = Mutex(nil)
    var now: Content { content.withLock { $0 } }

    init(_ client: CofferClient, _ keys: CofferClient.Keys, after revision: Int64 = 0) {
        let task = Task { [self] in
            do {
                for try await told in client.watch(keys, after: revision) {
                    content.withLock { content in
                        for change in told.changes {
                            content.revisions.append(change.revision)
                            switch change {
                            case .put(let item): content.changes.append("\(item.key)=\(item.value.revealedText())")
                            case .delete(let key, _): content.changes.append("\(key)-")
                            }
                        }
                        content.progress = max(content.progress, told.revision)
                    }
                }
            } catch { content.withLock { $0.error = error as? CofferClientError } }
            content.withLock { $0.isOver = true }
        }
        self.task.withLock { $0 = task }
    }
    func stop() { task.withLock { $0?.cancel() } }
}
