import Basics
import DataDriven
import Foundation
import Raft
import Testing

/// Where etcd-io/raft's own cases are, if they are.
enum Cases {
    static let folder = (ProcessInfo.processInfo.environment["COFFER_SHARED"] ?? "../shared") + "/data/etcd-raft/"
    static let areHere = FileManager.default.fileExists(atPath: folder)
    static let absence: Comment = "etcd-io/raft's cases are not here"

    static func expectNoDifference(_ name: String, atLeast countMin: Int, _ execute: (Directive) throws -> String) throws {
        var script = try Script(path: folder + name), count = 0
        let differences = try script.run(rewrites: false) { directive in
            count += 1
            return try execute(directive)
        }
        for difference in differences { Issue.record("\(difference)") }
        #expect(count >= countMin, "\(name) has \(count) cases only")
    }
}

/// Runs the quorum cases of etcd-io/raft: `committed cfg=(1,2) cfgj=(3) idx=(12,_,5)` and `vote cfg=(1,2) votes=(y,_)`.
/// `idx` and `votes` go to the voters of `cfg`, then to those of `cfgj` that are new; `_` is a voter that said nothing.
@Suite("The quorum decides as etcd-io/raft's does", .enabled(if: Cases.areHere, Cases.absence))
struct QuorumCaseTests {
    private struct Case {
        var membership: Membership
        var isJoint: Bool
        /// In the order of `values`, each once.
        var voters: [MemberID] = []

        init(_ directive: Directive) throws {
            let incoming = Self.members(directive.values("cfg") ?? [])
            let other = directive.values("cfgj") ?? []
            let outgoing = other == ["zero"] ? [] : Self.members(other)
            isJoint = !other.isEmpty
            // A joint membership with nobody on the incoming side is no membership; the majorities decide the same in either order.
            membership = incoming.isEmpty ? Membership(voters: outgoing)
                : try Membership(voters: incoming, outgoing: outgoing, learners: [], learnersNext: [], autoLeave: false)
            for voter in incoming + outgoing where !voters.contains(voter) { voters.append(voter) }
        }
        private static func members(_ values: [String]) -> [MemberID] { values.compactMap { UInt64($0) }.map { MemberID($0) } }
    }

    @Test("the commit index is what a majority has reached, of both sides if joint", arguments: ["majority_commit.txt", "joint_commit.txt"])
    func commit(file: String) throws {
        try Cases.expectNoDifference("quorum/" + file, atLeast: 15) { directive in
            let `case` = try Case(directive)
            var reached: [MemberID: UInt64] = [:]
            for (voter, index) in zip(`case`.voters, directive.values("idx") ?? []) { reached[voter] = UInt64(index) }
            let number = { (voter: MemberID) in reached[voter] ?? 0 }
            let result = `case`.membership.reached(number)
            expectSame(`case`.membership) { $0.reached(number) }
            return table(`case`.membership.electorate, reached) + (result == .max ? "∞" : String(result))
        }
    }

    @Test("a vote is won, lost or pending by majority, of both sides if joint", arguments: ["majority_vote.txt", "joint_vote.txt"])
    func vote(file: String) throws {
        try Cases.expectNoDifference("quorum/" + file, atLeast: 15) { directive in
            let `case` = try Case(directive)
            var ballot = Ballot()
            for (voter, vote) in zip(`case`.voters, directive.values("votes") ?? []) where vote != "_" { ballot.record(voter, granted: vote == "y") }
            expectSame(`case`.membership) { membership in membership.result { ballot[$0] } }
            return switch `case`.membership.result({ ballot[$0] }) { case .pending: "VotePending"; case .won: "VoteWon"; case .lost: "VoteLost" }
        }
    }

    /// The sides may be exchanged, and one joined with itself decides as one.
    private func expectSame<Decision: Equatable>(_ membership: Membership, _ decide: (Membership) -> Decision) {
        guard !membership.voters.voters.isEmpty else { return }
        let sides = membership.isJoint ? (membership.outgoing, membership.voters) : (membership.voters, membership.voters)
        let exchanged = try? Membership(voters: sides.0.voters, outgoing: sides.1.voters, learners: [], learnersNext: [], autoLeave: false)
        #expect(exchanged.map(decide) == decide(membership))
    }

    /// One line per voter; the bar's length is the number of voters that are behind it.
    private func table(_ voters: [MemberID], _ reached: [MemberID: UInt64]) -> String {
        let count = voters.count
        guard count > 0 else { return "<empty majority quorum>" }
        var text = String(repeating: " ", count: count) + "    idx\n"
        for voter in voters {
            let index = reached[voter] ?? 0, behind = voters.filter { reached[$0] ?? 0 < index }.count
            let bar = reached[voter] == nil
                ? "?" + String(repeating: " ", count: count)
                : String(repeating: "x", count: behind) + ">" + String(repeating: " ", count: count - behind)
            let number = String(index)
            text += bar + " " + String(repeating: " ", count: max(0, 5 - number.count)) + number + "    (id=\(voter.rawValue))\n"
        }
        return text
    }
}

@Suite("A majority, by a second, obvious implementation")
struct MajorityTests {
    @Test("the two agree on random majorities, of one side or two", arguments: 0..<20)
    func twin(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        for _ in 0..<200 {
            let voters = (0..<Int.random(in: 1...7, using: &random)).map { MemberID(UInt64($0 + 1)) }
            let outgoing = (0..<Int.random(in: 0...7, using: &random)).map { MemberID(UInt64($0 + 4)) }
            let numbers = (0..<11).map { _ in UInt64.random(in: 0...9, using: &random) }
            func number(_ voter: MemberID) -> UInt64 { numbers[Int(voter.rawValue) - 1] }
            func obvious(_ voters: [MemberID]) -> UInt64 {
                UInt64((0...9).last { candidate in voters.filter { number($0) >= UInt64(candidate) }.count * 2 > voters.count } ?? 0)
            }
            #expect(Majority(voters).reached(number) == obvious(voters))
            let joint = try Membership(voters: voters, outgoing: outgoing, learners: [], learnersNext: [], autoLeave: false)
            #expect(joint.reached(number) == (outgoing.isEmpty ? obvious(voters) : min(obvious(voters), obvious(outgoing))))
            func granted(_ voters: [MemberID]) -> Bool { voters.isEmpty || voters.filter { number($0) > 4 }.count * 2 > voters.count }
            #expect((joint.result { number($0) > 4 } == .won) == (granted(voters) && granted(outgoing)))
        }
    }
}
