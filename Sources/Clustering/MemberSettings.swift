package import Barrier
package import Certificates
package import Peers

/// As which member of which cluster a store is opened; what etcd's flags say.
package struct MemberSettings: Sendable {
    package enum Beginning: Sendable {
        /// One of the members a cluster begins with.
        case new
        /// Added to a running cluster.
        case existing
    }
    package var name: String
    package var dataDir: String
    package var seal: SealSource
    package var security: PeerSecurity.Files
    /// Needed by a directory that is new.
    package var initial: InitialCluster?
    package var beginning = Beginning.new
    /// Where the others reach this member; `nil`: as `initial` has it.
    package var advertised: [PeerURL]?
    /// Where it listens for them; `nil`: where they reach it.
    package var listening: [PeerURL]?
    package var forceNewCluster = false
    package var heartbeatMilliseconds = 100
    package var electionMilliseconds = 1_000
    /// Learners that may be added at a time, as etcd's.
    package var learnersMax = 1

    package init(name: String, dataDir: String, seal: SealSource, security: PeerSecurity.Files) {
        self.name = name; self.dataDir = dataDir; self.seal = seal; self.security = security
    }

    var own: InitialCluster.Member? { initial?[name] }
}

/// Why a member does not start. Nothing was changed then. Settings are named as `cofferd`'s flags.
package struct ClusterStartFailure: Error, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// An address that cannot be listened on.
package struct ListenFailure: Error, CustomStringConvertible {
    package var url: String
    package var reason: any Error
    package init(url: String, reason: any Error) { self.url = url; self.reason = reason }
    package var description: String { "cannot listen on \(url): \(reason)" }
}
