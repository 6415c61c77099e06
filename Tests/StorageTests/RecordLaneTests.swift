import Basics
import FileSealing
import Foundation
import MVCC
import Storage
import Testing
import WriteAheadLog

typealias RecordAnswer = Result<LogIndex, StorageFailure>

extension RecordLane {
    /// Commits and waits.
    @discardableResult
    func commit(_ batch: RecordBatch) throws(StorageFailure) -> LogIndex {
        let answers = Answers<RecordAnswer>()
        commit(batch) { answers.add($0) }
        flush()
        guard let answer = answers.wait(for: 1).first else { throw .closed }
        return try answer.get()
    }
    func everything() throws -> (records: [RecordMetadata], tables: [TableWrite], state: AppliedState?) {
        var records: [RecordMetadata] = [], tables: [TableWrite] = []
        let state = try restore(record: { records.append($0) }, table: { tables.append($0) })
        return (records, tables.sorted { ($0.table.rawValue, $0.key.map(String.init).joined()) < ($1.table.rawValue, $1.key.map(String.init).joined()) }, state)
    }
}

func sealed(_ seed: UInt64, bytes: Int = 40, generation: UInt32 = 5, domain: UInt64 = 9) throws -> SealedValue {
    var generator = SeededGenerator(seed: seed)
    var writer = ByteWriter()
    writer.write(SealedValue.magic)
    writer.write(1 as UInt8)
    writer.write(0 as UInt16)
    writer.write(generation)
    writer.write(domain)
    writer.write(raw: (0..<bytes + 72).map { _ in UInt8.random(in: 0...255, using: &generator) })
    return try SealedValue(parsing: writer.bytes)
}
func put(_ main: Int64, bytes: Int = 40) throws -> Record {
    Record(version: version(main), value: .sealed(try sealed(UInt64(main), bytes: bytes)))
}
func version(_ main: Int64, _ sub: Int32 = 0, key: String = "a/key", lease: LeaseID = 0) -> KeyVersion {
    KeyVersion(key: Bytes(key.utf8), revision: Revision(main, sub), createRevision: main - 1, version: 3, lease: lease)
}
func openRecords(
    _ directory: TemporaryDirectory, key: FileKey? = nil, keyring: KeyringID = keyring, member: MemberID = member, mapBytes: Int = 1 << 40
) throws -> RecordLane {
    var options = RecordLane.Options()
    options.mapBytes = mapBytes
    options.intervalNanoseconds = 1_000_000
    return try RecordLane.open(directory: directory.path + "/records", fileKey: key ?? fileKey(), keyring: keyring, member: member, options: options)
}

@Suite("The records on disk")
struct RecordLaneTests {
    @Test("records, deletions, copies and tables come back, in revision order, with the applied index and the anchor")
    func roundtrip() throws {
        let directory = try TemporaryDirectory()
        var lane = try openRecords(directory)
        #expect(try lane.everything().state == nil)
        let first = try sealed(1), second = try sealed(2, bytes: 70_000)
        let anchor = LogAnchor(sequence: 8, tag: FrameTag(high: 1, low: 2))
        try lane.commit(RecordBatch(
            applied: 10, appliedTerm: 2, anchor: anchor,
            records: [
                Record(version: version(2), value: .sealed(first)), Record(version: version(2, 1, lease: 77), value: .sealed(second)),
                Record(version: version(3), value: .copy(of: Revision(2))), Record(version: version(300), value: .tombstone),
            ],
            tables: [TableWrite(.leases, [1], [2, 3]), TableWrite(.domains, [4], []), TableWrite(.domains, [5], [6])]))
        try lane.commit(RecordBatch(applied: 11, tables: [TableWrite(.domains, [5], nil), TableWrite(.leases, [1], [9])]))
        for _ in 0..<2 {
            let (records, tables, state) = try lane.everything()
            let key = DataKeyID(DomainID(9), 5)
            #expect(records == [
                RecordMetadata(version: version(2), dataKey: key), RecordMetadata(version: version(2, 1, lease: 77), dataKey: key),
                RecordMetadata(version: version(3), dataKey: key), RecordMetadata(version: version(300), dataKey: nil),
            ])
            #expect(tables == [TableWrite(.leases, [1], [9]), TableWrite(.domains, [4], [])])
            #expect(state == AppliedState(applied: 11, appliedTerm: 2, anchor: anchor))
            #expect(try lane.appliedState() == state)
            #expect(try lane.read([Revision(2), Revision(2, 1), Revision(3), Revision(300), Revision(4)]) == [first, second, first, nil, nil])
            #expect(try lane.read(Revision(2, 1)) == second)
            lane.close()
            lane = try openRecords(directory)
        }
        lane.close()
    }

    @Test("a record at an earlier revision is replaced in place; a copy made before keeps the old bytes")
    func replacement() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        let old = try sealed(1), new = try sealed(2, generation: 6)
        let copy = Record(version: version(3), value: .copy(of: Revision(2)))
        try lane.commit(RecordBatch(applied: 1, records: [Record(version: version(2), value: .sealed(old)), copy]))
        try lane.commit(RecordBatch(applied: 2, records: [Record(version: version(2), value: .sealed(new)), Record(version: version(4), value: .tombstone)]))
        #expect(try lane.read([Revision(2), Revision(3)]) == [new, old])
        #expect(try lane.everything().records.map(\.dataKey?.generation) == [6, 5, nil])
        lane.close()
    }

    @Test("compaction removes records, and their space is used again")
    func removal() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        for round in 0..<40 as Range<Int64> {
            let records = try (1...50 as ClosedRange<Int64>).map { try put(round * 50 + $0, bytes: 1000) }
            let removed = round == 0 ? [] : (1...50).map { Revision((round - 1) * 50 + $0) }
            try lane.commit(RecordBatch(applied: LogIndex(round + 1), records: records, removed: removed))
        }
        let statistics = try lane.statistics()
        #expect(statistics.records == 50)
        #expect(statistics.bytesInUse <= statistics.fileBytes)
        #expect(statistics.fileBytes < 40 * 50 * 1100 / 4, "pages of removed records are used again")
        #expect(statistics.mapBytes >= 1 << 30)
        lane.close()
    }

    @Test("batches are stored together, completions come in order with the index that is durable")
    func batching() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        let answers = Answers<(LogIndex, RecordAnswer)>()
        for i in 1...500 as ClosedRange<LogIndex> {
            let record = Record(version: version(Int64(i)), value: .sealed(try sealed(i)))
            lane.commit(RecordBatch(applied: i, records: [record])) { answers.add((i, $0)) }
        }
        let all = answers.wait(for: 500)
        #expect(all.map(\.0) == Array(1...500))
        for (i, result) in all { #expect((try? result.get()) ?? 0 >= i) }
        #expect(try lane.appliedState()?.applied == 500)
        lane.close()
    }

    @Test("many threads read while records are written")
    func concurrentReads() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        let value = try sealed(1)
        try lane.commit(RecordBatch(applied: 1, records: [Record(version: version(1), value: .sealed(value))]))
        DispatchQueue.concurrentPerform(iterations: 8) { thread in
            for i in 0..<100 {
                if thread == 0 {
                    lane.commit(RecordBatch(applied: LogIndex(i + 2), records: [Record(version: version(Int64(i + 2)), value: .sealed(value))])) { _ in }
                } else {
                    #expect((try? lane.read(Revision(1))) == value)
                }
            }
        }
        lane.close()
    }

    @Test("killed, it reopens: records and applied index agree, and everything acknowledged is there")
    func killed() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path
        await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
            var options = RecordLane.Options()
            options.intervalNanoseconds = 1_000_000
            let lane = try RecordLane.open(directory: path + "/records", fileKey: fileKey(), keyring: keyring, member: member, options: options)
            for i in 1...2_000 as ClosedRange<LogIndex> {
                let record = Record(version: version(Int64(i)), value: .sealed(try sealed(i)))
                lane.commit(RecordBatch(applied: i, records: [record])) { result in
                    // Told outside before the end, as an acknowledgement would be.
                    if case .success(let applied) = result { _ = FileManager.default.createFile(atPath: path + "/acknowledged-\(applied)", contents: nil) }
                    if i > 300 { kill(getpid(), SIGKILL) }
                }
            }
            while true { sched_yield() }
        }
        let lane = try openRecords(directory)
        let (records, _, state) = try lane.everything()
        let applied = try #require(state?.applied)
        #expect(records.map(\.version.revision.main) == Array(1...Int64(applied)))
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        let acknowledged = names.compactMap { LogIndex($0.replacingOccurrences(of: "acknowledged-", with: "")) }
        #expect(try #require(acknowledged.max()) <= applied)
        lane.close()
    }

    @Test("another keyring, member, file key or a newer format is refused by name; so is a directory in use")
    func foreign() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        #expect(throws: StorageFailure.inUse) { try openRecords(directory) }
        lane.close()
        #expect(throws: StorageFailure.wrongKeyring) { try openRecords(directory, keyring: otherKeyring) }
        #expect(throws: StorageFailure.wrongMember) { try openRecords(directory, member: MemberID(4)) }
        #expect(throws: StorageFailure.wrongFileKey) { try openRecords(directory, key: fileKey(8)) }
        #expect(throws: StorageFailure.wrongFileKey) { try openRecords(directory, key: fileKey(7, generation: 2)) }
        let reopened = try openRecords(directory)
        reopened.close()
        try Self.edit(directory) { bytes in
            let magic = try #require(bytes.firstRange(of: Data("CFSTORE1".utf8)))
            bytes[magic.upperBound + 1] = 9
        }
        #expect(throws: StorageFailure.newerFormat(9)) { try openRecords(directory) }
    }

    @Test("a changed record is named by its revision, when it is read and when the store is restored")
    func damagedRecord() throws {
        let directory = try TemporaryDirectory()
        let value = try sealed(42)
        var lane = try openRecords(directory)
        try lane.commit(RecordBatch(applied: 1, records: [put(1), Record(version: version(2), value: .sealed(value)), put(3)]))
        lane.close()
        // Metadata, the value's header, its tag: what a restart relies on. (The value's inside has the envelope's own tag.)
        for offset in [-1, -30, -70, 5, 15, value.bytes.count - 1] {
            try Self.edit(directory) { bytes in
                let place = try #require(bytes.firstRange(of: Data(value.bytes)))
                bytes[place.lowerBound + offset] ^= 4
            } during: {
                lane = try openRecords(directory)
                #expect(throws: StorageFailure.damagedRecord(Revision(2)), "offset \(offset)") { try lane.read(Revision(2)) }
                #expect(throws: StorageFailure.damagedRecord(Revision(2)), "offset \(offset)") { try lane.everything() }
                #expect(try lane.read(Revision(1)) != nil)
                lane.close()
            }
        }
    }

    @Test("a file of records cut short is refused, not read beyond its end")
    func truncated() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        try lane.commit(RecordBatch(applied: 1, records: (1...100).map { try put($0, bytes: 1000) }))
        lane.close()
        try Self.edit(directory) { $0.removeLast($0.count / 2) }
        #expect(throws: StorageFailure.truncatedRecords) { try openRecords(directory) }
    }

    @Test("with no room the batches wait, reads go on, and closing tells those that still wait")
    func full() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory, mapBytes: 1 << 20)
        let answers = Answers<RecordAnswer>()
        try lane.commit(RecordBatch(applied: 1, records: (1...400).map { try put($0, bytes: 1000) }))
        lane.commit(RecordBatch(applied: 2, records: try (401...1400).map { try put($0, bytes: 1000) })) { answers.add($0) }
        eventually("the shortage") { lane.isFull }
        #expect(answers.all.isEmpty)
        #expect(try lane.read(Revision(400)) != nil, "reads go on")
        #expect(try lane.appliedState()?.applied == 1)
        lane.close()
        #expect(answers.all == [.failure(.full(operation: "put"))])
    }

    @Test("where the address space asked for is not to be had, less is taken")
    func addressSpace() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory, mapBytes: 1 << 50)
        let mapBytes = try lane.statistics().mapBytes
        #expect(mapBytes < 1 << 50 && mapBytes >= 1 << 30)
        lane.close()
    }

    @Test("a copy of a record that is not there stores nothing, and ends it")
    func missingSource() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        #expect(throws: StorageFailure.missingRecord(Revision(1))) {
            try lane.commit(RecordBatch(applied: 1, records: [Record(version: version(2), value: .copy(of: Revision(1)))]))
        }
        #expect(throws: StorageFailure.missingRecord(Revision(1))) { try lane.commit(RecordBatch(applied: 2)) }
        lane.close()
        let reopened = try openRecords(directory)
        #expect(try reopened.appliedState() == nil)
        reopened.close()
    }

    @Test("what is asked of a closed lane is refused")
    func closed() throws {
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        lane.close()
        #expect(throws: StorageFailure.closed) { try lane.commit(RecordBatch(applied: 1)) }
        #expect(throws: StorageFailure.closed) { try lane.read(Revision(1)) }
        #expect(throws: StorageFailure.closed) { try lane.statistics() }
    }

    @Test("a visitor's error ends a restore and arrives")
    func visitorError() throws {
        struct Enough: Error {}
        let directory = try TemporaryDirectory()
        let lane = try openRecords(directory)
        try lane.commit(RecordBatch(applied: 1, records: [Record(version: version(1), value: .tombstone)], tables: [TableWrite(.meta, [1], [1])]))
        #expect(throws: Enough.self) { try lane.restore(record: { _ in throw Enough() }, table: { _ in }) }
        #expect(throws: Enough.self) { try lane.restore(record: { _ in }, table: { _ in throw Enough() }) }
        lane.close()
    }

    /// Changes the database's bytes, and puts them back after `during`.
    static func edit(_ directory: TemporaryDirectory, _ change: (inout Data) throws -> Void, during: (() throws -> Void)? = nil) throws {
        let url = URL(filePath: directory.path + "/records/data.mdb")
        let whole = try Data(contentsOf: url)
        var bytes = whole
        try change(&bytes)
        #expect(bytes != whole)
        try bytes.write(to: url)
        guard let during else { return }
        try during()
        try whole.write(to: url)
    }
}

@Suite("Nothing readable on disk")
struct CanaryTests {
    @Test("no key, lease, table name or payload is found in the directory, raw, in base64 or in hex")
    func canaries() throws {
        let directory = try TemporaryDirectory()
        let canaries = ["canary-key-7f3a91c2", "canary-namespace-55aa", "canary-payload-c0ffee", "canary-row-value-0815"]
        let (log, _) = try DiskLane.open(directory: directory.path + "/log", fileKey: fileKey(), keyring: keyring, member: member, anchor: nil, options: {
            var options = DiskLane.Options()
            options.segmentBytes = 64 * 1024
            return options
        }())
        let anchor = try log.append(LogBatch(entries: [LogEntry(index: 1, term: 1, payload: Bytes((canaries[0] + canaries[2]).utf8))]))
        let records = try openRecords(directory)
        try records.commit(RecordBatch(
            applied: 1, anchor: anchor,
            records: [Record(version: version(1, key: canaries[0], lease: 0x6361_6e61_7279), value: .sealed(try sealed(1)))],
            tables: [TableWrite(.domains, Bytes(canaries[1].utf8), Bytes(canaries[3].utf8))]))
        records.close()
        log.close()
        let contents = try directory.contents()
        #expect(contents.count >= 4)
        for (name, data) in contents {
            for canary in canaries.map({ Data($0.utf8) }) + [Data("canary".utf8)] {
                for shift in 0..<3 {
                    // Base64 in each of the three alignments, without the ends that depend on neighbours.
                    let aligned = canary.dropFirst(shift).prefix((canary.count - shift) / 3 * 3)
                    #expect(data.range(of: Data(Data(aligned).base64EncodedString().utf8)) == nil, "\(name)")
                }
                #expect(data.range(of: canary) == nil, "\(name)")
                let hex = canary.map { String(format: "%02x", $0) }.joined()
                #expect(data.range(of: Data(hex.utf8)) == nil && data.range(of: Data(hex.uppercased().utf8)) == nil, "\(name)")
            }
        }
        // The search does find what lies there in the clear.
        #expect(contents.values.contains { $0.range(of: Data("CFSTORE1".utf8)) != nil })
    }
}
