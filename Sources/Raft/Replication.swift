import Basics

/// What only a leader has.
struct Leadership: Sendable {
    /// In the voters' order.
    var progress: [Progress]
    var heartbeatElapsed = 0
    /// The last read round begun. Rounds are confirmed by number: a member that answers one answers all before it.
    var readSequence: UInt64 = 0
    /// Rounds not confirmed yet, in order.
    var rounds: [(sequence: UInt64, contexts: [Raft.ReadContext], index: LogIndex)] = []
    /// Reads that wait for the first commit of this term (§6.4 of the dissertation).
    var earlyReads: [Raft.ReadContext] = []

    init(voters: Majority, next: LogIndex) { progress = voters.voters.map { Progress(member: $0, next: next) } }

    subscript(member: MemberID) -> Progress? {
        get { progress.first { $0.member == member } }
        set {
            guard let newValue, let position = progress.firstIndex(where: { $0.member == member }) else { return }
            progress[position] = newValue
        }
    }
    var unansweredReads: [Raft.ReadContext] { rounds.flatMap(\.contexts) + earlyReads }
}

// §5.3: replication, as the leader and as its followers see it.
extension Raft {
    /// Runs `body` if this member leads. The leadership is taken out of the role meanwhile, so that it is changed in place;
    /// `body` does not change the role.
    mutating func lead(_ body: (inout Leadership, inout Raft) -> Void) {
        guard case .leader(var leadership) = role else { return }
        role = .follower(leader: member)
        body(&leadership, &self)
        role = .leader(leadership)
    }

    mutating func propose(_ payloads: [Bytes]) {
        guard isLeader else { return signals.append(.refused(count: payloads.count)) }
        let first = log.last.index + 1
        for payload in payloads { log.append(Entry(index: log.last.index + 1, term: term, payload: payload)) }
        signals.append(.accepted(first: first, count: payloads.count))
        lead { leadership, raft in raft.broadcastAppends(&leadership) }
    }

    /// §5.3, §5.4.2: an entry of this term that a majority has made durable is committed, and all before it.
    mutating func advanceCommit(_ leadership: inout Leadership) {
        let reached = configuration.voters.reached { leadership[$0]?.match ?? 0 }
        guard reached > log.committed, log.term(at: reached) == term else { return }
        log.commit(through: reached)
        if !leadership.earlyReads.isEmpty {
            let contexts = leadership.earlyReads
            leadership.earlyReads = []
            beginRound(contexts, &leadership)
        }
        broadcastAppends(&leadership)
    }

    mutating func broadcastAppends(_ leadership: inout Leadership) {
        for position in leadership.progress.indices where leadership.progress[position].member != member {
            sendAppends(to: &leadership.progress[position])
        }
    }

    /// As much as the window lets out. With `evenEmpty`, one message in any case: its rejection tells of lost ones.
    private mutating func sendAppends(to progress: inout Progress, evenEmpty: Bool = false) {
        var mustSend = evenEmpty || progress.commitTold < log.committed
        while true {
            let admitted = progress.admits(inFlightMax: configuration.inFlightMax)
            guard admitted || (mustSend && evenEmpty) else { return }
            let previous = progress.next - 1
            // A member that needs entries from before our log's beginning needs the store instead of the log.
            guard let previousTerm = log.term(at: previous),
                  let entries = admitted ? log.entries(after: previous, bytesMax: configuration.appendBytesMax) : [] else { return }
            guard !entries.isEmpty || mustSend else { return }
            outbox.append(send(.append(previous: EntryPosition(index: previous, term: previousTerm), entries: entries, commit: log.committed),
                               to: progress.member))
            progress.commitTold = log.committed
            mustSend = false
            if let last = entries.last { progress.sent(through: last.index) } else if case .probe = progress.flow { progress.sent(through: previous) }
        }
    }

    // MARK: - Answers

    mutating func confirmed(_ through: LogIndex, by sender: MemberID, _ leadership: inout Leadership) {
        // More than we ever sent: not from a correct member.
        guard var progress = leadership[sender], through <= log.last.index else { return }
        progress.isActive = true
        let news = progress.confirmed(through: through)
        leadership[sender] = progress
        if news { advanceCommit(&leadership) }
        if var progress = leadership[sender] {
            sendAppends(to: &progress)
            leadership[sender] = progress
        }
    }

    mutating func rejected(previous: LogIndex, hint: EntryPosition, by sender: MemberID, _ leadership: inout Leadership) {
        guard var progress = leadership[sender] else { return }
        progress.isActive = true
        if progress.rejected(previous: previous, agreement: log.lastPossibleAgreement(with: hint).index) { sendAppends(to: &progress) }
        leadership[sender] = progress
    }

    mutating func heartbeatAnswered(_ readSequence: UInt64, by sender: MemberID, _ leadership: inout Leadership) {
        guard var progress = leadership[sender], readSequence <= leadership.readSequence else { return }
        progress.isActive = true
        progress.resume()
        progress.readSequence = max(progress.readSequence, readSequence)
        if progress.match < log.last.index { sendAppends(to: &progress, evenEmpty: true) }
        leadership[sender] = progress
        confirmRounds(&leadership)
    }

    mutating func tickAsLeader() {
        if electionElapsed >= configuration.electionTicks {
            electionElapsed = 0
            guard quorumIsActive() else { return becomeFollower(term: term, leader: nil) }
        }
        lead { leadership, raft in
            leadership.heartbeatElapsed += 1
            guard leadership.heartbeatElapsed >= raft.configuration.heartbeatTicks else { return }
            raft.broadcastHeartbeats(&leadership)
        }
    }

    /// Check-quorum (§6.2 of the dissertation): a leader that no majority answers steps down.
    private mutating func quorumIsActive() -> Bool {
        var result = VoteResult.won
        lead { leadership, raft in
            result = raft.configuration.voters.result { $0 == raft.member || leadership[$0]?.isActive == true }
            for position in leadership.progress.indices { leadership.progress[position].isActive = false }
        }
        return result == .won
    }

    private mutating func broadcastHeartbeats(_ leadership: inout Leadership) {
        leadership.heartbeatElapsed = 0
        for progress in leadership.progress where progress.member != member {
            outbox.append(send(.heartbeat(commit: min(progress.match, log.committed), readSequence: leadership.readSequence),
                               to: progress.member))
        }
    }

    // MARK: - Reads (§6.4 of the dissertation)

    mutating func read(_ context: ReadContext) {
        guard isLeader else { return signals.append(.readRefused(context)) }
        lead { leadership, raft in
            if raft.log.term(at: raft.log.committed) == raft.term {
                raft.beginRound([context], &leadership)
            } else {
                leadership.earlyReads.append(context)
            }
        }
    }

    private mutating func beginRound(_ contexts: [ReadContext], _ leadership: inout Leadership) {
        leadership.readSequence += 1
        let sequence = leadership.readSequence
        leadership[member]?.readSequence = sequence
        leadership.rounds.append((sequence, contexts, log.committed))
        broadcastHeartbeats(&leadership)
        confirmRounds(&leadership)
    }

    private mutating func confirmRounds(_ leadership: inout Leadership) {
        let confirmed = configuration.voters.reached { leadership[$0]?.readSequence ?? 0 }
        let count = leadership.rounds.prefix { $0.sequence <= confirmed }.count
        for round in leadership.rounds.prefix(count) {
            for context in round.contexts { signals.append(.readable(context, index: round.index)) }
        }
        leadership.rounds.removeFirst(count)
    }

    // MARK: - As a follower

    mutating func accept(_ entries: [Entry], after previous: EntryPosition, commit: LogIndex, from leader: MemberID) {
        guard isContiguous(entries, after: previous) else { return }
        if previous.index < log.committed, !log.agrees(with: previous) || previous.index < log.base.index {
            // All that is committed here agrees with the leader's log: nothing to compare before it.
            afterwards.append(send(.appended(through: log.committed), to: leader))
            return
        }
        guard log.agrees(with: previous) else {
            let hint = log.lastPossibleAgreement(with: previous)
            afterwards.append(send(.appendRejected(previous: previous.index, hint: hint), to: leader))
            return
        }
        guard log.merge(entries) else { return }
        let through = entries.last?.index ?? previous.index
        log.commit(through: min(commit, through))
        afterwards.append(send(.appended(through: through), to: leader))
    }

    /// What a correct leader sends is; anything else is ignored.
    private func isContiguous(_ entries: [Entry], after previous: EntryPosition) -> Bool {
        var before = previous
        guard before.index <= LogIndex.max - LogIndex(entries.count) else { return false }
        for entry in entries {
            guard entry.index == before.index + 1, entry.term >= before.term, entry.term <= term else { return false }
            before = entry.position
        }
        return true
    }
}
