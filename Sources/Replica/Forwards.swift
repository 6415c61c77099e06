import Basics
import MVCC

/// Commands and questions of this member's clients that another member, the leader, must take.
///
/// 1. Each command gets the next sequence, each question the next of its own; sequences grow, and no two runs of the member share one
///    (`Origin.incarnation`).
/// 2. They are sent to the leader at once, and all that wait again, in order, to each new leader and whenever nothing came back for a while.
/// 3. A command ends when this member applies it (or hears that the only copy of it was refused), a question with the leader's answer, either at its deadline.
///
/// Invariant: apply takes an origin's sequences in ascending order only (`Store.admit`). One that comes too late for that was never applied, as
/// long as it still waits here: it goes out again under a new number.
///
/// Of the network it asks, beyond what consensus does, that each message arrives once or never (peers speak TLS): who was told that a command was
/// refused could not tell a second copy from none.
struct Forwards: Sendable {
    struct Pending: Sendable {
        var sequence: UInt64
        var ticket: Ticket?
        var command: Command
        /// With its origin.
        var payload: Bytes
        var deadline: Int64
        var timesSent = 0
        var wasSent: Bool { timesSent > 0 }
    }
    struct Asked: Sendable {
        var sequence: UInt64
        var ticket: Ticket
        var kind: ForwardedQuestion.Kind
        var deadline: Int64
    }
    let member: MemberID
    private(set) var incarnation: UInt64
    private var lastSequence: UInt64 = 0, lastQuestion: UInt64 = 0
    /// By sequence; those before `head` are done.
    private var commands: [Pending] = []
    private var head = 0
    private(set) var questions: [Asked] = []
    /// When all that waits was sent.
    var sentAt: Int64 = 0

    /// Of one message, about.
    static let messageBytesMax = 1 << 20

    init(member: MemberID, incarnation: UInt64) { self.member = member; self.incarnation = incarnation }

    var isEmpty: Bool { head == commands.count && questions.isEmpty }
    var count: Int { commands.count - head + questions.count }

    private mutating func nextSequence() -> UInt64 {
        lastSequence += 1
        return lastSequence
    }
    /// Its clock went back: an earlier run had a greater incarnation. Everything waiting goes out under a greater one still.
    mutating func outgrow(_ known: UInt64) {
        guard known >= incarnation, known < .max else { return }
        incarnation = known + 1
        for position in head..<commands.count { renumber(position) }
    }
    private mutating func renumber(_ position: Int) {
        commands[position].sequence = nextSequence()
        commands[position].payload = origin(commands[position].sequence).encode(commands[position].command.encode())
    }
    private func origin(_ sequence: UInt64) -> Origin { Origin(member, incarnation: incarnation, sequence: sequence) }

    mutating func append(_ proposal: Proposal, deadline: Int64) {
        let sequence = nextSequence()
        commands.append(Pending(
            sequence: sequence, ticket: proposal.ticket, command: proposal.command, payload: origin(sequence).encode(proposal.payload),
            deadline: deadline))
    }
    mutating func ask(_ kind: ForwardedQuestion.Kind, ticket: Ticket, deadline: Int64) {
        lastQuestion += 1
        questions.append(Asked(sequence: lastQuestion, ticket: ticket, kind: kind, deadline: deadline))
    }

    private func position(of sequence: UInt64) -> Int? {
        // They come back in the order they went out.
        if head < commands.count, commands[head].sequence == sequence { return head }
        var low = head, high = commands.count
        while low < high {
            let middle = (low + high) / 2
            if commands[middle].sequence < sequence { low = middle + 1 } else { high = middle }
        }
        return low < commands.count && commands[low].sequence == sequence ? low : nil
    }
    /// What waits under that origin, if those are its bytes.
    func command(_ origin: Origin, of payload: Bytes) -> Command? {
        guard origin.incarnation == incarnation, let position = position(of: origin.sequence),
              Command.isSame(commands[position].payload, payload) else { return nil }
        return commands[position].command
    }
    /// Ends a command that was applied or refused.
    mutating func take(_ sequence: UInt64) -> Pending? {
        guard let position = position(of: sequence) else { return nil }
        guard position == head else { return commands.remove(at: position) }
        let taken = commands[head]
        commands[head].command = .none // lets go of the value
        commands[head].payload = []
        head += 1
        if head == commands.count || (head >= 1_024 && head * 2 >= commands.count) { compact() }
        return taken
    }
    /// Ends a command that a leader refused. One that was sent again waits on: only that copy was refused, and another may be in a log already.
    mutating func takeRefused(_ sequence: UInt64) -> Pending? {
        guard let position = position(of: sequence), commands[position].timesSent <= 1 else { return nil }
        return take(sequence)
    }
    private mutating func compact() {
        commands.removeFirst(head)
        head = 0
    }
    mutating func takeQuestion(_ sequence: UInt64) -> Asked? {
        questions.firstIndex { $0.sequence == sequence }.map { questions.remove(at: $0) }
    }
    /// A command that came too late to be admitted and so was not applied: again, under a new number. False: nobody waits for it.
    mutating func renew(_ sequence: UInt64) -> Bool {
        guard let position = position(of: sequence) else { return false }
        let moved = commands.remove(at: position)
        commands.append(moved)
        renumber(commands.count - 1)
        return true
    }

    /// Those whose time is over. A command that was sent may yet be applied.
    mutating func takeExpired(_ now: Int64) -> (unknown: [Ticket], unsent: [Ticket]) {
        compact()
        guard commands.contains(where: { $0.deadline <= now }) || questions.contains(where: { $0.deadline <= now }) else { return ([], []) }
        let ended = commands.filter { $0.deadline <= now }
        commands.removeAll { $0.deadline <= now }
        let asked = questions.filter { $0.deadline <= now }
        questions.removeAll { $0.deadline <= now }
        return (ended.filter(\.wasSent).compactMap(\.ticket), ended.filter { !$0.wasSent }.compactMap(\.ticket) + asked.map(\.ticket))
    }
    /// Commands that a snapshot may have brought along: whether they were applied is not to be found out.
    mutating func takeCovered(by last: Origin) -> [Ticket] {
        guard last.incarnation == incarnation else { return [] }
        compact()
        let covered = commands.prefix { $0.sequence <= last.sequence && $0.wasSent }
        let tickets = covered.compactMap(\.ticket)
        commands.removeFirst(covered.count)
        return tickets
    }

    /// What waits, from `first` on, as messages to the leader.
    mutating func messages(to leader: MemberID, from first: Sequences) -> [PeerMessage] {
        var messages: [PeerMessage] = [], batch: [ForwardedCommand] = [], bytes = 0
        for position in head..<commands.count where commands[position].sequence >= first.command {
            commands[position].timesSent += 1
            batch.append(ForwardedCommand(sequence: commands[position].sequence, payload: commands[position].payload))
            bytes += commands[position].payload.count
            guard bytes >= Self.messageBytesMax || batch.count >= 4_096 else { continue }
            messages.append(PeerMessage(from: member, to: leader, .forward(batch)))
            (batch, bytes) = ([], 0)
        }
        if !batch.isEmpty { messages.append(PeerMessage(from: member, to: leader, .forward(batch))) }
        let asked = questions.filter { $0.sequence >= first.question }.map { ForwardedQuestion(ForwardedID(incarnation, $0.sequence), $0.kind) }
        if !asked.isEmpty { messages.append(PeerMessage(from: member, to: leader, .questions(asked))) }
        return messages
    }
    typealias Sequences = (command: UInt64, question: UInt64)
    /// Of what is appended next.
    var upcoming: Sequences { (lastSequence + 1, lastQuestion + 1) }
    /// All commands, to be proposed here: this member leads now.
    mutating func proposals() -> [Proposal] {
        compact()
        for position in commands.indices { commands[position].timesSent += 1 }
        return commands.map { Proposal(origin($0.sequence), $0.command, payload: $0.payload) }
    }
}

/// The forwarded commands that a leader logged since it leads. They stay in its log, and their members hear of them by that.
struct LoggedForwards: Sendable {
    private struct Run {
        let member: MemberID
        let incarnation: UInt64
        var sequences: ClosedRange<UInt64>
    }
    /// Beyond, a member's oldest are forgotten: what is asked again then is logged again.
    private static let runsMax = 64
    private var runs: [Run] = []

    mutating func append(_ origin: Origin) {
        let before = runs.lastIndex {
            $0.member == origin.member && $0.incarnation == origin.incarnation && $0.sequences.upperBound < .max
                && $0.sequences.upperBound + 1 == origin.sequence
        }
        if let before {
            runs[before].sequences = runs[before].sequences.lowerBound...origin.sequence
            return
        }
        if runs.count == Self.runsMax { runs.remove(at: runs.firstIndex { $0.member == origin.member } ?? 0) }
        runs.append(Run(member: origin.member, incarnation: origin.incarnation, sequences: origin.sequence...origin.sequence))
    }
    func contains(_ origin: Origin) -> Bool {
        runs.contains { $0.member == origin.member && $0.incarnation == origin.incarnation && $0.sequences.contains(origin.sequence) }
    }
    func last(of member: MemberID) -> Origin? {
        var last: Origin?
        for run in runs where run.member == member {
            let origin = Origin(member, incarnation: run.incarnation, sequence: run.sequences.upperBound)
            if last.map({ ($0.incarnation, $0.sequence) < (origin.incarnation, origin.sequence) }) ?? true { last = origin }
        }
        return last
    }
}

/// How much of the log is kept for followers that are behind, beyond what a restart needs: a number of entries, or as long as one of them wants
/// the oldest, several times as many; in any case no more than a number of bytes. Sending the store costs more than sending the log, and the
/// more so the larger the store is.
struct LogWindow: Sendable {
    /// So many times as many entries for one that is behind.
    private static let reach = 4
    /// Beside its payload, in memory.
    private static let entryBytes = 64
    /// The first entry that some member has not confirmed; only a leader knows.
    var wanted = LogIndex.max
    private var sizes: [Int] = []
    private var head = 0
    private var bytes = 0
    /// Of the oldest entry in the window.
    private(set) var first: LogIndex
    private let entriesMax: Int
    private let bytesMax: Int

    init(after index: LogIndex, entriesMax: Int, bytesMax: Int) {
        first = index + 1
        self.entriesMax = entriesMax
        self.bytesMax = bytesMax
    }
    mutating func append(_ size: Int) {
        sizes.append(size + Self.entryBytes)
        bytes += size + Self.entryBytes
        while sizes.count - head > (wanted <= first ? entriesMax * Self.reach : entriesMax) || (bytes > bytesMax && sizes.count - head > 1) {
            bytes -= sizes[head]
            head += 1
            first += 1
        }
        if head > 4_096, head * 2 > sizes.count {
            sizes.removeFirst(head)
            head = 0
        }
    }
    mutating func restart(after index: LogIndex) {
        self = LogWindow(after: index, entriesMax: entriesMax, bytesMax: bytesMax)
    }
}

/// The hash over everything applied, at each of the last entries: for comparing with other members.
struct HashHistory: Sendable {
    private static let count = 1_024
    private var ring: [(index: LogIndex, hash: StateHash)] = []

    mutating func append(_ index: LogIndex, _ hash: StateHash) {
        if ring.isEmpty { ring = [(LogIndex, StateHash)](repeating: (0, StateHash(0)), count: Self.count) }
        ring[Int(index % LogIndex(Self.count))] = (index, hash)
    }
    subscript(index: LogIndex) -> StateHash? {
        guard index > 0, !ring.isEmpty else { return nil }
        let held = ring[Int(index % LogIndex(Self.count))]
        return held.index == index ? held.hash : nil
    }
    mutating func removeAll() { ring = [] }
}
