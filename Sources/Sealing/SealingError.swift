package import Basics
import SecretMemory

/// Why something could not be sealed or opened. Never contains bytes of a key or a value.
package enum SealingError: Error, Equatable, Sendable {
    /// Shorter than the layout's fixed parts.
    case truncated
    /// The first byte is not the one of this kind of blob.
    case wrongMagic
    /// An algorithm this version does not know.
    case unknownAlgorithm(UInt8)
    /// Flags or reserved bytes that this version does not know.
    case unknownFlags(UInt16)
    /// Another key, key name, domain or keyring than it was sealed for, or a changed header, nonce or commitment.
    case badCommitment
    /// Key and context are the right ones, but ciphertext or tag were changed.
    case badTag
    /// The header names another key than the record it stands in: it was moved.
    case movedRecord
    /// No such data key is installed: it is destroyed, or not yet known here.
    case unknownKey(DataKeyID)
    case unknownKeyEncryptionKey(KeyEncryptionKeyID)
    case unknownRoot(generation: UInt32)
    /// The plaintext is longer than one blob may be.
    case tooLarge
    /// No memory could be had or locked for a key.
    case memory(String)
}

/// Runs `body`, whose only foreign errors are those of memory.
func sealing<R: ~Copyable>(_ body: () throws -> R) throws(SealingError) -> R {
    do { return try body() } catch let error as SealingError { throw error } catch { throw .memory(String(describing: error)) }
}
