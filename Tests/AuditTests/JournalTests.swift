@testable import Audit
import Basics
import Foundation
import Synchronization
import Testing

/// A journal in memory, whose sync is a test's decision.
private final class MemoryJournal: AuditJournal {
    private struct State {
        var notes: [AuditNote] = []
        var kept = 0
        var done: UInt64 = 0
        var flushes = 0
        var isClosed = false
        var call: (@Sendable (UInt64?) -> Void)?
    }
    private let state = Mutex(State())
    private let before: [AuditNote]
    let bytesMax: Int
    /// `before`: of an earlier run, those it was not done with.
    init(before: [AuditNote] = [], bytesMax: Int = 1 << 20) { self.before = before; self.bytesMax = bytesMax }

    var lastNumber: UInt64 { before.last?.number ?? 0 }
    func takeRecovered() -> [AuditNote] { before }
    func begin(_ kept: @escaping @Sendable (UInt64?) -> Void) { state.withLock { $0.call = kept } }
    func keep(_ notes: [AuditNote]) -> Bool {
        state.withLock { state in
            if !state.isClosed { state.notes += notes }
            return !state.isClosed
        }
    }
    func flush() { state.withLock { $0.flushes += 1 } }
    func done(through number: UInt64) { state.withLock { $0.done = number } }

    var flushes: Int { state.withLock { $0.flushes } }
    var done: UInt64 { state.withLock { $0.done } }
    /// Makes all notes durable.
    func sync() {
        let (call, last) = state.withLock { state in
            state.kept = state.notes.count
            return (state.call, state.notes.last?.number)
        }
        if let last { call?(last) }
    }
    func fail() { state.withLock { state in state.isClosed = true; return state.call }?(nil) }
    /// What a crash leaves: what was synced, less what is done with.
    var survivors: [AuditNote] { state.withLock { state in state.notes.prefix(state.kept).filter { $0.number > state.done } } }
}

@Suite("the audit file with a journal") struct JournalTests {
    private let path = NSTemporaryDirectory() + "audit-\(UUID().uuidString).log"

    private func record(_ number: Int, name: String = "k") -> AuditRecord {
        AuditRecord(timeMilliseconds: UInt64(number), surface: "etcd", who: "jane", verb: "put", resource: name, decision: .allowed(because: "open"), outcome: "ok")
    }
    private func times() throws -> [UInt64] {
        struct Line: Decodable { var time: UInt64 }
        return try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map { try JSONDecoder().decode(Line.self, from: Data($0.utf8)).time }
    }
    private func eventually(_ what: Comment, _ condition: () throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while try !condition() {
            try #require(ContinuousClock.now < deadline, what)
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    @Test("a record is durable when the journal is, and not before; the file follows, and the journal hears when it has")
    func durable() async throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path), journal = MemoryJournal()
        try log.append(record(1))
        try log.attach(journal)
        #expect(try times() == [1], "what came before is written before")
        let ticket = try log.append(record(2), isAwaited: true)
        #expect(ticket > log.durable)
        let told = Mutex<[AuditError?]>([])
        log.whenDurable(ticket) { failure in told.withLock { $0.append(failure) } }
        #expect(journal.flushes > 0, "somebody waits")
        #expect(told.withLock { $0.isEmpty })
        journal.sync()
        #expect(told.withLock { $0 } == [nil])
        #expect(log.durable >= ticket)
        try await eventually("the file follows") { try times() == [1, 2] }
        try await eventually("and is synced in time") { journal.done > 0 && journal.survivors.isEmpty }
        try log.close()
        #expect(try times() == [1, 2])
    }

    @Test("what a crash took from the file is written to it again, whichever part that was, and nothing twice")
    func restored() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let journal = MemoryJournal(bytesMax: 100) // longer lines come in parts
        let log = try AuditLog(path: path)
        try log.attach(journal)
        for number in 1...20 { try log.append(record(number, name: String(repeating: "n", count: number * 13))) }
        journal.sync()
        let survivors = journal.survivors
        #expect(survivors.count > 20)
        try log.close()
        let whole = try #require(FileManager.default.contents(atPath: path))
        for size in stride(from: 0, through: whole.count, by: 37) {
            try log.damaged(path, whole.prefix(size))
            try reopen(survivors)
            #expect(try times() == Array(1...20), "cut at \(size)")
            // A page that was never written reads as zeros.
            var holed = whole
            holed.replaceSubrange(min(size, whole.count - 1)..<min(size + 500, whole.count), with: Data(count: min(size + 500, whole.count) - min(size, whole.count - 1)))
            try log.damaged(path, holed)
            try reopen(survivors)
            #expect(try times() == Array(1...20), "a hole at \(size)")
        }
        try reopen(survivors)
        #expect(FileManager.default.contents(atPath: path) == whole, "nothing to be done")
    }
    private func reopen(_ notes: [AuditNote]) throws {
        let log = try AuditLog(path: path)
        try log.attach(MemoryJournal(before: notes))
        try log.close()
    }

    @Test("lines of somebody else are never overwritten: where the file was replaced or cut short, what the journal holds is appended")
    func rotated() throws {
        defer { for name in [path, path + ".1"] { try? FileManager.default.removeItem(atPath: name) } }
        let journal = MemoryJournal(), log = try AuditLog(path: path)
        try log.attach(journal)
        for number in 1...5 { try log.append(record(number)) }
        journal.sync()
        let survivors = journal.survivors
        try log.close()
        // Moved away, with another in its place.
        try FileManager.default.moveItem(atPath: path, toPath: path + ".1")
        try log.damaged(path, Data("{\"time\":7}\n{\"time\":8}\n".utf8))
        try reopen(survivors)
        #expect(try times() == [7, 8, 1, 2, 3, 4, 5])
        // Emptied, and written to since.
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.moveItem(atPath: path + ".1", toPath: path)
        try log.damaged(path, Data("{\"time\":9}\n".utf8))
        try reopen(survivors)
        #expect(Set(try times()) == [9, 1, 2, 3, 4, 5])
        #expect(try times().first == 9)
    }

    @Test("a journal that fails leaves the file as it was without one: who waits is told after its own sync, and later records need none")
    func failing() async throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path), journal = MemoryJournal()
        try log.attach(journal)
        let ticket = try log.append(record(1))
        let told = Mutex<[AuditError?]>([])
        log.whenDurable(ticket) { failure in told.withLock { $0.append(failure) } }
        journal.fail()
        try await eventually("the file's own sync does it") { told.withLock { $0 } == [nil] }
        #expect(try times() == [1])
        try await log.record(record(2))
        #expect(try times() == [1, 2])
        try log.close()
    }

    @Test("records that are not durable yet are bounded, too")
    func bounded() async throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path, waitingMax: 10), journal = MemoryJournal()
        try log.attach(journal)
        for number in 1...10 { try log.append(record(number)) }
        #expect(throws: AuditError.overloaded) { try log.append(record(11)) }
        journal.sync()
        try await eventually("lines that are in the file make room") {
            do throws(AuditError) { try log.append(record(12)) } catch {
                #expect(error == .overloaded)
                return false
            }
            return true
        }
        try log.close()
        #expect(try times() == Array(1...10) + [12])
    }
}

extension AuditLog {
    /// The same file, with other bytes.
    fileprivate func damaged(_ path: String, _ bytes: Data) throws {
        if !FileManager.default.fileExists(atPath: path) { _ = FileManager.default.createFile(atPath: path, contents: nil) }
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try file.truncate(atOffset: 0)
        try file.write(contentsOf: bytes)
        try file.close()
    }
}
