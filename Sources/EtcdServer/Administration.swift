import Audit
import Barrier
import Basics
import EtcdProtocol
import MVCC
import NIOCore
import ReplicaService
import RPC

/// The Cluster and Maintenance services, as one member answers them. Calls are few: each is carried out by a task of its own.
///
/// As in etcd, members are told by the table that is replicated, Status by what this member knows at the moment (without asking
/// the others, so that it answers when there is no leader), and changes are made by whoever leads.
struct Administration: Sendable {
    let barrier: Barrier
    let identity: EtcdService.Identity
    let control: (any ClusterControl)?

    // MARK: Cluster

    func memberList(_ request: MemberListRequestMessage) async throws -> MemberListResponseMessage {
        if request.linearizable { try await confirm() }
        var answer = MemberListResponseMessage()
        answer.header = header()
        answer.members = members()
        return answer
    }

    func memberAdd(_ request: MemberAddRequestMessage) async throws -> MemberAddResponseMessage {
        try Self.validate(request.peerURLs)
        let id = MemberID(UInt64.random(in: 1...UInt64.max))
        let member = ClusterMember(id: id, peerURLs: request.peerURLs, isLearner: request.isLearner)
        if !request.isLearner { try checkStarted(adding: 1, removing: nil) }
        try await changing { control throws(EtcdFailure) in try await control.change([.add(member)]) }
        var answer = MemberAddResponseMessage()
        answer.header = header()
        answer.member = MemberMessage(member, id: id.rawValue)
        answer.members = members()
        return answer
    }

    func memberRemove(_ request: MemberIDRequestMessage) async throws -> MemberListResponseMessage {
        let id = try known(request.id)
        try checkStarted(adding: 0, removing: id)
        try await changing { control throws(EtcdFailure) in try await control.change([.remove(id)]) }
        return list()
    }

    func memberPromote(_ request: MemberIDRequestMessage) async throws -> MemberListResponseMessage {
        let id = try known(request.id)
        guard control?.members().first(where: { $0.id == id })?.isLearner == true else { throw Status.notLearner }
        try await changing { control throws(EtcdFailure) in try await control.change([.promote(id)]) }
        return list()
    }

    func memberUpdate(_ request: MemberUpdateRequestMessage) async throws -> MemberListResponseMessage {
        try Self.validate(request.peerURLs)
        let id = try known(request.id)
        try await changing { control throws(EtcdFailure) in try await control.update(id, peerURLs: request.peerURLs) }
        return list()
    }

    private func list() -> MemberListResponseMessage {
        var answer = MemberListResponseMessage()
        answer.header = header()
        answer.members = members()
        return answer
    }

    private func changing(_ body: (any ClusterControl) async throws(EtcdFailure) -> Void) async throws {
        guard let control else { throw Status(.unavailable, "etcdserver: members of this store cannot be changed: it was not started as a member of a cluster") }
        do throws(EtcdFailure) { try await body(control) } catch { throw Status(error) }
    }

    /// etcd's strict reconfiguration check: of the voters there would be, a quorum has started (said its name).
    /// A cluster of one may take a second member all the same.
    private func checkStarted(adding added: Int, removing removed: MemberID?) throws {
        let voters = (control?.members() ?? []).filter { !$0.isLearner && $0.id != removed }
        if let removed, control?.members().first(where: { $0.id == removed })?.isLearner == true { return }
        let started = voters.count { !$0.name.isEmpty }
        if added > 0, started == 1, voters.count == 1 { return }
        let quorum = (voters.count + added) / 2 + 1
        guard started >= quorum else { throw Status.notEnoughStarted }
    }

    /// An id from the wire, as the members have it.
    private func known(_ wireID: UInt64) throws -> MemberID {
        let id = wireID == identity.memberID ? barrier.status().member : MemberID(wireID)
        guard control?.members().contains(where: { $0.id == id }) == true else { throw Status.memberNotFound }
        return id
    }

    private static func validate(_ urls: [String]) throws {
        guard !urls.isEmpty, Set(urls).count == urls.count, urls.count <= 8, urls.allSatisfy(isPeerURL) else { throw Status.badURLs }
    }
    private static func isPeerURL(_ text: String) -> Bool {
        guard text.hasPrefix("https://"), text.utf8.count <= 512, let colon = text.lastIndex(of: ":") else { return false }
        return UInt16(text[text.index(after: colon)...]) != nil && text.dropFirst(8)[..<colon].first.map { $0 != "/" } == true && !text.dropFirst(8).contains("/")
    }

    // MARK: Maintenance

    func status() -> StatusResponseMessage {
        let status = barrier.status()
        var answer = StatusResponseMessage()
        answer.header = header(revision: status.revision)
        answer.version = EtcdService.apiVersion
        answer.databaseBytes = Int64(status.databaseBytes)
        answer.databaseBytesInUse = Int64(status.databaseBytes)
        answer.leader = status.leader.map(wireID) ?? 0
        answer.raftIndex = status.commitIndex
        answer.raftTerm = status.term
        answer.raftAppliedIndex = status.appliedIndex
        answer.isLearner = control?.members().first { $0.id == status.member }?.isLearner ?? false
        if case .failed(let reason) = status.condition { answer.errors.append(reason) }
        if status.leader == nil { answer.errors.append("etcdserver: no leader") }
        for alarm in wireAlarms() { answer.errors.append("memberID:\(alarm.memberID) alarm:\(alarm.alarm == 1 ? "NOSPACE" : "CORRUPT") ") }
        return answer
    }

    func moveLeader(_ request: MemberIDRequestMessage) async throws -> HeaderOnlyMessage {
        let status = barrier.status()
        guard status.leader == status.member else { throw Status.notLeader }
        guard let control, let target = control.members().first(where: { wireID($0.id) == request.id }), !target.isLearner else { throw Status.badTransferee }
        if target.id != status.member {
            do throws(EtcdFailure) { try await control.transferLeadership(to: target.id) } catch { throw Status(error) }
        }
        return HeaderOnlyMessage(header: header())
    }

    /// `Hash` is of the present state, `HashKV` of the state at a revision; here both are of keys, revisions, versions and leases.
    func hash(at revision: Int64) async throws -> HashResponseMessage {
        guard let control else { throw Status(.unavailable, "etcdserver: the state's hash is not to be had here") }
        let found: StateHashAnswer
        do throws(EtcdFailure) { found = try await control.hash(at: revision) } catch { throw Status(error) }
        var answer = HashResponseMessage()
        answer.header = header(revision: found.revision)
        answer.hash = found.hash
        answer.compactRevision = max(found.compactRevision, -1)
        answer.hashRevision = revision == 0 ? found.revision : revision
        return answer
    }

    func alarm(_ request: AlarmRequestMessage) async throws -> AlarmResponseMessage {
        guard let action = request.action else { throw Status(.invalidArgument, "etcdserver: unknown alarm action") }
        var answer = AlarmResponseMessage()
        switch action {
        case .get:
            try await confirm()
            answer.alarms = wireAlarms().filter { (request.memberID == 0 || $0.memberID == request.memberID) && (request.alarm == 0 || $0.alarm == request.alarm) }
        case .activate, .deactivate:
            guard let kind = Self.kind(request.alarm) else { throw Status(.invalidArgument, "etcdserver: unknown alarm type") }
            let member = request.memberID == identity.memberID ? barrier.status().member : MemberID(request.memberID)
            let alarm = Alarm(kind, of: member), wasRaised = control?.alarms().contains(alarm) ?? false
            try await changing { control throws(EtcdFailure) in try await control.set(alarm, isRaised: action == .activate) }
            if action == .activate || wasRaised { answer.alarms = [AlarmMemberMessage(memberID: request.memberID, alarm: request.alarm)] }
        }
        answer.header = header(revision: barrier.status().revision)
        return answer
    }

    /// LMDB reuses the pages it frees, and gives them back when it is compacted: nothing to do for a client.
    func defragment() -> HeaderOnlyMessage { HeaderOnlyMessage(header: header()) }

    private static func kind(_ number: UInt64) -> Alarm.Kind? {
        switch number {
        case 1: .noSpace
        case 2: .corrupt
        default: nil
        }
    }
    private func wireAlarms() -> [AlarmMemberMessage] {
        (control?.alarms() ?? []).compactMap { alarm in
            switch alarm.kind {
            case .noSpace: AlarmMemberMessage(memberID: wireID(alarm.member), alarm: 1)
            case .corrupt: AlarmMemberMessage(memberID: wireID(alarm.member), alarm: 2)
            case .repairing: nil
            }
        }
    }

    // MARK: Common

    /// Everything that was acknowledged before is applied here now.
    private func confirm() async throws {
        do { _ = try await barrier.service.ask(.readIndex) } catch { throw Status(EtcdFailure(error)) }
    }

    /// etcd's Cluster answers carry no revision.
    private func header(revision: Int64 = 0) -> ResponseHeader {
        ResponseHeader(clusterID: identity.clusterID, memberID: identity.memberID, revision: revision, raftTerm: barrier.status().term)
    }
    /// On the wire a member has the id that the header shows.
    private func wireID(_ member: MemberID) -> UInt64 { member == barrier.status().member ? identity.memberID : member.rawValue }

    private func members() -> [MemberMessage] {
        let own = barrier.status().member
        // A store alone has no peers that would have to be told who it is: its own configuration says so.
        let known = (control?.members() ?? []).filter { $0.id != own || !$0.name.isEmpty || !$0.peerURLs.isEmpty }
        guard known.isEmpty else { return known.map { MemberMessage($0, id: wireID($0.id)) } }
        let alone = ClusterMember(id: MemberID(identity.memberID), name: identity.name, peerURLs: identity.peerURLs, clientURLs: identity.clientURLs)
        return [MemberMessage(alone, id: identity.memberID)]
    }
}

extension AuditTrail {
    /// Waits until the records up to `ticket` are durable; false when they may be lost.
    func isDurable(_ ticket: AuditTicket) async -> Bool {
        await withCheckedContinuation { continuation in
            whenDurable(ticket) { failure in continuation.resume(returning: failure == nil) }
        }
    }
}

extension MemberMessage {
    init(_ member: ClusterMember, id: UInt64) {
        self.init()
        self.id = id
        name = member.name
        peerURLs = member.peerURLs
        clientURLs = member.clientURLs
        isLearner = member.isLearner
    }
}

extension Status {
    static let memberNotFound = Status(.notFound, "etcdserver: member not found")
    static let badURLs = Status(.invalidArgument, "etcdserver: given member URLs are invalid")
    static let notLearner = Status(.failedPrecondition, "etcdserver: can only promote a learner member")
    static let notEnoughStarted = Status(.failedPrecondition, "etcdserver: re-configuration failed due to not enough started members")
    static let notLeader = Status(.failedPrecondition, "etcdserver: not leader")
    static let badTransferee = Status(.failedPrecondition, "etcdserver: bad leader transferee")
}
