import APIServer
import ArgumentParser
import Audit
import Barrier
import Basics
import Certificates
import CLinux
import Clustering
import EtcdServer
import Foundation
import KeyVault
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import RPC
import ReplicaService
import Sealing
import ServiceLifecycle
import StatusServer
import UnixSignals

/// Runs the daemon until SIGTERM or SIGINT.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Run the daemon (the default).")

    @Option(help: "Name of this member, as etcd's clients show it.") var name = "default"
    @Option(help: "Where everything is stored; made if it is not there.") var dataDir = "default.coffer"
    @Option(help: "32 random bytes, outside the data directory; made at the first start.") var sealKeyFile: String?
    @Option(help: "A file whose first line is the passphrase that opens the seal.") var sealPassphraseFile: String?
    @Option(help: "Certificates: authority, server, administrator, nodes.") var pkiDir: String?
    @Option(help: "Where to serve etcd's API.") var listenClientUrls = ListenAddress(argument: "http://127.0.0.1:2379")!
    @Option(help: "What to tell clients of that address, if it differs.") var advertiseClientUrls: String?
    @Option(help: "Where to serve the secrets API.") var listenSecretsUrl = ListenAddress(argument: "https://127.0.0.1:6443")!
    @Option(help: "Where to serve health and metrics, without TLS: counts only, no names, no values. Nowhere unless given; as etcd: http://127.0.0.1:2381.")
    var listenMetricsUrls: ListenAddress?
    @Option(help: "Further names and addresses for the secrets API's certificate.") var serverName: [String] = []
    @Option(help: "Certificate for https on the etcd port; without it the one of --pki-dir.") var certFile: String?
    @Option(help: "Its key.") var keyFile: String?
    @Option(help: "Authority of the etcd port's clients; without it the one of --pki-dir.") var trustedCaFile: String?
    @Option(help: "Audit records, one a line; names of keys stand in it, so it is kept out of the data directory.") var auditLog: String?
    @Option(help: "trace, debug, info, notice, warning, error or critical.", transform: { text in
        guard let level = Logger.Level(rawValue: text) else { throw ValidationError("'\(text)' is no log level") }
        return level
    }) var logLevel = Logger.Level.notice
    @OptionGroup(title: "Cluster") var cluster: ClusterOptions
    @Option(help: "Event loops of the etcd port; 0: it shares the one of the members' connections, as it does by default where there are at most two processors. Otherwise 1.")
    var eventLoops: Int?
    @Flag(help: "Leave pods without a node unbound.") var noScheduler = false

    func validate() throws {
        guard sealKeyFile == nil || sealPassphraseFile == nil else { throw ValidationError("give --seal-key-file or --seal-passphrase-file, not both") }
        guard listenClientUrls.isTLS || listenClientUrls.isLoopback else {
            throw ValidationError("\(listenClientUrls.url): without TLS the etcd port listens on loopback only; use https://")
        }
        guard listenSecretsUrl.isTLS else { throw ValidationError("\(listenSecretsUrl.url): the secrets API is https:// only") }
        if let listenMetricsUrls, listenMetricsUrls.isTLS {
            throw ValidationError("\(listenMetricsUrls.url): health and metrics are served over http:// only")
        }
        guard (certFile == nil) == (keyFile == nil) else { throw ValidationError("--cert-file and --key-file go together") }
        guard (0...64).contains(eventLoops ?? 1) else { throw ValidationError("--event-loops wants 0 to 64") }
        guard !dataDir.isEmpty else { throw ValidationError("--data-dir is empty") }
    }

    func run() async throws {
        // Neither a core nor a debugger's look, nor a crash report, may show keys.
        _ = clinux_forbid_dump()
        _ = clinux_forbid_core()
        let level = logLevel
        let writer = LogWriter()
        LoggingSystem.bootstrap { LineLogHandler(label: $0, level: level, writer: writer) }
        defer { writer.drain() }
        var logger = Logger(label: "cofferd")
        logger.logLevel = level
        do { try await serve(logger) } catch {
            FileHandle.standardError.write(Data("cofferd: \(error)\n".utf8))
            throw ExitCode.failure
        }
    }

    var seal: SealSource {
        if let sealPassphraseFile { return .passphraseFile(path: sealPassphraseFile) }
        return .keyFile(path: sealKeyFile ?? trimmedDataDir + ".seal.key")
    }
    var trimmedDataDir: String { dataDir.count > 1 && dataDir.hasSuffix("/") ? String(dataDir.dropLast()) : dataDir }

    /// Alone, unless the flags or the data directory say that it is a member of a cluster.
    private func openStore(_ logger: Logger) async throws -> (Barrier, RunningMember?) {
        guard cluster.initialCluster != nil || DataDirectory.isMembers(trimmedDataDir) else {
            guard !cluster.forceNewCluster else { throw ClusterStartFailure("--force-new-cluster: \(trimmedDataDir) is of no member of a cluster") }
            return (try await Barrier.open(trimmedDataDir, seal: seal, logger: logger), nil)
        }
        return try await RunningMember.open(cluster.settings(name: name, dataDir: trimmedDataDir, seal: seal), logger: logger) {
            logger.notice("this member has been removed from the cluster: it stops")
            kill(getpid(), SIGTERM)
        }
    }

    /// (1) a look at the certificates, which changes nothing, (2) the store, (3) certificates, trail and keys, (4) the servers; each only after
    /// the one it needs, so that a start that is refused leaves nothing behind, and closed in the opposite order.
    private func serve(_ logger: Logger) async throws {
        let pkiPath = pkiDir ?? trimmedDataDir + ".pki"
        try Pki.check(path: pkiPath) // (1)
        let (barrier, member) = try await openStore(logger) // (2)
        if !barrier.keyring.isLockedIntoMemory {
            logger.warning("keys are not locked into memory: they may be written to swap; raise RLIMIT_MEMLOCK, or run without swap")
        }
        let pki: Pki, audit: AuditLog // (3)
        do {
            pki = try Pki(path: pkiPath, secrets: listenSecretsUrl, extraNames: serverName)
            audit = try AuditLog(path: auditLog ?? trimmedDataDir + ".audit.log")
            try audit.attach(StoreJournal(barrier.service.journal))
        } catch {
            await member?.stop()
            await barrier.close()
            throw error
        }
        let vault = KeyVault(barrier: barrier, now: wallMilliseconds, logger: logger)
        await vault.start()
        do { // (4)
            try await serve(barrier, member, vault, audit, pki, logger)
        } catch {
            logger.error("stopping", metadata: ["reason": "\(error)"])
            await close(barrier, member, vault, audit)
            throw error
        }
        await close(barrier, member, vault, audit)
    }
    private func close(_ barrier: Barrier, _ member: RunningMember?, _ vault: KeyVault, _ audit: AuditLog) async {
        await vault.stop()
        await member?.handOver(barrier)
        await barrier.close()
        await member?.stop()
        try? audit.close()
    }

    private func serve(
        _ barrier: Barrier, _ member: RunningMember?, _ vault: KeyVault, _ audit: AuditLog, _ pki: Pki, _ logger: Logger
    ) async throws {
        // Where processors are short, handing requests from one loop to another costs more than it wins.
        let loops = eventLoops ?? (System.coreCount > 2 ? 1 : 0), shared = loops == 0 ? member?.group : nil
        let group = shared ?? MultiThreadedEventLoopGroup(numberOfThreads: max(loops, 1))
        let identity = EtcdService.Identity(
            clusterID: member?.cluster ?? clusterID(barrier), memberID: barrier.memberID, name: name,
            peerURLs: member?.peerURLs ?? [], clientURLs: [advertiseClientUrls ?? listenClientUrls.url])
        let etcd = EtcdService(
            barrier: barrier, identity: identity, control: ServiceControl(barrier.service), trail: FileTrail(log: audit, now: wallMilliseconds), logger: logger)
        // Before anybody may connect.
        let connections = ConnectionBudget(filesMax: Int(clinux_raise_files()))
        let tls = listenClientUrls.isTLS ? try pki.etcdContext(certificate: certFile, key: keyFile, authority: trustedCaFile) : nil
        let server: Server
        do {
            server = try await Server.listen(
                Server.Configuration(host: listenClientUrls.host, port: listenClientUrls.port, tls: tls, connectionsMax: connections.clients),
                group: group, factory: etcd, logger: logger)
        } catch { throw ListenFailure(url: listenClientUrls.url, reason: error) }
        var etcdAddress = listenClientUrls
        etcdAddress.port = server.port
        etcd.advertise([advertiseClientUrls ?? etcdAddress.url])
        member?.publish(name: name, clientURLs: [advertiseClientUrls ?? etcdAddress.url], by: barrier)

        var configuration = APIServer.Configuration(
            host: listenSecretsUrl.host, port: listenSecretsUrl.port,
            tls: try TransportSecurity.server(pki.server, clients: pki.authority.certificate, certificates: .optional))
        configuration.schedules = !noScheduler
        configuration.connectionsMax = connections.secrets
        if member != nil {
            configuration.isOneOfMany = true
            configuration.leads = {
                let status = barrier.status()
                return status.leader == status.member
            }
        }
        let api = APIServer(
            configuration: configuration, keyValue: barrier, operations: VaultOperations(vault: vault, sealName: sealName), audit: audit, logger: logger)
        let ready = Task { [etcdAddress] in
            var address = listenSecretsUrl
            address.port = try await api.boundPort()
            try pki.writeKubeconfig(server: address)
            print("etcd API on \(etcdAddress.url), secrets API on \(address.url), kubeconfig \(pki.kubeconfigPath)")
            print("ready to serve client requests")
            fflush(nil)
        }
        var services: [any Service] = [api]
        if let listenMetricsUrls {
            services.append(StatusServer(
                host: listenMetricsUrls.host, port: listenMetricsUrls.port, barrier: barrier, apiVersion: EtcdService.apiVersion, logger: logger))
        }
        let running = ServiceGroup(configuration: .init(services: services, gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
        do { try await running.run() } catch {
            ready.cancel()
            await server.shutdown(grace: .seconds(1))
            await etcd.shutdown()
            guard error is IOError else { throw error }
            let urls = [listenSecretsUrl, listenMetricsUrls].compactMap { $0?.url }.joined(separator: " or ")
            throw ListenFailure(url: urls, reason: error)
        }
        await server.shutdown(grace: .seconds(2))
        await etcd.shutdown()
        if shared == nil { try await group.shutdownGracefully() }
    }

    private var sealName: String { sealPassphraseFile == nil ? "key-file" : "passphrase" }

    /// Follows from the keyring, which is what the members of one cluster share.
    private func clusterID(_ barrier: Barrier) -> UInt64 {
        NewMember.cluster(of: barrier.keyring.id)
    }
}

@Sendable func wallMilliseconds() -> UInt64 { UInt64(max(0, Date().timeIntervalSince1970) * 1000) }
