import Barrier
import Basics
import SecretMemory
import Synchronization

/// A `KeyValue` in memory, with full history, for tests: what the layers above the Barrier are tested on. Slow and obvious.
final class MemoryKeyValue: KeyValue {
    private struct Version {
        var revision: Int64
        var createRevision: Int64
        var version: Int64
        /// Nil: deleted at `revision`.
        var value: Result<SecretValue, UnreadableValue>?
        var domain: String
    }
    private struct Watcher {
        var range: KeyRange
        var continuation: AsyncThrowingStream<EventBatch, any Error>.Continuation
    }
    private struct State {
        var revision: Int64 = 1
        var compacted: Int64 = 0
        var history: [Bytes: [Version]] = [:]
        var watchers: [Int: Watcher] = [:]
        var nextWatcher = 0
        /// Keys whose values do not open, with the reason.
        var unreadable: [Bytes: String] = [:]
        var writeFailure: BarrierError?
        var beforeWrite: (@Sendable (Bytes) async -> Void)?
    }
    private let state = Mutex(State())

    // MARK: What tests arrange

    func makeUnreadable(_ key: String, reason: String) { state.withLock { $0.unreadable[Bytes(key.utf8)] = reason } }
    func failWrites(_ failure: BarrierError?) { state.withLock { $0.writeFailure = failure } }
    /// Called before each write, outside any lock: where a test lets somebody else be faster.
    func beforeWrite(_ body: (@Sendable (Bytes) async -> Void)?) { state.withLock { $0.beforeWrite = body } }
    func compact(_ revision: Int64) {
        state.withLock { state in
            state.compacted = revision
        }
    }
    func domain(of key: String) -> String? { state.withLock { $0.history[Bytes(key.utf8)]?.last?.domain } }
    /// What is stored, as text.
    func stored(_ key: String) -> String? {
        state.withLock { state in
            guard case .success(let value) = state.history[Bytes(key.utf8)]?.last?.value else { return nil }
            return value.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        }
    }
    /// A revision that touches no object, as other clients make them.
    @discardableResult func skipRevision() -> Int64 { state.withLock { $0.revision += 1; return $0.revision } }
    func sendBookmarks() {
        state.withLock { state in
            for watcher in state.watchers.values { watcher.continuation.yield(EventBatch(revision: state.revision, events: [])) }
        }
    }
    func endWatches(_ failure: BarrierError) {
        let ended = state.withLock { state in
            defer { state.watchers = [:] }
            return Array(state.watchers.values)
        }
        for watcher in ended { watcher.continuation.finish(throwing: failure) }
    }
    var watcherCount: Int { state.withLock { $0.watchers.count } }

    // MARK: KeyValue

    func get(_ key: Bytes, revision: Int64) async throws(BarrierError) -> Entry? {
        try state.withLock { (state) throws(BarrierError) in
            try Self.check(revision, state)
            return Self.entry(key, at: revision == 0 ? state.revision : revision, state)
        }
    }

    func list(_ range: KeyRange, limit: Int, revision: Int64) async throws(BarrierError) -> Listing {
        try state.withLock { (state) throws(BarrierError) in
            try Self.check(revision, state)
            let at = revision == 0 ? state.revision : revision
            let keys = state.history.keys.filter(range.contains).sorted { $0.lexicographicallyPrecedes($1) }
            let all = keys.compactMap { Self.entry($0, at: at, state) }
            let shown = limit > 0 ? Array(all.prefix(limit)) : all
            return Listing(entries: shown, more: shown.count < all.count, count: Int64(all.count), revision: state.revision)
        }
    }

    func put(_ key: Bytes, domain: String, value: SecretValue, if precondition: Precondition) async throws(BarrierError) -> Int64 {
        if let hook = state.withLock({ $0.beforeWrite }) { await hook(key) }
        return try state.withLock { (state) throws(BarrierError) in
            if let failure = state.writeFailure { throw failure }
            let last = state.history[key]?.last, current = last?.value == nil ? 0 : last?.revision ?? 0
            try Self.check(precondition, current: current)
            state.revision += 1
            state.unreadable[key] = nil
            let version = Version(
                revision: state.revision, createRevision: current == 0 ? state.revision : last!.createRevision,
                version: current == 0 ? 1 : last!.version + 1, value: .success(value), domain: domain)
            state.history[key, default: []].append(version)
            Self.publish(key, .put, state)
            return state.revision
        }
    }

    func delete(_ key: Bytes, if precondition: Precondition) async throws(BarrierError) -> Int64 {
        if let hook = state.withLock({ $0.beforeWrite }) { await hook(key) }
        return try state.withLock { (state) throws(BarrierError) in
            if let failure = state.writeFailure { throw failure }
            guard let last = state.history[key]?.last, last.value != nil else { throw .preconditionFailed(current: 0) }
            try Self.check(precondition, current: last.revision)
            state.revision += 1
            state.history[key]?.append(Version(revision: state.revision, createRevision: 0, version: 0, value: nil, domain: last.domain))
            Self.publish(key, .delete, state)
            return state.revision
        }
    }

    func watch(_ range: KeyRange, after revision: Int64) async throws(BarrierError) -> AsyncThrowingStream<EventBatch, any Error> {
        let (stream, continuation) = AsyncThrowingStream.makeStream(of: EventBatch.self, throwing: (any Error).self)
        let id = try state.withLock { (state) throws(BarrierError) -> Int in
            if revision > 0, revision < state.compacted { throw .compacted(compactRevision: state.compacted) }
            if revision > 0 {
                var missed: [(revision: Int64, event: EntryEvent)] = []
                for (key, versions) in state.history where range.contains(key) {
                    for index in versions.indices where versions[index].revision > revision {
                        missed.append((versions[index].revision, Self.event(key, index, state)))
                    }
                }
                for item in missed.sorted(by: { $0.revision < $1.revision }) {
                    continuation.yield(EventBatch(revision: item.revision, events: [item.event]))
                }
            }
            state.nextWatcher += 1
            state.watchers[state.nextWatcher] = Watcher(range: range, continuation: continuation)
            return state.nextWatcher
        }
        continuation.onTermination = { [weak self] _ in self?.state.withLock { _ = $0.watchers.removeValue(forKey: id) } }
        return stream
    }

    func currentRevision() async throws(BarrierError) -> Int64 { state.withLock { $0.revision } }

    // MARK: Parts

    private static func check(_ revision: Int64, _ state: State) throws(BarrierError) {
        if revision > state.revision { throw .futureRevision(current: state.revision) }
        if revision > 0, revision < state.compacted { throw .compacted(compactRevision: state.compacted) }
    }
    private static func check(_ precondition: Precondition, current: Int64) throws(BarrierError) {
        switch precondition {
        case .none: break
        case .absent: guard current == 0 else { throw .preconditionFailed(current: current) }
        case .modificationRevision(let revision): guard current == revision else { throw .preconditionFailed(current: current) }
        }
    }
    private static func entry(_ key: Bytes, at revision: Int64, _ state: State) -> Entry? {
        guard let version = state.history[key]?.last(where: { $0.revision <= revision }), let value = version.value else { return nil }
        return entry(key, version, value, state)
    }
    private static func entry(_ key: Bytes, _ version: Version, _ value: Result<SecretValue, UnreadableValue>, _ state: State) -> Entry {
        Entry(
            key: key, createRevision: version.createRevision, modificationRevision: version.revision, version: version.version, lease: 0,
            value: state.unreadable[key].map { .failure(UnreadableValue(reason: $0)) } ?? value)
    }
    private static func event(_ key: Bytes, _ index: Int, _ state: State) -> EntryEvent {
        let versions = state.history[key] ?? [], version = versions[index]
        let previous = index > 0 ? versions[index - 1].value.map { entry(key, versions[index - 1], $0, state) } : nil
        if let value = version.value { return EntryEvent(kind: .put, entry: entry(key, version, value, state), previous: previous) }
        var last = previous ?? Entry(
            key: key, createRevision: 0, modificationRevision: 0, version: 0, lease: 0, value: .failure(UnreadableValue(reason: "it is gone")))
        last.modificationRevision = version.revision
        return EntryEvent(kind: .delete, entry: last, previous: previous)
    }
    private static func publish(_ key: Bytes, _ kind: EntryEvent.Kind, _ state: State) {
        guard let index = state.history[key].map({ $0.count - 1 }) else { return }
        let batch = EventBatch(revision: state.revision, events: [event(key, index, state)])
        for watcher in state.watchers.values where watcher.range.contains(key) { watcher.continuation.yield(batch) }
    }
}
