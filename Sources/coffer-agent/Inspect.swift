import ArgumentParser
import Foundation
import Mounts
import NodeAgent

struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "What the running agent knows and has mounted.")
    @OptionGroup var root: RootOption
    @Option(name: [.short, .long], help: "table or json.") var output = OutputFormat.table

    func run() async throws {
        let status = try await Inspection.status(root: root.rootDir)
        guard output == .table else { return try Inspection.printJSON(status) }
        print("node          \(status.node)")
        print("root          \(status.root)")
        print("server        \(status.isConnected ? "connected" : "not connected"), heard \(status.heardMillisecondsAgo / 1_000) s ago")
        print("revision      \(status.revision)")
        print("noswap        \(status.isNoswap ? "yes" : "NO: secrets may reach swap")")
        if status.isDrained { print("drained       yes: nothing is mounted until the agent is started again") }
        print("pods          \(status.pods)")
        print("secrets held  \(status.secretsHeld)")
        print("volumes       \(status.volumes.filter { $0.state == "mounted" }.count) mounted")
        for report in status.reports where !report.ready { print("not ready     \(report.namespace)/\(report.pod): \(report.reason): \(report.message)") }
    }
}

struct Volumes: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "The volumes on this node.")
    @OptionGroup var root: RootOption
    @Option(name: [.short, .long], help: "table or json.") var output = OutputFormat.table

    func run() async throws {
        let volumes = try await Inspection.status(root: root.rootDir).volumes
        guard output == .table else { return try Inspection.printJSON(volumes) }
        Inspection.printTable([["NAMESPACE", "POD", "VOLUME", "STATE", "FILES", "BYTES", "SECRETS", "POD UID"]] + volumes.map {
            [$0.namespace ?? "-", $0.pod ?? "-", $0.volume, $0.failure == nil ? $0.state : "\($0.state) (failing)", "\($0.files)", "\($0.bytes)",
             $0.secrets.isEmpty ? "-" : $0.secrets.joined(separator: ","), $0.podUID]
        })
    }
}

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "doctor", abstract: "Looks at what the agent needs of this machine; changes nothing.")
    @OptionGroup var root: RootOption
    @Option(name: [.short, .long], help: "table or json.") var output = OutputFormat.table

    func run() throws {
        let findings = Doctor.examine(rootDirectory: root.rootDir)
        if output == .json {
            try Inspection.printJSON(findings)
        } else {
            Inspection.printTable(findings.map { [$0.level.rawValue, $0.topic, $0.message] })
        }
        if findings.contains(where: { $0.level == .error }) { throw ExitCode.failure }
    }
}

struct Drain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Wipes and unmounts every secret on this node.",
        discussion: "A running agent does it and mounts nothing more until it is started again. Without one, this command does it itself.")
    @OptionGroup var root: RootOption

    func run() async throws {
        if let answer = try await StatusSocket.ask(StatusQuestion(.drain), root: root.rootDir) { return try Inspection.printLines(answer, "drained") }
        let options = EngineOptions(rootDirectory: root.rootDir, allowSwap: true)
        let result = try NodeReconciler(engine: try VolumeEngine(options), policy: options.policy).drain()
        try Inspection.printLines(StatusAnswer(lines: [], error: result.failures.isEmpty ? nil : result.failures.joined(separator: "; ")), "drained")
    }
}

struct CollectLeftovers: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Removes mounts and directories of the agent's that nothing accounts for.",
        discussion: "A running agent does this by itself after each complete answer of the server.")
    @OptionGroup var root: RootOption
    @Flag(help: "Only say what there is.") var dryRun = false

    func run() async throws {
        if let found = try await StatusSocket.ask(StatusQuestion(.leftovers), root: root.rootDir) {
            try Inspection.printLines(found, dryRun ? "nothing else" : "found")
            if !dryRun, let answer = try await StatusSocket.ask(StatusQuestion(.collect), root: root.rootDir) { try Inspection.printLines(answer, "removed") }
            return
        }
        let options = EngineOptions(rootDirectory: root.rootDir, allowSwap: true)
        let reconciler = NodeReconciler(engine: try VolumeEngine(options), policy: options.policy)
        try Inspection.printLines(StatusAnswer(lines: try reconciler.leftovers()), dryRun ? "nothing else" : "found")
        guard !dryRun else { return }
        let result = try reconciler.collectLeftovers()
        try Inspection.printLines(StatusAnswer(lines: [], error: result.failures.isEmpty ? nil : result.failures.joined(separator: "; ")), "removed")
    }
}

/// Printed as it is, without the usage.
struct AgentRefusal: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

enum Inspection {
    static func status(root: String) async throws -> NodeStatus {
        guard let answer = try await StatusSocket.ask(StatusQuestion(.status), root: root) else {
            throw AgentRefusal("no agent runs on \(root)")
        }
        guard let status = answer.status else { throw AgentRefusal(answer.error ?? "the agent gave no status") }
        return status
    }

    static func printJSON(_ value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        print(String(decoding: try encoder.encode(value), as: UTF8.self))
    }

    static func printLines(_ answer: StatusAnswer, _ last: String) throws {
        for line in answer.lines ?? [] { print(line) }
        if let error = answer.error { throw AgentRefusal(error) }
        print(last)
    }

    static func printTable(_ rows: [[String]]) {
        let widths = rows.reduce(into: [Int]()) { widths, row in
            for (column, cell) in row.enumerated() {
                if column == widths.count { widths.append(0) }
                widths[column] = max(widths[column], cell.count)
            }
        }
        for row in rows {
            let cells = row.enumerated().map { column, cell in
                column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count + 3)
            }
            print(cells.joined())
        }
    }
}
