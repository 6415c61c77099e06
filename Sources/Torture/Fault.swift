import Basics
import Faults
import Glibc
import Synchronization

/// What is done to daemons while clients use them.
package enum Fault: String, Sendable, CaseIterable {
    // The process
    case kill, terminate, stop, blockedLog
    // The disk
    case failingSync, slowSync, fullDisk
    // The clock
    case clockJump
    // The network
    case cutClients, holdClients, cutPeers, holdPeers

    var isOfNetwork: Bool { [.cutClients, .holdClients, .cutPeers, .holdPeers].contains(self) }
}

/// Hurts members and heals them again, until it is told to stop.
struct Tormentor {
    let servers: Servers
    let faults: [Fault]
    var generator: SeededGenerator
    let tally: Tally

    final class Tally: Sendable {
        private struct Content {
            var counts: [Fault: Int] = [:]
            var recoveries: [Double] = []
            var notes: [String] = []
        }
        private let content = Mutex(Content())
        func count(_ fault: Fault) { content.withLock { $0.counts[fault, default: 0] += 1 } }
        func recovered(milliseconds: Double) { content.withLock { $0.recoveries.append(milliseconds) } }
        func note(_ text: String) { content.withLock { $0.notes.append(text) } }
        var counts: [Fault: Int] { content.withLock { $0.counts } }
        var recoveries: [Double] { content.withLock { $0.recoveries.sorted() } }
        var notes: [String] { content.withLock { $0.notes } }
    }

    mutating func run(until isOver: @Sendable () -> Bool) async throws {
        while !isOver() {
            await pause(0.2...1.0)
            guard let fault = faults.randomElement(using: &generator) else { return }
            let number = Int.random(in: servers.members.indices, using: &generator)
            if fault.isOfNetwork { await hurtNetwork(fault, number) } else if servers.take(number) {
                defer { servers.release(number) }
                try await hurt(fault, number)
            }
        }
    }

    private mutating func pause(_ seconds: ClosedRange<Double>) async {
        try? await Task.sleep(for: .seconds(Double.random(in: seconds, using: &generator)))
    }

    private mutating func hurtNetwork(_ fault: Fault, _ number: Int) async {
        let member = servers.members[number]
        guard let proxy = [.cutPeers, .holdPeers].contains(fault) ? member.peers : member.clients else { return }
        tally.count(fault)
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

    private mutating func hurt(_ fault: Fault, _ number: Int) async throws {
        let member = servers.members[number]
        tally.count(fault)
        switch fault {
        case .kill, .terminate:
            do { try await servers.process(number)?.end(fault == .kill ? SIGKILL : SIGTERM, withinSeconds: 15) } catch {
                tally.note("\(member.name) did not end within 15 s of SIGTERM; killed")
                try await servers.process(number)?.end(SIGKILL)
            }
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
        // Not to before the certificates were made: a daemon says so and does not start then.
        case .clockJump: try member.shim?.jump(seconds: Int64.random(in: -240...43_200, using: &generator))
        case .cutClients, .holdClients, .cutPeers, .holdPeers: break
        }
        try await revive(number)
    }

    /// Brings a member back that is gone; a process that is there and does not serve is killed, and that is noted.
    func revive(_ number: Int) async throws {
        if servers.process(number)?.isRunning == true, await isServing(number, withinSeconds: 10) { return }
        if let process = servers.process(number), process.isRunning {
            tally.note("\(servers.members[number].name) runs and does not serve; killed")
            try await process.end()
        }
        let restarted = ContinuousClock.now
        try servers.start(number)
        guard await isServing(number, withinSeconds: 60) else {
            throw FaultFailure("\(servers.members[number].name) does not serve again\n\(servers.log(number))")
        }
        tally.recovered(milliseconds: (ContinuousClock.now - restarted) / .milliseconds(1))
    }

    private func isServing(_ number: Int, withinSeconds seconds: Double) async -> Bool {
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
