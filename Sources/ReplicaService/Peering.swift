package import Basics
package import MVCC
package import Replica
import Storage
import Synchronization

// What a member among others is told and asked, from any thread.
extension ReplicaService {
    /// Messages of other members, decoded and from whom they say, and what they took on their way. Too many at once are dropped: they are
    /// sent again.
    package func receive(_ messages: [PeerMessage], bytes: Int) {
        shared.mailbox.change { mailbox in
            if !mailbox.isAbandoned { mailbox.receive(messages, bytes: bytes) }
        }
    }
    /// What was sent to it lately may be lost.
    package func unreachable(_ member: MemberID) { post(.unreachable(member)) }
    /// Its process has ended, as far as can be told from outside.
    package func gone(_ member: MemberID) { post(.gone(member)) }
    /// There is a way to it now, or from it.
    package func reachable(_ member: MemberID) { post(.reachable(member)) }

    private func post(_ order: Mail.PeerOrder) {
        let isAbandoned = shared.mailbox.change { mailbox in
            if !mailbox.isAbandoned { mailbox.mail.peerOrders.append(order) }
            return mailbox.isAbandoned
        }
        if isAbandoned, case .transfer(_, let completion) = order { completion(.unavailable("the store is closed")) }
    }

    // MARK: - Snapshots of others. Each of these may block, and throws what is to be told to the sender.

    /// How many bytes of the snapshot with this head are here already.
    package func beginSnapshot(_ head: Bytes, from member: MemberID) throws(ReplicaError) -> UInt64 {
        try intake.begin(head, from: member, applied: status().appliedIndex)
    }
    package func receiveSnapshot(_ bytes: Bytes, at offset: UInt64, from member: MemberID) throws(ReplicaError) {
        try intake.receive(bytes, at: offset, from: member)
    }
    /// All of it is there: returns when it is in use, durably.
    package func finishSnapshot(from member: MemberID) throws(ReplicaError) { try intake.finish(from: member) }

    // MARK: - Members

    /// The members, as far as is known here, sorted by id.
    package func members() -> [ClusterMember] { shared.members.withLock { $0.members } }
    package func alarms() -> [Alarm] { shared.members.withLock { $0.alarms } }

    /// What this member remembers of the others, a tick old.
    package func witnesses() -> [Witness] { shared.witnesses.withLock { $0 } }

    /// Whether that member has taken part in any run of its.
    package func hasTakenPart(_ member: MemberID) -> Bool { witnesses().contains { $0.member == member && $0.run > 0 } }

    /// All steps or none; returns when they are applied here.
    package func changeMembers(_ steps: [MemberStep]) async throws(ReplicaError) { _ = try await propose(.member(.change(steps))) }

    /// Returns when `member` leads. Only the leader can be asked.
    package func transferLeadership(to member: MemberID) async throws(ReplicaError) {
        let error: ReplicaError? = await withCheckedContinuation { continuation in
            post(.transfer(to: member) { continuation.resume(returning: $0) })
        }
        if let error { throw error }
    }

    /// etcd's HashKV, of what is applied here; revision 0 is the present one.
    package func hash(atRevision revision: Int64) async throws(ReplicaError) -> (hash: UInt32, compactRevision: Int64, revision: Int64) {
        let result: Result<(hash: UInt32, compactRevision: Int64, revision: Int64), CommandRefusal> = try await inspect { store in
            do throws(CommandRefusal) { return .success((try store.hashKeys(through: revision), store.compactRevision, store.revision)) } catch {
                return .failure(error)
            }
        }
        do { return try result.get() } catch { throw .refused(error) }
    }
}
