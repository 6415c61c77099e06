import Replica

/// Who waits for which ticket of the replica. Confined to the replica's thread.
struct AnswerDesk {
    private struct Waiting {
        var sink: any AnswerSink
        var ticket: UInt64
        /// Of a proposal, its encoded size; 0 for a question.
        var bytes: Int
    }
    private var slots: [Waiting?] = []
    private var free: [Int] = []
    private var outgoing = Outgoing<any AnswerSink, Answer>()
    /// Proposals answered since the mailbox was last told.
    private(set) var released = (proposals: 0, bytes: 0)

    mutating func admit(_ sink: any AnswerSink, _ ticket: UInt64, bytes: Int) -> Ticket {
        let waiting = Waiting(sink: sink, ticket: ticket, bytes: bytes)
        guard let slot = free.popLast() else {
            slots.append(waiting)
            return Ticket(slots.count - 1)
        }
        slots[slot] = waiting
        return Ticket(slot)
    }

    mutating func answer(_ ticket: Ticket, _ result: Result<AnswerBody, ReplicaError>) {
        guard let waiting = slots[Int(ticket)] else { preconditionFailure("a ticket is answered once") }
        slots[Int(ticket)] = nil
        free.append(Int(ticket))
        if waiting.bytes > 0 {
            released.proposals += 1
            released.bytes += waiting.bytes
        }
        tell(waiting.sink, waiting.ticket, result)
    }

    /// Without a ticket of the replica's: it was never asked.
    mutating func tell(_ sink: any AnswerSink, _ ticket: UInt64, _ result: Result<AnswerBody, ReplicaError>) {
        outgoing.append(Answer(ticket: ticket, result: result), to: sink, identity: ObjectIdentifier(sink))
    }

    mutating func answerAll(_ error: ReplicaError) {
        for slot in slots.indices where slots[slot] != nil { answer(Ticket(slot), .failure(error)) }
    }

    mutating func takeReleased() -> (proposals: Int, bytes: Int) {
        defer { released = (0, 0) }
        return released
    }
    mutating func take() -> [(listener: any AnswerSink, items: [Answer])] { outgoing.take() }
}

extension Reply {
    var result: Result<AnswerBody, ReplicaError> {
        switch outcome {
        case .applied(let result, let revision): .success(.command(result, revision: revision))
        case .range(let result, let revision): .success(.range(result, revision: revision))
        case .revision(let revision): .success(.read(revision: revision))
        case .leaseKeptAlive(let id, let seconds, let revision): .success(.leaseKeptAlive(id, seconds: seconds, revision: revision))
        case .leaseStatus(let id, let granted, let remaining, let keys, let revision):
            .success(.leaseStatus(LeaseStatus(id: id, grantedSeconds: granted, remainingSeconds: remaining, keys: keys), revision: revision))
        case .leases(let ids, let revision): .success(.leases(ids, revision: revision))
        case .refused(let refusal): .failure(.refused(refusal))
        case .notLeader(let leader): .failure(.notLeader(leader))
        case .noSpace: .failure(.noSpace)
        case .overloaded: .failure(.overloaded)
        case .unavailable(let reason): .failure(.unavailable(reason))
        case .unknown: .failure(.outcomeUnknown)
        }
    }
}
