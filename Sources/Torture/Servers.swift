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

/// Daemons on this machine, each behind a proxy towards its clients and one towards its peers.
final class Servers: Sendable {
    struct Member: Sendable {
        let name: String
        let home: String
        let port: Int
        let peerPort: Int
        let clients: TCPProxy
        let peers: TCPProxy?
        let shim: SystemCallShim?
        let disk: SmallDisk?
    }
    private struct Running {
        var process: Subprocess?
        /// Only one fault hurts a member's process or disk at a time.
        var isTaken = false
    }
    let server: Server
    let program: String
    let folder: TemporaryFolder
    let members: [Member]
    private let running: Mutex<[Running]>
    private let certificates: String

    private init(_ server: Server, _ program: String, _ folder: TemporaryFolder, _ members: [Member]) {
        (self.server, self.program, self.folder, self.members) = (server, program, folder, members)
        certificates = folder.path + "/peers"
        running = Mutex(members.map { _ in Running() })
    }

    static func make(_ server: Server, program: String, count: Int, shim library: String?, smallDisks: Bool) async throws -> Servers {
        let folder = try TemporaryFolder("torture"), ports = try freePorts(2 * count)
        var members: [Member] = []
        for number in 0..<count {
            let name = "m\(number)", home = folder.path + "/" + name
            try FileManager.default.createDirectory(atPath: home, withIntermediateDirectories: true)
            var disk: SmallDisk?
            if smallDisks { disk = try await SmallDisk.mount(at: home + "/disk", megabytes: 400) }
            let shim = try library.map { try SystemCallShim(library: $0, control: home + "/faults") }
            members.append(Member(
                name: name, home: home, port: ports[number], peerPort: ports[count + number], clients: try await TCPProxy.listen(to: ports[number]),
                peers: count > 1 ? try await TCPProxy.listen(to: ports[count + number]) : nil, shim: shim, disk: disk))
        }
        let servers = Servers(server, program, folder, members)
        if server == .cofferd, count > 1 { try servers.makeCertificates() }
        return servers
    }

    /// Straight to the daemons; and by way of the proxies.
    var direct: [String] { members.map { "http://127.0.0.1:\($0.port)" } }
    var proxied: [String] { members.map { "http://127.0.0.1:\($0.clients.port)" } }

    private func makeCertificates() throws {
        try FileManager.default.createDirectory(atPath: certificates, withIntermediateDirectories: true)
        let now = Date(), authority = try CertificateAuthority.create(name: "torture-peers", now: now)
        try authority.credential.save(certificate: certificates + "/ca.crt", key: certificates + "/ca.key", replacing: .refused)
        let seal = Data((0..<32).map { _ in UInt8.random(in: 0...255) })
        for member in members {
            try authority.issueMember(name: member.name, names: ["127.0.0.1"], now: now)
                .save(certificate: certificates + "/\(member.name).crt", key: certificates + "/\(member.name).key", replacing: .refused)
            guard FileManager.default.createFile(atPath: member.home + "/seal.key", contents: seal, attributes: [.posixPermissions: 0o600]) else {
                throw FaultFailure("cannot write \(member.home)/seal.key")
            }
        }
    }

    private func arguments(_ number: Int) -> [String] {
        let member = members[number], client = "http://127.0.0.1:\(member.port)", data = (member.disk?.path ?? member.home) + "/data"
        let scheme = server == .etcd ? "http" : "https"
        func peerURL(_ port: Int) -> String { "\(scheme)://127.0.0.1:\(port)" }
        let initial = members.map { "\($0.name)=\(peerURL($0.peers?.port ?? $0.peerPort))" }.joined(separator: ",")
        let clustering = [
            "--listen-peer-urls", peerURL(member.peerPort), "--initial-advertise-peer-urls", peerURL(member.peers?.port ?? member.peerPort), "--initial-cluster", initial,
        ]
        let common = ["--name", member.name, "--data-dir", data, "--listen-client-urls", client, "--advertise-client-urls", client]
        switch server {
        case .etcd: return common + clustering
        case .cofferd:
            let own = common + [
                "--seal-key-file", member.home + "/seal.key", "--pki-dir", member.home + "/pki", "--audit-log", member.home + "/audit.log",
                "--listen-secrets-url", "https://127.0.0.1:0",
            ]
            guard members.count > 1 else { return own }
            return own + clustering + [
                "--peer-cert-file", certificates + "/\(member.name).crt", "--peer-key-file", certificates + "/\(member.name).key",
                "--peer-trusted-ca-file", certificates + "/ca.crt",
            ]
        }
    }

    /// Starts it; `errors` as for `Subprocess`.
    func start(_ number: Int, errors: Int32? = nil, more: [String] = []) throws {
        let environment = (members[number].shim?.environment ?? [:]).merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
        let process = try Subprocess(program, arguments(number) + more, environment: environment, folder: members[number].home, errors: errors)
        running.withLock { $0[number].process = process }
    }
    func process(_ number: Int) -> Subprocess? { running.withLock { $0[number].process } }

    /// Whether it answers on its own port.
    func serves(_ number: Int) async -> Bool {
        guard process(number)?.isRunning == true else { return false }
        guard let client = try? await EtcdClient.connect(host: "127.0.0.1", port: members[number].port, timeout: .seconds(1), on: MultiThreadedEventLoopGroup.singleton) else {
            return false
        }
        let leader = try? await client.timed(.seconds(1)).status().leader
        await client.close()
        return leader.map { $0 != 0 } ?? false
    }

    /// Takes a member for one fault; `false` when another one has it.
    func take(_ number: Int) -> Bool {
        running.withLock { running in
            defer { running[number].isTaken = true }
            return !running[number].isTaken
        }
    }
    func release(_ number: Int) { running.withLock { $0[number].isTaken = false } }

    func end() async {
        for number in members.indices {
            try? await process(number)?.end()
            await members[number].clients.close()
            await members[number].peers?.close()
            await members[number].disk?.unmount()
        }
    }
    func log(_ number: Int) -> String { String((process(number)?.log ?? "").suffix(3_000)) }
}
