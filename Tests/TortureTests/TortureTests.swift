import Faults
import Foundation
import Testing
import Torture

/// A sample; `make torture` runs as long as one likes.
@Suite(.serialized) struct TortureTests {
    /// The folder of this build.
    static let cofferd = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("cofferd").path
    static let hasCofferd = FileManager.default.isExecutableFile(atPath: cofferd)

    private func report(_ change: (inout Torture.Options, Torture.Machine) -> Void) async throws -> Torture.Report {
        let folder = try TemporaryFolder("torture-machine"), machine = await Torture.Machine.look(in: folder.path)
        var options = Torture.Options()
        (options.program, options.seconds, options.seed, options.workers) = (Self.cofferd, 8, 1, 4)
        change(&options, machine)
        return try await Torture(options, on: machine).run()
    }
    private func expectSound(_ report: Torture.Report, faults: Int = 4) {
        #expect(report.violations == [])
        #expect(report.operations > 100 && report.revisions > 50 && report.told > report.revisions && report.leases > 0)
        #expect(report.faults.values.reduce(0, +) >= faults)
    }

    @Test("one daemon is killed, stopped, filled, jumped and cut off, and its clients see nothing wrong", .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(5)))
    func oneDaemon() async throws { expectSound(try await report { _, _ in }) }

    @Test("three daemons under all faults that this machine can do, and changes of membership: their clients see nothing wrong, and all hold the same",
          .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(10)))
    func threeDaemons() async throws {
        let report = try await report { options, _ in (options.members, options.seconds, options.seed) = (3, 40, 3) }
        expectSound(report, faults: 30)
        #expect(report.mostFaults >= 3)
    }

    @Test("the same clients and checks find nothing wrong with three of Debian's etcd",
          .enabled(if: Subprocess.find("etcd") != nil, "etcd is not installed"), .timeLimit(.minutes(5)))
    func threeOfEtcd() async throws {
        expectSound(try await report { options, _ in
            (options.server, options.members, options.program) = (.etcd, 3, Subprocess.find("etcd") ?? "")
            options.faults = [.kill, .stop, .cutClients, .holdClients, .cutPeers, .holdPeers]
        })
    }

    /// The control: a run that passes everything would pass these too.
    @Test("a daemon that goes on with an old disk, and one that acknowledges before it has synced, are found out",
          .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(5)), arguments: Plant.allCases)
    func planted(_ plant: Plant) async throws {
        var canPlant = true
        let found: String
        do {
            found = try await report { options, machine in
                (options.plant, options.seconds) = (plant, 10)
                options.faults = plant == .oldDisk ? [.kill] : [.powerCut]
                canPlant = plant == .oldDisk || machine.losesPower && machine.shim != nil
            }.violations.joined(separator: "\n")
        } catch { found = "\(error)" } // a store that lost too much may say so itself, and not serve
        guard canPlant else { return print("skipped: this machine cannot cut the power of a file system") }
        #expect(found.contains("acknowledgedIsKept") || found.contains("revisionsAscend") || found.contains("readIsRecent") || found.contains("does not serve"))
    }
}
