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
///
/// Invariant: each request enqueued has one slot in `pending` until its answer comes, whatever became of its stream.
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
        /// Status and MemberList want the present revision only.
        case status
        case members
        case alarms
    }
    struct Pending {
        var connection: EtcdConnection
        var stream: StreamID
        var reply: Reply
    }

    let service: EtcdService
    let eventLoop: any EventLoop
    private let opener: BarrierOpener
    private var session: EtcdSession?
    private var watchSink: LoopWatchSink?
    private var pending: [Pending?] = []
    private var freeSlots: [Int] = []
    private var batch: [EtcdRequest] = []
    private var trail: [AuditedOperation] = []
    private var scheduled = false
    private var watches: [WatchID: WatchEntry] = [:]
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
        let slot: Int
        if let free = freeSlots.popLast() {
            slot = free
            pending[slot] = Pending(connection: connection, stream: stream, reply: reply)
        } else {
            slot = pending.count
            pending.append(Pending(connection: connection, stream: stream, reply: reply))
        }
        batch.append(EtcdRequest(ticket: UInt64(slot), kind: kind))
        if let admission, service.trail != nil { trail.append(admission.operation) }
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
            do { try log.record(operations) } catch {
                service.logger.error("the audit trail cannot be written", metadata: ["error": "\(error)"])
                return deliver(requests.map { EtcdAnswer(ticket: $0.ticket, result: .failure(.unavailable("the audit trail cannot be written"))) }, pin: nil)
            }
        }
        open().submit(requests)
    }

    // MARK: Up

    func deliver(_ answers: [EtcdAnswer], pin: ReadPin?) {
        let term = service.barrier.status().term
        for answer in answers {
            guard let slot = Int(exactly: answer.ticket), slot < pending.count, let request = pending[slot] else { continue }
            pending[slot] = nil
            freeSlots.append(slot)
            answerOne(request, answer.result, term: term, pin: pin)
        }
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

    private func answerOne(_ request: Pending, _ result: Result<AnswerBody, EtcdFailure>, term: UInt64, pin: ReadPin?) {
        touch(request.connection)
        let body: AnswerBody
        switch result {
        case .success(let success): body = success
        case .failure(let failure):
            if case .refused(.leaseNotFound) = failure, request.connection.answerMissingLease(request, term: term) { return }
            return request.connection.transport.finish(request.stream, Status(failure))
        }
        let builder = AnswerBuilder(barrier: service.barrier, identity: service.identity, term: term, opener: opener)
        if case .leaseKeepAlive = request.reply { return request.connection.send(builder, body, request) }
        if builder.versions(in: body, request.reply) > EtcdService.versionsOnLoopMax {
            return answerBeside(builder, body, request, pin: pin)
        }
        request.connection.finish(request.stream, Self.build(builder, body, request.reply, allocator: request.connection.transport.allocator))
    }

    private static func build(
        _ builder: AnswerBuilder, _ body: AnswerBody, _ reply: Reply, allocator: ByteBufferAllocator
    ) -> Result<ByteBuffer, Status> {
        do { return .success(try builder.message(body, reply, allocator: allocator)) } catch {
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
            let built = state == .active
                ? Self.build(builder, body, reply, allocator: allocator) : .failure(Status(.unavailable, "etcdserver: server stopped"))
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
        let term = service.barrier.status().term
        let builder = AnswerBuilder(barrier: service.barrier, identity: service.identity, term: term, opener: opener)
        for delivery in deliveries {
            guard let entry = watches[delivery.watch] else { continue }
            entry.connection.watchDelivery(delivery, entry, builder)
            touch(entry.connection)
        }
        flushTouched()
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

extension EtcdAnswer {
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
