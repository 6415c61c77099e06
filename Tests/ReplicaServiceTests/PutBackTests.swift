import Basics
import Foundation
import MVCC
import Replica
import ReplicaService
import Testing

/// Members whose directory is put back to an earlier state, as a restored backup or a snapshot of a machine would.
@Suite("A disk that was put back", .serialized, .timeLimit(.minutes(10)))
struct PutBackTests {
    private let files = FileManager.default

    /// Also of a member that runs: when a file came, went or was renamed meanwhile, from the beginning.
    private func copyAway(_ members: Members, _ number: Int) async {
        let path = members.directories[number - 1].path
        func names() -> [String] { ((try? files.subpathsOfDirectory(atPath: path)) ?? []).sorted() }
        #expect(await eventually {
            try? files.removeItem(atPath: path + "-kept")
            let before = names()
            do { try files.copyItem(atPath: path, toPath: path + "-kept") } catch { return false }
            return before == names() && !before.contains { $0.hasSuffix(".new") || $0 == "log/fill" }
        })
    }
    private func putBack(_ members: Members, _ number: Int) throws {
        let path = members.directories[number - 1].path
        try files.removeItem(atPath: path)
        try files.moveItem(atPath: path + "-kept", toPath: path)
    }
    /// The last run of a member that all others know of; 0: some know of none.
    private func run(_ members: Members, _ number: Int) -> UInt64 {
        let id = MemberID(UInt64(number))
        return members.up.filter { $0 != number }.map { other in members[other].witnesses().first { $0.member == id }?.run ?? 0 }.min() ?? 0
    }
    /// All others know that the member takes part, in a later run than `earlier`.
    private func isNoted(_ members: Members, _ number: Int, after earlier: UInt64 = 0) async -> Bool {
        await eventually { run(members, number) > earlier }
    }

    enum Copy: CaseIterable { case whileStopped, whileRunning }

    @Test("a member whose directory is an older one takes no part until it is a learner, catches up, and votes again", arguments: Copy.allCases)
    func comesBack(_ copy: Copy) async throws {
        let members = try Members()
        try await members.start()
        for round in 0..<20 { try await members.put(1, "k\(round)", "early") }
        #expect(await members.agree())
        let forgetful = try members.follower(), leader = try #require(members.leader)
        #expect(await isNoted(members, forgetful))
        switch copy {
        case .whileStopped:
            members.stop(forgetful)
            await copyAway(members, forgetful)
            try members.open(forgetful)
        case .whileRunning: // quiet: everything is stored
            #expect(await eventually { members[forgetful].status().storedIndex == members[forgetful].status().appliedIndex })
            await copyAway(members, forgetful)
        }
        #expect(await members.agree())
        for round in 0..<20 { try await members.put(leader, "k\(round)", "late") }
        #expect(await members.agree())
        let revision = members[leader].status().revision
        members.stop(forgetful)
        try putBack(members, forgetful)
        try members.open(forgetful)
        #expect(await eventually { members.said(forgetful, "put back to an earlier state") })
        #expect(await eventually { members.wasNamed(forgetful, .repairing) }, "it is named")
        #expect(await eventually { members.network.wasLearner(MemberID(UInt64(forgetful))) }, "it becomes a learner")
        #expect(await eventually { members.hasReturned(forgetful) && members[forgetful].status().outOfService == nil && !members[forgetful].status().isLearner })
        #expect(await members.agree())
        #expect(members[forgetful].status().revision >= revision)
        #expect(await eventually { members[leader].alarms().isEmpty })
        for round in 0..<20 { #expect(try await members.get(forgetful, "k\(round)") == Fixture.sealed("late")) }
        #expect(members.network.snapshots == 0, "what it still holds is not fetched again")
        // It is an ordinary member again, also after another start.
        members.stop(forgetful)
        try members.open(forgetful)
        #expect(await members.agree())
        #expect(members[forgetful].status().outOfService == nil)
    }

    @Test("with a put-back disk and the only other holder of a write away, nobody leads: what was acknowledged is not voted away")
    func votesNothingAway() async throws {
        let members = try Members()
        try await members.start()
        let holder = try #require(members.leader), forgetful = try members.follower(), third = 6 - holder - forgetful
        #expect(await isNoted(members, forgetful))
        let earlier = run(members, forgetful)
        members.stop(forgetful)
        await copyAway(members, forgetful)
        try members.open(forgetful)
        #expect(await members.agree())
        #expect(await isNoted(members, forgetful, after: earlier))
        // Acknowledged by two: by the leader, and by the one that will forget it.
        members.network.cutOff(MemberID(UInt64(third)))
        try await members.put(holder, "kept", "1")
        #expect(await eventually { members[forgetful].status().revision == members[holder].status().revision })
        members.stop(holder)
        members.stop(forgetful)
        try putBack(members, forgetful)
        members.network.cutOff(MemberID(UInt64(third)), false)
        try members.open(forgetful)
        #expect(await eventually { members[forgetful].status().outOfService != nil })
        // The third one asks for votes, again and again, and is not elected by two that both lack the write.
        let since = ContinuousClock.now
        #expect(await eventually { ContinuousClock.now - since > .seconds(8) || members[third].status().leader == MemberID(UInt64(third)) })
        #expect(members[third].status().leader != MemberID(UInt64(third)) && members[forgetful].status().leader == nil)
        try members.open(holder)
        #expect(await eventually { members[forgetful].status().outOfService == nil && !members[forgetful].status().isLearner })
        #expect(await members.agree())
        for number in 1...3 { #expect(try await members.get(number, "kept") == Fixture.sealed("1")) }
    }

    @Test("of two members the one whose disk was put back goes on: the other one remembers for both")
    func ofTwo() async throws {
        let members = try Members(2, of: 2)
        try await members.start()
        let forgetful = try members.follower(), leader = 3 - forgetful
        #expect(await isNoted(members, forgetful))
        let earlier = run(members, forgetful)
        members.stop(forgetful)
        await copyAway(members, forgetful)
        try members.open(forgetful)
        #expect(await members.agree())
        #expect(await isNoted(members, forgetful, after: earlier))
        for round in 0..<10 { try await members.put(leader, "k\(round)", "\(round)") }
        members.stop(forgetful)
        try putBack(members, forgetful)
        try members.open(forgetful)
        try await members.put(leader, "after", "1")
        #expect(await members.agree())
        for round in 0..<10 { #expect(try await members.get(forgetful, "k\(round)") == Fixture.sealed("\(round)")) }
    }

    @Test("what is noted of the others is sealed, outlasts a restart of all, and names who can help when nothing else is readable")
    func notes() async throws {
        let members = try Members(4)
        try await members.start()
        try members.open(4, .join)
        try await members.change(1, .add(Members.member(4, isLearner: true)))
        #expect(await members.agree())
        try await members.change(1, .promote(MemberID(4)))
        #expect(await eventually { !members[4].status().isLearner })
        let path = members.directories[3].path
        #expect(await eventually { (files.contents(atPath: path + "/peers")?.count ?? 0) > 200 })
        members.stop(4)
        let noted = try Data(contentsOf: URL(fileURLWithPath: path + "/peers"))
        #expect(noted.range(of: Data("127.0.0.1".utf8)) == nil)
        try await members.put(1, "meanwhile", "1")
        // Records and log are both damaged, and it was started without a word about its cluster.
        for folder in ["records", "log"] {
            for name in try files.contentsOfDirectory(atPath: path + "/" + folder) where name.hasSuffix(".mdb") || name.hasSuffix(".log") {
                var bytes = try Data(contentsOf: URL(fileURLWithPath: path + "/\(folder)/\(name)"))
                for place in stride(from: 64, to: min(bytes.count, 100_000), by: 512) { bytes[place] ^= 0x5a }
                try bytes.write(to: URL(fileURLWithPath: path + "/\(folder)/\(name)"))
            }
        }
        try members.open(4, .join)
        #expect(members.said(4, "the store is damaged: it is fetched anew from the other members"))
        #expect(await eventually { members.hasReturned(4) && members[4].status().outOfService == nil && !members[4].status().isLearner })
        #expect(await members.agree())
        #expect(try await members.get(4, "meanwhile") == Fixture.sealed("1"))
    }
}
