package import Basics
import FileSealing
package import MVCC
import WriteAheadLog

/// All of the records as of one moment, for another member: rows of the tables, then records in revision order. A thread of its own holds LMDB's
/// read transaction and stays a few pieces ahead of whoever reads; space that is freed meanwhile is not reused until it ends.
package final class RecordSnapshot: Sendable {
    package enum Piece: Sendable {
        case tables([TableWrite])
        /// `nil`: a deletion.
        case records([(version: KeyVersion, value: SealedValue?)])
    }
    private struct State {
        var applied: Result<AppliedState?, StorageFailure>?
        var pieces: [Piece] = []
        var failure: StorageFailure?
        var isAtEnd = false
        var isClosed = false
    }
    private static let piecesAheadMax = 4
    /// About; one large record more.
    private static let pieceBytes = 512 << 10

    /// How far the log is in what is read.
    package let applied: AppliedState
    private let state: Monitor<State>
    private let thread: LaneThread

    init(_ database: Database, _ codec: RecordCodec) throws(StorageFailure) {
        let state = Monitor(State())
        self.state = state
        let producer = Producer(database: database, codec: codec, state: state)
        thread = try LaneThread { producer.run() }
        let found = try state.wait { $0.applied }.get()
        guard let found else {
            state.change { $0.isClosed = true }
            thread.join()
            throw .missingRecord(Revision(0))
        }
        applied = found
    }
    deinit { close() }

    /// The next piece; `nil` at the end. Blocks.
    package func next() throws(StorageFailure) -> Piece? {
        let result: Result<Piece?, StorageFailure> = state.wait { state in
            if !state.pieces.isEmpty { return .success(state.pieces.removeFirst()) }
            if let failure = state.failure { return .failure(failure) }
            if state.isClosed { return .failure(.closed) }
            return state.isAtEnd ? .success(nil) : nil
        }
        // There is room for another.
        state.change { _ in }
        return try result.get()
    }
    /// Lets go of the transaction.
    package func close() {
        state.change { $0.isClosed = true }
        thread.join()
    }

    private final class Producer: @unchecked Sendable {
        private let database: Database
        private let codec: RecordCodec
        private let state: Monitor<State>
        private var rows: [TableWrite] = []
        private var records: [(version: KeyVersion, value: SealedValue?)] = []
        private var bytes = 0

        init(database: Database, codec: RecordCodec, state: Monitor<State>) { self.database = database; self.codec = codec; self.state = state }

        func run() {
            let result: Result<Void, StorageFailure> = database.read { transaction in
                do throws(StorageFailure) {
                    let applied = try RecordLane.appliedState(transaction, database.meta, codec)
                    state.change { $0.applied = .success(applied) }
                    guard applied != nil else { return .success(()) }
                    try readRows(transaction)
                    try readRecords(transaction)
                    return .success(())
                } catch { return .failure(error) }
            }
            state.change { state in
                if case .failure(let failure) = result {
                    state.failure = failure
                    state.applied = state.applied ?? .failure(failure)
                } else { state.isAtEnd = true }
            }
        }
        private func readRows(_ transaction: Database.Transaction) throws(StorageFailure) {
            try unsafe transaction.forEach(database.rows) { key, row throws(StorageFailure) in
                guard let write = unsafe codec.decodeRow(row, rowKey: key) else { throw .damagedTable }
                rows.append(write)
                bytes += write.key.count + (write.value?.count ?? 0)
                return bytes < RecordSnapshot.pieceBytes || handOver()
            }
            _ = handOver()
        }
        private func readRecords(_ transaction: Database.Transaction) throws(StorageFailure) {
            try unsafe transaction.forEach(database.records) { key, row throws(StorageFailure) in
                guard let revision = unsafe RecordCodec.revision(key) else { throw .damagedRecordHeader }
                guard let metadata = unsafe codec.decode(row, key: key, revision: revision), let value = unsafe codec.value(row) else {
                    throw .damagedRecord(revision)
                }
                var sealed: SealedValue?
                if unsafe !value.isEmpty {
                    do { sealed = try SealedValue(parsing: unsafe Bytes(value)) } catch { throw .damagedRecord(revision) }
                }
                records.append((metadata.version, sealed))
                bytes += metadata.version.key.count + value.count + 48
                return bytes < RecordSnapshot.pieceBytes || handOver()
            }
            _ = handOver()
        }
        /// Waits for room. False: nobody reads any more.
        private func handOver() -> Bool {
            let piece: Piece
            if !rows.isEmpty { piece = .tables(rows) } else if !records.isEmpty { piece = .records(records) } else { return true }
            (rows, records, bytes) = ([], [], 0)
            return state.wait { state -> Bool? in
                if state.isClosed { return false }
                return state.pieces.count < RecordSnapshot.piecesAheadMax ? true : nil
            } && state.change { state in
                state.pieces.append(piece)
                return true
            }
        }
    }
}
