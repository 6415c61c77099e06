import Basics
import MVCC
import Raft
import Replica
import Testing

/// Several replicas with disks and record lanes in memory, and a network that delivers in order, at once, or not at all. Time passes only in `pass`.
struct Trio {
    struct Node: ~Copyable {
        var replica: Replica
        var log: Host.DurableLog
        var beginning: EntryPosition?
        var records: Host.DurableRecords
        var outcomes: [Ticket: Outcome] = [:]
        var events: [WatchEvent] = []
        var snapshotsWanted: [MemberID] = []
        var halted: String?
        var outOfService: String?
        var wasRepaired = false
        var wasReplaced = 0
        var isDown = false
        /// As its disk has it; `nil`: the others are not asked.
        var lastRun: UInt64?
    }
    private(set) var now: Int64 = 0
    private var lastTicket: Ticket = 0
    private var incarnation: UInt64 = 1
    /// Kept sorted by id: node n is member n + 1.
    private var nodes: [Slot] = []
    private final class Slot { var node: Node; init(_ node: consuming Node) { self.node = node } }
    private var network: [PeerMessage] = []
    /// Links that lose everything.
    var cut: Set<[UInt64]> = []
    /// Messages that are lost, by their kind.
    var loses: (PeerMessage) -> Bool = { _ in false }
    /// What arrives instead of a message: a mistake of the receiver's memory.
    var alter: (PeerMessage) -> PeerMessage = { $0 }
    var sent: [PeerMessage] = []
    var change: (inout Replica.Configuration) -> Void

    static func member(_ number: Int, isLearner: Bool = false) -> ClusterMember {
        ClusterMember(id: MemberID(UInt64(number)), name: "m\(number)", peerURLs: ["https://m\(number):2380"], isLearner: isLearner)
    }

    init(founders: Int = 3, _ change: @escaping (inout Replica.Configuration) -> Void = { _ in }) throws {
        self.change = change
        let members = (1...founders).map { Self.member($0) }
        for number in 1...founders { nodes.append(Slot(try Self.node(number, founders: members, incarnation: 1, change: change))) }
    }

    private static func node(
        _ number: Int, founders: [ClusterMember], log: Host.DurableLog = Host.DurableLog(), beginning: EntryPosition? = nil,
        records: Host.DurableRecords = Host.DurableRecords(), incarnation: UInt64, isRepairing: Bool = false, change: (inout Replica.Configuration) -> Void
    ) throws -> Node {
        let voters = founders.filter { !$0.isLearner }.map(\.id)
        var configuration = Replica.Configuration(raft: Raft.Configuration(
            member: MemberID(UInt64(number)), membership: Membership(voters: isRepairing ? [] : voters), seed: UInt64(number) * 7 + incarnation))
        configuration.founders = founders
        configuration.incarnation = incarnation
        configuration.isRepairing = isRepairing
        change(&configuration)
        let replica = try Replica(configuration, store: try records.store(), state: log.state, entries: log.entries, beginning: beginning)
        return Node(replica: replica, log: log, beginning: beginning, records: records)
    }

    // MARK: - Nodes

    /// A member that knows nobody yet.
    mutating func join(_ number: Int) throws {
        precondition(nodes.count == number - 1)
        nodes.append(Slot(try Self.node(number, founders: [], incarnation: 1, change: change)))
    }
    func stop(_ number: Int) { nodes[number - 1].node.isDown = true }
    /// From what was durable; with `losing`, from nothing: it is damaged.
    mutating func restart(_ number: Int, losing: Bool = false) throws {
        incarnation += 1
        let slot = nodes[number - 1]
        let founders = (1...nodes.count).map { Self.member($0) }
        let log = losing ? Host.DurableLog() : slot.node.log, records = losing ? Host.DurableRecords() : slot.node.records
        var restarted = try Self.node(
            number, founders: founders, log: log, beginning: losing ? nil : slot.node.beginning, records: records, incarnation: incarnation,
            isRepairing: losing, change: change)
        restarted.outcomes = slot.node.outcomes
        slot.node = restarted
    }
    func log(of number: Int) -> Host.DurableLog { nodes[number - 1].node.log }
    /// The disk lies, or was put back: the log is as it was with so many entries.
    func putBack(_ number: Int, log: Host.DurableLog, entries: Int) {
        var log = log
        log.entries.removeLast(max(0, log.entries.count - entries))
        log.state.commit = min(log.state.commit, log.entries.last?.index ?? 0)
        nodes[number - 1].node.log = log
    }
    func with<R>(_ number: Int, _ body: (borrowing Replica) throws -> R) rethrows -> R { try body(nodes[number - 1].node.replica) }
    func node<R>(_ number: Int, _ path: KeyPath<NodeFacts, R>) -> R {
        let node = nodes[number - 1]
        return NodeFacts(
            outcomes: node.node.outcomes, events: node.node.events, halted: node.node.halted, outOfService: node.node.outOfService,
            wasRepaired: node.node.wasRepaired, wasReplaced: node.node.wasReplaced, firstEntry: node.node.log.entries.first?.index ?? 0, lastRun: node.node.lastRun)[keyPath: path]
    }
    struct NodeFacts {
        var outcomes: [Ticket: Outcome], events: [WatchEvent], halted: String?, outOfService: String?, wasRepaired: Bool, wasReplaced: Int
        var firstEntry: LogIndex, lastRun: UInt64?
    }
    var leader: Int? {
        let leaders = (1...nodes.count).filter { number in !nodes[number - 1].node.isDown && with(number) { $0.isLeader } }
        return leaders.max { a, b in with(a) { $0.raft.term } < with(b) { $0.raft.term } }
    }

    // MARK: - What happens

    mutating func handle(_ number: Int, _ event: consuming Event) {
        let slot = nodes[number - 1]
        guard !slot.node.isDown else { return }
        var buffer = EffectBuffer()
        slot.node.replica.handle(event, into: &buffer)
        perform(buffer.take(), number)
    }
    private mutating func perform(_ effects: [Effect], _ number: Int) {
        let slot = nodes[number - 1]
        var logged: [(Raft.Stored, [PeerMessage])] = [], stored: [LogIndex] = []
        for effect in effects {
            switch effect {
            case .persist(let entries, let state, let afterwards, let stored):
                slot.node.log.perform(Host.LogWrite(entries: entries, state: state, stored: stored))
                logged.append((stored, afterwards))
            case .send(let messages): network.append(contentsOf: messages)
            case .restartLog(let position):
                slot.node.log.entries = []
                slot.node.beginning = position
            case .snapshotWanted(let member): slot.node.snapshotsWanted.append(member)
            case .answer(let replies):
                for reply in replies {
                    #expect(slot.node.outcomes[reply.ticket] == nil, "ticket \(reply.ticket) was answered twice")
                    slot.node.outcomes[reply.ticket] = reply.outcome
                }
            case .publish(let events, _): slot.node.events.append(contentsOf: events)
            case .store(let checkpoint):
                slot.node.records.perform(checkpoint)
                stored.append(checkpoint.applied)
            case .cutLog(let index):
                slot.node.beginning = nil
                slot.node.log.entries.removeAll { $0.index < index }
            case .halt(let reason): slot.node.halted = reason
            case .outOfService(let reason): slot.node.outOfService = reason
            case .repaired: slot.node.wasRepaired = true
            case .putBack(let reason, let isRepaired): if isRepaired { slot.node.outOfService = reason }
            case .recognized(let run): slot.node.lastRun = run
            case .replaced: slot.node.wasReplaced += 1
            case .written, .keysChanged, .compacted, .standing, .membersChanged: break
            }
        }
        for (stored, afterwards) in logged {
            handle(number, .logged(stored))
            network.append(contentsOf: afterwards)
        }
        for index in stored { handle(number, .stored(through: index)) }
    }

    /// Everything under way arrives, and what that gives rise to. Each message goes through its codec.
    mutating func settle() {
        var deliveries = 0
        while !network.isEmpty {
            let message = network.removeFirst()
            deliveries += 1
            guard deliveries < 200_000 else { Issue.record("the network never rests"); return }
            sent.append(message)
            let to = Int(message.to.rawValue)
            guard !loses(message), !cut.contains([message.from.rawValue, message.to.rawValue]), to >= 1, to <= nodes.count,
                  !nodes[to - 1].node.isDown, !nodes[Int(message.from.rawValue) - 1].node.isDown else { continue }
            do {
                let decoded = try PeerMessage(decoding: message.encode())
                #expect(decoded == message)
                handle(to, .received([alter(decoded)]))
            } catch { Issue.record("\(message) does not decode: \(error)") }
        }
        sendSnapshots()
        if !network.isEmpty { settle() }
    }

    /// Leaders' record lanes, block by block, through the codec.
    private mutating func sendSnapshots() {
        for number in 1...nodes.count {
            let wanted = nodes[number - 1].node.snapshotsWanted
            nodes[number - 1].node.snapshotsWanted = []
            for member in wanted {
                let to = Int(member.rawValue), isReachable = !cut.contains([UInt64(number), member.rawValue]) && !nodes[to - 1].node.isDown
                var at: LogIndex?
                if isReachable { at = install(from: number, to: to) }
                handle(number, .snapshotSent(to: member, at: at))
            }
        }
    }
    private mutating func install(from: Int, to: Int) -> LogIndex? {
        let source = nodes[from - 1].node.records
        guard source.applied > 0, let term = with(from, { $0.raft.log.term(at: source.applied) }) else { return nil }
        let position = EntryPosition(index: source.applied, term: term), target = nodes[to - 1]
        guard target.node.replica.admits(snapshotAt: position) else { return nil }
        do {
            var copy = Host.DurableRecords()
            let rows = source.rows.sorted { ($0.key.table.rawValue, $0.key.key.description) < ($1.key.table.rawValue, $1.key.key.description) }
            let blocks: [SnapshotBlock] = [
                .tables(rows.map { TableWrite($0.key.table, $0.key.key, $0.value) }),
                .records(source.records.keys.sorted().map { revision in
                    let stored = source.records[revision]
                    return SnapshotBlock.StoredRecord(
                        version: stored?.version ?? KeyVersion(key: [], revision: revision, createRevision: 0, version: 0, lease: 0), value: stored?.value)
                }),
            ]
            for block in blocks {
                switch try SnapshotBlock(decoding: block.encode()[SnapshotBlock.prefixBytes...]) {
                case .tables(let rows): for row in rows { copy.rows[Host.Row(table: row.table, key: row.key)] = row.value }
                case .records(let records): for record in records { copy.records[record.version.revision] = (record.version, record.value) }
                case .end: break
                }
            }
            copy.applied = source.applied
            target.node.records = copy
            var buffer = EffectBuffer()
            try target.node.replica.install(try copy.store(), at: position, into: &buffer)
            perform(buffer.take(), to)
            return position.index
        } catch {
            Issue.record("the snapshot does not install: \(error)")
            return nil
        }
    }

    /// Ticks of 100 ms, all at once, each settled.
    mutating func pass(ticks: Int = 1) {
        for _ in 0..<ticks {
            now += 100
            for number in 1...nodes.count {
                handle(number, .time(now))
                handle(number, .tick)
            }
            settle()
        }
    }
    mutating func store(_ number: Int) { handle(number, .storeDue) }
    /// Until there is a leader that has applied its first entry.
    mutating func elect(_ wanted: Int? = nil) {
        if let wanted { handle(wanted, .campaign) }
        settle()
        for _ in 0..<100 where leader == nil || with(leader ?? 1, { $0.store.appliedIndex == 0 }) { pass() }
        pass(ticks: 3)
        #expect(leader != nil)
    }

    mutating func propose(_ number: Int, _ command: Command) -> Ticket {
        lastTicket += 1
        handle(number, .proposed([Proposal(ticket: lastTicket, command: command)]))
        return lastTicket
    }
    mutating func ask(_ number: Int, _ kind: Question.Kind) -> Ticket {
        lastTicket += 1
        handle(number, .asked([Question(ticket: lastTicket, kind)]))
        return lastTicket
    }
    @discardableResult
    mutating func carryOut(_ number: Int, _ command: Command) -> Outcome? {
        let ticket = propose(number, command)
        settle()
        for _ in 0..<20 where outcome(number, ticket) == nil { pass() }
        return outcome(number, ticket)
    }
    func outcome(_ number: Int, _ ticket: Ticket) -> Outcome? { nodes[number - 1].node.outcomes[ticket] }
    func get(_ number: Int, _ key: String) -> KeyVersion? { with(number) { $0.store.version(of: Bytes(key.utf8)) } }
    /// All that are up hold the same, up to the same entry.
    func agree() -> Bool {
        let up = (1...nodes.count).filter { !nodes[$0 - 1].node.isDown }
        let first = with(up[0]) { ($0.store.appliedIndex, $0.store.hash) }
        return up.allSatisfy { number in with(number) { ($0.store.appliedIndex, $0.store.hash) } == first }
    }
}
