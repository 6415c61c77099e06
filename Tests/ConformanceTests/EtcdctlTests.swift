import Foundation
import Glibc
import Testing

/// Stock etcdctl against a real daemon: what it prints and how it exits is what etcd makes it print.
@Suite(.enabled(if: Program.etcdctl != nil, "etcdctl is not installed")) struct EtcdctlTests {
    /// The store's revision, as the header of any answer says it.
    static func revision(_ daemon: Daemon) async throws -> Int {
        let answer = try await daemon.etcdctl("get", "no such key", "-w", "json")
        return try #require(Int(answer.output.firstMatch(of: /"revision":(\d+)/)?.output.1 ?? ""), "\(answer.text)")
    }

    @Test("etcdctl puts, gets and deletes keys, by name, prefix and range")
    func keys() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.etcdctl("put", "a", "one"), is: "OK\n")
            expect(try await daemon.etcdctl("put", "a", "two", "--prev-kv"), is: "OK\na\none\n")
            expect(try await daemon.etcdctl("put", "b/1", "-"), is: "OK\n")
            expect(try await daemon.etcdctl("put", "b/2", input: "from standard input\n"), is: "OK\n")
            expect(try await daemon.etcdctl("put", "b/3", ""), is: "OK\n")
            expect(try await daemon.etcdctl("put", "b/ü", "größer"), is: "OK\n")
            expect(try await daemon.etcdctl("put", "", "x"), 1, prints: "etcdserver: key is not provided")
            expect(try await daemon.etcdctl("put", "new", "--ignore-value"), 1, prints: "etcdserver: key not found")
            expect(try await daemon.etcdctl("put", "a", "--ignore-value"), is: "OK\n")
            expect(try await daemon.etcdctl("get", "a"), is: "a\ntwo\n")
            expect(try await daemon.etcdctl("get", "absent"), is: "")
            expect(try await daemon.etcdctl("get", "b/", "--prefix"), is: "b/1\n-\nb/2\nfrom standard input\n\nb/3\n\nb/ü\ngrößer\n")
            expect(try await daemon.etcdctl("get", "b/", "--prefix", "--keys-only"), is: "b/1\n\nb/2\n\nb/3\n\nb/ü\n\n")
            expect(try await daemon.etcdctl("get", "b/1", "b/3"), is: "b/1\n-\nb/2\nfrom standard input\n\n")
            expect(try await daemon.etcdctl("get", "b/3", "--from-key", "--keys-only"), is: "b/3\n\nb/ü\n\n")
            expect(try await daemon.etcdctl("get", "", "--prefix", "--keys-only", "--limit", "2"), is: "a\n\nb/1\n\n")
            expect(try await daemon.etcdctl("get", "a", "--print-value-only", "--consistency", "s"), is: "two\n")
            let fields = try await daemon.etcdctl("get", "a", "-w", "fields")
            expect(fields, prints: "\"Version\" : 3", "\"Count\" : 1", "\"More\" : false")
            expect(try await daemon.etcdctl("del", "b/1", "--prev-kv"), is: "1\nb/1\n-\n")
            expect(try await daemon.etcdctl("del", "b/1"), is: "0\n")
            expect(try await daemon.etcdctl("del", "b/", "--prefix"), is: "3\n")
            expect(try await daemon.etcdctl("del", "a", "--from-key"), is: "1\n")
            expect(try await daemon.etcdctl("get", "", "--prefix"), is: "")
        }
    }

    @Test("etcdctl sorts by value, version and revisions, in both orders")
    func order() async throws {
        try await Daemon.with { daemon in
            for (key, value) in [("s/a", "zebra"), ("s/b", "apple"), ("s/c", "mango"), ("s/a", "quince"), ("s/a", "zebra"), ("s/b", "apple")] {
                expect(try await daemon.etcdctl("put", key, value), is: "OK\n")
            }
            func sorted(_ target: String, _ order: String, limit: String = "0") async throws -> String {
                let answer = try await daemon.etcdctl("get", "s/", "--prefix", "--keys-only", "--sort-by", target, "--order", order, "--limit", limit)
                return answer.text.split(separator: "\n").map { String($0.suffix(1)) }.joined()
            }
            #expect(try await sorted("KEY", "DESCEND") == "cba")
            #expect(try await sorted("VALUE", "ASCEND") == "bca")
            #expect(try await sorted("VALUE", "DESCEND", limit: "1") == "a")
            #expect(try await sorted("VERSION", "ASCEND") == "cba")
            #expect(try await sorted("CREATE", "DESCEND") == "cba")
            #expect(try await sorted("MODIFY", "ASCEND") == "cab")
        }
    }

    @Test("etcdctl's transactions compare values, versions and revisions, and take one branch whole")
    func transactions() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.etcdctl("put", "k", "v"), is: "OK\n")
            func txn(_ compares: String, then: String, otherwise: String = "") async throws -> Program {
                try await daemon.etcdctl("txn", input: (compares.isEmpty ? "" : compares + "\n") + "\n" + then + "\n\n" + otherwise + "\n\n")
            }
            expect(try await txn(#"value("k") = "v""#, then: "put k w\nget k\nput side 1"), is: "SUCCESS\n\nOK\n\nk\nw\n\nOK\n")
            expect(try await txn(#"value("k") = "v""#, then: "put k x", otherwise: "get k\ndel side"), is: "FAILURE\n\nk\nw\n\n1\n")
            expect(try await txn("value(\"k\") > \"a\"\nver(\"k\") = \"2\"\ncreate(\"k\") > \"0\"\nmod(\"absent\") = \"0\"", then: "get k"), is: "SUCCESS\n\nk\nw\n")
            expect(try await txn("value(\"k\") = \"w\"\nver(\"k\") = \"9\"", then: "del k"), is: "FAILURE\n")
            expect(try await txn("", then: "put p/1 1\nput p/2 2\nget p/ --prefix"), is: "SUCCESS\n\nOK\n\nOK\n\np/1\n1\np/2\n2\n")
            expect(try await txn("", then: "put twice 1\nput twice 2"), 1, prints: "etcdserver: duplicate key given in txn request")
            expect(try await daemon.etcdctl("get", "twice"), is: "")
            let many = (0..<129).map { "put many/\($0) x" }.joined(separator: "\n")
            expect(try await txn("", then: many), 1, prints: "etcdserver: too many operations in txn request")
        }
    }

    @Test("a lease's keys vanish when it is revoked or runs out, and stay while it is kept alive")
    func leases() async throws {
        try await Daemon.with { daemon in
            let granted = try await daemon.etcdctl("lease", "grant", "600")
            let lease = String(try #require(granted.output.firstMatch(of: /lease ([0-9a-f]+) granted with TTL\(600s\)/), "\(granted.text)").output.1)
            expect(try await daemon.etcdctl("put", "leased/1", "x", "--lease", lease), is: "OK\n")
            expect(try await daemon.etcdctl("put", "leased/2", "x", "--lease", lease), is: "OK\n")
            expect(try await daemon.etcdctl("put", "leased/2", "y", "--ignore-lease"), is: "OK\n")
            expect(try await daemon.etcdctl("put", "leased/3", "x", "--lease", lease), is: "OK\n")
            expect(try await daemon.etcdctl("put", "leased/3", "freed"), is: "OK\n")
            expect(try await daemon.etcdctl("lease", "timetolive", lease, "--keys"), prints: "granted with TTL(600s)", "attached keys([leased/1 leased/2])")
            expect(try await daemon.etcdctl("lease", "keep-alive", "--once", lease), prints: "lease \(lease) keepalived with TTL(600)")
            expect(try await daemon.etcdctl("lease", "list"), prints: "found 1 leases", lease)
            expect(try await daemon.etcdctl("lease", "revoke", lease), prints: "lease \(lease) revoked")
            expect(try await daemon.etcdctl("get", "leased/", "--prefix"), is: "leased/3\nfreed\n")
            expect(try await daemon.etcdctl("lease", "timetolive", lease), prints: "already expired")
            expect(try await daemon.etcdctl("lease", "revoke", lease), 1, prints: "etcdserver: requested lease not found")
            expect(try await daemon.etcdctl("put", "x", "y", "--lease", "77"), 1, prints: "etcdserver: requested lease not found")

            // The second may be over before the entry is there: then with another lease.
            try await eventually("an entry is put under a lease of one second") {
                let short = try await daemon.etcdctl("lease", "grant", "1")
                let id = String(try #require(short.output.firstMatch(of: /lease ([0-9a-f]+) granted/), "\(short.text)").output.1)
                let put = try await daemon.etcdctl("put", "brief", "x", "--lease", id)
                if put.status == 0 { return true }
                expect(put, 1, prints: "etcdserver: requested lease not found")
                return false
            }
            try await eventually("the lease of one second runs out") {
                let answer = try await daemon.etcdctl("get", "brief")
                return answer.status == 0 && answer.output == ""
            }
        }
    }

    @Test("a watch from a past revision shows what happened, then what happens, with previous values")
    func watch() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.etcdctl("put", "w/1", "a"), is: "OK\n")
            let start = try await Self.revision(daemon)
            expect(try await daemon.etcdctl("put", "w/1", "b"), is: "OK\n")
            expect(try await daemon.etcdctl("put", "other", "unseen"), is: "OK\n")
            let watch = try daemon.startEtcdctl("watch", "w/", "--prefix", "--prev-kv", "--rev", "\(start)")
            defer { watch.signal(SIGKILL) }
            let past = "PUT\nw/1\na\nPUT\nw/1\na\nw/1\nb\n"
            try await eventually("the past is shown: \(watch.output)") { watch.output == past }
            expect(try await daemon.etcdctl("put", "w/2", "c"), is: "OK\n")
            expect(try await daemon.etcdctl("del", "w/", "--prefix"), is: "2\n")
            let now = past + "PUT\nw/2\nc\nDELETE\nw/1\nb\nw/1\n\nDELETE\nw/2\nc\nw/2\n\n"
            try await eventually("what happens is shown: \(watch.output)") { watch.output == now }
            #expect(watch.ending == nil)

            expect(try await daemon.etcdctl("compaction", "\(try await Self.revision(daemon))"), prints: "compacted revision")
            expect(try await daemon.etcdctl("watch", "w/", "--prefix", "--rev", "\(start)"), 5, prints: "etcdserver: mvcc: required revision has been compacted")
        }
    }

    @Test("old revisions are readable until compaction, then refused in etcd's words")
    func compaction() async throws {
        try await Daemon.with { daemon in
            var revisions: [Int] = []
            for value in ["one", "two", "three"] {
                expect(try await daemon.etcdctl("put", "k", value), is: "OK\n")
                revisions.append(try await Self.revision(daemon))
            }
            expect(try await daemon.etcdctl("del", "k"), is: "1\n")
            expect(try await daemon.etcdctl("get", "k", "--rev", "\(revisions[0])", "--print-value-only"), is: "one\n")
            expect(try await daemon.etcdctl("compaction", "\(revisions[1])"), is: "compacted revision \(revisions[1])\n")
            expect(try await daemon.etcdctl("get", "k", "--rev", "\(revisions[0])"), 1, prints: "Error: etcdserver: mvcc: required revision has been compacted")
            expect(try await daemon.etcdctl("get", "k", "--rev", "\(revisions[1])", "--print-value-only"), is: "two\n")
            expect(try await daemon.etcdctl("get", "k", "--rev", "\(revisions[2])", "--print-value-only"), is: "three\n")
            expect(try await daemon.etcdctl("get", "k"), is: "")
            expect(try await daemon.etcdctl("get", "k", "--rev", "9999"), 1, prints: "Error: etcdserver: mvcc: required revision is a future revision")
            expect(try await daemon.etcdctl("compaction", "\(revisions[1])"), 1, prints: "Error: etcdserver: mvcc: required revision has been compacted")
            expect(try await daemon.etcdctl("compaction", "9999"), 1, prints: "Error: etcdserver: mvcc: required revision is a future revision")
            try await daemon.kill()
            try await daemon.start()
            expect(try await daemon.etcdctl("get", "k", "--rev", "\(revisions[0])"), 1, prints: "has been compacted")
            expect(try await daemon.etcdctl("get", "k", "--rev", "\(revisions[2])", "--print-value-only"), is: "three\n")
        }
    }

    @Test("etcdctl sees one healthy member, its leader, and its revision", .enabled(if: Program.etcdctl != nil, "etcdctl is not installed"))
    func status() async throws {
        try await Daemon.with("--name", "conform-1") { daemon in
            let status = try await daemon.etcdctl("endpoint", "status", "-w", "json")
            let match = try #require(status.output.firstMatch(of: /"leader":(\d+)/), "\(status.text)")
            expect(status, prints: "\"member_id\":\(match.output.1)", "\"raftTerm\":", "\"version\":\"3.")
            expect(try await daemon.etcdctl("endpoint", "health"), prints: "is healthy")
            expect(try await daemon.etcdctl("member", "list"), prints: "started, conform-1,", "http://127.0.0.1:\(daemon.ports.etcd)")
        }
    }

    @Test("deleting every key of the etcd port touches nothing of the secrets API",
          .enabled(if: Program.kubectl != nil, "kubectl is not installed"))
    func spacesAreApart() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("create", "secret", "generic", "kept", "--from-literal=a=b"), prints: "created")
            expect(try await daemon.etcdctl("put", "/registry/secrets/default/kept", "mine"), is: "OK\n")
            expect(try await daemon.etcdctl("get", "", "--prefix", "--keys-only"), is: "/registry/secrets/default/kept\n\n")
            expect(try await daemon.etcdctl("get", "", "--from-key", "--keys-only"), is: "/registry/secrets/default/kept\n\n")
            expect(try await daemon.etcdctl("del", "", "--prefix"), is: "1\n")
            expect(try await daemon.etcdctl("del", "", "--from-key"), is: "0\n")
            expect(try await daemon.kubectl("get", "secret", "kept", "-o", "jsonpath={.data.a}"), is: "Yg==")
            expect(try await daemon.kubectl("get", "namespace", "default", "-o", "name"), is: "namespace/default\n")
        }
    }
}
