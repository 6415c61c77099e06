import APIClient
package import ArgumentParser
import Basics
import Resources
import SecretMemory

package struct Apply: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Make resources as a manifest says: create what is not there, change what differs.",
        discussion: "What the manifest applied before said and this one does not is removed; what others have set stays.")
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    @Flag(name: .customLong("server-side"), help: .hidden) var isServerSide = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        guard !isServerSide else { throw CommandError("--server-side: the server keeps no field managers; apply without it") }
        guard !manifests.files.isEmpty else { throw CommandError("must specify -f") }
        let resources = try Inputs(invocation: invocation).resources(manifests)
        let printer = try Printer(format, invocation)
        let (client, namespace) = try invocation.connect(global)
        try await invocation.forEach(resources) { resource in
            try await apply(try invocation.place(resource, global: global, default: namespace), client, printer, invocation)
        }
    }

    private func apply(_ wanted: Resource, _ client: APIClient, _ printer: Printer, _ invocation: Invocation) async throws {
        guard !wanted.name.isEmpty else {
            throw CommandError(
                wanted.generateName.isEmpty ? "resource name may not be empty" : "from \(wanted.generateName): cannot use generate name with apply")
        }
        var modified = wanted
        modified.lastApplied = try LastApplied.text(of: wanted)
        for attempt in 1...5 {
            guard let current = try await client.find(wanted.type, namespace: wanted.namespace, name: wanted.name) else {
                let created = dryRun.dryRun == .client ? modified : try await client.create(modified, dryRun: dryRun.dryRun == .server)
                return printer.report(created, "created", dryRun: dryRun.dryRun)
            }
            if attempt == 1, current.lastApplied == nil {
                invocation.note(
                    "Warning: resource \(wanted.type.plural)/\(wanted.name) is missing the \(SecretPlace.lastAppliedAnnotation) annotation "
                        + "which is required by apply. It will be patched automatically."
                )
            }
            let patch = Self.patch(of: current, to: modified)
            if patch == [:] { return printer.report(current, "unchanged", dryRun: dryRun.dryRun) }
            if dryRun.dryRun == .client {
                let merged = (try? Patch.strategic(patch).applied(to: current)) ?? current
                return printer.report(merged, "configured", dryRun: .client)
            }
            do {
                let result = try await client.patch(
                    wanted.type, namespace: wanted.namespace, name: wanted.name, patch, as: .strategic, dryRun: dryRun.dryRun == .server)
                return printer.report(
                    result, result.resourceVersion == current.resourceVersion && dryRun.dryRun == .none ? "unchanged" : "configured", dryRun: dryRun.dryRun)
            } catch let status as Status where (status.reason == .conflict || status.reason == .notFound) && attempt < 5 {
                continue  // someone changed it meanwhile: look again
            }
        }
    }

    /// What makes of `current` what the manifest says; `modified` is the manifest with its own note.
    static func patch(of current: Resource, to modified: Resource) -> JSONValue {
        ThreeWayPatch.strategic(
            original: LastApplied.folded(LastApplied.original(of: current), current.type), modified: LastApplied.folded(modified.json, current.type),
            current: current.json, schema: current.type.schema)
    }
}

/// The annotation in which `apply` notes the manifest for the next time. It holds a secret's data, so it is a secret itself.
enum LastApplied {
    static func text(of resource: Resource) throws -> SecretValue {
        var noted = resource
        noted.lastApplied = nil
        if noted["metadata", "annotations"] == nil { noted["metadata", "annotations"] = [:] }
        let document = noted.json.sortedByName  // byte for byte what `kubectl` notes, so that the two can take turns
        let count = document.encodedByteCount()
        return SecretValue(
            try SecretBytes(capacity: count + 1) { target in
                document.encode(into: target)
                target[count] = 0x0a
                return count + 1
            })
    }

    /// What was applied last, or an empty object.
    static func original(of current: Resource) -> JSONValue {
        current.lastApplied.flatMap { try? JSONValue(parsing: $0) } ?? [:]
    }

    /// With `stringData` in `data`, as the server stores it, so that it is compared with what is there.
    static func folded(_ json: JSONValue, _ type: ResourceType) -> JSONValue {
        guard type == .secrets, let tree = json.objectValue, tree["stringData"] != nil else { return json }
        var secret = Secret(Resource(type, tree: tree))
        let hadType = tree["type"] != nil
        secret.normalize()
        if !hadType { secret.resource.tree["type"] = nil }
        return secret.resource.json
    }
}
