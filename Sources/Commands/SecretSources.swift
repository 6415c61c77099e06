import Basics
import Foundation
import Resources
import SecretMemory

/// The data of `create secret generic`, from its flags.
struct SecretSources {
    let invocation: Invocation

    func data(files: [String], literals: [String], environmentFiles: [String]) throws -> [(key: String, value: SecretValue)] {
        if !environmentFiles.isEmpty, !files.isEmpty || !literals.isEmpty {
            throw CommandError("from-env-file cannot be combined with from-file or from-literal")
        }
        var data: [(key: String, value: SecretValue)] = []
        func add(_ key: String, _ value: SecretValue) throws {
            if let fault = Names.errors(secretKey: key).first { throw CommandError("\"\(key)\" is not a valid key name for a Secret: \(fault)") }
            guard !data.contains(where: { $0.key == key }) else { throw CommandError("cannot add key \"\(key)\", another key by that name already exists") }
            data.append((key, value))
        }
        for file in files { for (key, path) in try Self.files(file) { try add(key, try Inputs(invocation: invocation).secret(path)) } }
        for literal in literals {
            let (key, value) = try Self.literal(literal)
            try add(key, try SecretValue(copying: value.utf8))
        }
        for file in environmentFiles {
            let bytes = file == "-" || file == "/dev/stdin" ? try invocation.input() : try Inputs.contents(file, bytesMax: Limits.secretDataBytesMax)
            for (key, value) in try Self.variables(bytes, environment: invocation.environment) { try add(key, value) }
        }
        return data
    }

    /// Never quotes what follows the key.
    static func literal(_ text: String) throws -> (key: String, value: Substring) {
        guard let sign = text.firstIndex(of: "="), sign != text.startIndex else { throw CommandError("invalid literal source, expected key=value") }
        return (String(text[..<sign]), text[text.index(after: sign)...])
    }

    private static func files(_ source: String) throws -> [(key: String, path: String)] {
        let parts = source.split(separator: "=", omittingEmptySubsequences: false).map(String.init)
        switch parts.count {
        case 1:
            guard !source.isEmpty else { throw CommandError("invalid file source, expected [key=]path") }
            var isFolder: ObjCBool = false
            guard FileManager.default.fileExists(atPath: source, isDirectory: &isFolder), isFolder.boolValue else {
                return [((source as NSString).lastPathComponent, source)]
            }
            return try FileManager.default.contentsOfDirectory(atPath: source).sorted().compactMap { name in
                var isFolder: ObjCBool = false
                guard Names.errors(secretKey: name).isEmpty, FileManager.default.fileExists(atPath: "\(source)/\(name)", isDirectory: &isFolder),
                    !isFolder.boolValue
                else { return nil }
                return (name, "\(source)/\(name)")
            }
        case 2 where parts[0].isEmpty: throw CommandError("key name for file path \(parts[1]) missing")
        case 2 where parts[1].isEmpty: throw CommandError("file path for key name \(parts[0]) missing")
        case 2: return [(parts[0], parts[1])]
        default: throw CommandError("key names or file paths cannot contain '='")
        }
    }

    /// `KEY=VALUE` lines; `#` begins a comment, a line without `=` takes the variable's value from the environment.
    static func variables(_ bytes: Bytes, environment: [String: String]) throws -> [(key: String, value: SecretValue)] {
        var result: [(String, SecretValue)] = []
        let content = bytes.starts(with: [0xef, 0xbb, 0xbf]) ? bytes.dropFirst(3) : bytes[...]
        for (number, raw) in content.split(separator: 0x0a, omittingEmptySubsequences: false).enumerated() {
            let line = (raw.last == 0x0d ? raw.dropLast() : raw).drop { $0 == 0x20 || $0 == 0x09 }
            guard let first = line.first, first != UInt8(ascii: "#") else { continue }
            let sign = line.firstIndex(of: UInt8(ascii: "="))
            guard let key = String(validating: line[..<(sign ?? line.endIndex)], as: UTF8.self) else { throw CommandError("line \(number + 1): invalid UTF-8") }
            if let fault = Names.errors(environmentName: key).first { throw CommandError("line \(number + 1): \(fault)") }
            if let sign {
                result.append((key, try SecretValue(copying: line[line.index(after: sign)...])))
            } else if let value = environment[key] {
                result.append((key, try SecretValue(copying: value.utf8)))
            }
        }
        return result
    }
}
