import Certificates
import Coffer
import Foundation
import Glibc
import Logging
import Synchronization
import Testing

/// Members of one cluster, each embedded: here all in one process.
@Suite(.timeLimit(.minutes(10))) struct EmbeddedClusterTests {
    /// Certificates, a key and a directory for each; removed with the last reference.
    final class Cluster: Sendable {
        let path = NSTemporaryDirectory() + "coffer-members-\(UUID().uuidString)"
        let ports: [String: UInt16]
        let names: [String]
        init(_ names: [String]) throws {
            self.names = names
            ports = Dictionary(uniqueKeysWithValues: zip(names, try Self.freePorts(names.count)))
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            let authority = try CertificateAuthority.create(name: "peers", now: Date())
            try PrivateFile.write(authority.credential.certificatePEM, to: path + "/ca.crt", replacing: .allowed)
            for name in names {
                try authority.issueMember(name: name, names: ["127.0.0.1"], now: Date()).save(certificate: path + "/\(name).crt", key: path + "/\(name).key", replacing: .allowed)
            }
            try Data((0..<32).map { _ in UInt8.random(in: 0...255) }).write(to: URL(fileURLWithPath: path + "/seal.key"))
            #expect(chmod(path + "/seal.key", 0o400) == 0)
        }
        deinit { try? FileManager.default.removeItem(atPath: path) }

        func url(_ name: String) -> String { "https://127.0.0.1:\(ports[name] ?? 0)" }
        func membership(_ name: String, of names: [String], _ beginning: Coffer.ClusterMembership.Beginning = .new) -> Coffer.ClusterMembership {
            var membership = Coffer.ClusterMembership(
                name: name, initialCluster: names.map { "\($0)=\(url($0))" }.joined(separator: ","),
                certificates: .init(authority: path + "/ca.crt", certificate: path + "/\(name).crt", key: path + "/\(name).key"))
            membership.beginning = beginning
            membership.heartbeatMilliseconds = 20
            membership.electionMilliseconds = 1_000 // on a busy machine a leader may not be heard of for a while
            return membership
        }
        func open(_ name: String, of names: [String], _ beginning: Coffer.ClusterMembership.Beginning = .new) async throws -> Coffer {
            var logger = Logger(label: name)
            logger.logLevel = .critical
            return try await Coffer.open(path + "/" + name, unlock: .keyFile(path + "/seal.key"), as: membership(name, of: names, beginning), logger: logger)
        }
        /// All at once: a cluster begins when most of its members are there.
        func found(_ names: [String]) async throws -> [String: Coffer] {
            try await withThrowingTaskGroup(of: (String, Coffer).self) { tasks in
                for name in names { tasks.addTask { (name, try await self.open(name, of: names)) } }
                return try await tasks.reduce(into: [:]) { $0[$1.0] = $1.1 }
            }
        }

        private static func freePorts(_ count: Int) throws -> [UInt16] {
            var sockets: [Int32] = [], ports: [UInt16] = []
            defer { for socket in sockets { close(socket) } }
            for _ in 0..<count {
                let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
                sockets.append(descriptor)
                var address = sockaddr_in(), length = socklen_t(MemoryLayout<sockaddr_in>.size)
                address.sin_family = sa_family_t(AF_INET)
                address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
                let bound = withUnsafeMutablePointer(to: &address) { pointer in
                    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0 }
                }
                #expect(bound)
                ports.append(UInt16(bigEndian: address.sin_port))
            }
            return ports
        }
    }

    private func eventually(_ what: String, withinSeconds seconds: Double = 60, _ condition: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(seconds)
        while try await !condition() {
            try #require(ContinuousClock.now < deadline, "not in time: \(what)")
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    @Test("three embedded members are one store: each reads what any wrote; the leader closes, a watch at another goes on without a gap, and it comes back")
    func together() async throws {
        let cluster = try Cluster(["a", "b", "c"])
        var members = try await cluster.found(cluster.names)
        for (name, member) in members { try await member.put("from/\(Coffer.Key(name))", Coffer.Secret("value of \(name)")) }
        for member in members.values {
            let page = try await member.range(.prefix("from/"))
            #expect(page.items.map { $0.value.revealedText() } == cluster.names.map { "value of \($0)" })
            #expect(member.members.map(\.name).sorted() == cluster.names && member.members.allSatisfy { !$0.isLearner && $0.peerURLs == [cluster.url($0.name)] })
        }
        try await eventually("all know who leads") {
            members.values.contains { leader in
                leader.leadership.isLeader && members.values.allSatisfy { $0.leadership.leader == leader.leadership.member }
            }
        }
        let first = try #require(members.values.first).leadership
        let leading = try #require(members.first { $0.value.leadership.isLeader })
        #expect(first.leader != nil && first.outOfService == nil && !first.isRemoved)

        let (name, witness) = try #require(members.first { $0.key != leading.key })
        let start = try await witness.put("begin", Coffer.Secret("x"))
        let seen = Mutex<[String]>([])
        let watching = Task {
            for try await batch in witness.watch(.prefix("n/"), after: start) {
                for case .put(let item) in batch.changes { seen.withLock { $0.append(item.key.description) } }
            }
        }
        for number in 0..<20 { try await leading.value.put("n/\(Coffer.Key("\(100 + number)"))", Coffer.Secret("\(number)")) }
        members[leading.key] = nil
        await leading.value.close()
        for number in 20..<40 { try await witness.put("n/\(Coffer.Key("\(100 + number)"))", Coffer.Secret("\(number)")) }
        try await eventually("the watch at \(name) was told all") { seen.withLock { $0.count >= 40 } }
        #expect(seen.withLock { $0 } == (100..<140).map { "n/\($0)" })
        watching.cancel()
        #expect(witness.leadership.leader != leading.value.leadership.member && witness.leadership.leader != nil)

        let back = try await cluster.open(leading.key, of: cluster.names)
        members[leading.key] = back
        #expect(try await back.range(.prefix("n/")).count == 40)
        #expect(try await back.get("n/139")?.value.revealedText() == "39")
        for member in members.values { await member.close() }
    }

    @Test("an embedded member takes another in, which learns everything, is promoted, leads when told to, and is removed again")
    func members() async throws {
        let cluster = try Cluster(["a", "b"])
        let first = try await cluster.open("a", of: ["a"])
        try await first.createNamespace("prod")
        try await first.putSecret("login", in: "prod", ["password": Coffer.Secret("one")])
        let id = try await first.addMember(peerURLs: [cluster.url("b")])
        let second = try await cluster.open("b", of: ["a", "b"], .existing)
        #expect(try await second.secret("login", in: "prod")?["password"]?.revealedText() == "one")
        #expect(second.leadership.member == id)
        try await eventually("b is promoted") { do { try await first.promoteMember(id); return true } catch { return false } }
        try await eventually("b knows that it votes") { !second.leadership.isLearner && second.members.count == 2 }
        // On a busy machine it moves by itself, too; and only who leads can be asked.
        try await eventually("b leads") {
            if second.leadership.isLeader, first.leadership.leader == id { return true }
            try? await first.moveLeadership(to: id)
            return false
        }
        try await second.putSecret("login", in: "prod", ["password": Coffer.Secret("two")])
        #expect(try await first.secret("login", in: "prod")?["password"]?.revealedText() == "two")
        try await eventually("a leads") {
            if first.leadership.isLeader { return true }
            try? await second.moveLeadership(to: first.leadership.member)
            return false
        }
        // A leader that has just begun changes nobody yet.
        try await eventually("b is removed") {
            do { try await first.removeMember(id) } catch let error as CofferError where error.code == .busy || error.code == .unavailable {}
            return first.members.map(\.name) == ["a"]
        }
        try await eventually("b hears of it") { second.leadership.isRemoved }
        try await first.put("alone", Coffer.Secret("again"))
        #expect(first.members.map(\.name) == ["a"])
        await second.close()
        await first.close()
    }

    /// Where in LMDB's file the pages of large values lie: their bodies, without the first page's head.
    private func largeValues(_ path: String, bytesMin: Int) throws -> [Int] {
        let file = try Data(contentsOf: URL(fileURLWithPath: path), options: .uncached), page = 4_096
        return stride(from: 0, to: file.count - page, by: page).filter { start in
            let flags = UInt16(file[start + 10]) | UInt16(file[start + 11]) << 8 // 4: pages of one value
            let pages = (0..<4).reduce(0) { $0 | Int(file[start + 12 + $1]) << (8 * $1) }
            return flags == 4 && pages * page >= bytesMin && start + pages * page <= file.count
        }
    }

    @Test("a value that is damaged on one member's disk is fetched from another, while it serves: nothing is restarted, no member leaves")
    func damagedValue() async throws {
        let cluster = try Cluster(["a", "b", "c"])
        var members = try await cluster.found(cluster.names)
        let text = String(repeating: "0123456789abcdef", count: 20_000)
        let damaged = try #require(members.first { !$0.value.leadership.isLeader })
        try await damaged.value.put("small", Coffer.Secret("x"))
        try await damaged.value.put("large", Coffer.Secret(text))
        let path = cluster.path + "/" + damaged.key + "/records/data.mdb"
        try await eventually("the value is on the disk") { try largeValues(path, bytesMin: text.utf8.count).count == 1 }
        let place = try #require(try largeValues(path, bytesMin: text.utf8.count).first)
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: UInt64(place + 100_000))
        let byte = try #require(try file.read(upToCount: 1)?.first)
        try file.seek(toOffset: UInt64(place + 100_000))
        try file.write(contentsOf: Data([byte ^ 0x10]))
        try file.close()
        // Until the record lane has it for itself it is served from memory: then it is found not to open, once or more, and then whole again.
        try await eventually("it is found to be damaged") {
            do { _ = try await damaged.value.get("large"); return false } catch let error as CofferError { return error.code == .unreadable }
        }
        try await eventually("it is fetched") { do { return try await damaged.value.get("large")?.value.revealedText() == text } catch { return false } }
        #expect(damaged.value.leadership.outOfService == nil && damaged.value.members.allSatisfy { !$0.isLearner })
        #expect(try await damaged.value.get("small")?.value.revealedText() == "x")
        // It is whole on the disk, too.
        await damaged.value.close()
        members[damaged.key] = try await cluster.open(damaged.key, of: cluster.names)
        #expect(try await members[damaged.key]?.get("large")?.value.revealedText() == text)
        for member in members.values { await member.close() }
    }

    @Test("a rotation that a follower was asked for is carried out by the leader, and the old key is destroyed everywhere")
    func rotation() async throws {
        let cluster = try Cluster(["a", "b", "c"])
        let members = try await cluster.found(cluster.names)
        let follower = try #require(members.values.first { !$0.leadership.isLeader })
        try await follower.createNamespace("prod")
        for number in 0..<20 { try await follower.putSecret("s\(number)", in: "prod", ["v": Coffer.Secret("\(number)")]) }
        try await follower.rotate(.dataKey, ofNamespace: "prod")
        for member in members.values {
            try await eventually("nothing is left under the old key") {
                await member.keyStatus().contains { $0.name == "namespace/prod" && $0.generation == 2 && $0.remaining == 0 }
            }
            #expect(try await member.secret("s7", in: "prod")?["v"]?.revealedText() == "7")
        }
        for member in members.values { await member.close() }
    }
}
