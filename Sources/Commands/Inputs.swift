import Basics
import Foundation
import Resources
import SecretMemory

/// Reads manifests and secrets from files.
struct Inputs {
    let invocation: Invocation

    /// The objects of all files, in order; folders give their `.yaml`, `.yml` and `.json` files by name.
    func resources(_ options: ManifestOptions) throws -> [Resource] {
        guard !options.files.isEmpty else { throw CommandError("must specify one of -f and a resource's name") }
        var resources: [Resource] = []
        for file in try options.files.flatMap({ try paths($0, recursive: options.recursive) }) {
            let name = file == "-" ? "STDIN" : file
            do throws(MalformedDocument) {
                resources += try Manifest.resources(try bytes(file)).map(Self.withoutMaskedNote)
            } catch {
                throw CommandError("error parsing \(name): \(error)")
            }
        }
        if resources.isEmpty {
            throw CommandError(
                "no objects passed to \(options.files.count == 1 && options.files[0] == "-" ? "standard input" : options.files.joined(separator: ","))")
        }
        return resources
    }

    /// What `get -o yaml` shows of the note that `apply` left is a mask, not a note: kept, it would replace the real one.
    private static func withoutMaskedNote(_ resource: Resource) -> Resource {
        guard let note = resource.lastApplied, note.withUnsafeBytes({ $0.elementsEqual(SecretDisplay.mask.utf8) }) else { return resource }
        var resource = resource
        resource.lastApplied = nil
        return resource
    }

    private func bytes(_ file: String) throws(MalformedDocument) -> Bytes {
        do {
            return file == "-" || file == "/dev/stdin" ? try invocation.input() : try Self.contents(file, bytesMax: Limits.manifestBytesMax)
        } catch {
            throw MalformedDocument("\(error)", line: 0, column: 0)
        }
    }

    private func paths(_ path: String, recursive: Bool) throws -> [String] {
        // A manifest of secrets comes from somebody who is known, not from wherever a name leads.
        if ["http://", "https://"].contains(where: path.lowercased().hasPrefix) {
            throw CommandError("\(path): manifests are not fetched from the network; download it, look at it, and pass the file")
        }
        var isFolder: ObjCBool = false
        guard path != "-", FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue else { return [path] }
        let names = (recursive ? try FileManager.default.subpathsOfDirectory(atPath: path) : try FileManager.default.contentsOfDirectory(atPath: path)).sorted()
        return names.filter { name in [".yaml", ".yml", ".json"].contains { name.hasSuffix($0) } }.map { "\(path)/\($0)" }
    }

    /// A patch, a list of variables: what is no secret's file.
    static func contents(_ path: String, bytesMax: Int) throws -> Bytes {
        guard let handle = FileHandle(forReadingAtPath: path) else { throw CommandError("the path \"\(path)\" does not exist or cannot be read") }
        defer { try? handle.close() }
        let data = try handle.read(upToCount: bytesMax + 1) ?? Data()
        guard data.count <= bytesMax else { throw CommandError("\(path) has more than \(bytesMax) bytes") }
        return Bytes(data)
    }

    /// A file's bytes straight into memory that is wiped.
    func secret(_ path: String) throws -> SecretValue {
        if path == "-" || path == "/dev/stdin" { return try SecretValue(copying: invocation.input()) }
        guard let file = fopen(path, "r") else { throw CommandError("error reading \(path): \(String(cString: strerror(errno)))") }
        defer { fclose(file) }
        setvbuf(file, nil, _IONBF, 0)  // no copy in the library's buffer
        let limit = Limits.secretDataBytesMax + 1
        let bytes = try SecretBytes(capacity: limit) { target in
            var used = 0
            while used < limit {
                let count = fread(target.baseAddress?.advanced(by: used), 1, limit - used, file)
                if count == 0 { break }
                used += count
            }
            guard ferror(file) == 0 else { throw CommandError("error reading \(path)") }
            return used
        }
        guard bytes.count < limit else { throw CommandError("\(path) has more than \(Limits.secretDataBytesMax) bytes") }
        return SecretValue(try bytes.clone())
    }
}

/// What `TYPE NAME…`, `TYPE/NAME…` and `TYPE,TYPE` mean.
struct ResourceArguments: Equatable {
    struct Target: Equatable {
        var type: ResourceType
        /// `nil`: all of them, or those selected.
        var name: String?
    }
    var targets: [Target]

    init(_ words: [String]) throws {
        guard let first = words.first else {
            throw CommandError("You must specify the type of resource. Use \"cofferctl api-resources\" for a complete list of supported resources.")
        }
        if first.contains("/") {
            targets = try words.map { word in
                let parts = word.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
                guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else {
                    throw CommandError("arguments in resource/name form may not have more than one slash")
                }
                return Target(type: try Self.type(parts[0]), name: try Self.name(parts[1]))
            }
            return
        }
        let types = try first.split(separator: ",").flatMap { word -> [ResourceType] in
            word == "all" ? ResourceType.all.filter { $0.categories.contains("all") } : [try Self.type(String(word))]
        }
        guard !types.isEmpty else { throw CommandError("the server doesn't have a resource type \"\(first)\"") }
        let names = words.dropFirst()
        if let odd = names.first(where: { $0.contains("/") }) {
            throw CommandError(
                "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. '\(odd)')")
        }
        targets = names.isEmpty ? types.map { Target(type: $0, name: nil) } : try types.flatMap { type in try names.map { Target(type: type, name: try Self.name($0)) } }
    }

    /// What can be a part of a path, as `kubectl` has it.
    private static func name(_ word: String) throws -> String {
        // A path without a name is the collection's: `delete secret "$NAME"` would delete them all.
        guard !word.isEmpty else { throw CommandError("resource name may not be empty") }
        if word == "." || word == ".." { throw CommandError("invalid resource name \"\(word)\": [may not be '\(word)']") }
        if word.contains("%") { throw CommandError("invalid resource name \"\(word)\": [may not contain '%']") }
        return word
    }

    static func type(_ word: String) throws -> ResourceType {
        guard let type = ResourceType.named(word) else { throw CommandError("the server doesn't have a resource type \"\(word)\"") }
        return type
    }
}

extension Invocation {
    /// Fills in the namespace of what was read from a file; `--namespace` must agree with what the file says.
    func place(_ resource: Resource, global: GlobalOptions, default namespace: String) throws -> Resource {
        var placed = resource
        guard resource.type.isNamespaced else { return placed }
        if resource.namespace.isEmpty {
            placed.namespace = global.namespace ?? namespace
        } else if let wanted = global.namespace, wanted != resource.namespace {
            throw CommandError(
                "the namespace from the provided object \"\(resource.namespace)\" does not match the namespace \"\(wanted)\". "
                    + "You must pass '--namespace=\(resource.namespace)' to perform this operation."
            )
        }
        return placed
    }

    /// Runs `body` for each; a failure is reported and the rest still done.
    func forEach<Element>(_ elements: [Element], _ body: (Element) async throws -> Void) async throws {
        var failed = false
        for element in elements {
            do {
                try await body(element)
            } catch let error as CancellationError {
                throw error
            } catch {
                failed = true
                if !(error is AlreadyReported) { note(FailureText.of(error)) }
            }
        }
        if failed { throw AlreadyReported() }
    }
}
