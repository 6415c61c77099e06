import Basics
import Testing

@testable import MVCC

@Suite("the form of commands in the log")
struct CodecTests {
    /// One of each kind, with every field away from its default.
    static let samples: [Command] = {
        let domain = DomainID(3), kek = kekID("kek", 2), dek = DataKeyID(domain, 9)
        var kekRecord = KeyEncryptionKeyRecord(id: kek, domain: domain, state: .decryptOnly, wrapped: bytes("wrapped kek"))
        kekRecord.dataKeys = 4
        var dekRecord = DataKeyRecord(id: dek, wrappedBy: kek, state: .destroyed, wrapped: bytes("wrapped dek"))
        dekRecord.ciphertexts = 5
        var put = PutRequest(key: bytes("key"), value: .sealed(sealed("value")))
        put.lease = -7
        put.keepsLease = true
        put.returnsPrevious = true
        let reseal = Reseal(revision: Revision(7, 3), key: bytes("k"), expected: dek, value: sealed("new", generation: 10))
        return [
            .none, .put(put), .put(PutRequest(key: [], value: .unchanged)), .deleteRange(DeleteRangeRequest(.prefix(bytes("a")))),
            .compact(revision: .max), .leaseGrant(id: .min, seconds: 60), .leaseRevoke(id: 5),
            .leaseCheckpoint([LeaseCheckpoint(id: 1, remainingSeconds: 2), LeaseCheckpoint(id: 3, remainingSeconds: 4)]),
            .reseal([reseal, reseal]), .reseal([]),
            .key(.createDomain(id: domain, name: bytes("prod"), kek: kekRecord, dek: dekRecord)), .key(.addDataKey(dekRecord)),
            .key(.addKeyEncryptionKey(kekRecord)), .key(.rewrapDataKey(id: dek, expected: kek, to: kekID("kek", 3), wrapped: [1, 2])),
            .key(.rewrapKeyEncryptionKey(id: kek, wrapped: [3])), .key(.destroyDataKey(dek)), .key(.destroyKeyEncryptionKey(kek)),
            .key(.shredDomain(domain)),
            .setting(name: bytes("n"), value: bytes("v"), expecting: nil), .setting(name: [], value: nil, expecting: .some(nil)),
            .setting(name: bytes("n"), value: [], expecting: .some(bytes("old"))),
            .transaction(nested(Limits.transactionDepthMax), guards: [Guard(.prefix(bytes("a")), count: 3, modificationRevisionMax: 9)]),
        ]
    }()

    static func nested(_ depth: Int) -> Transaction {
        Transaction(success: depth > 1 ? [.transaction(nested(depth - 1))] : [.put(PutRequest(key: bytes("k"), value: .unchanged))])
    }

    @Test("every command is read back as it was written")
    func roundTrip() throws {
        for command in Self.samples { #expect(try Command(decoding: command.encode()) == command) }
        var generator = Generator(seed: 3)
        for _ in 0..<1_000 {
            let command = generator.command(20)
            try #require(try Command(decoding: command.encode()) == command)
        }
    }

    @Test("the key of a put is found in its encoded form, whoever forwarded it; none in that of other commands, nor in what is cut short")
    func putKey() throws {
        var generator = Generator(seed: 9)
        let origin = Origin(MemberID(7), incarnation: 1, sequence: 2)
        for command in Self.samples + (0..<300).map({ _ in generator.command(20) }) {
            let encoded = command.encode()
            var expected: Bytes?
            if case .put(let put) = command { expected = put.key }
            #expect(Command.putKey(in: Origin.command(in: encoded)).map { Bytes($0) } == expected)
            #expect(Command.putKey(in: Origin.command(in: origin.encode(encoded))).map { Bytes($0) } == expected)
            for count in 0..<min(encoded.count, 60) {
                let found = Command.putKey(in: Origin.command(in: Bytes(encoded.prefix(count)))).map { Bytes($0) }
                #expect(found == nil || found == expected)
            }
        }
        #expect(Command.putKey(in: Origin.command(in: Bytes(repeating: 2, count: 10))) == nil)
    }

    @Test("every truncation is refused, and every trailing byte")
    func truncation() {
        var generator = Generator(seed: 4)
        for command in Self.samples + (0..<30).map({ _ in generator.command(20) }) {
            let encoded = command.encode()
            for count in 0..<encoded.count {
                #expect(throws: MalformedBytes.self) { try Command(decoding: encoded[..<count]) }
            }
            #expect(throws: MalformedBytes.self) { try Command(decoding: encoded + [0]) }
        }
    }

    @Test("transactions nested too deep are refused by the reader, however many bytes they take")
    func nesting() {
        let deep = Command.transaction(Self.nested(Limits.transactionDepthMax + 1), guards: [])
        #expect(throws: MalformedBytes.self) { try Command(decoding: deep.encode()) }
        #expect(Bench().apply(deep) == .failure(.nestingTooDeep))
        let endless: Bytes = [1, 3] + Bytes((0..<100_000).flatMap { _ in [0, 0, 0, 0, 0, 0, 0, 1, 3] as Bytes })
        #expect(throws: MalformedBytes.self) { try Command(decoding: endless) }
    }

    @Test("random bytes and bytes changed at random are read without a trap, and what is read is written the same")
    func fuzz() throws {
        var random = SeededGenerator(seed: 5), generator = Generator(seed: 6)
        for _ in 0..<6_000 {
            var candidate: Bytes
            if Bool.random(using: &random) {
                let count = Int.random(in: 0..<60, using: &random)
                candidate = [1, UInt8.random(in: 0...11, using: &random)] + (0..<count).map { _ in .random(in: 0...9, using: &random) }
            } else {
                candidate = generator.command(20).encode()
                for _ in 0..<Int.random(in: 1...3, using: &random) {
                    let at = Int.random(in: 0..<candidate.count, using: &random), any = UInt8.random(in: 0...255, using: &random)
                    candidate[at] = [0, 1, 2, 255, any].randomElement(using: &random)!
                }
            }
            guard let command = try? Command(decoding: candidate) else { continue }
            try #require(try Command(decoding: command.encode()) == command)
            let bench = Bench()
            _ = bench.apply(command)  // must not trap either
        }
    }

    @Test("a list longer than its bytes is refused before it is built")
    func hugeList() {
        #expect(throws: MalformedBytes.self) { try Command(decoding: [1, 8, 0xff, 0xff, 0xff, 0xff, 0]) }
    }
}
