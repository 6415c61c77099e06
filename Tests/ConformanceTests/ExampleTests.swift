import Faults
import Foundation
import Glibc
import Testing

/// What the examples show must hold, with the binaries of this build.
@Suite struct ExampleTests {
    /// Of this run alone; its name is short, since a socket lies in it.
    private static func folder(_ example: String) -> String { ".run/\(example)-\(getpid())" }
    private func expectSound(_ run: Program, _ example: String) {
        #expect(run.status == 0, Comment(rawValue: run.text))
        #expect(run.output.contains("Every step held."))
        if run.status == 0 { try? FileManager.default.removeItem(at: Program.root.appendingPathComponent(Self.folder(example))) }
    }

    @Test("one node: a manifest's secrets reach the scheduled pods' tmpfs, survive kill -9, and leave with the last consumer",
          .enabled(if: Program.isRoot, "mounting tmpfs needs root"), .timeLimit(.minutes(10)))
    func oneNode() async throws {
        let example = Program.root.appendingPathComponent("examples/one-node/run")
        let ports = try freePorts(2)
        let run = try await Program.run(example, environment: [
            "ONCE": "1", "COFFER_BIN": Program.folder.path, "COFFER_ETCD_PORT": "\(ports[0])", "COFFER_API_PORT": "\(ports[1])",
            "COFFER_RUN": Self.folder("one-node"),
        ], withinSeconds: 480)
        expectSound(run, "one-node")
    }

    @Test("three nodes: the leader is killed under a writer and a watcher, and nothing is lost; a member joins, another leaves",
          .enabled(if: Program.etcdctl != nil, "etcdctl is not installed"), .timeLimit(.minutes(10)))
    func threeNodes() async throws {
        let example = Program.root.appendingPathComponent("examples/three-nodes/run")
        let run = try await Program.run(example, environment: [
            "ONCE": "1", "COFFER_BIN": Program.folder.path, "COFFER_PORT_BASE": "\(try RawConnection.freeBase(24))", "COFFER_RUN": Self.folder("three-nodes"),
        ], withinSeconds: 480)
        expectSound(run, "three-nodes")
    }

    @Test("a member inside a process of its own: each daemon beside it is killed in turn under a writer and a watch, and nothing is lost",
          .enabled(if: Program.etcdctl != nil, "etcdctl is not installed"), .timeLimit(.minutes(10)))
    func embeddedMember() async throws {
        let example = Program.root.appendingPathComponent("examples/embedded-member/run")
        let run = try await Program.run(example, environment: [
            "ONCE": "1", "COFFER_BIN": Program.folder.path, "COFFER_PORT_BASE": "\(try RawConnection.freeBase(24))", "COFFER_RUN": Self.folder("embedded-member"),
        ], withinSeconds: 480)
        expectSound(run, "embedded-member")
    }
}
