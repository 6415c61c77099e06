package import Basics

/// One member's part in consensus (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm"), as a
/// value: events in, effects out. It knows no clock, disk, network or chance.
///
/// 1. The host tells what happened (`Event`) and carries out what is asked (`Effect`), in order.
/// 2. `.persist` asks for a write and carries the messages that may be sent once it is durable; the host answers it with
///    `.stored`. Writes become durable in the order in which they were asked for.
/// 3. `.release` says how far entries may be applied: they are committed, and durable here.
///
/// A single voter takes no short cut: it wins its own election when its vote is durable, and its entries commit when they are
/// durable, because a majority of one is one.
///
/// Invariant: nothing is sent before the state it depends on is durable; so requests for votes and all answers to
/// requests for votes and to appends travel in `afterwards`. A leader's appends depend on nothing.
/// Invariant: term and commit index never go back; at most one vote in a term.
package struct Raft: Sendable {
    package struct Configuration: Sendable {
        package var member: MemberID
        package var voters: Majority
        /// A follower campaigns after hearing nothing for between one and two of these.
        package var electionTicks = 10
        package var heartbeatTicks = 1
        package var appendBytesMax = 1 << 20
        package var inFlightMax = 256
        /// For the spread of election timeouts; different on each member.
        package var seed: UInt64
        package init(member: MemberID, voters: some Sequence<MemberID>, seed: UInt64) {
            self.member = member; self.voters = Majority(voters); self.seed = seed
        }
    }

    package enum Event: Hashable, Sendable {
        case tick
        /// Try to lead now, without waiting for the timeout.
        case campaign
        case propose([Bytes])
        /// Confirm that no other leader can have committed anything since: answered by `.readable` or `.readRefused`.
        case read(ReadContext)
        case stored(Stored)
        case received(Message)
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
        /// Make these durable, report `stored`, and only then send `afterwards`.
        case persist([Entry], HardState?, afterwards: [Message], stored: Stored)
        case send([Message])
        /// Entries up to here may be applied.
        case release(through: LogIndex)
        /// The proposals of the event at hand became entries from `first` on.
        case accepted(first: LogIndex, count: Int)
        /// They did not: this member does not lead.
        case refused(count: Int)
        /// Once everything up to `index` is applied here, a read shows all that was acknowledged before it was asked for.
        case readable(ReadContext, index: LogIndex)
        case readRefused(ReadContext)
        case standing(Standing)
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
    package internal(set) var term: Term
    package internal(set) var vote: MemberID?
    package internal(set) var log: Log
    var role = Role.follower(leader: nil)
    /// Ticks since this member last heard from a leader, gave its vote, or (leading) checked its quorum.
    var electionElapsed = 0
    var electionTimeout = 0
    var generator: SeededGenerator

    // What the event at hand gave rise to; empty between events.
    var outbox: [Message] = []
    var afterwards: [Message] = []
    var signals: [Effect] = []
    private var persistedState: HardState
    private var toldStanding: Standing

    /// `state` and `log` as they were found on disk.
    package init(_ configuration: Configuration, state: HardState = HardState(), log: Log = Log()) {
        precondition(configuration.electionTicks > configuration.heartbeatTicks && configuration.heartbeatTicks > 0)
        self.configuration = configuration
        term = max(state.term, log.last.term)
        // A vote belongs to its term.
        vote = term == state.term ? state.vote : nil
        self.log = log
        generator = SeededGenerator(seed: configuration.seed)
        persistedState = state
        toldStanding = Standing(position: .follower, term: term, leader: nil)
        restartElectionTimer()
    }

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
    /// A leader's view of the others; empty when not leading.
    package var progress: [Progress] { if case .leader(let leadership) = role { leadership.progress } else { [] } }

    package mutating func step(_ event: consuming Event, into effects: inout [Effect]) {
        switch event {
        case .tick: tick()
        case .campaign: if !isLeader { campaign() }
        case .propose(let payloads): propose(payloads)
        case .read(let context): read(context)
        case .stored(let stored): self.stored(stored)
        case .received(let message): receive(message)
        }
        finish(into: &effects)
    }

    /// Entries up to `index` are in the store for good; they are not needed for a restart any more.
    package mutating func compact(through index: LogIndex) { log.compact(through: min(index, log.released)) }

    /// Turns what the event left behind into effects: word of leadership first, then the write, then what may be sent at once.
    private mutating func finish(into effects: inout [Effect]) {
        let standing = standing
        if standing != toldStanding {
            toldStanding = standing
            effects.append(.standing(standing))
        }
        let entries = log.takeUnoffered()
        let state = hardState
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
            signals.removeAll()
        }
    }

    private mutating func tick() {
        electionElapsed += 1
        if isLeader {
            tickAsLeader()
        } else if electionElapsed >= electionTimeout, configuration.voters.contains(member) {
            campaign()
        }
    }

    /// A write became durable.
    private mutating func stored(_ stored: Stored) {
        // A word from an earlier term may be about entries that were replaced since. Every change of term is followed by a
        // write of its own, whose word covers everything before it.
        guard stored.term == term else { return }
        log.markDurable(through: stored.last)
        switch role {
        case .follower, .preCandidate: break
        case .candidate: countVote(of: member, granted: true)
        case .leader: lead { leadership, raft in
            leadership[raft.member]?.isDurable(through: raft.log.durable)
            raft.advanceCommit(&leadership)
        }
        }
    }

    func send(_ body: Message.Body, to: MemberID, term: Term? = nil) -> Message {
        Message(from: member, to: to, term: term ?? self.term, body)
    }
}
