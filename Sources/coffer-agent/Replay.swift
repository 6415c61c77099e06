#if DEBUG
import ArgumentParser
import Foundation
import Mounts
import NodeAgent
import NodeProtocol

/// Debug builds only: does what a recorded stream on standard input says, and ends. Tests kill it at a step.
struct Replay: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Applies a recorded stream from standard input.", shouldDisplay: false)
    @OptionGroup var root: RootOption
    @Option var oldVersionGrace = TimeSpan(milliseconds: 2_000)

    func run() throws {
        _ = ProcessHardening.apply()
        let options = EngineOptions(rootDirectory: root.rootDir, policy: MountPolicy(versionGraceMilliseconds: oldVersionGrace.milliseconds))
        let reconciler = NodeReconciler(engine: try VolumeEngine(options, crashPoint: CrashSwitch.fromEnvironment()), policy: options.policy)
        let input = try FileHandle.standardInput.readToEnd() ?? Data()
        var decoder = SyncDecoder()
        for message in try input.withUnsafeBytes({ try decoder.consume($0) }) {
            let verdict = try reconciler.receive(message)
            guard verdict == .accepted || verdict == .heard else { throw ValidationError("\(verdict)") }
            var result = try reconciler.reconcile()
            for failure in result.failures { FileHandle.standardError.write(Data((failure + "\n").utf8)) }
            // Superseded versions are waited for, so that their end is seen too.
            while let wake = result.wakeMilliseconds, result.failures.isEmpty {
                let pause = wake - AgentClock.milliseconds
                if pause > 10_000 { break }
                if pause > 0 { usleep(UInt32(pause) * 1_000) }
                result = try reconciler.reconcile()
            }
        }
    }
}
#endif
