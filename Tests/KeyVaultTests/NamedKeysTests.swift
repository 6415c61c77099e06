import Barrier
import Basics
import KeyVault
import Sealing
import SecretMemory
import Testing

struct NamedKeysTests {
    let store = MemoryKeyValue()
    let keys: NamedKeys
    let secret: SecretValue

    init() throws {
        keys = NamedKeys(keyValue: store, keyring: Keyring.newID(), now: { 1_700_000_000_000 })
        secret = try SecretValue(copying: Bytes("another program's key".utf8))
    }

    @Test("what a key wraps, it unwraps, and the value is not to be seen in what is wrapped")
    func roundTrip() async throws {
        let key = try await keys.create(namespace: "prod", name: "Disk-Key")
        #expect(key.current == 1 && key.name == "Disk-Key" && key.versions.map(\.createdMilliseconds) == [1_700_000_000_000])
        let (wrapped, version) = try await keys.wrap(secret, namespace: "prod", name: "disk-key")
        #expect(version == 1 && wrapped.count == secret.count + NamedKeyEnvelope.overheadBytes)
        #expect(wrapped.firstRange(of: Bytes("another".utf8)) == nil)
        #expect(try await keys.unwrap(wrapped, namespace: "prod", name: "DISK-KEY") == secret)
        #expect(store.domains == ["prod"] && store.keys == ["vault/keys/prod/disk-key"])
    }

    @Test("after a rotation the new version wraps and the old one still unwraps")
    func rotation() async throws {
        _ = try await keys.create(namespace: "prod", name: "k")
        let (first, _) = try await keys.wrap(secret, namespace: "prod", name: "k")
        let rotated = try await keys.rotate(namespace: "prod", name: "k")
        #expect(rotated.versions.map(\.number) == [1, 2])
        let (second, version) = try await keys.wrap(secret, namespace: "prod", name: "k")
        #expect(version == 2)
        #expect(try await keys.unwrap(first, namespace: "prod", name: "k") == secret)
        #expect(try await keys.unwrap(second, namespace: "prod", name: "k") == secret)
    }

    @Test("a rotation that another one overtook begins again, and no version is lost")
    func concurrentRotation() async throws {
        _ = try await keys.create(namespace: "prod", name: "k")
        let keys = keys
        store.beforeNextWrite { _ in _ = try? await keys.rotate(namespace: "prod", name: "k") }
        #expect(try await keys.rotate(namespace: "prod", name: "k").versions.map(\.number) == [1, 2, 3])
    }

    @Test("another key, another context, a key made anew and changed bytes do not unwrap")
    func refused() async throws {
        _ = try await keys.create(namespace: "prod", name: "a")
        _ = try await keys.create(namespace: "prod", name: "b")
        let (wrapped, _) = try await keys.wrap(secret, namespace: "prod", name: "a", context: [1])
        await #expect(throws: KeyVaultError.notOpened(.movedRecord)) { try await keys.unwrap(wrapped, namespace: "prod", name: "b", context: [1]) }
        await #expect(throws: KeyVaultError.notOpened(.badCommitment)) { try await keys.unwrap(wrapped, namespace: "prod", name: "a", context: [2]) }
        await #expect(throws: KeyVaultError.notOpened(.truncated)) { try await keys.unwrap([1, 2, 3], namespace: "prod", name: "a") }
        for bit in 0..<wrapped.count * 8 {
            var changed = wrapped
            changed[bit / 8] ^= 1 << (bit % 8)
            await #expect(throws: KeyVaultError.self) { try await keys.unwrap(changed, namespace: "prod", name: "a", context: [1]) }
        }
        _ = try await store.delete(Bytes("vault/keys/prod/a".utf8), if: .none)
        _ = try await keys.create(namespace: "prod", name: "a")
        await #expect(throws: KeyVaultError.notOpened(.movedRecord)) { try await keys.unwrap(wrapped, namespace: "prod", name: "a", context: [1]) }
    }

    @Test("keys are listed by name, each namespace its own, and one that does not open is named")
    func list() async throws {
        for name in ["b", "a", "c"] { _ = try await keys.create(namespace: "prod", name: name) }
        _ = try await keys.create(namespace: "test", name: "z")
        store.makeUnreadable("vault/keys/prod/c", reason: "bad tag")
        let (listed, unreadable) = try await keys.list(namespace: "prod")
        #expect(listed.map(\.name) == ["a", "b"] && unreadable == ["c"])
        await #expect(throws: KeyVaultError.unreadable("the value cannot be opened: bad tag")) { try await keys.get(namespace: "prod", name: "c") }
    }

    @Test("names are checked, keys are neither made twice nor found where they are not")
    func names() async throws {
        for name in ["", "a/b", "..", String(repeating: "n", count: 128), "é", "a b"] {
            await #expect(throws: KeyVaultError.invalidName(name)) { _ = try await keys.create(namespace: "prod", name: name) }
        }
        await #expect(throws: KeyVaultError.invalidName("a/b")) { _ = try await keys.create(namespace: "a/b", name: "k") }
        _ = try await keys.create(namespace: "prod", name: "k")
        await #expect(throws: KeyVaultError.keyExists("K")) { _ = try await keys.create(namespace: "prod", name: "K") }
        await #expect(throws: KeyVaultError.keyNotFound("x")) { _ = try await keys.get(namespace: "prod", name: "x") }
        await #expect(throws: KeyVaultError.keyNotFound("x")) { _ = try await keys.wrap(secret, namespace: "prod", name: "x") }
        await #expect(throws: KeyVaultError.keyNotFound("x")) { _ = try await keys.rotate(namespace: "prod", name: "x") }
    }

    @Test("no more than 64 KiB is wrapped at once")
    func tooLarge() async throws {
        _ = try await keys.create(namespace: "prod", name: "k")
        let large = try SecretValue(copying: Bytes(repeating: 1, count: NamedKeys.plaintextBytesMax + 1))
        await #expect(throws: KeyVaultError.tooLarge(limit: NamedKeys.plaintextBytesMax)) { _ = try await keys.wrap(large, namespace: "prod", name: "k") }
    }

    @Test("a stored key that was changed does not parse")
    func malformed() async throws {
        _ = try await keys.create(namespace: "prod", name: "k")
        let entry = try #require(try await store.get(Bytes("vault/keys/prod/k".utf8), revision: 0))
        let bytes = try entry.value.get().withUnsafeBytes { Bytes($0) }
        for count in 0..<bytes.count {
            _ = try await store.put(Bytes("vault/keys/prod/k".utf8), domain: "prod", value: try SecretValue(copying: bytes.prefix(count)), if: .none)
            await #expect(throws: KeyVaultError.self) { _ = try await keys.get(namespace: "prod", name: "k") }
        }
        _ = try await store.put(Bytes("vault/keys/prod/k".utf8), domain: "prod", value: try SecretValue(copying: bytes + [0]), if: .none)
        await #expect(throws: KeyVaultError.self) { _ = try await keys.get(namespace: "prod", name: "k") }
    }
}

struct KeyManagementTests {
    let store = MemoryKeyValue()
    let keys: NamedKeys
    let management: NamedKeyManagement
    init() {
        keys = NamedKeys(keyValue: store, keyring: Keyring.newID(), now: { 0 })
        management = NamedKeyManagement(keys: keys, namespace: "system", name: "kms")
    }

    @Test("status and encrypt agree on the key, which is made on first use and changes with a rotation")
    func keyID() async throws {
        let first = try await management.encrypt(try SecretValue(copying: Bytes(repeating: 7, count: 32)))
        #expect(try await management.status() == KeyManagementStatus(healthz: "ok", keyID: "system/kms/1") && first.keyID == "system/kms/1")
        _ = try await keys.rotate(namespace: "system", name: "kms")
        let second = try await management.encrypt(try SecretValue(copying: [1]))
        #expect(try await management.status().keyID == second.keyID && second.keyID == "system/kms/2")
        #expect(try await management.decrypt(first) == SecretValue(copying: Bytes(repeating: 7, count: 32)))
        #expect(try await management.decrypt(second) == SecretValue(copying: [1]))
    }

    @Test("a ciphertext never exceeds the API server's kilobyte")
    func ciphertextLimit() async throws {
        let largest = 1024 - NamedKeyEnvelope.overheadBytes
        #expect(try await management.encrypt(try SecretValue(copying: Bytes(repeating: 1, count: largest))).ciphertext.count == 1024)
        let tooLarge = try SecretValue(copying: Bytes(repeating: 1, count: largest + 1))
        await #expect(throws: KeyVaultError.tooLarge(limit: largest)) { _ = try await management.encrypt(tooLarge) }
    }
}
