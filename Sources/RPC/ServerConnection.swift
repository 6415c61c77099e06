import Basics
import Logging
package import NIOCore
import NIOHPACK
import NIOSSL

/// One gRPC connection, above HTTP/2's frames: the server's side of the transport seam.
///
/// What it does, for each stream:
/// 1. HEADERS open it: method and path are checked, the service says its shape, a deadline is noted.
/// 2. DATA becomes messages. A unary call's one message is delivered when the client has half-closed.
/// 3. Answers are written as frames and leave at the next flush, one per burst of reads or batch of answers.
/// 4. Trailers end it. If the client is still sending then, a reset without error tells it to stop.
///
/// There is no channel per stream: the table below is all the state. Outbound DATA waits in the frame layer for the client's windows;
/// `unsent` counts it, so that a slow reader is paused and not buffered for.
///
/// Invariants: a stream is in `streams` from its HEADERS until it is finished or reset, and the service hears of it only then;
/// `unsentBytes` is the sum of `unsent`; all of it happens on the event loop.
package final class ServerConnection: ServerTransport {
    private struct Stream {
        var isUnary: Bool
        var method: Int
        var assembler: MessageAssembler
        var message: ByteBuffer?
        var remoteClosed: Bool
        var started = false
        var paused = false
        var deadline: NIODeadline
        /// Counted in `unfinishedBytes`: also a whole message that waits for the stream's end.
        var heldBytes: Int { assembler.heldBytes + (message?.readableBytes ?? 0) }
    }

    private static let emptyAssembler = MessageAssembler(messageBytesMax: TransportLimits.messageBytesMax)

    private enum Drain { case no, announced, closing }

    private let factory: any ServiceFactory
    private let logger: Logger
    private var service: (any ConnectionService)?
    /// Set while the connection is open.
    private weak var layer: (any FrameLayer)?
    private var streams: [StreamID: Stream] = [:]
    private var unfinishedBytes = 0
    private var unsent: [StreamID: Int] = [:]
    private var unsentBytes = 0
    private var resumable: [StreamID] = []
    private var wrote = false
    private var lastStream = StreamID.connection
    private var drain = Drain.no
    private var handshakeTimeout: Scheduled<Void>?
    private var sweep: Scheduled<Void>?
    private var isClosed = false

    package let eventLoop: any EventLoop
    package let allocator: ByteBufferAllocator

    init(channel: any Channel, factory: any ServiceFactory, logger: Logger) {
        self.factory = factory
        self.logger = logger
        eventLoop = channel.eventLoop
        allocator = channel.allocator
    }

    package private(set) lazy var peer: Peer = {
        guard let channel = layer?.channel else { return Peer(address: "closed") }
        let tls = try? channel.pipeline.syncOperations.handler(type: NIOSSLHandler.self)
        let certificate = try? tls?.peerCertificate?.toDERBytes()
        return Peer(certificate: certificate, address: channel.remoteAddress?.description ?? "unknown")
    }()

    // MARK: Life of the connection

    func opened(_ layer: any FrameLayer) {
        self.layer = layer
        handshakeTimeout = eventLoop.assumeIsolated().scheduleTask(in: .seconds(TransportLimits.handshakeSeconds)) { [weak self] in
            self?.layer?.close()
        }
    }

    /// The client's first SETTINGS are there.
    func receivedSettings() {
        handshakeTimeout?.cancel()
        handshakeTimeout = nil
    }

    func failed(_ error: any Error) {
        logger.debug("connection error", metadata: ["error": "\(error)"])
        layer?.close()
    }

    func closed() {
        guard !isClosed else { return }
        isClosed = true
        handshakeTimeout?.cancel()
        sweep?.cancel()
        streams.removeAll()
        unsent.removeAll()
        service?.closed()
        service = nil
        layer = nil
    }

    // MARK: Reading

    func isOpen(_ id: StreamID) -> Bool { streams[id] != nil }
    /// The client has ended its side.
    func isEnded(_ id: StreamID) -> Bool { streams[id]?.remoteClosed == true }
    var openStreams: Int { streams.count }
    /// Calls that come now are too late: the client was told the last stream.
    var refusesStreams: Bool { drain == .closing }

    func receivedHead(_ head: RequestHead, on id: StreamID, endStream: Bool) {
        lastStream = max(lastStream, id)
        streams[id] = Stream(isUnary: true, method: 0, assembler: Self.emptyAssembler, remoteClosed: endStream, deadline: .distantFuture)
        let path: String
        switch head.shape {
        case .call(let named): path = named
        case .refused(let status): return fail(id, status)
        case .foreign:
            streams[id] = nil
            layer?.sendFinal([(":status", "415"), ("grpc-status", "\(StatusCode.unknown.rawValue)")], on: id)
            wrote = true
            return stopSender(id, remoteClosed: endStream)
        }
        guard unsentBytes <= TransportLimits.unsentBytesMax else { return failUnread(id) }
        if let timeout = head.timeout, !noteDeadline(id, timeout) { return }
        if service == nil { service = factory.connected(self) }
        guard let service else { return }
        switch service.open(id, path: path, metadata: head.metadata) {
        case .unary(let method):
            streams[id]?.method = method
            if endStream { fail(id, Status(.internal, "grpc: call without a message")) }
        case .streaming(let method):
            streams[id]?.method = method
            streams[id]?.isUnary = false
            if endStream { service.halfClose(id, method: method) }
        case .refused(let status):
            fail(id, status)
        }
    }

    /// False when the call has been answered already: the deadline is past.
    private func noteDeadline(_ id: StreamID, _ timeout: TimeAmount) -> Bool {
        guard timeout > .zero else {
            fail(id, Status(.deadlineExceeded, "context deadline exceeded"))
            return false
        }
        let (deadline, overflow) = NIODeadline.now().uptimeNanoseconds.addingReportingOverflow(UInt64(timeout.nanoseconds))
        streams[id]?.deadline = overflow ? .distantFuture : .uptimeNanoseconds(min(deadline, UInt64(Int64.max)))
        scheduleSweep()
        return true
    }

    /// A second header block: trailers, which gRPC's clients do not send, or a mistake.
    func receivedTrailers(on id: StreamID, endStream: Bool) {
        guard endStream, streams[id]?.remoteClosed == false else { return fail(id, Status(.internal, "grpc: second header block")) }
        endReceived(id)
    }

    func receivedData(_ bytes: ByteBuffer, on id: StreamID, endStream: Bool) {
        guard let index = streams.index(forKey: id) else { return }
        guard !streams.values[index].remoteClosed else { return fail(id, Status(.internal, "grpc: data after the end")) }
        if bytes.readableBytes > 0 {
            // Each message of a stream may have an answer: they are not taken while earlier answers are not.
            if !streams.values[index].isUnary, streams.values[index].paused, unsentBytes > TransportLimits.unsentBytesMax { return failUnread(id) }
            // Taken out of the table while it works: a second reference would make every append copy what is held.
            var assembler = streams.values[index].assembler
            streams.values[index].assembler = Self.emptyAssembler
            let isUnary = streams.values[index].isUnary, method = streams.values[index].method
            unfinishedBytes -= assembler.heldBytes
            assembler.append(bytes)
            do {
                while let message = try assembler.next() {
                    guard isUnary else {
                        service?.message(message, on: id, method: method)
                        continue
                    }
                    guard streams[id]?.message == nil else {
                        return fail(id, Status(.unimplemented, "grpc: more than one message in a unary call"))
                    }
                    if endStream, assembler.heldBytes == 0 {  // The usual case: the whole request in one frame.
                        streams[id]?.remoteClosed = true
                        service?.message(message, on: id, method: method)
                        return
                    }
                    streams[id]?.message = message
                    unfinishedBytes += message.readableBytes
                }
            } catch {
                return fail(id, error.status)
            }
            guard streams[id] != nil else { return }  // A message made the service finish the stream.
            unfinishedBytes += assembler.heldBytes
            streams[id]?.assembler = assembler
            guard unfinishedBytes <= TransportLimits.unfinishedBytesMax else {
                return fail(id, Status(.resourceExhausted, "grpc: too many unfinished messages on one connection"))
            }
            if !isUnary, !endStream {
                layer?.refill(id, by: bytes.readableBytes)
                wrote = true
            }
        }
        if endStream { endReceived(id) }
    }

    private func endReceived(_ id: StreamID) {
        guard let stream = streams[id] else { return }
        streams[id]?.remoteClosed = true
        guard stream.assembler.heldBytes == 0 else { return fail(id, Status(.internal, "grpc: message cut short")) }
        guard stream.isUnary else {
            service?.halfClose(id, method: stream.method)
            return
        }
        guard let message = stream.message else { return fail(id, Status(.internal, "grpc: call without a message")) }
        streams[id]?.message = nil
        unfinishedBytes -= message.readableBytes
        service?.message(message, on: id, method: stream.method)
    }

    func receivedReset(_ id: StreamID) {
        forgetUnsent(id)
        guard let stream = streams.removeValue(forKey: id) else { return }
        unfinishedBytes -= stream.heldBytes
        service?.reset(id, method: stream.method)
    }

    func readComplete() {
        service?.readComplete()
        resumeWritable()
        flush()
    }

    // MARK: Writing

    package func start(_ stream: StreamID) {
        guard streams[stream]?.started == false else { return }
        streams[stream]?.started = true
        layer?.sendResponseHeaders(stream)
        wrote = true
    }

    package func send(_ message: ByteBuffer, on stream: StreamID) {
        guard streams[stream] != nil else { return }
        start(stream)
        unsent[stream, default: 0] += message.readableBytes
        unsentBytes += message.readableBytes
        layer?.sendData(message, on: stream)
        wrote = true
        // Of what has left already nothing is heard any more.
        guard unsent[stream, default: 0] > TransportLimits.streamUnsentBytesHigh, let state = streams[stream], !state.paused else { return }
        streams[stream]?.paused = true
        service?.writability(false, of: stream, method: state.method)
    }

    package func answer(_ message: ByteBuffer, on stream: StreamID) {
        guard let state = streams.removeValue(forKey: stream), let layer else { return }
        if !state.started { layer.sendResponseHeaders(stream) }
        if message.readableBytes >= TransportLimits.countedAnswerBytesMin {
            unsent[stream, default: 0] += message.readableBytes
            unsentBytes += message.readableBytes
        }
        layer.sendData(message, on: stream)
        layer.sendOKTrailers(stream)
        wrote = true
        stopSender(stream, remoteClosed: state.remoteClosed)
    }

    package func finish(_ stream: StreamID, _ status: Status) {
        guard let state = streams.removeValue(forKey: stream) else { return }
        unfinishedBytes -= state.heldBytes
        if state.started, status == .ok {
            layer?.sendOKTrailers(stream)
        } else {
            var fields: [(name: String, value: String)] = state.started ? [] : [(":status", "200"), ("content-type", "application/grpc")]
            fields.append(("grpc-status", "\(status.code.rawValue)"))
            if !status.message.isEmpty {
                let text = Status.percentEncoded(status.message)
                fields.append(("grpc-message", String(text.prefix(TransportLimits.statusTextBytesMax))))
            }
            layer?.sendFinal(fields, on: stream)
        }
        wrote = true
        stopSender(stream, remoteClosed: state.remoteClosed)
    }

    private func fail(_ id: StreamID, _ status: Status) {
        let tellsService = streams[id].map { !$0.isUnary } ?? false
        let method = streams[id]?.method ?? 0
        finish(id, status)
        if tellsService { service?.reset(id, method: method) }
    }

    private func failUnread(_ id: StreamID) { fail(id, Status(.resourceExhausted, "grpc: answers of this connection are not being read")) }

    private func stopSender(_ id: StreamID, remoteClosed: Bool) {
        if !remoteClosed { layer?.sendStop(id) }
    }

    package func flush() {
        while wrote {
            wrote = false
            layer?.flush()
            resumeWritable()
        }
        closeIfDrained()
    }

    // MARK: Backpressure

    /// So many bytes of DATA have left for the socket.
    func wrote(_ bytes: Int, of id: StreamID) {
        guard !unsent.isEmpty, let before = unsent[id] else { return }
        let count = min(bytes, before)
        unsentBytes -= count
        let left = before - count
        unsent[id] = left == 0 ? nil : left
        if left <= TransportLimits.streamUnsentBytesLow, before > TransportLimits.streamUnsentBytesLow || left == 0,
           streams[id]?.paused == true { resumable.append(id) }
    }

    /// After frames that waited have left.
    func resumeWritable() {
        guard !resumable.isEmpty else { return }
        let ids = resumable
        resumable.removeAll(keepingCapacity: true)
        for id in ids {
            guard let stream = streams[id], stream.paused else { continue }
            streams[id]?.paused = false
            service?.writability(true, of: id, method: stream.method)
        }
    }

    func forgetUnsent(_ id: StreamID) {
        if !unsent.isEmpty, let left = unsent.removeValue(forKey: id) { unsentBytes -= left }
    }

    // MARK: Deadlines

    private func scheduleSweep() {
        guard sweep == nil, !isClosed else { return }
        sweep = eventLoop.assumeIsolated().scheduleTask(in: TransportLimits.deadlineSweep) { [weak self] in self?.sweepDeadlines() }
    }

    private func sweepDeadlines() {
        sweep = nil
        let now = NIODeadline.now()
        var waiting = false
        var late: [StreamID] = []
        for (id, stream) in streams {
            if stream.deadline <= now { late.append(id) } else if stream.deadline != .distantFuture { waiting = true }
        }
        for id in late {
            let method = streams[id]?.method ?? 0
            finish(id, Status(.deadlineExceeded, "context deadline exceeded"))
            service?.reset(id, method: method)
        }
        flush()
        if waiting { scheduleSweep() }
    }

    // MARK: Drain

    /// Shutdown, step 1: GOAWAY for the highest possible stream and a PING. What the client sent before it heard of it is still served.
    func beginDrain() {
        guard drain == .no, let layer else { return }
        drain = .announced
        layer.sendGoAway(last: .greatest)
        layer.sendPing()
        wrote = true
        flush()
    }

    /// Step 2, when the PING is back: GOAWAY for the last stream there is; streaming calls end, unary ones are still answered.
    func receivedPingAnswer() {
        guard drain == .announced else { return }
        drain = .closing
        layer?.sendGoAway(last: lastStream)
        wrote = true
        for id in streams.filter({ !$0.value.isUnary }).keys.sorted() { fail(id, Status(.unavailable, "etcdserver: server stopped")) }
        flush()
    }

    private func closeIfDrained() {
        guard drain == .closing, streams.isEmpty, unsent.isEmpty, !wrote else { return }
        layer?.close()
    }

    /// Shutdown's end: whatever is still open is cut.
    func cut() {
        layer?.close()
    }
}
