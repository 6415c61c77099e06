import Barrier
import Basics
import MVCC
import ReplicaService
import Sealing

extension Coffer {
    /// The changes of entries, in order and complete, from the first after `revision` (0: from now on). The stream ends by throwing
    /// `.revisionGone` when that history was compacted, `.unreadable` when a value does not open, `.unavailable` when the store closes.
    /// A slow reader slows nobody down: it is served from history. Once a second or so, `Changes` without changes say how far all was told.
    public func watch(_ keys: Keys, after revision: Int64 = 0) -> AsyncThrowingStream<Changes, any Error> {
        var options = WatchOptions()
        options.startRevision = revision == 0 ? 0 : revision + 1
        options.progressIntervalMilliseconds = 1_000
        let (deliveries, input) = AsyncStream.makeStream(of: (WatchDelivery, ReadPin).self)
        let service = barrier.service
        let id = service.watch(Keyspace.plain.stored(keys.keyRange), options: options, sink: Deliveries(input, service))
        return AsyncThrowingStream { output in
            let pump = Task {
                defer { service.cancel(id) }
                for await (delivery, pin) in deliveries {
                    do {
                        guard let changes = try self.changes(delivery) else { return output.finish() }
                        output.yield(changes)
                        if case .events(let events, _) = delivery.content { service.consumed(id, events: events.count) }
                    } catch { return output.finish(throwing: error) }
                    pin.release()
                }
                output.finish()
            }
            output.onTermination = { _ in pump.cancel() }
        }
    }

    /// `nil`: the watch has ended as was asked.
    private func changes(_ delivery: WatchDelivery) throws(CofferError) -> Changes? {
        switch delivery.content {
        case .created(let revision), .progress(let revision): return Changes(changes: [], revision: revision)
        case .events(let events, let revision):
            var changes: [Changes.Change] = []
            for event in events {
                switch event.kind {
                case .put: changes.append(.put(try item(event.version)))
                case .delete: changes.append(.delete(Key(Keyspace.name(event.version.key)), revision: event.version.revision.main))
                }
            }
            return Changes(changes: changes, revision: revision)
        case .cancelled(.requested, _): return nil
        case .cancelled(.compacted(let revision), _): throw CofferError(.revisionGone, "history before revision \(revision) was compacted")
        case .cancelled(.unavailable(let reason), _): throw CofferError(.unavailable, reason)
        }
    }

    /// Each delivery takes a pin along, so that what it names is still there when it is read.
    private final class Deliveries: WatchSink {
        private let input: AsyncStream<(WatchDelivery, ReadPin)>.Continuation
        private let service: ReplicaService
        init(_ input: AsyncStream<(WatchDelivery, ReadPin)>.Continuation, _ service: ReplicaService) { self.input = input; self.service = service }
        func deliver(_ deliveries: [WatchDelivery]) {
            for delivery in deliveries {
                input.yield((delivery, service.pin()))
                if case .cancelled = delivery.content { input.finish() }
            }
        }
    }
}
