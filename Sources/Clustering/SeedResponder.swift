import Barrier
import Basics
import MVCC
import Peers
import ReplicaService
import Synchronization

/// Answers peers: before the store is open with the seal file, if it is there, and afterwards with who is in the cluster, too.
final class SeedResponder: PeerResponder {
    static let mismatch = "another initial cluster"
    static let tookPart = "a member of that name took part before"
    private struct State { var service: ReplicaService?; var cluster: UInt64 = 0 }
    private let dataDir: String
    private let fingerprint: Bytes?
    private let transport: PeerTransport
    private let state = Mutex(State())

    init(dataDir: String, initial: InitialCluster?, transport: PeerTransport) {
        self.dataDir = dataDir
        self.transport = transport
        fingerprint = initial?.fingerprint
    }
    func serve(_ service: ReplicaService, cluster: UInt64) { state.withLock { $0 = State(service: service, cluster: cluster) } }
    func stop() { state.withLock { $0.service = nil } }

    func respond(to request: PeerRequest, from peer: PeerGreeting) async throws -> Bytes {
        switch request {
        case .sealFile(let bootstrap):
            if !bootstrap.isEmpty, let fingerprint, bootstrap != fingerprint {
                throw PeerRequestRefused("\(Self.mismatch): --initial-cluster or --initial-cluster-token differ from those this member was started with")
            }
            // Who founds has no directory: if it was started before, it lost one. (One that joins is known by its id and address.)
            if !bootstrap.isEmpty, members().contains(where: { $0.name == peer.name && $0.tookPart }) { throw PeerRequestRefused(Self.tookPart) }
            guard let file = try DataDirectory.sealFile(of: dataDir) else { throw PeerRequestRefused("this member has no seal file yet") }
            return file
        case .value(let revision):
            let (service, cluster) = state.withLock { ($0.service, $0.cluster) }
            guard let service, peer.cluster == cluster else { throw PeerRequestRefused("not a member of this cluster") }
            return Bytes(try service.sealedValue(of: revision).bytes)
        case .facts, .currentFacts:
            let (service, cluster) = state.withLock { ($0.service, $0.cluster) }
            guard let service else { throw PeerRequestRefused("this member has not started yet") }
            if request == .currentFacts { _ = try await service.ask(.readIndex) }
            let status = service.status()
            return PeerFacts(cluster: cluster, member: status.member, leader: status.leader, members: members()).encode()
        }
    }

    /// None before the store is open.
    private func members() -> [PeerFacts.Member] {
        guard let service = state.withLock({ $0.service }) else { return [] }
        return service.members().map { member in
            .init(id: member.id, name: member.name, peerURLs: member.peerURLs, clientURLs: member.clientURLs, isLearner: member.isLearner,
                  wasHeard: service.hasTakenPart(member.id) || transport.hasHeard(member.id))
        }
    }
}
