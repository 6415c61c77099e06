package import Basics
package import SecretMemory

/// A plaintext entry, above the waterline.
package struct Entry: Sendable {
    package var key: Bytes
    package var createRevision: Int64
    package var modificationRevision: Int64
    package var version: Int64
    package var lease: LeaseID
    /// What cannot be opened is listed all the same, as unreadable, with the reason.
    package var value: Result<SecretValue, UnreadableValue>
    package init(key: Bytes, createRevision: Int64, modificationRevision: Int64, version: Int64, lease: LeaseID,
                 value: Result<SecretValue, UnreadableValue>) {
        self.key = key; self.createRevision = createRevision; self.modificationRevision = modificationRevision
        self.version = version; self.lease = lease; self.value = value
    }
}

/// A stored value that does not open. Never contains bytes of it.
package struct UnreadableValue: Error, Equatable, CustomStringConvertible {
    package var reason: String
    package init(reason: String) { self.reason = reason }
    package var description: String { "the value cannot be opened: \(reason)" }
}

package struct Listing: Sendable {
    package var entries: [Entry]
    package var more: Bool
    /// Entries in the whole range, whatever the limit.
    package var count: Int64
    /// The revision the listing shows.
    package var revision: Int64
    package init(entries: [Entry], more: Bool, count: Int64, revision: Int64) {
        self.entries = entries; self.more = more; self.count = count; self.revision = revision
    }
}

package struct EntryEvent: Sendable {
    package enum Kind: Sendable { case put, delete }
    package var kind: Kind
    /// For a delete: the last version before it if it is still readable, with `modificationRevision` of the deletion.
    package var entry: Entry
    package var previous: Entry?
    package init(kind: Kind, entry: Entry, previous: Entry?) { self.kind = kind; self.entry = entry; self.previous = previous }
}

/// All events of one or more whole revisions, in order; or, without events, the word that all up to `revision` was told.
package struct EventBatch: Sendable {
    package var revision: Int64
    package var events: [EntryEvent]
    package init(revision: Int64, events: [EntryEvent]) { self.revision = revision; self.events = events }
}

package enum Precondition: Hashable, Sendable {
    case none, absent
    case modificationRevision(Int64)
}

package enum BarrierError: Error, Equatable {
    /// The precondition does not hold; the key's present modification revision, 0 if absent.
    case preconditionFailed(current: Int64)
    case compacted(compactRevision: Int64)
    case futureRevision(current: Int64)
    case sealed
    /// A queue is full: try again.
    case overloaded
    case unavailable(String)
    case tooLarge(limit: Int)
    case unreadable(UnreadableValue)
    case refused(String)
}

/// The Barrier as Coffer's own objects use it: small, async, plaintext. `Barrier` conforms.
/// Keys here are in Coffer's own space, which is not reachable on the etcd port.
package protocol KeyValue: Sendable {
    /// `revision` 0 is now (linearizable).
    func get(_ key: Bytes, revision: Int64) async throws(BarrierError) -> Entry?
    func list(_ range: KeyRange, limit: Int, revision: Int64) async throws(BarrierError) -> Listing
    /// Seals under the data key of `domain` (a namespace's name; its keys are made on first use) and writes;
    /// answers the new modification revision.
    func put(_ key: Bytes, domain: String, value: SecretValue, if precondition: Precondition) async throws(BarrierError) -> Int64
    /// Answers the revision of the deletion; `preconditionFailed(current: 0)` when it is not there.
    func delete(_ key: Bytes, if precondition: Precondition) async throws(BarrierError) -> Int64
    /// From the first event after `revision` (0: from now on). Ends by throwing when history is compacted.
    /// Bookmarks (batches without events) come at least every few seconds.
    func watch(_ range: KeyRange, after revision: Int64) async throws(BarrierError) -> AsyncThrowingStream<EventBatch, any Error>
    /// The present revision, confirmed with a quorum.
    func currentRevision() async throws(BarrierError) -> Int64
}
