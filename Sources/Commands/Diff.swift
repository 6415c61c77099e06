import APIClient
package import ArgumentParser
import Basics
import Resources

package struct Diff: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Show what apply would change.",
        discussion: """
            Values of secrets are masked, and one that would change says so; --reveal shows them.
            Exit code 0: nothing would change. 1: something would. 2: an error.
            """)
    @OptionGroup var manifests: ManifestOptions
    @Flag(help: "Show the values of secrets, which are masked otherwise.") var reveal = false
    @Flag(name: .customLong("show-managed-fields"), help: .hidden) var showsManagedFields = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        var differs = false
        do {
            guard !manifests.files.isEmpty else { throw CommandError("must specify -f") }
            let resources = try Inputs(invocation: invocation).resources(manifests)
            let (client, namespace) = try invocation.connect(global)
            try await invocation.forEach(resources) { resource in
                if try await show(try invocation.place(resource, global: global, default: namespace), client, invocation) { differs = true }
            }
        } catch is AlreadyReported {
            throw ExitWith(code: 2)
        } catch {
            invocation.note(FailureText.of(error))
            throw ExitWith(code: 2)
        }
        if differs { throw ExitWith(code: 1) }
    }

    /// The server is asked what would come of it, and stores nothing.
    private func show(_ wanted: Resource, _ client: APIClient, _ invocation: Invocation) async throws -> Bool {
        guard !wanted.name.isEmpty else { throw CommandError("resource name may not be empty") }
        let live = try await client.find(wanted.type, namespace: wanted.namespace, name: wanted.name)
        var modified = wanted
        modified.lastApplied = try LastApplied.text(of: wanted)
        let merged: Resource
        if let live {
            let patch = Apply.patch(of: live, to: modified)
            merged = patch == [:] ? live : try await client.patch(
                wanted.type, namespace: wanted.namespace, name: wanted.name, patch, as: .strategic, dryRun: true)
        } else {
            merged = try await client.create(modified, dryRun: true)
        }
        let display: SecretDisplay = reveal ? .revealed : .masked
        let (before, after) = Self.documents(live, merged, isRevealed: reveal)
        let lines = LineDifference(
            from: before.map { Self.lines($0, display) } ?? [], to: Self.lines(after, display)).unified
        guard !lines.isEmpty else { return false }
        let file = TableText.printable([wanted.type.version, wanted.type.kind, wanted.namespace, wanted.name].joined(separator: "."))
        invocation.output(Bytes((["diff -u -N LIVE/\(file) MERGED/\(file)", "--- LIVE/\(file)", "+++ MERGED/\(file)"] + lines).map { $0 + "\n" }.joined().utf8))
        return true
    }

    private static func lines(_ document: JSONValue, _ display: SecretDisplay) -> [String] {
        var lines = document.yamlString(secrets: display).split(separator: "\n", omittingEmptySubsequences: false).map { TableText.printable(String($0)) }
        if lines.last == "" { lines.removeLast() }
        return lines
    }

    /// As they are compared: without what `apply` notes for itself, and, unless revealed, with a mask for each value that says whether it changes.
    static func documents(_ live: Resource?, _ merged: Resource, isRevealed: Bool) -> (before: JSONValue?, after: JSONValue) {
        func plain(_ resource: Resource) -> Resource {
            var resource = resource
            resource.lastApplied = nil
            resource["metadata", "managedFields"] = nil
            return resource
        }
        var before = live.map(plain), after = plain(merged)
        guard !isRevealed, merged.type == .secrets else { return (before?.json, after.json) }
        let old = before?.tree["data"]?.objectValue ?? [:], new = after.tree["data"]?.objectValue ?? [:]
        func masked(_ data: JSONObject, _ other: JSONObject, _ word: String) -> JSONValue? {
            data.isEmpty ? nil : .object(JSONObject(data.members.map { member in
                let isChanged = other[member.key].map { $0 != member.value } ?? false
                return (member.key, .string(SecretDisplay.mask + (isChanged ? word : "")))
            }))
        }
        before?.tree["data"] = masked(old, new, " (before)")
        after.tree["data"] = masked(new, old, " (after)")
        return (before?.json, after.json)
    }
}

/// Two texts' lines beside each other, as `diff -u` shows them.
struct LineDifference {
    private enum Line: Equatable {
        case same(String), removed(String), added(String)
        var isSame: Bool { if case .same = self { true } else { false } }
        var text: String {
            switch self {
            case .same(let text): " " + text
            case .removed(let text): "-" + text
            case .added(let text): "+" + text
            }
        }
    }
    private static let contextLines = 3
    /// Beyond, the search for the shortest difference would take the product of both sizes: all lines are shown as replaced.
    private static let searchedLinesMax = 4_000
    private let lines: [Line]

    init(from old: [String], to new: [String]) {
        var start = 0, oldEnd = old.count, newEnd = new.count
        while start < oldEnd, start < newEnd, old[start] == new[start] { start += 1 }
        while oldEnd > start, newEnd > start, old[oldEnd - 1] == new[newEnd - 1] { oldEnd -= 1; newEnd -= 1 }
        lines = old[..<start].map { .same($0) } + Self.middle(Array(old[start..<oldEnd]), Array(new[start..<newEnd])) + old[oldEnd...].map { .same($0) }
    }

    private static func middle(_ old: [String], _ new: [String]) -> [Line] {
        guard old.count + new.count <= searchedLinesMax else { return old.map { .removed($0) } + new.map { .added($0) } }
        var removed: Set<Int> = [], added: Set<Int> = []
        for change in new.difference(from: old) {
            switch change {
            case .remove(let offset, _, _): removed.insert(offset)
            case .insert(let offset, _, _): added.insert(offset)
            }
        }
        var lines: [Line] = [], oldPlace = 0, newPlace = 0
        while oldPlace < old.count || newPlace < new.count {
            if removed.contains(oldPlace) {
                lines.append(.removed(old[oldPlace]))
                oldPlace += 1
            } else if added.contains(newPlace) {
                lines.append(.added(new[newPlace]))
                newPlace += 1
            } else {
                lines.append(.same(old[oldPlace]))
                oldPlace += 1
                newPlace += 1
            }
        }
        return lines
    }

    /// Hunks with their headings; empty when there is no difference.
    var unified: [String] {
        var result: [String] = [], place = 0, oldLine = 1, newLine = 1
        while let first = lines[place...].firstIndex(where: { !$0.isSame }) {
            let start = max(place, first - Self.contextLines)
            oldLine += start - place
            newLine += start - place
            var end = first + 1, index = first + 1
            // A hunk goes on while the next change is near.
            while index < lines.count, index - end < 2 * Self.contextLines + 1 {
                if !lines[index].isSame { end = index + 1 }
                index += 1
            }
            end = min(lines.count, end + Self.contextLines)
            let hunk = lines[start..<end]
            let oldCount = hunk.count { if case .added = $0 { false } else { true } }, newCount = hunk.count { if case .removed = $0 { false } else { true } }
            result.append("@@ -\(Self.range(oldLine, oldCount)) +\(Self.range(newLine, newCount)) @@")
            result += hunk.map(\.text)
            oldLine += oldCount
            newLine += newCount
            place = end
        }
        return result
    }
    private static func range(_ first: Int, _ count: Int) -> String { count == 1 ? "\(first)" : "\(count == 0 ? first - 1 : first),\(count)" }
}
