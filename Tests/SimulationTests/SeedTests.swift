import Foundation
import Simulation
import Testing

/// A fixed set of seeds, so that a change which breaks a promise is noticed where it is made. `make simulate` runs thousands.
@Suite("Seeds")
struct SeedTests {
    private func shortened(_ world: World, _ seed: UInt64, steps: Int) -> RunPlan {
        var plan = world.plan(seed: seed)
        plan.steps = min(plan.steps, steps)
        return plan
    }

    @Test("Raft keeps its promises under every kind of fault", arguments: UInt64(1)...40)
    func raft(seed: UInt64) {
        let plan = shortened(.raft, seed, steps: 4_000)
        let report = World.raft.run(plan)
        #expect(report.violation == nil, "simulate --world raft --seed \(seed) --steps \(plan.steps)")
        #expect(report.steps >= 2_000)
    }

    @Test("whole members keep theirs: log, recovery, store, leases, watches, keys", arguments: UInt64(1)...16)
    func store(seed: UInt64) {
        let plan = shortened(.store, seed, steps: 1_500)
        let report = World.store.run(plan)
        #expect(report.violation == nil, "simulate --world store --seed \(seed) --steps \(plan.steps)")
        #expect(report.steps >= 1_500 && report.committed > 10)
    }

    @Test("a seed is a run: the same events in the same order", arguments: World.allCases, [3, 26] as [UInt64])
    func replay(world: World, seed: UInt64) {
        let plan = shortened(world, seed, steps: 2_000)
        let first = world.run(plan), second = world.run(plan), other = world.run(shortened(world, seed + 1, steps: 2_000))
        #expect(first == second)
        #expect(first.hash != other.hash)
    }

    @Test("two processes that run one seed see the same events", .enabled(if: Simulator.isBuilt, "simulate is not built"), arguments: World.allCases)
    func processes(world: World) throws {
        for seed in ["14", "60", "767", "5551"] {
            let first = try Simulator.run(["--world", world.rawValue, "--seed", seed, "--steps", "2000"])
            let second = try Simulator.run(["--world", world.rawValue, "--seed", seed, "--steps", "2000"])
            #expect(first.contains("events "))
            #expect(first == second)
        }
    }
}

/// The executable beside the tests.
enum Simulator {
    static let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent(".build/debug/simulate").path
    static var isBuilt: Bool { FileManager.default.isExecutableFile(atPath: path) }

    static func run(_ arguments: [String]) throws -> String {
        let process = Process(), output = Pipe()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return text
    }
}
