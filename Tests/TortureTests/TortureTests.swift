import Basics
import EtcdClient
import EtcdProtocol
import Faults
import Foundation
import Glibc
import NIOCore
import Testing
@testable import Torture

/// A sample; `make torture` runs as long as one likes.
@Suite(.serialized) struct TortureTests {
    /// The folder of this build.
    static let cofferd = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("cofferd").path
    static let hasCofferd = FileManager.default.isExecutableFile(atPath: cofferd)

    private func report(_ change: (inout Torture.Options, Torture.Machine) -> Void) async throws -> Torture.Report {
        let folder = try TemporaryFolder("torture-machine"), machine = await Torture.Machine.look(in: folder.path)
        var options = Torture.Options()
        (options.program, options.seconds, options.seed, options.workers) = (Self.cofferd, 8, 1, 4)
        options.isEnough = { TortureTests.isEnough($0) }
        change(&options, machine)
        return try await Torture(options, on: machine).run()
    }
    /// What a history must have for its soundness to say something.
    private static func isEnough(_ report: Torture.Report, faults: Int = 4) -> Bool {
        report.operations > 100 && report.revisions > 50 && report.told > report.revisions && report.leases > 0
            && report.faults.values.reduce(0, +) >= faults
    }
    private func expectSound(_ report: Torture.Report, faults: Int = 4) {
        #expect(report.violations == [])
        #expect(Self.isEnough(report, faults: faults), "\(report)")
    }

    @Test("one daemon is killed, stopped, filled, jumped and cut off, and its clients see nothing wrong", .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(10)))
    func oneDaemon() async throws { expectSound(try await report { _, _ in }) }

    @Test("three daemons under all faults that this machine can do, and changes of membership: their clients see nothing wrong, and all hold the same",
          .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(10)))
    func threeDaemons() async throws {
        let report = try await report { options, _ in
            (options.members, options.seconds, options.seed) = (3, 40, 3)
            options.isEnough = { TortureTests.isEnough($0, faults: 30) && $0.mostFaults >= 3 }
        }
        expectSound(report, faults: 30)
        #expect(report.mostFaults >= 3)
    }

    @Test("daemons on disks that keep any part of what was not synced, or nothing, lose power, all at once, and forget nothing that they acknowledged",
          .enabled(if: hasCofferd && LossyDiskTests.reason == nil, "needs cofferd and FUSE"), .timeLimit(.minutes(10)), arguments: [1, 3])
    func lossyDisks(_ members: Int) async throws {
        let powerLoss = members == 1 ? Fault.powerCut : .blackout
        let report = try await report { options, _ in
            (options.members, options.seconds, options.seed, options.disk) = (members, 20, 7, .lossy)
            options.faults = [.kill, .powerCut, .blackout, .fullDisk, .losePackets]
            options.isEnough = { TortureTests.isEnough($0) && $0.faults[powerLoss, default: 0] > 0 }
        }
        expectSound(report)
        #expect(report.disk == .lossy && report.faults[powerLoss, default: 0] > 0)
    }

    @Test("power that is lost again and again while daemons found their store costs them nothing that they acknowledge later",
          .enabled(if: hasCofferd && LossyDiskTests.reason == nil, "needs cofferd and FUSE"), .timeLimit(.minutes(10)), arguments: [1, 3])
    func founding(_ members: Int) async throws {
        for seed in 1...UInt64(members == 1 ? 8 : 4) {
            var equipment = Servers.Equipment(), generator = SeededGenerator(seed: seed)
            equipment.disk = .lossy
            let servers = try await Servers.make(.cofferd, program: Self.cofferd, count: members, seed: seed, equipment)
            do { try await found(servers, &generator) } catch {
                let logs = servers.present.map(servers.log).joined(separator: "\n==\n")
                await servers.end()
                throw FaultFailure("seed \(seed): \(error)\n\(logs)")
            }
            await servers.end()
        }
    }
    private func found(_ servers: Servers, _ generator: inout SeededGenerator) async throws {
        for _ in 0..<3 {
            for number in servers.present { try servers.start(number) }
            try await Task.sleep(for: .milliseconds(Int.random(in: 0...800, using: &generator)))
            try await cutPower(servers, &generator)
        }
        try await serve(servers)
        // Whoever led when it served may lead no more. Each attempt has a key of its own, since one that failed may have happened.
        var number = 0, revision: Int64 = 0, found: [Int64]?
        func key() -> [UInt8] { Array("k\(number)".utf8) }
        try await eventually("a put is acknowledged") {
            number += 1
            guard let client = try? await servers.client(0, timeout: .seconds(10)) else { return false }
            revision = (try? await client.put(key(), Array("v".utf8)).header?.revision) ?? 0
            await client.close()
            return revision > 0
        }
        try await cutPower(servers, &generator)
        try await serve(servers)
        try await eventually("a range is answered") {
            guard let client = try? await servers.client(0, timeout: .seconds(10)) else { return false }
            found = try? await client.range(.init(key: key())).kvs.map(\.modRevision)
            await client.close()
            return found != nil
        }
        #expect(found == [revision])
    }
    private func cutPower(_ servers: Servers, _ generator: inout SeededGenerator) async throws {
        for number in servers.present { servers.process(number)?.signal(SIGKILL) }
        for number in servers.present { try servers.members[number].disk?.losePower(seed: generator.next()) }
        for number in servers.present {
            try await servers.process(number)?.end()
            try await servers.members[number].disk?.powerUp()
        }
    }
    private func serve(_ servers: Servers) async throws {
        for number in servers.present { try servers.start(number) }
        for number in servers.present {
            try await eventually("member \(number) serves", withinSeconds: 60) {
                if servers.process(number)?.isRunning != true { throw FaultFailure("member \(number) ended") }
                return await servers.serves(number)
            }
        }
    }

    @Test("the same clients and checks find nothing wrong with three of Debian's etcd",
          .enabled(if: Subprocess.find("etcd") != nil, "etcd is not installed"), .timeLimit(.minutes(10)))
    func threeOfEtcd() async throws {
        expectSound(try await report { options, _ in
            (options.server, options.members, options.program) = (.etcd, 3, Subprocess.find("etcd") ?? "")
            options.faults = [.kill, .stop, .cutClients, .holdClients, .cutPeers, .holdPeers]
        })
    }

    /// The control: a run that passes everything would pass these too.
    @Test("a daemon that goes on with an old disk, one that acknowledges before it has synced, and one whose disk lies, are found out",
          .enabled(if: hasCofferd, "needs cofferd"), .timeLimit(.minutes(10)), arguments: Plant.allCases)
    func planted(_ plant: Plant) async throws {
        var canPlant = true
        let found: String
        do {
            found = try await report { options, machine in
                (options.plant, options.seconds) = (plant, 10)
                options.isEnough = { _ in true }
                options.faults = plant == .oldDisk ? [.kill] : [.powerCut]
                canPlant = switch plant {
                case .oldDisk: true
                case .lyingSyncs: machine.can(.powerCut, options) && machine.shim != nil
                case .lyingDisk: machine.can(.powerCut, options)
                }
                // The first one keeps the disk as it is then, the next ones bring that back; of power, one loss may be the last.
                let wanted = plant == .oldDisk ? 3 : 1
                if canPlant { options.isEnough = { $0.faults.values.reduce(0, +) >= wanted } }
            }.violations.joined(separator: "\n")
        } catch { found = "\(error)" } // a store that lost too much may say so itself, and not serve
        guard canPlant else { return print("skipped: this machine cannot cut the power of a file system") }
        if plant == .lyingDisk { return #expect(found.contains("acknowledgedIsKept")) } // it forgets in one piece, so the store is whole
        #expect(found.contains("acknowledgedIsKept") || found.contains("revisionsAscend") || found.contains("readIsRecent") || found.contains("does not serve"))
    }
}
