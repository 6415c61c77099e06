import Foundation
import Mounts
import NodeAgent
import NodeProtocol
import SecretMemory
import Testing

/// What every step leaves behind when the agent dies there: nothing that stays, and nothing that another start does not put right.
@Suite(.serialized, .enabled(if: Node.isPossible, Node.why)) struct CrashTests {
    private static let pods = [pod(1), pod(2)]

    private static func snapshot(_ revision: Int64, _ text: String?) throws -> DesiredState {
        DesiredState(revision: revision, serverTimeMilliseconds: Node.serverNow, pods: text == nil ? [] : pods, secrets: try text.map {
            [try secret(version: revision, data: [("a", $0), ("b", $0)])]
        } ?? [])
    }
    /// Two versions and an end: every step of every action is reached.
    private static func story() throws -> [DesiredState] { [try snapshot(1, "first"), try snapshot(2, "second"), try snapshot(3, nil)] }

    private func versions(_ node: Node, _ pod: DesiredPod) -> Int {
        ((try? FileManager.default.contentsOfDirectory(atPath: node.path(pod))) ?? []).filter { $0.hasPrefix("..") && $0 != "..data" }.count
    }

    private func checkConverged(_ node: Node, _ step: MountStep) throws {
        for pod in Self.pods {
            #expect(node.text(pod, "v", "a") == "third", "\(step)")
            #expect(node.text(pod, "v", "b") == "third", "\(step)")
            #expect(versions(node, pod) == 1, "\(step)")
        }
        #expect(try node.mounts.count == 2, "\(step)")
    }

    // MARK: within the process

    private func play(_ states: [DesiredState], on node: Node) throws {
        let reconciler = try #require(node.reconciler)
        for state in states {
            _ = try reconciler.receive(.snapshot(state))
            var result = try reconciler.reconcile()
            while result.wakeMilliseconds != nil {
                _ = eventually(seconds: 1) { AgentClock.milliseconds >= (result.wakeMilliseconds ?? 0) }
                result = try reconciler.reconcile()
            }
        }
    }

    @Test("cut off at any step, the first time or a later one, the next start converges to what is wanted, and to nothing",
          arguments: MountStep.allCases, [1, 2])
    func everyStep(step: MountStep, time: Int) throws {
        let node = try Node(grace: 5)
        var left = time
        try node.start { reached in
            guard reached == step else { return }
            left -= 1
            if left == 0 { throw CrashRequest(step) }
        }
        #expect(throws: CrashRequest.self) { try play(try Self.story(), on: node) }
        node.stop()
        if [.makeFileSystem, .verify, .writeVersion, .makeReadOnlyClone, .attach].contains(step), time == 1 {
            #expect(try node.mounts.isEmpty, "a kill before the attachment leaves no mount")
        }
        try node.start()
        try play([try Self.snapshot(9, "third")], on: node)
        try checkConverged(node, step)
        try play([try Self.snapshot(10, nil)], on: node)
        #expect(node.leftovers == [])
        #expect(try node.mounts.isEmpty)
    }

    // MARK: by SIGKILL

    /// The debug build of the agent beside the tests.
    static let agent: String? = {
        let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path
        for place in [folder, folder + "/.."] where FileManager.default.isExecutableFile(atPath: place + "/coffer-agent") { return place + "/coffer-agent" }
        return nil
    }()

    private func run(_ states: [DesiredState], on node: Node, crashAt step: MountStep?) throws -> Int32 {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: try #require(Self.agent))
        process.arguments = ["replay", "--root-dir", node.root, "--old-version-grace", "5ms"]
        process.environment = step.map { ["COFFER_AGENT_CRASH_AT": $0.rawValue] } ?? [:]
        // A file, not a pipe: who is killed may not have read it to its end.
        let input = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-frames-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: input) }
        var frames = Data()
        for frame in try states.flatMap({ try SyncMessage.snapshot($0).frames() }) { frames.append(frame.withUnsafeBytes { Data($0) }) }
        try frames.write(to: input)
        process.standardInput = try FileHandle(forReadingFrom: input)
        try process.run()
        process.waitUntilExit()
        return process.terminationStatus
    }

    @Test("killed with SIGKILL at any step, nothing is left that the next run does not take away",
          .enabled(if: CrashTests.agent != nil, "the debug build of coffer-agent is not beside the tests"), arguments: MountStep.allCases)
    func killed(step: MountStep) throws {
        let node = try Node()
        #expect(try run(try Self.story(), on: node, crashAt: step) == SIGKILL)
        #expect(try run([try Self.snapshot(9, "third")], on: node, crashAt: nil) == 0)
        try checkConverged(node, step)
        #expect(try run([try Self.snapshot(10, nil)], on: node, crashAt: nil) == 0)
        #expect(node.leftovers == [], "\(step)")
        #expect(try node.mounts.isEmpty, "\(step)")
        let records = (FileManager.default.enumerator(atPath: node.root + "/state/volumes")?.allObjects as? [String]) ?? []
        #expect(records == [], "\(step)")
    }
}
