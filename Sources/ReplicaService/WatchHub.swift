import Basics
import MVCC

/// All watches of this member. Confined to the replica's thread, so that a watch's beginning is atomic with the store's revision.
///
///     created ──▶ live ── too many outstanding ──▶ catching up ── history told up to now ──▶ live
///        └── begins in the past ─────────────────────────▲
///
/// - Live watches are told each batch of events as it is applied.
/// - Those catching up are told from history in bounded chunks, a few per turn of the thread, as fast as they consume.
///
/// Invariant: a watch is told every matching event from its start on, in order, each once, whole revisions at a time.
/// Invariant: progress to revision r is told only to a live watch, so after all of its events up to r.
struct WatchHub {
    private struct Watch {
        var range: KeyRange
        var options: WatchOptions
        var sink: any WatchSink
        /// No event before this one is wanted (any more).
        var next: Int64
        var outstanding = 0
        /// Of the values in them; events from history carry none.
        var outstandingBytes = 0
        var isLive: Bool
        var toldAt: Int64

        func admits(_ event: WatchEvent) -> Bool {
            guard event.version.revision.main >= next else { return false }
            return switch event.kind {
            case .put: !options.withoutPuts
            case .delete: !options.withoutDeletes
            }
        }
    }
    private let eventsMax: Int
    private let bytesMax: Int
    private var watches: [UInt64: Watch] = [:]
    private var matcher = WatchMatcher()
    /// Ids of watches that catch up; the first comes next. Those that ended meanwhile are still in it: `behindEnded` of them.
    private var behind: [UInt64] = []
    private var behindEnded = 0
    /// Those that ended are dropped with the next tick.
    private var periodic: [UInt64] = []
    private var progressRequests: [(watches: [WatchID], sink: any WatchSink)] = []
    private var outgoing = Outgoing<any WatchSink, WatchDelivery>()

    /// History events told to one watch at a time, and watches served in one turn: what a turn may cost.
    private static let chunkEventsMax = 4_096
    private static let chunksPerTurn = 4

    init(eventsMax: Int, bytesMax: Int) { (self.eventsMax, self.bytesMax) = (eventsMax, bytesMax) }

    var count: Int { watches.count }
    var watched: WatchedBytes { matcher.watched }
    var countBehind: Int { behind.count - behindEnded }
    var canCatchUp: Bool { behind.contains { isHungry($0) } }

    private func isHungry(_ id: UInt64) -> Bool { watches[id].map { $0.outstanding <= eventsMax / 2 && $0.outstandingBytes <= bytesMax / 2 } ?? true }

    private mutating func tell(_ id: UInt64, _ sink: any WatchSink, _ content: WatchDelivery.Content) {
        outgoing.append(WatchDelivery(watch: WatchID(id), content: content), to: sink, identity: ObjectIdentifier(sink))
    }
    mutating func take() -> [(listener: any WatchSink, items: [WatchDelivery])] { outgoing.take() }

    // MARK: - Orders

    mutating func register(_ id: WatchID, _ range: KeyRange, _ options: WatchOptions, _ sink: any WatchSink, revision: Int64, now: Int64) {
        let next = options.startRevision > 0 ? options.startRevision : revision + 1
        let isLive = next > revision
        watches[id.rawValue] = Watch(range: range, options: options, sink: sink, next: next, isLive: isLive, toldAt: now)
        matcher.register(id.rawValue, range)
        if !isLive { behind.append(id.rawValue) }
        if options.progressIntervalMilliseconds > 0 { periodic.append(id.rawValue) }
        tell(id.rawValue, sink, .created(revision: revision))
        if watches.count > Limits.watchesMax { cancel(id, because: .unavailable("too many watches"), revision: revision) }
    }

    mutating func cancel(_ id: WatchID, because reason: WatchCancellation, revision: Int64) {
        guard let watch = watches.removeValue(forKey: id.rawValue) else { return }
        matcher.remove(id.rawValue)
        if !watch.isLive { behindEnded += 1 }
        tell(id.rawValue, watch.sink, .cancelled(reason, revision: revision))
    }
    mutating func cancelAll(because reason: WatchCancellation, revision: Int64) {
        for id in watches.keys.sorted() { cancel(WatchID(id), because: reason, revision: revision) }
        progressRequests = []
    }

    mutating func consumed(_ id: WatchID, events: Int) {
        guard let watch = watches[id.rawValue], watch.outstanding > 0 else { return }
        let left = max(0, watch.outstanding - events)
        watches[id.rawValue]?.outstanding = left
        // Which of them were large is not told: nothing is left when no event is.
        watches[id.rawValue]?.outstandingBytes = watch.outstandingBytes / watch.outstanding * left
    }

    mutating func requestProgress(_ ids: [WatchID], _ sink: any WatchSink) { progressRequests.append((ids, sink)) }

    // MARK: - Events

    mutating func publish(_ events: [WatchEvent], revision: Int64, now: Int64) {
        guard !watches.isEmpty else { return }
        var batches: [(id: UInt64, events: [WatchEvent])] = [], positions: [UInt64: Int] = [:]
        for event in events {
            for id in matcher.match(event.version.key) {
                guard let watch = watches[id], watch.isLive, watch.admits(event) else { continue }
                if let position = positions[id] {
                    batches[position].events.append(event)
                } else {
                    positions[id] = batches.count
                    batches.append((id, [event]))
                }
            }
        }
        for (id, events) in batches {
            guard let watch = watches[id] else { continue }
            let bytes = events.reduce(0) { $0 + ($1.value?.bytes.count ?? 0) }
            // A transaction larger than the bounds is told to whoever has consumed everything else.
            if watch.outstanding > 0, watch.outstanding + events.count > eventsMax || watch.outstandingBytes + bytes > bytesMax {
                watches[id]?.isLive = false
                watches[id]?.next = events[0].version.revision.main
                behind.append(id)
            } else {
                watches[id]?.outstandingBytes += bytes
                deliver(events, to: id, revision: revision, now: now)
            }
        }
    }

    private mutating func deliver(_ events: [WatchEvent], to id: UInt64, revision: Int64, now: Int64) {
        guard let sink = watches[id]?.sink else { return }
        watches[id]?.outstanding += events.count
        watches[id]?.toldAt = now
        tell(id, sink, .events(events, revision: revision))
    }

    // MARK: - History

    /// A few chunks for those who are behind and have consumed enough.
    mutating func catchUp(_ store: borrowing Store, now: Int64) {
        if behindEnded > 0 {
            behind.removeAll { watches[$0] == nil }
            behindEnded = 0
        }
        for _ in 0..<Self.chunksPerTurn {
            guard let position = behind.firstIndex(where: { isHungry($0) }) else { return }
            let id = behind.remove(at: position)
            guard let watch = watches[id] else { continue }
            do throws(CommandRefusal) {
                let history = try store.changes(in: watch.range, from: watch.next, through: store.revision, limit: Self.chunkEventsMax)
                let events = history.events.filter { watch.admits($0) }
                if !events.isEmpty { deliver(events, to: id, revision: history.through, now: now) }
                watches[id]?.next = history.through + 1
                if history.through >= store.revision { watches[id]?.isLive = true } else { behind.append(id) }
            } catch {
                cancel(WatchID(id), because: .compacted(compactRevision: store.compactRevision), revision: store.revision)
                behindEnded -= 1  // It is taken out already.
            }
        }
    }

    /// The store jumped from `revision` to a later one: what lies between is told from history.
    mutating func fallBehind(after revision: Int64) {
        for id in watches.keys.sorted() {
            guard let watch = watches[id], watch.isLive else { continue }
            watches[id]?.isLive = false
            watches[id]?.next = max(watch.next, revision + 1)
            behind.append(id)
        }
    }

    // MARK: - Progress

    /// Answers requests whose watches are all live; a request that names none is answered too.
    mutating func answerProgress(revision: Int64) {
        guard !progressRequests.isEmpty else { return }
        let requests = progressRequests
        progressRequests = []
        for request in requests {
            if request.watches.allSatisfy({ watches[$0.rawValue]?.isLive ?? true }) {
                tell(WatchID.all.rawValue, request.sink, .progress(revision: revision))
            } else {
                progressRequests.append(request)
            }
        }
    }

    mutating func tick(revision: Int64, now: Int64) {
        periodic.removeAll { watches[$0] == nil }
        for id in periodic {
            guard let watch = watches[id], watch.isLive, now - watch.toldAt >= watch.options.progressIntervalMilliseconds else { continue }
            watches[id]?.toldAt = now
            // A watch for the future has been told nothing yet, and that is the truth up to the present revision.
            tell(id, watch.sink, .progress(revision: revision))
        }
    }
}
