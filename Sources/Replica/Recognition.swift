package import Basics
import MVCC
import Raft

/// What a member remembers of another, from the other's own words: its last run, and the greatest term in which it voted or acknowledged,
/// with the last entry that it acknowledged in it. All of it was durable there before it was said.
package struct Witness: Hashable, Sendable {
    package var member: MemberID
    /// The last run of it that took part; 0: none is known.
    package var run: UInt64
    package var term: Term
    package var index: LogIndex
    package init(member: MemberID, run: UInt64 = 0, term: Term = 0, index: LogIndex = 0) {
        self.member = member; self.run = run; self.term = term; self.index = index
    }
}

/// How a member that starts again finds out that its disk forgot something: it was put back to an earlier state, so that what the member has
/// acknowledged since would be counted on, and its votes could be given a second time.
///
///     asking ── nobody knows more than the disk ──▶ over: tells its run, and what it holds, to all, until each has noted it
///        └───── somebody does ──▶ out of service, and repaired as after damage (`Repair`); then as above
///
/// 1. Each run of a member has a number, greater than those before. Its disk holds the last one that took part.
/// 2. A member that starts again asks the others what they know of it, and takes no part meanwhile.
/// 3. An answer with a later run than the disk's, or with a vote or an acknowledgement after the disk's last: the disk was put back.
///    A repaired member did not ask: whoever remembers a later run than the one it is told says so, and the member's takes a number behind it.
/// 4. All voters have answered; or, for an election's length, as many as make a quorum with it. Then the number of this run becomes durable
///    (`Effect.recognized`), and only after that it takes part.
///
/// Whose disk knows only members that were all replaced meanwhile would ask in vain: so learners and whoever speaks to it are asked, too, and who
/// votes is taken from the answer of whoever has applied most.
///
/// Terms only grow, and within one term a log only grows beyond what was acknowledged: so (term, index) tells exactly.
/// Boundary: what nobody knows who is there. A disk put back within one run shows only to those it voted for or acknowledged to; of two voters
/// the other one is in every quorum and remembers for both, so the first goes on; an only voter asks nobody.
struct Recognition: Sendable {
    enum Phase: Hashable, Sendable {
        case asking
        /// New, a learner, or yet to be repaired: nothing to ask.
        case pending
        case over
    }
    var phase = Phase.pending
    /// The number of this run.
    var run: UInt64
    /// What the disk says.
    let lastRun: UInt64
    var ticks = 0
    /// Who votes, as of this entry: as the disk says, or whoever knows later.
    var membership: Membership
    var asOf: LogIndex
    var answered: [MemberID] = []
    /// Who has noted this run.
    var aware: [MemberID] = []
    var tellAt: Int64 = 0
}

extension Replica {
    package var witnesses: [Witness] { witnessed.witnesses }

    /// Waiting for others to say what they know of this member.
    var isAsking: Bool { recognition?.phase == .asking }
    private var otherVoters: [MemberID] { (recognition?.membership ?? raft.membership).electorate.filter { $0 != member } }
    /// Voters, learners, and those it met: of whom it knows as a learner may vote by now, and be the only one that is left to ask.
    private var askable: [MemberID] {
        var others = otherVoters
        for other in members.map(\.id) + strangers where other != member && !others.contains(other) { others.append(other) }
        return others
    }
    private var unanswered: [MemberID] { askable.filter { recognition?.answered.contains($0) == false } }

    /// Whoever speaks to a member that takes no part yet, and is not among those it knows, came to the cluster while it was away: peers are
    /// members, as their certificates, cluster and keyring say. It may be all there is left to ask for help.
    mutating func meet(_ other: MemberID) {
        guard isAsking || isLost, strangers.count < Limits.membersMax, !strangers.contains(other), !members.contains(where: { $0.id == other }),
              !store.members.removed.contains(other) else { return }
        strangers.append(other)
        if isLost { repair = .lost(tellAt: 0) }
    }

    /// At the start. `isNew`: it holds nothing that it could have forgotten from.
    mutating func beginRecognition(isNew: Bool) {
        guard let lastRun = configuration.lastRun, configuration.survivor == nil else { return }
        recognition = Recognition(
            run: max(configuration.incarnation, lastRun + 1), lastRun: lastRun, membership: raft.membership, asOf: store.appliedIndex)
        if !isNew, repair == .none, raft.membership.isVoter(member), !otherVoters.isEmpty { recognition?.phase = .asking }
    }

    /// (2) at once, where the next tick would do it.
    func ask(_ other: MemberID, into effects: inout EffectBuffer) {
        guard isAsking, let recognition, unanswered.contains(other) else { return }
        effects.append(.send([PeerMessage(from: member, to: other, .recall(run: recognition.run))]))
    }

    mutating func tickRecognition(into effects: inout EffectBuffer) {
        guard var recognition else { return }
        switch recognition.phase {
        case .asking:
            recognition.ticks += 1
            self.recognition = recognition
            // Those who did not answer yet may just have come up.
            effects.append(.send(unanswered.map { PeerMessage(from: member, to: $0, .recall(run: recognition.run)) }))
            conclude(into: &effects)
        case .pending: if repair == .none { recognized(into: &effects) }
        case .over:
            guard now >= recognition.tellAt else { return }
            recognition.tellAt = now + configuration.hashMilliseconds
            self.recognition = recognition
            let unaware = members.map(\.id).filter { $0 != member && !recognition.aware.contains($0) }
            guard !unaware.isEmpty else { return }
            let (term, index) = raft.held
            effects.append(.send(unaware.map { PeerMessage(from: member, to: $0, .takesPart(run: recognition.run, term: term, index: index)) }))
        }
    }

    /// Whether the message was about who remembers what.
    mutating func receiveMemory(_ message: PeerMessage, into effects: inout EffectBuffer) -> Bool {
        switch message.body {
        case .recall(let run):
            let known = witnessed[message.from]
            effects.append(.send([PeerMessage(from: member, to: message.from, .recalled(Recollection(
                asked: run, run: known.run, term: known.term, index: known.index, membership: raft.membership, asOf: store.appliedIndex)))]))
        case .recalled(let told):
            guard isAsking, told.asked == recognition?.run, askable.contains(message.from) else { break }
            if told.asOf > recognition?.asOf ?? 0, !told.membership.voters.voters.isEmpty {
                recognition?.membership = told.membership
                recognition?.asOf = told.asOf
            }
            judge(Witness(member: message.from, run: told.run, term: told.term, index: told.index), into: &effects)
        case .takesPart(let run, let term, let index):
            witnessed.note(Witness(member: message.from, run: run, term: term, index: index))
            effects.append(.send([PeerMessage(from: member, to: message.from, .noted(run: max(run, witnessed[message.from].run)))]))
        case .noted(let run):
            outrun(run, into: &effects)
            guard run == recognition?.run, recognition?.aware.contains(message.from) == false else { break }
            recognition?.aware.append(message.from)
        default: return false
        }
        return true
    }

    /// Somebody remembers a run that is to come before this one: of a disk that was put back, repaired under a calendar that was, too.
    private mutating func outrun(_ run: UInt64, into effects: inout EffectBuffer) {
        guard var recognition, recognition.phase == .over, run > recognition.run, run < .max else { return }
        recognition.run = run + 1
        recognition.aware = []
        recognition.tellAt = now
        self.recognition = recognition
        effects.append(.recognized(run: recognition.run))
    }

    /// What a member's own words say it has made durable.
    mutating func witness(_ message: Message) {
        switch message.body {
        case .appended(let through): witnessed.note(term: message.term, index: through, of: message.from)
        case .voteRequest, .voteResponse(granted: true): witnessed.note(term: message.term, index: 0, of: message.from)
        default: break
        }
    }

    // MARK: Steps 3 and 4

    private mutating func judge(_ told: Witness, into effects: inout EffectBuffer) {
        guard var recognition else { return }
        recognition.run = max(recognition.run, told.run &+ 1)
        let last = raft.log.last.index, term = raft.hardState.term
        if told.run > recognition.lastRun || (told.term, told.index) > (term, last), !Mutant.isActive(.putBackUnnoticed) {
            let more = told.run > recognition.lastRun ? "a later run of this member"
                : "term \(told.term) and entry \(told.index) of this member, which ends with term \(term) and entry \(last)"
            let reason = "the disk of this member was put back to an earlier state: member \(String(told.member.rawValue, radix: 16)) knows of \(more)"
            if otherVoters.count >= 2 {
                recognition.phase = .pending
                self.recognition = recognition
                unfitness = reason
                repair = .lost(tellAt: 0)
                raft.forgetTail()
                return effects.append(.putBack(reason, isRepaired: true))
            }
            // The other one is in every quorum, and remembers for both.
            effects.append(.putBack(reason, isRepaired: false))
        }
        if !recognition.answered.contains(told.member) { recognition.answered.append(told.member) }
        self.recognition = recognition
        conclude(into: &effects)
    }

    private mutating func conclude(into effects: inout EffectBuffer) {
        guard isAsking, let recognition else { return }
        let isPatient = recognition.ticks <= configuration.raft.electionTicks
        let present = recognition.answered + [member]
        let isEnough = isPatient ? recognition.membership.electorate.allSatisfy(present.contains)
            : recognition.membership.result { present.contains($0) ? true : nil } == .won
        if isEnough { recognized(into: &effects) }
    }

    /// From here on it takes part, under the number of this run.
    mutating func recognized(into effects: inout EffectBuffer) {
        guard var recognition, recognition.phase != .over else { return }
        let wasAsking = recognition.phase == .asking
        recognition.phase = .over
        self.recognition = recognition
        // No two runs count their forwarded commands under one number.
        forwards.outgrow(recognition.run - 1)
        effects.append(.recognized(run: recognition.run))
        if wasAsking { step(.quarantine(false), into: &effects) }
    }
}

/// What is remembered of all others, sorted by id.
struct Witnesses: Sendable {
    private(set) var witnesses: [Witness]

    init(_ witnesses: [Witness]) { self.witnesses = witnesses.sorted { $0.member < $1.member } }

    subscript(member: MemberID) -> Witness { witnesses.first { $0.member == member } ?? Witness(member: member) }

    mutating func note(term: Term, index: LogIndex, of member: MemberID) {
        guard let position = position(of: member), (witnesses[position].term, witnesses[position].index) < (term, index) else { return }
        (witnesses[position].term, witnesses[position].index) = (term, index)
    }
    /// A run that takes part has, on its disk, all that was noted of those before, or was repaired: what it says it holds counts from now on.
    mutating func note(_ run: Witness) {
        guard let position = position(of: run.member), witnesses[position].run < run.run else { return }
        witnesses[position] = run
    }
    mutating func forget(_ removed: [MemberID]) { witnesses.removeAll { removed.contains($0.member) } }

    /// Made, if there is room.
    private mutating func position(of member: MemberID) -> Int? {
        if let known = witnesses.firstIndex(where: { $0.member == member }) { return known }
        guard witnesses.count < Limits.membersMax else { return nil }
        let place = witnesses.firstIndex { $0.member > member } ?? witnesses.count
        witnesses.insert(Witness(member: member), at: place)
        return place
    }
}
