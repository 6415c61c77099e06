import Basics
import CofferClient
import Histories

/// One client that does random things, one after the other, and records what came of them.
struct Worker {
    let client: CofferClient
    let recorder: Recorder
    var generator: SeededGenerator
    /// Of each entry, the revision it was last seen at.
    private var known: [String: Int64] = [:]
    private var latest: Int64 = 0
    private static let keys = 12

    init(_ client: CofferClient, _ recorder: Recorder, seed: UInt64) {
        (self.client, self.recorder, generator) = (client, recorder, SeededGenerator(seed: seed))
    }

    mutating func run(until isOver: @Sendable () -> Bool) async {
        while !isOver() {
            await step()
            try? await Task.sleep(for: .microseconds(Int.random(in: 0...8_000, using: &generator)))
        }
    }

    private mutating func anyKey() -> String { "k/\(Int.random(in: 0..<Self.keys, using: &generator))" }

    private mutating func step() async {
        let key = anyKey()
        switch Int.random(in: 0..<100, using: &generator) {
        case ..<30: await write(.put([key: recorder.value()]))
        case ..<40: await write(.put([key: recorder.value(), key + "/a": recorder.value(), "k/z": recorder.value()]))
        case ..<58: await write(.exchange(key: key, revision: known[key] ?? 0, value: recorder.value()))
        case ..<70: await write(.delete(key: key))
        case ..<82: await read(.key(key))
        case ..<94: await read(.prefix(Bool.random(using: &generator) ? "k/" : ""))
        default: await read(.prefix("k/"), at: max(0, latest - Int64.random(in: 0...50, using: &generator)))
        }
    }

    private mutating func write(_ request: Operation.Request) async {
        let began = recorder.now
        var outcome: Operation.Outcome
        do { outcome = try await carryOut(request) } catch {
            outcome = (error as? CofferClientError)?.code == .outcomeUnknown ? .unknown : .notDone
        }
        recorder.record(Operation(request, outcome, began: began, ended: recorder.now))
        guard case .done(let revision) = outcome else { return }
        latest = max(latest, revision)
        switch request {
        case .put(let values, _): for key in values.keys { known[key] = revision }
        case .exchange(let key, _, _): known[key] = revision
        case .delete(let key): known[key] = 0
        case .read: break
        }
    }

    private func carryOut(_ request: Operation.Request) async throws -> Operation.Outcome {
        switch request {
        case .put(let values, let lease):
            if values.count == 1, let (key, value) = values.first {
                return .done(revision: try await client.put(CofferClient.Key(key), CofferClient.Secret(value), lease: lease))
            }
            let steps = try values.sorted { $0.key < $1.key }.map { CofferClient.Step.put(CofferClient.Key($0.key), try CofferClient.Secret($0.value), lease: lease) }
            return .done(revision: try await client.transact(if: [], then: steps).revision)
        case .exchange(let key, let revision, let value):
            let key = CofferClient.Key(key)
            let result = try await client.transact(
                if: [revision == 0 ? .absent(key) : .revision(key, revision)], then: [.put(key, CofferClient.Secret(value))])
            return result.succeeded ? .done(revision: result.revision) : .refused(revision: result.revision)
        case .delete(let key):
            return .done(revision: try await client.transact(if: [], then: [.delete(.one(CofferClient.Key(key)))]).revision)
        case .read: return .notDone
        }
    }

    private mutating func read(_ scope: Scope, at revision: Int64 = 0) async {
        let began = recorder.now
        do {
            let page = try await client.range(scope.keys, at: revision)
            recorder.record(Operation(.read(scope, at: revision), .found(page.items.map(Version.init), revision: page.revision), began: began, ended: recorder.now))
            for item in page.items { known[item.key.description] = item.revision }
            if revision == 0 { latest = max(latest, page.revision) }
        } catch { recorder.readFailed() }
    }

    /// Leases with two entries each, kept alive for a while and then left alone, or revoked.
    mutating func runLeases(until isOver: @Sendable () -> Bool) async {
        while !isOver() {
            let seconds = Int64.random(in: 2...3, using: &generator), began = recorder.now
            guard let id = try? await client.grantLease(seconds: seconds) else { continue }
            var record = LeaseRecord(id: id, renewals: [.init(began: began, seconds: seconds)])
            for part in ["a", "b"] { await write(.put(["l/\(id)/\(part)": recorder.value()], lease: id)) }
            for _ in 0..<Int.random(in: 0...4, using: &generator) where !isOver() {
                try? await Task.sleep(for: .milliseconds(600))
                let began = recorder.now
                guard let left = try? await client.keepAlive(lease: id) else { break }
                record.renewals.append(.init(began: began, seconds: left))
            }
            if Int.random(in: 0..<4, using: &generator) == 0 {
                record.wasRevoked = true
                try? await client.revoke(lease: id)
            }
            recorder.record(record)
        }
    }
}

/// A watch that writes down what it is told until it is cancelled.
func watch(_ client: CofferClient, _ scope: Scope, after revision: Int64, _ recorder: Recorder, _ number: Int, isTruth: Bool = false) async -> (any Error)? {
    do {
        for try await told in client.watch(scope.keys, after: revision) {
            let changes = told.changes.map { change -> Change in
                switch change {
                case .put(let item): .put(Version(item))
                case .delete(let key, let revision): .delete(key: key.description, revision: revision)
                }
            }
            let time = recorder.now
            recorder.told(number, Observation.Told(changes, revision: told.revision, time: time))
            if isTruth { recorder.saw(told.revision, at: time) }
        }
        return nil
    } catch { return error }
}
