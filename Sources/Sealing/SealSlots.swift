package import Basics
import CSodium
package import SecretMemory

/// What a seal file keeps of a slot: its kind and parameters, in which nothing is secret.
package struct SlotRecipient: Hashable, Sendable {
    package let kind: SealSlot.Kind
    let parameters: Bytes
}

/// What opens a slot.
package enum SlotSecret: ~Copyable, Sendable {
    /// The 32 bytes of a key file.
    case keyFile(SecretBytes)
    case passphrase(SecretBytes)

    /// The slot this opens and its X25519 secret half; every reason why there is none is an error of its own.
    borrowing func identity(in slots: [SealSlot]) throws(SealFileError) -> SlotIdentity {
        switch self {
        case .keyFile(let key): try KeyFileSlot.identity(of: key, in: slots)
        case .passphrase(let passphrase): try PassphraseSlot.identity(of: passphrase, in: slots)
        }
    }
}

/// An X25519 key pair that belongs to a slot and follows from its secret.
struct SlotIdentity: ~Copyable {
    let secret: SecretBytes
    let publicHalf: Bytes
    /// The slot it was found in; 0 for one that is being made.
    let slot: UInt32

    /// From 32 bytes of a slot's own secret: `X25519 secret = BLAKE2b-256(key = them, personal = "coffer.slot.v1", input = kind u16)`.
    init(from slotSecret: borrowing SecretBytes, kind: SealSlot.Kind, slot: UInt32 = 0) throws(SealFileError) {
        self.slot = slot
        precondition(slotSecret.count == Envelope.keyBytes)
        do throws(SealingError) {
            secret = try sealing { () throws -> SecretBytes in
                try unsafe SecretBytes(capacity: Envelope.keyBytes, guarded: true) { target in
                    unsafe slotSecret.withUnsafeStart { key in
                        unsafe Envelope.hash([UInt8(kind.rawValue >> 8), UInt8(kind.rawValue & 0xff)], as: .slot, key: key, into: target)
                    }
                    return target.count
                }
            }
        } catch { throw .sealing(error) }
        publicHalf = unsafe secret.withUnsafeStart { secret in
            unsafe Bytes(unsafeUninitializedCapacity: 32) { target, count in
                let status = unsafe crypto_scalarmult_base(target.baseAddress!, secret)
                precondition(status == 0)
                count = 32
            }
        }
    }
}

/// A root key sealed to a slot's public half, in the manner of HPKE and of age's recipients: 152 bytes.
///
///     0xB1 | alg u8 | 0 u16 | root_gen u32 | slot_id u32 | kind u16 | 0 u16 | ephemeral X25519 public 32 | nonce 24 | Com 32 | root 32 | tag 16
///     K    = BLAKE2b-256(key = X25519(ephemeral secret, public half), personal = "coffer.box.v1", input = ephemeral public || public half)
///     AAD  = "coffer.root.v1" || header || keyring_id || the slot's parameters
///
/// So the wrapped root is bound to keyring, root generation, slot, and the parameters (an Argon2 cost among them). Whoever seals needs
/// no secret of the slot, which may be offline; whoever opens proves that whoever sealed knew the public half, and no more: that the
/// slot belongs to the file is what the file's mac says.
enum RootBox {
    static let magic: UInt8 = 0xB1
    static let headerBytes = 48
    static let publicBytes = 32

    static func publicHalf(of slot: SealSlot) throws(SealFileError) -> Bytes {
        guard slot.parameters.count >= publicBytes else { throw .malformedSlot(slot.id) }
        return Bytes(slot.parameters.suffix(publicBytes))
    }

    static func seal(_ root: RootKey, to slot: SealSlot, keyring: KeyringID) throws(SealFileError) -> Bytes {
        let publicHalf = try publicHalf(of: slot)
        do {
            let ephemeral = try SecretBytes.random(count: 32, guarded: true)
            let ephemeralPublic = unsafe ephemeral.withUnsafeStart { secret in
                unsafe Bytes(unsafeUninitializedCapacity: 32) { target, count in
                    let status = unsafe crypto_scalarmult_base(target.baseAddress!, secret)
                    precondition(status == 0)
                    count = 32
                }
            }
            let key = try sharedKey(ephemeral, with: publicHalf, ephemeralPublic: ephemeralPublic, publicHalf: publicHalf, slot: slot.id)
            var header = ByteWriter(capacity: headerBytes)
            header.write(magic); header.write(Envelope.algorithm); header.write(UInt16(0)); header.write(root.generation)
            header.write(slot.id); header.write(slot.kind); header.write(UInt16(0)); header.write(raw: ephemeralPublic)
            return unsafe key.withUnsafeStart { key in
                unsafe Envelope.wrap(root.key, header: header.bytes, as: .root, under: key,
                                     context: .init(keyring: keyring, subject: slot.parameters), nonces: NoncePool())
            }
        } catch let error as SealFileError { throw error } catch { throw .sealing(.memory(String(describing: error))) }
    }

    static func open(_ slot: SealSlot, identity: borrowing SlotIdentity, keyring: KeyringID, rootGeneration: UInt32) throws(SealFileError) -> RootKey {
        let blob = slot.wrapped
        guard blob.count == headerBytes + Envelope.overheadBytes + Envelope.keyBytes else { throw .sealing(.truncated) }
        guard blob[0] == magic else { throw .sealing(.wrongMagic) }
        guard blob[1] == Envelope.algorithm else { throw .sealing(.unknownAlgorithm(blob[1])) }
        var reader = ByteReader(blob[2...])
        do {
            let flags: UInt16 = try reader.read()
            guard flags == 0 else { throw SealFileError.sealing(.unknownFlags(flags)) }
            let generation: UInt32 = try reader.read(), id: UInt32 = try reader.read(), kind: UInt16 = try reader.read()
            guard generation == rootGeneration, id == slot.id, kind == slot.kind else { throw SealFileError.sealing(.movedRecord) }
            let reserved: UInt16 = try reader.read()
            guard reserved == 0 else { throw SealFileError.sealing(.unknownFlags(reserved)) }
            let ephemeralPublic = Bytes(try reader.readRaw(publicBytes))
            let key = try sharedKey(identity.secret, with: ephemeralPublic, ephemeralPublic: ephemeralPublic, publicHalf: identity.publicHalf, slot: slot.id)
            let root = try unsafe key.withUnsafeStart { key throws(SealingError) in
                try unsafe Envelope.unwrap(blob, headerBytes: headerBytes, as: .root, under: key, context: .init(keyring: keyring, subject: slot.parameters))
            }
            return try RootKey(generation: generation, key: root)
        } catch let error as SealFileError { throw error } catch let error as SealingError { throw .sealing(error) } catch { throw .sealing(.truncated) }
    }

    private static func sharedKey(
        _ secret: borrowing SecretBytes, with other: Bytes, ephemeralPublic: Bytes, publicHalf: Bytes, slot: UInt32
    ) throws -> SecretBytes {
        let shared = try unsafe SecretBytes(capacity: 32, guarded: true) { target in
            let status = unsafe secret.withUnsafeStart { secret in
                unsafe crypto_scalarmult(target.baseAddress!.assumingMemoryBound(to: UInt8.self), secret, other)
            }
            // A point of small order would make the shared secret zero whatever our own is.
            guard status == 0 else { throw SealFileError.badPublicHalf(slot) }
            return 32
        }
        return try unsafe SecretBytes(capacity: 32, guarded: true) { target in
            unsafe shared.withUnsafeStart { unsafe Envelope.hash(ephemeralPublic + publicHalf, as: .rootBox, key: $0, into: target) }
            return 32
        }
    }
}

/// A file of 32 random bytes, kept away from the data.
///
///     params = fingerprint 16 | X25519 public half 32          fingerprint = BLAKE2b-128(key file, personal = "coffer.kfid.v1")
package enum KeyFileSlot {
    package static let keyBytes = 32
    static let fingerprintBytes = 16
    static let parameterBytes = fingerprintBytes + RootBox.publicBytes

    /// Names a key file without telling anything of it.
    package static func fingerprint(of key: borrowing SecretBytes) -> Bytes {
        unsafe key.withUnsafeStart { start in
            unsafe Envelope.hash([], as: .fingerprint, key: start, keyBytes: key.count, count: fingerprintBytes)
        }
    }
    package static func recipient(for key: borrowing SecretBytes) throws(SealFileError) -> SlotRecipient {
        guard key.count == keyBytes else { throw .wrongKeyFileLength(key.count) }
        let identity = try SlotIdentity(from: key, kind: .keyFile)
        return SlotRecipient(kind: .keyFile, parameters: fingerprint(of: key) + identity.publicHalf)
    }
    static func identity(of key: borrowing SecretBytes, in slots: [SealSlot]) throws(SealFileError) -> SlotIdentity {
        guard key.count == keyBytes else { throw .wrongKeyFileLength(key.count) }
        let candidates = slots.filter { $0.kind == SealSlot.Kind.keyFile.rawValue }
        guard !candidates.isEmpty else { throw .noSlotOfKind(.keyFile) }
        for slot in candidates where slot.parameters.count != parameterBytes { throw .malformedSlot(slot.id) }
        let fingerprint = fingerprint(of: key)
        guard let slot = candidates.first(where: { $0.parameters.starts(with: fingerprint) }) else {
            throw .wrongKeyFile(found: fingerprint, expected: candidates.map { Bytes($0.parameters.prefix(fingerprintBytes)) })
        }
        let identity = try SlotIdentity(from: key, kind: .keyFile, slot: slot.id)
        guard Bytes(slot.parameters.suffix(RootBox.publicBytes)) == identity.publicHalf else { throw .sameFingerprintOtherBytes }
        return identity
    }
}

/// A passphrase, stretched by Argon2id (RFC 9106).
///
///     params = alg u8 = 2 | 0 u8 | 0 u16 | operations u32 | memory_kib u32 | salt 16 | X25519 public half 32
package enum PassphraseSlot {
    package struct Cost: Hashable, Sendable {
        package var operations: UInt32
        package var memoryKibibytes: UInt32
        package init(operations: UInt32, memoryKibibytes: UInt32) { self.operations = operations; self.memoryKibibytes = memoryKibibytes }

        /// libsodium's "moderate": about half a second.
        package static let standard = Cost(operations: 3, memoryKibibytes: 256 << 10)
        /// libsodium's "interactive". A file that asks for less was weakened or written carelessly: it is not opened.
        package static let floor = Cost(operations: 2, memoryKibibytes: 64 << 10)
        /// A file that asks for more would keep us busy, or out of memory, before anything of it is authenticated.
        package static let ceiling = Cost(operations: 32, memoryKibibytes: 4 << 20)

        var isAcceptable: Bool {
            (Self.floor.operations...Self.ceiling.operations).contains(operations)
                && (Self.floor.memoryKibibytes...Self.ceiling.memoryKibibytes).contains(memoryKibibytes)
        }
    }
    static let algorithm: UInt8 = 2
    static let saltBytes = 16
    static let parameterBytes = 12 + saltBytes + RootBox.publicBytes

    /// Takes as long as the cost says, and blocks: not for an event loop.
    package static func recipient(for passphrase: borrowing SecretBytes, cost: Cost = .standard) throws(SealFileError) -> SlotRecipient {
        guard cost.isAcceptable else { throw .costOutOfBounds(cost) }
        _ = Sodium.ready
        var salt = Bytes(repeating: 0, count: saltBytes)
        unsafe salt.withUnsafeMutableBytes { unsafe randombytes_buf($0.baseAddress!, saltBytes) }
        let identity = try identity(of: passphrase, salt: salt, cost: cost)
        var parameters = ByteWriter(capacity: parameterBytes)
        parameters.write(algorithm); parameters.write(UInt8(0)); parameters.write(UInt16(0))
        parameters.write(cost.operations); parameters.write(cost.memoryKibibytes); parameters.write(raw: salt); parameters.write(raw: identity.publicHalf)
        return SlotRecipient(kind: .passphrase, parameters: parameters.bytes)
    }

    static func identity(of passphrase: borrowing SecretBytes, in slots: [SealSlot]) throws(SealFileError) -> SlotIdentity {
        let candidates = slots.filter { $0.kind == SealSlot.Kind.passphrase.rawValue }
        guard !candidates.isEmpty else { throw .noSlotOfKind(.passphrase) }
        for slot in candidates {
            let (salt, cost) = try parsed(slot)
            let identity = try identity(of: passphrase, salt: salt, cost: cost, slot: slot.id)
            if Bytes(slot.parameters.suffix(RootBox.publicBytes)) == identity.publicHalf { return identity }
        }
        throw .wrongPassphrase
    }

    private static func parsed(_ slot: SealSlot) throws(SealFileError) -> (salt: Bytes, cost: Cost) {
        guard slot.parameters.count == parameterBytes else { throw .malformedSlot(slot.id) }
        var reader = ByteReader(slot.parameters)
        let salt: Bytes, cost: Cost
        do {
            guard try reader.read(UInt8.self) == algorithm, try reader.read(UInt8.self) == 0, try reader.read(UInt16.self) == 0 else {
                throw SealFileError.malformedSlot(slot.id)
            }
            cost = Cost(operations: try reader.read(), memoryKibibytes: try reader.read())
            salt = Bytes(try reader.readRaw(saltBytes))
        } catch { throw .malformedSlot(slot.id) }
        guard cost.isAcceptable else { throw .costOutOfBounds(cost) }
        return (salt, cost)
    }

    private static func identity(of passphrase: borrowing SecretBytes, salt: Bytes, cost: Cost, slot: UInt32 = 0) throws(SealFileError) -> SlotIdentity {
        guard passphrase.count > 0 else { throw .emptyPassphrase }
        let stretched: SecretBytes
        do throws(SealingError) {
            stretched = try sealing { () throws -> SecretBytes in
                try unsafe SecretBytes(capacity: Envelope.keyBytes, guarded: true) { target in
                    let status = unsafe passphrase.withUnsafeStart { start in
                        unsafe start.withMemoryRebound(to: CChar.self, capacity: passphrase.count) { characters in
                            unsafe crypto_pwhash(
                                target.baseAddress!.assumingMemoryBound(to: UInt8.self), UInt64(Envelope.keyBytes), characters, UInt64(passphrase.count),
                                salt, UInt64(cost.operations), Int(cost.memoryKibibytes) << 10, crypto_pwhash_ALG_ARGON2ID13)
                        }
                    }
                    guard status == 0 else { throw SealingError.memory("not enough memory for the passphrase's \(cost.memoryKibibytes >> 10) MiB") }
                    return target.count
                }
            }
        } catch { throw .sealing(error) }
        return try SlotIdentity(from: stretched, kind: .passphrase, slot: slot)
    }
}
