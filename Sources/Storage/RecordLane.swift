package import Basics
package import FileSealing
package import MVCC
package import WriteAheadLog

/// What becomes durable in one transaction, in this order: the records of all `batches`, `removed`, `tables`, and how far the log has been applied.
package struct RecordBatch: Sendable {
    package var applied: LogIndex
    package var appliedTerm: Term
    /// The log's last frame when this was applied; `nil` leaves the one stored before.
    package var anchor: LogAnchor?
    package var batches: [[Record]]
    package var removed: [Revision]
    package var tables: [TableWrite]
    package init(
        applied: LogIndex, appliedTerm: Term = 0, anchor: LogAnchor? = nil, batches: [[Record]], removed: [Revision] = [], tables: [TableWrite] = []
    ) {
        self.applied = applied; self.appliedTerm = appliedTerm; self.anchor = anchor
        self.batches = batches; self.removed = removed; self.tables = tables
    }
    package init(
        applied: LogIndex, appliedTerm: Term = 0, anchor: LogAnchor? = nil, records: [Record] = [], removed: [Revision] = [], tables: [TableWrite] = []
    ) {
        self.init(applied: applied, appliedTerm: appliedTerm, anchor: anchor, batches: records.isEmpty ? [] : [records], removed: removed, tables: tables)
    }
    var changes: Int { batches.reduce(removed.count + tables.count) { $0 + $1.count } }
}

/// How far the records have come.
package struct AppliedState: Hashable, Sendable {
    /// Everything up to here is in the records.
    package var applied: LogIndex
    package var appliedTerm: Term
    /// The log must hold this frame, or have been cut behind it.
    package var anchor: LogAnchor?
    package init(applied: LogIndex, appliedTerm: Term, anchor: LogAnchor?) {
        self.applied = applied; self.appliedTerm = appliedTerm; self.anchor = anchor
    }
}

/// The records on disk: revision → metadata and sealed value, the store's tables, and how far the log is in them.
///
/// 1. `commit` queues a batch, from any thread.
/// 2. The record thread takes all that waits about every `intervalNanoseconds` (at once when asked to flush, or when much
///    waits) and stores it in one synced transaction, with the applied index and the log's anchor.
/// 3. Completions run on that thread; from then on the records can be read. Until then whoever committed serves them.
///
/// Invariants: what is in the records and the applied index always agree. With no space left the batches are kept and tried
/// again; any other failure is final, and every completion gets it.
package final class RecordLane: Sendable {
    package struct Options: Sendable {
        /// Address space, and so the greatest size of the file.
        package var mapBytes = 1 << 40
        package var intervalNanoseconds: UInt64 = 100_000_000
        /// Changes that do not wait for the interval.
        package var changesWaitingMax = 16_384
        package init() {}
    }
    package typealias Completion = @Sendable (Result<LogIndex, StorageFailure>) -> Void

    private struct Order: Sendable {
        var batch: RecordBatch
        var completion: Completion
    }
    private struct Inbox {
        var orders: [Order] = []
        var changesWaiting = 0
        var isUrgent = false
        var isClosing = false
        var isFull = false
        var failure: StorageFailure?
    }
    private let inbox: Monitor<Inbox>
    private let database: Database
    private let codecs: CodecPool
    private let thread: LaneThread
    private let lock: any StoredFile

    /// Opens or creates the records in `directory`, which belong to this keyring, member and file key alone.
    package static func open(
        directory: String, fileKey: FileKey, keyring: KeyringID, member: MemberID, options: Options = Options()
    ) throws(StorageFailure) -> RecordLane {
        let fileSystem = PosixFileSystem()
        try fileSystem.makeDirectory(directory)
        let lock = try fileSystem.lock(directory + "/lock")
        do throws(StorageFailure) {
            let database = try Database(directory: directory, mapBytes: options.mapBytes)
            try fileSystem.synchronizeDirectory(directory) // LMDB syncs what it writes, and not the name of its file
            let codecs = CodecPool(fileKey: fileKey, keyring: keyring, member: member)
            let records = try RecordThread(database, codecs.take())
            return try RecordLane(database, codecs, records, lock, options)
        } catch {
            lock.close()
            throw error
        }
    }
    private init(_ database: Database, _ codecs: CodecPool, _ records: RecordThread, _ lock: any StoredFile, _ options: Options) throws(StorageFailure) {
        let inbox = Monitor(Inbox())
        self.inbox = inbox
        self.database = database
        self.codecs = codecs
        self.lock = lock
        thread = try LaneThread(background: true) {
            while let orders = Self.take(from: inbox, options) { Self.carryOut(orders, records, inbox) }
        }
    }
    deinit { close() }

    // MARK: Writing

    package func commit(_ batch: RecordBatch, completion: @escaping Completion) {
        let refusal: StorageFailure? = inbox.change { inbox in
            if let failure = inbox.failure { return failure }
            if inbox.isClosing { return .closed }
            inbox.orders.append(Order(batch: batch, completion: completion))
            inbox.changesWaiting += batch.changes
            return nil
        }
        if let refusal { completion(.failure(refusal)) }
    }
    /// Asks for what waits to be stored now. The completions tell when it is.
    package func flush() { inbox.change { $0.isUrgent = true } }
    /// Whether the disk had no room at the last attempt.
    package var isFull: Bool { inbox.withLock { $0.isFull } }

    /// Stores what waits, then lets go of threads and files; waits for reads under way. Not to be called from a completion.
    package func close() {
        let first = inbox.change { inbox in
            defer { inbox.isClosing = true }
            return !inbox.isClosing
        }
        guard first else { return }
        thread.join()
        database.close()
        lock.close()
    }

    /// What waits, when it is time; `nil` when there is nothing and the lane is closing.
    private static func take(from inbox: Monitor<Inbox>, _ options: Options) -> [Order]? {
        let isWorkThere = inbox.wait { inbox -> Bool? in
            if !inbox.orders.isEmpty { return true }
            inbox.isUrgent = false
            return inbox.isClosing ? false : nil
        }
        guard isWorkThere else { return nil }
        _ = inbox.wait(until: monotonicNanoseconds() + options.intervalNanoseconds) { inbox -> Bool? in
            // On a full disk only time helps, not haste; but closing does not wait.
            let hastens = inbox.isUrgent || inbox.changesWaiting >= options.changesWaitingMax
            return inbox.isClosing || (hastens && !inbox.isFull) ? true : nil
        }
        return inbox.withLock { inbox in
            inbox.isUrgent = false
            inbox.changesWaiting = 0
            var orders: [Order] = []
            swap(&orders, &inbox.orders)
            return orders
        }
    }
    private static func carryOut(_ orders: [Order], _ records: RecordThread, _ inbox: Monitor<Inbox>) {
        do throws(StorageFailure) {
            let applied = try records.store(orders.map(\.batch))
            inbox.withLock { $0.isFull = false }
            for order in orders { order.completion(.success(applied)) }
        } catch {
            let isKept = inbox.withLock { inbox in
                inbox.isFull = error.isFull
                guard error.isFull, !inbox.isClosing else { return false }
                inbox.orders.insert(contentsOf: orders, at: 0)
                return true
            }
            if isKept { return }
            let late = inbox.withLock { inbox in
                inbox.failure = error
                defer { inbox.orders = [] }
                return inbox.orders
            }
            for order in orders + late { order.completion(.failure(error)) }
        }
    }

    /// Until `synchronize` commits are not durable: of records that are of no use before they are whole. Call both while nothing waits to be stored.
    package func deferSyncs() throws(StorageFailure) { try database.deferSyncs() }
    package func synchronize() throws(StorageFailure) { try database.synchronize() }

    // MARK: Reading

    /// The sealed value stored at a revision; `nil` when there is none, or a deletion. Callable from any thread.
    package func read(_ revision: Revision) throws(StorageFailure) -> SealedValue? {
        try read([revision])[0]
    }
    /// The same for many, of one state of the store.
    package func read(_ revisions: [Revision]) throws(StorageFailure) -> [SealedValue?] {
        let codec = codecs.take()
        defer { codecs.give(codec) }
        let records = database.records
        return try database.read { transaction in
            do throws(StorageFailure) {
                var values: [SealedValue?] = []
                values.reserveCapacity(revisions.count)
                for revision in revisions {
                    let key = RecordCodec.key(revision)
                    values.append(try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in
                        guard let row = try unsafe transaction.get(records, key) else { return nil }
                        guard let value = unsafe codec.value(row), unsafe codec.verify(row, key: key, value: value) else { throw .damagedRecord(revision) }
                        if unsafe value.isEmpty { return nil }
                        do { return try SealedValue(parsing: unsafe Bytes(value)) } catch { throw .damagedRecord(revision) }
                    })
                }
                return .success(values)
            } catch {
                return .failure(error)
            }
        }.get()
    }

    /// How far the log is in the records; `nil` in new ones.
    package func appliedState() throws(StorageFailure) -> AppliedState? {
        let codec = codecs.take()
        defer { codecs.give(codec) }
        return try database.read { transaction in
            do throws(StorageFailure) { return .success(try RecordThread.state(transaction, database.meta, codec)) } catch { return .failure(error) }
        }.get()
    }

    /// Visits every record's metadata in revision order, then every row of the tables (in no order), and says how far the log
    /// is in them. Values are not read. Throws what a visitor throws, or `StorageFailure`.
    package func restore(record: (RecordMetadata) throws -> Void, table: (TableWrite) throws -> Void) throws -> AppliedState? {
        let codec = codecs.take()
        defer { codecs.give(codec) }
        var visitorError: (any Error)?
        let state: Result<AppliedState?, StorageFailure> = database.read { transaction in
            do throws(StorageFailure) {
                try unsafe transaction.forEach(database.records) { key, row throws(StorageFailure) in
                    guard let revision = unsafe RecordCodec.revision(key) else { throw .damagedRecordHeader }
                    guard let metadata = unsafe codec.decode(row, key: key, revision: revision) else { throw .damagedRecord(revision) }
                    do { try record(metadata) } catch { visitorError = error }
                    return visitorError == nil
                }
                guard visitorError == nil else { return .success(nil) }
                try unsafe transaction.forEach(database.rows) { key, row throws(StorageFailure) in
                    guard let write = unsafe codec.decodeRow(row, rowKey: key) else { throw .damagedTable }
                    do { try table(write) } catch { visitorError = error }
                    return visitorError == nil
                }
                return .success(try RecordThread.state(transaction, database.meta, codec))
            } catch {
                return .failure(error)
            }
        }
        if let visitorError { throw visitorError }
        return try state.get()
    }

    /// All of it as of now, to be read at leisure on another thread. It must be closed before the lane is.
    package func snapshot() throws(StorageFailure) -> RecordSnapshot { try RecordSnapshot(database, codecs.take()) }
    static func appliedState(
        _ transaction: Database.Transaction, _ meta: Database.Table, _ codec: RecordCodec
    ) throws(StorageFailure) -> AppliedState? { try RecordThread.state(transaction, meta, codec) }

    package func statistics() throws(StorageFailure) -> RecordStatistics { try database.statistics() }
}

/// Codecs keep buffers, so each serves one thread at a time.
private final class CodecPool: @unchecked Sendable {
    private let idle = Monitor<[RecordCodec]>([])
    private let fileKey: FileKey
    private let keyring: KeyringID
    private let member: MemberID
    init(fileKey: FileKey, keyring: KeyringID, member: MemberID) { self.fileKey = fileKey; self.keyring = keyring; self.member = member }
    func take() -> RecordCodec {
        idle.change { $0.popLast() } ?? RecordCodec(fileKey: fileKey, keyring: keyring, member: member)
    }
    func give(_ codec: RecordCodec) { idle.change { $0.append(codec) } }
}

/// What the record thread owns: the only writer.
private final class RecordThread: @unchecked Sendable {
    private let database: Database
    private let codec: RecordCodec
    private var state: AppliedState
    /// The greatest in the table; a greater one is appended, at the table's end.
    private var lastRevision: Revision?
    /// A sealed value on its way from one record to another.
    private let copied = FrameBuffer()

    init(_ database: Database, _ codec: RecordCodec) throws(StorageFailure) {
        self.database = database
        self.codec = codec
        var stored: AppliedState?
        var last: Revision?
        try database.write { transaction throws(StorageFailure) in
            try Self.claim(transaction, database.meta, codec)
            stored = try Self.state(transaction, database.meta, codec)
            try unsafe transaction.lastKey(database.records) { last = unsafe RecordCodec.revision($0) }
        }
        state = stored ?? AppliedState(applied: 0, appliedTerm: 0, anchor: nil)
        lastRevision = last
    }

    /// Writes the description of format and owner into a new database, or checks the one there.
    private static func claim(_ transaction: Database.Transaction, _ meta: Database.Table, _ codec: RecordCodec) throws(StorageFailure) {
        let key = RecordCodec.formatKey
        let isNew = try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in
            guard let row = try unsafe transaction.get(meta, key) else { return true }
            try unsafe codec.checkFormat(row)
            return false
        }
        if isNew { try put(transaction, meta, key, codec.encodeFormat()) }
    }
    static func state(_ transaction: Database.Transaction, _ meta: Database.Table, _ codec: RecordCodec) throws(StorageFailure) -> AppliedState? {
        let key = RecordCodec.stateKey
        return try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in
            guard let row = try unsafe transaction.get(meta, key) else { return nil }
            guard let state = unsafe codec.decodeState(row) else { throw .damagedTable }
            return state
        }
    }
    private static func put(_ transaction: Database.Transaction, _ table: Database.Table, _ key: Bytes, _ value: Bytes) throws(StorageFailure) {
        try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in
            try unsafe value.span.withUnsafeBytes { value throws(StorageFailure) in try unsafe transaction.put(table, key, value) }
        }
    }

    /// All of the batches, or none. Returns the applied index that is durable now.
    func store(_ batches: [RecordBatch]) throws(StorageFailure) -> LogIndex {
        var newState = state, newLast = lastRevision
        try database.write { transaction throws(StorageFailure) in
            for batch in batches {
                precondition(batch.applied >= newState.applied, "the applied index never goes back")
                // Borrowed one after the other: their values are not to be retained and let go of again.
                for records in batch.batches {
                    let records = records.span
                    for position in records.indices { try store(records[position], &newLast, transaction) }
                }
                for revision in batch.removed {
                    let key = RecordCodec.key(revision)
                    try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in try unsafe transaction.delete(database.records, key) }
                }
                for write in batch.tables { try store(write, transaction) }
                newState = AppliedState(
                    applied: batch.applied, appliedTerm: batch.appliedTerm == 0 ? newState.appliedTerm : batch.appliedTerm,
                    anchor: batch.anchor ?? newState.anchor)
            }
            try Self.put(transaction, database.meta, RecordCodec.stateKey, codec.encode(newState))
        }
        (state, lastRevision) = (newState, newLast)
        return newState.applied
    }

    private func store(_ record: borrowing Record, _ last: inout Revision?, _ transaction: Database.Transaction) throws(StorageFailure) {
        switch record.value {
        case .tombstone: try unsafe store(record.version, UnsafeRawBufferPointer(start: nil, count: 0), &last, transaction)
        case .copy(let source):
            try copyValue(of: source, transaction)
            try unsafe store(record.version, copied.bytes, &last, transaction)
        case .sealed(let value):
            try unsafe value.bytes.span.withUnsafeBytes { value throws(StorageFailure) in
                try unsafe store(record.version, value, &last, transaction)
            }
        }
    }
    private func store(
        _ version: borrowing KeyVersion, _ value: UnsafeRawBufferPointer, _ last: inout Revision?, _ transaction: Database.Transaction
    ) throws(StorageFailure) {
        let appends = last.map { $0 < version.revision } ?? true
        let key = RecordCodec.key(version.revision)
        try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in
            let size = codec.size(of: version, valueBytes: value.count)
            let target = try unsafe transaction.reserve(database.records, key, bytes: size, appends: appends)
            unsafe codec.encode(version, key: key, value: value, into: target)
        }
        if appends { last = version.revision }
    }
    /// Out of the map, since the next write moves pages.
    private func copyValue(of source: Revision, _ transaction: Database.Transaction) throws(StorageFailure) {
        let key = RecordCodec.key(source)
        try unsafe key.span.withUnsafeBytes { key throws(StorageFailure) in
            guard let row = try unsafe transaction.get(database.records, key) else { throw .missingRecord(source) }
            guard let value = unsafe codec.value(row), unsafe !value.isEmpty,
                  unsafe codec.verify(row, key: key, value: value) else { throw .damagedRecord(source) }
            copied.removeAll()
            unsafe copied.append(value)
        }
    }
    private func store(_ write: TableWrite, _ transaction: Database.Transaction) throws(StorageFailure) {
        let rowKey = codec.rowKey(write)
        if let value = write.value {
            try Self.put(transaction, database.rows, rowKey, codec.encode(write, value: value, rowKey: rowKey))
        } else {
            try unsafe rowKey.span.withUnsafeBytes { key throws(StorageFailure) in try unsafe transaction.delete(database.rows, key) }
        }
    }
}
