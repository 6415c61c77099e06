import Basics
import CSodium
import SecretMemory

/// The one construction under which everything above the waterline is sealed: values, keys, roots.
///
///     derive(K, dom16, nonce24, AAD):
///         h64  = BLAKE2b-512(key = K, salt = nonce[0:16], personal = dom16, input = nonce24 || AAD)
///         Kenc = h64[0:32]      Com = h64[32:64]
///     AAD  = dom16 || u32 len(header) || header || keyring_id16 [ || u32 len(subject) || subject ]
///     blob = header || nonce24 || Com32 || XChaCha20-Poly1305-IETF(Kenc, nonce24, AAD, plaintext) || tag16
///
/// `Com` commits to the key, which XChaCha20-Poly1305 alone does not: without it, one ciphertext can be made that opens to two
/// different plaintexts under two keys. The keys of a record are derived from the nonce too, so that a nonce repeated under one
/// data key would have to be repeated with the same associated data to do harm.
enum Envelope {
    static let nonceBytes = 24
    static let commitmentBytes = 32
    static let tagBytes = 16
    static let keyBytes = 32
    /// What is added to header and plaintext.
    static let overheadBytes = nonceBytes + commitmentBytes + tagBytes
    /// XChaCha20-Poly1305 with a BLAKE2b commitment; the only algorithm so far.
    static let algorithm: UInt8 = 1

    /// A domain-separation string, zero-padded to 16 bytes.
    struct Purpose {
        static let value = Purpose("coffer.rec.v1")
        static let dataKey = Purpose("coffer.dek.v1")
        static let keyEncryptionKey = Purpose("coffer.kek.v1")
        static let fileKey = Purpose("coffer.fil.v1")
        static let root = Purpose("coffer.root.v1")
        static let rootBox = Purpose("coffer.box.v1")
        static let sealFile = Purpose("coffer.mac.v1")
        static let slot = Purpose("coffer.slot.v1")
        static let fingerprint = Purpose("coffer.kfid.v1")
        static let namedKey = Purpose("coffer.wrp.v1")

        fileprivate let low: UInt64, high: UInt64
        private init(_ name: StaticString) {
            precondition(name.utf8CodeUnitCount <= 16)
            var words: (UInt64, UInt64) = (0, 0)
            unsafe withUnsafeMutableBytes(of: &words) { bytes in
                for i in 0..<name.utf8CodeUnitCount { unsafe bytes[i] = name.utf8Start[i] }
            }
            (low, high) = words
        }
        /// Writes the 16 bytes at `offset`.
        func store(in target: UnsafeMutableRawPointer, at offset: Int) {
            unsafe target.storeBytes(of: low, toByteOffset: offset, as: UInt64.self)
            unsafe target.storeBytes(of: high, toByteOffset: offset + 8, as: UInt64.self)
        }
    }

    /// What a blob is bound to, beside its header.
    struct Context {
        var keyring: KeyringID
        /// The key's name for a value, the slot's parameters for a root; nothing for keys.
        var subject: Bytes?

        fileprivate var encodedBytes: Int { 16 + (subject.map { 4 + $0.count } ?? 0) }
        fileprivate func store(in target: UnsafeMutableRawPointer, at offset: Int) {
            unsafe keyring.bytes.withUnsafeBytes { unsafe (target + offset).copyMemory(from: $0.baseAddress!, byteCount: 16) }
            guard let subject else { return }
            unsafe target.storeBytes(of: UInt32(subject.count).bigEndian, toByteOffset: offset + 16, as: UInt32.self)
            unsafe subject.withUnsafeBytes { bytes in
                if let start = bytes.baseAddress { unsafe (target + offset + 20).copyMemory(from: start, byteCount: bytes.count) }
            }
        }
    }

    /// Completes `blob`, whose first `headerBytes` are written already, with the sealed `plaintext`.
    static func seal(
        _ plaintext: UnsafeRawBufferPointer, as purpose: Purpose, under key: UnsafePointer<UInt8>, context: Context, nonces: NoncePool,
        headerBytes: Int, into blob: UnsafeMutableRawBufferPointer
    ) {
        precondition(blob.count == headerBytes + overheadBytes + plaintext.count)
        unsafe nonces.draw(into: UnsafeMutableRawBufferPointer(rebasing: blob[headerBytes..<headerBytes + nonceBytes]))
        let start = blob.baseAddress!
        if Mutant.isActive(.nonceTooShort) { unsafe sodium_memzero(start + headerBytes + 2, nonceBytes - 2) }
        unsafe derive(purpose, key, context: context, blob: UnsafeRawPointer(start), headerBytes: headerBytes) { derived, associated in
            unsafe (start + headerBytes + nonceBytes).copyMemory(from: derived + keyBytes, byteCount: commitmentBytes)
            let out = unsafe (start + headerBytes + nonceBytes + commitmentBytes).assumingMemoryBound(to: UInt8.self)
            let nonce = unsafe (start + headerBytes).assumingMemoryBound(to: UInt8.self)
            let status = unsafe crypto_aead_xchacha20poly1305_ietf_encrypt(
                out, nil, plaintext.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(plaintext.count),
                associated.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(associated.count), nil, nonce,
                derived.assumingMemoryBound(to: UInt8.self))
            precondition(status == 0)
        }
    }

    /// Writes the plaintext to `target`, which has room for it. `nil`: it opened.
    static func open(
        _ blob: UnsafeRawBufferPointer, as purpose: Purpose, under key: UnsafePointer<UInt8>, context: Context,
        headerBytes: Int, into target: UnsafeMutableRawBufferPointer
    ) -> SealingError? {
        let prefixBytes = headerBytes + nonceBytes + commitmentBytes
        guard blob.count >= headerBytes + overheadBytes, let start = blob.baseAddress else { return .truncated }
        precondition(target.count >= blob.count - headerBytes - overheadBytes)
        return unsafe derive(purpose, key, context: context, blob: start, headerBytes: headerBytes) { derived, associated in
            guard unsafe sodium_memcmp(derived + keyBytes, start + headerBytes + nonceBytes, commitmentBytes) == 0 else { return .badCommitment }
            let status = unsafe crypto_aead_xchacha20poly1305_ietf_decrypt(
                target.baseAddress?.assumingMemoryBound(to: UInt8.self), nil, nil, (start + prefixBytes).assumingMemoryBound(to: UInt8.self),
                UInt64(blob.count - prefixBytes), associated.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(associated.count),
                (start + headerBytes).assumingMemoryBound(to: UInt8.self), derived.assumingMemoryBound(to: UInt8.self))
            return status == 0 ? nil : .badTag
        }
    }

    /// Gives `body` the 64 derived bytes and the associated data; both are gone when it returns, the derived bytes wiped.
    private static func derive<R>(
        _ purpose: Purpose, _ key: UnsafePointer<UInt8>, context: Context, blob: UnsafeRawPointer, headerBytes: Int,
        _ body: (_ derived: UnsafeMutableRawPointer, _ associated: UnsafeRawBufferPointer) -> R
    ) -> R {
        // derived 64 | nonce 24 | dom16 | u32 | header | context
        let associatedBytes = 16 + 4 + headerBytes + (Mutant.isActive(.keyNameNotBound) ? 0 : context.encodedBytes)
        return unsafe withUnsafeTemporaryAllocation(byteCount: 64 + nonceBytes + associatedBytes, alignment: 16) { scratch in
            let base = scratch.baseAddress!
            defer { unsafe sodium_memzero(base, 64) }
            let input = unsafe base + 64, associated = unsafe base + 64 + nonceBytes
            unsafe input.copyMemory(from: blob + headerBytes, byteCount: nonceBytes)
            unsafe purpose.store(in: associated, at: 0)
            unsafe associated.storeBytes(of: UInt32(headerBytes).bigEndian, toByteOffset: 16, as: UInt32.self)
            unsafe (associated + 20).copyMemory(from: blob, byteCount: headerBytes)
            if !Mutant.isActive(.keyNameNotBound) { unsafe context.store(in: associated, at: 20 + headerBytes) }
            let status = unsafe crypto_generichash_blake2b_salt_personal(
                base.assumingMemoryBound(to: UInt8.self), 64, input.assumingMemoryBound(to: UInt8.self), UInt64(nonceBytes + associatedBytes),
                key, keyBytes, input.assumingMemoryBound(to: UInt8.self), associated.assumingMemoryBound(to: UInt8.self))
            precondition(status == 0)
            return unsafe body(base, UnsafeRawBufferPointer(start: associated, count: associatedBytes))
        }
    }

    /// A keyed BLAKE2b of `input` with the purpose as personalisation, `target.count` bytes long (16 to 64).
    static func hash(
        _ input: Bytes, as purpose: Purpose, key: UnsafePointer<UInt8>?, keyBytes: Int = Envelope.keyBytes, into target: UnsafeMutableRawBufferPointer
    ) {
        precondition((16...64).contains(target.count))
        unsafe withUnsafeTemporaryAllocation(byteCount: 16, alignment: 8) { personal in
            unsafe purpose.store(in: personal.baseAddress!, at: 0)
            let status = unsafe input.withUnsafeBytes { input in
                unsafe crypto_generichash_blake2b_salt_personal(
                    target.baseAddress!.assumingMemoryBound(to: UInt8.self), target.count, input.baseAddress?.assumingMemoryBound(to: UInt8.self),
                    UInt64(input.count), key, key == nil ? 0 : keyBytes, nil, personal.baseAddress!.assumingMemoryBound(to: UInt8.self))
            }
            precondition(status == 0)
        }
    }
    static func hash(_ input: Bytes, as purpose: Purpose, key: UnsafePointer<UInt8>?, keyBytes: Int = Envelope.keyBytes, count: Int) -> Bytes {
        unsafe Bytes(unsafeUninitializedCapacity: count) { target, initialized in
            unsafe hash(input, as: purpose, key: key, keyBytes: keyBytes, into: UnsafeMutableRawBufferPointer(start: target.baseAddress, count: count))
            initialized = count
        }
    }
}

extension Envelope {
    /// Seals a 32-byte key behind `header`.
    static func wrap(
        _ secret: borrowing SecretBytes, header: Bytes, as purpose: Purpose, under key: UnsafePointer<UInt8>, context: Context, nonces: NoncePool
    ) -> Bytes {
        let total = header.count + overheadBytes + secret.count
        return unsafe secret.withUnsafeBytes { plaintext in
            unsafe Bytes(unsafeUninitializedCapacity: total) { target, count in
                let blob = unsafe UnsafeMutableRawBufferPointer(start: target.baseAddress, count: total)
                unsafe blob.copyBytes(from: header)
                unsafe seal(plaintext, as: purpose, under: key, context: context, nonces: nonces, headerBytes: header.count, into: blob)
                count = total
            }
        }
    }
    /// Opens a blob that holds one 32-byte key.
    static func unwrap(
        _ blob: Bytes, headerBytes: Int, as purpose: Purpose, under key: UnsafePointer<UInt8>, context: Context
    ) throws(SealingError) -> SecretBytes {
        guard blob.count == headerBytes + overheadBytes + keyBytes else { throw .truncated }
        return try sealing { () throws -> SecretBytes in
            try unsafe SecretBytes(capacity: keyBytes, guarded: true) { target in
                if let failure = unsafe blob.withUnsafeBytes({ blob in
                    unsafe open(blob, as: purpose, under: key, context: context, headerBytes: headerBytes, into: target)
                }) { throw failure }
                return keyBytes
            }
        }
    }
}
