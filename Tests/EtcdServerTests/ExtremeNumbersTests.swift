import Audit
import Basics
import EtcdClient
import EtcdProtocol
import EtcdServer
import Foundation
import NIOCore
import RPC
import Testing

/// Numbers that a client may send and nobody means. What matters is that the server is there afterwards: it runs in this process.
@Suite struct ExtremeNumbersTests {
    private static let numbers: [Int64] = [.min, .min + 1, -1, 0, 1, 2, 1 << 31, 1 << 32, 1 << 62, .max - 1, .max]

    private struct Generator {
        var state: UInt64 = 42
        mutating func next(_ bound: Int) -> Int {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return Int((z ^ (z >> 31)) % UInt64(bound))
        }
        mutating func number() -> Int64 { ExtremeNumbersTests.numbers[next(ExtremeNumbersTests.numbers.count)] }
        mutating func bool() -> Bool { next(2) == 0 }
    }

    private func range(_ generator: inout Generator) -> RangeRequestMessage {
        var request = RangeRequestMessage(key: bytes(generator.bool() ? "k" : "a"), rangeEnd: generator.bool() ? [0] : [])
        request.limit = generator.number()
        request.revision = generator.bool() ? 0 : generator.number()
        request.sortOrder = RangeRequestMessage.SortOrder(rawValue: generator.next(3))
        request.sortTarget = RangeRequestMessage.SortTarget(rawValue: generator.next(5))
        request.minModRevision = generator.number()
        request.maxModRevision = generator.number()
        request.minCreateRevision = generator.number()
        request.maxCreateRevision = generator.number()
        request.countOnly = generator.bool()
        return request
    }
    private func transaction(_ generator: inout Generator) -> TransactionRequestMessage {
        var compare = CompareMessage()
        compare.key = bytes("k")
        compare.rangeEnd = generator.bool() ? [0] : []
        compare.result = CompareMessage.Relation(rawValue: generator.next(4))
        compare.target = CompareMessage.Target(rawValue: generator.next(5))
        compare.version = generator.number()
        compare.createRevision = generator.number()
        compare.modRevision = generator.number()
        compare.lease = generator.number()
        var put = PutRequestMessage(key: bytes("k"), value: ByteBuffer(string: "v"), lease: generator.bool() ? 0 : generator.number())
        put.prevKV = generator.bool()
        var request = TransactionRequestMessage()
        request.compare = [compare]
        request.success = [RequestOperationMessage(.put(put)), RequestOperationMessage(.range(range(&generator)))]
        request.failure = [RequestOperationMessage(.range(range(&generator)))]
        return request
    }

    @Test("revisions, limits, versions, leases and ids at the ends of their range are answered or refused, by a server that goes on")
    func numbers() async throws {
        let path = NSTemporaryDirectory() + "audit-\(UUID().uuidString).log"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let trail = FileTrail(log: try AuditLog(path: path), now: { 1 })
        try await ServedStore.run(trail: trail) { store in
            var generator = Generator()
            try await store.put("k", "v")
            for _ in 0..<150 {
                let (ranged, written) = (range(&generator), transaction(&generator))
                _ = try? await store.client.range(ranged)
                _ = try? await store.client.transaction(written)
            }
            for number in Self.numbers {
                _ = try? await store.put("k", "v", lease: number)
                _ = try? await store.client.grantLease(seconds: number, id: 0)
                _ = try? await store.client.grantLease(seconds: 100, id: number)
                _ = try? await store.client.leaseTimeToLive(number, keys: true)
                _ = try? await store.client.keepLeaseAlive(number)
                _ = try? await store.client.revokeLease(number)
            }
            // In one burst, so that they share a record.
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<8 { group.addTask { _ = try? await store.client.compact(revision: .max) } }
                for number in Self.numbers where number <= 0 || number > 1 << 32 {
                    group.addTask { _ = try? await store.client.compact(revision: number) }
                }
            }
            let call = try await store.client.watch()
            for start in Self.numbers {
                for id in Self.numbers {
                    var create = WatchCreateRequestMessage()
                    create.key = bytes("k")
                    create.startRevision = start
                    create.watchID = id
                    create.prevKV = true
                    try call.send(.create(create))
                }
                try call.send(.cancel(watchID: start))
            }
            try call.send(.progress)
            var answers = 0
            for try await _ in call.responses {
                answers += 1
                if answers >= Self.numbers.count * Self.numbers.count { break }
            }
            call.cancel()
            #expect(try await store.put("k", "after") > 0)
            #expect(try await store.get("k") == "after")
        }
    }
}
