import Basics
import Certificates
import Dispatch
import Foundation
import Testing

/// Stock `kubectl`, as its users run it, against the server in this process.
struct Kubectl {
    struct Outcome {
        var code: Int32
        var output: String
        var errors: String
    }
    let path: String
    let kubeconfig: String
    let home: String

    static let path: String? = ["/usr/local/bin/kubectl", "/usr/bin/kubectl"].first { FileManager.default.isExecutableFile(atPath: $0) }

    init?(_ server: TestServer) throws {
        guard let path = ProcessInfo.processInfo.environment["COFFER_KUBECTL"] ?? Self.path else { return nil }
        self.path = path
        kubeconfig = server.directory.path + "/admin.kubeconfig"
        home = server.directory.path
        try Kubeconfig(
            cluster: "coffer", server: "https://127.0.0.1:\(server.port)", user: "coffer-admin", authority: server.authority.certificate,
            credential: try server.credential(.administrator)
        ).write(to: kubeconfig)
    }

    private func process(_ arguments: [String]) -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = ["--kubeconfig", kubeconfig, "--cache-dir", home + "/cache"] + arguments
        process.environment = ["HOME": home, "PATH": "/usr/bin:/bin"]
        return process
    }

    /// On a thread of its own: waiting for a process would hold up the tasks that serve it.
    func run(_ arguments: String..., input: String? = nil, file: String = "input.yaml") async throws -> Outcome {
        var arguments = arguments
        if let input {
            let path = home + "/" + file
            try input.write(toFile: path, atomically: true, encoding: .utf8)
            arguments += ["-f", path]
        }
        let process = process(arguments)
        let output = Pipe(), errors = Pipe()
        process.standardOutput = output
        process.standardError = errors
        process.standardInput = FileHandle.nullDevice
        return try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                do {
                    try process.run()
                    let errorsRead = DispatchSemaphore(value: 0)
                    nonisolated(unsafe) var errorText = Data()
                    Thread.detachNewThread {
                        errorText = errors.fileHandleForReading.readDataToEndOfFile()
                        errorsRead.signal()
                    }
                    let text = output.fileHandleForReading.readDataToEndOfFile()
                    errorsRead.wait()
                    process.waitUntilExit()
                    continuation.resume(
                        returning: Outcome(
                            code: process.terminationStatus, output: String(decoding: text, as: UTF8.self), errors: String(decoding: errorText, as: UTF8.self)))
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    /// Runs on until `stop`; what it prints is gathered in a file.
    func start(_ arguments: String...) throws -> Running {
        let process = process(arguments)
        let path = home + "/running-\(UUID().uuidString)"
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        process.standardError = FileHandle.nullDevice
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return Running(process: process, path: path)
    }
    struct Running {
        let process: Process
        let path: String
        var output: String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
        func stop() { process.terminate() }
    }
}

@Suite(.serialized) struct KubectlTests {
    /// Skips, and says so, without kubectl.
    func withKubectl(_ body: (Kubectl, TestServer) async throws -> Void) async throws {
        let server = try await TestServer()
        guard let kubectl = try Kubectl(server) else {
            print("skipped: no kubectl at /usr/bin/kubectl, and COFFER_KUBECTL names none")
            return try await server.stop()
        }
        do { try await body(kubectl, server) } catch {
            try? await server.stop()
            throw error
        }
        try await server.stop()
    }
    func expect(_ outcome: Kubectl.Outcome, _ code: Int32 = 0, contains texts: String..., location: SourceLocation = #_sourceLocation) {
        #expect(outcome.code == code, "\(outcome.output)\(outcome.errors)", sourceLocation: location)
        for text in texts { #expect((outcome.output + outcome.errors).contains(text), "\(outcome.output)\(outcome.errors)", sourceLocation: location) }
    }

    @Test("kubectl creates, gets, describes, labels and deletes a secret")
    func secrets() async throws {
        try await withKubectl { kubectl, _ in
            expect(try await kubectl.run("create", "secret", "generic", "web", "--from-literal=password=hunter2"), contains: "secret/web created")
            expect(try await kubectl.run("create", "secret", "generic", "web", "--from-literal=a=b"), 1, contains: "secrets \"web\" already exists")
            expect(try await kubectl.run("get", "secrets"), contains: "NAME", "TYPE", "DATA", "AGE", "web", "Opaque")
            expect(try await kubectl.run("get", "secret", "web", "-o", "jsonpath={.data.password}"), contains: "aHVudGVyMg==")
            let described = try await kubectl.run("describe", "secret", "web")
            expect(described, contains: "Name:", "web", "password:", "7 bytes")
            #expect(!described.output.contains("hunter2") && !described.output.contains("aHVudGVyMg=="))
            expect(try await kubectl.run("label", "secret", "web", "tier=front"), contains: "labeled")
            expect(try await kubectl.run("annotate", "secret", "web", "note=kept"), contains: "annotated")
            expect(try await kubectl.run("get", "secrets", "-l", "tier=front", "-o", "name"), contains: "secret/web")
            #expect(try await kubectl.run("get", "secrets", "-l", "tier=back", "-o", "name").output == "")
            expect(try await kubectl.run("get", "secrets", "--field-selector", "type=Opaque", "-A"), contains: "NAMESPACE", "default", "web")
            expect(try await kubectl.run("delete", "secret", "web"), contains: "secret \"web\" deleted")
            expect(try await kubectl.run("get", "secret", "web"), 1, contains: "NotFound", "secrets \"web\" not found")
        }
    }

    @Test("kubectl applies a manifest, applies a change, and sees when nothing changes")
    func apply() async throws {
        try await withKubectl { kubectl, server in
            func manifest(_ password: String, user: String? = "YWRtaW4=") -> String {
                "apiVersion: v1\nkind: Secret\nmetadata: {name: web}\ndata:\n  password: \(password)\n" + (user.map { "  user: \($0)\n" } ?? "")
            }
            expect(try await kubectl.run("apply", input: manifest("b25l")), contains: "secret/web created")
            expect(try await kubectl.run("apply", input: manifest("b25l")), contains: "secret/web unchanged")
            expect(try await kubectl.run("apply", input: manifest("dHdv")), contains: "secret/web configured")
            expect(try await kubectl.run("get", "secret", "web", "-o", "jsonpath={.data}"), contains: "dHdv", "YWRtaW4=")
            expect(try await kubectl.run("diff", input: manifest("dGhyZWU=")), 1)
            expect(try await kubectl.run("apply", "--dry-run=server", input: manifest("Zm91cg==")), contains: "server dry run")
            expect(try await kubectl.run("get", "secret", "web", "-o", "jsonpath={.data.password}"), contains: "dHdv")
            expect(try await kubectl.run("apply", input: manifest("dHdv", user: nil)), contains: "secret/web configured")
            #expect(try await kubectl.run("get", "secret", "web", "-o", "jsonpath={.data}").output == #"{"password":"dHdv"}"#)
            let texts = "apiVersion: v1\nkind: Secret\nmetadata: {name: texts}\nstringData: {a: plain}\n"
            expect(try await kubectl.run("apply", input: texts), contains: "secret/texts created")
            expect(try await kubectl.run("apply", input: texts.replacing("plain", with: "other")), contains: "secret/texts configured")
            expect(try await kubectl.run("get", "secret", "texts", "-o", "jsonpath={.data.a}{.stringData}"), contains: "b3RoZXI=")
            let misspelled = try await kubectl.run("apply", input: "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\nstringdata: {a: b}\n")
            expect(misspelled, 1, contains: "unknown field \"stringdata\"")
            let typed = try await kubectl.run("apply", input: "apiVersion: v1\nkind: Secret\nmetadata: {name: tls}\ntype: kubernetes.io/tls\ndata: {}\n")
            expect(typed, 1, contains: "data[tls.crt]: Required value")
            expect(try await kubectl.run("delete", input: manifest("dHdv")), contains: "secret \"web\" deleted")
        }
    }

    @Test("kubectl applies pods and binds their volumes' list by name, namespaces come and go with their contents")
    func podsAndNamespaces() async throws {
        try await withKubectl { kubectl, _ in
            expect(try await kubectl.run("create", "namespace", "prod"), contains: "namespace/prod created")
            let pod = """
                apiVersion: v1
                kind: Pod
                metadata: {name: web, namespace: prod, labels: {app: web}}
                spec:
                  containers:
                  - {name: main, image: busybox, volumeMounts: [{name: keys, mountPath: /keys}]}
                  volumes:
                  - {name: keys, secret: {secretName: web}}
                """
            expect(try await kubectl.run("apply", input: pod), contains: "pod/web created")
            expect(try await kubectl.run("apply", input: pod), contains: "pod/web unchanged")
            expect(try await kubectl.run("apply", input: pod.replacing("app: web", with: "app: other")), contains: "pod/web configured")
            expect(try await kubectl.run("get", "pods", "-n", "prod", "-o", "wide"), contains: "STATUS", "Pending", "NODE")
            expect(try await kubectl.run("describe", "pod", "web", "-n", "prod"), contains: "Name:", "web", "SecretName:")
            expect(try await kubectl.run("get", "ns"), contains: "default", "prod", "Active")
            expect(try await kubectl.run("explain", "pod.spec.volumes"), contains: "secret")
            expect(try await kubectl.run("api-resources"), contains: "secrets", "pods", "nodes", "namespaces")
            expect(try await kubectl.run("version"), contains: "Server Version: v1.32")
            expect(try await kubectl.run("explain", "secret.data"), contains: "map[string]string", "The values in base64")
            expect(try await kubectl.run("auth", "whoami"), contains: "coffer-admin", "system:masters")
            expect(try await kubectl.run("auth", "can-i", "create", "secrets"), contains: "yes")
            expect(
                try await kubectl.run("auth", "can-i", "get", "secrets", "--as=system:node:a", "--as-group=system:nodes"), 1,
                contains: "no - a node receives secrets by its sync stream only")
            expect(try await kubectl.run("auth", "can-i", "--list"), contains: "*.*", "[*]")
            expect(try await kubectl.run("get", "secrets", "--as=jane"), 1, contains: "User \"jane\" cannot list resource \"secrets\"")
            expect(try await kubectl.run("get", "events"), 1, contains: "the server doesn't have a resource type \"events\"")
            expect(try await kubectl.run("delete", "namespace", "prod", "--timeout=20s"), contains: "namespace \"prod\" deleted")
            expect(try await kubectl.run("get", "pods", "-A"), contains: "No resources found")
            expect(try await kubectl.run("delete", "namespace", "default"), 1, contains: "this namespace may not be deleted")
        }
    }

    @Test("kubectl watches: it sees what is there, what changes and what goes")
    func watch() async throws {
        try await withKubectl { kubectl, _ in
            expect(try await kubectl.run("create", "secret", "generic", "first", "--from-literal=a=1"), contains: "created")
            let watch = try kubectl.start("get", "secrets", "--watch", "--output-watch-events")
            defer { watch.stop() }
            try await eventually("the first secret is shown") { watch.output.contains("ADDED") && watch.output.contains("first") }
            expect(try await kubectl.run("create", "secret", "generic", "second", "--from-literal=a=1"), contains: "created")
            try await eventually("the second secret is shown") { watch.output.contains("second") }
            expect(try await kubectl.run("label", "secret", "second", "x=y"), contains: "labeled")
            try await eventually("the change is shown") { watch.output.contains("MODIFIED") }
            expect(try await kubectl.run("delete", "secret", "second"), contains: "deleted")
            try await eventually("the deletion is shown") { watch.output.contains("DELETED") }
        }
    }
}
