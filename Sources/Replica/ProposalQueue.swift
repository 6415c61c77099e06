import Basics
import MVCC

/// Proposals of this leader's term that are not applied yet, in log order.
struct ProposalQueue: Sendable {
    struct Waiting: Sendable {
        var index: LogIndex
        var ticket: Ticket?
        var command: Command
        var origin: Origin?
    }
    private var waiting: [Waiting] = []
    private var head = 0

    mutating func append(_ proposals: [Proposal], from first: LogIndex) {
        for (offset, proposal) in proposals.enumerated() {
            waiting.append(Waiting(index: first + LogIndex(offset), ticket: proposal.ticket, command: proposal.command, origin: proposal.origin))
        }
    }

    /// The proposal that became the entry at `index`; `nil` when the entry is another's, or was logged before a restart.
    mutating func take(_ index: LogIndex) -> Waiting? {
        guard head < waiting.count, waiting[head].index == index else { return nil }
        let taken = waiting[head]
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
    mutating func abandon() -> [Waiting] {
        let abandoned = Array(waiting[head...])
        waiting.removeAll()
        head = 0
        return abandoned
    }
    var count: Int { waiting.count - head }
}

/// Proposals of a leadership that was lost: the next leader may commit them yet, or put others in their place.
struct Orphans: Sendable {
    struct Waiting: Sendable {
        var index: LogIndex
        var term: Term
        var ticket: Ticket
        var deadline: Int64
    }
    /// By index.
    private var waiting: [Waiting] = []

    var isEmpty: Bool { waiting.isEmpty }

    mutating func append(_ abandoned: [ProposalQueue.Waiting], term: Term, deadline: Int64) {
        for proposal in abandoned {
            guard let ticket = proposal.ticket else { continue }
            waiting.append(Waiting(index: proposal.index, term: term, ticket: ticket, deadline: deadline))
        }
        waiting.sort { $0.index < $1.index }
    }
    /// Those that were to be the entry at `index`: more than one, if leaderships were lost one after another.
    mutating func take(_ index: LogIndex) -> [Waiting] {
        let taken = waiting.prefix { $0.index <= index }
        guard !taken.isEmpty else { return [] }
        defer { waiting.removeFirst(taken.count) }
        return Array(taken)
    }
    mutating func takeExpired(_ now: Int64) -> [Ticket] {
        let expired = waiting.filter { $0.deadline <= now }.map(\.ticket)
        if !expired.isEmpty { waiting.removeAll { $0.deadline <= now } }
        return expired
    }
}
