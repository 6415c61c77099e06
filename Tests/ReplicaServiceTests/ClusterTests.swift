import Basics
import Dispatch
import FileSealing
import Foundation
import MVCC
import Raft
import Replica
import ReplicaService
import SecretMemory
import Storage
import Synchronization
import Testing

/// Members in one process: messages go through their codec and arrive at once, or not at all.
final class MemoryNetwork: Sendable {
    private struct State {
        var services: [MemberID: ReplicaService] = [:]
        var cut: Set<MemberID> = []
        var snapshots = 0
        /// Connections that break in the middle of a snapshot.
        var interruptions = 0
        var members: [MemberID: [ClusterMember]] = [:]
        /// Those that some member knew as learners at some time.
        var learners: Set<MemberID> = []
        /// A bit of what it receives flips in its memory: in the next large entry.
        var flipsAt: MemberID?
    }
    private let state = Mutex(State())

    final class Lane: PeerLane {
        let network: MemoryNetwork, member: MemberID
        init(_ network: MemoryNetwork, _ member: MemberID) { self.network = network; self.member = member }
        func send(_ messages: [PeerMessage]) {
            for message in messages {
                let bytes = message.encode()
                guard let target = network.reachable(message.to, from: member), let decoded = try? PeerMessage(decoding: bytes) else { continue }
                target.receive([network.flipped(decoded)], bytes: bytes.count)
            }
        }
        func sendSnapshot(to member: MemberID, _ source: SnapshotSource) {
            let network = network, from = self.member
            DispatchQueue.global().async { network.transfer(source, from: from, to: member) }
        }
        func value(at revision: Revision, from member: MemberID) async throws -> SealedValue {
            guard let target = network.reachable(member, from: self.member) else { throw ReplicaError.unavailable("unreachable") }
            return try target.sealedValue(of: revision)
        }
        func membersChanged(_ members: [ClusterMember]) {
            network.state.withLock { state in
                state.members[member] = members
                state.learners.formUnion(members.filter(\.isLearner).map(\.id))
            }
        }
    }

    func flipBit(at member: MemberID) { state.withLock { $0.flipsAt = member } }
    var isFlipDue: Bool { state.withLock { $0.flipsAt != nil } }
    fileprivate func flipped(_ message: PeerMessage) -> PeerMessage {
        guard case .raft(let inner) = message.body, case .append(let previous, var entries, let commit) = inner.body, let last = entries.last,
              last.payload.count > 500 else { return message }
        let flips = state.withLock { state in
            guard state.flipsAt == message.to else { return false }
            state.flipsAt = nil
            return true
        }
        guard flips else { return message }
        entries[entries.count - 1].payload[last.payload.count - 20] ^= 1
        return PeerMessage(Message(from: inner.from, to: inner.to, term: inner.term, .append(previous: previous, entries: entries, commit: commit)))
    }

    func lane(_ member: MemberID) -> Lane { Lane(self, member) }
    func attach(_ service: ReplicaService?, _ member: MemberID) { state.withLock { $0.services[member] = service } }
    func cutOff(_ member: MemberID, _ isCut: Bool = true) {
        state.withLock { state in if isCut { _ = state.cut.insert(member) } else { state.cut.remove(member) } }
    }
    func interruptNextSnapshot() { state.withLock { $0.interruptions += 1 } }
    var snapshots: Int { state.withLock { $0.snapshots } }
    func wasLearner(_ member: MemberID) -> Bool { state.withLock { $0.learners.contains(member) } }
    func told(_ member: MemberID) -> [ClusterMember] { state.withLock { $0.members[member] ?? [] } }

    fileprivate func reachable(_ member: MemberID, from: MemberID) -> ReplicaService? {
        state.withLock { $0.cut.contains(member) || $0.cut.contains(from) ? nil : $0.services[member] }
    }
    private func transfer(_ source: SnapshotSource, from: MemberID, to: MemberID) {
        do {
            guard let target = reachable(to, from: from) else { return source.ended(installed: false) }
            for _ in 0..<3 {
                var offset = try target.beginSnapshot(source.head, from: from)
                let isInterrupted = state.withLock { state in
                    defer { state.interruptions = max(0, state.interruptions - 1) }
                    return state.interruptions > 0
                }
                var chunks = 0
                while true {
                    let bytes = try source.read(at: offset, count: 10_000)
                    if bytes.isEmpty || (isInterrupted && chunks == 3) { break }
                    try target.receiveSnapshot(bytes, at: offset, from: from)
                    offset += UInt64(bytes.count)
                    chunks += 1
                }
                if isInterrupted { continue }
                try target.finishSnapshot(from: from)
                state.withLock { $0.snapshots += 1 }
                return source.ended(installed: true)
            }
        } catch {}
        source.ended(installed: false)
    }
}

/// Three members, or more, each with a directory of its own.
final class Members: Sendable {
    let network = MemoryNetwork()
    let directories: [TemporaryDirectory]
    private let logs: [RecordedLog]
    private let services: Mutex<[ReplicaService?]>
    let founders: [ClusterMember]

    static func member(_ number: Int, isLearner: Bool = false) -> ClusterMember {
        ClusterMember(id: MemberID(UInt64(number)), name: "m\(number)", peerURLs: ["https://127.0.0.1:\(2000 + number)"], isLearner: isLearner)
    }

    init(_ count: Int = 3, of founders: Int = 3) throws {
        directories = try (0..<count).map { _ in try TemporaryDirectory() }
        logs = (0..<count).map { _ in RecordedLog() }
        services = Mutex([ReplicaService?](repeating: nil, count: count))
        self.founders = (1...founders).map { Self.member($0) }
    }
    deinit { for number in 1...directories.count { stop(number) } }

    func open(_ number: Int, _ cluster: ClusterOpening? = nil, _ change: (inout ReplicaService.Options) -> Void = { _ in }) throws {
        var options = ReplicaService.Options()
        options.disk.segmentBytes = 1 << 20
        options.tickMilliseconds = 20
        options.electionTicks = 50 // on a busy machine a leader may not be heard of for a while
        if number == 2 { options.loop = try ThreadLoop() } // the others: threads of their own
        change(&options)
        let key = try FileKey(key: try SecretBytes(copying: Bytes(repeating: UInt8(number), count: 32)), generation: 1)
        guard let keyring = KeyringID(Bytes(repeating: 3, count: 16)) else { preconditionFailure("16 bytes are a keyring id") }
        let id = MemberID(UInt64(number))
        let service = try ReplicaService.open(
            directory: directories[number - 1].path, fileKey: key, keyring: keyring, member: id, cluster: cluster ?? .bootstrap(founders),
            lane: network.lane(id), options: options, logger: logs[number - 1].logger)
        services.withLock { $0[number - 1] = service }
        network.attach(service, id)
    }
    func stop(_ number: Int) {
        let service = services.withLock { services in
            defer { services[number - 1] = nil }
            return services[number - 1]
        }
        network.attach(nil, MemberID(UInt64(number)))
        service?.abandon()
    }
    subscript(number: Int) -> ReplicaService {
        guard let service = services.withLock({ $0[number - 1] }) else { preconditionFailure("member \(number) is stopped") }
        return service
    }
    var up: [Int] { services.withLock { services in services.indices.filter { services[$0] != nil }.map { $0 + 1 } } }
    var leader: Int? {
        up.filter { self[$0].status().leader == MemberID(UInt64($0)) }.max { self[$0].status().term < self[$1].status().term }
    }
    func follower() throws -> Int { try #require(up.first { $0 != leader }) }

    /// A leader that all who are up follow, and a domain to seal under.
    func start() async throws {
        for founder in founders { try open(Int(founder.id.rawValue)) }
        try await begin()
    }
    func begin() async throws {
        #expect(await eventually { self.leader != nil && self.up.allSatisfy { self[$0].status().leader == self[self.leader ?? $0].status().leader } })
        let kek = KeyEncryptionKeyID(Bytes(repeating: 1, count: 16), 1), dek = DataKeyID(Fixture.domain, 1)
        try await propose(1, .key(.createDomain(
            id: Fixture.domain, name: Bytes("default".utf8), kek: KeyEncryptionKeyRecord(id: kek, domain: Fixture.domain, state: .active, wrapped: [1]),
            dek: DataKeyRecord(id: dek, wrappedBy: kek, state: .active, wrapped: [2]))))
    }
    /// Tries until it succeeds: through elections.
    func retried<Value>(_ body: () async throws -> Value) async throws -> Value {
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            do { return try await body() } catch {
                guard ContinuousClock.now < deadline else { throw error }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }
    /// Answers the revision. What is refused after an attempt whose outcome is unknown was done by that one.
    @discardableResult
    func propose(_ number: Int, _ command: Command) async throws -> Int64 {
        var isUnknown = false
        return try await retried {
            do throws(ReplicaError) { return try await self[number].propose(command).revision } catch {
                switch error {
                case .outcomeUnknown: isUnknown = true
                case .refused(.member(.notNow)), .refused(.member(.notInSync)): break // not yet
                case .refused where isUnknown: return self[number].status().revision
                default: break
                }
                throw error
            }
        }
    }
    @discardableResult
    func put(_ number: Int, _ key: String, _ text: String) async throws -> Int64 { try await propose(number, Fixture.put(key, text)) }
    func get(_ number: Int, _ key: String) async throws -> SealedValue? { try await retried { try await self[number].get(key) } }
    /// A leader that has just begun changes nobody yet.
    func change(_ number: Int, _ step: MemberStep) async throws { try await propose(number, .member(.change([step]))) }

    /// Some time since the beginning the member said that it was out of service, in these words; or, of others, that it has returned.
    func said(_ number: Int, _ text: String) -> Bool { logs[number - 1].says(text) }
    func hasReturned(_ number: Int) -> Bool { said(number, "this member has caught up and votes again") }
    /// Some time since the beginning another member knew of that alarm of this one.
    func wasNamed(_ number: Int, _ alarm: Alarm.Kind) -> Bool {
        logs.indices.contains { $0 != number - 1 && logs[$0].says("a member is out of service", "m\(number)", "\(alarm)") }
    }
    func agree() async -> Bool {
        await eventually {
            let states = self.up.map { self[$0].status() }
            return Set(states.map(\.appliedIndex)).count == 1 && states.allSatisfy { $0.commitIndex == $0.appliedIndex && $0.revision == states[0].revision }
        }
    }
}

@Suite("Three members", .serialized)
struct ClusterServiceTests {
    @Test("a write at any member is read at any other, values included; all agree on HashKV")
    func everywhere() async throws {
        let members = try Members()
        try await members.start()
        for number in 1...3 {
            try await members.put(number, "k\(number)", "v\(number)")
            for reader in 1...3 { #expect(try await members.get(reader, "k\(number)") == Fixture.sealed("v\(number)")) }
        }
        #expect(await members.agree())
        let hashes = try await [members[1].hash(atRevision: 0), members[2].hash(atRevision: 0), members[3].hash(atRevision: 0)]
        #expect(Set(hashes.map(\.hash)).count == 1 && Set(hashes.map(\.revision)).count == 1 && hashes[0].revision >= 4)
        #expect(members[2].members() == members.founders && members.network.told(MemberID(3)) == members.founders)
        let status = members[1].status()
        #expect(status.isClustered && !status.isLearner && status.alarms.isEmpty && status.outOfService == nil)
    }

    @Test("the leader is killed: nothing it acknowledged is lost, watches at a follower go on, and it comes back")
    func leaderKilled() async throws {
        let members = try Members()
        try await members.start()
        let leader = try #require(members.leader), follower = try members.follower()
        let box = WatchBox(members[follower])
        members[follower].watch(Fixture.everything, sink: box)
        for round in 0..<50 { try await members.put(leader, "k\(round)", "\(round)") }
        members.stop(leader)
        try await members.put(follower, "after", "1")
        for round in 0..<50 { #expect(try await members.get(follower, "k\(round)") == Fixture.sealed("\(round)")) }
        #expect(await eventually { box.events.count >= 51 })
        let revisions = box.events.map(\.version.revision)
        #expect(revisions == revisions.sorted() && Set(revisions).count == revisions.count)
        try members.open(leader)
        #expect(await members.agree())
        #expect(try await members.get(leader, "after") == Fixture.sealed("1"))
    }

    @Test("all are killed at once and come back with everything")
    func allKilled() async throws {
        let members = try Members()
        try await members.start()
        for round in 0..<100 { try await members.put(1 + round % 3, "k\(round % 10)", "\(round)") }
        for number in 1...3 { members.stop(number) }
        for number in 1...3 { try members.open(number) }
        for key in 0..<10 { #expect(try await members.get(1 + key % 3, "k\(key)") == Fixture.sealed("\(90 + key)")) }
        #expect(await members.agree())
    }

    @Test("a learner joins by snapshot though the transfer is interrupted, is promoted, and takes the place of a founder")
    func joining() async throws {
        let members = try Members(4)
        try await members.start()
        let text = String(repeating: "x", count: 5_000)
        for round in 0..<60 { try await members.put(1, "k\(round)", "\(round) \(text)") }
        let added = try await members.propose(2, .compact(revision: 30))
        #expect(added > 30)
        // The log's beginning is gone: the whole of it is stored, and the window is small for that.
        try members.open(4, .join)
        members.network.interruptNextSnapshot()
        try await members.change(2, .add(Members.member(4, isLearner: true)))
        #expect(await eventually { members[4].status().appliedIndex > 0 && members[4].status().isLearner })
        #expect(await members.agree())
        try await members.change(1, .promote(MemberID(4)))
        #expect(await eventually { !members[4].status().isLearner })
        try await members.change(1, .remove(MemberID(3)))
        members.stop(3)
        try await members.put(4, "after", "1")
        #expect(try await members.get(1, "after") == Fixture.sealed("1"))
        #expect(await eventually { members[4].members().map(\.id.rawValue) == [1, 2, 4] })
    }

    @Test("a member far behind gets the store while it serves, watches there miss nothing, and a restart finds it whole")
    func snapshot() async throws {
        let members = try Members()
        for founder in members.founders { try members.open(Int(founder.id.rawValue)) { $0.logWindowEntriesMax = 20 } }
        try await members.begin()
        let behind = try members.follower(), other = try #require(members.leader)
        let box = WatchBox(members[behind])
        members[behind].watch(Fixture.everything, sink: box)
        #expect(await eventually { box.isCreated })
        members.network.cutOff(MemberID(UInt64(behind)))
        members.network.interruptNextSnapshot()
        for round in 0..<200 { try await members.put(other, "k\(round % 50)", "\(round)") }
        #expect(await eventually { members[other].status().storedIndex + 50 > members[other].status().appliedIndex })
        members.network.cutOff(MemberID(UInt64(behind)), false)
        #expect(await members.agree())
        #expect(members.network.snapshots >= 1)
        let last = members[other].status().revision
        #expect(await eventually { box.events.last?.version.revision.main == last })
        let revisions = box.events.map(\.version.revision.main)
        #expect(revisions == Array(last - Int64(revisions.count) + 1...last) && revisions.count >= 200)
        #expect(try await members.get(behind, "k49") == Fixture.sealed("199"))
        members.stop(behind)
        try members.open(behind) { $0.logWindowEntriesMax = 20 }
        #expect(await members.agree())
        #expect(try await members.get(behind, "k0") == Fixture.sealed("150"))
    }

    @Test("leadership is handed over on request, by the leader alone")
    func transfer() async throws {
        let members = try Members()
        try await members.start()
        // It may move by itself in between: then from the beginning.
        try await members.retried {
            guard let leader = members.leader, let next = members.up.first(where: { $0 != leader }) else { throw ReplicaError.notLeader(nil) }
            do throws(ReplicaError) {
                try await members[next].transferLeadership(to: MemberID(UInt64(next)))
                if members.leader == leader { Issue.record("a follower handed over what it does not have") }
            } catch { guard error == .notLeader(MemberID(UInt64(leader))) else { throw error } }
            try await members[leader].transferLeadership(to: MemberID(UInt64(next)))
            guard await eventually(seconds: 10, { members.leader == next }) else { throw ReplicaError.notLeader(members.leader.map { MemberID(UInt64($0)) }) }
            do throws(ReplicaError) {
                try await members[next].transferLeadership(to: MemberID(9))
                Issue.record("leadership went to nobody")
            } catch { guard error == .refused(.member(.notFound(MemberID(9)))) else { throw error } }
        }
    }

    @Test("damage inside the acknowledged log of a member is no end: it fetches its store from the others, and votes again after that")
    func damage() async throws {
        let members = try Members()
        try await members.start()
        for round in 0..<100 { try await members.put(1, "k\(round)", String(repeating: "y", count: 1_000)) }
        let damaged = try members.follower()
        members.stop(damaged)
        let log = members.directories[damaged - 1].path + "/log"
        let segment = try #require(try FileManager.default.contentsOfDirectory(atPath: log).filter { $0.hasSuffix(".log") }.sorted().first)
        var bytes = try Data(contentsOf: URL(fileURLWithPath: log + "/" + segment))
        bytes[4_000] ^= 0x40
        try bytes.write(to: URL(fileURLWithPath: log + "/" + segment))
        try await members.put(try members.follower(), "meanwhile", "1")
        try members.open(damaged)
        #expect(members.said(damaged, "the store is damaged: it is fetched anew from the other members"))
        #expect(await eventually { members.hasReturned(damaged) && members[damaged].status().outOfService == nil && !members[damaged].status().isLearner })
        #expect(await members.agree())
        #expect(try await members.get(damaged, "k99") == Fixture.sealed(String(repeating: "y", count: 1_000)))
        #expect(try await members.get(damaged, "meanwhile") == Fixture.sealed("1"))
        #expect(await eventually { members[damaged].alarms().isEmpty })
        members.stop(damaged)
        try members.open(damaged)
        #expect(members[damaged].status().outOfService == nil && !FileManager.default.fileExists(atPath: members.directories[damaged - 1].path + "/repairing"))
    }

    @Test("a member that holds something else than the others is found out, fetches the store anew while it runs, and serves again")
    func divergence() async throws {
        let members = try Members()
        try await members.start()
        for round in 0..<20 { try await members.put(1, "k\(round)", "\(round)") }
        let wrong = try members.follower(), leader = try #require(members.leader)
        let box = WatchBox(members[wrong])
        members[wrong].watch(Fixture.everything, sink: box)
        members.network.flipBit(at: MemberID(UInt64(wrong)))
        try await members.put(leader, "big", String(repeating: "z", count: 1_000))
        #expect(await eventually { !members.network.isFlipDue })
        #expect(await eventually { members.wasNamed(wrong, .corrupt) || members.wasNamed(wrong, .repairing) })
        #expect(await eventually { box.cancellation != nil }, "its watches end: what they were told may be wrong")
        #expect(await eventually { members.hasReturned(wrong) && members[leader].alarms().isEmpty && members[wrong].status().outOfService == nil })
        #expect(await members.agree())
        #expect(try await members.get(wrong, "big") == Fixture.sealed(String(repeating: "z", count: 1_000)))
        #expect(try await members.get(wrong, "k7") == Fixture.sealed("7"))
        try await members.put(wrong, "after", "1")
        #expect(try await members.get(leader, "after") == Fixture.sealed("1"))
    }

    @Test("a record that is not what was stored is found when it is read; the member fetches the store anew while it runs")
    func damagedRecord() async throws {
        let members = try Members()
        try await members.start()
        let text = "a text that is found again"
        let revision = try await members.put(1, "marked", text)
        let damaged = try members.follower()
        #expect(await members.agree())
        #expect(await eventually { members[damaged].status().storedIndex == members[damaged].status().appliedIndex })
        let path = members.directories[damaged - 1].path + "/records/data.mdb"
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        var places: [Int] = [], from = bytes.startIndex
        while let found = bytes.range(of: Data(text.utf8), in: from..<bytes.endIndex) {
            places.append(found.upperBound + 3)
            from = found.upperBound
        }
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        for place in places {
            try file.seek(toOffset: UInt64(place))
            try file.write(contentsOf: Data([0x55]))
        }
        try file.close()
        #expect(!places.isEmpty)
        // Served from memory until the record lane has it for itself.
        #expect(await eventually { (try? members[damaged].sealedValue(of: Revision(revision))) == nil })
        #expect(await eventually { members.said(damaged, "this member is out of service, and fetches its store anew") })
        #expect(await eventually { members.hasReturned(damaged) && members[damaged].status().outOfService == nil })
        #expect(await members.agree())
        #expect(try await members.get(damaged, "marked") == Fixture.sealed(text))
    }

    @Test("what is left of a cluster without a quorum goes on alone on request, with everything")
    func survivor() async throws {
        let members = try Members()
        try await members.start()
        for round in 0..<20 { try await members.put(1, "k\(round)", "\(round)") }
        #expect(await members.agree())
        for number in 1...3 { members.stop(number) }
        try members.open(2, .forceNew(Members.member(2)))
        try await members.put(2, "after", "1")
        #expect(try await members.get(2, "k19") == Fixture.sealed("19"))
        #expect(await eventually { members[2].members() == [Members.member(2)] })
        members.stop(2)
        try members.open(2, .alone)
        #expect(try await members.get(2, "after") == Fixture.sealed("1"))
    }

    @Test("a damaged store that is alone is refused, not discarded")
    func damageAlone() async throws {
        let directory = try TemporaryDirectory()
        let service = try await Fixture.started(directory)
        for round in 0..<50 { _ = try await service.propose(Fixture.put("k\(round)", "v")) }
        service.abandon()
        let log = directory.path + "/log"
        let segment = try #require(try FileManager.default.contentsOfDirectory(atPath: log).filter { $0.hasSuffix(".log") }.sorted().first)
        var bytes = try Data(contentsOf: URL(fileURLWithPath: log + "/" + segment))
        bytes[2_000] ^= 0x40
        try bytes.write(to: URL(fileURLWithPath: log + "/" + segment))
        #expect(throws: ReplicaService.OpenFailure.self) { try Fixture.open(directory) }
        bytes[2_000] ^= 0x40
        try bytes.write(to: URL(fileURLWithPath: log + "/" + segment))
        let again = try Fixture.open(directory)
        #expect(try await again.get("k49") == Fixture.sealed("v"))
        again.close()
    }
}
