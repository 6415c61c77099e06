import Foundation
import Testing

/// Who may do what, by client certificate, over both versions of HTTP.
@Suite(.enabled(if: Program.curl != nil, "curl is not installed")) struct IdentityTests {
    struct Reply {
        var code: Int
        var version: String
        var body: String
    }
    /// Client certificate and key; none is nobody.
    struct Caller {
        var certificate: String
        var key: String
    }

    static func administrator(_ daemon: Daemon) -> Caller { Caller(certificate: daemon.pki + "/admin.crt", key: daemon.pki + "/admin.key") }
    static func node(_ name: String, _ daemon: Daemon) async throws -> Caller {
        expect(try await Program.run(Daemon.program, ["certificate", "node", name, "--pki-dir", daemon.pki]), prints: "\(daemon.pki)/nodes/\(name).crt")
        return Caller(certificate: "\(daemon.pki)/nodes/\(name).crt", key: "\(daemon.pki)/nodes/\(name).key")
    }

    static func call(
        _ daemon: Daemon, _ caller: Caller?, _ method: String, _ path: String, body: String? = nil, type: String = "application/json", version: String = "--http1.1"
    ) async throws -> Reply {
        var arguments = [
            "-sS", version, "--cacert", daemon.pki + "/ca.crt", "-X", method, "-H", "content-type: \(type)", "-m", "20", "-w", "\n%{http_code} %{http_version}",
            "https://127.0.0.1:\(daemon.ports.api)\(path)",
        ]
        if let caller { arguments += ["--cert", caller.certificate, "--key", caller.key] }
        if body != nil { arguments += ["--data-binary", "@-"] }
        let run = try await Program.run(try #require(Program.curl), arguments, input: body, in: daemon.home)
        let end = try #require(run.output.lastIndex(of: "\n"), "\(run.text)")
        let figures = run.output[run.output.index(after: end)...].split(separator: " ")
        try #require(figures.count == 2 && run.status == 0, "\(run.text)")
        return Reply(code: Int(figures[0]) ?? 0, version: String(figures[1]), body: String(run.output[..<end]))
    }

    static func secret(_ name: String) -> String { #"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"\#(name)"},"stringData":{"password":"identity-test-value"}}"# }
    static func pod(_ name: String, node: String) -> String {
        #"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"\#(name)"},"spec":{"nodeName":"\#(node)","containers":[{"name":"c","image":"i"}],"#
            + #""volumes":[{"name":"v","secret":{"secretName":"db"}}]}}"#
    }
    static let secrets = "/api/v1/namespaces/default/secrets", pods = "/api/v1/namespaces/default/pods"

    @Test("the administrator may, nobody may not, and a node may only what concerns itself", arguments: ["--http1.1", "--http2"])
    func access(version: String) async throws {
        try await Daemon.with("--no-scheduler") { daemon in
            let administrator = Self.administrator(daemon), node = try await Self.node("node-1", daemon)
            func code(_ caller: Caller?, _ method: String, _ path: String, _ body: String? = nil, type: String = "application/json") async throws -> Int {
                let reply = try await Self.call(daemon, caller, method, path, body: body, type: type, version: version)
                #expect(reply.version == (version == "--http2" ? "2" : "1.1"))
                #expect(reply.code < 300 || (!reply.body.contains("identity-test-value") && reply.body.contains("\"kind\":\"Status\"")), Comment(rawValue: reply.body))
                return reply.code
            }
            #expect(try await code(administrator, "POST", Self.secrets, Self.secret("db")) == 201)
            #expect(try await code(administrator, "POST", Self.pods, Self.pod("mine", node: "node-1")) == 201)
            #expect(try await code(administrator, "POST", Self.pods, Self.pod("theirs", node: "node-2")) == 201)
            #expect(try await code(administrator, "GET", Self.secrets + "/db") == 200)

            // Nobody.
            let refusals = 401...403
            for (method, path, body) in [
                ("GET", Self.secrets + "/db", nil), ("GET", Self.secrets, nil), ("GET", "/api/v1/secrets", nil), ("GET", Self.secrets + "?watch=true", nil),
                ("POST", Self.secrets, Self.secret("mine")), ("DELETE", Self.secrets + "/db", nil), ("GET", Self.pods, nil), ("GET", "/api/v1/nodes", nil),
                ("POST", "/apis/coffer.dev/v1/nodes/node-1/sync", ""), ("GET", "/openapi/v2", nil),
            ] {
                #expect(refusals.contains(try await code(nil, method, path, body)), "nobody: \(method) \(path)")
            }
            #expect(try await Self.call(daemon, nil, "GET", "/healthz", version: version).code == 200)

            // A node.
            for (method, path, body) in [
                ("GET", Self.secrets + "/db", nil), ("GET", Self.secrets, nil), ("GET", "/api/v1/secrets", nil), ("GET", Self.secrets + "?watch=true", nil),
                ("GET", Self.secrets + "?fieldSelector=metadata.name%3Ddb", nil), ("POST", Self.secrets, Self.secret("mine")), ("DELETE", Self.secrets + "/db", nil),
                ("PUT", Self.secrets + "/db", Self.secret("db")), ("GET", Self.pods, nil), ("GET", "/api/v1/pods", nil),
                ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-2", nil), ("GET", Self.pods + "/theirs", nil), ("DELETE", Self.pods + "/mine", nil),
                ("POST", Self.pods, Self.pod("forged", node: "node-1")), ("PUT", Self.pods + "/mine", Self.pod("mine", node: "node-1")),
                ("POST", Self.pods + "/theirs/binding", #"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"theirs"},"target":{"kind":"Node","name":"node-1"}}"#),
                ("GET", "/api/v1/nodes", nil), ("GET", "/api/v1/nodes/node-2", nil),
                ("POST", "/api/v1/nodes", #"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-2"}}"#),
                ("POST", "/apis/coffer.dev/v1/nodes/node-2/sync", ""), ("GET", "/api/v1/namespaces", nil),
                ("POST", "/apis/coffer.dev/v1/operator/rotate", #"{"namespace":"default"}"#),
                ("GET", "/apis/coffer.dev/v1/operator/rotations", nil),
            ] {
                #expect(try await code(node, method, path, body) == 403, "node-1: \(method) \(path)")
            }
            #expect(try await code(node, "PATCH", Self.secrets + "/db", "{}", type: "application/merge-patch+json") == 403)
            let theirs = #"{"status":{"phase":"Failed"}}"#
            #expect(try await code(node, "PATCH", Self.pods + "/theirs/status", theirs, type: "application/merge-patch+json") == 403)
            #expect(try await code(node, "GET", Self.pods + "/mine") == 200)
            #expect(try await code(node, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1") == 200)
            #expect(try await code(node, "POST", "/api/v1/nodes", #"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-1"}}"#) == 201)
            #expect(try await code(node, "PATCH", Self.pods + "/mine/status", #"{"status":{"phase":"Running"}}"#, type: "application/merge-patch+json") == 200)
            #expect(try await code(administrator, "GET", Self.secrets + "/mine") == 404)
            #expect(try await code(administrator, "GET", Self.pods + "/forged") == 404)
        }
    }

    @Test("a certificate of another authority is nobody's, whatever name it bears")
    func foreignAuthority() async throws {
        try await Daemon.with { daemon in
            let foreign = daemon.home.path + "/foreign-pki"
            expect(try await Program.run(Daemon.program, ["certificate", "node", "node-1", "--pki-dir", foreign]))
            let run = try await Program.run(try #require(Program.curl), [
                "-sS", "--cacert", daemon.pki + "/ca.crt", "--cert", foreign + "/nodes/node-1.crt", "--key", foreign + "/nodes/node-1.key",
                "-w", "%{http_code}", "-o", "/dev/null", "https://127.0.0.1:\(daemon.ports.api)\(Self.secrets)",
            ], in: daemon.home)
            #expect(run.status != 0 || ["401", "403"].contains(run.output), Comment(rawValue: run.text))
            let served = try await Self.call(daemon, Self.administrator(daemon), "GET", Self.secrets)
            #expect(served.code == 200)
        }
    }

    @Test("node certificates are made for names that may be node names only", arguments: ["", "..", "Node", "a/b", "a..b", "-a", "a-", String(repeating: "n", count: 64)])
    func nodeNames(name: String) async throws {
        let home = try TemporaryDirectory()
        let run = try await Program.run(Daemon.program, ["certificate", "node", "--pki-dir", home.path + "/pki", "--", name])
        #expect(run.status == 64, Comment(rawValue: run.text))
        #expect(!FileManager.default.fileExists(atPath: home.path + "/pki"))
    }
}
