package import Basics

/// One member's part in consensus (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm"), as a
/// value: events in, effects out. It knows no clock, disk, network or chance.
///
/// 1. The host tells what happened (`Event`) and carries out what is asked (`Effect`), in order.
/// 2. `.persist` asks for a write and carries the messages that may be sent once it is durable; the host answers it with
///    `.stored`. Writes become durable in the order in which they were asked for.
/// 3. `.release` says how far entries may be applied: they are committed, and durable here.
/// 4. For each entry of kind `.membership` that it applies, the host calls `adopt`: only then does it take effect.
///
/// A single voter takes no short cut: it wins its own election when its vote is durable, and its entries commit when they are
/// durable, because a majority of one is one.
///
/// Invariant: nothing is sent before the state it depends on is durable; so requests for votes and all answers to
/// requests for votes and to appends travel in `afterwards`. A leader's appends depend on nothing.
/// Invariant: term and commit index never go back; at most one vote in a term.
/// Invariant: of the entries that are not adopted yet, at most one that this member proposed is a change of membership.
package struct Raft: Sendable {
    package struct Configuration: Sendable {
        package var member: MemberID
        /// As of the last applied entry.
        package var membership: Membership
        /// A follower campaigns after hearing nothing for between one and two of these.
        package var electionTicks = 10
        package var heartbeatTicks = 1
        package var appendBytesMax = 1 << 20
        /// Appends under way to one member, and their bytes: what a slow network may cost in memory.
        package var inFlightMax = 256
        package var inFlightBytesMax = 64 << 20
        /// Payloads proposed and not committed: what a leader cut off from its followers may cost in memory.
        package var uncommittedBytesMax = 256 << 20
        /// Read rounds under way; later reads share the next one.
        package var readRoundsMax = 4
        package var readsWaitingMax = 4_096
        /// A leader answers reads without asking, for as long as nobody can have replaced it if no clock runs at a different speed.
        package var leaseReads = false
        /// For the spread of election timeouts and the names of forwarded reads; different on each member and at each start.
        package var seed: UInt64
        package init(member: MemberID, membership: Membership, seed: UInt64) {
            self.member = member; self.membership = membership; self.seed = seed
        }
        package init(member: MemberID, voters: some Sequence<MemberID>, seed: UInt64) {
            self.init(member: member, membership: Membership(voters: voters), seed: seed)
        }
    }

    package enum Event: Hashable, Sendable {
        case tick
        /// Try to lead now, without waiting for the timeout; as soon as no committed change of membership waits to be applied.
        case campaign
        case propose([Bytes])
        /// Propose a change of membership; an empty payload leaves a joint one.
        case change(payload: Bytes)
        /// Confirm that no other leader can have committed anything since: answered by `.readable` or `.readRefused`.
        /// A follower asks its leader.
        case read(ReadContext)
        case stored(Stored)
        case received(Message)
        /// Hand over leadership. Given up after an election timeout; see `transferTarget`.
        case transfer(to: MemberID)
        /// What was sent to a member lately may be lost.
        case unreachable(MemberID)
        /// Its process has ended, as far as can be told from outside: where it was, connections are refused. It may be wrong.
        case gone(MemberID)
        /// Answers `.snapshotWanted`: the member said that it holds the store as of entry `at`, or it came to nothing (`nil`).
        case snapshotSent(to: MemberID, at: LogIndex?)
        /// The store of another member, as of this entry, is durable here and in use. Beforehand the host asks `admits(storeAt:)`, and
        /// unless `log.agrees(with:)` this position, its log on disk begins anew after it: what is there is of no use any more.
        case installed(EntryPosition, Membership)
        /// A member whose disk lost something neither votes nor leads, and receives the log as ever.
        case quarantine(Bool)
    }

    /// The host's name for a batch of reads.
    package typealias ReadContext = UInt64

    /// What is durable after a write: the log's last entry then, and the term this member was in.
    /// The term guards against a late word of a write whose entries were replaced and came back since.
    package struct Stored: Hashable, Sendable {
        package var term: Term
        package var last: EntryPosition
        package init(term: Term, last: EntryPosition) { self.term = term; self.last = last }
    }

    package enum Effect: Hashable, Sendable {
        /// Make these durable, in one piece, report `stored`, and only then send `afterwards`.
        case persist([Entry], HardState?, afterwards: [Message], stored: Stored)
        case send([Message])
        /// Entries up to here may be applied.
        case release(through: LogIndex)
        /// The proposals of the event at hand became entries from `first` on.
        case accepted(first: LogIndex, count: Int)
        /// They did not.
        case refused(count: Int, because: Refusal)
        /// Once everything up to `index` is applied here, a read shows all that was acknowledged before it was asked for.
        case readable(ReadContext, index: LogIndex)
        case readRefused(ReadContext)
        /// A member needs entries from before our log's beginning: send it the store, and say how that went (`snapshotSent`).
        case snapshotWanted(for: MemberID)
        case standing(Standing)
    }

    package enum Refusal: Hashable, Sendable {
        case notLeading
        /// Leadership is being handed over.
        case transferring
        /// As much as is allowed waits to be committed.
        case tooMuchUncommitted
        /// The last change of membership is not applied yet, or this leader has yet to commit an entry.
        case changeUnderWay
        /// The membership is joint: nothing but leaving that is possible; or it is not, and cannot be left.
        case wrongMembership
    }

    package struct Standing: Hashable, Sendable {
        package enum Position: UInt8, Sendable { case follower, preCandidate, candidate, leader }
        package var position: Position
        package var term: Term
        package var leader: MemberID?
        package init(position: Position, term: Term, leader: MemberID?) { self.position = position; self.term = term; self.leader = leader }
    }

    enum Role: Sendable {
        case follower(leader: MemberID?)
        case preCandidate(Ballot)
        case candidate(Ballot)
        case leader(Leadership)
    }

    package let configuration: Configuration
    package internal(set) var membership: Membership
    /// The last entry whose change of membership, if it is one, took effect.
    var adopted: LogIndex
    package internal(set) var term: Term
    package internal(set) var vote: MemberID?
    package internal(set) var log: Log
    var role = Role.follower(leader: nil)
    package internal(set) var isQuarantined = false
    /// Where leases count, a restarted member may have promised a leader to be deaf: it is, for an election timeout.
    private(set) var promisedTicks: Int
    /// A leader that is no voter steps down when this entry is committed: from then on, those who vote know that they do.
    var farewell = LogIndex.max
    /// It was told to, and could not yet.
    var wantsToCampaign = false
    /// Ticks since this member last heard from a leader, gave its vote, or (leading) checked its quorum.
    var electionElapsed = 0
    var electionTimeout = 0
    /// So many pre-votes may yet follow each other sooner than elections do: the leader is said to have ended.
    var hastyAttempts = 0
    var generator: SeededGenerator
    /// An append waits for the answer to the one before, and takes along what came meanwhile: where answers come soon, that is less work for all.
    /// The host, which has a clock, decides.
    package var awaitsEachAnswer = false
    /// Reads asked of the leader.
    var forwarded: ForwardedReads

    // What the event at hand gave rise to; empty between events.
    var outbox: [Message] = []
    var afterwards: [Message] = []
    var signals: [Effect] = []
    private var persistedState: HardState
    /// The term this member is durably in.
    private(set) var durableTerm: Term
    private var toldStanding: Standing

    /// `state` and `log` as they were found on disk.
    package init(_ configuration: Configuration, state: HardState = HardState(), log: Log = Log()) {
        precondition(configuration.electionTicks > configuration.heartbeatTicks && configuration.heartbeatTicks > 0)
        self.configuration = configuration
        membership = configuration.membership
        adopted = log.released
        term = max(Mutant.isActive(.termForgotten) ? 0 : state.term, log.last.term)
        // A vote belongs to its term.
        vote = term == state.term ? state.vote : nil
        self.log = log
        generator = SeededGenerator(seed: configuration.seed)
        forwarded = ForwardedReads(firstRequest: generator.next())
        persistedState = state
        durableTerm = state.term
        promisedTicks = configuration.leaseReads && term > 0 ? configuration.electionTicks : 0
        toldStanding = Standing(position: .follower, term: term, leader: nil)
        restartElectionTimer()
    }

    /// The disk forgot what came after some moment. Entries that it holds and does not know to be committed may have been replaced since, with
    /// this member's word: a leader that counts on that word may call them committed.
    package mutating func forgetTail() {
        guard case .follower = role else { preconditionFailure("only who takes no part forgets") }
        log.forgetUncommitted()
    }

    /// What the disk holds for good of the term that it is durably in: its last entry, 0 if there is none. Within a term that only grows.
    package var held: (term: Term, index: LogIndex) { (durableTerm, log.term(at: log.durable) == durableTerm ? log.durable : 0) }

    package var member: MemberID { configuration.member }
    package var hardState: HardState { HardState(term: term, vote: vote, commit: log.committed) }
    package var leader: MemberID? {
        switch role {
        case .follower(let leader): leader
        case .preCandidate, .candidate: nil
        case .leader: member
        }
    }
    package var standing: Standing {
        let position: Standing.Position = switch role {
        case .follower: .follower
        case .preCandidate: .preCandidate
        case .candidate: .candidate
        case .leader: .leader
        }
        return Standing(position: position, term: term, leader: leader)
    }
    package var isLeader: Bool { if case .leader = role { true } else { false } }
    /// A leader's view of the members, itself among them; empty when not leading.
    package var progress: [Progress] { if case .leader(let leadership) = role { leadership.progress } else { [] } }
    /// Whether the word that a write is durable lets anything happen here: something is applied, committed, or elected by it. If not, it may be
    /// told with the next event.
    package var awaitsStorage: Bool {
        if log.committed > log.released { return true }
        switch role {
        case .follower, .preCandidate: return false
        case .candidate: return true
        case .leader(let leadership):
            let (member, last) = (member, log.last.index) // a closure that used `self` would copy all of it
            return membership.reached { $0 == member ? last : leadership.match(of: $0) } > log.committed
        }
    }
    /// To whom leadership is being handed over.
    package var transferTarget: MemberID? { if case .leader(let leadership) = role { leadership.transfer?.target } else { nil } }

    package mutating func step(_ event: consuming Event, into effects: inout [Effect]) {
        switch event {
        case .tick: tick()
        case .campaign: if membership.isVoter(member) { campaign() }
        case .propose(let payloads): propose(payloads)
        case .change(let payload): change(payload)
        case .read(let context): read(context)
        case .stored(let stored): self.stored(stored)
        case .received(let message): receive(message)
        case .transfer(let target): transfer(to: target)
        case .unreachable(let member): lead { leadership, _ in
            if let position = leadership.position(of: member) { leadership.progress[position].isUnreachable() }
        }
        case .gone(let member): isGone(member)
        case .snapshotSent(let member, let index): lead { leadership, _ in
            if let position = leadership.position(of: member) { leadership.progress[position].snapshotEnded(at: index) }
        }
        case .installed(let position, let membership): installed(position, membership)
        case .quarantine(let isQuarantined): quarantine(isQuarantined)
        }
        finish(into: &effects)
    }

    /// Entries up to `index` are in the store for good; they are not needed for a restart any more. The host keeps as many before
    /// as slow followers should find here instead of receiving the store.
    package mutating func compact(through index: LogIndex) { log.compact(through: min(index, log.released)) }

    /// Turns what the event left behind into effects: word of leadership first, then the write, then what may be sent at once.
    mutating func finish(into effects: inout [Effect]) {
        if log.committed >= farewell { abdicate() }
        let standing = standing
        if standing != toldStanding {
            toldStanding = standing
            effects.append(.standing(standing))
        }
        let entries = log.takeUnoffered()
        let state = Mutant.isActive(.voteNotPersisted) ? HardState(term: term, vote: nil, commit: log.committed) : hardState
        let stateMustPersist = state.term != persistedState.term || state.vote != persistedState.vote
        if !entries.isEmpty || stateMustPersist || !afterwards.isEmpty {
            effects.append(.persist(entries, state == persistedState ? nil : state, afterwards: afterwards,
                                    stored: Stored(term: term, last: log.last)))
            persistedState = state
            afterwards.removeAll()
        }
        if !outbox.isEmpty {
            effects.append(.send(outbox))
            outbox.removeAll()
        }
        if let through = log.release() { effects.append(.release(through: through)) }
        if !signals.isEmpty {
            effects.append(contentsOf: signals)
            signals.removeAll(keepingCapacity: true)
        }
    }

    private mutating func tick() {
        electionElapsed += 1
        promisedTicks = max(0, promisedTicks - 1)
        if isLeader { return tickAsLeader() }
        tickForwardedReads()
        guard electionElapsed >= electionTimeout || wantsToCampaign else { return }
        if canCampaign {
            campaign()
        } else if leader != nil, electionElapsed >= electionTimeout {
            // It cannot stand itself; but whom it heard last does not lead any more, as far as it can tell.
            becomeFollower(term: term, leader: nil)
        }
    }

    /// A write became durable.
    private mutating func stored(_ stored: Stored) {
        // A word from an earlier term may be about entries that were replaced since. Every change of term is followed by a
        // write of its own, whose word covers everything before it.
        guard stored.term == term || Mutant.isActive(.storedWordOfOldTermCounts) else { return }
        durableTerm = term
        log.markDurable(through: stored.last)
        switch role {
        case .follower, .preCandidate: break
        case .candidate: countVote(of: member, granted: true)
        case .leader: lead { leadership, raft in
            guard let position = leadership.position(of: raft.member) else { return }
            leadership.progress[position].isDurable(through: raft.log.durable)
            raft.advanceCommit(&leadership)
        }
        }
    }

    func send(_ body: Message.Body, to: MemberID, term: Term? = nil) -> Message {
        Message(from: member, to: to, term: term ?? self.term, body)
    }
}
