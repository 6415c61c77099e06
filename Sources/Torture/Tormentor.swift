import Basics
import Faults
import Foundation
import Glibc

/// Hurts members and heals them again, one after the other, until it is told to stop.
struct Tormentor {
    let servers: Servers
    let faults: [Fault]
    var generator: SeededGenerator
    let tally: Tally
    var plant: Plant?

    mutating func run(until isOver: @Sendable () -> Bool) async throws {
        while !isOver() {
            await pause(0.2...1.0)
            guard let fault = faults.randomElement(using: &generator) else { return }
            // The leader is hurt as often as all others together.
            var number = servers.present.randomElement(using: &generator) ?? 0
            if Bool.random(using: &generator), let leader = await servers.leader() { number = leader }
            if fault == .bitRot { number = servers.rotting }
            switch fault.kind {
            case .network:
                tally.began(fault)
                defer { tally.ended() }
                try await hurtNetwork(fault, number)
            case .cluster:
                tally.began(fault)
                defer { tally.ended() }
                if fault == .membership { try await changeMembership(until: isOver) } else { await moveLeader() }
            case .member:
                let taken = (fault == .blackout ? servers.members.indices.filter { $0 != number } : []).filter { servers.take($0) }
                if servers.take(number) {
                    tally.began(fault)
                    defer { tally.ended() }
                    defer { servers.release(number) }
                    if fault == .blackout { try await blackout([number] + taken) } else { try await hurt(fault, number) }
                }
                taken.forEach(servers.release)
            }
        }
    }

    mutating func pause(_ seconds: ClosedRange<Double>) async {
        try? await Task.sleep(for: .seconds(Double.random(in: seconds, using: &generator)))
    }

    // MARK: The network

    private mutating func hurtNetwork(_ fault: Fault, _ number: Int) async throws {
        let isOfPeers = fault != .cutClients && fault != .holdClients
        if isOfPeers, let network = servers.network { return try await losePackets(fault, number, network) }
        let member = servers.members[number]
        guard let proxy = isOfPeers ? member.peers : member.clients else { return }
        switch fault {
        case .cutClients, .cutPeers:
            if Bool.random(using: &generator) { proxy.set(.refused) }
            await proxy.cut()
        default: proxy.set([.held, .heldToClient, .heldToServer].randomElement(using: &generator) ?? .held)
        }
        await pause(0.1...2.0)
        if Bool.random(using: &generator) { await proxy.cut() }
        proxy.set(.open)
    }

    /// Of what goes to one member or comes from it, from or to one other or all; one way, or both.
    private mutating func losePackets(_ fault: Fault, _ number: Int, _ network: PacketNetwork) async throws {
        let loss: PacketNetwork.Loss = switch fault {
        case .cutPeers: .reset
        case .holdPeers: .silence
        default: .some(percent: Int.random(in: 5...60, using: &generator))
        }
        let others = servers.members.indices.filter { $0 != number }
        let hurt = Bool.random(using: &generator) ? others : [others.randomElement(using: &generator) ?? number]
        let ways = Int.random(in: 0..<3, using: &generator) // only in, only out, both
        if ways != 1 { for other in hurt { try await network.lose(loss, from: other, to: number) } }
        if ways != 0 { for other in hurt { try await network.lose(loss, from: number, to: other) } }
        await pause(0.2...2.5)
        for number in servers.members.indices { try await network.heal(number) }
    }

    // MARK: Processes, disks, clocks

    private mutating func hurt(_ fault: Fault, _ number: Int) async throws {
        let member = servers.members[number]
        switch fault {
        case .kill, .terminate:
            do { try await servers.process(number)?.end(fault == .kill ? SIGKILL : SIGTERM, withinSeconds: 15) } catch {
                tally.note("\(member.name) did not end within 15 s of SIGTERM; killed")
                try await servers.process(number)?.end(SIGKILL)
            }
            if plant == .oldDisk { try await exchangeDisk(number) }
            if Bool.random(using: &generator) { await pause(0...0.8) }
        case .stop:
            servers.process(number)?.signal(SIGSTOP)
            await pause(0.2...3)
            servers.process(number)?.signal(SIGCONT)
        case .blockedLog:
            try await servers.process(number)?.end(SIGKILL)
            let pipe = try BlockedPipe()
            try servers.start(number, errors: pipe.writing, more: servers.server == .cofferd ? ["--log-level", "trace"] : [])
            if await !isServing(number, withinSeconds: 20) { tally.note("\(member.name) does not serve while nobody reads its log") }
            await pause(0.5...2)
            try await servers.process(number)?.end(SIGKILL)
        case .failingSync:
            try member.shim?.failSyncs(EIO)
            await pause(0.3...2)
            try member.shim?.heal()
            // It must not go on as if nothing had happened: what was not synced may be gone.
            await pause(1...2)
            if servers.process(number)?.isRunning == true { try await servers.process(number)?.end(SIGKILL) }
        case .slowSync:
            try member.shim?.delaySyncs(milliseconds: Int32.random(in: 20...400, using: &generator))
            await pause(0.5...3)
            try member.shim?.heal()
        case .fullDisk:
            if let disk = member.disk { try disk.fill(leaving: Int.random(in: 0...256, using: &generator)) } else { try member.shim?.failWrites(ENOSPC) }
            await pause(0.3...2)
            if Bool.random(using: &generator) { try await servers.process(number)?.end(SIGKILL) }
            member.disk?.empty()
            try member.shim?.heal()
        case .powerCut: try await cutPower([number])
        case .bitRot:
            try await servers.process(number)?.end(SIGKILL)
            try damage(servers.dataFolder(number))
        // Not to before the certificates were made: a daemon says so and does not start then.
        case .clockJump: try member.shim?.jump(seconds: Int64.random(in: -240...43_200, using: &generator))
        case .blackout, .cutClients, .holdClients, .cutPeers, .holdPeers, .losePackets, .membership, .moveLeader: break
        }
        try await revive(number)
    }

    /// Each disk forgets what was not synced; now and then once more while the daemons start, and mend what they find.
    private mutating func cutPower(_ numbers: [Int]) async throws {
        try await cutPowerOnce(numbers)
        while Int.random(in: 0..<3, using: &generator) == 0 {
            for number in numbers { try servers.start(number) }
            await pause(0...0.6)
            try await cutPowerOnce(numbers)
        }
    }
    /// At the moment of the kill, or a little before it, when the process sees its writes fail.
    private mutating func cutPowerOnce(_ numbers: [Int]) async throws {
        let isEarly = Bool.random(using: &generator)
        if isEarly { try losePower(numbers) }
        if isEarly { await pause(0...0.3) }
        for number in numbers { servers.process(number)?.signal(SIGKILL) }
        if !isEarly { try losePower(numbers) }
        for number in numbers {
            try await servers.process(number)?.end()
            try await servers.members[number].disk?.powerUp()
        }
    }

    private mutating func losePower(_ numbers: [Int]) throws {
        for number in numbers { try servers.members[number].disk?.losePower(seed: generator.next()) }
    }

    private mutating func blackout(_ numbers: [Int]) async throws {
        try await cutPower(numbers)
        for number in numbers.shuffled(using: &generator) { try servers.start(number) } // all, before anybody can serve
        let began = ContinuousClock.now
        for number in numbers { try await revive(number) }
        tally.recovered(milliseconds: (ContinuousClock.now - began) / .milliseconds(1))
    }

    /// Changes a few bytes of one of the files that hold the log and the records.
    private mutating func damage(_ folder: String) throws {
        let files = (FileManager.default.enumerator(atPath: folder)?.compactMap { $0 as? String } ?? []).filter { name in
            name.hasPrefix("log/") || name.contains("records")
        }.map { folder + "/" + $0 }.filter { path in
            let attributes = try? FileManager.default.attributesOfItem(atPath: path)
            return attributes?[.type] as? FileAttributeType == .typeRegular && (attributes?[.size] as? Int ?? 0) > 0 && !(path as NSString).lastPathComponent.hasPrefix("lock")
        }.sorted()
        guard let path = files.randomElement(using: &generator) else { throw FaultFailure("no files to damage in \(folder)") }
        guard let file = FileHandle(forUpdatingAtPath: path) else { throw FaultFailure("cannot open \(path)") }
        defer { try? file.close() }
        // Segments are filled ahead of their frames: what is damaged should be in use.
        let size = Int(try file.seekToEnd()), used = max(4_096, min(size, 512 << 10))
        for _ in 0..<Int.random(in: 1...3, using: &generator) {
            let offset = UInt64(Int.random(in: 0..<min(size, used), using: &generator))
            try file.seek(toOffset: offset)
            let byte = try file.read(upToCount: 1)?.first ?? 0
            try file.seek(toOffset: offset)
            try file.write(contentsOf: Data([byte ^ UInt8.random(in: 1...255, using: &generator)]))
        }
        tally.note("bytes of \((path as NSString).lastPathComponent) changed")
    }

    /// The deliberate fault `oldDisk`: what was there at the first call comes back at later ones.
    private func exchangeDisk(_ number: Int) async throws {
        let data = servers.dataFolder(number), old = servers.members[number].home + "/old"
        if FileManager.default.fileExists(atPath: old) {
            try await Subprocess.run("rm", "-rf", data)
            try await Subprocess.run("cp", "-a", old, data)
        } else { try await Subprocess.run("cp", "-a", data, old) }
    }

    // MARK: Healing

    /// Brings a member back that is gone; a process that is there and does not serve is killed, and that is noted.
    func revive(_ number: Int) async throws {
        if servers.process(number)?.isRunning == true, await isServing(number, withinSeconds: 10) { return }
        if let process = servers.process(number), process.isRunning {
            tally.note("\(servers.members[number].name) runs and does not serve; killed")
            try await process.end()
        }
        let restarted = ContinuousClock.now
        try servers.start(number)
        guard await isServing(number, withinSeconds: 120) else {
            throw FaultFailure("\(servers.members[number].name) does not serve again")
        }
        tally.recovered(milliseconds: (ContinuousClock.now - restarted) / .milliseconds(1))
    }

    func isServing(_ number: Int, withinSeconds seconds: Double) async -> Bool {
        do {
            try await eventually("it serves", withinSeconds: seconds) {
                if await servers.serves(number) { return true }
                if servers.process(number)?.isRunning != true { throw FaultFailure("it ended") }
                return false
            }
            return true
        } catch { return false }
    }
}
