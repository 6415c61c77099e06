package import Barrier
package import Sealing

package enum KeyVaultError: Error, Equatable {
    /// 1 to 127 letters, digits and hyphens.
    case invalidName(String)
    case keyExists(String)
    case keyNotFound(String)
    case versionNotFound(String, version: UInt32)
    /// The bytes were not sealed by the key they are shown to, or for another context, or were changed.
    case notOpened(SealingError)
    /// The stored key does not parse or open.
    case unreadable(String)
    case tooManyVersions(limit: Int)
    /// Others changed it again and again meanwhile.
    case conflict
    case tooLarge(limit: Int)
    case store(BarrierError)
}
