import ArgumentParser
import Foundation

/// `coffer-agent`: brings the secrets of the pods scheduled on this node to where those pods can read them, and takes them away again.
@main
struct CofferAgent: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "coffer-agent",
        abstract: "Delivers secrets into tmpfs, to the pods scheduled on this node, and wipes them when the last one leaves.",
        version: "0.1.0",
        subcommands: subcommands)

    private static var subcommands: [any ParsableCommand.Type] {
        let all: [any ParsableCommand.Type] = [Run.self, Status.self, Volumes.self, DoctorCommand.self, Drain.self, CollectLeftovers.self, Version.self]
        #if DEBUG
        return all + [Replay.self]
        #else
        return all
        #endif
    }
}

struct Version: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Prints the version.")
    func run() { print("coffer-agent \(CofferAgent.configuration.version)") }
}

struct RootOption: ParsableArguments {
    @Option(help: "The agent's directory; mount points lie in its folder pods.")
    var rootDir = "/run/coffer"
}

enum OutputFormat: String, ExpressibleByArgument, CaseIterable { case table, json }

/// `500ms`, `2s`, `5m`, `1h`.
struct TimeSpan: ExpressibleByArgument {
    let milliseconds: Int64
    init?(argument: String) {
        let units: [(String, Int64)] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
        for (suffix, factor) in units where argument.hasSuffix(suffix) {
            guard let number = Int64(argument.dropLast(suffix.count)), number >= 0 else { continue }
            let (product, overflow) = number.multipliedReportingOverflow(by: factor)
            guard !overflow else { return nil }
            milliseconds = product
            return
        }
        return nil
    }
    init(milliseconds: Int64) { self.milliseconds = milliseconds }
    var defaultValueDescription: String { milliseconds % 1_000 == 0 ? "\(milliseconds / 1_000)s" : "\(milliseconds)ms" }
}
