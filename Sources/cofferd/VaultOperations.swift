import APIServer
import Barrier
import KeyVault
import Resources

/// What the secrets API asks of the key vault.
struct VaultOperations: Operations {
    let vault: KeyVault
    let sealName: String

    func rotate(_ scope: RotationScope, level: RotationLevel) async throws -> RotationProgress {
        let keys: KeyRotation.Level = level == .dataKey ? .dataKey : .keyEncryptionKey
        let number: UInt32?
        do {
            switch scope {
            case .namespace(let name): number = try await vault.rotate(namespace: name, level: keys).first?.number
            case .cluster: number = try await vault.rotation.rotate(.cluster, level: keys)
            case .plain: number = try await vault.rotatePlain(level: keys)
            }
        } catch RotationError.unknownDomain {
            throw Status.badRequest("\(scope.domain) has no keys yet: they are made when something is first written to it")
        }
        return progress(scope.domain, level, in: await vault.vaultStatus(), number: number)
    }

    func rotations() async throws -> [RotationProgress] {
        let status = await vault.vaultStatus()
        return status.domains.flatMap { domain in RotationLevel.allCases.map { progress(domain.name, $0, in: status, number: nil) } }
    }

    func vaultStatus() async throws -> VaultStatus {
        let status = await vault.vaultStatus()
        return VaultStatus(isSealed: false, keyring: status.keyring, slots: [sealName], domains: status.domains.map { domain in
            VaultStatus.Domain(
                name: domain.name, keyEncryptionKeyVersion: Int64(domain.keyEncryptionKeys.filter { $0.state == .active }.map(\.version).max() ?? 0),
                dataKeys: domain.dataKeys.map { key in
                    let state = switch key.state { case .active: "Active"; case .decryptOnly: "Retired"; case .destroyed: "Destroyed" }
                    return VaultStatus.DataKey(generation: Int64(key.generation), state: state, values: key.ciphertexts)
                })
        })
    }

    private func progress(_ name: String, _ level: RotationLevel, in status: KeyVault.Status, number: UInt32?) -> RotationProgress {
        let domain = status.domains.first { $0.name == name }
        let done: Int64, remaining: Int64, active: UInt32
        switch level {
        case .dataKey:
            done = domain?.dataKeys.filter { $0.state == .active }.map(\.ciphertexts).reduce(0, +) ?? 0
            remaining = domain?.remaining ?? 0
            active = domain?.dataKeys.filter { $0.state == .active }.map(\.generation).max() ?? 0
        case .keyEncryptionKey:
            done = domain?.keyEncryptionKeys.filter { $0.state == .active }.map(\.dataKeys).reduce(0, +) ?? 0
            remaining = domain?.keyEncryptionKeys.filter { $0.state == .decryptOnly }.map(\.dataKeys).reduce(0, +) ?? 0
            active = domain?.keyEncryptionKeys.filter { $0.state == .active }.map(\.version).max() ?? 0
        }
        let failure = status.progress.failure
        return RotationProgress(
            domain: name, level: level, state: remaining == 0 ? .complete : failure == nil ? .running : .failed,
            generation: Int64(number ?? active), done: done, remaining: remaining, message: failure ?? "")
    }
}
