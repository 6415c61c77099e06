package import ArgumentParser
import Resources

/// Flags that every verb has, as `kubectl` names them.
package struct GlobalOptions: ParsableArguments, Sendable {
    @Option(help: "Path of the kubeconfig file. Default: $COFFERCONFIG, $KUBECONFIG, ~/.coffer/config, ~/.kube/config.", completion: .file())
    package var kubeconfig: String?
    @Option(help: "Name of the kubeconfig's context to use.")
    package var context: String?
    @Option(help: "Name of the kubeconfig's cluster to use.")
    package var cluster: String?
    @Option(help: "Name of the kubeconfig's user to use.")
    package var user: String?
    @Option(name: [.customShort("s", allowingJoined: true), .long], help: "Address of the server: https://host:port.")
    package var server: String?
    @Option(name: [.customShort("n", allowingJoined: true), .customLong("namespace")], help: "The namespace to work in.", completion: .namespaces)
    package var namespaceFlag: String?
    @Option(name: .customLong("as"), help: "User to act as, for administrators.")
    package var impersonatedUser: String?
    @Option(name: .customLong("as-group"), help: "Group to act as a member of, with --as. May be given several times.")
    package var impersonatedGroups: [String] = []
    /// An empty one is none.
    package var namespace: String? { namespaceFlag?.isEmpty == true ? nil : namespaceFlag }
    package init() {}
}

/// `-o`, and whether values are shown.
package struct OutputOptions: ParsableArguments, Sendable {
    @Option(
        name: [.customShort("o", allowingJoined: true), .long],
        help: "json, yaml, name, wide, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE, custom-columns=SPEC.",
        completion: .list(["json", "yaml", "name", "wide", "jsonpath=", "jsonpath-as-json=", "custom-columns="]))
    package var output: String?
    @Flag(help: "Show the values of secrets, which are masked otherwise.")
    package var reveal = false
    @Flag(name: .customLong("show-managed-fields"), help: .hidden)
    package var showsManagedFields = false
    package init() {}
}

package struct SelectorOptions: ParsableArguments, Sendable {
    @Option(name: [.customShort("l", allowingJoined: true), .customLong("selector")], help: "Label selector: a=b, a!=b, a in (b,c), a, !a; joined by commas.")
    package var labels: String = ""
    @Option(name: .customLong("field-selector"), help: "Field selector: metadata.name=x, spec.nodeName=y, type=z.")
    package var fields: String = ""
    package init() {}
}

package struct ManifestOptions: ParsableArguments, Sendable {
    @Option(
        name: [.customShort("f", allowingJoined: true), .customLong("filename")],
        help: "Manifest file or folder; - is standard input. May be given several times.", completion: .file())
    package var files: [String] = []
    @Flag(name: [.customShort("R"), .long], help: "Look into folders below the given ones.")
    package var recursive = false
    package init() {}
}

package struct DryRunOptions: ParsableArguments, Sendable {
    @Option(name: .customLong("dry-run"), help: "none, client (send nothing) or server (validate, store nothing).")
    package var dryRun: DryRun = .none
    package init() {}
}
package enum DryRun: String, ExpressibleByArgument, CaseIterable, Sendable {
    case none, client, server
    var suffix: String {
        switch self {
        case .none: ""
        case .client: " (dry run)"
        case .server: " (server dry run)"
        }
    }
}
