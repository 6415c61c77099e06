import Foundation
import Logging
import NodeProtocol
import ObjectStore
import Resources
import Synchronization

/// The one watch over all objects that everything in this process lives from: the nodes' streams, the scheduler, the ends of pods and of
/// namespaces. Each change is opened once, applied to the projection, and told to those whom it concerns.
///
/// After a loss (history compacted, reader too slow, store away) it starts anew from a complete state.
final class ObjectFeed: Sendable {
    private struct State {
        var projection = NodeProjection()
        var isComplete = false
        var nextID = 0
        /// Woken when something of their node changed.
        var nodeListeners: [Int: (node: String, signal: AsyncStream<Void>.Continuation)] = [:]
        /// Woken when something of these kinds changed.
        var listeners: [Int: (kinds: NodeProjection.Kinds, signal: AsyncStream<Void>.Continuation)] = [:]
    }
    private let state = Mutex(State())
    private let store: ObjectStore
    private let logger: Logger

    init(store: ObjectStore, logger: Logger) {
        self.store = store
        self.logger = logger
    }

    // MARK: Reading

    /// Nil until the state is complete.
    func read<R>(_ body: (NodeProjection) -> R) -> R? {
        state.withLock { $0.isComplete ? body($0.projection) : nil }
    }

    /// A signal for each time the node's share may have changed, at least one at the beginning. Several changes make one signal.
    func changes(of node: String) -> AsyncStream<Void> {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let id = state.withLock { state in
            state.nextID += 1
            state.nodeListeners[state.nextID] = (node, continuation)
            return state.nextID
        }
        continuation.onTermination = { [weak self] _ in _ = self?.state.withLock { $0.nodeListeners.removeValue(forKey: id) } }
        continuation.yield()
        return stream
    }
    /// A signal for each time that something of these kinds changed, likewise.
    func changes(of kinds: NodeProjection.Kinds) -> AsyncStream<Void> {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let id = state.withLock { state in
            state.nextID += 1
            state.listeners[state.nextID] = (kinds, continuation)
            return state.nextID
        }
        continuation.onTermination = { [weak self] _ in _ = self?.state.withLock { $0.listeners.removeValue(forKey: id) } }
        continuation.yield()
        return stream
    }

    // MARK: Following

    func run() async {
        var pauseMilliseconds = 10
        while !Task.isCancelled {
            do {
                try await follow { pauseMilliseconds = 10 }
            } catch is CancellationError {
                return
            } catch {
                logger.debug("the feed of objects starts anew", metadata: ["reason": "\(error)"])
            }
            try? await Task.sleep(for: .milliseconds(pauseMilliseconds))
            pauseMilliseconds = min(pauseMilliseconds * 2, 1_000)
        }
    }

    private func follow(_ began: () -> Void) async throws {
        let start = try await store.currentRevision()
        let watch = try await store.watchAll(after: start)
        try await reset(at: start)
        began()
        for try await batch in watch {
            try await take(batch)
        }
    }

    /// The complete state at `start`, as one batch.
    private func reset(at start: Int64) async throws {
        var events: [ObjectEvent] = []
        for type in [ResourceType.namespaces, .nodes, .pods, .secrets] {
            var options = ListOptions(version: .exact(start))
            repeat {
                let page = try await store.list(type, namespace: nil, options: options)
                events += page.items.map { ObjectEvent(kind: .added, object: $0, previous: nil) }
                options = ListOptions(continueToken: page.continueToken)
            } while !options.continueToken.isEmpty
        }
        var projection = NodeProjection()
        _ = projection.apply(ObjectEventBatch(revision: start, events: events), contents: [:])
        state.withLock { state in
            state.projection = projection
            state.isComplete = true
            for listener in state.nodeListeners.values { listener.signal.yield() }
            for listener in state.listeners.values { listener.signal.yield() }
        }
    }

    private func take(_ batch: ObjectEventBatch) async throws {
        // Only this task changes the projection, so what it lacks now it still lacks below.
        let missing = state.withLock { $0.projection.missingContent(for: batch) }
        var contents: [SecretName: StoredObject] = [:]
        for name in missing {
            guard let key = ObjectKey(.secrets, namespace: name.namespace, name: name.name) else { continue }
            contents[name] = try await store.find(key, at: batch.revision)
        }
        state.withLock { state in
            let changes = state.projection.apply(batch, contents: contents)
            for listener in state.nodeListeners.values where changes.nodes.contains(listener.node) { listener.signal.yield() }
            for listener in state.listeners.values where !changes.kinds.isDisjoint(with: listener.kinds) { listener.signal.yield() }
        }
    }
}
