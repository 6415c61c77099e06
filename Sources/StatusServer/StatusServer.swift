package import Barrier
import HTTPTypes
import Hummingbird
import HummingbirdCore
package import Logging
import MVCC
import NIOCore
import ReplicaService
import Sealing
import ServiceLifecycle
import Synchronization

/// Health and metrics, for whoever watches the daemon: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`, as etcd's
/// `--listen-metrics-urls`. It tells counts, never a key's name or a value, so it is served without TLS or identity.
///
/// Names are etcd's where etcd has the figure (`etcd_server_has_leader`), `coffer_…` where it has not.
package final class StatusServer: Service {
    /// Anyone may connect, and take a descriptor: those who scrape are few, and speak at once.
    package static let connectionsMax = 64
    private static let idleSeconds: Int64 = 60

    private let host: String
    private let port: Int
    private let barrier: Barrier
    private let apiVersion: String
    private let logger: Logger
    private let bound = Mutex<Int?>(nil)

    package init(host: String, port: Int, barrier: Barrier, apiVersion: String, logger: Logger) {
        self.host = host; self.port = port; self.barrier = barrier; self.apiVersion = apiVersion; self.logger = logger
    }

    /// Once it listens; 0 in the configuration is any free port.
    package var boundPort: Int? { bound.withLock { $0 } }

    package func run() async throws {
        let router = Router()
        router.get("/health") { request, _ in await self.health(serializable: request.uri.queryParameters["serializable"] == "true") }
        router.get("/readyz") { _, _ in await self.plain(self.failure(linearizable: true)) }
        router.get("/livez") { _, _ in await self.plain(self.failure(linearizable: false)) }
        router.get("/version") { [apiVersion] _, _ in
            Self.answer(.ok, #"{"etcdserver":"\#(apiVersion)","etcdcluster":"\#(apiVersion)"}"#, type: "application/json")
        }
        router.get("/metrics") { _, _ in Self.answer(.ok, Self.metrics(self.barrier), type: "text/plain; version=0.0.4; charset=utf-8") }
        var configuration = ApplicationConfiguration(address: .hostname(host, port: port), serverName: nil)
        configuration.availableConnectionsDelegate = MaximumAvailableConnections(Self.connectionsMax)
        let app = Application(
            router: router, server: .http1(configuration: .init(idleTimeout: .seconds(Self.idleSeconds))), configuration: configuration,
            onServerRunning: { channel in self.bound.withLock { $0 = channel.localAddress?.port } }, logger: logger)
        try await app.run()
    }

    // MARK: - Health

    /// etcd's form: 200 and `"true"`, or 503 and the reason.
    private func health(serializable: Bool) async -> Response {
        guard let failure = await failure(linearizable: !serializable) else { return Self.answer(.ok, #"{"health":"true","reason":""}"#, type: "application/json") }
        return Self.answer(.serviceUnavailable, #"{"health":"false","reason":"\#(failure.rawValue)"}"#, type: "application/json")
    }
    private func plain(_ failure: Failure?) -> Response {
        guard let failure else { return Self.answer(.ok, "ok\n", type: "text/plain") }
        return Self.answer(.serviceUnavailable, "\(failure.rawValue)\n", type: "text/plain")
    }

    /// Fixed words: what comes from a disk or a peer has no place in a health check.
    private enum Failure: String { case stopped = "STORAGE FAILED", noLeader = "RAFT NO LEADER", noQuorum = "QGET ERROR" }

    /// Alive: its storage works. Ready: a linearizable read is answered too.
    private func failure(linearizable: Bool) async -> Failure? {
        let status = barrier.status()
        switch status.condition {
        case .failed, .stopped: return .stopped
        case .starting, .running: break
        }
        guard linearizable else { return nil }
        guard status.leader != nil else { return .noLeader }
        // Answered in any case: a leader that no quorum answers steps down, and says so to whoever waits.
        return (try? await barrier.service.ask(.readIndex)) == nil ? .noQuorum : nil
    }

    private static func answer(_ status: HTTPResponse.Status, _ text: String, type: String) -> Response {
        Response(status: status, headers: [.contentType: type], body: .init(byteBuffer: ByteBuffer(string: text)))
    }

    // MARK: - Metrics

    static func metrics(_ barrier: Barrier) -> String {
        let status = barrier.status(), table = barrier.service.keyTable()
        var page = Exposition()
        page.add("etcd_server_has_leader", .gauge, "Whether or not a leader exists. 1 is existence, 0 is not.", status.leader != nil)
        page.add("etcd_server_is_leader", .gauge, "Whether or not this member is a leader. 1 if is, 0 otherwise.", status.leader == status.member)
        page.add("etcd_server_proposals_committed_total", .gauge, "The total number of consensus proposals committed.", status.commitIndex)
        page.add("etcd_server_proposals_applied_total", .gauge, "The total number of consensus proposals applied.", status.appliedIndex)
        page.add("etcd_server_proposals_pending", .gauge, "The current number of pending proposals to commit.", status.proposalsInFlight)
        page.add("etcd_mvcc_db_total_size_in_bytes", .gauge, "Total size of the record database in bytes.", status.databaseBytes)
        page.add("etcd_debugging_mvcc_keys_total", .gauge, "Total number of keys.", status.keys)
        page.add("etcd_debugging_mvcc_current_revision", .gauge, "The current revision of store.", status.revision)
        page.add("etcd_debugging_mvcc_compact_revision", .gauge, "The revision of the last compaction in store.", status.compactRevision)
        page.add("etcd_debugging_mvcc_watcher_total", .gauge, "Total number of watchers.", status.watches)
        page.add("etcd_debugging_mvcc_slow_watcher_total", .gauge, "Total number of unsynced slow watchers.", status.watchesCatchingUp)
        page.add("etcd_server_is_learner", .gauge, "Whether or not this member is a learner. 1 if is, 0 otherwise.", status.isLearner)
        page.add("coffer_member_out_of_service", .gauge, "1 while this member repairs itself or was found to differ.", status.outOfService != nil)
        page.add("coffer_alarms", .gauge, "Alarms raised in the cluster.", status.alarms.count)
        page.add("coffer_member_lag_entries", .gauge, "Committed entries that this member has not applied.", status.lag)
        page.add("coffer_disk_has_space", .gauge, "0 while writes that grow the store are refused.", status.hasSpace)
        page.add("coffer_raft_term", .gauge, "The term this member is in.", status.term)
        page.add("coffer_raft_log_index", .gauge, "The last entry of this member's log.", status.logIndex)
        page.add("coffer_records_stored_index", .gauge, "The applied index that the record database holds durably.", status.storedIndex)
        page.add("coffer_proposal_bytes_pending", .gauge, "Bytes of proposals that wait to be applied.", status.proposalBytesInFlight)
        page.add("coffer_leases", .gauge, "Leases granted and not revoked.", status.leases)
        page.add("coffer_keys_locked_in_memory", .gauge, "1 if all key material is locked into memory.", barrier.keyring.isLockedIntoMemory)
        page.add("coffer_key_domains", .gauge, "Domains (namespaces, and the one of plain keys) that have keys of their own.", table.domains.count)
        let failed = if case .failed = status.condition { true } else { false }
        page.add("coffer_storage_failed", .gauge, "1 once storage failed: nothing is acknowledged until a restart.", failed)
        if let figures = ProcessFigures.now() {
            page.add("process_cpu_seconds_total", .counter, "Total user and system CPU time spent in seconds.", figures.cpuSeconds)
            page.add("process_resident_memory_bytes", .gauge, "Resident memory size in bytes.", figures.residentBytes)
            page.add("process_open_fds", .gauge, "Number of open file descriptors.", figures.openFiles)
        }
        return page.text
    }
}
