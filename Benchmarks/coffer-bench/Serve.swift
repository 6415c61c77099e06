import Audit
import Barrier
import Basics
import EtcdServer
import Glibc
import Logging
import NIOCore
import NIOPosix
import ReplicaService
import RPC

/// The etcd port alone, as `cofferd` serves it: to measure it without the daemon's other surfaces.
enum Serve {
    static func run(directory: String, keyFile: String, port: Int, audit: String?) async throws {
        var logger = Logger(label: "coffer-bench")
        logger.logLevel = .warning
        let barrier = try await Barrier.open(directory, seal: .keyFile(path: keyFile), logger: logger)
        let trail = try audit.map { path in
            let log = try AuditLog(path: path)
            try log.attach(StoreJournal(barrier.service.journal))
            return FileTrail(log: log, now: wallMilliseconds)
        }
        let service = EtcdService(
            barrier: barrier, identity: .init(clusterID: 1, memberID: barrier.status().member.rawValue, name: "bench", clientURLs: []),
            trail: trail, logger: logger)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let server = try await Server.listen(.init(host: "127.0.0.1", port: port), group: group, factory: service, logger: logger)
        say("serving on \(server.port)")
        await withCheckedContinuation { continuation in
            let waiter = pthreadThread {
                var signals = sigset_t()
                sigemptyset(&signals)
                sigaddset(&signals, SIGTERM)
                var received: Int32 = 0
                sigwait(&signals, &received)
                continuation.resume()
            }
            pthread_detach(waiter)
        }
        await server.shutdown(grace: .seconds(1))
        await barrier.close()
    }

    private static func wallMilliseconds() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1_000 + UInt64(time.tv_nsec) / 1_000_000
    }

    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    private static func pthreadThread(_ run: @escaping @Sendable () -> Void) -> pthread_t {
        var thread = pthread_t()
        pthread_create(&thread, nil, { argument in
            if let argument { Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run() }
            return nil
        }, Unmanaged.passRetained(Body(run)).toOpaque())
        return thread
    }
}

/// SIGTERM is waited for, not delivered: blocked before any thread starts.
func blockTermination() {
    var signals = sigset_t()
    sigemptyset(&signals)
    sigaddset(&signals, SIGTERM)
    pthread_sigmask(SIG_BLOCK, &signals, nil)
}
