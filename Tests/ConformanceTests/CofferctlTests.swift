import Foundation
import Testing

/// The command line as it is shipped, against a real daemon.
@Suite struct CofferctlTests {
    private func ctl(_ daemon: Daemon, _ arguments: String..., environment: [String: String] = [:], input: String? = nil) async throws -> Program {
        try await Program.run(
            Program.folder.appendingPathComponent("cofferctl"), arguments,
            environment: ["KUBECONFIG": daemon.kubeconfig, "HOME": daemon.home.path].merging(environment) { $1 }, input: input, in: daemon.home)
    }
    private static func manifest(_ data: String) -> String { "apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nstringData: {\(data)}\n" }

    @Test("a secret's life: created, applied, looked at without values, compared, edited, waited for, and gone")
    func life() async throws {
        try await Daemon.with { daemon in
            expect(try await ctl(daemon, "create", "namespace", "team"), is: "namespace/team created\n")
            expect(try await ctl(daemon, "apply", "-n", "team", "-f", "-", input: Self.manifest("a: canary-one, b: canary-two")), is: "secret/web created\n")
            expect(try await ctl(daemon, "apply", "-n", "team", "-f", "-", input: Self.manifest("a: canary-one, b: canary-two")), is: "secret/web unchanged\n")
            let changed = Self.manifest("a: canary-new, c: canary-three")
            let difference = try await ctl(daemon, "diff", "-n", "team", "-f", "-", input: changed)
            expect(difference, 1, prints: "-  a: <masked> (before)", "-  b: <masked>", "+  a: <masked> (after)", "+  c: <masked>")
            #expect(!difference.text.contains("canary") && !difference.text.contains("Y2FuYXJ5"))
            expect(try await ctl(daemon, "apply", "-n", "team", "-f", "-", input: changed), is: "secret/web configured\n")
            expect(try await ctl(daemon, "diff", "-n", "team", "-f", "-", input: changed), is: "")
            expect(try await ctl(daemon, "diff", "-n", "nowhere", "-f", "-", input: changed), 2, prints: "namespaces \"nowhere\" not found")
            for look in [["get", "secrets"], ["describe", "secret", "web"], ["get", "secret", "web", "-o", "yaml"], ["get", "secret", "web", "-o", "json"]] {
                let shown = try await Program.run(
                    Program.folder.appendingPathComponent("cofferctl"), ["--kubeconfig", daemon.kubeconfig, "-n", "team"] + look, in: daemon.home)
                expect(shown, prints: "web")
                #expect(!shown.text.contains("canary") && !shown.text.contains("Y2FuYXJ5"), "\(look): \(shown.text)")
            }
            let edit = try await ctl(
                daemon, "edit", "-n", "team", "secret", "web", environment: ["KUBE_EDITOR": "sed -i 's/c: .<masked>./c: canary-edited/; s/name: web/&\\n  labels: {by: hand}/'"])
            expect(edit, is: "secret/web edited\n")
            expect(try await ctl(daemon, "get", "-n", "team", "secret", "-l", "by=hand", "-o", "jsonpath={.items[0].data}", "--reveal"),
                   is: #"{"a":"Y2FuYXJ5LW5ldw==","c":"Y2FuYXJ5LWVkaXRlZA=="}"#)
            expect(try await ctl(daemon, "auth", "can-i", "get", "secrets", "--as", "jane"), 1, prints: "no - no rule allows it")
            expect(try await ctl(daemon, "wait", "--for=create", "secret/web", "-n", "team"), is: "secret/web condition met\n")
            expect(try await ctl(daemon, "wait", "--for=jsonpath={.type}=Other", "secret/web", "-n", "team", "--timeout=0"), 1,
                   prints: "timed out waiting for the condition on secrets/web")
            expect(try await ctl(daemon, "explain", "pod.spec.volumes.secret.secretName"), prints: "FIELD: secretName <string>")
            expect(try await ctl(daemon, "delete", "namespace", "team", "--timeout=60s"), is: "namespace \"team\" deleted\n")
            expect(try await ctl(daemon, "wait", "--for=delete", "namespace/team"), is: "namespace/team deleted\n")
        }
    }

    @Test("keys of namespaces and of the etcd port are rotated while the daemon is killed; every value opens, and the old keys are destroyed",
          .enabled(if: Program.etcdctl != nil, "etcdctl is not installed"))
    func rotation() async throws {
        try await Daemon.with { daemon in
            let values = (0..<200).map { "apiVersion: v1\nkind: Secret\nmetadata: {name: s\($0)}\nstringData: {v: value-\($0)}\n" }.joined(separator: "---\n")
            expect(try await ctl(daemon, "create", "-f", "-", input: values), prints: "secret/s199 created")
            expect(try await daemon.etcdctl("put", "plain", "text"), is: "OK\n")
            expect(try await ctl(daemon, "operator", "rotate", "-n", "default"), prints: "namespace/default dek generation 2: ")
            try await daemon.kill()
            try await daemon.start()
            expect(try await ctl(daemon, "operator", "rotate", "--domain", "plain", "--watch"), prints: "plain dek generation 2: complete, 1 values under it, 0 to go")
            expect(try await ctl(daemon, "operator", "rotate", "--domain", "plain", "--level", "kek", "--watch"), prints: "plain kek generation 2: complete")
            try await eventually("the rotation that the kill interrupted is done") {
                try await ctl(daemon, "operator", "rotations").output.contains("namespace/default dek generation 2: complete")
            }
            let status = try await ctl(daemon, "vault", "status")
            #expect(status.output.contains(/namespace\/default +1 +1 +Destroyed +0\n/), "\(status.text)")
            #expect(status.output.contains(/plain +2 +2 +Active +1\n/), "\(status.text)")
            expect(try await daemon.etcdctl("get", "plain", "--print-value-only"), is: "text\n")
            let all = try await ctl(daemon, "get", "secrets", "-o", "jsonpath={.items[*].data.v}", "--reveal")
            let opened = all.output.split(separator: " ").compactMap { Data(base64Encoded: String($0)).map { String(decoding: $0, as: UTF8.self) } }
            #expect(Set(opened) == Set((0..<200).map { "value-\($0)" }))
            expect(try await ctl(daemon, "operator", "rotate"), 1, prints: "one of --namespace and --domain is required")
            expect(try await ctl(daemon, "operator", "rotate", "-n", "nowhere"), 1, prints: "namespaces \"nowhere\" not found")
        }
    }

    @Test("bash completes verbs, kinds, and the names that the server has", .enabled(if: Program.find("bash") != nil, "bash is not installed"))
    func completion() async throws {
        try await Daemon.with { daemon in
            expect(try await ctl(daemon, "create", "secret", "generic", "database", "--from-literal=a=b"), prints: "created")
            let script = try daemon.home.write(try await ctl(daemon, "completion", "bash").output, to: "completion.bash")
            func offered(_ words: String...) async throws -> [String] {
                let typed = """
                    source \(script); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
                    _cofferctl cofferctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf '%s\\n' "${COMPREPLY[@]}"
                    """
                let path = Program.folder.path + ":" + (ProcessInfo.processInfo.environment["PATH"] ?? "")
                let run = try await Program.run(
                    try #require(Program.find("bash")), ["--norc", "-c", typed, "bash", "cofferctl"] + words,
                    environment: ["KUBECONFIG": daemon.kubeconfig, "PATH": path], in: daemon.home)
                return run.output.split(separator: "\n").map(String.init)
            }
            #expect(try await offered("ro") == ["rollout"])
            #expect(try await offered("get", "") == ["namespaces", "nodes", "pods", "secrets"])
            // These ask the server, and offer nothing if it does not answer soon.
            try await eventually("names are offered") { try await offered("get", "secret", "") == ["database"] }
            try await eventually("names behind a kind are offered") { try await offered("describe", "secret/d") == ["secret/database"] }
            try await eventually("namespaces are offered") { try await offered("get", "pods", "-n", "") == ["default"] }
            #expect(try await offered("apply", "--dry-run", "") == ["none", "client", "server"])
        }
    }
}
