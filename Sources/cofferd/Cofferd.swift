import ArgumentParser
import Basics

/// The store daemon.
@main
struct Cofferd: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cofferd",
        abstract: "A secrets store: etcd's v3 API and a Kubernetes-shaped secrets API over one encrypted store.",
        discussion: """
            Flags may also be given as environment variables: --data-dir is COFFER_DATA_DIR.
            """,
        version: "cofferd \(Version.current)",
        subcommands: [Serve.self, IssueCertificate.self],
        defaultSubcommand: Serve.self)

    static func main() async {
        let arguments = Environment.merged(Array(CommandLine.arguments.dropFirst()))
        do {
            var command = try parseAsRoot(arguments)
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch {
            exit(withError: error)
        }
    }
}
