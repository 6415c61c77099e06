import Barrier
import Basics
import Certificates
import Clustering
import KeyVault
public import Logging
import MVCC
import Peers
import ReplicaService
import Sealing
import Synchronization

// A store inside your process that is a member of a cluster: with other such processes, with `cofferd`, or with both.

extension Coffer {
    /// As which member of which cluster a store is opened; what `cofferd`'s flags of the same names say.
    ///
    ///     var member = Coffer.ClusterMembership(
    ///         name: "a", initialCluster: "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380",
    ///         certificates: .init(authority: "peers/ca.crt", certificate: "peers/a.crt", key: "peers/a.key"))
    ///     let coffer = try await Coffer.open("/var/lib/app/secrets", unlock: .keyFile("/etc/app/coffer.key"), as: member)
    public struct ClusterMembership: Sendable {
        /// The member's certificate among peers, its key, and the peers' authority (`cofferctl certificates members` makes them). The files are
        /// read again when they change.
        public struct Certificates: Sendable {
            public var authority: String
            public var certificate: String
            public var key: String
            public init(authority: String, certificate: String, key: String) {
                self.authority = authority; self.certificate = certificate; self.key = key
            }
        }
        /// How a directory that is new begins; passed over by one that is a member's already.
        public enum Beginning: Sendable {
            /// It is one of the members a cluster begins with.
            case new
            /// It was added to a running cluster.
            case existing
        }
        /// Its certificate carries the same name.
        public var name: String
        /// `name=https://host:port`, joined by commas: the members of the cluster at its beginning, or of the one to join.
        public var initialCluster: String
        public var certificates: Certificates
        public var beginning = Beginning.new
        /// Tells clusters apart that begin with the same names and addresses.
        public var token = "coffer-cluster"
        /// Where to listen for the others; empty: where `initialCluster` says that they reach it.
        public var listenURLs: [String] = []
        /// What member lists show as the way of clients to this member; empty unless the process serves any.
        public var clientURLs: [String] = []
        public var heartbeatMilliseconds = 100
        public var electionMilliseconds = 1_000
        public init(name: String, initialCluster: String, certificates: Certificates) {
            self.name = name; self.initialCluster = initialCluster; self.certificates = certificates
        }
    }

    /// One of the cluster's members.
    public struct Member: Sendable, Hashable, Identifiable {
        public let id: UInt64
        /// Empty until it has started.
        public let name: String
        public let peerURLs: [String]
        public let clientURLs: [String]
        /// It replicates and does not vote.
        public let isLearner: Bool
    }

    /// Who leads, as this member knows it now.
    public struct Leadership: Sendable, Hashable {
        /// This member.
        public let member: UInt64
        /// `nil`: nobody that it knows of. Writes wait a few seconds for one, and fail then.
        public let leader: UInt64?
        public let term: UInt64
        public var isLeader: Bool { leader == member }
        public let isLearner: Bool
        /// Why this member answers nothing for now: its disk was damaged or put back, and what it lost is fetched from the others.
        public let outOfService: String?
        /// It was removed from the cluster: nothing but `close` is left to do.
        public let isRemoved: Bool
    }

    /// Opens `directory` as a member of a cluster, and returns when it has caught up with a leader: of a new cluster, when most members are
    /// there. Reads, writes, watches and leases are the same as of a store alone, on any member. All members need the same key or passphrase;
    /// one of them makes the seal, the others get it from their peers.
    ///
    /// Throws `.cannotOpen`; reasons name settings as `cofferd`'s flags.
    public static func open(
        _ directory: String, unlock: Unlock, as membership: ClusterMembership, logger: Logger = Logger(label: "coffer")
    ) async throws(CofferError) -> Coffer {
        do {
            let removal = Removal()
            let (barrier, member) = try await RunningMember.open(try membership.settings(directory, unlock.source), logger: logger) {
                logger.notice("this member has been removed from the cluster")
                removal.happened()
            }
            member.publish(name: membership.name, clientURLs: membership.clientURLs, by: barrier)
            let coffer = Coffer(barrier, logger, among: (member, removal))
            await coffer.vault.start()
            return coffer
        } catch { throw CofferError(.cannotOpen, "\(error)") }
    }

    /// The cluster's members by id; of a store alone, itself.
    public var members: [Member] { barrier.service.members().map(Member.init) }

    public var leadership: Leadership {
        let status = barrier.status()
        return Leadership(
            member: status.member.rawValue, leader: status.leader?.rawValue, term: status.term, isLearner: status.isLearner, outOfService: status.outOfService,
            isRemoved: among?.removal.hasHappened ?? false)
    }

    // Of these, what is not possible just now throws `.busy`: another change is under way, or a leader has yet to begin.

    /// Lets a member in, which is then to be started with `Beginning.existing`. A learner counts for no quorum until it is promoted. Answers its id.
    public func addMember(peerURLs: [String], asLearner: Bool = true) async throws(CofferError) -> UInt64 {
        let id = UInt64.random(in: 1...UInt64.max)
        do { for url in peerURLs { _ = try PeerURL(url) } } catch { throw CofferError(.invalid, "\(error)") }
        guard !peerURLs.isEmpty else { throw CofferError(.invalid, "a member needs an address for its peers") }
        try await change(.add(ClusterMember(id: MemberID(id), peerURLs: peerURLs, isLearner: asLearner)))
        return id
    }
    /// Makes a voter of a learner that has caught up; throws `.conditionFailed` as long as it has not.
    public func promoteMember(_ id: UInt64) async throws(CofferError) { try await change(.promote(MemberID(id))) }
    /// For good: its id is never used again.
    public func removeMember(_ id: UInt64) async throws(CofferError) { try await change(.remove(MemberID(id))) }
    /// Returns when the member leads. Only the leader can be asked.
    public func moveLeadership(to id: UInt64) async throws(CofferError) {
        do { try await barrier.service.transferLeadership(to: MemberID(id)) } catch { throw CofferError(EtcdFailure(error)) }
    }

    private func change(_ step: MemberStep) async throws(CofferError) {
        guard among != nil else { throw CofferError(.invalid, "this store was opened alone, and has no members") }
        do { try await barrier.service.changeMembers([step]) } catch { throw CofferError(EtcdFailure(error)) }
    }

    /// What a member has beside its store.
    typealias Company = (member: RunningMember, removal: Removal)

    /// Told by the peers' threads, asked by anybody.
    final class Removal: Sendable {
        private let flag = Atomic(false)
        func happened() { flag.store(true, ordering: .relaxed) }
        var hasHappened: Bool { flag.load(ordering: .relaxed) }
    }
}

extension Coffer.Member {
    init(_ member: ClusterMember) {
        (id, name, peerURLs) = (member.id.rawValue, member.name, member.peerURLs)
        (clientURLs, isLearner) = (member.clientURLs, member.isLearner)
    }
}

extension Coffer.ClusterMembership {
    fileprivate func settings(_ directory: String, _ seal: SealSource) throws -> MemberSettings {
        guard (10...10_000).contains(heartbeatMilliseconds), (5 * heartbeatMilliseconds...50_000).contains(electionMilliseconds) else {
            throw ClusterStartFailure("an election takes at least five heartbeats and at most 50000 ms, a heartbeat 10 to 10000 ms")
        }
        var settings = MemberSettings(
            name: name, dataDir: directory, seal: seal,
            security: PeerSecurity.Files(authority: certificates.authority, certificate: certificates.certificate, key: certificates.key))
        settings.initial = try InitialCluster(initialCluster, token: token)
        settings.beginning = beginning == .new ? .new : .existing
        if !listenURLs.isEmpty { settings.listening = try listenURLs.map { try PeerURL($0) } }
        settings.heartbeatMilliseconds = heartbeatMilliseconds
        settings.electionMilliseconds = electionMilliseconds
        return settings
    }
}
