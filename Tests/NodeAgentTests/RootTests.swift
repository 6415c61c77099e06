import Foundation
import Mounts
import NodeAgent
import NodeProtocol
import Testing

@Suite(.serialized, .enabled(if: Node.isPossible, Node.why)) struct RootTests {
    private func refusal(_ node: Node) -> String? {
        do {
            try node.start()
            return nil
        } catch {
            return "\(error)"
        }
    }

    @Test("a root that is a symbolic link, or below one, is refused by that name and nothing is made")
    func symbolicLink() throws {
        let node = try Node(), elsewhere = try Node()
        try FileManager.default.createDirectory(atPath: elsewhere.root, withIntermediateDirectories: true)
        try FileManager.default.createSymbolicLink(atPath: node.root, withDestinationPath: elsewhere.root)
        #expect(refusal(node)?.contains("is a symbolic link") == true)
        let below = try Node()
        below.options.rootDirectory = node.root + "/below"
        #expect(refusal(below)?.contains("is a symbolic link") == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: elsewhere.root) == [])
    }

    @Test("a root with something mounted on it, or writable by others, or not absolute, is refused and nothing is made")
    func foreignMount() throws {
        let node = try Node()
        try FileManager.default.createDirectory(atPath: node.root, withIntermediateDirectories: true)
        #expect(mount("x", node.root, "tmpfs", 0, nil) == 0)
        #expect(refusal(node)?.contains("something is mounted on") == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: node.root) == [])
        #expect(umount2(node.root, 0) == 0)
        chmod(node.root, 0o777)
        #expect(refusal(node)?.contains("writable by others") == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: node.root) == [])
        for bad in ["relative", "/", "/tmp/../etc", "/tmp/with blank", "/tmp/\u{e9}"] {
            let other = try Node()
            other.options.rootDirectory = bad
            #expect(refusal(other)?.contains("root directory") == true)
        }
    }

    @Test("a state directory with a foreign mount, or that is a link, is refused")
    func state() throws {
        let node = try Node()
        try FileManager.default.createDirectory(atPath: node.root + "/state", withIntermediateDirectories: true)
        chmod(node.root, 0o750)
        #expect(mount("x", node.root + "/state", "tmpfs", 0, nil) == 0)
        #expect(refusal(node)?.contains("state directory") == true)
        #expect(umount2(node.root + "/state", 0) == 0)
        try FileManager.default.removeItem(atPath: node.root + "/state")
        try FileManager.default.createSymbolicLink(atPath: node.root + "/state", withDestinationPath: "/tmp")
        #expect(refusal(node)?.contains("symbolic link") == true)
    }

    @Test("two agents do not work on one root")
    func lock() throws {
        let node = try Node(), other = try Node()
        try node.start()
        other.options = node.options
        #expect(refusal(other)?.contains("another agent") == true)
        node.stop()
        #expect(refusal(other) == nil)
        other.stop()
    }

    @Test("a link in a volume's place is not followed, and a foreign mount there is reported and never touched")
    func foreignPlaces() throws {
        let node = try Node()
        try node.start()
        let linked = pod(1), mounted = pod(2)
        try FileManager.default.createDirectory(atPath: node.root + "/pods/" + linked.uid, withIntermediateDirectories: true)
        try FileManager.default.createDirectory(atPath: node.root + "/victim", withIntermediateDirectories: true)
        try FileManager.default.createSymbolicLink(atPath: node.path(linked), withDestinationPath: node.root + "/victim")
        try FileManager.default.createDirectory(atPath: node.path(mounted), withIntermediateDirectories: true)
        #expect(mount("foreign", node.path(mounted), "tmpfs", 0, nil) == 0)
        try "theirs".write(toFile: node.path(mounted, "v", "k"), atomically: false, encoding: .utf8)
        node.state.pods = [linked, mounted]
        node.state.secrets = [try secret(data: [("k", "v")])]
        let result = try node.sync()
        #expect(result.reports.map(\.reason.code) == [.failed, .foreignMount])
        #expect(try FileManager.default.contentsOfDirectory(atPath: node.root + "/victim") == [])
        #expect(try MountTable.read().filter { $0.point.hasPrefix(node.root + "/victim") }.isEmpty)
        node.state.pods = []
        try node.sync()
        #expect(node.text(mounted, "v", "k") == "theirs")
        #expect(umount2(node.path(mounted), 0) == 0)
    }

    @Test("a foreign mount stacked over a volume is left alone and said")
    func stacked() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "v")])]
        try node.sync()
        #expect(mount("foreign", node.path(pod), "tmpfs", 0, nil) == 0)
        #expect(try node.sync().reports.map(\.reason.code) == [.foreignMount])
        node.state.pods = []
        try node.sync()
        #expect(try node.mounts.map(\.source) .contains("foreign"))
        #expect(umount2(node.path(pod), 0) == 0)
        try node.sync()
        #expect(node.leftovers == [])
    }

    @Test("mounts of ours that nothing accounts for stay until a whole view is there, and then go")
    func quarantine() throws {
        let node = try Node()
        try node.start()
        let kept = pod(1), lost = pod(2)
        node.state.pods = [kept, lost]
        node.state.secrets = [try secret(data: [("k", "v")])]
        try node.sync()
        node.stop()
        // The records are gone, as after somebody unmounted them; one pod ended meanwhile.
        #expect(umount2(node.root + "/state", Int32(MNT_DETACH)) == 0)
        try node.start()
        _ = try node.work()
        #expect(try node.mounts.count == 2)
        #expect(try node.reconciler?.leftovers().count == 2)
        node.state.pods = [kept]
        try node.sync()
        #expect(try node.mounts.count == 1)
        #expect(node.text(kept, "v", "k") == "v")
        #expect(node.text(lost, "v", "k") == nil)
    }

    @Test("a drained node has nothing and takes nothing until it is started again; a restart refuses an older server")
    func drain() throws {
        let node = try Node()
        try node.start()
        node.state.pods = [pod(1)]
        node.state.secrets = [try secret(data: [("k", "v")])]
        try node.sync()
        #expect(try node.reconciler?.status(node: "n").secretsHeld == 1)
        #expect(try node.reconciler?.drain().failures == [])
        #expect(node.leftovers == [])
        #expect(try node.reconciler?.status(node: "n").secretsHeld == 0)
        try node.sync()
        #expect(node.leftovers == [])
        #expect(try node.reconciler?.status(node: "n").secretsHeld == 0)
        try node.start()
        var old = node.state
        old.revision -= 1
        guard case .refused = try #require(node.reconciler).receive(.snapshot(old)) else {
            Issue.record("an older revision was accepted after a restart")
            return
        }
        try node.sync()
        #expect(try node.mounts.count == 1)
    }

    @Test("silence beyond the bound wipes everything, and a server's word brings it back")
    func stale() throws {
        let node = try Node(policy: MountPolicy(versionGraceMilliseconds: 50, staleMillisecondsMax: 200))
        try node.start()
        node.state.pods = [pod(1)]
        node.state.secrets = [try secret(data: [("k", "v")])]
        try node.sync()
        #expect(try node.mounts.count == 1)
        try #require(node.reconciler).disconnect()
        #expect(try eventually {
            _ = try node.work()
            return node.leftovers.isEmpty
        })
        try node.sync()
        #expect(try node.mounts.count == 1)
    }

    @Test("the doctor finds noswap on a kernel that has it")
    func doctor() {
        let findings = Doctor.examine(rootDirectory: "/tmp")
        #expect(findings.map(\.topic) == ["noswap", "swap", "memlock", "core_pattern", "mount calls", "propagation"])
        #expect(findings.first?.level == .ok)
    }

    @Test("who may not mount is told so by the doctor, which fails",
          .enabled(if: CrashTests.agent != nil && FileManager.default.isExecutableFile(atPath: "/usr/bin/setpriv"), "needs coffer-agent's build and setpriv"))
    func doctorOfNobody() throws {
        let doctor = Process(), output = Pipe()
        doctor.executableURL = URL(fileURLWithPath: "/usr/bin/setpriv")
        doctor.arguments = ["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", try #require(CrashTests.agent), "doctor", "--root-dir", "/tmp"]
        doctor.standardOutput = output
        try doctor.run()
        let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        doctor.waitUntilExit()
        #expect(doctor.terminationStatus == 1)
        #expect(said.split(separator: "\n").contains { $0.hasPrefix("error") && $0.contains("noswap") && $0.contains("which needs root") }, "\(said)")
    }
}
