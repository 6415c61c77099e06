import Barrier
import Basics
import EtcdClient
import EtcdProtocol
import EtcdServer
import Foundation
import Logging
import NIOCore
import NIOPosix
import ReplicaService
import RPC
import Storage
import Testing

/// An etcd port over a store of its own, and a client of it. Everything real but the address.
struct ServedStore {
    let barrier: Barrier
    let client: EtcdClient
    let port: Int

    static func run(
        trail: (any AuditTrail)? = nil, authorizer: any Authorizer = OpenAccess(), progressIntervalMilliseconds: Int64 = 600_000,
        logger: Logger? = nil, _ body: (ServedStore) async throws -> Void
    ) async throws {
        let folder = NSTemporaryDirectory() + "coffer-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var options = ReplicaService.Options()
        options.disk.segmentBytes = 1 << 20
        var silent = Logger(label: "test")
        silent.logLevel = .critical
        let logger = logger ?? silent
        let barrier = try await Barrier.open(folder + "/data", seal: .keyFile(path: folder + "/seal.key"), options: options, logger: logger)
        let service = EtcdService(
            barrier: barrier, identity: .init(clusterID: 11, memberID: 22, name: "one", clientURLs: ["http://127.0.0.1:2379"]),
            authorizer: authorizer, trail: trail, progressIntervalMilliseconds: progressIntervalMilliseconds, logger: logger)
        let group = MultiThreadedEventLoopGroup.singleton
        let server = try await Server.listen(.init(host: "127.0.0.1", port: 0), group: group, factory: service, logger: logger)
        let client = try await EtcdClient.connect(host: "127.0.0.1", port: server.port, on: group)
        func end() async {
            await client.close()
            await server.shutdown(grace: .milliseconds(100))
            await service.shutdown()
            await barrier.close()
        }
        do { try await body(ServedStore(barrier: barrier, client: client, port: server.port)) } catch {
            await end()
            throw error
        }
        await end()
    }

    @discardableResult
    func put(_ key: String, _ value: String, lease: LeaseID = 0) async throws -> Int64 {
        let answer = try await client.put(bytes(key), bytes(value), lease: lease)
        return try #require(answer.header).revision
    }
    func get(_ key: String) async throws -> String? {
        try await client.range(RangeRequestMessage(key: bytes(key))).kvs.first.map { String(buffer: $0.plainValue) }
    }
    func list(_ change: (inout RangeRequestMessage) -> Void = { _ in }) async throws -> RangeResponseMessage {
        var request = RangeRequestMessage(key: [0], rangeEnd: [0])
        change(&request)
        return try await client.range(request)
    }
}

func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }
func text(_ bytes: Bytes) -> String { String(decoding: bytes, as: UTF8.self) }
func putOperation(_ key: String, _ value: String) -> RequestOperationMessage {
    RequestOperationMessage(.put(PutRequestMessage(key: bytes(key), value: ByteBuffer(string: value))))
}
func compare(_ key: String, _ result: CompareMessage.Relation, value: String) -> CompareMessage {
    var compare = CompareMessage()
    compare.key = bytes(key)
    compare.result = result
    compare.target = .value
    compare.value = ByteBuffer(string: value)
    return compare
}

extension RangeResponseMessage {
    var keys: [String] { kvs.map { text($0.key) } }
    var values: [String] { kvs.map { String(buffer: $0.plainValue) } }
}
