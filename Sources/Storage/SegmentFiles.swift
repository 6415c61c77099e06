import Basics
import WriteAheadLog

/// The log's directory: `<id, 16 hex digits>.log` per segment, `fill` while one is being made, `lock`.
struct LogDirectory: Sendable {
    let path: String
    let fileSystem: any FileSystem

    static let lockName = "lock"
    static let fillName = "fill"
    private static let suffix = ".log"
    /// A file said to be longer is none of ours.
    private static let segmentBytesMax = 4 << 30

    func filePath(_ name: String) -> String { path + "/" + name }
    func name(of segment: UInt64) -> String {
        let digits = String(segment, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits + Self.suffix
    }
    func segment(named name: String) -> UInt64? {
        guard name.hasSuffix(Self.suffix), name.utf8.count == 16 + Self.suffix.utf8.count,
              let id = UInt64(name.dropLast(Self.suffix.utf8.count), radix: 16), self.name(of: id) == name else { return nil }
        return id
    }
    func segments() throws(StorageFailure) -> [UInt64] {
        try fileSystem.names(in: path).compactMap(segment(named:)).sorted()
    }
    func open(_ segment: UInt64) throws(StorageFailure) -> any StoredFile {
        try fileSystem.open(filePath(name(of: segment)), creating: false)
    }
    /// Durable before it returns: of several removals, those of the oldest must not be the ones that are lost.
    func remove(_ segment: UInt64) throws(StorageFailure) {
        try fileSystem.remove(filePath(name(of: segment)))
        try fileSystem.synchronizeDirectory(path)
    }

    func read(_ file: any StoredFile, into buffer: FrameBuffer) throws(StorageFailure) {
        let size = try file.byteCount()
        guard size <= Self.segmentBytesMax else { throw .io(operation: "segment of \(size) bytes", code: 0) }
        buffer.removeAll()
        let target = unsafe buffer.extend(by: size)
        let count = try unsafe file.read(into: target, at: 0)
        guard count == size else { throw .io(operation: "pread", code: 0) }
    }

    /// A segment of zeros, durable under its name only when it is whole.
    func fill(_ segment: UInt64, bytes: Int) throws(StorageFailure) -> any StoredFile {
        let temporary = filePath(Self.fillName)
        let file = try fileSystem.open(temporary, creating: true)
        if BlockWriter.suits(bytes) { _ = file.bypassCache() }
        do throws(StorageFailure) {
            let zeros = FrameBuffer(capacity: min(bytes, 1 << 20))
            zeros.appendZeros(min(bytes, 1 << 20))
            var offset = 0
            while offset < bytes {
                let count = min(zeros.count, bytes - offset)
                try unsafe file.write(UnsafeRawBufferPointer(rebasing: zeros.bytes[..<count]), at: offset)
                offset += count
                // A step at a time: the log's own syncs would otherwise wait behind the whole segment.
                if offset < bytes { try file.synchronizeData() }
            }
            try file.synchronize()
            try fileSystem.rename(temporary, to: filePath(name(of: segment)))
            try fileSystem.synchronizeDirectory(path)
            return file
        } catch {
            file.close()
            // Best effort: what is left under this name is removed at the next start or attempt.
            try? fileSystem.remove(temporary)
            throw error
        }
    }
}

/// The segments as the log's writer sees them, and the thread that makes the next one and removes old ones meanwhile.
///
/// Invariant: only the log thread calls `begin`, `write`, `synchronize` and `prepareNext`; `shared` is all that the two share.
final class SegmentFiles: LogMedium, @unchecked Sendable {
    struct Shared {
        var spare: (id: UInt64, file: any StoredFile)?
        /// The segment to make next.
        var wanted: UInt64?
        /// Why the last attempt to make it failed.
        var failure: StorageFailure?
        var removals: [UInt64] = []
        var isClosing = false
    }
    private let directory: LogDirectory
    private let segmentBytes: Int
    private let fillRetryNanoseconds: UInt64
    private var active: (id: UInt64, file: any StoredFile)?
    /// Writes to the active segment; `nil`: plainly.
    private var blocks: BlockWriter?
    private let shared: Monitor<Shared>
    private var thread: LaneThread?

    init(
        _ directory: LogDirectory, segmentBytes: Int, fillRetryNanoseconds: UInt64,
        active: (id: UInt64, file: any StoredFile)?, spare: (id: UInt64, file: any StoredFile)?
    ) throws(StorageFailure) {
        self.directory = directory
        self.segmentBytes = segmentBytes
        self.fillRetryNanoseconds = fillRetryNanoseconds
        self.active = active
        blocks = active.flatMap { BlockWriter($0.file, segmentBytes: segmentBytes) }
        shared = Monitor(Shared(spare: spare))
        thread = try LaneThread(background: true) { [unowned self] in tend() }
    }

    var reserve: LogReserve {
        shared.withLock { shared in
            if shared.spare != nil { return .ready }
            return shared.failure.map { .failing($0) } ?? .filling
        }
    }

    // MARK: on the log thread

    func begin(segment id: UInt64) throws(StorageFailure) {
        // A commit may need more segments than the one made beforehand.
        shared.change { if $0.spare?.id != id { $0.wanted = id } }
        let result: Result<any StoredFile, StorageFailure> = shared.wait { shared in
            if let spare = shared.spare, spare.id == id {
                shared.spare = nil
                return .success(spare.file)
            }
            if shared.isClosing { return .failure(.closed) }
            return shared.failure.map { .failure($0) }
        }
        active?.file.close()
        let file = try result.get()
        active = (id, file)
        blocks = BlockWriter(file, segmentBytes: segmentBytes)
    }
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, of segment: UInt64) throws(StorageFailure) {
        guard let active, active.id == segment else { preconditionFailure("writes go to the segment begun last") }
        guard let blocks else { return try unsafe active.file.write(bytes, at: offset) }
        try unsafe blocks.write(bytes, at: offset)
    }
    func synchronize(segment: UInt64) throws(StorageFailure) {
        guard let active, active.id == segment else { preconditionFailure("syncs go to the segment begun last") }
        try active.file.synchronizeData()
    }
    /// Asks for the segment after the active one, unless it is there or being made.
    func prepareNext() {
        guard let next = active.map({ $0.id + 1 }) else { return }
        let isKnown = shared.withLock { $0.spare?.id == next || $0.wanted == next }
        if !isKnown { shared.change { $0.wanted = next } }
    }
    /// Oldest first.
    func remove(_ segments: [UInt64]) {
        shared.change { $0.removals.append(contentsOf: segments) }
    }
    func close() {
        shared.change { $0.isClosing = true }
        thread?.join()
        active?.file.close()
        active = nil
        shared.change { shared in
            shared.spare?.file.close()
            shared.spare = nil
        }
    }

    // MARK: on the tending thread

    private enum Chore { case fill(UInt64), remove(UInt64), end }

    private func tend() {
        while true {
            let chore: Chore = shared.wait { shared in
                if let oldest = shared.removals.first { return .remove(oldest) }
                if shared.isClosing { return .end }
                return shared.wanted.map { .fill($0) }
            }
            switch chore {
            case .end: return
            case .remove(let id): remove(id)
            case .fill(let id): fill(id)
            }
        }
    }
    /// A segment that cannot be removed stays: it is read again at the next start, and does no harm.
    private func remove(_ id: UInt64) {
        try? directory.remove(id)
        shared.change { _ = $0.removals.removeFirst() }
    }
    private func fill(_ id: UInt64) {
        do throws(StorageFailure) {
            let file = try directory.fill(id, bytes: segmentBytes)
            shared.change { shared in
                shared.spare = (id, file)
                shared.wanted = nil
                shared.failure = nil
            }
        } catch {
            shared.change { $0.failure = error }
            // Space may come back: try again later, unless there is something else to do.
            _ = shared.wait(until: monotonicNanoseconds() + fillRetryNanoseconds) { shared in
                shared.isClosing || !shared.removals.isEmpty ? true : nil
            }
        }
    }
}

/// Writes one after the other, to a segment whose file takes whole blocks only: the block that the last one ended in is kept, and written again
/// with the next. Behind the last there are zeros, as before.
private final class BlockWriter {
    private let file: any StoredFile
    /// From the beginning of a block up to the end of the last write.
    private var gathered = FrameBuffer()
    private var other = FrameBuffer()
    private var start = 0

    static func suits(_ segmentBytes: Int) -> Bool { segmentBytes.isMultiple(of: Limits.diskBlockBytes) }

    /// `nil`: the file takes anything.
    init?(_ file: any StoredFile, segmentBytes: Int) {
        guard Self.suits(segmentBytes), file.bypassCache() else { return nil }
        self.file = file
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(StorageFailure) {
        if offset != start + gathered.count { try load(upTo: offset) }
        unsafe gathered.append(bytes)
        let end = gathered.count, block = Limits.diskBlockBytes, rest = end % block
        if rest > 0 { gathered.appendZeros(block - rest) }
        try unsafe file.write(gathered.bytes, at: start)
        other.removeAll()
        unsafe other.append(UnsafeRawBufferPointer(rebasing: gathered.bytes[(end - rest)..<end]))
        swap(&gathered, &other)
        start += end - rest
    }

    /// What stands before it in its block.
    private func load(upTo offset: Int) throws(StorageFailure) {
        let block = Limits.diskBlockBytes, rest = offset % block
        start = offset - rest
        other.removeAll()
        gathered.removeAll()
        guard rest > 0 else { return }
        let target = unsafe other.extend(by: block)
        guard try unsafe file.read(into: target, at: start) == block else { throw .io(operation: "pread", code: 0) }
        unsafe gathered.append(UnsafeRawBufferPointer(rebasing: other.bytes[..<rest]))
    }
}

/// How the log stands for room beyond the segment being written.
package enum LogReserve: Hashable, Sendable {
    case ready
    case filling
    /// No next segment, and why. There is still room for small writes: refuse what grows the store, let deletions pass.
    case failing(StorageFailure)
}
