import Foundation
import Glibc
import Testing

/// Stock kubectl against a real daemon, with the kubeconfig that the daemon wrote.
@Suite(.enabled(if: Program.kubectl != nil, "kubectl is not installed")) struct SecretsAPITests {
    private static func manifest(_ name: String, data: String, more: String = "") -> String {
        "apiVersion: v1\nkind: Secret\nmetadata: {name: \(name)}\n\(more)data: {\(data)}\n"
    }

    @Test("kubectl creates, reads, describes without values, labels, annotates and deletes a secret; all of it outlives SIGKILL")
    func life() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("create", "secret", "generic", "web", "--from-literal=password=hunter2-value"), is: "secret/web created\n")
            expect(try await daemon.kubectl("create", "secret", "generic", "web", "--from-literal=a=b"), 1,
                   prints: "secrets \"web\" already exists")
            expect(try await daemon.kubectl("get", "secret", "web", "-o", "jsonpath={.data.password}"), is: "aHVudGVyMi12YWx1ZQ==")
            let described = try await daemon.kubectl("describe", "secret", "web")
            expect(described, prints: "Name:         web", "Type:  Opaque", "password:  13 bytes")
            #expect(!described.output.contains("hunter2") && !described.output.contains("aHVudGVy"))
            expect(try await daemon.kubectl("label", "secret", "web", "tier=front"), is: "secret/web labeled\n")
            expect(try await daemon.kubectl("annotate", "secret", "web", "note=kept"), is: "secret/web annotated\n")
            try await daemon.kill()
            try await daemon.start()
            expect(try await daemon.kubectl("get", "secrets", "-l", "tier=front", "-o", "jsonpath={.items[*].metadata.annotations.note}"), is: "kept")
            expect(try await daemon.kubectl("get", "secret", "web"), prints: "NAME", "TYPE", "DATA", "AGE")
            expect(try await daemon.kubectl("delete", "secret", "web"), prints: "secret \"web\" deleted")
            expect(try await daemon.kubectl("get", "secret", "web"), 1, prints: "Error from server (NotFound): secrets \"web\" not found")
            expect(try await daemon.kubectl("delete", "secret", "web"), 1, prints: "Error from server (NotFound): secrets \"web\" not found")
            expect(try await daemon.kubectl("delete", "secret", "web", "--ignore-not-found"), is: "")
        }
    }

    @Test("kubectl applies twice, patches in three ways, and replaces only what it has read")
    func change() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("apply", "-f", "-", input: Self.manifest("web", data: "a: b25l, b: b25l")), is: "secret/web created\n")
            expect(try await daemon.kubectl("apply", "-f", "-", input: Self.manifest("web", data: "a: b25l, b: b25l")), is: "secret/web unchanged\n")
            expect(try await daemon.kubectl("apply", "-f", "-", input: Self.manifest("web", data: "a: dHdv")), is: "secret/web configured\n")
            func data() async throws -> String { try await daemon.kubectl("get", "secret", "web", "-o", "jsonpath={.data}").output }
            #expect(try await data() == #"{"a":"dHdv"}"#)
            expect(try await daemon.kubectl("patch", "secret", "web", "-p", #"{"stringData":{"c":"three"}}"#), is: "secret/web patched\n")
            expect(try await daemon.kubectl("patch", "secret", "web", "--type=merge", "-p", #"{"data":{"a":null,"d":"Zm91cg=="}}"#), is: "secret/web patched\n")
            let operations = #"[{"op":"test","path":"/data/d","value":"Zm91cg=="},{"op":"replace","path":"/data/d","value":"Zml2ZQ=="}]"#
            expect(try await daemon.kubectl("patch", "secret", "web", "--type=json", "-p", operations), is: "secret/web patched\n")
            #expect(try await data() == #"{"c":"dGhyZWU=","d":"Zml2ZQ=="}"#)
            let refused = try await daemon.kubectl("patch", "secret", "web", "--type=json", "-p", operations)
            expect(refused, 1)
            // As newer and older ones word a 422.
            #expect(refused.errors.contains("the server rejected our request due to an error in our request") || refused.errors.contains("The request is invalid"))
            expect(try await daemon.kubectl("patch", "secret", "web", "--type=json", "-p", #"[{"op":"remove","path":"/data/none"}]"#), 1)
            #expect(try await data() == #"{"c":"dGhyZWU=","d":"Zml2ZQ=="}"#)

            let read = try await daemon.kubectl("get", "secret", "web", "-o", "yaml")
            expect(read, prints: "kind: Secret", "c: dGhyZWU=")
            expect(try await daemon.kubectl("replace", "-f", "-", input: read.output.replacing("dGhyZWU=", with: "bmV3")), is: "secret/web replaced\n")
            #expect(try await data() == #"{"c":"bmV3","d":"Zml2ZQ=="}"#)
            expect(try await daemon.kubectl("replace", "-f", "-", input: read.output), 1, prints: "Error from server (Conflict)", "the object has been modified")
        }
    }

    @Test("kubectl asks the server what would come of a change, with --dry-run=server and diff, and nothing is stored")
    func dryRuns() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("apply", "-f", "-", "--dry-run=server", input: Self.manifest("web", data: "a: b25l")), is: "secret/web created (server dry run)\n")
            expect(try await daemon.kubectl("apply", "-f", "-", input: Self.manifest("web", data: "a: b25l, b: b25l")), is: "secret/web created\n")
            expect(try await daemon.kubectl("diff", "-f", "-", input: Self.manifest("web", data: "a: b25l, b: b25l")), is: "")
            expect(try await daemon.kubectl("diff", "-f", "-", input: Self.manifest("web", data: "a: dHdv")), 1, prints: "--- ", "\n-  a: ", "\n+  a: ", "\n-  b: ")
            expect(try await daemon.kubectl("get", "secret", "web", "-o", "jsonpath={.metadata.resourceVersion} {.data}"), prints: #" {"a":"b25l","b":"b25l"}"#)
            expect(try await daemon.kubectl("apply", "--server-side", "-f", "-", input: Self.manifest("web", data: "a: dHdv")), 1,
                   prints: "application/strategic-merge-patch+json")
            expect(try await daemon.kubectl("get", "secret", "web", "-o", "jsonpath={.data.a}"), is: "b25l")
        }
    }

    @Test("kubectl's watch sees what is there, an update and a deletion")
    func watch() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("create", "secret", "generic", "first", "--from-literal=a=1"), prints: "created")
            let watch = try daemon.startKubectl("get", "secrets", "--watch", "--output-watch-events")
            defer { watch.signal(SIGKILL) }
            func sees(_ event: String, _ name: String) -> Bool {
                watch.output.split(separator: "\n").contains { $0.hasPrefix(event) && $0.contains(" \(name) ") }
            }
            try await eventually("the secret is shown: \(watch.output)\(watch.errors)") { sees("ADDED", "first") }
            expect(try await daemon.kubectl("patch", "secret", "first", "-p", #"{"stringData":{"b":"2"}}"#), prints: "patched")
            try await eventually("the update is shown: \(watch.output)\(watch.errors)") { sees("MODIFIED", "first") }
            expect(try await daemon.kubectl("delete", "secret", "first"), prints: "deleted")
            try await eventually("the deletion is shown: \(watch.output)\(watch.errors)") { sees("DELETED", "first") }
        }
    }

    @Test("an immutable secret refuses a change, and its deletion not")
    func immutable() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("apply", "-f", "-", input: Self.manifest("fixed", data: "a: b25l", more: "immutable: true\n")), is: "secret/fixed created\n")
            expect(try await daemon.kubectl("apply", "-f", "-", input: Self.manifest("fixed", data: "a: dHdv", more: "immutable: true\n")), 1,
                   prints: "The Secret \"fixed\" is invalid: data: Forbidden: field is immutable when `immutable` is set")
            expect(try await daemon.kubectl("patch", "secret", "fixed", "-p", #"{"immutable":false}"#), 1,
                   prints: "immutable: Forbidden: field is immutable when `immutable` is set")
            expect(try await daemon.kubectl("label", "secret", "fixed", "still=allowed"), prints: "labeled")
            expect(try await daemon.kubectl("get", "secret", "fixed", "-o", "jsonpath={.data.a}"), is: "b25l")
            expect(try await daemon.kubectl("delete", "secret", "fixed"), prints: "deleted")
        }
    }

    @Test("a secret may hold one mebibyte and not a byte more")
    func size() async throws {
        try await Daemon.with { daemon in
            let largest = try daemon.home.write(String(repeating: "x", count: 1_048_576), to: "largest")
            let larger = try daemon.home.write(String(repeating: "x", count: 1_048_577), to: "larger")
            expect(try await daemon.kubectl("create", "secret", "generic", "largest", "--from-file=v=\(largest)"), is: "secret/largest created\n")
            let refused = try await daemon.kubectl("create", "secret", "generic", "larger", "--from-file=v=\(larger)")
            expect(refused, 1, prints: "Secret \"larger\" is invalid: data: Too long: ", "1048576 bytes")
            expect(try await daemon.kubectl("get", "secrets", "-o", "name"), is: "secret/largest\n")
            let read = try await daemon.kubectl("get", "secret", "largest", "-o", "jsonpath={.data.v}")
            #expect(Data(base64Encoded: read.output) == FileManager.default.contents(atPath: largest))
        }
    }

    @Test("names, keys and base64 outside the rules are refused in Kubernetes' words, and nothing is stored")
    func rules() async throws {
        try await Daemon.with { daemon in
            func refused(_ manifest: String, _ texts: String..., line: Int = #line) async throws {
                let answer = try await daemon.kubectl("create", "-f", "-", input: manifest)
                let place = SourceLocation(fileID: #fileID, filePath: #filePath, line: line, column: 1)
                #expect(answer.status == 1, Comment(rawValue: answer.text), sourceLocation: place)
                for text in texts { #expect(answer.text.contains(text), Comment(rawValue: answer.text), sourceLocation: place) }
            }
            try await refused(Self.manifest("bad64", data: "a: '%%%'"), "illegal base64 data")
            try await refused(Self.manifest("bad64", data: "a: YQ="), "illegal base64 data")
            try await refused(Self.manifest("key", data: "'..': YQ=="), "data[..]: Invalid value: \"..\"", "must not be '..'")
            try await refused(Self.manifest("key", data: "'..up': YQ=="), "data[..up]: Invalid value: \"..up\"", "must not start with '..'")
            try await refused(Self.manifest("key", data: "'a/b': YQ=="), "Invalid value: \"a/b\"", "a valid config key must consist of alphanumeric characters, '-', '_' or '.'")
            try await refused(Self.manifest("key", data: "\"a\\0b\": YQ=="), "a valid config key must consist of")
            try await refused(Self.manifest("key", data: "\(String(repeating: "k", count: 254)): YQ=="), "must be no more than 253 characters")
            try await refused(Self.manifest(String(repeating: "n", count: 254), data: ""), "metadata.name: Invalid value", "must be no more than 253 characters")
            try await refused(Self.manifest("Upper", data: ""), "metadata.name: Invalid value: \"Upper\": a lowercase RFC 1123 subdomain must consist of")
            try await refused(Self.manifest("'..'", data: ""), "metadata.name: Invalid value: \"..\"")
            try await refused(Self.manifest("a/b", data: ""), "metadata.name: Invalid value: \"a/b\"")
            try await refused("apiVersion: v1\nkind: Secret\nmetadata: {name: typed}\ntype: kubernetes.io/tls\ndata: {}\n", "data[tls.crt]: Required value")
            try await refused("apiVersion: v1\nkind: Secret\nmetadata: {name: strange}\nsecretdata: {a: b}\n", "unknown field \"secretdata\"")
            try await refused("apiVersion: v1\nkind: Flower\nmetadata: {name: rose}\n", "no matches for kind \"Flower\" in version \"v1\"")
            #expect(try await daemon.kubectl("get", "secrets", "-A", "-o", "name").output == "")
        }
    }

    @Test("what is asked of a missing namespace or secret is answered as Kubernetes does")
    func missing() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.kubectl("create", "secret", "generic", "a", "-n", "nowhere", "--from-literal=a=b"), 1,
                   prints: "namespaces \"nowhere\" not found")
            expect(try await daemon.kubectl("get", "secrets", "-n", "nowhere"), prints: "No resources found in nowhere namespace.")
            expect(try await daemon.kubectl("get", "secret", "a", "-n", "nowhere"), 1, prints: "Error from server (NotFound): ", " not found")
            expect(try await daemon.kubectl("patch", "secret", "a", "-p", "{}"), 1, prints: "Error from server (NotFound): secrets \"a\" not found")
            expect(try await daemon.kubectl("get", "deployments"), 1, prints: "the server doesn't have a resource type \"deployments\"")
            expect(try await daemon.kubectl("create", "namespace", "gone"), is: "namespace/gone created\n")
            expect(try await daemon.kubectl("create", "secret", "generic", "a", "-n", "gone", "--from-literal=a=b"), prints: "created")
            expect(try await daemon.kubectl("delete", "namespace", "gone", "--timeout=60s"), prints: "namespace \"gone\" deleted")
            expect(try await daemon.kubectl("get", "secret", "a", "-n", "gone"), 1, prints: "Error from server (NotFound): ", " not found")
        }
    }

    static let examples: URL = {
        let shared = ProcessInfo.processInfo.environment["COFFER_SHARED"].map { URL(fileURLWithPath: $0, relativeTo: Program.root) }
        return (shared ?? Program.root.appendingPathComponent("../shared")).appendingPathComponent("data/kubernetes-examples").standardizedFileURL
    }()
    static let manifests = ((try? FileManager.default.contentsOfDirectory(at: examples, includingPropertiesForKeys: nil)) ?? [])
        .filter { $0.pathExtension == "yaml" }.sorted { $0.path < $1.path }

    @Test("Kubernetes' own example manifests apply, are unchanged when applied again, and go", .enabled(if: !manifests.isEmpty, "no example manifests at COFFER_SHARED"))
    func exampleManifests() async throws {
        try await Daemon.with { daemon in
            for manifest in Self.manifests {
                let created = try await daemon.kubectl("apply", "-f", manifest.path)
                expect(created, prints: " created\n")
                let objects = created.output.split(separator: "\n").map { $0.prefix { $0 != " " } }
                let again = try await daemon.kubectl("apply", "-f", manifest.path)
                #expect(again.status == 0 && again.output == objects.map { "\($0) unchanged\n" }.joined(), "\(manifest.lastPathComponent): \(again.text)")
                let read = try await daemon.kubectl("get", "-f", manifest.path, "-o", "name")
                #expect(read.output == objects.map { "\($0)\n" }.joined(), "\(manifest.lastPathComponent): \(read.text)")
            }
            expect(try await daemon.kubectl("get", "secret", "test-secret", "-o", "jsonpath={.data.username}"), is: "bXktYXBw")
            expect(try await daemon.kubectl("get", "secret", "dotfile-secret", "-o", "jsonpath={.data.\\.secret-file}"), is: "dmFsdWUtMg0KDQo=")
            for manifest in Self.manifests { expect(try await daemon.kubectl("delete", "-f", manifest.path, "--timeout=60s"), prints: "deleted") }
            expect(try await daemon.kubectl("get", "secrets,pods", "-A"), prints: "No resources found")
        }
    }
}
