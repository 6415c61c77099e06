import Basics

/// Rows of the tables that a restart reads back. Keys sort as their ids do; every value begins with a format version.
///
///     domains             u64 id                  1 | name | active generation: bool, u32 | active KEK: bool, id
///     keyEncryptionKeys   kek16 | u32 version     1 | u64 domain | u8 state | i64 data keys | wrapped
///     dataKeys            u64 domain | u32 gen    1 | kek id | u8 state | i64 ciphertexts | wrapped
///     leases              i64 id                  1 | i64 seconds | i64 checkpoint seconds
///     settings            name                    the value itself
///     meta "mvcc/compact"                         1 | i64 revision
///     members             (see MemberRow)
///     meta "mvcc/state"                           1 | i64 revision | i64 cells | u64 hash
enum TableRow {
    static let format: UInt8 = 1
    static let compactKey = Bytes("mvcc/compact".utf8)
    static let stateKey = Bytes("mvcc/state".utf8)

    private static func key(_ fill: (inout ByteWriter) -> Void) -> Bytes {
        var writer = ByteWriter(capacity: 24)
        fill(&writer)
        return writer.bytes
    }
    private static func value(_ fill: (inout ByteWriter) -> Void) -> Bytes {
        var writer = ByteWriter(capacity: 192)
        writer.write(format)
        fill(&writer)
        return writer.bytes
    }
    private static func reader(_ bytes: Bytes) throws(MalformedBytes) -> ByteReader {
        var reader = ByteReader(bytes)
        let version: UInt8 = try reader.read()
        guard version == format else { throw MalformedBytes("row of format \(version)", at: 0) }
        return reader
    }
    private static func state(_ reader: inout ByteReader) throws(MalformedBytes) -> KeyState {
        let raw: UInt8 = try reader.read()
        guard let state = KeyState(rawValue: raw) else { throw MalformedBytes("\(raw) is no key state", at: reader.offset - 1) }
        return state
    }

    // MARK: Domains

    static func write(_ record: DomainRecord) -> TableWrite {
        TableWrite(.domains, key { $0.write(record.id.rawValue) }, value {
            $0.write(prefixed: record.name)
            $0.write(bool: record.activeGeneration != nil)
            if let generation = record.activeGeneration { $0.write(generation) }
            $0.write(bool: record.activeKeyEncryptionKey != nil)
            if let id = record.activeKeyEncryptionKey { $0.write(id) }
        })
    }
    static func domain(_ key: Bytes, _ value: Bytes) throws(MalformedBytes) -> DomainRecord {
        var id = ByteReader(key), reader = try reader(value)
        var record = DomainRecord(id: DomainID(try id.read()), name: try reader.readPrefixed(), activeGeneration: nil, activeKeyEncryptionKey: nil)
        if try reader.readBool() { record.activeGeneration = try reader.read() }
        if try reader.readBool() { record.activeKeyEncryptionKey = try reader.readKeyEncryptionKeyID() }
        try id.expectEnd()
        try reader.expectEnd()
        return record
    }

    // MARK: Keys

    static func write(_ record: KeyEncryptionKeyRecord) -> TableWrite {
        TableWrite(.keyEncryptionKeys, key { $0.write(record.id) }, value {
            $0.write(record.domain.rawValue)
            $0.write(record.state.rawValue)
            $0.write(record.dataKeys)
            $0.write(prefixed: record.wrapped)
        })
    }
    static func keyEncryptionKey(_ key: Bytes, _ value: Bytes) throws(MalformedBytes) -> KeyEncryptionKeyRecord {
        var id = ByteReader(key), reader = try reader(value)
        let domain = DomainID(try reader.read()), state = try state(&reader), dataKeys: Int64 = try reader.read()
        var record = KeyEncryptionKeyRecord(id: try id.readKeyEncryptionKeyID(), domain: domain, state: state, wrapped: try reader.readPrefixed())
        record.dataKeys = dataKeys
        try id.expectEnd()
        try reader.expectEnd()
        return record
    }

    static func write(_ record: DataKeyRecord) -> TableWrite {
        TableWrite(.dataKeys, key { $0.write(record.id) }, value {
            $0.write(record.wrappedBy)
            $0.write(record.state.rawValue)
            $0.write(record.ciphertexts)
            $0.write(prefixed: record.wrapped)
        })
    }
    static func dataKey(_ key: Bytes, _ value: Bytes) throws(MalformedBytes) -> DataKeyRecord {
        var id = ByteReader(key), reader = try reader(value)
        let kek = try reader.readKeyEncryptionKeyID(), state = try state(&reader), ciphertexts: Int64 = try reader.read()
        var record = DataKeyRecord(id: try id.readDataKeyID(), wrappedBy: kek, state: state, wrapped: try reader.readPrefixed())
        record.ciphertexts = ciphertexts
        try id.expectEnd()
        try reader.expectEnd()
        return record
    }

    // MARK: Leases and meta

    static func write(_ lease: Lease) -> TableWrite {
        TableWrite(.leases, key { $0.write(lease.id) }, value {
            $0.write(lease.seconds)
            $0.write(lease.checkpointSeconds)
        })
    }
    static func removeLease(_ id: LeaseID) -> TableWrite { TableWrite(.leases, key { $0.write(id) }, nil) }
    static func lease(_ key: Bytes, _ value: Bytes) throws(MalformedBytes) -> Lease {
        var id = ByteReader(key), reader = try reader(value)
        var lease = Lease(id: try id.read(), seconds: try reader.read())
        lease.checkpointSeconds = try reader.read()
        try id.expectEnd()
        try reader.expectEnd()
        return lease
    }

    static func writeCompact(_ revision: Int64) -> TableWrite { TableWrite(.meta, compactKey, value { $0.write(revision) }) }
    static func compact(_ value: Bytes) throws(MalformedBytes) -> Int64 {
        var reader = try reader(value)
        let revision: Int64 = try reader.read()
        try reader.expectEnd()
        return revision
    }

    struct State: Equatable { var revision: Int64; var cells: Int64; var hash: UInt64 }
    static func write(_ state: State) -> TableWrite {
        TableWrite(.meta, stateKey, value {
            $0.write(state.revision)
            $0.write(state.cells)
            $0.write(state.hash)
        })
    }
    static func state(_ value: Bytes) throws(MalformedBytes) -> State {
        var reader = try reader(value)
        let state = State(revision: try reader.read(), cells: try reader.read(), hash: try reader.read())
        try reader.expectEnd()
        return state
    }
}

extension ByteWriter {
    mutating func write(_ id: DataKeyID) {
        write(id.domain.rawValue)
        write(id.generation)
    }
    /// A KEK's id is 16 bytes; any other length is written as it is, and will not be read back.
    mutating func write(_ id: KeyEncryptionKeyID) {
        write(raw: id.kek)
        write(id.version)
    }
}

extension ByteReader {
    mutating func readDataKeyID() throws(MalformedBytes) -> DataKeyID {
        let domain: UInt64 = try read()
        return DataKeyID(DomainID(domain), try read())
    }
    mutating func readKeyEncryptionKeyID() throws(MalformedBytes) -> KeyEncryptionKeyID {
        let kek = Bytes(try readRaw(16))
        return KeyEncryptionKeyID(kek, try read())
    }
}
