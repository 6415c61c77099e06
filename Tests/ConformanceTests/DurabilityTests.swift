import Foundation
import Glibc
import Synchronization
import Testing

/// What was acknowledged before a SIGKILL is there after it.
@Suite(.enabled(if: Program.etcdctl != nil, "etcdctl is not installed")) struct DurabilityTests {
    /// A transaction's keys, all with the batch's number as value: acknowledged at a revision, or under way when the daemon died.
    private static let keysPerBatch = 8

    private struct Acknowledged {
        var revisionOfBatch: [Int: Int] = [:]
        var started = 0
        var revision = 0
    }
    /// What the writers share.
    private final class Ledger: Sendable {
        let acknowledged = Mutex(Acknowledged())
        var count: Int { acknowledged.withLock { $0.revisionOfBatch.count } }
    }
    private struct Answer: Decodable {
        struct Header: Decodable { var revision: Int }
        struct Entry: Decodable {
            var key: String
            var value: String
            var mod_revision: Int
        }
        var header: Header
        var kvs: [Entry]?
    }

    private static func key(_ batch: Int, _ place: Int) -> String { String(format: "d/%05d/%d", batch, place) }

    /// Writes one batch after the other until the daemon is gone.
    private static func write(_ daemon: Daemon, _ ledger: Ledger) async throws {
        while daemon.isRunning {
            let batch = ledger.acknowledged.withLock { state in
                state.started += 1
                return state.started
            }
            let puts = (0..<keysPerBatch).map { "put \(key(batch, $0)) \(batch)\n" }.joined()
            let answer = try daemon.startEtcdctl("-w", "json", "txn", input: "\n" + puts + "\n\n")
            while answer.ending == nil { // a transaction of etcdctl 3.4 has no deadline: it would wait for the daemon to come back
                if !daemon.isRunning { answer.signal(SIGKILL) }
                try await Task.sleep(for: .milliseconds(2))
            }
            guard answer.ending == .exited(0) else { continue }
            let revision = try JSONDecoder().decode(Answer.self, from: Data(answer.output.utf8)).header.revision
            ledger.acknowledged.withLock { state in
                state.revisionOfBatch[batch] = revision
                state.revision = max(state.revision, revision)
            }
        }
    }

    @Test("the audit record of every acknowledged change survives SIGKILL right after it, once and in order, though the file is written later")
    func auditRecords() async throws {
        try await Daemon.with { daemon in
            var names: [String] = []
            for round in 1...5 {
                for number in 0..<Int.random(in: 1...6) {
                    names.append("audited-\(round)-\(number)")
                    expect(try await daemon.etcdctl("put", names[names.count - 1], "v"), is: "OK\n")
                }
                try await daemon.kill()
                try await daemon.start()
                let text = try String(contentsOfFile: daemon.audit, encoding: .utf8)
                let told = text.matches(of: /"verb":"put","resource":"([^"]*)"/).map { String($0.output.1) }
                #expect(told == names)
            }
        }
    }

    @Test("every acknowledged write survives SIGKILL at random moments, whole and at its revision, and revisions never go back")
    func kills() async throws {
        let ledger = Ledger()
        try await Daemon.with { daemon in
            for round in 1...5 {
                let wanted = ledger.count + Int.random(in: 4...20)
                let writers = (0..<2).map { _ in Task { try await Self.write(daemon, ledger) } }
                try await eventually("\(wanted) batches are acknowledged") { ledger.count >= wanted }
                try await daemon.kill()
                for writer in writers { try await writer.value }
                try await daemon.start()
                let answer = try await daemon.etcdctl("get", "d/", "--prefix", "-w", "json")
                let found = try JSONDecoder().decode(Answer.self, from: Data(answer.output.utf8))
                Self.check(found.header.revision, found.kvs ?? [], ledger.acknowledged.withLock { $0 }, round: round)
            }
        }
    }

    private static func check(_ revision: Int, _ entries: [Answer.Entry], _ acknowledged: Acknowledged, round: Int) {
        #expect(revision >= acknowledged.revision, "round \(round): the revision went back")
        var batches: [Int: [Answer.Entry]] = [:]
        for entry in entries {
            guard let value = Data(base64Encoded: entry.value), let batch = Int(String(decoding: value, as: UTF8.self)) else {
                Issue.record("round \(round): a value that nobody wrote: \(entry.value)")
                continue
            }
            batches[batch, default: []].append(entry)
        }
        for (batch, entries) in batches {
            #expect(entries.count == keysPerBatch, "round \(round): half of transaction \(batch) is there")
            #expect(Set(entries.map(\.mod_revision)).count == 1, "round \(round): transaction \(batch) has several revisions")
        }
        for (batch, revision) in acknowledged.revisionOfBatch {
            #expect(batches[batch]?.first?.mod_revision == revision, "round \(round): transaction \(batch) was acknowledged at \(revision)")
        }
    }

    @Test("a daemon killed while it lays down its directory comes up at the next start", arguments: ["data/lock", "data/seal", "data/log", "data/records/data.mdb"])
    func killedAtFirstStart(file: String) async throws {
        try await Daemon.with(started: false) { daemon in
            let child = try daemon.launch()
            try await eventually("\(file) is made") { FileManager.default.fileExists(atPath: daemon.home.path + "/" + file) || child.ending != nil }
            try await daemon.kill()
            try await daemon.start()
            expect(try await daemon.etcdctl("put", "k", "v"), is: "OK\n")
            #expect(try await daemon.terminate() == .exited(0))
            try await daemon.start()
            expect(try await daemon.etcdctl("get", "k"), is: "k\nv\n")
        }
    }

    @Test("SIGTERM ends the daemon in order, and an open watch does not hold it up")
    func orderlyStop() async throws {
        try await Daemon.with { daemon in
            expect(try await daemon.etcdctl("put", "k", "v"), is: "OK\n")
            let watch = try daemon.startEtcdctl("watch", "k", "--rev", "1")
            defer { watch.signal(SIGKILL) }
            try await eventually("the watch is served") { watch.output.contains("PUT\nk\nv\n") }
            #expect(try await daemon.terminate() == .exited(0), Comment(rawValue: daemon.log))
        }
    }
}
