package import Basics
import MVCC
import ReplicaService
import Sealing
package import SecretMemory

// The Barrier as Coffer's own objects use it: the object keyspace, async, plaintext.

extension Barrier: KeyValue {
    package func get(_ key: Bytes, revision: Int64) async throws(BarrierError) -> Entry? {
        try await list(KeyRange(key), limit: 1, revision: revision).entries.first
    }

    package func list(_ range: KeyRange, limit: Int, revision: Int64) async throws(BarrierError) -> Listing {
        var request = RangeRequest(Keyspace.object.stored(range))
        request.limit = Int64(limit)
        request.revision = revision
        let (body, pin) = try await asked(.range(request, linearizable: true))
        defer { pin.release() }
        guard case .range(let result, let current) = body else { throw .unavailable("no range") }
        return Listing(entries: result.versions.map(entry), more: result.more, count: result.count, revision: revision == 0 ? current : revision)
    }

    package func put(_ key: Bytes, domain: String, value: SecretValue, if precondition: Precondition) async throws(BarrierError) -> Int64 {
        let stored = Keyspace.object.stored(key)
        guard value.count <= Limits.objectBytesMax else { throw .tooLarge(limit: Limits.objectBytesMax) }
        let domain = Domain.namespace(domain)
        let (_, revision) = try await conditionally(on: stored, precondition) { () async throws(EtcdFailure) -> Operation in
            _ = try await self.dataKey(of: domain)
            do {
                let sealed = try self.underActiveKey(of: { self.domains.active(domain) }) { key in
                    try unsafe value.withUnsafeBytes { bytes throws -> SealedValue in try unsafe self.keyring.seal(bytes, key: stored, under: key) }
                }
                if let sealed { return .put(PutRequest(key: stored, value: .sealed(sealed))) }
            } catch { throw .unavailable("sealing: \(error)") }
            throw .unavailable("the domain's keys are destroyed")
        }
        return revision
    }

    package func delete(_ key: Bytes, if precondition: Precondition) async throws(BarrierError) -> Int64 {
        let stored = Keyspace.object.stored(key)
        let (results, revision) = try await conditionally(on: stored, precondition) { .deleteRange(DeleteRangeRequest(KeyRange(stored))) }
        guard case .deleteRange(let deleted, _) = results.first, deleted == 1 else { throw .preconditionFailed(current: 0) }
        return revision
    }

    package func currentRevision() async throws(BarrierError) -> Int64 {
        guard case .read(let revision) = try await asked(.readIndex).body else { throw .unavailable("no revision") }
        return revision
    }

    /// Runs what `operation` makes if `precondition` holds; answers its results and the revision of its transaction. Made again when a rotation
    /// overtook it: what was sealed may not open any more, the value it was made of is here.
    private func conditionally(
        on stored: Bytes, _ precondition: Precondition, _ operation: () async throws(EtcdFailure) -> Operation
    ) async throws(BarrierError) -> ([OperationResult], revision: Int64) {
        let range = KeyRange(stored)
        let compares: [Compare] = switch precondition {
        case .none: []
        case .absent: [Compare(range, .equal, .create(0))]
        case .modificationRevision(let revision): [Compare(range, .equal, .modification(revision))]
        }
        var told: (result: CommandResult, revision: Int64)?, attempts = 0
        while told == nil {
            do {
                told = try await propose(.transaction(Transaction(compares: compares, success: [try await operation()], failure: [.range(RangeRequest(range))]), guards: []))
            } catch {
                guard case .refused(.staleKey) = error else { throw BarrierError(error) }
                attempts += 1
                guard attempts < Self.attemptsMax else { throw .overloaded }
                do { try follow() } catch { throw BarrierError(error) }
            }
        }
        guard let answer = told else { throw .overloaded }
        guard case .operation(.transaction(let succeeded, let results)) = answer.result else { throw .unavailable("no transaction's answer") }
        if succeeded { return (results, answer.revision) }
        guard case .range(let present) = results.first else { throw .unavailable("no range") }
        throw .preconditionFailed(current: present.versions.first?.revision.main ?? 0)
    }

    private func asked(_ request: Submission.Request) async throws(BarrierError) -> (body: AnswerBody, pin: ReadPin) {
        do { return try await holding(request) } catch { throw BarrierError(error) }
    }

    /// The entry with its value, or why it cannot be opened.
    func entry(_ version: KeyVersion) -> Entry { entry(version, value: nil) }
    private func entry(_ version: KeyVersion, value: SealedValue?) -> Entry {
        let opened = Result<SecretValue, UnreadableValue> { () throws(UnreadableValue) -> SecretValue in
            guard let value else { return try plaintext(of: version) }
            // An event that waited long may carry a ciphertext that was replaced since, and whose key is gone: the record has the new one.
            do { return try plaintext(of: value, storedKey: version.key) } catch { return try plaintext(of: version) }
        }
        return Entry(
            key: Bytes(Keyspace.name(version.key)), createRevision: version.createRevision, modificationRevision: version.revision.main,
            version: version.version, lease: version.lease, value: opened)
    }

    // MARK: Watching

    package func watch(_ range: KeyRange, after revision: Int64) async throws(BarrierError) -> AsyncThrowingStream<EventBatch, any Error> {
        var options = WatchOptions()
        let start = revision == 0 ? 0 : revision + 1
        options.startRevision = start
        options.progressIntervalMilliseconds = 2_000
        let (deliveries, continuation) = AsyncStream.makeStream(of: (WatchDelivery, ReadPin).self)
        let id = service.watch(Keyspace.object.stored(range), options: options, sink: StreamSink(continuation, service))
        let reader = EventReader(self, id, deliveries.makeAsyncIterator(), start: start)
        return AsyncThrowingStream { try await reader.next() }
    }

    /// Reads one watch as fast as whoever iterates asks: values are opened when they are asked for, about a megabyte at a time, and only then
    /// count as consumed. What waits is ciphertext, and bounded by the service.
    private actor EventReader {
        private static let openedBytesMax = 1 << 20
        private let barrier: Barrier
        private let id: WatchID
        private let deliveries: AsyncStream<(WatchDelivery, ReadPin)>.Iterator
        private let start: Int64
        /// Of the delivery at hand.
        private var rest: ArraySlice<WatchEvent> = []
        private var revision: Int64 = 0
        private var pin: ReadPin?

        init(_ barrier: Barrier, _ id: WatchID, _ deliveries: AsyncStream<(WatchDelivery, ReadPin)>.Iterator, start: Int64) {
            (self.barrier, self.id, self.deliveries, self.start) = (barrier, id, deliveries, start)
        }
        deinit {
            pin?.release()
            barrier.service.cancel(id)
        }

        func next() async throws -> EventBatch? {
            while rest.isEmpty {
                var iterator = deliveries
                guard let (delivery, pin) = await iterator.next(isolation: self) else { return nil }
                if case .events(let events, let revision) = delivery.content {
                    (rest, self.revision, self.pin) = (events[...], revision, pin)
                    continue
                }
                pin.release()
                switch delivery.content {
                // What history was asked for is still to come: that all up to here was told would not be true.
                case .created(let revision): if start == 0 || start > revision { return EventBatch(revision: revision, events: []) }
                case .progress(let revision): return EventBatch(revision: revision, events: [])
                case .cancelled(.requested, _): return nil
                case .cancelled(.compacted(let compacted), _): throw BarrierError.compacted(compactRevision: compacted)
                case .cancelled(.unavailable(let reason), _): throw BarrierError.unavailable(reason)
                case .events: break
                }
            }
            return opened()
        }

        /// Whole revisions.
        private func opened() -> EventBatch {
            var events: [EntryEvent] = [], bytes = 0, last: Int64 = 0
            while let event = rest.first, bytes < Self.openedBytesMax || event.version.revision.main == last {
                let opened = barrier.event(event)
                if case .success(let value) = opened.entry.value { bytes += value.count }
                if case .success(let value)? = opened.previous?.value { bytes += value.count }
                events.append(opened)
                last = event.version.revision.main
                rest.removeFirst()
            }
            barrier.service.consumed(id, events: events.count)
            guard rest.isEmpty else { return EventBatch(revision: last, events: events) }
            pin?.release()
            pin = nil
            return EventBatch(revision: revision, events: events)
        }
    }

    fileprivate func event(_ event: WatchEvent) -> EntryEvent {
        let previous = event.previous.map(entry)
        switch event.kind {
        case .put: return EntryEvent(kind: .put, entry: entry(event.version, value: event.value), previous: previous)
        case .delete:
            var last = previous ?? Entry(
                key: Bytes(Keyspace.name(event.version.key)), createRevision: 0, modificationRevision: 0, version: 0, lease: 0,
                value: .failure(UnreadableValue(reason: "deleted")))
            last.modificationRevision = event.version.revision.main
            return EntryEvent(kind: .delete, entry: last, previous: previous)
        }
    }

    /// A pin goes along with each delivery, so that what it names is still there when it is opened.
    private final class StreamSink: WatchSink {
        private let continuation: AsyncStream<(WatchDelivery, ReadPin)>.Continuation
        private let service: ReplicaService
        init(_ continuation: AsyncStream<(WatchDelivery, ReadPin)>.Continuation, _ service: ReplicaService) {
            self.continuation = continuation
            self.service = service
        }
        func deliver(_ deliveries: [WatchDelivery]) {
            for delivery in deliveries {
                continuation.yield((delivery, service.pin()))
                if case .cancelled = delivery.content { continuation.finish() }
            }
        }
    }
}

extension BarrierError {
    init(_ failure: EtcdFailure) {
        switch failure {
        case .refused(.compacted(let revision)): self = .compacted(compactRevision: revision)
        case .refused(.futureRevision(let current)): self = .futureRevision(current: current)
        case .refused(let refusal): self = .refused("\(refusal)")
        case .unreadable(let value): self = .unreadable(value)
        case .overloaded: self = .overloaded
        case .noSpace: self = .unavailable("the store's disk is full: deletions still pass, and writes again once there is room")
        case .outcomeUnknown: self = .unavailable("the outcome is not known: look, then try again")
        case .notLeader: self = .unavailable("no leader")
        case .unavailable(let reason): self = .unavailable(reason)
        }
    }
}
