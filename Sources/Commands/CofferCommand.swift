import APIClient
package import ArgumentParser
import Basics
import Foundation
import Resources
import Synchronization

/// The command line: `kubectl`'s verbs and flags for Coffer's resources, and what operators need beyond them.
package struct CofferCommand: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        commandName: "cofferctl", abstract: "Works with secrets, pods, nodes and namespaces of a Coffer server.",
        discussion: "Values of secrets are masked in all output unless --reveal is given.",
        version: Version.client,
        groupedSubcommands: [
            CommandGroup(
                name: "Resources",
                subcommands: [
                    Get.self, Describe.self, Create.self, Apply.self, Diff.self, Replace.self, PatchVerb.self, Edit.self, Delete.self, Label.self, Annotate.self,
                    WaitVerb.self, Rollout.self, Trace.self,
                ]),
            CommandGroup(name: "Nodes", subcommands: [Cordon.self, Uncordon.self, Drain.self]),
            CommandGroup(name: "Keys", subcommands: [Operator.self, Vault.self]),
            CommandGroup(name: "Cluster", subcommands: [Members.self, EndpointVerb.self, MoveLeader.self, CertificatesVerb.self]),
            CommandGroup(name: "Other", subcommands: [APIResources.self, APIVersions.self, Explain.self, Auth.self, ClusterInfo.self, Version.self, Config.self, Completion.self]),
        ])
    package init() {}

    /// Parses, runs, and answers the exit code: 0, or 1 for every failure, as `kubectl` does.
    package static func run(_ arguments: [String], in invocation: Invocation) async -> Int32 {
        do {
            if arguments.first == "---completion" {
                _ = try await NameCompletion.$invocation.withValue(invocation) { try await asyncParseAsRoot(arguments) }
            }
            let words = normalized(arguments)
            if let verb = words.first, !verb.hasPrefix("-"), !verbs.contains(verb) {
                throw CommandError("unknown command \"\(verb)\" for \"cofferctl\"\nRun 'cofferctl --help' for usage.")
            }
            var command = try await asyncParseAsRoot(words)
            // What is no verb is a group of them, whose help is asked for.
            if let verb = command as? any Verb { try await verb.run(in: invocation) } else { try command.run() }
            return 0
        } catch is AlreadyReported {
            return 1
        } catch let end as ExitWith {
            return end.code
        } catch {
            return report(error, invocation)
        }
    }

    /// The verb first, so that what depends on it finds it.
    static func normalized(_ arguments: [String]) -> [String] { BooleanFlags.plain(JoinedValues.split(LeadingOptions.moved(arguments))) }
    private static var verbs: [String] {
        configuration.groupedSubcommands.flatMap(\.subcommands).flatMap { [$0._commandName] + $0.configuration.aliases } + ["help"]
    }

    private static func report(_ error: any Error, _ invocation: Invocation) -> Int32 {
        switch error {
        case is Status, is CommandError, is ConnectionFailure, is ConfigurationError, is MalformedDocument, is JSONPath.Malformed, is PatchError:
            invocation.note(FailureText.of(error))
            return 1
        default:
            let text = fullMessage(for: error)
            if exitCode(for: error) == .success {
                invocation.print(text)
                return 0
            }
            invocation.note(text)
            return 1
        }
    }
}

extension Verb where Self: AsyncParsableCommand {
    package mutating func run() async throws { try await run(in: .live()) }
}

extension Invocation {
    /// Against standard input and output, the environment, and the configured server.
    package static func live() -> Invocation {
        let environment = ProcessInfo.processInfo.environment
        return Invocation(
            output: { write($0, to: STDOUT_FILENO) }, messages: { write(Bytes($0.utf8), to: STDERR_FILENO) },
            input: {
                let data = try FileHandle.standardInput.read(upToCount: Limits.manifestBytesMax + 1) ?? Data()
                guard data.count <= Limits.manifestBytesMax else { throw CommandError("standard input has more than \(Limits.manifestBytesMax) bytes") }
                return Bytes(data)
            }, edit: { try Editor.edit($0, environment: environment) }, environment: environment,
            now: { Timestamp(secondsSinceEpoch: Int64(Date().timeIntervalSince1970)) },
            connect: { global in
                var configuration = try global.files(environment).resolve(
                    context: global.context, cluster: global.cluster, user: global.user, server: global.server)
                if let user = global.impersonatedUser { configuration.impersonated = .init(user: user, groups: global.impersonatedGroups) }
                guard global.impersonatedUser != nil || global.impersonatedGroups.isEmpty else { throw CommandError("--as-group needs --as") }
                let transport = try connection.withLock { open in
                    let transport = try open ?? HTTPTransport(configuration)
                    open = transport
                    return transport
                }
                return (APIClient(transport: transport), configuration.namespace)
            })
    }
    /// One connection pool per process, which lives until the process ends.
    private static let connection = Mutex<HTTPTransport?>(nil)

    /// Everything, or nothing more once the reader is gone.
    private static func write(_ bytes: Bytes, to descriptor: Int32) {
        bytes.withUnsafeBytes { buffer in
            var written = 0
            while written < buffer.count {
                let count = Foundation.write(descriptor, buffer.baseAddress?.advanced(by: written), buffer.count - written)
                if count < 0 && errno == EINTR { continue }
                if count <= 0 { exit(1) }
                written += count
            }
        }
    }
}
