package import Barrier
import Basics
package import Logging
import Sealing

/// The key-management module: named keys that wrap for others, and the rotation of the keys that everything here is sealed under.
package final class KeyVault: Sendable {
    package let keys: NamedKeys
    package let rotation: KeyRotation
    private let barrier: Barrier

    /// `now`: milliseconds since 1970.
    package init(
        barrier: Barrier, now: @escaping @Sendable () -> UInt64, pace: KeyRotation.Pace = KeyRotation.Pace(), logger: Logger = Logger(label: "coffer.rotation")
    ) {
        self.barrier = barrier
        keys = NamedKeys(keyValue: barrier, keyring: barrier.keyring.id, now: now)
        rotation = KeyRotation(barrier: barrier, pace: pace, logger: logger)
    }

    /// Goes on with rotations that an earlier process left unfinished.
    package func start() async { await rotation.start() }
    package func stop() async { await rotation.stop() }

    /// KMS v2's three calls over the named key, which is made on first use.
    package func management(namespace: String, name: String) -> NamedKeyManagement {
        NamedKeyManagement(keys: keys, namespace: namespace, name: name)
    }

    /// A new key for all that is sealed for a namespace: its objects and, where a kube-apiserver keeps its secrets here, its registry keys.
    /// Answers the new generation or version of each domain that the namespace has.
    package func rotate(namespace: String, level: KeyRotation.Level) async throws(RotationError) -> [(domain: String, number: UInt32)] {
        var rotated: [(domain: String, number: UInt32)] = []
        for domain in [Domain.namespace(namespace), .registry(namespace: namespace)] {
            do throws(RotationError) {
                rotated.append((String(decoding: domain.name, as: UTF8.self), try await rotation.rotate(domain, level: level)))
            } catch { guard case .unknownDomain = error else { throw error } }
        }
        guard !rotated.isEmpty else { throw .unknownDomain("namespace/\(namespace)") }
        return rotated
    }
    /// A new key for the plain keys of the etcd API.
    package func rotatePlain(level: KeyRotation.Level) async throws(RotationError) -> UInt32 { try await rotation.rotate(.plain, level: level) }

    package func vaultStatus() async -> Status {
        Status(
            keyring: barrier.keyring.id.bytes.map { byte in String(byte >> 4, radix: 16) + String(byte & 15, radix: 16) }.joined(),
            rootGeneration: barrier.keyring.rootGeneration, domains: barrier.domainKeys(), progress: await rotation.progress)
    }

    /// All domains with their keys, and what the re-encryption in the background is about. No secret in it.
    package struct Status: Hashable, Sendable {
        /// 32 hex digits.
        package var keyring: String
        package var rootGeneration: UInt32
        package var domains: [DomainKeys]
        package var progress: KeyRotation.Progress
        /// Values under old generations, yet to be sealed again.
        package var remaining: Int64 { domains.map(\.remaining).reduce(0, +) }
    }
}
