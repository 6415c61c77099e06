import APIClient
package import ArgumentParser
import Basics
import Resources

package struct Rollout: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        abstract: "See how far a secret's present version has come.", subcommands: [RolloutStatus.self])
    package init() {}
}

/// Compares the pods that mount a secret with its trail: with what their nodes say.
package struct RolloutStatus: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Wait until every pod that mounts a secret has its present version, as their nodes say.",
        discussion: "  cofferctl rollout status secret/web -n prod\n\nExit code 0: all of them have it.")
    @Argument(help: "secret/NAME or secret NAME.", completion: .resources) var words: [String] = []
    @Flag(name: .shortAndLong, inversion: .prefixedNo, help: "Wait; else say how it stands now.") var watch = true
    @Option(help: "How long to wait, with a unit or without (30, 30s, 2m); 0 is without end.") var timeout = "0"
    @OptionGroup package var global: GlobalOptions
    package init() {}

    private struct Progress: Equatable {
        var version: String
        var pods = 0
        var current = 0
        var isComplete: Bool { pods == current }
    }

    package func run(in invocation: Invocation) async throws {
        let targets = try ResourceArguments(words).targets
        guard targets.count == 1, targets[0].type == .secrets, let name = targets[0].name else { throw CommandError("one secret is expected: secret/NAME") }
        let waitSeconds = try WaitTime.seconds(timeout)
        let (client, contextNamespace) = try invocation.connect(global)
        let namespace = global.namespace ?? contextNamespace, start = ContinuousClock.now
        var shown: Progress?
        while true {
            let progress = try await self.progress(of: name, namespace, client)
            if progress != shown {
                invocation.print("secret/\(name): \(progress.current) of \(progress.pods) pods have version \(progress.version)")
                shown = progress
            }
            if progress.isComplete { return }
            guard watch else { throw AlreadyReported() }
            if waitSeconds > 0, ContinuousClock.now - start > .seconds(waitSeconds) { throw CommandError("timed out waiting for the condition") }
            try await Task.sleep(for: .milliseconds(200))
        }
    }

    private func progress(of name: String, _ namespace: String, _ client: APIClient) async throws -> Progress {
        let version = try await client.get(.secrets, namespace: namespace, name: name).resourceVersion
        let pods = try await client.list(.pods, namespace: namespace).items.map(Pod.init).filter { pod in
            !pod.isTerminal && !pod.nodeName.isEmpty && pod.volumes.contains { $0.secretSources.contains { $0.secretName == name } }
        }
        let wanted = Int64(version) ?? .max
        let held = Set(try await client.trail(namespace: namespace, secret: name).spans.filter { span in
            span.state == .held && span.resourceVersion >= wanted
        }.map(\.podUID))
        return Progress(version: version, pods: pods.count, current: pods.count { held.contains($0.resource.uid) })
    }
}

/// `30`, `30s`, `2m`, `1h`, as flags have it.
enum WaitTime {
    static func seconds(_ text: String) throws -> Int64 {
        let units: [(String, Int64)] = [("s", 1), ("m", 60), ("h", 3_600)]
        let unit = units.first { text.hasSuffix($0.0) }
        guard let number = Int64(unit == nil ? text[...] : text.dropLast()), number >= 0, number < 1_000_000 else {
            throw CommandError("invalid duration \"\(text)\"")
        }
        return number * (unit?.1 ?? 1)
    }
}
