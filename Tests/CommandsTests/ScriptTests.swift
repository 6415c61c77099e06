import APIClient
import Basics
import DataDriven
import Foundation
import Resources
import Synchronization
import Testing

@testable import Commands

/// What one run of the command line wrote.
final class Transcript: Sendable {
    private let text = Mutex("")
    var lines: String { text.withLock { $0 } }
    func output(_ bytes: Bytes) { text.withLock { $0 += String(decoding: bytes, as: UTF8.self) } }
    /// Messages are marked, so that a script shows which stream they went to.
    func message(_ message: String) {
        text.withLock { $0 += message.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map { "! \($0)\n" }.joined() }
    }
}

struct CommandLineRun {
    let server: MemoryServer
    var input = Bytes()
    var environment: [String: String] = [:]

    func run(_ arguments: [String]) async -> (text: String, code: Int32) {
        let transcript = Transcript(), input = self.input, server = self.server
        let invocation = Invocation(
            output: { transcript.output($0) }, messages: { transcript.message($0) }, input: { input }, environment: environment, now: { MemoryServer.now },
            completionTimeout: .seconds(600), connect: { _ in (APIClient(transport: server), "default") })
        let code = await CofferCommand.run(arguments, in: invocation)
        return (transcript.lines, code)
    }
}

/// Splits a command line as a shell does: spaces, quotes, backslashes.
func shellWords(_ line: String) -> [String] {
    var words: [String] = [], word = "", quote: Character?, isWord = false, escaped = false
    for character in line {
        if escaped { word.append(character); escaped = false; continue }
        switch (quote, character) {
        case (nil, "\\"): escaped = true; isWord = true
        case (nil, " "):
            if isWord { words.append(word) }
            word = ""
            isWord = false
        case (nil, "'"), (nil, "\""): quote = character; isWord = true
        case (let open?, character) where open == character: quote = nil
        default: word.append(character); isWord = true
        }
    }
    return isWord ? words + [word] : words
}

@Suite("scripts of the command line") struct ScriptTests {
    static let folder = (#filePath as NSString).deletingLastPathComponent + "/Cases"
    static let paths = (try? Script.paths(in: folder)) ?? []

    @Test("there are scripts") func some() { #expect(Self.paths.count >= 5) }

    /// `run`: each line is a command; `stdin`: what the next one reads.
    @Test("a script's commands answer as it says", arguments: paths)
    func script(_ path: String) async throws {
        var directives: [Directive] = []
        var script = try Script(path: path)
        _ = try script.run(rewrites: false) {
            directives.append($0); return ""
        }
        var answers: [String] = []
        var line = CommandLineRun(server: MemoryServer())
        for directive in directives {
            switch directive.verb {
            case "stdin":
                line.input = Bytes((directive.input.joined(separator: "\n") + "\n").utf8)
                answers.append("")
            case "run":
                var text = ""
                for command in directive.input {
                    let result = await line.run(shellWords(command))
                    text += result.text + (result.text.isEmpty || result.text.hasSuffix("\n") ? "" : "⏎\n") + (result.code == 0 ? "" : "exit \(result.code)\n")
                }
                answers.append(text)
            default: throw ScriptError(description: "\(path):\(directive.line): unknown directive \(directive.verb)")
            }
        }
        var index = 0
        let differences = try script.run { _ in
            defer { index += 1 }; return answers[index]
        }
        #expect(differences.isEmpty, Comment(rawValue: differences.map(\.description).joined(separator: "\n\n")))
    }
}
