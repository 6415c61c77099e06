package import Basics
package import SecretMemory

/// Key management as Kubernetes' KMS v2 shapes it: three calls, small ciphertexts, and a key id that says when to seal again.
package protocol KeyManagement: Sendable {
    func status() async throws(KeyVaultError) -> KeyManagementStatus
    /// `context` binds the ciphertext; KMS v2's callers give none.
    func encrypt(_ plaintext: SecretValue, context: Bytes) async throws(KeyVaultError) -> KeyManagementCiphertext
    func decrypt(_ ciphertext: KeyManagementCiphertext, context: Bytes) async throws(KeyVaultError) -> SecretValue
}

package struct KeyManagementStatus: Hashable, Sendable {
    package var version = "v2"
    /// `ok`, or what is wrong.
    package var healthz: String
    /// The key that `encrypt` uses now. Not secret; 1 to 1024 bytes.
    package var keyID: String
    package init(healthz: String, keyID: String) { self.healthz = healthz; self.keyID = keyID }
}

package struct KeyManagementCiphertext: Hashable, Sendable {
    /// At most 1 KiB, as the API server demands; so plaintexts are at most 928 bytes.
    package var ciphertext: Bytes
    package var keyID: String
    package init(ciphertext: Bytes, keyID: String) { self.ciphertext = ciphertext; self.keyID = keyID }
}

/// `KeyManagement` over one named key, which it makes on first use.
///
/// `status` and `encrypt` agree on the key id: both read the stored key, whose version is what all members see.
package struct NamedKeyManagement: KeyManagement {
    package static let ciphertextBytesMax = 1024
    private let keys: NamedKeys
    private let namespace: String
    private let name: String
    package init(keys: NamedKeys, namespace: String, name: String) { self.keys = keys; self.namespace = namespace; self.name = name }

    package func status() async throws(KeyVaultError) -> KeyManagementStatus {
        KeyManagementStatus(healthz: "ok", keyID: keyID(version: try await key().current))
    }

    package func encrypt(_ plaintext: SecretValue, context: Bytes = []) async throws(KeyVaultError) -> KeyManagementCiphertext {
        let (wrapped, version): (Bytes, UInt32)
        do throws(KeyVaultError) { (wrapped, version) = try await keys.wrap(plaintext, namespace: namespace, name: name, context: context) } catch {
            guard case .keyNotFound = error else { throw error }
            _ = try await key()
            (wrapped, version) = try await keys.wrap(plaintext, namespace: namespace, name: name, context: context)
        }
        guard wrapped.count <= Self.ciphertextBytesMax else { throw .tooLarge(limit: Self.ciphertextBytesMax - (wrapped.count - plaintext.count)) }
        return KeyManagementCiphertext(ciphertext: wrapped, keyID: keyID(version: version))
    }

    package func decrypt(_ ciphertext: KeyManagementCiphertext, context: Bytes = []) async throws(KeyVaultError) -> SecretValue {
        try await keys.unwrap(ciphertext.ciphertext, namespace: namespace, name: name, context: context)
    }

    private func keyID(version: UInt32) -> String { "\(namespace)/\(name.lowercased())/\(version)" }
    private func key() async throws(KeyVaultError) -> NamedKey {
        do throws(KeyVaultError) { return try await keys.get(namespace: namespace, name: name) } catch {
            guard case .keyNotFound = error else { throw error }
        }
        do throws(KeyVaultError) { return try await keys.create(namespace: namespace, name: name) } catch {
            guard case .keyExists = error else { throw error }
        }
        return try await keys.get(namespace: namespace, name: name)
    }
}
