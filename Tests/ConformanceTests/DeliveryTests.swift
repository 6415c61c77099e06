import Foundation
import Glibc
import Testing

/// The whole way with real programs: stock kubectl, the daemon, an agent on this machine, files under its root.
@Suite(.serialized, .enabled(if: Program.isRoot && Program.kubectl != nil, "needs root, for mounts, and kubectl")) struct DeliveryTests {
    /// `coffer-agent` of this build as node-1.
    private final class Agent {
        let root: String
        private let daemon: Daemon
        private(set) var child: Child?
        static let program = Program.folder.appendingPathComponent("coffer-agent")

        init(_ daemon: Daemon) {
            self.daemon = daemon
            root = daemon.home.path + "/agent"
        }
        func start() throws {
            child = try Program.start(Self.program, [
                "run", "--node-name", "node-1", "--server", "https://127.0.0.1:\(daemon.ports.api)", "--ca-file", daemon.pki + "/ca.crt",
                "--cert-file", daemon.pki + "/nodes/node-1.crt", "--key-file", daemon.pki + "/nodes/node-1.key", "--root-dir", root,
            ], environment: Daemon.environment, in: daemon.home)
        }
        func kill() async throws {
            child?.signal(SIGKILL)
            _ = try await child?.ended(withinSeconds: 60)
        }
        /// Mounts below a folder of the root.
        func mounts(_ folder: String = "") -> [String] {
            let table = (try? String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)) ?? ""
            let points: [String] = table.split(separator: "\n").compactMap { line in
                let fields = line.split(separator: " ")
                return fields.count > 4 ? String(fields[4]) : nil
            }
            return points.filter { $0.hasPrefix(root + folder) }
        }
        deinit {
            child?.signal(SIGKILL)
            for mount in mounts().reversed() { umount2(mount, Int32(MNT_DETACH)) }
        }
    }

    private func withAgent(_ body: (Daemon, Agent) async throws -> Void) async throws {
        try await Daemon.with { daemon in
            expect(try await Program.run(Daemon.program, ["certificate", "node", "node-1", "--pki-dir", daemon.pki]))
            let agent = Agent(daemon)
            try agent.start()
            do { try await body(daemon, agent) } catch {
                try await agent.kill()
                throw error
            }
            try await agent.kill()
        }
    }

    private func cofferctl(_ daemon: Daemon, _ arguments: String...) async throws -> Program {
        try await Program.run(Program.folder.appendingPathComponent("cofferctl"), ["--kubeconfig", daemon.kubeconfig] + arguments, in: daemon.home)
    }
    private func file(_ daemon: Daemon, _ agent: Agent, _ pod: String, _ volume: String, _ name: String) async throws -> String? {
        let uid = try await daemon.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}").output
        return try? String(contentsOfFile: "\(agent.root)/pods/\(uid)/\(volume)/\(name)", encoding: .utf8)
    }

    @Test("Kubernetes' own example manifests are delivered as files, followed through a kill of daemon and agent, and leave nothing",
          .enabled(if: !SecretsAPITests.manifests.isEmpty, "no example manifests at COFFER_SHARED"))
    func examples() async throws {
        try await withAgent { daemon, agent in
            for manifest in SecretsAPITests.manifests { expect(try await daemon.kubectl("apply", "-f", manifest.path), prints: " created\n") }
            // One of them has its pod without the secrets.
            expect(try await daemon.kubectl("wait", "pod/volume-test", "--for=condition=coffer.dev/SecretsReady=false", "--timeout=60s"), prints: "met")
            expect(try await daemon.kubectl("create", "secret", "generic", "mysecret", "--from-literal=username=someone"), prints: "created")
            expect(try await daemon.kubectl("create", "secret", "generic", "mysecret2", "--from-literal=password=something"), prints: "created")
            for pod in ["volume-test", "secret-test-pod", "secret-dotfiles-pod", "mypod"] {
                expect(try await daemon.kubectl("wait", "pod/" + pod, "--for=condition=coffer.dev/SecretsReady", "--timeout=60s"), prints: "met")
            }
            #expect(try await file(daemon, agent, "secret-test-pod", "secret-volume", "username") == "my-app")
            #expect(try await file(daemon, agent, "secret-test-pod", "secret-volume", "password") == "39528$vdg7Jb")
            #expect(try await file(daemon, agent, "secret-dotfiles-pod", "secret-volume", ".secret-file") == "value-2\r\n\r\n")
            #expect(try await file(daemon, agent, "volume-test", "all-in-one", "my-group/my-username") == "someone")
            #expect(try await file(daemon, agent, "volume-test", "all-in-one", "my-group/my-password") == "something")
            let uid = try await daemon.kubectl("get", "pod", "volume-test", "-o", "jsonpath={.metadata.uid}").output
            let mode = try FileManager.default.attributesOfItem(atPath: "\(agent.root)/pods/\(uid)/all-in-one/..data/my-group/my-password")[.posixPermissions]
            #expect(mode as? Int == 0o777)
            expect(try await cofferctl(daemon, "rollout", "status", "secret/test-secret", "--timeout=60s"), prints: "1 of 1 pods have version")

            // Both die. The daemon asks the agent again what it holds.
            let port = daemon.ports.api
            try await agent.kill()
            try await daemon.kill()
            try await daemon.start()
            #expect(daemon.ports.api != port)
            try agent.start()
            expect(try await cofferctl(daemon, "rollout", "status", "secret/test-secret", "--timeout=60s"), prints: "1 of 1 pods have version")
            expect(try await daemon.kubectl("patch", "secret", "test-secret", "-p", #"{"stringData":{"username":"changed"}}"#), prints: "patched")
            expect(try await cofferctl(daemon, "rollout", "status", "secret/test-secret", "--timeout=60s"), prints: "1 of 1 pods have version")
            #expect(try await file(daemon, agent, "secret-test-pod", "secret-volume", "username") == "changed")

            for manifest in SecretsAPITests.manifests {
                expect(try await daemon.kubectl("delete", "-f", manifest.path, "--grace-period=0", "--force", "--timeout=60s"), prints: "deleted")
            }
            // Who held it is known after secret and pod are gone.
            try await eventually("every version's end is in the trail") {
                let states = try await cofferctl(daemon, "trace", "secret/test-secret", "-o", "jsonpath={.items[*].state}").output
                return states == "Replaced Wiped"
            }
            try await eventually("nothing is mounted") { agent.mounts("/pods/").isEmpty }
            try await eventually("no directory is left") { try FileManager.default.contentsOfDirectory(atPath: agent.root + "/pods").isEmpty }
        }
    }
}
