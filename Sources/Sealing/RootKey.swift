import Basics
package import SecretMemory

/// The key all others hang from (level L1): 32 bytes in guarded memory, one live generation, older ones only while rolling.
package final class RootKey: Sendable {
    package let generation: UInt32
    let key: SecretBytes

    package init(generation: UInt32, key: consuming SecretBytes) throws(SealingError) {
        guard key.count == Envelope.keyBytes else { throw .truncated }
        self.generation = generation
        self.key = key
    }
    package static func random(generation: UInt32) throws(SealingError) -> RootKey {
        let key = try sealing { () throws -> SecretBytes in try SecretBytes.random(count: Envelope.keyBytes, guarded: true) }
        return try RootKey(generation: generation, key: key)
    }
}
