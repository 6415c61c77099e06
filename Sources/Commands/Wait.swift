import APIClient
package import ArgumentParser
import Basics
import Resources

package struct WaitVerb: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "wait", abstract: "Wait until resources are as asked.",
        discussion: """
              cofferctl wait --for=condition=coffer.dev/SecretsReady pod/web --timeout=60s
              cofferctl wait --for=delete pod/web
              cofferctl wait --for=jsonpath='{.status.phase}'=Running pod -l app=web
            """)
    @Argument(help: "TYPE NAME…, TYPE/NAME…, or TYPE with -l or --all.", completion: .resources) var resources: [String] = []
    @Option(name: .customLong("for"), help: "create, delete, condition=TYPE[=STATUS], or jsonpath={PATH}[=VALUE].") var goal: WaitGoal
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var selector: SelectorOptions
    @Flag(help: "All of the type in the namespace.") var all = false
    @Flag(name: [.customShort("A"), .long], help: "In all namespaces, with -l or --all.") var allNamespaces = false
    @Option(help: "How long to wait for each, with a unit or without (30, 30s, 2m); 0 is to look once.") var timeout = "30s"
    @OptionGroup var format: OutputOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let seconds = try WaitTime.seconds(timeout), printer = try Printer(format, invocation)
        let (client, contextNamespace) = try invocation.connect(global)
        let targets = try await TargetArguments(
            resources, manifests, selector, all: all, allNamespaces: allNamespaces, global: global, contextNamespace: contextNamespace
        ).found(client, invocation)
        guard !targets.isEmpty else {
            if goal == .deletion { return }
            throw CommandError("no matching resources found")
        }
        try await invocation.forEach(targets) { target in
            let start = ContinuousClock.now
            var pauseMilliseconds: Int64 = 20
            while true {
                let found = try await client.find(target.type, namespace: target.namespace, name: target.name)
                if goal.isMet(by: found) {
                    if let found { printer.report(found, goal.outcome) } else { invocation.print("\(target.type.singular)/\(target.name) \(goal.outcome)") }
                    return
                }
                // What is not there has no condition, and may never have one.
                if found == nil, goal != .creation { throw Status.notFound(target.type, target.name) }
                guard ContinuousClock.now - start < .seconds(seconds) else {
                    throw CommandError("timed out waiting for the condition on \(target.type.plural)/\(target.name)")
                }
                try await Task.sleep(for: .milliseconds(pauseMilliseconds))
                pauseMilliseconds = min(pauseMilliseconds * 2, 500)
            }
        }
    }
}

/// What is waited for.
enum WaitGoal: ExpressibleByArgument, Equatable {
    case creation, deletion
    /// Both in any case.
    case condition(String, status: String)
    /// `nil`: any value.
    case value(path: String, is: String?)

    init?(argument: String) {
        let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        switch (parts[0].lowercased(), parts.count) {
        case ("create", 1): self = .creation
        case ("delete", 1): self = .deletion
        case ("condition", 2):
            let halves = parts[1].split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard !halves[0].isEmpty else { return nil }
            self = .condition(halves[0], status: halves.count > 1 ? halves[1] : "True")
        case ("jsonpath", 2):
            // An equals sign within the braces is of a filter.
            guard let end = parts[1].lastIndex(of: "}") else { return nil }
            let path = String(parts[1][...end]), rest = parts[1][parts[1].index(after: end)...]
            guard rest.isEmpty || rest.count > 1 && rest.first == "=", (try? JSONPath(path)) != nil else { return nil }
            self = .value(path: path, is: rest.isEmpty ? nil : String(rest.dropFirst()))
        default: return nil
        }
    }

    func isMet(by resource: Resource?) -> Bool {
        switch self {
        case .creation: resource != nil
        case .deletion: resource == nil
        case .condition(let type, let status):
            (resource?["status", "conditions"]?.arrayValue ?? []).contains { condition in
                condition["type"]?.stringValue?.lowercased() == type.lowercased() && condition["status"]?.stringValue?.lowercased() == status.lowercased()
            }
        case .value(let path, let wanted):
            resource.map { resource in
                let values = (try? JSONPath(path))?.values(resource.json) ?? []
                return values.count == 1 && (wanted == nil || JSONPath.text(of: values[0], .revealed) == wanted)
            } ?? false
        }
    }
    var outcome: String {
        switch self {
        case .creation, .condition, .value: "condition met"
        case .deletion: "deleted"
        }
    }
}

/// The objects that a verb is about: by name, by file, by label, or all of a kind.
struct TargetArguments {
    struct Target { var type: ResourceType, namespace: String, name: String }
    let words: [String], manifests: ManifestOptions
    /// `nil` for a verb that takes names only.
    let selector: SelectorOptions?
    let all: Bool, allNamespaces: Bool
    let global: GlobalOptions
    let contextNamespace: String

    init(
        _ words: [String], _ manifests: ManifestOptions, _ selector: SelectorOptions?, all: Bool = false, allNamespaces: Bool = false, global: GlobalOptions,
        contextNamespace: String
    ) {
        self.words = words; self.manifests = manifests; self.selector = selector; self.all = all; self.allNamespaces = allNamespaces
        self.global = global; self.contextNamespace = contextNamespace
    }

    func found(_ client: APIClient, _ invocation: Invocation) async throws -> [Target] {
        let namespace = global.namespace ?? contextNamespace
        guard manifests.files.isEmpty else {
            guard words.isEmpty else { throw CommandError("when files are given by -f, resources cannot be given as arguments") }
            return try Inputs(invocation: invocation).resources(manifests).map { resource in
                let placed = try invocation.place(resource, global: global, default: contextNamespace)
                return Target(type: placed.type, namespace: placed.namespace, name: placed.name)
            }
        }
        var found: [Target] = []
        let labels = selector?.labels ?? "", fields = selector?.fields ?? ""
        for target in try ResourceArguments(words).targets {
            if let name = target.name {
                guard !all, labels.isEmpty else { throw CommandError("name cannot be provided when a selector is specified") }
                found.append(Target(type: target.type, namespace: namespace, name: name))
                continue
            }
            guard all || !labels.isEmpty || !fields.isEmpty else {
                throw CommandError("resource(s) were provided, but no name was specified")
            }
            // Of a table the server sends names only.
            let table = try await client.table(
                target.type, namespace: allNamespaces ? nil : namespace, .init(labels: labels, fields: fields)
            ).table
            for row in table["rows"]?.arrayValue ?? [] {
                guard let metadata = row.at("object", "metadata"), let name = metadata["name"]?.stringValue else { continue }
                found.append(Target(type: target.type, namespace: metadata["namespace"]?.stringValue ?? namespace, name: name))
            }
        }
        return found
    }
}
