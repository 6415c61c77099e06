import Certificates
@testable import CofferClient
import Faults
import Foundation
import Glibc
import NIOSSL
import Synchronization
import Testing

/// One store behind two proxies: two ways to it, which can be cut one by one.
private func withTwoWays(_ body: (_ store: ServedStore, _ ways: [TCPProxy], _ client: CofferClient) async throws -> Void) async throws {
    try await ServedStore.run { store in
        var ways: [TCPProxy] = []
        for _ in 0..<2 { ways.append(try await TCPProxy.listen(to: store.port)) }
        let client = try await CofferClient.quick(ways.map { "http://127.0.0.1:\($0.port)" })
        do { try await body(store, ways, client) } catch {
            await client.close()
            for way in ways { await way.close() }
            throw error
        }
        await client.close()
        for way in ways { await way.close() }
    }
}

@Suite struct FailoverTests {
    @Test("a read whose answer does not come is asked again elsewhere; a write is not, and says that its outcome is unknown")
    func lostAnswers() async throws {
        try await withTwoWays { store, ways, client in
            let before = try await client.put("k", secret("0"))
            _ = try await client.get("k") // both ways have a connection now
            ways[0].set(.heldToClient)
            for _ in 0..<4 { #expect(try await client.text("k") == "0") }
            ways[0].set(.open)
            // Both ways swallow answers: the write arrives, the word of it does not.
            for way in ways { way.set(.heldToClient) }
            let write = Task { try await client.put("k", secret("1")) }
            let direct = try await CofferClient.quick([store.endpoint])
            try await eventually("the write arrives") { try await direct.text("k") == "1" }
            for way in ways {
                await way.cut()
                way.set(.open)
            }
            await #expect { try await write.value } throws: { ($0 as? CofferClientError)?.code == .outcomeUnknown }
            let item = try #require(try await client.get("k"))
            #expect(item.revision == before + 1 && item.version == 2) // once
            await direct.close()
        }
    }

    @Test("a write that was never sent goes to the endpoint that is left")
    func deadEndpoint() async throws {
        try await withTwoWays { _, ways, client in
            let first = try await client.put("k", secret("0"))
            ways[1].set(.refused)
            await ways[1].cut()
            for number in 1...20 { try await client.put("k", secret("\(number)")) }
            let item = try #require(try await client.get("k"))
            #expect(item.revision == first + 20 && item.version == 21)
        }
    }

    @Test("a lease whose grant was answered into the void is granted once")
    func lostGrant() async throws {
        try await withTwoWays { store, ways, client in
            for way in ways { way.set(.heldToClient) }
            let grant = Task { try await client.grantLease(seconds: 600) }
            let direct = try await CofferClient.quick([store.endpoint])
            try await eventually("the grant arrives") { try await direct.leases().count == 1 }
            for way in ways {
                await way.cut()
                way.set(.open)
            }
            let id = try await grant.value
            #expect(try await direct.leases() == [id])
            await direct.close()
        }
    }

    @Test("a watch tells every change once and in order while its connections are cut, held and refused")
    func watchGoesOn() async throws {
        try await withTwoWays { store, ways, client in
            let direct = try await CofferClient.quick([store.endpoint])
            let begin = try await direct.put("begin", secret(""))
            let told = Told(client, .prefix("w/"), after: begin)
            for round in 0..<12 {
                let way = ways[round % 2]
                ways[(round + 1) % 2].set(.open)
                way.set([.held, .heldToClient, .refused, .heldToServer, .open][round % 5])
                if round % 3 == 0 { await way.cut() }
                for number in 0..<25 { try await direct.put("w/\(number)", secret("\(round)/\(number)")) }
                if round % 2 == 1 { try await direct.delete(.one("w/0")) }
                let last = try await direct.range(.all).revision
                try await eventually("round \(round) is told") { told.now.revisions.last == last }
            }
            let expected = (0..<12).flatMap { round in (0..<25).map { "w/\($0)=\(round)/\($0)" } + (round % 2 == 1 ? ["w/0-"] : []) }
            #expect(told.now.changes == expected)
            #expect(told.now.revisions == (0..<expected.count).map { begin + 1 + Int64($0) })
            told.stop()
            await direct.close()
        }
    }

    @Test("a watch whose history was compacted while it was cut off says so, with the revision")
    func compactedMeanwhile() async throws {
        try await withTwoWays { store, ways, client in
            let told = Told(client, .prefix("w/"))
            try await eventually("the watch is served") { told.now.progress > 0 }
            for way in ways {
                way.set(.refused)
                await way.cut()
            }
            let direct = try await CofferClient.quick([store.endpoint])
            for number in 0..<10 { try await direct.put("w/1", secret("\(number)")) }
            let last = try await direct.range(.all).revision
            try await direct.compact(before: last)
            for way in ways { way.set(.open) }
            try await eventually("the watch ends") { told.now.isOver }
            #expect(told.now.error?.code == .revisionGone && told.now.error?.revision == last && told.now.changes.isEmpty)
            await direct.close()
        }
    }

    @Test("a quiet watch moves on by progress, so that compaction does not break it")
    func quietWatch() async throws {
        try await withTwoWays { store, ways, client in
            let told = Told(client, .prefix("quiet/"))
            try await eventually("the watch is served") { told.now.progress > 0 }
            let direct = try await CofferClient.quick([store.endpoint])
            for number in 0..<10 { try await direct.put("noise", secret("\(number)")) }
            let last = try await direct.range(.all).revision
            try await eventually("progress is told") { told.now.progress == last }
            try await direct.compact(before: last)
            for way in ways { await way.cut() }
            try await direct.put("quiet/1", secret("x"))
            try await eventually("the change is told") { told.now.changes == ["quiet/1=x"] }
            told.stop()
            await direct.close()
        }
    }

    @Test("reads, writes and watches go on after the server was stopped and started again")
    func restarts() async throws {
        try await ServedStore.run { store in
            let client = try await CofferClient.quick([store.endpoint])
            let told = Told(client, .prefix("k"))
            try await eventually("the watch is served") { told.now.progress > 0 }
            for round in 0..<3 {
                try await client.put("k", secret("\(round)"))
                await store.stop()
                try await store.start()
                #expect(try await client.text("k") == "\(round)")
            }
            try await eventually("all is told") { told.now.changes == ["k=0", "k=1", "k=2"] }
            told.stop()
            await client.close()
        }
    }

    @Test("a kept lease survives its connections, ends by name when it is revoked, and when nobody can be reached for its span")
    func keptLeases() async throws {
        try await withTwoWays { store, ways, client in
            let lease = try await client.keptLease(seconds: 15), other = try await client.keptLease(seconds: 15)
            try await client.put("held", secret("x"), lease: lease.id)
            let direct = try await CofferClient.quick([store.endpoint])
            var round = 0, renewals = 0, heldUntil = lease.heldUntil
            while renewals < 4 { // three are a span
                round += 1
                ways[round % 2].set(round % 3 == 0 ? .refused : .held)
                ways[(round + 1) % 2].set(.open)
                if round % 2 == 0 { await ways[round % 2].cut() }
                try await Task.sleep(for: .milliseconds(200))
                try #require(lease.isHeld)
                if lease.heldUntil > heldUntil { (heldUntil, renewals) = (lease.heldUntil, renewals + 1) }
            }
            #expect(try await direct.text("held") == "x")
            try await direct.revoke(lease: other.id)
            for way in ways { way.set(.open) }
            #expect(await other.ended() == .expired)
            for way in ways {
                way.set(.refused)
                await way.cut()
            }
            #expect(await lease.ended() == .unreachable)
            #expect(!lease.isHeld)
            await direct.close()
        }
    }

    @Test("a released lease is gone, and one that nobody holds is not renewed any more")
    func releasedLeases() async throws {
        try await ServedStore.run { store in
            let client = try await CofferClient.quick([store.endpoint])
            let lease = try await client.keptLease(seconds: 600)
            try await lease.release()
            #expect(await lease.ended() == .released)
            #expect(try await client.leases().isEmpty)
            _ = try await client.keptLease(seconds: 2)
            try await eventually("it ends by itself") { try await client.leases().isEmpty }
            await client.close()
        }
    }

    @Test("a watch that is not read holds back the server, not this process's memory")
    func slowReader() async throws {
        try await withTwoWays { store, ways, client in
            let value = try secret(String(repeating: "v", count: 256 << 10)), count = 96
            var iterator = client.watch(.prefix("big")).makeAsyncIterator()
            _ = try await iterator.next() // it is served from here on
            let direct = try await CofferClient.quick([store.endpoint])
            for number in 0..<count { try await direct.put("big/\(number)", value) }
            await direct.close()
            func received() -> Int { ways.reduce(0) { $0 + $1.bytesToClient } }
            try await eventually("a window is filled") { received() > 3 << 20 }
            var last = -1
            try await eventually("the server pauses") {
                defer { last = received() }
                try await Task.sleep(for: .milliseconds(200))
                return received() == last
            }
            #expect(received() < 8 << 20)
            var seen: [String] = []
            while seen.count < count {
                for case .put(let item) in try #require(try await iterator.next()).changes { seen.append(item.key.description) }
            }
            #expect(seen == (0..<count).map { "big/\($0)" } && received() > 24 << 20)
        }
    }

    @Test("TLS: a client with a certificate is served; one without, or that trusts another authority, is not")
    func encrypted() async throws {
        let folder = try TemporaryFolder("pki"), now = Date()
        let authority = try CertificateAuthority.create(now: now), stranger = try CertificateAuthority.create(name: "stranger", now: now)
        var configuration = try TransportSecurity.server(authority.issueServer(names: ["127.0.0.1"], now: now), clients: authority.certificate, certificates: .required)
        configuration.applicationProtocols = ["h2"]
        func path(_ name: String) -> String { folder.path + "/" + name }
        try authority.credential.save(certificate: path("ca.crt"), key: path("ca.key"), replacing: .refused)
        try stranger.credential.save(certificate: path("stranger.crt"), key: path("stranger.key"), replacing: .refused)
        try authority.issueClient(CertificateIdentity(commonName: "app", organizations: []), now: now).save(certificate: path("app.crt"), key: path("app.key"), replacing: .refused)
        try await ServedStore.run(try ServedStore(tls: try NIOSSLContext(configuration: configuration))) { store in
            func connect(_ identity: CofferClient.Identity) async throws -> CofferClient {
                var configuration = CofferClient.Configuration(endpoints: [store.endpoint], identity: identity)
                configuration.timeout = .seconds(2)
                return try await CofferClient.connect(configuration)
            }
            let client = try await connect(.init(authorityFile: path("ca.crt"), certificateFile: path("app.crt"), keyFile: path("app.key")))
            try await client.put("k", secret("v"))
            #expect(try await client.text("k") == "v")
            await client.close()
            await #expect(throws: CofferClientError.self) { try await connect(.init(authorityFile: path("ca.crt"))) }
            await #expect(throws: CofferClientError.self) {
                try await connect(.init(authorityFile: path("stranger.crt"), certificateFile: path("app.crt"), keyFile: path("app.key")))
            }
            await #expect { try await connect(.init(authorityFile: path("none.crt"))) } throws: { ($0 as? CofferClientError)?.code == .cannotConnect }
        }
    }
}

@Suite(.enabled(if: Etcd.program != nil, "etcd is not installed")) struct EtcdClusterTests {
    /// Writes numbers one after the other; knows which were acknowledged, and which may have happened.
    private struct Written {
        var acknowledged: [Int] = []
        var unknown: [Int] = []
    }

    @Test("with three of Debian's etcd, of which one is killed or stopped in turn, nothing acknowledged is lost, nothing is written twice, and a watch tells it all")
    func survives() async throws {
        try await Etcd.run(members: 3) { etcd in
            let client = try await CofferClient.quick(etcd.endpoints, timeout: .seconds(5)) { $0.connectTimeout = .seconds(2) }
            let told = Told(client, .prefix("n/"))
            try await eventually("the watch is served") { told.now.progress > 0 }
            let lease = try await client.keptLease(seconds: 30)
            try await client.put("held", secret(""), lease: lease.id)
            let written = Mutex(Written()), stop = Mutex(false)
            let writer = Task {
                var number = 0
                while !stop.withLock({ $0 }) {
                    number += 1
                    do {
                        try await client.put("n/\(number)", secret("\(number)"))
                        written.withLock { $0.acknowledged.append(number) }
                    } catch let error as CofferClientError where error.code == .outcomeUnknown {
                        written.withLock { $0.unknown.append(number) }
                    } catch let error as CofferClientError where error.code == .unavailable {} // surely not done
                }
            }
            for member in 0..<3 {
                let count = written.withLock { $0.acknowledged.count }
                try await eventually("writes go on") { written.withLock { $0.acknowledged.count } > count + 50 }
                if member == 1 { etcd.signal(member, SIGSTOP) } else { try await etcd.kill(member) }
                let then = written.withLock { $0.acknowledged.count }, heldUntil = lease.heldUntil
                try await eventually("writes go on without member \(member)") { written.withLock { $0.acknowledged.count } > then + 50 }
                try await eventually("the lease is renewed without member \(member)") { lease.heldUntil > heldUntil }
                if member == 1 { etcd.signal(member, SIGCONT) } else { try etcd.start(member) }
            }
            stop.withLock { $0 = true }
            try await writer.value
            let done = written.withLock { $0 }
            let page = try await client.range(.prefix("n/"))
            let found = page.items.compactMap { Int($0.value.revealedText()) }
            #expect(Set(done.acknowledged).isSubset(of: found) && Set(found).isSubset(of: done.acknowledged + done.unknown))
            #expect(page.items.allSatisfy { $0.version == 1 })
            try await eventually("all is told") { told.now.changes.count >= found.count }
            let numbers = page.items.sorted { $0.revision < $1.revision }
            #expect(told.now.revisions == numbers.map(\.revision))
            #expect(lease.isHeld)
            #expect(try await client.get("held") != nil)
            told.stop()
            await client.close()
        }
    }
}
