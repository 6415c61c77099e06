package import Basics
package import MVCC
package import ReplicaService
package import SecretMemory
import Synchronization

/// A compare as etcd's wire has it: those by VALUE need the keys, which the Replica has not.
package enum EtcdCompare: Sendable {
    case plain(Compare)
    case value(KeyRange, Compare.Relation, SecretValue)
}

package indirect enum EtcdOperation: Sendable {
    case range(RangeRequest)
    case put(PutRequest)
    case deleteRange(DeleteRangeRequest)
    case transaction(EtcdTransaction)
}

/// A transaction whose puts are sealed and whose compares by value are not yet resolved.
package struct EtcdTransaction: Sendable {
    package var compares: [EtcdCompare]
    package var success: [EtcdOperation]
    package var failure: [EtcdOperation]
    package init(compares: [EtcdCompare] = [], success: [EtcdOperation] = [], failure: [EtcdOperation] = []) {
        self.compares = compares; self.success = success; self.failure = failure
    }

    var comparesValues: Bool {
        compares.contains { if case .value = $0 { true } else { false } }
            || (success + failure).contains { if case .transaction(let nested) = $0 { nested.comparesValues } else { false } }
    }
    var writes: Bool {
        (success + failure).contains {
            switch $0 {
            case .range: false
            case .put, .deleteRange: true
            case .transaction(let nested): nested.writes
            }
        }
    }

    /// The same below the waterline; `resolve` answers a compare by value.
    func lowered<E: Error>(_ resolve: (KeyRange, Compare.Relation, SecretValue) throws(E) -> Compare) throws(E) -> Transaction {
        var lowered = Transaction()
        for compare in compares {
            switch compare {
            case .plain(let compare): lowered.compares.append(compare)
            case .value(let range, let relation, let value): lowered.compares.append(try resolve(range, relation, value))
            }
        }
        lowered.success = try Self.lowered(success, resolve)
        lowered.failure = try Self.lowered(failure, resolve)
        return lowered
    }
    private static func lowered<E: Error>(
        _ operations: [EtcdOperation], _ resolve: (KeyRange, Compare.Relation, SecretValue) throws(E) -> Compare
    ) throws(E) -> [Operation] {
        var lowered: [Operation] = []
        for operation in operations {
            switch operation {
            case .range(let request): lowered.append(.range(request))
            case .put(let request): lowered.append(.put(request))
            case .deleteRange(let request): lowered.append(.deleteRange(request))
            case .transaction(let nested): lowered.append(.transaction(try nested.lowered(resolve)))
            }
        }
        return lowered
    }
}

package struct EtcdRequest: Sendable {
    package enum Kind: Sendable {
        case put(PutRequest)
        case range(RangeRequest, linearizable: Bool)
        case deleteRange(DeleteRangeRequest)
        case transaction(EtcdTransaction)
        case compact(revision: Int64)
        case leaseGrant(id: LeaseID, seconds: Int64)
        case leaseRevoke(id: LeaseID)
        case leaseKeepAlive(LeaseID)
        case leaseStatus(LeaseID, withKeys: Bool)
        case leases
        case readIndex
    }
    package var ticket: UInt64
    package var kind: Kind
    package init(ticket: UInt64, kind: Kind) { self.ticket = ticket; self.kind = kind }
}

package struct EtcdAnswer: Sendable {
    package var ticket: UInt64
    /// Keys in it are stored keys: `Keyspace.name` gives the client's.
    package var result: Result<AnswerBody, EtcdFailure>
    package init(ticket: UInt64, result: Result<AnswerBody, EtcdFailure>) { self.ticket = ticket; self.result = result }
}

package enum EtcdFailure: Error, Equatable, Sendable {
    case refused(CommandRefusal)
    case unreadable(UnreadableValue)
    case overloaded, outcomeUnknown
    /// The disk is full; what does not grow the store still passes.
    case noSpace
    case notLeader(MemberID?)
    case unavailable(String)

    /// Whether asking again may be answered otherwise: there is no leader at the moment, or no word from it.
    var mayPass: Bool {
        switch self {
        case .overloaded, .outcomeUnknown, .notLeader: true
        case .refused, .unreadable, .noSpace, .unavailable: false
        }
    }

    package init(_ error: ReplicaError) {
        switch error {
        case .refused(let refusal): self = .refused(refusal)
        case .overloaded: self = .overloaded
        case .noSpace: self = .noSpace
        case .notLeader(let member): self = .notLeader(member)
        case .outcomeUnknown: self = .outcomeUnknown
        case .unavailable(let reason): self = .unavailable(reason)
        }
    }
}

/// Where an etcd connection hears its answers. `deliver` is called off the event loop, once per batch of work: hand over and return.
package protocol EtcdSink: AnyObject, Sendable {
    func deliver(_ answers: [EtcdAnswer])
}

/// One etcd connection's way through the Barrier. Puts come sealed (`Barrier.putRequest`); answers are references that
/// `Barrier.open` turns into values, straight into the response.
///
/// What was sealed under a generation that a rotation retired meanwhile comes back refused (`staleKey`); it is opened, sealed again and
/// proposed again, unseen by the client. A transaction that compares by value runs beside, since it must read and open first.
package final class EtcdSession: AnswerSink {
    private let barrier: Barrier
    private let sink: any EtcdSink
    /// Commands under way that may have to be sealed again.
    private let pending = Mutex(PendingTable())
    private struct Pending { var command: Command, attempts = 0 }
    /// By ticket. Whoever numbers requests by small numbers, used again and again, is spared a hash of each.
    private struct PendingTable {
        private static let smallMax: UInt64 = 1 << 16
        private var small: [Pending?] = []
        private var large: [UInt64: Pending] = [:]
        mutating func insert(_ pending: Pending, for ticket: UInt64) {
            guard ticket < Self.smallMax else { return large[ticket] = pending }
            while small.count <= Int(ticket) { small.append(nil) }
            small[Int(ticket)] = pending
        }
        mutating func remove(_ ticket: UInt64) -> Pending? {
            guard ticket < Self.smallMax else { return large.removeValue(forKey: ticket) }
            return ticket < small.count ? small[Int(ticket)].take() : nil
        }
    }
    private static let attemptsMax = 4

    init(barrier: Barrier, sink: any EtcdSink) { self.barrier = barrier; self.sink = sink }

    /// A burst of requests, in one hand-over.
    package func submit(_ requests: [EtcdRequest]) {
        var submissions: [Submission] = []
        submissions.reserveCapacity(requests.count)
        pending.withLock { pending in
            for request in requests {
                guard let lowered = lower(request) else { continue }
                if case .propose(let command) = lowered, command.carriesSealedValues { pending.insert(Pending(command: command), for: request.ticket) }
                submissions.append(Submission(ticket: request.ticket, sink: self, request: lowered))
            }
        }
        if !submissions.isEmpty { barrier.service.submit(submissions) }
    }

    /// `nil`: it goes its own way (`compareValues`).
    private func lower(_ request: EtcdRequest) -> Submission.Request? {
        switch request.kind {
        case .put(let put): return .propose(.put(put))
        case .range(let range, let linearizable): return .range(range, linearizable: linearizable)
        case .deleteRange(let delete): return .propose(.deleteRange(delete))
        case .compact(let revision): return .propose(.compact(revision: revision))
        case .leaseGrant(let id, let seconds): return .propose(.leaseGrant(id: id, seconds: seconds))
        case .leaseRevoke(let id): return .propose(.leaseRevoke(id: id))
        case .leaseKeepAlive(let id): return .leaseKeepAlive(id)
        case .leaseStatus(let id, let withKeys): return .leaseStatus(id, withKeys: withKeys)
        case .leases: return .leases
        case .readIndex: return .readIndex
        case .transaction(let transaction):
            guard !transaction.comparesValues else {
                let ticket = request.ticket
                Task { await self.compareValues(transaction, ticket: ticket) }
                return nil
            }
            let lowered = transaction.lowered { range, relation, _ in Compare(range, relation, .resolved(false)) }
            return transaction.writes ? .propose(.transaction(lowered, guards: [])) : .read(lowered, guards: [], linearizable: true)
        }
    }

    package func deliver(_ answers: [Answer]) {
        var delivered: [EtcdAnswer] = [], again: [Submission] = []
        delivered.reserveCapacity(answers.count)
        pending.withLock { pending in
            for answer in answers {
                let retried = pending.remove(answer.ticket)
                if let retried, case .failure(.refused(.staleKey)) = answer.result, let next = retry(retried) {
                    pending.insert(next, for: answer.ticket)
                    again.append(Submission(ticket: answer.ticket, sink: self, request: .propose(next.command)))
                } else {
                    delivered.append(EtcdAnswer(ticket: answer.ticket, result: answer.result.mapError(EtcdFailure.init)))
                }
            }
        }
        if !again.isEmpty { barrier.service.submit(again) }
        if !delivered.isEmpty { sink.deliver(delivered) }
    }

    private func retry(_ stale: Pending) -> Pending? {
        guard stale.attempts < Self.attemptsMax, let command = try? barrier.sealedAgain(stale.command) else { return nil }
        return Pending(command: command, attempts: stale.attempts + 1)
    }

    private func compareValues(_ transaction: EtcdTransaction, ticket: UInt64) async {
        do {
            let body = try await barrier.transaction(transaction)
            sink.deliver([EtcdAnswer(ticket: ticket, result: .success(body))])
        } catch {
            sink.deliver([EtcdAnswer(ticket: ticket, result: .failure(error))])
        }
    }
}

extension Command {
    /// Whether apply may refuse it with `staleKey`.
    var carriesSealedValues: Bool {
        switch self {
        case .put(let put): if case .sealed = put.value { true } else { false }
        case .transaction: true
        default: false
        }
    }
}
