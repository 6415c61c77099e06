package import Basics
import CSodium
package import SecretMemory
import Synchronization

/// A KEK version as the key table holds it: 140 bytes, wrapped by the root.
///
///     0xC1 | alg u8 | 0 u16 | kek_id 16 | ver u32 | root_gen u32 | created_ms u64 | nonce 24 | Com 32 | key 32 | tag 16
package struct WrappedKeyEncryptionKey: Hashable, Sendable {
    static let magic: UInt8 = 0xC1
    static let headerBytes = 36
    package static let wrappedBytes = 140

    package var id: KeyEncryptionKeyID
    package var wrapped: Bytes
    package init(id: KeyEncryptionKeyID, wrapped: Bytes) { self.id = id; self.wrapped = wrapped }

    static func header(_ id: KeyEncryptionKeyID, rootGeneration: UInt32, createdMilliseconds: UInt64) -> Bytes {
        var header = ByteWriter(capacity: headerBytes)
        header.write(magic); header.write(Envelope.algorithm); header.write(UInt16(0))
        header.write(raw: id.kek); header.write(id.version); header.write(rootGeneration); header.write(createdMilliseconds)
        return header.bytes
    }
    struct Header { var rootGeneration: UInt32, createdMilliseconds: UInt64 }
    /// Parses, and refuses a blob that belongs into another record.
    func parsedHeader() throws(SealingError) -> Header {
        try parse(wrapped, magic: Self.magic, count: Self.wrappedBytes) { reader in
            let kek = Bytes(try reader.readRaw(16)), version: UInt32 = try reader.read()
            guard KeyEncryptionKeyID(kek, version) == id else { throw SealingError.movedRecord }
            return Header(rootGeneration: try reader.read(), createdMilliseconds: try reader.read())
        }
    }
}

/// A DEK generation as the key table holds it: 148 bytes, wrapped by a KEK version.
///
///     0xD1 | alg u8 | 0 u16 | gen u32 | domain u64 | kek_id 16 | kek_ver u32 | created_ms u64 | nonce 24 | Com 32 | key 32 | tag 16
package struct WrappedDataKey: Hashable, Sendable {
    static let magic: UInt8 = 0xD1
    static let headerBytes = 44
    package static let wrappedBytes = 148

    package var id: DataKeyID
    package var wrappedBy: KeyEncryptionKeyID
    package var wrapped: Bytes
    package init(id: DataKeyID, wrappedBy: KeyEncryptionKeyID, wrapped: Bytes) { self.id = id; self.wrappedBy = wrappedBy; self.wrapped = wrapped }

    static func header(_ id: DataKeyID, wrappedBy kek: KeyEncryptionKeyID, createdMilliseconds: UInt64) -> Bytes {
        var header = ByteWriter(capacity: headerBytes)
        header.write(magic); header.write(Envelope.algorithm); header.write(UInt16(0))
        header.write(id.generation); header.write(id.domain.rawValue)
        header.write(raw: kek.kek); header.write(kek.version); header.write(createdMilliseconds)
        return header.bytes
    }
    /// Parses, and refuses a blob that belongs into another record; answers when the key was made.
    func parsedCreatedMilliseconds() throws(SealingError) -> UInt64 {
        try parse(wrapped, magic: Self.magic, count: Self.wrappedBytes) { reader in
            let generation: UInt32 = try reader.read(), domain: UInt64 = try reader.read()
            let kek = Bytes(try reader.readRaw(16)), version: UInt32 = try reader.read()
            guard id == DataKeyID(DomainID(domain), generation), wrappedBy == KeyEncryptionKeyID(kek, version) else { throw SealingError.movedRecord }
            return try reader.read()
        }
    }
}

/// A member's file key as it lies beside its data: 128 bytes, wrapped by the root.
///
///     0xF1 | alg u8 | key_gen u16 | member u64 | root_gen u32 | created_ms u64 | nonce 24 | Com 32 | key 32 | tag 16
package struct WrappedFileKey: Hashable, Sendable {
    static let magic: UInt8 = 0xF1
    static let headerBytes = 24
    package static let wrappedBytes = 128

    package var generation: UInt16
    package var member: MemberID
    package var rootGeneration: UInt32
    package var createdMilliseconds: UInt64
    package var wrapped: Bytes

    package init(parsing bytes: Bytes) throws(SealingError) {
        guard bytes.count == Self.wrappedBytes else { throw .truncated }
        guard bytes[0] == Self.magic else { throw .wrongMagic }
        guard bytes[1] == Envelope.algorithm else { throw .unknownAlgorithm(bytes[1]) }
        var reader = ByteReader(bytes[2...])
        do {
            generation = try reader.read()
            member = MemberID(try reader.read())
            rootGeneration = try reader.read()
            createdMilliseconds = try reader.read()
        } catch { throw .truncated }
        wrapped = bytes
    }
    static func header(_ generation: UInt16, _ member: MemberID, rootGeneration: UInt32, createdMilliseconds: UInt64) -> Bytes {
        var header = ByteWriter(capacity: headerBytes)
        header.write(magic); header.write(Envelope.algorithm); header.write(generation)
        header.write(member.rawValue); header.write(rootGeneration); header.write(createdMilliseconds)
        return header.bytes
    }
}

/// Checks length, magic, algorithm and the zero bytes, then lets `body` read the rest of the header.
private func parse<R>(_ blob: Bytes, magic: UInt8, count: Int, _ body: (inout ByteReader) throws -> R) throws(SealingError) -> R {
    guard blob.count == count else { throw .truncated }
    guard blob[0] == magic else { throw .wrongMagic }
    guard blob[1] == Envelope.algorithm else { throw .unknownAlgorithm(blob[1]) }
    let flags = UInt16(blob[2]) << 8 | UInt16(blob[3])
    guard flags == 0 else { throw .unknownFlags(flags) }
    var reader = ByteReader(blob[4...])
    do { return try body(&reader) } catch let error as SealingError { throw error } catch { throw .truncated }
}

extension Keyring {
    // MARK: New keys, wrapped

    /// A random id for a new KEK; its versions count from 1.
    package static func newKeyEncryptionKeyID() -> Bytes { newID().bytes }

    /// The first KEK version and the first DEK generation of a new domain.
    package func newDomain(_ domain: DomainID, createdMilliseconds: UInt64) throws(SealingError) -> (kek: WrappedKeyEncryptionKey, dek: WrappedDataKey) {
        let kekID = KeyEncryptionKeyID(Self.newKeyEncryptionKeyID(), 1)
        let kek = try sealing { () throws -> SecretBytes in try SecretBytes.random(count: Envelope.keyBytes, guarded: true) }
        let wrappedKEK = try wrap(keyEncryptionKey: kek, kekID, createdMilliseconds: createdMilliseconds)
        let dek = try sealing { () throws -> SecretBytes in try SecretBytes.random(count: Envelope.keyBytes, guarded: true) }
        return (wrappedKEK, wrap(dataKey: dek, DataKeyID(domain, 1), under: kekID, kek: kek, createdMilliseconds: createdMilliseconds))
    }

    /// A further generation, wrapped by a KEK version that is installed.
    package func newDataKey(_ id: DataKeyID, under kekID: KeyEncryptionKeyID, createdMilliseconds: UInt64) throws(SealingError) -> WrappedDataKey {
        let kek = try keyEncryptionKey(kekID)
        let dek = try sealing { () throws -> SecretBytes in try SecretBytes.random(count: Envelope.keyBytes, guarded: true) }
        return wrap(dataKey: dek, id, under: kekID, kek: kek, createdMilliseconds: createdMilliseconds)
    }

    /// A further KEK version, wrapped by the live root.
    package func newKeyEncryptionKey(_ id: KeyEncryptionKeyID, createdMilliseconds: UInt64) throws(SealingError) -> WrappedKeyEncryptionKey {
        let kek = try sealing { () throws -> SecretBytes in try SecretBytes.random(count: Envelope.keyBytes, guarded: true) }
        return try wrap(keyEncryptionKey: kek, id, createdMilliseconds: createdMilliseconds)
    }

    /// The same DEK under another KEK version that is installed; it keeps the time it was made.
    package func rewrap(_ record: WrappedDataKey, under kekID: KeyEncryptionKeyID) throws(SealingError) -> WrappedDataKey {
        let created = try record.parsedCreatedMilliseconds()
        let dek = try unwrap(record)
        return wrap(dataKey: dek, record.id, under: kekID, kek: try keyEncryptionKey(kekID), createdMilliseconds: created)
    }

    /// The same KEK under the live root; it keeps the time it was made.
    package func rewrap(_ record: WrappedKeyEncryptionKey) throws(SealingError) -> WrappedKeyEncryptionKey {
        let created = try record.parsedHeader().createdMilliseconds
        let kek = try unwrap(record)
        return try wrap(keyEncryptionKey: kek, record.id, createdMilliseconds: created)
    }

    // MARK: Keys from the table

    package func install(_ record: WrappedKeyEncryptionKey) throws(SealingError) {
        if has(record.id) { return }
        let kek = try unwrap(record)
        try keep { state throws(SealingError) in
            guard state.keyEncryptionKeys[record.id] == nil else { return }
            state.keyEncryptionKeys[record.id] = try state.keyEncryptionSlab.insert(kek)
        }
    }
    package func install(_ record: WrappedDataKey) throws(SealingError) {
        if has(record.id) { return }
        let dek = try unwrap(record)
        try keep { state throws(SealingError) in
            guard state.dataKeys[record.id] == nil else { return }
            state.dataKeys[record.id] = try state.dataSlab.insert(dek)
        }
    }
    /// Wipes it; what is sealed under it no longer opens here.
    package func forget(_ id: DataKeyID) {
        state.withLock { state in
            if let slot = state.dataKeys.removeValue(forKey: id) { state.dataSlab.remove(slot) }
        }
    }
    package func forget(_ id: KeyEncryptionKeyID) {
        state.withLock { state in
            if let slot = state.keyEncryptionKeys.removeValue(forKey: id) { state.keyEncryptionSlab.remove(slot) }
        }
    }
    /// Wipes every key: sealed.
    package func forgetAll() {
        state.withLock { state in
            for slot in state.dataKeys.values { state.dataSlab.remove(slot) }
            for slot in state.keyEncryptionKeys.values { state.keyEncryptionSlab.remove(slot) }
            state.dataKeys = [:]
            state.keyEncryptionKeys = [:]
            state.roots = [:]
        }
    }

    // MARK: Roots and the file key

    package var rootGeneration: UInt32 { state.withLock { $0.rootGeneration } }
    /// A new live root; older ones stay, to open what they wrapped, until `forgetRoot`.
    package func install(_ root: RootKey) {
        state.withLock { state in
            state.roots[root.generation] = root
            state.rootGeneration = max(state.rootGeneration, root.generation)
        }
    }
    package func forgetRoot(generation: UInt32) { state.withLock { $0.roots[generation] = nil } }

    /// A new file key for a member, wrapped by the live root.
    package func newFileKey(member: MemberID, generation: UInt16, createdMilliseconds: UInt64) throws(SealingError) -> WrappedFileKey {
        let key = try sealing { () throws -> SecretBytes in try SecretBytes.random(count: Envelope.keyBytes, guarded: true) }
        let root = try root(rootGeneration)
        let header = WrappedFileKey.header(generation, member, rootGeneration: root.generation, createdMilliseconds: createdMilliseconds)
        let wrapped = unsafe root.key.withUnsafeStart { root in
            unsafe Envelope.wrap(key, header: header, as: .fileKey, under: root, context: .init(keyring: id, subject: nil), nonces: nonces)
        }
        return try WrappedFileKey(parsing: wrapped)
    }
    package func unwrap(_ record: WrappedFileKey) throws(SealingError) -> SecretBytes {
        let root = try root(record.rootGeneration)
        return try unsafe root.key.withUnsafeStart { root throws(SealingError) in
            try unsafe Envelope.unwrap(record.wrapped, headerBytes: WrappedFileKey.headerBytes, as: .fileKey, under: root,
                                       context: .init(keyring: id, subject: nil))
        }
    }

    // MARK: Inside

    private func root(_ generation: UInt32) throws(SealingError) -> RootKey {
        guard let root = state.withLock({ $0.roots[generation] }) else { throw .unknownRoot(generation: generation) }
        return root
    }
    private func keep(_ body: (inout State) throws(SealingError) -> Void) throws(SealingError) {
        let failure: SealingError? = state.withLock { state in
            do throws(SealingError) { try body(&state); return nil } catch { return error }
        }
        if let failure { throw failure }
    }
    private func wrap(
        keyEncryptionKey kek: borrowing SecretBytes, _ kekID: KeyEncryptionKeyID, createdMilliseconds: UInt64
    ) throws(SealingError) -> WrappedKeyEncryptionKey {
        let root = try root(rootGeneration)
        let header = WrappedKeyEncryptionKey.header(kekID, rootGeneration: root.generation, createdMilliseconds: createdMilliseconds)
        let wrapped = unsafe root.key.withUnsafeStart { root in
            unsafe Envelope.wrap(kek, header: header, as: .keyEncryptionKey, under: root, context: .init(keyring: id, subject: nil), nonces: nonces)
        }
        return WrappedKeyEncryptionKey(id: kekID, wrapped: wrapped)
    }
    private func wrap(
        dataKey dek: borrowing SecretBytes, _ dekID: DataKeyID, under kekID: KeyEncryptionKeyID, kek: borrowing SecretBytes, createdMilliseconds: UInt64
    ) -> WrappedDataKey {
        let header = WrappedDataKey.header(dekID, wrappedBy: kekID, createdMilliseconds: createdMilliseconds)
        let wrapped = unsafe kek.withUnsafeStart { kek in
            unsafe Envelope.wrap(dek, header: header, as: .dataKey, under: kek, context: .init(keyring: id, subject: nil), nonces: nonces)
        }
        return WrappedDataKey(id: dekID, wrappedBy: kekID, wrapped: wrapped)
    }
    private func unwrap(_ record: WrappedKeyEncryptionKey) throws(SealingError) -> SecretBytes {
        let root = try root(try record.parsedHeader().rootGeneration)
        return try unsafe root.key.withUnsafeStart { root throws(SealingError) in
            try unsafe Envelope.unwrap(record.wrapped, headerBytes: WrappedKeyEncryptionKey.headerBytes, as: .keyEncryptionKey, under: root,
                                       context: .init(keyring: id, subject: nil))
        }
    }
    private func unwrap(_ record: WrappedDataKey) throws(SealingError) -> SecretBytes {
        _ = try record.parsedCreatedMilliseconds()
        let kek = try keyEncryptionKey(record.wrappedBy)
        return try unsafe kek.withUnsafeStart { kek throws(SealingError) in
            try unsafe Envelope.unwrap(record.wrapped, headerBytes: WrappedDataKey.headerBytes, as: .dataKey, under: kek,
                                       context: .init(keyring: id, subject: nil))
        }
    }
    /// A copy in guarded memory.
    private func keyEncryptionKey(_ kekID: KeyEncryptionKeyID) throws(SealingError) -> SecretBytes {
        var found = false
        let copy = try sealing { () throws -> SecretBytes in
            try unsafe SecretBytes(capacity: Envelope.keyBytes, guarded: true) { target in
                let address = UInt(bitPattern: target.baseAddress)
                found = state.withLock { state in
                    guard let slot = state.keyEncryptionKeys[kekID], let target = unsafe UnsafeMutableRawPointer(bitPattern: address) else { return false }
                    unsafe state.keyEncryptionSlab.copy(slot, to: target)
                    return true
                }
                return target.count
            }
        }
        guard found else { throw .unknownKeyEncryptionKey(kekID) }
        return copy
    }
}
