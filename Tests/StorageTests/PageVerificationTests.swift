@testable import Storage
import Basics
import Foundation
import MVCC
import Testing

/// Every byte that LMDB steers by, changed: refused by name before LMDB sees it, or of no consequence. Each file is opened, read whole and written to,
/// in this process: a page that LMDB trips over ends the test.
@Suite struct PageVerificationTests {
    private static let pageBytes = Int(sysconf(Int32(_SC_PAGESIZE)))

    /// Enough for trees of two levels, pages of their own for large values, and free pages.
    private func lay(_ directory: TemporaryDirectory) throws {
        let lane = try openRecords(directory)
        for batch in 0..<4 as Range<Int64> {
            let records = try (1...80).map { try put(batch * 80 + $0, bytes: $0 % 40 == 0 ? 9_000 : 200) }
            try lane.commit(RecordBatch(applied: LogIndex(batch + 1), records: records))
        }
        lane.close()
    }

    @Test("each byte of every page's head and pointers, and of nodes' heads", arguments: [UInt8(0x01), 0x80])
    func structure(mask: UInt8) throws {
        let directory = try TemporaryDirectory()
        try lay(directory)
        let path = directory.path + "/records/data.mdb"
        let sound = try #require(FileManager.default.contents(atPath: path))
        var places: [Int] = []
        for page in 0..<sound.count / Self.pageBytes {
            let start = page * Self.pageBytes
            // The rest of most pages is like the first: of the middle ones every tenth place is tried.
            let isSampled = page > 4 && page < sound.count / Self.pageBytes - 4
            let heads = page < 2 ? Array(0..<168) : Array(0..<40)
            let nodes = page < 2 ? [] : (0..<8).map { Int(sound[start + 16 + 2 * $0]) | Int(sound[start + 17 + 2 * $0]) << 8 }
                .filter { $0 >= 16 && $0 + 16 <= Self.pageBytes }.flatMap { $0..<$0 + 16 }
            places += Set(heads + nodes).sorted().enumerated().filter { !isSampled || ($0.offset + page) % 10 == 0 }.map { start + $0.element }
        }
        var refused = 0, harmless = 0
        for place in places {
            var damaged = sound
            damaged[place] ^= mask
            try damaged.write(to: URL(fileURLWithPath: path))
            do {
                let lane = try openRecords(directory)
                defer { lane.close() }
                do {
                    let records = try lane.everything().records
                    // A changed transaction number leads to the commit before the last one.
                    let isRight = records.count == 320 || place < 2 * Self.pageBytes && records.count == 240
                    #expect(isRight, "\(records.count) records, page \(place / Self.pageBytes) byte \(place % Self.pageBytes)")
                    try lane.commit(RecordBatch(applied: 1_000, records: [try put(1_000, bytes: 200)]))
                    harmless += 1
                } catch let failure as StorageFailure {
                    #expect(!failure.description.isEmpty)
                    refused += 1
                }
            } catch let failure as StorageFailure {
                #expect(!failure.description.isEmpty)
                refused += 1
            }
        }
        print("\(places.count) places changed by \(mask): \(refused) refused, \(harmless) of no consequence")
        #expect(refused > places.count / 3)
    }
}
