import Basics
import FileSealing
import MVCC
import Raft
import Replica
import Sealing
import SecretMemory
import WriteAheadLog

/// Whole members in one thread: replicas over the shipping log codec and recovery on simulated disks, messages through the shipping
/// codec, values sealed by the shipping keyring. Clients put, delete, compare, read, lease, compact and rotate keys meanwhile.
///
/// `StoreModel` is told of all that members publish and clients are answered. In the second phase all is healed, and every request
/// must be answered, all members agree, and every live value open.
package struct StoreWorld: ~Copyable {
    enum Occurrence {
        case tick(Int32)
        case deliver(Int32)
        case gone(Int32, of: Int32)
        case synced(Int32, incarnation: Int32)
        case storeDue(Int32)
        case stored(Int32, incarnation: Int32)
        case client(Int32)
        case watch, transfer, mishap
        case aimed(Mishap, Int32)
        case restart(Int32)
        case heal
        case operate, schedule, storeMishap
        case rotLog(Int32)
        case node(Int32), told(Int32), agentStarts(Int32), nodeHeals(Int32)
        case spaceIsBack(Int32), valueRead(Int32)
        case block(Int32)
        case snapshotSent(Int32, incarnation: Int32, to: Int32, at: LogIndex)
    }
    let plan: RunPlan
    var profile: FaultProfile
    var ledger: FaultLedger
    var members: [StoreMember] = []
    var clients: StoreClients
    var model = StoreModel()
    var queue = EventQueue<Occurrence>()
    var network: Network
    var report: RunReport
    var hash = EventHash()
    var now: UInt32 = 0
    var steps = 0
    var fleet = StoreNodes()
    var watchers: [StoreWatcher] = []
    /// By member: which watchers a key concerns there.
    var matchers: [WatchMatcher] = []
    var transfers: [SnapshotTransfer?] = []
    private var wires: [(from: Int, to: Int, bytes: Bytes)?] = []
    private var freeWires: [Int32] = []
    private var leaders: [Term: Int] = [:]
    var tickChance: Chance
    var wireChance: Chance
    private var diskChance: Chance
    private var faultChance: Chance
    var clientChance: Chance
    var nodeChance: Chance
    /// Of nodes' and disks' mishaps, and of changes of membership.
    var storeChance: Chance
    let storeProfile: StoreProfile
    /// One of so many checkpoints is kept as an image of the member's disk; 0: none is.
    let imageEvery: Int
    private let storeEvery: Int
    private(set) var healedAt: UInt32?
    private var isDone = false

    package static func run(_ plan: RunPlan) -> RunReport {
        do {
            var world = try StoreWorld(plan)
            world.run()
            return world.report
        } catch {
            var report = RunReport(seed: plan.seed)
            report.violation = Violation(.recovery, "the cluster cannot be made: \(error)")
            return report
        }
    }

    /// What the seed decides first, and what may fail.
    private struct Beginning {
        var chance: Chance
        var root: RootKey
        var keyring: Keyring
        var members: [StoreMember] = []

        init(_ plan: RunPlan) throws {
            chance = Chance(seed: plan.seed &+ 0x5704e)
            root = try RootKey.random(generation: 1)
            keyring = Keyring(id: Keyring.newID(), root: root)
            var count = chance.pick([1, 3, 3, 3, 5]), window = chance.pick([20, 200, 50_000])
            let checkpointEvery = Int64(chance.pick([2_000, 300_000]))
            var spares = count > 1 ? chance.pick([0, 0, 1, 2]) : 0
            if let cast = plan.cast { (count, spares, window) = (cast.members, cast.joiners, cast.windowEntriesMax) }
            let founders = (1...count).map { ClusterMember(id: MemberID(UInt64($0)), name: "m\($0)", peerURLs: ["https://m\($0)"]) }
            let windowEntriesMax = window
            for number in 0..<count + spares {
                let key = try FileKey(key: SecretBytes.random(count: 32), generation: 1)
                members.append(try StoreMember(number: number, founders: founders, keyring: keyring.id, key: key, chance: &chance) { configuration in
                    configuration.windowEntriesMax = windowEntriesMax
                    configuration.leaseCheckpointMilliseconds = checkpointEvery
                })
            }
        }
    }

    init(_ plan: RunPlan) throws {
        let beginning = try Beginning(plan)
        var chance = beginning.chance
        self.plan = plan
        members = beginning.members
        var profileChance = chance.split()
        tickChance = chance.split()
        wireChance = chance.split()
        diskChance = chance.split()
        faultChance = chance.split()
        clientChance = chance.split()
        profile = FaultProfile(&profileChance)
        ledger = FaultLedger(allowed: plan.faults)
        report = RunReport(seed: plan.seed)
        network = Network(members: members.count)
        storeEvery = chance.pick([50, 300, 2_000])
        nodeChance = chance.split()
        storeChance = chance.split()
        storeProfile = plan.cast.map { StoreProfile(nodes: $0.nodes) } ?? StoreProfile(&profileChance)
        if plan.cast != nil { profile = .calm }
        let putsBack = storeProfile.mishaps.contains { $0 == .putBackDisk || $0 == .lieOfSync }
        imageEvery = putsBack ? storeChance.pick([2, 10, 50]) : 0
        let clientCount = chance.pick([1, 3, 8])
        clients = StoreClients(count: plan.cast?.clients ?? clientCount, keyring: beginning.keyring, root: beginning.root)
        // The promises of Raft itself are tried a hundred times faster in a world of their own.
        profile.mishaps.removeAll { $0 == .quarantine || $0 == .rival }
        if profile.mishaps.isEmpty { profile.mishaps = [.crash] }
        for number in members.indices {
            queue.schedule(.tick(Int32(number)), at: UInt32(tickChance.among(1...100)))
            queue.schedule(.storeDue(Int32(number)), at: UInt32(tickChance.among(1...storeEvery)))
        }
        for client in 0..<clients.count { queue.schedule(.client(Int32(client)), at: UInt32(100 + client)) }
        queue.schedule(.watch, at: 500)
        queue.schedule(.transfer, at: UInt32(clientChance.among(2_000...9_000)))
        if profile.mishapEvery > 0 { queue.schedule(.mishap, at: UInt32(faultChance.among(1_000...4_000))) }
        if storeProfile.mishapEvery > 0 { queue.schedule(.storeMishap, at: UInt32(storeChance.among(1_000...4_000))) }
        if storeProfile.changeEvery > 0, members.count > 1 { queue.schedule(.operate, at: UInt32(storeProfile.changeEvery)) }
        for number in 0..<storeProfile.nodes {
            fleet.nodes.append(SimulatedNode(name: "node-\(number + 1)", chance: &nodeChance))
            fleet.streams.append(nil)
            queue.schedule(.node(Int32(number)), at: UInt32(300 + number))
        }
        if storeProfile.nodes > 0 { queue.schedule(.schedule, at: 400) }
        beginWatches(clientChance.pick([0, 2, 5]))
    }

    /// The next event, if it is before that time, and no promise is broken.
    mutating func goesOn(before time: UInt32) -> Bool {
        guard model.violation == nil, now < time, let (next, event) = queue.next() else { return false }
        now = next
        hash.mix(UInt64(next))
        handle(event)
        return true
    }
    mutating func run() {
        var events = 0
        while model.violation == nil, !isDone, let (time, event) = queue.next() {
            now = time
            hash.mix(UInt64(time))
            handle(event)
            events += 1
            if healedAt == nil, steps >= plan.steps || events >= plan.steps * 20 { heal() }
        }
        report.steps = steps
        report.faultsDecided = ledger.decided
        report.faults = ledger.carriedOut
        report.elections = leaders.count
        report.committed = Int(model.last)
        report.reads = model.answersCompared
        report.histories = 1
        report.violation = model.violation
        report.hash = hash.value
        if let violation = model.violation { plan.view?("VIOLATION after \(steps) steps: \(violation)") }
    }

    // MARK: - Events

    func isPaused(_ number: Int) -> Bool { members[number].pausedUntil > now }

    private mutating func handle(_ event: Occurrence) {
        switch event {
        case .tick(let member):
            let number = Int(member)
            queue.schedule(event, at: isPaused(number) ? members[number].pausedUntil : now + UInt32(members[number].tickEvery))
            if !isPaused(number) { step(number, .tick) }
        case .deliver(let slot): deliver(slot, event)
        case .gone(let member, let other): if !isPaused(Int(member)) { step(Int(member), .gone(members[Int(other)].id)) }
        case .synced(let member, let incarnation):
            let number = Int(member)
            guard members[number].incarnation == incarnation else { return }
            if isPaused(number) { return queue.schedule(event, at: members[number].pausedUntil) }
            if members[number].stuckUntil > now { return queue.schedule(event, at: members[number].stuckUntil) }
            finishSync(number)
        case .storeDue(let member):
            queue.schedule(event, at: now + UInt32(tickChance.among(1...storeEvery)))
            if !isPaused(Int(member)) {
                keepNotes(Int(member))
                step(Int(member), .storeDue)
            }
        case .stored(let member, let incarnation):
            if members[Int(member)].stuckUntil > now { return queue.schedule(event, at: members[Int(member)].stuckUntil) }
            finishCheckpoint(Int(member), incarnation)
        case .client(let client): act(Int(client))
        case .watch:
            queue.schedule(.watch, at: now + 400)
            tendWatches()
            checkRecovery()
        case .transfer:
            queue.schedule(.transfer, at: now + UInt32(clientChance.among(2_000...9_000)))
            let number = clientChance.below(members.count), target = clientChance.below(members.count)
            if healedAt == nil, plan.cast == nil, !isPaused(number) { step(number, .transfer(to: members[target].id)) }
        case .mishap:
            guard healedAt == nil else { return }
            queue.schedule(.mishap, at: now + UInt32(faultChance.among(1...profile.mishapEvery)))
            let mishap = faultChance.pick(profile.mishaps), number = faultChance.below(members.count)
            if ledger.admits() { suffer(mishap, number) }
        case .aimed(let mishap, let member): if healedAt == nil { suffer(mishap, Int(member)) }
        case .restart(let member): restart(Int(member))
        case .heal: network.heal()
        case .operate: operate()
        case .schedule: schedule()
        case .storeMishap: sufferAtRandom()
        case .rotLog(let number): rotLog(Int(number))
        case .node(let number): tend(Int(number))
        case .told(let slot): hear(Int(slot))
        case .agentStarts(let number): startAgent(Int(number))
        case .nodeHeals(let number): fleet.nodes[Int(number)].isCut = false
        case .spaceIsBack(let number): setSpace(Int(number), isShort: false)
        case .valueRead(let number): readRottenValue(Int(number))
        case .block(let slot): sendBlock(Int(slot), event)
        case .snapshotSent(let member, let incarnation, let to, let index):
            guard members[Int(member)].incarnation == incarnation else { return }
            step(Int(member), .snapshotSent(to: members[Int(to)].id, at: index == 0 ? nil : index))
        }
    }

    /// Nothing happens to a member that is down.
    mutating func step(_ number: Int, _ event: consuming Event) {
        let member = members[number]
        guard member.isUp else { return }
        steps += 1
        member.replica.handle(.time(member.clock(now)), into: &member.buffer)
        member.replica.handle(event, into: &member.buffer)
        perform(number)
    }

    mutating func perform(_ number: Int) {
        let member = members[number]
        var replies: [Reply] = []
        for effect in member.buffer.take() {
            switch effect {
            case .persist(let entries, let state, let afterwards, let stored): persist(member, entries, state, afterwards, stored)
            case .send(let messages): for message in messages { send(message, from: number) }
            case .restartLog(let position): restartLog(member, position)
            case .snapshotWanted(let id): sendSnapshot(number, to: Int(id.rawValue) - 1)
            case .replaced(let revision):
                member.published = revision
                fallBehind(number)
            case .answer(let given): replies.append(contentsOf: given)
            case .publish(let events, let revision):
                model.publishes(events, from: member.published, through: revision, member: number)
                member.published = revision
                if model.violation == nil { tellWatches(number, events, through: revision) }
                moment(.committed, number)
            case .store(let checkpoint):
                member.checkpoints.append((checkpoint, member.durableAnchor))
                if member.checkpoints.count == 1 { beginCheckpoint(member) }
            case .standing(let standing): stand(number, standing)
            case .cutLog(let index):
                show(number) { "cuts its log before \(index)" }
                if !member.isSyncing { member.disk.remove(member.writer.cut(before: index)) } else { member.cutBefore = index }
            case .halt(let reason): model.fail(.recovery, "member \(number + 1) halts: \(reason)")
            case .outOfService(let reason): model.fail(.equalState, "member \(number + 1) is out of service: \(reason)")
            case .repaired:
                show(number) { "has caught up and votes again" }
                member.repairers = nil
                crashBehindRepair()
            case .putBack(let reason, let isRepaired): takeBack(number, reason, isRepaired: isRepaired)
            case .recognized(let run):
                member.notes.lastRun = run
                if member.isPutBack { model.fail(.damageNoticed, "member \(number + 1) takes part, though its disk was put back") }
            case .membersChanged: reviewMembers()
            case .compacted: crashBehindCompaction(number)
            case .written, .keysChanged: break
            }
        }
        let applied = member.replica.store.appliedIndex
        if applied > member.durable { model.fail(.durableBeforeApplied, "member \(number + 1) applied entry \(applied), durable is \(member.durable)") }
        if applied != member.hashedAt {
            member.hashedAt = applied
            model.holds(member.replica.store.hash, at: applied, member: number)
            reviewLeases(member)
        }
        for reply in replies where model.violation == nil { answer(reply) }
    }

    private mutating func stand(_ number: Int, _ standing: Raft.Standing) {
        show(number) { "is \(standing.position) of term \(standing.term)" }
        if standing.position == .candidate { moment(.campaigned, number) }
        guard standing.position == .leader else { return }
        if let other = leaders[standing.term], other != number { model.fail(.electionSafety, "two leaders in term \(standing.term)") }
        leaders[standing.term] = number
        if members[number].repairers != nil { model.fail(.electionSafety, "member \(number + 1) leads though it is being repaired") }
        moment(.elected, number)
    }

    // MARK: - Disk

    private mutating func persist(_ member: StoreMember, _ entries: [Entry], _ state: HardState?, _ afterwards: [PeerMessage], _ stored: Raft.Stored) {
        let batch = LogBatch(
            entries: entries.map { LogEntry(index: $0.index, term: $0.term, isMembership: $0.kind == .membership, payload: $0.payload) },
            state: state.map { LogState(term: $0.term, vote: $0.vote, commit: $0.commit) }, restart: member.restartAfter)
        member.restartAfter = nil
        member.writes.append(StoreMember.Write(batch: batch, afterwards: afterwards, stored: stored))
        if !member.isSyncing { beginSync(member) }
    }
    /// Everything that waits goes to the disk; it is durable when the sync has ended.
    private mutating func beginSync(_ member: StoreMember) {
        guard !member.writes.isEmpty else { return }
        member.syncing = member.writes.count
        member.writer.commit(member.writes.map(\.batch), to: member.disk)
        queue.schedule(.synced(Int32(member.number), incarnation: member.incarnation), at: now + UInt32(diskChance.among(1...profile.syncMax)))
    }
    mutating func finishSync(_ number: Int) {
        let member = members[number]
        if member.failsNextSync { return crash(number) }
        member.disk.finish()
        if let leak = member.disk.leak { model.fail(.secrecy, leak) }
        if member.cipher.hasRepeated { model.fail(.nonceReuse, "member \(number + 1) sealed two frames under one nonce") }
        let writes = Array(member.writes.prefix(member.syncing))
        member.writes.removeFirst(member.syncing)
        member.syncing = 0
        member.durableAnchor = member.writer.head.anchor
        if let index = member.cutBefore {
            member.disk.remove(member.writer.cut(before: index))
            member.cutBefore = nil
        }
        for write in writes { if let state = write.batch.state { member.durableState = state } }
        if let last = writes.last {
            member.durable = last.stored.last.index
            moment(.appendDurable, number)
            if writes.contains(where: { $0.afterwards.contains(where: \.grantsVote) }) { moment(.voteDurable, number) }
        }
        for write in writes where model.violation == nil {
            for message in write.afterwards { send(message, from: number) }
            step(number, .logged(write.stored))
        }
        if !member.isSyncing { beginSync(member) }
    }
    /// The log begins anew. A real member's records and log change together: see `installSnapshot`.
    private func restartLog(_ member: StoreMember, _ position: EntryPosition) {
        member.restartAfter = LogPosition(index: position.index, term: position.term)
        member.writer.commit([LogBatch(restart: member.restartAfter)], to: member.disk)
        member.restartAfter = nil
        member.disk.finish()
        member.durableAnchor = member.writer.head.anchor
        member.durable = position.index
    }

    private mutating func beginCheckpoint(_ member: StoreMember) {
        queue.schedule(.stored(Int32(member.number), incarnation: member.incarnation), at: now + UInt32(diskChance.among(1...3 * profile.syncMax)))
    }
    private mutating func finishCheckpoint(_ number: Int, _ incarnation: Int32) {
        let member = members[number]
        guard member.incarnation == incarnation, !member.checkpoints.isEmpty else { return }
        let (checkpoint, anchor) = member.checkpoints.removeFirst()
        member.records.perform(checkpoint, anchor: anchor)
        if !member.checkpoints.isEmpty { beginCheckpoint(member) }
        step(number, .stored(through: checkpoint.applied))
    }

    // MARK: - Mishaps

    mutating func moment(_ moment: Moment, _ number: Int) {
        guard healedAt == nil else { return }
        for aim in profile.aims where aim.moment == moment && faultChance.happens(perMillion: aim.perMillion) && ledger.admits() {
            queue.schedule(.aimed(aim.mishap, Int32(number)), at: now)
        }
    }
    /// How long something lasts: what is told lasts as long as told.
    func lasting(_ drawn: Int) -> UInt32 { plan.cast == nil ? UInt32(20 + drawn) : UInt32(profile.outageMax) }
    /// About when the records are rid of what was compacted.
    private mutating func crashBehindCompaction(_ number: Int) {
        guard healedAt == nil, plan.cast == nil, profile.mishaps.contains(.crash), storeChance.below(8) == 0, ledger.admits() else { return }
        queue.schedule(.aimed(.crash, Int32(number)), at: now + UInt32(storeChance.among(1...2 * storeEvery)))
    }
    /// A member votes again: the leader ends, and what it said last is lost. Had the member not caught up, what it acknowledged once might be gone.
    private mutating func crashBehindRepair() {
        guard healedAt == nil, plan.cast == nil, storeChance.below(2) == 0, ledger.admits(),
              let leader = members.firstIndex(where: { $0.isUp && $0.replica.isLeader }) else { return }
        for mishap in [Mishap.loseInFlight, .crash] { queue.schedule(.aimed(mishap, Int32(leader)), at: now) }
    }
    mutating func suffer(_ mishap: Mishap, _ number: Int) {
        guard !isDiskPutBack else { return }
        let outage = lasting(faultChance.below(profile.outageMax)), other = faultChance.below(members.count)
        let group = 1 + faultChance.below((1 << members.count) - 1)
        show(number) { "suffers \(mishap)" }
        switch mishap {
        case .crash: crash(number)
        case .crashPair: crash(number); crash(other)
        case .isolate: network.mute(number); network.deafen(number)
        case .mute: network.mute(number)
        case .deafen: network.deafen(number)
        case .split: network.split(group)
        case .pause: members[number].pausedUntil = max(members[number].pausedUntil, now + outage)
        case .loseInFlight: for slot in wires.indices where wires[slot]?.from == number || wires[slot]?.to == number { wires[slot] = nil }
        case .failSync: members[number].failsNextSync = true
        case .rival, .quarantine: break
        }
        if network.blockedCount > 0 { queue.schedule(.heal, at: now + outage) }
    }
    mutating func crash(_ number: Int) {
        let member = members[number]
        guard member.isUp else { return }
        member.disk.crash(&diskChance)
        if let next = member.checkpoints.first, diskChance.below(2) == 0 { member.records.perform(next.checkpoint, anchor: next.anchor) }
        member.forget()
        report.crashes += 1
        clients.abandon(at: number)
        show(number) { "crashes" }
        for other in members.indices where other != number && wireChance.below(3) > 0 {
            queue.schedule(.gone(Int32(other), of: Int32(number)), at: now + UInt32(wireChance.among(1...profile.delayMax)))
        }
        queue.schedule(.restart(Int32(number)), at: now + lasting(faultChance.below(profile.outageMax)))
    }
    private mutating func restart(_ number: Int) {
        let member = members[number]
        guard !member.isUp, member.isStarted, !member.isRetired else { return }
        // The machine's clock begins anew too.
        member.clockOffset = Int64(tickChance.below(100_000)) - Int64(now)
        do {
            if let objection = try member.restart(seed: tickChance.next(), now) { return model.fail(.recovery, "member \(number + 1): \(objection)") }
        } catch { guard repairs(member, error) else { return } }
        member.isUp = true
        member.hashedAt = 0
        if member.isSpaceShort { step(number, .space(isShort: true)) }
        show(number) { "starts again with entries up to \(member.durable), applied \(member.records.applied)" }
        moment(.restarted, number)
    }

    // MARK: - Network

    private mutating func send(_ message: PeerMessage, from number: Int) {
        let to = Int(message.to.rawValue) - 1
        guard members.indices.contains(to) else { return }
        guard network.carries(from: number, to: to) else {
            // A network may also answer for whom it does not reach: then what is concluded is wrong.
            if wireChance.below(60) == 0 { queue.schedule(.gone(Int32(number), of: Int32(to)), at: now + 10) }
            return
        }
        if isDiskPutBack, message.isMemory {
            wires.append((number, to, message.encode()))
            return queue.schedule(.deliver(Int32(wires.count - 1)), at: now + 2)
        }
        if wireChance.happens(perMillion: profile.lossPerMillion), ledger.admits() { return }
        let bytes = message.encode()
        if Secrecy.holdsCanary(bytes) { model.fail(.secrecy, "member \(number + 1) sends a secret") }
        if case .raft(let inner) = message.body, case .append(_, let entries, _) = inner.body, !entries.isEmpty { moment(.appendSent, number) }
        post(number, to, bytes)
        if !message.isForwarded, wireChance.happens(perMillion: profile.duplicatePerMillion), ledger.admits() { post(number, to, bytes) }
    }
    private mutating func post(_ from: Int, _ to: Int, _ bytes: Bytes) {
        var delay = wireChance.among(1...profile.delayMax)
        if wireChance.happens(perMillion: profile.stragglerPerMillion), ledger.admits() { delay *= 100 }
        let slot = freeWires.popLast() ?? Int32(wires.count)
        if Int(slot) == wires.count { wires.append((from, to, bytes)) } else { wires[Int(slot)] = (from, to, bytes) }
        queue.schedule(.deliver(slot), at: now + UInt32(delay))
    }
    private mutating func deliver(_ slot: Int32, _ event: Occurrence) {
        guard let wire = wires[Int(slot)] else { return freeWires.append(slot) }
        if isPaused(wire.to) { return queue.schedule(event, at: members[wire.to].pausedUntil) }
        wires[Int(slot)] = nil
        freeWires.append(slot)
        hash.mix(UInt64(wire.to) << 32 | UInt64(wire.bytes.count))
        do {
            let message = try PeerMessage(decoding: wire.bytes)
            show(wire.to) { "hears \(StoreView.describe(message))" }
            step(wire.to, .received([message]))
        } catch { model.fail(.recovery, "a message does not decode: \(error)") }
    }

    // MARK: - Recovery

    mutating func heal() {
        healedAt = now
        profile = .calm
        network.heal()
        for slot in wires.indices { wires[slot] = nil }
        for number in members.indices {
            members[number].pausedUntil = min(members[number].pausedUntil, now)
            members[number].failsNextSync = false
            members[number].stuckUntil = min(members[number].stuckUntil, now)
            if members[number].isSpaceShort { setSpace(number, isShort: false) }
            if !members[number].isUp { queue.schedule(.restart(Int32(number)), at: now + 50) }
        }
        healNodes()
        show { "everything is healed; now the cluster must recover" }
    }
    private mutating func checkRecovery() {
        guard let healedAt, model.violation == nil else { return }
        reviewMembers()
        clients.isResting = now > healedAt + 20_000
        guard now > healedAt + 35_000 else { return }
        let present = currentMembers.map { members[$0] }
        let objection = objection(to: present) ?? nodeObjection()
        if let objection {
            if now > healedAt + 180_000 { model.fail(.liveness, "three minutes after healing, \(objection)") }
            return
        }
        if clients.successes(since: healedAt) == 0 { model.fail(.liveness, "no request succeeded after healing") }
        for member in present { openValues(member) }
        isDone = true
    }
    /// Why the cluster has not recovered yet.
    private func objection(to present: [StoreMember]) -> String? {
        for member in present { if let objection = objection(to: member) { return objection } }
        let applied = present.map { $0.replica.store.appliedIndex }
        guard let first = present.first, present.contains(where: { $0.replica.isLeader }) else { return "nobody leads" }
        if Set(applied).count > 1 { return "applied is \(applied)" }
        if let request = clients.oldest {
            return "request \(request.number) of client \(request.client), asked of member \(request.member + 1) at \(request.askedAt), has no answer"
        }
        return first.replica.store.members.alarms.first.map { "an alarm is left: \($0)" }
    }
    private func objection(to member: StoreMember) -> String? {
        let name = "member \(member.number + 1)"
        if !member.isUp { return name + " is down" }
        if member.repairers != nil { return name + " is still being repaired" }
        if let revision = member.rottenValue { return name + " keeps a damaged value of revision \(revision.main)" }
        if !member.isWhole { return name + " does not notice what became of its disk" }
        return member.replica.store.leaseCount > 0 ? name + " keeps a lease whose time is over" : nil
    }
    /// Every value that the records hold opens under the keys that the tables list, for its own key only, and is what was sealed.
    private mutating func openValues(_ member: StoreMember) {
        let keyring: Keyring
        do { keyring = try clients.keyring(of: member.replica.store.keys) } catch {
            return model.fail(.keyNeeded, "member \(member.number + 1) lists keys that do not open: \(error)")
        }
        for revision in member.records.records.keys.sorted() {
            guard let (version, value) = member.records.records[revision], let value else { continue }
            guard let opened = try? keyring.open(value, key: version.key) else {
                return model.fail(.keyNeeded, "a value of revision \(revision.main) does not open at member \(member.number + 1)")
            }
            if !opened.withUnsafeBytes({ $0.starts(with: Secrecy.canary + version.key) }) {
                return model.fail(.equalState, "member \(member.number + 1) stores another value of revision \(revision.main)")
            }
            if (try? keyring.open(value, key: version.key + [0])) != nil { return model.fail(.secrecy, "a value opens for a key that it was not sealed for") }
        }
        for key in clients.keys + StoreNodes.podKeys + StoreNodes.secretKeys {
            guard let version = model.version(of: key, at: member.records.revision), let record = member.records.records[version.revision] else { continue }
            if record.version != version { return model.fail(.equalState, "member \(member.number + 1) stores another record of revision \(version.revision.main)") }
        }
    }

    func show(_ number: Int? = nil, _ text: () -> String) {
        guard let view = plan.view else { return }
        view(StoreView.line(self, about: number, text()))
    }
}

extension PeerMessage {
    fileprivate var grantsVote: Bool {
        if case .raft(let inner) = body, case .voteResponse(granted: true) = inner.body { true } else { false }
    }
    /// What arrives once or never (`Forwards`).
    fileprivate var isForwarded: Bool { if case .forward = body { true } else { false } }
    /// About what members remember of each other.
    fileprivate var isMemory: Bool {
        switch body {
        case .recall, .recalled: true
        default: false
        }
    }
}
