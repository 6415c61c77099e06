package import Basics
package import MVCC
package import Raft

/// One member's copy of the store: consensus, the store itself and the leases' clock as one value. Events in, effects out;
/// it knows no file, socket, thread or clock.
///
/// 1. `.proposed` commands become log entries: `.persist`.
/// 2. When they are durable (`.logged`) and committed, they are applied in log order: `.written`, `.publish`, `.answer`.
/// 3. What was applied is collected until the record lane asks (`.storeDue`), and given to it in one piece: `.store`.
/// 4. When that is durable (`.stored`), the log is not needed before the checkpoint that precedes it: `.cutLog`.
///
/// Invariants:
/// - Only entries that are durable here are applied, so what the record lane holds never runs ahead of the log.
/// - The log reaches back at least to the applied index of the last durable checkpoint but one.
/// - A command is answered after it was applied, and once.
/// - Restart: `Store` as the record lane has it, then the log's entries after its applied index, make the same state.
package struct Replica: ~Copyable, Sendable {
    package struct Configuration: Sendable {
        package var raft: Raft.Configuration
        /// What a new leader adds to every lease, so that clients which found no leader can still renew.
        package var leaseGraceMilliseconds: Int64 = 1_000
        /// Between the leader's checkpoints of long leases, as etcd's.
        package var leaseCheckpointMilliseconds: Int64 = 300_000
        /// Leases revoked, or checkpointed, at one tick.
        package var leaseBatchMax = 1_000
        package init(raft: Raft.Configuration) { self.raft = raft }
    }

    package let configuration: Configuration
    package private(set) var raft: Raft
    package private(set) var store: Store
    private var clock = LeaseClock()
    private var now: Int64 = 0
    private var leaseCheckpointDue: Int64 = 0

    private var proposals = ProposalQueue()
    /// Questions that wait for a quorum's word, or for entries to be applied; in order of their contexts.
    private var questions: [(context: Raft.ReadContext, questions: [Question], index: LogIndex?)] = []
    private var lastContext: Raft.ReadContext = 0

    /// Applied since the last checkpoint; events are told at once and not kept.
    private var unstored = Applied()
    private var checkpointIndex: LogIndex
    private var storedIndex: LogIndex
    private var isHalted = false
    private var isSpaceShort = false
    private var raftEffects: [Raft.Effect] = []

    package enum RestartError: Error, Equatable, Sendable, CustomStringConvertible {
        /// Entries are missing between the store's applied index and the log.
        case logDoesNotReach(applied: LogIndex, first: LogIndex)
        case logEndsBefore(applied: LogIndex, last: LogIndex)
        case gap(at: LogIndex)
        package var description: String {
            switch self {
            case .logDoesNotReach(let applied, let first): "the log begins with entry \(first), the records end with entry \(applied)"
            case .logEndsBefore(let applied, let last): "the log ends with entry \(last), the records with entry \(applied)"
            case .gap(let index): "the log has no entry \(index)"
            }
        }
    }

    /// From what was found on disk: the store as the record lane had it, and the log. Nothing is applied before a leader is elected.
    package init(_ configuration: Configuration, store: consuming Store, state: HardState, entries: [Entry]) throws(RestartError) {
        let log = try Self.log(entries, state: state, applied: store.appliedIndex)
        self.configuration = configuration
        raft = Raft(configuration.raft, state: state, log: log)
        checkpointIndex = store.appliedIndex
        storedIndex = store.appliedIndex
        self.store = store
    }

    /// The log from the store's applied entry on.
    private static func log(_ entries: [Entry], state: HardState, applied: LogIndex) throws(RestartError) -> Log {
        for (entry, next) in zip(entries, entries.dropFirst()) where next.index != entry.index + 1 { throw .gap(at: entry.index + 1) }
        let first = entries.first?.index ?? 1, last = entries.last?.index ?? 0
        guard applied > 0 else {
            guard first == 1 else { throw .logDoesNotReach(applied: 0, first: first) }
            return Log(entries: entries, committed: state.commit)
        }
        guard last >= applied else { throw .logEndsBefore(applied: applied, last: last) }
        guard first <= applied else { throw .logDoesNotReach(applied: applied, first: first) }
        let base = entries[Int(applied - first)].position
        return Log(base: base, entries: Array(entries[(Int(applied - first) + 1)...]), committed: state.commit, applied: applied)
    }

    package var isLeader: Bool { raft.isLeader }
    package var proposalsWaiting: Int { proposals.count }
    /// The applied index that the record lane holds durably.
    package var storedThrough: LogIndex { storedIndex }

    package mutating func handle(_ event: consuming Event, into effects: inout EffectBuffer) {
        guard !isHalted else { return refuse(event, into: &effects) }
        switch event {
        case .time(let milliseconds): now = max(now, milliseconds)
        case .tick: tick(into: &effects)
        case .campaign: step(.campaign, into: &effects)
        case .proposed(let proposals): propose(proposals, into: &effects)
        case .asked(let questions): ask(questions, into: &effects)
        case .logged(let stored): step(.stored(stored), into: &effects)
        case .received(let messages): for message in messages { step(.received(message), into: &effects) }
        case .storeDue: checkpoint(into: &effects)
        case .stored(let index): stored(index, into: &effects)
        case .space(let isShort): isSpaceShort = isShort
        }
    }

    // MARK: - Consensus

    /// `proposed`: what the event proposes, if it does.
    private mutating func step(_ event: consuming Raft.Event, proposed: [Proposal] = [], into effects: inout EffectBuffer) {
        var raftEffects: [Raft.Effect] = []
        swap(&raftEffects, &self.raftEffects)
        raft.step(event, into: &raftEffects)
        for effect in raftEffects {
            switch effect {
            case .persist(let entries, let state, let afterwards, let stored):
                effects.append(.persist(entries, state, afterwards: afterwards, stored: stored))
            case .send(let messages): effects.append(.send(messages))
            case .release(let through): apply(through: through, into: &effects)
            case .accepted(let first, _): proposals.append(proposed, from: first)
            case .refused: refuse(proposed, into: &effects)
            case .readable(let context, let index): readable(context, index: index, into: &effects)
            case .readRefused(let context): readRefused(context, into: &effects)
            case .standing(let standing): take(standing, into: &effects)
            case .snapshotWanted(let member): step(.snapshotSent(to: member, at: nil), into: &effects)
            }
        }
        raftEffects.removeAll(keepingCapacity: true)
        swap(&raftEffects, &self.raftEffects)
    }

    private mutating func take(_ standing: Raft.Standing, into effects: inout EffectBuffer) {
        if standing.position == .leader {
            clock.promote(store.allLeases, at: now, extraMilliseconds: configuration.leaseGraceMilliseconds)
            leaseCheckpointDue = now + configuration.leaseCheckpointMilliseconds
        } else {
            clock.demote()
            let abandoned = proposals.abandon()
            if !abandoned.isEmpty { effects.append(.answer(abandoned.map { Reply($0, .unknown) })) }
        }
        effects.append(.standing(standing))
    }

    private mutating func propose(_ proposed: [Proposal], into effects: inout EffectBuffer) {
        let proposed = isSpaceShort ? withoutGrowing(proposed, into: &effects) : proposed
        guard !proposed.isEmpty else { return }
        step(.propose(proposed.map(\.payload)), proposed: proposed, into: &effects)
    }

    /// Refuses what would grow the store, and answers the rest.
    private func withoutGrowing(_ proposed: [Proposal], into effects: inout EffectBuffer) -> [Proposal] {
        let replies = proposed.filter(\.command.growsStore).compactMap(\.ticket).map { Reply($0, .noSpace) }
        if !replies.isEmpty { effects.append(.answer(replies)) }
        return proposed.filter { !$0.command.growsStore }
    }

    private func refuse(_ proposed: [Proposal], into effects: inout EffectBuffer) {
        let leader = raft.leader
        effects.append(.answer(proposed.compactMap(\.ticket).map { Reply($0, .notLeader(leader)) }))
    }

    /// A halted member answers, and does nothing.
    private func refuse(_ event: Event, into effects: inout EffectBuffer) {
        switch event {
        case .proposed(let proposals): effects.append(.answer(proposals.compactMap(\.ticket).map { Reply($0, .notLeader(nil)) }))
        case .asked(let questions): effects.append(.answer(questions.map { Reply($0.ticket, .notLeader(nil)) }))
        default: break
        }
    }

    // MARK: - Applying

    private mutating func apply(through: LogIndex, into effects: inout EffectBuffer) {
        let recordsBefore = unstored.records.count, removedBefore = unstored.removed.count, revisionBefore = store.revision
        var replies: [Reply] = [], keysChanged = false
        while store.appliedIndex < through {
            let index = store.appliedIndex + 1
            let proposal = proposals.take(index)
            let command: Command
            if let proposal { command = proposal.command } else {
                do { command = try Self.decode(raft.log[index].payload) } catch {
                    isHalted = true
                    effects.append(.halt("entry \(index) of the log does not decode: \(error)"))
                    break
                }
            }
            let result = store.apply(command, at: index, into: &unstored)
            follow(command, result, keysChanged: &keysChanged)
            guard let ticket = proposal?.ticket else { continue }
            switch result {
            case .success(let result): replies.append(Reply(ticket, .applied(result, revision: store.revision)))
            case .failure(let refusal): replies.append(Reply(ticket, .refused(refusal)))
            }
        }
        if unstored.records.count > recordsBefore { effects.append(.written(Array(unstored.records[recordsBefore...]))) }
        if keysChanged { effects.append(.keysChanged) }
        if unstored.removed.count > removedBefore { effects.append(.compacted(store.compactRevision)) }
        if !replies.isEmpty { effects.append(.answer(replies)) }
        if store.revision > revisionBefore { effects.append(.publish(unstored.events, revision: store.revision)) }
        unstored.events.removeAll(keepingCapacity: true)
        answerReadable(into: &effects)
    }

    private static func decode(_ payload: Bytes) throws(MalformedBytes) -> Command {
        payload.isEmpty ? .none : try Command(decoding: payload)
    }

    /// What a leader's clock and the host must know of an applied command.
    private mutating func follow(_ command: Command, _ result: Result<CommandResult, CommandRefusal>, keysChanged: inout Bool) {
        guard case .success(let result) = result else { return }
        switch command {
        case .leaseGrant:
            if raft.isLeader, case .lease(let id, let seconds) = result { clock.granted(id, seconds: seconds, at: now) }
        case .leaseRevoke(let id): clock.revoked(id)
        case .key: keysChanged = true
        default: break
        }
    }

    // MARK: - Questions

    private mutating func ask(_ asked: [Question], into effects: inout EffectBuffer) {
        var linearizable: [Question] = []
        for question in asked where question.linearizable { linearizable.append(question) }
        if linearizable.count < asked.count {
            var replies: [Reply] = []
            for question in asked where !question.linearizable { replies.append(answer(question, into: &effects)) }
            effects.append(.answer(replies))
        }
        guard !linearizable.isEmpty else { return }
        lastContext += 1
        questions.append((lastContext, linearizable, nil))
        step(.read(lastContext), into: &effects)
    }

    private mutating func readable(_ context: Raft.ReadContext, index: LogIndex, into effects: inout EffectBuffer) {
        guard let position = questions.firstIndex(where: { $0.context == context }) else { return }
        questions[position].index = index
        answerReadable(into: &effects)
    }

    private mutating func readRefused(_ context: Raft.ReadContext, into effects: inout EffectBuffer) {
        guard let position = questions.firstIndex(where: { $0.context == context }) else { return }
        let leader = raft.leader
        effects.append(.answer(questions.remove(at: position).questions.map { Reply($0.ticket, .notLeader(leader)) }))
    }

    private mutating func answerReadable(into effects: inout EffectBuffer) {
        guard !questions.isEmpty else { return }
        let applied = store.appliedIndex
        var ready: [Question] = []
        questions.removeAll { round in
            guard let index = round.index, index <= applied else { return false }
            ready.append(contentsOf: round.questions)
            return true
        }
        guard !ready.isEmpty else { return }
        var replies: [Reply] = []
        replies.reserveCapacity(ready.count)
        for question in ready { replies.append(answer(question, into: &effects)) }
        effects.append(.answer(replies))
    }

    private mutating func answer(_ question: Question, into effects: inout EffectBuffer) -> Reply {
        Reply(question.ticket, outcome(of: question.kind, into: &effects))
    }

    private mutating func outcome(of kind: Question.Kind, into effects: inout EffectBuffer) -> Outcome {
        let revision = store.revision
        do throws(CommandRefusal) {
            switch kind {
            case .range(let request): return .range(try store.range(request), revision: revision)
            case .transaction(let transaction, let guards):
                return .applied(.operation(try store.read(transaction, guards: guards)), revision: revision)
            case .revision: return .revision(revision)
            case .leaseKeepAlive(let id): return keepAlive(id, into: &effects)
            case .leaseStatus(let id, let withKeys): return try status(of: id, withKeys: withKeys)
            case .leases: return .leases(store.allLeases.map(\.id), revision: revision)
            }
        } catch { return .refused(error) }
    }

    // MARK: - Leases

    private mutating func keepAlive(_ id: LeaseID, into effects: inout EffectBuffer) -> Outcome {
        guard raft.isLeader else { return .notLeader(raft.leader) }
        guard let seconds = clock.renewed(id, at: now) else { return .refused(.leaseNotFound) }
        if let lease = store.lease(id), lease.checkpointSeconds > 0 {
            propose([Proposal(ticket: nil, command: .leaseCheckpoint([LeaseCheckpoint(id: id, remainingSeconds: 0)]))], into: &effects)
        }
        return .leaseKeptAlive(id, seconds: seconds, revision: store.revision)
    }

    private func status(of id: LeaseID, withKeys: Bool) throws(CommandRefusal) -> Outcome {
        guard let lease = store.lease(id) else { throw .leaseNotFound }
        guard raft.isLeader else { return .notLeader(raft.leader) }
        let milliseconds = clock.remainingMilliseconds(id, at: now) ?? 0
        return .leaseStatus(id, grantedSeconds: lease.seconds, remainingSeconds: max(0, milliseconds / 1000),
                            keys: withKeys ? store.keys(ofLease: id) : [], revision: store.revision)
    }

    private mutating func tick(into effects: inout EffectBuffer) {
        step(.tick, into: &effects)
        guard raft.isLeader else { return }
        let expired = clock.expired(at: now, limit: configuration.leaseBatchMax)
        propose(expired.map { Proposal(ticket: nil, command: .leaseRevoke(id: $0)) }, into: &effects)
        guard now >= leaseCheckpointDue else { return }
        leaseCheckpointDue = now + configuration.leaseCheckpointMilliseconds
        let checkpoints = store.allLeases.compactMap { lease -> LeaseCheckpoint? in
            guard lease.seconds * 1000 > configuration.leaseCheckpointMilliseconds,
                  let left = clock.remainingMilliseconds(lease.id, at: now), left > 0 else { return nil }
            return LeaseCheckpoint(id: lease.id, remainingSeconds: (left + 999) / 1000)
        }
        for start in stride(from: 0, to: checkpoints.count, by: configuration.leaseBatchMax) {
            let some = Array(checkpoints[start..<min(start + configuration.leaseBatchMax, checkpoints.count)])
            propose([Proposal(ticket: nil, command: .leaseCheckpoint(some))], into: &effects)
        }
    }

    // MARK: - Checkpoints

    private mutating func checkpoint(into effects: inout EffectBuffer) {
        guard store.appliedIndex > checkpointIndex else { return }
        store.checkpoint(into: &unstored)
        checkpointIndex = store.appliedIndex
        effects.append(.store(Checkpoint(applied: checkpointIndex, records: unstored.records, removed: unstored.removed, tables: unstored.tables)))
        unstored = Applied()
    }

    private mutating func stored(_ index: LogIndex, into effects: inout EffectBuffer) {
        guard index > storedIndex else { return }
        // One checkpoint is kept in reserve: should the newest be lost, the log still reaches the one before.
        let previous = storedIndex
        storedIndex = index
        guard previous > 0 else { return }
        raft.compact(through: previous)
        effects.append(.cutLog(before: previous))
    }
}
