package import Audit
package import Barrier
import Basics
package import Foundation
import Hummingbird
import HummingbirdCore
import HummingbirdHTTP2
package import Logging
package import NIOSSL
import ObjectStore
import Resources
import ServiceLifecycle
import Synchronization

/// The secrets API: Kubernetes' REST over TLS, HTTP/1.1 and HTTP/2, with client certificates for identity; the nodes' streams; and what
/// goes on without a request (see `Controllers`).
///
///     request ─▶ Endpoints: authenticate → authorize → validate → audit → act ─▶ ObjectStore ─▶ KeyValue (the Barrier)
///                                                     NodeStream ◀─ ObjectFeed ◀─ one watch of all objects ─┘
package final class APIServer: Service {
    package struct Configuration: Sendable {
        package var host: String
        /// 0: any free one; `boundPort()` tells it.
        package var port: Int
        /// Of `TransportSecurity.server(…, certificates: .optional)`: who shows no certificate is anonymous, and may ask for health only.
        package var tls: TLSConfiguration
        /// Whether pods without a node are given one.
        package var schedules = true
        /// Several of these serve one store: each has the streams of some nodes, one leads.
        package var isOneOfMany = false
        package var leads: @Sendable () -> Bool = { true }
        package var heartbeatSeconds = 5.0
        package var connectionsMax = Limits.connectionsMax
        package var firstBytesMilliseconds = APILimits.firstBytesMilliseconds
        package var clock: @Sendable () -> Date = { Date() }
        package init(host: String, port: Int, tls: TLSConfiguration) { self.host = host; self.port = port; self.tls = tls }
    }

    private let configuration: Configuration
    private let endpoints: Endpoints
    private let controllers: Controllers
    private let logger: Logger
    private let binding = Binding()

    package init(configuration: Configuration, keyValue: any KeyValue, operations: any Operations, audit: AuditLog, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        let store = ObjectStore(keyValue: keyValue), feed = ObjectFeed(store: store, logger: logger)
        let sessions = NodeSessions(started: configuration.clock())
        endpoints = Endpoints(
            store: store, feed: feed, sessions: sessions, operations: operations, audit: audit, clock: configuration.clock,
            heartbeatSeconds: configuration.heartbeatSeconds, logger: logger)
        controllers = Controllers(
            store: store, feed: feed, sessions: sessions, schedules: configuration.schedules, isOneOfMany: configuration.isOneOfMany,
            leads: configuration.leads, clock: configuration.clock, logger: logger)
    }

    /// Waits until the server listens; throws if it never will.
    package func boundPort() async throws -> Int { try await binding.port() }

    package func run() async throws {
        let binding = binding
        defer { binding.fail() }
        var application = ApplicationConfiguration(address: .hostname(configuration.host, port: configuration.port), serverName: nil)
        application.reuseAddress = true
        application.availableConnectionsDelegate = MaximumAvailableConnections(configuration.connectionsMax)
        let server = HTTPServerBuilder { [configuration] responder in
            SpeakingInTime(base: try HTTP2UpgradeChannel(
                tlsConfiguration: configuration.tls,
                configuration: .init(
                    idleTimeout: .seconds(APILimits.connectionIdleSeconds), gracefulCloseTimeout: .seconds(5),
                    streamConfiguration: .init(additionalChannelHandlers: [InboundEnd()], idleTimeout: .seconds(APILimits.connectionIdleSeconds))),
                responder: responder), milliseconds: configuration.firstBytesMilliseconds)
        }
        let app = Application(
            responder: endpoints, server: server, configuration: application,
            onServerRunning: { channel in binding.succeed(channel.localAddress?.port ?? 0) }, logger: logger)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await self.controllers.run() }
            defer { group.cancelAll() }
            try await app.run()
        }
    }

    /// The port, for whoever waits for it.
    private final class Binding: Sendable {
        private enum State {
            case waiting([CheckedContinuation<Int, any Error>])
            case bound(Int)
            case failed
        }
        private let state = Mutex(State.waiting([]))

        func port() async throws -> Int {
            try await withCheckedThrowingContinuation { continuation in
                let outcome = state.withLock { state -> Result<Int, any Error>? in
                    switch state {
                    case .waiting(let others): state = .waiting(others + [continuation]); return nil
                    case .bound(let port): return .success(port)
                    case .failed: return .failure(Status.serviceUnavailable("the server has stopped"))
                    }
                }
                if let outcome { continuation.resume(with: outcome) }
            }
        }
        func succeed(_ port: Int) { settle(.bound(port), .success(port)) }
        func fail() { settle(.failed, .failure(Status.serviceUnavailable("the server has stopped"))) }

        private func settle(_ new: State, _ outcome: Result<Int, any Error>) {
            let waiting = state.withLock { state -> [CheckedContinuation<Int, any Error>] in
                defer { state = new }
                if case .waiting(let waiting) = state { return waiting }
                return []
            }
            for continuation in waiting { continuation.resume(with: outcome) }
        }
    }
}
