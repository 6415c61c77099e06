import EtcdClient
import EtcdProtocol
import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// When something happened first.
private final class FirstMoment: Sendable {
    private let moment = Mutex<UInt64?>(nil)
    var nanoseconds: UInt64? { moment.withLock { $0 } }
    func isNow() {
        let now = monotonicNanoseconds()
        moment.withLock { if $0 == nil { $0 = now } }
    }
}

/// What is measured of three members beside their load: how long writes pause when the leader is killed, and how long a member that was
/// away needs. `Benchmarks/run` starts and stops the processes.
enum ClusterCases {
    private static let group = MultiThreadedEventLoopGroup.singleton

    private static func service(_ options: Options, _ name: String) throws -> ServiceUnderTest {
        guard let service = options[name].flatMap(ServiceUnderTest.init) else { throw Failure(Bench.usage) }
        return service
    }
    private static func poll(_ seconds: Double, _ what: String, _ holds: () async -> Bool) async throws {
        let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while await !holds() {
            guard monotonicNanoseconds() < deadline else { throw Failure("\(what) after \(fixed(seconds, 0)) s") }
            try await Task.sleep(nanoseconds: 2_000_000)
        }
    }

    /// Prints the leader's position among the targets, once all of them name the same one and a write passes.
    static func leader(_ options: inout Options) async throws {
        let service = try service(options, "targets")
        var position: Int?
        try await poll(30, "the members do not agree on a leader") {
            var statuses: [StatusResponseMessage] = []
            for server in service.members {
                guard let client = try? await EtcdClient.connect(host: server.host, port: server.port, on: group) else { return false }
                if let status = try? await client.timed(.seconds(1)).status() { statuses.append(status) }
                if (try? await client.timed(.seconds(2)).put(Array("bench/leader".utf8), [0x76])) == nil { statuses = [] }
                await client.close()
            }
            guard statuses.count == service.members.count, let first = statuses.first, first.leader != 0 else { return false }
            position = statuses.allSatisfy { $0.leader == first.leader } ? statuses.firstIndex { $0.header?.memberID == first.leader } : nil
            return position != nil
        }
        if let position { say("\(position)") }
    }

    /// Milliseconds from SIGKILL of a process until the next acknowledged put through the targets: every five of them, one is sent to each,
    /// whatever became of the earlier ones.
    static func failover(_ options: inout Options) async throws {
        let service = try service(options, "targets")
        guard let victim = options["kill"].flatMap({ Int32($0) }), victim > 1 else { throw Failure(Bench.usage) }
        var clients: [EtcdClient] = []
        for server in service.members { clients.append(try await EtcdClient.connect(host: server.host, port: server.port, timeout: .seconds(20), on: group)) }
        let key = Array("bench/failover".utf8), acknowledged = FirstMoment()
        for client in clients { _ = try await client.put(key, [0x76]) }
        guard kill(victim, SIGKILL) == 0 else { throw Failure("process \(victim) cannot be killed") }
        let begin = monotonicNanoseconds(), deadline = begin + 30_000_000_000
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            while acknowledged.nanoseconds == nil {
                guard monotonicNanoseconds() < deadline else { throw Failure("no put was acknowledged after 30 s") }
                for client in clients {
                    tasks.addTask {
                        guard (try? await client.put(key, [0x76])) != nil else { return }
                        acknowledged.isNow()
                    }
                }
                try await Task.sleep(nanoseconds: 5_000_000)
            }
            // What went to the leader that is gone is not waited for.
            for client in clients { await client.close() }
        }
        guard let end = acknowledged.nanoseconds else { throw Failure("no put was acknowledged") }
        say(fixed(Double(end - begin) / 1e6, 1))
    }

    /// Writes so many keys of 256 B, each once.
    static func write(_ options: inout Options) async throws {
        guard let count = options["count"].flatMap({ Int($0) }), count > 0 else { throw Failure(Bench.usage) }
        try await Load(kind: .put, connections: 1, clients: 1, seconds: 0, keys: count).fill(try service(options, "targets"), group: group)
    }

    /// Returns when the target holds what the others hold, as its own serializable read says.
    static func caughtUp(_ options: inout Options) async throws {
        guard let target = (options["target"].map { "\($0):0" }).flatMap(ServerUnderTest.init), let other = try service(options, "with").members.first else {
            throw Failure(Bench.usage)
        }
        func revision(_ server: ServerUnderTest, isSerializable: Bool) async -> Int64? {
            guard let client = try? await EtcdClient.connect(host: server.host, port: server.port, timeout: .seconds(1), on: group) else { return nil }
            var request = RangeRequestMessage(key: Array("bench/00000000".utf8))
            request.serializable = isSerializable
            let answer = try? await client.timed(.seconds(1)).range(request)
            await client.close()
            return answer?.header?.revision
        }
        guard let wanted = await revision(other, isSerializable: false) else { throw Failure("the others do not answer") }
        try await poll(120, "the member has not caught up") { await revision(target, isSerializable: true) ?? 0 >= wanted }
    }

    /// Medians of what was measured, as a row and a line of the results.
    static func record(_ options: inout Options) throws {
        func values(_ name: String) -> [Double] { (options[name] ?? "").split(separator: ",").compactMap { Double($0) } }
        guard let name = options["case"], !values("ours").isEmpty, !values("peer").isEmpty else { throw Failure(Bench.usage) }
        let figure = Figure(name: name, metric: "milliseconds", ours: median(values("ours")), peer: median(values("peer")))
        say(padded(name, 30), "   \(Versus.cell(figure)) ms   (ours \(options["ours"] ?? ""); peer \(options["peer"] ?? ""))")
        if let path = options["results"] { try appendLine(figure.line, to: path) }
        if options["goals"] != nil { try [figure].checkGoals() }
    }
}
