import Certificates
import EtcdClient
import EtcdProtocol
import Faults
import Foundation
import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// Which program is tortured.
package enum Server: String, Sendable { case cofferd, etcd }

/// Daemons on this machine, each behind a proxy towards its clients. Towards its peers it has a network of its own, or a proxy where there can be none.
///
/// There are more places than members, if the membership is to change: a place is empty, or holds a member of the cluster.
final class Servers: Sendable {
    struct Member: Sendable {
        let name: String
        let home: String
        let port: Int
        let peerPort: Int
        let clients: TCPProxy
        /// The way to it that nobody hurts.
        let direct: TCPProxy
        let peers: TCPProxy?
        let shim: SystemCallShim?
        let disk: (any Disk)?
    }
    private struct Running {
        var process: Subprocess?
        /// Only one fault hurts a member's process or disk at a time.
        var isTaken = false
        var isMember = false
        /// `NAME=URL,…` as it was when this one began, and whether the cluster was there before it.
        var cluster = ""
        var joins = false
    }
    let server: Server
    let program: String
    let folder: TemporaryFolder
    let members: [Member]
    let network: PacketNetwork?
    /// Whose files change: always the same one, since what is acknowledged is on a quorum of disks and on no more.
    let rotting: Int
    private let running: Mutex<[Running]>
    private let certificates: String
    private let isCluster: Bool

    private init(_ server: Server, _ program: String, _ folder: TemporaryFolder, _ members: [Member], _ network: PacketNetwork?, count: Int, rotting: Int) {
        (self.server, self.program, self.folder, self.members, self.network, self.rotting) = (server, program, folder, members, network, rotting)
        certificates = folder.path + "/peers"
        isCluster = members.count > 1
        running = Mutex(members.indices.map { Running(isMember: $0 < count) })
        let initial = clusterText((0..<count).map { $0 })
        running.withLock { running in
            for number in 0..<count { running[number].cluster = initial }
        }
    }

    /// What a machine and the faults ask for.
    struct Equipment {
        var shim: String?
        var syncsLie = false
        var disk: DiskKind?
        var network = false
        var spare = 0
    }

    static func make(_ server: Server, program: String, count: Int, seed: UInt64, _ equipment: Equipment) async throws -> Servers {
        let folder = try TemporaryFolder("torture"), places = count + equipment.spare, ports = try freePorts(2 * places)
        let network = equipment.network ? try await PacketNetwork.make(hosts: places, in: folder.path) : nil
        var members: [Member] = []
        for number in 0..<places {
            let name = "m\(number)", home = folder.path + "/" + name, port = ports[number], namespace = network?.namespace(number)
            try FileManager.default.createDirectory(atPath: home, withIntermediateDirectories: true)
            let disk: (any Disk)? = switch equipment.disk {
            case .ext4: try await SmallDisk.mount(at: home + "/disk", megabytes: 400)
            case .lossy: try LossyDisk.mount(at: home + "/disk", megabytes: 400)
            case nil: nil
            }
            let shim = try equipment.shim.map { try SystemCallShim(library: $0, control: home + "/faults", syncsLie: equipment.syncsLie) }
            members.append(Member(
                name: name, home: home, port: port, peerPort: ports[places + number], clients: try await TCPProxy.listen(to: port, inside: namespace),
                direct: try await TCPProxy.listen(to: port, inside: namespace),
                peers: places > 1 && network == nil ? try await TCPProxy.listen(to: ports[places + number]) : nil, shim: shim, disk: disk))
        }
        let servers = Servers(server, program, folder, members, network, count: count, rotting: Int(seed % UInt64(count)))
        if server == .cofferd, places > 1 { try servers.makeCertificates() }
        return servers
    }

    /// By the ways that nobody hurts; and by the others.
    var direct: [String] { members.map { "http://127.0.0.1:\($0.direct.port)" } }
    var proxied: [String] { members.map { "http://127.0.0.1:\($0.clients.port)" } }

    private func makeCertificates() throws {
        try FileManager.default.createDirectory(atPath: certificates, withIntermediateDirectories: true)
        let now = Date(), authority = try CertificateAuthority.create(name: "torture-peers", now: now)
        try authority.credential.save(certificate: certificates + "/ca.crt", key: certificates + "/ca.key", replacing: .refused)
        let seal = Data((0..<32).map { _ in UInt8.random(in: 0...255) })
        for (number, member) in members.enumerated() {
            try authority.issueMember(name: member.name, names: ["127.0.0.1", PacketNetwork.address(number)], now: now)
                .save(certificate: certificates + "/\(member.name).crt", key: certificates + "/\(member.name).key", replacing: .refused)
            guard FileManager.default.createFile(atPath: member.home + "/seal.key", contents: seal, attributes: [.posixPermissions: 0o600]) else {
                throw FaultFailure("cannot write \(member.home)/seal.key")
            }
        }
    }

    // MARK: Addresses and arguments

    private func peerURL(_ number: Int, port: Int) -> String {
        "\(server == .etcd ? "http" : "https")://\(network == nil ? "127.0.0.1" : PacketNetwork.address(number)):\(port)"
    }
    /// Where the others reach it.
    func peerURL(_ number: Int) -> String { peerURL(number, port: members[number].peers?.port ?? members[number].peerPort) }
    func clusterText(_ numbers: [Int]) -> String { numbers.map { "\(members[$0].name)=\(peerURL($0))" }.joined(separator: ",") }
    private func root(_ number: Int) -> String { members[number].disk?.path ?? members[number].home }
    func dataFolder(_ number: Int) -> String { root(number) + "/data" }

    private func arguments(_ number: Int) -> [String] {
        let member = members[number], client = "http://127.0.0.1:\(member.port)", place = running.withLock { $0[number] }
        let clustering = [
            "--listen-peer-urls", peerURL(number, port: member.peerPort), "--initial-advertise-peer-urls", peerURL(number), "--initial-cluster", place.cluster,
            "--initial-cluster-state", place.joins ? "existing" : "new",
        ]
        let common = ["--name", member.name, "--data-dir", dataFolder(number), "--listen-client-urls", client, "--advertise-client-urls", client]
        switch server {
        case .etcd: return common + clustering
        case .cofferd:
            let own = member.disk is LossyDisk ? root(number) : member.home
            let single = common + [
                // What the daemon makes itself lies on the disk that forgets; certificates and keys of a cluster are made for it.
                "--seal-key-file", (isCluster ? member.home : own) + "/seal.key", "--pki-dir", own + "/pki", "--audit-log", own + "/audit.log",
                "--listen-secrets-url", "https://127.0.0.1:0",
            ]
            guard isCluster else { return single }
            return single + clustering + [
                "--peer-cert-file", certificates + "/\(member.name).crt", "--peer-key-file", certificates + "/\(member.name).key",
                "--peer-trusted-ca-file", certificates + "/ca.crt",
            ]
        }
    }

    // MARK: Processes

    /// Starts it; `errors` as for `Subprocess`.
    func start(_ number: Int, errors: Int32? = nil, more: [String] = []) throws {
        let environment = (members[number].shim?.environment ?? [:]).merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
        var command = [program] + arguments(number) + more
        if let network { command = ["nsenter", "--net=" + network.namespace(number)] + command }
        let process = try Subprocess(command[0], Array(command.dropFirst()), environment: environment, folder: members[number].home, errors: errors)
        running.withLock { $0[number].process = process }
    }
    func process(_ number: Int) -> Subprocess? { running.withLock { $0[number].process } }

    /// A connection of one's own, by the way that nobody hurts.
    func client(_ number: Int, timeout: TimeAmount = .seconds(1)) async throws -> EtcdClient {
        try await EtcdClient.connect(host: "127.0.0.1", port: members[number].direct.port, timeout: timeout, on: MultiThreadedEventLoopGroup.singleton).timed(timeout)
    }
    /// The member that says it leads.
    func leader() async -> Int? {
        for number in present {
            guard let client = try? await client(number) else { continue }
            let status = try? await client.status()
            await client.close()
            if let status, status.leader != 0, status.leader == status.header?.memberID { return number }
        }
        return nil
    }
    /// Whether it answers, and knows a leader.
    func serves(_ number: Int) async -> Bool {
        guard process(number)?.isRunning == true, let client = try? await client(number) else { return false }
        let leader = try? await client.status().leader
        await client.close()
        return leader.map { $0 != 0 } ?? false
    }

    // MARK: Membership

    var present: [Int] { running.withLock { running in running.indices.filter { running[$0].isMember } } }
    /// An empty place begins to be a member.
    func join(_ number: Int) {
        let cluster = clusterText((present + [number]).sorted())
        running.withLock { running in
            running[number].isMember = true
            (running[number].cluster, running[number].joins) = (cluster, true)
        }
    }
    /// A place becomes empty: its process and its data are gone.
    func leave(_ number: Int) async throws {
        running.withLock { $0[number].isMember = false }
        try await process(number)?.end()
        try? FileManager.default.removeItem(atPath: dataFolder(number))
        try await Subprocess.run("sync", root(number)) // or a loss of power brings it back
        running.withLock { $0[number].process = nil }
    }

    /// Takes a member for one fault; `false` when another one has it, or nobody is there.
    func take(_ number: Int, evenIfEmpty: Bool = false) -> Bool {
        running.withLock { running in
            guard !running[number].isTaken, running[number].isMember || evenIfEmpty else { return false }
            running[number].isTaken = true
            return true
        }
    }
    func release(_ number: Int) { running.withLock { $0[number].isTaken = false } }

    func end() async {
        for number in members.indices {
            try? await process(number)?.end()
            await members[number].clients.close()
            await members[number].direct.close()
            await members[number].peers?.close()
            await members[number].disk?.unmount()
        }
        await network?.end()
    }
    func log(_ number: Int) -> String { String((process(number)?.log ?? "").suffix(3_000)) }
}
