import APIClient
package import ArgumentParser
import Basics
import Resources

package struct Get: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Show resources.",
        discussion: """
            Tables never hold a value: the server does not send any. Other formats mask the values of secrets unless --reveal is given.

              cofferctl get secrets -n prod
              cofferctl get secret/web-tls -o yaml
              cofferctl get secret db -o jsonpath='{.data.password}' --reveal | base64 -d
              cofferctl get pods -A -w
            """)
    @Argument(
        help: "TYPE [NAME…] or TYPE/NAME…; TYPE is namespaces (ns), nodes (no), pods (po) or secrets, several joined by commas.",
        completion: .resources)
    var resources: [String] = []
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var selector: SelectorOptions
    @OptionGroup var format: OutputOptions
    @Flag(name: [.customShort("A"), .long], help: "All namespaces.") var allNamespaces = false
    @Flag(name: [.customShort("w"), .long], help: "After listing, wait for changes and show them.") var watch = false
    @Flag(name: .long, help: "Wait for changes without listing first.") var watchOnly = false
    @Flag(name: .long, help: "Print no headings.") var noHeaders = false
    @Flag(name: .long, help: "Show labels as the last column.") var showLabels = false
    @Option(name: [.customShort("L", allowingJoined: true), .customLong("label-columns")], help: "Labels to show, each in a column; joined by commas.")
    var labelColumns: [String] = []
    @Flag(name: .long, help: "Show the kind with each name.") var showKind = false
    @Flag(name: .long, help: "With --watch, show what happened: ADDED, MODIFIED or DELETED.") var outputWatchEvents = false
    @Flag(name: .long, help: "Say nothing of resources that are not there.") var ignoreNotFound = false
    @Option(name: .long, help: "Sort by a path, such as .metadata.creationTimestamp.") var sortBy: String?
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let printer = try Printer(format, invocation)
        let (client, contextNamespace) = try invocation.connect(global)
        let namespace = global.namespace ?? contextNamespace
        let targets: [ResourceArguments.Target]
        if manifests.files.isEmpty {
            targets = try ResourceArguments(resources).targets
        } else {
            targets = try Inputs(invocation: invocation).resources(manifests).map { .init(type: $0.type, name: $0.name) }
        }
        if allNamespaces, targets.contains(where: { $0.name != nil && $0.type.isNamespaced }) {
            throw CommandError("a resource cannot be retrieved by name across all namespaces")
        }
        if watch || watchOnly {
            guard targets.count == 1, let target = targets.first else { throw CommandError("you may only specify a single resource type when watching") }
            return try await Follow(get: self, printer: printer, invocation: invocation, client: client, namespace: namespace, target: target).run()
        }
        if printer.format.isTable {
            try await tables(targets, client, namespace, invocation)
        } else {
            try await objects(targets, client, namespace, printer, invocation)
        }
    }

    var shownLabels: [String] { labelColumns.flatMap { $0.split(separator: ",").map(String.init) } }
    var isWide: Bool { format.output == "wide" }
    func selection(_ target: ResourceArguments.Target) -> APIClient.Selection { APIClient.Selection(labels: selector.labels, fields: selector.fields) }

    // MARK: Tables

    private func tables(_ targets: [ResourceArguments.Target], _ client: APIClient, _ namespace: String, _ invocation: Invocation) async throws {
        let types = targets.reduce(into: [ResourceType]()) { list, target in if !list.contains(target.type) { list.append(target.type) } }
        var shown = 0
        var failed = false
        for type in types {
            var rows: [JSONValue] = [], columns: JSONValue = []
            do {
                try await invocation.forEach(targets.filter { $0.type == type }) { target in
                    guard let table = try await self.table(target, client, namespace, invocation) else { return }
                    columns = table["columnDefinitions"] ?? columns
                    rows += table["rows"]?.arrayValue ?? []
                }
            } catch is AlreadyReported {
                failed = true
            }
            guard !rows.isEmpty else { continue }
            if let sortBy { rows = try sorted(rows, by: JSONPath(relaxed: sortBy)) { $0["object"] ?? .null } }
            var text = TableText(
                showsHeadings: !noHeaders, isWide: isWide, showsNamespace: allNamespaces && type.isNamespaced, showsLabels: showLabels,
                labelColumns: shownLabels, kindPrefix: types.count > 1 || showKind ? type.singular : nil)
            if shown > 0 { invocation.print("") }
            invocation.output(Bytes(text.render(["columnDefinitions": columns, "rows": .array(rows)]).utf8))
            shown += 1
        }
        if failed { throw AlreadyReported() }
        if shown == 0, !ignoreNotFound {
            let isNamespaced = types.contains { $0.isNamespaced }
            invocation.note(isNamespaced && !allNamespaces ? "No resources found in \(namespace) namespace." : "No resources found")
        }
    }

    private func table(_ target: ResourceArguments.Target, _ client: APIClient, _ namespace: String, _ invocation: Invocation) async throws -> JSONValue? {
        guard let name = target.name else { return try await client.table(target.type, namespace: allNamespaces ? nil : namespace, selection(target)).table }
        do {
            return try await client.table(target.type, namespace: namespace, name: name).table
        } catch let status as Status where status.reason == .notFound && ignoreNotFound {
            return nil
        }
    }

    // MARK: Objects

    private func objects(
        _ targets: [ResourceArguments.Target], _ client: APIClient, _ namespace: String, _ printer: Printer, _ invocation: Invocation
    ) async throws {
        var found: [Resource] = []
        var failed = false
        do {
            try await invocation.forEach(targets) { target in
                guard let name = target.name else {
                    found += try await client.list(target.type, namespace: allNamespaces ? nil : namespace, selection(target)).items
                    return
                }
                do {
                    found.append(try await client.get(target.type, namespace: namespace, name: name))
                } catch let status as Status where status.reason == .notFound && ignoreNotFound {
                    return
                }
            }
        } catch is AlreadyReported {
            failed = true
        }
        if let sortBy { found = try sorted(found, by: JSONPath(relaxed: sortBy), document: \.json) }
        let isOneByName = targets.count == 1 && targets[0].name != nil
        if !isOneByName || !found.isEmpty, !(failed && found.isEmpty) { printer.print(found, asList: !isOneByName) }
        if failed { throw AlreadyReported() }
    }

    private func sorted<Element>(_ elements: [Element], by path: JSONPath, document: (Element) -> JSONValue) throws -> [Element] {
        let keyed = elements.enumerated().map { (key: path.values(document($1)).first ?? .null, place: $0, element: $1) }
        return keyed.sorted { a, b in
            let order = JSONPath.order(a.key, b.key) ?? (a.key.isNull == b.key.isNull ? 0 : a.key.isNull ? -1 : 1)
            return order == 0 ? a.place < b.place : order < 0
        }.map(\.element)
    }
}

/// `get --watch`: the present state, then every change, for as long as it is let. A watch that the server ends goes on from where it was.
private struct Follow {
    let get: Get
    let printer: Printer
    let invocation: Invocation
    let client: APIClient
    let namespace: String
    let target: ResourceArguments.Target

    func run() async throws {
        let isTable = printer.format.isTable
        var selection = get.selection(target)
        if let name = target.name { selection.fields = [selection.fields, "metadata.name=\(name)"].filter { !$0.isEmpty }.joined(separator: ",") }
        let space = get.allNamespaces ? nil : namespace
        var text = TableText(
            showsHeadings: !get.noHeaders, isWide: get.isWide, showsNamespace: get.allNamespaces && target.type.isNamespaced, showsLabels: get.showLabels,
            labelColumns: get.shownLabels, kindPrefix: get.showKind ? target.type.singular : nil)
        if let name = target.name, !get.watchOnly { _ = try await client.get(target.type, namespace: namespace, name: name) }
        var version: String
        if isTable {
            let listed = try await client.table(target.type, namespace: space, selection)
            version = listed.resourceVersion
            if !get.watchOnly, !(listed.table["rows"]?.arrayValue ?? []).isEmpty { show(listed.table, &text, "ADDED") }
        } else {
            let listed = try await client.list(target.type, namespace: space, selection)
            version = listed.resourceVersion
            if !get.watchOnly { for item in listed.items { show(item, "ADDED") } }
        }
        while !Task.isCancelled {
            let stream = try await client.watch(target.type, namespace: space, selection, after: version, asTable: isTable)
            while let event = try await stream.next() {
                let word = event.change.rawValue.uppercased()
                if isTable { show(event.object, &text, word) } else if let tree = event.object.objectValue { show(Resource(target.type, tree: tree), word) }
            }
            if stream.resourceVersion == version { return }
            version = stream.resourceVersion
        }
    }

    private func show(_ table: JSONValue, _ text: inout TableText, _ event: String) {
        invocation.output(Bytes(text.render(table, event: get.outputWatchEvents ? event : nil).utf8))
    }
    private func show(_ resource: Resource, _ event: String) {
        if case .yaml = printer.format { invocation.print("---") }
        guard get.outputWatchEvents else { return printer.print([resource]) }
        switch printer.format {
        case .name: invocation.print("\(event)   \(resource.reference)")
        case .json, .yaml: printer.print(["type": .string(event), "object": resource.json])
        default: printer.print([resource])
        }
    }
}
