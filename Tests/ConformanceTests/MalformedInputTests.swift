import Foundation
import Testing

/// Bytes that no client of ours sends: the daemon answers or hangs up, serves everybody else, and never traps.
@Suite struct MalformedInputTests {
    struct Sample: Sendable, CustomTestStringConvertible {
        var name: String
        var bytes: [UInt8]
        var testDescription: String { name }
    }

    /// On any port: what is no protocol at all.
    static let noise: [Sample] = {
        var generator = NoiseGenerator(state: 20)
        return [
            Sample(name: "nothing", bytes: []), Sample(name: "one zero", bytes: [0]), Sample(name: "random, short", bytes: generator.bytes(24)),
            Sample(name: "random, long", bytes: generator.bytes(200_000)), Sample(name: "zeros", bytes: [UInt8](repeating: 0, count: 100_000)),
            Sample(name: "HTTP/1.1", bytes: Array("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8)),
            Sample(name: "HTTP/1.1 without an end", bytes: Array(("GET /" + String(repeating: "a", count: 100_000)).utf8)),
            Sample(name: "a truncated TLS hello", bytes: [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] + generator.bytes(40)),
            Sample(name: "a TLS hello of noise", bytes: [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] + generator.bytes(0x1f5)),
        ]
    }()

    /// Under HTTP/2: frames against the rules.
    static let frames: [Sample] = {
        var generator = NoiseGenerator(state: 7)
        var samples: [Sample] = []
        func add(_ name: String, _ parts: [UInt8]...) { samples.append(Sample(name: name, bytes: parts.flatMap { $0 })) }
        let opening = Frames.opening, call = Frames.call("/etcdserverpb.KV/Range")
        let headers = Frames.request("/etcdserverpb.KV/Range")
        func lasting(_ frame: [UInt8], _ times: Int) -> [UInt8] { [UInt8](repeatElement(frame, count: times).joined()) }
        add("a truncated preface", Array(Frames.preface.prefix(11)))
        add("a preface with one wrong byte", Array(Frames.preface.dropLast()) + [0x20], Frames.settings)
        add("a preface alone", Frames.preface)
        add("a truncated frame header", opening, [0, 0, 4, 8])
        add("a frame longer than allowed", opening, Frames.frame(type: 0, stream: 1, generator.bytes(100), length: 0xff_ffff))
        add("settings longer than allowed", Frames.preface, Frames.frame(type: 4, stream: 0, generator.bytes(600), length: 0xff_fff6))
        add("settings of five bytes", Frames.preface, Frames.frame(type: 4, stream: 0, [0, 1, 2, 3, 4]))
        add("settings on a stream", Frames.preface, Frames.frame(type: 4, stream: 3))
        add("settings of extremes", Frames.preface, Frames.frame(type: 4, stream: 0, [0, 4, 0xff, 0xff, 0xff, 0xff, 0, 5, 0, 0, 0, 0]))
        add("a table of no size, then of all sizes", Frames.preface, Frames.frame(type: 4, stream: 0, [0, 1, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), call)
        add("frames of unknown type", opening, Frames.frame(type: 0xee, flags: 0xff, stream: 9, generator.bytes(50)), call)
        var random: [UInt8] = []
        for _ in 0..<200 {
            let type = UInt8.random(in: 0...10, using: &generator), flags = UInt8.random(in: 0...255, using: &generator)
            let stream = UInt32.random(in: 0...6, using: &generator), count = Int.random(in: 0...40, using: &generator)
            random += Frames.frame(type: type, flags: flags, stream: stream, generator.bytes(count))
        }
        add("random frames", opening, random)
        add("headers of noise", opening, Frames.frame(type: 1, flags: 4, stream: 1, generator.bytes(300)))
        add("an index beyond every table", opening, Frames.frame(type: 1, flags: 4, stream: 1, [0xff, 0xff, 0xff, 0xff, 0x0f]))
        add("an integer without end", opening, Frames.frame(type: 1, flags: 4, stream: 1, [0xff] + [UInt8](repeating: 0xff, count: 60)))
        add("a field longer than its block", opening, Frames.frame(type: 1, flags: 4, stream: 1, [0, 0x7f, 0xff, 0xff, 0x7f, 0x61]))
        add("headers on stream 0", opening, Frames.frame(type: 1, flags: 4, stream: 0, headers))
        add("headers on an even stream", opening, Frames.frame(type: 1, flags: 4, stream: 2, headers))
        add("streams that go backwards", opening, Frames.call("/etcdserverpb.KV/Range", stream: 7), Frames.call("/etcdserverpb.KV/Range", stream: 5))
        add("headers with more padding than bytes", opening, Frames.frame(type: 1, flags: 4 | 8, stream: 1, [250] + headers))
        add("headers cut within the priority", opening, Frames.frame(type: 1, flags: 4 | 0x20, stream: 1, [0, 0]))
        add("an empty padded frame", opening, call, Frames.frame(type: 0, flags: 8, stream: 1))
        add("a continuation of nothing", opening, Frames.frame(type: 9, flags: 4, stream: 1, headers))
        add("headers interrupted", opening, Frames.frame(type: 1, flags: 0, stream: 1, headers), Frames.frame(type: 6, stream: 0, [UInt8](repeating: 0, count: 8)))
        add("continuations without end", opening, Frames.frame(type: 1, flags: 0, stream: 1, headers),
                   lasting(Frames.frame(type: 9, flags: 0, stream: 1, Frames.fields([("x", String(repeating: "y", count: 200))])), 2_000))
        add("empty continuations without end", opening, Frames.frame(type: 1, flags: 0, stream: 1, headers), lasting(Frames.frame(type: 9, flags: 0, stream: 1), 5_000))
        add("a field of a megabyte", opening, Frames.frame(type: 1, flags: 0, stream: 1, headers + [0, 1, 0x78, 0x7f, 0x81, 0xff, 0x3f]),
                   lasting(Frames.frame(type: 9, flags: 0, stream: 1, [UInt8](repeating: 0x79, count: 16_000)), 60))
        add("data before headers", opening, Frames.frame(type: 0, stream: 1, generator.bytes(10)))
        add("data on stream 0", opening, Frames.frame(type: 0, stream: 0, generator.bytes(10)))
        add("data after the end", opening, call, Frames.frame(type: 0, flags: 1, stream: 1, Frames.message([])), Frames.frame(type: 0, stream: 1, generator.bytes(10)))
        add("data beyond the window", opening, call, lasting(Frames.frame(type: 0, stream: 1, [UInt8](repeating: 0, count: 16_384)), 300))
        add("a window that overflows", opening, Frames.frame(type: 8, stream: 0, [0x7f, 0xff, 0xff, 0xff]), Frames.frame(type: 8, stream: 0, [0x7f, 0xff, 0xff, 0xff]))
        add("a stream's window that overflows", opening, call, lasting(Frames.frame(type: 8, stream: 1, [0x7f, 0xff, 0xff, 0xff]), 3))
        add("a window opened by nothing", opening, Frames.frame(type: 8, stream: 0, [0, 0, 0, 0]), call)
        add("a window of three bytes", opening, Frames.frame(type: 8, stream: 0, [0, 0, 1]))
        add("a ping of seven bytes", opening, Frames.frame(type: 6, stream: 0, [1, 2, 3, 4, 5, 6, 7]))
        add("pings without end", opening, lasting(Frames.frame(type: 6, stream: 0, [UInt8](repeating: 1, count: 8)), 20_000))
        add("settings without end", opening, lasting(Frames.settings, 20_000))
        var reset: [UInt8] = [], opened: [UInt8] = []
        for stream in stride(from: UInt32(1), to: 6_000, by: 2) {
            reset += Frames.call("/etcdserverpb.KV/Range", stream: stream)
            reset += Frames.frame(type: 3, stream: stream, [0, 0, 0, 8])
            opened += Frames.call("/etcdserverpb.Watch/Watch", stream: stream)
        }
        add("streams opened and reset", opening, reset)
        add("more streams than allowed", opening, opened)
        add("a reset of nothing", opening, Frames.frame(type: 3, stream: 77, [0, 0, 0, 0]))
        add("a push by a client", opening, Frames.frame(type: 5, flags: 4, stream: 1, [0, 0, 0, 2] + headers))
        add("a priority on itself", opening, Frames.frame(type: 2, stream: 1, [0, 0, 0, 1, 5]), call)
        add("going away, then calling", opening, Frames.frame(type: 7, stream: 0, [0, 0, 0, 0, 0, 0, 0, 2] + generator.bytes(30)), call)
        return samples
    }()

    /// Under gRPC: messages whose prefix or bytes lie.
    static let messages: [Sample] = {
        var generator = NoiseGenerator(state: 3)
        var samples: [Sample] = []
        func add(_ name: String, path: String = "/etcdserverpb.KV/Put", flags: UInt8 = 1, _ data: [UInt8]) {
            samples.append(Sample(name: name, bytes: Frames.opening + Frames.call(path) + Frames.frame(type: 0, flags: flags, stream: 1, data)))
        }
        func add(_ name: String, fields: [UInt8]) {
            samples.append(Sample(name: name, bytes: Frames.opening + Frames.frame(type: 1, flags: 5, stream: 1, fields)))
        }
        add("a message of 4 GiB", Frames.message([1, 2, 3], length: .max))
        add("a message of 2 GiB", flags: 0, Frames.message([1, 2, 3], length: 0x8000_0000))
        add("a message just above the bound", flags: 0, Frames.message(generator.bytes(1_000), length: 2 << 20))
        add("a message cut short", Frames.message([1, 2, 3], length: 100))
        add("a prefix cut short", [0, 0, 0])
        add("a compressed message", Frames.message(generator.bytes(30), compressed: 1))
        add("a compression nobody knows", Frames.message(generator.bytes(30), compressed: 0xff))
        add("no message", [])
        add("two messages in a unary call", Frames.message([0x0a, 1, 0x61]) + Frames.message([0x0a, 1, 0x62]))
        add("noise on a watch", path: "/etcdserverpb.Watch/Watch", flags: 0, Frames.message(generator.bytes(64)))
        add("noise on keep-alives", path: "/etcdserverpb.Lease/LeaseKeepAlive", flags: 0, Frames.message(generator.bytes(64)))
        add("a method nobody knows", path: "/etcdserverpb.KV/Nothing", Frames.message([]))
        add("a path of slashes", path: "////", Frames.message([]))
        add("no path at all", path: "", Frames.message([]))
        add("a call without a type", fields: Frames.fields([(":method", "GET"), (":scheme", "http"), (":path", "/")]))
        add("a call without a path", fields: Frames.fields([(":method", "POST"), (":scheme", "http")]))
        add("a timeout of noise", fields: Frames.request("/etcdserverpb.KV/Range", more: [("grpc-timeout", "99999999999999999999999H")]))
        return samples
    }()

    static func stillServes(_ daemon: Daemon, after name: String) async throws {
        try #require(daemon.isRunning, "cofferd is gone after: \(name)\n\(daemon.log.suffix(4000))")
        guard Program.etcdctl != nil else { return }
        let answer = try await daemon.etcdctl("get", "kept")
        try #require(answer.status == 0 && answer.output == "kept\nvalue\n", "after: \(name): \(answer.text)")
    }

    @Test("the etcd port outlives noise, broken HTTP/2 and lying gRPC messages, and nothing of it is stored",
          .enabled(if: Program.etcdctl != nil, "etcdctl is not installed"))
    func etcdPort() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.etcdctl("put", "kept", "value"), is: "OK\n")
            for sample in Self.noise + Self.frames + Self.messages {
                _ = try await RawConnection.exchange(port: daemon.ports.etcd, sample.bytes)
                try await Self.stillServes(daemon, after: sample.name)
            }
            expect(try await daemon.etcdctl("get", "", "--prefix"), is: "kept\nvalue\n")
        }
    }

    /// Protobuf that is none, each with the field numbers that the messages use.
    static let protobuf: [[UInt8]] = [
        [0x0a], [0x0a, 5, 0x61], [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], [0x12, 0x80],
        [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0x1a, 0x7f, 0x0a], [0x0f], [0x0e, 1], [0x00, 0], [0x80], [0x0d, 1, 2], [0x09, 1, 2, 3],
    ]

    static let methods = [
        "KV/Range", "KV/Put", "KV/DeleteRange", "KV/Txn", "KV/Compact", "Lease/LeaseGrant", "Lease/LeaseRevoke", "Lease/LeaseTimeToLive", "Lease/LeaseKeepAlive",
        "Watch/Watch",
    ]

    @Test("malformed protobuf is refused by every method with a gRPC status", .enabled(if: Program.curl != nil, "curl is not installed"))
    func malformedProtobuf() async throws {
        try await Daemon.with { daemon in
            for method in Self.methods {
                for bytes in Self.protobuf {
                    let path = daemon.home.path + "/message"
                    try Data(Frames.message(bytes)).write(to: URL(fileURLWithPath: path))
                    let run = try await Program.run(try #require(Program.curl), [
                        "-sS", "-m", "10", "--http2-prior-knowledge", "-D", "-", "-o", "/dev/null", "-H", "content-type: application/grpc", "-H", "te: trailers",
                        "--data-binary", "@\(path)", "http://127.0.0.1:\(daemon.ports.etcd)/etcdserverpb.\(method)",
                    ], in: daemon.home)
                    let status = run.output.firstMatch(of: /grpc-status: (\d+)/)?.output.1
                    #expect(status != nil && status != "0", "\(method) \(bytes): \(run.text)")
                    try #require(daemon.isRunning, "\(method) \(bytes)\n\(daemon.log.suffix(4000))")
                }
            }
        }
    }

    // MARK: The secrets API

    struct Body: Sendable {
        var name: String
        var method = "POST"
        var path = IdentityTests.secrets
        var type = "application/json"
        var text: String
        var codes: ClosedRange<Int> = 400...422
    }
    static let bodies: [Body] = {
        let deep = String(repeating: "[", count: 100_000), deeper = String(repeating: "{\"a\":", count: 50_000)
        let copies = [String](repeating: #"{"op":"copy","from":"/data","path":"/data/x"}"#, count: 40).joined(separator: ",")
        var laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n"
        for (name, inner) in zip("bcdefghi", "abcdefgh") { laughs += "\(name): &\(name) [" + [String](repeating: "*\(inner)", count: 9).joined(separator: ",") + "]\n" }
        func secret(_ more: String) -> String { #"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"m"}\#(more)}"# }
        let db = IdentityTests.secrets + "/db", merge = "application/merge-patch+json", json = "application/json-patch+json"
        let strategic = "application/strategic-merge-patch+json", yaml = "application/yaml", protobuf = "application/vnd.kubernetes.protobuf"
        return [
            Body(name: "no body", text: ""), Body(name: "no JSON", text: "hello"), Body(name: "an open object", text: "{"), Body(name: "a bare null", text: "null"),
            Body(name: "a list", text: "[]"),
            Body(name: "NUL", text: "{\"kind\":\"Secret\u{0}\"}\u{0}"), Body(name: "a lone surrogate", text: secret(#","stringData":{"a":"\ud800"}"#)),
            Body(name: "deep lists", text: deep), Body(name: "deep objects", text: deeper), Body(name: "a number without end", text: String(repeating: "9", count: 100_000)),
            Body(name: "an exponent", text: secret(#","immutable":1e999999999"#)), Body(name: "data of the wrong type", text: secret(#","data":[1,2]"#)),
            Body(name: "data of numbers", text: secret(#","data":{"a":1}"#)), Body(name: "bad base64", text: secret(#","data":{"a":"%%"}"#)),
            Body(name: "metadata of the wrong type", text: #"{"apiVersion":"v1","kind":"Secret","metadata":"m"}"#),
            Body(name: "another kind", text: #"{"apiVersion":"v1","kind":"Pod"}"#),
            Body(name: "another version", text: #"{"apiVersion":"v7","kind":"Secret","metadata":{"name":"m"}}"#), Body(name: "text after the end", text: secret("") + "{}"),
            Body(name: "no YAML", type: yaml, text: "a: [b\nc: }"), Body(name: "tabs", type: yaml, text: "a:\n\t- b\n\t\tc"),
            Body(name: "an unknown alias", type: yaml, text: "a: *b"),
            Body(name: "a billion laughs", type: yaml, text: laughs), Body(name: "an anchor within itself", type: yaml, text: "&a [*a]"),
            Body(name: "deep YAML", type: yaml, text: deep), Body(name: "YAML of control characters", type: yaml, text: "a: \u{1}\u{2}\u{7f}"),
            Body(name: "protobuf without its mark", type: protobuf, text: "k8"), Body(name: "protobuf of noise", type: protobuf, text: "k8s\u{0}\u{a}\u{7f}\u{7f}"),
            Body(name: "protobuf of a length beyond", type: protobuf, text: "k8s\u{0}\u{12}\u{7f}abc"), Body(name: "another type", type: "text/plain", text: secret("")),
            Body(name: "no patch", method: "PATCH", path: db, type: merge, text: "{"), Body(name: "a patch to a list", method: "PATCH", path: db, type: merge, text: "[]"),
            Body(name: "a patch of the name", method: "PATCH", path: db, type: merge, text: #"{"metadata":{"name":"other"}}"#),
            Body(name: "operations that are none", method: "PATCH", path: db, type: json, text: #"[{"op":"fly","path":"/data"}]"#),
            Body(name: "an operation without a path", method: "PATCH", path: db, type: json, text: #"[{"op":"add"}]"#),
            Body(name: "a path beyond", method: "PATCH", path: db, type: json, text: #"[{"op":"replace","path":"/data/a/b/99999999999999999999","value":1}]"#),
            Body(name: "an index beyond", method: "PATCH", path: db, type: json, text: #"[{"op":"add","path":"/metadata/finalizers/-5","value":"x"}]"#),
            Body(name: "a copy that grows", method: "PATCH", path: db, type: json, text:
                "[\(copies)]"),
            Body(name: "an unknown directive", method: "PATCH", path: db, type: strategic, text: #"{"data":{"$patch":"explode"}}"#),
            Body(name: "an unknown kind of patch", method: "PATCH", path: db, type: "application/what-patch+json", text: "{}", codes: 415...415),
            Body(name: "more than 3 MiB", text: secret(#","stringData":{"a":"\#(String(repeating: "x", count: 4 << 20))"}"#), codes: 413...422),
            Body(name: "a limit of words", method: "GET", path: IdentityTests.secrets + "?limit=many", text: ""),
            Body(name: "a selector of noise", method: "GET", path: IdentityTests.secrets + "?labelSelector=((%00,,!%3D", text: ""),
            Body(name: "a field nobody has", method: "GET", path: IdentityTests.secrets + "?fieldSelector=data.password%3Dx", text: ""),
            Body(name: "a revision of words", method: "GET", path: IdentityTests.secrets + "?watch=1&resourceVersion=abc", text: ""),
            Body(name: "a name of dots", method: "GET", path: IdentityTests.secrets + "/%2e%2e", text: "", codes: 400...404),
            Body(name: "a name of NUL", method: "GET", path: IdentityTests.secrets + "/a%00b", text: "", codes: 400...404),
            Body(name: "an escape cut short", method: "GET", path: IdentityTests.secrets + "/a%2", text: "", codes: 400...404),
            Body(name: "a slash in disguise", method: "GET", path: "/api/v1/namespaces/default%2fsecrets/db", text: "", codes: 400...404),
            Body(name: "a verb nobody serves", method: "BREW", path: db, text: "", codes: 400...501),
            Body(name: "a rotation of nothing", path: "/apis/coffer.dev/v1/operator/rotate", text: "[[["),
            Body(name: "a stream of noise", path: "/apis/coffer.dev/v1/nodes/node-1/sync", type: "application/octet-stream", text: "\u{1}\u{2}\u{3}noise", codes: 400...422),
        ]
    }()

    @Test("the secrets API refuses every malformed body, path and query with a 4xx that says why, and stores none of it",
          .enabled(if: Program.curl != nil, "curl is not installed"), arguments: ["--http1.1", "--http2"])
    func secretsAPI(version: String) async throws {
        try await Daemon.with { daemon in
            let administrator = IdentityTests.administrator(daemon)
            func call(_ body: Body) async throws -> IdentityTests.Reply {
                try await IdentityTests.call(
                    daemon, administrator, body.method, body.path, body: body.method == "GET" ? nil : body.text, type: body.type, version: version)
            }
            #expect(try await call(Body(name: "", text: IdentityTests.secret("db"))).code == 201)
            let stored = try await call(Body(name: "", method: "GET", path: IdentityTests.secrets + "/db", text: "")).body
            for body in Self.bodies {
                do {
                    let reply = try await call(body)
                    #expect(body.codes.contains(reply.code), "\(body.name): \(reply.code) \(reply.body.prefix(300))")
                    #expect(reply.body.isEmpty || reply.body.contains("\"message\":\""), "\(body.name): \(reply.code) \(reply.body.prefix(300))")
                } catch { Issue.record("\(body.name): \(error)") }
                try #require(daemon.isRunning, "after: \(body.name)\n\(daemon.log.suffix(4000))")
            }
            let secrets = try await call(Body(name: "", method: "GET", text: ""))
            #expect(secrets.body.components(separatedBy: "\"uid\":").count == 2, Comment(rawValue: secrets.body))
            #expect(try await call(Body(name: "", method: "GET", path: IdentityTests.secrets + "/db", text: "")).body == stored)
        }
    }

    /// TLS connections that speak HTTP/2's name and then anything: bytes come as lines of hexadecimal digits.
    private static let speaker = """
        import socket, ssl, sys
        port, authority, certificate, key, alpn, path = sys.argv[1:]
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols([alpn])
        said = 0
        for line in open(path):
            with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as plain, context.wrap_socket(plain, server_hostname="localhost") as link:
                assert link.selected_alpn_protocol() == alpn
                try:
                    link.settimeout(5)
                    link.sendall(bytes.fromhex(line))
                    plain.shutdown(socket.SHUT_WR)
                    link.settimeout(1)
                    while link.recv(65536):
                        pass
                except OSError:
                    pass
            said += 1
        print("said", said)
        """

    @Test("the secrets API's port outlives noise instead of TLS, and broken HTTP within it", .enabled(if: Program.curl != nil, "curl is not installed"))
    func secretsPort() async throws {
        try await Daemon.with { daemon in
            let administrator = IdentityTests.administrator(daemon)
            func stillServes(after name: String) async throws {
                try #require(daemon.isRunning, "cofferd is gone after: \(name)\n\(daemon.log.suffix(4000))")
                let reply = try await IdentityTests.call(daemon, administrator, "GET", "/api/v1/namespaces/default")
                try #require(reply.code == 200, "after: \(name): \(reply.body)")
            }
            for sample in Self.noise {
                _ = try await RawConnection.exchange(port: daemon.ports.api, sample.bytes, silenceSeconds: 1)
                try await stillServes(after: sample.name)
            }
            guard let python = Program.find("python3") else { return print("python3 is not installed: nothing is said within TLS") }
            let path = daemon.home.path + "/said"
            for (alpn, samples) in [("h2", Self.noise + Self.frames), ("http/1.1", Self.noise)] {
                let lines = samples.map { $0.bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined() + "\n" }.joined()
                try Data(lines.utf8).write(to: URL(fileURLWithPath: path))
                let run = try await Program.run(
                    python, ["-c", Self.speaker, "\(daemon.ports.api)", daemon.pki + "/ca.crt", administrator.certificate, administrator.key, alpn, path], in: daemon.home)
                expect(run, prints: "said \(samples.count)")
                try await stillServes(after: "broken \(alpn)")
            }
        }
    }
}
