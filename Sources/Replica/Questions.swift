import Basics
import MVCC
import Raft

/// Whoever waits for an answer to a question.
struct Asked: Sendable {
    enum Asker: Sendable {
        case ticket(Ticket), member(MemberID, ForwardedID)
        /// The leader itself, for a learner that calls for help (`Repair`).
        case damaged(MemberID)
    }
    var asker: Asker
    var kind: Question.Kind
    var deadline: Int64
}

/// Questions that share a confirmation of consensus.
struct Round: Sendable {
    var context: Raft.ReadContext
    var asked: [Asked]
    /// Once confirmed: what must be applied here before they are answered.
    var index: LogIndex?
}

extension Question.Kind {
    /// Leases are timed by the leader alone.
    var forwarded: ForwardedQuestion.Kind? {
        switch self {
        case .leaseKeepAlive(let id): .leaseKeepAlive(id)
        case .leaseStatus(let id, let withKeys): .leaseStatus(id, withKeys: withKeys)
        case .range, .transaction, .revision, .leases: nil
        }
    }
}

extension Replica {
    mutating func ask(_ questions: [Question], into effects: inout EffectBuffer) {
        if let unfit { return effects.append(.answer(questions.map { Reply($0.ticket, unfit) })) }
        let deadline = now + configuration.requestMilliseconds
        var asked: [Asked] = [], replies: [Reply] = []
        for question in questions {
            if question.linearizable {
                asked.append(Asked(asker: .ticket(question.ticket), kind: question.kind, deadline: deadline))
            } else {
                replies.append(Reply(question.ticket, outcome(of: question.kind, into: &effects)))
            }
        }
        if !replies.isEmpty { effects.append(.answer(replies)) }
        ask(asked, into: &effects)
    }

    mutating func ask(_ asked: [Asked], into effects: inout EffectBuffer) {
        guard !asked.isEmpty else { return }
        guard isClustered, !raft.isLeader else { return begin(asked, into: &effects) }
        let here = asked.filter { $0.kind.forwarded == nil }
        for asked in asked {
            guard let kind = asked.kind.forwarded else { continue }
            switch asked.asker {
            case .ticket(let ticket): forwardQuestion(kind, ticket: ticket, deadline: asked.deadline, into: &effects)
            case .member, .damaged: answer(asked, .notLeader(raft.leader), into: &effects)
            }
        }
        guard raft.leader != nil else { return postponed.append(contentsOf: here) }
        if !here.isEmpty { begin(here, into: &effects) }
    }

    private mutating func begin(_ asked: [Asked], into effects: inout EffectBuffer) {
        lastContext += 1
        rounds.append(Round(context: lastContext, asked: asked))
        step(.read(lastContext), into: &effects)
    }

    mutating func readable(_ context: Raft.ReadContext, index: LogIndex, into effects: inout EffectBuffer) {
        guard let position = rounds.firstIndex(where: { $0.context == context }) else { return }
        rounds[position].index = index
        answerReadable(into: &effects)
    }

    mutating func readRefused(_ context: Raft.ReadContext, into effects: inout EffectBuffer) {
        guard let position = rounds.firstIndex(where: { $0.context == context }) else { return }
        let refused = rounds.remove(at: position).asked
        guard !isClustered else { return postponed.append(contentsOf: refused) }
        for asked in refused { answer(asked, .notLeader(raft.leader), into: &effects) }
    }

    mutating func answerReadable(into effects: inout EffectBuffer) {
        guard !rounds.isEmpty else { return }
        let applied = store.appliedIndex
        var ready: [Asked] = []
        rounds.removeAll { round in
            guard let index = round.index, index <= applied || Mutant.isActive(.readBeforeApplied) else { return false }
            ready.append(contentsOf: round.asked)
            return true
        }
        guard !ready.isEmpty else { return }
        var replies: [Reply] = []
        replies.reserveCapacity(ready.count)
        for asked in ready {
            if mustClearCheckpoint(before: asked, into: &effects) {
                postponed.append(asked)
                continue
            }
            let outcome = outcome(of: asked.kind, into: &effects)
            // Leadership went while it waited: the next leader knows.
            if case .notLeader = outcome, isClustered, asked.deadline > now {
                postponed.append(asked)
            } else if case .ticket(let ticket) = asked.asker {
                replies.append(Reply(ticket, outcome))
            } else {
                answer(asked, outcome, into: &effects)
            }
        }
        if !replies.isEmpty { effects.append(.answer(replies)) }
    }

    mutating func answer(_ asked: Asked, _ outcome: Outcome, into effects: inout EffectBuffer) {
        switch asked.asker {
        case .ticket(let ticket): effects.append(.answer([Reply(ticket, outcome)]))
        case .damaged(let learner): if case .revision = outcome { readmit(learner, into: &effects) }
        case .member(let asker, let id):
            let told: ForwardedOutcome.Kind = switch outcome {
            case .leaseKeptAlive(let id, let seconds, let revision): .leaseKeptAlive(id, seconds: seconds, revision: revision)
            case .leaseStatus(let id, let granted, let remaining, let keys, let revision):
                .leaseStatus(id, grantedSeconds: granted, remainingSeconds: remaining, keys: keys, revision: revision)
            case .refused: .leaseNotFound
            default: .notLeader(raft.leader)
            }
            effects.append(.send([PeerMessage(from: member, to: asker, .outcomes([ForwardedOutcome(id, told)]))]))
        }
    }

    /// Those whose time is over are answered, the others asked again.
    mutating func tickQuestions(into effects: inout EffectBuffer) {
        for position in rounds.indices.reversed() where rounds[position].asked.contains(where: { $0.deadline <= now }) {
            for asked in rounds.remove(at: position).asked { answer(asked, .notLeader(raft.leader), into: &effects) }
        }
        guard !postponed.isEmpty else { return }
        var waiting: [Asked] = []
        swap(&waiting, &postponed)
        for asked in waiting where asked.deadline <= now { answer(asked, .notLeader(raft.leader), into: &effects) }
        waiting.removeAll { $0.deadline <= now }
        if raft.leader == nil { postponed.append(contentsOf: waiting) } else { ask(waiting, into: &effects) }
    }

    func outcome(of kind: Question.Kind, at revision: Int64) throws(CommandRefusal) -> Outcome {
        switch kind {
        case .range(let request): return .range(try store.range(request), revision: revision)
        case .transaction(let transaction, let guards):
            return .applied(.operation(try store.read(transaction, guards: guards)), revision: revision)
        case .leaseStatus(let id, let withKeys): return try status(of: id, withKeys: withKeys)
        case .leases: return .leases(store.allLeases.map(\.id), revision: revision)
        case .revision, .leaseKeepAlive: return .revision(revision)
        }
    }

    private mutating func outcome(of kind: Question.Kind, into effects: inout EffectBuffer) -> Outcome {
        if case .leaseKeepAlive(let id) = kind { return keepAlive(id, into: &effects) }
        do throws(CommandRefusal) { return try outcome(of: kind, at: store.revision) } catch { return .refused(error) }
    }

    // MARK: - Leases

    private mutating func keepAlive(_ id: LeaseID, into effects: inout EffectBuffer) -> Outcome {
        guard raft.isLeader else { return .notLeader(raft.leader) }
        guard let seconds = clock.renewed(id, at: now) else { return .refused(.leaseNotFound) }
        return .leaseKeptAlive(id, seconds: seconds, revision: store.revision)
    }

    /// The next leader goes by the last checkpoint: a renewal is answered only when none from before it is left, nor under way.
    private mutating func mustClearCheckpoint(before asked: Asked, into effects: inout EffectBuffer) -> Bool {
        guard case .leaseKeepAlive(let id) = asked.kind, raft.isLeader, let lease = store.lease(id) else { return false }
        let isUnderWay = checkpointedThrough > store.appliedIndex && isCheckpointed(lease)
        guard lease.checkpointSeconds > 0 || isUnderWay, clock.renewed(id, at: now) != nil else {
            clearing[id] = nil
            return false
        }
        if clearing[id].map({ $0 <= store.appliedIndex }) ?? true {
            propose([Proposal(ticket: nil, command: .leaseCheckpoint([LeaseCheckpoint(id: id, remainingSeconds: 0)]))], into: &effects)
            clearing[id] = raft.log.last.index
        }
        return true
    }
    /// Shorter ones a new leader gives all their time again.
    private func isCheckpointed(_ lease: Lease) -> Bool { lease.seconds * 1000 > configuration.leaseCheckpointMilliseconds }

    private func status(of id: LeaseID, withKeys: Bool) throws(CommandRefusal) -> Outcome {
        guard let lease = store.lease(id) else { throw .leaseNotFound }
        guard raft.isLeader else { return .notLeader(raft.leader) }
        let milliseconds = clock.remainingMilliseconds(id, at: now) ?? 0
        return .leaseStatus(id, grantedSeconds: lease.seconds, remainingSeconds: max(0, milliseconds / 1000),
                            keys: withKeys ? store.keys(ofLease: id) : [], revision: store.revision)
    }

    mutating func beginClock() {
        guard let first = clockBeginsAt, raft.isLeader, store.appliedIndex >= first else { return }
        clockBeginsAt = nil
        clock.promote(store.allLeases, at: now, extraMilliseconds: configuration.leaseGraceMilliseconds)
        leaseCheckpointDue = now + configuration.leaseCheckpointMilliseconds
    }

    mutating func tickLeases(into effects: inout EffectBuffer) {
        let expired = clock.expired(at: now, limit: configuration.leaseBatchMax)
        propose(expired.map { Proposal(ticket: nil, command: .leaseRevoke(id: $0)) }, into: &effects)
        guard now >= leaseCheckpointDue else { return }
        leaseCheckpointDue = now + configuration.leaseCheckpointMilliseconds
        let checkpoints = store.allLeases.compactMap { lease -> LeaseCheckpoint? in
            guard isCheckpointed(lease), let left = clock.remainingMilliseconds(lease.id, at: now), left > 0 else { return nil }
            return LeaseCheckpoint(id: lease.id, remainingSeconds: (left + 999) / 1000)
        }
        for start in stride(from: 0, to: checkpoints.count, by: configuration.leaseBatchMax) {
            let some = Array(checkpoints[start..<min(start + configuration.leaseBatchMax, checkpoints.count)])
            propose([Proposal(ticket: nil, command: .leaseCheckpoint(some))], into: &effects)
            checkpointedThrough = raft.log.last.index
        }
    }
}
