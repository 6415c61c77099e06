import Basics

/// Reads that a leader has yet to confirm (§6.4 of the dissertation).
///
///     waiting ── the term has a commit, and a round is free ──▶ a round ── a quorum answered a heartbeat that left after it began ──▶ answered
///
/// Rounds are numbered, and heartbeats carry the number: a member that answers one answers all before it.
/// Invariant: at most `readRoundsMax` rounds; what is asked meanwhile shares the next one.
struct ReadQueue: Sendable {
    enum Asker: Hashable, Sendable { case host(Raft.ReadContext), member(MemberID, request: UInt64) }
    struct Round: Sendable {
        var sequence: UInt64
        var askers: [Asker]
        var index: LogIndex
        var begunAt: UInt64
    }
    /// `until` a tick, nobody can have been elected: every quorum has a member that heard us less than an election timeout before.
    enum Lease: Hashable, Sendable { case none, until(UInt64), broken }
    /// Of the last round begun.
    var sequence: UInt64 = 0
    /// Not confirmed yet, in order.
    var rounds: [Round] = []
    var waiting: [Asker] = []
    /// Since the leadership began.
    var ticks: UInt64 = 0
    var lease = Lease.none

    func holds(_ asker: Asker) -> Bool { waiting.contains(asker) || rounds.contains { $0.askers.contains(asker) } }
}

/// Reads that a follower asked of its leader. Their names begin at a random number, so that an answer to a question from
/// before a restart answers nothing.
struct ForwardedReads: Sendable {
    struct Request: Sendable {
        var name: UInt64
        var contexts: [Raft.ReadContext]
        var age = 0
    }
    var nextRequest: UInt64
    var requests: [Request] = []
    var waiting: [Raft.ReadContext] = []
    init(firstRequest: UInt64) { nextRequest = firstRequest }
}

extension Raft {
    mutating func read(_ context: ReadContext) {
        switch role {
        case .leader: lead { leadership, raft in raft.read(.host(context), &leadership) }
        case .follower(leader: _?) where Mutant.isActive(.followerReadsAlone): signals.append(.readable(context, index: log.committed))
        case .follower(leader: _?): forward(context)
        case .follower, .preCandidate, .candidate: signals.append(.readRefused(context))
        }
    }

    private mutating func read(_ asker: ReadQueue.Asker, _ leadership: inout Leadership) {
        let hasCommit = log.committed >= leadership.firstIndex || Mutant.isActive(.readBeforeFirstCommit)
        if hasCommit, isAlone || holdsLease(leadership.reads) { return answer(asker, index: log.committed) }
        guard leadership.reads.waiting.count < configuration.readsWaitingMax else { return refuse(asker) }
        leadership.reads.waiting.append(asker)
        if hasCommit, leadership.reads.rounds.count < configuration.readRoundsMax { beginWaitingReads(&leadership) }
    }

    /// Its own word is a quorum's.
    var isAlone: Bool { !membership.isJoint && membership.voters.voters.count == 1 && membership.isVoter(member) }

    private func holdsLease(_ reads: ReadQueue) -> Bool {
        guard configuration.leaseReads, case .until(let tick) = reads.lease else { return false }
        return reads.ticks < tick
    }

    private mutating func answer(_ asker: ReadQueue.Asker, index: LogIndex) {
        switch asker {
        case .host(let context): signals.append(.readable(context, index: index))
        case .member(let member, let request): outbox.append(send(.readResponse(request, index: index), to: member))
        }
    }

    /// A member that hears nothing asks again, or gives up.
    private mutating func refuse(_ asker: ReadQueue.Asker) {
        if case .host(let context) = asker { signals.append(.readRefused(context)) }
    }

    mutating func refuseReads(of leadership: Leadership) {
        if Mutant.isActive(.readSurvivesLeadership) { for asker in leadership.reads.waiting { answer(asker, index: log.committed) } }
        for round in leadership.reads.rounds { for asker in round.askers { refuse(asker) } }
        for asker in leadership.reads.waiting { refuse(asker) }
    }

    mutating func beginWaitingReads(_ leadership: inout Leadership) {
        guard !leadership.reads.waiting.isEmpty else { return }
        let askers = leadership.reads.waiting
        leadership.reads.waiting = []
        if isAlone {
            for asker in askers { answer(asker, index: log.committed) }
        } else {
            beginRound(askers, &leadership)
        }
    }

    private mutating func beginRound(_ askers: [ReadQueue.Asker], _ leadership: inout Leadership) {
        leadership.reads.sequence += 1
        if let own = leadership.position(of: member) { leadership.progress[own].readSequence = leadership.reads.sequence }
        leadership.reads.rounds.append(ReadQueue.Round(
            sequence: leadership.reads.sequence, askers: askers, index: log.committed, begunAt: leadership.reads.ticks))
        broadcastHeartbeats(&leadership)
    }

    /// A leader's heartbeat. Where leases count, each is a round, though nobody may have asked.
    mutating func beat(_ leadership: inout Leadership) {
        guard configuration.leaseReads, log.committed >= leadership.firstIndex, leadership.reads.rounds.count < configuration.readRoundsMax else {
            return broadcastHeartbeats(&leadership)
        }
        let askers = leadership.reads.waiting
        leadership.reads.waiting = []
        beginRound(askers, &leadership)
    }

    mutating func confirmRounds(_ leadership: inout Leadership) {
        guard !leadership.reads.rounds.isEmpty else { return }
        let answered = membership.reached { leadership.position(of: $0).map { leadership.progress[$0].readSequence } ?? 0 }
        let confirmed = Mutant.isActive(.readRoundNotConfirmed) ? .max : answered
        let count = leadership.reads.rounds.prefix { $0.sequence <= confirmed }.count
        guard count > 0 else { return }
        for round in leadership.reads.rounds.prefix(count) {
            for asker in round.askers { answer(asker, index: round.index) }
            // One tick less than what members wait: theirs and ours do not begin at one moment.
            guard leadership.reads.lease != .broken, configuration.leaseReads else { continue }
            leadership.reads.lease = .until(round.begunAt + UInt64(configuration.electionTicks) - 1)
        }
        leadership.reads.rounds.removeFirst(count)
        beginWaitingReads(&leadership)
    }

    // MARK: - Asked by a follower, and of the leader

    mutating func answerReadRequest(_ request: UInt64, of sender: MemberID) {
        lead { leadership, raft in
            let asker = ReadQueue.Asker.member(sender, request: request)
            guard leadership.position(of: sender) != nil, !leadership.reads.holds(asker) else { return }
            raft.read(asker, &leadership)
        }
    }

    private mutating func forward(_ context: ReadContext) {
        guard forwarded.waiting.count < configuration.readsWaitingMax else { return signals.append(.readRefused(context)) }
        forwarded.waiting.append(context)
        if forwarded.requests.count < configuration.readRoundsMax { forwardWaiting() }
    }

    private mutating func forwardWaiting() {
        guard let leader, !forwarded.waiting.isEmpty else { return }
        forwarded.requests.append(ForwardedReads.Request(name: forwarded.nextRequest, contexts: forwarded.waiting))
        forwarded.waiting = []
        outbox.append(send(.readRequest(forwarded.nextRequest), to: leader))
        forwarded.nextRequest &+= 1
    }

    mutating func readAnswered(_ request: UInt64, index: LogIndex) {
        guard let position = forwarded.requests.firstIndex(where: { $0.name == request }) else { return }
        for context in forwarded.requests.remove(at: position).contexts { signals.append(.readable(context, index: index)) }
        forwardWaiting()
    }

    /// Question or answer may be lost: asks again with every heartbeat's time, and gives up after an election timeout.
    mutating func tickForwardedReads() {
        guard !forwarded.requests.isEmpty else { return }
        for position in forwarded.requests.indices { forwarded.requests[position].age += 1 }
        guard let leader, forwarded.requests.allSatisfy({ $0.age < configuration.electionTicks }) else { return refuseForwardedReads() }
        for request in forwarded.requests where request.age % configuration.heartbeatTicks == 0 {
            outbox.append(send(.readRequest(request.name), to: leader))
        }
    }

    mutating func refuseForwardedReads() {
        guard !forwarded.requests.isEmpty || !forwarded.waiting.isEmpty else { return }
        for request in forwarded.requests { for context in request.contexts { signals.append(.readRefused(context)) } }
        for context in forwarded.waiting { signals.append(.readRefused(context)) }
        forwarded.requests = []
        forwarded.waiting = []
    }
}
