import Basics
import Foundation
import Sealing
import SecretMemory
import Testing

struct SealFileTests {
    let keyring = Keyring.newID()
    let root: RootKey
    let keyFile = Bytes(repeating: 0x5a, count: 32)
    let file: SealFile

    init() throws {
        root = try RootKey.random(generation: 1)
        file = try SealFile(keyring: keyring, root: root, recipients: [KeyFileSlot.recipient(for: SecretBytes(copying: keyFile))])
    }
    private func secret(_ bytes: Bytes) throws -> SlotSecret { .keyFile(try SecretBytes(copying: bytes)) }
    private func passphrase(_ text: String) throws -> SecretBytes { try SecretBytes(copying: Bytes(text.utf8)) }
    /// Whether two roots are one: what one wraps, the other unwraps.
    private func same(_ a: RootKey, _ b: RootKey) throws -> Bool {
        let wrapped = try Keyring(id: keyring, root: a).newFileKey(member: MemberID(1), generation: 1, createdMilliseconds: 0)
        do { _ = try Keyring(id: keyring, root: b).unwrap(wrapped); return true } catch { return false }
    }

    @Test("the file survives its bytes and opens to its root")
    func roundTrip() throws {
        let read = try SealFile(decoding: file.encoded())
        #expect(read == file && read.keyring == keyring && read.rootGeneration == 1)
        #expect(try same(try read.open(with: try secret(keyFile)), root))
    }

    @Test("another key file is refused, and both fingerprints are told")
    func wrongKeyFile() throws {
        let other = Bytes(repeating: 1, count: 32)
        let found = KeyFileSlot.fingerprint(of: try SecretBytes(copying: other)), expected = KeyFileSlot.fingerprint(of: try SecretBytes(copying: keyFile))
        #expect(throws: SealFileError.wrongKeyFile(found: found, expected: [expected])) { try file.open(with: try secret(other)) }
        func hexadecimal(_ bytes: Bytes) -> String { bytes.map { String(format: "%02x", $0) }.joined() }
        #expect("\(SealFileError.wrongKeyFile(found: found, expected: [expected]))" ==
            "it is another key file, of fingerprint \(hexadecimal(found)), not \(hexadecimal(expected))")
        #expect(throws: SealFileError.wrongKeyFileLength(31)) { try file.open(with: try secret(Bytes(other.dropLast()))) }
        #expect(throws: SealFileError.noSlotOfKind(.passphrase)) { try file.open(with: .passphrase(try passphrase("x"))) }
    }

    @Test("every slot opens the same root, and a removed one no longer does")
    func slots() throws {
        var file = file
        let second = Bytes(repeating: 2, count: 32)
        let id = try file.add(try KeyFileSlot.recipient(for: SecretBytes(copying: second)), root: root)
        #expect(try same(try file.open(with: try secret(second)), root) && same(try file.open(with: try secret(keyFile)), root))
        try file.remove(slot: id, root: root)
        #expect(throws: (any Error).self) { try file.open(with: try secret(second)) }
        #expect(throws: SealFileError.noSlots) { try file.remove(slot: 1, root: root) }
        #expect(throws: SealFileError.noSuchSlot(9)) { try file.remove(slot: 9, root: root) }
        let recipient = try KeyFileSlot.recipient(for: SecretBytes(copying: second)), otherRoot = try RootKey.random(generation: 1)
        #expect(throws: SealFileError.badMac) { _ = try file.add(recipient, root: otherRoot) }
    }

    @Test("a passphrase opens its slot, another does not, an empty one is no passphrase")
    func passphrases() throws {
        let floor = PassphraseSlot.Cost.floor
        let file = try SealFile(keyring: keyring, root: root, recipients: [PassphraseSlot.recipient(for: passphrase("open sesame"), cost: floor)])
        #expect(try same(try SealFile(decoding: file.encoded()).open(with: .passphrase(try passphrase("open sesame"))), root))
        #expect(throws: SealFileError.wrongPassphrase) { try file.open(with: .passphrase(try passphrase("open sesam"))) }
        #expect(throws: SealFileError.emptyPassphrase) { try file.open(with: .passphrase(try passphrase(""))) }
    }

    @Test("a passphrase's cost below the floor or above the ceiling is refused, when made and when read")
    func cost() throws {
        let cheap = PassphraseSlot.Cost(operations: 1, memoryKibibytes: 64 << 10)
        #expect(throws: SealFileError.costOutOfBounds(cheap)) { _ = try PassphraseSlot.recipient(for: try passphrase("x"), cost: cheap) }
        let file = try SealFile(keyring: keyring, root: root, recipients: [PassphraseSlot.recipient(for: passphrase("x"), cost: .floor)])
        var bytes = file.encoded()
        let operations = 8 + 16 + 4 + 2 + 4 + 2 + 2 + 4
        for (value, expected) in [(UInt8(1), UInt32(1)), (200, 200)] {
            bytes[operations + 3] = value
            let changed = PassphraseSlot.Cost(operations: expected, memoryKibibytes: PassphraseSlot.Cost.floor.memoryKibibytes)
            #expect(throws: SealFileError.costOutOfBounds(changed)) { try SealFile(decoding: bytes).open(with: .passphrase(try passphrase("x"))) }
        }
        bytes[operations + 3] = 3
        #expect(throws: SealFileError.wrongPassphrase) { try SealFile(decoding: bytes).open(with: .passphrase(try passphrase("x"))) }
    }

    @Test("a new root is sealed to slots whose secrets are not at hand")
    func newRoot() throws {
        var file = file
        let offline = Bytes(repeating: 3, count: 32)
        _ = try file.add(try KeyFileSlot.recipient(for: SecretBytes(copying: offline)), root: root)
        let next = try RootKey.random(generation: 2)
        let rewrapped = try file.rewrapped(from: root, to: next)
        #expect(rewrapped.rootGeneration == 2)
        #expect(try same(try rewrapped.open(with: try secret(offline)), next) && same(try rewrapped.open(with: try secret(keyFile)), next))
        #expect(try !same(try rewrapped.open(with: try secret(keyFile)), root))
    }

    @Test("a slot taken from another file is noticed by the mac even where it opens")
    func swappedSlot() throws {
        let recipient = try KeyFileSlot.recipient(for: SecretBytes(copying: keyFile))
        let other = try SealFile(keyring: keyring, root: try RootKey.random(generation: 1), recipients: [recipient])
        let slotBytes = 8 + 16 + 4 + 2 ..< file.encoded().count - SealFile.macBytes
        var spliced = file.encoded()
        spliced.replaceSubrange(slotBytes, with: other.encoded()[slotBytes])
        #expect(throws: SealFileError.badMac) { try SealFile(decoding: spliced).open(with: try secret(keyFile)) }
    }

    @Test("a file without slots or with one id twice is no seal file")
    func malformed() throws {
        #expect(throws: SealFileError.noSlots) { _ = try SealFile(keyring: keyring, root: root, recipients: []) }
        let bytes = file.encoded()
        let slot = Bytes(bytes[30..<bytes.count - SealFile.macBytes])
        let twice = Bytes(bytes[..<28]) + [0, 2] + slot + slot + Bytes(bytes.suffix(SealFile.macBytes))
        #expect(throws: SealFileError.duplicateSlot(1)) { _ = try SealFile(decoding: twice) }
        let none = Bytes(bytes[..<28]) + [0, 0] + Bytes(bytes.suffix(SealFile.macBytes))
        #expect(throws: SealFileError.noSlots) { _ = try SealFile(decoding: none) }
    }
}
