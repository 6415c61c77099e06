import Resources

/// Which keys of a namespace are replaced.
package enum RotationLevel: String, Sendable, CaseIterable {
    /// A new data key; values under older ones are sealed again in the background.
    case dataKey = "dek"
    /// A new key-encryption key; data keys are wrapped again.
    case keyEncryptionKey = "kek"
}

/// Whose keys are replaced: what shares data keys.
package enum RotationScope: Sendable, Equatable {
    case namespace(String)
    /// Objects outside any namespace.
    case cluster
    /// Keys of the etcd port.
    case plain
    /// As the vault's status names it.
    package var domain: String {
        switch self {
        case .namespace(let name): "namespace/\(name)"
        case .cluster: "cluster"
        case .plain: "plain"
        }
    }
}

/// How far a rotation has come.
package struct RotationProgress: Sendable, Equatable {
    package enum State: String, Sendable { case running = "Running", complete = "Complete", failed = "Failed" }
    /// `namespace/prod`, `cluster`, `plain`.
    package var domain: String
    package var level: RotationLevel
    package var state: State
    /// The generation or version that is new.
    package var generation: Int64
    /// Values, or data keys, that are under the new one, and that are still under older ones.
    package var done: Int64
    package var remaining: Int64
    package var message: String
    package init(domain: String, level: RotationLevel, state: State, generation: Int64, done: Int64, remaining: Int64, message: String = "") {
        self.domain = domain; self.level = level; self.state = state; self.generation = generation
        self.done = done; self.remaining = remaining; self.message = message
    }
    var json: JSONValue {
        [
            "domain": .string(domain), "level": .string(level.rawValue), "state": .string(state.rawValue), "generation": .integer(generation),
            "done": .integer(done), "remaining": .integer(remaining), "message": .string(message),
        ]
    }
}

/// The keys there are, without any key.
package struct VaultStatus: Sendable, Equatable {
    package struct DataKey: Sendable, Equatable {
        package var generation: Int64
        /// `Active`, `Retired` or `Destroyed`.
        package var state: String
        package var values: Int64
        package init(generation: Int64, state: String, values: Int64) { self.generation = generation; self.state = state; self.values = values }
    }
    package struct Domain: Sendable, Equatable {
        package var name: String
        package var keyEncryptionKeyVersion: Int64
        package var dataKeys: [DataKey]
        package init(name: String, keyEncryptionKeyVersion: Int64, dataKeys: [DataKey]) {
            self.name = name; self.keyEncryptionKeyVersion = keyEncryptionKeyVersion; self.dataKeys = dataKeys
        }
    }
    package var isSealed: Bool
    package var keyring: String
    /// What can unseal it: `key-file`, `passphrase`.
    package var slots: [String]
    package var domains: [Domain]
    package init(isSealed: Bool, keyring: String, slots: [String], domains: [Domain]) {
        self.isSealed = isSealed; self.keyring = keyring; self.slots = slots; self.domains = domains
    }
    var json: JSONValue {
        [
            "kind": "VaultStatus", "apiVersion": "coffer.dev/v1", "sealed": .bool(isSealed), "keyring": .string(keyring), "slots": JSONValue(slots),
            "namespaces": .array(
                domains.map { domain in
                    [
                        "name": .string(domain.name), "kekVersion": .integer(domain.keyEncryptionKeyVersion),
                        "dataKeys": .array(
                            domain.dataKeys.map {
                                ["generation": .integer($0.generation), "state": .string($0.state), "values": .integer($0.values)]
                            }),
                    ]
                }),
        ]
    }
}

/// What an operator asks of the key management. A `Status` that is thrown is answered as it is.
package protocol Operations: Sendable {
    func rotate(_ scope: RotationScope, level: RotationLevel) async throws -> RotationProgress
    func rotations() async throws -> [RotationProgress]
    func vaultStatus() async throws -> VaultStatus
}
