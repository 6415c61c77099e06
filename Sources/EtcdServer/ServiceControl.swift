package import Barrier
package import Basics
package import MVCC
package import ReplicaService

/// The member at hand, asked directly.
package struct ServiceControl: ClusterControl {
    private let service: ReplicaService
    package init(_ service: ReplicaService) { self.service = service }

    package func members() -> [ClusterMember] { service.members() }
    package func alarms() -> [Alarm] { service.alarms() }
    package func change(_ steps: [MemberStep]) async throws(EtcdFailure) {
        do { try await service.changeMembers(steps) } catch { throw EtcdFailure(error) }
    }
    package func update(_ member: MemberID, peerURLs: [String]) async throws(EtcdFailure) {
        do { _ = try await service.propose(.member(.update(member, peerURLs: peerURLs))) } catch { throw EtcdFailure(error) }
    }
    package func transferLeadership(to member: MemberID) async throws(EtcdFailure) {
        do { try await service.transferLeadership(to: member) } catch { throw EtcdFailure(error) }
    }
    package func hash(at revision: Int64) async throws(EtcdFailure) -> StateHashAnswer {
        do {
            let found = try await service.hash(atRevision: revision)
            return StateHashAnswer(hash: found.hash, compactRevision: found.compactRevision, revision: found.revision)
        } catch { throw EtcdFailure(error) }
    }
    package func set(_ alarm: Alarm, isRaised: Bool) async throws(EtcdFailure) {
        do { _ = try await service.propose(.alarm(alarm, isRaised: isRaised)) } catch { throw EtcdFailure(error) }
    }
}
