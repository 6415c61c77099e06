import Basics
import MVCC
import Raft
import Replica

/// One line per event: time, then each member's role, term, applied entry and revision.
enum StoreView {
    static func line(_ world: borrowing StoreWorld, about member: Int?, _ text: String) -> String {
        var line = pad("\(world.now)", 7)
        for member in world.members {
            let standing = member.replica.raft.standing
            let role = switch standing.position { case .follower: "F" case .preCandidate: "p" case .candidate: "c" case .leader: "L" }
            let state = !member.isUp ? "·" : member.pausedUntil > world.now ? "z" : role
            line += " | " + state + pad("\(standing.term)", 3) + pad("\(member.replica.store.appliedIndex)@\(member.replica.store.revision)", 10)
        }
        return line + " | " + (member.map { "\($0 + 1): " } ?? "") + text
    }
    private static func pad(_ text: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - text.count)) + text }

    static func describe(_ message: PeerMessage) -> String {
        switch message.body {
        case .raft(let inner): RaftView.describe(inner)
        case .forward(let commands): "\(commands.count) commands forwarded by \(message.from.rawValue)"
        case .questions(let questions): "\(questions.count) questions of \(message.from.rawValue)"
        case .outcomes(let outcomes): "\(outcomes.count) outcomes from \(message.from.rawValue)"
        case .hash(let index, _): "the hash at \(index) from \(message.from.rawValue)"
        case .hashed(let index, _): "the answer to a hash at \(index) from \(message.from.rawValue)"
        case .lost: "a call for help of \(message.from.rawValue)"
        case .readmitted: "its readmission by \(message.from.rawValue)"
        case .recall(let run): "a question of \(message.from.rawValue) about itself, in run \(run)"
        case .recalled(let told): "what \(message.from.rawValue) knows of it: run \(told.run), \(told.term).\(told.index)"
        case .takesPart(let run, let term, let index): "that \(message.from.rawValue) takes part, in run \(run), with \(term).\(index)"
        case .noted(let run): "that \(message.from.rawValue) has noted its run \(run)"
        }
    }
}
