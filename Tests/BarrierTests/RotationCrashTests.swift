import Barrier
import Basics
import Foundation
import MVCC
import ReplicaService
import SecretMemory
import Testing

/// Everything that moves ciphertext about, at once, with crashes in between: puts, copies (`ignore_value`), deletions, compactions,
/// rotations of both levels. The store checks its own counts against its records at every start, and refuses what does not fit.
struct RotationCrashTests {
    @Test("puts, copies, deletions, compactions and rotations survive crashes at any moment", .serialized, arguments: 1...6 as ClosedRange<UInt64>)
    func torture(seed: UInt64) async throws {
        let store = try TemporaryStore()
        var generator = SeededGenerator(seed: seed)
        var acknowledged: [String: String] = [:]
        for round in 0..<6 {
            let barrier = try await store.open()
            for (key, value) in acknowledged { #expect(try await barrier.getPlain(key) == value, "round \(round), key \(key)") }
            #expect(try await barrier.plain(.prefix([])).count == acknowledged.count)
            var pace = KeyRotation.Pace()
            (pace.versionsPerBatchMax, pace.pauseMilliseconds, pace.drainMilliseconds) = (3, 1, 0)
            let rotation = KeyRotation(barrier: barrier, pace: pace)
            await rotation.start()
            for step in 0..<60 {
                let key = "k\(generator.next() % 9)"
                switch generator.next() % 12 {
                case 0: _ = try await rotation.rotate(.plain, level: .dataKey)
                case 1: _ = try await rotation.rotate(.plain, level: .keyEncryptionKey)
                case 2:
                    let revision = barrier.status().revision
                    if revision > barrier.status().compactRevision { _ = try? await barrier.service.propose(.compact(revision: revision)) }
                case 3:
                    let deletion = DeleteRangeRequest(Keyspace.plain.stored(KeyRange(bytes(key))))
                    _ = try await barrier.transaction(EtcdTransaction(success: [.deleteRange(deletion)]))
                    acknowledged[key] = nil
                case 4...6 where acknowledged[key] != nil:
                    let copy = try barrier.putRequest(key: bytes(key), plaintext: nil)
                    _ = try await barrier.transaction(EtcdTransaction(success: [.put(copy)]))
                default:
                    try await barrier.putPlain(key, "\(seed)-\(round)-\(step)")
                    acknowledged[key] = "\(seed)-\(round)-\(step)"
                }
            }
            if round % 3 == 2 { await rotation.settle() }
            await barrier.abandon()
            await rotation.stop()
        }
        let barrier = try await store.open()
        let rotation = KeyRotation(barrier: barrier)
        await rotation.start()
        #expect(await eventually { await rotation.settle(); return barrier.domainKeys().allSatisfy { $0.remaining == 0 } })
        for (key, value) in acknowledged { #expect(try await barrier.getPlain(key) == value) }
        #expect(await rotation.progress.unreadable == [])
        await rotation.stop()
        await barrier.close()
    }
}
