import CofferClient
import Histories
import Synchronization

/// Collects what clients do and see.
final class Recorder: Sendable {
    struct Content {
        var operations: [Operation] = []
        var observations: [Observation] = []
        var leases: [LeaseRecord] = []
        var seen: [(time: Int64, revision: Int64)] = []
        var readsFailed = 0
    }
    private let content = Mutex(Content())
    private let start = ContinuousClock.now
    private let serial = Atomic(0)

    var now: Int64 {
        let (seconds, attoseconds) = (ContinuousClock.now - start).components
        return seconds * 1_000_000_000 + attoseconds / 1_000_000_000
    }
    var all: Content { content.withLock { $0 } }
    var count: Int { content.withLock { $0.operations.count } }
    /// Like no other.
    func value() -> String { "v\(serial.add(1, ordering: .relaxed).newValue)" }

    func record(_ operation: Operation) {
        content.withLock { content in
            content.operations.append(operation)
            switch operation.outcome {
            case .done(let revision), .refused(let revision), .found(_, let revision): content.seen.append((operation.ended, revision))
            case .notDone, .unknown: break
            }
        }
    }
    func readFailed() { content.withLock { $0.readsFailed += 1 } }
    func record(_ lease: LeaseRecord) { content.withLock { $0.leases.append(lease) } }
    func saw(_ revision: Int64, at time: Int64) { content.withLock { $0.seen.append((time, revision)) } }

    /// A number to tell it by.
    func observe(_ scope: Scope, after revision: Int64) -> Int {
        content.withLock { content in
            content.observations.append(Observation(scope, after: revision))
            return content.observations.count - 1
        }
    }
    func told(_ number: Int, _ told: Observation.Told) { content.withLock { $0.observations[number].told.append(told) } }
    func lastTold(_ number: Int) -> Int64 { content.withLock { $0.observations[number].told.last?.revision ?? 0 } }
}

extension Version {
    init(_ item: CofferClient.Item) {
        self.init(
            key: item.key.description, value: item.value.revealedText(), createRevision: item.createRevision, revision: item.revision,
            version: item.version, lease: item.lease)
    }
}
extension Scope {
    var keys: CofferClient.Keys {
        switch self {
        case .key(let key): .one(CofferClient.Key(key))
        case .prefix(let prefix): .prefix(CofferClient.Key(prefix))
        }
    }
}
