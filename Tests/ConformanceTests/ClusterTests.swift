import Faults
import Foundation
import Glibc
import Testing

/// Real daemons as one cluster, under stock etcdctl and cofferctl.
@Suite(.enabled(if: Program.etcdctl != nil, "etcdctl is not installed"), .timeLimit(.minutes(10))) struct ClusterTests {
    /// Asks again until the answer is this one: for a moment after a change, or an election, a cluster takes no other.
    private func until(
        _ status: Int32 = 0, prints text: String, sourceLocation: SourceLocation = #_sourceLocation, _ ask: () async throws -> Program
    ) async throws {
        var last = ""
        try await eventually("it prints '\(text)': \(last)", sourceLocation: sourceLocation) {
            let answer = try await ask()
            last = answer.text
            return answer.status == status && last.contains(text)
        }
    }

    @Test("three members begin together: each serves reads and writes, one seal file is everybody's, and etcdctl sees them")
    func begin() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            for name in cluster.names { expect(try await cluster.etcdctl([name], "put", "from/\(name)", "value-\(name)"), is: "OK\n") }
            for name in cluster.names {
                expect(try await cluster.etcdctl([name], "get", "from/", "--prefix", "--print-value-only"), is: "value-a\nvalue-b\nvalue-c\n")
            }
            let seals = Set(try cluster.names.map { try Data(contentsOf: URL(fileURLWithPath: cluster.folder($0) + "/data/seal")) })
            #expect(seals.count == 1)
            let keys = Set(try cluster.names.map { try Data(contentsOf: URL(fileURLWithPath: cluster.folder($0) + "/data/member")) })
            #expect(keys.count == 3, "each member has a file key of its own")
            let list = try await cluster.etcdctl(["b"], "member", "list", "-w", "table")
            for name in cluster.names { expect(list, prints: cluster.peerURL(name), "http://127.0.0.1:\(cluster.port(name).etcd)", "| started | ") }
            expect(try await cluster.etcdctl(cluster.names, "endpoint", "health"), prints: "is healthy")
            let status = try await cluster.etcdctl(cluster.names, "endpoint", "status")
            #expect(status.output.split(separator: "\n").count == 3)
            #expect(status.output.matches(of: #/, true, false, /#).count == 1, "\(status.text)")
            try await cluster.agree(cluster.names)
            expect(try await cluster.etcdctl(["c"], "alarm", "list"), is: "")
            expect(try await cluster.etcdctl(["c"], "snapshot", "save", cluster.home.path + "/snapshot"), 5, prints: "copy its data directory")
            expect(try await cluster.cofferctl(["members", "list", "--endpoints", cluster.endpoints(["a"])]), prints: "IS LEARNER", "started")
            expect(try await cluster.cofferctl(["endpoint", "status", "--members", "--endpoints", cluster.endpoints(["a"])]), prints: "RAFT TERM", "true")
            expect(try await cluster.cofferctl(["endpoint", "health", "--endpoints", cluster.endpoints(cluster.names)]), prints: "true")
        }
    }

    @Test("leadership moves where it is told to, and not to anybody else")
    func moveLeader() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            // On a busy machine leadership moves by itself, too: between a question and what follows from its answer.
            var leader = "", next = ""
            try await until(128 /* no leader among the endpoints */, prints: "no leader endpoint") {
                let present = try await cluster.leader(among: cluster.names), other = try #require(cluster.names.first { $0 != present })
                (leader, next) = (present, other)
                return try await cluster.etcdctl([other], "move-leader", try await cluster.memberID(other, asking: [present]))
            }
            func leads(_ name: String, after move: (String) async throws -> Program) async throws {
                let id = try await cluster.memberID(name, asking: cluster.names)
                var hasMoved = false
                try await eventually("\(name) leads after it was told to") {
                    if hasMoved, try await cluster.leader(among: cluster.names) == name { return true }
                    let answer = try await move(id)
                    if answer.status == 0, answer.text.contains("Leadership transferred") { hasMoved = true }
                    return false
                }
            }
            try await leads(next) { try await cluster.etcdctl(cluster.names, "move-leader", $0) }
            try await until(1, prints: "etcdserver: bad leader transferee") { try await cluster.etcdctl(cluster.names, "move-leader", "123abc") }
            try await leads(leader) { try await cluster.cofferctl(["move-leader", $0, "--endpoints", cluster.endpoints(cluster.names)]) }
        }
    }

    @Test("the leader is killed: what was acknowledged is there, writes go on, and the dead one catches up when it is back")
    func failover() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            for number in 0..<10 { expect(try await cluster.etcdctl(["a"], "put", "k/\(number)", "v\(number)"), is: "OK\n") }
            let leader = try await cluster.leader(among: cluster.names)
            let others = cluster.names.filter { $0 != leader }
            try await cluster.kill(leader)
            try await eventually("writes go on") { try await cluster.etcdctl([others[0]], "put", "after", "x", "--command-timeout", "2s").status == 0 }
            for name in others {
                expect(try await cluster.etcdctl([name], "get", "k/", "--prefix", "--print-value-only"), is: (0..<10).map { "v\($0)\n" }.joined())
                expect(try await cluster.etcdctl([name], "get", "after", "--print-value-only"), is: "x\n")
            }
            try await cluster.restart(leader)
            try await cluster.agree(cluster.names)
            for name in cluster.names { #expect(try await cluster.terminate(name) == .exited(0)) }
            // All of it comes back from the disks, too.
            for name in cluster.names { try cluster.launch(name) }
            for name in cluster.names { try await cluster.serves(name) }
            expect(try await cluster.etcdctl(["b"], "get", "after", "--print-value-only"), is: "x\n")
        }
    }

    @Test("a learner is added, catches up, is promoted; a member is removed and stops; what would lose the quorum is refused")
    func members() async throws {
        try await MemberCluster.with(["a", "b", "c", "d"]) { cluster in
            let first = ["a", "b", "c"]
            try await cluster.found(first)
            expect(try await cluster.etcdctl(["a"], "put", "k", "v"), is: "OK\n")
            expect(try await cluster.etcdctl(first, "member", "add", "x", "--peer-urls=http://127.0.0.1:1"), 1, prints: "given member URLs are invalid")
            expect(try await cluster.etcdctl(first, "member", "add", "x", "--peer-urls=\(cluster.peerURL("a"))"), 1, prints: "Peer URLs already exists")
            expect(try await cluster.etcdctl(first, "member", "remove", "12ab"), 1, prints: "member not found")

            try await until(prints: "added to cluster") {
                try await cluster.etcdctl(first, "member", "add", "d", "--learner", "--peer-urls=\(cluster.peerURL("d"))")
            }
            let id = try await cluster.memberID("d", asking: first)
            try await until(1, prints: "in sync with leader") { try await cluster.etcdctl(first, "member", "promote", id) }
            try await until(1, prints: "etcdserver: too many learner members in cluster") {
                try await cluster.etcdctl(first, "member", "add", "e", "--learner", "--peer-urls=https://127.0.0.1:1")
            }
            try cluster.launch("d", ["initial-cluster": cluster.initial(cluster.names), "initial-cluster-state": "existing"])
            try await cluster.serves("d")
            try await cluster.agree(cluster.names)
            try await eventually("d is promoted") { try await cluster.etcdctl(first, "member", "promote", id).status == 0 }
            expect(try await cluster.etcdctl(["d"], "get", "k", "--print-value-only"), is: "v\n")
            expect(try await cluster.etcdctl(["d"], "put", "k", "w"), is: "OK\n")
            expect(try await cluster.etcdctl(first, "member", "promote", id), 1, prints: "can only promote a learner")

            let gone = try await cluster.memberID("c", asking: first)
            try await until(prints: "removed from cluster") { try await cluster.cofferctl(["members", "remove", gone, "--endpoints", cluster.endpoints(["a"])]) }
            #expect(try await cluster.child("c")?.ended(withinSeconds: 60) == .exited(0))
            let left = ["a", "b", "d"]
            expect(try await cluster.etcdctl(["b"], "put", "k", "y"), is: "OK\n")
            try await cluster.agree(left)
            // Its directory does not bring it back.
            let again = try cluster.launch("c")
            _ = try await again.ended(withinSeconds: 60)
            #expect(again.output.contains("ready") == false)

            // Two that never started would leave the rest without a quorum.
            for (number, name) in ["e", "f"].enumerated() {
                try await until(prints: "added to cluster") {
                    try await cluster.etcdctl(left, "member", "add", name, "--peer-urls=https://127.0.0.1:\(1 + number)")
                }
            }
            try await until(1, prints: "not enough started members") { try await cluster.etcdctl(left, "member", "add", "g", "--peer-urls=https://127.0.0.1:3") }
        }
    }

    @Test("a member at a removed one's address is told who it is by members that are not behind")
    func joinsAmongThoseBehind() async throws {
        try await MemberCluster.with(["a", "b", "c", "d"]) { cluster in
            // What the others send to b goes through a proxy, and can be held back; b itself is heard, and can be asked.
            let proxy = try await TCPProxy.listen(to: cluster.port("b").peer), behind = "https://127.0.0.1:\(proxy.port)"
            let initial = cluster.initial(cluster.names).replacing(cluster.peerURL("b"), with: behind)
            for name in cluster.names {
                var flags = ["initial-cluster": initial]
                if name == "b" { flags.merge(["initial-advertise-peer-urls": behind, "listen-peer-urls": cluster.peerURL("b")]) { $1 } }
                try cluster.launch(name, flags)
            }
            for name in cluster.names { try await cluster.serves(name) }
            let rest = ["a", "d"], gone = try await cluster.memberID("c", asking: rest)
            try await eventually("b does not lead") {
                if try await cluster.leader(among: cluster.names) != "b" { return true }
                _ = try await cluster.etcdctl(["b"], "move-leader", try await cluster.memberID("a", asking: rest))
                return false
            }
            proxy.set(.heldToServer)
            try await eventually("c is removed") { try await cluster.etcdctl(rest, "member", "remove", gone).status == 0 }
            #expect(try await cluster.child("c")?.ended(withinSeconds: 60) == .exited(0))
            try await eventually("c is added") {
                try await cluster.etcdctl(rest, "member", "add", "c", "--learner", "--peer-urls=\(cluster.peerURL("c"))").status == 0
            }
            try FileManager.default.removeItem(atPath: cluster.folder("c"))
            // It knows b alone, which has not heard of any of this.
            let again = try cluster.launch("c", ["initial-cluster": "b=\(cluster.peerURL("b")),c=\(cluster.peerURL("c"))", "initial-cluster-state": "existing"])
            try await eventually("c waits for somebody who is not behind") { again.ending != nil || cluster.log("c").contains("not yet a member") }
            #expect(again.ending == nil && !cluster.log("c").contains("took part before"))
            proxy.set(.open)
            try await cluster.serves("c")
            #expect(try await cluster.memberID("c", asking: rest) != gone)
            await proxy.close()
        }
    }

    @Test("flags that do not fit are refused by name")
    func mismatches() async throws {
        try await MemberCluster.with { cluster in
            func refused(_ name: String, _ flags: [String: String], says text: String) async throws {
                let child = try cluster.launch(name, flags)
                let ending = try await child.ended(withinSeconds: 60)
                #expect(ending == .exited(1) || ending == .exited(64), "\(child.errors)")
                #expect(child.errors.contains(text), "\(child.errors)")
                #expect(!FileManager.default.fileExists(atPath: cluster.folder(name) + "/data/member"))
            }
            let all = cluster.initial(cluster.names)
            try await refused("a", ["initial-cluster": cluster.initial(["b", "c"])], says: "--name a is not in --initial-cluster, which has b, c")
            try await refused("a", ["initial-cluster": all, "initial-advertise-peer-urls": "https://127.0.0.1:1"], says: "--initial-advertise-peer-urls https://127.0.0.1:1")
            try await refused("a", ["initial-cluster": "a=http://127.0.0.1:1"], says: "always speak TLS")
            try await refused("a", ["initial-cluster": all, "peer-cert-file": ""], says: "cofferctl certificates members")
            try await refused("a", ["initial-cluster": all, "peer-cert-file": cluster.home.path + "/peers/b.crt", "peer-key-file": cluster.home.path + "/peers/b.key"],
                              says: "the certificate of member 'b'; --name says 'a'")
            for name in cluster.names {
                try cluster.launch(name, ["initial-cluster": all, "initial-cluster-token": name == "a" ? "one" : "two"])
            }
            try await eventually("those started with another token are told") {
                cluster.names.contains { cluster.log($0).contains(/another (initial )?cluster/) }
            }
        }
    }

    @Test("a member whose directory was lost does not begin anew under its old id")
    func lostDirectory() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            for name in cluster.names {
                expect(try await cluster.etcdctl([name], "put", "k", "v"), is: "OK\n")
                try await cluster.kill(name)
                try FileManager.default.moveItem(atPath: cluster.folder(name) + "/data", toPath: cluster.folder(name) + "/kept")
                let child = try cluster.launch(name, ["initial-cluster": cluster.initial(cluster.names)])
                #expect(try await child.ended(withinSeconds: 60) == .exited(1))
                #expect(child.errors.contains("took part in cluster"), "\(child.errors)")
                #expect(!FileManager.default.fileExists(atPath: cluster.folder(name) + "/data/member"))
                try? FileManager.default.removeItem(atPath: cluster.folder(name) + "/data")
                try FileManager.default.moveItem(atPath: cluster.folder(name) + "/kept", toPath: cluster.folder(name) + "/data")
                try await cluster.restart(name)
            }
            // Another member's directory is not this one's.
            try await cluster.kill("a")
            let stranger = try cluster.launch("a", ["data-dir": cluster.folder("b") + "/data"])
            #expect(try await stranger.ended(withinSeconds: 60) == .exited(1))
            #expect(stranger.errors.contains("belongs to member 'b'"), "\(stranger.errors)")
        }
    }

    @Test("a quorum is lost for good: one member goes on alone with --force-new-cluster, and grows again")
    func forceNew() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            expect(try await cluster.etcdctl(["a"], "put", "k", "v"), is: "OK\n")
            try await cluster.agree(cluster.names)
            for name in cluster.names { try await cluster.kill(name) }
            try await cluster.restart("b", more: ["--force-new-cluster"])
            expect(try await cluster.etcdctl(["b"], "get", "k", "--print-value-only"), is: "v\n")
            expect(try await cluster.etcdctl(["b"], "put", "k", "w"), is: "OK\n")
            let list = try await cluster.etcdctl(["b"], "member", "list")
            #expect(list.output.split(separator: "\n").count == 1, "\(list.text)")
            // The others' directories are of members that were removed; a new one takes the place.
            try await until(prints: "added to cluster") { try await cluster.etcdctl(["b"], "member", "add", "c", "--peer-urls=\(cluster.peerURL("c"))") }
            try FileManager.default.removeItem(atPath: cluster.folder("c") + "/data")
            try cluster.launch("c", ["initial-cluster": cluster.initial(["b", "c"]), "initial-cluster-state": "existing"])
            try await cluster.serves("c")
            expect(try await cluster.etcdctl(["c"], "get", "k", "--print-value-only"), is: "w\n")
        }
    }

    @Test("peer certificates are replaced under load, without a restart and without a lost write")
    func rotation() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            let before = try Data(contentsOf: URL(fileURLWithPath: cluster.home.path + "/peers/a.crt"))
            expect(try await cluster.cofferctl(
                ["certificates", "members", "--renew", "--dir", cluster.home.path + "/peers"] + cluster.names.map { "\($0)=127.0.0.1,localhost" }))
            #expect(try Data(contentsOf: URL(fileURLWithPath: cluster.home.path + "/peers/a.crt")) != before)
            try await eventually("all have read them") { cluster.names.allSatisfy { cluster.log($0).contains("peer certificates were read again") } }
            for name in cluster.names { expect(try await cluster.etcdctl([name], "put", "after/\(name)", "v"), is: "OK\n") }
            try await cluster.agree(cluster.names)
        }
    }

    @Test("a member whose directory is put back to an older one is taken out of service by name, becomes a learner, catches up and votes again")
    func putBack() async throws {
        try await MemberCluster.with { cluster in
            try await cluster.found(cluster.names)
            let leader = try await cluster.leader(among: cluster.names)
            let forgetful = try #require(cluster.names.first { $0 != leader }), data = cluster.folder(forgetful) + "/data"
            for number in 0..<10 { expect(try await cluster.etcdctl([leader], "put", "k/\(number)", "early"), is: "OK\n") }
            try await cluster.agree(cluster.names)
            #expect(try await cluster.terminate(forgetful) == .exited(0))
            try FileManager.default.copyItem(atPath: data, toPath: data + "-kept")
            try await cluster.restart(forgetful)
            for number in 0..<10 { expect(try await cluster.etcdctl([forgetful], "put", "k/\(number)", "late"), is: "OK\n") }
            try await cluster.agree(cluster.names)
            try await cluster.kill(forgetful)
            try FileManager.default.removeItem(atPath: data)
            try FileManager.default.moveItem(atPath: data + "-kept", toPath: data)
            try await cluster.restart(forgetful) // it serves once it has caught up
            #expect(cluster.log(forgetful).contains("was put back to an earlier state"), "\(cluster.log(forgetful))")
            let others = cluster.names.filter { $0 != forgetful }
            #expect(others.contains { cluster.log($0).contains("a member is out of service") && cluster.log($0).contains("name=\(forgetful)") }, "\(cluster.log(others[0]))")
            try await eventually("it votes again") { cluster.log(forgetful).contains("this member has caught up and votes again") }
            let list = try await cluster.etcdctl(others, "member", "list")
            #expect(list.output.matches(of: #/, started, .*, false/#).count == 3, "\(list.text)")
            expect(try await cluster.etcdctl([forgetful], "get", "k/", "--prefix", "--print-value-only"), is: String(repeating: "late\n", count: 10))
            try await cluster.agree(cluster.names)
        }
    }

    @Test("a store that was alone becomes the first member of a cluster, with all it holds, and another joins it")
    func grown() async throws {
        try await MemberCluster.with(["a", "b"]) { cluster in
            let alone = ["initial-advertise-peer-urls": "", "peer-cert-file": "", "peer-key-file": "", "peer-trusted-ca-file": ""]
            try cluster.launch("a", alone)
            try await cluster.serves("a")
            expect(try await cluster.etcdctl(["a"], "put", "k", "v"), is: "OK\n")
            let header = try await cluster.etcdctl(["a"], "get", "k", "-w", "json").output.firstMatch(of: /"cluster_id":(\d+)/)?.output.1
            #expect(try await cluster.terminate("a") == .exited(0))
            // With others that would begin with it, it says what to do instead.
            let refused = try cluster.launch("a", ["initial-cluster": cluster.initial(["a", "b"])])
            #expect(try await refused.ended(withinSeconds: 60) == .exited(1))
            #expect(refused.errors.contains("let the others in (members add)"), "\(refused.errors)")
            try cluster.launch("a", ["initial-cluster": cluster.initial(["a"])])
            try await cluster.serves("a")
            expect(try await cluster.etcdctl(["a"], "get", "k", "--print-value-only"), is: "v\n")
            #expect(try await cluster.etcdctl(["a"], "get", "k", "-w", "json").output.firstMatch(of: /"cluster_id":(\d+)/)?.output.1 == header)
            try await until(prints: "added to cluster") { try await cluster.etcdctl(["a"], "member", "add", "b", "--peer-urls=\(cluster.peerURL("b"))") }
            try cluster.launch("b", ["initial-cluster": cluster.initial(["a", "b"]), "initial-cluster-state": "existing"])
            try await cluster.serves("b")
            expect(try await cluster.etcdctl(["b"], "get", "k", "--print-value-only"), is: "v\n")
            expect(try await cluster.etcdctl(["b"], "put", "k", "w"), is: "OK\n")
            try await cluster.agree(["a", "b"])
            for name in ["a", "b"] { try await cluster.kill(name) }
            for name in ["a", "b"] { try cluster.launch(name) }
            for name in ["a", "b"] { try await cluster.serves(name) }
            expect(try await cluster.etcdctl(["a"], "get", "k", "--print-value-only"), is: "w\n")
        }
    }
}
