import Simulation
import Testing

/// A fixed set of seeds, so that a change which breaks a promise is noticed where it is made.
@Suite("Seeds")
struct SeedTests {
    @Test("Raft keeps its promises under every kind of fault", arguments: 1...40)
    func raft(seed: UInt64) {
        var plan = World.raft.plan(seed: seed)
        plan.steps = min(plan.steps, 4_000)
        let report = World.raft.run(plan)
        #expect(report.violation == nil, "simulate --world raft --seed \(seed) --steps \(plan.steps)")
        #expect(report.steps >= plan.steps / 2)
    }

    @Test("a seed is a run: the same events in the same order", arguments: [3, 26, 77])
    func replay(seed: UInt64) {
        let plan = World.raft.plan(seed: seed)
        #expect(World.raft.run(plan) == World.raft.run(plan))
    }
}
