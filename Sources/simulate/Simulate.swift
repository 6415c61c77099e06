import ArgumentParser
import Basics
import Foundation
import Simulation

/// Runs clusters from seeds, one thread a run, and says which promise which seed breaks.
@main
struct Simulate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate", abstract: "Runs whole clusters from seeds and checks every promise after every step.",
        discussion: """
            Without options: both worlds, as many steps as one gate asks for. Exits 0 only if nothing was violated.

              simulate --world raft --seed 26          one run, exactly as it was
              simulate --world raft --seed 26 --view   the same, a line per event
              simulate --world raft --shrink 26        the fewest faults that still break the promise
            """)

    @Option(help: "What is simulated: \(World.allCases.map(\.rawValue).joined(separator: ", ")). Both by default.")
    var world: String?
    @Option(help: "Run this seed only.")
    var seed: UInt64?
    @Option(help: "Reduce this failing seed to the faults that matter.")
    var shrink: UInt64?
    @Flag(help: "Print one line per event.")
    var view = false
    @Option(help: "Carry out these faults only: numbers and ranges, as --shrink prints them.")
    var faults: String?
    @Option(help: "Steps in all.")
    var steps: Int?
    @Option(help: "The first seed.")
    var from: UInt64 = 1
    @Flag(help: "Go on after a violation, and list every seed that breaks a promise.")
    var survey = false
    @Option(help: "Runs at one time.")
    var jobs = ProcessInfo.processInfo.activeProcessorCount
    @Option(help: "A deliberate bug to run with (only in the build of `make mutants`).")
    var mutant: String?
    @Flag(help: "Show for every deliberate bug whether it is caught (only in the build of `make mutants`).")
    var mutants = false

    func run() async throws {
        try select()
        if mutants { return try Mutants.judge() }
        let worlds = try chosenWorlds()
        if let seed = seed ?? shrink {
            guard worlds.count == 1, let world = worlds.first else { throw ValidationError("--seed and --shrink need --world") }
            return try one(world, seed)
        }
        var isClean = true
        for world in worlds where await !many(world) { isClean = false }
        guard isClean else { throw ExitCode(1) }
    }

    private func chosenWorlds() throws -> [World] {
        guard let world else { return World.allCases }
        guard let chosen = World(rawValue: world) else { throw ValidationError("there is no world \"\(world)\"") }
        return [chosen]
    }

    private func select() throws {
        guard let mutant else { return }
        guard let chosen = Mutant(rawValue: mutant) else { throw ValidationError("there is no mutant \"\(mutant)\"") }
        #if COFFER_MUTANTS
        Mutant.selected = chosen
        #else
        throw ValidationError("\(chosen.rawValue) is not compiled in: see `make mutants`")
        #endif
    }

    // MARK: - One seed

    private func one(_ world: World, _ seed: UInt64) throws {
        var plan = world.plan(seed: seed)
        if let steps { plan.steps = steps }
        plan.faults = try faults.map(FaultList.parse)
        if shrink != nil {
            guard let (smallest, report) = Shrinking.shrink(plan, run: world.run) else { return print("seed \(seed) breaks no promise") }
            let list = FaultList.format(smallest.faults ?? [])
            print("seed \(seed): \(report.violation?.description ?? "") after \(report.steps) steps with \(smallest.faults?.count ?? 0) faults")
            print("simulate --world \(world.rawValue) --seed \(seed) --faults \(list.isEmpty ? "none" : list) --view")
            throw ExitCode(1)
        }
        if view { plan.view = { print($0) } }
        let report = world.run(plan)
        print("seed \(seed): \(report.steps) steps, \(report.faults) faults, \(report.crashes) crashes, \(report.elections) elections, "
              + "\(report.committed) entries committed, events \(String(report.hash, radix: 16))")
        guard let violation = report.violation else { return }
        print("VIOLATION \(violation)")
        throw ExitCode(1)
    }

    // MARK: - Many seeds

    private func many(_ world: World) async -> Bool {
        let wanted = steps ?? world.stepsByDefault, jobs = max(1, jobs), first = from, showsSeeds = mutant != nil, goesOn = survey
        let began = ContinuousClock.now
        let totals = await withTaskGroup(of: RunTotals.self) { group in
            for worker in 0..<jobs {
                group.addTask {
                    var totals = RunTotals()
                    var seed = first + UInt64(worker)
                    while totals.steps < wanted / jobs, goesOn || totals.failure == nil {
                        if showsSeeds {
                            print("@ \(seed) \(totals.steps)")
                            fflush(nil) // a precondition may end it
                        }
                        totals.add(world.run(world.plan(seed: seed)))
                        seed += UInt64(jobs)
                    }
                    return totals
                }
            }
            var sum = RunTotals()
            for await totals in group { sum.add(totals) }
            return sum
        }
        let minutes = (ContinuousClock.now - began) / .seconds(60)
        print("\(world.rawValue): \(totals.runs) runs, \(totals.steps) steps, \(totals.faults) faults, \(totals.crashes) crashes, "
              + "\(totals.elections) elections, \(totals.committed) entries committed, \(totals.reads) reads, \(totals.histories) histories checked")
        print("\(world.rawValue): \(perMinute(totals.steps, minutes, jobs)) steps and \(perMinute(totals.faults, minutes, jobs)) faults per minute and core, "
              + String(format: "%.1f s on %d cores", minutes * 60, jobs))
        guard let failure = totals.failure, let violation = failure.violation else { return true }
        for failure in totals.failures {
            print("VIOLATION \(failure.violation?.description ?? ""), after \(failure.steps) steps of")
            print("simulate --world \(world.rawValue) --seed \(failure.seed)")
        }
        if showsSeeds { print("caught \(totals.steps) \(violation)") }
        return false
    }
    private func perMinute(_ count: Int, _ minutes: Double, _ jobs: Int) -> Int { Int(Double(count) / max(minutes, 1e-9) / Double(jobs)) }
}

/// `1-4,9` and `none`.
enum FaultList {
    static func parse(_ text: String) throws -> [Int] {
        if text == "none" { return [] }
        var faults: [Int] = []
        for part in text.split(separator: ",") {
            let ends = part.split(separator: "-").compactMap { Int($0) }
            guard let low = ends.first, let high = ends.last, ends.count <= 2, low <= high, high < 100_000_000 else {
                throw ValidationError("\"\(part)\" is no fault number or range")
            }
            faults.append(contentsOf: low...high)
        }
        return faults.sorted()
    }
    static func format(_ faults: [Int]) -> String {
        var parts: [String] = []
        var index = 0
        while index < faults.count {
            var end = index
            while end + 1 < faults.count, faults[end + 1] == faults[end] + 1 { end += 1 }
            parts.append(end == index ? "\(faults[index])" : "\(faults[index])-\(faults[end])")
            index = end + 1
        }
        return parts.joined(separator: ",")
    }
}
