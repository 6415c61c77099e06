import Basics
import FileSealing
import Foundation
import SecretMemory
import Storage
import Synchronization
import Testing
import WriteAheadLog

let keyring = KeyringID(Bytes(repeating: 0xaa, count: 16))!
let otherKeyring = KeyringID(Bytes(repeating: 0xbb, count: 16))!
let member = MemberID(3)

func fileKey(_ seed: UInt8 = 7, generation: UInt16 = 1) throws -> FileKey {
    try FileKey(key: SecretBytes(copying: Bytes(repeating: seed, count: 32)), generation: generation)
}

/// A directory that is removed with the test.
final class TemporaryDirectory: Sendable {
    let path: String
    init() throws {
        var template = Array((NSTemporaryDirectory() + "/coffer-storage-XXXXXX").utf8CString)
        guard let made = mkdtemp(&template) else { throw CocoaError(.fileWriteUnknown) }
        path = String(cString: made)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
    /// Every file's bytes, by path below the directory.
    func contents() throws -> [String: Data] {
        var contents: [String: Data] = [:]
        let files = FileManager.default.enumerator(atPath: path)
        while let name = files?.nextObject() as? String {
            if let data = FileManager.default.contents(atPath: path + "/" + name) { contents[name] = data }
        }
        return contents
    }
}

/// Waits for a condition, up to a minute.
func eventually(_ what: Comment, _ condition: () throws -> Bool) rethrows {
    let deadline = ContinuousClock.now + .seconds(60)
    while try !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record(what)
            return
        }
        sched_yield()
    }
}

/// Collects answers from the lanes' threads.
final class Answers<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])
    func add(_ value: Value) { values.withLock { $0.append(value) } }
    var all: [Value] { values.withLock { $0 } }
    func wait(for count: Int) -> [Value] {
        eventually("\(count) answers") { all.count >= count }
        return all
    }
}

typealias LogAnswer = Result<LogAnchor, StorageFailure>

extension DiskLane {
    /// Appends and waits.
    func append(_ batch: LogBatch) throws(StorageFailure) -> LogAnchor {
        let answers = Answers<LogAnswer>()
        append(batch) { answers.add($0) }
        guard let answer = answers.wait(for: 1).first else { throw .closed }
        return try answer.get()
    }
    func append(_ indexes: ClosedRange<LogIndex>, bytes: Int = 40) throws(StorageFailure) -> LogAnchor {
        try append(LogBatch(entries: indexes.map { entry($0, bytes: bytes) }))
    }
    func waitUntilReady() { eventually("the next segment") { reserve == .ready } }
}
func entry(_ index: LogIndex, term: Term = 1, bytes: Int = 40) -> LogEntry {
    LogEntry(index: index, term: term, payload: (0..<bytes).map { UInt8(truncatingIfNeeded: Int(index) &* 31 &+ $0) })
}

/// A log on a simulated disk.
func open(
    _ disk: any FileSystem, segmentBytes: Int = 1024, anchor: LogAnchor? = nil, key: FileKey? = nil,
    keyring: KeyringID = keyring, member: MemberID = member
) throws -> (lane: DiskLane, log: RecoveredLog) {
    var options = DiskLane.Options()
    options.segmentBytes = segmentBytes
    options.fillRetryNanoseconds = 1_000_000
    return try DiskLane.open(
        directory: "log", fileKey: key ?? fileKey(), keyring: keyring, member: member, anchor: anchor, fileSystem: disk, options: options)
}
