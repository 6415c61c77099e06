import Barrier
import Basics
package import Resources

/// One change of one object.
package struct ObjectEvent: Sendable {
    package enum Kind: Sendable, Equatable { case added, modified, deleted }
    package var kind: Kind
    /// For a deletion, the last version, with the revision of the deletion.
    package var object: StoredObject
    /// The version before, if it is still known.
    package var previous: StoredObject?
    package init(kind: Kind, object: StoredObject, previous: StoredObject?) { self.kind = kind; self.object = object; self.previous = previous }
}

/// All events of one or more whole revisions, in order; or, without events, the word that all up to `revision` was told.
package struct ObjectEventBatch: Sendable {
    package var revision: Int64
    package var events: [ObjectEvent]
    package init(revision: Int64, events: [ObjectEvent]) { self.revision = revision; self.events = events }
}

/// The changes of a range of objects. Ends by throwing a `Status`: 410 when history is compacted or the reader was too slow.
package struct ObjectWatch: AsyncSequence, Sendable {
    package typealias Element = ObjectEventBatch
    let base: AsyncThrowingStream<EventBatch, any Error>

    package struct AsyncIterator: AsyncIteratorProtocol {
        var base: AsyncThrowingStream<EventBatch, any Error>.AsyncIterator

        package mutating func next() async throws -> ObjectEventBatch? { try await next(isolation: #isolation) }
        package mutating func next(isolation actor: isolated (any Actor)?) async throws -> ObjectEventBatch? {
            do {
                return try await base.next(isolation: actor).map { batch in
                    ObjectEventBatch(revision: batch.revision, events: batch.events.compactMap(ObjectEvent.init))
                }
            } catch let error as BarrierError {
                throw Status(error)
            }
        }
    }
    package func makeAsyncIterator() -> AsyncIterator { AsyncIterator(base: base.makeAsyncIterator()) }
}

extension ObjectEvent {
    init?(_ event: EntryEvent) {
        let previous = event.previous.flatMap(StoredObject.init)
        switch event.kind {
        case .put:
            guard let object = StoredObject(event.entry) else { return nil }
            self.init(kind: event.entry.version == 1 ? .added : .modified, object: object, previous: previous)
        case .delete:
            // The content of the last version, told at the revision at which it went.
            var last = event.previous ?? event.entry
            last.modificationRevision = event.entry.modificationRevision
            guard let object = StoredObject(last) else { return nil }
            self.init(kind: .deleted, object: object, previous: previous)
        }
    }
}

extension ObjectStore {
    /// From the first change after `revision`.
    package func watch(_ type: ResourceType, namespace: String?, after revision: Int64) async throws(Status) -> ObjectWatch {
        try await watch(ObjectKey.range(type, namespace: namespace), after: revision)
    }
    /// Every object there is, in the order of changes.
    package func watchAll(after revision: Int64) async throws(Status) -> ObjectWatch { try await watch(ObjectKey.all, after: revision) }

    private func watch(_ range: KeyRange, after revision: Int64) async throws(Status) -> ObjectWatch {
        do throws(BarrierError) {
            // A revision that is not there yet is another store's, or a mistake: waiting for it would look like silence.
            let current = try await keyValue.currentRevision()
            guard revision <= current else { throw .futureRevision(current: current) }
            return ObjectWatch(base: try await keyValue.watch(range, after: revision))
        } catch .compacted(let oldest) {
            throw .expired(requested: revision, oldest: oldest)
        } catch {
            throw Status(error)
        }
    }
}
