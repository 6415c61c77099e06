import Basics
import Raft

/// How soon members answer appends. A leader sends the next one with everything that came meanwhile when the last is answered, as long as that
/// takes no longer than a disk does; on a slower way it does not wait, since there the time counts, and not the number of messages.
struct Answering: Sendable {
    /// Slower is slow, and then for a while: lost messages and far members.
    static let slowMilliseconds: Int64 = 10, memoryMilliseconds: Int64 = 5_000
    private struct Awaited {
        var member: MemberID
        var last: LogIndex
        var since: Int64
    }
    /// At most one per member.
    private var awaited: [Awaited] = []
    private var slowUntil = Int64.min

    mutating func sent(_ message: Message, at now: Int64) {
        guard case .append(_, let entries, _) = message.body, let last = entries.last?.index, !awaited.contains(where: { $0.member == message.to }) else { return }
        awaited.append(Awaited(member: message.to, last: last, since: now))
    }
    mutating func received(_ message: Message, at now: Int64) {
        guard case .appended(let through) = message.body, let position = awaited.firstIndex(where: { $0.member == message.from }),
              through >= awaited[position].last else { return }
        if now - awaited[position].since >= Self.slowMilliseconds { slowUntil = now + Self.memoryMilliseconds }
        awaited.remove(at: position)
    }
    func isSlow(at now: Int64) -> Bool { now < slowUntil }
}
