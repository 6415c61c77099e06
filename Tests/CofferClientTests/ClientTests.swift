import Basics
@testable import CofferClient
import Faults
import Foundation
import Testing

/// What every server must do for the client, ours and Debian's etcd.
@Suite struct OperationTests {
    @Test("entries, transactions, leases and history work with the store of this project")
    func withCoffer() async throws {
        try await ServedStore.run { try await exercise([$0.endpoint]) }
    }
    @Test("they work with Debian's etcd", .enabled(if: Etcd.program != nil, "etcd is not installed"))
    func withEtcd() async throws {
        try await Etcd.run { try await exercise($0.endpoints) }
    }

    private func exercise(_ endpoints: [String]) async throws {
        let client = try await CofferClient.connect(to: endpoints)
        try await entries(client)
        try await transactions(client)
        try await leases(client)
        try await history(client)
        let members = try await client.members(), status = await client.status()
        #expect(members.count == 1 && status.map(\.endpoint) == endpoints)
        let own = try #require(try? status[0].status.get())
        #expect(own.id == members[0].id && own.leader == own.id && !own.isLearner && own.term > 0 && own.appliedIndex > 0 && own.version.hasPrefix("3."))
        await client.close()
        await #expect { try await client.get("k") } throws: { ($0 as? CofferClientError)?.code == .cancelled }
    }

    private func entries(_ client: CofferClient) async throws {
        let first = try await client.put("a/1", secret("one"))
        let second = try await client.put("a/2", secret(""))
        try await client.put("b", secret("bee"))
        #expect(second == first + 1)
        let item = try #require(try await client.get("a/1"))
        #expect(item.value.revealedText() == "one" && item.revision == first && item.createRevision == first && item.version == 1 && item.lease == 0)
        #expect("\(item.value)" == "<secret>" && !"\(item)".contains("one"))
        #expect(try await client.get("a/3") == nil)
        let page = try await client.range(.prefix("a/"), limit: 1)
        #expect(page.items.map(\.key) == ["a/1"] && page.count == 2 && page.hasMore && page.revision == second + 1)
        #expect(try await client.range(.all).count == 3)
        #expect(try await client.range(.range("a/2"..<"b")).items.map(\.key) == ["a/2"])
        try await client.put("a/1", secret("uno"), if: .unchanged(since: first))
        await #expect { try await client.put("a/1", secret("eins"), if: .unchanged(since: first)) } throws: { ($0 as? CofferClientError)?.code == .conditionFailed }
        await #expect { try await client.put("a/1", secret("eins"), if: .absent) } throws: { ($0 as? CofferClientError)?.code == .conditionFailed }
        #expect(try await client.get("a/1", at: first)?.value.revealedText() == "one")
        #expect(try await client.text("a/1") == "uno")
        #expect(try await client.delete(.prefix("a/")) == 2)
        #expect(try await client.delete(.one("a/1")) == 0)
        await #expect { try await client.put("", secret("x")) } throws: { ($0 as? CofferClientError)?.code == .invalid }
    }

    private func transactions(_ client: CofferClient) async throws {
        let done = try await client.transact(if: [.absent("t/1")], then: [.put("t/1", secret("x")), .put("t/2", secret("y")), .get("b")])
        #expect(done.succeeded && done.found.count == 1 && done.found[0]?.value.revealedText() == "bee")
        #expect(try await client.range(.prefix("t/")).items.map(\.revision) == [done.revision, done.revision])
        let refused = try await client.transact(
            if: [.value("t/1", secret("z"))], then: [.delete(.prefix("t/"))], otherwise: [.get("t/1"), .get("t/none")])
        #expect(!refused.succeeded && refused.found.map { $0?.value.revealedText() } == ["x", nil])
        #expect(try await client.transact(if: [.value("t/1", secret("x")), .exists("t/2")], then: [.delete(.prefix("t/"))]).succeeded)
        #expect(try await client.range(.prefix("t/")).count == 0)
    }

    private func leases(_ client: CofferClient) async throws {
        let lease = try await client.grantLease(seconds: 600)
        try await client.put("l/1", secret("leased"), lease: lease)
        #expect(try await client.keepAlive(lease: lease) == 600)
        let status = try #require(try await client.status(lease: lease))
        #expect(status.keys == ["l/1"] && status.grantedSeconds == 600 && (590...600).contains(status.seconds))
        #expect(try await client.leases() == [lease])
        try await client.revoke(lease: lease)
        #expect(try await client.get("l/1") == nil)
        #expect(try await client.status(lease: lease) == nil)
        await #expect { try await client.keepAlive(lease: lease) } throws: { ($0 as? CofferClientError)?.code == .notFound }
        await #expect { try await client.revoke(lease: lease) } throws: { ($0 as? CofferClientError)?.code == .notFound }
        await #expect { try await client.put("l/2", secret("x"), lease: lease) } throws: { ($0 as? CofferClientError)?.code == .notFound }
    }

    private func history(_ client: CofferClient) async throws {
        let first = try await client.put("h", secret("1")), last = try await client.put("h", secret("2"))
        let told = Told(client, .one("h"), after: first - 1)
        try await eventually("history is told") { told.now.changes.count == 2 }
        #expect(told.now.changes == ["h=1", "h=2"] && told.now.revisions == [first, last])
        told.stop()
        try await client.compact(before: last)
        await #expect { try await client.get("h", at: first) } throws: { ($0 as? CofferClientError)?.code == .revisionGone }
        await #expect { try await client.compact(before: last) } throws: { ($0 as? CofferClientError)?.code == .revisionGone }
        let late = Told(client, .one("h"), after: first - 1)
        try await eventually("the watch ends") { late.now.isOver }
        #expect(late.now.error?.code == .revisionGone && late.now.error?.revision == last && late.now.changes.isEmpty)
    }

    @Test("a client of addresses where nobody listens says so, in time")
    func nobody() async throws {
        let ports = try freePorts(2)
        let began = ContinuousClock.now
        await #expect { try await CofferClient.quick(ports.map { "127.0.0.1:\($0)" }, timeout: .seconds(1)) } throws: { ($0 as? CofferClientError)?.code == .unavailable }
        #expect(ContinuousClock.now - began < .seconds(15))
        await #expect { try await CofferClient.connect(to: []) } throws: { ($0 as? CofferClientError)?.code == .cannotConnect }
        await #expect { try await CofferClient.connect(to: ["https://127.0.0.1:1"]) } throws: { ($0 as? CofferClientError)?.code == .cannotConnect }
    }

    @Test("an endpoint that belongs to another cluster is never used")
    func otherCluster() async throws {
        let other = try ServedStore(clusterID: 99)
        try await ServedStore.run { store in
            try await ServedStore.run(other) { other in
                let client = try await CofferClient.quick([store.endpoint])
                try await client.put("k", secret("v"))
                await client.close()
                let both = try await CofferClient.quick([store.endpoint, other.endpoint])
                for _ in 0..<10 { #expect(try await both.text("k") == "v") }
                await both.close()
            }
        }
    }
}
