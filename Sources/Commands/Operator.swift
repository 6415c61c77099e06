import APIClient
package import ArgumentParser
import Basics
import Resources

package struct Operator: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(abstract: "Operate the store's keys.", subcommands: [Rotate.self, Rotations.self])
    package init() {}
}

package struct Rotate: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Give a namespace a new key generation; old values are encrypted again in the background.",
        discussion: """
              cofferctl operator rotate --namespace prod --watch
              cofferctl operator rotate --domain plain              # the keys of the etcd port

            New writes go under the new key at once. With --watch, shows progress until nothing is left under older ones.
            """)
    @Option(help: "What belongs to no namespace: plain (keys of the etcd port) or cluster (nodes, namespaces).") var domain: OtherDomain?
    @Option(help: "dek: a new data key, values are sealed again. kek: a new key-encryption key, data keys are wrapped again.") var level: Level = .dek
    @Flag(name: [.customShort("w"), .long], help: "Show progress until it is done.") var watch = false
    @OptionGroup package var global: GlobalOptions
    package init() {}
    enum Level: String, ExpressibleByArgument, CaseIterable { case dek, kek }
    enum OtherDomain: String, ExpressibleByArgument, CaseIterable { case plain, cluster }

    package func run(in invocation: Invocation) async throws {
        let (client, _) = try invocation.connect(global)
        guard (global.namespace == nil) != (domain == nil) else {
            throw CommandError("one of --namespace and --domain is required: a rotation is of one namespace's keys, or of what belongs to none")
        }
        let name = global.namespace.map { "namespace/\($0)" } ?? domain?.rawValue
        var progress = try await client.rotate(namespace: global.namespace, domain: domain?.rawValue, level: level.rawValue)
        var shown = Self.text(of: progress)
        invocation.print(shown)
        while watch, progress["state"]?.stringValue == "Running" {
            try await Task.sleep(for: .milliseconds(200))
            // A later rotation of the same keys takes this one's work over: what is left is left for both.
            let mine = try await client.rotations().first { $0["domain"]?.stringValue == name && $0["level"]?.stringValue == level.rawValue }
            guard let mine else { throw CommandError("the server no longer knows of this rotation") }
            progress = mine
            if Self.text(of: progress) != shown {
                shown = Self.text(of: progress)
                invocation.print(shown)
            }
        }
        if progress["state"]?.stringValue == "Failed" { throw CommandError("the rotation failed: \(progress["message"]?.stringValue ?? "")") }
    }

    static func text(of progress: JSONValue) -> String {
        let level = progress["level"]?.stringValue ?? "", done = progress["done"]?.integerValue ?? 0, remaining = progress["remaining"]?.integerValue ?? 0
        let what = level == "kek" ? "data keys" : "values"
        let message = progress["message"]?.stringValue ?? ""
        return TableText.printable(
            "\(progress["domain"]?.stringValue ?? "") \(level) generation \(progress["generation"]?.integerValue ?? 0): "
                + "\((progress["state"]?.stringValue ?? "").lowercased()), \(done) \(what) under it, \(remaining) to go"
                + (message.isEmpty ? "" : " (\(message))"))
    }
}

package struct Rotations: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Show rotations and how far they are.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let rotations = try await invocation.connect(global).client.rotations()
        if rotations.isEmpty { return invocation.note("No rotations") }
        for rotation in rotations { invocation.print(Rotate.text(of: rotation)) }
    }
}

package struct Vault: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(abstract: "Look at the key management.", subcommands: [VaultStatus.self])
    package init() {}
}

package struct VaultStatus: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show whether the vault is unsealed, and how many values are under each key. Never a key.")
    @Option(name: [.customShort("o", allowingJoined: true), .long], help: "json or yaml.") var output: String?
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let status = try await invocation.connect(global).client.vaultStatus()
        switch output {
        case nil: invocation.output(Bytes(Self.text(of: status).utf8))
        case "json": invocation.output(status.encodedBytes(.pretty(indent: 4), secrets: .masked) + [0x0a])
        case "yaml": invocation.output(status.yamlBytes(secrets: .masked))
        case let other?: throw CommandError("unable to match a printer suitable for the output format \"\(other)\", allowed formats are: json,yaml")
        }
    }

    static func text(of status: JSONValue) -> String {
        let slots = (status["slots"]?.arrayValue ?? []).compactMap(\.stringValue).joined(separator: ", ")
        var text = "Sealed:   \(status["sealed"]?.boolValue == true ? "yes" : "no")\nKeyring:  \(status["keyring"]?.stringValue ?? "")\nSlots:    \(slots)\n"
        var rows: [[String]] = []
        for namespace in status["namespaces"]?.arrayValue ?? [] {
            for key in namespace["dataKeys"]?.arrayValue ?? [] {
                rows.append([
                    TableText.printable(namespace["name"]?.stringValue ?? ""), String(namespace["kekVersion"]?.integerValue ?? 0),
                    String(key["generation"]?.integerValue ?? 0),
                    key["state"]?.stringValue ?? "", String(key["values"]?.integerValue ?? 0),
                ])
            }
        }
        if !rows.isEmpty { text += "\n" + TableText.aligned([["NAMESPACE", "KEK", "DEK", "STATE", "VALUES"]] + rows) }
        return text
    }
}
