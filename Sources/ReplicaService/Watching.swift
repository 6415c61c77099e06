import Basics
package import MVCC

/// Names one watch of this service; never used twice.
package struct WatchID: Hashable, Comparable, Sendable {
    /// In a `.progress` that was asked for: all watches that were named.
    package static let all = WatchID(0)
    package var rawValue: UInt64
    package init(_ rawValue: UInt64) { self.rawValue = rawValue }
    package static func < (a: WatchID, b: WatchID) -> Bool { a.rawValue < b.rawValue }
}

package struct WatchOptions: Hashable, Sendable {
    /// The first revision wanted, in the past or the future; 0 is "from now on".
    package var startRevision: Int64 = 0
    package var withoutPuts = false
    package var withoutDeletes = false
    /// Tell the revision when nothing was told for so long; 0 never.
    package var progressIntervalMilliseconds: Int64 = 0
    package init() {}
}

/// Where a watch's events go. `deliver` is called on the replica's thread, once per batch of work and sink: hand over
/// and return. Whoever means to fetch values or previous values takes a `ReadPin` in it.
///
/// Events count as outstanding until `ReplicaService.consumed(_:events:)`. A watch with too many outstanding events is
/// served from history, as fast as it consumes, until it has caught up: it slows nobody down and misses nothing.
package protocol WatchSink: AnyObject, Sendable {
    func deliver(_ deliveries: [WatchDelivery])
}

package struct WatchDelivery: Sendable {
    package enum Content: Sendable {
        /// The first delivery of a watch; `revision` is the store's. No event at or before `revision` will come,
        /// unless `startRevision` asked for them.
        case created(revision: Int64)
        /// All events of one or more whole revisions, in order; nothing up to `revision` remains to be told.
        case events([WatchEvent], revision: Int64)
        /// Every event up to `revision` was delivered before this.
        case progress(revision: Int64)
        /// The last delivery of a watch.
        case cancelled(WatchCancellation, revision: Int64)
    }
    package var watch: WatchID
    package var content: Content
    package init(watch: WatchID, content: Content) { self.watch = watch; self.content = content }
}

package enum WatchCancellation: Hashable, Sendable {
    case requested
    /// History from the wanted revision on is gone.
    case compacted(compactRevision: Int64)
    case unavailable(String)
}
