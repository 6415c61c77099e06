import Barrier
import Basics
import SecretMemory
import Synchronization

/// A `KeyValue` in memory, slow and obvious, without history or watches: enough for named keys.
final class MemoryKeyValue: KeyValue {
    private struct State {
        var revision: Int64 = 1
        var entries: [Bytes: (value: Result<SecretValue, UnreadableValue>, revision: Int64)] = [:]
        var domains: Set<String> = []
        /// Run once, before the next write: somebody else is faster.
        var beforeWrite: (@Sendable (MemoryKeyValue) async -> Void)?
    }
    private let state = Mutex(State())

    var domains: Set<String> { state.withLock { $0.domains } }
    var keys: [String] { state.withLock { $0.entries.keys.map { String(decoding: $0, as: UTF8.self) }.sorted() } }
    func beforeNextWrite(_ body: @escaping @Sendable (MemoryKeyValue) async -> Void) { state.withLock { $0.beforeWrite = body } }
    func makeUnreadable(_ key: String, reason: String) {
        state.withLock { $0.entries[Bytes(key.utf8)]?.value = .failure(UnreadableValue(reason: reason)) }
    }

    func get(_ key: Bytes, revision: Int64) async throws(BarrierError) -> Entry? {
        try await list(KeyRange(key), limit: 1, revision: revision).entries.first
    }
    func list(_ range: KeyRange, limit: Int, revision: Int64) async throws(BarrierError) -> Listing {
        state.withLock { state in
            let found = state.entries.filter { range.contains($0.key) }.sorted { $0.key.lexicographicallyPrecedes($1.key) }
            let entries = found.map { key, entry in
                Entry(key: key, createRevision: entry.revision, modificationRevision: entry.revision, version: 1, lease: 0, value: entry.value)
            }
            return Listing(entries: entries, more: false, count: Int64(entries.count), revision: state.revision)
        }
    }
    func put(_ key: Bytes, domain: String, value: SecretValue, if precondition: Precondition) async throws(BarrierError) -> Int64 {
        let before = state.withLock { state in
            defer { state.beforeWrite = nil }
            return state.beforeWrite
        }
        await before?(self)
        let result: Result<Int64, BarrierError> = state.withLock { state in
            let current = state.entries[key]?.revision ?? 0
            switch precondition {
            case .none: break
            case .absent: if current != 0 { return .failure(.preconditionFailed(current: current)) }
            case .modificationRevision(let wanted): if current != wanted { return .failure(.preconditionFailed(current: current)) }
            }
            state.revision += 1
            state.entries[key] = (.success(value), state.revision)
            state.domains.insert(domain)
            return .success(state.revision)
        }
        return try result.get()
    }
    func delete(_ key: Bytes, if precondition: Precondition) async throws(BarrierError) -> Int64 {
        let revision: Int64? = state.withLock { state in
            guard state.entries.removeValue(forKey: key) != nil else { return nil }
            state.revision += 1
            return state.revision
        }
        guard let revision else { throw .preconditionFailed(current: 0) }
        return revision
    }
    func watch(_ range: KeyRange, after revision: Int64) async throws(BarrierError) -> AsyncThrowingStream<EventBatch, any Error> {
        throw .refused("no watches here")
    }
    func currentRevision() async throws(BarrierError) -> Int64 { state.withLock { $0.revision } }
}
