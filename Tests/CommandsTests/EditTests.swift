import APIClient
import Basics
import Foundation
import Resources
import Synchronization
import Testing

@testable import Commands

@Suite("edit") struct EditTests {
    /// What the editor was shown, and what the command said. `changes` are made to what is shown, one per time it opens.
    private func edit(_ server: MemoryServer, _ arguments: [String], changes: [@Sendable (String) -> String]) async -> (shown: [String], text: String, code: Int32) {
        let transcript = Transcript(), shown = Mutex([String]()), rest = Mutex(changes[...])
        let invocation = Invocation(
            output: { transcript.output($0) }, messages: { transcript.message($0) }, input: { [] },
            edit: { bytes in
                let text = String(decoding: bytes, as: UTF8.self)
                shown.withLock { $0.append(text) }
                return Bytes((rest.withLock { $0.popFirst() }?(text) ?? text).utf8)
            }, environment: [:], now: { MemoryServer.now }, connect: { _ in (APIClient(transport: server), "default") })
        let code = await CofferCommand.run(["edit"] + arguments, in: invocation)
        return (shown.withLock { $0 }, transcript.lines, code)
    }
    private func serverWithSecret() async -> MemoryServer {
        let server = MemoryServer()
        _ = await CommandLineRun(server: server).run(shellWords("create secret generic db --from-literal=user=admin --from-literal=password=canary-1"))
        return server
    }
    private func data(_ server: MemoryServer) async -> String {
        await CommandLineRun(server: server).run(shellWords("get secret db -o jsonpath={.data} --reveal")).text
    }

    @Test("values are masked: a mask that stays keeps its value, another text is the new one, a line that goes takes its key")
    func masked() async {
        let server = await serverWithSecret()
        let first = await edit(server, ["secret", "db"], changes: [{ $0.replacing("password: \"<masked>\"", with: "password: canary-2") }])
        #expect(first.code == 0 && first.text == "secret/db edited\n")
        #expect(first.shown[0].contains("password: \"<masked>\"") && !first.shown[0].contains("canary") && !first.shown[0].contains("Y2FuYXJ5"))
        #expect(await data(server) == #"{"password":"Y2FuYXJ5LTI=","user":"YWRtaW4="}"#)
        let second = await edit(server, ["secret/db"], changes: [{ $0.replacing("  user: \"<masked>\"\n", with: "") }])
        #expect(second.code == 0)
        #expect(await data(server) == #"{"password":"Y2FuYXJ5LTI="}"#)
        let third = await edit(server, ["secret/db"], changes: [{ $0.replacing("  password: \"<masked>\"", with: "  password: \"<masked>\"\n  token: \"<masked>\"") }])
        #expect(third.code == 1 && third.text.contains("stringData.token: a mask stands for no value here"))
    }

    @Test("with --reveal the values are there, in base64")
    func revealed() async {
        let server = await serverWithSecret()
        let edited = await edit(server, ["secret", "db", "--reveal"], changes: [{ $0.replacing("Y2FuYXJ5LTE=", with: "Y2FuYXJ5LTM=") }])
        #expect(edited.code == 0 && edited.shown[0].contains("password: Y2FuYXJ5LTE="))
        #expect(await data(server) == #"{"password":"Y2FuYXJ5LTM=","user":"YWRtaW4="}"#)
    }

    @Test("what is not changed, or emptied, ends the edit; what is wrong is shown and edited again; names stay")
    func again() async {
        let server = await serverWithSecret()
        let unchanged = await edit(server, ["secret", "db"], changes: [])
        #expect(unchanged.code == 0 && unchanged.text == "! Edit cancelled, no changes made.\n")
        #expect(await edit(server, ["secret", "db"], changes: [{ _ in "" }]).text == "! Edit cancelled, no changes made.\n")
        let fixed = await edit(server, ["secret", "db"], changes: [
            { $0.replacing("type: Opaque", with: "type: [") }, { $0.replacing("type: [", with: "type: Opaque\nimmutable: true") },
        ])
        #expect(fixed.code == 0 && fixed.shown.count == 2 && fixed.shown[1].contains("# It was not saved:\n# line "))
        let renamed = await edit(server, ["secret", "db"], changes: [{ $0.replacing("name: db", with: "name: other") }])
        #expect(renamed.code == 1 && renamed.text.contains("kind, name and namespace of the object cannot be changed"))
        let refused = await edit(server, ["secret", "db"], changes: [{ $0.replacing("user: \"<masked>\"", with: "user: canary-4") }])
        #expect(refused.code == 1 && refused.text.contains("field is immutable") && !refused.text.contains("canary"))
        #expect(await edit(server, ["secret", "none"], changes: []).text == "! Error from server (NotFound): secrets \"none\" not found\n")
    }

    @Test("the editor's file is its owner's alone, and nothing of it is left")
    func file() throws {
        let notes = FileManager.default.temporaryDirectory.path + "/edit-test-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: notes) }
        let look = "stat -c '%a %n' \"$1\" \"$(dirname \"$1\")\" > \(notes); sed -i s/one/two/"
        let edited = try Editor.edit(Bytes("one\n".utf8), environment: ["EDITOR": "sh -c '\(look.replacing("'", with: "'\\''")) \"$1\"' x"])
        #expect(String(decoding: edited, as: UTF8.self) == "two\n")
        let lines = try String(contentsOfFile: notes, encoding: .utf8).split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        #expect(lines.map { $0[0] } == ["600", "700"])
        #expect(!FileManager.default.fileExists(atPath: lines[1][1]))
        #expect(throws: CommandError.self) { try Editor.edit([], environment: ["EDITOR": "false"]) }
    }
}
