import Dispatch
import Glibc
import Synchronization

package enum AuditError: Error, Hashable, Sendable {
    /// More records wait than may: the request is to be refused, not carried out unseen.
    case overloaded
    /// The file could not be opened, written or made durable: `what` failed with this errno. Nothing more is recorded.
    case failed(String, errno: Int32)
    case closed
}

/// The local audit file: a JSON line per record, in the order of `append`, written and made durable a batch at a time by a queue of
/// its own, so that no request waits for the disk.
///
/// Invariants: the queue is bounded, and a record that finds it full is refused aloud; after a failed write or sync nothing is accepted
/// any more, since the file may then end anywhere.
package final class AuditLog: Sendable {
    /// At 300 bytes a line, some 20 MB of memory at the most.
    package static let recordsWaitingMax = 65_536

    private struct State {
        var waiting: [AuditRecord] = []
        var isDraining = false
        var isClosed = false
        var failure: AuditError?
    }
    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "coffer-audit")
    private let descriptor: Int32
    private let waitingMax: Int

    /// Appends to the file at `path`, which it creates for its owner's eyes alone.
    package init(path: String, waitingMax: Int = AuditLog.recordsWaitingMax) throws(AuditError) {
        let descriptor = unsafe open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw .failed("open", errno: errno) }
        self.descriptor = descriptor
        self.waitingMax = waitingMax
        do throws(AuditError) { try endTornLine() } catch {
            Glibc.close(descriptor)
            throw error
        }
    }
    deinit { Glibc.close(descriptor) }

    /// Accepts the record; throws if it cannot be kept, and then the request must not be carried out.
    package func append(_ record: AuditRecord) throws(AuditError) {
        let (failure, starts) = state.withLock { state -> (AuditError?, Bool) in
            if let failure = state.failure { return (failure, false) }
            if state.isClosed { return (.closed, false) }
            if state.waiting.count >= waitingMax { return (.overloaded, false) }
            state.waiting.append(record)
            defer { state.isDraining = true }
            return (nil, !state.isDraining)
        }
        if let failure { throw failure }
        if starts { queue.async { self.drain() } }
    }

    /// Returns when all that was accepted is durable. Blocks: not for an event loop.
    package func flush() throws(AuditError) {
        queue.sync {}
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }
    /// Accepts nothing more, and returns when all that was accepted is durable.
    package func close() throws(AuditError) {
        state.withLock { $0.isClosed = true }
        try flush()
    }

    private func drain() {
        while true {
            let batch = state.withLock { state -> [AuditRecord] in
                var batch: [AuditRecord] = []
                swap(&batch, &state.waiting)
                if batch.isEmpty || state.failure != nil { state.isDraining = false; return [] }
                return batch
            }
            if batch.isEmpty { return }
            var lines: [UInt8] = []
            for record in batch { record.appendLine(to: &lines) }
            do throws(AuditError) {
                try write(lines)
                guard fdatasync(descriptor) == 0 else { throw .failed("fdatasync", errno: errno) }
            } catch { state.withLock { $0.failure = error } }
        }
    }

    private func write(_ lines: [UInt8]) throws(AuditError) {
        var written = 0
        while written < lines.count {
            let count = unsafe lines.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress! + written, lines.count - written) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw .failed("write", errno: errno) }
            written += count
        }
    }

    /// A line that a crash cut short keeps a line of its own.
    private func endTornLine() throws(AuditError) {
        let size = lseek(descriptor, 0, SEEK_END)
        guard size >= 0 else { throw .failed("lseek", errno: errno) }
        if size == 0 { return }
        var last: UInt8 = 0
        guard unsafe pread(descriptor, &last, 1, size - 1) == 1 else { throw .failed("pread", errno: errno) }
        if last != UInt8(ascii: "\n") { try write([UInt8(ascii: "\n")]) }
    }
}
