import Foundation
import Glibc
import Synchronization
import Testing

/// `cofferd` of this build over a directory of its own, on free ports; killed at the latest when the test ends.
///
///     home/data  home/seal.key  home/pki  home/audit.log
final class Daemon: Sendable {
    struct Ports: Sendable, Equatable { var etcd: Int, api: Int }
    private struct Running {
        var child: Child
        var ports: Ports
    }
    static let program = Program.folder.appendingPathComponent("cofferd")

    let home: TemporaryDirectory
    private let extra: [String]
    private let running = Mutex<Running?>(nil)
    private let logs = Mutex<[String]>([])

    var data: String { home.path + "/data" }
    var sealKey: String { home.path + "/seal.key" }
    var pki: String { home.path + "/pki" }
    var audit: String { home.path + "/audit.log" }
    var kubeconfig: String { pki + "/admin.kubeconfig" }
    var child: Child { running.withLock { $0!.child } }
    var ports: Ports { running.withLock { $0!.ports } }
    var isRunning: Bool { running.withLock { $0.map { $0.child.ending == nil } ?? false } }
    /// Everything printed since the first start.
    var log: String {
        logs.withLock { $0 }.map { String(decoding: FileManager.default.contents(atPath: $0) ?? Data(), as: UTF8.self) }.joined()
    }

    private init(extra: [String]) throws {
        home = try TemporaryDirectory()
        self.extra = extra
    }
    deinit { running.withLock { $0?.child.signal(SIGKILL) } }

    /// Starts one, hands it to `body` and ends it, whatever happens. A daemon that died by itself fails the test.
    static func with<Result>(_ extra: String..., started: Bool = true, body: (Daemon) async throws -> Result) async throws -> Result {
        try await Turn.taken { try await run(Daemon(extra: extra), started: started, body) }
    }

    private static func run<Result>(_ daemon: Daemon, started: Bool, _ body: (Daemon) async throws -> Result) async throws -> Result {
        do {
            if started { try await daemon.start() }
            let result = try await body(daemon)
            if case .killed(let signal)? = daemon.running.withLock({ $0?.child.ending }), signal != SIGKILL {
                Issue.record("cofferd died of signal \(signal)\n\(daemon.log.suffix(4000))")
            }
            try await daemon.kill()
            return result
        } catch {
            if let ending = daemon.running.withLock({ $0?.child.ending }), ending != .killed(signal: SIGKILL) {
                Issue.record("cofferd is gone: \(ending)\n\(daemon.log.suffix(4000))")
            }
            try? await daemon.kill()
            throw error
        }
    }

    /// Flags for a daemon of this home; those given replace ours.
    func arguments(_ replaced: [String: String] = [:]) -> [String] {
        let flags = [
            "data-dir": data, "seal-key-file": sealKey, "pki-dir": pki, "audit-log": audit,
            "listen-client-urls": "http://127.0.0.1:0", "listen-secrets-url": "https://127.0.0.1:0",
        ].merging(replaced) { $1 }
        return flags.sorted { $0.key < $1.key }.flatMap { ["--" + $0.key, $0.value] } + extra
    }
    /// The backtracer would print memory, and costs a minute in a debug build.
    static let environment = ["SWIFT_BACKTRACE": "enable=no"]

    /// Starts it and leaves it to itself.
    func launch() throws -> Child {
        let child = try Program.start(Self.program, arguments(), environment: Self.environment, in: home)
        logs.withLock { $0 += [child.outputPath, child.errorsPath] }
        running.withLock { $0 = Running(child: child, ports: Ports(etcd: 0, api: 0)) }
        return child
    }

    /// Starts it, or starts it again; returns when it says that it serves.
    func start() async throws {
        let child = try launch()
        try await eventually("cofferd serves") {
            if let ending = child.ending { throw Child.Failure(description: "cofferd did not start: \(ending)\n\(child.errors)") }
            return child.output.contains("ready to serve client requests\n")
        }
        let match = try #require(child.output.firstMatch(of: /etcd API on https?:\/\/[^ ]+:(\d+), secrets API on https:\/\/[^ ]+:(\d+),/), "\(child.output)")
        let ports = Ports(etcd: Int(match.output.1) ?? 0, api: Int(match.output.2) ?? 0)
        running.withLock { $0 = Running(child: child, ports: ports) }
    }

    /// SIGKILL, as a crash.
    func kill() async throws {
        guard let child = running.withLock({ $0?.child }) else { return }
        child.signal(SIGKILL)
        _ = try await child.ended(withinSeconds: 60)
    }
    /// SIGTERM, as an orderly stop.
    func terminate() async throws -> Child.Ending {
        child.signal(SIGTERM)
        return try await child.ended(withinSeconds: 60)
    }

    /// Stock etcdctl against the etcd port.
    func etcdctl(_ arguments: String..., input: String? = nil) async throws -> Program {
        try await Program.run(try #require(Program.etcdctl), etcdctlFlags + arguments, environment: ["ETCDCTL_API": "3"], input: input, in: home)
    }
    func startEtcdctl(_ arguments: String..., input: String? = nil) throws -> Child {
        try Program.start(try #require(Program.etcdctl), etcdctlFlags + arguments, environment: ["ETCDCTL_API": "3"], input: input, in: home)
    }
    private var etcdctlFlags: [String] { ["--endpoints", "127.0.0.1:\(ports.etcd)"] + Program.etcdctlPatience }

    /// Stock kubectl with the kubeconfig that the daemon wrote.
    func kubectl(_ arguments: String..., input: String? = nil) async throws -> Program {
        try await Program.run(try #require(Program.kubectl), kubectlFlags + arguments, environment: ["HOME": home.path], input: input, in: home)
    }
    func startKubectl(_ arguments: String...) throws -> Child {
        try Program.start(try #require(Program.kubectl), kubectlFlags + arguments, environment: ["HOME": home.path], in: home)
    }
    private var kubectlFlags: [String] { ["--kubeconfig", kubeconfig, "--cache-dir", home.path + "/cache"] }
}

/// So many tests with daemons at one time; the others wait in line. One that starts a second daemon within its turn does not wait again.
enum Turn {
    private struct Line {
        var free = 3
        var waiting: [CheckedContinuation<Void, Never>] = []
    }
    private static let line = Mutex(Line())
    @TaskLocal private static var isTaken = false

    static func taken<Result>(_ body: () async throws -> Result) async throws -> Result {
        if isTaken { return try await body() }
        await withCheckedContinuation { continuation in
            let isFree = line.withLock { line in
                if line.free > 0 { line.free -= 1 } else {
                    line.waiting.append(continuation)
                    return false
                }
                return true
            }
            if isFree { continuation.resume() }
        }
        defer { line.withLock { line -> CheckedContinuation<Void, Never>? in
            if line.waiting.isEmpty { line.free += 1; return nil }
            return line.waiting.removeFirst()
        }?.resume() }
        return try await $isTaken.withValue(true) { try await body() }
    }
}

/// The exit code and everything that was printed, as a failure's comment.
func expect(_ program: Program, _ status: Int32 = 0, prints texts: String..., sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(program.status == status, Comment(rawValue: program.text), sourceLocation: sourceLocation)
    for text in texts { #expect(program.text.contains(text), Comment(rawValue: program.text), sourceLocation: sourceLocation) }
}
/// The whole of standard output.
func expect(_ program: Program, is output: String, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(program.status == 0 && program.output == output, Comment(rawValue: program.text), sourceLocation: sourceLocation)
}
