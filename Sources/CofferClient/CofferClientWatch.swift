import Basics
import EtcdClient
import EtcdProtocol
import NIOCore
import RPC
import Synchronization

extension CofferClient {
    /// The changes of entries, in order and complete, each revision whole and once, from the first after `revision` (0: from now on),
    /// whichever members serve them meanwhile. `Changes` without changes say how far all was told.
    ///
    /// It lasts until its task is cancelled or the client closes, and goes from member to member for as long as there is none to serve
    /// it. It ends by throwing `.revisionGone` when history that it has yet to tell was compacted, `.forbidden` or `.invalid` when it is
    /// refused. A slow reader slows nobody down: the server holds back what it has
    /// no room for, about 4 MiB.
    public func watch(_ keys: Keys, after revision: Int64 = 0) -> AsyncThrowingStream<Changes, any Error> {
        let reader = WatchReader(self, keys, after: revision)
        return AsyncThrowingStream { try await reader.next() }
    }
}

/// How far a watch was told, across all the streams that serve it. Pure.
///
///     next = 0          nothing is known: from now on, by the first stream that is created
///     next = r + 1      everything up to r was told; a new stream begins at next
///
/// Invariant: `next` never goes back, and no revision below it is told again.
struct WatchPosition: Equatable {
    enum Told: Equatable {
        /// Whole revisions, the last of them named.
        case events([EventMessage], revision: Int64)
        /// Everything up to here was told.
        case progress(Int64)
        case nothing
        static func == (a: Told, b: Told) -> Bool {
            switch (a, b) {
            case (.nothing, .nothing): true
            case (.progress(let a), .progress(let b)): a == b
            case (.events(let a, let revisionA), .events(let b, let revisionB)): revisionA == revisionB && a.count == b.count
            default: false
            }
        }
    }
    enum Ended: Error, Equatable {
        /// For good.
        case compacted(Int64)
        case refused(String)
        /// The stream cannot go on; another one can.
        case broken(String)
    }
    private(set) var next: Int64
    init(after revision: Int64) { next = revision <= 0 ? 0 : revision + 1 }

    /// What a response on the stream adds. `exact`: see `Connection.progressIsExact`.
    mutating func take(_ response: WatchResponseMessage, exact: Bool) throws(Ended) -> Told {
        let revision = response.header?.revision ?? 0
        if response.canceled {
            if response.compactRevision > 0 { throw .compacted(response.compactRevision) }
            throw Self.isFinal(response) ? .refused(response.cancelReason) : .broken(response.cancelReason)
        }
        if response.created {
            guard next == 0 else { return .nothing }
            next = revision + 1
            return .progress(revision)
        }
        guard !response.fragment else { throw .broken("a fragment, which was not asked for") }
        guard !response.events.isEmpty else { return progress(revision, isTrusted: response.watchID >= 0 || exact) }
        let fresh = response.events.filter { ($0.kv?.modRevision ?? 0) >= next }
        guard let last = fresh.last?.kv?.modRevision else { return .nothing }
        next = last + 1
        return .events(fresh, revision: last)
    }

    /// Refused for what it asks (`mvcc:` …) or who asks, it would be again; what else a member says is its own trouble: a disk that is
    /// full, no leader, a value that it cannot open and another member can.
    private static func isFinal(_ response: WatchResponseMessage) -> Bool {
        if response.cancelReason.contains("permission denied") { return true }
        return (response.created || response.watchID == -1) && !response.cancelReason.hasPrefix("etcdserver: ")
    }

    private mutating func progress(_ revision: Int64, isTrusted: Bool) -> Told {
        guard isTrusted, next > 0, revision >= next else { return .nothing }
        next = revision + 1
        return .progress(revision)
    }
}

/// One watch, read as fast as its reader asks.
///
/// 1. Take a connection, open a stream on it, ask for everything from `position.next` on.
/// 2. Read; what was decoded is given back to the stream's window only now.
/// 3. A watchdog looks after silence while the reader waits: it asks for progress, and ends a stream that does not answer.
/// 4. When the stream ends, begin again at (1), at another endpoint if there is one.
private actor WatchReader {
    private let client: CofferClient
    private let keys: CofferClient.Keys
    private var position: WatchPosition
    private var stream: OpenStream?
    private var avoided: Int?
    private var isOver = false

    private struct OpenStream {
        let connection: Connection
        let call: WatchCall
        let messages: AsyncThrowingStream<ByteBuffer, any Error>.Iterator
        let watchdog: Watchdog
    }

    init(_ client: CofferClient, _ keys: CofferClient.Keys, after revision: Int64) {
        self.client = client
        self.keys = keys
        position = WatchPosition(after: revision)
    }

    /// `nil`: the reader's task was cancelled, or the client closed.
    func next() async throws -> CofferClient.Changes? {
        while !isOver, !Task.isCancelled {
            do {
                let open = try await opened() // (1)
                switch try await read(open) { // (2)
                case .events(let events, let revision): return CofferClient.Changes(changes: try changes(events), revision: revision)
                case .progress(let revision): return CofferClient.Changes(changes: [], revision: revision)
                case .nothing: continue
                }
            } catch let ended as WatchPosition.Ended {
                switch ended {
                case .compacted(let revision):
                    finish()
                    throw CofferClientError(.revisionGone, "history before revision \(revision) was compacted", revision: revision)
                case .refused(let reason):
                    finish()
                    throw CofferClientError(reason.contains("permission denied") ? .forbidden : .invalid, reason)
                case .broken: await drop() // (4)
                }
            } catch let error as CofferClientError {
                if error.code == .unavailable { continue }
                finish()
                if error.code == .cancelled { return nil }
                throw error
            } catch {
                if let status = error as? Status, status.origin == .answered, Verdict.on(status, .harmless) == .refused {
                    finish()
                    throw CofferClientError(refusal: status)
                }
                await drop() // (4)
            }
        }
        return nil
    }

    private func opened() async throws -> OpenStream {
        if let stream { return stream }
        // Longer than any rest of an endpoint, so that waiting is what this does.
        let patience = max(client.configuration.timeout, client.configuration.restMax * 2)
        let connection = try await client.connections.connection(by: client.clock.now + patience, avoiding: avoided)
        let call: WatchCall
        do { call = try await connection.client.watch(paced: true) } catch {
            avoided = connection.endpoint
            await client.connections.failed(connection.endpoint)
            throw error
        }
        var request = WatchCreateRequestMessage()
        (request.key, request.rangeEnd) = keys.interval
        request.startRevision = position.next
        request.progressNotify = true
        try call.send(.create(request))
        let open = OpenStream(
            connection: connection, call: call, messages: call.messages.makeAsyncIterator(), watchdog: Watchdog(call, silence: client.configuration.watchSilence))
        stream = open
        return open
    }

    private func read(_ open: OpenStream) async throws -> WatchPosition.Told {
        open.watchdog.wait() // (3)
        defer { open.watchdog.rest() }
        var messages = open.messages
        guard let message = try await messages.next(isolation: self) else { throw WatchPosition.Ended.broken("the stream ended") }
        open.call.consumed(message)
        let response: WatchResponseMessage
        do { response = try WatchResponseMessage(decoding: message) } catch { throw WatchPosition.Ended.broken("malformed: \(error)") }
        let told = try position.take(response, exact: open.connection.progressIsExact)
        if avoided != nil {
            avoided = nil
            await client.connections.succeeded(open.connection.endpoint)
        }
        return told
    }

    private func changes(_ events: [EventMessage]) throws -> [CofferClient.Changes.Change] {
        try events.map { event in
            let kv = event.kv ?? KeyValueMessage()
            return event.kind == .put ? .put(try CofferClient.Item(kv)) : .delete(CofferClient.Key(kv.key), revision: kv.modRevision)
        }
    }

    private func drop() async {
        guard let stream else { return }
        self.stream = nil
        avoided = stream.connection.endpoint
        // Silence is no different from an answer that is late.
        await client.connections.failed(stream.connection.endpoint, with: stream.watchdog.hasBarked ? Status(.deadlineExceeded, "the watch is silent") : nil)
    }
    private func finish() {
        isOver = true
        stream = nil
    }
}

/// Ends a stream that is silent although its reader waits and it was asked for a sign of life; and with its own end.
private final class Watchdog: Sendable {
    private struct State {
        /// Since when the reader waits.
        var waitingSince: ContinuousClock.Instant?
        var asked = false
        var hasBarked = false
    }
    private let shared: Shared
    private let call: WatchCall
    private let task: Task<Void, Never>

    /// What the task holds, so that it does not hold the watchdog.
    private final class Shared: Sendable {
        let state = Mutex(State())
    }

    init(_ call: WatchCall, silence: Duration) {
        let shared = Shared()
        self.shared = shared
        self.call = call
        task = Task {
            let clock = ContinuousClock()
            while (try? await clock.sleep(for: silence / 4)) != nil {
                let waited = shared.state.withLock { state in state.waitingSince.map { (clock.now - $0, state.asked) } }
                guard let (time, asked) = waited, time >= silence else { continue }
                if !asked {
                    shared.state.withLock { $0.asked = true }
                    try? call.send(.progress)
                } else if time >= silence * 2 {
                    shared.state.withLock { $0.hasBarked = true }
                    return call.cancel()
                }
            }
        }
    }
    deinit {
        task.cancel()
        call.cancel()
    }

    func wait() { shared.state.withLock { $0.waitingSince = .now; $0.asked = false } }
    var hasBarked: Bool { shared.state.withLock { $0.hasBarked } }
    func rest() { shared.state.withLock { $0.waitingSince = nil } }
}
