import Basics
import FileSealing
import MVCC
import WriteAheadLog

/// Rows of the record database. All integers are big-endian; `seal` is nonce 24, ciphertext, tag 16 under the member's file key.
///
///     records   key    main u64 | sub u32 | 0 u32
///               value  alg u8 | 0 u8 | key_gen u16 | metadata u32 | seal(metadata) | sealed value (none: a deletion)
///               metadata is: create i64 | version i64 | lease i64 | key;   `metadata u32` counts its sealed form
///               bound to: "CFRECORD" | keyring 16 | member u64 | row's key 16 | first 8 bytes | value's header 16, tag 16, length u64
///     rows      key    keyed hash 32 of: table u8 | key
///               value  alg u8 | 0 u8 | key_gen u16 | 0 u32 | seal(table u8 | length u32 | key | value)
///               bound to: "CFTABROW" | keyring 16 | member u64 | row's key 32 | first 8 bytes
///     meta      "format"  "CFSTORE1" | format u16 | key_gen u16 | member u64 | keyring 16 | seal("coffer"), bound to what precedes it
///               "state"   alg u8 | 0 u8 | key_gen u16 | 0 u32 | seal(applied u64 | term u64 | sequence u64 | tag 16)
///
/// A restart reads metadata only; the value's header says which data key it is under, and is bound too.
@safe struct RecordCodec {
    static let algorithm: UInt8 = 1
    static let headBytes = 8
    static let formatVersion: UInt16 = 1
    static let revisionBytes = 16
    private static let metadataFixedBytes = 24
    private static let stateBytes = 16 + LogAnchor.encodedBytes
    private static let recordDomain: UInt64 = 0x4346_5245_434f_5244, rowDomain: UInt64 = 0x4346_5441_4252_4f57
    private static let stateDomain: UInt64 = 0x4346_5354_4154_4531, formatMagic: UInt64 = 0x4346_5354_4f52_4531
    private static let keyCheck = Bytes("coffer".utf8)
    static let formatKey = Bytes("format".utf8), stateKey = Bytes("state".utf8)

    let fileKey: FileKey
    let keyring: KeyringID
    let member: MemberID
    private let plaintext = FrameBuffer(capacity: 4096)
    private let associated = FrameBuffer(capacity: 256)

    init(fileKey: FileKey, keyring: KeyringID, member: MemberID) {
        self.fileKey = fileKey; self.keyring = keyring; self.member = member
    }

    // MARK: Records

    static func key(_ revision: Revision) -> Bytes {
        var writer = ByteWriter(capacity: revisionBytes)
        writer.write(revision.main)
        writer.write(revision.sub)
        writer.write(0 as UInt32)
        return writer.bytes
    }
    static func revision(_ key: UnsafeRawBufferPointer) -> Revision? {
        let key = unsafe RawBytes(key)
        guard key.count == revisionBytes, let main = key.integer(Int64.self, at: 0), let sub = key.integer(Int32.self, at: 8),
              key.integer(UInt32.self, at: 12) == 0 else { return nil }
        return Revision(main, sub)
    }
    func size(of record: borrowing KeyVersion, valueBytes: Int) -> Int {
        Self.headBytes + FileKey.overheadBytes + Self.metadataFixedBytes + record.key.count + valueBytes
    }
    /// Fills `target`, of `size(of:valueBytes:)` bytes.
    func encode(_ version: borrowing KeyVersion, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) {
        plaintext.removeAll()
        plaintext.append(version.createRevision)
        plaintext.append(version.version)
        plaintext.append(version.lease)
        plaintext.append(version.key)
        let sealedBytes = plaintext.count + FileKey.overheadBytes
        unsafe writeHead(count: UInt32(sealedBytes), into: target)
        unsafe bindRecord(key: key, head: UnsafeRawBufferPointer(rebasing: target[..<Self.headBytes]), value: value)
        let sealed = unsafe UnsafeMutableRawBufferPointer(rebasing: target[Self.headBytes..<Self.headBytes + sealedBytes])
        unsafe fileKey.seal(plaintext.bytes, associatedData: associated.bytes, into: sealed)
        unsafe UnsafeMutableRawBufferPointer(rebasing: target[(Self.headBytes + sealedBytes)...]).copyMemory(from: value)
    }
    /// The sealed value of a row, nothing verified; empty for a deletion.
    func value(_ row: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        let bytes = unsafe RawBytes(row)
        guard bytes.integer(UInt8.self, at: 0) == Self.algorithm, bytes.integer(UInt8.self, at: 1) == 0,
              let sealedBytes = bytes.integer(UInt32.self, at: 4), let rest = bytes.suffix(from: Self.headBytes + Int(sealedBytes)) else { return nil }
        return unsafe rest.pointer
    }
    /// Opens the metadata, which proves that the value is the one it was stored with.
    func decode(_ row: UnsafeRawBufferPointer, key: UnsafeRawBufferPointer, revision: Revision) -> RecordMetadata? {
        guard let value = unsafe value(row), let metadata = unsafe openMetadata(row, key: key, value: value),
              let create = metadata.integer(Int64.self, at: 0), let version = metadata.integer(Int64.self, at: 8),
              let lease = metadata.integer(Int64.self, at: 16), let name = metadata.suffix(from: Self.metadataFixedBytes) else { return nil }
        var dataKey: DataKeyID?
        if value.count > 0 {
            let header = unsafe RawBytes(value)
            guard let generation = header.integer(UInt32.self, at: 4), let domain = header.integer(UInt64.self, at: 8) else { return nil }
            dataKey = DataKeyID(DomainID(domain), generation)
        }
        let keyVersion = KeyVersion(key: name.copied, revision: revision, createRevision: create, version: version, lease: lease)
        return RecordMetadata(version: keyVersion, dataKey: dataKey)
    }
    func verify(_ row: UnsafeRawBufferPointer, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        unsafe openMetadata(row, key: key, value: value) != nil
    }
    private func openMetadata(_ row: UnsafeRawBufferPointer, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> RawBytes? {
        let bytes = unsafe RawBytes(row)
        guard let head = bytes.slice(at: 0, count: Self.headBytes), head.integer(UInt16.self, at: 2) == fileKey.generation,
              let sealedBytes = head.integer(UInt32.self, at: 4), let sealed = bytes.slice(at: Self.headBytes, count: Int(sealedBytes)),
              value.count == 0 || value.count >= SealedValue.overheadBytes else { return nil }
        unsafe bindRecord(key: key, head: head.pointer, value: value)
        return open(sealed)
    }
    private func bindRecord(key: UnsafeRawBufferPointer, head: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        unsafe bind(Self.recordDomain, key: key, head: head)
        if value.count >= SealedValue.overheadBytes {
            unsafe associated.append(UnsafeRawBufferPointer(rebasing: value[..<SealedValue.headerBytes]))
            unsafe associated.append(UnsafeRawBufferPointer(rebasing: value[(value.count - 16)...]))
        }
        associated.append(UInt64(value.count))
    }

    // MARK: Rows of tables

    /// What stands for the key of a row: its name must not be readable.
    func rowKey(_ write: TableWrite) -> Bytes {
        plaintext.removeAll()
        plaintext.append(write.table.rawValue)
        plaintext.append(write.key)
        return unsafe Bytes(unsafeUninitializedCapacity: FileKey.nameHashBytes) { target, count in
            unsafe fileKey.hash(name: plaintext.bytes, into: UnsafeMutableRawBufferPointer(target))
            count = FileKey.nameHashBytes
        }
    }
    func encode(_ write: TableWrite, value: Bytes, rowKey: Bytes) -> Bytes {
        plaintext.removeAll()
        plaintext.append(write.table.rawValue)
        plaintext.append(UInt32(write.key.count))
        plaintext.append(write.key)
        plaintext.append(value)
        return seal(Self.rowDomain, key: rowKey)
    }
    func decodeRow(_ row: UnsafeRawBufferPointer, rowKey: UnsafeRawBufferPointer) -> TableWrite? {
        guard let opened = unsafe open(row, Self.rowDomain, key: rowKey), let raw = opened.integer(UInt8.self, at: 0),
              let table = TableWrite.Table(rawValue: raw), let count = opened.integer(UInt32.self, at: 1),
              let key = opened.slice(at: 5, count: Int(count)), let value = opened.suffix(from: 5 + Int(count)) else { return nil }
        return TableWrite(table, key.copied, value.copied)
    }

    // MARK: State and format

    func encode(_ state: AppliedState) -> Bytes {
        plaintext.removeAll()
        plaintext.append(state.applied)
        plaintext.append(state.appliedTerm)
        (state.anchor ?? .beginning).append(to: plaintext)
        return seal(Self.stateDomain, key: Self.stateKey)
    }
    func decodeState(_ row: UnsafeRawBufferPointer) -> AppliedState? {
        let key = Self.stateKey
        guard let opened = unsafe key.withUnsafeBytes({ unsafe open(row, Self.stateDomain, key: $0) }), opened.count == Self.stateBytes,
              let applied = opened.integer(UInt64.self, at: 0), let term = opened.integer(UInt64.self, at: 8),
              let anchor = LogAnchor(opened, at: 16) else { return nil }
        return AppliedState(applied: applied, appliedTerm: term, anchor: anchor.sequence == 0 ? nil : anchor)
    }
    func encodeFormat() -> Bytes {
        var writer = ByteWriter(capacity: 96)
        writer.write(Self.formatMagic)
        writer.write(Self.formatVersion)
        writer.write(fileKey.generation)
        writer.write(member.rawValue)
        writer.write(raw: keyring.bytes)
        writer.write(raw: fileKey.seal(Self.keyCheck, associatedData: writer.bytes))
        return writer.bytes
    }
    func checkFormat(_ row: UnsafeRawBufferPointer) throws(StorageFailure) {
        let bytes = unsafe RawBytes(row), checkedBytes = 36
        guard bytes.integer(UInt64.self, at: 0) == Self.formatMagic, let version = bytes.integer(UInt16.self, at: 8) else { throw .damagedRecordHeader }
        guard version <= Self.formatVersion else { throw .newerFormat(version) }
        guard let generation = bytes.integer(UInt16.self, at: 10), let owner = bytes.integer(UInt64.self, at: 12),
              let keyringBytes = bytes.slice(at: 20, count: 16), let head = bytes.slice(at: 0, count: checkedBytes),
              let check = bytes.suffix(from: checkedBytes) else { throw .damagedRecordHeader }
        guard keyringBytes.copied == keyring.bytes else { throw .wrongKeyring }
        guard owner == member.rawValue else { throw .wrongMember }
        guard generation == fileKey.generation, (try? fileKey.open(check.copied, associatedData: head.copied)) == Self.keyCheck else { throw .wrongFileKey }
    }

    // MARK: Sealing

    private func writeHead(count: UInt32, into target: UnsafeMutableRawBufferPointer) {
        let first = UInt32(Self.algorithm) << 24 | UInt32(fileKey.generation)
        unsafe target.storeBytes(of: first.bigEndian, toByteOffset: 0, as: UInt32.self)
        unsafe target.storeBytes(of: count.bigEndian, toByteOffset: 4, as: UInt32.self)
    }
    private func bind(_ domain: UInt64, key: UnsafeRawBufferPointer, head: UnsafeRawBufferPointer) {
        associated.removeAll()
        associated.append(domain)
        associated.append(keyring.bytes)
        associated.append(member.rawValue)
        unsafe associated.append(key)
        unsafe associated.append(head)
    }
    /// The gathered plaintext, sealed behind a head.
    private func seal(_ domain: UInt64, key: Bytes) -> Bytes {
        unsafe Bytes(unsafeUninitializedCapacity: Self.headBytes + plaintext.count + FileKey.overheadBytes) { target, count in
            count = Self.headBytes + plaintext.count + FileKey.overheadBytes
            let target = UnsafeMutableRawBufferPointer(target)
            unsafe writeHead(count: 0, into: target)
            unsafe key.withUnsafeBytes { unsafe bind(domain, key: $0, head: UnsafeRawBufferPointer(rebasing: target[..<Self.headBytes])) }
            unsafe fileKey.seal(plaintext.bytes, associatedData: associated.bytes, into: UnsafeMutableRawBufferPointer(rebasing: target[Self.headBytes...]))
        }
    }
    private func open(_ row: UnsafeRawBufferPointer, _ domain: UInt64, key: UnsafeRawBufferPointer) -> RawBytes? {
        let bytes = unsafe RawBytes(row)
        guard let head = bytes.slice(at: 0, count: Self.headBytes), head.integer(UInt8.self, at: 0) == Self.algorithm,
              head.integer(UInt16.self, at: 2) == fileKey.generation, let sealed = bytes.suffix(from: Self.headBytes) else { return nil }
        unsafe bind(domain, key: key, head: head.pointer)
        return open(sealed)
    }
    /// Bound data is in `associated`; the answer lies in `plaintext` until the next call.
    private func open(_ sealed: RawBytes) -> RawBytes? {
        guard sealed.count >= FileKey.overheadBytes else { return nil }
        plaintext.removeAll()
        let target = unsafe plaintext.extend(by: sealed.count - FileKey.overheadBytes)
        guard (try? unsafe fileKey.open(sealed.pointer, associatedData: associated.bytes, into: target)) != nil else { return nil }
        return unsafe RawBytes(plaintext.bytes)
    }
}
