import Basics
import Glibc
import Logging
import MVCC
import Raft
import Replica
import Storage
import Synchronization
import WriteAheadLog

/// What the replica's thread owns: the replica, who waits for its answers, who watches. One turn:
///
/// 1. Take the mail (`Turns`).
/// 2. Proposals become entries, and go to the disk lane at once: it writes while the rest of the turn runs. To other members they go with
///    what the turn tells them besides, if it does.
/// 3. What became durable is applied (of a follower's the leader was told by the log's thread already), what other members said is heard; then
///    questions are answered, which so see the newest state.
/// 4. Every tick: Raft's timers, leases.
/// 5. Answers and events are delivered, one call per sink; watches that are behind get a chunk of history.
/// 6. Every tick: what was applied goes to the record lane, once the last of it came back.
///
/// Nothing in a turn blocks but the delivery to a sink, which must not.
final class ReplicaThread: @unchecked Sendable {
    var replica: Replica
    let shared: SharedState
    let disk: DiskLane
    var records: RecordLane
    let places: RecordPlaces
    let lane: (any PeerLane)?
    let mark: RepairMark
    /// `nil`: without a way to other members.
    let notes: PeerNotes?
    private var noteAt: Int64 = 0
    private static let noteMilliseconds: Int64 = 5_000
    let options: ReplicaService.Options
    let logger: Logger

    var effects = EffectBuffer()
    var desk = AnswerDesk()
    var hub: WatchHub
    var now: Int64 = 0
    var nextTick: Int64 = 0
    var standing: Raft.Standing
    var failure: String?
    /// To other members; sent twice a turn.
    var outbox: [PeerMessage] = []
    /// Snapshots on their way to other members.
    var sources: [MemberID: SnapshotSource] = [:]
    var transfers: [(target: MemberID, deadline: Int64, completion: @Sendable (ReplicaError?) -> Void)] = []
    /// Why this member has to begin anew, at the end of the turn; and how often it has. What is written of an earlier beginning is void.
    var leaving: String?
    var beginnings: UInt64 { shared.beginnings.withLock { $0 } }
    var ending: Mail.Ending?
    private var endingDeadline: Int64 = 0
    /// What was applied when the end began: others may have more applied here, without end.
    private var endingIndex: LogIndex = 0

    /// The frame of the log that was last durable.
    var anchor: LogAnchor?
    /// What the record lane is to have applied once it has written the present checkpoint.
    var storing: LogIndex?
    /// Readers that began before a compaction, and how long its records are kept for them.
    private var hold: (epoch: UInt64, deadline: Int64)?
    private var hasCompacted = false
    var databaseBytes: Int
    private var isSpaceShort = false
    /// On a loop: for when its next turn is scheduled at the latest, and whether there will be none.
    var wakesAt: Int64 = 0
    var isOver = false

    init(_ opened: consuming OpenedStore, shared: SharedState, lane: (any PeerLane)?, mark: RepairMark, notes: PeerNotes?, options: ReplicaService.Options, logger: Logger) {
        disk = opened.disk
        records = opened.records
        places = opened.places
        anchor = opened.anchor
        standing = opened.replica.raft.standing
        databaseBytes = (try? opened.records.statistics().fileBytes) ?? 0
        replica = opened.replica
        self.shared = shared
        self.lane = lane
        self.mark = mark
        self.notes = notes
        self.options = options
        self.logger = logger
        hub = WatchHub(eventsMax: options.watcherEventsMax, bytesMax: options.watcherBytesMax)
    }

    // MARK: - A turn

    func turn(_ mail: Mail) {
        now = monotonicMilliseconds()
        handle(.time(now))
        if let failure = mail.failure { fail(failure) }
        if let wanted = mail.ending { begin(wanted) }
        propose(mail.requests) // (2)
        // One frame to each member where the turn has more to tell them.
        if mail.logged.isEmpty, mail.received.isEmpty { flushOutbox() }
        if !mail.logged.isEmpty { // (3)
            let beginnings = beginnings
            for (stored, anchor, beginning) in mail.logged {
                self.anchor = anchor
                if beginning == beginnings { handle(.logged(stored)) }
            }
        }
        if !mail.received.isEmpty { handle(.received(mail.received)) }
        for order in mail.peerOrders { carryOut(order) }
        for installation in mail.installations { install(installation) }
        for replacement in mail.replacements { replace(replacement) }
        if let damage = mail.damage, replica.isClustered, standing.leader != nil, !isAnotherBeingRepaired { isWrong(damage) }
        ask(mail.requests)
        for (sink, ticket, error) in mail.rejected { desk.tell(sink, ticket, .failure(error)) }
        for index in mail.stored { stored(through: index) }
        for order in mail.watchOrders { carryOut(order) }
        for call in mail.calls { call(replica.store) }
        let isTickDue = now >= nextTick
        if isTickDue { tick() } // (4)
        if let leaving { leaveService(leaving) }
        flushOutbox()
        hub.answerProgress(revision: replica.store.revision)
        deliver() // (5)
        if hub.canCatchUp {
            hub.catchUp(replica.store, now: now)
            hub.answerProgress(revision: replica.store.revision)
            deliver()
        }
        if hasCompacted {
            hasCompacted = false
            hold = (shared.pins.seal(), now + options.pinMillisecondsMax)
        }
        if isTickDue || ending != nil { requestCheckpoint() } // (6)
        publishStatus()
    }

    private func propose(_ requests: [Mail.Request]) {
        var proposals: [Proposal] = []
        for request in requests {
            guard case .proposal(let command, let payload) = request.content else { continue }
            proposals.append(Proposal(ticket: desk.admit(request.sink, request.ticket, bytes: payload.count), command: command, payload: payload))
        }
        if !proposals.isEmpty { handle(.proposed(proposals)) }
        if failure != nil { desk.answerAll(.outcomeUnknown) }
    }

    private func ask(_ requests: [Mail.Request]) {
        var questions: [Question] = []
        for request in requests {
            guard case .question(let kind, let linearizable) = request.content else { continue }
            questions.append(Question(ticket: desk.admit(request.sink, request.ticket, bytes: 0), kind, linearizable: linearizable))
        }
        if !questions.isEmpty { handle(.asked(questions)) }
        if failure != nil { desk.answerAll(.outcomeUnknown) }
    }

    private func tick() {
        nextTick = now + options.tickMilliseconds
        watchSpace()
        handle(.tick)
        hub.tick(revision: replica.store.revision, now: now)
        tickTransfers()
        notePeers()
    }

    /// What is remembered of the others goes beside the records: who they are and that they began anew at once, what they acknowledged every
    /// few seconds.
    private func notePeers(all: Bool = false) {
        guard let notes, !replica.store.members.members.isEmpty else { return }
        let members = replica.store.members.members, witnesses = replica.witnesses, noted = notes.now
        shared.witnesses.withLock { $0 = witnesses }
        guard all || now >= noteAt || noted.members != members || noted.witnesses.map(\.run) != witnesses.map(\.run) else { return }
        noteAt = now + Self.noteMilliseconds
        notes.note(members: members, witnesses: witnesses)
    }

    /// Growing commands are refused while the log has no room to go on, or the records have none: what is left is for those that give room back.
    private func watchSpace() {
        let isLogShort = if case .failing(let failure) = disk.reserve { failure.isFull } else { false }
        let isShort = isLogShort || records.isFull
        guard isShort != isSpaceShort else { return }
        isSpaceShort = isShort
        if isShort { logger.warning("the disk is full: writes that grow the store are refused") } else { logger.notice("there is room again") }
        handle(.space(isShort: isShort))
    }

    private func carryOut(_ order: Mail.WatchOrder) {
        let revision = replica.store.revision
        switch order {
        case .register(let id, let range, let options, let sink):
            hub.register(id, range, options, sink, revision: revision, now: now)
            if let failure { hub.cancel(id, because: .unavailable(failure), revision: revision) }
        case .cancel(let id): hub.cancel(id, because: .requested, revision: revision)
        case .consumed(let id, let events): hub.consumed(id, events: events)
        case .progress(let ids, let sink): hub.requestProgress(ids, sink)
        }
    }

    private func deliver() {
        for (sink, answers) in desk.take() { sink.deliver(answers) }
        for (sink, deliveries) in hub.take() { sink.deliver(deliveries) }
    }

    // MARK: - Effects

    func handle(_ event: consuming Event) {
        guard failure == nil else { return }
        replica.watched = hub.watched
        replica.handle(event, into: &effects)
        for effect in effects.take() { perform(effect) }
    }

    func perform(_ effect: Effect) {
        switch effect {
        case .persist(let entries, let state, let afterwards, let stored): persist(entries, state, afterwards, stored)
        case .send(let messages): outbox.append(contentsOf: messages)
        case .restartLog(let position): restartLog(after: position)
        case .snapshotWanted(let member): sendSnapshot(to: member)
        case .replaced: shared.overlay.removeAll()
        case .membersChanged: publishMembers()
        case .outOfService(let reason): isWrong(reason)
        case .putBack(let reason, let isRepaired): takeBack(reason, isRepaired: isRepaired)
        case .recognized(let run): takePart(in: run)
        case .repaired: endRepair()
        case .written(let records): shared.overlay.insert(records)
        case .keysChanged: publishKeys()
        case .answer(let replies):
            guard failure == nil else { return }
            for reply in replies { desk.answer(reply.ticket, reply.result) }
        case .publish(let events, let revision): hub.publish(events, revision: revision, now: now)
        case .compacted: hasCompacted = true
        case .store(let checkpoint): store(checkpoint)
        case .standing(let standing):
            self.standing = standing
            answerTransfers()
            logger.debug("standing", metadata: ["position": "\(standing.position)", "term": "\(standing.term)"])
        case .cutLog(let index): disk.cut(before: index)
        case .halt(let reason): fail(reason)
        }
    }

    private func persist(_ entries: [Entry], _ state: HardState?, _ afterwards: [PeerMessage], _ stored: Raft.Stored) {
        let batch = LogBatch(
            entries: entries.map { LogEntry(index: $0.index, term: $0.term, isMembership: $0.kind == .membership, payload: $0.payload) },
            state: state.map { LogState(term: $0.term, vote: $0.vote, commit: $0.commit) })
        let beginning = beginnings
        disk.append(batch) { [shared, lane] result in
            switch result {
            case .success(let anchor):
                // Before this member could begin anew and say so: in this order the others must hear it.
                if !afterwards.isEmpty { shared.beginnings.withLock { if $0 == beginning { lane?.send(afterwards) } } }
                shared.mailbox.change(waking: { $0.awaitsLog }) { $0.mail.logged.append((stored, anchor, beginning)) }
            case .failure(let failure): shared.mailbox.change { $0.mail.failure = $0.mail.failure ?? "the log: \(failure)" }
            }
        }
    }

    // MARK: - Checkpoints

    private func requestCheckpoint() {
        guard storing == nil else { return }
        if let hold, ending == nil, now < hold.deadline, shared.pins.isHeld(through: hold.epoch) { return }
        hold = nil
        handle(.storeDue)
    }

    private func store(_ checkpoint: Checkpoint) {
        storing = checkpoint.applied
        shared.overlay.seal()
        publishKeys()
        let batch = RecordBatch(
            applied: checkpoint.applied, appliedTerm: replica.raft.log.term(at: checkpoint.applied) ?? 0, anchor: anchor, batches: checkpoint.batches,
            removed: checkpoint.removed, tables: checkpoint.tables)
        let (mailbox, overlay) = (shared.mailbox, shared.overlay)
        records.commit(batch) { result in
            if case .success = result { overlay.releaseSealed() }
            mailbox.change { mailbox in
                switch result {
                case .success: mailbox.mail.stored.append(checkpoint.applied)
                case .failure(let failure): mailbox.mail.failure = mailbox.mail.failure ?? "the records: \(failure)"
                }
            }
        }
        // It was gathered for a tick already.
        records.flush()
    }

    private func stored(through index: LogIndex) {
        guard storing == index else { return } // Of records that were replaced since.
        storing = nil
        if let statistics = try? records.statistics() { databaseBytes = statistics.fileBytes }
        handle(.stored(through: index))
    }

    // MARK: - Failing and ending

    /// Fail-stop: nothing is acknowledged any more, by anyone's mistake neither.
    func fail(_ reason: String) {
        guard failure == nil else { return }
        failure = reason
        logger.critical("the store has stopped: storage failed", metadata: ["reason": "\(reason)"])
        shared.mailbox.change { $0.closed = $0.closed ?? .unavailable(reason) }
        desk.answerAll(.outcomeUnknown)
        hub.cancelAll(because: .unavailable(reason), revision: replica.store.revision)
    }

    private func begin(_ wanted: Mail.Ending) {
        guard ending == nil || wanted == .abrupt else { return }
        if ending == nil {
            endingDeadline = now + options.closingMillisecondsMax
            endingIndex = replica.store.appliedIndex
        }
        ending = wanted
    }

    var hasEnded: Bool {
        switch ending {
        case nil: false
        case .abrupt: true
        case .graceful:
            failure != nil || now >= endingDeadline
                || (replica.proposalsWaiting == 0 && storing == nil
                    && replica.storedThrough >= (replica.isClustered ? endingIndex : replica.store.appliedIndex))
        }
    }

    func end() {
        let reason = "the store is closed"
        desk.answerAll(.outcomeUnknown)
        hub.cancelAll(because: .unavailable(failure ?? reason), revision: replica.store.revision)
        deliver()
        let last = shared.mailbox.change { mailbox in
            mailbox.isAbandoned = true
            return mailbox.take()
        }
        for request in last.requests { desk.tell(request.sink, request.ticket, .failure(.unavailable(failure ?? reason))) }
        for (sink, ticket, error) in last.rejected { desk.tell(sink, ticket, .failure(error)) }
        for case .register(let id, _, _, let sink) in last.watchOrders {
            sink.deliver([WatchDelivery(watch: id, content: .cancelled(.unavailable(failure ?? reason), revision: replica.store.revision))])
        }
        for call in last.calls { call(replica.store) }
        deliver()
        for (_, source) in sources { source.ended(installed: false) }
        for installation in last.installations {
            installation.lane.close()
            installation.completion(.unavailable(failure ?? reason))
        }
        for replacement in last.replacements { replacement.completion(false) }
        for transfer in transfers { transfer.completion(.unavailable(failure ?? reason)) }
        for case .transfer(_, let completion) in last.peerOrders { completion(.unavailable(failure ?? reason)) }
        disk.close()
        records.close()
        if ending == .graceful { notePeers(all: true) }
        notes?.settle()
        publishStatus(hasStopped: true)
    }

    // MARK: - What others see

    func version(of key: Bytes) -> KeyVersion? { replica.store.version(of: key) }

    func publishKeys() { shared.keys.withLock { $0 = replica.store.keys } }

    func publishStatus(hasStopped: Bool = false, hasBegun: Bool = true) {
        let condition: ReplicaStatus.Condition =
            if let failure { .failed(failure) } else if hasStopped { .stopped } else if standing.leader != nil { .running } else { .starting }
        var status = ReplicaStatus(
            condition: condition, member: replica.raft.member, leader: standing.leader, term: standing.term,
            revision: replica.store.revision, compactRevision: replica.store.compactRevision, logIndex: replica.raft.log.last.index,
            commitIndex: replica.raft.log.committed, appliedIndex: replica.store.appliedIndex, storedIndex: replica.storedThrough,
            databaseBytes: databaseBytes, keys: Int(replica.store.liveKeyCount), leases: replica.store.leaseCount,
            watches: hub.count, watchesCatchingUp: hub.countBehind, proposalsInFlight: 0, proposalBytesInFlight: 0)
        status.hasSpace = !isSpaceShort
        status.hasBegun = hasBegun
        status.isClustered = replica.isClustered
        if replica.isClustered {
            status.isLearner = replica.raft.membership.isLearner(replica.member)
            status.outOfService = replica.isOutOfService
            status.progress = replica.raft.progress.filter { $0.member != replica.member }.map {
                PeerProgress(member: $0.member, match: $0.match, isActive: $0.isActive)
            }
        }
        status.alarms = replica.store.members.alarms
        shared.status.change { $0 = status }
    }
}
