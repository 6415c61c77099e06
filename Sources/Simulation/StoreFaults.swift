import Basics
import MVCC
import Raft
import Replica
import WriteAheadLog

/// What can go wrong beside a member's power and network (`Mishap`).
package enum StoreMishap: UInt8, CaseIterable, Sendable {
    /// A node's agent ends, and starts again later.
    case killAgent
    /// It ends in the middle of the next thing it does; or only that fails, and is tried again.
    case interruptAgent, failWork
    /// A node and the members do not hear each other.
    case cutNode
    /// A node starts anew, with nothing.
    case bootNode
    /// Someone sets a member's calendar, forwards or back.
    case setClock
    /// Something of a member's acknowledged log is not as it was written, and it starts again.
    case rotLog
    /// A record turns out not to open, while the member is at work: all of its store is fetched anew.
    case rotRecord
    /// The value in a record changes, and the file around it is well: it alone is fetched from another member.
    case rotValue
    /// A member starts again with its directory as it was a while ago.
    case putBackDisk
    /// A member starts again, and the last syncs of its log had not been done.
    case lieOfSync
    /// No room is left but what is set aside.
    case fillDisk
    /// Syncs take seconds; the member itself goes on.
    case stickDisk
}

/// How hard a run of whole members is tried, beside `FaultProfile`. Drawn from the seed.
struct StoreProfile: Sendable {
    var nodes: Int
    /// Milliseconds at most; 0: never.
    var mishapEvery: Int
    var mishaps: [StoreMishap]
    var changeEvery: Int

    /// Nothing goes wrong by itself.
    init(nodes: Int) {
        self.nodes = nodes
        mishapEvery = 0
        mishaps = []
        changeEvery = 0
    }
    init(_ chance: inout Chance) {
        nodes = chance.pick([0, 1, 2, 2])
        mishapEvery = chance.pick([0, 1_000, 3_000, 8_000])
        mishaps = StoreMishap.allCases.filter { _ in chance.below(3) > 0 }
        if mishaps.isEmpty { mishaps = [.interruptAgent] }
        changeEvery = chance.pick([0, 0, 1_500, 5_000])
    }
}

extension StoreWorld {
    mutating func sufferAtRandom() {
        guard healedAt == nil else { return }
        queue.schedule(.storeMishap, at: now + UInt32(storeChance.among(1...storeProfile.mishapEvery)))
        let mishap = storeChance.pick(storeProfile.mishaps), number = storeChance.below(members.count)
        if ledger.admits() { suffer(mishap, number) }
    }

    mutating func suffer(_ mishap: StoreMishap, _ number: Int) {
        let outage = lasting(storeChance.below(profile.outageMax)), node = fleet.nodes.isEmpty ? nil : storeChance.below(fleet.nodes.count)
        let member = members[number], extent = storeChance.below(12), jump = Int64(storeChance.among(-4_000...4_000))
        show(number) { "suffers \(mishap)" }
        switch mishap {
        case .killAgent: if let node, fleet.nodes[node].isUp { stopAgent(node) }
        case .interruptAgent: if let node { fleet.nodes[node].interruption = (extent, .crash) }
        case .failWork: if let node { fleet.nodes[node].interruption = (extent, .failure) }
        case .cutNode:
            guard let node, !fleet.nodes[node].isCut else { return }
            fleet.nodes[node].isCut = true
            queue.schedule(.nodeHeals(Int32(node)), at: now + 4 * outage)
        case .bootNode:
            guard let node, fleet.nodes[node].isUp else { return }
            fleet.nodes[node].boot(now, clockOffset: Int64(storeChance.below(1_000)))
            stopAgent(node)
        case .setClock: member.wallOffset = jump
        case .rotLog:
            guard plan.cast == nil, storeChance.below(2) == 0 else { return rotLog(number) }
            // What it acknowledges while another one hears nothing may be on no third disk.
            let other = storeChance.below(members.count)
            guard other != number, canRot(number) else { return }
            network.deafen(other)
            queue.schedule(.rotLog(Int32(number)), at: now + UInt32(storeChance.among(20...1_000)))
            queue.schedule(.heal, at: now + 4 * outage + 2_000)
        case .rotRecord:
            guard canRot(number), member.replica.raft.leader != nil, !member.replica.store.members.alarms.contains(where: { $0.kind != .noSpace }) else { return }
            beginAnew(member)
        case .rotValue: rotValue(member)
        case .putBackDisk, .lieOfSync: putBack(member, logOnly: mishap == .lieOfSync)
        case .fillDisk:
            guard member.isUp, !member.isSpaceShort else { return }
            setSpace(number, isShort: true)
            queue.schedule(.spaceIsBack(Int32(number)), at: now + 2 * outage)
        case .stickDisk: member.stuckUntil = max(member.stuckUntil, now + outage)
        }
    }

    mutating func setSpace(_ number: Int, isShort: Bool) {
        members[number].isSpaceShort = isShort
        step(number, .space(isShort: isShort))
    }

    // MARK: - Damage

    /// One at a time, and only where enough others are left that hold everything: else what was acknowledged would be lost, rightly.
    private func canRot(_ number: Int) -> Bool {
        let present = currentMembers
        guard present.contains(number), members[number].isUp, !isPaused(number) else { return false }
        let table = members[number].replica.store.members.members
        // A member that is being removed counts no more.
        let isChanging = clients.isBusy(Self.operatorClient) || members.contains { $0.isUp && $0.hasChangeUnderWay }
        return !isChanging && present.allSatisfy { members[$0].isWhole } && StoreMember.canRepair(members[number].id, among: table)
            && StoreMember.canRepair(members[number].id, among: newestTable.members)
            && StoreMember.canRepair(members[number].id, among: members[number].salvagedMembers()) // its records may lag behind
    }

    mutating func rotLog(_ number: Int) {
        let member = members[number], rot = storeChance.pick(SectorDisk.Rot.allCases)
        guard healedAt == nil, canRot(number), member.disk.rot(rot, &storeChance) else { return }
        show(number) { "finds its log \(rot)" }
        member.isRotten = true
        crash(number)
    }

    private mutating func beginAnew(_ member: StoreMember) {
        show(member.number) { "finds a record that does not open, and begins anew" }
        clients.abandon(at: member.number)
        do { try member.beginAnew(seed: tickChance.next(), now) } catch { model.fail(.recovery, "member \(member.number + 1) cannot begin anew: \(error)") }
    }

    /// A start that found damage: everything is discarded, and fetched from the others.
    mutating func repairs(_ member: StoreMember, _ error: any Error) -> Bool {
        let helpers = member.salvagedMembers()
        guard member.isRotten || member.isPutBack, error is LogDamage || error is Replica.RestartError, StoreMember.canRepair(member.id, among: helpers) else {
            model.fail(.recovery, "member \(member.number + 1) cannot start again: \(error)")
            return false
        }
        show(member.number) { "finds that \(error), and begins anew" }
        member.discard(helpers)
        do {
            guard try member.restart(seed: tickChance.next(), now) == nil else { return false }
            return true
        } catch {
            model.fail(.recovery, "member \(member.number + 1) cannot begin anew: \(error)")
            return false
        }
    }

    // MARK: - Values

    private mutating func rotValue(_ member: StoreMember) {
        guard canRot(member.number), let revision = member.records.rotValue(&storeChance) else { return }
        show(member.number) { "its record of revision \(revision.main) changes" }
        member.rottenValue = revision
        queue.schedule(.valueRead(Int32(member.number)), at: now + UInt32(storeChance.among(20...2_000)))
    }

    /// As `ReplicaService.repair`: the others are asked one after the other, and whatever opens takes the damaged one's place.
    mutating func readRottenValue(_ number: Int) {
        let member = members[number]
        guard let revision = member.rottenValue else { return }
        guard let record = member.records.records[revision], let value = record.value, !clients.opens(value, key: record.version.key) else {
            return member.rottenValue = nil // compacted, sealed again, fetched, or all of the store was
        }
        queue.schedule(.valueRead(Int32(number)), at: now + 500)
        guard member.isUp, member.repairers == nil, !isPaused(number) else { return }
        for other in currentMembers where other != number && members[other].isUp && network.carries(from: number, to: other) && network.carries(from: other, to: number) {
            guard let theirs = members[other].records.records[revision]?.value, theirs != value, clients.opens(theirs, key: record.version.key) else { continue }
            show(number) { "fetches the value of revision \(revision.main) from \(other + 1)" }
            _ = member.replica.restore(Record(version: record.version, value: .sealed(theirs)))
            return
        }
    }

    // MARK: - Disks that forget

    /// Image and notes are kept now and then.
    mutating func keepNotes(_ number: Int) {
        let member = members[number]
        guard member.isUp, !member.replica.store.members.members.isEmpty else { return }
        let witnesses = member.replica.witnesses
        if now >= member.notes.dueAt || witnesses.map(\.run) != member.notes.witnesses.map(\.run) {
            member.notes.dueAt = now + 3_000
            member.notes.witnesses = witnesses
        }
        if imageEvery > 0, storeChance.below(imageEvery) == 0 { member.keepImage() }
    }

    /// Only what somebody who is there can know of is put back: the promise ends there (`Recognition`). Until it is noticed nothing else happens.
    mutating func putBack(_ member: StoreMember, logOnly: Bool) {
        guard canRot(member.number), let image = member.image, isKnownToBePutBack(member, image, logOnly: logOnly) else { return }
        crash(member.number)
        show(member.number) { logOnly ? "its log is as it was at entry \(image.durable)" : "its disk is as it was at entry \(image.durable)" }
        member.putBack(image, logOnly: logOnly)
        member.image = nil
        network.heal()
        for other in members { other.failsNextSync = false }
    }
    private func isKnownToBePutBack(_ member: StoreMember, _ image: StoreMember.Image, logOnly: Bool) -> Bool {
        let others = currentMembers.filter { $0 != member.number }.map { members[$0] }
        let table = newestTable.members, lastRun = logOnly ? member.notes.lastRun : image.notes.lastRun
        guard table.count(where: { !$0.isLearner }) >= 3, table.contains(where: { $0.id == member.id && !$0.isLearner }),
              (try? image.records.store())?.members.members == table,
              others.allSatisfy({ $0.isUp && !isPaused($0.number) && !$0.replica.raft.membership.isJoint }) else { return false }
        return others.contains { other in
            guard let known = other.replica.witnesses.first(where: { $0.member == member.id }) else { return false }
            return known.run > lastRun || (known.term, known.index) > (image.durableState.term, image.durable)
        }
    }
    /// It noticed that its disk forgot something, and is to be made a learner.
    mutating func takeBack(_ number: Int, _ reason: String, isRepaired: Bool) {
        let member = members[number]
        guard member.isPutBack, isRepaired else { return model.fail(.damageNoticed, "member \(number + 1) takes its disk for put back, which it is not: \(reason)") }
        show(number) { "notices that \(reason)" }
        member.isPutBack = false
        member.repairers = member.replica.members
    }
    /// While a disk that was put back is not noticed, no other fault may hide who knows of it.
    var isDiskPutBack: Bool { members.contains { $0.isPutBack } }

    mutating func healNodes() {
        for number in fleet.nodes.indices {
            fleet.nodes[number].isCut = false
            fleet.nodes[number].interruption = nil
            if !fleet.nodes[number].isUp { queue.schedule(.agentStarts(Int32(number)), at: now + 50) }
        }
    }
}

// MARK: - Membership

extension StoreWorld {
    static let operatorClient = 1_001
    /// The table of whoever has applied most.
    var newestTable: MemberTable {
        var newest: StoreMember?
        for member in members where member.isStarted && !member.isRetired {
            if let other = newest, other.replica.store.appliedIndex >= member.replica.store.appliedIndex { continue }
            newest = member
        }
        return newest?.replica.store.members ?? MemberTable()
    }
    /// By number. The founders, as long as nobody wrote them down.
    var currentMembers: [Int] {
        let table = newestTable.members
        return table.isEmpty ? members.indices.filter { members[$0].isStarted } : table.map { Int($0.id.rawValue) - 1 }
    }

    /// Members that were added are started; those that were removed end for good once another one leads.
    mutating func reviewMembers() {
        let table = newestTable
        for member in members {
            if !member.isStarted, table[member.id] != nil {
                member.isStarted = true
                queue.schedule(.restart(Int32(member.number)), at: now + UInt32(storeChance.among(10...2_000)))
            }
            let isLed = members.contains { $0.isUp && $0.id != member.id && $0.replica.isLeader && $0.replica.store.members.removed.contains(member.id) }
            guard !member.isRetired, isLed else { continue }
            show(member.number) { "is a member no more" }
            member.forget()
            member.isRetired = true
            clients.abandon(at: member.number)
        }
    }

    mutating func ask(_ number: Int, to step: MemberStep) {
        show(number) { "is asked to \(step)" }
        propose(.member(.change([step])), Self.operatorClient, number, .other)
    }
    /// Adds, promotes and removes, one after another.
    mutating func operate() {
        guard healedAt == nil else { return }
        queue.schedule(.operate, at: now + UInt32(storeChance.among(1...2 * storeProfile.changeEvery)))
        reviewMembers()
        let number = storeChance.below(members.count), choice = storeChance.below(100), other = storeChance.below(members.count)
        guard clients.hasDomain, !clients.isBusy(Self.operatorClient), members[number].isUp, !isPaused(number), !isDiskPutBack else { return }
        let table = newestTable, voters = table.members.filter { !$0.isLearner }
        let step: MemberStep
        switch choice {
        case 0..<40:
            guard let spare = members.first(where: { !$0.isStarted && table[$0.id] == nil && !table.removed.contains($0.id) }) else { return }
            step = .add(ClusterMember(id: spare.id, name: "m\(spare.id.rawValue)", peerURLs: ["https://m\(spare.id.rawValue)"], isLearner: choice < 30))
        case 40..<75:
            guard let learner = table.members.first(where: \.isLearner), !table.hasAlarm(.repairing, of: learner.id) else { return }
            step = .promote(learner.id)
        default:
            guard let member = table[members[other].id], member.isLearner || voters.count >= 3, members.allSatisfy({ $0.rottenValue == nil }) else { return }
            // A quorum of those left must be well, or nobody could help who is not.
            let left = voters.filter { $0.id != member.id }, well = left.count { members[Int($0.id.rawValue) - 1].isWhole }
            guard 2 * well > left.count else { return }
            step = .remove(member.id)
        }
        moment(.changeProposed, members.firstIndex { $0.isUp && $0.replica.isLeader } ?? number)
        ask(number, to: step)
    }
}
