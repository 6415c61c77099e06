package import Basics
package import MVCC
package import Raft

/// One member's copy of the store: consensus, the store itself and the leases' clock as one value. Events in, effects out;
/// it knows no file, socket, thread or clock.
///
/// 1. `.proposed` commands become log entries: `.persist`. A follower forwards them to the leader.
/// 2. When they are durable (`.logged`) and committed, they are applied in log order: `.written`, `.publish`, `.answer`.
/// 3. What was applied is collected until the record lane asks (`.storeDue`), and given to it in one piece: `.store`.
/// 4. When that is durable (`.stored`), the log is not needed before the checkpoint that precedes it: `.cutLog`; but a window of it is kept
///    for followers that are behind.
///
/// Invariants:
/// - Only entries that are durable here are applied, so what the record lane holds never runs ahead of the log.
/// - The log reaches back at least to the applied index of the last durable checkpoint but one.
/// - A command is answered after it was applied here, and once; a forwarded one is applied once, however often it was sent.
/// - Restart: `Store` as the record lane has it, then the log's entries after its applied index, make the same state.
package struct Replica: ~Copyable, Sendable {
    package struct Configuration: Sendable {
        /// Its membership is that of the founders, or the single member's; the store's own takes its place once there is one.
        package var raft: Raft.Configuration
        /// The members a new cluster begins with; empty for a single member, and for one that joins.
        package var founders: [ClusterMember] = []
        /// `--force-new-cluster`: this member goes on alone.
        package var survivor: ClusterMember?
        /// It lost some of what it had acknowledged: it takes no part until a leader has made a learner of it, nor votes until it caught up.
        package var isRepairing = false
        /// The last run of this member that took part, as its disk has it; `nil`: the others are not asked what they know of it (`Recognition`).
        package var lastRun: UInt64?
        /// What this member remembers of the others.
        package var witnesses: [Witness] = []
        /// Learners that may be added; those under repair do not count.
        package var learnersMax = Limits.membersMax
        /// Tells the forwarded commands of this run from those of earlier ones: greater with each start, as clocks are.
        package var incarnation: UInt64 = 1
        /// What a new leader adds to every lease, so that clients which found no leader can still renew.
        package var leaseGraceMilliseconds: Int64 = 1_000
        /// Between the leader's checkpoints of long leases, as etcd's.
        package var leaseCheckpointMilliseconds: Int64 = 300_000
        /// Leases revoked, or checkpointed, at one tick.
        package var leaseBatchMax = 1_000
        /// How long a request waits for a leader's word: etcd's request timeout, and two elections.
        package var requestMilliseconds: Int64 = 7_000
        /// After so long without an answer, what was forwarded is sent again.
        package var resendMilliseconds: Int64 = 1_000
        /// Proposals that a leader lets wait before it refuses forwarded ones.
        package var proposalsMax = Limits.proposalsInFlightMax
        /// One forwarded command: what the leader's own log can hold.
        package var proposalBytesMax = Limits.logFrameBytesMax / 2
        /// Kept for followers that are behind, and several times as many by a leader that knows of one: they get the whole store otherwise.
        package var windowEntriesMax = 50_000
        package var windowBytesMax = 64 << 20
        /// Between the leader's words on the hash of its state, and between a damaged member's calls for help.
        package var hashMilliseconds: Int64 = 1_000
        /// A member that was not heard of for longer does not count as being at work, when members are changed.
        package var hearingMilliseconds: Int64 = 5_000
        package init(raft: Raft.Configuration) { self.raft = raft }
    }

    package let configuration: Configuration
    package internal(set) var raft: Raft
    package internal(set) var store: Store
    var clock = LeaseClock()
    var now: Int64 = 0
    var leaseCheckpointDue: Int64 = 0
    /// This leader's first entry, until that is applied: what was committed of leases before it, renewals too, is known only then.
    var clockBeginsAt: LogIndex?
    /// This leader's last checkpoints of leases are entries up to here.
    var checkpointedThrough: LogIndex = 0
    /// The entries that take back the checkpoints of leases which somebody renews.
    var clearing: [LeaseID: LogIndex] = [:]

    var proposals = ProposalQueue()
    var logged = LoggedForwards()
    /// Since when this member leads; the term of `proposals`.
    var leadingTerm: Term = 0
    var orphans = Orphans()
    var forwards: Forwards
    /// Questions that wait for a quorum's word, or for entries to be applied; in order of their contexts.
    var rounds: [Round] = []
    /// Refused by consensus; asked again until their time is over.
    var postponed: [Asked] = []
    var lastContext: Raft.ReadContext = 0

    /// Applied since the last checkpoint; events are told at once and not kept, and records are in `unstoredRecords` then: each batch is shared
    /// with whoever was told of it.
    var unstored = Applied()
    var unstoredRecords: [[Record]] = []
    /// Only events of these keys are published.
    package var watched = WatchedBytes.all
    var checkpointIndex: LogIndex
    var storedIndex: LogIndex
    var isHalted = false
    var isSpaceShort = false
    /// A member's disk is full, and says so by an alarm: it could not store what others would.
    var isSpaceShortSomewhere = false
    var spaceToldAt: Int64 = 0
    var wellToldAt: Int64 = 0
    var raftEffects: [Raft.Effect] = []

    // Of a member among others; idle in a single one.
    /// Whether there are others, or it is not known yet.
    package internal(set) var isClustered: Bool
    var window: LogWindow
    var hashes = HashHistory()
    var comparison = HashComparison()
    /// When each member was last heard of.
    var heard: [(member: MemberID, at: Int64)] = []
    var repair = Repair.none
    /// Members that this one met while it takes no part, and does not know.
    var strangers: [MemberID] = []
    var answering = Answering()
    var unfitness: String?
    var recognition: Recognition?
    /// Before the first event consensus is told to be still: what is committed already is applied with that.
    private var beginsQuarantined = false
    var witnessed: Witnesses
    /// Until then a survivor answers nobody: what is asked of it would count on members that are gone.
    var hasReduced: Bool

    package enum RestartError: Error, Equatable, Sendable, CustomStringConvertible {
        /// Entries are missing between the store's applied index and the log.
        case logDoesNotReach(applied: LogIndex, first: LogIndex)
        case logEndsBefore(applied: LogIndex, last: LogIndex)
        case gap(at: LogIndex)
        case membership(MalformedBytes)
        package var description: String {
            switch self {
            case .logDoesNotReach(let applied, let first): "the log begins with entry \(first), the records end with entry \(applied)"
            case .logEndsBefore(let applied, let last): "the log ends with entry \(last), the records with entry \(applied)"
            case .gap(let index): "the log has no entry \(index)"
            case .membership(let error): "the membership does not decode: \(error)"
            }
        }
    }

    /// From what was found on disk: the store as the record lane had it, and the log. Nothing is applied before a leader is elected.
    /// `beginning`: the position before the first entry, where it is known; a log without entries begins there.
    package init(
        _ configuration: Configuration, store: consuming Store, state: HardState, entries: [Entry], beginning: EntryPosition? = nil
    ) throws(RestartError) {
        var configuration = configuration
        if let survivor = configuration.survivor {
            configuration.raft.membership = Membership(voters: [survivor.id])
        } else if let bytes = store.members.consensus {
            do { configuration.raft.membership = try Membership(decoding: bytes) } catch { throw .membership(error) }
        }
        let isClustered = configuration.raft.membership.members != [configuration.raft.member]
        let log = try Self.log(entries, state: state, applied: store.appliedIndex, beginning: beginning, keepsAll: isClustered)
        self.configuration = configuration
        self.isClustered = isClustered
        raft = Raft(configuration.raft, state: state, log: log)
        witnessed = Witnesses(configuration.witnesses)
        window = LogWindow(after: log.base.index, entriesMax: configuration.windowEntriesMax, bytesMax: configuration.windowBytesMax)
        checkpointIndex = store.appliedIndex
        storedIndex = store.appliedIndex
        hasReduced = configuration.survivor == nil
        let earlier = store.members.lastForwarded(by: configuration.raft.member)
        forwards = Forwards(member: configuration.raft.member, incarnation: configuration.incarnation)
        if let earlier { forwards.outgrow(earlier.incarnation) }
        self.store = store
        isSpaceShortSomewhere = self.store.members.alarms.contains { $0.kind == .noSpace }
        if isClustered, log.base.index < self.store.appliedIndex {
            for index in (log.base.index + 1)...self.store.appliedIndex { window.append(raft.log[index].payload.count) }
        }
        if configuration.isRepairing {
            unfitness = "this member lost what it held, and is being repaired"
            repair = .lost(tellAt: 0)
            raft.forgetTail()
        }
        beginRecognition(isNew: state.term == 0 && entries.isEmpty && self.store.appliedIndex == 0)
        beginsQuarantined = configuration.isRepairing || isAsking
    }

    /// The log from the store's applied entry on, or as much as there is.
    private static func log(
        _ entries: [Entry], state: HardState, applied: LogIndex, beginning: EntryPosition?, keepsAll: Bool
    ) throws(RestartError) -> Log {
        for (entry, next) in zip(entries, entries.dropFirst()) where next.index != entry.index + 1 { throw .gap(at: entry.index + 1) }
        let base = beginning ?? .start
        let first = entries.first?.index ?? base.index + 1, last = entries.last?.index ?? base.index
        guard last >= applied else { throw .logEndsBefore(applied: applied, last: last) }
        if first == base.index + 1, applied == base.index || (keepsAll && applied >= base.index) {
            return Log(base: base, entries: entries, committed: state.commit, applied: applied)
        }
        guard first <= applied else { throw .logDoesNotReach(applied: applied, first: first) }
        let cut = keepsAll ? 0 : Int(applied - first)
        return Log(base: entries[cut].position, entries: Array(entries[(cut + 1)...]), committed: state.commit, applied: applied)
    }

    package var member: MemberID { configuration.raft.member }
    package var isLeader: Bool { raft.isLeader }
    package var proposalsWaiting: Int { proposals.count + forwards.count }
    /// The applied index that the record lane holds durably.
    package var storedThrough: LogIndex { storedIndex }
    /// Why this member answers nothing; `nil` when it is well.
    package var isOutOfService: String? { unfitness }
    /// What whoever asks is told meanwhile: that there is no leader, as long as that may pass.
    var unfit: Outcome? { unfitness.map { repair == .none ? .unavailable($0) : .notLeader(nil) } ?? (hasReduced ? nil : .notLeader(nil)) }
    package var isRepairing: Bool { repair != .none }
    var isLost: Bool { if case .lost = repair { true } else { false } }
    /// The members; the founders, as long as none of their words was applied; this member, where nobody has founded anything.
    package var members: [ClusterMember] {
        if !store.members.members.isEmpty { return store.members.members }
        if !configuration.founders.isEmpty { return configuration.founders }
        return raft.membership.isVoter(member) ? [configuration.survivor ?? ClusterMember(id: member, peerURLs: [])] : []
    }

    package mutating func handle(_ event: consuming Event, into effects: inout EffectBuffer) {
        guard !isHalted else { return refuse(event, into: &effects) }
        if beginsQuarantined {
            beginsQuarantined = false
            step(.quarantine(true), into: &effects)
        }
        switch event {
        case .time(let milliseconds): now = max(now, milliseconds)
        case .tick: tick(into: &effects)
        case .campaign: step(.campaign, into: &effects)
        case .proposed(let proposals): propose(proposals, into: &effects)
        case .asked(let questions): ask(questions, into: &effects)
        case .logged(let stored): step(.stored(stored), into: &effects)
        case .received(let messages): for message in messages { receive(message, into: &effects) }
        case .unreachable(let member): step(.unreachable(member), into: &effects)
        case .gone(let member): step(.gone(member), into: &effects)
        case .reachable(let member): ask(member, into: &effects)
        case .transfer(let member): step(.transfer(to: member), into: &effects)
        case .snapshotSent(let member, let index): step(.snapshotSent(to: member, at: index), into: &effects)
        case .storeDue: checkpoint(into: &effects)
        case .stored(let index): stored(index, into: &effects)
        case .space(let isShort):
            isSpaceShort = isShort
            spaceToldAt = 0
        }
    }

    private mutating func tick(into effects: inout EffectBuffer) {
        step(.tick, into: &effects)
        tickQuestions(into: &effects)
        if isClustered || !configuration.founders.isEmpty || !hasReduced { tickAmongMembers(into: &effects) }
        if raft.isLeader { tickLeases(into: &effects) }
    }

    // MARK: - Consensus

    /// `proposed`: what the event proposes, if it does.
    mutating func step(_ event: consuming Raft.Event, proposed: [Proposal] = [], into effects: inout EffectBuffer) {
        var raftEffects: [Raft.Effect] = []
        swap(&raftEffects, &self.raftEffects)
        raft.step(event, into: &raftEffects)
        // Applying a change of membership adds to what is to be done.
        var position = 0
        while position < raftEffects.count {
            switch raftEffects[position] {
            case .persist(let entries, let state, let afterwards, let stored):
                effects.append(.persist(entries, state, afterwards: afterwards.isEmpty ? [] : afterwards.map { PeerMessage($0) }, stored: stored))
            case .send(let messages):
                for message in messages { answering.sent(message, at: now) }
                effects.append(.send(messages.map { PeerMessage($0) }))
            case .release(let through): apply(through: through, adopting: &raftEffects, into: &effects)
            case .accepted(let first, _):
                for position in proposed.indices { if let origin = proposed[position].origin { logged.append(origin) } }
                proposals.append(proposed, from: first)
            case .refused(_, let refusal): refuse(proposed, because: refusal, into: &effects)
            case .readable(let context, let index): readable(context, index: index, into: &effects)
            case .readRefused(let context): readRefused(context, into: &effects)
            case .standing(let standing): take(standing, into: &effects)
            case .snapshotWanted(let member): effects.append(.snapshotWanted(for: member))
            }
            position += 1
        }
        raftEffects.removeAll(keepingCapacity: true)
        swap(&raftEffects, &self.raftEffects)
    }

    private mutating func take(_ standing: Raft.Standing, into effects: inout EffectBuffer) {
        clock.demote()
        if standing.position == .leader {
            leadingTerm = standing.term
            logged = LoggedForwards()
            clockBeginsAt = raft.log.last.index
            checkpointedThrough = 0
            clearing = [:]
            comparison = HashComparison()
            answering = Answering()
        } else {
            let abandoned = proposals.abandon()
            if isClustered {
                orphans.append(abandoned, term: leadingTerm, deadline: now + configuration.requestMilliseconds)
            } else if !abandoned.isEmpty {
                effects.append(.answer(abandoned.compactMap(\.ticket).map { Reply($0, .unknown) }))
            }
        }
        effects.append(.standing(standing))
        // At the next tick: a new leader's first entry precedes what waits here.
        if standing.leader != nil { forwards.sentAt = .min }
    }

    // MARK: - Proposing

    mutating func propose(_ proposed: [Proposal], into effects: inout EffectBuffer) {
        var proposed = proposed
        if let unfit {
            effects.append(.answer(proposed.compactMap(\.ticket).map { Reply($0, unfit) }))
            // A survivor's own proposals pass: one of them reduces its cluster.
            guard unfitness == nil else { return }
            proposed.removeAll { $0.ticket != nil }
        }
        if isSpaceShort || isSpaceShortSomewhere { proposed = withoutGrowing(proposed, into: &effects) }
        guard !proposed.isEmpty else { return }
        guard raft.isLeader || !isClustered else { return forward(proposed, into: &effects) }
        guard proposed.contains(where: \.command.changesMembership) else { return step(.propose(proposed.map(\.payload)), proposed: proposed, into: &effects) }
        let others = proposed.filter { !$0.command.changesMembership }
        if !others.isEmpty { step(.propose(others.map(\.payload)), proposed: others, into: &effects) }
        for proposal in proposed where proposal.command.changesMembership { change(proposal, into: &effects) }
    }

    /// Refuses what would grow the store, and answers the rest.
    private func withoutGrowing(_ proposed: [Proposal], into effects: inout EffectBuffer) -> [Proposal] {
        for proposal in proposed where proposal.command.growsStore { refuse(proposal, .noSpace, told: .noSpace, into: &effects) }
        return proposed.filter { !$0.command.growsStore }
    }

    /// To whoever waits for it, here or at another member. A forwarded one of our own waits on.
    func refuse(_ proposal: Proposal, _ outcome: Outcome, told: ForwardedOutcome.Kind, into effects: inout EffectBuffer) {
        if let origin = proposal.origin, origin.member != member {
            guard !isLogged(origin) else { return }
            effects.append(.send([PeerMessage(from: member, to: origin.member, .outcomes([ForwardedOutcome(ForwardedID(origin), told)]))]))
        } else if let ticket = proposal.ticket {
            effects.append(.answer([Reply(ticket, outcome)]))
        }
    }

    /// An earlier copy of a forwarded command was logged by this leader, or applied: what becomes of it is known by that, and a second copy is
    /// not to be called refused.
    func isLogged(_ origin: Origin) -> Bool {
        func includes(_ last: Origin?) -> Bool { last.map { (origin.incarnation, origin.sequence) <= ($0.incarnation, $0.sequence) } ?? false }
        return includes(store.members.lastForwarded(by: origin.member)) || includes(logged.last(of: origin.member))
    }

    private mutating func refuse(_ proposed: [Proposal], because refusal: Raft.Refusal, into effects: inout EffectBuffer) {
        switch refusal {
        case .notLeading, .transferring:
            let leader = raft.leader == member ? nil : raft.leader
            guard isClustered else { return effects.append(.answer(proposed.compactMap(\.ticket).map { Reply($0, .notLeader(leader)) })) }
            let own = proposed.filter { $0.origin == nil && $0.ticket != nil }
            for proposal in proposed where proposal.origin != nil { refuse(proposal, .notLeader(leader), told: .notLeader(leader), into: &effects) }
            if !own.isEmpty { forward(own, into: &effects) }
        case .tooMuchUncommitted:
            for proposal in proposed { refuse(proposal, .overloaded, told: .overloaded, into: &effects) }
        case .changeUnderWay, .wrongMembership:
            let refusal = MemberRefusal.Told.underWay
            for proposal in proposed { refuse(proposal, .refused(.member(refusal.refusal)), told: .refused(refusal), into: &effects) }
        }
    }

    /// A halted member answers, and does nothing.
    private func refuse(_ event: Event, into effects: inout EffectBuffer) {
        switch event {
        case .proposed(let proposals): effects.append(.answer(proposals.compactMap(\.ticket).map { Reply($0, .notLeader(nil)) }))
        case .asked(let questions): effects.append(.answer(questions.map { Reply($0.ticket, .notLeader(nil)) }))
        default: break
        }
    }

    // MARK: - Checkpoints

    private mutating func checkpoint(into effects: inout EffectBuffer) {
        guard store.appliedIndex > checkpointIndex || !unstoredRecords.isEmpty else { return }
        store.checkpoint(into: &unstored)
        checkpointIndex = store.appliedIndex
        effects.append(.store(Checkpoint(
            applied: checkpointIndex + (Mutant.isActive(.appliedIndexAhead) ? 1 : 0), batches: unstoredRecords, removed: unstored.removed,
            tables: unstored.tables)))
        (unstored, unstoredRecords) = (Applied(), [])
    }

    /// A record that the store has, and whose value was damaged on the disk: it is stored anew with the next checkpoint. False: the store
    /// has no such record any more.
    package mutating func restore(_ record: Record) -> Bool {
        let version = record.version
        let history = try? store.changes(in: KeyRange(version.key), from: version.revision.main, through: version.revision.main, limit: 1)
        guard store.version(of: version.key) == version || history?.events.contains(where: { $0.version == version }) == true else { return false }
        unstoredRecords.append([record])
        return true
    }

    private mutating func stored(_ index: LogIndex, into effects: inout EffectBuffer) {
        guard index > storedIndex else { return }
        // One checkpoint is kept in reserve: should the newest be lost, the log still reaches the one before.
        let previous = storedIndex
        storedIndex = index
        let floor = isClustered ? min(previous, window.first - 1) : previous
        guard floor > 0, floor > raft.log.base.index else { return }
        raft.compact(through: floor)
        effects.append(.cutLog(before: Mutant.isActive(.logCutTooFar) ? raft.log.last.index : floor))
    }
}

extension Command {
    /// Whether it travels as a membership entry.
    var changesMembership: Bool {
        guard case .member(let command) = self else { return false }
        return switch command {
        case .found, .change, .reduce: true
        case .update, .publish: false
        }
    }
}
