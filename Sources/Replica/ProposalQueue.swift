import Basics
import MVCC

/// Proposals of this leader's term that are not applied yet, in log order.
struct ProposalQueue: Sendable {
    private struct Waiting: Sendable {
        var index: LogIndex
        var ticket: Ticket?
        var command: Command
    }
    private var waiting: [Waiting] = []
    private var head = 0

    mutating func append(_ proposals: [Proposal], from first: LogIndex) {
        for (offset, proposal) in proposals.enumerated() {
            waiting.append(Waiting(index: first + LogIndex(offset), ticket: proposal.ticket, command: proposal.command))
        }
    }

    /// The proposal that became the entry at `index`; `nil` when the entry is another's, or was logged before a restart.
    mutating func take(_ index: LogIndex) -> (ticket: Ticket?, command: Command)? {
        guard head < waiting.count, waiting[head].index == index else { return nil }
        let taken = (waiting[head].ticket, waiting[head].command)
        waiting[head].command = .none // lets go of the value
        head += 1
        if head == waiting.count {
            waiting.removeAll(keepingCapacity: true)
            head = 0
        } else if head >= 4_096, head * 2 >= waiting.count {
            waiting.removeFirst(head)
            head = 0
        }
        return taken
    }

    /// All that wait, in order; none do afterwards.
    mutating func abandon() -> [Ticket] {
        let tickets = waiting[head...].compactMap(\.ticket)
        waiting.removeAll()
        head = 0
        return tickets
    }
    var count: Int { waiting.count - head }
}
