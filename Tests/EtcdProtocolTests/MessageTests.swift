import Basics
import EtcdProtocol
import NIOCore
import Testing

@Suite struct MessageTests {
    private func encoded<M: WireMessage>(_ message: M) throws -> [UInt8] {
        var buffer = ByteBuffer()
        try message.encode(into: &buffer)
        return Array(buffer.readableBytesView)
    }

    @Test("a Put is written as etcd's clients write it")
    func writesPut() throws {
        let put = PutRequestMessage(key: Bytes("foo".utf8), value: ByteBuffer(string: "bar"), lease: 300)
        #expect(try encoded(put) == [0x0a, 3, 0x66, 0x6f, 0x6f, 0x12, 3, 0x62, 0x61, 0x72, 0x18, 0xac, 0x02])
        let read = try PutRequestMessage(decoding: ByteBuffer(bytes: try encoded(put)))
        #expect(read.key == put.key && read.value == put.value && read.lease == 300 && !read.prevKV)
    }

    @Test("a Range's answer is written as etcd's server writes it")
    func writesRangeResponse() throws {
        let header = ResponseHeader(clusterID: 1, memberID: 2, revision: 3, raftTerm: 4)
        let kv = KeyValueMessage(key: [0x6b], createRevision: 1, modRevision: 2, version: 1, value: .plain(ByteBuffer(string: "v")), lease: -1)
        let bytes = try encoded(RangeResponseMessage(header: header, kvs: [kv], more: true, count: 9))
        #expect(bytes == [
            0x0a, 8, 0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4,
            0x12, 23, 0x0a, 1, 0x6b, 0x10, 1, 0x18, 2, 0x20, 1, 0x2a, 1, 0x76, 0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            0x18, 1, 0x20, 9,
        ])
        let read = try RangeResponseMessage(decoding: ByteBuffer(bytes: bytes))
        #expect(read.kvs[0].lease == -1 && read.kvs[0].plainValue == ByteBuffer(string: "v") && read.header == header && read.more && read.count == 9)
    }

    @Test("a transaction within a transaction survives the wire")
    func nests() throws {
        var inner = TransactionRequestMessage()
        var compare = CompareMessage()
        compare.target = .value
        compare.result = .notEqual
        compare.key = [1]
        compare.rangeEnd = [2]
        compare.value = ByteBuffer(string: "x")
        inner.compare = [compare]
        inner.success = [RequestOperationMessage(.put(PutRequestMessage(key: [7], value: ByteBuffer(string: "v"))))]
        var outer = TransactionRequestMessage()
        outer.failure = [RequestOperationMessage(.transaction(inner)), RequestOperationMessage(.range(RangeRequestMessage(key: [9])))]
        let read = try TransactionRequestMessage(decoding: ByteBuffer(bytes: try encoded(outer)))
        guard case .transaction(let nested) = read.failure[0].request, case .put(let put) = nested.success[0].request else {
            Issue.record("the nested transaction is lost")
            return
        }
        #expect(put.value == ByteBuffer(string: "v"))
        #expect(nested.compare[0].target == .value && nested.compare[0].result == .notEqual && nested.compare[0].rangeEnd == [2])
    }

    @Test("watch filters are read packed and unpacked")
    func readsFilters() throws {
        let packed = try WatchCreateRequestMessage(decoding: ByteBuffer(bytes: [0x2a, 2, 0, 1]))
        let unpacked = try WatchCreateRequestMessage(decoding: ByteBuffer(bytes: [0x28, 0, 0x28, 1]))
        #expect(packed.excludesPuts && packed.excludesDeletes && unpacked.excludesPuts && unpacked.excludesDeletes)
    }

    @Test("unknown fields of every type are skipped")
    func skipsUnknown() throws {
        let bytes: [UInt8] = [0x98, 6, 5, 0x99, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0x9a, 6, 2, 9, 9, 0x9d, 6, 1, 2, 3, 4, 0x0a, 1, 0x6b]
        #expect(try PutRequestMessage(decoding: ByteBuffer(bytes: bytes)).key == [0x6b])
    }

    @Test("malformed bytes are named", arguments: [
        ([0x0a], WireError.truncated), ([0x0a, 5, 1], .truncated), ([0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], .truncated),
        ([0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], .varintTooLong),
        ([0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], .varintTooLong),
        ([0x00, 1], .badFieldNumber), ([0x08, 1], .wrongType(field: 1)), ([0x7b], .badWireType), ([0x79, 1], .truncated),
    ] as [([UInt8], WireError)])
    func namesDamage(bytes: [UInt8], error: WireError) {
        #expect(throws: error) { try PutRequestMessage(decoding: ByteBuffer(bytes: bytes)) }
    }

    @Test("nesting beyond the bound is refused, not followed")
    func boundsNesting() throws {
        var bytes: [UInt8] = []
        for _ in 0..<40 {  // A transaction's success operation holds a transaction, and so on.
            let operation: [UInt8] = [0x22] + length(bytes) + bytes
            bytes = [0x12] + length(operation) + operation
        }
        #expect(throws: WireError.nestedTooDeep) { try TransactionRequestMessage(decoding: ByteBuffer(bytes: bytes)) }
    }
    private func length(_ bytes: [UInt8]) -> [UInt8] {
        bytes.count < 128 ? [UInt8(bytes.count)] : [UInt8(bytes.count & 0x7f) | 0x80, UInt8(bytes.count >> 7)]
    }

    private func readAll(_ buffer: ByteBuffer) {
        _ = try? PutRequestMessage(decoding: buffer)
        _ = try? RangeRequestMessage(decoding: buffer)
        _ = try? DeleteRangeRequestMessage(decoding: buffer)
        _ = try? TransactionRequestMessage(decoding: buffer)
        _ = try? TransactionResponseMessage(decoding: buffer)
        _ = try? WatchRequestMessage(decoding: buffer)
        _ = try? WatchResponseMessage(decoding: buffer)
        _ = try? LeaseTimeToLiveResponseMessage(decoding: buffer)
        _ = try? LeaseLeasesResponseMessage(decoding: buffer)
        _ = try? MemberListResponseMessage(decoding: buffer)
        _ = try? StatusResponseMessage(decoding: buffer)
        _ = try? AlarmRequestMessage(decoding: buffer)
    }

    @Test("random bytes are read or refused, never more", arguments: 0..<20)
    func survivesRandom(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2_000 {
            let count = Int.random(in: 0...64, using: &generator)
            // Small bytes are likelier, so that tags and lengths often make sense.
            readAll(ByteBuffer(bytes: (0..<count).map { _ in UInt8.random(in: 0...(Bool.random(using: &generator) ? 255 : 40), using: &generator) }))
        }
    }

    @Test("every flipped byte and every cut of a good message is read or refused")
    func survivesDamage() throws {
        var message = TransactionRequestMessage()
        message.success = [RequestOperationMessage(.put(PutRequestMessage(key: [1, 2], value: ByteBuffer(string: "value"), lease: 77)))]
        message.compare = [CompareMessage()]
        let good = try encoded(message)
        for position in good.indices {
            readAll(ByteBuffer(bytes: good[..<position]))
            for bit in 0..<8 {
                var bad = good
                bad[position] ^= 1 << bit
                readAll(ByteBuffer(bytes: bad))
            }
        }
        #expect(try TransactionRequestMessage(decoding: ByteBuffer(bytes: good)).success.count == 1)
    }
}

@Suite struct SealedAnswerTests {
    private final class Opener: ValueOpener {
        struct Refused: Error {}
        let refuses: Bool
        init(refuses: Bool = false) { self.refuses = refuses }
        func open(_ value: SealedValue, key: Bytes, into target: UnsafeMutableRawBufferPointer) throws {
            if refuses { throw Refused() }
            #expect(key == [1, 0x6b])
            for index in target.indices { target[index] = 0x70 }
        }
    }
    private func sealed(_ plaintextBytes: Int) throws -> SealedValue {
        try SealedValue(parsing: [SealedValue.magic] + Bytes(repeating: 0, count: SealedValue.overheadBytes - 1 + plaintextBytes))
    }
    private func answer(_ plaintextBytes: Int) throws -> RangeResponseMessage {
        let kv = KeyValueMessage(key: [0x6b], createRevision: 1, modRevision: 1, version: 1,
                                 value: .sealed(try sealed(plaintextBytes), storedKey: [1, 0x6b]), lease: 0)
        return RangeResponseMessage(header: nil, kvs: [kv], more: false, count: 1)
    }

    @Test("a sealed value is opened straight into the answer", arguments: [0, 1, 127, 128, 70_000])
    func opens(plaintextBytes: Int) throws {
        var buffer = ByteBuffer(string: "before")
        try answer(plaintextBytes).append(to: &buffer, opener: Opener())
        _ = buffer.readString(length: 6)
        let read = try RangeResponseMessage(decoding: buffer)
        #expect(read.kvs[0].plainValue == ByteBuffer(repeating: 0x70, count: plaintextBytes))
    }

    @Test("a value that does not open fails the answer and leaves nothing of it", arguments: [0, 5])
    func fails(plaintextBytes: Int) throws {
        var buffer = ByteBuffer(string: "before")
        #expect(throws: Opener.Refused.self) { try answer(plaintextBytes).append(to: &buffer, opener: Opener(refuses: true)) }
        #expect(buffer == ByteBuffer(string: "before"))
    }

    @Test("a sealed value without anything to open it fails the answer")
    func needsOpener() throws {
        var buffer = ByteBuffer()
        #expect(throws: ValueWithoutOpener.self) { try answer(3).encode(into: &buffer) }
    }
}
