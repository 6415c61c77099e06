package import Basics
import CSodium
import SecretMemory

package enum SealFileError: Error, Equatable, Sendable {
    case wrongMagic, truncated, trailingBytes
    case noSlots, duplicateSlot(UInt32)
    /// The slots or their parameters are not what the holder of the root wrote.
    case badMac
    case malformedSlot(UInt32)
    /// A slot kind of a newer version: kept, but it cannot be opened or given a new root.
    case unknownSlotKind(UInt16)
    case noSuchSlot(UInt32)
    /// There is no slot of this kind at all.
    case noSlotOfKind(SealSlot.Kind)
    /// The key file is none of those that open this store.
    case wrongKeyFile(found: Bytes, expected: [Bytes])
    /// The fingerprint is the one expected, yet the bytes are not.
    case sameFingerprintOtherBytes
    case wrongPassphrase
    /// Argon2id parameters outside what is safe or affordable.
    case costOutOfBounds(PassphraseSlot.Cost)
    case wrongKeyFileLength(Int)
    case emptyPassphrase
    /// The public half is no point that a key could be sealed to.
    case badPublicHalf(UInt32)
    case sealing(SealingError)
}

extension SealFileError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .wrongMagic: "it does not begin as a seal file does"
        case .truncated: "it is truncated"
        case .trailingBytes: "bytes follow its end"
        case .noSlots: "it has no slot"
        case .duplicateSlot(let id): "slot \(id) is there twice"
        case .badMac: "its slots were changed without the key"
        case .malformedSlot(let id): "slot \(id) is malformed"
        case .unknownSlotKind(let kind): "a slot is of kind \(kind), which a newer version may know"
        case .noSuchSlot(let id): "there is no slot \(id)"
        case .noSlotOfKind(let kind): "it has no slot for a \(kind == .keyFile ? "key file" : "passphrase")"
        case .wrongKeyFile(let found, let expected):
            "it is another key file, of fingerprint \(Self.hexadecimal(found)), not \(expected.map(Self.hexadecimal).joined(separator: " or "))"
        case .sameFingerprintOtherBytes: "the key file has the fingerprint expected, and other bytes"
        case .wrongPassphrase: "wrong passphrase"
        case .costOutOfBounds(let cost): "the passphrase's cost is out of bounds: \(cost)"
        case .wrongKeyFileLength(let count): "a key file has \(KeyFileSlot.keyBytes) bytes, not \(count)"
        case .emptyPassphrase: "the passphrase is empty"
        case .badPublicHalf(let id): "slot \(id) has no valid public half"
        case .sealing(let error): "\(error)"
        }
    }
    private static func hexadecimal(_ bytes: Bytes) -> String { bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
}

/// One way to open the root. `parameters` are the kind's own and end, for every kind there is, in the slot's X25519 public half.
package struct SealSlot: Hashable, Sendable {
    package enum Kind: UInt16, Hashable, Sendable { case keyFile = 1, passphrase = 2 }
    package var id: UInt32
    package var kind: UInt16
    package var parameters: Bytes
    /// The root, sealed to the public half (`RootBox`).
    package var wrapped: Bytes
}

/// The root key as every member keeps it beside its data and every backup carries it at its head: wrapped once per slot, any one
/// of which opens it.
///
///     "CFSEAL1\0" | keyring_id 16 | root_gen u32 | n u16 | n × { slot_id u32 | type u16 | plen u16 | params | wlen u16 | wrapped } | mac 32
///
/// The mac is keyed BLAKE2b-256 under a key derived from the root, over everything before it: whoever can write the file but not
/// open it can neither swap slots nor weaken a passphrase's cost without being noticed as soon as a slot has opened.
package struct SealFile: Equatable, Sendable {
    package static let magic = Bytes("CFSEAL1\0".utf8)
    package static let macBytes = 32
    package static let fileBytesMax = 1 << 20

    package private(set) var keyring: KeyringID
    package private(set) var rootGeneration: UInt32
    package private(set) var slots: [SealSlot]
    private var mac: Bytes

    /// A first seal file: `root` sealed to each recipient, whose slots are numbered from 1.
    package init(keyring: KeyringID, root: RootKey, recipients: [SlotRecipient]) throws(SealFileError) {
        guard !recipients.isEmpty else { throw .noSlots }
        self.keyring = keyring
        rootGeneration = root.generation
        slots = []
        mac = []
        for (number, recipient) in recipients.enumerated() {
            slots.append(try Self.slot(UInt32(number + 1), recipient, keyring: keyring, root: root))
        }
        mac = Self.mac(of: body, root: root)
    }

    // MARK: Bytes

    package func encoded() -> Bytes { body + mac }

    private var body: Bytes {
        var writer = ByteWriter(capacity: 512)
        writer.write(raw: Self.magic); writer.write(raw: keyring.bytes); writer.write(rootGeneration); writer.write(UInt16(slots.count))
        for slot in slots {
            writer.write(slot.id); writer.write(slot.kind)
            writer.write(UInt16(slot.parameters.count)); writer.write(raw: slot.parameters)
            writer.write(UInt16(slot.wrapped.count)); writer.write(raw: slot.wrapped)
        }
        return writer.bytes
    }

    /// Parses. What it says is not to be trusted before `open` has checked the mac.
    package init(decoding bytes: Bytes) throws(SealFileError) {
        guard bytes.starts(with: Self.magic) else { throw bytes.count < Self.magic.count ? .truncated : .wrongMagic }
        guard bytes.count <= Self.fileBytesMax else { throw .trailingBytes }
        var reader = ByteReader(bytes[Self.magic.count...])
        do {
            guard let keyring = KeyringID(Bytes(try reader.readRaw(16))) else { throw SealFileError.truncated }
            self.keyring = keyring
            rootGeneration = try reader.read()
            let count: UInt16 = try reader.read()
            slots = []
            for _ in 0..<count {
                let id: UInt32 = try reader.read(), kind: UInt16 = try reader.read()
                let parameterCount: UInt16 = try reader.read()
                let parameters = Bytes(try reader.readRaw(Int(parameterCount)))
                let wrappedCount: UInt16 = try reader.read()
                slots.append(SealSlot(id: id, kind: kind, parameters: parameters, wrapped: Bytes(try reader.readRaw(Int(wrappedCount)))))
            }
            mac = Bytes(try reader.readRaw(Self.macBytes))
        } catch let error as SealFileError { throw error } catch { throw .truncated }
        guard reader.isAtEnd else { throw .trailingBytes }
        guard !slots.isEmpty else { throw .noSlots }
        for (position, slot) in slots.enumerated() where slots[..<position].contains(where: { $0.id == slot.id }) { throw .duplicateSlot(slot.id) }
    }

    // MARK: Opening

    /// Finds the slot that `secret` opens, opens it, and checks the mac under the root that came out.
    package func open(with secret: borrowing SlotSecret) throws(SealFileError) -> RootKey {
        let identity = try secret.identity(in: slots)
        guard let slot = slots.first(where: { $0.id == identity.slot }) else { throw .noSuchSlot(identity.slot) }
        let root = try RootBox.open(slot, identity: identity, keyring: keyring, rootGeneration: rootGeneration)
        try verify(under: root)
        return root
    }

    package func verify(under root: RootKey) throws(SealFileError) {
        let expected = Self.mac(of: body, root: root)
        let equal = unsafe expected.withUnsafeBytes { a in
            unsafe mac.withUnsafeBytes { b in unsafe a.count == b.count && sodium_memcmp(a.baseAddress!, b.baseAddress!, a.count) == 0 }
        }
        guard equal else { throw .badMac }
    }

    // MARK: Changes (they need the root, so that the mac can be made)

    /// Another way to open the same root; answers its slot's id.
    package mutating func add(_ recipient: SlotRecipient, root: RootKey) throws(SealFileError) -> UInt32 {
        try verify(under: root)
        let id = (slots.map(\.id).max() ?? 0) &+ 1
        slots.append(try Self.slot(id, recipient, keyring: keyring, root: root))
        mac = Self.mac(of: body, root: root)
        return id
    }
    /// The last slot stays: without one, nothing would ever open.
    package mutating func remove(slot id: UInt32, root: RootKey) throws(SealFileError) {
        try verify(under: root)
        guard slots.contains(where: { $0.id == id }) else { throw .noSuchSlot(id) }
        guard slots.count > 1 else { throw .noSlots }
        slots.removeAll { $0.id == id }
        mac = Self.mac(of: body, root: root)
    }
    /// The file for a new root. Needs no slot's secret, only their public halves: slots may be offline.
    package func rewrapped(from old: RootKey, to new: RootKey) throws(SealFileError) -> SealFile {
        try verify(under: old)
        var file = self
        file.rootGeneration = new.generation
        for index in file.slots.indices {
            guard SealSlot.Kind(rawValue: slots[index].kind) != nil else { throw .unknownSlotKind(slots[index].kind) }
            file.slots[index].wrapped = try RootBox.seal(new, to: slots[index], keyring: keyring)
        }
        file.mac = Self.mac(of: file.body, root: new)
        return file
    }

    private static func slot(_ id: UInt32, _ recipient: SlotRecipient, keyring: KeyringID, root: RootKey) throws(SealFileError) -> SealSlot {
        var slot = SealSlot(id: id, kind: recipient.kind.rawValue, parameters: recipient.parameters, wrapped: [])
        slot.wrapped = try RootBox.seal(root, to: slot, keyring: keyring)
        return slot
    }
    private static func mac(of body: Bytes, root: RootKey) -> Bytes {
        unsafe root.key.withUnsafeStart { root in
            unsafe withUnsafeTemporaryAllocation(byteCount: 32, alignment: 16) { key in
                let start = key.baseAddress!
                defer { unsafe sodium_memzero(start, 32) }
                unsafe Envelope.hash([], as: .sealFile, key: root, into: key)
                return unsafe Envelope.hash(body, as: .sealFile, key: UnsafePointer(start.assumingMemoryBound(to: UInt8.self)), count: macBytes)
            }
        }
    }
}
