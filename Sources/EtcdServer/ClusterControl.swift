package import Barrier
package import Basics
package import MVCC
import ReplicaService

/// What the Cluster and Maintenance services ask of the member they run on.
package protocol ClusterControl: Sendable {
    func members() -> [ClusterMember]
    func alarms() -> [Alarm]
    /// All steps or none; returns when they are applied here.
    func change(_ steps: [MemberStep]) async throws(EtcdFailure)
    func update(_ member: MemberID, peerURLs: [String]) async throws(EtcdFailure)
    /// Returns when `member` leads.
    func transferLeadership(to member: MemberID) async throws(EtcdFailure)
    /// Of the state at a revision; 0 is the present one.
    func hash(at revision: Int64) async throws(EtcdFailure) -> StateHashAnswer
    func set(_ alarm: Alarm, isRaised: Bool) async throws(EtcdFailure)
}

package struct StateHashAnswer: Hashable, Sendable {
    package var hash: UInt32
    package var compactRevision: Int64
    package var revision: Int64
    package init(hash: UInt32, compactRevision: Int64, revision: Int64) {
        self.hash = hash; self.compactRevision = compactRevision; self.revision = revision
    }
}
