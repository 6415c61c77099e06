package import Barrier
package import Basics
package import SecretMemory
import Sealing

/// The named keys of the Key Vault: created and rotated here, never shown; what they wrap is opened here and nowhere else.
/// Each is one object of Coffer's own keyspace, `vault/keys/{namespace}/{name}`, sealed under its namespace's data key.
package struct NamedKeys: Sendable {
    static let attemptsMax = 16
    /// What may be wrapped at once: keys and small secrets.
    package static let plaintextBytesMax = 64 << 10

    private let keyValue: any KeyValue
    private let keyring: KeyringID
    private let now: @Sendable () -> UInt64
    private let nonces = NoncePool()

    /// `now`: milliseconds since 1970.
    package init(keyValue: any KeyValue, keyring: KeyringID, now: @escaping @Sendable () -> UInt64) {
        self.keyValue = keyValue; self.keyring = keyring; self.now = now
    }

    // MARK: Keys

    package func create(namespace: String, name: String) async throws(KeyVaultError) -> NamedKey {
        let place = try Self.place(namespace, name)
        let stored = try made { try StoredKey(namespace: namespace, name: name, nowMilliseconds: now()) }
        do throws(BarrierError) {
            _ = try await keyValue.put(place, domain: namespace, value: try encoded(stored), if: .absent)
        } catch .preconditionFailed { throw .keyExists(name) } catch { throw .store(error) }
        return stored.key
    }

    /// A new version, which wraps from now on; older ones go on opening what they wrapped.
    package func rotate(namespace: String, name: String) async throws(KeyVaultError) -> NamedKey {
        let place = try Self.place(namespace, name)
        for _ in 0..<Self.attemptsMax {
            guard var (stored, revision) = try await read(namespace, name, place) else { throw .keyNotFound(name) }
            try made { try stored.addVersion(nowMilliseconds: now()) }
            do throws(BarrierError) {
                _ = try await keyValue.put(place, domain: namespace, value: try encoded(stored), if: .modificationRevision(revision))
                return stored.key
            } catch .preconditionFailed { revision = 0 } catch { throw .store(error) }
        }
        throw .conflict
    }

    package func get(namespace: String, name: String) async throws(KeyVaultError) -> NamedKey {
        guard let found = try await read(namespace, name, try Self.place(namespace, name)) else { throw .keyNotFound(name) }
        return found.stored.key
    }

    /// In order of their names. One that cannot be opened is left out of the first list and named in the second.
    package func list(namespace: String) async throws(KeyVaultError) -> (keys: [NamedKey], unreadable: [String]) {
        let prefix = try Self.prefix(namespace)
        let listing: Listing
        do { listing = try await keyValue.list(.prefix(prefix), limit: 0, revision: 0) } catch { throw .store(error) }
        var keys: [NamedKey] = [], unreadable: [String] = []
        for entry in listing.entries {
            if case .success(let value) = entry.value, let stored = try? StoredKey(namespace: namespace, decoding: value) {
                keys.append(stored.key)
            } else {
                unreadable.append(String(decoding: entry.key.dropFirst(prefix.count), as: UTF8.self))
            }
        }
        return (keys, unreadable)
    }

    // MARK: Wrapping

    /// Seals `plaintext` under the current version. `context` is not stored and must be given again to open.
    package func wrap(
        _ plaintext: SecretValue, namespace: String, name: String, context: Bytes = []
    ) async throws(KeyVaultError) -> (wrapped: Bytes, version: UInt32) {
        guard plaintext.count <= Self.plaintextBytesMax else { throw .tooLarge(limit: Self.plaintextBytesMax) }
        guard let (stored, _) = try await read(namespace, name, try Self.place(namespace, name)) else { throw .keyNotFound(name) }
        let version = stored.key.current
        guard let material = stored.material(ofVersion: version) else { throw .versionNotFound(name, version: version) }
        let wrapped = material.borrowed { key in
            plaintext.withUnsafeBytes { bytes in
                NamedKeyEnvelope.seal(bytes, under: key, .init(keyID: stored.key.id, version: version), keyring: keyring, context: context, nonces: nonces)
            }
        }
        return (wrapped, version)
    }

    package func unwrap(_ wrapped: Bytes, namespace: String, name: String, context: Bytes = []) async throws(KeyVaultError) -> SecretValue {
        let reference: NamedKeyEnvelope.Reference
        do { reference = try NamedKeyEnvelope.reference(of: wrapped) } catch { throw .notOpened(error) }
        guard let (stored, _) = try await read(namespace, name, try Self.place(namespace, name)) else { throw .keyNotFound(name) }
        guard reference.keyID == stored.key.id else { throw .notOpened(.movedRecord) }
        guard let material = stored.material(ofVersion: reference.version) else { throw .versionNotFound(name, version: reference.version) }
        do {
            return try material.borrowed { key throws(SealingError) in
                SecretValue(try NamedKeyEnvelope.open(wrapped, under: key, keyring: keyring, context: context))
            }
        } catch { throw .notOpened(error) }
    }

    // MARK: Places

    private static func prefix(_ namespace: String) throws(KeyVaultError) -> Bytes {
        try check(namespace)
        return Bytes("vault/keys/\(namespace)/".utf8)
    }
    private static func place(_ namespace: String, _ name: String) throws(KeyVaultError) -> Bytes {
        try check(name)
        return try prefix(namespace) + Bytes(name.lowercased().utf8)
    }
    private static func check(_ name: String) throws(KeyVaultError) {
        let isName = (1...127).contains(name.utf8.count) && name.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0) || $0 == 0x2d
        }
        guard isName else { throw .invalidName(name) }
    }

    private func read(_ namespace: String, _ name: String, _ place: Bytes) async throws(KeyVaultError) -> (stored: StoredKey, revision: Int64)? {
        let entry: Entry?
        do { entry = try await keyValue.get(place, revision: 0) } catch { throw .store(error) }
        guard let entry else { return nil }
        switch entry.value {
        case .failure(let reason): throw .unreadable(reason.description)
        case .success(let value): return (try made { try StoredKey(namespace: namespace, decoding: value) }, entry.modificationRevision)
        }
    }
    private func encoded(_ stored: StoredKey) throws(BarrierError) -> SecretValue {
        do { return try stored.encoded() } catch { throw .unavailable("\(error)") }
    }
    /// `body` throws our errors, or that there is no memory for a key.
    private func made<R>(_ body: () throws -> R) throws(KeyVaultError) -> R {
        do { return try body() } catch let error as KeyVaultError { throw error } catch { throw .store(.unavailable("\(error)")) }
    }
}
