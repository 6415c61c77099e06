@testable import CofferClient
import Basics
import EtcdProtocol
import RPC
import Testing

@Suite struct RetryTests {
    @Test("a write is tried again only when it surely was not carried out", arguments: [
        (Status(.unavailable, "the connection is closed", .unsent), Verdict.retry),
        (Status(.unavailable, "the connection is closed", .lost), .unknown),
        (Status(.deadlineExceeded, "context deadline exceeded", .lost), .unknown),
        (Status(.unavailable, "etcdserver: no leader"), .retry),
        (Status(.unavailable, "etcdserver: request timed out"), .unknown),
        (Status(.unavailable, "etcdserver: request timed out, possibly due to previous leader failure"), .unknown),
        (Status(.unavailable, "etcdserver: leader changed"), .unknown),
        (Status(.unavailable, "etcdserver: server stopped"), .unknown),
        (Status(.unknown, "raft proposal dropped"), .retry),
        (Status(.resourceExhausted, "etcdserver: too many requests"), .retry),
        (Status(.resourceExhausted, "etcdserver: mvcc: database space exceeded"), .refused),
        (Status(.internal, "malformed answer"), .unknown),
        (Status(.notFound, "etcdserver: requested lease not found"), .refused),
        (Status(.permissionDenied, "etcdserver: permission denied"), .refused),
    ])
    func writes(status: Status, verdict: Verdict) { #expect(Verdict.on(status, .forbidden) == verdict) }

    @Test("a read is tried again whatever happened to it, unless the answer is no", arguments: [
        (Status(.unavailable, "the connection is closed", .lost), Verdict.retry),
        (Status(.deadlineExceeded, "context deadline exceeded", .lost), .retry),
        (Status(.unavailable, "etcdserver: leader changed"), .retry),
        (Status(.outOfRange, "etcdserver: mvcc: required revision has been compacted"), .refused),
        (Status(.internal, "malformed answer"), .refused),
        (Status(.dataLoss, "etcdserver: a value does not open"), .refused),
    ])
    func reads(status: Status, verdict: Verdict) { #expect(Verdict.on(status, .harmless) == verdict) }

    @Test("endpoints take turns; one that failed rests, and only when all rest is there a wait")
    func turns() {
        var table = EndpointTable(count: 3, backoff: Backoff(first: .seconds(1), longest: .seconds(8))), generator = SeededGenerator(seed: 1)
        #expect((0..<6).map { _ in table.pick(at: .zero).endpoint } == [0, 1, 2, 0, 1, 2])
        table.failed(1, at: .zero, using: &generator)
        #expect((0..<4).map { _ in table.pick(at: .zero).endpoint } == [0, 2, 0, 2])
        #expect(table.pick(at: .zero, avoiding: 0).endpoint == 2)
        table.failed(0, at: .zero, using: &generator)
        table.failed(2, at: .milliseconds(400), using: &generator)
        let (_, wait) = table.pick(at: .milliseconds(450))
        #expect(wait > .zero && wait <= .milliseconds(550))
        #expect(table.pick(at: .seconds(2)).wait == .zero)
        table.succeeded(1)
        #expect(table.pick(at: .milliseconds(450)) == (1, .zero))
    }

    @Test("waits double up to the longest, are never without a random part, and failures of one moment count once")
    func backoff() {
        let backoff = Backoff(first: .milliseconds(50), longest: .seconds(3))
        var generator = SeededGenerator(seed: 7)
        for failures in 1...100 {
            let wait = backoff.wait(failures: failures, using: &generator), full = min(Duration.milliseconds(50) * (1 << min(failures - 1, 10)), .seconds(3))
            #expect(wait >= full / 2 && wait <= full)
        }
        var table = EndpointTable(count: 1, backoff: backoff)
        for _ in 0..<100 { table.failed(0, at: .zero, using: &generator) }
        #expect(table.pick(at: .zero).wait <= .milliseconds(50))
    }

    @Test("endpoints are https, or plain on loopback", arguments: [
        ("https://a.example:2379", "https://a.example:2379"), ("127.0.0.1:2379", "http://127.0.0.1:2379"), ("http://localhost:1/", "http://localhost:1"),
        ("https://[2001:db8::1]:2379", "https://[2001:db8::1]:2379"), ("http://[::1]:5", "http://[::1]:5"),
    ])
    func endpoints(text: String, canonical: String) throws { #expect(try Endpoint(text).description == canonical) }

    @Test("what is no endpoint, or plain over a network, is refused", arguments: [
        "", "a", "a:0", "a:65536", ":2379", "http://a.example:2379", "127.example.com:1", "http://10.0.0.1:2379", "https://::1:5", "https://a/b:5", "127.0.0.1.5:1",
    ])
    func refusedEndpoints(text: String) { #expect(throws: CofferClientError.self) { try Endpoint(text) } }

    @Test("progress is believed of servers that send it in order", arguments: [
        ("3.4.23", false), ("3.4.25", true), ("3.5.7", false), ("3.5.8", true), ("3.6.0-rc.1", true), ("3.7.0", true), ("4.0.0", true), ("", false), ("3.5", false),
    ])
    func versions(text: String, isExact: Bool) { #expect(ServerVersion(text).hasExactProgress == isExact) }
}

@Suite struct WatchPositionTests {
    private func response(_ revision: Int64, events: [Int64] = [], watch: Int64 = 0, _ change: (inout WatchResponseMessage) -> Void = { _ in }) -> WatchResponseMessage {
        var message = WatchResponseMessage(header: ResponseHeader(clusterID: 1, memberID: 1, revision: revision, raftTerm: 1), watchID: watch)
        message.events = events.map {
            var kv = KeyValueMessage()
            kv.key = [1]
            kv.modRevision = $0
            return EventMessage(kind: .put, kv: kv, prevKV: nil)
        }
        change(&message)
        return message
    }

    @Test("a watch from now on begins after the revision at which it was created, and resumes there")
    func fromNow() throws {
        var position = WatchPosition(after: 0)
        #expect(position.next == 0)
        #expect(try position.take(response(7) { $0.created = true }, exact: true) == .progress(7))
        #expect(position.next == 8)
        #expect(try position.take(response(9) { $0.created = true }, exact: true) == .nothing) // on another stream, created at 8
        #expect(position.next == 8)
    }

    @Test("what was told is not told again, and what was not is")
    func resumes() throws {
        var position = WatchPosition(after: 4)
        #expect(try position.take(response(9, events: [5, 6, 6]), exact: true) == .events(response(0, events: [5, 6, 6]).events, revision: 6))
        #expect(position.next == 7) // the header's 9 promises nothing
        #expect(try position.take(response(9, events: [6, 6, 7]), exact: true) == .events(response(0, events: [7]).events, revision: 7))
        #expect(try position.take(response(9, events: [5]), exact: true) == .nothing)
        #expect(position.next == 8)
    }

    @Test("progress moves the position, if it can be believed, and never back")
    func progress() throws {
        var position = WatchPosition(after: 4)
        #expect(try position.take(response(9, watch: -1), exact: false) == .nothing)
        #expect(try position.take(response(9, watch: -1), exact: true) == .progress(9))
        #expect(try position.take(response(8), exact: true) == .nothing)
        #expect(try position.take(response(12), exact: false) == .progress(12))
        #expect(position.next == 13)
    }

    @Test("compaction and refusal end a watch, a member's trouble does not")
    func endings() {
        var position = WatchPosition(after: 4)
        #expect(throws: WatchPosition.Ended.compacted(30)) { try position.take(response(40) { $0.canceled = true; $0.compactRevision = 30 }, exact: true) }
        #expect(throws: WatchPosition.Ended.refused("no")) {
            try position.take(response(40, watch: -1) { $0.canceled = true; $0.created = true; $0.cancelReason = "no" }, exact: true)
        }
        #expect(throws: WatchPosition.Ended.broken("etcdserver: no leader")) {
            try position.take(response(40) { $0.canceled = true; $0.cancelReason = "etcdserver: no leader" }, exact: true)
        }
        #expect(throws: WatchPosition.Ended.broken("etcdserver: the audit trail cannot be written")) {
            try position.take(response(40, watch: -1) {
                $0.canceled = true
                $0.created = true
                $0.cancelReason = "etcdserver: the audit trail cannot be written"
            }, exact: true)
        }
        #expect(throws: WatchPosition.Ended.refused("etcdserver: permission denied")) {
            try position.take(response(40) { $0.canceled = true; $0.cancelReason = "etcdserver: permission denied" }, exact: true)
        }
        #expect(position.next == 5)
    }
}
