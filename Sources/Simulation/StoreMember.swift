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
    /// Its clock: so many thousandths of ours, and ahead by so much.
    let clockRate: Int64
    let clockOffset: Int64
    var configuration: Replica.Configuration

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
    var pausedUntil: UInt32 = 0
    var incarnation: Int32 = 0
    var failsNextSync = false
    var buffer = EffectBuffer()

    init(number: Int, founders: [ClusterMember], keyring: KeyringID, key: FileKey, chance: inout Chance, tuning: (inout Replica.Configuration) -> Void) throws {
        self.number = number
        id = MemberID(UInt64(number + 1))
        identity = LogIdentity(keyring: keyring, member: id)
        cipher = SealedFrames(key: key)
        disk = SectorDisk(segmentBytes: chance.pick([2_048, 8_192, 32_768]), forbidden: [Secrecy.canary, Secrecy.keyMarker])
        frameBytesMax = chance.pick([1_024, 1_536, 8_192])
        tickEvery = chance.among(85...115)
        clockRate = Int64(chance.among(980...1_020))
        clockOffset = Int64(chance.below(100_000))
        var configuration = Replica.Configuration(raft: Raft.Configuration(member: id, voters: founders.map(\.id), seed: chance.next()))
        configuration.founders = founders
        tuning(&configuration)
        self.configuration = configuration
        replica = try Replica(configuration, store: Store(), state: HardState(), entries: [])
        writer = LogWriter(continuing: RecoveredLog(), identity: identity, cipher: cipher, segmentBytes: disk.segmentBytes, frameBytesMax: frameBytesMax)
    }

    func clock(_ now: UInt32) -> Int64 { clockOffset + Int64(now) * clockRate / 1_000 }

    /// Power is cut: memory is gone.
    func forget() {
        writes.removeAll()
        syncing = 0
        restartAfter = nil
        cutBefore = nil
        checkpoints.removeAll()
        _ = buffer.take()
        isUp = false
        failsNextSync = false
        pausedUntil = 0
        incarnation += 1
    }

    /// Starts again from what the disk and the records hold. Returns the objection, if the log is not what it was.
    func restart(seed: UInt64) throws -> String? {
        var recovery = LogRecovery(identity: identity, anchor: records.anchor, cipher: cipher)
        for segment in disk.segments { segment.bytes.withUnsafeBytes { recovery.read(segment: segment.id, $0) } }
        let log = recovery.finish()
        if let damage = log.damage {
            guard damage.isTornTail else { return damage.description }
            disk.cutOff(from: damage.segment, offset: damage.offset, keeping: log.segments.last?.id ?? 0)
        }
        writer = LogWriter(continuing: log, identity: identity, cipher: cipher, segmentBytes: disk.segmentBytes, frameBytesMax: frameBytesMax)
        configuration.raft.seed = seed
        configuration.incarnation = UInt64(incarnation) + 1
        let state = log.state.map { HardState(term: $0.term, vote: $0.vote, commit: $0.commit) } ?? HardState()
        guard state.term > durableState.term || (state.term == durableState.term && state.vote == durableState.vote) else {
            return "the log was in term \(durableState.term), and knows of term \(state.term)"
        }
        let entries = log.entries.map { Entry(index: $0.index, term: $0.term, kind: $0.isMembership ? .membership : .ordinary, payload: $0.payload) }
        let beginning = log.beginning.map { EntryPosition(index: $0.index, term: $0.term) }
        replica = try Replica(configuration, store: try records.store(), state: state, entries: entries, beginning: beginning)
        durable = entries.last?.index ?? beginning?.index ?? 0
        durableAnchor = log.lastFrame.sequence == 0 ? nil : log.lastFrame
        published = replica.store.revision
        return nil
    }
}
