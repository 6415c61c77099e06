import CLMDB
import Glibc

/// An LMDB environment with our three tables in it. Checked with Debian's 0.9.24.
///
/// One writer (the record thread), any number of readers. Read transactions are kept and renewed (`MDB_NOTLS` lets them move
/// between threads); every commit is synced before it returns.
///
/// Invariant: pointers into the map are used only within the transaction they came from.
@safe final class Database: @unchecked Sendable {
    struct Table: Sendable { fileprivate var handle: MDB_dbi }
    private let environment: OpaquePointer
    let records: Table
    /// Rows of MVCC's tables.
    let rows: Table
    /// The description of format and owner, and the applied state.
    let meta: Table
    let mapBytes: Int
    private let readers = Monitor(Readers())

    @safe private struct Readers {
        var idle: [OpaquePointer] = unsafe []
        var active = 0
        var isClosed = false
    }
    static let tableNames = ["records", "rows", "meta"]
    /// Tables that fit: three, and one to come.
    private static let tablesMax: UInt32 = 4
    /// Threads that read at one time.
    private static let readersMax: UInt32 = 512
    private static let mapBytesMin = 1 << 30

    /// `mapBytes` of address space, or half of it, and so on, where the machine does not give that much.
    init(directory: String, mapBytes: Int) throws(StorageFailure) {
        try PageVerification.check(path: directory + "/data.mdb")
        var size = max(mapBytes, 1 << 20)
        var opened = unsafe Self.open(directory, size)
        while case .failure(.database(_, ENOMEM)) = unsafe opened, size > Self.mapBytesMin {
            size /= 2
            unsafe opened = unsafe Self.open(directory, size)
        }
        let environment = try unsafe opened.get()
        do throws(StorageFailure) {
            var dead: Int32 = 0
            try unsafe check(mdb_reader_check(environment, &dead), "reader check")
            try unsafe Self.checkLength(environment)
            var transaction: OpaquePointer?
            try unsafe check(mdb_txn_begin(environment, nil, 0, &transaction), "begin")
            var handles: [MDB_dbi] = []
            for name in Self.tableNames {
                var handle: MDB_dbi = 0
                let status = unsafe mdb_dbi_open(transaction, name, UInt32(MDB_CREATE), &handle)
                if status != 0 { unsafe mdb_txn_abort(transaction) }
                try check(status, "open table")
                handles.append(handle)
            }
            try unsafe check(mdb_txn_commit(transaction), "commit")
            unsafe self.environment = environment
            self.mapBytes = size
            (records, rows, meta) = (Table(handle: handles[0]), Table(handle: handles[1]), Table(handle: handles[2]))
        } catch {
            unsafe mdb_env_close(environment)
            throw error
        }
    }
    deinit { close() }

    /// Waits for readers. The writer must have finished; whoever reads afterwards gets `.closed`.
    func close() {
        let isFirst = readers.change { readers in
            defer { readers.isClosed = true }
            return !readers.isClosed
        }
        guard isFirst else { return }
        readers.wait { $0.active == 0 ? () : nil }
        for unsafe reader in unsafe readers.withLock({ unsafe $0.idle }) { unsafe mdb_txn_abort(reader) }
        unsafe mdb_env_close(environment)
    }

    private static func open(_ directory: String, _ mapBytes: Int) -> Result<OpaquePointer, StorageFailure> {
        var created: OpaquePointer?
        guard unsafe mdb_env_create(&created) == 0, let environment = unsafe created else {
            return unsafe .failure(.database(operation: "create", code: ENOMEM))
        }
        var status = unsafe mdb_env_set_mapsize(environment, mapBytes)
        if status == 0 { status = unsafe mdb_env_set_maxdbs(environment, tablesMax) }
        if status == 0 { status = unsafe mdb_env_set_maxreaders(environment, readersMax) }
        if status == 0 { status = unsafe mdb_env_open(environment, directory, UInt32(MDB_NOTLS | MDB_NORDAHEAD), 0o600) }
        do throws(StorageFailure) {
            try check(status, "open")
            return unsafe .success(environment)
        } catch {
            unsafe mdb_env_close(environment)
            return unsafe .failure(error)
        }
    }
    /// `PageVerification` saw to it that what LMDB reads lies in the file, unless that was shorter than its two first pages: LMDB makes them, or
    /// refuses the file, or is content with a part of the second.
    private static func checkLength(_ environment: OpaquePointer) throws(StorageFailure) {
        var statistics = MDB_stat()
        var descriptor: mdb_filehandle_t = -1
        var file = stat()
        try unsafe check(mdb_env_stat(environment, &statistics), "stat")
        try unsafe check(mdb_env_get_fd(environment, &descriptor), "descriptor")
        guard unsafe fstat(descriptor, &file) == 0 else { throw .posix("fstat") }
        guard file.st_size >= 2 * Int(statistics.ms_psize) else { throw .truncatedRecords }
    }

    /// Between these two nothing is synced, and a crash may leave a file that does not open: for one that is of no use before it is whole.
    /// Not while something is being written.
    func deferSyncs() throws(StorageFailure) { try unsafe check(mdb_env_set_flags(environment, UInt32(MDB_NOSYNC), 1), "set flags") }
    func synchronize() throws(StorageFailure) {
        try unsafe check(mdb_env_set_flags(environment, UInt32(MDB_NOSYNC), 0), "set flags")
        try unsafe check(mdb_env_sync(environment, 1), "sync")
    }

    // MARK: Transactions

    /// Commits what `body` did, or undoes all of it when it throws. One at a time.
    func write(_ body: (Transaction) throws(StorageFailure) -> Void) throws(StorageFailure) {
        var begun: OpaquePointer?
        try unsafe check(mdb_txn_begin(environment, nil, 0, &begun), "begin")
        let transaction = unsafe Transaction(begun)
        do throws(StorageFailure) {
            try body(transaction)
        } catch {
            unsafe mdb_txn_abort(begun)
            throw error
        }
        try unsafe check(mdb_txn_commit(begun), "commit")
    }

    /// Reads one state of everything. Pointers must not leave `body`.
    func read<R, E: Error>(_ body: (Transaction) throws(E) -> Result<R, StorageFailure>) throws(E) -> Result<R, StorageFailure> {
        let reader: OpaquePointer
        switch unsafe acquireReader() {
        case .success(let acquired): unsafe reader = unsafe acquired
        case .failure(let failure): return .failure(failure)
        }
        defer {
            unsafe mdb_txn_reset(reader)
            readers.change { readers in
                unsafe readers.idle.append(reader)
                readers.active -= 1
            }
        }
        return try body(unsafe Transaction(reader))
    }
    private func acquireReader() -> Result<OpaquePointer, StorageFailure> {
        var idle: OpaquePointer?
        let isOpen = readers.withLock { readers in
            guard !readers.isClosed else { return false }
            unsafe idle = readers.idle.popLast()
            readers.active += 1
            return true
        }
        guard isOpen else { return unsafe .failure(.closed) }
        var status: Int32
        if let kept = unsafe idle {
            status = unsafe mdb_txn_renew(kept)
            if status != 0 { unsafe mdb_txn_abort(kept) }
        } else {
            status = unsafe mdb_txn_begin(environment, nil, UInt32(MDB_RDONLY), &idle)
        }
        if status == 0, let reader = unsafe idle { return unsafe .success(reader) }
        readers.change { $0.active -= 1 }
        return unsafe .failure(.database(operation: "read", code: status))
    }

    func statistics() throws(StorageFailure) -> RecordStatistics {
        try read { transaction in
            do throws(StorageFailure) { return .success(try measure(transaction)) } catch { return .failure(error) }
        }.get()
    }
    private func measure(_ transaction: Transaction) throws(StorageFailure) -> RecordStatistics {
        var info = unsafe MDB_envinfo(), statistics = MDB_stat()
        try unsafe check(mdb_env_info(environment, &info), "info")
        try unsafe check(mdb_stat(transaction.pointer, records.handle, &statistics), "stat")
        var pagesFree = 0
        // The free list is table 0: per transaction, a count and that many page numbers.
        try unsafe transaction.forEach(Table(handle: 0)) { _, value in
            if value.count >= MemoryLayout<UInt>.size { pagesFree += unsafe Int(truncatingIfNeeded: value.loadUnaligned(as: UInt.self)) }
            return true
        }
        let pages = unsafe info.me_last_pgno + 1, pageBytes = Int(statistics.ms_psize)
        return RecordStatistics(
            fileBytes: pages * pageBytes, bytesInUse: max(0, pages - pagesFree) * pageBytes, records: statistics.ms_entries, mapBytes: mapBytes)
    }

    /// Operations within a transaction.
    @safe struct Transaction {
        fileprivate let pointer: OpaquePointer?
        fileprivate init(_ pointer: OpaquePointer?) { unsafe self.pointer = unsafe pointer }

        func get(_ table: Table, _ key: UnsafeRawBufferPointer) throws(StorageFailure) -> UnsafeRawBufferPointer? {
            var keyValue = unsafe MDB_val(key), value = unsafe MDB_val()
            let status = unsafe mdb_get(pointer, table.handle, &keyValue, &value)
            if status == MDB_NOTFOUND { return nil }
            try check(status, "get")
            return unsafe UnsafeRawBufferPointer(value)
        }
        /// Room for a value, to be filled before anything else is done. `appends`: the key is greater than all in the table.
        func reserve(_ table: Table, _ key: UnsafeRawBufferPointer, bytes: Int, appends: Bool = false) throws(StorageFailure) -> UnsafeMutableRawBufferPointer {
            var keyValue = unsafe MDB_val(key), value = unsafe MDB_val(mv_size: bytes, mv_data: nil)
            try unsafe check(mdb_put(pointer, table.handle, &keyValue, &value, UInt32(MDB_RESERVE | (appends ? MDB_APPEND : 0))), "put")
            return unsafe UnsafeMutableRawBufferPointer(start: value.mv_data, count: bytes)
        }
        func put(_ table: Table, _ key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) throws(StorageFailure) {
            let target = try unsafe reserve(table, key, bytes: bytes.count)
            unsafe target.copyMemory(from: bytes)
        }
        /// Does nothing when there is no such key.
        func delete(_ table: Table, _ key: UnsafeRawBufferPointer) throws(StorageFailure) {
            var keyValue = unsafe MDB_val(key)
            let status = unsafe mdb_del(pointer, table.handle, &keyValue, nil)
            if status != MDB_NOTFOUND { try check(status, "delete") }
        }
        /// In order of keys, until `body` says no more.
        func forEach(_ table: Table, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) throws(StorageFailure) -> Bool) throws(StorageFailure) {
            try unsafe walk(table, MDB_FIRST, MDB_NEXT, body)
        }
        func lastKey(_ table: Table, _ body: (UnsafeRawBufferPointer) -> Void) throws(StorageFailure) {
            try unsafe walk(table, MDB_LAST, MDB_PREV) { (key, _) throws(StorageFailure) in
                unsafe body(key)
                return false
            }
        }
        private func walk(
            _ table: Table, _ first: MDB_cursor_op, _ next: MDB_cursor_op,
            _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) throws(StorageFailure) -> Bool
        ) throws(StorageFailure) {
            var cursor: OpaquePointer?
            try unsafe check(mdb_cursor_open(pointer, table.handle, &cursor), "cursor")
            defer { unsafe mdb_cursor_close(cursor) }
            var key = unsafe MDB_val(), value = unsafe MDB_val()
            var status = unsafe mdb_cursor_get(cursor, &key, &value, first)
            while status == 0 {
                guard try unsafe body(UnsafeRawBufferPointer(key), UnsafeRawBufferPointer(value)) else { return }
                status = unsafe mdb_cursor_get(cursor, &key, &value, next)
            }
            if status != MDB_NOTFOUND { try check(status, "cursor") }
        }
    }
}

package struct RecordStatistics: Hashable, Sendable {
    /// Of the file, used or free.
    package var fileBytes: Int
    /// Without pages that are free for new records.
    package var bytesInUse: Int
    package var records: Int
    /// Address space set aside: the greatest size of the file.
    package var mapBytes: Int
}

/// LMDB's answer as ours.
private func check(_ status: Int32, _ operation: String) throws(StorageFailure) {
    switch status {
    case MDB_SUCCESS: return
    case MDB_MAP_FULL, ENOSPC, EDQUOT: throw .full(operation: operation)
    default: throw .database(operation: operation, code: status)
    }
}
extension MDB_val {
    fileprivate init(_ bytes: UnsafeRawBufferPointer) {
        unsafe self.init(mv_size: bytes.count, mv_data: UnsafeMutableRawPointer(mutating: bytes.baseAddress))
    }
}
extension UnsafeRawBufferPointer {
    fileprivate init(_ value: MDB_val) { unsafe self.init(start: value.mv_data, count: value.mv_size) }
}
