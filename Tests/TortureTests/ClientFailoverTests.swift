import CofferClient
import Faults
import Foundation
import Glibc
import Histories
import Synchronization
import Testing
@testable import Torture

/// Three daemons whose leader is killed again and again, under a client of ours and under a stock etcdctl.
@Suite(.serialized) struct ClientFailoverTests {
    private struct Written: Sendable {
        var acknowledged: [Int] = []
        var unknown: [Int] = []
        var isOver = false
    }

    private final class Notes: Sendable {
        private let content = Mutex(Written())
        func withLock<Value: Sendable>(_ body: (inout Written) -> Value) -> Value { content.withLock { body(&$0) } }
        var count: Int { withLock { $0.acknowledged.count } }
    }

    private static func write(_ client: CofferClient, _ written: Notes) async throws {
        var number = 0
        while !written.withLock({ $0.isOver }) {
            number += 1
            do {
                try await client.put("n/\(number)", CofferClient.Secret("\(number)"))
                written.withLock { $0.acknowledged.append(number) }
            } catch {
                switch error.code {
                case .outcomeUnknown: written.withLock { $0.unknown.append(number) }
                case .unavailable: break // surely not done
                default: throw error
                }
            }
        }
    }

    /// Kills whoever leads, waits until writes go on without it, and brings it back.
    private static func killLeader(_ servers: Servers, _ written: Notes) async throws {
        var leader: Int?
        try await eventually("there is a leader") {
            leader = await servers.leader()
            return leader != nil
        }
        let number = try #require(leader)
        try await servers.process(number)?.end(SIGKILL)
        let then = written.count
        try await eventually("writes go on without the old leader") { written.count > then + 30 }
        try servers.start(number)
        try await eventually("it is back") { await servers.serves(number) }
    }

    /// The keys of an `etcdctl watch`, in the order in which it printed them.
    private static func keys(_ log: String) -> [String] {
        let lines = log.split(separator: "\n", omittingEmptySubsequences: false)
        return lines.indices.dropLast().filter { lines[$0] == "PUT" }.map { String(lines[$0 + 1]) }
    }

    @Test("clients whose leader is killed four times keep their watches without a gap or a repeat, and their leases: CofferClient and etcdctl",
          .enabled(if: TortureTests.hasCofferd && Subprocess.find("etcdctl") != nil, "needs cofferd and etcdctl"), .timeLimit(.minutes(10)))
    func leaderDies() async throws {
        let servers = try await Servers.make(.cofferd, program: TortureTests.cofferd, count: 3, seed: 1, .init())
        do { try await leaderDies(servers) } catch {
            for number in servers.members.indices { print("== \(number)\n\(servers.log(number))") }
            await servers.end()
            throw error
        }
        await servers.end()
    }

    private func leaderDies(_ servers: Servers) async throws {
        for number in servers.present { try servers.start(number) }
        for number in servers.present { try await eventually("\(number) serves", withinSeconds: 60) { await servers.serves(number) } }
        var configuration = CofferClient.Configuration(endpoints: servers.proxied)
        configuration.timeout = .seconds(20)
        configuration.connectTimeout = .seconds(1)
        let client = try await CofferClient.connect(configuration), begin = try await client.put("begin", CofferClient.Secret(""))
        let recorder = Recorder(), own = recorder.observe(.prefix("n/"), after: begin)
        let watching = Task { await watch(client, .prefix("n/"), after: begin, recorder, own) }
        let kept = try await client.keptLease(seconds: 30), stock = try await client.grantLease(seconds: 30)
        try await client.put("kept/own", CofferClient.Secret(""), lease: kept.id)
        try await client.put("kept/stock", CofferClient.Secret(""), lease: stock)
        let etcdctl = try #require(Subprocess.find("etcdctl")), folder = try TemporaryFolder("etcdctl"), leaseFolder = try TemporaryFolder("etcdctl")
        let common = ["--endpoints=" + servers.proxied.joined(separator: ",")]
        let watcher = try Subprocess(etcdctl, common + ["watch", "--prefix", "n/", "--rev=\(begin + 1)"], environment: ["ETCDCTL_API": "3"], folder: folder.path)
        let keeper = try Subprocess(etcdctl, common + ["lease", "keep-alive", String(stock, radix: 16)], environment: ["ETCDCTL_API": "3"], folder: leaseFolder.path)
        @Sendable func renewals() -> Int { keeper.log.matches(of: /keepalived/).count }
        let written = Notes(), began = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await Self.write(client, written) }
            group.addTask {
                defer { written.withLock { $0.isOver = true } }
                for _ in 0..<4 { try await Self.killLeader(servers, written) }
                let last = renewals()
                try await eventually("etcdctl renews its lease at the last leader") { renewals() > last || !keeper.isRunning }
                // What is held now was renewed, by this client's own clock.
                try await eventually("the first span has passed") { ContinuousClock.now - began > .seconds(31) }
            }
            try await group.waitForAll()
        }
        let done = written.withLock { $0 }, page = try await client.range(.prefix("n/"))
        let found = page.items.sorted { $0.revision < $1.revision }, numbers = found.compactMap { Int($0.value.revealedText()) }
        #expect(Set(done.acknowledged).isSubset(of: numbers) && Set(numbers).isSubset(of: done.acknowledged + done.unknown))
        #expect(found.allSatisfy { $0.version == 1 } && numbers.count > 120)
        func told() -> [Int64] { recorder.all.observations[own].told.flatMap { $0.changes.map(\.revision) } }
        try await eventually("our watch is complete") { told().count >= found.count }
        #expect(told() == found.map(\.revision))
        try await eventually("etcdctl's watch is complete") { Self.keys(watcher.log).count >= found.count }
        #expect(Self.keys(watcher.log) == found.map(\.key.description))
        #expect(kept.isHeld && keeper.isRunning)
        #expect(try await client.range(.prefix("kept/")).items.count == 2)
        try await watcher.end()
        try await keeper.end()
        watching.cancel()
        _ = await watching.value
        await client.close()
    }
}
