import Foundation

/// One command of a script, with what it is expected to answer.
///
///     # a comment
///     put key=a value="two words" lease=7
///     ----
///     revision 2
///
/// A directive is one line: a verb, then words and `name=value` arguments (quoted with `"` where they have spaces; `name=(a, b)` gives several).
/// Lines between it and `----` are its input. The expectation ends at an empty line; one that has empty lines itself
/// stands between two pairs of `----`.
package struct Directive: Sendable {
    package var verb: String
    /// Arguments without `=`, in order.
    package var words: [String] = []
    /// Arguments with it, in order.
    package var arguments: [(name: String, values: [String])] = []
    package var input: [String] = []
    package var expected: String = ""
    /// Where it stands, for messages: 1 is the first line.
    package var line: Int
    /// The lines before `----` as they are written.
    var source: [String] = []

    package func values(_ name: String) -> [String]? { arguments.first { $0.name == name }?.values }
    package func value(_ name: String) -> String? { values(name)?.first }
    package func integer(_ name: String) -> Int64? { value(name).flatMap { Int64($0) } }
    /// `name` as a word, or as `name=true`.
    package func has(_ name: String) -> Bool { words.contains(name) || value(name) == "true" }
}

package struct ScriptError: Error, CustomStringConvertible {
    package var description: String
    package init(description: String) { self.description = description }
}

/// A file of directives. `REWRITE=1` in the environment writes the answers back as the new expectations.
package struct Script {
    /// A directive, or lines to be kept as they are.
    private enum Part { case text(String), directive(Directive) }
    private var path: String
    private var parts: [Part] = []

    package init(path: String) throws {
        try self.init(path: path, text: String(contentsOfFile: path, encoding: .utf8))
    }

    package init(path: String, text: String) throws {
        self.path = path
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)[...]
        if lines.last == "" { lines.removeLast() }
        while let line = lines.first {
            let number = lines.startIndex + 1
            lines.removeFirst()
            if line.isEmpty || line.hasPrefix("#") { parts.append(.text(line)); continue }
            var directive = try Directive(parsing: line, number: number, path: path)
            while let next = lines.first, next != "----" {
                if next.isEmpty { throw ScriptError(description: "\(path):\(lines.startIndex + 1): an empty line before `----`") }
                directive.input.append(next)
                directive.source.append(next)
                lines.removeFirst()
            }
            guard lines.first == "----" else { throw ScriptError(description: "\(path):\(number): no `----` follows") }
            lines.removeFirst()
            directive.expected = Self.takeExpectation(&lines)
            parts.append(.directive(directive))
        }
    }

    private static func takeExpectation(_ lines: inout ArraySlice<String>) -> String {
        var expected: [String] = []
        let isLong = lines.first == "----"
        if isLong { lines.removeFirst() }
        while let line = lines.first {
            if isLong {
                if line == "----", lines.dropFirst().first == "----" { lines.removeFirst(2); break }
            } else if line.isEmpty { break }
            expected.append(line)
            lines.removeFirst()
        }
        return expected.joined(separator: "\n")
    }

    /// A directive that answered something else than expected.
    package struct Difference: Sendable, CustomStringConvertible {
        package var path: String
        package var line: Int
        package var expected: String
        package var actual: String
        package var description: String { "\(path):\(line)\nexpected:\n\(expected)\nactual:\n\(actual)" }
    }

    package static var rewritesAsked: Bool { ProcessInfo.processInfo.environment["REWRITE"] == "1" }

    /// Carries out every directive; answers the differences (none when rewriting).
    package mutating func run(rewrites: Bool = Script.rewritesAsked, _ execute: (Directive) throws -> String) throws -> [Difference] {
        var differences: [Difference] = [], text: [String] = []
        for part in parts {
            switch part {
            case .text(let line): text.append(line)
            case .directive(let directive):
                let answer = try execute(directive)
                var lines = answer.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
                while lines.last == "" { lines.removeLast() }
                let actual = lines.joined(separator: "\n")
                if actual != directive.expected, !rewrites {
                    differences.append(Difference(path: path, line: directive.line, expected: directive.expected, actual: actual))
                }
                text += directive.source + ["----"]
                if lines.contains("") { text += ["----"] + lines + ["----", "----"] } else { text += lines }
            }
        }
        if rewrites { try (text.joined(separator: "\n") + "\n").write(toFile: path, atomically: true, encoding: .utf8) }
        return differences
    }

    /// One line by itself, such as a line of another directive's input.
    package static func directive(_ line: String) throws -> Directive { try Directive(parsing: line, number: 1, path: line) }

    /// The scripts (`*.txt`) of a folder, by name.
    package static func paths(in folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".txt") }.sorted().map { folder + "/" + $0 }
    }
}

extension Directive {
    init(parsing line: String, number: Int, path: String) throws {
        self.init(verb: "", line: number)
        source = [line]
        var tokens: [String] = [], token = "", isQuoted = false, depth = 0, any = false
        for character in line {
            switch character {
            case "\"": isQuoted.toggle(); any = true
            case "(" where !isQuoted: depth += 1; token.append(character)
            case ")" where !isQuoted: depth -= 1; token.append(character)
            case " " where !isQuoted && depth == 0:
                if any || !token.isEmpty { tokens.append(token) }
                token = ""
                any = false
            default: token.append(character)
            }
        }
        if any || !token.isEmpty { tokens.append(token) }
        guard !isQuoted, depth == 0, let verb = tokens.first else { throw ScriptError(description: "\(path):\(number): unbalanced quotes or parentheses") }
        self.verb = verb
        for token in tokens.dropFirst() {
            guard let equals = token.firstIndex(of: "=") else { words.append(token); continue }
            let name = String(token[..<equals]), rest = token[token.index(after: equals)...]
            guard rest.hasPrefix("("), rest.hasSuffix(")") else { arguments.append((name, [String(rest)])); continue }
            let values = rest.dropFirst().dropLast().split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
            arguments.append((name, values))
        }
    }
}
