import Basics
import Testing

@testable import MVCC

@Suite("what a restart refuses")
struct RestoreTests {
    /// A store with a little of everything, on its shelf.
    private func filled() -> Bench {
        let bench = Bench()
        _ = bench.apply(.leaseGrant(id: 7, seconds: 60))
        _ = bench.put("a", "1", lease: 7)
        _ = bench.put("b", "1")
        _ = bench.put("a", "2", lease: 7)
        _ = bench.apply(.deleteRange(DeleteRangeRequest(KeyRange(bytes("b")))))
        _ = bench.apply(.compact(revision: 3))
        return bench
    }

    private func refusal(_ change: (inout RecordShelf) -> Void) -> String? {
        var shelf = filled().shelf
        change(&shelf)
        do { _ = try shelf.restored(appliedIndex: 9) } catch let error as RestoreError { return error.what } catch { return "\(error)" }
        return nil
    }
    private func row(_ table: TableWrite.Table, _ shelf: RecordShelf) -> RecordShelf.TableKey {
        shelf.tables.keys.filter { $0.table == table }.min { $0.key.lexicographicallyPrecedes($1.key) }!
    }

    @Test("nothing, if nothing was changed")
    func intact() throws {
        #expect(refusal { _ in } == nil)
        let bench = filled()
        let store = try bench.shelf.restored(appliedIndex: bench.index)
        #expect(store.hash == bench.store.hash)
        #expect(store.appliedIndex == bench.index)
        #expect(store.compactRevision == 3)
        #expect(store.keys.dataKeys == bench.store.keys.dataKeys)
        #expect(store.keys(ofLease: 7) == [bytes("a")])
        #expect(try Store.empty().revision == 1)
    }

    @Test("a record that is missing, or one too many")
    func records() {
        #expect(refusal { $0.records[Revision(4)] = nil } == "3 records are stored, 4 were counted")
        #expect(refusal { $0.records[Revision(9)] = $0.records[Revision(4)] } == "record 4.0 follows 5.0")
        #expect(refusal { shelf in
            var copy = shelf.records[Revision(4)]!
            copy.version.revision = Revision(9)
            shelf.records[Revision(9)] = copy
        } == "5 records are stored, 4 were counted")
    }

    @Test("records whose numbers cannot be")
    func impossibleRecords() {
        func changed(_ change: @escaping (inout KeyVersion) -> Void) -> String? {
            refusal { shelf in
                change(&shelf.records[Revision(4)]!.version)
            }
        }
        #expect(changed { $0.version = 0 } == "record 4.0 has version 0, created at 2")
        #expect(changed { $0.createRevision = 5 } == "record 4.0 has version 2, created at 5")
        #expect(changed { $0.key = [] } == "record 4.0 has no possible key")
        #expect(changed { $0.key = Bytes(repeating: 0, count: Limits.keyBytesMax + 1) } == "record 4.0 has no possible key")
        #expect(changed { $0.revision = Revision(.max) } == "record \(Int64.max).0 follows 3.0")
        #expect(changed { $0.revision = Revision(4, -1) } == "record 4.-1 follows 3.0")
        #expect(changed { $0.lease = 8 } == "a key is attached to lease 8, which is not there")
    }

    @Test("counts and references of keys that the records or other rows contradict")
    func keys() {
        #expect(refusal { $0.tables[row(.dataKeys, $0)] = nil } == "data key 1/1 is used by 3 values and not listed")
        #expect(refusal { shelf in
            let key = row(.dataKeys, shelf)
            var record = try! TableRow.dataKey(key.key, shelf.tables[key]!)
            record.ciphertexts = 4
            shelf.tables[key] = TableRow.write(record).value
        } == "data key 1/1 is listed with 4 values, but 3 records carry it")
        #expect(refusal { shelf in
            let key = row(.dataKeys, shelf)
            var record = try! TableRow.dataKey(key.key, shelf.tables[key]!)
            record.state = .decryptOnly
            shelf.tables[key] = TableRow.write(record).value
        } == "domain 1 has no active data key")
        #expect(refusal { shelf in
            let key = row(.keyEncryptionKeys, shelf)
            var record = try! TableRow.keyEncryptionKey(key.key, shelf.tables[key]!)
            record.dataKeys = 2
            shelf.tables[key] = TableRow.write(record).value
        } == "key-encryption key version 1 of domain 1 is listed with 2 data keys, but 1 name it")
        #expect(refusal { $0.tables[row(.domains, $0)] = nil } == "data key 1/1 is active, but not its domain's active one")
    }

    @Test("a state or a compaction that does not fit, or is not there")
    func state() {
        let state = RecordShelf.TableKey(table: .meta, key: TableRow.stateKey), compact = RecordShelf.TableKey(table: .meta, key: TableRow.compactKey)
        #expect(refusal { $0.tables[state] = nil } == "there are records, but no word of the state they belong to")
        #expect(refusal { $0.tables[state] = TableRow.write(TableRow.State(revision: 4, cells: 4, hash: 0)).value } == "records reach revision 5, the state 4")
        #expect(refusal { $0.tables[compact] = TableRow.writeCompact(9).value } == "compacted at 9, beyond revision 5")
        #expect(refusal { $0.tables[row(.leases, $0)] = nil } == "a key is attached to lease 7, which is not there")
    }

    @Test("rows cut short, lengthened, or of a format to come")
    func rows() {
        for table in [TableWrite.Table.leases, .keyEncryptionKeys, .dataKeys, .domains, .meta] {
            let length = row(table, filled().shelf)
            for cut in 1...12 {
                let found = refusal { $0.tables[length]!.removeLast(min(cut, $0.tables[length]!.count)) }
                #expect(found?.hasPrefix("a row of table \(table)") == true)
            }
            #expect(refusal { $0.tables[length]!.append(0) }?.contains("bytes too many") == true)
            #expect(refusal { $0.tables[length]![0] = 2 }?.contains("row of format 2") == true)
        }
    }

    @Test("rows of others are passed over; deleted rows too")
    func foreignRows() throws {
        #expect(refusal { $0.tables[RecordShelf.TableKey(table: .meta, key: bytes("replica"))] = [2] } == nil)
        var store = Store()
        try store.restore(table: TableWrite(.leases, [1], nil))
        #expect(store.allLeases.isEmpty)
    }

    @Test("more recent changes than are kept: the oldest are found in the index, the same")
    func recent() throws {
        let bench = Bench()
        let count = Int64(RecentChanges.countMax) + 500
        var request = PutRequest(key: bytes("k"), value: .sealed(sealed("v")))
        for i in 0..<count {
            request.key = Bytes("k\(i % 50)".utf8)
            var applied = Applied()
            _ = bench.store.apply(.put(request), at: 2, into: &applied)
        }
        let kept = bench.store.recent.completeFrom
        #expect(kept == 1_026) // the first block of 1,024 is gone
        for from in [2, kept - 1, kept, kept + 1, kept + 1_500, count, count + 1] as [Int64] {
            let part = try bench.store.changes(in: .prefix([]), from: from, through: .max, limit: 100)
            #expect(part == bench.store.indexedChanges(in: .prefix([]), from: from, through: .max, limit: 100))
            #expect(part.events.count == min(100, Int(count + 2 - from)))
            #expect(part.events.first?.version.revision == Revision(from))
        }
    }
}

extension Store {
    fileprivate static func empty() throws -> Store {
        var store = Store()
        try store.finishRestore(appliedIndex: 0)
        return store
    }
}
