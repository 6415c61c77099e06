import APIClient
package import ArgumentParser
import Basics
import Resources

// What is served, versions, configuration, completion.

package struct APIResources: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "api-resources", abstract: "Show the kinds of resources.")
    @Flag(name: .long, help: "Print no headings.") var noHeaders = false
    @Option(name: [.customShort("o", allowingJoined: true), .long], help: "name or wide.") var output: String?
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        if output == "name" {
            for type in ResourceType.all { invocation.print(type.qualifiedName) }
            return
        }
        var rows = noHeaders ? [] : [["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"] + (output == "wide" ? ["VERBS"] : [])]
        for type in ResourceType.all {
            rows.append(
                [type.plural, type.shortNames.joined(separator: ","), type.apiVersion, String(type.isNamespaced), type.kind]
                    + (output == "wide" ? [type.verbs.joined(separator: ",")] : []))
        }
        invocation.output(Bytes(TableText.aligned(rows).utf8))
    }
}

package struct APIVersions: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "api-versions", abstract: "Show the versions of the APIs that the server has.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let client = try invocation.connect(global).client
        let core = (try await client.document("/api")["versions"]?.arrayValue ?? []).compactMap(\.stringValue)
        let groups = (try await client.document("/apis")["groups"]?.arrayValue ?? []).flatMap { $0["versions"]?.arrayValue ?? [] }
        for version in (core + groups.compactMap { $0["groupVersion"]?.stringValue }).sorted() { invocation.print(TableText.printable(version)) }
    }
}

package struct ClusterInfo: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "cluster-info", abstract: "Show where the server is, and whether it answers.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let client = try invocation.connect(global).client
        _ = try await client.serverVersion()
        invocation.print("Coffer's secrets API is running at \(TableText.printable(client.transport.server))")
    }
}

package struct Version: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Show the versions of client and server.")
    package static let client = "0.1.0"
    @Flag(name: .customLong("client"), help: "The client's only.") var isClientOnly = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        invocation.print("Client Version: v\(Self.client)")
        if isClientOnly { return }
        let version = try await invocation.connect(global).client.serverVersion()
        invocation.print("Server Version: \(TableText.printable(version["gitVersion"]?.stringValue ?? "unknown"))")
    }
}

package struct Config: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        abstract: "Look at the configuration.", subcommands: [ConfigView.self, CurrentContext.self, GetContexts.self])
    package init() {}
}

package struct ConfigView: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "view", abstract: "Show the merged kubeconfig without credentials.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        invocation.output(try global.files(invocation.environment).redacted.yamlBytes(secrets: .masked))
    }
}
package struct CurrentContext: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "current-context", abstract: "Show the name of the context in use.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let name = try global.files(invocation.environment).currentContext
        guard !name.isEmpty else { throw CommandError("current-context is not set") }
        invocation.print(name)
    }
}
package struct GetContexts: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "get-contexts", abstract: "Show the contexts there are.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let files = try global.files(invocation.environment)
        let rows = (files.redacted["contexts"]?.arrayValue ?? []).map { entry in
            let name = entry["name"]?.stringValue ?? ""
            return [name == files.currentContext ? "*" : "", name] + ["cluster", "user", "namespace"].map { entry.at("context", $0)?.stringValue ?? "" }
        }
        invocation.output(Bytes(TableText.aligned([["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"]] + rows).utf8))
    }
}

extension GlobalOptions {
    func files(_ environment: [String: String]) throws -> KubeconfigFiles {
        try KubeconfigFiles(paths: KubeconfigFiles.paths(flag: kubeconfig, environment: environment))
    }
}

package struct Completion: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Print the completion script of a shell.", discussion: "source <(cofferctl completion bash)")
    @Argument(help: "bash, zsh or fish.", completion: .list(["bash", "zsh", "fish"])) var shell: String
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        guard let shell = CompletionShell(rawValue: shell) else { throw CommandError("unsupported shell type \"\(shell)\": bash, zsh and fish are") }
        invocation.print(CofferCommand.completionScript(for: shell))
    }
}
