import Basics
import Foundation
import Raft
import Testing

/// Runs the majority cases of etcd-io/raft: `committed cfg=(1,2) idx=(12,_)` and `vote cfg=(1,2) votes=(y,_)`.
@Suite("The quorum decides as etcd-io/raft's does")
struct QuorumTests {
    struct Case: Sendable { var command: String, arguments: [String: [String]], expected: String, line: Int }

    static let folder = (ProcessInfo.processInfo.environment["COFFER_SHARED"] ?? "../shared") + "/data/etcd-raft/quorum/"
    static func isPresent(_ name: String) -> Bool { FileManager.default.fileExists(atPath: folder + name) }

    static func cases(_ name: String) throws -> [Case] {
        var cases: [Case] = [], command: String?, output: [String]?, start = 0
        let lines = try String(contentsOfFile: folder + name, encoding: .utf8).components(separatedBy: "\n")
        for (number, line) in (lines + [""]).enumerated() {
            if output != nil, line.isEmpty {
                if let command, let output { cases.append(parse(command, output.last ?? "", line: start)) }
                (command, output) = (nil, nil)
            } else if output != nil {
                output?.append(line)
            } else if line == "----" {
                output = []
            } else if !line.isEmpty, !line.hasPrefix("#") {
                command = line
                start = number + 1
            }
        }
        return cases
    }
    private static func parse(_ command: String, _ expected: String, line: Int) -> Case {
        var arguments: [String: [String]] = [:]
        for match in command.matches(of: /(\w+)=\(([^)]*)\)/) {
            arguments[String(match.1)] = match.2.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
        }
        return Case(command: String(command.prefix { $0 != " " }), arguments: arguments, expected: expected, line: line)
    }
    private static func voters(_ arguments: [String: [String]]) -> [MemberID] {
        (arguments["cfg"] ?? []).compactMap { UInt64($0) }.map { MemberID($0) }
    }

    @Test("the commit index is what a majority has reached", .enabled(if: isPresent("majority_commit.txt"), "etcd-io/raft's cases are not here"))
    func commit() throws {
        let cases = try Self.cases("majority_commit.txt")
        #expect(cases.count > 10)
        for one in cases {
            let voters = Self.voters(one.arguments), indices = one.arguments["idx"] ?? []
            let reached = Majority(voters).reached { voter in
                voters.firstIndex(of: voter).flatMap { UInt64(indices[$0]) } ?? 0
            }
            let text = reached == .max ? "<empty majority quorum>∞" : String(reached)
            #expect(text == one.expected, "line \(one.line)")
        }
    }

    @Test("a vote is won, lost or pending by majority", .enabled(if: isPresent("majority_vote.txt"), "etcd-io/raft's cases are not here"))
    func vote() throws {
        let cases = try Self.cases("majority_vote.txt")
        #expect(cases.count > 10)
        for one in cases {
            let voters = Self.voters(one.arguments), votes = one.arguments["votes"] ?? []
            let result = Majority(voters).result { voter in
                switch voters.firstIndex(of: voter).map({ votes[$0] }) {
                case "y": true
                case "n": false
                default: nil
                }
            }
            let text = switch result { case .pending: "VotePending"; case .won: "VoteWon"; case .lost: "VoteLost" }
            #expect(text == one.expected, "line \(one.line)")
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
