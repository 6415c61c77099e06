import Basics
import DataDriven
import Foundation
import MVCC
import Testing

/// Scripts that read aloud. Each file begins with an empty store.
///
///     domain id=1 name=default                       the domain, with generation 1 of its key
///     put KEY VALUE [lease=] [gen=] [prev] [keepslease]    `-` as value: keep the previous one
///     get RANGE [limit=] [rev=] [sort=by,order] [count] [minmod=] [maxmod=] [mincreate=] [maxcreate=]
///     delete RANGE [prev]
///     txn                                            lines `if …`, `then …`, `else …`; nested ones indented below `then txn`
///     compact REV · grant ID SECONDS · revoke ID · checkpoint ID SECONDS · leases
///     changes RANGE from= [through=] [limit=]
///     dek GEN · kek VERSION · rewrap GEN from= to= · destroy dek=|kek= · shred ID · keys
///     reseal KEY REV gen= · setting NAME [VALUE] [expecting=]
///     restart · records
///
/// A RANGE is `a` (one key), `a..c`, `a..` (from a on), `a*` (prefix) or `*`.
@Suite("scripts")
struct ScriptTests {
    static let folder = (#filePath as NSString).deletingLastPathComponent + "/Cases"

    @Test("each script answers as written", arguments: try Script.paths(in: folder))
    func run(path: String) throws {
        var script = try Script(path: path)
        let shell = StoreShell()
        for difference in try script.run(shell.execute) { Issue.record("\(difference)") }
    }

    @Test("a script that expects something else is told apart")
    func difference() throws {
        var script = try Script(path: "example", text: "domain id=1 name=d\n----\nok\n\nput a x\n----\nrevision 99\n")
        let shell = StoreShell()
        let differences = try script.run(rewrites: false, shell.execute)
        #expect(differences.map(\.line) == [5])
        #expect(differences.first?.actual == "revision 2")
    }
}

/// Carries out directives.
private final class StoreShell {
    private let bench = Bench(domain: false)

    func execute(_ directive: Directive) throws -> String {
        let words = directive.words
        switch directive.verb {
        case "put": return answer(bench.apply(.put(try put(directive))))
        case "get": return get(try rangeRequest(directive))
        case "delete": return answer(bench.apply(.deleteRange(try deleteRequest(directive))))
        case "txn":
            var lines = directive.input[...]
            return answer(bench.apply(.transaction(try transaction(&lines, indent: 0), guards: try guards(directive))))
        case "compact":
            let result = bench.apply(.compact(revision: try integer(words, 0)))
            let removed = bench.last.removed.map(show)
            return answer(result) + (removed.isEmpty ? "" : "\nremoved " + removed.joined(separator: " "))
        case "grant": return answer(bench.apply(.leaseGrant(id: try integer(words, 0), seconds: try integer(words, 1))))
        case "revoke": return answer(bench.apply(.leaseRevoke(id: try integer(words, 0))))
        case "checkpoint":
            let checkpoint = LeaseCheckpoint(id: try integer(words, 0), remainingSeconds: try integer(words, 1))
            return answer(bench.apply(.leaseCheckpoint([checkpoint])))
        case "leases":
            return bench.store.allLeases.map { lease in
                let keys = bench.store.keys(ofLease: lease.id).map { String(decoding: $0, as: UTF8.self) }
                let left = lease.checkpointSeconds > 0 ? " (\(lease.checkpointSeconds) s left)" : ""
                return "lease \(lease.id): \(lease.seconds) s\(left), keys \(keys.joined(separator: " "))"
            }.joined(separator: "\n")
        case "changes": return changes(directive)
        case "restart":
            let hash = bench.store.hash
            try bench.restart()
            return "revision \(bench.store.revision)" + (bench.store.hash == hash ? "" : ", but another hash")
        case "records":
            return bench.shelf.records.keys.sorted().map { revision in
                let record = bench.shelf.records[revision]!
                return show(revision) + " " + String(decoding: record.version.key, as: UTF8.self) + (record.value.map { "=" + text($0) } ?? " deleted")
            }.joined(separator: "\n")
        default: return try executeKey(directive)
        }
    }

    // MARK: Keys and settings

    private func executeKey(_ directive: Directive) throws -> String {
        let words = directive.words, domain = DomainID(UInt64(directive.integer("domain") ?? 1))
        func dek(_ generation: Int64) -> DataKeyID { DataKeyID(domain, UInt32(generation)) }
        func kek(_ version: Int64) -> KeyEncryptionKeyID { kekID("kek\(domain.rawValue)", UInt32(version)) }
        switch directive.verb {
        case "domain":
            return answer(bench.apply(createDomain(UInt64(directive.integer("id") ?? 1), name: directive.value("name") ?? "default")))
        case "dek":
            let record = DataKeyRecord(
                id: dek(try integer(words, 0)), wrappedBy: kek(directive.integer("kek") ?? 1), state: .active, wrapped: [9])
            return answer(bench.apply(.key(.addDataKey(record))))
        case "kek":
            let record = KeyEncryptionKeyRecord(id: kek(try integer(words, 0)), domain: domain, state: .active, wrapped: [8])
            return answer(bench.apply(.key(.addKeyEncryptionKey(record))))
        case "rewrap":
            let from = kek(directive.integer("from") ?? 0), to = kek(directive.integer("to") ?? 0)
            return answer(bench.apply(.key(.rewrapDataKey(id: dek(try integer(words, 0)), expected: from, to: to, wrapped: [7]))))
        case "destroy":
            if let generation = directive.integer("dek") { return answer(bench.apply(.key(.destroyDataKey(dek(generation))))) }
            return answer(bench.apply(.key(.destroyKeyEncryptionKey(kek(directive.integer("kek") ?? 0)))))
        case "shred": return answer(bench.apply(.key(.shredDomain(DomainID(UInt64(try integer(words, 0)))))))
        case "keys": return showKeys()
        case "reseal":
            let key = bytes(words[0]), revision = Revision(try integer(words, 1), Int32(directive.integer("sub") ?? 0))
            let old = bench.shelf.records[revision]?.value
            let value = sealed(old.map(text) ?? "", domain: domain.rawValue, generation: UInt32(directive.integer("gen") ?? 1))
            let expected = dek(directive.integer("expected") ?? Int64(old?.dataKey.generation ?? 0))
            return answer(bench.apply(.reseal([Reseal(revision: revision, key: key, expected: expected, value: value)])))
        case "setting":
            let expecting: Bytes?? = directive.value("expecting").map { $0 == "none" ? .some(nil) : .some(bytes($0)) } ?? nil
            return answer(bench.apply(.setting(name: bytes(words[0]), value: words.count > 1 ? bytes(words[1]) : nil, expecting: expecting)))
        case "show": return bench.store.setting(bytes(words[0])).map { String(decoding: $0, as: UTF8.self) } ?? "none"
        default: throw ScriptError(description: "line \(directive.line): no such command: \(directive.verb)")
        }
    }

    private func showKeys() -> String {
        func name(_ id: KeyEncryptionKeyID) -> String { String(decoding: id.kek.prefix { $0 != 0 }, as: UTF8.self) + "/\(id.version)" }
        var lines: [String] = []
        for domain in bench.store.keys.domains {
            let active = domain.activeGeneration.map { "generation \($0) under \(domain.activeKeyEncryptionKey.map(name) ?? "none")" } ?? "shredded"
            lines.append("domain \(domain.id.rawValue) \(String(decoding: domain.name, as: UTF8.self)): \(active)")
        }
        for kek in bench.store.keys.keyEncryptionKeys { lines.append("kek \(name(kek.id)): \(kek.state), \(kek.dataKeys) data keys, wrapped \(kek.wrapped)") }
        for dek in bench.store.keys.dataKeys {
            lines.append("dek \(dek.id.domain.rawValue)/\(dek.id.generation): \(dek.state), \(dek.ciphertexts) values, "
                + "wrapped \(dek.wrapped) by \(name(dek.wrappedBy))")
        }
        return lines.joined(separator: "\n")
    }

    // MARK: Reading directives

    private func integer(_ words: [String], _ at: Int) throws -> Int64 {
        guard at < words.count, let value = Int64(words[at]) else { throw ScriptError(description: "a number is missing") }
        return value
    }

    private func range(_ word: String) -> KeyRange {
        if word.hasSuffix("*") { return .prefix(bytes(String(word.dropLast()))) }
        guard let dots = word.range(of: "..") else { return KeyRange(bytes(word)) }
        let low = bytes(String(word[..<dots.lowerBound])), high = bytes(String(word[dots.upperBound...]))
        return KeyRange(low, end: high.isEmpty ? [0] : high)
    }

    private func put(_ directive: Directive) throws -> PutRequest {
        let words = directive.words, generation = UInt32(directive.integer("gen") ?? 1), domain = UInt64(directive.integer("domain") ?? 1)
        var request = PutRequest(
            key: bytes(words[0]), value: words[1] == "-" ? .unchanged : .sealed(sealed(words[1], domain: domain, generation: generation)))
        request.lease = directive.integer("lease") ?? 0
        request.keepsLease = directive.has("keepslease")
        request.returnsPrevious = directive.has("prev")
        return request
    }

    private func deleteRequest(_ directive: Directive) throws -> DeleteRangeRequest {
        var request = DeleteRangeRequest(range(directive.words[0]))
        request.returnsPrevious = directive.has("prev")
        return request
    }

    private func rangeRequest(_ directive: Directive) throws -> RangeRequest {
        var request = RangeRequest(range(directive.words[0]))
        request.limit = directive.integer("limit") ?? 0
        request.revision = directive.integer("rev") ?? 0
        request.countOnly = directive.has("count")
        request.minModificationRevision = directive.integer("minmod") ?? 0
        request.maxModificationRevision = directive.integer("maxmod") ?? 0
        request.minCreateRevision = directive.integer("mincreate") ?? 0
        request.maxCreateRevision = directive.integer("maxcreate") ?? 0
        if let sort = directive.value("sort")?.split(separator: ",").map(String.init) {
            request.sortTarget = ["key": .key, "version": .version, "create": .create, "mod": .modification][sort[0]]!
            request.sortOrder = ["none": .none, "ascending": .ascending, "descending": .descending][sort.count > 1 ? sort[1] : "none"]!
        }
        return request
    }

    private func guards(_ directive: Directive) throws -> [Guard] {
        guard let values = directive.values("guard") else { return [] }
        return [Guard(range(values[0]), count: Int64(values[1])!, modificationRevisionMax: Int64(values[2])!)]
    }

    /// Lines at `indent`; a nested transaction's are two deeper.
    private func transaction(_ lines: inout ArraySlice<String>, indent: Int) throws -> Transaction {
        var transaction = Transaction()
        while let line = lines.first, line.prefix(while: { $0 == " " }).count == indent {
            lines.removeFirst()
            let directive = try Directive(line.dropFirst(indent))
            func operation() throws -> MVCC.Operation {
                switch directive.words[0] {
                case "put": return .put(try self.put(directive.dropped))
                case "get": return .range(try self.rangeRequest(directive.dropped))
                case "delete": return .deleteRange(try self.deleteRequest(directive.dropped))
                case "txn": return .transaction(try self.transaction(&lines, indent: indent + 2))
                default: throw ScriptError(description: "no such operation: \(line)")
                }
            }
            switch directive.verb {
            case "if": transaction.compares.append(try compare(directive.words))
            case "then": transaction.success.append(try operation())
            case "else": transaction.failure.append(try operation())
            default: throw ScriptError(description: "neither if, then nor else: \(line)")
            }
        }
        return transaction
    }

    /// `mod a = 3`
    private func compare(_ words: [String]) throws -> Compare {
        if words[0] == "resolved" { return Compare(KeyRange([]), .equal, .resolved(words[1] == "true")) }
        let value = try integer(words, 3)
        let relation: Compare.Relation = ["is": .equal, "not": .notEqual, "above": .greater, "below": .less][words[2]]!
        let target: Compare.Target = ["version": .version(value), "create": .create(value), "mod": .modification(value), "lease": .lease(value)][words[0]]!
        return Compare(range(words[1]), relation, target)
    }

    // MARK: Writing answers

    private func show(_ revision: Revision) -> String { revision.sub == 0 ? "\(revision.main)" : "\(revision.main).\(revision.sub)" }

    private func show(_ version: KeyVersion) -> String {
        let value = bench.shelf.records[version.revision]?.value.map(text) ?? "?"
        return "\(String(decoding: version.key, as: UTF8.self))=\(value) at \(show(version.revision)), created \(version.createRevision), "
            + "version \(version.version)" + (version.lease != 0 ? ", lease \(version.lease)" : "")
    }

    private func lines(_ result: OperationResult) -> [String] {
        switch result {
        case .range(let range):
            return range.versions.map(show) + ["count \(range.count)" + (range.more ? ", more" : "")]
        case .put(let previous): return previous.map { ["before: " + show($0)] } ?? []
        case .deleteRange(let deleted, let previous): return previous.map { "deleted: " + show($0) } + ["\(deleted) deleted"]
        case .transaction(let succeeded, let results):
            return [succeeded ? "then" : "else"] + results.flatMap(lines).map { "  " + $0 }
        }
    }

    private func answer(_ result: Result<CommandResult, CommandRefusal>) -> String {
        switch result {
        case .failure(let refusal): return "refused: \(refusal)"
        case .success(.none): return "ok"
        case .success(.lease(let id, let seconds)):
            return "lease \(id), \(seconds) s" + (bench.last.records.isEmpty ? "" : ", revision \(bench.store.revision)")
        case .success(.resealed(let count)): return "\(count) resealed"
        case .success(.operation(let operation)): return (lines(operation) + ["revision \(bench.store.revision)"]).joined(separator: "\n")
        }
    }

    private func get(_ request: RangeRequest) -> String {
        do throws(CommandRefusal) { return lines(.range(try bench.store.range(request))).joined(separator: "\n") } catch { return "refused: \(error)" }
    }

    private func changes(_ directive: Directive) -> String {
        do throws(CommandRefusal) {
            let history = try bench.store.changes(
                in: range(directive.words[0]), from: directive.integer("from") ?? 1, through: directive.integer("through") ?? .max,
                limit: Int(directive.integer("limit") ?? 1_000))
            let lines = history.events.map { event in
                let before = event.previous.map { ", before: " + show($0) } ?? ""
                return (event.kind == .put ? "put " + show(event.version)
                    : "delete \(String(decoding: event.version.key, as: UTF8.self)) at \(show(event.version.revision))") + before
            }
            return (lines + ["through \(history.through)"]).joined(separator: "\n")
        } catch { return "refused: \(error)" }
    }
}

extension Directive {
    /// A line of a transaction.
    fileprivate init(_ line: Substring) throws {
        let script = try Script.directive(String(line))
        self = script
    }
    /// Without the first word.
    fileprivate var dropped: Directive {
        var copy = self
        copy.words.removeFirst()
        return copy
    }
}
