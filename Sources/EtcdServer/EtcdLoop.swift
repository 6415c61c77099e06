import Audit
import Barrier
import Basics
import EtcdProtocol
import Logging
import MVCC
import NIOCore
import NIOPosix
import ReplicaService
import RPC

/// One event loop's way to the Barrier and back.
///
/// 1. Connections enqueue requests while they read.
/// 2. At the end of the loop's tick (`execute` runs after all reads of a tick) the batch is audited and submitted: one hand-over
///    for all connections.
/// 3. Answers come on the Barrier's threads, once per batch, and hop to the loop once; the connections concerned flush once.
///    Changes wait here until their audit record is durable: its sync runs beside the log's own.
///
/// Invariant: each request enqueued has one of the `slots` until its answer comes, whatever became of its stream.
final class EtcdLoop {
    /// What an answer is turned into.
    enum Reply {
        case put
        case range(RangeShape)
        case deleteRange
        case transaction(success: [OperationShape], failure: [OperationShape])
        case compact
        case leaseGrant
        case leaseRevoke
        case leaseKeepAlive(LeaseID)
        case leaseStatus(LeaseID)
        case leases
    }
    struct Pending {
        var connection: EtcdConnection
        var stream: StreamID
        var reply: Reply
        /// What the trail says of it.
        var operation: AuditedOperation?
    }
    /// Beside the request, so that looking at one does not copy the other.
    private struct Slot {
        var request: Pending?
        let isChange: Bool
        /// The record that its answer waits for.
        var ticket = AuditTicket.none
    }

    let service: EtcdService
    let eventLoop: any EventLoop
    private let opener: BarrierOpener
    private var session: EtcdSession?
    private var watchSink: LoopWatchSink?
    private var slots: [Slot] = []
    private var freeSlots: [Int] = []
    private var batch: [EtcdRequest] = []
    private var trail: [AuditedOperation] = []
    private var scheduled = false
    private var watches: [WatchID: WatchEntry] = [:]
    /// Where small answers are written; the transport copies them.
    private var scratch = ByteBuffer()
    /// Connections that have something to flush, in the order they got it.
    private var touched: [EtcdConnection] = []

    init(service: EtcdService, eventLoop: any EventLoop) {
        self.service = service
        self.eventLoop = eventLoop
        opener = BarrierOpener(service.barrier)
    }

    private func open() -> EtcdSession {
        if let session { return session }
        let opened = service.barrier.session(sink: LoopSink(NIOLoopBound(self, eventLoop: eventLoop)))
        session = opened
        return opened
    }

    // MARK: Down

    func enqueue(_ kind: EtcdRequest.Kind, _ reply: Reply, _ admission: Admission?, on stream: StreamID, of connection: EtcdConnection) {
        let operation = service.trail == nil ? nil : admission?.operation
        let slot = Slot(
            request: Pending(connection: connection, stream: stream, reply: reply, operation: operation), isChange: operation?.verb.isChange == true)
        let number = freeSlots.popLast() ?? slots.count
        if number < slots.count { slots[number] = slot } else { slots.append(slot) }
        batch.append(EtcdRequest(ticket: UInt64(number), kind: kind))
        if let operation { trail.append(operation) }
        guard !scheduled else { return }
        scheduled = true
        eventLoop.assumeIsolated().execute { self.submitBatch() }
    }

    private func submitBatch() {
        scheduled = false
        let requests = batch
        batch.removeAll(keepingCapacity: true)
        if let log = service.trail, !trail.isEmpty {
            let operations = trail
            trail.removeAll(keepingCapacity: true)
            do {
                let ticket = try log.record(operations)
                if ticket > log.durable { hold(requests, until: ticket) }
            } catch {
                return answer(requests.map { refused($0.ticket, error) }, pin: nil, isRecorded: false)
            }
        }
        open().submit(requests)
    }

    /// The changes among them are answered when their record is durable.
    private func hold(_ requests: [EtcdRequest], until ticket: AuditTicket) {
        for request in requests {
            let slot = Int(request.ticket)
            if slots[slot].isChange { slots[slot].ticket = ticket }
        }
    }
    private func refused(_ ticket: UInt64, _ error: any Error) -> EtcdAnswer {
        service.complain(ofTrail: error)
        return EtcdAnswer(ticket: ticket, result: .failure(.unavailable("the audit trail cannot be written")))
    }

    // MARK: Up

    func deliver(_ answers: [EtcdAnswer], pin: ReadPin?) {
        guard let log = service.trail else { return answer(answers, pin: pin, isRecorded: true) }
        let awaited = answers.lazy.map { self.ticket(of: $0) }.max() ?? .none
        if awaited <= log.durable { return answer(answers, pin: pin, isRecorded: true) }
        let (bound, eventLoop) = (NIOLoopBound(self, eventLoop: eventLoop), eventLoop)
        log.whenDurable(awaited) { failure in
            eventLoop.execute {
                let loop = bound.value
                guard let failure else { return loop.answer(answers, pin: pin, isRecorded: true) }
                // What was done is not acknowledged: its client must look.
                let durable = log.durable
                loop.answer(answers.map { loop.ticket(of: $0) > durable ? loop.refused($0.ticket, failure) : $0 }, pin: pin, isRecorded: false)
            }
        }
    }
    private func ticket(of answer: EtcdAnswer) -> AuditTicket {
        guard let slot = Int(exactly: answer.ticket), slot < slots.count else { return .none }
        return slots[slot].ticket
    }

    private func answer(_ answers: [EtcdAnswer], pin: ReadPin?, isRecorded: Bool) {
        let builder = builder()
        var failed: [AuditedOperation] = [], bytesLeft = EtcdService.bytesOnLoopMax
        for answer in answers {
            guard let slot = Int(exactly: answer.ticket), slot < slots.count, let request = slots[slot].request.take() else { continue }
            freeSlots.append(slot)
            if isRecorded, let operation = request.operation, let outcome = answer.failure { failed.append(operation.ended(outcome)) }
            answerOne(request, answer.result, builder, pin: pin, &bytesLeft)
        }
        // The requests themselves are recorded; if this cannot be, the next one is refused.
        if !failed.isEmpty { _ = try? service.trail?.record(failed) }
        flushTouched()
    }

    func touch(_ connection: EtcdConnection) {
        guard !connection.isTouched else { return }
        connection.isTouched = true
        touched.append(connection)
    }

    func flushTouched() {
        let connections = touched
        touched.removeAll(keepingCapacity: true)
        for connection in connections {
            connection.isTouched = false
            connection.transport.flush()
        }
    }

    func builder() -> AnswerBuilder {
        AnswerBuilder(barrier: service.barrier, identity: service.identity, term: service.barrier.status().term, opener: opener)
    }

    private func answerOne(
        _ request: Pending, _ result: Result<AnswerBody, EtcdFailure>, _ builder: AnswerBuilder, pin: ReadPin?, _ bytesLeft: inout Int
    ) {
        touch(request.connection)
        let body: AnswerBody
        switch result {
        case .success(let success): body = success
        case .failure(let failure):
            if case .refused(.leaseNotFound) = failure, request.connection.answerMissingLease(request, term: builder.term) { return }
            return request.connection.transport.finish(request.stream, Status(failure))
        }
        if case .command(.operation(.put(nil)), let revision) = body, case .put = request.reply,
           (try? builder.put(revision: revision, into: &scratch)) != nil {
            return request.connection.transport.answer(scratch, on: request.stream)
        }
        if case .leaseKeepAlive = request.reply { return request.connection.send(builder, body, request) }
        guard builder.versions(in: body, request.reply) <= EtcdService.versionsOnLoopMax,
              let built = Self.build(builder, body, request.reply, bytesMax: bytesLeft, allocator: request.connection.transport.allocator) else {
            return answerBeside(builder, body, request, pin: pin)
        }
        if case .success(let message) = built { bytesLeft = max(0, bytesLeft - message.readableBytes) }
        request.connection.finish(request.stream, built)
    }

    /// `nil`: it comes to more than `bytesMax`.
    private static func build(
        _ builder: AnswerBuilder, _ body: AnswerBody, _ reply: Reply, bytesMax: Int = AnswerBuilder.answerBytesMax, allocator: ByteBufferAllocator
    ) -> Result<ByteBuffer, Status>? {
        func message() throws -> ByteBuffer { try builder.message(body, reply, bytesMax: bytesMax, allocator: allocator) }
        do {
            // A rotation may end between fetching a value and opening it: fetched again, it is the one rewritten.
            do { return .success(try message()) } catch is UnreadableValue { return .success(try message()) }
        } catch is AnswerBuilder.TooHeavy {
            return nil
        } catch {
            if let failure = error as? EtcdFailure { return .failure(Status(failure)) }
            if let value = error as? UnreadableValue { return .failure(Status(.unreadable(value))) }
            return .failure(error as? Status ?? Status(.dataLoss, "etcdserver: the answer cannot be made: \(error)"))
        }
    }

    /// Large answers are built by a reader thread; the pin keeps their versions from compaction meanwhile.
    private func answerBeside(_ builder: AnswerBuilder, _ body: AnswerBody, _ request: Pending, pin: ReadPin?) {
        let bound = NIOLoopBound(request.connection, eventLoop: eventLoop)
        let allocator = request.connection.transport.allocator
        let (stream, reply, eventLoop) = (request.stream, request.reply, eventLoop)
        service.readers.submit { state in
            let whole = state == .active ? Self.build(builder, body, reply, allocator: allocator) : nil
            let built = whole ?? .failure(Status(.unavailable, "etcdserver: server stopped"))
            withExtendedLifetime(pin) {}
            eventLoop.execute {
                bound.value.finish(stream, built)
                bound.value.transport.flush()
            }
        }
    }

    // MARK: Watches

    func watch(_ range: KeyRange, options: WatchOptions, entry: WatchEntry) -> WatchID {
        let sink = watchSink ?? LoopWatchSink(NIOLoopBound(self, eventLoop: eventLoop), barrier: service.barrier)
        watchSink = sink
        let id = service.barrier.service.watch(range, options: options, sink: sink)
        watches[id] = entry
        return id
    }

    func forget(_ watch: WatchID) { watches[watch] = nil }

    func deliver(_ deliveries: [WatchDelivery], pin: ReadPin?) {
        let builder = builder()
        let refusal = record(deliveries)
        for delivery in deliveries {
            guard let entry = watches[delivery.watch] else { continue }
            entry.connection.watchDelivery(delivery, entry, builder, refusal: refusal)
            touch(entry.connection)
        }
        flushTouched()
    }

    /// One operation per watch that is told something. Why nothing may be told, if it cannot be recorded.
    private func record(_ deliveries: [WatchDelivery]) -> String? {
        guard let log = service.trail else { return nil }
        var told: [AuditedOperation] = []
        for delivery in deliveries {
            guard case .events(let events, _) = delivery.content, var operation = watches[delivery.watch]?.operation else { continue }
            operation.count = events.count
            operation.outcome = "told"
            told.append(operation)
        }
        if told.isEmpty { return nil }
        do { _ = try log.record(told) } catch {
            service.complain(ofTrail: error)
            return "the audit trail cannot be written"
        }
        return nil
    }
}

/// Answers, from the Barrier's threads to the loop: one hop per batch.
private final class LoopSink: EtcdSink {
    private let loop: NIOLoopBound<EtcdLoop>
    private let eventLoop: any EventLoop
    private let barrier: Barrier
    init(_ loop: NIOLoopBound<EtcdLoop>) {
        self.loop = loop
        eventLoop = loop.value.eventLoop
        barrier = loop.value.service.barrier
    }
    func deliver(_ answers: [EtcdAnswer]) {
        let pin = answers.contains(where: \.namesVersions) ? barrier.service.pin() : nil
        eventLoop.execute { [loop] in loop.value.deliver(answers, pin: pin) }
    }
}

extension AuditedOperation {
    func ended(_ outcome: String) -> AuditedOperation {
        var ended = self
        ended.outcome = outcome
        return ended
    }
}

extension EtcdAnswer {
    /// Why it came to nothing, if so.
    var failure: String? {
        switch result {
        case .failure(let failure): Status(failure).message
        case .success(.command(.operation(.transaction(false, _)), _)): "compares failed: the other branch ran"
        case .success: nil
        }
    }
    /// Whether values must be fetched for it.
    var namesVersions: Bool {
        guard case .success(let body) = result else { return false }
        switch body {
        case .range: return true
        case .command(.operation(.put(let previous)), _): return previous != nil
        case .command(.operation, _): return true
        default: return false
        }
    }
}

private final class LoopWatchSink: WatchSink {
    private let loop: NIOLoopBound<EtcdLoop>
    private let eventLoop: any EventLoop
    private let barrier: Barrier
    init(_ loop: NIOLoopBound<EtcdLoop>, barrier: Barrier) {
        self.loop = loop
        eventLoop = loop.value.eventLoop
        self.barrier = barrier
    }
    func deliver(_ deliveries: [WatchDelivery]) {
        let pin = barrier.service.pin()
        eventLoop.execute { [loop] in loop.value.deliver(deliveries, pin: pin) }
    }
}
