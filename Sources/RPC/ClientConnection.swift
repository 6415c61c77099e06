package import NIOCore
package import NIOHPACK
package import NIOHTTP2
import Synchronization

/// The end of a unary call. Called on the connection's event loop.
package protocol AnswerReceiver: AnyObject {
    func answered(_ token: Int, _ result: Result<ByteBuffer, Status>)
}

/// Whether new calls may begin on a connection, for any thread to ask.
package final class ConnectionGate: Sendable {
    private let open = Atomic(true)
    package var isOpen: Bool { open.load(ordering: .acquiring) }
    func close() { open.store(false, ordering: .releasing) }
}

/// What a streaming call hears, on the connection's event loop.
package protocol StreamReceiver: AnyObject {
    func received(_ message: ByteBuffer)
    /// The last word; `.ok` or why it ended.
    func ended(_ status: Status)
}

/// One gRPC connection, the client's side. Everything here happens on the event loop; frames leave at the next `flush`,
/// so that calls made together travel together.
///
/// Invariant: each call in `calls` gets exactly one `answered` or `ended`.
package final class ClientConnection: ChannelInboundHandler {
    package typealias InboundIn = HTTP2Frame
    package typealias OutboundOut = HTTP2Frame

    private enum Sink {
        case unary(any AnswerReceiver, token: Int, answer: ByteBuffer?)
        case streaming(any StreamReceiver)
    }
    private struct Call {
        var sink: Sink
        var assembler = ClientConnection.emptyAssembler
        var httpStatus = 200
        var deadline = NIODeadline.distantFuture
        /// The window is given back by `consumed`, not as soon as messages are here.
        var isPaced = false
    }

    private struct QueuedCall {
        var headers: HPACKHeaders
        var message: ByteBuffer
        var token: Int
        var receiver: any AnswerReceiver
        var deadline: NIODeadline
    }
    /// Until the server's settings are there.
    private static let streamsAssumed = 100

    /// Answers may be larger than requests: a Range has no bound of its own.
    package static let messageBytesMax = Int(Int32.max)
    private static let emptyAssembler = MessageAssembler(messageBytesMax: messageBytesMax)
    private static let windowBytes = 64 << 20

    private let authority: String
    private let scheme: String
    private var context: ChannelHandlerContext?
    private var calls: [HTTP2StreamID: Call] = [:]
    /// Unary calls beyond the server's bound on streams. They wait here, since NIOHTTP2's own queue costs time that grows with its square.
    private var queue = CircularBuffer<QueuedCall>()
    private var streamsMax = ClientConnection.streamsAssumed
    private var nextStream = 1
    private var wrote = false
    private var grown = false
    private var receiveWindow = WindowRefill(target: ClientConnection.windowBytes)
    private var goingAway = false { didSet { if goingAway { gate.close() } } }
    package let gate = ConnectionGate()
    private var failure: Status?
    private var sweep: Scheduled<Void>?
    private let eventLoop: any EventLoop

    init(channel: any Channel, authority: String, isTLS: Bool) {
        self.authority = authority
        scheme = isTLS ? "https" : "http"
        eventLoop = channel.eventLoop
    }

    package var isUsable: Bool { context != nil && !goingAway }
    package var openCalls: Int { calls.count }

    /// Headers of a method's calls, to be made once.
    package func headers(path: String, metadata: [(String, String)] = []) -> HPACKHeaders {
        var headers = HPACKHeaders([
            (":method", "POST"), (":scheme", scheme), (":path", path), (":authority", authority),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ])
        for (name, value) in metadata { headers.add(name: name, value: value) }
        return headers
    }

    // MARK: Calls

    /// `message` is a whole gRPC frame (`MessageFraming.framed`).
    package func call(_ headers: HPACKHeaders, message: ByteBuffer, token: Int, timeout: TimeAmount? = nil, receiver: any AnswerReceiver) {
        let queued = QueuedCall(
            headers: headers, message: message, token: token, receiver: receiver, deadline: timeout.map { .now() + $0 } ?? .distantFuture)
        guard calls.count < streamsMax, queue.isEmpty else {
            guard isUsable else { return receiver.answered(token, .failure((failure ?? Self.closedStatus).with(.unsent))) }
            queue.append(queued)
            if timeout != nil { scheduleSweep() }
            return
        }
        begin(queued)
    }

    private func begin(_ call: QueuedCall) {
        let timeout = call.deadline == .distantFuture ? nil : call.deadline - .now()
        guard let id = begin(Call(sink: .unary(call.receiver, token: call.token, answer: nil)), call.headers, timeout: timeout) else {
            return call.receiver.answered(call.token, .failure((failure ?? Self.closedStatus).with(.unsent)))
        }
        write(id, .data(.init(data: .byteBuffer(call.message), endStream: true)))
    }

    private func beginQueued() {
        while calls.count < streamsMax, let next = queue.popFirst() { begin(next) }
    }

    /// A call of many messages; `nil` (and an `ended`) when the connection is gone.
    /// Of a `paced` one the server may send as much as the stream's window has until `consumed` says that messages were used.
    package func open(_ headers: HPACKHeaders, timeout: TimeAmount? = nil, paced: Bool = false, receiver: any StreamReceiver) -> StreamID? {
        guard let id = begin(Call(sink: .streaming(receiver), isPaced: paced), headers, timeout: timeout) else {
            receiver.ended((failure ?? Self.closedStatus).with(.unsent))
            return nil
        }
        return StreamID(http2: id)
    }

    package func send(_ message: ByteBuffer, on stream: StreamID) {
        guard calls[HTTP2StreamID(stream)] != nil else { return }
        write(HTTP2StreamID(stream), .data(.init(data: .byteBuffer(message))))
    }

    /// Messages of a paced call, with their prefixes, that were used.
    package func consumed(_ bytes: Int, of stream: StreamID) {
        guard calls[HTTP2StreamID(stream)] != nil else { return }
        creditStream(HTTP2StreamID(stream), bytes)
        flush()
    }

    package func halfClose(_ stream: StreamID) {
        guard calls[HTTP2StreamID(stream)] != nil else { return }
        write(HTTP2StreamID(stream), .data(.init(data: .byteBuffer(ByteBuffer()), endStream: true)))
    }

    /// Ends a call; its receiver hears `cancelled`.
    package func cancel(_ stream: StreamID) {
        abort(HTTP2StreamID(stream), Status(.cancelled, "cancelled by the client", .lost))
    }

    package func flush() {
        guard wrote else { return }
        wrote = false
        context?.flush()
    }

    package func close() { context?.close(promise: nil) }

    private static let lateStatus = Status(.deadlineExceeded, "context deadline exceeded", .lost)
    private static let closedStatus = Status(.unavailable, "the connection is closed", .lost)

    private func begin(_ call: Call, _ headers: HPACKHeaders, timeout: TimeAmount?) -> HTTP2StreamID? {
        guard isUsable, nextStream < Int(Int32.max) - 2 else { return nil }
        let id = HTTP2StreamID(nextStream)
        nextStream += 2
        var call = call, headers = headers
        if let timeout {
            headers.add(name: "grpc-timeout", value: Timeout.format(timeout))
            call.deadline = .now() + timeout
            scheduleSweep()
        }
        calls[id] = call
        write(id, .headers(.init(headers: headers)))
        return id
    }

    private func write(_ id: HTTP2StreamID, _ payload: HTTP2Frame.FramePayload) {
        wrote = true
        context?.write(Self.wrapOutboundOut(HTTP2Frame(streamID: id, payload: payload)), promise: nil)
    }

    private func abort(_ id: HTTP2StreamID, _ status: Status) {
        guard calls[id] != nil else { return }
        write(id, .rstStream(.cancel))
        end(id, status)
        flush()
    }

    private func end(_ id: HTTP2StreamID, _ status: Status) {
        guard let call = calls.removeValue(forKey: id) else { return }
        switch call.sink {
        case .unary(let receiver, let token, let answer):
            if status.code == .ok {
                receiver.answered(token, answer.map(Result.success) ?? .failure(Status(.internal, "the answer has no message")))
            } else {
                receiver.answered(token, .failure(status))
            }
        case .streaming(let receiver):
            receiver.ended(status)
        }
        if !queue.isEmpty { beginQueued() }
        if goingAway, calls.isEmpty { close() }
    }

    // MARK: Reading

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = Self.unwrapInboundIn(data)
        switch frame.payload {
        case .headers(let payload):
            receive(payload, on: frame.streamID)
        case .data(let payload):
            guard case .byteBuffer(let bytes) = payload.data else { return }
            receive(bytes, on: frame.streamID, endStream: payload.endStream)
        case .rstStream(let code):
            let isRefused = code == .refusedStream
            end(frame.streamID, Status(isRefused ? .unavailable : .internal, "the stream was reset: \(code)", isRefused ? .unsent : .lost))
        case .settings(.settings(let settings)):
            for setting in settings where setting.parameter == .maxConcurrentStreams { streamsMax = setting.value }
            beginQueued()
        case .goAway(let last, _, _):
            goingAway = true
            for id in calls.keys.filter({ $0 > last }).sorted() { end(id, Status(.unavailable, "the server is going away", .unsent)) }
            if calls.isEmpty { close() }
        default:
            break
        }
    }

    private func receive(_ payload: HTTP2Frame.FramePayload.Headers, on id: HTTP2StreamID) {
        guard calls[id] != nil else { return }
        if let text = payload.headers.first(name: ":status"), let status = Int(text) { calls[id]?.httpStatus = status }
        guard payload.endStream else { return }
        guard let text = payload.headers.first(name: "grpc-status"), let number = Int(text) else {
            let httpStatus = calls[id]?.httpStatus ?? 0
            return end(id, Status(StatusCode(httpStatus: httpStatus), "no gRPC answer; HTTP status \(httpStatus)"))
        }
        let message = payload.headers.first(name: "grpc-message").map(Status.percentDecoded) ?? ""
        end(id, Status(StatusCode(rawValue: number) ?? .unknown, message))
    }

    private func receive(_ bytes: ByteBuffer, on id: HTTP2StreamID, endStream: Bool) {
        guard let index = calls.index(forKey: id) else { return }
        // Taken out of the table while it works: a second reference would make every append copy what is held.
        var assembler = calls.values[index].assembler
        let isPaced = calls.values[index].isPaced
        var credit = bytes.readableBytes
        calls.values[index].assembler = Self.emptyAssembler
        assembler.append(bytes)
        do {
            while let message = try assembler.next() {
                switch calls[id]?.sink {
                case .unary(let receiver, let token, let answer):
                    guard answer == nil else { return abort(id, Status(.internal, "more than one answer to a unary call")) }
                    calls[id]?.sink = .unary(receiver, token: token, answer: message)
                case .streaming(let receiver):
                    if isPaced { credit -= message.readableBytes + MessageFraming.prefixBytes }
                    receiver.received(message)
                case nil:
                    return
                }
            }
        } catch {
            return abort(id, error.status)
        }
        guard calls[id] != nil else { return }
        calls[id]?.assembler = assembler
        if endStream { return end(id, Status(.internal, "the stream ended without a status")) }
        if credit != 0 { creditStream(id, credit) }
    }

    private var uncredited: [HTTP2StreamID: Int] = [:]
    /// Gives a stream its window back once a good part of it is used.
    private func creditStream(_ id: HTTP2StreamID, _ bytes: Int) {
        let total = uncredited[id, default: 0] + bytes
        guard total > 1 << 20 else {
            if bytes >= 16 << 10 || uncredited[id] != nil || isStreaming(id) { uncredited[id] = total }
            return
        }
        uncredited[id] = nil
        write(id, .windowUpdate(windowSizeIncrement: total))
    }
    private func isStreaming(_ id: HTTP2StreamID) -> Bool {
        if case .streaming? = calls[id]?.sink { true } else { false }
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        flush()
        context.fireChannelReadComplete()
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? NIOHTTP2WindowUpdatedEvent {
            guard event.streamID == .rootStream, let window = event.inboundWindowSize, let increment = receiveWindow.increment(window) else { return }
            write(.rootStream, .windowUpdate(windowSizeIncrement: increment))
        } else if let event = event as? StreamClosedEvent {
            uncredited[event.streamID] = nil
            end(event.streamID, Status(.unavailable, "the stream was closed", .lost))
        }
    }

    // MARK: Life

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { grow() }
    }
    package func channelActive(context: ChannelHandlerContext) {
        grow()
        context.fireChannelActive()
    }
    private func grow() {
        guard !grown else { return }
        grown = true
        write(.rootStream, .windowUpdate(windowSizeIncrement: Self.windowBytes - 65_535))
        flush()
    }

    package func channelInactive(context: ChannelHandlerContext) {
        tearDown()
        context.fireChannelInactive()
    }
    package func handlerRemoved(context: ChannelHandlerContext) { tearDown() }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if error is NIOHTTP2Errors.StreamError || error is NIOHTTP2Errors.NoSuchStream || error is NIOHTTP2Errors.StreamClosed { return }
        failure = Status(.unavailable, "connection error: \(error)", .lost)
        context.close(promise: nil)
    }

    private func tearDown() {
        context = nil
        gate.close()
        sweep?.cancel()
        sweep = nil
        for id in calls.keys.sorted() { end(id, failure ?? Self.closedStatus) }
        beginQueued()  // On a connection that is gone: each hears so.
    }

    // MARK: Deadlines

    private func scheduleSweep() {
        guard sweep == nil else { return }
        sweep = eventLoop.assumeIsolated().scheduleTask(in: TransportLimits.deadlineSweep) { [weak self] in self?.sweepDeadlines() }
    }

    private func sweepDeadlines() {
        sweep = nil
        let now = NIODeadline.now()
        for id in calls.filter({ $0.value.deadline <= now }).keys.sorted() { abort(id, Self.lateStatus) }
        for call in queue where call.deadline <= now { call.receiver.answered(call.token, .failure(Self.lateStatus.with(.unsent))) }
        queue.removeAll { $0.deadline <= now }
        let isWaiting = calls.values.contains { $0.deadline != .distantFuture } || queue.contains { $0.deadline != .distantFuture }
        if isWaiting { scheduleSweep() }
    }
}
