import Basics
import FileSealing
import MVCC
import Raft
import Replica
import WriteAheadLog

/// The member's file key as the log's cipher; remembers nonces, of which none may come twice.
final class SealedFrames: FrameCipher {
    private let key: FileKey
    private var nonces: Set<Bytes> = []
    private(set) var hasRepeated = false
    init(key: FileKey) { self.key = key }
    var generation: UInt16 { key.generation }
    func seal(_ plaintext: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) {
        key.seal(plaintext, associatedData: associatedData, into: target)
        if !nonces.insert(Bytes(target.prefix(24))).inserted { hasRepeated = true }
    }
    func open(_ sealed: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
        (try? key.open(sealed, associatedData: associatedData, into: target)) != nil
    }
}

/// What the record lane holds durably: a transaction is there whole or not at all.
struct StoredRecords {
    struct Row: Hashable, Comparable {
        var table: UInt8
        var key: Bytes
        static func < (a: Row, b: Row) -> Bool { a.table == b.table ? a.key.lexicographicallyPrecedes(b.key) : a.table < b.table }
    }
    var applied: LogIndex = 0
    /// The log's last frame then; tells whether the log lost its end.
    var anchor: LogAnchor?
    private(set) var records: [Revision: (version: KeyVersion, value: SealedValue?)] = [:]
    private var rows: [Row: Bytes] = [:]

    mutating func perform(_ checkpoint: Checkpoint, anchor: LogAnchor?) {
        for record in checkpoint.records {
            let value: SealedValue? = switch record.value {
            case .sealed(let value): value
            case .copy(let source): records[source]?.value
            case .tombstone: nil
            }
            records[record.revision] = (record.version, value)
        }
        for revision in checkpoint.removed { records[revision] = nil }
        for row in checkpoint.tables { rows[Row(table: row.table.rawValue, key: row.key)] = row.value }
        applied = checkpoint.applied
        self.anchor = anchor
    }
    /// What another member sends of it, in the shipping blocks.
    func snapshot(elementsPerBlock size: Int) -> Bytes {
        var bytes = Bytes()
        let rows = self.rows.keys.sorted().compactMap { row in TableWrite.Table(rawValue: row.table).map { TableWrite($0, row.key, self.rows[row]) } }
        let records = self.records.keys.sorted().compactMap { self.records[$0] }.map { SnapshotBlock.StoredRecord(version: $0.version, value: $0.value) }
        for start in stride(from: 0, to: rows.count, by: size) { bytes += SnapshotBlock.tables(Array(rows[start..<min(start + size, rows.count)])).encode() }
        for start in stride(from: 0, to: records.count, by: size) {
            bytes += SnapshotBlock.records(Array(records[start..<min(start + size, records.count)])).encode()
        }
        return bytes + SnapshotBlock.end(tables: UInt64(rows.count), records: UInt64(records.count)).encode()
    }
    /// Takes one over; true at the end of a whole one.
    mutating func take(_ block: SnapshotBlock) throws -> Bool {
        switch block {
        case .tables(let new): for row in new { rows[Row(table: row.table.rawValue, key: row.key)] = row.value }
        case .records(let new): for record in new { records[record.version.revision] = (record.version, record.value) }
        case .end(let tables, let count):
            guard tables == UInt64(rows.count), count == UInt64(records.count) else { throw Violation(.recovery, "a snapshot is not whole") }
            return true
        }
        return false
    }
    /// One bit of a value turns over, behind its header.
    mutating func rotValue(_ chance: inout Chance) -> Revision? {
        let candidates = records.keys.filter { records[$0]?.value != nil }.sorted()
        guard !candidates.isEmpty else { return nil }
        let revision = chance.pick(candidates)
        guard let record = records[revision], var bytes = record.value.map({ Bytes($0.bytes) }) else { return nil }
        bytes[SealedValue.headerBytes + chance.below(bytes.count - SealedValue.headerBytes)] ^= UInt8(1 << chance.below(8))
        guard let value = try? SealedValue(parsing: bytes) else { return nil }
        records[revision] = (record.version, value)
        return revision
    }
    /// Of the newest record.
    var revision: Int64 { records.keys.max()?.main ?? 1 }
    func store() throws -> Store {
        var store = Store()
        for row in rows.keys.sorted() {
            guard let table = TableWrite.Table(rawValue: row.table) else { continue }
            try store.restore(table: TableWrite(table, row.key, rows[row]))
        }
        for revision in records.keys.sorted() {
            guard let record = records[revision] else { continue }
            try store.restore(RecordMetadata(version: record.version, dataKey: record.value?.dataKey))
        }
        try store.finishRestore(appliedIndex: applied)
        return store
    }
}

/// A whole member: replica, log on a simulated disk, records. What a restart needs is in `disk` and `records`; the rest is memory.
final class StoreMember {
    struct Write {
        var batch: LogBatch
        var afterwards: [PeerMessage]
        var stored: Raft.Stored
    }
    let id: MemberID
    let number: Int
    let identity: LogIdentity
    let cipher: SealedFrames
    let disk: SectorDisk
    let frameBytesMax: Int
    let tickEvery: Int
    /// Its clock: so many thousandths of ours, and ahead by so much. It begins anew with the machine.
    let clockRate: Int64
    var clockOffset: Int64
    /// Of its calendar, which anyone may set at any time.
    var wallOffset: Int64 = 0
    private let founders: [ClusterMember]
    private var configuration: Replica.Configuration

    var replica: Replica
    var writer: LogWriter<SealedFrames>
    var records = StoredRecords()
    var writes: [Write] = []
    /// How many of `writes` are being synced.
    var syncing = 0
    var isSyncing: Bool { syncing > 0 }
    /// The next write says that the log begins anew after this entry.
    var restartAfter: LogPosition?
    /// Asked for while a sync was under way.
    var cutBefore: LogIndex?
    /// The applied index whose hash was compared last.
    var hashedAt: LogIndex = 0
    var checkpoints: [(checkpoint: Checkpoint, anchor: LogAnchor?)] = []
    var durable: LogIndex = 0
    var durableAnchor: LogAnchor?
    /// As of the last write that was reported durable.
    var durableState = LogState(term: 0, vote: nil, commit: 0)
    /// Published to watchers up to this revision.
    var published: Int64 = 1
    var isUp = true
    /// One that is to join has not been started yet.
    var isStarted: Bool
    /// Removed from the cluster, and ended for good.
    var isRetired = false
    /// The mark of a repair under way, with who can help: it outlives a crash.
    var repairers: [ClusterMember]?
    /// A byte on its disk was changed: the next start must notice.
    var isRotten = false
    /// What lies beside log and records, for when these are damaged or gone back in time (`PeerNotes`).
    var notes = Notes()
    /// The value in this record is not what was stored.
    var rottenValue: Revision?
    var isWhole: Bool { repairers == nil && !isRotten && !isPutBack && rottenValue == nil }
    var hasChangeUnderWay: Bool {
        let log = replica.raft.log
        return replica.raft.membership.isJoint || log.hasChange(after: replica.store.appliedIndex, through: log.last.index)
    }
    /// Its directory as it was a while ago.
    var image: Image?
    /// The disk was put back, and others know more of this member than it says: it must not take part.
    var isPutBack = false
    /// The keys of each lease, as of the revision beside them.
    var attached: [LeaseID: (keys: [Bytes], revision: Int64)] = [:]
    /// No sync ends before.
    var stuckUntil: UInt32 = 0
    var isSpaceShort = false
    /// A snapshot on its way here.
    var reception: Reception?
    var pausedUntil: UInt32 = 0
    var incarnation: Int32 = 0
    var failsNextSync = false
    var buffer = EffectBuffer()

    struct Notes {
        var lastRun: UInt64 = 0
        var witnesses: [Witness] = []
        /// What others acknowledged is written late.
        var dueAt: UInt32 = 0
    }
    struct Image {
        var disk: SectorDisk.Image
        var records: StoredRecords
        var notes: Notes
        var durableState: LogState
        var durable: LogIndex
    }
    /// A store on its way here, as far as it came.
    struct Reception {
        var head: SnapshotHead
        var offset = 0
        var rest = Bytes()
        var records = StoredRecords()
    }

    /// One that is no founder joins later.
    init(number: Int, founders: [ClusterMember], keyring: KeyringID, key: FileKey, chance: inout Chance, tuning: (inout Replica.Configuration) -> Void) throws {
        self.number = number
        id = MemberID(UInt64(number + 1))
        identity = LogIdentity(keyring: keyring, member: id)
        cipher = SealedFrames(key: key)
        disk = SectorDisk(segmentBytes: chance.pick([2_048, 8_192, 32_768]), forbidden: Secrecy.canaries + [Secrecy.keyMarker])
        frameBytesMax = chance.pick([1_024, 1_536, 8_192])
        tickEvery = chance.among(85...115)
        clockRate = Int64(chance.among(980...1_020))
        clockOffset = Int64(chance.below(100_000))
        isStarted = founders.contains { $0.id == MemberID(UInt64(number + 1)) }
        isUp = isStarted
        self.founders = isStarted ? founders : []
        let membership = isStarted ? Membership(voters: founders.map(\.id)) : Membership()
        var configuration = Replica.Configuration(raft: Raft.Configuration(member: id, membership: membership, seed: chance.next()))
        configuration.founders = self.founders
        configuration.lastRun = 0
        tuning(&configuration)
        self.configuration = configuration
        replica = try Replica(configuration, store: Store(), state: HardState(), entries: [])
        writer = LogWriter(continuing: RecoveredLog(), identity: identity, cipher: cipher, segmentBytes: disk.segmentBytes, frameBytesMax: frameBytesMax)
    }

    func clock(_ now: UInt32) -> Int64 { clockOffset + Int64(now) * clockRate / 1_000 }
    func wall(_ now: UInt32) -> Int64 { 1_700_000_000_000 + Int64(now) + wallOffset }

    /// Power is cut: memory is gone.
    func forget() {
        writes.removeAll()
        syncing = 0
        restartAfter = nil
        cutBefore = nil
        checkpoints.removeAll()
        reception = nil
        _ = buffer.take()
        attached.removeAll()
        isUp = false
        failsNextSync = false
        pausedUntil = 0
        incarnation += 1
    }

    private func configure(seed: UInt64, _ now: UInt32) {
        configuration.raft.seed = seed
        configuration.incarnation = max(UInt64(max(1, wall(now))) * 1_000, notes.lastRun + 1)
        configuration.lastRun = notes.lastRun
        configuration.witnesses = notes.witnesses
        configuration.isRepairing = repairers != nil
        configuration.founders = repairers ?? founders
        configuration.raft.membership = repairers == nil && !founders.isEmpty ? Membership(voters: founders.map(\.id)) : Membership()
    }

    /// Starts again from what the disk and the records hold. Damage is thrown; an objection returned if the log is not what it was.
    func restart(seed: UInt64, _ now: UInt32) throws -> String? {
        var recovery = LogRecovery(identity: identity, anchor: records.anchor, cipher: cipher)
        for segment in disk.segments { segment.bytes.withUnsafeBytes { recovery.read(segment: segment.id, $0) } }
        let log = recovery.finish()
        if let damage = log.damage {
            guard damage.isTornTail else { throw damage }
            disk.cutOff(from: damage.segment, offset: damage.offset, keeping: log.segments.last?.id ?? 0)
        }
        if isRotten { return "a changed byte in its log went unnoticed" }
        writer = LogWriter(continuing: log, identity: identity, cipher: cipher, segmentBytes: disk.segmentBytes, frameBytesMax: frameBytesMax)
        configure(seed: seed, now)
        let state = log.state.map { HardState(term: $0.term, vote: $0.vote, commit: $0.commit) } ?? HardState()
        guard state.term > durableState.term || (state.term == durableState.term && (durableState.vote == nil || state.vote == durableState.vote)) else {
            return "the log was in term \(durableState.term), and knows of term \(state.term)"
        }
        // Also what it was never told is durable.
        if let found = log.state { durableState = found }
        let entries = log.entries.map { Entry(index: $0.index, term: $0.term, kind: $0.isMembership ? .membership : .ordinary, payload: $0.payload) }
        let beginning = log.beginning.map { EntryPosition(index: $0.index, term: $0.term) }
        replica = try Replica(configuration, store: try records.store(), state: state, entries: entries, beginning: beginning)
        durable = entries.last?.index ?? beginning?.index ?? 0
        durableAnchor = log.lastFrame.sequence == 0 ? nil : log.lastFrame
        published = replica.store.revision
        return nil
    }

    // MARK: - Put back

    func keepImage() {
        guard repairers == nil, !isRotten, !isPutBack else { return }
        image = Image(disk: disk.image, records: records, notes: notes, durableState: durableState, durable: durable)
    }
    /// Memory is gone, and all of the directory is as it was; or only the log is, as if its syncs had not been done.
    func putBack(_ image: Image, logOnly: Bool) {
        disk.putBack(image.disk)
        durableState = image.durableState
        isPutBack = true
        guard !logOnly else { return }
        records = image.records
        notes = image.notes
    }

    // MARK: - Repair

    /// Who can help: as its records say.
    func salvagedMembers() -> [ClusterMember] {
        let known = (try? records.store())?.members.members ?? []
        return known.isEmpty ? founders : known
    }
    /// A start that finds its files damaged discards them. Not a single member's, nor one of two: nobody could help.
    static func canRepair(_ member: MemberID, among members: [ClusterMember]) -> Bool {
        let voters = members.filter { !$0.isLearner }
        return voters.count >= 3 || (!voters.isEmpty && !voters.contains { $0.id == member })
    }
    func discard(_ helpers: [ClusterMember]) {
        repairers = repairers ?? helpers
        disk.removeAll()
        records = StoredRecords()
        isRotten = false
        isPutBack = false
        durableState = LogState(term: 0, vote: nil, commit: 0)
    }
    /// Its records turned out to be damaged while it was at work: it goes on with nothing, online.
    func beginAnew(seed: UInt64, _ now: UInt32) throws {
        repairers = repairers ?? replica.members
        writer.commit(writes.dropFirst(syncing).map(\.batch) + [LogBatch(restart: LogPosition(index: 0, term: 0))], to: disk)
        disk.finish()
        for write in writes { if let state = write.batch.state { durableState = state } }
        writes.removeAll()
        syncing = 0
        restartAfter = nil
        cutBefore = nil
        checkpoints.removeAll()
        reception = nil
        incarnation += 1
        notes.witnesses = replica.witnesses
        durable = 0
        durableAnchor = writer.head.anchor
        records = StoredRecords()
        records.anchor = durableAnchor
        configure(seed: seed, now)
        var state = replica.raft.hardState
        state.commit = 0
        replica = try Replica(configuration, store: Store(), state: state, entries: [])
        published = replica.store.revision
        hashedAt = 0
    }
}
