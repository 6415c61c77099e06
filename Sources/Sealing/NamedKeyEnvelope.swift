package import Basics
package import SecretMemory

/// What a named key of the Key Vault seals: small secrets, other programs' keys above all.
///
///     0xA1 | alg u8 | 0 u16 | version u32 | key_id 16 | nonce 24 | Com 32 | ciphertext | tag 16          AAD binds keyring and the caller's context
///
/// The header says which version of which key opens it, so that nobody has to keep that beside it.
package enum NamedKeyEnvelope {
    static let magic: UInt8 = 0xA1
    static let headerBytes = 24
    /// What sealing adds.
    package static let overheadBytes = headerBytes + Envelope.overheadBytes
    package static let keyBytes = Envelope.keyBytes
    package static let keyIDBytes = 16

    package struct Reference: Hashable, Sendable {
        package var keyID: Bytes
        package var version: UInt32
        package init(keyID: Bytes, version: UInt32) { self.keyID = keyID; self.version = version }
    }

    package static func seal(
        _ plaintext: UnsafeRawBufferPointer, under key: borrowing SecretBytes, _ reference: Reference, keyring: KeyringID, context: Bytes, nonces: NoncePool
    ) -> Bytes {
        precondition(key.count == keyBytes && reference.keyID.count == keyIDBytes)
        var header = ByteWriter(capacity: headerBytes)
        header.write(magic); header.write(Envelope.algorithm); header.write(UInt16(0)); header.write(reference.version); header.write(raw: reference.keyID)
        let total = overheadBytes + plaintext.count
        return unsafe key.withUnsafeStart { key in
            unsafe Bytes(unsafeUninitializedCapacity: total) { target, count in
                let blob = unsafe UnsafeMutableRawBufferPointer(start: target.baseAddress, count: total)
                unsafe blob.copyBytes(from: header.bytes)
                unsafe Envelope.seal(plaintext, as: .namedKey, under: key, context: .init(keyring: keyring, subject: context), nonces: nonces,
                                     headerBytes: headerBytes, into: blob)
                count = total
            }
        }
    }

    /// Which key opens it.
    package static func reference(of blob: Bytes) throws(SealingError) -> Reference {
        guard blob.count >= overheadBytes else { throw .truncated }
        guard blob[0] == magic else { throw .wrongMagic }
        guard blob[1] == Envelope.algorithm else { throw .unknownAlgorithm(blob[1]) }
        let flags = UInt16(blob[2]) << 8 | UInt16(blob[3])
        guard flags == 0 else { throw .unknownFlags(flags) }
        let version = blob[4..<8].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        return Reference(keyID: Bytes(blob[8..<24]), version: version)
    }

    package static func open(_ blob: Bytes, under key: borrowing SecretBytes, keyring: KeyringID, context: Bytes) throws(SealingError) -> SecretBytes {
        _ = try reference(of: blob)
        precondition(key.count == keyBytes)
        return try unsafe key.withUnsafeStart { key throws(SealingError) -> SecretBytes in
            try sealing { () throws -> SecretBytes in
                try unsafe SecretBytes(capacity: blob.count - overheadBytes) { target in
                    if let failure = unsafe blob.withUnsafeBytes({ blob in
                        unsafe Envelope.open(blob, as: .namedKey, under: key, context: .init(keyring: keyring, subject: context),
                                             headerBytes: headerBytes, into: target)
                    }) { throw failure }
                    return target.count
                }
            }
        }
    }
}
