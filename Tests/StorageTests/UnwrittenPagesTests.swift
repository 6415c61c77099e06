@testable import Storage
import Basics
import Foundation
import MVCC
import Testing

/// What LMDB leaves behind and is sound all the same: pages that were taken and let go within one transaction, which it never writes, so that the
/// file ends before its last page; and runs of pages longer than their value.
@Suite struct UnwrittenPagesTests {
    private static let pageBytes = Int(sysconf(Int32(_SC_PAGESIZE)))
    private static let mapBytes = 1 << 32

    private func open(_ directory: TemporaryDirectory) throws -> Database { try Database(directory: directory.path, mapBytes: Self.mapBytes) }
    private func bytes(of key: Int) -> Bytes { (0..<8).map { UInt8(truncatingIfNeeded: key >> (56 - 8 * $0)) } }
    private func put(_ transaction: Database.Transaction, _ table: Database.Table, _ key: Int, _ value: Bytes) throws(StorageFailure) {
        try unsafe value.withUnsafeBytes { bytes in
            Result { () throws(StorageFailure) in try keyed(key) { key throws(StorageFailure) in unsafe try transaction.put(table, key, bytes) } }
        }.get()
    }
    private func delete(_ transaction: Database.Transaction, _ table: Database.Table, _ key: Int) throws(StorageFailure) {
        try keyed(key) { key throws(StorageFailure) in unsafe try transaction.delete(table, key) }
    }
    private func keyed(_ key: Int, _ body: (UnsafeRawBufferPointer) throws(StorageFailure) -> Void) throws(StorageFailure) {
        try unsafe bytes(of: key).withUnsafeBytes { key in Result { () throws(StorageFailure) in unsafe try body(key) } }.get()
    }
    private func everything(_ database: Database, _ table: Database.Table) throws -> [Bytes: Bytes] {
        try database.read { transaction throws(StorageFailure) in
            var found: [Bytes: Bytes] = [:]
            try unsafe transaction.forEach(table) { key, value in
                unsafe found[Bytes(key)] = Bytes(value)
                return true
            }
            return .success(found)
        }.get()
    }
    /// How many pages the file lacks; asked before `close`.
    private func missingPages(_ directory: TemporaryDirectory, _ database: Database) throws -> Int {
        let attributes = try FileManager.default.attributesOfItem(atPath: directory.path + "/data.mdb")
        let size = try #require(attributes[.size] as? Int)
        return (try database.statistics().fileBytes - size) / Self.pageBytes
    }

    @Test("a file that ends before its last page opens, is whole, and grows over its end; cut further it is refused")
    func shorter() throws {
        var shortened = 0
        for pages in 1...12 {
            let directory = try TemporaryDirectory()
            var database = try open(directory)
            let kept = Bytes(repeating: 7, count: 3 * Self.pageBytes)
            // Pages that are free, in lists of earlier transactions: only then does LMDB put a run of new pages straight onto the list.
            for _ in 0..<6 {
                try database.write { transaction throws(StorageFailure) in
                    for key in 0..<4 { try put(transaction, database.rows, key, kept) }
                }
            }
            try database.write { transaction throws(StorageFailure) in
                try put(transaction, database.rows, 1, kept)
                for key in 100..<100 + pages { try put(transaction, database.records, key, Bytes(repeating: 1, count: pages * Self.pageBytes)) }
                for key in 100..<100 + pages { try delete(transaction, database.records, key) }
            }
            let missing = try missingPages(directory, database)
            if missing > 0 { shortened += 1 }
            database.close()

            database = try open(directory)
            #expect(try everything(database, database.records).isEmpty)
            #expect(try everything(database, database.rows) == Dictionary(uniqueKeysWithValues: (0..<4).map { (bytes(of: $0), kept) }))
            let large = Bytes(repeating: 9, count: 40 * Self.pageBytes)
            try database.write { transaction throws(StorageFailure) in
                for key in 0..<60 { try put(transaction, database.records, key, Bytes(repeating: UInt8(key), count: 1_000)) }
                try put(transaction, database.records, 60, large)
            }
            #expect(try everything(database, database.records)[bytes(of: 60)] == large)
            database.close()
            try open(directory).close()

            let path = directory.path + "/data.mdb"
            let whole = try #require(FileManager.default.contents(atPath: path))
            try whole.dropLast(20 * Self.pageBytes).write(to: URL(fileURLWithPath: path))
            #expect(throws: StorageFailure.truncatedRecords) { try open(directory) }
        }
        #expect(shortened > 0)
    }

    @Test("a page beyond the end of the file that no list names is refused: the last page's number was changed")
    func unlisted() throws {
        let directory = try TemporaryDirectory()
        try open(directory).close()
        let path = directory.path + "/data.mdb"
        var bytes = try #require(FileManager.default.contents(atPath: path))
        let last = 16 + 24 + 2 * 48
        for meta in 0..<2 { bytes[meta * Self.pageBytes + last] += 1 }
        try bytes.write(to: URL(fileURLWithPath: path))
        #expect(throws: StorageFailure.truncatedRecords) { try open(directory) }
        for meta in 0..<2 { bytes[meta * Self.pageBytes + last + 3] = 0x40 }
        try bytes.write(to: URL(fileURLWithPath: path))
        #expect(throws: StorageFailure.truncatedRecords) { try open(directory) }
    }

    @Test("a file with one and a half of its first pages is refused")
    func cutFirstPages() throws {
        let directory = try TemporaryDirectory()
        var database = try open(directory)
        try database.write { transaction throws(StorageFailure) in try put(transaction, database.rows, 1, [1]) }
        database.close()
        let path = directory.path + "/data.mdb"
        let whole = try #require(FileManager.default.contents(atPath: path))
        for count in [1, Self.pageBytes, Self.pageBytes + 200, 2 * Self.pageBytes - 1] {
            try whole.prefix(count).write(to: URL(fileURLWithPath: path))
            #expect(throws: StorageFailure.self, "\(count) bytes") { try open(directory) }
        }
        try whole.write(to: URL(fileURLWithPath: path))
        database = try open(directory)
        #expect(try everything(database, database.rows) == [bytes(of: 1): [1]])
        database.close()
    }

    @Test("a value put again within a transaction, and smaller, keeps its longer run of pages")
    func longerRun() throws {
        let directory = try TemporaryDirectory()
        var database = try open(directory)
        let sizes = [1, 10_000, 30_000]
        try database.write { transaction throws(StorageFailure) in
            for key in 0..<sizes.count { try put(transaction, database.rows, key, Bytes(repeating: 1, count: 50_000)) }
            for (key, size) in sizes.enumerated() { try put(transaction, database.rows, key, Bytes(repeating: 2, count: size)) }
        }
        database.close()
        database = try open(directory)
        #expect(try everything(database, database.rows).mapValues(\.count) == Dictionary(uniqueKeysWithValues: sizes.enumerated().map { (bytes(of: $0), $1) }))
        for key in 0..<sizes.count { try database.write { transaction throws(StorageFailure) in try delete(transaction, database.rows, key) } }
        database.close()
        try open(directory).close()
    }

    @Test("whatever is put and deleted, the store opens again with just that", arguments: 1...6 as ClosedRange<UInt64>)
    func anything(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let directory = try TemporaryDirectory()
        var database = try open(directory)
        var model: [Bytes: Bytes] = [:], shortened = 0
        let keys = Int.random(in: 30...600, using: &random), large = Int.random(in: 5_000...200_000, using: &random)
        for _ in 0..<40 {
            let deletes = Int.random(in: 0...100, using: &random)
            try database.write { transaction throws(StorageFailure) in
                for _ in 0..<Int.random(in: 1...150, using: &random) {
                    let key = Int.random(in: 0..<keys, using: &random)
                    if Int.random(in: 0..<100, using: &random) < deletes {
                        try delete(transaction, database.rows, key)
                        model[bytes(of: key)] = nil
                    } else {
                        let isLarge = Int.random(in: 0..<8, using: &random) == 0
                        let count = Int.random(in: 1...(isLarge ? large : 300), using: &random)
                        let value = Bytes(repeating: UInt8.random(in: 0...255, using: &random), count: count)
                        try put(transaction, database.rows, key, value)
                        model[bytes(of: key)] = value
                    }
                }
            }
            if try missingPages(directory, database) > 0 { shortened += 1 }
            database.close()
            database = try open(directory)
            let found = try everything(database, database.rows)
            #expect(found == model)
        }
        database.close()
        print("seed \(seed): the file ended before its last page \(shortened) times")
    }
}
