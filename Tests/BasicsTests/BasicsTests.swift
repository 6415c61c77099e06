import Basics
import Testing

@Suite struct ConnectionBudgetTests {
    @Test("connections never take the files that the store needs", arguments: [0, 1, 10, 300, 1_024, 4_096, 1 << 20, Int.max])
    func leavesFiles(files: Int) {
        let budget = ConnectionBudget(filesMax: files)
        #expect(budget.clients >= 1 && budget.secrets >= 1 && max(budget.clients, budget.secrets) <= Limits.connectionsMax)
        guard files > 10 else { return }
        #expect(files - budget.clients - budget.secrets >= min(ConnectionBudget.filesReserved, files / 2))
    }
}

@Suite struct KeyRangeTests {
    @Test("a range means what etcd's key and range_end mean", arguments: [
        ("a", "", "a", true), ("a", "", "b", false), ("a", "", "", false),
        ("a", "c", "a", true), ("a", "c", "b", true), ("a", "c", "c", false), ("b", "c", "a", false),
        ("b", "\0", "a", false), ("b", "\0", "b", true), ("b", "\0", "zzz", true),
        ("c", "a", "b", false),
    ])
    func contains(_ key: String, _ end: String, _ candidate: String, _ expected: Bool) {
        #expect(KeyRange(key: Bytes(key.utf8), wireEnd: Bytes(end.utf8)).contains(Bytes(candidate.utf8)) == expected)
    }

    @Test("a prefix range holds exactly the keys with that prefix", arguments: [
        ([0x61], [0x61, 0xff, 0xff], true), ([0x61], [0x62], false), ([0x61, 0xff], [0x62], false),
        ([0x61, 0xff], [0x61, 0xff, 0x00], true), ([0xff, 0xff], [0xff, 0xff, 0x01], true), ([0xff, 0xff], [0xff], false), ([], [0x00], true),
    ] as [(Bytes, Bytes, Bool)])
    func prefix(_ prefix: Bytes, _ candidate: Bytes, _ expected: Bool) {
        #expect(KeyRange.prefix(prefix).contains(candidate) == expected)
    }
}

@Suite struct ByteCodingTests {
    @Test("what was written is read back, and every truncation of it is refused")
    func roundtrip() throws {
        var writer = ByteWriter()
        writer.write(UInt8(7)); writer.write(UInt16(0xABCD)); writer.write(Int64.min); writer.write(UInt64.max)
        writer.write(bool: true); writer.write(prefixed: [1, 2, 3] as Bytes); writer.write(optional: nil); writer.write(optional: [9])
        func read(_ bytes: ArraySlice<UInt8>) throws {
            var reader = ByteReader(bytes)
            #expect(try reader.read(UInt8.self) == 7)
            #expect(try reader.read(UInt16.self) == 0xABCD)
            #expect(try reader.read(Int64.self) == .min)
            #expect(try reader.read(UInt64.self) == .max)
            #expect(try reader.readBool())
            #expect(try reader.readPrefixed() == [1, 2, 3])
            #expect(try reader.readOptional() == nil)
            #expect(try reader.readOptional() == [9])
            try reader.expectEnd()
        }
        try read(writer.bytes[...])
        for count in 0..<writer.bytes.count {
            #expect(throws: MalformedBytes.self) { try read(writer.bytes[..<count]) }
        }
    }

    @Test("a length beyond the buffer is an error, not a trap")
    func hostileLength() {
        var reader = ByteReader([0xff, 0xff, 0xff, 0xff, 1] as Bytes)
        #expect(throws: MalformedBytes.self) { try reader.readPrefixed() }
    }
}

@Suite struct SealedValueTests {
    @Test("the header names the data key, and nothing shorter or other than a sealed value is taken for one")
    func header() throws {
        var bytes = Bytes(repeating: 0, count: SealedValue.overheadBytes + 5)
        bytes[0] = SealedValue.magic
        bytes[7] = 3; bytes[15] = 9
        let value = try SealedValue(parsing: bytes)
        #expect(value.dataKey == DataKeyID(DomainID(9), 3))
        #expect(value.plaintextByteCount == 5)
        #expect(throws: MalformedBytes.self) { try SealedValue(parsing: Bytes(bytes.prefix(SealedValue.overheadBytes - 1))) }
        bytes[0] = 0xE2
        #expect(throws: MalformedBytes.self) { try SealedValue(parsing: bytes) }
    }
}
