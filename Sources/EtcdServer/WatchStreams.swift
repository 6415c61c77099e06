import Barrier
import Basics
import EtcdProtocol
import MVCC
import NIOCore
import ReplicaService
import RPC

/// One `Watch` call: many watches, told apart by the ids that client or server chose.
struct WatchStream {
    var watches: [Int64: WatchID] = [:]
    var nextID: Int64 = 0
    var paused = false
    /// Events sent while the stream was paused, not yet reported as consumed: the watch is served from history meanwhile.
    var unreported: [WatchID: Int] = [:]
    /// A manual progress request is under way; its answer serves those that come meanwhile.
    var awaitsProgress = false
    /// What waits for a client that does not read, in order: without values, which are fetched when it goes on.
    var waiting: [(delivery: WatchDelivery, entry: WatchEntry?)] = []

    private static let autoID: Int64 = 0
    /// The id of a new watch: the client's choice, or the least that is free from the last one on. `nil`: it is taken.
    mutating func takeID(_ wanted: Int64) -> Int64? {
        guard wanted == Self.autoID else { return watches[wanted] == nil ? wanted : nil }
        while watches[nextID] != nil { nextID += 1 }
        defer { nextID += 1 }
        return nextID
    }
}

/// What the loop knows of a watch.
struct WatchEntry {
    let connection: EtcdConnection
    let stream: StreamID
    let clientID: Int64
    let wantsPrevious: Bool
    let fragments: Bool
    /// As the trail names it.
    let operation: AuditedOperation
}

extension EtcdConnection {
    /// A fragmented watch response is cut before it exceeds what a client's gRPC takes.
    private static let fragmentBytesMax = Limits.requestBytesMax
    /// Of all the connection's streams.
    private var watchCount: Int { watchStreams.values.reduce(0) { $0 + $1.watches.count } }

    func watchRequest(_ message: WatchRequestMessage, on stream: StreamID) throws {
        transport.start(stream)
        loop.touch(self)
        switch message.request {
        case .create(let request): createWatch(request, on: stream)
        case .cancel(let id):
            guard let watch = watchStreams[stream]?.watches[id] else { return }
            service.barrier.service.cancel(watch)
        case .progress: requestProgress(on: stream)
        case nil: break
        }
    }

    private func createWatch(_ request: WatchCreateRequestMessage, on stream: StreamID) {
        guard watchStreams[stream] != nil else { return }
        // etcd: no key is the least key; an end of one zero byte is "no end".
        let interval = KeyRange(key: request.key.isEmpty ? [0] : request.key, wireEnd: request.rangeEnd)
        let admission: Admission
        do {
            let operation = AuditedOperation(verb: .watch, key: request.key, rangeEnd: request.rangeEnd, peer: caller.peer.address)
            admission = try service.gate.admit([.read(interval)], as: operation, caller: caller) {}
            _ = try service.trail?.record([admission.operation])
        } catch {
            return refuseWatch(on: stream, (error as? Status)?.message ?? "etcdserver: the audit trail cannot be written")
        }
        if let end = interval.end, !interval.isFromKey, !interval.key.lexicographicallyPrecedes(end) {
            return refuseWatch(on: stream, "mvcc: watcher range is empty")
        }
        // In its place: a copy of the table for each new watch would take long for many.
        guard watchCount < Limits.watchesPerConnectionMax else { return refuseWatch(on: stream, "etcdserver: too many watches on one connection") }
        guard let clientID = watchStreams[stream]?.takeID(request.watchID) else {
            return refuseWatch(on: stream, "mvcc: duplicate watch ID provided on the WatchStream")
        }
        var options = WatchOptions()
        options.startRevision = max(request.startRevision, 0)
        options.withoutPuts = request.excludesPuts
        options.withoutDeletes = request.excludesDeletes
        if request.progressNotify { options.progressIntervalMilliseconds = service.progressIntervalMilliseconds }
        let entry = WatchEntry(
            connection: self, stream: stream, clientID: clientID, wantsPrevious: request.prevKV, fragments: request.fragment, operation: admission.operation)
        let watch = loop.watch(Keyspace.plain.stored(interval), options: options, entry: entry)
        watchStreams[stream]?.watches[clientID] = watch
    }

    /// As etcd words it: created and cancelled in one message, with the id -1.
    private func refuseWatch(on stream: StreamID, _ reason: String) {
        let status = service.barrier.status()
        var message = WatchResponseMessage(header: service.header(revision: status.revision, term: status.term), watchID: -1)
        message.created = true
        message.canceled = true
        message.cancelReason = reason
        sendPlain(message, on: stream)
    }

    private func sendPlain(_ message: WatchResponseMessage, on stream: StreamID) {
        guard let framed = try? MessageFraming.framed(
            capacity: message.encodedBytes, allocator: transport.allocator, { buffer throws in try message.encode(into: &buffer) }) else { return }
        transport.send(framed, on: stream)
    }

    // MARK: Deliveries

    /// `refusal`: why no event may be told.
    func watchDelivery(_ delivery: WatchDelivery, _ entry: WatchEntry, _ builder: AnswerBuilder, refusal: String?) {
        switch delivery.content {
        case .cancelled(.requested, _): break
        case .events where refusal != nil: break
        default: if waits(delivery, entry, on: entry.stream) { return }
        }
        tell(delivery, entry, builder, refusal: refusal)
    }

    /// Whether it has to wait for a client that does not read: with an event all that comes after it.
    private func waits(_ delivery: WatchDelivery, _ entry: WatchEntry?, on stream: StreamID) -> Bool {
        guard let state = watchStreams[stream], !state.waiting.isEmpty || (state.paused && delivery.hasEvents) else { return false }
        watchStreams[stream]?.waiting.append((delivery.withoutValues, entry))
        return true
    }

    private func tell(_ delivery: WatchDelivery, _ entry: WatchEntry, _ builder: AnswerBuilder, refusal: String?) {
        switch delivery.content {
        case .created(let revision):
            var message = WatchResponseMessage(header: builder.header(revision), watchID: entry.clientID)
            message.created = true
            sendPlain(message, on: entry.stream)
        case .events(let events, let revision):
            do {
                if let refusal { throw EtcdFailure.unavailable(refusal) }
                let sent = try send(events, revision, entry, builder)
                if sent < events.count {
                    let rest = WatchDelivery(watch: delivery.watch, content: .events(Array(events[sent...]), revision: revision))
                    watchStreams[entry.stream]?.waiting.insert((rest.withoutValues, entry), at: 0)
                }
                consumed(delivery.watch, sent, on: entry.stream)
            } catch {
                let reason = (error as? EtcdFailure).map { Status($0).message } ?? "etcdserver: \(error)", compacted = service.barrier.status().compactRevision
                // Events that waited, while their history went.
                let isCompacted = (events.first?.version.revision.main ?? compacted) < compacted
                endWatch(delivery.watch, entry, builder.header(revision), reason: isCompacted ? "" : reason, compactRevision: isCompacted ? compacted : 0)
                service.barrier.service.cancel(delivery.watch)
            }
        case .progress(let revision):
            sendPlain(WatchResponseMessage(header: builder.header(revision), watchID: entry.clientID), on: entry.stream)
        case .cancelled(let cancellation, let revision):
            switch cancellation {
            case .requested: endWatch(delivery.watch, entry, builder.header(revision), reason: "")
            case .compacted(let compactRevision):
                endWatch(delivery.watch, entry, builder.header(revision), reason: "", compactRevision: compactRevision)
            case .unavailable(let reason): endWatch(delivery.watch, entry, builder.header(revision), reason: "etcdserver: \(reason)")
            }
        }
    }

    private func endWatch(_ watch: WatchID, _ entry: WatchEntry, _ header: ResponseHeader, reason: String, compactRevision: Int64 = 0) {
        loop.forget(watch)
        watchStreams[entry.stream]?.watches[entry.clientID] = nil
        watchStreams[entry.stream]?.unreported[watch] = nil
        watchStreams[entry.stream]?.waiting.removeAll { $0.delivery.watch == watch && $0.entry != nil }
        var message = WatchResponseMessage(header: header, watchID: entry.clientID)
        message.canceled = true
        message.cancelReason = reason
        message.compactRevision = compactRevision
        sendPlain(message, on: entry.stream)
    }

    /// Until the client is seen not to read, between two messages; answers how many were sent.
    private func send(_ events: [WatchEvent], _ revision: Int64, _ entry: WatchEntry, _ builder: AnswerBuilder) throws -> Int {
        var message = WatchResponseMessage(header: builder.header(revision), watchID: entry.clientID)
        var bytes = 0, first = 0
        for (index, event) in events.enumerated() {
            let next = try eventMessage(event, entry, builder)
            let size = entry.fragments || events.count > 1 ? next.encodedBytes : 0
            // Between revisions for everybody: history of many large values is no single message.
            let isNext = index > first && events[index - 1].version.revision.main != event.version.revision.main
            if bytes > 0, bytes + size > Self.fragmentBytesMax, entry.fragments || isNext {
                message.fragment = entry.fragments
                transport.send(try framed(&message, events[first..<index], entry, builder), on: entry.stream)
                if watchStreams[entry.stream]?.paused != false { return index }
                message.events.removeAll(keepingCapacity: true)
                (bytes, first) = (0, index)
            }
            bytes += size
            guard bytes <= AnswerBuilder.answerBytesMax else { throw AnswerBuilder.tooLarge }
            message.events.append(next)
        }
        message.fragment = false
        transport.send(try framed(&message, events[first...], entry, builder), on: entry.stream)
        return events.count
    }

    /// An event that waited long may carry a ciphertext that was replaced since, and whose key is gone: the record has the new one.
    private func framed(
        _ message: inout WatchResponseMessage, _ events: ArraySlice<WatchEvent>, _ entry: WatchEntry, _ builder: AnswerBuilder
    ) throws -> ByteBuffer {
        do { return try builder.framed(message, allocator: transport.allocator) } catch is UnreadableValue {
            message.events = try events.map { event in
                var event = event
                event.value = nil
                return try eventMessage(event, entry, builder)
            }
            return try builder.framed(message, allocator: transport.allocator)
        }
    }

    private func eventMessage(_ event: WatchEvent, _ entry: WatchEntry, _ builder: AnswerBuilder) throws -> EventMessage {
        var previous: KeyValueMessage?
        if entry.wantsPrevious, let version = event.previous {
            // One that was compacted is not told, as with history.
            do { previous = try builder.keyValue(version) } catch where version.revision.main < service.barrier.status().compactRevision {}
        }
        switch event.kind {
        case .put:
            return EventMessage(kind: .put, kv: try builder.keyValue(event.version, value: event.value), prevKV: previous)
        case .delete:
            var kv = KeyValueMessage()
            kv.key = Bytes(Keyspace.name(event.version.key))
            kv.modRevision = event.version.revision.main
            return EventMessage(kind: .delete, kv: kv, prevKV: previous)
        }
    }

    // MARK: Backpressure

    /// A reader that keeps up consumes at once; one that does not, when its stream drains.
    private func consumed(_ watch: WatchID, _ events: Int, on stream: StreamID) {
        if watchStreams[stream]?.paused == true {
            watchStreams[stream]?.unreported[watch, default: 0] += events
        } else {
            service.barrier.service.consumed(watch, events: events)
        }
    }

    func watchWritability(_ writable: Bool, of stream: StreamID) {
        guard watchStreams[stream] != nil else { return }
        watchStreams[stream]?.paused = !writable
        guard writable, let unreported = watchStreams[stream]?.unreported else { return }
        watchStreams[stream]?.unreported.removeAll()
        for (watch, events) in unreported.sorted(by: { $0.key < $1.key }) { service.barrier.service.consumed(watch, events: events) }
        goOn(with: stream)
    }

    /// What waited is told, until the client does not read again.
    private func goOn(with stream: StreamID) {
        let builder = loop.builder()
        while let state = watchStreams[stream], !state.paused, let next = state.waiting.first {
            watchStreams[stream]?.waiting.removeFirst()
            if let entry = next.entry { tell(next.delivery, entry, builder, refusal: nil) } else { finishProgress(next.delivery, on: stream) }
        }
    }

    // MARK: Progress

    /// "Everything up to this revision was told, by every watch of this stream": etcd answers with watch id -1.
    private func requestProgress(on stream: StreamID) {
        guard let state = watchStreams[stream], !state.awaitsProgress else { return }
        watchStreams[stream]?.awaitsProgress = true
        service.barrier.service.requestProgress(of: state.watches.values.sorted(), sink: ProgressSink(self, stream))
    }

    /// Hops to the loop after all events that were delivered before it, so it is never ahead of one.
    private final class ProgressSink: WatchSink {
        private let connection: NIOLoopBound<EtcdConnection>
        private let stream: StreamID
        private let eventLoop: any EventLoop
        init(_ connection: EtcdConnection, _ stream: StreamID) {
            self.connection = NIOLoopBound(connection, eventLoop: connection.transport.eventLoop)
            self.stream = stream
            eventLoop = connection.transport.eventLoop
        }
        func deliver(_ deliveries: [WatchDelivery]) {
            eventLoop.execute { [connection, stream] in
                for delivery in deliveries where !connection.value.waits(delivery, nil, on: stream) { connection.value.finishProgress(delivery, on: stream) }
            }
        }
    }

    private func finishProgress(_ delivery: WatchDelivery, on stream: StreamID) {
        guard case .progress(let revision) = delivery.content, watchStreams[stream]?.awaitsProgress == true else { return }
        watchStreams[stream]?.awaitsProgress = false
        let header = service.header(revision: revision, term: service.barrier.status().term)
        sendPlain(WatchResponseMessage(header: header, watchID: -1), on: stream)
        transport.flush()
    }

    func endWatchStream(_ stream: StreamID) {
        guard let state = watchStreams.removeValue(forKey: stream) else { return }
        for watch in state.watches.values.sorted() {
            loop.forget(watch)
            service.barrier.service.cancel(watch)
        }
    }
}

extension WatchDelivery {
    var hasEvents: Bool { if case .events = content { true } else { false } }
    /// What it holds is small then, however large the values are.
    var withoutValues: WatchDelivery {
        guard case .events(let events, let revision) = content else { return self }
        return WatchDelivery(watch: watch, content: .events(events.map { event in
            var event = event
            event.value = nil
            return event
        }, revision: revision))
    }
}
