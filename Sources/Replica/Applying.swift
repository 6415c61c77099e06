import Basics
package import MVCC
package import Raft

// Committed entries become changes of the store, answers and events.
extension Replica {
    /// An entry that is to be applied, and who waits for it here.
    private struct Next {
        var command: Command
        var kind = Entry.Kind.ordinary
        var origin: Origin?
        var tickets: [Ticket] = []
    }

    mutating func apply(through: LogIndex, adopting raftEffects: inout [Raft.Effect], into effects: inout EffectBuffer) {
        let removedBefore = unstored.removed.count, revisionBefore = store.revision
        var replies: [Reply] = [], follow = Followed()
        unstored.records.reserveCapacity(Int(min(max(through, store.appliedIndex) - store.appliedIndex, 4_096)))
        unstored.watched = watched
        var prefetched = store.appliedIndex
        while store.appliedIndex < through {
            let index = store.appliedIndex + 1
            if index > prefetched {
                let log = raft.log
                prefetched = min(through, index + LogIndex(Store.prefetchMax) - 1)
                store.prefetch(count: Int(prefetched + 1 - index)) { log[index + LogIndex($0)].payload }
            }
            let next: Next
            do { next = try takeNext(index, &replies) } catch {
                isHalted = true
                effects.append(.halt("entry \(index) of the log does not decode: \(error)"))
                break
            }
            let result = apply(next, at: index, &follow, &replies, adopting: &raftEffects, into: &effects)
            if isClustered { applied(index, into: &effects) }
            for ticket in next.tickets { replies.append(reply(ticket, result)) }
        }
        if !unstored.records.isEmpty {
            var written: [Record] = []
            swap(&written, &unstored.records)
            unstoredRecords.append(written)
            effects.append(.written(written))
        }
        beginClock()
        if follow.keysChanged { effects.append(.keysChanged) }
        if unstored.removed.count > removedBefore { effects.append(.compacted(store.compactRevision)) }
        if !replies.isEmpty { effects.append(.answer(replies)) }
        if store.revision > revisionBefore { effects.append(.publish(unstored.events, revision: store.revision)) }
        if !Mutant.isActive(.eventsPublishedTwice) { unstored.events = [] }
        if follow.membersChanged { membersChanged(into: &effects) } else { reviewRepair(into: &effects) }
        answerReadable(into: &effects)
    }

    private func reply(_ ticket: Ticket, _ result: Result<CommandResult, CommandRefusal>) -> Reply {
        switch result {
        case .success(let result): Reply(ticket, .applied(result, revision: store.revision))
        case .failure(let refusal): Reply(ticket, .refused(refusal))
        }
    }

    /// Decoded, unless this member still holds what it proposed.
    private mutating func takeNext(_ index: LogIndex, _ replies: inout [Reply]) throws(MalformedBytes) -> Next {
        var tickets: [Ticket] = []
        for orphan in orphans.isEmpty ? [] : orphans.take(index) {
            // Another entry has its place: it did not happen, and never will.
            if orphan.index == index, orphan.term == raft.log.term(at: index) || Mutant.isActive(.deposedAcknowledges) { tickets.append(orphan.ticket) } else {
                replies.append(Reply(orphan.ticket, .notLeader(raft.leader)))
            }
        }
        if let proposal = proposals.take(index) {
            var next = Next(command: proposal.command, kind: proposal.command.changesMembership ? .membership : .ordinary, origin: proposal.origin)
            if let ticket = proposal.ticket { next.tickets = [ticket] }
            return next
        }
        let entry = raft.log[index]
        guard !entry.payload.isEmpty else { return Next(command: .none, kind: entry.kind, tickets: tickets) }
        let (origin, bytes) = try Origin.split(entry.payload)
        // What this member forwarded comes back as it was.
        if let origin, origin.member == member, let command = forwards.command(origin, of: entry.payload) {
            return Next(command: command, kind: entry.kind, origin: origin, tickets: tickets)
        }
        return Next(command: try Command(decoding: bytes), kind: entry.kind, origin: origin, tickets: tickets)
    }

    private mutating func apply(
        _ next: Next, at index: LogIndex, _ follow: inout Followed, _ replies: inout [Reply], adopting raftEffects: inout [Raft.Effect],
        into effects: inout EffectBuffer
    ) -> Result<CommandResult, CommandRefusal> {
        var command = next.command
        if let origin = next.origin, !store.admit(origin), !Mutant.isActive(.forwardedAppliedTwice) {
            // A second one, or one that came too late. If it waits here still, it was the latter.
            if origin.member == member {
                if origin.incarnation == forwards.incarnation, forwards.renew(origin.sequence) { forwards.sentAt = .min }
                if let last = store.members.lastForwarded(by: member), last.incarnation > forwards.incarnation {
                    forwards.outgrow(last.incarnation)
                    forwards.sentAt = .min
                }
            }
            command = .none
        }
        guard next.kind == .membership || command.changesMembership else {
            let result = store.apply(command, at: index, into: &unstored)
            self.follow(command, result, &follow)
            answerForwarded(next.origin, unless: command == .none, result, &replies)
            return result
        }
        let result = applyMembership(command, kind: next.kind, at: index, adopting: &raftEffects)
        follow.membersChanged = true
        answerForwarded(next.origin, unless: command == .none, result, &replies)
        return result
    }

    private mutating func answerForwarded(
        _ origin: Origin?, unless isVoid: Bool, _ result: Result<CommandResult, CommandRefusal>, _ replies: inout [Reply]
    ) {
        guard let origin, !isVoid, origin.member == member, origin.incarnation == forwards.incarnation,
              let pending = forwards.take(origin.sequence), let ticket = pending.ticket else { return }
        replies.append(reply(ticket, result))
    }

    /// Consensus follows each change of membership as it is applied, also one that changes nothing.
    private mutating func applyMembership(
        _ command: Command, kind: Entry.Kind, at index: LogIndex, adopting raftEffects: inout [Raft.Effect]
    ) -> Result<CommandResult, CommandRefusal> {
        // Only entries of this kind are waited for by consensus; no leader of ours makes others.
        guard kind == .membership else {
            _ = store.apply(.none, at: index, into: &unstored)
            return .failure(.conflict)
        }
        var membership = raft.membership
        let result: Result<CommandResult, CommandRefusal>
        do throws(MemberRefusal) {
            let changed = try self.membership(after: command)
            result = store.apply(command, at: index, into: &unstored)
            // A survivor that has yet to reduce its cluster counts on nobody else.
            if case .success = result, hasReduced || command.reduces { membership = changed }
        } catch {
            _ = store.apply(.none, at: index, into: &unstored)
            result = .failure(.member(error))
        }
        if case .success = result, command.reduces { hasReduced = true }
        store.keep(consensus: membership.encode(), into: &unstored)
        raft.adopt(membership, at: index, into: &raftEffects)
        let isAlone = membership.members == [member]
        if !isAlone, !isClustered { window.restart(after: index - 1) }
        isClustered = !isAlone
        return result
    }

    private func membership(after command: Command) throws(MemberRefusal) -> Membership {
        do throws(MembershipError) {
            switch command {
            case .member(.found(let members)):
                return try Membership(
                    voters: members.filter { !$0.isLearner }.map(\.id), outgoing: [], learners: members.filter(\.isLearner).map(\.id),
                    learnersNext: [], autoLeave: false)
            case .member(.reduce(let id)): return Membership(voters: [id])
            case .member(.change(let steps)):
                return try raft.membership.entering(MembershipChange(steps.map { step in
                    switch step {
                    case .add(let member): member.isLearner ? .addLearner(member.id) : .addVoter(member.id)
                    case .promote(let id): .addVoter(id)
                    case .demote(let id): .addLearner(id)
                    case .remove(let id): .remove(id)
                    }
                }))
            // An empty entry of this kind leaves a joint membership.
            default: return raft.membership.isJoint ? try raft.membership.leaving() : raft.membership
            }
        } catch { throw .notNow("\(error)") }
    }

    private struct Followed { var keysChanged = false, membersChanged = false }

    /// What a leader's clock and the host must know of an applied command.
    private mutating func follow(_ command: Command, _ result: Result<CommandResult, CommandRefusal>, _ followed: inout Followed) {
        guard case .success(let result) = result else { return }
        switch command {
        case .leaseGrant:
            if raft.isLeader, case .lease(let id, let seconds) = result { clock.granted(id, seconds: seconds, at: now) }
        case .leaseRevoke(let id):
            clock.revoked(id)
            clearing[id] = nil
        case .key: followed.keysChanged = true
        case .member, .alarm: followed.membersChanged = true
        default: break
        }
    }

    // MARK: - Snapshots

    /// May this member's store be replaced by another's as of `position`?
    package func admits(snapshotAt position: EntryPosition) -> Bool {
        raft.admits(storeAt: position) && position.index > store.appliedIndex
    }

    /// The store of another member, durable here, takes the place of this one's. Only if `admits(snapshotAt:)`.
    package mutating func install(_ new: consuming Store, at position: EntryPosition, into effects: inout EffectBuffer) throws(RestartError) {
        precondition(admits(snapshotAt: position), "a snapshot that is of no use")
        let membership: Membership
        do { membership = try new.members.consensus.map { bytes throws(MalformedBytes) in try Membership(decoding: bytes) } ?? raft.membership } catch {
            throw .membership(error)
        }
        if !raft.log.agrees(with: position) { effects.append(.restartLog(after: position)) }
        store = new
        (unstored, unstoredRecords) = (Applied(), [])
        checkpointIndex = position.index
        storedIndex = position.index
        window.restart(after: position.index)
        hashes.removeAll()
        var unknown = orphans.take(position.index).map(\.ticket)
        if let last = store.members.lastForwarded(by: member) {
            unknown += forwards.takeCovered(by: last)
            if last.incarnation > forwards.incarnation { forwards.outgrow(last.incarnation) }
        }
        isClustered = membership.members != [member]
        effects.append(.replaced(revision: store.revision))
        effects.append(.keysChanged)
        if !unknown.isEmpty { effects.append(.answer(unknown.map { Reply($0, .unknown) })) }
        step(.installed(position, membership), into: &effects)
        membersChanged(into: &effects)
        answerReadable(into: &effects)
    }
}

extension Command {
    var reduces: Bool { if case .member(.reduce) = self { true } else { false } }
}
