import Basics
import Simulation
import Testing

/// Every bug that a simulation found, by the seed that found it. Docs/TrackRecord.md tells of each.
@Suite("Track record")
struct TrackRecordTests {
    @Test("the only voter left is let lead by members that are voters no more and have the longer logs")
    func lastVoterLeft() {
        #expect(World.raft.run(World.raft.plan(seed: 14)).violation == nil)
    }

    @Test("an answer sent late, when a later term has replaced what it is about, is no lie")
    func lateAnswer() {
        #expect(World.raft.run(World.raft.plan(seed: 1376)).violation == nil)
    }

    @Test("a leader that was asked to hand over before all was healed does so afterwards, and that is no unrest")
    func lateTransfer() {
        #expect(World.raft.run(World.raft.plan(seed: 767)).violation == nil)
    }

    @Test("a learner that lost what it held waits for nobody to make a voter of it", arguments: [1175, 1643] as [UInt64])
    func damagedLearner(seed: UInt64) {
        #expect(World.store.run(World.store.plan(seed: seed)).violation == nil)
    }

    @Test("a call for help that is answered already leaves no alarm behind")
    func lateCallForHelp() {
        #expect(World.store.run(World.store.plan(seed: 60)).violation == nil)
    }

    @Test("a disk that was put back, a crash during its repair and a calendar set back: the next start is no second put-back")
    func runAfterPutBack() {
        #expect(World.store.run(World.store.plan(seed: 5551)).violation == nil)
    }

    @Test("a renewed lease has all its time under the next leader, whatever a checkpoint said before")
    func renewedLease() {
        #expect(World.store.run(World.store.plan(seed: 5288)).violation == nil)
    }

    @Test("a refusal that comes late, for a command of an earlier run, is no answer to one of the present run")
    func refusalOfEarlierRun() {
        #expect(World.store.run(World.store.plan(seed: 392)).violation == nil)
    }

    @Test("who starts again asks learners, too: one of them may be the only voter that is left", arguments: [201_572, 202_588] as [UInt64])
    func learnerAsked(seed: UInt64) {
        #expect(World.store.run(World.store.plan(seed: seed)).violation == nil)
    }

    @Test("a log put back to before the last start is noticed")
    func putBackOverRestart() {
        #expect(World.store.run(World.store.plan(seed: 200_504)).violation == nil)
    }

    @Test("what only the simulator did wrong: streams going on behind a loss, those whom the damaged need removed, commands copied, votes not remembered",
          arguments: [4093, 4143, 5246, 1202] as [UInt64])
    func simulatorsOwn(seed: UInt64) {
        #expect(World.store.run(World.store.plan(seed: seed)).violation == nil)
    }

    @Test("taking faults away from a run that breaks no promise finds nothing")
    func nothingToShrink() {
        var plan = World.raft.plan(seed: 3)
        plan.steps = 1_000
        #expect(Shrinking.shrink(plan, run: World.raft.run) == nil)
    }

    @Test("a failing run is reduced to the faults that matter")
    func shrinking() throws {
        // A run that breaks its promise exactly when faults 5 and 17 are both carried out.
        func run(_ plan: RunPlan) -> RunReport {
            var report = RunReport(seed: plan.seed)
            report.faultsDecided = 40
            let faults = plan.faults ?? Array(1...40)
            if faults.contains(5), faults.contains(17) { report.violation = Violation(.logMatching, "both") }
            return report
        }
        let found = try #require(Shrinking.shrink(RunPlan(seed: 1, steps: 1), run: run))
        #expect(found.plan.faults == [5, 17])
    }
}
