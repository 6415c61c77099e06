import Basics
import Raft
import Testing

@Suite("Raft: random schedules")
struct RandomScheduleTests {
    /// Ticks, deliveries in any order, losses, duplicates, slow writes, crashes, cuts; hand-overs, reads anywhere; changes of membership,
    /// compaction and stores sent, where asked for. `Cluster` checks safety at every step. Then everything heals, and the
    /// cluster must agree.
    struct Schedule {
        var cluster: Cluster
        var random: SeededGenerator
        let count: Int
        let changesMembers: Bool
        let compacts: Bool
        private var next: UInt64 = 0
        /// Nothing passes between the members of different sides.
        private var sides: [Int] = []
        var changes = 0, transfers = 0, crashes = 0

        init(seed: Int, voters: Int, spares: Int = 0, changesMembers: Bool = false, compacts: Bool = false, leaseReads: Bool = false) {
            cluster = Cluster(voters, spares: spares, leaseReads: leaseReads) { $0.inFlightMax = 4; $0.appendBytesMax = 5 }
            random = SeededGenerator(seed: UInt64(seed))
            count = voters + spares
            self.changesMembers = changesMembers
            self.compacts = compacts
            sides = Array(repeating: 0, count: count)
        }

        private mutating func number(_ range: Range<Int>) -> Int { Int.random(in: range, using: &random) }

        mutating func run(steps: Int) {
            for _ in 0..<steps { step() }
        }

        private mutating func step() {
            let id = number(1..<count + 1)
            switch number(0..<1000) {
            case 0..<70: cluster.step(id, .tick)
            case 70..<580: deliver(twice: false)
            case 580..<600: deliver(twice: true)
            case 600..<610: if !cluster.wires.isEmpty { cluster.drop(number(0..<cluster.wires.count)) }
            case 610..<880: cluster.finishWrite(id)
            case 880..<940: work(id)
            case 940..<943: if let leader = cluster.leader { cluster.step(leader, .transfer(to: MemberID(UInt64(id)))); transfers += 1 }
            case 943..<945: if let leader = cluster.leader { cluster.step(leader, .unreachable(MemberID(UInt64(id)))) }
            case 945..<946: if let leader = cluster[id].raft.leader { cluster.step(id, .gone(leader)) }
            case 946..<966: if changesMembers { change() }
            case 966..<978: if compacts { cluster.compact(id, window: LogIndex(number(0..<8))) }
            case 978..<986: if !cluster.streams.isEmpty { cluster.deliverStream(number(0..<cluster.streams.count), broken: number(0..<4) == 0) }
            case 986..<988: cluster.crash(id); crashes += 1
            case 988..<989: for member in 0..<count { sides[member] = number(0..<2) }
            default: heal()
            }
            if cluster.wires.count > 400 { cluster.drop(number(0..<cluster.wires.count)) }
        }

        private mutating func deliver(twice: Bool) {
            guard !cluster.wires.isEmpty else { return }
            let position = number(0..<cluster.wires.count), message = cluster.wires[position]
            if sides[Int(message.from.rawValue) - 1] == sides[Int(message.to.rawValue) - 1] { cluster.deliver(position, twice: twice) } else { cluster.drop(position) }
        }

        private mutating func work(_ id: Int) {
            next += 1
            cluster.step(id, .read(next))
            if let leader = cluster.leader { cluster.step(leader, .propose([[UInt8(truncatingIfNeeded: next)]])) }
        }

        private mutating func change() {
            guard let leader = cluster.leader else { return }
            let steps = (0..<number(1..<4)).map { _ -> MembershipChange.Step in
                let member = MemberID(UInt64(number(1..<count + 1)))
                return [.addVoter(member), .addVoter(member), .addLearner(member), .remove(member)][number(0..<4)]
            }
            let leaves = number(0..<4) == 0
            cluster.step(leader, leaves ? .change(payload: []) : .change(payload: Change.encode(MembershipChange(steps, autoLeave: number(0..<4) > 0))))
            changes += 1
        }

        mutating func heal() { sides = Array(repeating: 0, count: count) }

        /// Whoever is a member in the end has everything in the end.
        mutating func expectAgreement() {
            heal()
            for round in 0..<400 {
                for id in 1...count { cluster.step(id, .tick) }
                cluster.settle()
                while !cluster.streams.isEmpty { cluster.deliverStream(0); cluster.settle() }
                if round % 20 == 0, let leader = cluster.leader, cluster[leader].raft.membership.isJoint { cluster.step(leader, .change(payload: [])); cluster.settle() }
            }
            guard let leader = cluster.leader else { Issue.record("no leader after healing: \(cluster.summary)"); return }
            cluster.step(leader, .propose([[255]]))
            cluster.settle()
            for _ in 0..<40 {
                cluster.step(leader, .tick)
                cluster.settle()
                while !cluster.streams.isEmpty { cluster.deliverStream(0); cluster.settle() }
            }
            #expect(cluster.history.last?.payload == [255])
            let members = cluster[leader].raft.membership
            #expect(!members.isJoint && cluster[leader].raft.isLeader)
            for member in members.members {
                let one = cluster[Int(member.rawValue)]
                #expect(one.released == LogIndex(cluster.history.count) && one.raft.membership == members && one.raft.leader == MemberID(UInt64(leader)))
            }
            next += 1
            for member in members.members { cluster.step(Int(member.rawValue), .read(1_000_000 + member.rawValue)) }
            cluster.settle()
            for member in members.members { #expect(cluster[Int(member.rawValue)].readable[1_000_000 + member.rawValue] != nil) }
        }
    }

    @Test("safety holds under any schedule, and progress is made once it ends", arguments: 0..<24)
    func plain(seed: Int) {
        var schedule = Schedule(seed: seed, voters: seed % 3 == 0 ? 5 : 3)
        schedule.run(steps: 6_000)
        schedule.expectAgreement()
        #expect(schedule.cluster.history.count > 30, "the schedule was too quiet to show anything")
    }

    @Test("it holds while members come and go", arguments: 0..<24)
    func members(seed: Int) {
        var schedule = Schedule(seed: seed, voters: 1 + seed % 4, spares: 3, changesMembers: true)
        schedule.run(steps: 8_000)
        schedule.expectAgreement()
    }

    @Test("it holds while logs are cut and stores are sent", arguments: 0..<24)
    func stores(seed: Int) {
        var schedule = Schedule(seed: seed, voters: 3, spares: 2, changesMembers: seed % 2 == 0, compacts: true)
        schedule.run(steps: 8_000)
        schedule.expectAgreement()
    }

    @Test("the schedules change leaders and members, send stores and lose messages enough to mean something")
    func variety() {
        var leaders = 0, adoptions = 0, joints = 0, stores = 0, reads = 0
        for seed in 100..<108 {
            var schedule = Schedule(seed: seed, voters: 3, spares: 3, changesMembers: true, compacts: true)
            schedule.run(steps: 8_000)
            leaders += schedule.cluster.leaderCount
            stores += schedule.cluster.snapshotsInstalled
            for member in schedule.cluster.members {
                adoptions += member.adoptions.count
                joints += member.adoptions.count(where: \.isJoint)
                reads += member.readable.count
            }
        }
        #expect(leaders > 20 && adoptions > 25 && joints > 6 && stores > 10 && reads > 100, "\((leaders, adoptions, joints, stores, reads))")
    }
}
