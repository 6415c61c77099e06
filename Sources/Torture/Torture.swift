import Basics
import CofferClient
import EtcdClient
import EtcdProtocol
import Faults
import Foundation
import Histories
import NIOCore
import Synchronization

/// Real daemons, hurt while recorded clients use them.
///
/// 1. Start the daemons; a watch straight to them writes down everything that happens: the ledger.
/// 2. Workers write, exchange, delete and read through `CofferClient`, by way of proxies; others hold leases; watches come and go.
/// 3. Tormentors hurt processes, disks, clocks and connections, and change the membership, several at once.
/// 4. Everything is healed. A write must succeed, leases must end, the ledger must reach the last revision.
/// 5. The recorded history is checked, and that all members hold the same.
package struct Torture: Sendable {
    package struct Options: Sendable {
        package var server = Server.cofferd
        package var program = ""
        package var members = 1
        package var seed: UInt64 = 1
        package var seconds = 12.0
        package var workers = 6
        package var faults = Fault.allCases
        package var plant: Plant?
        /// Without one, histories take turns.
        package var disk: DiskKind?
        /// Asked when `seconds` are over, for `secondsMoreMax` at most: whether the history may end. What a second brings depends on the machine.
        package var isEnough: @Sendable (Report) -> Bool = { _ in true }
        package init() {}
    }
    private static let secondsMoreMax = 180.0
    package struct Report: Sendable {
        package var seed: UInt64 = 0
        package var disk: DiskKind?
        package var operations = 0
        package var unknown = 0
        package var revisions = 0
        package var told = 0
        package var leases = 0
        package var faults: [Fault: Int] = [:]
        /// At the same time, at most.
        package var mostFaults = 0
        package var recoveryMilliseconds: [Double] = []
        package var violations: [String] = []
        package var notes: [String] = []
    }
    /// What this machine can do.
    package struct Machine: Sendable {
        package var shim: String?
        package var mounts = false
        package var losesPower = false
        package var hasLossyDisks = false
        package var networks = false
        package var missing: [String] = []
        package init() {}

        package static func look(in folder: String) async -> Machine {
            var machine = Machine()
            do { machine.shim = try await SystemCallShim.make(in: folder) } catch { machine.missing.append("failing and slow syncs, clock jumps: \(error)") }
            do {
                let disk = try await SmallDisk.mount(at: folder + "/probe", megabytes: 16)
                (machine.mounts, machine.losesPower) = (true, disk.losesPower && (try? disk.losePower(seed: 0)) != nil)
                await disk.unmount()
            } catch { machine.missing.append("a file system of its own that is full (writes fail with ENOSPC by the shim instead)") }
            if !machine.losesPower { machine.missing.append("power cuts of ext4 on a loop device") }
            do {
                try await LossyDisk.mount(at: folder + "/lossy", megabytes: 16).unmount()
                machine.hasLossyDisks = true
            } catch { machine.missing.append("power cuts of a file system that keeps any part of what was not synced: \(error)") }
            do {
                let network = try await PacketNetwork.make(hosts: 2, in: folder)
                for loss in [PacketNetwork.Loss.silence, .reset, .some(percent: 10)] { try await network.lose(loss, from: 0, to: 1) }
                await network.end()
                machine.networks = true
            } catch { machine.missing.append("networks of their own, in which packets are lost (proxies cut and hold connections instead): \(error)") }
            return machine
        }
        /// What a history's members have.
        package func disk(_ options: Options) -> DiskKind? {
            let possible = DiskKind.allCases.filter { $0 == .ext4 ? mounts : hasLossyDisks }
            if let wanted = options.plant == .lyingDisk ? .lossy : options.disk { return possible.contains(wanted) ? wanted : nil }
            return possible.isEmpty ? nil : possible[Int((options.seed &+ 1) % UInt64(possible.count))]
        }
        package func can(_ fault: Fault, _ options: Options) -> Bool {
            let disk = disk(options), losesPower = disk == .lossy || disk == .ext4 && losesPower
            return can(fault, options, hasDisk: disk != nil, losesPower)
        }
        private func can(_ fault: Fault, _ options: Options, hasDisk: Bool, _ losesPower: Bool) -> Bool {
            switch fault {
            case .failingSync, .slowSync, .clockJump: shim != nil
            case .fullDisk: (shim != nil || hasDisk) && options.server == .cofferd
            case .powerCut: losesPower
            case .blackout: losesPower && options.members > 1
            // What a disk lost in another way, peers repair.
            case .bitRot: options.members > 2 && options.server == .cofferd
            case .cutPeers, .holdPeers, .moveLeader: options.members > 1
            case .losePackets: options.members > 1 && networks
            case .membership: options.members > 2
            case .kill, .terminate, .stop, .blockedLog, .cutClients, .holdClients: true
            }
        }
    }

    private let options: Options
    private let machine: Machine
    package init(_ options: Options, on machine: Machine) { (self.options, self.machine) = (options, machine) }

    /// One history.
    package func run() async throws -> Report {
        let faults = options.faults.filter { machine.can($0, options) }
        var equipment = Servers.Equipment()
        equipment.shim = machine.shim
        equipment.syncsLie = options.plant == .lyingSyncs
        equipment.disk = faults.contains { [.fullDisk, .powerCut, .blackout].contains($0) } ? machine.disk(options) : nil
        equipment.network = machine.networks && options.members > 1
        equipment.spare = faults.contains(.membership) ? 1 : 0
        let servers = try await Servers.make(options.server, program: options.program, count: options.members, seed: options.seed, equipment)
        do {
            var report = try await run(servers, faults)
            report.disk = equipment.disk
            await servers.end()
            return report
        } catch {
            let logs = servers.members.indices.map { "== \(servers.members[$0].name), \(servers.present.contains($0) ? "a member" : "no member")\n" + servers.log($0) }
            await servers.end()
            throw FaultFailure("\(error)\n" + logs.joined(separator: "\n"))
        }
    }

    private static func client(_ endpoints: [String]) async throws -> CofferClient {
        var configuration = CofferClient.Configuration(endpoints: endpoints)
        configuration.timeout = .seconds(4)
        configuration.attemptTimeout = .milliseconds(700)
        configuration.connectTimeout = .seconds(1)
        configuration.restMax = .milliseconds(400)
        configuration.watchSilence = .milliseconds(700)
        for attempt in 1...10 {
            do { return try await CofferClient.connect(configuration) } catch { if attempt == 10 { throw error } }
        }
        throw FaultFailure("unreachable")
    }

    private func run(_ servers: Servers, _ faults: [Fault]) async throws -> Report {
        let tally = Tally(), recorder = Recorder()
        for number in servers.present { try servers.start(number) } // (1)
        for number in servers.present {
            try await eventually("\(servers.members[number].name) serves", withinSeconds: 60) {
                guard servers.process(number)?.isRunning == true else { throw FaultFailure("it did not start\n\(servers.log(number))") }
                return await servers.serves(number)
            }
        }
        if options.plant == .lyingDisk { for member in servers.members { (member.disk as? LossyDisk)?.lie() } }
        let judge = try await Self.client(servers.direct)
        let begin = try await judge.range(.all).revision
        let ledgerNumber = recorder.observe(.prefix(""), after: begin)
        let ledgerWatch = Task { await watch(judge, .prefix(""), after: begin, recorder, ledgerNumber, isTruth: true) }
        let isOver = Flag()
        let end = ContinuousClock.now + .seconds(options.seconds)
        try await withThrowingTaskGroup(of: Void.self) { group in
            var clients: [CofferClient] = []
            for _ in 0..<options.workers + 2 { clients.append(try await Self.client(servers.proxied)) }
            for (number, client) in clients.enumerated() { // (2)
                var worker = Worker(client, recorder, seed: options.seed &* 1_000 &+ UInt64(number))
                group.addTask { [options] in
                    if number < options.workers { await worker.run { isOver.isSet } } else { await worker.runLeases { isOver.isSet } }
                    await client.close()
                }
            }
            group.addTask { try await runWatches(servers, recorder, begin, isOver) }
            // (3) Of a cluster two members may be hurt at once.
            let kinds: [Fault.Kind] = options.members > 2 ? [.member, .member, .network, .cluster] : [.member, .network, .cluster]
            for (index, kind) in kinds.enumerated() {
                var tormentor = Tormentor(
                    servers: servers, faults: faults.filter { $0.kind == kind }, generator: SeededGenerator(seed: options.seed &* 77 &+ UInt64(index)), tally: tally,
                    plant: options.plant)
                group.addTask { try await tormentor.run { isOver.isSet } }
            }
            group.addTask {
                try await Task.sleep(until: end, clock: .continuous)
                while ContinuousClock.now < end + .seconds(Self.secondsMoreMax), !options.isEnough(progress(recorder, ledgerNumber, tally)) {
                    try await Task.sleep(for: .milliseconds(200))
                }
                isOver.set()
            }
            do { try await group.waitForAll() } catch {
                isOver.set()
                throw error
            }
        }
        do { return try await judgement(servers, recorder, judge, ledgerWatch, ledgerNumber, tally) } catch {
            ledgerWatch.cancel()
            let ending = await ledgerWatch.value
            throw FaultFailure("\(error); ledger at \(recorder.lastTold(ledgerNumber)), \(ending.map { "ended: \($0)" } ?? "watching")")
        }
    }

    private final class Flag: Sendable {
        private let value = Atomic(false)
        var isSet: Bool { value.load(ordering: .relaxed) }
        func set() { value.store(true, ordering: .relaxed) }
    }

    /// Some watches last, others begin anew at a revision of the past.
    private func runWatches(_ servers: Servers, _ recorder: Recorder, _ begin: Int64, _ isOver: Flag) async throws {
        var generator = SeededGenerator(seed: options.seed &+ 5)
        let client = try await Self.client(servers.proxied)
        let lasting = [Scope.prefix("k/"), .key("k/z"), .prefix("l/")].map { scope in
            let number = recorder.observe(scope, after: begin)
            return Task { await watch(client, scope, after: begin, recorder, number) }
        }
        while !isOver.isSet {
            let latest = max(begin, recorder.all.seen.map(\.revision).max() ?? begin), after = Int64.random(in: begin...latest, using: &generator)
            let scope = [Scope.prefix(""), .prefix("k/1"), .key("k/3")].randomElement(using: &generator) ?? .prefix("")
            let number = recorder.observe(scope, after: after)
            let short = Task { await watch(client, scope, after: after, recorder, number) }
            try? await Task.sleep(for: .milliseconds(Int.random(in: 300...2_000, using: &generator)))
            short.cancel()
            _ = await short.value
        }
        for task in lasting { task.cancel() }
        for task in lasting { _ = await task.value }
        await client.close()
    }

    /// (4) and (5).
    private func judgement(
        _ servers: Servers, _ recorder: Recorder, _ judge: CofferClient, _ ledgerWatch: Task<(any Error)?, Never>, _ ledgerNumber: Int, _ tally: Tally
    ) async throws -> Report {
        let healer = Tormentor(servers: servers, faults: [], generator: SeededGenerator(seed: 0), tally: tally)
        for number in servers.present {
            servers.members[number].clients.set(.open)
            servers.members[number].peers?.set(.open)
            servers.members[number].disk?.empty()
            try servers.members[number].shim?.heal()
            try await healer.revive(number)
        }
        try await eventually("a write succeeds after everything is healed", withinSeconds: 60) {
            let value = recorder.value(), began = recorder.now
            do {
                let revision = try await judge.put("k/last", CofferClient.Secret(value))
                recorder.record(Operation(.put(["k/last": value]), .done(revision: revision), began: began, ended: recorder.now))
                return true
            } catch {
                let isUnknown = (error as? CofferClientError)?.code == .outcomeUnknown
                recorder.record(Operation(.put(["k/last": value]), isUnknown ? .unknown : .notDone, began: began, ended: recorder.now))
                return false
            }
        }
        try await eventually("all leases end", withinSeconds: 60) { (try? await judge.leases())?.isEmpty == true }
        let last = try await judge.range(.all)
        let lastChange = last.items.map(\.revision).max() ?? 0
        try await eventually("the ledger reaches revision \(lastChange)", withinSeconds: 60) { recorder.lastTold(ledgerNumber) >= lastChange }
        // The word that all up to the last revision was told, deletes included.
        try await eventually("the ledger is complete", withinSeconds: 60) { recorder.lastTold(ledgerNumber) >= last.revision || ledgerWatch.isCancelled }
        ledgerWatch.cancel()
        var report = check(recorder, ledgerNumber, last, tally)
        report.violations += try await differences(servers, at: last.revision)
        if let error = await ledgerWatch.value { report.violations.append("the ledger's watch ended: \(error)") }
        await judge.close()
        return report
    }

    /// Whether all members hold the same.
    private func differences(_ servers: Servers, at revision: Int64) async throws -> [String] {
        var hashes: [String: UInt32] = [:]
        for number in servers.present {
            let name = servers.members[number].name
            var reason = ""
            try await eventually("\(name) tells its hash: \(reason)", withinSeconds: 60) {
                do {
                    let client = try await servers.client(number, timeout: .seconds(3))
                    defer { Task { await client.close() } }
                    hashes[name] = try await client.hashKV(revision: revision).hash
                    return true
                } catch {
                    reason = "\(error)"
                    return false
                }
            }
        }
        return Set(hashes.values).count <= 1 ? [] : ["stateIsHistory: members differ at \(revision): \(hashes.sorted { $0.key < $1.key })"]
    }

    /// What there was so far.
    private func progress(_ recorder: Recorder, _ ledgerNumber: Int, _ tally: Tally) -> Report {
        let all = recorder.all
        var report = Report()
        report.seed = options.seed
        report.operations = all.operations.count
        report.unknown = all.operations.count { $0.outcome == .unknown }
        report.revisions = Ledger(all.observations[ledgerNumber].told.flatMap(\.changes)).revisions.count
        report.told = all.observations.reduce(0) { $0 + $1.told.reduce(0) { $0 + $1.changes.count } }
        report.leases = all.leases.count
        report.faults = tally.counts
        report.mostFaults = tally.most
        report.recoveryMilliseconds = tally.recoveries
        report.notes = tally.notes
        return report
    }

    private func check(_ recorder: Recorder, _ ledgerNumber: Int, _ last: CofferClient.Page, _ tally: Tally) -> Report {
        let all = recorder.all
        let ledger = Ledger(all.observations[ledgerNumber].told.flatMap(\.changes))
        var violations = Checks.operations(all.operations, ledger, endedLeases: Set(all.leases.map(\.id)))
        violations += Checks.state(last.items.map(Version.init), at: last.revision, ledger)
        for observation in all.observations { violations += Checks.watch(observation, ledger) }
        violations += Checks.leases(all.leases, ledger, seen: all.seen)
        var report = progress(recorder, ledgerNumber, tally)
        report.violations = violations.map(\.description)
        return report
    }
}
