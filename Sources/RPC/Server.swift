import Basics
package import Logging
package import NIOCore
import NIOConcurrencyHelpers
import NIOHTTP2
import NIOPosix
package import NIOSSL

/// A listening gRPC server: one `ServerConnection` per accepted connection.
package final class Server: Sendable {
    package struct Configuration: Sendable {
        package var host: String
        /// 0 chooses a free port.
        package var port: Int
        /// `nil` is plaintext HTTP/2 (prior knowledge), for loopback.
        package var tls: NIOSSLContext?
        package var connectionsMax: Int
        package var frames: Frames
        package init(host: String, port: Int, tls: NIOSSLContext? = nil, connectionsMax: Int = Limits.connectionsMax, frames: Frames = .own) {
            self.host = host; self.port = port; self.tls = tls; self.connectionsMax = connectionsMax; self.frames = frames
        }
    }

    /// Whose HTTP/2 frames: ours, or swift-nio-http2's.
    package enum Frames: Sendable, CaseIterable { case own, swiftNIO }

    private struct State {
        var connections: [ObjectIdentifier: Entry] = [:]
        var draining = false
    }
    /// A connection and the loop it may be touched on.
    private struct Entry: Sendable {
        let channel: any Channel
        let connection: NIOLoopBound<ServerConnection>
    }

    private let channel: any Channel
    private let state: NIOLockedValueBox<State>

    package var port: Int { channel.localAddress?.port ?? 0 }
    /// Connections open now.
    package var connectionCount: Int { state.withLockedValue { $0.connections.count } }

    private init(channel: any Channel, state: NIOLockedValueBox<State>) {
        self.channel = channel
        self.state = state
    }

    /// Binds and begins to accept.
    package static func listen(
        _ configuration: Configuration, group: any EventLoopGroup, factory: any ServiceFactory, logger: Logger
    ) async throws -> Server {
        let state = NIOLockedValueBox(State())
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 2048)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard register(channel, in: state, max: configuration.connectionsMax) else { throw TooManyConnections() }
                    let connection = ServerConnection(channel: channel, factory: factory, logger: logger)
                    if let tls = configuration.tls { try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls)) }
                    try addFrames(configuration.frames, for: connection, requiresTLS: configuration.tls != nil, to: channel)
                    let entry = Entry(channel: channel, connection: NIOLoopBound(connection, eventLoop: channel.eventLoop))
                    state.withLockedValue { $0.connections[ObjectIdentifier(channel)] = entry }
                }
            }
        return Server(channel: try await bootstrap.bind(host: configuration.host, port: configuration.port).get(), state: state)
    }

    private static func addFrames(_ frames: Frames, for connection: ServerConnection, requiresTLS: Bool, to channel: any Channel) throws {
        let operations = channel.pipeline.syncOperations
        switch frames {
        case .own:
            try operations.addHandler(FrameHandler(connection, allocator: channel.allocator, requiresTLS: requiresTLS))
        case .swiftNIO:
            let layer = NIOFrameHandler(connection, requiresTLS: requiresTLS)
            let (connectionConfiguration, streamConfiguration) = TransportLimits.serverConfiguration()
            try operations.addHandler(NIOHTTP2Handler(
                mode: .server, frameDelegate: layer, connectionConfiguration: connectionConfiguration, streamConfiguration: streamConfiguration))
            try operations.addHandler(layer)
        }
    }

    private struct TooManyConnections: Error {}

    private static func register(_ channel: any Channel, in state: NIOLockedValueBox<State>, max: Int) -> Bool {
        guard state.withLockedValue({ !$0.draining && $0.connections.count < max }) else { return false }
        channel.closeFuture.whenComplete { _ in state.withLockedValue { $0.connections[ObjectIdentifier(channel)] = nil } }
        return true
    }

    /// Stops accepting, lets calls in flight end (GOAWAY, see `ServerConnection.beginDrain`), and cuts what is left after `grace`.
    package func shutdown(grace: TimeAmount = .seconds(5)) async {
        try? await channel.close()
        let entries = state.withLockedValue { state in
            state.draining = true
            return Array(state.connections.values)
        }
        for entry in entries {
            entry.channel.eventLoop.execute { entry.connection.value.beginDrain() }
            let cut = entry.channel.eventLoop.scheduleTask(in: grace) { entry.connection.value.cut() }
            entry.channel.closeFuture.whenComplete { _ in cut.cancel() }
        }
        for entry in entries { try? await entry.channel.closeFuture.get() }
    }
}
