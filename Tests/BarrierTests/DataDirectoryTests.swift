import Barrier
import Basics
import Foundation
import Testing

/// What a data directory is refused for. Each with its own error, and with nothing changed.
struct DataDirectoryTests {
    let store: TemporaryStore
    init() throws { store = try TemporaryStore() }

    private func populated() async throws {
        let barrier = try await store.open()
        _ = try await barrier.put(bytes("objects/a"), domain: "prod", value: try secret("value"), if: .none)
        await barrier.close()
    }
    private func refusal(seal: SealSource? = nil) async throws -> DataDirectoryError? {
        do {
            let barrier = try await store.open(seal: seal)
            await barrier.close()
            return nil
        } catch let error as DataDirectoryError { return error }
    }
    private func notAsItShould() { Issue.record("it was not refused as it should") }
    /// Runs `body`, and expects every file to be as it was.
    @discardableResult
    private func unchanged<R>(_ body: () async throws -> R) async throws -> R {
        let before = store.files()
        let result = try await body()
        let after = store.files()
        #expect(before.keys.sorted() == after.keys.sorted())
        for (name, bytes) in before where name != "records/lock.mdb" { #expect(after[name] == bytes, "\(name) changed") }
        return result
    }

    @Test("a directory in use is refused, and its user goes on")
    func inUse() async throws {
        let barrier = try await store.open()
        #expect(try await refusal() == .inUse(store.data))
        _ = try await barrier.put(bytes("objects/a"), domain: "prod", value: try secret("value"), if: .none)
        await barrier.close()
        #expect(try await refusal() == nil)
    }

    @Test("another key file is refused by name, and nothing is changed")
    func wrongKeyFile() async throws {
        try await populated()
        let other = store.folder + "/other.key"
        #expect(FileManager.default.createFile(atPath: other, contents: Data(repeating: 3, count: 32), attributes: [.posixPermissions: 0o400]))
        guard case .wrongSeal(let reason) = try await unchanged({ try await refusal(seal: .keyFile(path: other)) }) else { return notAsItShould() }
        #expect(reason.contains(other))
        #expect(try await refusal() == nil)
    }

    @Test("a key file that is gone is not made anew")
    func missingKeyFile() async throws {
        try await populated()
        let missing = store.folder + "/missing.key"
        #expect(try await unchanged { try await refusal(seal: .keyFile(path: missing)) } == .keyFileMissing(missing))
        #expect(!FileManager.default.fileExists(atPath: missing))
    }

    @Test("a key file that others may read is refused")
    func keyFileMode() async throws {
        try await populated()
        try FileManager.default.setAttributes([.posixPermissions: 0o440], ofItemAtPath: store.keyFile)
        #expect(try await unchanged { try await refusal() } == .keyFilePermissions(store.keyFile, mode: 0o440))
    }

    @Test("a key file inside the data directory is refused, also through a link")
    func keyFileInside() async throws {
        #expect(try await refusal(seal: .keyFile(path: store.data + "/seal.key")) == .keyFileInside(store.data + "/seal.key"))
        #expect(!FileManager.default.fileExists(atPath: store.data))
        try await populated()
        let link = store.folder + "/link"
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: store.data)
        #expect(try await refusal(seal: .keyFile(path: link + "/seal.key")) == .keyFileInside(link + "/seal.key"))
    }

    @Test("the key file is made for its owner's eyes alone")
    func keyFileMade() async throws {
        try await populated()
        let attributes = try FileManager.default.attributesOfItem(atPath: store.keyFile)
        #expect(attributes[.posixPermissions] as? Int == 0o400 && attributes[.size] as? Int == 32)
    }

    @Test("records and log of another keyring are refused under this one's seal, and nothing is changed")
    func otherKeyring() async throws {
        try await populated()
        let other = try TemporaryStore()
        let barrier = try await other.open()
        await barrier.close()
        for file in ["seal", "member"] {
            try FileManager.default.removeItem(atPath: store.data + "/" + file)
            try FileManager.default.copyItem(atPath: other.data + "/" + file, toPath: store.data + "/" + file)
        }
        guard case .storage(let reason) = try await unchanged({ try await refusal(seal: .keyFile(path: other.keyFile)) }) else { return notAsItShould() }
        #expect(!reason.isEmpty)
    }

    @Test("a member key of another keyring is refused")
    func otherMember() async throws {
        try await populated()
        let other = try TemporaryStore()
        let barrier = try await other.open()
        await barrier.close()
        try FileManager.default.removeItem(atPath: store.data + "/member")
        try FileManager.default.copyItem(atPath: other.data + "/member", toPath: store.data + "/member")
        #expect(try await unchanged { (try? await store.open()) == nil })
    }

    @Test("a newer format is refused by its name")
    func newerFormat() async throws {
        try await populated()
        try "coffer 2\n".write(toFile: store.data + "/format", atomically: false, encoding: .utf8)
        #expect(try await unchanged { try await refusal() } == .newerFormat(found: "coffer 2", path: store.data))
    }

    @Test("a directory with somebody else's files is refused and left alone")
    func notOurs() async throws {
        try FileManager.default.createDirectory(atPath: store.data, withIntermediateDirectories: true)
        try "precious".write(toFile: store.data + "/thesis.txt", atomically: false, encoding: .utf8)
        #expect(try await unchanged { try await refusal() } == .notOurs(store.data))
        try "something else\n".write(toFile: store.data + "/format", atomically: false, encoding: .utf8)
        #expect(try await unchanged { try await refusal() } == .notOurs(store.data))
    }

    @Test("a lost seal file is named, not replaced")
    func lostSeal() async throws {
        try await populated()
        try FileManager.default.removeItem(atPath: store.data + "/seal")
        guard case .incomplete = try await unchanged({ try await refusal() }) else { return notAsItShould() }
    }

    @Test("a changed seal file is refused, whichever byte it is")
    func changedSeal() async throws {
        try await populated()
        let path = store.data + "/seal"
        let seal = try #require(FileManager.default.contents(atPath: path))
        for position in stride(from: 0, to: seal.count, by: 7) {
            var changed = seal
            changed[position] ^= 0x10
            try changed.write(to: URL(fileURLWithPath: path))
            await #expect(throws: (any Error).self, "byte \(position)") { _ = try await store.open() }
        }
        try seal.write(to: URL(fileURLWithPath: path))
        #expect(try await refusal() == nil)
    }

    @Test("a passphrase opens what it sealed, another does not")
    func passphrase() async throws {
        let path = store.folder + "/passphrase"
        func write(_ text: String) { _ = FileManager.default.createFile(atPath: path, contents: Data(text.utf8), attributes: [.posixPermissions: 0o400]) }
        write("open sesame\n")
        let source = SealSource.passphraseFile(path: path)
        let barrier = try await store.open(seal: source)
        await barrier.close()
        #expect(try await refusal(seal: source) == nil)
        try FileManager.default.removeItem(atPath: path)
        write("open sesam\n")
        guard case .wrongSeal = try await refusal(seal: source) else { return notAsItShould() }
    }
}
