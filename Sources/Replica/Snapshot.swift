package import Basics
package import MVCC
package import Raft

/// What a receiver of a snapshot must know first. A transfer that goes on after an interruption has the same.
///
///     "CFSNAP01" | from u64 | stream u64 | index u64 | term u64
package struct SnapshotHead: Hashable, Sendable {
    package var from: MemberID
    /// Names this stream among those of its sender.
    package var stream: UInt64
    /// The last entry that is applied in it.
    package var position: EntryPosition
    package init(from: MemberID, stream: UInt64, position: EntryPosition) { self.from = from; self.stream = stream; self.position = position }

    private static let magic: UInt64 = 0x4346_534e_4150_3031
    package func encode() -> Bytes {
        var writer = ByteWriter(capacity: 40)
        writer.write(Self.magic)
        writer.write(from.rawValue)
        writer.write(stream)
        writer.write(position.index)
        writer.write(position.term)
        return writer.bytes
    }
    package init(decoding bytes: Bytes) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard try reader.read(UInt64.self) == Self.magic else { throw MalformedBytes("no head of a snapshot", at: 0) }
        from = MemberID(try reader.read())
        stream = try reader.read()
        position = EntryPosition(index: try reader.read(), term: try reader.read())
        try reader.expectEnd()
    }
}

/// A piece of a snapshot: rows of the tables first, then records in revision order, then the end, which counts them.
///
///     length u32 | kind u8 | count u32 | elements
///     tables:  table u8 | key | value          records: main i64 | sub i32 | create i64 | version i64 | lease i64 | key | value, unless a deletion
package enum SnapshotBlock: Hashable, Sendable {
    package struct StoredRecord: Hashable, Sendable {
        package var version: KeyVersion
        /// `nil`: a deletion.
        package var value: SealedValue?
        package init(version: KeyVersion, value: SealedValue?) { self.version = version; self.value = value }
        package var record: Record { Record(version: version, value: value.map { .sealed($0) } ?? .tombstone) }
    }
    case tables([TableWrite])
    case records([StoredRecord])
    case end(tables: UInt64, records: UInt64)

    /// Of one block: a chunk, and one large record more.
    package static let bytesMax = Limits.peerMessageBytesMax
    package static let prefixBytes = 4

    /// With its length.
    package func encode() -> Bytes {
        var writer = ByteWriter(capacity: 1 << 12)
        switch self {
        case .tables(let rows):
            writer.write(1 as UInt8)
            writer.write(UInt32(rows.count))
            for row in rows {
                writer.write(row.table.rawValue)
                writer.write(prefixed: row.key)
                writer.write(prefixed: row.value ?? [])
            }
        case .records(let records):
            writer.write(2 as UInt8)
            writer.write(UInt32(records.count))
            for record in records {
                writer.write(record.version.revision.main)
                writer.write(record.version.revision.sub)
                writer.write(record.version.createRevision)
                writer.write(record.version.version)
                writer.write(record.version.lease)
                writer.write(prefixed: record.version.key)
                writer.write(bool: record.value != nil)
                if let value = record.value { writer.write(prefixed: value.bytes) }
            }
        case .end(let tables, let records):
            writer.write(3 as UInt8)
            writer.write(0 as UInt32)
            writer.write(tables)
            writer.write(records)
        }
        var framed = ByteWriter(capacity: writer.bytes.count + Self.prefixBytes)
        framed.write(prefixed: writer.bytes)
        return framed.bytes
    }

    /// Without its length.
    package init(decoding bytes: ArraySlice<UInt8>) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        switch try reader.read(UInt8.self) {
        case 1:
            self = .tables(try reader.readList(elementBytesMin: 9) { reader throws(MalformedBytes) in
                let raw: UInt8 = try reader.read()
                guard let table = TableWrite.Table(rawValue: raw) else { throw MalformedBytes("\(raw) is no table", at: reader.offset - 1) }
                let key = try reader.readPrefixed()
                return TableWrite(table, key, try reader.readPrefixed())
            })
        case 2:
            self = .records(try reader.readList(elementBytesMin: 41) { reader throws(MalformedBytes) in
                let main: Int64 = try reader.read(), sub: Int32 = try reader.read()
                let create: Int64 = try reader.read(), version: Int64 = try reader.read(), lease: Int64 = try reader.read()
                let key = try reader.readPrefixed(), value = try reader.readOptional()
                return StoredRecord(
                    version: KeyVersion(key: key, revision: Revision(main, sub), createRevision: create, version: version, lease: lease),
                    value: try value.map { bytes throws(MalformedBytes) in try SealedValue(parsing: bytes) })
            })
        case 3:
            guard try reader.read(UInt32.self) == 0 else { throw MalformedBytes("elements in the end of a snapshot", at: 1) }
            self = .end(tables: try reader.read(), records: try reader.read())
        case let other: throw MalformedBytes("\(other) is no part of a snapshot", at: 0)
        }
        try reader.expectEnd()
    }
}
