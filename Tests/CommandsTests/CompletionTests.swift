import Basics
import Foundation
import Resources
import Testing

@testable import Commands

@Suite("completion") struct CompletionTests {
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
