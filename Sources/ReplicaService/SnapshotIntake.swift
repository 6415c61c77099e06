import Basics
import FileSealing
import Glibc
import MVCC
import Raft
import Replica
import Storage
import Synchronization

/// A store that another member sent, whole and durable, on its way to the replica.
struct Installation: Sendable {
    var position: EntryPosition
    var store: StoreBox
    var lane: RecordLane
    var directory: String
    /// `nil`: it is in use now.
    var completion: @Sendable (ReplicaError?) -> Void
}

/// A store that is handed from thread to thread. Taken once.
final class StoreBox: @unchecked Sendable {
    private var store: Store?
    init(_ store: consuming Store) { self.store = consume store }
    func take() -> Store? { store.take() }
}

/// What makes record lanes of this member, beside the one in use: `records/incoming-N`, whose file takes the place of the other's.
struct RecordPlaces: Sendable {
    let directory: String
    let fileKey: FileKey
    let keyring: KeyringID
    let member: MemberID
    private static let prefix = "incoming-"
    private static let fileName = "data.mdb"

    init(directory: String, fileKey: FileKey, keyring: KeyringID, member: MemberID) {
        self.directory = directory; self.fileKey = fileKey; self.keyring = keyring; self.member = member
    }

    func open() throws(StorageFailure) -> RecordLane {
        try RecordLane.open(directory: directory, fileKey: fileKey, keyring: keyring, member: member)
    }
    /// An empty one.
    func openNew(_ number: UInt64) throws(StorageFailure) -> (lane: RecordLane, directory: String) {
        let path = directory + "/" + Self.prefix + String(number)
        remove(path)
        return (try RecordLane.open(directory: path, fileKey: fileKey, keyring: keyring, member: member), path)
    }
    /// The file of `path` takes the place of the one in use, which is closed. Durable when it returns.
    func promote(_ path: String) throws(StorageFailure) {
        let files = PosixFileSystem()
        try files.synchronizeDirectory(path)
        try files.rename(path + "/" + Self.fileName, to: directory + "/" + Self.fileName)
        try files.synchronizeDirectory(directory)
    }
    /// What is left of earlier runs.
    func removeLeftovers() {
        let names = (try? PosixFileSystem().names(in: directory)) ?? []
        for name in names where name.hasPrefix(Self.prefix) { remove(directory + "/" + name) }
    }
    /// Best effort: what stays is removed at the next start.
    func remove(_ path: String) {
        let files = PosixFileSystem()
        for name in (try? files.names(in: path)) ?? [] { try? files.remove(path + "/" + name) }
        _ = path.withCString { rmdir($0) }
    }
}

/// Receives one snapshot at a time, on the transport's threads, into a record lane of its own.
///
/// 1. `begin` says how much of it is here already.
/// 2. `receive` takes bytes in order, parses whole blocks and stores them, one after the other.
/// 3. `finish` makes all of them durable, reads the store back from its records, hands it to the replica, and returns when it is in use.
///
/// Nothing of the store in use is touched before that; what an interrupted transfer left is gone on with, or removed.
final class SnapshotIntake: Sendable {
    private struct Reception: Sendable {
        var head: SnapshotHead
        var lane: RecordLane
        var directory: String
        /// All that was taken over.
        var offset: UInt64 = 0
        /// The beginning of a block.
        var rest = Bytes()
        var tables: UInt64 = 0
        var records: UInt64 = 0
        var isComplete = false
    }
    private struct State {
        var reception: Reception?
        /// One call works on it at a time.
        var isBusy = false
        var isClosed = false
        var number: UInt64 = 0
    }
    private let state = Monitor(State())
    private let places: RecordPlaces
    private let install: @Sendable (Installation) -> Void

    init(_ places: RecordPlaces, install: @escaping @Sendable (Installation) -> Void) { self.places = places; self.install = install }

    func begin(_ bytes: Bytes, from member: MemberID, applied: LogIndex) throws(ReplicaError) -> UInt64 {
        let head: SnapshotHead
        do { head = try SnapshotHead(decoding: bytes) } catch { throw .unavailable("the head of the snapshot: \(error)") }
        guard head.from == member else { throw .unavailable("the snapshot names another sender") }
        guard head.position.index > applied else { throw .unavailable("the snapshot is older than what is here") }
        return try exclusively { reception, number throws(ReplicaError) in
            if let present = reception, present.head == head { return present.offset + UInt64(present.rest.count) }
            discard(&reception)
            number += 1
            do {
                let (lane, directory) = try places.openNew(number)
                try lane.deferSyncs()
                reception = Reception(head: head, lane: lane, directory: directory)
            } catch { throw .unavailable("no room for a snapshot: \(error)") }
            return 0
        }
    }

    func receive(_ bytes: Bytes, at offset: UInt64, from member: MemberID) throws(ReplicaError) {
        try exclusively { reception, _ throws(ReplicaError) in
            guard var present = reception, present.head.from == member else { throw .unavailable("no snapshot was begun") }
            guard offset == present.offset + UInt64(present.rest.count), !present.isComplete else { throw .unavailable("not the next bytes of the snapshot") }
            present.rest.append(contentsOf: bytes)
            do throws(ReplicaError) { try Self.take(&present) } catch {
                reception = present
                discard(&reception)
                throw error
            }
            reception = present
        }
    }

    /// Whole blocks.
    private static func take(_ reception: inout Reception) throws(ReplicaError) {
        var at = 0
        while reception.rest.count - at >= SnapshotBlock.prefixBytes {
            var length = 0
            for byte in reception.rest[at..<at + SnapshotBlock.prefixBytes] { length = length << 8 | Int(byte) }
            guard length <= SnapshotBlock.bytesMax else { throw .unavailable("a block of \(length) bytes") }
            guard reception.rest.count - at - SnapshotBlock.prefixBytes >= length else { break }
            let begin = at + SnapshotBlock.prefixBytes
            let block: SnapshotBlock
            do { block = try SnapshotBlock(decoding: reception.rest[begin..<begin + length]) } catch { throw .unavailable("a block: \(error)") }
            guard !reception.isComplete else { throw .unavailable("bytes after the end of the snapshot") }
            switch block {
            case .tables(let rows):
                reception.tables += UInt64(rows.count)
                try store(RecordBatch(applied: 0, tables: rows), in: reception.lane)
            case .records(let records):
                reception.records += UInt64(records.count)
                try store(RecordBatch(applied: 0, records: records.map(\.record)), in: reception.lane)
            case .end(let tables, let records):
                guard tables == reception.tables, records == reception.records else { throw .unavailable("the snapshot is not whole") }
                reception.isComplete = true
            }
            at = begin + length
        }
        reception.rest.removeFirst(at)
        reception.offset += UInt64(at)
    }

    static func store(_ batch: RecordBatch, in lane: RecordLane) throws(ReplicaError) {
        let done = Monitor<Result<LogIndex, StorageFailure>?>(nil)
        lane.commit(batch) { result in done.change { $0 = result } }
        lane.flush()
        do { _ = try done.wait { $0 }.get() } catch { throw .unavailable("storing the snapshot: \(error)") }
    }

    func finish(from member: MemberID) throws(ReplicaError) {
        let outcome = Monitor<ReplicaError??>(nil)
        try exclusively { reception, _ throws(ReplicaError) in
            guard let present = reception, present.head.from == member, present.isComplete else { throw .unavailable("the snapshot is not whole") }
            var store = Store()
            do {
                try present.lane.synchronize()
                _ = try present.lane.restore(record: { try store.restore($0) }, table: { try store.restore(table: $0) })
                try store.finishRestore(appliedIndex: present.head.position.index)
            } catch {
                discard(&reception)
                throw .unavailable("the snapshot does not make a store: \(error)")
            }
            reception = nil
            install(Installation(position: present.head.position, store: StoreBox(store), lane: present.lane, directory: present.directory) { error in
                outcome.change { $0 = .some(error) }
            })
        }
        if let error = outcome.wait({ $0 }) { throw error }
    }

    /// Of one reception, and of none that is over: what it left is removed.
    func close() {
        state.change { $0.isClosed = true }
        _ = try? exclusively(evenClosed: true) { reception, _ throws(ReplicaError) in discard(&reception) }
    }

    private func discard(_ reception: inout Reception?) {
        guard let old = reception else { return }
        old.lane.close()
        places.remove(old.directory)
        reception = nil
    }
    private func exclusively<R>(
        evenClosed: Bool = false, _ body: (inout Reception?, inout UInt64) throws(ReplicaError) -> R
    ) throws(ReplicaError) -> R {
        let taken: (Reception?, UInt64)? = state.wait { state -> (Reception?, UInt64)?? in
            if state.isBusy { return nil }
            if state.isClosed, !evenClosed { return .some(nil) }
            state.isBusy = true
            return .some((state.reception, state.number))
        }
        guard var (reception, number) = taken else { throw .unavailable("the store is closed") }
        defer {
            state.change { state in
                state.reception = reception
                state.number = number
                state.isBusy = false
            }
        }
        return try body(&reception, &number)
    }
}
