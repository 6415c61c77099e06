package import Basics
package import EtcdProtocol
package import NIOCore
package import NIOSSL
import RPC

/// etcd's API over one connection, for one server. No balancing and no retries: a call that fails says so, by a `Status`.
package struct EtcdClient: Sendable {
    private let client: Client
    /// For every call that is no stream.
    package var timeout: TimeAmount = .seconds(10)

    private init(client: Client) { self.client = client }

    /// Without `tls` plaintext, for loopback.
    package static func connect(
        host: String, port: Int, tls: NIOSSLContext? = nil, timeout: TimeAmount = .seconds(5), on group: any EventLoopGroup
    ) async throws -> EtcdClient {
        EtcdClient(client: try await Client.connect(host: host, port: port, tls: tls, timeout: timeout, on: group))
    }
    package func close() async { await client.close() }
    /// Whether new calls may begin; once not, never again.
    package var isUsable: Bool { client.isUsable }
    /// The same connection, with another bound on calls.
    package func timed(_ timeout: TimeAmount) -> EtcdClient {
        var copy = self
        copy.timeout = timeout
        return copy
    }

    func call<Request: WireMessage, Response: WireMessage>(_ path: String, _ request: Request) async throws -> Response {
        let answer = try await client.unary(path: path, message: try Self.framed(request, client.channel.allocator), timeout: timeout)
        do { return try Response(decoding: answer) } catch { throw Status(.internal, "malformed answer: \(error)") }
    }
    fileprivate static func framed<M: WireMessage>(_ message: M, _ allocator: ByteBufferAllocator) throws -> ByteBuffer {
        try MessageFraming.framed(capacity: message.encodedBytes, allocator: allocator) { buffer throws in try message.encode(into: &buffer) }
    }

    // MARK: KV

    package func put(_ request: PutRequestMessage) async throws -> PutResponseMessage { try await call("/etcdserverpb.KV/Put", request) }
    package func put(_ key: Bytes, _ value: Bytes, lease: LeaseID = 0) async throws -> PutResponseMessage {
        try await put(PutRequestMessage(key: key, value: ByteBuffer(bytes: value), lease: lease))
    }
    package func range(_ request: RangeRequestMessage) async throws -> RangeResponseMessage { try await call("/etcdserverpb.KV/Range", request) }
    package func deleteRange(_ request: DeleteRangeRequestMessage) async throws -> DeleteRangeResponseMessage {
        try await call("/etcdserverpb.KV/DeleteRange", request)
    }
    package func transaction(_ request: TransactionRequestMessage) async throws -> TransactionResponseMessage { try await call("/etcdserverpb.KV/Txn", request) }
    package func compact(revision: Int64) async throws -> ResponseHeader? {
        let answer: HeaderOnlyMessage = try await call("/etcdserverpb.KV/Compact", CompactionRequestMessage(revision: revision))
        return answer.header
    }

    // MARK: Lease

    package func grantLease(seconds: Int64, id: LeaseID = 0) async throws -> LeaseResponseMessage {
        try await call("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequestMessage(seconds: seconds, id: id))
    }
    package func revokeLease(_ id: LeaseID) async throws {
        let _: HeaderOnlyMessage = try await call("/etcdserverpb.Lease/LeaseRevoke", IdentifierMessage(id))
    }
    package func leaseTimeToLive(_ id: LeaseID, keys: Bool = false) async throws -> LeaseTimeToLiveResponseMessage {
        try await call("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequestMessage(id: id, keys: keys))
    }
    package func leases() async throws -> LeaseLeasesResponseMessage { try await call("/etcdserverpb.Lease/LeaseLeases", EmptyMessage()) }
    /// Once. `seconds` 0 in the answer: there is no such lease.
    package func keepLeaseAlive(_ id: LeaseID) async throws -> LeaseResponseMessage {
        let stream = try await client.stream(path: "/etcdserverpb.Lease/LeaseKeepAlive", metadata: Self.requiresLeader, timeout: timeout)
        stream.send(try Self.framed(IdentifierMessage(id), client.channel.allocator))
        defer { stream.cancel() }
        for try await message in stream.messages { return try LeaseResponseMessage(decoding: message) }
        throw Status(.unavailable, "the keep-alive stream ended without an answer", .lost)
    }

    // MARK: Watch, Cluster, Maintenance

    /// A member that has no leader ends such a stream instead of leaving its client in the dark.
    private static let requiresLeader = [("hasleader", "true")]

    /// Of a `paced` one, say which messages were used: see `WatchCall.messages`.
    package func watch(paced: Bool = false) async throws -> WatchCall {
        let stream = try await client.stream(path: "/etcdserverpb.Watch/Watch", metadata: Self.requiresLeader, paced: paced)
        return WatchCall(stream: stream, allocator: client.channel.allocator)
    }
    package func members() async throws -> MemberListResponseMessage { try await call("/etcdserverpb.Cluster/MemberList", EmptyMessage()) }
    package func status() async throws -> StatusResponseMessage { try await call("/etcdserverpb.Maintenance/Status", EmptyMessage()) }
}

/// One `Watch` call: requests go down, responses of all its watches come up in order.
package struct WatchCall: Sendable {
    private let stream: ClientStream
    private let allocator: ByteBufferAllocator
    init(stream: ClientStream, allocator: ByteBufferAllocator) { self.stream = stream; self.allocator = allocator }

    package func send(_ request: WatchRequestMessage.Request) throws {
        stream.send(try EtcdClient.framed(WatchRequestMessage(request), allocator))
    }
    package var responses: AsyncThrowingMapSequence<AsyncThrowingStream<ByteBuffer, any Error>, WatchResponseMessage> {
        stream.messages.map { try WatchResponseMessage(decoding: $0) }
    }
    /// Undecoded; of a paced call the server sends no more than a window's bytes beyond those that `consumed` was told of.
    package var messages: AsyncThrowingStream<ByteBuffer, any Error> { stream.messages }
    package func consumed(_ message: ByteBuffer) { stream.consumed(message) }
    package func cancel() { stream.cancel() }
}
