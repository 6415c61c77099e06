import Basics

// §5.3: replication, as the leader and as its followers see it.
extension Raft {
    mutating func propose(_ payloads: [Bytes]) {
        guard isLeader else { return signals.append(.refused(count: payloads.count, because: .notLeading)) }
        lead { leadership, raft in
            guard leadership.transfer == nil, raft.farewell == .max else { return raft.signals.append(.refused(count: payloads.count, because: .transferring)) }
            raft.append(payloads, .ordinary, &leadership)
        }
    }

    /// All or nothing. Something is always let in while nothing waits, however large it is.
    mutating func append(_ payloads: [Bytes], _ kind: Entry.Kind, _ leadership: inout Leadership) {
        let bytes = payloads.reduce(0) { $0 + $1.count }
        guard leadership.uncommittedBytes == 0 || bytes == 0 || leadership.uncommittedBytes + bytes <= configuration.uncommittedBytesMax else {
            return signals.append(.refused(count: payloads.count, because: .tooMuchUncommitted))
        }
        leadership.uncommittedBytes += bytes
        let first = log.last.index + 1
        for payload in payloads { log.append(Entry(index: log.last.index + 1, term: term, kind: kind, payload: payload)) }
        if Mutant.isActive(.leaderCountsBeforeDurable), let own = leadership.position(of: member) {
            leadership.progress[own].isDurable(through: log.last.index)
        }
        signals.append(.accepted(first: first, count: payloads.count))
        broadcastAppends(&leadership)
    }

    /// §5.3, §5.4.2: an entry of this term that a majority has made durable is committed, and all before it.
    mutating func advanceCommit(_ leadership: inout Leadership) {
        let reached = membership.reached { leadership.match(of: $0) }, committed = log.committed
        guard reached > committed, log.term(at: reached) == term || Mutant.isActive(.oldTermCommittedByCounting) else { return }
        log.commit(through: reached)
        // Only what this leader proposed was counted.
        if !Mutant.isActive(.uncommittedNeverRefunded) {
            leadership.uncommittedBytes -= log.payloadBytes(from: max(committed + 1, leadership.firstIndex), through: reached)
        }
        if committed < leadership.firstIndex { beginWaitingReads(&leadership) }
        broadcastAppends(&leadership)
    }

    mutating func broadcastAppends(_ leadership: inout Leadership) {
        for position in leadership.progress.indices where leadership.progress[position].member != member {
            sendAppends(to: &leadership.progress[position])
        }
    }

    /// As much as the window lets out. With `evenEmpty`, one message in any case: its rejection tells of lost ones, also when
    /// the window is full of them.
    mutating func sendAppends(to progress: inout Progress, evenEmpty: Bool = false) {
        var mustSend = evenEmpty || progress.commitTold < log.committed
        while true {
            let admitted = progress.admits(inFlightMax: awaitsEachAnswer ? 1 : configuration.inFlightMax, bytesMax: configuration.inFlightBytesMax)
            guard admitted || (mustSend && evenEmpty && progress.flow != .snapshot) else { return }
            let previous = progress.next - 1
            guard let previousTerm = log.term(at: previous),
                  let entries = admitted ? log.entries(after: previous, bytesMax: configuration.appendBytesMax) : [] else {
                return wantSnapshot(for: &progress)
            }
            guard !entries.isEmpty || mustSend else { return }
            outbox.append(send(.append(previous: EntryPosition(index: previous, term: previousTerm), entries: entries, commit: log.committed),
                               to: progress.member))
            progress.commitTold = log.committed
            mustSend = false
            if let last = entries.last {
                progress.sent(through: last.index, bytes: entries.reduce(0) { $0 + $1.payload.count })
            } else if progress.isProbe {
                progress.sent(through: previous, bytes: 0)
            }
        }
    }

    /// A member that needs entries from before our log's beginning needs the store instead. Not one that does not answer.
    private mutating func wantSnapshot(for progress: inout Progress) {
        guard progress.isActive else { return }
        progress.needsSnapshot()
        signals.append(.snapshotWanted(for: progress.member))
    }

    // MARK: - Answers

    mutating func confirmed(_ through: LogIndex, by sender: MemberID, _ leadership: inout Leadership) {
        // More than we ever sent: not from a correct member.
        guard let position = leadership.position(of: sender), through <= log.last.index else { return }
        leadership.progress[position].isActive = true
        if leadership.progress[position].confirmed(through: through, base: log.base.index) {
            advanceCommit(&leadership)
            if leadership.transfer?.target == sender { urgeSuccessor(leadership) }
        }
        sendAppends(to: &leadership.progress[position])
    }

    mutating func rejected(previous: LogIndex, hint: EntryPosition, by sender: MemberID, _ leadership: inout Leadership) {
        guard let position = leadership.position(of: sender) else { return }
        leadership.progress[position].isActive = true
        if leadership.progress[position].rejected(previous: previous, agreement: log.lastPossibleAgreement(with: hint).index) {
            sendAppends(to: &leadership.progress[position])
        }
    }

    mutating func heartbeatAnswered(_ readSequence: UInt64, by sender: MemberID, _ leadership: inout Leadership) {
        guard let position = leadership.position(of: sender), readSequence <= leadership.reads.sequence else { return }
        leadership.progress[position].isActive = true
        leadership.progress[position].resume()
        if Mutant.isActive(.heartbeatCountsAsAppend) { confirmed(leadership.progress[position].next - 1, by: sender, &leadership) }
        let confirmed = Mutant.isActive(.readContextReused) ? leadership.reads.sequence : readSequence
        leadership.progress[position].readSequence = max(leadership.progress[position].readSequence, confirmed)
        if leadership.progress[position].match < log.last.index || leadership.progress[position].isProbe {
            sendAppends(to: &leadership.progress[position], evenEmpty: true)
        }
        confirmRounds(&leadership)
    }

    // MARK: - As a follower

    mutating func accept(_ entries: [Entry], after previous: EntryPosition, commit: LogIndex, from leader: MemberID) {
        guard isContiguous(entries, after: previous) else { return }
        if previous.index < log.committed, !log.agrees(with: previous) || previous.index < log.base.index {
            // All that is committed here agrees with the leader's log: nothing to compare before it.
            return answer(.appended(through: log.committed), about: log.committed, to: leader)
        }
        guard log.agrees(with: previous) || (Mutant.isActive(.appendWithoutAgreement) && previous.index <= log.last.index) else {
            let hint = log.lastPossibleAgreement(with: previous)
            return answer(.appendRejected(previous: previous.index, hint: hint), about: 0, to: leader)
        }
        guard log.merge(entries) else { return }
        let through = entries.last?.index ?? previous.index
        // What it tells is the commit index; that we have the rest, the leader was or will be told without being asked. Should that be lost, the
        // next heartbeat's probe tells nothing new and is answered.
        let isNewsOnly = entries.isEmpty && min(commit, through) > log.committed
        log.commit(through: min(commit, through))
        if isNewsOnly { return }
        answer(.appended(through: through), about: through, to: leader)
    }

    /// At once when all it depends on is durable already: this term, and the log up to `index`.
    mutating func answer(_ body: Message.Body, about index: LogIndex, to leader: MemberID) {
        let isDurable = durableTerm == term && index <= log.durable
        if isDurable || Mutant.isActive(.answerBeforeDurable) {
            outbox.append(send(body, to: leader))
        } else {
            afterwards.append(send(body, to: leader))
        }
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
