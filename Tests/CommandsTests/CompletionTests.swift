import Basics
import Foundation
import Resources
import Testing

@testable import Commands

/// One test at a time: which shell is asking is one variable of the whole process in the library that parses the line.
@Suite("completion", .serialized) struct CompletionTests {
    @Test("each shell's script knows the verbs, the flags and the kinds, and the shell can read it", arguments: ["bash", "zsh", "fish"])
    func scripts(_ shell: String) async throws {
        let (script, code) = await CommandLineRun(server: MemoryServer()).run(["completion", shell])
        #expect(code == 0)
        for word in ["docker-registry", "all-namespaces", "dry-run", "rollout", "namespaces", "secrets"] { #expect(script.contains(word), "no \(word)") }
        guard let path = ["/bin/\(shell)", "/usr/bin/\(shell)"].first(where: FileManager.default.isExecutableFile) else { return }
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-completion-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: file) }
        try script.write(toFile: file, atomically: true, encoding: .utf8)
        let reader = Process()
        reader.executableURL = URL(fileURLWithPath: path)
        reader.arguments = ["-n", file]
        try reader.run()
        reader.waitUntilExit()
        #expect(reader.terminationStatus == 0)
    }

    @Test("names are completed from the server: of the kind that stands before, of the namespace that is given", arguments: [
        (["get", ""], 2, "namespaces nodes pods secrets"), (["get", "secrets", ""], 3, "here"), (["get", "-n", "prod", "secret", ""], 5, "web web-tls"),
        (["describe", "--namespace=prod", "secret/w"], 3, "secret/web secret/web-tls"), (["get", "flowers", ""], 3, ""),
        (["get", "secret/here", ""], 3, "namespaces nodes pods secrets"),
    ])
    func names(_ words: [String], _ index: Int, _ offered: String) async {
        let line = CommandLineRun(server: MemoryServer())
        for create in ["create secret generic here", "create secret generic web -n prod", "create secret generic web-tls -n prod", "create namespace prod"] {
            #expect(await line.run(shellWords(create)).code == 0)
        }
        let verb = words[0], cursor = String(words.last?.count ?? 0)
        let (text, code) = await line.run(["---completion", verb, "--", "positional@0", String(index), cursor, "cofferctl"] + words)
        #expect(code == 0 && text.split(separator: "\n").joined(separator: " ") == offered)
        let namespaces = await line.run(["---completion", verb, "--", "--namespace", "3", "0", "cofferctl", verb, "-n", ""])
        #expect(namespaces.code == 0 && namespaces.text == "prod\n")
    }

    @Test("another shell is refused, and those that are known are named")
    func unknown() async {
        let (text, code) = await CommandLineRun(server: MemoryServer()).run(["completion", "csh"])
        #expect(code == 1 && text == "! error: unsupported shell type \"csh\": bash, zsh and fish are\n")
    }

    @Test("a TLS secret's key must be that of its certificate")
    func pairs() async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-pairs-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let line = CommandLineRun(server: MemoryServer())
        #expect(await line.run(["certificates", "members", "--dir", folder, "a=127.0.0.1", "b=127.0.0.1"]).code == 0)
        func create(_ certificate: String, _ key: String) async -> (text: String, code: Int32) {
            await line.run(["create", "secret", "tls", "web", "--cert", "\(folder)/\(certificate)", "--key", "\(folder)/\(key)"])
        }
        let mixed = await create("a.crt", "b.key")
        #expect(mixed.code == 1)
        #expect(mixed.text == "! error: failed to load key pair: the private key in \(folder)/b.key is not that of the certificate in \(folder)/a.crt\n")
        try "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".write(toFile: folder + "/broken.crt", atomically: true, encoding: .utf8)
        #expect(await create("broken.crt", "a.key").text == "! error: failed to load key pair: the certificate in \(folder)/broken.crt cannot be read\n")
        let pair = await create("a.crt", "a.key")
        #expect(pair.code == 0 && pair.text == "secret/web created\n")
    }
}
