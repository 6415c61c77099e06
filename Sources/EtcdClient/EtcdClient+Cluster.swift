package import EtcdProtocol

/// Cluster and Maintenance.
extension EtcdClient {
    package func members(linearizable: Bool) async throws -> MemberListResponseMessage {
        try await call("/etcdserverpb.Cluster/MemberList", MemberListRequestMessage(linearizable: linearizable))
    }
    package func addMember(peerURLs: [String], isLearner: Bool = false) async throws -> MemberAddResponseMessage {
        try await call("/etcdserverpb.Cluster/MemberAdd", MemberAddRequestMessage(peerURLs: peerURLs, isLearner: isLearner))
    }
    @discardableResult
    package func removeMember(_ id: UInt64) async throws -> MemberListResponseMessage {
        try await call("/etcdserverpb.Cluster/MemberRemove", MemberIDRequestMessage(id))
    }
    @discardableResult
    package func updateMember(_ id: UInt64, peerURLs: [String]) async throws -> MemberListResponseMessage {
        try await call("/etcdserverpb.Cluster/MemberUpdate", MemberUpdateRequestMessage(id: id, peerURLs: peerURLs))
    }
    @discardableResult
    package func promoteMember(_ id: UInt64) async throws -> MemberListResponseMessage {
        try await call("/etcdserverpb.Cluster/MemberPromote", MemberIDRequestMessage(id))
    }
    package func moveLeader(to id: UInt64) async throws {
        let _: HeaderOnlyMessage = try await call("/etcdserverpb.Maintenance/MoveLeader", MemberIDRequestMessage(id))
    }
    package func hashKV(revision: Int64 = 0) async throws -> HashResponseMessage {
        try await call("/etcdserverpb.Maintenance/HashKV", HashRevisionRequestMessage(revision: revision))
    }
    package func alarm(_ action: AlarmRequestMessage.Action, member: UInt64 = 0, alarm: UInt64 = 0) async throws -> AlarmResponseMessage {
        var request = AlarmRequestMessage()
        request.action = action
        request.memberID = member
        request.alarm = alarm
        return try await call("/etcdserverpb.Maintenance/Alarm", request)
    }
    package func defragment() async throws {
        let _: HeaderOnlyMessage = try await call("/etcdserverpb.Maintenance/Defragment", EmptyMessage())
    }
}
