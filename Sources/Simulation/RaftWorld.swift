import Basics
import Raft

/// A cluster of Rafts in one thread: a seed decides all, from the size of the cluster to the fate of each message.
///
/// 1. The earliest event happens: a tick, a message, a finished sync, a client's wish, a mishap.
/// 2. The member it concerns takes one step; its effects become writes, messages and later events.
/// 3. `RaftChecker` is told of everything that left the member, and remembers the first broken promise.
/// 4. After the planned steps all is healed: then the cluster must elect, commit and agree within three minutes of its own time.
///
/// Times are milliseconds; a tick is about 100 of them.
package struct RaftWorld: ~Copyable {
    enum Event {
        case tick(Int32)
        case deliver(Int32)
        case synced(Int32, incarnation: Int32)
        case propose, read, change, transfer
        case checkpoint(Int32)
        case mishap
        case aimed(Mishap, Int32)
        case restart(Int32)
        case unquarantine(Int32)
        case heal
        case unreachable(Int32, to: Int32), gone(Int32, of: Int32)
        case snapshotArrives(Int32)
        case snapshotSent(Int32, incarnation: Int32, to: Int32, at: LogIndex)
    }
    /// A store on its way to another member.
    struct Snapshot {
        var from: Int, incarnation: Int32, to: Int
        var position: EntryPosition
        var membership: Membership
        var log: LinkedLog
    }
    struct Member {
        let id: MemberID
        var raft: Raft
        var disk = RaftDisk()
        /// What the store holds durably: the state as of this entry.
        var stored = EntryPosition.start
        var storedMembership: Membership
        /// The replicated table of members, as of the last applied entry. Raft may not know it yet: one that is to join begins without.
        var table: Membership
        /// Every entry in memory, by hash.
        var log = LinkedLog()
        var hard = HardState()
        var committed: LogIndex = 0
        var applied: LogIndex = 0
        var isUp = true
        var pausedUntil: UInt32 = 0
        var incarnation: Int32 = 0
        var tickEvery: Int
        var failsNextSync = false
    }

    let plan: RunPlan
    var profile: FaultProfile
    var ledger: FaultLedger
    var members: [Member] = []
    var queue = EventQueue<Event>()
    var network: Network
    var checker = RaftChecker()
    var report: RunReport
    var hash = EventHash()
    var now: UInt32 = 0
    var steps = 0
    let initial: Membership
    /// Everything a client may propose of: the next payload's number.
    var nextPayload: UInt64 = 1
    var memberships: [LogIndex: Membership] = [:]
    private var messages: [Message?] = []
    private var freeMessages: [Int32] = []
    private var snapshots: [Snapshot] = []
    private var effects: [Raft.Effect] = []
    // Each concern draws from its own source.
    private var tickChance: Chance
    private var wireChance: Chance
    private var diskChance: Chance
    private var clientChance: Chance
    private var faultChance: Chance
    private let proposeEvery: Int
    private let checkpointEvery: Int
    private let logWindow: LogIndex
    private let changeEvery: Int
    private var tuning: Raft.Configuration
    // The second phase.
    private var healedAt: UInt32?
    private var committedWhenHealed: LogIndex = 0
    private var settledAt: UInt32?
    private var settledTerm: Term = 0
    private var isDone = false

    package static func run(_ plan: RunPlan) -> RunReport {
        var world = RaftWorld(plan)
        world.run()
        return world.report
    }

    init(_ plan: RunPlan) {
        self.plan = plan
        var chance = Chance(seed: plan.seed)
        var profileChance = chance.split()
        tickChance = chance.split()
        wireChance = chance.split()
        diskChance = chance.split()
        clientChance = chance.split()
        faultChance = chance.split()
        profile = FaultProfile(&profileChance)
        ledger = FaultLedger(allowed: plan.faults)
        report = RunReport(seed: plan.seed)
        let voters = chance.pick([1, 2, 3, 3, 3, 3, 4, 5, 5, 7]), spares = chance.pick([0, 0, 1, 2])
        proposeEvery = chance.pick([5, 20, 60, 200])
        checkpointEvery = chance.pick([0, 300, 2_000])
        logWindow = LogIndex(chance.pick([0, 5, 100]))
        changeEvery = spares == 0 ? chance.pick([0, 0, 2_000]) : chance.pick([500, 2_000, 6_000])
        network = Network(members: voters + spares)
        let ids = (1...voters + spares).map { MemberID(UInt64($0)) }
        initial = Membership(voters: ids.prefix(voters))
        tuning = Raft.Configuration(member: ids[0], membership: initial, seed: 0)
        tuning.inFlightMax = chance.pick([1, 2, 8, 256])
        tuning.appendBytesMax = chance.pick([1, 24, 200, 1 << 20])
        tuning.uncommittedBytesMax = chance.pick([64, 4_096, 1 << 20])
        // Who may send only a little at a time must not owe much, or it would take longer than the second phase waits.
        if tuning.inFlightMax <= 2 || tuning.appendBytesMax <= 24 { tuning.uncommittedBytesMax = 64 }
        tuning.readRoundsMax = chance.pick([1, 4])
        for (position, id) in ids.enumerated() {
            var configuration = tuning
            configuration.member = id
            // Members that are to join know nothing yet.
            configuration.membership = position < voters ? initial : Membership()
            configuration.seed = tickChance.next()
            members.append(Member(id: id, raft: Raft(configuration), storedMembership: configuration.membership, table: initial,
                                  tickEvery: tickChance.among(80...120)))
            queue.schedule(.tick(Int32(position)), at: UInt32(tickChance.among(1...100)))
            if checkpointEvery > 0 { queue.schedule(.checkpoint(Int32(position)), at: UInt32(tickChance.among(1...checkpointEvery))) }
        }
        queue.schedule(.propose, at: 50)
        queue.schedule(.read, at: 60)
        if changeEvery > 0 { queue.schedule(.change, at: UInt32(changeEvery)) }
        queue.schedule(.transfer, at: UInt32(clientChance.among(1_000...8_000)))
        if profile.mishapEvery > 0 { queue.schedule(.mishap, at: UInt32(faultChance.among(100...3_000))) }
    }

    // MARK: - Time

    mutating func run() {
        var events = 0
        while checker.violation == nil, !isDone, let (time, event) = queue.next() {
            now = time
            hash.mix(UInt64(time))
            handle(event)
            events += 1
            if healedAt == nil, steps >= plan.steps || events >= plan.steps * 20 { heal() }
        }
        report.steps = steps
        report.faultsDecided = ledger.decided
        report.faults = ledger.carriedOut
        report.elections = checker.elections
        report.committed = Int(checker.committed.last)
        report.reads = checker.readsAnswered
        report.histories = 1
        report.violation = checker.violation
        report.hash = hash.value
        if let violation = checker.violation { plan.view?("VIOLATION after \(steps) steps: \(violation)") }
    }

    /// Postpones what happens to a member that stands still.
    private mutating func isPaused(_ member: Int32, _ event: Event) -> Bool {
        let until = members[Int(member)].pausedUntil
        guard until > now else { return false }
        queue.schedule(event, at: until)
        return true
    }

    private mutating func handle(_ event: Event) {
        switch event {
        case .tick(let member):
            if isPaused(member, event) { return }
            let number = Int(member)
            queue.schedule(event, at: now + UInt32(members[number].tickEvery))
            if members[number].isUp { step(number, .tick) }
        case .deliver(let slot): deliver(slot, event)
        case .synced(let member, let incarnation):
            guard members[Int(member)].incarnation == incarnation, !isPaused(member, event) else { return }
            finishSync(Int(member))
        case .propose: propose()
        case .read:
            queue.schedule(.read, at: now + UInt32(clientChance.among(10...200)))
            let stray = clientChance.below(members.count), member = clientChance.below(2) == 0 ? oldestLeader ?? stray : stray
            if members[member].isUp, members[member].pausedUntil <= now {
                moment(.readBegun, member)
                step(member, .read(checker.readBegins()))
            }
        case .change: change()
        case .transfer:
            queue.schedule(.transfer, at: now + UInt32(clientChance.among(1_000...8_000)))
            let target = clientChance.below(members.count)
            if healedAt == nil, let leader = newestLeader { step(leader, .transfer(to: members[target].id)) }
        case .checkpoint(let member): checkpoint(Int(member))
        case .mishap:
            guard healedAt == nil else { return }
            queue.schedule(.mishap, at: now + UInt32(faultChance.among(1...profile.mishapEvery)))
            let mishap = faultChance.pick(profile.mishaps), member = faultChance.below(members.count)
            if ledger.admits() { suffer(mishap, member) }
        case .aimed(let mishap, let member): if healedAt == nil { suffer(mishap, Int(member)) }
        case .restart(let member): restart(Int(member))
        case .unquarantine(let member): if members[Int(member)].isUp { step(Int(member), .quarantine(false)) }
        case .heal:
            network.heal()
            show { "the network is whole again" }
        case .unreachable(let member, let other):
            if members[Int(member)].isUp, members[Int(member)].pausedUntil <= now { step(Int(member), .unreachable(members[Int(other)].id)) }
        case .gone(let member, let other):
            guard members[Int(member)].isUp, !isPaused(member, event) else { return }
            show(Int(member)) { "hears that \(other + 1) has ended" }
            step(Int(member), .gone(members[Int(other)].id))
        case .snapshotArrives(let slot): installSnapshot(slot, event)
        case .snapshotSent(let member, let incarnation, let to, let index):
            let number = Int(member)
            guard members[number].isUp, members[number].incarnation == incarnation, !isPaused(member, event) else { return }
            step(number, .snapshotSent(to: members[Int(to)].id, at: index == 0 ? nil : index))
        }
    }

    /// The leader of the newest term, if one is up.
    private var newestLeader: Int? {
        var found: Int?
        for number in members.indices where members[number].isUp && members[number].pausedUntil <= now && members[number].raft.isLeader {
            if let other = found, members[other].raft.term > members[number].raft.term { continue }
            found = number
        }
        return found
    }

    /// The leader of the oldest term: the one that may be deposed, and not know it.
    private var oldestLeader: Int? {
        var found: Int?
        for number in members.indices where members[number].isUp && members[number].pausedUntil <= now && members[number].raft.isLeader {
            if let other = found, members[other].raft.term < members[number].raft.term { continue }
            found = number
        }
        return found
    }

    // MARK: - One step

    private mutating func step(_ number: Int, _ event: consuming Raft.Event) {
        steps += 1
        effects.removeAll(keepingCapacity: true)
        members[number].raft.step(event, into: &effects)
        perform(number)
    }

    /// Carries out what a step asked for, in order. Adopting a membership may ask for more.
    private mutating func perform(_ number: Int) {
        var position = 0
        while position < effects.count, checker.violation == nil {
            switch effects[position] {
            case .persist(let entries, let state, let afterwards, let stored): persist(number, entries, state, afterwards, stored)
            case .send(let messages): for message in messages { send(message, number) }
            case .release(let through):
                noteCommit(number)
                apply(number, through: through)
            case .standing(let standing): stand(number, standing)
            case .readable(let context, let index): checker.readable(context, at: index, member: number)
            case .snapshotWanted(let id): sendSnapshot(number, to: Int(id.rawValue) - 1)
            case .accepted, .refused, .readRefused: break
            }
            position += 1
        }
        noteCommit(number)
        let state = members[number].raft.hardState
        if state != members[number].hard {
            checker.moves(from: members[number].hard, to: state, member: number, where: "in memory")
            members[number].hard = state
        }
    }

    private mutating func stand(_ number: Int, _ standing: Raft.Standing) {
        show(number) { "is \(standing.position) of term \(standing.term)" }
        switch standing.position {
        case .leader:
            if members[number].raft.isQuarantined { checker.fail(.electionSafety, "member \(number + 1) leads in quarantine") }
            checker.elected(number, term: standing.term, log: members[number].log)
            moment(.elected, number)
        case .candidate: moment(.campaigned, number)
        case .follower, .preCandidate: break
        }
    }

    private mutating func persist(_ number: Int, _ entries: [Entry], _ state: HardState?, _ afterwards: [Message], _ stored: Raft.Stored) {
        var links: [Link] = []
        if let first = entries.first?.index {
            if first <= members[number].log.last {
                if checker.leader(of: stored.term) == number { checker.fail(.leaderAppendOnly, "leader \(number + 1) replaces its entry \(first)") }
                members[number].log.cut(after: first - 1)
            }
            links.reserveCapacity(entries.count)
            var chain = members[number].log.chain(at: first - 1)
            for entry in entries {
                let link = Link(entry, after: chain)
                chain = link.chain
                links.append(link)
                members[number].log.append(link)
                checker.holds(link, at: entry.index, member: number)
                if entry.kind == .membership, entry.term == members[number].raft.term, members[number].raft.isLeader { checkOnlyChange(number, entry.index) }
            }
        }
        for message in afterwards where members[number].raft.isQuarantined {
            if case .voteResponse(granted: true) = message.body { checker.fail(.electionSafety, "member \(number + 1) votes in quarantine") }
        }
        members[number].disk.waiting.append(RaftDisk.Write(entries: entries, links: links, state: state, afterwards: afterwards, stored: stored))
        if members[number].disk.syncing == 0 { beginSync(number) }
    }

    private mutating func checkOnlyChange(_ number: Int, _ index: LogIndex) {
        var other = members[number].applied + 1
        while other < index {
            if members[number].raft.log.hasChange(after: other - 1, through: other), members[number].raft.log[other].term == members[number].raft.term {
                return checker.fail(.oneMembershipChange, "leader \(number + 1) proposes a change at \(index) while the one at \(other) is not applied")
            }
            other += 1
        }
    }

    /// Told whenever the commit index may have moved, before a membership is adopted and after.
    private mutating func noteCommit(_ number: Int) {
        let index = members[number].raft.log.committed
        guard index > members[number].committed else { return }
        members[number].committed = index
        let isNews = index > checker.committed.last
        checker.commits(index, member: number, log: members[number].log) { index, chain in
            members[number].raft.membership.reached { id in
                members[Int(id.rawValue) - 1].disk.log.chain(at: index) == chain ? 1 : 0
            } >= 1
        }
        if isNews { moment(.committed, number) }
    }

    private mutating func apply(_ number: Int, through: LogIndex) {
        let disk = members[number].disk.log, log = members[number].log
        if disk.chain(at: through) != log.chain(at: through) {
            return checker.fail(.durableBeforeApplied, "member \(number + 1) may apply entry \(through), which is not durable there")
        }
        if checker.committed.chain(at: through) != log.chain(at: through) {
            return checker.fail(.stateMachineSafety, "member \(number + 1) applies another entry at \(through)")
        }
        let first = members[number].applied + 1
        members[number].applied = through
        guard first <= through, members[number].raft.log.hasChange(after: first - 1, through: through) else { return }
        for index in first...through {
            let entry = members[number].raft.log[index]
            guard entry.kind == .membership else { continue }
            let new = Self.membership(members[number].table, entry.payload)
            if let known = memberships[index], known != new {
                checker.fail(.equalState, "member \(number + 1) makes another membership of entry \(index)")
            }
            memberships[index] = new
            members[number].table = new
            show(number) { "adopts \(RaftView.describe(new))" }
            members[number].raft.adopt(new, at: index, into: &effects)
        }
    }

    /// A change that does not fit is void.
    private static func membership(_ old: Membership, _ payload: Bytes) -> Membership {
        if payload.isEmpty { return (try? old.leaving()) ?? old }
        let steps = payload.map { byte -> MembershipChange.Step in
            let member = MemberID(UInt64(byte & 15))
            return switch byte >> 4 { case 0: .addVoter(member) case 1: .addLearner(member) default: .remove(member) }
        }
        return (try? old.entering(MembershipChange(steps))) ?? old
    }

    // MARK: - Disk

    private mutating func beginSync(_ number: Int) {
        let count = members[number].disk.waiting.count
        members[number].disk.syncing = count
        guard count > 0 else { return }
        queue.schedule(.synced(Int32(number), incarnation: members[number].incarnation), at: now + UInt32(diskChance.among(1...profile.syncMax)))
    }

    private mutating func finishSync(_ number: Int) {
        if members[number].failsNextSync { return crash(number, because: "its sync failed") }
        finishWrites(number, count: members[number].disk.syncing)
        if members[number].disk.syncing == 0 { beginSync(number) }
    }

    /// The oldest writes are durable: what waited for them goes out.
    private mutating func finishWrites(_ number: Int, count: Int) {
        let writes = Array(members[number].disk.waiting.prefix(count))
        members[number].disk.waiting.removeFirst(count)
        members[number].disk.syncing = 0
        for write in writes { makeDurable(number, write) }
        for write in writes where checker.violation == nil {
            for message in write.afterwards { send(message, number) }
            step(number, .stored(write.stored))
        }
    }

    private mutating func makeDurable(_ number: Int, _ write: RaftDisk.Write) {
        if let first = write.entries.first?.index, let link = write.links.first {
            checker.replaces(from: first, on: members[number].disk.log, with: link, member: number)
            moment(.appendDurable, number)
        }
        if let state = write.state {
            checker.moves(from: members[number].disk.state, to: state, member: number, where: "on disk")
            if state.vote != nil, state.vote != members[number].disk.state.vote { moment(.voteDurable, number) }
        }
        members[number].disk.perform(write)
    }

    private mutating func checkpoint(_ number: Int) {
        queue.schedule(.checkpoint(Int32(number)), at: now + UInt32(checkpointEvery))
        let applied = members[number].applied
        guard members[number].isUp, members[number].pausedUntil <= now, applied > members[number].stored.index,
              let term = members[number].raft.log.term(at: applied) else { return }
        members[number].stored = EntryPosition(index: applied, term: term)
        members[number].storedMembership = members[number].table
        guard applied > logWindow else { return }
        members[number].disk.cut(through: applied - logWindow)
        members[number].raft.compact(through: applied - logWindow)
    }

    // MARK: - Mishaps

    /// A fault aimed at this moment may follow at once.
    private mutating func moment(_ moment: Moment, _ number: Int) {
        guard healedAt == nil else { return }
        for aim in profile.aims where aim.moment == moment && faultChance.happens(perMillion: aim.perMillion) && ledger.admits() {
            queue.schedule(.aimed(aim.mishap, Int32(number)), at: now)
        }
    }

    private mutating func suffer(_ mishap: Mishap, _ number: Int) {
        let outage = UInt32(20 + faultChance.below(profile.outageMax)), other = faultChance.below(members.count)
        let group = 1 + faultChance.below((1 << members.count) - 1)
        show(number) { "suffers \(mishap)" }
        switch mishap {
        case .crash: crash(number, because: "power is cut")
        case .crashPair:
            crash(number, because: "power is cut")
            crash(other, because: "power is cut")
        case .isolate: network.mute(number); network.deafen(number)
        case .mute: network.mute(number)
        case .deafen: network.deafen(number)
        case .split: network.split(group)
        case .pause: members[number].pausedUntil = max(members[number].pausedUntil, now + outage)
        case .loseInFlight:
            for slot in messages.indices where messages[slot]?.from == members[number].id || messages[slot]?.to == members[number].id { messages[slot] = nil }
        case .failSync: members[number].failsNextSync = true
        case .rival: if members[other].isUp, members[other].pausedUntil <= now { step(other, .campaign) }
        case .quarantine:
            guard members[number].isUp, members[number].pausedUntil <= now else { return }
            step(number, .quarantine(true))
            queue.schedule(.unquarantine(Int32(number)), at: now + outage)
        }
        if network.blockedCount > 0 { queue.schedule(.heal, at: now + outage) }
    }

    private mutating func crash(_ number: Int, because reason: String) {
        guard members[number].isUp else { return }
        let writes = members[number].disk.waiting
        // A write is found whole or not at all; the oldest may be durable though nobody was told.
        let kept = diskChance.below(writes.count + 1)
        show(number) { "\(reason): \(kept) of \(writes.count) unsynced writes are found again" }
        for write in writes.prefix(kept) { makeDurable(number, write) }
        members[number].disk.waiting.removeAll()
        members[number].disk.syncing = 0
        members[number].isUp = false
        members[number].failsNextSync = false
        members[number].pausedUntil = 0
        members[number].incarnation += 1
        report.crashes += 1
        // Those who were connected may hear of it, soon or late.
        for other in members.indices where other != number && wireChance.below(3) > 0 {
            queue.schedule(.gone(Int32(other), of: Int32(number)), at: now + UInt32(wireChance.among(1...profile.delayMax)))
        }
        queue.schedule(.restart(Int32(number)), at: now + UInt32(20 + faultChance.below(profile.outageMax)))
    }

    private mutating func restart(_ number: Int) {
        guard !members[number].isUp else { return }
        let disk = members[number].disk, stored = members[number].stored
        var configuration = tuning
        configuration.member = members[number].id
        configuration.membership = members[number].storedMembership
        members[number].table = stored.index == 0 ? initial : members[number].storedMembership
        configuration.seed = tickChance.next()
        guard disk.base.index + LogIndex(disk.entries.count) >= stored.index else {
            return checker.fail(.durableBeforeApplied, "the store of member \(number + 1) is ahead of its log")
        }
        let log = Log(base: disk.base, entries: disk.entries, committed: disk.state.commit, applied: stored.index)
        members[number].raft = Raft(configuration, state: disk.state, log: log)
        members[number].log.replace(with: disk.log)
        members[number].hard = members[number].raft.hardState
        checker.moves(from: disk.state, to: HardState(term: members[number].hard.term, vote: members[number].hard.vote, commit: disk.state.commit),
                      member: number, where: "over a restart")
        members[number].committed = stored.index
        members[number].applied = stored.index
        members[number].isUp = true
        show(number) { "starts again, in term \(disk.state.term), with entries up to \(log.last.index)" }
        noteCommit(number)
        moment(.restarted, number)
    }

    // MARK: - Network

    private mutating func send(_ message: Message, _ number: Int) {
        checker.sends(message, state: members[number].disk.state, disk: members[number].disk.log, log: members[number].log,
                      memoryTerm: members[number].raft.term, member: number)
        if case .append(_, let entries, _) = message.body, !entries.isEmpty { moment(.appendSent, number) }
        let to = Int(message.to.rawValue) - 1
        guard network.carries(from: number, to: to) else {
            // A network may also answer for whom it does not reach: then what is concluded is wrong.
            switch wireChance.below(60) {
            case 0...2: queue.schedule(.unreachable(Int32(number), to: Int32(to)), at: now + 10)
            case 3: queue.schedule(.gone(Int32(number), of: Int32(to)), at: now + 10)
            default: break
            }
            return
        }
        if wireChance.happens(perMillion: profile.lossPerMillion), ledger.admits() { return show(number) { "\(RaftView.describe(message)) is lost" } }
        post(message)
        if wireChance.happens(perMillion: profile.duplicatePerMillion), ledger.admits() { post(message) }
    }

    private mutating func post(_ message: Message) {
        var delay = wireChance.among(1...profile.delayMax)
        if wireChance.happens(perMillion: profile.stragglerPerMillion), ledger.admits() { delay *= 100 }
        if case .voteResponse = message.body, wireChance.happens(perMillion: profile.lateVotePerMillion), ledger.admits() {
            delay += wireChance.among(500...4_000)
        }
        let slot: Int32
        if let free = freeMessages.popLast() {
            slot = free
            messages[Int(free)] = message
        } else {
            slot = Int32(messages.count)
            messages.append(message)
        }
        queue.schedule(.deliver(slot), at: now + UInt32(delay))
    }

    private mutating func deliver(_ slot: Int32, _ event: Event) {
        guard let message = messages[Int(slot)] else { return freeMessages.append(slot) }
        let to = Int(message.to.rawValue) - 1
        if isPaused(Int32(to), event) { return }
        messages[Int(slot)] = nil
        freeMessages.append(slot)
        hash.mix(UInt64(to) << 32 | message.from.rawValue << 16 | message.term)
        guard members[to].isUp else { return }
        show(to) { "hears \(RaftView.describe(message))" }
        step(to, .received(message))
    }

    private mutating func sendSnapshot(_ number: Int, to: Int) {
        moment(.snapshotSent, number)
        let position = members[number].stored, incarnation = members[number].incarnation
        guard position.index > 0, network.carries(from: number, to: to), !(wireChance.happens(perMillion: profile.lossPerMillion) && ledger.admits()) else {
            return queue.schedule(.snapshotSent(Int32(number), incarnation: incarnation, to: Int32(to), at: 0), at: now + 500)
        }
        show(number) { "sends its store as of entry \(position.index) to \(to + 1)" }
        var log = members[number].log
        log.cut(after: position.index)
        snapshots.append(Snapshot(from: number, incarnation: incarnation, to: to, position: position,
                                  membership: members[number].storedMembership, log: log))
        let slot = Int32(snapshots.count - 1)
        queue.schedule(.snapshotArrives(slot), at: now + UInt32(wireChance.among(20...20 + 10 * profile.delayMax)))
    }

    /// The store of another member takes the place of ours: first what is being written is finished, then store and log change as one.
    private mutating func installSnapshot(_ slot: Int32, _ event: Event) {
        let snapshot = snapshots[Int(slot)], number = snapshot.to
        if isPaused(Int32(number), event) { return }
        var answer: LogIndex = 0
        if members[number].isUp, !members[number].failsNextSync {
            finishWrites(number, count: members[number].disk.waiting.count)
            guard checker.violation == nil else { return }
            if members[number].raft.admits(storeAt: snapshot.position) {
                install(snapshot, number)
                answer = snapshot.position.index
            }
        }
        queue.schedule(.snapshotSent(Int32(snapshot.from), incarnation: snapshot.incarnation, to: Int32(number), at: answer),
                       at: now + UInt32(wireChance.among(1...profile.delayMax)))
    }

    private mutating func install(_ snapshot: Snapshot, _ number: Int) {
        let position = snapshot.position
        show(number) { "installs the store of \(snapshot.from + 1) as of entry \(position.index)" }
        if checker.committed.chain(at: position.index) != snapshot.log.chain(at: position.index) {
            return checker.fail(.stateMachineSafety, "member \(number + 1) installs a store that was never committed")
        }
        // What it holds is newer: it keeps that, and says so by its next answer.
        if position.index <= members[number].applied { return }
        members[number].stored = position
        members[number].storedMembership = snapshot.membership
        members[number].table = snapshot.membership
        if members[number].raft.log.agrees(with: position) {
            members[number].disk.cut(through: position.index)
        } else {
            members[number].disk.restart(at: position, log: snapshot.log)
            members[number].log.replace(with: snapshot.log)
        }
        members[number].applied = position.index
        members[number].committed = max(members[number].committed, position.index)
        if let known = memberships[position.index], known != snapshot.membership {
            checker.fail(.equalState, "member \(number + 1) installs another membership as of entry \(position.index)")
        }
        step(number, .installed(position, snapshot.membership))
    }

    // MARK: - Clients

    private mutating func propose() {
        queue.schedule(.propose, at: now + UInt32(healedAt == nil ? clientChance.among(1...2 * proposeEvery) : 400))
        checkRecovery()
        let count = clientChance.pick([1, 1, 1, 4]), stray = clientChance.below(members.count)
        let target = clientChance.below(10) == 0 ? stray : newestLeader ?? stray
        guard !isDone, members[target].isUp, members[target].pausedUntil <= now else { return }
        var payloads: [Bytes] = []
        for _ in 0..<count {
            payloads.append(withUnsafeBytes(of: nextPayload.bigEndian) { Bytes($0) })
            nextPayload += 1
        }
        show(target) { "is asked to log \(count) payloads" }
        step(target, .propose(payloads))
    }

    private mutating func change() {
        queue.schedule(.change, at: now + UInt32(clientChance.among(1...2 * changeEvery)))
        var payload: Bytes = []
        if clientChance.below(3) == 0 {
            // Other voters altogether: the two sides of a joint membership have little in common.
            let voters = 1 + clientChance.below((1 << members.count) - 1)
            for number in members.indices { payload.append(UInt8((voters >> number) & 1 == 1 ? 0 : 2) << 4 | UInt8(number + 1)) }
        } else {
            for _ in 0..<clientChance.pick([1, 1, 2, 3]) {
                payload.append(UInt8(clientChance.pick([0, 0, 1, 2])) << 4 | UInt8(1 + clientChance.below(members.count)))
            }
        }
        guard healedAt == nil, let leader = newestLeader else { return }
        moment(.changeProposed, leader)
        show(leader) { "is asked for a change of membership" }
        step(leader, .change(payload: payload))
    }

    // MARK: - Recovery

    private mutating func heal() {
        healedAt = now
        committedWhenHealed = checker.committed.last
        profile = .calm
        network.heal()
        // What is on its way may be minutes old, such as the word to stand for election.
        for slot in messages.indices { messages[slot] = nil }
        for number in members.indices {
            members[number].pausedUntil = min(members[number].pausedUntil, now)
            members[number].failsNextSync = false
            if !members[number].isUp { queue.schedule(.restart(Int32(number)), at: now + 50) } else if members[number].raft.isQuarantined {
                step(number, .quarantine(false))
            }
        }
        show { "everything is healed; now the cluster must recover" }
    }

    /// In the second phase, with every proposal: has everyone caught up, and does it stay so?
    private mutating func checkRecovery() {
        guard let healedAt else { return }
        if let settledAt {
            guard now >= settledAt + 5_000 else { return }
            let terms = members.indices.filter { isMember($0) }.map { members[$0].raft.term }
            if terms.contains(where: { $0 != settledTerm }) {
                checker.fail(.liveness, "terms grow from \(settledTerm) to \(terms.max() ?? 0) though nothing is wrong")
            }
            isDone = true
        } else if hasRecovered {
            settledAt = now
            settledTerm = newestLeader.map { members[$0].raft.term } ?? 0
        } else if now > healedAt + 180_000 {
            checker.fail(.liveness, "no recovery in three minutes after everything was healed")
        }
    }
    private func isMember(_ number: Int) -> Bool {
        guard let leader = newestLeader else { return false }
        return members[leader].raft.membership.members.contains(members[number].id)
    }
    private var hasRecovered: Bool {
        guard let leader = newestLeader, checker.committed.last > committedWhenHealed else { return false }
        let membership = members[leader].raft.membership, last = members[leader].raft.log.last.index
        // A leader that was asked to hand over before all was healed may yet do it.
        if membership.isJoint || members[leader].raft.transferTarget != nil { return false }
        return membership.members.allSatisfy { id in
            let member = members[Int(id.rawValue) - 1]
            return member.isUp && member.applied == last && member.raft.term == members[leader].raft.term && !member.raft.isQuarantined
        }
    }

    // MARK: - View

    private func show(_ number: Int? = nil, _ text: () -> String) {
        guard let view = plan.view else { return }
        view(RaftView.line(self, about: number, text()))
    }
}
