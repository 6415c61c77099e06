import Foundation
import Testing

/// The rules of the house that a scan can hold (Docs/Architecture.md). Each failure names file, line and rule.
@Suite struct TidyTests {
    let tree = SourceTree.shared

    static let cores: Set<String> = ["Basics", "Raft", "WriteAheadLog", "MVCC", "Replica", "Resources", "Access", "Mounts"]
    static let belowTheBarrier: Set<String> = ["Raft", "WriteAheadLog", "MVCC", "Replica", "Storage", "ReplicaService"]
    static let aboveTheBarrier: Set<String> = [
        "ObjectStore", "KeyVault", "EtcdServer", "APIServer", "StatusServer", "CofferClient", "APIClient", "NodeAgent", "Commands",
        "EtcdClient", "NodeProtocol", "cofferd", "coffer-agent", "cofferctl",
    ]
    static let systemModules: Set<String> = ["Foundation", "FoundationEssentials", "Glibc", "Synchronization", "Dispatch"]

    func expectNone(_ violations: [SourceTree.Violation]) {
        #expect(violations.isEmpty, Comment(rawValue: violations.prefix(20).map(\.description).joined(separator: "\n")))
    }

    @Test("the manifest's table was understood: every source folder is a target with known dependencies")
    func manifestIsRead() {
        let folders = Set(tree.sources.map(\.target))
        let unlisted = folders.subtracting(tree.dependencies.keys).subtracting(["DataDriven", "CLinux"])
        #expect(unlisted.isEmpty)
        #expect(tree.dependencies["Barrier"]?.contains("Sealing") == true)
        #expect(tree.dependencies["RPC"]?.contains("NIOHTTP2") == true)
    }

    @Test("make test runs every folder of tests")
    func everyTestRuns() throws {
        let makefile = try String(contentsOf: tree.root.appendingPathComponent("Makefile"), encoding: .utf8)
        let lists = makefile.matches(of: /(?m)^(?:CORES|SHELLS) = (.*)$/).flatMap { $0.1.split { " |".contains($0) }.map { "\($0)Tests" } }
        #expect(Set(tree.tests.map(\.target)).subtracting(lists).isEmpty)
    }

    @Test("every import is of a direct dependency of its target")
    func importsAreDirect() {
        expectNone(SourceTree.violations(in: tree.sources) { file, line in
            guard let module = SourceTree.imported(line), !Self.systemModules.contains(module) else { return nil }
            guard let direct = tree.dependencies[file.target] else { return nil }
            return direct.contains(module) || (direct.contains("NIOCore") && module == "NIO") ? nil : "\(file.target) imports \(module), which it does not depend on directly"
        })
    }

    @Test("below the Barrier nothing can open a value, above it nothing reaches the Replica")
    func waterline() {
        expectNone(SourceTree.violations(in: tree.sources) { file, line in
            guard let module = SourceTree.imported(line) else { return nil }
            if Self.belowTheBarrier.contains(file.target), ["Sealing", "SecretMemory", "CSodium"].contains(module) { return "below the waterline, yet imports \(module)" }
            if Self.aboveTheBarrier.contains(file.target), ["Replica", "Raft", "Storage"].contains(module) { return "above the waterline, yet imports \(module)" }
            return nil
        })
    }

    @Test("cores know no clock, task, randomness, file or Foundation")
    func coresArePure() {
        let banned: [(Regex<Substring>, String)] = [
            (/\basync\b/, "async"), (/\bawait\b/, "await"), (/\bTask\b\s*[{.(]/, "Task"), (/\bDate\(/, "Date"), (/\.random\(/, ".random("),
            (/\bUUID\(/, "UUID()"), (/ContinuousClock|SuspendingClock/, "a clock"), (/\bimport Foundation/, "Foundation"), (/\bimport Glibc/, "Glibc"),
        ]
        expectNone(SourceTree.violations(in: tree.sources.filter { Self.cores.contains($0.target) }) { _, line in
            let code = line.split(separator: "//", maxSplits: 1, omittingEmptySubsequences: false).first.map(String.init) ?? line
            if code.contains("\"") { return nil }
            return banned.first { code.contains($0.0) }.map { "a core uses \($0.1)" }
        })
    }

    @Test("no unfinished work, machine path or private name stands in the sources")
    func nothingUnfinished() {
        let marks = ["TO" + "DO", "FIX" + "ME", "fatal" + "Error()", "not imple" + "mented", "/wo" + "rk/", "/ro" + "ot/"]
        expectNone(SourceTree.violations(in: tree.sources + tree.tests) { _, line in
            marks.first { line.contains($0) }.map { "contains \($0)" }
        })
        expectNone(SourceTree.violations(in: tree.sources) { _, line in line.contains("../sha" + "red") ? "refers to data that only tests may read" : nil })
    }

    @Test("lines, files and functions stay readable")
    func lengths() {
        let files = tree.sources + tree.tests
        expectNone(SourceTree.violations(in: files) { _, line in line.count > 180 ? "line of \(line.count) columns (180)" : nil })
        expectNone(files.filter { $0.lines.count > 900 }.map { .init(file: $0.path, line: 900, rule: "file of \($0.lines.count) lines (900)") })
        expectNone(files.filter { !$0.lines.contains { !$0.trimmingCharacters(in: .whitespaces).isEmpty } }.map { .init(file: $0.path, line: 1, rule: "empty file") })
        expectNone(tree.sources.flatMap(Self.longFunctions))
    }

    /// A function is as long as the way from its `func` to the closing brace at the same indentation.
    static func longFunctions(_ file: SourceTree.File) -> [SourceTree.Violation] {
        var violations: [SourceTree.Violation] = [], open: (indent: Int, line: Int)?
        for (number, line) in file.lines.enumerated() {
            let indent = line.prefix { $0 == " " }.count
            if line.contains(/\b(func \S+|init\??)\s*[(<]/), line.hasSuffix("{") {
                open = (indent, number)
            } else if let start = open, indent == start.indent, line.dropFirst(indent).hasPrefix("}") {
                if number - start.line > 100 { violations.append(.init(file: file.path, line: start.line + 1, rule: "function of \(number - start.line) lines (100)")) }
                open = nil
            }
        }
        return violations
    }
}
