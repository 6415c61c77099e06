import Basics
import DataDriven
import Raft
import Testing

/// Runs the confchange cases of etcd-io/raft. `simple`, `enter-joint` and `leave-joint` are followed by a line such as
/// `v1 l2 r3 u4`: make 1 a voter, make 2 a learner, remove 3, leave 4 as it is. Answered by the membership and every
/// member's progress; `next` tells at which command a member joined.
@Suite("Memberships change as etcd-io/raft's do", .enabled(if: Cases.areHere, Cases.absence))
struct MembershipCaseTests {
    @Test("every case of confchange", arguments: (try? Script.paths(in: Cases.folder + "confchange").map { String($0.split(separator: "/").last ?? "") }) ?? [])
    func cases(file: String) throws {
        var membership = Membership(), progress: [Progress] = [], commands: LogIndex = 0
        try Cases.expectNoDifference("confchange/" + file, atLeast: 1) { directive in
            defer { commands += 1 }
            do throws(MembershipError) {
                let steps = Self.steps(directive.input.joined(separator: " "))
                switch directive.verb {
                case "simple": membership = try membership.simply(steps)
                case "enter-joint": membership = try membership.jointly(steps, autoLeave: directive.has("autoleave"))
                case "leave-joint": membership = try membership.leaving()
                default: return "unknown command"
                }
            } catch { return Self.text(error) }
            progress = Progress.of(membership, known: progress, next: max(commands, 1))
            return Self.text(membership) + progress.map { "\n" + Self.text($0, membership) }.joined()
        }
    }

    @Test("there are nine files of them")
    func count() throws {
        #expect(try Script.paths(in: Cases.folder + "confchange").count == 9)
    }

    private static func steps(_ text: String) -> [MembershipChange.Step] {
        text.split(separator: " ").compactMap { token in
            guard let number = UInt64(token.dropFirst()) else { return nil }
            return switch token.first {
            case "v": .addVoter(MemberID(number))
            case "l": .addLearner(MemberID(number))
            case "r": .remove(MemberID(number))
            default: nil
            }
        }
    }

    private static func text(_ members: [MemberID]) -> String { "(" + members.map { String($0.rawValue) }.joined(separator: " ") + ")" }
    private static func text(_ membership: Membership) -> String {
        "voters=" + text(membership.voters.voters) + (membership.isJoint ? "&&" + text(membership.outgoing.voters) : "")
            + (membership.learners.isEmpty ? "" : " learners=" + text(membership.learners))
            + (membership.learnersNext.isEmpty ? "" : " learners_next=" + text(membership.learnersNext))
            + (membership.autoLeave ? " autoleave" : "")
    }
    private static func text(_ progress: Progress, _ membership: Membership) -> String {
        let flow = switch progress.flow { case .probe: "StateProbe"; case .replicate: "StateReplicate"; case .snapshot: "StateSnapshot" }
        return "\(progress.member.rawValue): \(flow) match=\(progress.match) next=\(progress.next)" + (membership.isLearner(progress.member) ? " learner" : "")
    }
    private static func text(_ error: MembershipError) -> String {
        switch error {
        case .alreadyJoint: "config is already joint"
        case .simpleChangeWhileJoint: "can't apply simple config change in joint config"
        case .notJoint: "can't leave a non-joint config"
        case .noVotersToJoin: "can't make a zero-voter config joint"
        case .noVotersLeft: "removed all voters"
        case .severalVotersDiffer: "more than one voter changed without entering joint config"
        case .unsound: "unsound"
        }
    }
}

@Suite("A membership")
struct MembershipTests {
    private let three = Membership(voters: [id(1), id(2), id(3)])

    @Test("changes at once where one voter differs, and through a joint one where several do")
    func entering() throws {
        #expect(try three.entering(MembershipChange([.addVoter(id(4))])) == Membership(voters: [id(1), id(2), id(3), id(4)]))
        #expect(try !three.entering(MembershipChange([.addLearner(id(3)), .addLearner(id(4))])).isJoint)
        let replacing = try three.entering(MembershipChange([.addVoter(id(4)), .remove(id(3))]))
        #expect(replacing.isJoint && replacing.autoLeave && replacing.outgoing == three.voters)
        #expect(try replacing.leaving() == Membership(voters: [id(1), id(2), id(4)]))
        #expect(try three.entering(MembershipChange([.addVoter(id(4))], isAlwaysJoint: true)).isJoint)
        #expect(throws: MembershipError.alreadyJoint) { try replacing.entering(MembershipChange([.addVoter(id(5))])) }
        #expect(throws: MembershipError.noVotersLeft) { try three.entering(MembershipChange([.remove(id(1)), .remove(id(2)), .remove(id(3))])) }
    }

    @Test("a demoted voter of a joint membership is a learner only once that is left")
    func learnersNext() throws {
        let joint = try three.entering(MembershipChange([.addLearner(id(1)), .addLearner(id(2))]))
        #expect(joint.learners == [] && joint.learnersNext == [id(1), id(2)] && joint.isVoter(id(1)) && joint.members.count == 3)
        let left = try joint.leaving()
        #expect(left.learners == [id(1), id(2)] && left.learnersNext == [] && !left.isVoter(id(1)) && left.voters.voters == [id(3)])
    }

    @Test("what was stored or sent is checked: a voter that learns, someone waiting for nothing, member 0")
    func unsound() throws {
        func make(_ voters: [UInt64], _ outgoing: [UInt64], _ learners: [UInt64], _ next: [UInt64], _ autoLeave: Bool) throws(MembershipError) -> Membership {
            try Membership(voters: voters.map(id), outgoing: outgoing.map(id), learners: learners.map(id), learnersNext: next.map(id), autoLeave: autoLeave)
        }
        #expect(try make([1, 2], [2, 3], [4], [3], true).members == [1, 2, 3, 4].map(id))
        for (voters, outgoing, learners, next, autoLeave): ([UInt64], [UInt64], [UInt64], [UInt64], Bool) in [
            ([1, 2], [], [2], [], false), ([1], [2], [2], [], false), ([1, 2], [3], [], [4], false), ([1, 2], [2], [], [2], false),
            ([1], [], [], [1], false), ([1], [], [], [], true), ([], [1], [], [], false), ([0, 1], [], [], [], false), ([1], [], [0], [], false),
        ] {
            #expect(throws: MembershipError.unsound) { try make(voters, outgoing, learners, next, autoLeave) }
        }
    }

    @Test("no sequence of changes makes an unsound one", arguments: 0..<20)
    func random(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed)), membership = Membership(voters: [id(1)]), joints = 0
        for _ in 0..<300 {
            let steps = (0..<Int.random(in: 1...4, using: &random)).map { _ -> MembershipChange.Step in
                let member = MemberID(UInt64.random(in: 1...7, using: &random))
                return [.addVoter(member), .addLearner(member), .remove(member)][Int.random(in: 0..<3, using: &random)]
            }
            let change = MembershipChange(steps, autoLeave: Bool.random(using: &random))
            let changed: Membership?
            do { changed = membership.isJoint ? try membership.leaving() : try membership.entering(change) } catch { changed = nil }
            guard let changed else { continue }
            if changed.isJoint { joints += 1 } else { #expect(membership.isJoint || changed.voters.differences(from: membership.voters) <= 1) }
            membership = changed
            #expect(try membership == Membership(voters: membership.voters.voters, outgoing: membership.outgoing.voters, learners: membership.learners,
                                                 learnersNext: membership.learnersNext, autoLeave: membership.autoLeave))
        }
        #expect(joints > 10)
    }
}
