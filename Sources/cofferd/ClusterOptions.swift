import ArgumentParser
import Barrier
import Certificates
import Clustering
import Peers

/// etcd's flags of a member among others.
struct ClusterOptions: ParsableArguments {
    enum InitialState: String, ExpressibleByArgument, CaseIterable { case new, existing }

    @Option(help: "The members of the cluster at its beginning, or of the one to join: name=https://host:port, joined by commas. Without it the store is alone.")
    var initialCluster: String?
    @Option(help: "new: one of the members a cluster begins with. existing: it was added to a running cluster.") var initialClusterState = InitialState.new
    @Option(help: "Tells clusters apart that begin with the same names and addresses.") var initialClusterToken = "coffer-cluster"
    @Option(help: "Where the others reach this member, joined by commas. Default: its own in --initial-cluster.") var initialAdvertisePeerUrls: String?
    @Option(help: "Where to listen for the others, joined by commas. Default: where they reach it.") var listenPeerUrls: String?
    @Option(help: "This member's certificate among peers.") var peerCertFile: String?
    @Option(help: "Its key.") var peerKeyFile: String?
    @Option(help: "The authority of the peers' certificates; may hold several.") var peerTrustedCaFile: String?
    @Flag(help: "Peers always show certificates; the flag is etcd's.") var peerClientCertAuth = false
    @Flag(help: "After the loss of a quorum: go on with this member alone, and what it holds. All others are removed.") var forceNewCluster = false
    @Option(help: "Milliseconds between a leader's heartbeats.") var heartbeatInterval = 100
    @Option(help: "Milliseconds without a leader until a member campaigns.") var electionTimeout = 1_000

    @Option(help: "Learners that may be added at a time.") var experimentalMaxLearners = 1

    static let environmentFlags = [
        "initial-cluster", "initial-cluster-state", "initial-cluster-token", "initial-advertise-peer-urls", "listen-peer-urls", "peer-cert-file", "peer-key-file",
        "peer-trusted-ca-file", "heartbeat-interval", "election-timeout", "experimental-max-learners",
    ]

    func validate() throws {
        guard (10...10_000).contains(heartbeatInterval) else { throw ValidationError("--heartbeat-interval wants 10 to 10000") }
        guard electionTimeout >= 5 * heartbeatInterval, electionTimeout <= 50_000 else {
            throw ValidationError("--election-timeout wants at least five times --heartbeat-interval, and at most 50000")
        }
        guard (0...64).contains(experimentalMaxLearners) else { throw ValidationError("--experimental-max-learners wants 0 to 64") }
        if initialClusterState == .existing, initialCluster == nil { throw ValidationError("--initial-cluster-state existing needs --initial-cluster: whom to ask") }
        _ = try urls(initialAdvertisePeerUrls, of: "--initial-advertise-peer-urls")
        _ = try urls(listenPeerUrls, of: "--listen-peer-urls")
        do { _ = try initial() } catch { throw ValidationError("--initial-cluster: \(error)") }
    }

    func initial() throws -> InitialCluster? { try initialCluster.map { try InitialCluster($0, token: initialClusterToken) } }
    func urls(_ text: String?, of flag: String) throws -> [PeerURL]? {
        guard let text else { return nil }
        do { return try text.split(separator: ",").map { try PeerURL(String($0)) } } catch { throw ValidationError("\(flag): \(error)") }
    }
    func files() throws -> PeerSecurity.Files {
        guard let peerCertFile, let peerKeyFile, let peerTrustedCaFile else {
            throw ValidationError("a member among others needs --peer-cert-file, --peer-key-file and --peer-trusted-ca-file: cofferctl certificates members makes them")
        }
        return PeerSecurity.Files(authority: peerTrustedCaFile, certificate: peerCertFile, key: peerKeyFile)
    }

    func settings(name: String, dataDir: String, seal: SealSource) throws -> MemberSettings {
        var settings = MemberSettings(name: name, dataDir: dataDir, seal: seal, security: try files())
        settings.initial = try initial()
        settings.beginning = initialClusterState == .new ? .new : .existing
        settings.advertised = try urls(initialAdvertisePeerUrls, of: "--initial-advertise-peer-urls")
        settings.listening = try urls(listenPeerUrls, of: "--listen-peer-urls")
        settings.forceNewCluster = forceNewCluster
        settings.heartbeatMilliseconds = heartbeatInterval
        settings.electionMilliseconds = electionTimeout
        settings.learnersMax = experimentalMaxLearners
        return settings
    }
}
