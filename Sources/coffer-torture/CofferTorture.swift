import ArgumentParser
import Faults
import Foundation
import Torture

/// Hurts real daemons and checks what their clients saw. Exits 0 only if nothing was violated.
@main
struct CofferTorture: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "coffer-torture", abstract: "Real daemons under faults; recorded histories are checked.")

    @Option(help: "What is tortured: cofferd or etcd.", transform: { text in
        guard let server = Server(rawValue: text) else { throw ValidationError("'\(text)' is neither cofferd nor etcd") }
        return server
    }) var server = Server.cofferd
    @Option(help: "Its program; without it the cofferd beside this one, or the etcd of the PATH.") var program: String?
    @Option(help: "Daemons of the cluster.") var members = 1
    @Option(help: "Histories, with this seed and those after it.") var histories = 3
    @Option(help: "Of the first history.") var seed: UInt64 = UInt64.random(in: 1...1_000_000)
    @Option(help: "Of faults, for each history.") var seconds = 12.0
    @Option(help: "Clients that read and write.") var workers = 6
    @Option(help: "Faults, separated by commas; without it all that this machine can do.") var faults: String?
    @Option(help: "What members keep their files on: ext4, or lossy, which keeps any part of what was not synced; without it in turns.", transform: { text in
        guard let disk = DiskKind(rawValue: text) else { throw ValidationError("'\(text)' is none of \(DiskKind.allCases.map(\.rawValue))") }
        return disk
    }) var disk: DiskKind?
    @Option(help: "A deliberate fault of the server or of its disk: lyingSyncs, lyingDisk or oldDisk. This program must find it.", transform: { text in
        guard let plant = Plant(rawValue: text) else { throw ValidationError("'\(text)' is none of \(Plant.allCases.map(\.rawValue))") }
        return plant
    }) var plant: Plant?

    func validate() throws {
        guard (1...9).contains(members), histories > 0, seconds > 0, (1...100).contains(workers) else { throw ValidationError("a number is out of its range") }
    }

    func run() async throws {
        var options = Torture.Options()
        (options.server, options.members, options.seconds, options.workers) = (server, members, seconds, workers)
        (options.plant, options.disk) = (plant, disk)
        let beside = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("cofferd").path
        options.program = URL(fileURLWithPath: program ?? (server == .etcd ? Subprocess.find("etcd") ?? "etcd" : beside)).path
        if let faults {
            options.faults = try faults.split(separator: ",").map { name in
                guard let fault = Fault(rawValue: String(name)) else {
                    throw ValidationError("'\(name)' is no fault; these are: \(Fault.allCases.map(\.rawValue).joined(separator: ", "))")
                }
                return fault
            }
        }
        let folder = try TemporaryFolder("torture-machine"), machine = await Torture.Machine.look(in: folder.path)
        print("torture: \(server.rawValue) × \(members), \(histories) histories of \(seconds) s, seed \(seed)")
        for missing in machine.missing { print("  this machine cannot do \(missing.prefix(200))") }
        let needed = plant == .lyingDisk ? .lossy : disk
        if let needed, machine.disk(options) == nil { throw ValidationError("this machine cannot mount disks of the kind \(needed.rawValue)") }
        var reports: [Torture.Report] = [], failures = 0
        for number in 0..<histories {
            options.seed = seed &+ UInt64(number)
            do {
                let report = try await Torture(options, on: machine).run()
                reports.append(report)
                print(Self.line(report))
                for note in report.notes { print("    note: \(note)") }
                for violation in report.violations.prefix(10) { print("    VIOLATION: \(violation)") }
            } catch {
                failures += 1
                print("seed \(options.seed): FAILED: \(error)")
            }
            fflush(nil)
        }
        print(Self.summary(reports, failures))
        guard failures == 0, reports.allSatisfy(\.violations.isEmpty) else { throw ExitCode.failure }
    }

    private static func line(_ report: Torture.Report) -> String {
        let faults = report.faults.sorted { $0.key.rawValue < $1.key.rawValue }.map { "\($0.key.rawValue) \($0.value)" }.joined(separator: ", ")
        let disk = report.disk.map { ", disks \($0.rawValue)" } ?? ""
        return "seed \(report.seed)\(disk): \(report.operations) operations (\(report.unknown) of unknown outcome), \(report.revisions) revisions, \(report.told) changes told, "
            + "\(report.leases) leases; faults: \(faults) (\(report.mostFaults) at once); violations: \(report.violations.count)"
    }
    private static func summary(_ reports: [Torture.Report], _ failures: Int) -> String {
        let recoveries = reports.flatMap(\.recoveryMilliseconds).sorted()
        func percentile(_ share: Double) -> Int { recoveries.isEmpty ? 0 : Int(recoveries[min(recoveries.count - 1, Int(share * Double(recoveries.count)))]) }
        return "total: \(reports.count) histories checked, \(failures) failed, \(reports.reduce(0) { $0 + $1.operations }) operations, "
            + "\(reports.reduce(0) { $0 + $1.faults.values.reduce(0, +) }) faults, serving again after a restart: p50 \(percentile(0.5)) ms, p99 \(percentile(0.99)) ms "
            + "(\(recoveries.count) restarts); violations: \(reports.reduce(0) { $0 + $1.violations.count })"
    }
}
