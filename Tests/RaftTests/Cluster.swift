import Basics
import Raft
import Testing

/// A Raft cluster in one thread: disks that finish writes when told to, a network that delivers when told to, and the
/// safety properties of the paper's Figure 3, checked whenever something is released.
struct Cluster {
    struct Write {
        var entries: [Entry]
        var state: HardState?
        var afterwards: [Message]
        var stored: Raft.Stored
    }
    struct Disk {
        var state = HardState()
        var entries: [Entry] = []
        mutating func perform(_ write: Write) {
            if let first = write.entries.first { entries.removeSubrange(min(entries.count, Int(first.index) - 1)...) }
            entries.append(contentsOf: write.entries)
            if let state = write.state { self.state = state }
        }
    }
    struct Member {
        var raft: Raft
        var disk = Disk()
        var writes: [Write] = []
        var accepted: [LogIndex] = []
        var refused = 0
        var readable: [Raft.ReadContext: LogIndex] = [:]
        var readsRefused: [Raft.ReadContext] = []
        var released: LogIndex = 0
    }
    private(set) var members: [Member] = []
    private(set) var wires: [Message] = []
    /// Election safety: the leader of each term.
    private var leaders: [Term: MemberID] = [:]
    /// State-machine safety: what was released at each index, by whomever first.
    private(set) var history: [Entry] = []
    private let ids: [MemberID]
    private var incarnation: UInt64 = 0

    init(_ count: Int) {
        ids = (1...count).map { MemberID(UInt64($0)) }
        for id in ids { members.append(Member(raft: Raft(Raft.Configuration(member: id, voters: ids, seed: id.rawValue)))) }
    }

    subscript(_ id: Int) -> Member { members[id - 1] }
    var leaderCount: Int { leaders.count }
    var leader: Int? {
        members.filter(\.raft.isLeader).max { $0.raft.term < $1.raft.term }.map { Int($0.raft.member.rawValue) }
    }

    mutating func step(_ id: Int, _ event: Raft.Event) {
        let before = members[id - 1].raft.hardState
        var effects: [Raft.Effect] = []
        members[id - 1].raft.step(event, into: &effects)
        let after = members[id - 1].raft.hardState
        #expect(after.term >= before.term && after.commit >= before.commit, "term or commit index went back on \(id)")
        if after.term == before.term, let vote = before.vote { #expect(after.vote == vote, "\(id) changed its vote in term \(after.term)") }
        for effect in effects { perform(effect, on: id) }
    }

    private mutating func perform(_ effect: Raft.Effect, on id: Int) {
        switch effect {
        case .persist(let entries, let state, let afterwards, let stored):
            members[id - 1].writes.append(Write(entries: entries, state: state, afterwards: afterwards, stored: stored))
        case .send(let messages): wires.append(contentsOf: messages)
        case .release(let through): release(through, on: id)
        case .accepted(let first, let count): members[id - 1].accepted.append(contentsOf: first..<first + LogIndex(count))
        case .refused(let count, _): members[id - 1].refused += count
        case .readable(let context, let index):
            #expect(index >= members[id - 1].raft.log.base.index)
            members[id - 1].readable[context] = index
        case .snapshotWanted: break
        case .readRefused(let context): members[id - 1].readsRefused.append(context)
        case .standing(let standing):
            guard standing.position == .leader else { return }
            let known = leaders[standing.term]
            #expect(known == nil || known == MemberID(UInt64(id)), "two leaders in term \(standing.term)")
            leaders[standing.term] = MemberID(UInt64(id))
        }
    }

    private mutating func release(_ through: LogIndex, on id: Int) {
        let member = members[id - 1]
        #expect(through > member.released)
        for index in member.released + 1...through {
            let entry = member.raft.log[index]
            #expect(member.disk.entries.count >= Int(index) && member.disk.entries[Int(index) - 1] == entry,
                    "\(id) may apply entry \(index), which is not durable there")
            if history.count >= Int(index) {
                #expect(history[Int(index) - 1] == entry, "\(id) applies another entry at \(index)")
            } else {
                #expect(members.filter { $0.disk.entries.count >= Int(index) && $0.disk.entries[Int(index) - 1] == entry }.count > members.count / 2,
                        "entry \(index) committed without a majority")
                history.append(entry)
            }
        }
        members[id - 1].released = through
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
        let configuration = Raft.Configuration(member: ids[id - 1], voters: ids, seed: UInt64(id) &+ incarnation &* 1000)
        members[id - 1] = Member(raft: Raft(configuration, state: disk.state, log: Log(entries: disk.entries, committed: disk.state.commit)), disk: disk)
    }

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

func message(_ from: UInt64, to: UInt64, term: Term, _ body: Message.Body) -> Message {
    Message(from: MemberID(from), to: MemberID(to), term: term, body)
}
