package import Basics
import CSodium
package import SecretMemory
import Synchronization

package enum FileSealingError: Error, Equatable, Sendable {
    /// Fewer bytes than nonce and tag.
    case truncated
    /// The bytes, or what they are bound to, are not what was sealed; or another key sealed them.
    case badTag
    /// The key is not 32 bytes long.
    case wrongKeyLength
}

/// One member's key for what lies in its data directory: frames of the log, metadata of records. The second layer of
/// encryption, below the waterline: it hides key names, leases and revisions, and holds no secret value in the clear.
///
///     nonce 24 | XChaCha20-Poly1305-IETF ciphertext | tag 16
///
/// Callable from any thread. Keys are wiped with the last reference.
@safe package final class FileKey: Sendable {
    /// What sealing adds: nonce and tag.
    package static let overheadBytes = 40
    static let keyBytes = 32
    private static let nonceBytes = NoncePool.nonceBytes
    private static let tagBytes = 16

    /// Which of the member's file keys this is; frames and records name it in their headers.
    package let generation: UInt16
    private let key: SecretBytes
    private let nonces = NoncePool()

    /// What XChaCha20 makes of the key and a nonce's first 16 bytes. Nonces come in batches that share these, so it is kept for the next one.
    private struct Subkey: ~Copyable {
        var prefix: (UInt64, UInt64)?
        var key: SecretBytes
    }
    private let subkey: Mutex<Subkey>

    package init(key: consuming SecretBytes, generation: UInt16) throws(FileSealingError) {
        guard key.count == Self.keyBytes, let room = try? SecretBytes(copying: Bytes(repeating: 0, count: Self.keyBytes)) else { throw .wrongKeyLength }
        self.key = key
        self.generation = generation
        subkey = Mutex(Subkey(key: room))
    }

    /// Writes `plaintext.count + overheadBytes` bytes to `target`, which must have room for them, and returns their number.
    @discardableResult
    package func seal(
        _ plaintext: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) -> Int {
        let total = plaintext.count + Self.overheadBytes
        precondition(target.count >= total)
        unsafe nonces.draw(into: target)
        unsafe withUnsafeTemporaryAllocation(byteCount: Self.keyBytes + 12, alignment: 16) { room in
            guard let out = unsafe target.baseAddress?.assumingMemoryBound(to: UInt8.self),
                  let key = unsafe room.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
            unsafe copySubkey(of: out, to: room)
            // XChaCha20-Poly1305 is this, under that key, with these 12 bytes of nonce.
            unsafe (room.baseAddress! + Self.keyBytes).storeBytes(of: 0, as: UInt32.self)
            unsafe (key + Self.keyBytes + 4).update(from: out + NoncePool.prefixBytes, count: 8)
            let status = unsafe crypto_aead_chacha20poly1305_ietf_encrypt(
                out + Self.nonceBytes, nil, plaintext.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(plaintext.count),
                associatedData.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(associatedData.count), nil, key + Self.keyBytes, key)
            precondition(status == 0)
            unsafe sodium_memzero(key, Self.keyBytes)
        }
        return total
    }

    private func copySubkey(of nonce: UnsafePointer<UInt8>, to target: UnsafeMutableRawBufferPointer) {
        let wanted = unsafe (UnsafeRawPointer(nonce).loadUnaligned(as: UInt64.self), UnsafeRawPointer(nonce).loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        subkey.withLock { subkey in
            let isHeld = subkey.prefix.map { $0 == wanted } ?? false
            if !isHeld {
                unsafe subkey.key.withUnsafeMutableBytes { held in
                    unsafe key.withUnsafeStart { key in
                        let status = unsafe crypto_core_hchacha20(held.baseAddress!.assumingMemoryBound(to: UInt8.self), nonce, key, nil)
                        precondition(status == 0)
                    }
                }
                subkey.prefix = wanted
            }
            unsafe subkey.key.withUnsafeBytes { unsafe target.copyMemory(from: $0) }
        }
    }

    /// Writes the plaintext to `target`, which must have room for `sealed.count - overheadBytes` bytes, and returns its length.
    @discardableResult
    package func open(
        _ sealed: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) throws(FileSealingError) -> Int {
        guard sealed.count >= Self.overheadBytes else { throw .truncated }
        guard unsafe decrypt(sealed, associatedData: associatedData, into: target) else { throw .badTag }
        return sealed.count - Self.overheadBytes
    }

    private func decrypt(
        _ sealed: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) -> Bool {
        precondition(sealed.count >= Self.overheadBytes && target.count >= sealed.count - Self.overheadBytes)
        guard let bytes = unsafe sealed.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return false }
        return unsafe key.withUnsafeStart { key in
            unsafe crypto_aead_xchacha20poly1305_ietf_decrypt(
                target.baseAddress?.assumingMemoryBound(to: UInt8.self), nil, nil, bytes + Self.nonceBytes,
                UInt64(sealed.count - Self.nonceBytes), associatedData.baseAddress?.assumingMemoryBound(to: UInt8.self),
                UInt64(associatedData.count), bytes, key) == 0
        }
    }

    /// Writes 32 bytes that stand for `name` where the name itself must not be readable (keys of the tables):
    /// BLAKE2b-256 keyed with the file key, personalised so that it shares nothing with other uses of the key.
    package func hash(name: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) {
        precondition(target.count >= Self.nameHashBytes)
        let personal = Bytes("coffer.name.v1\0\0".utf8)
        unsafe key.withUnsafeStart { key in
            guard let out = unsafe target.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
            let status = unsafe crypto_generichash_blake2b_salt_personal(
                out, Self.nameHashBytes, name.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(name.count), key, Self.keyBytes, nil, personal)
            precondition(status == 0)
        }
    }
    package static let nameHashBytes = 32

    package func seal(_ plaintext: Bytes, associatedData: Bytes) -> Bytes {
        unsafe Bytes(unsafeUninitializedCapacity: plaintext.count + Self.overheadBytes) { target, count in
            count = unsafe plaintext.withUnsafeBytes { plaintext in
                unsafe associatedData.withUnsafeBytes { data in
                    unsafe seal(plaintext, associatedData: data, into: UnsafeMutableRawBufferPointer(target))
                }
            }
        }
    }
    package func open(_ sealed: some Collection<UInt8>, associatedData: Bytes) throws(FileSealingError) -> Bytes {
        let sealed = Bytes(sealed)
        guard sealed.count >= Self.overheadBytes else { throw .truncated }
        var opened = false
        let plaintext = unsafe Bytes(unsafeUninitializedCapacity: sealed.count - Self.overheadBytes) { target, count in
            opened = unsafe sealed.withUnsafeBytes { sealed in
                unsafe associatedData.withUnsafeBytes { data in
                    unsafe decrypt(sealed, associatedData: data, into: UnsafeMutableRawBufferPointer(target))
                }
            }
            count = opened ? sealed.count - Self.overheadBytes : 0
        }
        guard opened else { throw .badTag }
        return plaintext
    }
}
