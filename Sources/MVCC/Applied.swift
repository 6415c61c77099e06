package import Basics

/// What applying commands asks of the world, gathered over any number of `apply` calls in order.
///
/// The record lane must carry out, in one transaction: `records` in order, then `removed`, then `tables` in order.
///
/// - A record whose revision is not above all before it is a *replacement* (a reseal) of the one stored there.
/// - `.copy(of:)` means the sealed value as it is at that point of the order: before later replacements, and before `removed`.
/// - Table writes: the last one for a table and key wins.
package struct Applied: Sendable, Equatable {
    package var records: [Record] = []
    package var removed: [Revision] = []
    package var tables: [TableWrite] = []
    /// One per put or delete of a watched key, in revision order.
    package var events: [WatchEvent] = []
    /// `events` are of these keys alone.
    package var watched = WatchedBytes.all
    package init() {}

    package var isEmpty: Bool { records.isEmpty && removed.isEmpty && tables.isEmpty && events.isEmpty }
    package mutating func removeAll() {
        records.removeAll(keepingCapacity: true)
        removed.removeAll(keepingCapacity: true)
        tables.removeAll(keepingCapacity: true)
        events.removeAll(keepingCapacity: true)
    }
}

/// Events of whole revisions, found in the index.
package struct History: Sendable, Equatable {
    package var events: [WatchEvent]
    /// All events of the asked range up to this revision are in `events`: go on from the next one.
    package var through: Int64
    package init(events: [WatchEvent], through: Int64) { self.events = events; self.through = through }
}

/// What was stored cannot be what a store wrote.
package struct RestoreError: Error, Equatable, CustomStringConvertible {
    package var what: String
    package init(_ what: String) { self.what = what }
    package var description: String { "the stored state is damaged: \(what)" }
}
