import Basics
import MVCC
import Raft

/// A damaged member on its way back.
///
///     lost ── a leader made a learner of it, and says so ──▶ readmitted ── caught up, and made a voter again ──▶ none
///                                                                      └─── caught up, and was a learner before ───▶ none
///
/// Until it is readmitted it neither hears nor answers consensus: what it acknowledged and lost must not be counted on, and what it voted
/// it does not know. The leader first makes a learner of it, by a quorum of the others. Who is a learner already is believed to be one only
/// by a leader that a quorum has heard since the call: another one might not know that it was made a voter meanwhile, and is counted.
///
/// It calls those it knew when the damage was found, and whoever speaks to it since (`meet`): all others may have been replaced meanwhile.
enum Repair: Hashable, Sendable {
    case none
    case lost(tellAt: Int64)
    /// What the store says once it holds all of the leader's log up to here is not from before the damage.
    case readmitted(through: LogIndex)
}

/// The leader's comparison of what it and the others say they hold.
struct HashComparison: Sendable {
    var dueAt: Int64 = 0
    /// The entry that the last word was about.
    var index: LogIndex = 0
    var reports: [(member: MemberID, hash: StateHash)] = []
    /// As a follower: a leader's word on an entry that is not applied here yet.
    var awaited: (leader: MemberID, index: LogIndex)?
}

// What members say to each other beside consensus.
extension Replica {
    mutating func receive(_ message: PeerMessage, into effects: inout EffectBuffer) {
        // Not for us, or from nobody: a mistake of the sender's, and no reason to stop.
        guard message.to == member, message.from != member, message.from.rawValue != 0 else { return }
        meet(message.from)
        if receiveMemory(message, into: &effects) || isAsking { return }
        if isLost {
            guard case .readmitted(let through) = message.body else { return }
            repair = .readmitted(through: through)
            if Mutant.isActive(.damagedVoterReadmitted) { endRepair(into: &effects) }
            return
        }
        // Whoever lost what it held is not at work.
        if case .lost = message.body { heard.removeAll { $0.member == message.from } } else { hear(message.from) }
        switch message.body {
        case .raft(let inner):
            guard inner.from == message.from, inner.to == member else { return }
            witness(inner)
            answering.received(inner, at: now)
            raft.awaitsEachAnswer = !answering.isSlow(at: now)
            step(.received(inner), into: &effects)
        case .forward(let commands): take(commands, from: message.from, into: &effects)
        case .questions(let questions):
            let deadline = now + configuration.requestMilliseconds
            let asked = questions.map { question in
                let kind: Question.Kind = switch question.kind {
                case .leaseKeepAlive(let id): .leaseKeepAlive(id)
                case .leaseStatus(let id, let withKeys): .leaseStatus(id, withKeys: withKeys)
                }
                return Asked(asker: .member(message.from, question.id), kind: kind, deadline: deadline)
            }
            ask(asked, into: &effects)
        case .outcomes(let outcomes): for outcome in outcomes { take(outcome, into: &effects) }
        case .hash(let index, _): compare(index, for: message.from, into: &effects)
        case .hashed(let index, let hash): judge(hash, at: index, of: message.from, into: &effects)
        case .lost: help(message.from, into: &effects)
        case .readmitted, .recall, .recalled, .takesPart, .noted: break // a second one; and those that were taken above
        }
    }

    private mutating func hear(_ other: MemberID) {
        for position in heard.indices where heard[position].member == other { return heard[position].at = now }
        if heard.count < Limits.membersMax { heard.append((other, now)) }
    }
    private func isHeard(_ other: MemberID) -> Bool {
        other == member || heard.contains { $0.member == other && now - $0.at <= configuration.hearingMilliseconds }
    }

    mutating func tickAmongMembers(into effects: inout EffectBuffer) {
        tickForwards(into: &effects)
        let expired = orphans.takeExpired(now)
        if !expired.isEmpty { effects.append(.answer(expired.map { Reply($0, .unknown) })) }
        if case .lost(let tellAt) = repair, now >= tellAt {
            repair = .lost(tellAt: now + configuration.hashMilliseconds)
            let others = members.map(\.id).filter { $0 != member } + strangers
            if !others.isEmpty { effects.append(.send(others.map { PeerMessage(from: member, to: $0, .lost) })) }
        }
        tickRecognition(into: &effects)
        window.wanted = raft.progress.map(\.match).min().map { $0 + 1 } ?? .max
        tellSpace(into: &effects)
        tellWell(into: &effects)
        guard raft.isLeader else { return }
        found(into: &effects)
        guard now >= comparison.dueAt else { return }
        comparison.dueAt = now + configuration.hashMilliseconds
        tellHash(into: &effects)
        restoreVoters(into: &effects)
    }

    /// The other members refuse what this one has no room for, until it has.
    private mutating func tellSpace(into effects: inout EffectBuffer) {
        let alarm = Alarm(.noSpace, of: member)
        guard isClustered, raft.leader != nil, now >= spaceToldAt, store.members[member] != nil,
              isSpaceShort != store.members.hasAlarm(.noSpace, of: member) else { return }
        spaceToldAt = now + configuration.hashMilliseconds
        let proposal = Proposal(ticket: nil, command: .alarm(alarm, isRaised: isSpaceShort))
        if raft.isLeader { propose([proposal], into: &effects) } else { forward([proposal], evenUnawaited: true, into: &effects) }
    }

    /// A call for help may arrive when it has been answered already: then there is an alarm, and nothing to repair.
    private mutating func tellWell(into effects: inout EffectBuffer) {
        let alarm = Alarm(.repairing, of: member)
        guard repair == .none, unfitness == nil, raft.leader != nil, now >= wellToldAt, raft.membership.isVoter(member),
              store.members.alarms.contains(alarm) else { return }
        wellToldAt = now + configuration.hashMilliseconds
        let proposal = Proposal(ticket: nil, command: .alarm(alarm, isRaised: false))
        if raft.isLeader { propose([proposal], into: &effects) } else { forward([proposal], evenUnawaited: true, into: &effects) }
    }

    // MARK: - Forwarding, as the origin

    mutating func forward(_ proposed: [Proposal], evenUnawaited: Bool = false, into effects: inout EffectBuffer) {
        let first = forwards.upcoming
        for proposal in proposed {
            // What nobody waits for is the leader's own affair.
            guard proposal.ticket != nil || evenUnawaited else { continue }
            forwards.append(proposal, deadline: now + configuration.requestMilliseconds)
        }
        sendForwards(from: first, into: &effects)
    }
    mutating func forwardQuestion(_ kind: ForwardedQuestion.Kind, ticket: Ticket, deadline: Int64, into effects: inout EffectBuffer) {
        let first = forwards.upcoming
        forwards.ask(kind, ticket: ticket, deadline: deadline)
        sendForwards(from: first, into: &effects)
    }
    private mutating func sendForwards(from first: Forwards.Sequences, into effects: inout EffectBuffer) {
        guard let leader = raft.leader, leader != member, forwards.sentAt > .min else { return }
        let messages = forwards.messages(to: leader, from: first)
        if !messages.isEmpty { effects.append(.send(messages)) }
    }

    private mutating func tickForwards(into effects: inout EffectBuffer) {
        let (unknown, unsent) = forwards.takeExpired(now)
        let replies = unknown.map { Reply($0, .unknown) } + unsent.map { Reply($0, .notLeader(raft.leader)) }
        if !replies.isEmpty { effects.append(.answer(replies)) }
        let due = forwards.sentAt == .min || now - forwards.sentAt >= configuration.resendMilliseconds
        guard due, let leader = raft.leader else { return }
        if leader != member {
            forwards.sentAt = now
            sendForwards(from: (0, 0), into: &effects)
        } else if !forwards.isEmpty, raft.transferTarget == nil {
            forwards.sentAt = now
            let asked = forwards.questions.compactMap { forwards.takeQuestion($0.sequence) }
            let proposed = forwards.proposals().filter { proposal in !(proposal.origin.map(logged.contains) ?? false) }
            if !proposed.isEmpty { proposeForwarded(proposed, into: &effects) }
            ask(asked.map { Asked(asker: .ticket($0.ticket), kind: $0.kind.question, deadline: $0.deadline) }, into: &effects)
        }
    }

    private mutating func take(_ outcome: ForwardedOutcome, into effects: inout EffectBuffer) {
        // To an earlier run of this member; or it is sent again, when it is known who leads.
        guard outcome.id.incarnation == forwards.incarnation else { return }
        if case .notLeader = outcome.kind { return }
        let sequence = outcome.id.sequence
        let answered: Outcome = switch outcome.kind {
        case .notLeader(let leader): .notLeader(leader)
        case .noSpace: .noSpace
        case .overloaded: .overloaded
        case .malformed: .refused(.limitReached)
        case .refused(let told): .refused(.member(told.refusal))
        case .leaseNotFound: .refused(.leaseNotFound)
        case .leaseKeptAlive(let id, let seconds, let revision): .leaseKeptAlive(id, seconds: seconds, revision: revision)
        case .leaseStatus(let id, let granted, let remaining, let keys, let revision):
            .leaseStatus(id, grantedSeconds: granted, remainingSeconds: remaining, keys: keys, revision: revision)
        }
        switch outcome.kind {
        case .leaseNotFound, .leaseKeptAlive, .leaseStatus:
            if let asked = forwards.takeQuestion(sequence) { effects.append(.answer([Reply(asked.ticket, answered)])) }
        default:
            if let ticket = forwards.takeRefused(sequence)?.ticket { effects.append(.answer([Reply(ticket, answered)])) }
        }
    }

    // MARK: - Forwarding, as the leader

    private mutating func take(_ commands: [ForwardedCommand], from origin: MemberID, into effects: inout EffectBuffer) {
        var proposed: [Proposal] = [], refused: [ForwardedOutcome] = []
        for command in commands {
            // Without its run nobody could be told.
            guard let parsed = try? Origin.split(command.payload), let from = parsed.origin, from.member == origin, from.sequence == command.sequence else { continue }
            let id = ForwardedID(from)
            guard command.payload.count <= configuration.proposalBytesMax + Origin.encodedBytes, let decoded = try? Command(decoding: parsed.command),
                  decoded.published.map({ $0 == origin }) ?? true else {
                refused.append(ForwardedOutcome(id, .malformed))
                continue
            }
            if !raft.isLeader {
                refused.append(ForwardedOutcome(id, .notLeader(raft.leader)))
            } else if logged.contains(from) {
                continue // It asks again since it did not hear of it yet; another copy would only hold up what it waits for.
            } else if proposals.count + proposed.count >= configuration.proposalsMax {
                if !isLogged(from) { refused.append(ForwardedOutcome(id, .overloaded)) }
            } else {
                proposed.append(Proposal(from, decoded, payload: command.payload))
            }
        }
        if !refused.isEmpty { effects.append(.send([PeerMessage(from: member, to: origin, .outcomes(refused))])) }
        if !proposed.isEmpty { proposeForwarded(proposed, into: &effects) }
    }

    /// In order of their sequences: a change of members between others, too.
    private mutating func proposeForwarded(_ proposed: [Proposal], into effects: inout EffectBuffer) {
        var rest = proposed[...]
        while let first = rest.first {
            if first.command.changesMembership {
                propose([rest.removeFirst()], into: &effects)
            } else {
                let run = rest.prefix { !$0.command.changesMembership }
                rest = rest.dropFirst(run.count)
                propose(Array(run), into: &effects)
            }
        }
    }

    // MARK: - Members

    /// As the leader.
    mutating func change(_ proposal: Proposal, into effects: inout EffectBuffer) {
        if case .member(.change) = proposal.command, store.members.members.isEmpty {
            return refuse(proposal, .refused(.member(MemberRefusal.Told.notFounded.refusal)), told: .refused(.notFounded), into: &effects)
        }
        if case .member(.change(let steps)) = proposal.command, let objection = objection(to: steps) {
            return refuse(proposal, .refused(.member(objection.refusal)), told: .refused(objection), into: &effects)
        }
        step(.change(payload: proposal.payload), proposed: [proposal], into: &effects)
    }

    /// etcd's strict check of a reconfiguration: enough of the voters there will be must be at work now; a learner must have kept up.
    private func objection(to steps: [MemberStep]) -> MemberRefusal.Told? {
        var voters = Majority(raft.membership.voters.voters).voters
        let before = voters
        let addsLearner = steps.contains { if case .add(let member) = $0 { member.isLearner } else { false } }
        let learners = store.members.members.filter { $0.isLearner && !store.members.hasAlarm(.repairing, of: $0.id) }
        guard !addsLearner || learners.count < configuration.learnersMax else { return .tooManyLearners }
        for step in steps {
            switch step {
            case .add(let member): if !member.isLearner { voters.append(member.id) }
            case .promote(let id):
                guard let progress = raft.progress.first(where: { $0.member == id }) else { return nil } // apply says why
                guard progress.match >= raft.log.last.index - raft.log.last.index / 10 else { return .notInSync(id) }
                voters.append(id)
            case .demote(let id), .remove(let id): voters.removeAll { $0 == id }
            }
        }
        guard Majority(voters) != Majority(before), before.count > 1, !voters.isEmpty else { return nil }
        // A voter that lost what it held calls for help, and votes no more.
        let damaged = store.members.alarms.filter { $0.kind != .noSpace && before.contains($0.member) }.map(\.member)
        let atWork = Majority(voters).voters.count { isHeard($0) && (before.contains($0) || raft.membership.isLearner($0)) && !damaged.contains($0) }
        return atWork >= Majority(voters).quorum ? nil : .losesQuorum
    }

    /// The first leader writes down who founded the cluster; a survivor, who is left of it.
    private mutating func found(into effects: inout EffectBuffer) {
        if store.members.members.isEmpty {
            let founders = configuration.survivor.map { [$0] } ?? configuration.founders
            guard !founders.isEmpty else { return }
            propose([Proposal(ticket: nil, command: .member(.found(founders)))], into: &effects)
        } else if !hasReduced {
            propose([Proposal(ticket: nil, command: .member(.reduce(to: member)))], into: &effects)
        }
    }

    mutating func membersChanged(into effects: inout EffectBuffer) {
        effects.append(.membersChanged)
        witnessed.forget(store.members.removed)
        isSpaceShortSomewhere = store.members.alarms.contains { $0.kind == .noSpace }
        reviewRepair(into: &effects)
        guard unfitness == nil, repair == .none, store.members.hasAlarm(.corrupt, of: member) else { return }
        let reason = "what this member holds is not what the others hold"
        unfitness = reason
        step(.quarantine(true), into: &effects)
        effects.append(.outOfService(reason))
    }

    // MARK: - Repair

    mutating func reviewRepair(into effects: inout EffectBuffer) {
        guard case .readmitted(let through) = repair, store.appliedIndex >= through, let own = store.members[member] else { return }
        // A voter again by an entry behind that one; or nobody means to make one of it.
        guard own.isLearner ? !store.members.hasAlarm(.repairing, of: member) : store.appliedIndex > through && raft.membership.isVoter(member) else { return }
        endRepair(into: &effects)
    }
    private mutating func endRepair(into effects: inout EffectBuffer) {
        repair = .none
        unfitness = nil
        recognized(into: &effects)
        step(.quarantine(false), into: &effects)
        effects.append(.repaired)
    }

    /// A member calls for help. It becomes a learner, and may then replicate.
    private mutating func help(_ damaged: MemberID, into effects: inout EffectBuffer) {
        guard raft.isLeader, store.members[damaged] != nil else { return }
        let alarm = Alarm(.repairing, of: damaged)
        if raft.membership.isLearner(damaged), !store.members.hasAlarm(.repairing, of: damaged), store.members.hasAlarm(.corrupt, of: damaged) {
            // What it held is gone. A voter's alarms go when it votes again.
            propose([Proposal(ticket: nil, command: .alarm(Alarm(.corrupt, of: damaged), isRaised: false))], into: &effects)
        } else if Mutant.isActive(.damagedVoterReadmitted), raft.membership.isVoter(damaged) {
            effects.append(.send([PeerMessage(from: member, to: damaged, .readmitted(through: 0))]))
        } else if raft.membership.isLearner(damaged) {
            let isAsked = (rounds.flatMap(\.asked) + postponed).contains { if case .damaged(damaged) = $0.asker { true } else { false } }
            if !isAsked { ask([Asked(asker: .damaged(damaged), kind: .revision, deadline: now + configuration.hashMilliseconds)], into: &effects) }
        } else if !store.members.alarms.contains(alarm) {
            propose([Proposal(ticket: nil, command: .alarm(alarm, isRaised: true))], into: &effects)
        } else {
            propose([Proposal(ticket: nil, command: .member(.change([.demote(damaged)])))], into: &effects)
        }
    }

    /// A quorum has heard this leader since the call. As of all that was committed before, and with no change under way, the damaged member is
    /// a learner: whatever it acknowledged and lost is counted by nobody. What it holds is to be found out anew.
    mutating func readmit(_ damaged: MemberID, into effects: inout EffectBuffer) {
        guard raft.isLeader, raft.membership.isLearner(damaged), !raft.log.hasChange(after: store.appliedIndex, through: raft.log.last.index) else { return }
        step(.unreachable(damaged), into: &effects)
        effects.append(.send([PeerMessage(from: member, to: damaged, .readmitted(through: raft.log.last.index))]))
    }

    /// Learners that were voters before they were damaged, and have caught up, are voters again; that clears the alarm.
    private mutating func restoreVoters(into effects: inout EffectBuffer) {
        for alarm in store.members.alarms where alarm.kind == .repairing && raft.membership.isLearner(alarm.member) {
            guard let progress = raft.progress.first(where: { $0.member == alarm.member }), progress.match >= raft.log.committed,
                  isHeard(alarm.member) else { continue }
            propose([Proposal(ticket: nil, command: .member(.change([.promote(alarm.member)])))], into: &effects)
        }
    }

    // MARK: - Hashes

    /// After each entry, among others.
    mutating func applied(_ index: LogIndex, into effects: inout EffectBuffer) {
        window.append(raft.log[index].payload.count)
        hashes.append(index, store.hash)
        guard let awaited = comparison.awaited, awaited.index <= index else { return }
        comparison.awaited = nil
        compare(awaited.index, for: awaited.leader, into: &effects)
    }

    private mutating func tellHash(into effects: inout EffectBuffer) {
        let index = store.appliedIndex
        guard isClustered, index > comparison.index, let hash = hashes[index] else { return }
        comparison.index = index
        comparison.reports = [(member, hash)]
        let others = raft.membership.members.filter { $0 != member }
        effects.append(.send(others.map { PeerMessage(from: member, to: $0, .hash(index: index, hash)) }))
    }
    private mutating func compare(_ index: LogIndex, for leader: MemberID, into effects: inout EffectBuffer) {
        if index > store.appliedIndex { return comparison.awaited = (leader, index) }
        guard let hash = hashes[index] else { return }
        effects.append(.send([PeerMessage(from: member, to: leader, .hashed(index: index, hash))]))
    }
    /// Whoever is alone with what it holds is wrong; of two members, the one that follows.
    private mutating func judge(_ hash: StateHash, at index: LogIndex, of other: MemberID, into effects: inout EffectBuffer) {
        guard raft.isLeader, index == comparison.index, let own = comparison.reports.first?.hash,
              !comparison.reports.contains(where: { $0.member == other }), raft.membership.members.contains(other) else { return }
        comparison.reports.append((other, hash))
        let voters = raft.membership.voters
        let agree = comparison.reports.filter { $0.hash == own && voters.contains($0.member) }.count
        let differing = comparison.reports.filter { $0.hash != own }
        guard let first = differing.first else { return }
        let against = differing.filter { $0.hash == first.hash && voters.contains($0.member) }.count
        if against >= voters.quorum {
            accuse(member, into: &effects)
        } else if agree >= voters.quorum || voters.voters.count <= 2 {
            for report in differing { accuse(report.member, into: &effects) }
        }
    }
    private mutating func accuse(_ other: MemberID, into effects: inout EffectBuffer) {
        guard !store.members.hasAlarm(.corrupt, of: other), !store.members.hasAlarm(.repairing, of: other) else { return }
        propose([Proposal(ticket: nil, command: .alarm(Alarm(.corrupt, of: other), isRaised: true))], into: &effects)
    }
}

extension Command {
    /// The member that says who it is: nobody says it for another one.
    fileprivate var published: MemberID? { if case .member(.publish(let id, _, _)) = self { id } else { nil } }
}

extension ForwardedQuestion.Kind {
    var question: Question.Kind {
        switch self {
        case .leaseKeepAlive(let id): .leaseKeepAlive(id)
        case .leaseStatus(let id, let withKeys): .leaseStatus(id, withKeys: withKeys)
        }
    }
}
