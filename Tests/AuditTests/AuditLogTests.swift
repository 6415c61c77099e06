@testable import Audit
import Foundation
import Testing

struct AuditLogTests {
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
}
