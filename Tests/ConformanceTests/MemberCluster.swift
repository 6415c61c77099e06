import Faults
import Foundation
import Glibc
import Synchronization
import Testing

/// Several `cofferd` of this build as one cluster on loopback; killed at the latest when the test ends.
///
///     home/peers  home/seal.key  home/NAME/{data,pki,audit.log}
final class MemberCluster: Sendable {
    struct Ports: Sendable { var etcd: Int, peer: Int, api: Int }
    let home: TemporaryDirectory
    let names: [String]
    private let ports: [String: Ports]
    private let running = Mutex<[String: Child]>([:])

    private init(_ names: [String]) throws {
        home = try TemporaryDirectory()
        self.names = names
        let free = try freePorts(names.count * 3)
        ports = Dictionary(uniqueKeysWithValues: names.enumerated().map { number, name in
            (name, Ports(etcd: free[number * 3], peer: free[number * 3 + 1], api: free[number * 3 + 2]))
        })
    }
    deinit { running.withLock { for child in $0.values { child.signal(SIGKILL) } } }

    /// Certificates and a seal key for all of `names`; nobody is started.
    static func with(_ names: [String] = ["a", "b", "c"], body: (MemberCluster) async throws -> Void) async throws {
        try await Turn.taken {
            let cluster = try MemberCluster(names)
            expect(try await cluster.cofferctl(["certificates", "members", "--dir", cluster.home.path + "/peers"] + names.map { "\($0)=127.0.0.1,localhost" }))
            let key = cluster.home.path + "/seal.key"
            try Data((0..<32).map { _ in UInt8.random(in: 0...255) }).write(to: URL(fileURLWithPath: key))
            #expect(chmod(key, 0o400) == 0)
            do { try await body(cluster) } catch {
                for name in names { print("log of \(name):\n\(cluster.log(name).suffix(3000))") }
                await cluster.end()
                throw error
            }
            await cluster.end()
        }
    }
    private func end() async {
        for child in running.withLock({ Array($0.values) }) {
            child.signal(SIGKILL)
            _ = await child.ended()
        }
    }

    func port(_ name: String) -> Ports { ports[name]! }
    func peerURL(_ name: String) -> String { "https://127.0.0.1:\(port(name).peer)" }
    func initial(_ names: [String]) -> String { names.map { "\($0)=\(peerURL($0))" }.joined(separator: ",") }
    func endpoints(_ names: [String]) -> String { names.map { "127.0.0.1:\(port($0).etcd)" }.joined(separator: ",") }
    func folder(_ name: String) -> String { home.path + "/" + name }
    func child(_ name: String) -> Child? { running.withLock { $0[name] } }
    func log(_ name: String) -> String { child(name).map { $0.output + $0.errors } ?? "" }

    func arguments(_ name: String, _ replaced: [String: String] = [:]) -> [String] {
        let flags = [
            "name": name, "data-dir": folder(name) + "/data", "seal-key-file": home.path + "/seal.key", "pki-dir": folder(name) + "/pki",
            "audit-log": folder(name) + "/audit.log",
            "listen-client-urls": "http://127.0.0.1:\(port(name).etcd)", "listen-secrets-url": "https://127.0.0.1:\(port(name).api)",
            "initial-advertise-peer-urls": peerURL(name), "peer-cert-file": home.path + "/peers/\(name).crt", "peer-key-file": home.path + "/peers/\(name).key",
            "peer-trusted-ca-file": home.path + "/peers/ca.crt", "log-level": "info",
        ].merging(replaced) { $1 }
        return flags.filter { !$0.value.isEmpty }.sorted { $0.key < $1.key }.flatMap { ["--" + $0.key, $0.value] }
    }

    @discardableResult
    func launch(_ name: String, _ flags: [String: String] = [:], more: [String] = []) throws -> Child {
        try FileManager.default.createDirectory(atPath: folder(name), withIntermediateDirectories: true)
        let child = try Program.start(Daemon.program, arguments(name, flags) + more, environment: Daemon.environment, in: home)
        running.withLock { $0[name] = child }
        return child
    }
    func serves(_ name: String) async throws {
        try await eventually("\(name) serves: \(log(name).suffix(2000))", withinSeconds: 60) {
            guard let child = child(name) else { return false }
            if let ending = child.ending { throw Child.Failure(description: "\(name) did not start: \(ending)\n\(child.errors)") }
            return child.output.contains("ready to serve client requests\n")
        }
    }
    /// A new cluster of these, all at once.
    func found(_ names: [String]) async throws {
        for name in names { try launch(name, ["initial-cluster": initial(names)]) }
        for name in names { try await serves(name) }
    }
    func restart(_ name: String, more: [String] = []) async throws {
        try launch(name, more: more)
        try await serves(name)
    }
    func kill(_ name: String) async throws {
        child(name)?.signal(SIGKILL)
        _ = try await child(name)?.ended(withinSeconds: 60)
    }
    func terminate(_ name: String) async throws -> Child.Ending? {
        child(name)?.signal(SIGTERM)
        return try await child(name)?.ended(withinSeconds: 60)
    }

    func etcdctl(_ names: [String], _ arguments: String...) async throws -> Program {
        try await Program.run(try #require(Program.etcdctl), ["--endpoints", endpoints(names)] + Program.etcdctlPatience + arguments, environment: ["ETCDCTL_API": "3"], in: home)
    }
    func cofferctl(_ arguments: [String]) async throws -> Program {
        try await Program.run(Program.folder.appendingPathComponent("cofferctl"), arguments, environment: ["HOME": home.path], in: home)
    }

    /// The one that says that it leads; asked until one does.
    func leader(among names: [String]) async throws -> String {
        var found: String?
        try await eventually("one of \(names) leads") {
            for name in names {
                let answer = try await etcdctl([name], "endpoint", "status", "-w", "json", "--command-timeout", "2s")
                guard answer.status == 0, let leader = answer.output.firstMatch(of: /"leader":(\d+)/), let own = answer.output.firstMatch(of: /"member_id":(\d+)/) else { continue }
                if leader.output.1 == own.output.1 { found = name }
            }
            return found != nil
        }
        return try #require(found)
    }
    func memberID(_ name: String, asking names: [String]) async throws -> String {
        let list = try await etcdctl(names, "member", "list")
        let line = try #require(list.output.split(separator: "\n").first { $0.contains(", \(name), ") || $0.contains(peerURL(name)) }, "\(list.text)")
        return String(line.prefix { $0 != "," })
    }
    /// One hash on all of them, once they have caught up.
    func agree(_ names: [String]) async throws {
        try await eventually("\(names) hold the same state") {
            var hashes: Set<String> = []
            for name in names {
                let answer = try await etcdctl([name], "endpoint", "hashkv", "-w", "json")
                guard answer.status == 0, let hash = answer.output.firstMatch(of: /"hash":(\d+)/) else { return false }
                hashes.insert(String(hash.output.1))
            }
            return hashes.count == 1
        }
    }
}
