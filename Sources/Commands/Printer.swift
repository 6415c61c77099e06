import APIClient
import Basics
import Resources

/// What `-o` asks for.
enum OutputFormat {
    case table(isWide: Bool)
    case json, yaml, name
    case path(JSONPath, asJSON: Bool)
    case columns([(heading: String, path: JSONPath)])

    init(_ text: String?) throws {
        switch text {
        case nil, "": self = .table(isWide: false)
        case "wide": self = .table(isWide: true)
        case "json": self = .json
        case "yaml": self = .yaml
        case "name": self = .name
        case let other?:
            let parts = other.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            switch parts[0] {
            case "jsonpath", "jsonpath-as-json":
                guard parts.count == 2 else { throw CommandError("template format specified but no template given") }
                self = .path(try JSONPath(parts[1].contains("{") ? parts[1] : "{\(parts[1])}"), asJSON: parts[0] == "jsonpath-as-json")
            case "custom-columns":
                guard parts.count == 2, !parts[1].isEmpty else { throw CommandError("custom-columns format specified but no custom columns given") }
                self = .columns(
                    try parts[1].split(separator: ",").map { column in
                        let halves = column.split(separator: ":", maxSplits: 1).map(String.init)
                        guard halves.count == 2 else { throw CommandError("unexpected custom-columns spec: \(column), expected <header>:<json-path-expr>") }
                        return (halves[0], try JSONPath(relaxed: halves[1]))
                    })
            default:
                throw CommandError(
                    "unable to match a printer suitable for the output format \"\(other)\", "
                        + "allowed formats are: custom-columns,json,jsonpath,jsonpath-as-json,name,wide,yaml"
                )
            }
        }
    }
    var isTable: Bool { if case .table = self { true } else { false } }
}

/// Prints objects as asked. Values of secrets are masked unless `reveal` is given, and then the last-applied annotation too.
struct Printer {
    let format: OutputFormat
    let display: SecretDisplay
    let showsManagedFields: Bool
    let invocation: Invocation

    init(_ options: OutputOptions, _ invocation: Invocation) throws {
        format = try OutputFormat(options.output)
        display = options.reveal ? .revealed : .masked
        showsManagedFields = options.showsManagedFields
        self.invocation = invocation
    }

    /// For what is no resource, and holds no values.
    init(_ format: OutputFormat, _ invocation: Invocation) {
        self.format = format; self.invocation = invocation
        display = .masked; showsManagedFields = false
    }

    /// One object as itself, several (or `asList`) as a List.
    func print(_ resources: [Resource], asList: Bool = false) {
        let shown = resources.map { resource in
            var resource = resource
            if !showsManagedFields { resource["metadata", "managedFields"] = nil }
            return resource
        }
        if case .name = format {
            for resource in shown { invocation.print(resource.reference) }
            return
        }
        if case .columns(let columns) = format { return print(shown, columns) }
        let document: JSONValue =
            shown.count == 1 && !asList
            ? shown[0].json
            : ["apiVersion": "v1", "items": .array(shown.map(\.json)), "kind": "List", "metadata": ["resourceVersion": ""]]
        print(document)
    }

    func print(_ document: JSONValue) {
        let hidesValue: Bool
        switch format {
        case .json:
            invocation.output(document.encodedBytes(.pretty(indent: 4), secrets: display) + [0x0a])
            hidesValue = document.containsSecret
        case .path(let path, let asJSON):
            let text =
                asJSON
                ? JSONValue.array(path.values(document)).encodedString(.pretty(indent: 4), secrets: display) + "\n" : path.render(document, secrets: display)
            invocation.output(Bytes(text.utf8))
            hidesValue = text.contains(SecretDisplay.mask)
        default:
            invocation.output(document.yamlBytes(secrets: display))
            hidesValue = document.containsSecret
        }
        if display == .masked && hidesValue { invocation.note("values of secrets are masked: --reveal shows them") }
    }

    private func print(_ resources: [Resource], _ columns: [(heading: String, path: JSONPath)]) {
        let rows = resources.map { resource in
            columns.map { column in
                let values = column.path.values(resource.json).map { JSONPath.text(of: $0, display) }
                return values.isEmpty ? "<none>" : TableText.printable(values.joined(separator: ","))
            }
        }
        invocation.output(Bytes(TableText.aligned([columns.map(\.heading)] + rows).utf8))
    }

    /// The outcome of a change: the object if a format is given, else a line like `secret/x created`.
    func report(_ resource: Resource, _ outcome: String, dryRun: DryRun = .none) {
        if format.isTable { invocation.print("\(resource.reference) \(outcome)\(dryRun.suffix)") } else { print([resource]) }
    }
}
