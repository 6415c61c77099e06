/// What a run is made from. The same plan on the same build is the same run, event for event.
package struct RunPlan: Sendable {
    package var seed: UInt64
    /// Nothing is injected after so many steps; then the cluster is healed and must recover.
    package var steps: Int
    /// The only faults to be carried out, by number; `nil`: all.
    package var faults: [Int]?
    /// Who takes part, where that is told and not left to the seed; then nothing goes wrong by itself (`Story`).
    package var cast: Cast?
    /// Receives one line per event.
    package var view: (@Sendable (String) -> Void)?
    package init(seed: UInt64, steps: Int, faults: [Int]? = nil, view: (@Sendable (String) -> Void)? = nil) {
        self.seed = seed; self.steps = steps; self.faults = faults; self.view = view
    }
}

/// Whole members and those around them.
package struct Cast: Sendable {
    package var members: Int
    /// Members that may be added.
    package var joiners: Int
    /// With agents, and pods that come and go.
    package var nodes: Int
    package var clients: Int
    /// Entries of its log that a member keeps for others.
    package var windowEntriesMax: Int
    package init(members: Int = 3, joiners: Int = 0, nodes: Int = 0, clients: Int = 3, windowEntriesMax: Int = 200) {
        self.members = members; self.joiners = joiners; self.nodes = nodes; self.clients = clients; self.windowEntriesMax = windowEntriesMax
    }
}

/// A broken promise.
package struct Violation: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Promise: String, Sendable, CaseIterable {
        case electionSafety = "election safety"
        case leaderAppendOnly = "leader append-only"
        case logMatching = "log matching"
        case leaderCompleteness = "leader completeness"
        case stateMachineSafety = "state-machine safety"
        case monotonicState = "term, vote and commit index never go back"
        case durableQuorum = "a committed entry is durable on a quorum"
        case durableBeforeSent = "nothing is sent before the state it depends on is durable"
        case durableBeforeApplied = "nothing is applied that is not durable here"
        case linearizableRead = "a read shows all that was committed before it began"
        case oneMembershipChange = "at most one membership change is not applied"
        case liveness = "a healed cluster recovers"
        case acknowledgedWrite = "no acknowledged write is lost"
        case unsentWrite = "no unsent write appears"
        case equalState = "equal state at equal applied index"
        case revisionOrder = "revisions grow by one and never go back"
        case readAtRevision = "a read at a revision shows the state of that revision"
        case watchOrder = "a watch is ordered, unique and without gaps"
        case leaseNotEarly = "no lease ends early"
        case leaseRemoval = "a lease's keys vanish in one revision"
        case secrecy = "no secret stands in anything written or sent"
        case nonceReuse = "no nonce repeats under one key"
        case binding = "no node holds a secret without a pod that references it"
        case secretKept = "a pod keeps its secrets for as long as it is bound"
        case keyNeeded = "no key is destroyed while anything needs it"
        case recovery = "a member finds after a crash what it had acknowledged"
        case answeredOnce = "a request is answered once"
        case damageNoticed = "damage is noticed"
    }
    package var promise: Promise
    package var detail: String
    package init(_ promise: Promise, _ detail: String) { self.promise = promise; self.detail = detail }
    package var description: String { "\(promise.rawValue): \(detail)" }
}

/// What became of a run.
package struct RunReport: Equatable, Sendable {
    package var seed: UInt64
    package var steps = 0
    /// Faults decided upon, and of those the ones carried out.
    package var faultsDecided = 0
    package var faults = 0
    package var crashes = 0
    package var elections = 0
    package var committed = 0
    package var reads = 0
    /// Client histories and logs compared from beginning to end.
    package var histories = 0
    package var hash: UInt64 = 0
    package var violation: Violation?
    package init(seed: UInt64) { self.seed = seed }
}

/// Takes faults away from a failing run for as long as the same promise stays broken.
package enum Shrinking {
    /// `run` must be deterministic. Returns the smallest plan found, and its report; at most `runsMax` runs.
    package static func shrink(_ plan: RunPlan, runsMax: Int = 2_000, run: (RunPlan) -> RunReport) -> (plan: RunPlan, report: RunReport)? {
        var best = plan
        var report = run(plan)
        guard let promise = report.violation?.promise else { return nil }
        var runs = 1
        func tries(_ faults: [Int]) -> Bool {
            var candidate = best
            candidate.faults = faults
            runs += 1
            let outcome = run(candidate)
            guard outcome.violation?.promise == promise else { return false }
            best = candidate
            report = outcome
            return true
        }
        var kept = plan.faults ?? Array(1...max(1, report.faultsDecided))
        if tries([]) { return (best, report) }
        var pieces = 2
        while kept.count > 1, runs < runsMax {
            let size = (kept.count + pieces - 1) / pieces
            var shrank = false
            var start = 0
            while start < kept.count, runs < runsMax {
                var rest = kept
                rest.removeSubrange(start..<min(start + size, kept.count))
                if tries(rest) {
                    kept = rest
                    shrank = true
                } else { start += size }
            }
            if shrank { pieces = max(2, pieces - 1) } else if size == 1 { break } else { pieces = min(pieces * 2, kept.count) }
        }
        return (best, report)
    }
}
