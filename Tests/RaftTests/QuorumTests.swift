import Basics
import DataDriven
import Foundation
import Raft
import Testing

/// Runs the majority cases of etcd-io/raft: `committed cfg=(1,2) idx=(12,_)` and `vote cfg=(1,2) votes=(y,_)`.
@Suite("The quorum decides as etcd-io/raft's does")
struct QuorumTests {
    static let folder = (ProcessInfo.processInfo.environment["COFFER_SHARED"] ?? "../shared") + "/data/etcd-raft/quorum/"
    static func isPresent(_ name: String) -> Bool { FileManager.default.fileExists(atPath: folder + name) }

    private func voters(_ directive: Directive) -> [MemberID] { (directive.values("cfg") ?? []).compactMap { UInt64($0) }.map { MemberID($0) } }
    private func expectNoDifference(_ name: String, _ execute: (Directive) throws -> String) throws {
        var script = try Script(path: Self.folder + name), count = 0
        let differences = try script.run { directive in
            count += 1
            return try execute(directive)
        }
        for difference in differences { Issue.record("\(difference)") }
        #expect(count > 10)
    }

    @Test("the commit index is what a majority has reached", .enabled(if: isPresent("majority_commit.txt"), "etcd-io/raft's cases are not here"))
    func commit() throws {
        try expectNoDifference("majority_commit.txt") { directive in
            var reached: [MemberID: UInt64] = [:]
            for (voter, index) in zip(voters(directive), directive.values("idx") ?? []) { reached[voter] = UInt64(index) }
            let majority = Majority(voters(directive)), result = majority.reached { reached[$0] ?? 0 }
            return table(majority, reached) + (result == .max ? "∞" : String(result))
        }
    }

    /// One line per voter; the bar's length is the number of voters that are behind it.
    private func table(_ majority: Majority, _ reached: [MemberID: UInt64]) -> String {
        let count = majority.voters.count
        guard count > 0 else { return "<empty majority quorum>" }
        var text = String(repeating: " ", count: count) + "    idx\n"
        for voter in majority.voters {
            let index = reached[voter] ?? 0, behind = majority.voters.filter { reached[$0] ?? 0 < index }.count
            let bar = reached[voter] == nil
                ? "?" + String(repeating: " ", count: count)
                : String(repeating: "x", count: behind) + ">" + String(repeating: " ", count: count - behind)
            let number = String(index)
            text += bar + " " + String(repeating: " ", count: max(0, 5 - number.count)) + number + "    (id=\(voter.rawValue))\n"
        }
        return text
    }

    @Test("a vote is won, lost or pending by majority", .enabled(if: isPresent("majority_vote.txt"), "etcd-io/raft's cases are not here"))
    func vote() throws {
        try expectNoDifference("majority_vote.txt") { directive in
            var ballot = Ballot()
            for (voter, vote) in zip(voters(directive), directive.values("votes") ?? []) where vote != "_" { ballot.record(voter, granted: vote == "y") }
            return switch Majority(voters(directive)).result({ ballot[$0] }) { case .pending: "VotePending"; case .won: "VoteWon"; case .lost: "VoteLost" }
        }
    }

    @Test("an obvious second implementation agrees on random majorities", arguments: 0..<20)
    func twin(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        for _ in 0..<200 {
            let voters = (0..<Int.random(in: 1...7, using: &random)).map { MemberID(UInt64($0 + 1)) }
            let numbers = voters.map { _ in UInt64.random(in: 0...9, using: &random) }
            let obvious = (0...9).last { candidate in numbers.filter { $0 >= UInt64(candidate) }.count * 2 > voters.count } ?? 0
            #expect(Majority(voters).reached { numbers[Int($0.rawValue) - 1] } == UInt64(obvious))
        }
    }
}
