package import Barrier
import Basics
import Certificates
import Foundation
package import Logging
import MVCC
import NIOCore
package import NIOPosix
import Peers
import ReplicaService
import Sealing
import Synchronization

/// What a member of a cluster has running beside its store: the way to its peers.
package final class RunningMember: Sendable {
    private let outcome: ClusterStart.Outcome
    private let transport: PeerTransport
    private let lane: ReplicaLane
    private let responder: SeedResponder
    private let loop: PeerLoop
    private let logger: Logger
    private let publishing = Mutex<Task<Void, Never>?>(nil)

    private init(
        outcome: ClusterStart.Outcome, transport: PeerTransport, lane: ReplicaLane, responder: SeedResponder, loop: PeerLoop, logger: Logger
    ) {
        self.outcome = outcome; self.transport = transport; self.lane = lane; self.responder = responder; self.loop = loop; self.logger = logger
    }

    /// The event loop of the members' connections.
    package var group: MultiThreadedEventLoopGroup { loop.group }
    package var cluster: UInt64 { outcome.cluster }
    package var peerURLs: [String] { outcome.peerURLs }

    /// Tells the cluster who this member is and where its clients reach it; tries until it is heard.
    package func publish(name: String, clientURLs: [String], by barrier: Barrier) {
        let member = outcome.member
        let task = Task { [logger] in
            while !Task.isCancelled {
                if let known = barrier.service.members().first(where: { $0.id == member }), known.name == name, known.clientURLs == clientURLs { return }
                do {
                    _ = try await barrier.service.propose(.member(.publish(member, name: name, clientURLs: clientURLs)))
                    logger.notice("member is known to the cluster", metadata: ["member": "\(String(member.rawValue, radix: 16))", "name": "\(name)"])
                    return
                } catch {
                    logger.debug("member is not known to the cluster yet", metadata: ["reason": "\(error)"])
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
        publishing.withLock { $0 = task }
    }

    /// A leader that goes says so, which spares the others an election timeout.
    package func handOver(_ barrier: Barrier) async {
        publishing.withLock { $0?.cancel() }
        let status = barrier.status()
        guard status.leader == status.member else { return }
        let reachable = Set(transport.linkStatus().filter(\.isOpen).map(\.member))
        guard let next = barrier.service.members().first(where: { !$0.isLearner && $0.id != status.member && reachable.contains($0.id) }) else { return }
        try? await barrier.service.transferLeadership(to: next.id)
    }

    package func stop() async {
        publishing.withLock { $0?.cancel() }
        responder.stop()
        await transport.shutdown()
        await loop.shutDown()
    }
}

extension RunningMember {
    /// Opens the store in `settings.dataDir` as a member of a cluster, and returns when it has caught up with a leader.
    /// `whenRemoved` is called once, when the cluster has removed it.
    package static func open(
        _ settings: MemberSettings, logger: Logger, whenRemoved: @escaping @Sendable () -> Void
    ) async throws -> (Barrier, RunningMember) {
        let security = try PeerSecurity(settings.security), identity = security.current.identity
        guard identity.isMember else { throw ClusterStartFailure("\(security.files.certificate) is no member's certificate: cofferctl certificates members makes them") }
        guard identity.commonName == settings.name else {
            throw ClusterStartFailure("\(security.files.certificate) is the certificate of member '\(identity.commonName)'; --name says '\(settings.name)'")
        }
        let loop = PeerLoop()
        let transport = PeerTransport(identity: PeerIdentity(name: settings.name), security: security, group: loop.group, logger: logger)
        let responder = SeedResponder(dataDir: settings.dataDir, initial: settings.initial, transport: transport)
        do {
            return try await open(settings, transport, responder, loop, logger, whenRemoved)
        } catch {
            await transport.shutdown()
            await loop.shutDown()
            throw error
        }
    }

    private static func open(
        _ settings: MemberSettings, _ transport: PeerTransport, _ responder: SeedResponder, _ loop: PeerLoop, _ logger: Logger,
        _ whenRemoved: @escaping @Sendable () -> Void
    ) async throws -> (Barrier, RunningMember) {
        transport.attach(responder: responder)
        let own = settings.advertised ?? settings.own?.peerURLs.compactMap { text in try? PeerURL(text) } ?? []
        let listening = settings.listening ?? own
        guard !listening.isEmpty else { throw ClusterStartFailure("--listen-peer-urls: where should this member listen for the others?") }
        for url in listening {
            do { _ = try await transport.listen(on: [url]) } catch { throw ListenFailure(url: url.description, reason: error) }
        }
        let outcome = try await ClusterStart(settings: settings, transport: transport, eventLoop: loop.group.next(), logger: logger).settle()
        try checkSharedSeal(settings, outcome)
        let name = settings.name
        transport.identify(PeerIdentity(name: name, cluster: outcome.cluster, member: outcome.member, peerURLs: outcome.peerURLs))
        let lane = ReplicaLane(transport: transport, eventLoop: loop.group.next(), logger: logger)
        lane.whenRemoved(whenRemoved)
        var options = ReplicaService.Options()
        options.tickMilliseconds = Int64(settings.heartbeatMilliseconds)
        options.electionTicks = settings.electionMilliseconds / settings.heartbeatMilliseconds
        options.learnersMax = settings.learnersMax
        options.loop = loop
        let barrier = try await Barrier.open(
            settings.dataDir, seal: settings.seal, founding: outcome.founding, cluster: outcome.opening, lane: lane, options: options, logger: logger
        ) { keyring, service in
            transport.identify(PeerIdentity(name: name, cluster: outcome.cluster, member: outcome.member, keyring: keyring, peerURLs: outcome.peerURLs))
            lane.attach(service)
            responder.serve(service, cluster: outcome.cluster)
        }
        // The first leader of a new cluster writes down who founded it: before that no member can be changed.
        do {
            while try await barrier.service.inspect({ $0.members.members.isEmpty }) { try await Task.sleep(for: .milliseconds(5)) }
        } catch {
            await barrier.close()
            throw error
        }
        return (barrier, RunningMember(outcome: outcome, transport: transport, lane: lane, responder: responder, loop: loop, logger: logger))
    }

    /// The members of a cluster open one seal: a key file that each made for itself would open nothing but its own.
    private static func checkSharedSeal(_ settings: MemberSettings, _ outcome: ClusterStart.Outcome) throws {
        guard let founding = outcome.founding, founding.sealFile == nil, case .bootstrap(let members) = outcome.opening, members.count > 1,
              case .keyFile(let path) = settings.seal, !FileManager.default.fileExists(atPath: path) else { return }
        throw ClusterStartFailure("the key file \(path) is not there. All members need the same: (umask 277; head -c 32 /dev/urandom > FILE), then a copy for each")
    }
}
