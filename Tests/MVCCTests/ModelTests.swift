import Basics
import Testing

@testable import MVCC

/// The store against `Model`: the same random commands, every answer and every trace compared.
@Suite("the store agrees with a slow, obvious model")
struct ModelTests {
    @Test("on every answer, record, event and range, at every revision", arguments: 1...60 as ClosedRange<UInt64>)
    func sameAnswers(seed: UInt64) throws {
        var generator = Generator(seed: seed)
        let bench = Bench()
        var model = Model()
        for step in 1...250 {
            if step == 120 { addGeneration(bench, &model, &generator) }
            let command = generator.command(bench.store.revision)
            let before = model.history.count
            let expected = model.apply(command), actual = bench.apply(command)
            try #require(actual == expected, "seed \(seed) step \(step): \(command)")
            try #require(bench.store.revision == model.revision, "seed \(seed) step \(step)")
            try #require(bench.store.compactRevision == model.compactRevision)
            if case .compact = command {} else { try compareTraces(bench, model, Array(model.history[before...])) }
            let request = generator.rangeRequest(bench.store.revision)
            try #require(range(bench.store, request) == range(model, request), "seed \(seed) step \(step): \(request)")
            if step % 25 == 0 { try compareWhole(bench, model, &generator) }
            if step % 83 == 0 {
                let hash = bench.store.hash
                try bench.restart()
                try #require(bench.store.hash == hash)
                try compareWhole(bench, model, &generator)
            }
        }
    }

    /// The old generation stays half of what is written, and is refused from now on.
    private func addGeneration(_ bench: Bench, _ model: inout Model, _ generator: inout Generator) {
        let record = DataKeyRecord(id: DataKeyID(DomainID(1), 2), wrappedBy: kekID("kek1"), state: .active, wrapped: [3])
        #expect(bench.apply(.key(.addDataKey(record))) == .success(.none))
        model.staleGenerations.insert(1)
        generator.generations = 1...2
    }

    private func range(_ store: borrowing Store, _ request: RangeRequest) -> Result<RangeResult, CommandRefusal> {
        do throws(CommandRefusal) { return .success(try store.range(request)) } catch { return .failure(error) }
    }
    private func range(_ model: Model, _ request: RangeRequest) -> Result<RangeResult, CommandRefusal> {
        do throws(CommandRefusal) {
            try model.checked(request, inTransaction: false)
            return .success(model.range(request, current: model.revision))
        } catch { return .failure(error) }
    }

    /// What `apply` handed out for one command.
    private func compareTraces(_ bench: Bench, _ model: Model, _ written: [Model.Version]) throws {
        try #require(bench.last.records.map(\.version) == written.map(\.version))
        try #require(bench.last.events.map(\.version) == written.map(\.version))
        for (event, version) in zip(bench.last.events, written) {
            try #require(event.kind == (version.value == nil ? .delete : .put))
            let previous = model.state(at: version.version.revision.main - 1).first { $0.version.key == version.version.key }
            try #require(event.previous == (event.kind == .put && event.version.version == 1 ? nil : previous?.version))
            try #require(event.value == nil || event.value == version.value)
        }
    }

    private func compareWhole(_ bench: Bench, _ model: Model, _ generator: inout Generator) throws {
        try #require(bench.store.indexViolation() == nil)
        // Exactly the retained versions are stored, with their values.
        try #require(bench.shelf.records.count == model.history.count)
        for version in model.history {
            let stored = try #require(bench.shelf.records[version.version.revision])
            try #require(stored.version == version.version && stored.value == version.value)
        }
        for generation in 1...2 as ClosedRange<UInt32> {
            let id = DataKeyID(DomainID(1), generation)
            let count = model.history.count { $0.value?.dataKey == id }
            try #require(bench.store.keys.dataKey(id)?.ciphertexts ?? 0 == Int64(count))
        }
        for lease in 1...4 as ClosedRange<LeaseID> {
            try #require(bench.store.lease(lease)?.seconds == model.leases[lease])
            try #require(bench.store.keys(ofLease: lease) == model.now.filter { $0.version.lease == lease && lease != 0 }.map(\.version.key))
        }
        try compareHistory(bench, model, &generator)
    }

    private func compareHistory(_ bench: Bench, _ model: Model, _ generator: inout Generator) throws {
        let first = max(model.compactRevision, 1)
        let from = generator.number(first...model.revision + 1), range = generator.range()
        let expected = model.changes(range, from: from, through: model.revision)
        var told: [WatchEvent] = [], next = from
        while next <= model.revision {
            let limit = Int(generator.number(1...5))
            let part = try bench.store.changes(in: range, from: next, through: model.revision, limit: limit)
            // The ring of recent changes and the index tell the same.
            try #require(bench.store.indexedChanges(in: range, from: next, through: model.revision, limit: limit) == part)
            try #require(part.through >= next)
            try #require(part.events.allSatisfy { $0.version.revision.main >= next && $0.version.revision.main <= part.through })
            let revisions = Set(part.events.map(\.version.revision.main))
            try #require(part.events.count <= limit || revisions.count == 1)
            told += part.events
            next = part.through + 1
        }
        try #require(told == expected)
        if model.compactRevision > 0 {
            #expect(throws: CommandRefusal.compacted(compactRevision: model.compactRevision)) {
                try bench.store.changes(in: range, from: model.compactRevision - 1, through: model.revision, limit: 10)
            }
        }
    }

    @Test("two stores given the same commands have the same hash at each step, and one that misses a byte has not")
    func hashes() {
        var generator = Generator(seed: 7)
        let a = Bench(), b = Bench(), c = Bench()
        #expect(c.put("a", "x") != .failure(.unknownKey))
        for _ in 0..<300 {
            let command = generator.command(a.store.revision)
            _ = a.apply(command)
            _ = b.apply(command)
            _ = c.apply(command)
            #expect(a.store.hash == b.store.hash)
            #expect(a.store.hash != c.store.hash)
        }
    }
}
