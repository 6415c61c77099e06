import Basics
import Raft
import Testing

/// A Raft cluster in one thread: disks that finish writes when told to, a network that delivers when told to, and the
/// safety properties of the paper's Figure 3, checked whenever something happens.
///
/// Its host is the smallest one: the payload of a change of membership is `Change`, applied to the membership before it;
/// the store is nothing but the index up to which it was applied, and the membership then.
struct Cluster {
    struct Write {
        var entries: [Entry]
        var state: HardState?
        var afterwards: [Message]
        var stored: Raft.Stored
    }
    struct Store: Equatable {
        var position = EntryPosition.start
        var membership: Membership
    }
    struct Disk {
        var state = HardState()
        /// `entries` follow it.
        var store: Store
        var entries: [Entry] = []
        var last: EntryPosition { entries.last?.position ?? store.position }

        mutating func perform(_ write: Write) {
            if let first = write.entries.first { entries.removeAll { $0.index >= first.index } }
            entries.append(contentsOf: write.entries)
            if let state = write.state { self.state = state }
        }
        /// What the store holds is not needed as entries.
        func holds(_ entry: Entry) -> Bool {
            let first = store.position.index + 1
            return entry.index < first || entry.index <= last.index && entries[Int(entry.index - first)] == entry
        }
        mutating func cut(at new: Store, keepingLog: Bool) {
            entries.removeAll { !keepingLog || $0.index <= new.position.index }
            store = new
        }
    }
    struct Member {
        var raft: Raft
        var disk: Disk
        var writes: [Write] = []
        var accepted: [LogIndex] = []
        var refusals: [Raft.Refusal] = []
        var refused = 0
        var readable: [Raft.ReadContext: LogIndex] = [:]
        var readsRefused: [Raft.ReadContext] = []
        /// Applied up to here; the membership is `raft.membership`.
        var released: LogIndex = 0
        var adoptions: [Membership] = []
    }
    /// A store on its way from one member to another.
    struct Stream: Equatable { var from: MemberID, to: MemberID, store: Store }

    private(set) var members: [Member] = []
    private(set) var wires: [Message] = []
    private(set) var streams: [Stream] = []
    /// Election safety: the leader of each term.
    private var leaders: [Term: MemberID] = [:]
    /// State-machine safety: what was released at each index, by whomever first.
    private(set) var history: [Entry] = []
    /// What each read must show at least: all that was released anywhere when it was asked for.
    private var floors: [Raft.ReadContext: LogIndex] = [:]
    private(set) var snapshotsInstalled = 0
    private let initial: Membership
    private let leaseReads: Bool
    private var incarnation: UInt64 = 0
    let tune: @Sendable (inout Raft.Configuration) -> Void

    init(_ voters: Int, spares: Int = 0, leaseReads: Bool = false, tune: @escaping @Sendable (inout Raft.Configuration) -> Void = { _ in }) {
        initial = Membership(voters: (1...voters).map { MemberID(UInt64($0)) })
        self.leaseReads = leaseReads
        self.tune = tune
        for id in 1...voters + spares {
            members.append(Member(raft: Raft(configuration(id, initial, seed: UInt64(id))), disk: Disk(store: Store(membership: initial))))
        }
    }

    private func configuration(_ id: Int, _ membership: Membership, seed: UInt64) -> Raft.Configuration {
        var configuration = Raft.Configuration(member: MemberID(UInt64(id)), membership: membership, seed: seed)
        configuration.leaseReads = leaseReads
        tune(&configuration)
        return configuration
    }

    subscript(_ id: Int) -> Member { members[id - 1] }
    var leaderCount: Int { leaders.count }
    var leader: Int? {
        members.filter(\.raft.isLeader).max { $0.raft.term < $1.raft.term }.map { Int($0.raft.member.rawValue) }
    }

    /// One line a member, for messages.
    var summary: String {
        members.map { member in
            let raft = member.raft, log = raft.log, membership = raft.membership
            return "\n\(raft.member.rawValue) \(raft.standing.position) term \(raft.term) vote \(raft.vote?.rawValue ?? 0) leader \(raft.leader?.rawValue ?? 0)"
                + " log \(log.base.index)…\(log.last.index)/\(log.last.term) committed \(log.committed) durable \(log.durable) applied \(member.released)"
                + " voters \(membership.voters.voters.map(\.rawValue)) && \(membership.outgoing.voters.map(\.rawValue)) learners \(membership.learners.map(\.rawValue))"
        }.joined()
    }

    // MARK: - Steps

    mutating func step(_ id: Int, _ event: Raft.Event) {
        let before = members[id - 1].raft.hardState, membership = members[id - 1].raft.membership
        if case .read(let context) = event { floors[context] = LogIndex(history.count) }
        var effects: [Raft.Effect] = []
        members[id - 1].raft.step(event, into: &effects)
        let after = members[id - 1].raft.hardState
        #expect(after.term >= before.term && after.commit >= before.commit, "term or commit index went back on \(id)")
        if after.term == before.term, let vote = before.vote { #expect(after.vote == vote, "\(id) changed its vote in term \(after.term)") }
        expectCommitted(id, before: before.commit, by: membership)
        for effect in effects { perform(effect, on: id) }
    }

    /// What a leader takes for committed is durable on a quorum.
    private mutating func expectCommitted(_ id: Int, before: LogIndex, by membership: Membership) {
        let raft = members[id - 1].raft
        guard raft.isLeader, raft.log.committed > before else { return }
        let entry = raft.log[raft.log.committed]
        #expect(entry.term == raft.term, "an entry of term \(entry.term) committed by counting in term \(raft.term)")
        let durable = membership.result { voter in members[Int(voter.rawValue) - 1].disk.holds(entry) }
        #expect(durable == .won, "entry \(entry.index) committed without a majority of \(membership)")
        #expect((raft.log.committed + 1..<raft.log.last.index + 1).count { raft.log[$0].kind == .membership } <= 1, "two changes of membership at one time")
    }

    private mutating func perform(_ effect: Raft.Effect, on id: Int) {
        switch effect {
        case .persist(let entries, let state, let afterwards, let stored):
            members[id - 1].writes.append(Write(entries: entries, state: state, afterwards: afterwards, stored: stored))
        case .send(let messages): wires.append(contentsOf: messages)
        case .release(let through): release(through, on: id)
        case .accepted(let first, let count): members[id - 1].accepted.append(contentsOf: first..<first + LogIndex(count))
        case .refused(let count, let refusal):
            members[id - 1].refused += count
            members[id - 1].refusals.append(refusal)
        case .readable(let context, let index):
            #expect(index >= floors[context] ?? .max, "a read at \(index) misses what was there when it was asked for")
            members[id - 1].readable[context] = index
        case .readRefused(let context): members[id - 1].readsRefused.append(context)
        case .snapshotWanted(let member):
            let raft = members[id - 1].raft, index = members[id - 1].released
            guard let term = raft.log.term(at: index) else { Issue.record("\(id) does not know the term of what it applied"); return }
            streams.append(Stream(from: raft.member, to: member, store: Store(position: EntryPosition(index: index, term: term), membership: raft.membership)))
        case .standing(let standing): if standing.position == .leader { expectRightfulLeader(id, standing.term) }
        }
    }

    /// Election safety, leader completeness.
    private mutating func expectRightfulLeader(_ id: Int, _ term: Term) {
        let known = leaders[term], log = members[id - 1].raft.log
        #expect(known == nil || known == MemberID(UInt64(id)), "two leaders in term \(term)")
        leaders[term] = MemberID(UInt64(id))
        #expect(log.last.index >= LogIndex(history.count), "\(id) leads without all that is committed")
        for entry in history where entry.index > log.base.index && entry.index <= log.last.index {
            #expect(log[entry.index] == entry, "\(id) leads with another entry at \(entry.index)")
        }
    }

    private mutating func release(_ through: LogIndex, on id: Int) {
        #expect(through > members[id - 1].released)
        var adoptions: [Raft.Effect] = []
        for index in members[id - 1].released + 1...through {
            let entry = members[id - 1].raft.log[index]
            #expect(members[id - 1].disk.holds(entry), "\(id) may apply entry \(index), which is not durable there")
            if history.count >= Int(index) {
                #expect(history[Int(index) - 1] == entry, "\(id) applies another entry at \(index)")
            } else {
                #expect(history.count == Int(index) - 1)
                history.append(entry)
            }
            members[id - 1].released = index
            guard entry.kind == .membership else { continue }
            let before = members[id - 1].raft.membership, commit = members[id - 1].raft.log.committed
            let new = (try? entry.payload.isEmpty ? before.leaving() : before.entering(Change.decode(entry.payload))) ?? before
            members[id - 1].adoptions.append(new)
            members[id - 1].raft.adopt(new, at: index, into: &adoptions)
            expectCommitted(id, before: commit, by: new)
        }
        for effect in adoptions { perform(effect, on: id) }
    }

    /// The oldest write of a member becomes durable; what waited for it goes out.
    @discardableResult
    mutating func finishWrite(_ id: Int) -> Bool {
        guard !members[id - 1].writes.isEmpty else { return false }
        let write = members[id - 1].writes.removeFirst()
        members[id - 1].disk.perform(write)
        wires.append(contentsOf: write.afterwards)
        step(id, .stored(write.stored))
        return true
    }

    /// Writes under way are lost, memory too.
    mutating func crash(_ id: Int) {
        incarnation += 1
        let disk = members[id - 1].disk
        let configuration = configuration(id, disk.store.membership, seed: UInt64(id) &+ incarnation &* 1000)
        let log = Log(base: disk.store.position, entries: disk.entries, committed: disk.state.commit, applied: disk.store.position.index)
        members[id - 1] = Member(raft: Raft(configuration, state: disk.state, log: log), disk: disk, released: disk.store.position.index)
    }

    /// A disk that lost what it had beyond `count` entries, though it had said it was durable.
    mutating func crash(_ id: Int, keeping count: Int) {
        members[id - 1].disk.entries.removeLast(max(0, members[id - 1].disk.entries.count - count))
        crash(id)
    }

    // MARK: - Stores

    /// A member's store becomes durable as it is, and the log before the last `window` entries is dropped.
    mutating func compact(_ id: Int, window: LogIndex = 0) {
        let raft = members[id - 1].raft, applied = members[id - 1].released
        guard applied > raft.log.base.index, let term = raft.log.term(at: applied) else { return }
        // Durable entries behind it stay.
        members[id - 1].disk.cut(at: Store(position: EntryPosition(index: applied, term: term), membership: raft.membership), keepingLog: true)
        if applied > window { members[id - 1].raft.compact(through: applied - window) }
    }

    /// A stream arrives, or breaks; the sender is told either way.
    mutating func deliverStream(_ position: Int, broken: Bool = false) {
        let stream = streams.remove(at: position), to = Int(stream.to.rawValue), from = Int(stream.from.rawValue)
        guard !broken else { return step(from, .snapshotSent(to: stream.to, at: nil)) }
        while finishWrite(to) {}
        // The disk's log begins after the disk's store: an older one would leave a gap.
        if members[to - 1].raft.admits(storeAt: stream.store.position), stream.store.position.index > members[to - 1].disk.store.position.index {
            snapshotsInstalled += 1
            members[to - 1].disk.cut(at: stream.store, keepingLog: members[to - 1].raft.log.agrees(with: stream.store.position))
            members[to - 1].released = stream.store.position.index
            step(to, .installed(stream.store.position, stream.store.membership))
        }
        step(from, .snapshotSent(to: stream.to, at: stream.store.position.index))
    }

    // MARK: - The network

    mutating func deliver(_ position: Int, twice: Bool = false) {
        let message = twice ? wires[position] : wires.remove(at: position)
        step(Int(message.to.rawValue), .received(message))
    }
    mutating func drop(_ position: Int) { wires.remove(at: position) }
    mutating func drop(where lost: (Message) -> Bool) { wires.removeAll(where: lost) }
    mutating func inject(_ message: Message) { wires.append(message) }

    /// Delivers and writes until nothing is left to do; messages for which `lost` holds never arrive.
    mutating func settle(losing lost: (Message) -> Bool = { _ in false }) {
        var busy = true
        while busy {
            busy = false
            for id in 1...members.count { while finishWrite(id) { busy = true } }
            while !wires.isEmpty {
                busy = true
                if lost(wires[0]) { drop(0) } else { deliver(0) }
            }
        }
    }
    /// Time passes at one member only.
    mutating func tick(_ id: Int, _ count: Int = 1) {
        for _ in 0..<count { step(id, .tick) }
    }
    mutating func elect(_ id: Int) {
        for other in 1...members.count { for _ in 0..<10 where other != id { tickQuietly(other) } }
        step(id, .campaign)
        settle()
    }
    /// Ages what a member last heard, without letting it campaign.
    private mutating func tickQuietly(_ id: Int) {
        if !members[id - 1].raft.isLeader { step(id, .tick); drop { $0.from == MemberID(UInt64(id)) } }
    }
}

/// The payload of a change of membership, in these tests: a flag, then a byte for what and one for whom.
enum Change {
    static func encode(_ change: MembershipChange) -> Bytes {
        [change.autoLeave ? 1 : 0] + change.steps.flatMap { step -> Bytes in
            let kind: UInt8 = switch step { case .addVoter: 0; case .addLearner: 1; case .remove: 2 }
            return [kind, UInt8(step.member.rawValue)]
        }
    }
    static func decode(_ bytes: Bytes) -> MembershipChange {
        let steps = stride(from: 1, to: bytes.count, by: 2).map { position -> MembershipChange.Step in
            let member = MemberID(UInt64(bytes[position + 1]))
            return switch bytes[position] { case 0: .addVoter(member); case 1: .addLearner(member); default: .remove(member) }
        }
        return MembershipChange(steps, autoLeave: bytes[0] == 1)
    }
    static func event(_ steps: MembershipChange.Step..., autoLeave: Bool = true) -> Raft.Event {
        .change(payload: encode(MembershipChange(steps, autoLeave: autoLeave)))
    }
}

func id(_ number: UInt64) -> MemberID { MemberID(number) }

func message(_ from: UInt64, to: UInt64, term: Term, _ body: Message.Body) -> Message {
    Message(from: MemberID(from), to: MemberID(to), term: term, body)
}
