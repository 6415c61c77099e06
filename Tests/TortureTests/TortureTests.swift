import Faults
import Foundation
import Testing
import Torture

/// A sample; `make torture` runs as long as one likes.
@Suite(.serialized) struct TortureTests {
    /// The folder of this build.
    private static let cofferd = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("cofferd").path
    private static let hasCofferd = FileManager.default.isExecutableFile(atPath: cofferd)

    private func run(_ change: (inout Torture.Options) -> Void) async throws {
        let folder = try TemporaryFolder("torture-machine"), machine = await Torture.Machine.look(in: folder.path)
        var options = Torture.Options()
        (options.program, options.seconds, options.seed, options.workers) = (Self.cofferd, 8, 1, 4)
        change(&options)
        let report = try await Torture(options, on: machine).run()
        #expect(report.violations == [])
        #expect(report.operations > 100 && report.revisions > 50 && report.told > report.revisions && report.leases > 0)
        #expect(report.faults.values.reduce(0, +) >= 4)
    }

    @Test("one daemon is killed, stopped, filled, jumped and cut off, and its clients see nothing wrong", .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(5)))
    func oneDaemon() async throws { try await run { _ in } }

    @Test("the same clients and checks find nothing wrong with three of Debian's etcd",
          .enabled(if: Subprocess.find("etcd") != nil, "etcd is not installed"), .timeLimit(.minutes(5)))
    func threeOfEtcd() async throws {
        try await run { options in
            (options.server, options.members, options.program) = (.etcd, 3, Subprocess.find("etcd") ?? "")
            options.faults = [.kill, .stop, .cutClients, .holdClients, .cutPeers]
        }
    }
}
