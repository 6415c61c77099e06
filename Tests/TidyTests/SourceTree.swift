import Foundation

/// The checkout as the rules see it: targets with their direct dependencies, and the lines of their files.
struct SourceTree {
    struct File {
        var target: String
        /// Relative to the root, as messages name it.
        var path: String
        var lines: [String]
    }
    struct Violation: CustomStringConvertible {
        var file: String, line: Int, rule: String
        var description: String { "\(file):\(line): \(rule)" }
    }

    let root: URL
    /// Direct dependencies by target, products by the module they bring.
    let dependencies: [String: Set<String>]
    let sources: [File]
    let tests: [File]

    static let shared: SourceTree = {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        return SourceTree(root: root)
    }()

    private init(root: URL) {
        self.root = root
        dependencies = Self.dependencies(manifest: Self.text(root.appendingPathComponent("Package.swift")))
        sources = Self.files(root, "Sources")
        tests = Self.files(root, "Tests")
    }

    private static func text(_ url: URL) -> String { (try? String(contentsOf: url, encoding: .utf8)) ?? "" }

    /// Reads the manifest's own table: `library("Name", "Dependency", External.name, …)`.
    private static func dependencies(manifest: String) -> [String: Set<String>] {
        var modules: [String: String] = [:]
        for line in manifest.split(separator: "\n") {
            for match in line.matches(of: /(\w+)(?:: Target\.Dependency)? = (?:nio\(|\.product\(name: )"(\w+)"/) {
                modules[String(match.1)] = String(match.2)
            }
            for match in line.matches(of: /(\w+) = nio\("(\w+)"\)/) { modules[String(match.1)] = String(match.2) }
        }
        var result: [String: Set<String>] = [:]
        let flat = manifest.replacing(/\n\s+(?=External\.|"|tests:)/, with: " ")
        for match in flat.matches(of: /(?:library|executable)\("([\w-]+)"([^\n]*)\)/) {
            var own = match.2
            if let end = own.range(of: ", unsafe:") ?? own.range(of: ", tests:") { own = own[..<end.lowerBound] }
            var found = Set(own.matches(of: /"([\w-]+)"/).map { String($0.1) })
            for external in own.matches(of: /External\.(\w+)/) { found.insert(modules[String(external.1)] ?? String(external.1)) }
            result[String(match.1)] = found
        }
        return result
    }

    private static func files(_ root: URL, _ folder: String) -> [File] {
        let base = root.appendingPathComponent(folder)
        let enumerator = FileManager.default.enumerator(atPath: base.path)
        var found: [File] = []
        while let path = enumerator?.nextObject() as? String {
            guard path.hasSuffix(".swift") else { continue }
            let lines = text(base.appendingPathComponent(path)).split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
            found.append(File(target: String(path.prefix { $0 != "/" }), path: folder + "/" + path, lines: lines))
        }
        return found.sorted { $0.path < $1.path }
    }

    /// Every line of these files that `rule` objects to.
    static func violations(in files: [File], _ rule: (File, String) -> String?) -> [Violation] {
        files.flatMap { file in
            file.lines.enumerated().compactMap { number, line in
                rule(file, line).map { Violation(file: file.path, line: number + 1, rule: $0) }
            }
        }
    }

    /// The module a line imports, if it is an import.
    static func imported(_ line: String) -> String? {
        let pattern = /^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|private|fileprivate) )?import (?:(?:struct|class|enum|func|protocol) )?(\w+)/
        return line.firstMatch(of: pattern).map { String($0.1) }
    }
}
