/// One line of `.bench/results.jsonl`, and one cell of the table.
struct Figure: Sendable {
    var name: String
    var metric: String
    var ours: Double
    /// `nil`: there is no peer for it.
    var peer: Double?

    var line: String {
        let peerText = peer.map { fixed($0, 4) } ?? "null"
        let ratio = peer.map { $0 == 0 ? "null" : fixed(ours / $0, 4) } ?? "null"
        return #"{"case":"\#(name)","metric":"\#(metric)","ours":\#(fixed(ours, 4)),"peer":\#(peerText),"ratio":\#(ratio)}"#
    }
}

/// The goals of this milestone, checked by the run: each is said to be met or missed, and a miss makes it fail.
struct Goal {
    var name: String
    var metric: String
    var atLeast: Double?
    var atMost: Double?

    static let all = [
        Goal(name: "put-256B-10/100", metric: "throughput", atLeast: 1.7),
        Goal(name: "put-256B-10/100", metric: "cpu_per_op", atMost: 0.4),
        Goal(name: "put-256B-10/100", metric: "p99", atMost: 0.6),
        Goal(name: "range-256B-10/100", metric: "cpu_per_op", atMost: 0.45),
        Goal(name: "3x-put-256B-10/100", metric: "throughput", atLeast: 3),
        Goal(name: "3x-put-256B-10/100", metric: "cpu_per_op", atMost: 0.3),
        Goal(name: "3x-failover", metric: "milliseconds", atMost: 1),
    ]

    /// `nil` when it is not measured.
    func verdict(_ results: [Figure]) -> (isMet: Bool, text: String)? {
        guard let result = results.first(where: { $0.name == name && $0.metric == metric }), let peer = result.peer, peer > 0 else { return nil }
        let ratio = result.ours / peer, isMet = ratio >= atLeast ?? 0 && ratio <= atMost ?? .infinity
        let wanted = [atLeast.map { "at least \($0)" }, atMost.map { "at most \($0)" }].compactMap { $0 }.joined(separator: ", ")
        return (isMet, "\(isMet ? "met   " : "MISSED") \(name) \(metric): \(fixed(ratio, 2)) of the peer's, \(wanted) wanted")
    }
}

extension [Figure] {
    /// Says which goals are met; throws if one is not.
    func checkGoals() throws {
        let verdicts = Goal.all.compactMap { $0.verdict(self) }
        for verdict in verdicts { say("goal", verdict.text) }
        let missed = verdicts.count { !$0.isMet }
        if missed > 0 { throw Failure("\(missed) goals missed") }
    }
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return 0 }
    return sorted.count % 2 == 1 ? sorted[sorted.count / 2] : (sorted[sorted.count / 2 - 1] + sorted[sorted.count / 2]) / 2
}
