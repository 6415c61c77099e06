import Barrier
import Basics
import MVCC
import ReplicaService
import Sealing
import SecretMemory

extension Coffer {
    /// The changes of entries, in order and complete, from the first after `revision` (0: from now on). The stream ends by throwing
    /// `.revisionGone` when that history was compacted, `.unreadable` when a value does not open, `.unavailable` when the store closes.
    /// A slow reader slows nobody down: it is served from history. Once a second or so, `Changes` without changes say how far all was told.
    public func watch(_ keys: Keys, after revision: Int64 = 0) -> AsyncThrowingStream<Changes, any Error> {
        var options = WatchOptions()
        options.startRevision = revision == 0 ? 0 : revision + 1
        options.progressIntervalMilliseconds = 1_000
        let reader = WatchReader(self, Keyspace.plain.stored(keys.keyRange), options)
        return AsyncThrowingStream { try await reader.next() }
    }
}

/// One watch, read as fast as its reader asks: values are opened when they are asked for, and only then count as consumed.
/// What waits is ciphertext, and bounded by the service.
private actor WatchReader {
    private let barrier: Barrier
    private let id: WatchID
    private let deliveries: AsyncStream<(WatchDelivery, ReadPin)>.Iterator

    init(_ coffer: Coffer, _ range: KeyRange, _ options: WatchOptions) {
        barrier = coffer.barrier
        let (stream, input) = AsyncStream.makeStream(of: (WatchDelivery, ReadPin).self)
        deliveries = stream.makeAsyncIterator()
        id = barrier.service.watch(range, options: options, sink: Deliveries(input, barrier.service))
    }
    deinit { barrier.service.cancel(id) }

    /// `nil`: the reader was cancelled, or the watch.
    func next() async throws(CofferError) -> Coffer.Changes? {
        var iterator = deliveries
        guard let (delivery, pin) = await iterator.next(isolation: self) else { return nil }
        defer { pin.release() }
        switch delivery.content {
        case .created(let revision), .progress(let revision): return Coffer.Changes(changes: [], revision: revision)
        case .events(let events, let revision):
            defer { barrier.service.consumed(id, events: events.count) }
            return Coffer.Changes(changes: try changes(events), revision: revision)
        case .cancelled(.requested, _): return nil
        case .cancelled(.compacted(let revision), _): throw CofferError(.revisionGone, "history before revision \(revision) was compacted")
        case .cancelled(.unavailable(let reason), _): throw CofferError(.unavailable, reason)
        }
    }

    private func changes(_ events: [WatchEvent]) throws(CofferError) -> [Coffer.Changes.Change] {
        var changes: [Coffer.Changes.Change] = []
        changes.reserveCapacity(events.count)
        for event in events {
            switch event.kind {
            case .put: changes.append(.put(Coffer.Item(event.version, Coffer.Secret(try value(event)))))
            case .delete: changes.append(.delete(Coffer.Key(Keyspace.name(event.version.key)), revision: event.version.revision.main))
            }
        }
        return changes
    }
    /// The event's own ciphertext, if it has one; the record's, if that was replaced since and its key is gone.
    private func value(_ event: WatchEvent) throws(CofferError) -> SecretValue {
        if let sealed = event.value, let opened = try? barrier.keyring.open(sealed, key: event.version.key) { return SecretValue(opened) }
        do { return try barrier.plaintext(of: event.version) } catch { throw CofferError(.unreadable, error.description) }
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
