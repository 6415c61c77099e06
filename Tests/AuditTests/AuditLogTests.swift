@testable import Audit
import Foundation
import Synchronization
import Testing

/// One after another: two of them write to the device that is always full, which one log locks at a time.
@Suite(.serialized) struct AuditLogTests {
    let path = NSTemporaryDirectory() + "audit-\(UUID().uuidString).log"

    private func record(_ number: Int, who: String = "jane") -> AuditRecord {
        AuditRecord(timeMilliseconds: UInt64(number), surface: "secrets", who: who, verb: "get", resource: "namespaces/prod/secrets/db",
                    decision: .allowed(because: "rule 3"), outcome: "ok")
    }
    private struct Line: Decodable, Equatable {
        var time: UInt64, surface: String, who: String, verb: String, resource: String, decision: String, because: String, outcome: String, count: Int
    }
    private func lines() throws -> [Line] {
        try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map { try JSONDecoder().decode(Line.self, from: Data($0.utf8)) }
    }

    @Test("records become lines of JSON, in order, and are there after closing")
    func order() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path)
        for number in 0..<5_000 { try log.append(record(number)) }
        try log.close()
        let lines = try lines()
        #expect(lines.map(\.time) == Array(0..<5_000))
        #expect(lines[0] == Line(time: 0, surface: "secrets", who: "jane", verb: "get", resource: "namespaces/prod/secrets/db",
                                 decision: "allowed", because: "rule 3", outcome: "ok", count: 1))
        #expect(throws: AuditError.closed) { try log.append(record(1)) }
    }

    @Test("a name with quotes and line feeds cannot forge a line")
    func forged() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let name = "x\"}\n{\"time\":1,\\ é \u{0}\u{7f}"
        let log = try AuditLog(path: path)
        var denied = record(1, who: name)
        denied.decision = .denied(because: "no rule")
        try log.append(denied)
        try log.close()
        let lines = try lines()
        #expect(lines.count == 1 && lines[0].who == name && lines[0].decision == "denied")
    }

    @Test("a line that a crash cut short is ended before the next one")
    func tornLine() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        try "{\"time\":1".write(toFile: path, atomically: false, encoding: .utf8)
        let log = try AuditLog(path: path)
        try log.append(record(2))
        try log.close()
        let lines = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n")
        #expect(lines.count == 2 && lines[0] == "{\"time\":1")
    }

    @Test("a full queue refuses aloud")
    func bounded() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path, waitingMax: 0)
        #expect(throws: AuditError.overloaded) { try log.append(record(1)) }
    }

    @Test("a file that cannot be written fails the log, once and for all")
    func failed() throws {
        let log = try AuditLog(path: "/dev/full")
        defer { try? log.close() }
        try log.append(record(1))
        #expect(throws: AuditError.failed("write", errno: ENOSPC)) { try log.flush() }
        #expect(throws: AuditError.failed("write", errno: ENOSPC)) { try log.append(record(2)) }
        #expect(throws: AuditError.failed("open", errno: ENOENT)) { _ = try AuditLog(path: "/nowhere/audit.log") }
    }

    @Test("the file is for its owner's eyes alone")
    func mode() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path)
        try log.close()
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode.map { $0 & 0o077 } == 0)
    }

    @Test("a caller that waits goes on when its record is on the disk, many sharing a sync")
    func waiting() async throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try AuditLog(path: path)
        let path = path
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<200 {
                let record = record(number, who: "caller \(number)")
                group.addTask {
                    try await log.record(record)
                    #expect(try String(contentsOfFile: path, encoding: .utf8).contains("\"caller \(number)\""))
                }
            }
            try await group.waitForAll()
        }
        let ticket = try log.append(record(1))
        #expect(ticket > .none)
        try log.flush()
        #expect(log.durable >= ticket)
        try log.close()
        #expect(try lines().count == 201)
    }

    @Test("who waits for a record that cannot be written is told, and does not go on")
    func waitingInVain() async throws {
        let log = try AuditLog(path: "/dev/full")
        await #expect(throws: AuditError.failed("write", errno: ENOSPC)) { try await log.record(self.record(1)) }
    }

    @Test("a file that another log writes is refused, and free again when that is closed")
    func inUse() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let first = try AuditLog(path: path)
        #expect(throws: AuditError.inUse) { _ = try AuditLog(path: path) }
        try first.close()
        try AuditLog(path: path).close()
    }

    @Test("with no room left nothing accepted is lost, no line is torn, and it goes on when there is room again")
    func noRoom() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        // A full disk: the write that passes its room is cut short, the next one refused.
        let room = Mutex(1_000)
        let log = try AuditLog(path: path, waitingMax: 100) { descriptor, bytes in
            room.withLock { room in
                let count = min(room, bytes.count)
                if count == 0 { errno = ENOSPC; return -1 }
                room -= count
                return Array(bytes.prefix(count)).withUnsafeBytes { write(descriptor, $0.baseAddress, count) }
            }
        }
        var accepted: [Int] = []
        var refused: AuditError?
        for number in 0..<100 where refused == nil {
            do throws(AuditError) {
                try log.append(record(number))
                accepted.append(number)
                try log.flush()
            } catch { refused = error }
        }
        #expect(refused == .failed("write", errno: ENOSPC))
        #expect(accepted.count > 3 && accepted.count < 20)
        let whole = try String(contentsOfFile: path, encoding: .utf8)
        #expect(whole.hasSuffix("}\n"))
        #expect(throws: AuditError.failed("write", errno: ENOSPC)) { try log.append(record(1_000)) }
        room.withLock { $0 = 1_000_000 }
        let deadline = ContinuousClock.now + .seconds(60)
        while (try? log.append(record(2_000))) == nil, ContinuousClock.now < deadline { try? log.flush() }
        try log.close()
        #expect(try lines().map(\.time) == (accepted + [2_000]).map(UInt64.init))
    }
}
