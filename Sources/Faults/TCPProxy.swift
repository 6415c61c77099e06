import Foundation
package import NIOCore
import NIOPosix
import Synchronization

/// A TCP port that forwards to another one, and can stop doing so, one way or both, as a network between two processes can.
///
/// What is held back waits, as it does in a sender whose packets are lost; `cut` loses it.
package final class TCPProxy: Sendable {
    package enum Flow: Sendable, Hashable {
        case open
        /// What the client sends gets through, and no answer comes back.
        case heldToClient
        /// Nothing that the client sends gets through.
        case heldToServer
        case held
        /// New connections are closed at once.
        case refused

        fileprivate func reads(from side: Side) -> Bool {
            switch (self, side) {
            case (.open, _), (.heldToClient, .client), (.heldToServer, .server): true
            default: false
            }
        }
    }
    fileprivate enum Side: Sendable { case client, server }

    private struct State {
        var flow = Flow.open
        var pairs: [ObjectIdentifier: [(Side, any Channel)]] = [:]
        var bytesToClient = 0
        var connections = 0
    }
    private let state = Mutex(State())
    private let listener = Mutex<(any Channel)?>(nil)
    private let group: any EventLoopGroup
    private let target: Int
    private let namespace: String?

    private init(_ target: Int, _ namespace: String?, _ group: any EventLoopGroup) { (self.target, self.namespace, self.group) = (target, namespace, group) }

    /// On a free port of 127.0.0.1, or on `port`, to a port of 127.0.0.1, which may be that of another network namespace (see `PacketNetwork`).
    package static func listen(
        to target: Int, inside namespace: String? = nil, port: Int = 0, on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) async throws -> TCPProxy {
        let proxy = TCPProxy(target, namespace, group)
        let channel = try await ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.autoRead, value: false)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { proxy.accepted($0) }
            .bind(host: "127.0.0.1", port: port).get()
        proxy.listener.withLock { $0 = channel }
        return proxy
    }

    package var port: Int { listener.withLock { $0?.localAddress?.port ?? 0 } }
    /// Forwarded so far.
    package var bytesToClient: Int { state.withLock { $0.bytesToClient } }
    /// Accepted so far.
    package var connections: Int { state.withLock { $0.connections } }

    package func set(_ flow: Flow) {
        let pairs = state.withLock { state in
            state.flow = flow
            return state.pairs.values.flatMap { $0 }
        }
        for (side, channel) in pairs { read(channel, flow.reads(from: side)) }
    }

    /// Ends all connections, with what they hold.
    package func cut() async {
        let channels = state.withLock { state in
            defer { state.pairs = [:] }
            return state.pairs.values.flatMap { $0.map(\.1) }
        }
        for channel in channels { try? await channel.close().get() }
    }

    package func close() async {
        try? await listener.withLock { $0 }?.close().get()
        await cut()
    }

    private func read(_ channel: any Channel, _ reads: Bool) { channel.setOption(.autoRead, value: reads).whenComplete { _ in } }

    private func accepted(_ client: any Channel) -> EventLoopFuture<Void> {
        let flow = state.withLock { state in
            state.connections += 1
            return state.flow
        }
        guard flow != .refused else { return client.close() }
        let id = ObjectIdentifier(client)
        return connect(client.eventLoop)
            .flatMap { server in
                let joined = server.eventLoop.makeCompletedFuture {
                    try client.pipeline.syncOperations.addHandler(Relay(to: server) { _ in })
                    try server.pipeline.syncOperations.addHandler(Relay(to: client) { count in self.state.withLock { $0.bytesToClient += count } })
                }
                server.closeFuture.whenComplete { _ in client.close(promise: nil) }
                client.closeFuture.whenComplete { _ in
                    server.close(promise: nil)
                    self.state.withLock { $0.pairs[id] = nil }
                }
                let flow = self.state.withLock { state in
                    state.pairs[id] = [(.client, client), (.server, server)]
                    return state.flow
                }
                self.read(client, flow.reads(from: .client))
                self.read(server, flow.reads(from: .server))
                return joined
            }
    }

    private func connect(_ eventLoop: any EventLoop) -> EventLoopFuture<any Channel> {
        guard let namespace else { return Self.bootstrap(eventLoop).connect(host: "127.0.0.1", port: target) }
        let connected = eventLoop.makePromise(of: CInt.self), target = target
        Thread.detachNewThread { connected.completeWith(Result { try PacketNetwork.connect(to: target, inside: namespace) }) }
        return connected.futureResult.flatMap { Self.bootstrap(eventLoop).withConnectedSocket($0) }
    }
    private static func bootstrap(_ eventLoop: any EventLoop) -> ClientBootstrap {
        ClientBootstrap(group: eventLoop).channelOption(.autoRead, value: false).channelOption(.tcpOption(.tcp_nodelay), value: 1)
    }

    private final class Relay: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let other: any Channel
        private let count: (Int) -> Void
        init(to other: any Channel, _ count: @escaping (Int) -> Void) { self.other = other; self.count = count }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let bytes = Self.unwrapInboundIn(data)
            count(bytes.readableBytes)
            other.write(bytes, promise: nil)
        }
        func channelReadComplete(context: ChannelHandlerContext) { other.flush() }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
