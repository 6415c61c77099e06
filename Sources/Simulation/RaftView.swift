import Basics
import Raft

/// The cluster at a glance, one line per event:
///
///      12300 | L 5  41/41 | F 5  41/40 | c 6  39/39 | 2: hears append 5.41 +1 from 1
///      time     each member: role, term, last entry/commit index (· when down, z when it stands still)
enum RaftView {
    static func line(_ world: borrowing RaftWorld, about member: Int?, _ text: String) -> String {
        var line = pad("\(world.now)", 7)
        for member in world.members {
            let raft = member.raft
            let role = switch raft.standing.position { case .follower: "F" case .preCandidate: "p" case .candidate: "c" case .leader: "L" }
            let state = !member.isUp ? "·" : member.pausedUntil > world.now ? "z" : role
            line += " | " + state + pad("\(raft.term)", 3) + pad("\(raft.log.last.index)/\(raft.log.committed)", 9)
        }
        return line + " | " + (member.map { "\($0 + 1): " } ?? "") + text
    }
    private static func pad(_ text: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - text.count)) + text }

    static func describe(_ position: EntryPosition) -> String { "\(position.term).\(position.index)" }
    static func describe(_ membership: Membership) -> String {
        func list(_ ids: [MemberID]) -> String { ids.map { "\($0.rawValue)" }.joined(separator: " ") }
        var text = "voters (\(list(membership.voters.voters)))"
        if membership.isJoint { text += " and (\(list(membership.outgoing.voters)))" }
        if !membership.learners.isEmpty { text += ", learners (\(list(membership.learners)))" }
        return text
    }
    static func describe(_ message: Message) -> String {
        let body = switch message.body {
        case .preVoteRequest(let last): "pre-vote request, last \(describe(last)),"
        case .preVoteResponse(let granted): granted ? "pre-vote" : "no pre-vote"
        case .voteRequest(let last, let isTransfer): "vote request, last \(describe(last)),\(isTransfer ? " by transfer," : "")"
        case .voteResponse(let granted): granted ? "vote" : "no vote"
        case .append(let previous, let entries, let commit): "append \(describe(previous)) +\(entries.count), commit \(commit),"
        case .appended(let through): "appended through \(through)"
        case .appendRejected(let previous, let hint): "append after \(previous) rejected, hint \(describe(hint)),"
        case .heartbeat(let commit, let readSequence): "heartbeat, commit \(commit), round \(readSequence),"
        case .heartbeatResponse(let readSequence): "heartbeat answered, round \(readSequence)"
        case .timeoutNow: "timeout now"
        case .readRequest(let request): "read request \(request)"
        case .readResponse(let request, let index): "read response \(request) at \(index)"
        case .committed(let position): "\(describe(position)) is committed"
        case .outdated: "outdated"
        }
        return "\(body) of term \(message.term) from \(message.from.rawValue) to \(message.to.rawValue)"
    }
}
