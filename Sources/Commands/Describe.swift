import APIClient
package import ArgumentParser
import Basics
import Resources
import SecretMemory

package struct Describe: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Show details of resources, and never a value.", discussion: "There is no flag that shows one here: see `get --reveal`.")
    @Argument(help: "TYPE [NAME…] or TYPE/NAME….", completion: .resources) var resources: [String] = []
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var selector: SelectorOptions
    @Flag(name: [.customShort("A"), .long], help: "All namespaces.") var allNamespaces = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let (client, contextNamespace) = try invocation.connect(global)
        let namespace = global.namespace ?? contextNamespace
        let targets =
            manifests.files.isEmpty
            ? try ResourceArguments(resources).targets : try Inputs(invocation: invocation).resources(manifests).map { .init(type: $0.type, name: $0.name) }
        var shown = 0
        try await invocation.forEach(targets) { target in
            let found: [Resource]
            if let name = target.name {
                found = [try await client.get(target.type, namespace: namespace, name: name)]
            } else {
                found = try await client.list(target.type, namespace: allNamespaces ? nil : namespace, .init(labels: selector.labels, fields: selector.fields))
                    .items
            }
            for resource in found {
                if shown > 0 { invocation.output([0x0a, 0x0a]) }
                shown += 1
                var text = Description(resource, now: invocation.now())
                if resource.type == .nodes { text.pods(try await client.list(.pods, namespace: nil, .init(fields: "spec.nodeName=\(resource.name)")).items) }
                invocation.output(Bytes(text.text.utf8))
            }
        }
        if shown == 0 { invocation.note(allNamespaces ? "No resources found" : "No resources found in \(namespace) namespace.") }
    }
}

/// A resource in words, as `kubectl describe` lays it out. Of secrets it says names and sizes.
struct Description {
    private(set) var text = ""
    private let resource: Resource

    init(_ resource: Resource, now: Timestamp) {
        self.resource = resource
        switch resource.type.kind {
        case "Secret": secret()
        case "Pod": pod()
        case "Node": node()
        default:
            head()
            field("Status", resource.isBeingDeleted ? "Terminating" : resource["status", "phase"]?.stringValue ?? "Active")
        }
    }

    private static let width = 14
    private mutating func line(_ line: String) { text += TableText.printable(line) + "\n" }
    private mutating func field(_ name: String, _ value: String, indent: Int = 0) {
        let label = String(repeating: " ", count: indent) + name + ":"
        line(label + String(repeating: " ", count: max(1, Self.width + indent - label.count)) + value)
    }
    private mutating func pairs(_ name: String, _ pairs: [(key: String, value: String)], joiner: String) {
        if pairs.isEmpty { return field(name, "<none>") }
        for (index, pair) in pairs.enumerated() {
            let value = pair.key + joiner + pair.value
            if index == 0 { field(name, value) } else { line(String(repeating: " ", count: Self.width) + value) }
        }
    }

    private mutating func head() {
        field("Name", resource.name)
        if resource.type.isNamespaced { field("Namespace", resource.namespace) }
        pairs("Labels", resource.labelPairs, joiner: "=")
        pairs("Annotations", resource.annotationPairs.map { ($0.key, $0.value) }, joiner: ": ")
        if let deletion = resource.deletionTimestamp { field("Terminating", "since \(deletion)") }
    }

    private mutating func secret() {
        let secret = Secret(resource)
        head()
        text += "\n"
        field("Type", secret.type)
        if secret.isImmutable { field("Immutable", "true") }
        text += "\nData\n====\n"
        let width = (secret.data.map { $0.key.count }.max() ?? 0) + 3
        for (key, value) in secret.data {
            line(key + ":" + String(repeating: " ", count: width - key.count - 1) + "\(value.count) bytes")
        }
    }

    private mutating func pod() {
        let pod = Pod(resource)
        head()
        field("Node", pod.nodeName.isEmpty ? "<none>" : pod.nodeName)
        field("Status", resource.isBeingDeleted ? "Terminating" : pod.phase.rawValue)
        if let group = pod.fsGroup { field("FS Group", String(group)) }
        if !pod.nodeSelector.isEmpty { pairs("Node-Selectors", pod.nodeSelector, joiner: "=") }
        line("Containers:")
        for container in resource["spec", "containers"]?.arrayValue ?? [] { self.container(container) }
        conditions(resource["status", "conditions"]?.arrayValue ?? [])
        line("Volumes:")
        if pod.volumes.isEmpty { line("  <none>") }
        for volume in pod.volumes { self.volume(volume) }
    }

    private mutating func container(_ container: JSONValue) {
        line("  \(container["name"]?.stringValue ?? ""):")
        field("Image", container["image"]?.stringValue ?? "", indent: 4)
        let environment = container["env"]?.arrayValue ?? [], sources = container["envFrom"]?.arrayValue ?? []
        for source in sources {
            guard let name = source.at("secretRef", "name")?.stringValue else { continue }
            field("Environment From", "secret \(name), optional: \(source.at("secretRef", "optional")?.boolValue ?? false)", indent: 4)
        }
        if !environment.isEmpty { line("    Environment:") }
        for variable in environment {
            let name = variable["name"]?.stringValue ?? ""
            if let reference = variable.at("valueFrom", "secretKeyRef") {
                line("      \(name):  <set to the key '\(reference["key"]?.stringValue ?? "")' in secret '\(reference["name"]?.stringValue ?? "")'>")
            } else {
                // A literal may be a secret someone put there: its size says enough.
                line("      \(name):  <\(variable["value"]?.stringValue?.utf8.count ?? 0) bytes>")
            }
        }
        line("    Mounts:")
        let mounts = container["volumeMounts"]?.arrayValue ?? []
        if mounts.isEmpty { line("      <none>") }
        for mount in mounts {
            line(
                "      \(mount["mountPath"]?.stringValue ?? "") from \(mount["name"]?.stringValue ?? "") (\(mount["readOnly"]?.boolValue == true ? "ro" : "rw"))"
            )
        }
    }

    private mutating func volume(_ volume: Pod.Volume) {
        line("  \(volume.name):")
        switch volume.source {
        case .secret(let source):
            field("Type", "Secret (a volume populated by a Secret)", indent: 4)
            field("SecretName", source.secretName, indent: 4)
            field("Optional", String(source.isOptional), indent: 4)
        case .projected(let sources, let unsupported):
            field("Type", "Projected (a volume that contains injected data from multiple sources)", indent: 4)
            for source in sources { field("SecretName", source.secretName + (source.isOptional ? " (optional)" : ""), indent: 4) }
            for name in unsupported { field("Unsupported", name, indent: 4) }
        case .other(let kind): field("Type", kind, indent: 4)
        }
    }

    private mutating func conditions(_ conditions: [JSONValue]) {
        guard !conditions.isEmpty else { return }
        line("Conditions:")
        let rows = conditions.map { condition in ["type", "status", "reason", "message"].map { TableText.printable(condition[$0]?.stringValue ?? "") } }
        text += TableText.aligned([["Type", "Status", "Reason", "Message"]] + rows).split(separator: "\n").map { "  \($0)\n" }.joined()
    }

    private mutating func node() {
        let node = Node(resource)
        field("Name", resource.name)
        field("Roles", node.roles.isEmpty ? "<none>" : node.roles.joined(separator: ","))
        pairs("Labels", resource.labelPairs, joiner: "=")
        pairs("Annotations", resource.annotationPairs.map { ($0.key, $0.value) }, joiner: ": ")
        field("Unschedulable", String(node.isUnschedulable))
        conditions(resource["status", "conditions"]?.arrayValue ?? [])
        if !node.version.isEmpty { field("Version", node.version) }
    }
    mutating func pods(_ pods: [Resource]) {
        line("Pods:         (\(pods.count) in total)")
        let rows = pods.map { [TableText.printable($0.namespace), TableText.printable($0.name), Pod($0).phase.rawValue] }
        if !rows.isEmpty { text += TableText.aligned([["Namespace", "Name", "Status"]] + rows).split(separator: "\n").map { "  \($0)\n" }.joined() }
    }
}
