package import Basics
import MVCC
import Raft
import Replica

/// A run that is told instead of drawn: who takes part, what happens to whom and when. Clients, watchers, nodes and all checks are those of every
/// run of whole members; nothing goes wrong but what is said here, and it ends as every run does: all is healed, and the cluster must recover.
///
///     var story = try Story()
///     story.when(.appendSent, .isolate)                     // right after an append, its sender is alone
///     story.until(.anotherLeads)
///     #expect(story.ends().violation == nil)
package struct Story: ~Copyable {
    package enum Who: Sendable {
        case leader
        /// The first member, or the second, that is up and does not lead.
        case follower, otherFollower
        case learner
        /// As it was called at the beginning, from 1 on.
        case member(Int)
        /// To whom the last thing happened.
        case same
    }
    /// What a story waits for.
    package enum Event: Sendable {
        case led
        /// Someone leads who did not lead when the story began to wait.
        case anotherLeads
        /// So many writes more are acknowledged.
        case writes(Int64)
        /// A member noticed that it lost something, and takes part again.
        case repaired(Who)
        case noticed(Who)
        case restarted(Who)
        case learners(Int)
        case voters(Int)
        /// Data keys of this generation seal what is new.
        case generation(UInt32)
        /// A node shows so many volumes.
        case volumes(Int)
        /// The damaged value was fetched from another member.
        case valueFetched
        case snapshotInstalled(Who)
    }
    package enum Step: Sendable { case addLearner, addVoter, promote, remove(Who) }

    private var world: StoreWorld
    /// What did not come about, in the order of the story.
    private var unmet: [String] = []
    private var last = 0

    package init(_ cast: Cast = Cast(), seed: UInt64 = 1, view: (@Sendable (String) -> Void)? = nil) throws {
        var plan = RunPlan(seed: seed, steps: .max >> 8, view: view)
        plan.cast = cast
        world = try StoreWorld(plan)
        until(.led)
        until(.writes(10))
        passes(seconds: 5)
    }

    // MARK: - Who

    private func number(_ who: Who) -> Int? {
        let followers = world.currentMembers.filter { number in
            world.members[number].isUp && !world.members[number].replica.isLeader && world.members[number].replica.raft.membership.isVoter(world.members[number].id)
        }
        switch who {
        case .leader: return leader
        case .follower: return followers.first
        case .otherFollower: return followers.dropFirst().first
        case .learner: return world.newestTable.members.first(where: \.isLearner).map { Int($0.id.rawValue) - 1 }
        case .member(let name): return name - 1
        case .same: return last
        }
    }
    private var leader: Int? {
        let leaders = world.members.filter { $0.isUp && $0.pausedUntil <= world.now && $0.replica.isLeader }
        return leaders.max { $0.replica.raft.term < $1.replica.raft.term }?.number
    }
    package var term: Term { world.members.map { $0.replica.raft.term }.max() ?? 0 }
    package var revision: Int64 { world.model.acknowledged }

    // MARK: - Time

    package mutating func passes(seconds: Double) {
        let end = world.now + UInt32(seconds * 1_000)
        while world.goesOn(before: end) {}
    }
    package mutating func until(_ event: Event, seconds: Double = 60) {
        let end = world.now + UInt32(seconds * 1_000)
        var place = last
        if let who = subject(of: event), let number = number(who) { place = number }
        let start = Start(leader: leader, written: world.model.acknowledged, place: place, incarnation: world.members[place].incarnation)
        last = place
        while !holds(event, since: start) {
            guard world.goesOn(before: end) else { return unmet.append("\(event) did not come about") }
        }
    }
    private struct Start {
        var leader: Int?, written: Int64, place: Int, incarnation: Int32
    }
    private func holds(_ event: Event, since start: Start) -> Bool {
        let table = world.newestTable, member = world.members[start.place]
        switch event {
        case .led: return leader != nil
        case .anotherLeads: return world.members.contains { $0.isUp && $0.replica.isLeader && $0.number != start.leader }
        case .writes(let count): return world.model.acknowledged >= start.written + count
        case .repaired: return member.isUp && member.isWhole
        case .noticed: return member.repairers != nil
        case .restarted: return member.isUp && member.incarnation > start.incarnation
        case .learners(let count): return table.members.count(where: \.isLearner) == count
        case .voters(let count): return table.members.count { !$0.isLearner } == count
        case .generation(let generation): return world.clients.generation >= generation
        case .volumes(let count): return world.fleet.nodes.contains { $0.mountCount >= count }
        case .valueFetched: return world.members.allSatisfy { $0.rottenValue == nil }
        case .snapshotInstalled: return member.records.applied > 0
        }
    }
    private func subject(of event: Event) -> Who? {
        switch event {
        case .repaired(let who), .noticed(let who), .restarted(let who), .snapshotInstalled(let who): who
        default: nil
        }
    }

    // MARK: - What happens

    /// At the next such moment, to the member whose it is. For `seconds` at most, where it lasts.
    package mutating func when(_ moment: Moment, _ mishap: Mishap, seconds: Double = 3) {
        let before = world.ledger.carriedOut
        world.profile.outageMax = Int(seconds * 1_000)
        world.profile.aims = [FaultProfile.Aim(moment: moment, mishap: mishap, perMillion: 1_000_000)]
        let end = world.now + 60_000
        while world.ledger.carriedOut == before, world.goesOn(before: end) {}
        if world.ledger.carriedOut == before { unmet.append("\(moment) did not come about") }
        world.profile.aims = []
        passes(seconds: 0.001)
    }
    package mutating func suffers(_ who: Who, _ mishap: Mishap, seconds: Double = 3) {
        guard let number = number(who) else { return unmet.append("there is no \(who) to suffer \(mishap)") }
        last = number
        world.profile.outageMax = Int(seconds * 1_000)
        world.suffer(mishap, number)
    }
    package mutating func suffers(_ who: Who, _ mishap: StoreMishap, seconds: Double = 3) {
        guard let number = number(who) else { return unmet.append("there is no \(who) to suffer \(mishap)") }
        last = number
        world.profile.outageMax = Int(seconds * 1_000)
        let before = (world.members[number].incarnation, world.members[number].rottenValue, world.members[number].isSpaceShort)
        world.suffer(mishap, number)
        let member = world.members[number]
        let isFelt = switch mishap {
        case .rotLog, .rotRecord, .putBackDisk, .lieOfSync: member.incarnation > before.0
        case .rotValue: member.rottenValue != nil
        case .fillDisk: member.isSpaceShort
        default: true
        }
        if !isFelt { unmet.append("\(mishap) could not happen to member \(number + 1)") }
    }
    /// Someone keeps a copy of a member's disk, to put it back later.
    package mutating func copiesDisk(of who: Who) {
        guard let number = number(who) else { return unmet.append("there is no \(who) whose disk could be copied") }
        last = number
        world.members[number].keepImage()
    }
    package mutating func allCrash(seconds: Double = 3) {
        world.profile.outageMax = Int(seconds * 1_000)
        for number in world.members.indices { world.crash(number) }
    }
    /// The next data key; an operator's word, so it is said again until it is done.
    package mutating func rotates() {
        let generation = world.clients.generation + 1
        for _ in 0..<100 where world.clients.generation < generation {
            if let leader, !world.clients.isBusy(StoreWorld.operatorClient) { world.addDataKey(StoreWorld.operatorClient, leader) }
            passes(seconds: 0.5)
        }
        if world.clients.generation < generation { unmet.append("no new data key") }
    }
    /// Asked of the leader, and again until it is accepted.
    package mutating func asks(_ step: Step) {
        for _ in 0..<100 where world.model.violation == nil {
            let table = world.newestTable
            guard let taken = take(step, table) else { return unmet.append("nobody to \(step)") }
            if let leader, !world.clients.isBusy(StoreWorld.operatorClient) { world.ask(leader, to: taken) }
            let end = world.now + 2_000
            while world.newestTable.members.map(\.isLearner) == table.members.map(\.isLearner), world.goesOn(before: end) {}
            world.reviewMembers()
            if world.newestTable.members.map(\.isLearner) != table.members.map(\.isLearner) { return }
        }
        unmet.append("\(step) was never accepted")
    }
    private func take(_ step: Step, _ table: MemberTable) -> MemberStep? {
        switch step {
        case .addLearner, .addVoter:
            guard let spare = world.members.first(where: { !$0.isStarted && !table.removed.contains($0.id) }) else { return nil }
            let name = "m\(spare.id.rawValue)"
            var isLearner = false
            if case .addLearner = step { isLearner = true }
            return .add(ClusterMember(id: spare.id, name: name, peerURLs: ["https://\(name)"], isLearner: isLearner))
        case .promote: return table.members.first(where: \.isLearner).map { .promote($0.id) }
        case .remove(let who): return number(who).map { .remove(world.members[$0].id) }
        }
    }
    package mutating func networkHeals() { world.network.heal() }

    // MARK: - The end

    package struct Ending: Sendable {
        package var violation: Violation?
        package var unmet: [String]
        package var report: RunReport
    }
    /// All is healed: the cluster recovers, and every promise was kept.
    package mutating func ends() -> Ending {
        world.heal()
        world.run()
        return Ending(violation: world.report.violation, unmet: unmet, report: world.report)
    }
}
