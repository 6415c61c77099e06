import Barrier
import Basics
import Foundation
import Logging
import MVCC
import ReplicaService
import SecretMemory
import Testing

/// A data directory in which one byte is changed: the start is refused with what is damaged, or what is damaged is refused when it is read, or the
/// byte said nothing. Never a wrong answer.
///
/// `COFFER_BITROT=all` changes every byte of what is written, a number so many of each file; `COFFER_BITROT_SEED` says which ones.
@Suite struct BitRotTests {
    let store: TemporaryStore
    init() throws { store = try TemporaryStore() }

    private static let setting = ProcessInfo.processInfo.environment["COFFER_BITROT"]
    private static let isWhole = setting == "all"
    private static let seed = ProcessInfo.processInfo.environment["COFFER_BITROT_SEED"].flatMap(UInt64.init) ?? 1
    private static let samplesPerFile = setting.flatMap { Int($0) } ?? 60

    /// What every answer must be, taken before anything was changed.
    private struct Truth: Equatable {
        var revision: Int64
        var objects: [String: String]
        var history: [String: String]
        var plain: [String: String]
    }
    private enum Finding: Equatable {
        case refused(String)
        /// So many answers were refused, the others were right.
        case unreadable(Int)
        case harmless
    }
    private static let everything = KeyRange([0], end: [0])
    private static let past: Int64 = 30

    /// Values of two namespaces and of the etcd port, overwritten, deleted, compacted, rotated; large ones have pages of their own.
    private func lay() async throws -> Truth {
        let barrier = try await store.open()
        for round in 0..<3 {
            for number in 0..<12 {
                let long = number == 7 ? String(repeating: "long ", count: 1_500) : ""
                _ = try await barrier.put(
                    bytes("objects/\(number)"), domain: number % 2 == 0 ? "prod" : "test", value: try secret("\(long)value \(number).\(round)"), if: .none)
                try await barrier.putPlain("plain/\(number)", "plain \(number).\(round)")
            }
        }
        for number in 10..<12 { _ = try await barrier.delete(bytes("objects/\(number)"), if: .none) }
        var pace = KeyRotation.Pace()
        pace.drainMilliseconds = 0
        let rotation = KeyRotation(barrier: barrier, pace: pace)
        await rotation.start()
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        #expect(await eventually { await rotation.settle(); return await rotation.progress.logRemovedThrough > 0 })
        await rotation.stop()
        for number in 0..<3 { try await barrier.putPlain("last/\(number)", "last \(number)") }
        var refusals = 0
        let truth = try await Self.read(barrier, &refusals)
        #expect(refusals == 0 && truth.objects.count == 10 && truth.plain.count == 15 && !truth.history.isEmpty)
        await barrier.close()
        return truth
    }

    /// All answers; those that are refused are counted and left out.
    private static func read(_ barrier: Barrier, _ refusals: inout Int) async throws -> Truth {
        var truth = Truth(revision: 0, objects: [:], history: [:], plain: [:])
        truth.revision = try await barrier.currentRevision()
        for revision in [0, past] {
            for entry in try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: revision).entries {
                guard let text = entry.text else { refusals += 1; continue }
                let key = "\(String(decoding: entry.key, as: UTF8.self)) \(entry.createRevision) \(entry.modificationRevision) \(entry.version)"
                if revision == 0 { truth.objects[key] = text } else { truth.history[key] = text }
            }
        }
        for version in try await barrier.plain(everything) {
            let key = "\(String(decoding: version.key, as: UTF8.self)) \(version.createRevision) \(version.revision.main) \(version.version)"
            guard let value = try? barrier.plaintext(of: version) else { refusals += 1; continue }
            truth.plain[key] = value.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        }
        return truth
    }

    private static func look(_ store: TemporaryStore, _ truth: Truth, _ what: String) async -> Finding {
        let barrier: Barrier
        do { barrier = try await store.open() } catch { return .refused("\(error)") }
        var refusals = 0, told: Truth?, reason = ""
        do { told = try await read(barrier, &refusals) } catch { reason = "\(error)" }
        await barrier.close()
        guard let told else { return .refused(reason) }
        func isRight(_ answers: [String: String], _ truth: [String: String]) -> Bool { answers.allSatisfy { truth[$0.key] == $0.value } }
        let isWrong = told.revision != truth.revision || !isRight(told.objects, truth.objects) || !isRight(told.history, truth.history)
            || !isRight(told.plain, truth.plain)
            || told.objects.count + told.history.count + told.plain.count + refusals != truth.objects.count + truth.history.count + truth.plain.count
        if isWrong { Issue.record("\(what): a wrong answer\n\(told)\ninstead of\n\(truth)") }
        return refusals > 0 ? .unreadable(refusals) : .harmless
    }

    @Test("whichever byte is changed: named at the start or where it is read, and never a wrong answer", .timeLimit(.minutes(setting == nil ? 5 : 600)))
    func flippedBytes() async throws {
        let truth = try await lay()
        let sound = store.files().filter { !$0.key.hasSuffix("lock") && !$0.key.hasSuffix("lock.mdb") }
        #expect(Set(sound.keys).isSuperset(of: ["format", "seal", "member", "records/data.mdb"]))
        var generator = Generator(state: Self.seed)
        for (name, contents) in sound.sorted(by: { $0.key < $1.key }) {
            // A log's segment ends in zeros that nothing was written to.
            let written = contents.lastIndex { $0 != 0 }.map { $0 + 1 } ?? 0
            var offsets = Self.isWhole ? Array(0..<written) : (0..<Self.samplesPerFile).map { _ in Int(generator.next() % UInt64(max(1, written))) }
            // The numbers of LMDB's two last transactions: changed, they lead it to the one before, and the log must make up for that.
            if name == "records/data.mdb", !Self.isWhole { offsets += [0, Int(sysconf(Int32(_SC_PAGESIZE)))].flatMap { $0 + 144..<$0 + 152 } }
            var named: [String: Int] = [:], harmless: [Int] = []
            for offset in offsets where written > 0 {
                var damaged = contents
                let mask = UInt8(truncatingIfNeeded: generator.next()) | 1
                damaged[damaged.startIndex + offset] ^= mask
                let copy = try TemporaryStore()
                try FileManager.default.copyItem(atPath: store.data, toPath: copy.data)
                try FileManager.default.copyItem(atPath: store.keyFile, toPath: copy.keyFile)
                try damaged.write(to: URL(fileURLWithPath: copy.data + "/" + name))
                switch await Self.look(copy, truth, "\(name) at \(offset) ^ \(mask)") {
                case .refused(let reason):
                    #expect(!reason.isEmpty)
                    named[reason.replacing(copy.folder, with: ""), default: 0] += 1
                case .unreadable: named["unreadable", default: 0] += 1
                case .harmless: harmless.append(offset)
                }
            }
            print("\(name): \(offsets.count) bytes of \(written) changed, \(harmless.count) said nothing")
            for (reason, count) in named.sorted(by: { $0.value > $1.value }).prefix(6) { print("    \(count)  \(reason)") }
            // Every byte of these says something, and of what was written to a log.
            if ["format", "seal", "member"].contains(name) || name.hasPrefix("log/") { #expect(harmless == [], "\(name)") }
        }
    }

    private struct Generator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
    }
}
