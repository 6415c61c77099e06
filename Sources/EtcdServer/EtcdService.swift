package import Barrier
import Basics
import EtcdProtocol
package import Logging
import NIOCore
import NIOConcurrencyHelpers
import NIOPosix
package import RPC

/// etcd's v3 API over the Barrier: KV, Watch, Lease, Cluster, Maintenance (without snapshots and downgrades).
///
/// One `EtcdConnection` per connection says what each message means; one `EtcdLoop` per event loop carries requests down
/// and answers up, a batch at a time.
package final class EtcdService: ServiceFactory {
    package struct Identity: Sendable {
        package var clusterID: UInt64
        package var memberID: UInt64
        package var name: String
        package var peerURLs: [String]
        package var clientURLs: [String]
        package init(clusterID: UInt64, memberID: UInt64, name: String, peerURLs: [String] = [], clientURLs: [String]) {
            self.clusterID = clusterID; self.memberID = memberID; self.name = name; self.peerURLs = peerURLs; self.clientURLs = clientURLs
        }
    }

    /// The release of etcd whose API this is; clients choose features by it.
    package static let apiVersion = "3.7.0"
    /// etcd's `--experimental-watch-progress-notify-interval`.
    package static let progressIntervalMilliseconds: Int64 = 600_000
    /// Answers of more versions than this are built by a reader thread: they may touch the disk, and take long.
    static let versionsOnLoopMax = 128
    /// So are those of a batch that come to more bytes together: what else is to happen on the loop does not wait for them.
    static let bytesOnLoopMax = 4 << 20

    let barrier: Barrier
    private let named: NIOLockedValueBox<Identity>
    let gate: Gate
    let trail: (any AuditTrail)?
    let logger: Logger
    let readers: NIOThreadPool
    let progressIntervalMilliseconds: Int64
    private let control: (any ClusterControl)?
    /// When the trail's failure was last told, and how many requests it has refused since.
    private let complaint = NIOLockedValueBox<(told: NIODeadline?, refused: Int)>((nil, 0))
    private let loops = NIOLockedValueBox<[ObjectIdentifier: NIOLoopBound<EtcdLoop>]>([:])

    package init(
        barrier: Barrier, identity: Identity, control: (any ClusterControl)? = nil,
        authorizer: any Authorizer = OpenAccess(), trail: (any AuditTrail)? = nil,
        progressIntervalMilliseconds: Int64 = EtcdService.progressIntervalMilliseconds, logger: Logger
    ) {
        self.barrier = barrier
        self.control = control
        named = NIOLockedValueBox(identity)
        gate = Gate(authorizer: authorizer)
        self.trail = trail
        self.progressIntervalMilliseconds = progressIntervalMilliseconds
        self.logger = logger
        readers = NIOThreadPool(numberOfThreads: 2)
        readers.start()
    }

    package func connected(_ transport: any ServerTransport) -> any ConnectionService {
        let eventLoop = transport.eventLoop
        let loop = loops.withLockedValue { loops in
            if let loop = loops[ObjectIdentifier(eventLoop)] { return loop }
            let loop = NIOLoopBound(EtcdLoop(service: self, eventLoop: eventLoop), eventLoop: eventLoop)
            loops[ObjectIdentifier(eventLoop)] = loop
            return loop
        }
        return EtcdConnection(service: self, loop: loop.value, transport: transport)
    }

    /// Every request is refused while the trail fails: one line a second says so, and how many.
    func complain(ofTrail error: any Error, now: NIODeadline = .now()) {
        let refused: Int? = complaint.withLockedValue { complaint in
            complaint.refused += 1
            if let told = complaint.told, now - told < .seconds(1) { return nil }
            defer { complaint = (now, 0) }
            return complaint.refused
        }
        guard let refused else { return }
        logger.error("the audit trail cannot be written", metadata: ["error": "\(error)", "refused": "\(refused)"])
    }

    var administration: Administration { Administration(barrier: barrier, identity: identity, control: control) }
    var identity: Identity { named.withLockedValue { $0 } }
    /// Where clients reach this member, once that is known: a port of 0 is chosen when it is bound.
    package func advertise(_ clientURLs: [String]) { named.withLockedValue { $0.clientURLs = clientURLs } }

    /// After the server has drained: ends the reader threads.
    package func shutdown() async {
        try? await readers.shutdownGracefully()
    }

    func header(revision: Int64, term: UInt64) -> ResponseHeader {
        ResponseHeader(clusterID: identity.clusterID, memberID: identity.memberID, revision: revision, raftTerm: term)
    }
}

/// Opens values through the Barrier, straight into answers.
final class BarrierOpener: ValueOpener, Sendable {
    private let barrier: Barrier
    init(_ barrier: Barrier) { self.barrier = barrier }
    func open(_ value: SealedValue, key: Bytes, into target: UnsafeMutableRawBufferPointer) throws {
        _ = try barrier.open(value, storedKey: key, into: target)
    }
}
