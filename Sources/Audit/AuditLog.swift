package import Basics
import CLinux
import Dispatch
import Glibc
import Synchronization

package enum AuditError: Error, Hashable, Sendable, CustomStringConvertible {
    /// More records wait than may: the request is to be refused, not carried out unseen.
    case overloaded
    /// Another process, or another log of this one, writes the file.
    case inUse
    /// The file could not be opened, written or made durable: `what` failed with this errno.
    case failed(String, errno: Int32)
    case closed

    package var description: String {
        switch self {
        case .overloaded: "too many audit records wait"
        case .inUse: "the audit file is in use by another process: name another one with --audit-log"
        case .failed(let what, let code): "the audit file: \(what) failed: \(unsafe String(cString: strerror(code)))"
        case .closed: "the audit trail is closed"
        }
    }
}

/// How many records a log had accepted when it accepted this one: what `AuditLog.durable` is compared with.
package struct AuditTicket: Comparable, Hashable, Sendable {
    package static let none = AuditTicket(count: 0)
    let count: UInt64
    package static func < (left: AuditTicket, right: AuditTicket) -> Bool { left.count < right.count }
}

/// Where lines are made durable before they are in the file: the store's own log, whose sync they share.
package protocol AuditJournal: Sendable {
    /// Of one note.
    var bytesMax: Int { get }
    /// Numbers up to this one were used before.
    var lastNumber: UInt64 { get }
    /// What it held at the start and was not done with, in order; once.
    func takeRecovered() -> [AuditNote]
    /// `kept`: all notes up to a number are durable; `nil`: no more will be. Called on a thread that must not be blocked.
    func begin(_ kept: @escaping @Sendable (UInt64?) -> Void)
    /// In the order of their numbers, which may repeat. Wakes nobody. False: it takes no more.
    func keep(_ notes: [AuditNote]) -> Bool
    /// What was kept waits for nothing else any longer.
    func flush()
    /// Notes up to this number are durable in the file.
    func done(through number: UInt64)
}
/// Bytes of the file, and where they stand in it.
package struct AuditNote: Hashable, Sendable {
    package var number: UInt64
    package var bytes: Bytes
    package init(number: UInt64, bytes: Bytes) { self.number = number; self.bytes = bytes }
}

/// The local audit file: a JSON line per record, in the order of `append`.
///
/// 1. Alone, a queue of its own writes lines and makes them durable, a batch at a time: whoever comes while a sync runs shares the next one.
/// 2. With a journal (`attach`) a line is durable as soon as the journal is, which costs no sync of its own; the file is written within
///    `pause`, and synced every `syncNanoseconds`. What a crash took from the file the journal gives back at the next start. A journal that
///    fails leaves (1).
///
/// A caller that must not go on unseen waits for its record (`record`, `whenDurable`); one that may, does not.
///
/// Invariants: the queue is bounded, and a record that finds it full is refused aloud. What was accepted is written in order, or the log says
/// that it failed. With no room on the disk the lines are kept, nothing more is accepted, and the next request tries again; some room is
/// reserved ahead of the file's end, so that reads and deletions can be recorded while room is made. After any other failed write, and
/// after a failed sync, nothing is accepted any more, since the file may then end anywhere.
package final class AuditLog: Sendable {
    /// At 300 bytes a line, some 20 MB of memory.
    package static let recordsWaitingMax = 65_536
    /// Names can be long: a transaction may list a megabyte of them.
    static let linesWaitingBytesMax = 64 << 20
    /// Reserved beyond the end of the file; some 30,000 records.
    static let reservedBytes = 8 << 20
    /// Records that nobody waits for are synced together: a sync for each burst of requests would cost more than the requests.
    private static let pause = DispatchTimeInterval.milliseconds(50)
    /// Between the beginnings of two syncs, under load.
    private static let spacingNanoseconds: UInt64 = 1_000_000
    /// The same, of a file whose lines are durable already.
    private static let syncNanoseconds: UInt64 = 1_000_000_000
    /// Of a longer line, a part.
    private static let noteBytesMax = 256 << 10

    private struct State {
        /// Accepted, and not yet written to the file.
        var lines: [UInt8] = []
        var lineCount = 0
        var accepted: UInt64 = 0
        var durable: UInt64 = 0
        var journal: (any AuditJournal)?
        /// What a record's number in the journal is greater by than its own.
        var numberBase: UInt64 = 0
        /// Where the next line will stand in the file, and which file that is.
        var offset = 0
        var file: UInt64 = 0
        /// In the order of their tickets' arrival. While there are any, records are synced without a pause.
        var watchers: [(ticket: AuditTicket, call: @Sendable (AuditError?) -> Void)] = []
        var drain = Drain.none
        /// Somebody waits, or will: the next drain is to begin at once.
        var isUrgent = false
        var isClosed = false
        var failure: AuditError?
        /// The failure was want of room: the lines are still in `lines`.
        var mayRecover = false

        /// What is to be done so that what waits is drained.
        mutating func start(atOnce: Bool) -> Start {
            let wasUrgent = isUrgent
            if atOnce { isUrgent = true }
            switch drain {
            case .running: return .no
            case .due: return atOnce && !wasUrgent ? .now : .no
            case .none:
                drain = .due
                return atOnce ? .now : .later
            }
        }
        /// The line as the journal keeps it.
        func notes(_ line: [UInt8], bytesMax: Int) -> [AuditNote] {
            let size = min(bytesMax - AuditPlace.bytes, AuditLog.noteBytesMax)
            return stride(from: 0, to: line.count, by: size).map { start in
                let part = line[start..<min(start + size, line.count)]
                return AuditNote(number: numberBase + accepted, bytes: AuditPlace(file: file, offset: UInt64(offset + start)).before(part))
            }
        }
    }
    private enum Drain { case none, due, running }
    private enum Start { case no, now, later }
    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "coffer-audit")
    let path: String
    let descriptor: Int32
    private let waitingMax: Int
    /// Read before the lock is asked for: most callers find their record durable already.
    private let durableCount = Atomic<UInt64>(0)
    /// The end of the file's lines, and of the room reserved; whether the last line was cut short. Of `queue` alone.
    private let end = Atomic<Int>(0), reserved = Atomic<Int>(0), isTorn = Atomic<Bool>(false)
    /// When the last sync began, of the clock's uptime; whether something was written since. Of `queue` alone.
    private let lastSync = Atomic<UInt64>(0), isUnsynced = Atomic<Bool>(false)

    /// `write(2)`, or what stands for it.
    typealias Writer = @Sendable (Int32, ArraySlice<UInt8>) -> Int
    private let writer: Writer

    /// Appends to the file at `path`, which it creates for its owner's eyes alone.
    package convenience init(path: String, waitingMax: Int = AuditLog.recordsWaitingMax) throws(AuditError) {
        try self.init(path: path, waitingMax: waitingMax) { descriptor, bytes in
            unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
        }
    }
    init(path: String, waitingMax: Int, writer: @escaping Writer) throws(AuditError) {
        let descriptor = unsafe open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw .failed("open", errno: errno) }
        self.path = path
        self.descriptor = descriptor
        self.waitingMax = waitingMax
        self.writer = writer
        // All is set by now: what fails from here on is closed by `deinit`, and must not be closed twice.
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else { throw errno == EWOULDBLOCK ? .inUse : .failed("flock", errno: errno) }
        try findEnd()
        reserve()
    }
    deinit { Glibc.close(descriptor) }

    /// Everything accepted up to this ticket is on the disk.
    package var durable: AuditTicket { AuditTicket(count: durableCount.load(ordering: .acquiring)) }

    /// Accepts the record; throws if it cannot be kept, and then the request must not be carried out. `isAwaited`: someone will wait for its
    /// sync, which therefore begins at once.
    @discardableResult
    package func append(_ record: AuditRecord, isAwaited: Bool = false) throws(AuditError) -> AuditTicket {
        var line: [UInt8] = []
        line.reserveCapacity(256)
        record.appendLine(to: &line)
        let (failure, start, ticket) = state.withLock { state -> (AuditError?, Start, AuditTicket) in
            if state.isClosed { return (.closed, .no, .none) }
            if let failure = state.failure { return (failure, state.mayRecover ? state.start(atOnce: true) : .no, .none) }
            let isFull = state.lineCount >= waitingMax || state.lines.count >= Self.linesWaitingBytesMax || state.accepted - state.durable >= UInt64(waitingMax)
            if isFull { return (.overloaded, .no, .none) }
            state.accepted += 1
            var isAlone = true
            if let journal = state.journal {
                if journal.keep(state.notes(line, bytesMax: journal.bytesMax)) { isAlone = false } else { state.journal = nil }
            }
            state.lines.append(contentsOf: line)
            state.lineCount += 1
            state.offset += line.count
            return (nil, state.start(atOnce: isAwaited && isAlone), AuditTicket(count: state.accepted))
        }
        begin(start)
        if let failure { throw failure }
        return ticket
    }

    /// Accepts the record and returns when it is durable; throws if it cannot be known to be.
    package func record(_ record: AuditRecord) async throws(AuditError) {
        let ticket = try append(record, isAwaited: true)
        guard ticket > durable else { return }
        let failure = await withCheckedContinuation { continuation in
            whenDurable(ticket) { continuation.resume(returning: $0) }
        }
        if let failure { throw failure }
    }

    /// Calls once, with nothing when all up to the ticket is durable, else with the reason why that will not be known; at once, or on the
    /// log's own queue, which must not be blocked.
    package func whenDurable(_ ticket: AuditTicket, _ call: @escaping @Sendable (AuditError?) -> Void) {
        let (isDecided, failure, start, journal) = state.withLock { state -> (Bool, AuditError?, Start, (any AuditJournal)?) in
            if state.durable >= ticket.count { return (true, nil, .no, nil) }
            if let failure = state.failure { return (true, failure, .no, nil) }
            state.watchers.append((ticket, call))
            return (false, nil, state.journal == nil ? state.start(atOnce: true) : .no, state.journal)
        }
        if isDecided { return call(failure) }
        journal?.flush()
        begin(start)
    }

    /// From now on lines are durable in the journal first. What a crash took from the file is written to it again.
    package func attach(_ journal: any AuditJournal) throws(AuditError) {
        let failure = queue.sync { () -> AuditError? in
            do throws(AuditError) {
                try restore(journal.takeRecovered())
                try write([]) // a torn line ends before the first of ours is placed
                let file = try fileNumber(descriptor)
                var isAttached = false
                while !isAttached {
                    drain(all: true)
                    isAttached = state.withLock { state in
                        guard state.lines.isEmpty, state.failure == nil else { return state.failure != nil }
                        state.journal = journal
                        state.numberBase = journal.lastNumber > state.accepted ? journal.lastNumber - state.accepted : 0
                        (state.file, state.offset) = (file, end.load(ordering: .relaxed))
                        return true
                    }
                }
                return state.withLock { $0.failure }
            } catch { return error }
        }
        if let failure { throw failure }
        journal.begin { [weak self] number in self?.kept(through: number) }
        journal.done(through: journal.lastNumber)
    }
    private func kept(through number: UInt64?) {
        guard let number else {
            return begin(state.withLock { state in
                state.journal = nil
                return state.start(atOnce: true)
            })
        }
        isDurable { $0.journal == nil ? nil : number - min(number, $0.numberBase) }
    }

    /// Returns when all that was accepted is durable. Blocks: not for an event loop.
    package func flush() throws(AuditError) {
        queue.sync { drain(all: true) }
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }
    /// Accepts nothing more, and returns when all that was accepted is durable.
    package func close() throws(AuditError) {
        state.withLock { $0.isClosed = true }
        defer {
            _ = ftruncate(descriptor, end.load(ordering: .relaxed))  // gives back what was reserved
            flock(descriptor, LOCK_UN)
        }
        try flush()
    }

    // MARK: The queue's side

    private func begin(_ start: Start) {
        switch start {
        case .no: break
        case .now: queue.async { self.drain() }
        case .later: queue.asyncAfter(deadline: .now() + Self.pause) { self.drain() }
        }
    }

    private struct Batch {
        var lines: [UInt8] = []
        var count = 0
        /// Of all records up to and with these.
        var through: UInt64
        var numberBase: UInt64
        var journal: (any AuditJournal)?
    }

    /// Until nothing waits; or, unless `all`, until what waits has time.
    private func drain(all: Bool = false) {
        while true {
            if !all { space() }
            let taken = state.withLock { state -> Batch? in
                state.isUrgent = false
                guard state.failure == nil || state.mayRecover else {
                    state.drain = .none
                    return nil
                }
                state.drain = .running
                var batch = Batch(through: state.accepted, numberBase: state.numberBase, journal: state.journal)
                swap(&batch.lines, &state.lines)
                swap(&batch.count, &state.lineCount)
                return batch
            }
            guard let batch = taken else { return }
            batch.journal?.flush()
            do throws(AuditError) { try carryOut(batch, synchronizes: batch.journal == nil || all) } catch { return fail(error, batch) }
            reserve()
            let next = state.withLock { state -> Start? in
                (state.failure, state.mayRecover) = (nil, false)
                if state.lines.isEmpty, !isUnsynced.load(ordering: .relaxed) {
                    state.drain = .none
                    return .no
                }
                if all || (state.journal == nil && (state.isUrgent || !state.watchers.isEmpty)) { return nil }
                state.drain = .due
                return .later
            }
            if let next { return begin(next) }
        }
    }
    private func carryOut(_ batch: Batch, synchronizes: Bool) throws(AuditError) {
        if !batch.lines.isEmpty {
            try write(batch.lines)
            isUnsynced.store(true, ordering: .relaxed)
        }
        let now = DispatchTime.now().uptimeNanoseconds
        guard isUnsynced.load(ordering: .relaxed), synchronizes || now - lastSync.load(ordering: .relaxed) >= Self.syncNanoseconds else { return }
        lastSync.store(now, ordering: .relaxed)
        guard fdatasync(descriptor) == 0 else { throw .failed("fdatasync", errno: errno) }
        isUnsynced.store(false, ordering: .relaxed)
        isDurable { _ in batch.through }
        batch.journal?.done(through: batch.numberBase + batch.through)
    }

    /// Lets a moment pass since the sync before, so that bursts under load share one. A record alone waits for nothing.
    private func space() {
        guard state.withLock({ $0.lineCount > 1 && $0.journal == nil }) else { return }
        let passed = DispatchTime.now().uptimeNanoseconds - lastSync.load(ordering: .relaxed)
        if passed < Self.spacingNanoseconds { usleep(UInt32((Self.spacingNanoseconds - passed) / 1_000)) }
    }

    /// All records up to the count that is answered are durable.
    private func isDurable(_ through: (borrowing State) -> UInt64?) {
        let calls = state.withLock { state -> [(ticket: AuditTicket, call: @Sendable (AuditError?) -> Void)] in
            guard let count = through(state), count > state.durable else { return [] }
            state.durable = min(count, state.accepted)
            durableCount.store(state.durable, ordering: .releasing)
            guard !state.watchers.isEmpty else { return [] }
            let due = state.watchers.filter { $0.ticket.count <= state.durable }
            if !due.isEmpty { state.watchers.removeAll { $0.ticket.count <= state.durable } }
            return due
        }
        for watcher in calls { watcher.call(nil) }
    }

    private func fail(_ error: AuditError, _ batch: Batch) {
        var mayRecover = false
        if case .failed("write", ENOSPC) = error { mayRecover = ftruncate(descriptor, end.load(ordering: .relaxed)) == 0 }
        let calls = state.withLock { state -> [(ticket: AuditTicket, call: @Sendable (AuditError?) -> Void)] in
            state.failure = error
            state.mayRecover = mayRecover
            state.drain = .none
            if mayRecover {
                state.lines.insert(contentsOf: batch.lines, at: 0)
                state.lineCount += batch.count
            }
            // The journal tells those who wait for what it has.
            guard state.journal == nil else { return [] }
            defer { state.watchers = [] }
            return state.watchers
        }
        for watcher in calls { watcher.call(error) }
    }

    func write(_ lines: [UInt8]) throws(AuditError) {
        let bytes = isTorn.load(ordering: .relaxed) ? [UInt8(ascii: "\n")] + lines : lines
        var written = 0
        while written < bytes.count {
            let count = writer(descriptor, bytes[written...])
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw .failed("write", errno: count == 0 ? ENOSPC : errno) }
            written += count
        }
        end.add(written, ordering: .relaxed)
        isTorn.store(false, ordering: .relaxed)
    }

    /// Half used up, it is filled up again. Where the file system cannot reserve, or has no room, there is what there is.
    private func reserve() {
        let end = end.load(ordering: .relaxed)
        guard reserved.load(ordering: .relaxed) - end < Self.reservedBytes / 2 else { return }
        reserved.store(end + Self.reservedBytes, ordering: .relaxed)
        _ = clinux_reserve(descriptor, Int64(end), Int64(Self.reservedBytes))
    }

    /// Of a new file: what is synced is on the disk only if the folder names it there.
    private static func keepName(_ path: String) throws(AuditError) {
        let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        let descriptor = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .failed("open of the folder", errno: errno) }
        defer { Glibc.close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .failed("fsync of the folder", errno: errno) }
    }

    /// Where the next line goes. One that a crash cut short keeps a line of its own; it is ended when there is a next one.
    func findEnd() throws(AuditError) {
        let size = lseek(descriptor, 0, SEEK_END)
        guard size >= 0 else { throw .failed("lseek", errno: errno) }
        end.store(size, ordering: .relaxed)
        guard size > 0 else { return try Self.keepName(path) }
        var last: UInt8 = 0
        guard unsafe pread(descriptor, &last, 1, size - 1) == 1 else { throw .failed("pread", errno: errno) }
        isTorn.store(last != UInt8(ascii: "\n"), ordering: .relaxed)
    }
}
