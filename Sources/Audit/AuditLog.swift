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

/// The local audit file: a JSON line per record, in the order of `append`, written and made durable a batch at a time by a queue of
/// its own: whoever comes while a sync runs shares the next one.
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
    static let namesWaitingBytesMax = 64 << 20
    /// Reserved beyond the end of the file; some 30,000 records.
    static let reservedBytes = 8 << 20
    /// Records that nobody waits for are synced together: a sync for each burst of requests would cost more than the requests.
    private static let pause = DispatchTimeInterval.milliseconds(50)
    /// Between the beginnings of two syncs, under load.
    private static let spacingNanoseconds: UInt64 = 1_000_000

    private struct State {
        var waiting: [AuditRecord] = []
        var waitingNamesBytes = 0
        var accepted: UInt64 = 0
        var durable: UInt64 = 0
        /// In the order of their tickets' arrival. While there are any, records are synced without a pause.
        var watchers: [(ticket: AuditTicket, call: @Sendable (AuditError?) -> Void)] = []
        var drain = Drain.none
        /// Somebody waits, or will: the next drain is to begin at once.
        var isUrgent = false
        var isClosed = false
        var failure: AuditError?
        /// The failure was want of room: the lines are still in `waiting`.
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
    }
    private enum Drain { case none, due, running }
    private enum Start { case no, now, later }
    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "coffer-audit")
    private let descriptor: Int32
    private let waitingMax: Int
    /// Read before the lock is asked for: most callers find their record durable already.
    private let durableCount = Atomic<UInt64>(0)
    /// The end of the last whole line, and of the room reserved. Of `queue` alone.
    private let end = Atomic<Int>(0), reserved = Atomic<Int>(0)
    /// When the last sync began, of the clock's uptime. Of `queue` alone.
    private let lastSync = Atomic<UInt64>(0)

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
        self.descriptor = descriptor
        self.waitingMax = waitingMax
        self.writer = writer
        // All is set by now: what fails from here on is closed by `deinit`, and must not be closed twice.
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else { throw errno == EWOULDBLOCK ? .inUse : .failed("flock", errno: errno) }
        try endTornLine(path)
    }
    deinit { Glibc.close(descriptor) }

    /// Everything accepted up to this ticket is on the disk.
    package var durable: AuditTicket { AuditTicket(count: durableCount.load(ordering: .acquiring)) }

    /// Accepts the record; throws if it cannot be kept, and then the request must not be carried out. `isAwaited`: someone will wait for its
    /// sync, which therefore begins at once.
    @discardableResult
    package func append(_ record: AuditRecord, isAwaited: Bool = false) throws(AuditError) -> AuditTicket {
        let (failure, start, ticket) = state.withLock { state -> (AuditError?, Start, AuditTicket) in
            if state.isClosed { return (.closed, .no, .none) }
            if let failure = state.failure { return (failure, state.mayRecover ? state.start(atOnce: true) : .no, .none) }
            if state.waiting.count >= waitingMax || state.waitingNamesBytes >= Self.namesWaitingBytesMax { return (.overloaded, .no, .none) }
            state.waiting.append(record)
            state.waitingNamesBytes += record.resource.utf8.count
            state.accepted += 1
            return (nil, state.start(atOnce: isAwaited), AuditTicket(count: state.accepted))
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
        let (isDecided, failure, start) = state.withLock { state -> (Bool, AuditError?, Start) in
            if state.durable >= ticket.count { return (true, nil, .no) }
            if let failure = state.failure { return (true, failure, .no) }
            state.watchers.append((ticket, call))
            return (false, nil, state.start(atOnce: true))
        }
        if isDecided { call(failure) } else { begin(start) }
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

    /// Until nothing waits; or, unless `all`, until what waits has time.
    private func drain(all: Bool = false) {
        while true {
            if !all { space() }
            let batch = state.withLock { state -> [AuditRecord] in
                var batch: [AuditRecord] = []
                if state.failure == nil || state.mayRecover {
                    swap(&batch, &state.waiting)
                    state.waitingNamesBytes = 0
                }
                state.isUrgent = false
                state.drain = batch.isEmpty ? .none : .running
                return batch
            }
            if batch.isEmpty { return }
            lastSync.store(DispatchTime.now().uptimeNanoseconds, ordering: .relaxed)
            var lines: [UInt8] = []
            for record in batch { record.appendLine(to: &lines) }
            do throws(AuditError) {
                try write(lines)
                guard fdatasync(descriptor) == 0 else { throw .failed("fdatasync", errno: errno) }
            } catch { return fail(error, batch) }
            succeed(batch.count)
            reserve()
            let hasTime = state.withLock { state in
                if all || state.waiting.isEmpty || state.isUrgent || !state.watchers.isEmpty { return false }
                state.drain = .due
                return true
            }
            if hasTime { return begin(.later) }
        }
    }

    /// Lets a moment pass since the sync before, so that bursts under load share one. A record alone waits for nothing.
    private func space() {
        guard state.withLock({ $0.waiting.count > 1 }) else { return }
        let passed = DispatchTime.now().uptimeNanoseconds - lastSync.load(ordering: .relaxed)
        if passed < Self.spacingNanoseconds { usleep(UInt32((Self.spacingNanoseconds - passed) / 1_000)) }
    }

    private func succeed(_ count: Int) {
        let calls = state.withLock { state in
            state.durable += UInt64(count)
            durableCount.store(state.durable, ordering: .releasing)
            (state.failure, state.mayRecover) = (nil, false)
            let due = state.watchers.filter { $0.ticket.count <= state.durable }
            if !due.isEmpty { state.watchers.removeAll { $0.ticket.count <= state.durable } }
            return due
        }
        for watcher in calls { watcher.call(nil) }
    }

    private func fail(_ error: AuditError, _ batch: [AuditRecord]) {
        var mayRecover = false
        if case .failed("write", ENOSPC) = error { mayRecover = ftruncate(descriptor, end.load(ordering: .relaxed)) == 0 }
        let calls = state.withLock { state in
            state.failure = error
            state.mayRecover = mayRecover
            state.drain = .none
            if mayRecover {
                state.waiting.insert(contentsOf: batch, at: 0)
                state.waitingNamesBytes = state.waiting.reduce(0) { $0 + $1.resource.utf8.count }
            }
            defer { state.watchers = [] }
            return state.watchers
        }
        for watcher in calls { watcher.call(error) }
    }

    private func write(_ lines: [UInt8]) throws(AuditError) {
        var written = 0
        while written < lines.count {
            let count = writer(descriptor, lines[written...])
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw .failed("write", errno: count == 0 ? ENOSPC : errno) }
            written += count
        }
        end.add(written, ordering: .relaxed)
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

    /// A line that a crash cut short keeps a line of its own.
    private func endTornLine(_ path: String) throws(AuditError) {
        let size = lseek(descriptor, 0, SEEK_END)
        guard size >= 0 else { throw .failed("lseek", errno: errno) }
        end.store(size, ordering: .relaxed)
        if size > 0 {
            var last: UInt8 = 0
            guard unsafe pread(descriptor, &last, 1, size - 1) == 1 else { throw .failed("pread", errno: errno) }
            if last != UInt8(ascii: "\n") { try write([UInt8(ascii: "\n")]) }
        } else { try Self.keepName(path) }
        reserve()
    }
}
