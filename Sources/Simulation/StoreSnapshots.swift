import Basics
import MVCC
import Raft
import Replica

/// A store on its way to another member, in blocks: it may be interrupted anywhere, and goes on where the receiver stands.
struct SnapshotTransfer {
    var from: Int
    var incarnation: Int32
    var to: Int
    var head: SnapshotHead
    var bytes: Bytes
    var failures = 0
    /// A damaged value that goes along.
    var rottenValue: Revision?
}

extension StoreWorld {
    mutating func sendSnapshot(_ number: Int, to: Int) {
        let member = members[number]
        moment(.snapshotSent, number)
        guard let term = member.replica.raft.log.term(at: member.records.applied), member.records.applied > 0, members[to].isStarted,
              network.carries(from: number, to: to) else {
            return queue.schedule(.snapshotSent(Int32(number), incarnation: member.incarnation, to: Int32(to), at: 0), at: now + 500)
        }
        let position = EntryPosition(index: member.records.applied, term: term)
        show(number) { "sends its store as of entry \(position.index) to \(to + 1)" }
        transfers.append(SnapshotTransfer(
            from: number, incarnation: member.incarnation, to: to,
            head: SnapshotHead(from: member.id, stream: UInt64(transfers.count + 1), position: position), bytes: member.records.snapshot(elementsPerBlock: 8),
            rottenValue: member.rottenValue))
        queue.schedule(.block(Int32(transfers.count - 1)), at: now + UInt32(wireChance.among(1...profile.delayMax)))
    }

    mutating func sendBlock(_ slot: Int, _ event: Occurrence) {
        guard let transfer = transfers[slot] else { return }
        let sender = members[transfer.from], receiver = members[transfer.to]
        guard sender.isUp, sender.incarnation == transfer.incarnation else { return transfers[slot] = nil }
        if isPaused(transfer.to) || isPaused(transfer.from) { return queue.schedule(event, at: max(receiver.pausedUntil, sender.pausedUntil)) }
        let isCarried = receiver.isUp && network.carries(from: transfer.from, to: transfer.to) && network.carries(from: transfer.to, to: transfer.from)
        guard isCarried, !(wireChance.happens(perMillion: profile.lossPerMillion) && ledger.admits()) else {
            transfers[slot]?.failures += 1
            guard transfer.failures < 8 else { return finish(slot, installed: false) }
            return queue.schedule(event, at: now + UInt32(wireChance.among(100...400)))
        }
        // What the receiver has of it: nothing, after a crash or once another sender began.
        if receiver.reception?.head != transfer.head {
            guard transfer.head.position.index > receiver.replica.store.appliedIndex else { return finish(slot, installed: false) }
            receiver.reception = StoreMember.Reception(head: transfer.head)
        }
        do { try receive(slot, transfer, receiver, event) } catch { model.fail(.recovery, "a snapshot cannot be installed: \(error)") }
    }

    private mutating func receive(_ slot: Int, _ transfer: SnapshotTransfer, _ receiver: StoreMember, _ event: Occurrence) throws {
        guard var reception = receiver.reception else { return }
        let start = reception.offset + reception.rest.count, count = wireChance.among(64...4_096)
        reception.rest += transfer.bytes[start..<min(start + count, transfer.bytes.count)]
        var isComplete = false
        while reception.rest.count >= SnapshotBlock.prefixBytes {
            let length = reception.rest.prefix(SnapshotBlock.prefixBytes).reduce(0) { $0 << 8 | Int($1) }
            let end = SnapshotBlock.prefixBytes + length
            guard reception.rest.count >= end else { break }
            isComplete = try reception.records.take(try SnapshotBlock(decoding: reception.rest[SnapshotBlock.prefixBytes..<end]))
            reception.rest.removeFirst(end)
            reception.offset += end
        }
        receiver.reception = reception
        guard isComplete else { return queue.schedule(event, at: now + UInt32(wireChance.among(1...profile.delayMax))) }
        receiver.reception = nil
        finish(slot, installed: try install(transfer, reception.records, receiver))
    }
    private mutating func finish(_ slot: Int, installed: Bool) {
        guard let transfer = transfers[slot] else { return }
        transfers[slot] = nil
        queue.schedule(.snapshotSent(Int32(transfer.from), incarnation: transfer.incarnation, to: Int32(transfer.to), at: installed ? transfer.head.position.index : 0),
                       at: now + UInt32(wireChance.among(1...profile.delayMax)))
    }

    /// Another member's store replaces ours, as one change with the log.
    private mutating func install(_ transfer: SnapshotTransfer, _ records: StoredRecords, _ member: StoreMember) throws -> Bool {
        guard !member.failsNextSync, member.stuckUntil <= now else { return false }
        while member.isSyncing, model.violation == nil { finishSync(member.number) }
        guard model.violation == nil, member.isUp, member.replica.admits(snapshotAt: transfer.head.position) else { return false }
        show(member.number) { "installs the store of \(transfer.from + 1) as of entry \(transfer.head.position.index)" }
        let anchor = member.records.anchor
        member.records = records
        member.records.applied = transfer.head.position.index
        member.records.anchor = anchor
        member.checkpoints.removeAll()
        member.incarnation += 1
        if let revision = transfer.rottenValue {
            member.rottenValue = revision
            queue.schedule(.valueRead(Int32(member.number)), at: now + 500)
        }
        member.replica.handle(.time(member.clock(now)), into: &member.buffer)
        try member.replica.install(try member.records.store(), at: transfer.head.position, into: &member.buffer)
        steps += 1
        perform(member.number)
        return true
    }
}
