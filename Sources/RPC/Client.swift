package import NIOCore
import NIOHTTP2
import NIOPosix
package import NIOSSL

/// A connection to a gRPC server, usable from any thread: calls hop to its event loop.
/// Who lives on that loop already (the load generator) uses `connection` directly.
package final class Client: Sendable {
    package let channel: any Channel
    package let connection: NIOLoopBound<ClientConnection>
    package var eventLoop: any EventLoop { channel.eventLoop }
    private let gate: ConnectionGate
    /// Whether new calls may begin; once not, never again.
    package var isUsable: Bool { gate.isOpen }

    private init(channel: any Channel, connection: NIOLoopBound<ClientConnection>, gate: ConnectionGate) {
        self.channel = channel
        self.connection = connection
        self.gate = gate
    }

    /// `tls` with the name to verify, or plaintext HTTP/2.
    package static func connect(
        host: String, port: Int, tls: NIOSSLContext? = nil, timeout: TimeAmount = .seconds(5), on group: any EventLoopGroup
    ) async throws -> Client {
        let channel = try await ClientBootstrap(group: group)
            .connectTimeout(timeout)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let connection = ClientConnection(channel: channel, authority: "\(host):\(port)", isTLS: tls != nil)
                    let (connectionConfiguration, streamConfiguration) = TransportLimits.clientConfiguration()
                    let operations = channel.pipeline.syncOperations
                    if let tls { try operations.addHandler(NIOSSLClientHandler(context: tls, serverHostname: serverName(host))) }
                    try operations.addHandler(NIOHTTP2Handler(
                        mode: .client, connectionConfiguration: connectionConfiguration, streamConfiguration: streamConfiguration))
                    try operations.addHandler(connection)
                }
            }
            .connect(host: host, port: port).get()
        let (bound, gate) = try await channel.eventLoop.submit {
            let connection = try channel.pipeline.syncOperations.handler(type: ClientConnection.self)
            return (NIOLoopBound(connection, eventLoop: channel.eventLoop), connection.gate)
        }.get()
        return Client(channel: channel, connection: bound, gate: gate)
    }

    /// SNI takes names only; an address is verified from the certificate's addresses.
    private static func serverName(_ host: String) -> String? {
        (try? SocketAddress(ipAddress: host, port: 0)) == nil ? host : nil
    }

    /// One unary call. `message` is a whole gRPC frame.
    package func unary(path: String, metadata: [(String, String)] = [], message: ByteBuffer, timeout: TimeAmount? = nil) async throws -> ByteBuffer {
        try await eventLoop.flatSubmit { [connection, eventLoop] in
            let promise = eventLoop.makePromise(of: ByteBuffer.self)
            let live = connection.value
            live.call(live.headers(path: path, metadata: metadata), message: message, token: 0, timeout: timeout, receiver: PromiseReceiver(promise))
            live.flush()
            return promise.futureResult
        }.get()
    }

    private final class PromiseReceiver: AnswerReceiver {
        private let promise: EventLoopPromise<ByteBuffer>
        init(_ promise: EventLoopPromise<ByteBuffer>) { self.promise = promise }
        func answered(_ token: Int, _ result: Result<ByteBuffer, Status>) {
            switch result {
            case .success(let message): promise.succeed(message)
            case .failure(let status): promise.fail(status)
            }
        }
    }

    /// A call of many messages. `messages` ends when the server does, by throwing its status unless that is `.ok`.
    /// Of a `paced` one at most a window's bytes wait unread: see `ClientStream.consumed`.
    package func stream(
        path: String, metadata: [(String, String)] = [], timeout: TimeAmount? = nil, paced: Bool = false
    ) async throws -> ClientStream {
        let (messages, continuation) = AsyncThrowingStream.makeStream(of: ByteBuffer.self)
        let id = try await eventLoop.submit { [connection] in
            let live = connection.value
            let id = live.open(
                live.headers(path: path, metadata: metadata), timeout: timeout, paced: paced, receiver: StreamContinuation(continuation))
            live.flush()
            return id
        }.get()
        guard let id else { throw Status(.unavailable, "the connection is closed", .unsent) }
        return ClientStream(id: id, client: self, messages: messages)
    }

    private final class StreamContinuation: StreamReceiver {
        private let continuation: AsyncThrowingStream<ByteBuffer, any Error>.Continuation
        init(_ continuation: AsyncThrowingStream<ByteBuffer, any Error>.Continuation) { self.continuation = continuation }
        func received(_ message: ByteBuffer) { continuation.yield(message) }
        func ended(_ status: Status) { continuation.finish(throwing: status.code == .ok ? nil : status) }
    }

    package func close() async {
        try? await channel.close()
    }
}

/// A streaming call, from the client's side.
package struct ClientStream: Sendable {
    private let id: StreamID
    private let client: Client
    package let messages: AsyncThrowingStream<ByteBuffer, any Error>

    init(id: StreamID, client: Client, messages: AsyncThrowingStream<ByteBuffer, any Error>) {
        self.id = id; self.client = client; self.messages = messages
    }

    /// A whole gRPC frame.
    package func send(_ message: ByteBuffer) {
        client.eventLoop.execute { [client, id] in
            client.connection.value.send(message, on: id)
            client.connection.value.flush()
        }
    }
    /// Says that a message of a paced stream was used.
    package func consumed(_ message: ByteBuffer) {
        let bytes = message.readableBytes + MessageFraming.prefixBytes
        client.eventLoop.execute { [client, id] in client.connection.value.consumed(bytes, of: id) }
    }
    package func halfClose() {
        client.eventLoop.execute { [client, id] in
            client.connection.value.halfClose(id)
            client.connection.value.flush()
        }
    }
    package func cancel() {
        client.eventLoop.execute { [client, id] in client.connection.value.cancel(id) }
    }
}
