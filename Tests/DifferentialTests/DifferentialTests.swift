import Basics
import EtcdClient
import EtcdProtocol
import Foundation
import NIOCore
import RPC
import Synchronization
import Testing

/// The same random requests over gRPC to Debian's etcd and to `cofferd` must have the same answers: revisions, values, counts, order, codes
/// and texts of errors; and watches over all of it the same events.
///
/// `COFFER_DIFFERENTIAL_SEQUENCES` sets how many sequences (a sample of some seconds otherwise), `COFFER_DIFFERENTIAL_SEED` the first one's seed.
@Suite("beside Debian's etcd, over gRPC")
struct DifferentialTests {
    private static func setting(_ name: String) -> Int? { ProcessInfo.processInfo.environment[name].flatMap { Int($0) } }
    private static let sequences = setting("COFFER_DIFFERENTIAL_SEQUENCES")
    private static let stepsPerSequence = 25
    private static let sampleSeconds = 20

    @Test("random sequences of requests are answered the same",
          .enabled(if: ServerPair.etcdPath != nil && ServerPair.cofferPath != nil, "needs etcd and cofferd"),
          .timeLimit(.minutes(sequences == nil ? 5 : 600)))
    func sameAnswers() async throws {
        let pair = try await ServerPair(etcd: try #require(ServerPair.etcdPath), coffer: try #require(ServerPair.cofferPath))
        var differences: [String] = [], done = 0
        let first = Self.setting("COFFER_DIFFERENTIAL_SEED") ?? 1
        // A sample ends in time; what was asked for by number is done whole.
        let start = ContinuousClock.now
        do {
            while done < Self.sequences ?? 2_000, differences.count < 5 {
                if Self.sequences == nil, ContinuousClock.now - start > .seconds(Self.sampleSeconds) { break }
                differences += try await Sequence(seed: UInt64(first + done), steps: Self.stepsPerSequence, pair: pair).run()
                done += 1
                if done % 1_000 == 0 { print("\(done) sequences, \(differences.count) differences, \(ContinuousClock.now - start)") }
            }
        } catch {
            differences.append("after \(done) sequences: \(error)")
        }
        await pair.stop()
        print("\(done) sequences of \(Self.stepsPerSequence) requests, from seed \(first): \(differences.count) differences")
        for difference in differences { Issue.record(Comment(rawValue: difference)) }
        #expect(done > 0)
    }
}

private struct Sequence {
    let seed: UInt64
    let steps: Int
    let pair: ServerPair

    /// Differences, each with the seed and the step.
    func run() async throws -> [String] {
        for peer in pair.both { try await begin(peer) }
        var everything = WatchCreateRequestMessage()
        everything.key = [0]
        everything.rangeEnd = [0]
        everything.startRevision = Relative.revision(1)
        everything.prevKV = false  // of compacted versions, whether they are told is a matter of time
        let live = try await [Told(pair.etcd, everything), Told(pair.coffer, everything)]
        defer { for watch in live { watch.stop() } }

        var generator = CallGenerator(seed: seed), differences: [String] = [], history: [String] = []
        for step in 1...steps {
            let call = generator.next()
            history.append(String("\(call)".prefix(200)))
            let answers = await both(call)
            if answers[0] != answers[1] {
                differences.append("seed \(seed) step \(step): \(String("\(call)".prefix(2_000)))\netcd:    \(answers[0])\ncofferd: \(answers[1])\nafter:\n"
                    + history.suffix(8).joined(separator: "\n"))
                break
            }
            generator.note(call, answers[0])
        }
        let end = Bytes("b~end-of-\(seed)".utf8)  // within the range that late watches look at
        _ = await both(.put(PutRequestMessage(key: end, value: ByteBuffer(string: "x"))))
        let length = try await pair.etcd.client.range(RangeRequestMessage(key: end)).kvs.first.map { $0.modRevision - pair.etcd.base }
        differences += try await compare(live, until: end, "a watch from the first revision on")
        var late = generator.lateWatch(before: length ?? 1)
        late.excludesPuts = false
        let watches = try await [Told(pair.etcd, late), Told(pair.coffer, late)]
        defer { for watch in watches { watch.stop() } }
        differences += try await compare(watches, until: end, "a watch from \(late.startRevision - Relative.revision(0)) afterwards")
        for lease in generator.granted { _ = await both(.revoke(lease)) }
        return differences
    }

    /// Nothing is left of the sequence before, and revisions are counted from here.
    private func begin(_ peer: Peer) async throws {
        var all = DeleteRangeRequestMessage(key: [0])
        all.rangeEnd = [0]
        _ = try await peer.client.deleteRange(all)
        let answer = try await peer.client.put(Bytes("begin".utf8), Bytes("sequence".utf8))
        guard let revision = answer.header?.revision else { throw Failure(description: "\(peer.name) gave no revision") }
        peer.base = revision
    }

    private func both(_ call: Call) async -> [String] {
        let etcd = await call.answer(of: pair.etcd)
        return [etcd, await call.answer(of: pair.coffer)]
    }

    private func compare(_ watches: [Told], until end: Bytes, _ what: String) async throws -> [String] {
        var told: [String] = []
        for watch in watches { told.append(try await watch.events(until: end)) }
        return told[0] == told[1] ? [] : ["seed \(seed): \(what)\netcd:\n\(told[0])\ncofferd:\n\(told[1])"]
    }
}

/// What a watch is told, however it was put together in messages.
private final class Told: Sendable {
    let name: String
    let call: WatchCall
    let words: Words
    private let lines = Mutex<[String]>([])
    init(_ peer: Peer, _ request: WatchCreateRequestMessage) async throws {
        name = peer.name
        words = Words(base: peer.base)
        call = try await peer.client.watch()
        var request = request
        request.startRevision = Relative.resolved(request.startRevision, peer.base)
        try call.send(.create(request))
    }
    func stop() { call.cancel() }

    func events(until end: Bytes) async throws -> String {
        try await withThrowingTaskGroup(of: String.self) { group in
            group.addTask { try await self.collected(until: end) }
            group.addTask {
                try await Task.sleep(for: .seconds(20))
                throw Failure(description: "\(self.name) did not tell the end within 20 s, but:\n" + self.lines.withLock { $0 }.joined(separator: "\n"))
            }
            defer { group.cancelAll() }
            return try await group.next() ?? ""
        }
    }
    private func collected(until end: Bytes) async throws -> String {
        for try await response in call.responses {
            for event in response.events {
                lines.withLock { $0.append(words.event(event)) }
                if event.kv?.key == end { return text }
            }
            if response.canceled {
                lines.withLock { $0.append("cancelled: \(response.cancelReason) \(words.revision(response.compactRevision))") }
                return text
            }
        }
        lines.withLock { $0.append("the stream ended") }
        return text
    }
    private var text: String { lines.withLock { $0.joined(separator: "\n") } }
}
