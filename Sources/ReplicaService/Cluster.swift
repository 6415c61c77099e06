package import Basics
package import MVCC
package import Replica

/// How a store is opened with regard to others.
package enum ClusterOpening: Hashable, Sendable {
    /// The only member; it becomes a founder of nothing.
    case alone
    /// One of the founders, itself among them; all are given the same list. A store that exists already passes over it.
    case bootstrap([ClusterMember])
    /// A new member of a cluster that exists: it learns everything from the leader that adds it.
    case join
    /// What is left of a cluster that lost its quorum: this member alone goes on, with what it holds. The others are removed.
    case forceNew(ClusterMember)
}

/// The way to the other members. Called on the replica's thread: must not block, and may drop whatever it cannot send.
package protocol PeerLane: AnyObject, Sendable {
    func send(_ messages: [PeerMessage])
    /// Reads the source on another thread, and ends it (`SnapshotSource.ended`) whatever becomes of the transfer.
    func sendSnapshot(to member: MemberID, _ source: SnapshotSource)
    /// What another member holds at a revision. Asked by whoever found its own damaged.
    func value(at revision: Revision, from member: MemberID) async throws -> SealedValue
    /// Who belongs to the cluster now, and where they are. Also called once at the start.
    func membersChanged(_ members: [ClusterMember])
}
