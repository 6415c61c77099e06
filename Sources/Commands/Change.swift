import APIClient
package import ArgumentParser
import Basics
import Resources

// Verbs that change a part of what is there: label, annotate, patch, replace, cordon, uncordon, drain.

package struct Label: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Set labels (key=value) or remove them (key-).")
    @Argument(help: "TYPE NAME… (or TYPE/NAME…) KEY=VALUE… KEY-…", completion: .resources) var words: [String] = []
    @OptionGroup var options: MapChangeOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        try await MapChange(member: "labels", done: "labeled", undone: "unlabeled").run(words, options, global, invocation)
    }
}

package struct Annotate: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Set annotations (key=value) or remove them (key-).")
    @Argument(help: "TYPE NAME… (or TYPE/NAME…) KEY=VALUE… KEY-…", completion: .resources) var words: [String] = []
    @OptionGroup var options: MapChangeOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        try await MapChange(member: "annotations", done: "annotated", undone: "annotated").run(words, options, global, invocation)
    }
}

package struct MapChangeOptions: ParsableArguments, Sendable {
    @Flag(help: "Change what is already set.") var overwrite = false
    @Flag(help: "All of the type in the namespace.") var all = false
    @Flag(name: [.customShort("A"), .long], help: "In all namespaces, with -l or --all.") var allNamespaces = false
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var selector: SelectorOptions
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    package init() {}
}

/// Changes `metadata.labels` or `metadata.annotations`.
struct MapChange {
    let member: String, done: String, undone: String

    func run(_ words: [String], _ options: MapChangeOptions, _ global: GlobalOptions, _ invocation: Invocation) async throws {
        // The first word that is a change and no TYPE/NAME.
        let split = words.firstIndex { word in
            word.contains("=") || word.hasSuffix("-") && ResourceType.named(String(word.prefix { $0 != "/" })) == nil
        }
        guard let split else { throw CommandError("at least one \(member == "labels" ? "label" : "annotation") update is required") }
        let changes = try words[split...].map(parse)
        let (client, contextNamespace) = try invocation.connect(global)
        let printer = try Printer(options.format, invocation)
        let targets = try await TargetArguments(
            Array(words[..<split]), options.manifests, options.selector, all: options.all, allNamespaces: options.allNamespaces, global: global,
            contextNamespace: contextNamespace
        ).found(client, invocation)
        try await invocation.forEach(targets) { target in try await change(target, changes, client, options, printer) }
    }

    private func parse(_ word: String) throws -> (key: String, value: String?) {
        if let sign = word.firstIndex(of: "=") { return (String(word[..<sign]), String(word[word.index(after: sign)...])) }
        guard word.hasSuffix("-"), word.count > 1 else { throw CommandError("\"\(word)\" is neither KEY=VALUE nor KEY-") }
        return (String(word.dropLast()), nil)
    }

    private func change(
        _ target: TargetArguments.Target, _ changes: [(key: String, value: String?)], _ client: APIClient, _ options: MapChangeOptions, _ printer: Printer
    ) async throws {
        let current = try await client.get(target.type, namespace: target.namespace, name: target.name)
        var patch = JSONObject()
        for change in changes {
            let present = current["metadata", member, change.key]
            if change.value == nil {
                if present != nil { patch[change.key] = .null }
                continue
            }
            if let text = present?.stringValue, text != change.value, !options.overwrite {
                throw CommandError("'\(change.key)' already has a value (\(text)), and --overwrite is false")
            }
            if present?.stringValue != change.value { patch[change.key] = change.value.map { .string($0) } }
        }
        guard !patch.isEmpty else { return printer.report(current, "not \(done)", dryRun: options.dryRun.dryRun) }
        let outcome = patch.members.allSatisfy { $0.value.isNull } ? undone : done
        let body: JSONValue = ["metadata": .object([member: .object(patch)])]
        let result =
            options.dryRun.dryRun == .client
            ? try Patch.merge(body).applied(to: current)
            : try await client.patch(
                target.type, namespace: target.namespace, name: target.name, body, as: .merge, dryRun: options.dryRun.dryRun == .server)
        printer.report(result, outcome, dryRun: options.dryRun.dryRun)
    }
}

package struct PatchVerb: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "patch", abstract: "Change parts of a resource.")
    @Argument(help: "TYPE NAME or TYPE/NAME.", completion: .resources) var resources: [String] = []
    @Option(name: [.customShort("p", allowingJoined: true), .long], help: "The patch, JSON or YAML.") var patch: String?
    @Option(name: .long, help: "A file that holds the patch; - is standard input.") var patchFile: String?
    @Option(help: "json, merge or strategic.") var type: PatchType = .strategic
    @Option(help: "The part it is for: status.") var subresource = ""
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    enum PatchType: String, ExpressibleByArgument, CaseIterable {
        case json, merge, strategic
        var contentType: Patch.ContentType {
            switch self {
            case .json: .json
            case .merge: .merge
            case .strategic: .strategic
            }
        }
    }

    package func run(in invocation: Invocation) async throws {
        let bytes: Bytes
        if let patch, patchFile == nil {
            bytes = Bytes(patch.utf8)
        } else if let patchFile, patch == nil {
            bytes = patchFile == "-" ? try invocation.input() : try Inputs.contents(patchFile, bytesMax: Limits.manifestBytesMax)
        } else {
            throw CommandError("must specify --patch or --patch-file containing the contents of the patch")
        }
        let body = try document(bytes)
        let (client, contextNamespace) = try invocation.connect(global)
        let printer = try Printer(format, invocation)
        let targets = try await TargetArguments(
            resources, manifests, nil, global: global, contextNamespace: contextNamespace
        ).found(client, invocation)
        try await invocation.forEach(targets) { target in
            let current = try await client.get(target.type, namespace: target.namespace, name: target.name)
            let result =
                dryRun.dryRun == .client
                ? try self.applied(bytes, body, to: current)
                : try await client.patch(
                    target.type, namespace: target.namespace, name: target.name, body, as: type.contentType, subresource: subresource, dryRun: dryRun.dryRun == .server)
            printer.report(result, result == current ? "patched (no change)" : "patched", dryRun: dryRun.dryRun)
        }
    }

    private func document(_ bytes: Bytes) throws -> JSONValue {
        let place: SecretPlace = type == .json ? .patchOperations : .object
        if let json = try? JSONValue(parsing: bytes, secrets: place) { return json }
        do {
            return try Manifest.document(bytes, secrets: place)
        } catch {
            throw CommandError("unable to parse the patch: \(error)")
        }
    }
    private func applied(_ bytes: Bytes, _ body: JSONValue, to current: Resource) throws -> Resource {
        switch type {
        case .json: try Patch.json(try JSONPatch(body)).applied(to: current)
        case .merge: try Patch.merge(body).applied(to: current)
        case .strategic: try Patch.strategic(body).applied(to: current)
        }
    }
}

package struct Replace: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Replace resources by what a file says.")
    @OptionGroup var manifests: ManifestOptions
    @Flag(help: "Delete what is there, and create it anew: for what cannot be changed, such as an immutable secret.") var force = false
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        guard !manifests.files.isEmpty else { throw CommandError("must specify --filename to replace") }
        guard !force || dryRun.dryRun != .server else { throw CommandError("--dry-run=server cannot be used when --force is set") }
        let resources = try Inputs(invocation: invocation).resources(manifests)
        let printer = try Printer(format, invocation)
        let (client, namespace) = try invocation.connect(global)
        try await invocation.forEach(resources) { resource in
            var placed = try invocation.place(resource, global: global, default: namespace)
            if force, dryRun.dryRun == .none { return printer.report(try await createAnew(placed, client), "replaced") }
            if placed.resourceVersion.isEmpty {
                placed.resourceVersion = try await client.get(placed.type, namespace: placed.namespace, name: placed.name).resourceVersion
            }
            let result = dryRun.dryRun == .client ? placed : try await client.replace(placed, dryRun: dryRun.dryRun == .server)
            printer.report(result, "replaced", dryRun: dryRun.dryRun)
        }
    }
}

extension Replace {
    private static let goneSecondsMax = 60

    private func createAnew(_ wanted: Resource, _ client: APIClient) async throws -> Resource {
        var wanted = wanted
        wanted.resourceVersion = ""
        wanted.uid = ""
        let start = ContinuousClock.now
        if let present = try await client.find(wanted.type, namespace: wanted.namespace, name: wanted.name) {
            try await client.delete(wanted.type, namespace: wanted.namespace, name: wanted.name, graceSeconds: 0, uid: present.uid)
            while let left = try await client.find(wanted.type, namespace: wanted.namespace, name: wanted.name), left.uid == present.uid {
                guard ContinuousClock.now - start < .seconds(Self.goneSecondsMax) else {
                    throw CommandError("timed out waiting for the deletion of \(wanted.reference)")
                }
                try await Task.sleep(for: .milliseconds(50))
            }
        }
        return try await client.create(wanted)
    }
}

/// Sets `spec.unschedulable` of nodes.
enum Scheduling {
    static func set(_ names: [String], unschedulable: Bool, _ global: GlobalOptions, _ dryRun: DryRun, _ invocation: Invocation) async throws {
        guard !names.isEmpty else { throw CommandError("a node's name is required") }
        let (client, _) = try invocation.connect(global)
        let word = unschedulable ? "cordoned" : "uncordoned"
        try await invocation.forEach(names.map { $0.hasPrefix("node/") ? String($0.dropFirst(5)) : $0 }) { name in
            let node = try await client.get(.nodes, namespace: "", name: name)
            if Node(node).isUnschedulable == unschedulable { return invocation.print("node/\(name) already \(word)\(dryRun.suffix)") }
            if dryRun != .client {
                let body: JSONValue = ["spec": ["unschedulable": unschedulable ? true : .null]]
                _ = try await client.patch(.nodes, namespace: "", name: name, body, as: .strategic, dryRun: dryRun == .server)
            }
            invocation.print("node/\(name) \(word)\(dryRun.suffix)")
        }
    }
}

package struct Cordon: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Bind no more pods to a node.")
    @Argument(completion: .nodes) var nodes: [String] = []
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws { try await Scheduling.set(nodes, unschedulable: true, global, dryRun.dryRun, invocation) }
}

package struct Uncordon: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Bind pods to a node again.")
    @Argument(completion: .nodes) var nodes: [String] = []
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws { try await Scheduling.set(nodes, unschedulable: false, global, dryRun.dryRun, invocation) }
}

package struct Drain: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(abstract: "Cordon a node and delete the pods that are bound to it.")
    @Argument(completion: .nodes) var node: String
    @Option(help: "Seconds that each pod gets to end; -1 is its own.") var gracePeriod: Int64 = -1
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let name = node.hasPrefix("node/") ? String(node.dropFirst(5)) : node
        try await Scheduling.set([name], unschedulable: true, global, dryRun.dryRun, invocation)
        let (client, _) = try invocation.connect(global)
        let pods = try await client.list(.pods, namespace: nil, .init(fields: "spec.nodeName=\(name)")).items
        try await invocation.forEach(pods) { pod in
            if dryRun.dryRun != .client {
                try await client.delete(
                    .pods, namespace: pod.namespace, name: pod.name, graceSeconds: gracePeriod < 0 ? nil : gracePeriod, uid: pod.uid,
                    dryRun: dryRun.dryRun == .server)
            }
            invocation.print("pod/\(pod.name) evicted\(dryRun.dryRun.suffix)")
        }
        invocation.print("node/\(name) drained\(dryRun.dryRun.suffix)")
    }
}
