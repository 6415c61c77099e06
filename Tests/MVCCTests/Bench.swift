import Basics
import MVCC

/// A sealed value made up for tests: the right header and length, its text where ciphertext would be.
func sealed(_ text: String, domain: UInt64 = 1, generation: UInt32 = 1) -> SealedValue {
    var writer = ByteWriter(capacity: 128)
    writer.write(SealedValue.magic)
    writer.write(1 as UInt8)
    writer.write(0 as UInt16)
    writer.write(generation)
    writer.write(domain)
    writer.write(raw: Bytes(repeating: 0, count: 24 + 32))
    writer.write(raw: text.utf8)
    writer.write(raw: Bytes(repeating: 0, count: 16))
    do { return try SealedValue(parsing: writer.bytes) } catch { preconditionFailure("\(error)") }
}

func text(_ value: SealedValue) -> String { String(decoding: value.bytes.dropFirst(72).dropLast(16), as: UTF8.self) }

func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }

func kekID(_ name: String, _ version: UInt32 = 1) -> KeyEncryptionKeyID {
    KeyEncryptionKeyID(Bytes(name.utf8) + Bytes(repeating: 0, count: 16 - name.utf8.count), version)
}

/// A domain with generation 1 of its data key.
func createDomain(_ id: UInt64 = 1, name: String = "default") -> Command {
    let domain = DomainID(id), kek = kekID("kek\(id)")
    return .key(.createDomain(
        id: domain, name: bytes(name), kek: KeyEncryptionKeyRecord(id: kek, domain: domain, state: .active, wrapped: [1]),
        dek: DataKeyRecord(id: DataKeyID(domain, 1), wrappedBy: kek, state: .active, wrapped: [2])))
}

/// What the record lane does, in memory: it carries out `Applied` literally.
struct RecordShelf {
    struct TableKey: Hashable { var table: TableWrite.Table; var key: Bytes }
    var records: [Revision: (version: KeyVersion, value: SealedValue?)] = [:]
    var tables: [TableKey: Bytes] = [:]

    mutating func commit(_ applied: Applied) {
        for record in applied.records {
            let value: SealedValue? =
                switch record.value {
                case .sealed(let value): value
                case .copy(let revision): records[revision]!.value!
                case .tombstone: nil
                }
            records[record.revision] = (record.version, value)
        }
        for revision in applied.removed {
            precondition(records.removeValue(forKey: revision) != nil, "a record removed twice, or never written")
        }
        for row in applied.tables { tables[TableKey(table: row.table, key: row.key)] = row.value }
    }

    func restored(appliedIndex: LogIndex) throws -> Store {
        var store = Store()
        for (key, value) in tables { try store.restore(table: TableWrite(key.table, key.key, value)) }
        for revision in records.keys.sorted() {
            let record = records[revision]!
            try store.restore(RecordMetadata(version: record.version, dataKey: record.value?.dataKey))
        }
        try store.finishRestore(appliedIndex: appliedIndex)
        return store
    }
}

/// A store with its shelf, applied one command after another.
final class Bench {
    var store = Store()
    var shelf = RecordShelf()
    var index: LogIndex = 0
    var last = Applied()

    init(domain: Bool = true) {
        if domain { _ = apply(createDomain()) }
    }

    func apply(_ command: Command) -> Result<CommandResult, CommandRefusal> {
        index += 1
        last = Applied()
        let result = store.apply(command, at: index, into: &last)
        if case .failure = result { precondition(last.isEmpty, "a refused command left something behind") }
        store.checkpoint(into: &last)
        shelf.commit(last)
        return result
    }
    func restart() throws { store = try shelf.restored(appliedIndex: index) }
    func put(_ key: String, _ value: String, lease: LeaseID = 0) -> Result<CommandResult, CommandRefusal> {
        var request = PutRequest(key: bytes(key), value: .sealed(sealed(value)))
        request.lease = lease
        return apply(.put(request))
    }
}
