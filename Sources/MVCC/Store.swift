package import Basics

/// etcd's multi-version store without the values: keys and their history, leases, key records, settings.
///
/// `apply` carries out one command of the log: it changes this value and appends to `Applied` what the world must store and tell.
/// A refused command changes nothing. Reads answer versions; their sealed values lie in the record lane under `KeyVersion.revision`.
///
/// Restart: give every stored record to `restore(_:)` in revision order and every table row to `restore(table:)`, in any order of the two,
/// then call `finishRestore()`; then replay the log. For that, each batch that is stored must end with `checkpoint(into:)`.
///
/// Invariants: `revision` is 1 in an empty store and grows by one with each command that changes a key; `compactRevision` ≤ `revision`.
package struct Store: ~Copyable, Sendable {
    var index = KeyIndex()
    var leases = LeaseTable()
    var leaseNames = LeaseNames()
    /// Domains, KEKs and DEKs with their counts.
    package internal(set) var keys = KeyTable()
    var settings: [Bytes: Bytes] = [:]
    package internal(set) var members = MemberTable()

    /// etcd's "current revision".
    package internal(set) var revision: Int64 = 1
    /// History before it is gone; -1 when nothing was compacted yet.
    package internal(set) var compactRevision: Int64 = -1
    /// The log index of the last applied command.
    package internal(set) var appliedIndex: LogIndex = 0
    /// Over everything applied so far.
    package internal(set) var hash = StateHash()

    /// Changes of the command that is being applied: the next one's sub revision.
    var changes: Int32 = 0
    var recent = RecentChanges()
    private var upcoming = PrefetchBatch()
    var restoring = Restoring()

    package init() {}

    /// Keys that exist now.
    package var liveKeyCount: Int64 { index.liveCount }
    /// Versions and tombstones, of now and of retained history: the number of stored records.
    package var recordCount: Int64 { index.cellCount }
    /// Memory of the index.
    package var indexBytes: Int { index.bytes }

    /// So many commands it is worth naming before they are applied.
    package static let prefetchMax = PrefetchBatch.keysMax
    /// Of the next commands, by their logged payloads: asks memory for what applying them will touch, for all of them at once. Changes nothing.
    package mutating func prefetch(count: Int, _ payload: (Int) -> Bytes) {
        upcoming.removeAll()
        for position in 0..<min(count, Self.prefetchMax) {
            if let key = Command.putKey(in: Origin.command(in: payload(position))) { upcoming.append(key) }
        }
        if upcoming.isWorthwhile { index.prefetch(&upcoming) }
    }

    /// Applies one command. `Applied` is appended to; it is left alone when the command is refused.
    package mutating func apply(_ command: Command, at index: LogIndex, into applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        appliedIndex = index
        hash.mix(index)
        guard revision < PackedCell.revisionMax else { return .failure(.limitReached) }
        changes = 0
        let result: Result<CommandResult, CommandRefusal>
        switch command {
        case .none: result = .success(.none)
        case .put(let request): result = applyPut(request, &applied)
        case .deleteRange(let request): result = .success(.operation(delete(request, &applied)))
        case .transaction(let transaction, let guards): result = applyTransaction(transaction, guards, &applied)
        case .compact(let at): result = compact(at, &applied)
        case .leaseGrant(let id, let seconds): result = grant(id, seconds, &applied)
        case .leaseRevoke(let id): result = revoke(id, &applied)
        case .leaseCheckpoint(let checkpoints): result = checkpoint(checkpoints, &applied)
        case .reseal(let reseals): result = reseal(reseals, &applied)
        case .key(let command): result = applyKey(command, &applied)
        case .setting(let name, let value, let expecting): result = set(name, value, expecting, &applied)
        case .member(let command): result = applyMember(command, &applied)
        case .alarm(let alarm, let isRaised): result = set(alarm, isRaised, &applied)
        }
        if changes > 0 { revision += 1 }
        return result
    }

    /// Adds the rows that say where the applied state stands: counts per data key, revision, hash. Must be called last for each batch of
    /// `Applied` that is stored in one transaction; without it a restart finds counts that do not match the records, and says so.
    package mutating func checkpoint(into applied: inout Applied) {
        keys.writeCounts(into: &applied.tables)
        members.writeForwarded(into: &applied.tables)
        applied.tables.append(TableRow.write(TableRow.State(revision: revision, cells: index.cellCount, hash: hash.value)))
    }

    // MARK: One change

    /// Where the command being applied writes.
    private var next: Revision { Revision(revision + 1, changes) }

    /// The revision that reads within the command see: with its own changes, once there are some.
    var visible: Int64 { changes > 0 ? revision + 1 : revision }

    func version(_ key: Bytes, _ cell: VersionCell) -> KeyVersion {
        KeyVersion(key: key, revision: cell.revision, createRevision: cell.create, version: cell.version, lease: leaseNames[cell.lease])
    }

    /// What a put needs to know that may refuse it; the rest cannot fail.
    struct CheckedPut {
        /// The data key's number; `nil` for a copy of the previous value.
        var dataKey: UInt32?
    }

    /// Refuses a put as etcd does, and one sealed (or copied) under a key that is not active. Of several reasons etcd names the missing key
    /// first within a transaction, and the missing lease first without one.
    func check(_ put: PutRequest, inTransaction: Bool) -> Result<CheckedPut, CommandRefusal> {
        guard !put.key.isEmpty, put.key.count <= Limits.keyBytesMax else { return .failure(.limitReached) }
        let lacksLease = put.lease != 0 && leases[put.lease] == nil
        if lacksLease, !inTransaction { return .failure(.leaseNotFound) }
        if case .unchanged = put.value {
            guard let entry = index.find(put.key), entry.isLive else { return .failure(.keyNotFound) }
            let dataKey = entry.latest.dataKey
            guard keys.isActive(dataKey) else { return .failure(.staleKey(keys.id(of: dataKey))) }
        } else if put.keepsLease {
            guard let entry = index.find(put.key), entry.isLive else { return .failure(.keyNotFound) }
        }
        if lacksLease { return .failure(.leaseNotFound) }
        guard case .sealed(let value) = put.value else { return .success(CheckedPut(dataKey: nil)) }
        return keys.activeNumber(of: value.dataKey).map { CheckedPut(dataKey: $0) }
    }

    /// Writes a checked put; answers the version before it, if that is wanted.
    mutating func write(_ put: PutRequest, _ checked: CheckedPut, _ applied: inout Applied) -> KeyVersion? {
        let entry = index.findOrInsert(put.key)
        let latest = entry.latest.cell, isNew = latest.isTombstone
        let lease = put.keepsLease ? leaseNames[latest.lease] : put.lease
        let dataKey = checked.dataKey ?? latest.dataKey
        let cell = VersionCell(
            main: next.main, sub: next.sub, create: isNew ? next.main : latest.create, version: latest.version + 1,
            dataKey: dataKey, lease: leaseNames.use(lease))
        index.append(cell, to: entry)
        keys.count(1, of: dataKey)
        let before = isNew ? 0 : leaseNames[latest.lease]
        if before != lease {
            if before != 0 { leases.detach(put.key, from: before) }
            if lease != 0 { leases.attach(put.key, to: lease) }
        }
        let written = KeyVersion(key: put.key, revision: next, createRevision: cell.create, version: cell.version, lease: lease)
        let value: Record.Value
        switch put.value {
        case .sealed(let sealed): value = .sealed(sealed)
        case .unchanged: value = .copy(of: latest.revision)
        }
        if applied.watched.contains(put.key) {
            // A key made (anew) has none before it, even when the transaction has deleted it: etcd's rule.
            var event = WatchEvent(kind: .put, version: written, previous: isNew ? nil : watchPrevious(entry, put.key, latest))
            if case .sealed(let sealed) = put.value { event.value = sealed }
            applied.events.append(event)
        }
        record(Record(version: written, value: value), &applied)
        return put.returnsPrevious && !isNew ? version(put.key, latest) : nil
    }

    /// Deletes a key that exists.
    mutating func remove(_ entry: KeyEntry, _ key: Bytes, _ applied: inout Applied) {
        let latest = entry.latest.cell
        index.append(VersionCell(main: next.main, sub: next.sub, create: 0, version: 0, dataKey: 0, lease: 0), to: entry)
        let lease = leaseNames[latest.lease]
        if lease != 0 { leases.detach(key, from: lease) }
        let deleted = KeyVersion(key: key, revision: next, createRevision: 0, version: 0, lease: 0)
        if applied.watched.contains(key) { applied.events.append(WatchEvent(kind: .delete, version: deleted, previous: watchPrevious(entry, key, latest))) }
        record(Record(version: deleted, value: .tombstone), &applied)
    }

    /// etcd's `prev_kv` of an event is the version before the whole transaction, not before the change.
    private func watchPrevious(_ entry: KeyEntry, _ key: Bytes, _ latest: VersionCell) -> KeyVersion? {
        if latest.main == next.main { return index.cell(of: entry, at: revision).map { version(key, $0) } }
        return latest.isTombstone ? nil : version(key, latest)
    }

    private mutating func record(_ record: consuming Record, _ applied: inout Applied) {
        mix(record)
        recent.append(record.revision, record.version.key)
        applied.records.append(record)
        changes += 1
    }

    private mutating func mix(_ record: Record) {
        let version = record.version
        hash.mix(version.revision.main)
        hash.mix(Int64(version.revision.sub))
        hash.mix(version.createRevision)
        hash.mix(version.version)
        hash.mix(version.lease)
        hash.mix(version.key)
        switch record.value {
        case .sealed(let value): hash.mix(value.bytes)
        case .copy(let revision):
            hash.mix(1 as UInt64)
            hash.mix(revision.main)
            hash.mix(Int64(revision.sub))
        case .tombstone: hash.mix(2 as UInt64)
        }
    }
    private mutating func mix(_ tables: ArraySlice<TableWrite>) {
        for row in tables {
            hash.mix(UInt64(row.table.rawValue))
            hash.mix(row.key)
            if let value = row.value { hash.mix(value) } else { hash.mix(3 as UInt64) }
        }
    }

    // MARK: Puts and deletes

    private mutating func applyPut(_ request: PutRequest, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        switch check(request, inTransaction: false) {
        case .failure(let refusal): return .failure(refusal)
        case .success(let checked):
            return .success(.operation(.put(previous: write(request, checked, &applied))))
        }
    }

    mutating func delete(_ request: DeleteRangeRequest, _ applied: inout Applied) -> OperationResult {
        var found: [KeyEntry] = []
        index.scan(request.range) { entry in
            if entry.isLive { found.append(entry) }
            return true
        }
        var previous: [KeyVersion] = []
        if request.returnsPrevious { previous.reserveCapacity(found.count) }
        for entry in found {
            let key = entry.key
            if request.returnsPrevious { previous.append(version(key, entry.latest.cell)) }
            remove(entry, key, &applied)
        }
        return .deleteRange(deleted: Int64(found.count), previous: previous)
    }

    // MARK: Compaction

    private mutating func compact(_ at: Int64, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        if at <= compactRevision { return .failure(.compacted(compactRevision: compactRevision)) }
        if at > revision { return .failure(.futureRevision(current: revision)) }
        compactRevision = at
        var removed: [VersionCell] = []
        index.compact(at: Mutant.isActive(.compactionTooFar) ? min(at + 1, revision) : at) { removed.append($0) }
        for cell in removed {
            keys.count(-1, of: cell.dataKey)
            leaseNames.drop(cell.lease)
        }
        applied.removed.append(contentsOf: removed.map(\.revision).sorted())
        let row = TableRow.writeCompact(at)
        mix([row])
        applied.tables.append(row)
        return .success(.none)
    }

    // MARK: Leases

    /// By id.
    package var allLeases: [Lease] { leases.all }
    package var leaseCount: Int { leases.count }
    package func lease(_ id: LeaseID) -> Lease? { leases[id] }
    /// Attached keys in order; empty when there is no such lease.
    package func keys(ofLease id: LeaseID) -> [Bytes] { leases.keys(of: id) }

    /// What etcd makes of shorter ones with its default timing: a lease must outlive an election (one and a half times 1 s, rounded up).
    package static let leaseSecondsMin: Int64 = 2

    private mutating func grant(_ id: LeaseID, _ seconds: Int64, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        if id == 0 { return .failure(.leaseNotFound) }
        if seconds > Limits.leaseSecondsMax { return .failure(.leaseSecondsTooLarge) }
        if leases[id] != nil { return .failure(.leaseExists) }
        if leases.count >= Limits.leasesMax { return .failure(.limitReached) }
        let lease = Lease(id: id, seconds: max(Self.leaseSecondsMin, seconds))
        leases.insert(lease)
        let row = TableRow.write(lease)
        mix([row])
        applied.tables.append(row)
        return .success(.lease(id: id, seconds: lease.seconds))
    }

    /// All attached keys go in one revision, in key order.
    private mutating func revoke(_ id: LeaseID, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        guard leases[id] != nil else { return .failure(.leaseNotFound) }
        for key in leases.keys(of: id) {
            if Mutant.isActive(.leaseKeysStay), changes > 0 { break }
            guard let entry = index.find(key), entry.isLive else { preconditionFailure("a lease names a key that does not exist") }
            remove(entry, key, &applied)
        }
        leases.remove(id)
        let row = TableRow.removeLease(id)
        mix([row])
        applied.tables.append(row)
        return .success(.lease(id: id, seconds: 0))
    }

    /// Leases that are gone meanwhile are passed over.
    private mutating func checkpoint(_ checkpoints: [LeaseCheckpoint], _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        for checkpoint in checkpoints {
            guard var lease = leases[checkpoint.id] else { continue }
            lease.checkpointSeconds = min(max(0, checkpoint.remainingSeconds), lease.seconds)
            leases.insert(lease)
            let row = TableRow.write(lease)
            mix([row])
            applied.tables.append(row)
        }
        return .success(.none)
    }

    // MARK: Keys and settings

    /// All of them are sealed under active keys, or nothing is done; those whose record has changed or gone meanwhile are passed over.
    private mutating func reseal(_ reseals: [Reseal], _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        var numbers: [UInt32] = []
        for reseal in reseals {
            switch keys.activeNumber(of: reseal.value.dataKey) {
            case .failure(let refusal): return .failure(refusal)
            case .success(let number): numbers.append(number)
            }
        }
        var done = 0
        for (reseal, number) in zip(reseals, numbers) {
            guard let entry = index.find(reseal.key), let cell = index.cell(of: entry, written: reseal.revision), !cell.isTombstone,
                keys.id(of: cell.dataKey) == reseal.expected
            else { continue }
            index.setDataKey(number, of: entry, written: reseal.revision)
            keys.count(-1, of: cell.dataKey)
            keys.count(1, of: number)
            let replacement = Record(version: version(reseal.key, cell), value: .sealed(reseal.value))
            mix(replacement)
            applied.records.append(replacement)
            done += 1
        }
        return .success(.resealed(done))
    }

    private mutating func applyKey(_ command: KeyCommand, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        let before = applied.tables.count
        if let refusal = keys.apply(command, into: &applied.tables) { return .failure(refusal) }
        mix(applied.tables[before...])
        return .success(.none)
    }

    package func setting(_ name: Bytes) -> Bytes? { settings[name] }

    private mutating func set(_ name: Bytes, _ value: Bytes?, _ expecting: Bytes??, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        if let expecting, settings[name] != expecting { return .failure(.conflict) }
        settings[name] = value
        let row = TableWrite(.settings, name, value)
        mix([row])
        applied.tables.append(row)
        return .success(.none)
    }

    // MARK: Members

    private mutating func applyMember(_ command: MemberCommand, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        let before = applied.tables.count
        if let refusal = members.apply(command, into: &applied.tables) { return .failure(.member(refusal)) }
        mix(applied.tables[before...])
        return .success(.none)
    }

    private mutating func set(_ alarm: Alarm, _ isRaised: Bool, _ applied: inout Applied) -> Result<CommandResult, CommandRefusal> {
        guard members.hasAlarm(alarm.kind, of: alarm.member) != isRaised else { return .success(.none) }
        if isRaised, members[alarm.member] == nil { return .failure(.member(.notFound(alarm.member))) }
        let before = applied.tables.count
        members.set(alarm, isRaised: isRaised, into: &applied.tables)
        mix(applied.tables[before...])
        return .success(.none)
    }

    /// Whether a forwarded command may be applied: each one once. Called before `apply`; a second one is applied as `.none`.
    package mutating func admit(_ origin: Origin) -> Bool {
        hash.mix(origin.member.rawValue)
        hash.mix(origin.incarnation)
        hash.mix(origin.sequence)
        return members.admit(origin)
    }

    /// Keeps membership as consensus has it, with what was applied so far. Derived from the log: no part of the hash.
    package mutating func keep(consensus: Bytes, into applied: inout Applied) { members.set(consensus: consensus, into: &applied.tables) }
}
