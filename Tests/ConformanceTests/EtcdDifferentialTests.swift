import Faults
import Foundation
import Testing

/// The same random commands, given by the stock `etcdctl` to Debian's etcd and to `cofferd`, must have the same answers: revisions, values,
/// counts, order, errors; and a watch over all of it the same events.
///
/// `COFFER_DIFFERENTIAL_SEQUENCES` sets how many sequences (a CI sample otherwise), `COFFER_DIFFERENTIAL_SEED` the first one's seed.
@Suite("beside Debian's etcd")
struct EtcdDifferentialTests {
    private static let cofferd = Program.folder.appendingPathComponent("cofferd")
    private static let hasAll =
        Program.find("etcd") != nil && Program.find("etcdctl") != nil && FileManager.default.isExecutableFile(atPath: cofferd.path)
    private static func setting(_ name: String) -> Int? { ProcessInfo.processInfo.environment[name].flatMap { Int($0) } }

    @Test("random sequences of etcdctl commands are answered the same",
          .enabled(if: hasAll, "needs etcd, etcdctl and cofferd"), .timeLimit(.minutes(Self.setting("COFFER_DIFFERENTIAL_SEQUENCES") == nil ? 5 : 600)))
    func sameAnswers() async throws {
        let sequences = Self.setting("COFFER_DIFFERENTIAL_SEQUENCES") ?? 5, first = Self.setting("COFFER_DIFFERENTIAL_SEED") ?? 1
        let differences = try await onThread {
            var pair = try ServerPair(cofferd: Self.cofferd)
            defer { pair.stop() }
            var differences: [String] = []
            // A sample stops beginning new sequences on a slow machine; what was asked for by number is done whole.
            let deadline = Date().addingTimeInterval(Self.setting("COFFER_DIFFERENTIAL_SEQUENCES") == nil ? 40 : .infinity)
            for seed in first..<first + sequences where differences.count < 5 && Date() < deadline {
                differences += try Sequence(seed: UInt64(seed), steps: 45, pair: pair).run()
            }
            return differences
        }
        for difference in differences { Issue.record(Comment(rawValue: difference)) }
    }
}

/// Blocking work, off the cooperative pool.
private func onThread<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result(catching: work)) }
    }
}

private struct Failure: Error, CustomStringConvertible { var description: String }

// MARK: The two servers

/// A started server, and what is its own in the answers: the revision a sequence begins at, the numbers of its leases.
private final class Peer {
    let name: String
    let endpoint: String
    let process = Process()
    var baseRevision: Int64 = 0
    /// By the generator's number.
    var leases: [Int: Int64] = [:]

    init(name: String, executable: URL, arguments: (_ clientPort: Int) -> [String], folder: URL) throws {
        self.name = name
        let port = try freePorts(1)[0]
        endpoint = "127.0.0.1:\(port)"
        let log = folder.appendingPathComponent("\(name).log")
        try Data().write(to: log)
        let handle = try FileHandle(forWritingTo: log)
        process.executableURL = executable
        process.arguments = arguments(port)
        process.currentDirectoryURL = folder
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = handle
        process.standardError = handle
        try process.run()
        let deadline = Date().addingTimeInterval(60)
        while true {
            let text = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
            if text.contains("ready to serve client requests") { break }
            guard Date() < deadline, process.isRunning else {
                process.terminate()
                throw Failure(description: "\(name) did not start:\n\(text.suffix(2_000))")
            }
            usleep(20_000)
        }
    }

    func start(_ arguments: [String], input: String? = nil) throws -> Running {
        try Running(["--endpoints", endpoint, "--command-timeout", "20s"] + arguments.map(resolved), input: input.map(resolved))
    }

    /// `@R5` is the fifth revision of the sequence, `@L2` its second lease in hexadecimal digits.
    private func resolved(_ argument: String) -> String {
        guard argument.contains("@") else { return argument }
        var result = "", rest = argument[...]
        while let at = rest.firstIndex(of: "@") {
            result += rest[..<at]
            rest = rest[at...].dropFirst()
            let kind = rest.removeFirst(), digits = rest.prefix { $0.isNumber }
            rest = rest[digits.endIndex...]
            let number = Int(digits) ?? 0
            result += kind == "R" ? String(baseRevision + Int64(number)) : String(leases[number] ?? 0x7777_0000 + Int64(number), radix: 16)
        }
        return result + rest
    }

    func stop() {
        if process.isRunning { process.terminate() }
        process.waitUntilExit()
    }
}

private struct ServerPair {
    let etcd: Peer, coffer: Peer
    private let folder: URL
    var both: [Peer] { [etcd, coffer] }

    init(cofferd: URL) throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-differential-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        guard let executable = Program.find("etcd") else { throw Failure(description: "no etcd") }
        let peerURL = "http://127.0.0.1:\(try freePorts(1)[0])"
        etcd = try Peer(name: "etcd", executable: executable, arguments: { port in
            ["--data-dir", "etcd", "--listen-client-urls", "http://127.0.0.1:\(port)", "--advertise-client-urls", "http://127.0.0.1:\(port)",
             "--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default=\(peerURL)"]
        }, folder: folder)
        do {
            let secretsPort = try freePorts(1)[0]
            coffer = try Peer(name: "cofferd", executable: cofferd, arguments: { port in
                ["--data-dir", "coffer", "--listen-client-urls", "http://127.0.0.1:\(port)", "--listen-secrets-url", "https://127.0.0.1:\(secretsPort)"]
            }, folder: folder)
        } catch {
            etcd.stop()
            throw error
        }
    }

    mutating func stop() {
        for peer in both { peer.stop() }
        try? FileManager.default.removeItem(at: folder)
    }
}

/// An `etcdctl` that was started.
private final class Running {
    private let process = Process()
    private let output = Pipe()

    init(_ arguments: [String], input: String?) throws {
        guard let executable = Program.find("etcdctl") else { throw Failure(description: "no etcdctl") }
        process.executableURL = executable
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(["ETCDCTL_API": "3"]) { $1 }
        process.standardOutput = output
        process.standardError = output
        if let input {
            let pipe = Pipe()
            process.standardInput = pipe
            try process.run()
            pipe.fileHandleForWriting.write(Data(input.utf8))
            try pipe.fileHandleForWriting.close()
        } else {
            process.standardInput = FileHandle.nullDevice
            try process.run()
        }
    }

    /// All it prints until it ends.
    func finish() throws -> (lines: [String], status: Int32) {
        let data = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (String(decoding: data, as: UTF8.self).split(separator: "\n").map(String.init), process.terminationStatus)
    }

    /// What it prints until a line has `mark`, or it ends; then it is ended.
    func lines(until mark: String) -> [String] {
        let timer = DispatchSource.makeTimerSource(queue: .global())
        timer.schedule(deadline: .now() + 20)
        timer.setEventHandler { [process] in process.terminate() }
        timer.resume()
        var data = Data()
        while case let part = output.fileHandleForReading.availableData, !part.isEmpty {
            data += part
            if data.last == 0x0a, String(decoding: data, as: UTF8.self).contains(mark) { break }
        }
        timer.cancel()
        if process.isRunning { process.terminate() }
        process.waitUntilExit()
        return String(decoding: data, as: UTF8.self).split(separator: "\n").map(String.init)
    }
}

// MARK: Answers in a common form

/// What both must agree on: no ids of clusters, members, leases; revisions from the sequence's first.
private enum Answer {
    private static let revisions: Set<String> = ["revision", "create_revision", "mod_revision", "CompactRevision", "compact_revision"]
    private static let dropped: Set<String> = ["cluster_id", "member_id", "raft_term"]

    static func normalized(_ lines: [String], status: Int32, for peer: Peer) -> String {
        var kept: [String] = []
        for line in lines where !line.hasPrefix("{\"level\":") {
            kept.append(json(line, for: peer).map(text) ?? plain(line, for: peer))
        }
        return (kept + ["status \(status)"]).joined(separator: "\n")
    }

    static func json(_ line: String, for peer: Peer) -> Any? {
        guard line.hasPrefix("{") || line.hasPrefix("[") else { return nil }
        return (try? JSONSerialization.jsonObject(with: Data(line.utf8))).map { normalized($0, "", for: peer) }
    }

    static func text(_ value: Any) -> String {
        (try? JSONSerialization.data(withJSONObject: value, options: [.sortedKeys, .fragmentsAllowed])).map { String(decoding: $0, as: UTF8.self) } ?? "?"
    }

    private static func plain(_ line: String, for peer: Peer) -> String {
        var line = line
        for (number, id) in peer.leases {
            let digits = String(id, radix: 16), padded = String(repeating: "0", count: max(0, 16 - digits.count)) + digits
            for form in [padded, digits] { line = line.replacingOccurrences(of: form, with: "lease#\(number)") }
        }
        if line.hasPrefix("compacted revision "), let revision = Int64(line.dropFirst(19)) { return "compacted revision +\(revision - peer.baseRevision)" }
        return line
    }

    private static func normalized(_ value: Any, _ key: String, for peer: Peer) -> Any {
        if let fields = value as? [String: Any] {
            var result: [String: Any] = [:]
            for (name, field) in fields where !dropped.contains(name) { result[name] = normalized(field, name, for: peer) }
            // Time left: seconds pass between the two.
            if result["granted-ttl"] != nil, let left = (result["ttl"] as? NSNumber)?.int64Value { result["ttl"] = left > 0 ? "some" : "none" }
            return result
        }
        if let list = value as? [Any] {
            let items = list.map { normalized($0, key, for: peer) }
            return key == "leases" ? items.map { text($0) }.sorted() : items
        }
        guard let number = value as? NSNumber else { return value }
        if revisions.contains(key), number.int64Value > 0 { return "+\(number.int64Value - peer.baseRevision)" }
        if ["lease", "ID", "id"].contains(key), let known = peer.leases.first(where: { $0.value == number.int64Value })?.key { return "lease#\(known)" }
        return number
    }
}

// MARK: One sequence

private struct Step {
    var arguments: [String]
    var input: String?
    /// The number of the lease it grants.
    var grants: Int?
    var description: String { arguments.joined(separator: " ") + (input.map { "\n" + $0 } ?? "") }
}

private struct Sequence {
    var seed: UInt64
    var steps: Int
    var pair: ServerPair

    /// Differences, each with the seed and the step.
    func run() throws -> [String] {
        try begin()
        var generator = StepGenerator(seed: seed), differences: [String] = [], history: [String] = []
        let watches = try pair.both.map { try $0.start(["watch", "", "--prefix", "--rev", "@R1", "-w", "json"]) }
        for step in 1...steps {
            let next = generator.next()
            history.append(next.description)
            let answers = try both(next)
            if answers[0] != answers[1] {
                differences.append("seed \(seed) step \(step): \(next.description)\netcd:    \(answers[0])\ncofferd: \(answers[1])\n"
                    + "after:\n\(history.suffix(12).joined(separator: "\n"))")
                break
            }
        }
        differences += try compareWatches(watches, &generator)
        for lease in generator.granted { _ = try both(Step(arguments: ["lease", "revoke", "@L\(lease)"])) }
        return differences
    }

    /// Nothing is left of the sequence before, and revisions are counted from here.
    private func begin() throws {
        for peer in pair.both {
            peer.leases = [:]
            peer.baseRevision = 0
            _ = try peer.start(["del", "", "--prefix"]).finish()
            let (lines, _) = try peer.start(["put", "begin", "sequence", "-w", "json"]).finish()
            guard let answer = lines.compactMap({ try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] }).first,
                let header = answer["header"] as? [String: Any], let revision = (header["revision"] as? NSNumber)?.int64Value
            else { throw Failure(description: "\(peer.name) gave no revision: \(lines)") }
            peer.baseRevision = revision
        }
    }

    private func both(_ step: Step) throws -> [String] {
        let running = try pair.both.map { try $0.start(step.arguments, input: step.input) }
        return try zip(pair.both, running).map { peer, running in
            let (lines, status) = try running.finish()
            if let number = step.grants, let line = lines.last(where: { $0.hasPrefix("{") && $0.contains("\"ID\"") }),
                let fields = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] {
                peer.leases[number] = (fields["ID"] as? NSNumber)?.int64Value
            }
            return Answer.normalized(lines, status: status, for: peer)
        }
    }

    /// What a watch was told from the first step on, and what one is told that begins afterwards, with the values before.
    private func compareWatches(_ live: [Running], _ generator: inout StepGenerator) throws -> [String] {
        let end = "end-of-\(seed)", mark = "\"" + Data(end.utf8).base64EncodedString() + "\""
        _ = try both(Step(arguments: ["put", end, "x"]))
        var differences: [String] = []
        func compare(_ running: [Running], _ what: String) {
            let told = zip(pair.both, running).map { peer, running in events(running.lines(until: mark), for: peer) }
            if told[0] != told[1] { differences.append("seed \(seed): \(what)\netcd:    \(told[0])\ncofferd: \(told[1])") }
        }
        compare(live, "a watch from the first revision on")
        // Not at exactly the compaction's revision: there, 3.4 forgets a deletion which 3.6 and Coffer tell.
        let from = generator.compacted + generator.random(1...8)
        let late = try pair.both.map { try $0.start(["watch", "", "--prefix", "--prev-kv", "--rev", "@R\(from)", "-w", "json"]) }
        compare(late, "a watch from +\(from) afterwards")
        return differences
    }

    /// However they were put together in messages.
    private func events(_ lines: [String], for peer: Peer) -> String {
        lines.compactMap { line -> String? in
            if line.hasPrefix("{\"level\":") { return nil }
            guard let response = Answer.json(line, for: peer) as? [String: Any] else { return line }
            if let events = response["Events"] as? [Any], !events.isEmpty { return events.map(Answer.text).joined(separator: "\n") }
            let isNews = (response["Canceled"] as? Bool) == true || response["CompactRevision"] is String
            return isNews ? Answer.text(response) : nil
        }.joined(separator: "\n")
    }
}

// MARK: Random commands

private struct StepGenerator {
    private var state: UInt64
    private(set) var granted: [Int] = []
    /// A guess at the sequence's revision so far, to aim at; both servers are asked the same whatever it is.
    private var revision = 0
    private(set) var compacted = 0

    init(seed: UInt64) {
        state = seed &* 0xd134_2543_de82_ef95  // not a multiple of the step below, or neighbouring seeds would share their numbers
        state = UInt64(random(0...Int.max - 1))
    }

    /// SplitMix64.
    mutating func random(_ range: ClosedRange<Int>) -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        z ^= z >> 31
        return range.lowerBound + Int(z % UInt64(range.count))
    }
    private mutating func chance(_ percent: Int) -> Bool { random(1...100) <= percent }
    private mutating func one(_ words: [String]) -> String { words[random(0...words.count - 1)] }
    private mutating func key() -> String { one(["a", "b", "b/1", "b/10", "b/2", "c", "d", "é", "k k", "z"]) }
    private mutating func value() -> String {
        one(["", "v\(random(0...99))", "two words", "grüße", "{\"json\": [1]}", String(repeating: "x", count: 300)])
    }
    private mutating func lease() -> String { "@L\(random(1...3))" }
    private mutating func pastRevision() -> String { "@R\(max(0, revision + 1 - random(0...(chance(80) ? 12 : 60))))" }

    /// A key, a key and an end, or a key and `--prefix` or `--from-key`.
    private mutating func range() -> [String] {
        switch random(0...9) {
        case 0...3: [key()]
        case 4...5: [key(), key()]
        case 6: [key(), "--from-key"]
        case 7: ["", "--prefix"]
        default: [key(), "--prefix"]
        }
    }

    mutating func next() -> Step {
        switch random(0...99) {
        case 0..<34: put()
        case 34..<58: get()
        case 58..<67: delete()
        case 67..<84: transaction()
        case 84..<88: compact()
        default: leaseStep()
        }
    }

    private mutating func put() -> Step {
        revision += 1
        var arguments = ["put", key()]
        let keepsValue = chance(12)
        if keepsValue { arguments.append("--ignore-value") } else { arguments += ["--", value()] }
        var flags = ["-w", "json"]
        if chance(25) { flags.append("--lease=" + lease()) } else if chance(12) { flags.append("--ignore-lease") }
        if chance(30) { flags.append("--prev-kv") }
        return Step(arguments: [arguments[0]] + flags + arguments.dropFirst())
    }

    private mutating func get() -> Step {
        var arguments = ["get", "-w", "json"] + range()
        if chance(40) { arguments.append("--limit=\(random(0...5))") }
        if chance(40) { arguments.append("--rev=" + pastRevision()) }
        if chance(40) { arguments.append("--order=" + one(["ASCEND", "DESCEND"])) }
        if chance(40) { arguments.append("--sort-by=" + one(["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"])) }
        if chance(15) { arguments.append("--keys-only") }
        if chance(20) { arguments.append("--consistency=s") }
        return Step(arguments: arguments)
    }

    private mutating func delete() -> Step {
        revision += 1
        return Step(arguments: ["del", "-w", "json"] + (chance(30) ? ["--prev-kv"] : []) + range())
    }

    private mutating func transaction() -> Step {
        revision += 1
        var compares: [String] = []
        for _ in 0..<random(0...2) {
            let relation = one(["=", "!=", "<", ">"])
            let compare =
                switch random(0...3) {
                case 0: "version(\"\(key())\") \(relation) \"\(random(0...3))\""
                case 1: "create(\"\(key())\") \(relation) \"\(chance(30) ? "0" : pastRevision())\""
                case 2: "mod(\"\(key())\") \(relation) \"\(chance(30) ? "0" : pastRevision())\""
                default: "value(\"\(key())\") \(relation) \"v\(random(0...99))\""  // (compares of leases bring etcdctl 3.4 down)
                }
            compares.append(compare)
        }
        func branch(_ generator: inout StepGenerator) -> [String] {
            (0..<generator.random(0...4)).map { _ in generator.operation() }
        }
        let success = branch(&self), failure = branch(&self)
        let input = [compares, success, failure].map { ($0 + [""]).joined(separator: "\n") }.joined(separator: "\n") + "\n"
        return Step(arguments: ["txn", "-w", "json"], input: input)
    }

    private mutating func operation() -> String {
        func quoted(_ words: [String]) -> String {
            words.map { $0.hasPrefix("--") ? $0 : "\"" + $0.replacingOccurrences(of: "\"", with: "\\\"") + "\"" }.joined(separator: " ")
        }
        switch random(0...9) {
        case 0...4: return "put " + quoted([key(), "v\(random(0...99))"] + (chance(20) ? ["--lease=" + lease()] : []) + (chance(20) ? ["--prev-kv"] : []))
        case 5...7: return "get " + quoted(range() + (chance(30) ? ["--rev=" + pastRevision()] : []) + (chance(30) ? ["--limit=\(random(1...3))"] : []))
        default: return "del " + quoted(range() + (chance(30) ? ["--prev-kv"] : []))
        }
    }

    private mutating func compact() -> Step {
        let at = max(0, revision - random(-2...12))
        if at <= revision { compacted = max(compacted, at) }
        return Step(arguments: ["compact", "@R\(at)"])
    }

    private mutating func leaseStep() -> Step {
        switch random(0...5) {
        case 0...1:
            let number = granted.count + 1
            granted.append(number)
            return Step(arguments: ["lease", "grant", "\(one(["1000", "600", "9000000000", "9000000001", "300"]))", "-w", "json"], grants: number)
        case 2: return Step(arguments: ["lease", "revoke", lease()])
        case 3: return Step(arguments: ["lease", "timetolive", "--keys", "-w", "json", lease()])
        case 4: return Step(arguments: ["lease", "keep-alive", "--once", "-w", "json", lease()])
        default: return Step(arguments: ["lease", "list", "-w", "json"])
        }
    }
}
