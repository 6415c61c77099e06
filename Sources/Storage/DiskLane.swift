package import Basics
package import FileSealing
package import WriteAheadLog

/// The write-ahead log on disk. One thread of its own gathers the batches that wait, writes them with one `pwrite`, makes them
/// durable with one `fdatasync`, and calls their completions, in the order of `append`.
///
/// 1. `append` queues, from any thread, and wakes the log thread.
/// 2. The log thread takes all that waits; `LogWriter` makes frames of it.
/// 3. When a segment is full, the next one, filled with zeros beforehand, takes over.
/// 4. Completions run on the log thread: they must be short and must not block.
/// 5. Notes (`keep`) go with the next batch, or by themselves when someone asks for them (`flushNotes`).
///
/// Invariants:
/// - A completion succeeds only after its batch is durable, and after those of all earlier batches.
/// - After an error of a write or a sync nothing succeeds any more. The operation is not tried again: the kernel may have
///   dropped the dirty pages and would report success.
package final class DiskLane: Sendable {
    package struct Options: Sendable {
        package var segmentBytes = Limits.logSegmentBytes
        package var frameBytesMax = Limits.logFrameBytesMax
        /// How long to wait before trying again to make the next segment.
        package var fillRetryNanoseconds: UInt64 = 1_000_000_000
        /// The largest payload of an entry that a frame can hold.
        package var payloadBytesMax: Int { LogWriter<FileKeyCipher>.payloadBytesMax(segmentBytes: segmentBytes, frameBytesMax: frameBytesMax) }
        package init() {}
    }
    package typealias Completion = @Sendable (Result<LogAnchor, StorageFailure>) -> Void
    /// Told that all notes up to a number are durable, or that no more will be; on the log thread, before the completions of the batches
    /// they went with.
    package typealias NotesKept = @Sendable (Result<UInt64, StorageFailure>) -> Void

    fileprivate enum Order: Sendable {
        case append(LogBatch, Completion)
        case cut(before: LogIndex)
        case endSegment
    }
    private struct Inbox {
        var orders: [Order] = []
        var notes = Notes()
        /// Notes do not wait for a batch.
        var isFlushing = false
        var isClosing = false

        mutating func take() -> (orders: [Order], notes: Notes) {
            var taken = (orders: [Order](), notes: Notes())
            swap(&taken.orders, &orders)
            if !notes.notes.isEmpty || notes.done != nil {
                taken.notes.kept = notes.kept
                swap(&taken.notes, &notes)
            }
            isFlushing = false
            return taken
        }
    }
    fileprivate struct Notes {
        var notes: [LogNote] = []
        var done: UInt64?
        var kept: NotesKept?
    }
    private let inbox: Monitor<Inbox>
    private let files: SegmentFiles
    private let thread: LaneThread
    private let lock: any StoredFile

    /// Opens or creates the log in `directory`, and says what it holds. A torn tail is cut off and reported; any other damage is
    /// thrown, and nothing is changed. `anchor`: the last frame the records remember, `nil` if there are none.
    package static func open(
        directory path: String, fileKey: FileKey, keyring: KeyringID, member: MemberID, anchor: LogAnchor?,
        fileSystem: any FileSystem = PosixFileSystem(), options: Options = Options()
    ) throws(StorageFailure) -> (lane: DiskLane, log: RecoveredLog) {
        try fileSystem.makeDirectory(path)
        let directory = LogDirectory(path: path, fileSystem: fileSystem)
        let lock = try fileSystem.lock(directory.filePath(LogDirectory.lockName))
        do throws(StorageFailure) {
            let identity = LogIdentity(keyring: keyring, member: member)
            let cipher = FileKeyCipher(key: fileKey)
            let log = try recover(directory, identity, cipher, anchor: anchor)
            if let damage = log.damage, !damage.isTornTail { throw .damagedLog(damage) }
            let (files, head) = try prepare(directory, log, options)
            var continued = log
            continued.head = head
            let writer = LogWriter(
                continuing: continued, identity: identity, cipher: cipher,
                segmentBytes: options.segmentBytes, frameBytesMax: options.frameBytesMax)
            return (try DiskLane(writer, files, lock), log)
        } catch {
            lock.close()
            throw error
        }
    }

    /// What the log in `directory` holds, damage and all; nothing is changed.
    package static func inspect(
        directory path: String, fileKey: FileKey, keyring: KeyringID, member: MemberID, anchor: LogAnchor?,
        fileSystem: any FileSystem = PosixFileSystem()
    ) throws(StorageFailure) -> RecoveredLog {
        let directory = LogDirectory(path: path, fileSystem: fileSystem)
        return try recover(directory, LogIdentity(keyring: keyring, member: member), FileKeyCipher(key: fileKey), anchor: anchor)
    }

    private init(_ writer: LogWriter<FileKeyCipher>, _ files: SegmentFiles, _ lock: any StoredFile) throws(StorageFailure) {
        let inbox = Monitor(Inbox())
        self.inbox = inbox
        self.files = files
        self.lock = lock
        noteBytesMax = writer.noteBytesMax
        let log = LogThread(writer: writer, files: files)
        do throws(StorageFailure) {
            thread = try LaneThread {
                while let (orders, notes) = Self.take(from: inbox) { log.carryOut(orders, notes) }
            }
        } catch {
            files.close()
            throw error
        }
    }
    deinit { close() }

    /// All that waits; `nil` when there is nothing and the lane is closing.
    private static func take(from inbox: Monitor<Inbox>) -> (orders: [Order], notes: Notes)? {
        inbox.wait { inbox -> (orders: [Order], notes: Notes)?? in
            if inbox.orders.isEmpty, inbox.notes.notes.isEmpty || !(inbox.isFlushing || inbox.isClosing) { return inbox.isClosing ? .some(nil) : nil }
            return inbox.take()
        }
    }

    /// Makes the batch durable. Callable from any thread; see `Completion` for where the answer arrives.
    package func append(_ batch: LogBatch, completion: @escaping Completion) {
        let isClosed = inbox.change { inbox in
            if !inbox.isClosing { inbox.orders.append(.append(batch, completion)) }
            return inbox.isClosing
        }
        if isClosed { completion(.failure(.closed)) }
    }
    /// Told of the notes from now on.
    package func whenNotesAreKept(_ kept: @escaping NotesKept) { inbox.withLock { $0.notes.kept = kept } }
    /// Makes the notes durable with the next batch, or when asked to: nobody is woken. Each at most `noteBytesMax` long. False: the lane is closed.
    package func keep(_ notes: [LogNote]) -> Bool {
        inbox.withLock { inbox in
            if !inbox.isClosing { inbox.notes.notes.append(contentsOf: notes) }
            return !inbox.isClosing
        }
    }
    /// Notes that were kept do not wait for a batch any longer.
    package func flushNotes() {
        let isIdle = inbox.withLock { $0.notes.notes.isEmpty || $0.isFlushing || !$0.orders.isEmpty }
        if !isIdle { inbox.change { $0.isFlushing = true } }
    }
    /// Notes up to this number are durable elsewhere. The log is told so with the next batch.
    package func notesAreDone(through number: UInt64) { inbox.withLock { $0.notes.done = number } }

    /// Removes, in time, whole segments whose entries all lie below `index`. What is removed must be durable elsewhere.
    package func cut(before index: LogIndex) {
        inbox.change { if !$0.isClosing { $0.orders.append(.cut(before: index)) } }
    }
    /// What is appended from now on goes to a new segment.
    package func endSegment() {
        inbox.change { if !$0.isClosing { $0.orders.append(.endSegment) } }
    }
    package let noteBytesMax: Int
    package var reserve: LogReserve { files.reserve }

    /// Finishes what was appended, then lets go of threads and files. Not to be called from a completion.
    package func close() {
        let first = inbox.change { inbox in
            defer { inbox.isClosing = true }
            return !inbox.isClosing
        }
        guard first else { return }
        thread.join()
        files.close()
        lock.close()
    }
}

// MARK: - Opening

extension DiskLane {
    private static func recover(
        _ directory: LogDirectory, _ identity: LogIdentity, _ cipher: FileKeyCipher, anchor: LogAnchor?
    ) throws(StorageFailure) -> RecoveredLog {
        var recovery = LogRecovery(identity: identity, anchor: anchor, cipher: cipher)
        let buffer = FrameBuffer(capacity: 1 << 20)
        for id in try directory.segments() {
            let file = try directory.open(id)
            defer { file.close() }
            try directory.read(file, into: buffer)
            unsafe recovery.read(segment: id, buffer.bytes)
        }
        return recovery.finish()
    }

    /// Cuts off a torn tail, removes what is left of unfinished work, opens the segment to go on with and the spare one.
    private static func prepare(
        _ directory: LogDirectory, _ log: RecoveredLog, _ options: Options
    ) throws(StorageFailure) -> (SegmentFiles, LogHead) {
        var head = log.head
        if try directory.fileSystem.names(in: directory.path).contains(LogDirectory.fillName) {
            try directory.fileSystem.remove(directory.filePath(LogDirectory.fillName))
        }
        if let tear = log.damage { try cutOff(directory, tear) }
        let used = log.segments.last?.id ?? 0
        let spareID = head.offset == 0 ? head.segment : head.segment + 1
        var active: (id: UInt64, file: any StoredFile)?
        var spare: (id: UInt64, file: any StoredFile)?
        // Newest first: what is removed lies behind what is kept.
        for id in try directory.segments().reversed() where id >= min(used, spareID) {
            let file = try directory.open(id)
            let size = try file.byteCount()
            if id == used {
                active = (id, file)
                // Made with another size: go on in a new one.
                if size != options.segmentBytes { head.offset = max(head.offset, options.segmentBytes) }
            } else if id == spareID, size == options.segmentBytes {
                spare = (id, file)
            } else {
                file.close()
                try directory.remove(id)
            }
        }
        if active == nil, spare == nil { spare = (spareID, try directory.fill(spareID, bytes: options.segmentBytes)) }
        let files = try SegmentFiles(
            directory, segmentBytes: options.segmentBytes, fillRetryNanoseconds: options.fillRetryNanoseconds, active: active, spare: spare)
        files.prepareNext()
        return (files, head)
    }

    /// Zeros from the tear on, so that no remnant is ever taken for a frame.
    private static func cutOff(_ directory: LogDirectory, _ tear: LogDamage) throws(StorageFailure) {
        let buffer = FrameBuffer(capacity: 1 << 20)
        for id in try directory.segments() where id >= tear.segment {
            let file = try directory.open(id)
            defer { file.close() }
            try directory.read(file, into: buffer)
            let start = id == tear.segment ? tear.offset : 0
            let end = unsafe RawBytes(buffer.bytes).endOfContent
            guard end > start else { continue }
            let zeros = FrameBuffer(capacity: end - start)
            zeros.appendZeros(end - start)
            try unsafe file.write(zeros.bytes, at: start)
            try file.synchronizeData()
        }
    }
}

// MARK: - The log thread

/// What the log thread owns.
private final class LogThread: @unchecked Sendable {
    private var writer: LogWriter<FileKeyCipher>
    private let files: SegmentFiles
    /// Set once, and then the answer to everything.
    private var failure: StorageFailure?
    private var batches: [LogBatch] = []
    private var completions: [DiskLane.Completion] = []
    /// The last of the notes in `batches`, and who is told.
    private var noted: (number: UInt64, kept: DiskLane.NotesKept?)?

    init(writer: LogWriter<FileKeyCipher>, files: SegmentFiles) {
        self.writer = writer
        self.files = files
    }

    func carryOut(_ orders: [DiskLane.Order], _ notes: DiskLane.Notes) {
        if !notes.notes.isEmpty || notes.done != nil {
            batches.append(LogBatch(notes: notes.notes, notesDone: notes.done))
            if let last = notes.notes.last?.number { noted = (last, notes.kept) }
        }
        for order in orders {
            switch order {
            case .append(let batch, let completion):
                if !batch.entries.allSatisfy(writer.fits), failure == nil {
                    // Later batches would leave a hole behind this one.
                    commit()
                    failure = failure ?? .entryTooLarge
                }
                batches.append(batch)
                completions.append(completion)
            case .endSegment:
                commit()
                writer.endSegment()
            case .cut(let index):
                commit()
                if failure == nil { files.remove(writer.cut(before: index)) }
            }
        }
        commit()
    }

    private func commit() {
        guard !completions.isEmpty || !batches.isEmpty else { return }
        if failure == nil {
            do throws(StorageFailure) {
                try writer.commit(batches, to: files)
            } catch {
                failure = error
            }
        }
        if let (number, kept) = noted { kept?(failure.map { .failure($0) } ?? .success(number)) }
        noted = nil
        let result: Result<LogAnchor, StorageFailure> = failure.map { .failure($0) } ?? .success(writer.head.anchor)
        for completion in completions { completion(result) }
        batches.removeAll(keepingCapacity: true)
        completions.removeAll(keepingCapacity: true)
        if failure == nil { files.prepareNext() }
    }
}

/// The member's file key as the log's cipher.
struct FileKeyCipher: FrameCipher {
    let key: FileKey
    var generation: UInt16 { key.generation }
    func seal(_ plaintext: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) {
        unsafe key.seal(plaintext, associatedData: associatedData, into: target)
    }
    func open(_ sealed: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
        (try? unsafe key.open(sealed, associatedData: associatedData, into: target)) != nil
    }
}
