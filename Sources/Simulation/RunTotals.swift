/// The sum of many runs.
package struct RunTotals: Sendable {
    package var runs = 0
    package var steps = 0
    package var faults = 0
    package var crashes = 0
    package var elections = 0
    package var committed = 0
    package var reads = 0
    package var histories = 0
    /// Failing runs, the lowest seed first.
    package var failures: [RunReport] = []
    package var failure: RunReport? { failures.first }
    package init() {}

    package mutating func add(_ report: RunReport) {
        runs += 1
        steps += report.steps
        faults += report.faults
        crashes += report.crashes
        elections += report.elections
        committed += report.committed
        reads += report.reads
        histories += report.histories
        if report.violation != nil { failures.append(report) }
    }
    package mutating func add(_ other: RunTotals) {
        runs += other.runs
        steps += other.steps
        faults += other.faults
        crashes += other.crashes
        elections += other.elections
        committed += other.committed
        reads += other.reads
        histories += other.histories
        failures = (failures + other.failures).sorted { $0.seed < $1.seed }
    }
}

/// What is simulated.
package enum World: String, Sendable, CaseIterable {
    /// Raft alone, with its log as the shipping log would keep it.
    case raft
    /// Whole members and their clients.
    case store

    package func run(_ plan: RunPlan) -> RunReport {
        switch self {
        case .raft: RaftWorld.run(plan)
        case .store: StoreWorld.run(plan)
        }
    }

    /// The plan that a seed stands for.
    package func plan(seed: UInt64) -> RunPlan {
        var chance = Chance(seed: seed ^ 0x5eed)
        return switch self {
        case .raft: RunPlan(seed: seed, steps: chance.pick([2_000, 8_000, 20_000, 40_000]))
        case .store: RunPlan(seed: seed, steps: chance.pick([2_000, 5_000, 12_000]))
        }
    }
    /// Enough for one gate; `simulate --steps` sets another number.
    package var stepsByDefault: Int {
        switch self {
        case .raft: 100_000_000
        case .store: 5_000_000
        }
    }
}
