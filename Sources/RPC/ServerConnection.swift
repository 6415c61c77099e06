import Basics
import Logging
package import NIOCore
import NIOHPACK
package import NIOHTTP2
import NIOSSL
import NIOTLS

/// One gRPC connection on `NIOHTTP2Handler`: the server's side of the transport seam.
///
/// What it does, for each stream:
/// 1. HEADERS open it: method and path are checked, the service says its shape, a deadline is noted.
/// 2. DATA becomes messages. A unary call's one message is delivered when the client has half-closed.
/// 3. Answers are written as frames and leave at the next flush, one per burst of reads or batch of answers.
/// 4. Trailers end it. If the client is still sending then, RST_STREAM(NO_ERROR) tells it to stop.
///
/// There is no channel per stream: the table below is all the state. Windows towards us are refilled here. Outbound frames wait in
/// `NIOHTTP2Handler` for the client's windows; `unsent` counts them, so that a slow reader is paused and not buffered for.
///
/// Invariants: a stream is in `streams` from its HEADERS until it is finished or reset, and the service hears of it only then;
/// `unsentBytes` is the sum of `unsent`; all of it happens on the event loop.
package final class ServerConnection: ChannelInboundHandler, ServerTransport, NIOHTTP2FrameDelegate {
    package typealias InboundIn = HTTP2Frame
    package typealias OutboundOut = HTTP2Frame

    private struct Stream {
        var isUnary: Bool
        var method: Int
        var assembler: MessageAssembler
        var message: ByteBuffer?
        var remoteClosed: Bool
        var started = false
        var paused = false
        var deadline: NIODeadline
    }

    private static let emptyAssembler = MessageAssembler(messageBytesMax: TransportLimits.messageBytesMax)

    private enum Drain { case no, announced, closing }

    private let factory: any ServiceFactory
    private let requiresTLS: Bool
    private let logger: Logger
    private var service: (any ConnectionService)?
    private var context: ChannelHandlerContext?
    private var streams: [HTTP2StreamID: Stream] = [:]
    private var unfinishedBytes = 0
    private var unsent: [HTTP2StreamID: Int] = [:]
    private var unsentBytes = 0
    private var resumable: [HTTP2StreamID] = []
    private var connectionWindowGrown = false
    private var wrote = false
    private var lastStream = HTTP2StreamID.rootStream
    private var drain = Drain.no
    private var handshakeTimeout: Scheduled<Void>?
    private var sweep: Scheduled<Void>?
    private var isClosed = false
    /// The frames that the HTTP/2 handler wrote by itself, which tell a stream's error from the connection's.
    private var writingOwnFrame = false
    private var handlerReset = false

    package let eventLoop: any EventLoop
    package let allocator: ByteBufferAllocator

    init(channel: any Channel, factory: any ServiceFactory, requiresTLS: Bool, logger: Logger) {
        self.factory = factory
        self.requiresTLS = requiresTLS
        self.logger = logger
        eventLoop = channel.eventLoop
        allocator = channel.allocator
    }

    package private(set) lazy var peer: Peer = {
        guard let context else { return Peer(address: "closed") }
        let tls = try? context.pipeline.syncOperations.handler(type: NIOSSLHandler.self)
        let certificate = try? tls?.peerCertificate?.toDERBytes()
        return Peer(certificate: certificate, address: context.channel.remoteAddress?.description ?? "unknown")
    }()

    // MARK: Life of the connection

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        handshakeTimeout = eventLoop.assumeIsolated().scheduleTask(in: .seconds(TransportLimits.handshakeSeconds)) { [weak self] in
            self?.closeConnection()
        }
        if context.channel.isActive { growConnectionWindow() }
    }

    package func channelActive(context: ChannelHandlerContext) {
        growConnectionWindow()
        context.fireChannelActive()
    }

    package func channelInactive(context: ChannelHandlerContext) {
        tearDown()
        context.fireChannelInactive()
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        tearDown()
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if handlerReset || error is NIOHTTP2Errors.StreamError {
            handlerReset = false  // One stream's fault: the handler has reset it, and says so by `StreamClosedEvent`.
            return
        }
        logger.debug("connection error", metadata: ["error": "\(error)"])
        closeConnection()
    }

    private func growConnectionWindow() {
        guard !connectionWindowGrown else { return }
        connectionWindowGrown = true
        write(.rootStream, .windowUpdate(windowSizeIncrement: TransportLimits.connectionWindowBytes - 65_535))
        context?.flush()
    }

    private func closeConnection() {
        context?.close(promise: nil)
    }

    private func tearDown() {
        guard !isClosed else { return }
        isClosed = true
        handshakeTimeout?.cancel()
        sweep?.cancel()
        streams.removeAll()
        unsent.removeAll()
        service?.closed()
        service = nil
        context = nil
    }

    // MARK: Reading

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = Self.unwrapInboundIn(data)
        switch frame.payload {
        case .headers(let payload):
            if streams[frame.streamID] != nil {
                receiveRequestTrailers(payload, on: frame.streamID)
            } else {
                open(frame.streamID, payload)
            }
        case .data(let payload):
            guard case .byteBuffer(let bytes) = payload.data else { return }
            receive(bytes, on: frame.streamID, endStream: payload.endStream)
        case .rstStream:
            forgetUnsent(frame.streamID)
            reset(frame.streamID)
        case .settings:
            handshakeTimeout?.cancel()
            handshakeTimeout = nil
        case .ping(_, ack: true):
            if drain == .announced { finishDrain() }
        default:
            break
        }
    }

    private func open(_ id: HTTP2StreamID, _ payload: HTTP2Frame.FramePayload.Headers) {
        lastStream = max(lastStream, id)
        let headers = payload.headers
        guard headers.first(name: ":method") == "POST", let path = headers.first(name: ":path"),
              headers.first(name: "content-type")?.hasPrefix("application/grpc") == true else {
            write(id, .headers(.init(headers: [":status": "415", "grpc-status": "\(StatusCode.unknown.rawValue)"], endStream: true)))
            stopSender(id, remoteClosed: payload.endStream)
            return
        }
        streams[id] = Stream(isUnary: true, method: 0, assembler: Self.emptyAssembler, remoteClosed: payload.endStream, deadline: .distantFuture)
        if unsentBytes > TransportLimits.unsentBytesMax {
            return fail(id, Status(.resourceExhausted, "grpc: answers of this connection are not being read"))
        }
        if let encoding = headers.first(name: "grpc-encoding"), encoding != "identity" {
            return fail(id, Status(.unimplemented, "grpc: message encoding is not supported"))
        }
        guard noteDeadline(id, headers) else { return }
        if service == nil { service = factory.connected(self) }
        guard let service else { return }
        switch service.open(StreamID(id), path: path, metadata: headers) {
        case .unary(let method):
            streams[id]?.method = method
            if payload.endStream { fail(id, Status(.internal, "grpc: call without a message")) }
        case .streaming(let method):
            streams[id]?.method = method
            streams[id]?.isUnary = false
            if payload.endStream { service.halfClose(StreamID(id), method: method) }
        case .refused(let status):
            fail(id, status)
        }
    }

    /// False when the call has been answered already: the deadline is malformed or past.
    private func noteDeadline(_ id: HTTP2StreamID, _ headers: HPACKHeaders) -> Bool {
        guard let text = headers.first(name: "grpc-timeout") else { return true }
        guard let timeout = Timeout.parse(text) else {
            fail(id, Status(.internal, "grpc: malformed grpc-timeout"))
            return false
        }
        guard timeout > .zero else {
            fail(id, Status(.deadlineExceeded, "context deadline exceeded"))
            return false
        }
        let (deadline, overflow) = NIODeadline.now().uptimeNanoseconds.addingReportingOverflow(UInt64(timeout.nanoseconds))
        streams[id]?.deadline = overflow ? .distantFuture : .uptimeNanoseconds(min(deadline, UInt64(Int64.max)))
        scheduleSweep()
        return true
    }

    private func receiveRequestTrailers(_ payload: HTTP2Frame.FramePayload.Headers, on id: HTTP2StreamID) {
        guard payload.endStream else { return fail(id, Status(.internal, "grpc: second header block")) }
        endReceived(id)
    }

    private func receive(_ bytes: ByteBuffer, on id: HTTP2StreamID, endStream: Bool) {
        guard let index = streams.index(forKey: id) else { return }
        if bytes.readableBytes > 0 {
            // Taken out of the table while it works: a second reference would make every append copy what is held.
            var assembler = streams.values[index].assembler
            streams.values[index].assembler = Self.emptyAssembler
            let isUnary = streams.values[index].isUnary, method = streams.values[index].method
            unfinishedBytes -= assembler.heldBytes
            assembler.append(bytes)
            do {
                while let message = try assembler.next() {
                    guard isUnary else {
                        service?.message(message, on: StreamID(id), method: method)
                        continue
                    }
                    guard streams[id]?.message == nil else {
                        return fail(id, Status(.unimplemented, "grpc: more than one message in a unary call"))
                    }
                    streams[id]?.message = message
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
            if !isUnary, !endStream { refill(id, by: bytes.readableBytes) }
        }
        if endStream { endReceived(id) }
    }

    private func endReceived(_ id: HTTP2StreamID) {
        guard let stream = streams[id] else { return }
        streams[id]?.remoteClosed = true
        guard stream.assembler.heldBytes == 0 else { return fail(id, Status(.internal, "grpc: message cut short")) }
        guard stream.isUnary else {
            service?.halfClose(StreamID(id), method: stream.method)
            return
        }
        guard let message = stream.message else { return fail(id, Status(.internal, "grpc: call without a message")) }
        streams[id]?.message = nil
        service?.message(message, on: StreamID(id), method: stream.method)
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        service?.readComplete()
        flushIfNeeded()
        context.fireChannelReadComplete()
    }

    /// NIOHTTP2 tells of windows and closed streams by events.
    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        let type = ObjectIdentifier(Swift.type(of: event))
        if type == ObjectIdentifier(NIOHTTP2WindowUpdatedEvent.self) {
            guard let event = event as? NIOHTTP2WindowUpdatedEvent, event.streamID == .rootStream,
                  let window = event.inboundWindowSize, window < TransportLimits.connectionWindowBytes / 2, connectionWindowGrown else { return }
            write(.rootStream, .windowUpdate(windowSizeIncrement: TransportLimits.connectionWindowBytes - window))
        } else if type == ObjectIdentifier(StreamClosedEvent.self) {
            guard let event = event as? StreamClosedEvent else { return }
            forgetUnsent(event.streamID)
            reset(event.streamID)
            closeIfDrained()
        } else if type == ObjectIdentifier(TLSUserEvent.self) {
            if requiresTLS, case .handshakeCompleted(let negotiated)? = event as? TLSUserEvent, negotiated != "h2" { closeConnection() }
        }
    }

    private func refill(_ id: HTTP2StreamID, by bytes: Int) {
        write(id, .windowUpdate(windowSizeIncrement: bytes))
    }

    private func reset(_ id: HTTP2StreamID) {
        guard let stream = streams.removeValue(forKey: id) else { return }
        unfinishedBytes -= stream.assembler.heldBytes
        service?.reset(StreamID(id), method: stream.method)
    }

    // MARK: Writing

    private static let responseHeaders: HPACKHeaders = [":status": "200", "content-type": "application/grpc"]
    private static let okTrailers: HPACKHeaders = ["grpc-status": "0"]

    package func start(_ stream: StreamID) {
        let id = HTTP2StreamID(stream)
        guard streams[id]?.started == false else { return }
        streams[id]?.started = true
        write(id, .headers(.init(headers: Self.responseHeaders)))
    }

    package func send(_ message: ByteBuffer, on stream: StreamID) {
        let id = HTTP2StreamID(stream)
        guard streams[id] != nil else { return }
        start(stream)
        let total = unsent[id, default: 0] + message.readableBytes
        unsent[id] = total
        unsentBytes += message.readableBytes
        write(id, .data(.init(data: .byteBuffer(message))))
        guard total > TransportLimits.streamUnsentBytesHigh, let state = streams[id], !state.paused else { return }
        streams[id]?.paused = true
        service?.writability(false, of: stream, method: state.method)
    }

    package func answer(_ message: ByteBuffer, on stream: StreamID) {
        let id = HTTP2StreamID(stream)
        guard let state = streams.removeValue(forKey: id) else { return }
        if !state.started { write(id, .headers(.init(headers: Self.responseHeaders))) }
        if message.readableBytes >= TransportLimits.countedAnswerBytesMin {
            unsent[id, default: 0] += message.readableBytes
            unsentBytes += message.readableBytes
        }
        write(id, .data(.init(data: .byteBuffer(message))))
        write(id, .headers(.init(headers: Self.okTrailers, endStream: true)))
        stopSender(id, remoteClosed: state.remoteClosed)
    }

    package func finish(_ stream: StreamID, _ status: Status) {
        let id = HTTP2StreamID(stream)
        guard let state = streams.removeValue(forKey: id) else { return }
        unfinishedBytes -= state.assembler.heldBytes
        var trailers: HPACKHeaders = state.started ? [:] : Self.responseHeaders
        trailers.add(name: "grpc-status", value: "\(status.code.rawValue)")
        if !status.message.isEmpty { trailers.add(name: "grpc-message", value: Status.percentEncoded(status.message)) }
        write(id, .headers(.init(headers: trailers, endStream: true)))
        stopSender(id, remoteClosed: state.remoteClosed)
    }

    private func fail(_ id: HTTP2StreamID, _ status: Status) {
        let tellsService = streams[id].map { !$0.isUnary } ?? false
        let method = streams[id]?.method ?? 0
        finish(StreamID(id), status)
        if tellsService { service?.reset(StreamID(id), method: method) }
    }

    private func stopSender(_ id: HTTP2StreamID, remoteClosed: Bool) {
        if !remoteClosed { write(id, .rstStream(.noError)) }
    }

    private func write(_ id: HTTP2StreamID, _ payload: HTTP2Frame.FramePayload) {
        guard let context else { return }
        wrote = true
        writingOwnFrame = true
        context.write(Self.wrapOutboundOut(HTTP2Frame(streamID: id, payload: payload)), promise: nil)
        writingOwnFrame = false
    }

    package func flush() {
        flushIfNeeded()
    }

    private func flushIfNeeded() {
        while wrote {
            wrote = false
            context?.flush()
            resumeWritable()
        }
        closeIfDrained()
    }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        resumeWritable()
        flushIfNeeded()
        context.fireChannelWritabilityChanged()
    }

    // MARK: Backpressure

    package func wroteFrame(_ frame: HTTP2Frame) {
        switch frame.payload {
        case .data(let data):
            guard !unsent.isEmpty, let before = unsent[frame.streamID] else { return }
            let count = min(data.data.readableBytes, before)
            unsentBytes -= count
            let left = before - count
            unsent[frame.streamID] = left == 0 ? nil : left
            if left <= TransportLimits.streamUnsentBytesLow, before > TransportLimits.streamUnsentBytesLow || left == 0,
               streams[frame.streamID]?.paused == true { resumable.append(frame.streamID) }
        case .rstStream:
            if !writingOwnFrame { handlerReset = true }
        default:
            break
        }
    }

    private func resumeWritable() {
        guard !resumable.isEmpty else { return }
        let ids = resumable
        resumable.removeAll(keepingCapacity: true)
        for id in ids {
            guard let stream = streams[id], stream.paused else { continue }
            streams[id]?.paused = false
            service?.writability(true, of: StreamID(id), method: stream.method)
        }
    }

    private func forgetUnsent(_ id: HTTP2StreamID) {
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
        var late: [HTTP2StreamID] = []
        for (id, stream) in streams {
            if stream.deadline <= now { late.append(id) } else if stream.deadline != .distantFuture { waiting = true }
        }
        for id in late {
            let method = streams[id]?.method ?? 0
            finish(StreamID(id), Status(.deadlineExceeded, "context deadline exceeded"))
            service?.reset(StreamID(id), method: method)
        }
        flushIfNeeded()
        if waiting { scheduleSweep() }
    }

    // MARK: Drain

    /// Shutdown, step 1: GOAWAY for the highest possible stream and a PING. What the client sent before it heard of it is still served.
    func beginDrain() {
        guard drain == .no, context != nil else { return }
        drain = .announced
        write(.rootStream, .goAway(lastStreamID: .maxID, errorCode: .noError, opaqueData: nil))
        write(.rootStream, .ping(HTTP2PingData(withInteger: 0x636f_6666_6572), ack: false))
        flushIfNeeded()
    }

    /// Step 2, when the PING is back: GOAWAY for the last stream there is; streaming calls end, unary ones are still answered.
    private func finishDrain() {
        drain = .closing
        write(.rootStream, .goAway(lastStreamID: lastStream, errorCode: .noError, opaqueData: nil))
        for (id, stream) in streams where !stream.isUnary { fail(id, Status(.unavailable, "etcdserver: server stopped")) }
        flushIfNeeded()
    }

    private func closeIfDrained() {
        guard drain == .closing, streams.isEmpty, unsent.isEmpty, !wrote else { return }
        closeConnection()
    }

    /// Shutdown's end: whatever is still open is cut.
    func cut() {
        closeConnection()
    }
}

extension StreamID {
    init(_ id: HTTP2StreamID) { self.init(UInt32(truncatingIfNeeded: Int(id))) }
}

extension HTTP2StreamID {
    init(_ id: StreamID) { self.init(Int(id.rawValue)) }
}
