import Barrier
import Basics
import Foundation
import MVCC
import SecretMemory
import Testing

struct KeyRotationTests {
    let store: TemporaryStore
    init() throws { store = try TemporaryStore() }

    private static var quick: KeyRotation.Pace {
        var pace = KeyRotation.Pace()
        pace.drainMilliseconds = 0
        return pace
    }
    /// After the first five it pauses for longer than a test looks.
    private static var slow: KeyRotation.Pace {
        var pace = quick
        pace.versionsPerBatchMax = 5
        pace.pauseMilliseconds = 600_000
        return pace
    }
    private func fill(_ barrier: Barrier, count: Int = 30) async throws {
        for number in 0..<count { _ = try await barrier.put(bytes("objects/\(number)"), domain: "prod", value: try secret("first-\(number)"), if: .none) }
        for number in 0..<5 { _ = try await barrier.put(bytes("objects/\(number)"), domain: "prod", value: try secret("second-\(number)"), if: .none) }
    }
    private func keys(_ barrier: Barrier) throws -> DomainKeys { try #require(barrier.domainKeys().first { $0.name == "namespace/prod" }) }
    private func states(_ barrier: Barrier) throws -> [String] { try keys(barrier).dataKeys.map { "\($0.generation) \($0.state.rawValue)" } }

    @Test("after a rotation every value, history too, opens under the new generation, at its revision, and the old one is destroyed")
    func dataKey() async throws {
        let barrier = try await store.open()
        try await fill(barrier)
        let before = try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await rotation.start()
        #expect(try await rotation.rotate(.namespace("prod"), level: .dataKey) == 2)
        #expect(try await eventually { await rotation.settle(); return try states(barrier) == ["1 destroyed", "2 active"] })
        let after = try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0)
        #expect(after.revision == before.revision)
        #expect(after.entries.map(\.text) == before.entries.map(\.text))
        #expect(after.entries.map(\.modificationRevision) == before.entries.map(\.modificationRevision))
        #expect(try await eventually { try keys(barrier).dataKeys.map(\.ciphertexts) == [0, 35] })
        // History is readable as before.
        let first = try #require(before.entries.first { $0.text == "second-0" })
        #expect(try await barrier.get(bytes("objects/0"), revision: first.createRevision)?.text == "first-0")
        #expect(await rotation.progress.resealed == 35)
        await rotation.stop()
        await barrier.close()
        let again = try await store.open()
        #expect(try await again.list(.prefix(bytes("objects/")), limit: 0, revision: 0).entries.map(\.text) == before.entries.map(\.text))
        #expect(try states(again) == ["1 destroyed", "2 active"])
        await again.close()
    }

    @Test("after a rotation the log that held the old ciphertext is gone, and what came after it is there, even after a crash")
    func log() async throws {
        let barrier = try await store.open()
        try await fill(barrier)
        func segments() -> [String] { store.files().keys.filter { $0.hasPrefix("log/") && $0 != "log/lock" }.sorted() }
        let before = try #require(segments().first)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await rotation.start()
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        #expect(await eventually { await rotation.settle(); return await rotation.progress.logRemovedThrough > 0 })
        #expect(await eventually { !segments().contains(before) })
        _ = try await barrier.put(bytes("objects/after"), domain: "prod", value: try secret("after"), if: .none)
        await rotation.stop()
        await barrier.abandon()
        let again = try await store.open()
        #expect(try await again.list(.prefix(bytes("objects/")), limit: 0, revision: 0).entries.compactMap(\.text).count == 31)
        await again.close()
    }

    @Test("watch events that were not yet read when their key was destroyed open all the same")
    func lateReader() async throws {
        let barrier = try await store.open()
        let first = try await barrier.put(bytes("objects/a"), domain: "prod", value: try secret("early"), if: .none)
        let events = try await barrier.watch(.prefix(bytes("objects/")), after: first - 1)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await rotation.start()
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        #expect(try await eventually { await rotation.settle(); return try states(barrier) == ["1 destroyed", "2 active"] })
        for try await batch in events {
            guard let event = batch.events.first else { continue }
            #expect(event.entry.text == "early" && event.entry.modificationRevision == first)
            break
        }
        await rotation.stop()
        await barrier.close()
    }

    @Test("a rotation is seen by no watch")
    func unseen() async throws {
        let barrier = try await store.open()
        try await fill(barrier, count: 6)
        let events = try await barrier.watch(.prefix(bytes("objects/")), after: 0)
        var iterator = events.makeAsyncIterator()
        #expect(try await iterator.next()?.events.isEmpty == true)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await rotation.start()
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        #expect(try await eventually { await rotation.settle(); return try states(barrier) == ["1 destroyed", "2 active"] })
        let last = try await barrier.put(bytes("objects/after"), domain: "prod", value: try secret("after"), if: .none)
        var told: [Int64] = []
        while told.isEmpty, let batch = try await iterator.next() { told += batch.events.map(\.entry.modificationRevision) }
        #expect(told == [last])
        await rotation.stop()
        await barrier.close()
    }

    @Test("a rotation that a crash interrupted goes on after the restart, and nothing is lost")
    func interrupted() async throws {
        var barrier = try await store.open()
        try await fill(barrier)
        let rotation = KeyRotation(barrier: barrier, pace: Self.slow)
        await rotation.start()
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        #expect(await eventually { await rotation.progress.resealed >= 5 })
        await barrier.abandon()
        await rotation.stop()

        barrier = try await store.open()
        #expect(try await eventually { try keys(barrier).remaining <= 30 })
        #expect(try keys(barrier).remaining > 0)
        #expect(try states(barrier) == ["1 decrypt-only", "2 active"])
        #expect(try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0).entries.compactMap(\.text).count == 30)
        let resumed = KeyRotation(barrier: barrier, pace: Self.quick)
        await resumed.start()
        #expect(try await eventually { await resumed.settle(); return try states(barrier) == ["1 destroyed", "2 active"] })
        #expect(try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0).entries.compactMap(\.text).count == 30)
        await resumed.stop()
        await barrier.close()
    }

    @Test("a stopped worker leaves the rest for later, and values under both generations open")
    func stopped() async throws {
        let barrier = try await store.open()
        try await fill(barrier)
        let rotation = KeyRotation(barrier: barrier, pace: Self.slow)
        await rotation.start()
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        #expect(await eventually { await rotation.progress.resealed == 5 })
        await rotation.stop()
        #expect(await !rotation.progress.isWorking)
        #expect(try keys(barrier).remaining > 0)
        #expect(try await barrier.list(.prefix(bytes("objects/")), limit: 0, revision: 0).entries.compactMap(\.text).count == 30)
        await rotation.start()
        #expect(await eventually { await rotation.progress.resealed == 10 })
        await rotation.stop()
        let rest = KeyRotation(barrier: barrier, pace: Self.quick)
        await rest.start()
        #expect(try await eventually { try states(barrier) == ["1 destroyed", "2 active"] })
        await rest.stop()
        await barrier.close()
    }

    @Test("destroying a key that values need, or that is active, is refused")
    func destruction() async throws {
        let barrier = try await store.open()
        try await fill(barrier)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)  // not started: nothing is sealed again
        await #expect(throws: RotationError.keyInUse(count: 35)) { try await rotation.destroy(.namespace("prod"), generation: 1) }
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        await #expect(throws: RotationError.keyInUse(count: 35)) { try await rotation.destroy(.namespace("prod"), generation: 1) }
        await #expect(throws: RotationError.noSuchKey) { try await rotation.destroy(.namespace("prod"), generation: 9) }
        await #expect(throws: RotationError.unknownDomain("namespace/nobody")) { try await rotation.destroy(.namespace("nobody"), generation: 1) }
        #expect(try await barrier.get(bytes("objects/9"), revision: 0)?.text == "first-9")
        await barrier.close()
    }

    @Test("a key-encryption key is replaced without touching a value, and the old version destroyed")
    func keyEncryptionKey() async throws {
        let barrier = try await store.open()
        try await fill(barrier)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await rotation.start()
        #expect(try await rotation.rotate(.namespace("prod"), level: .keyEncryptionKey) == 2)
        #expect(try await eventually {
            await rotation.settle()
            return try keys(barrier).keyEncryptionKeys.map { "\($0.version) \($0.state.rawValue) \($0.dataKeys)" } == ["1 destroyed 0", "2 active 1"]
        })
        #expect(try keys(barrier).dataKeys.map(\.wrappedByVersion) == [2] && states(barrier) == ["1 active"])
        #expect(await rotation.progress.resealed == 0)
        await rotation.stop()
        await barrier.abandon()
        let again = try await store.open()
        #expect(try await again.get(bytes("objects/9"), revision: 0)?.text == "first-9")
        _ = try await again.put(bytes("objects/new"), domain: "prod", value: try secret("new"), if: .none)
        await again.close()
    }

    @Test("writes go on during rotations, and rotations during rotations")
    func underLoad() async throws {
        let barrier = try await store.open()
        try await fill(barrier, count: 10)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await rotation.start()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for writer in 0..<4 {
                group.addTask {
                    for number in 0..<40 {
                        _ = try await barrier.put(bytes("objects/w\(writer)"), domain: "prod", value: try secret("w\(writer)-\(number)"), if: .none)
                    }
                }
            }
            group.addTask { for _ in 0..<4 { _ = try await rotation.rotate(.namespace("prod"), level: .dataKey) } }
            group.addTask { for _ in 0..<3 { _ = try await rotation.rotate(.namespace("prod"), level: .keyEncryptionKey) } }
            try await group.waitForAll()
        }
        for writer in 0..<4 { #expect(try await barrier.get(bytes("objects/w\(writer)"), revision: 0)?.text == "w\(writer)-39") }
        #expect(try await eventually {
            await rotation.settle()
            let keys = try keys(barrier)
            return keys.dataKeys.dropLast().allSatisfy { $0.state == .destroyed } && keys.keyEncryptionKeys.dropLast().allSatisfy { $0.state == .destroyed }
        })
        #expect(try keys(barrier).dataKeys.last?.generation == 5)
        await rotation.stop()
        await barrier.close()
    }

    @Test("a worker that cannot go on says why, and does not keep those waiting who wait for it")
    func failing() async throws {
        let barrier = try await store.open()
        try await fill(barrier)
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        _ = try await rotation.rotate(.namespace("prod"), level: .dataKey)
        await barrier.close()
        await rotation.start()
        #expect(await eventually { await rotation.settle(); return await rotation.progress.failure != nil })
        #expect(await !rotation.progress.isWorking)
        await rotation.stop()
    }

    @Test("a domain that was never written to has no keys to rotate")
    func unknownDomain() async throws {
        let barrier = try await store.open()
        let rotation = KeyRotation(barrier: barrier, pace: Self.quick)
        await #expect(throws: RotationError.unknownDomain("namespace/nobody")) { _ = try await rotation.rotate(.namespace("nobody"), level: .dataKey) }
        await barrier.close()
    }
}
