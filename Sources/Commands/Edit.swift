import APIClient
package import ArgumentParser
import Basics
import Foundation
import Resources
import SecretMemory

package struct Edit: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Change a resource in an editor.",
        discussion: """
            A secret's values are masked: what stays masked stays as it is, what is written instead is the new value as plain text, and a line that goes takes
            its key along. With --reveal the values are there, in base64. The editor is $KUBE_EDITOR, $EDITOR or vi; its file lies in memory
            ($XDG_RUNTIME_DIR or /dev/shm), is readable by its owner only, and is overwritten afterwards.
            """)
    @Argument(help: "TYPE NAME or TYPE/NAME.", completion: .resources) var resources: [String] = []
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var format: OutputOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let (client, contextNamespace) = try invocation.connect(global)
        let printer = try Printer(format, invocation)
        let targets = try await TargetArguments(
            resources, manifests, nil, global: global, contextNamespace: contextNamespace
        ).found(client, invocation)
        try await invocation.forEach(targets) { target in
            try await edit(try await client.get(target.type, namespace: target.namespace, name: target.name), client, printer, invocation)
        }
    }

    /// Again and again until the server takes it, or the editor changes nothing more.
    private func edit(_ current: Resource, _ client: APIClient, _ printer: Printer, _ invocation: Invocation) async throws {
        let document = EditedDocument(current, isRevealed: format.reveal)
        var text = document.text, failure: String?
        while true {
            let shown = EditedDocument.heading(failure) + text
            let edited = EditedDocument.withoutComments(try invocation.edit(shown))
            guard edited.contains(where: { $0 > 0x20 }), edited != text else {
                if let failure { throw CommandError("Edit cancelled, no valid changes were saved: \(failure)") }
                return invocation.note("Edit cancelled, no changes made.")
            }
            text = edited
            do {
                let wanted = try document.resource(from: edited)
                guard wanted != current else { return invocation.note("Edit cancelled, no changes made.") }
                return printer.report(try await client.replace(wanted), "edited")
            } catch let error as MalformedDocument {
                failure = "\(error)"
            } catch let error as CommandError {
                failure = error.description
            } catch let status as Status where status.reason == .invalid || status.reason == .badRequest {
                failure = status.message
            }
        }
    }
}

/// A resource as an editor shows it, and back. A masked secret has `stringData` with a mask for each value.
struct EditedDocument {
    let current: Resource
    let isMasked: Bool
    let text: Bytes

    init(_ current: Resource, isRevealed: Bool) {
        self.current = current
        isMasked = !isRevealed && current.type == .secrets
        var shown = current
        shown["metadata", "managedFields"] = nil
        if isMasked {
            shown.lastApplied = nil
            var masked = JSONObject()
            for (key, value) in Secret(current).data { masked[key] = .secretText(value) }
            shown.tree["data"] = nil
            shown.tree["stringData"] = masked.isEmpty ? nil : .object(masked)
        }
        text = shown.json.yamlBytes(secrets: isRevealed ? .revealed : .masked)
    }

    static func heading(_ failure: String?) -> Bytes {
        let lines = ["Edit the object below. Lines beginning with '#' are ignored, and an empty file ends the edit."]
            + (failure.map { ["", "It was not saved:"] + $0.split(separator: "\n").map(String.init) } ?? [])
        return Bytes(lines.map { "# \(TableText.printable($0))\n" }.joined().utf8)
    }

    /// Without the lines that begin with `#` before the document.
    static func withoutComments(_ bytes: Bytes) -> Bytes {
        var rest = bytes[...]
        while rest.first == UInt8(ascii: "#") { rest = rest.drop { $0 != 0x0a }.dropFirst() }
        return Bytes(rest)
    }

    /// Throws what is wrong with it.
    func resource(from edited: Bytes) throws -> Resource {
        let documents = try Manifest.resources(edited)
        guard documents.count == 1, var wanted = documents.first else { throw CommandError("one document is expected, not \(documents.count)") }
        guard wanted.type == current.type, wanted.name == current.name, wanted.namespace == current.namespace else {
            throw CommandError("kind, name and namespace of the object cannot be changed")
        }
        guard isMasked else { return wanted }
        wanted.lastApplied = current.lastApplied
        let mask = try SecretValue(copying: SecretDisplay.mask.utf8), present = Secret(current)
        var data = wanted.tree["data"]?.objectValue ?? [:]
        for member in wanted.tree["stringData"]?.objectValue?.members ?? [] {
            guard let value = member.value.secretValue else { continue }
            guard value == mask else { data[member.key] = .secret(value); continue }
            guard let kept = present[member.key] else { throw CommandError("stringData.\(member.key): a mask stands for no value here") }
            data[member.key] = .secret(kept)
        }
        wanted.tree["stringData"] = nil
        wanted.tree["data"] = data.isEmpty ? nil : .object(data)
        return wanted
    }
}

/// Runs the user's editor on a file of memory that nobody else can read.
enum Editor {
    static func edit(_ content: Bytes, environment: [String: String]) throws -> Bytes {
        let command = [environment["KUBE_EDITOR"], environment["EDITOR"]].compactMap { $0 }.first { !$0.isEmpty } ?? "vi"
        let parent = [environment["XDG_RUNTIME_DIR"], "/dev/shm"].compactMap { $0 }.first { FileManager.default.isWritableFile(atPath: $0) }
        guard let parent else { throw CommandError("neither $XDG_RUNTIME_DIR nor /dev/shm can be written: there is no place in memory for the editor's file") }
        let folder = parent + "/cofferctl-edit-\(UUID().uuidString)"
        guard mkdir(folder, 0o700) == 0 else { throw CommandError("making \(folder): \(String(cString: strerror(errno)))") }
        defer { wipe(folder) }
        let path = folder + "/object.yaml"
        let file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw CommandError("making \(path): \(String(cString: strerror(errno)))") }
        let written = content.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
        close(file)
        guard written == content.count else { throw CommandError("writing \(path) failed") }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", command + " \"$1\"", "cofferctl", path]
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw CommandError("the editor \"\(command)\" ended with code \(process.terminationStatus)") }
        return try Inputs.contents(path, bytesMax: Limits.manifestBytesMax)
    }

    /// Overwrites each file, an editor's backups too, before it goes.
    private static func wipe(_ folder: String) {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] {
            let path = folder + "/" + name, file = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC)
            if file >= 0 {
                let size = lseek(file, 0, SEEK_END)
                let zeros = Bytes(repeating: 0, count: 65_536)
                var place: off_t = 0
                while place < size {
                    let count = zeros.withUnsafeBytes { pwrite(file, $0.baseAddress, min($0.count, Int(size - place)), place) }
                    guard count > 0 else { break }
                    place += off_t(count)
                }
                _ = ftruncate(file, 0)
                close(file)
            }
            unlink(path)
        }
        rmdir(folder)
    }
}
