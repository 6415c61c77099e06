import Basics
import Logging
import MVCC
import Raft
import Replica
import Storage
import Synchronization
import WriteAheadLog

// What the replica's thread does for and with other members.
extension ReplicaThread {
    func flushOutbox() {
        guard !outbox.isEmpty else { return }
        lane?.send(outbox)
        outbox.removeAll(keepingCapacity: true)
    }

    func publishMembers() {
        let members = replica.members, alarms = replica.store.members.alarms
        for alarm in alarms where alarm.kind != .noSpace && !shared.members.withLock({ $0.alarms.contains(alarm) }) {
            let name = members.first { $0.id == alarm.member }?.name ?? ""
            logger.warning("a member is out of service", metadata: [
                "member": "\(String(alarm.member.rawValue, radix: 16))", "name": "\(name)", "alarm": "\(alarm.kind)"])
        }
        shared.members.withLock { $0 = (members, alarms) }
        lane?.membersChanged(members)
    }

    func carryOut(_ order: Mail.PeerOrder) {
        switch order {
        case .unreachable(let member): handle(.unreachable(member))
        case .gone(let member): handle(.gone(member))
        case .reachable(let member): handle(.reachable(member))
        case .snapshotSent(let member, let index):
            sources[member] = nil
            handle(.snapshotSent(to: member, at: index))
        case .transfer(let target, let completion):
            if let objection = objectionToTransfer(to: target) { return completion(objection) }
            if standing.leader == target { return completion(nil) }
            // Raft gives up after an election timeout; the successor needs as long again to say so.
            let patience = Int64(options.electionTicks) * options.tickMilliseconds * 3
            transfers.append((target, now + patience, completion))
            handle(.transfer(to: target))
        }
    }
    private func objectionToTransfer(to target: MemberID) -> ReplicaError? {
        if let failure { return .unavailable(failure) }
        guard replica.isLeader else { return .notLeader(standing.leader) }
        if replica.raft.membership.isVoter(target) { return nil }
        return .refused(.member(replica.raft.membership.isLearner(target) ? .alreadyLearner(target) : .notFound(target)))
    }
    func answerTransfers() {
        guard !transfers.isEmpty, let leader = standing.leader else { return }
        for transfer in transfers where transfer.target == leader { transfer.completion(nil) }
        transfers.removeAll { $0.target == leader }
    }
    func tickTransfers() {
        guard !transfers.isEmpty else { return }
        for transfer in transfers where transfer.deadline <= now { transfer.completion(.unavailable("the member did not take over in time")) }
        transfers.removeAll { $0.deadline <= now }
    }

    // MARK: - Snapshots

    func sendSnapshot(to member: MemberID) {
        guard let lane, sources[member] == nil else { return handle(.snapshotSent(to: member, at: nil)) }
        do {
            let snapshot = try records.snapshot()
            // What the log does not continue would have to be sent again at once.
            guard snapshot.applied.applied >= replica.raft.log.base.index else {
                snapshot.close()
                return handle(.snapshotSent(to: member, at: nil))
            }
            let index = snapshot.applied.applied, mailbox = shared.mailbox
            let source = SnapshotSource(snapshot, from: replica.member, to: member) { installed in
                mailbox.change { mailbox in
                    if !mailbox.isAbandoned { mailbox.mail.peerOrders.append(.snapshotSent(member, at: installed ? index : nil)) }
                }
            }
            sources[member] = source
            logger.info("a member gets the store", metadata: ["member": "\(member.rawValue)", "applied": "\(index)"])
            lane.sendSnapshot(to: member, source)
        } catch {
            logger.warning("the records cannot be read for a snapshot", metadata: ["reason": "\(error)"])
            handle(.snapshotSent(to: member, at: nil))
        }
    }

    /// The store of another member takes the place of this one's.
    ///
    /// 1. What is known of this log goes beside the new records, as it does with every checkpoint.
    /// 2. The old records are closed, and the new ones' file takes their file's name. From here on a restart finds the new ones, and has the
    ///    log begin anew after them if it does not reach them (`Opening`).
    /// 3. The log begins anew, if it must, and consensus goes on from there.
    /// 4. Watches are told what lies between from history.
    func install(_ installation: Installation) {
        guard failure == nil, ending == nil, replica.admits(snapshotAt: installation.position), let store = installation.store.take() else {
            installation.lane.close()
            places.remove(installation.directory)
            return installation.completion(.unavailable("the snapshot is of no use any more"))
        }
        let before = replica.store.revision
        do {
            try replaceRecords(
                installation.lane, installation.directory, RecordBatch(
                    applied: installation.position.index, appliedTerm: installation.position.term, anchor: anchor))
            try replica.install(store, at: installation.position, into: &effects)
            for effect in effects.take() { perform(effect) }
            hub.fallBehind(after: before)
            installation.completion(nil)
            logger.notice("the store was replaced by another member's", metadata: ["applied": "\(installation.position.index)"])
        } catch {
            fail("installing a snapshot: \(error)")
            installation.completion(.unavailable("\(error)"))
        }
    }

    private func replaceRecords(_ new: RecordLane, _ directory: String, _ last: RecordBatch) throws {
        do { try SnapshotIntake.store(last, in: new) } catch { throw error }
        for (_, source) in sources { source.ended(installed: false) }
        records.close()
        try places.promote(directory)
        records = new
        shared.records.replace(new)
        storing = nil
    }

    func restartLog(after position: EntryPosition) {
        let mailbox = shared.mailbox
        disk.append(LogBatch(restart: LogPosition(index: position.index, term: position.term))) { result in
            guard case .failure(let failure) = result else { return }
            mailbox.change { $0.mail.failure = $0.mail.failure ?? "the log: \(failure)" }
        }
    }

    // MARK: - Repair

    /// One at a time: the others must be able to help.
    var isAnotherBeingRepaired: Bool { replica.store.members.alarms.contains { $0.kind != .noSpace && $0.member != replica.member } }

    /// What this member holds is not what the others hold, or is damaged.
    func isWrong(_ reason: String) {
        guard leaving == nil, !replica.isRepairing, lane != nil, RepairMark.canRepair(replica.member, among: replica.members) else {
            return logger.critical("what this member holds is wrong", metadata: ["reason": "\(reason)"])
        }
        leaving = reason
    }

    /// What this member holds is wrong. It begins anew with nothing, online: the same as a start that finds its files damaged.
    func leaveService(_ reason: String) {
        leaving = nil
        let beginning = shared.beginnings.withLock { beginnings in beginnings += 1; return beginnings }
        outbox = []
        logger.critical("this member is out of service, and fetches its store anew", metadata: ["reason": "\(reason)"])
        desk.answerAll(.outcomeUnknown)
        hub.cancelAll(because: .unavailable(reason), revision: replica.store.revision)
        do {
            try mark.set(replica.members)
            let (empty, directory) = try places.openNew(UInt64.max - beginning)
            try replaceRecords(empty, directory, RecordBatch(applied: 0, anchor: anchor))
            restartLog(after: .start)
            var configuration = replica.configuration, state = replica.raft.hardState
            configuration.founders = replica.members
            configuration.lastRun = notes?.now.lastRun
            configuration.witnesses = replica.witnesses
            configuration.isRepairing = true
            configuration.incarnation = max(wallMicroseconds(), configuration.incarnation + 1)
            configuration.raft.membership = Membership()
            state.commit = 0
            replica = try Replica(configuration, store: Store(), state: state, entries: [])
            standing = replica.raft.standing
            shared.overlay.removeAll()
            publishKeys()
            handle(.time(now))
        } catch { fail("beginning anew: \(error)") }
    }

    /// Its disk was put back to an earlier state. What it holds is the beginning of what the others hold: it goes on from there, as a learner.
    func takeBack(_ reason: String, isRepaired: Bool) {
        guard isRepaired else {
            return logger.error("this member goes on, since the other one remembers for both", metadata: ["reason": "\(reason)"])
        }
        logger.critical("this member is out of service, until it has learned again what it forgot", metadata: ["reason": "\(reason)"])
        do { try mark.set(replica.members) } catch { fail("marking a repair: \(error)") }
    }

    func takePart(in run: UInt64) {
        do { try notes?.takePart(in: run) } catch { fail("the number of this run: \(error)") }
    }

    func endRepair() {
        do { try mark.clear() } catch { return fail("the end of a repair: \(error)") }
        let isVoter = replica.raft.membership.isVoter(replica.member)
        logger.notice(isVoter ? "this member has caught up and votes again" : "this member has caught up, and is a learner again")
    }
}
