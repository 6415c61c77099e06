import Basics
import NIOCore
import NIOHPACK
import NIOHTTP2
import NIOTLS

/// Frames by swift-nio-http2's `NIOHTTP2Handler`, which stands before this handler and keeps windows and stream states.
final class NIOFrameHandler: ChannelInboundHandler, FrameLayer, NIOHTTP2FrameDelegate {
    typealias InboundIn = HTTP2Frame
    typealias OutboundOut = HTTP2Frame

    private let connection: ServerConnection
    private let requiresTLS: Bool
    private var context: ChannelHandlerContext?
    private var connectionWindowGrown = false
    private var receiveWindow = WindowRefill(target: TransportLimits.connectionWindowBytes)
    /// The frames that the HTTP/2 handler wrote by itself, which tell a stream's error from the connection's.
    private var writingOwnFrame = false
    private var handlerReset = false

    init(_ connection: ServerConnection, requiresTLS: Bool) {
        self.connection = connection
        self.requiresTLS = requiresTLS
    }

    var channel: (any Channel)? { context?.channel }

    // MARK: In

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        connection.opened(self)
        if context.channel.isActive { growConnectionWindow() }
    }
    func channelActive(context: ChannelHandlerContext) {
        growConnectionWindow()
        context.fireChannelActive()
    }
    func channelInactive(context: ChannelHandlerContext) {
        end()
        context.fireChannelInactive()
    }
    func handlerRemoved(context: ChannelHandlerContext) { end() }

    private func end() {
        context = nil
        connection.closed()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if handlerReset || error is NIOHTTP2Errors.StreamError {
            handlerReset = false  // One stream's fault: the handler has reset it, and says so by `StreamClosedEvent`.
            return
        }
        connection.failed(error)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = Self.unwrapInboundIn(data)
        let id = StreamID(http2: frame.streamID)
        switch frame.payload {
        case .headers(let payload):
            if connection.isOpen(id) {
                connection.receivedTrailers(on: id, endStream: payload.endStream)
            } else {
                connection.receivedHead(RequestHead(payload.headers), on: id, endStream: payload.endStream)
            }
        case .data(let payload):
            guard case .byteBuffer(let bytes) = payload.data else { return }
            connection.receivedData(bytes, on: id, endStream: payload.endStream)
        case .rstStream: connection.receivedReset(id)
        case .settings: connection.receivedSettings()
        case .ping(_, ack: true): connection.receivedPingAnswer()
        default: break
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        connection.readComplete()
        context.fireChannelReadComplete()
    }

    /// NIOHTTP2 tells of windows and closed streams by events.
    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        let type = ObjectIdentifier(Swift.type(of: event))
        if type == ObjectIdentifier(NIOHTTP2WindowUpdatedEvent.self) {
            guard let event = event as? NIOHTTP2WindowUpdatedEvent, event.streamID == .rootStream, let window = event.inboundWindowSize,
                  let increment = receiveWindow.increment(window) else { return }
            write(.connection, .windowUpdate(windowSizeIncrement: increment))
            context.flush()
        } else if type == ObjectIdentifier(StreamClosedEvent.self) {
            guard let event = event as? StreamClosedEvent else { return }
            connection.receivedReset(StreamID(http2: event.streamID))
        } else if type == ObjectIdentifier(TLSUserEvent.self) {
            if requiresTLS, case .handshakeCompleted(let negotiated)? = event as? TLSUserEvent, negotiated != "h2" { close() }
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        connection.resumeWritable()
        connection.flush()
        context.fireChannelWritabilityChanged()
    }

    func wroteFrame(_ frame: HTTP2Frame) {
        switch frame.payload {
        case .data(let data): connection.wrote(data.data.readableBytes, of: StreamID(http2: frame.streamID))
        case .rstStream: if !writingOwnFrame { handlerReset = true }
        default: break
        }
    }

    // MARK: Out

    private static let responseHeaders: HPACKHeaders = [":status": "200", "content-type": "application/grpc"]
    private static let okTrailers: HPACKHeaders = ["grpc-status": "0"]

    func sendResponseHeaders(_ stream: StreamID) { write(stream, .headers(.init(headers: Self.responseHeaders))) }
    func sendData(_ data: ByteBuffer, on stream: StreamID) { write(stream, .data(.init(data: .byteBuffer(data)))) }
    func sendOKTrailers(_ stream: StreamID) { write(stream, .headers(.init(headers: Self.okTrailers, endStream: true))) }
    func sendFinal(_ fields: [(name: String, value: String)], on stream: StreamID) {
        write(stream, .headers(.init(headers: HPACKHeaders(fields.map { ($0.name, $0.value) }), endStream: true)))
    }
    func sendStop(_ stream: StreamID) { write(stream, .rstStream(.noError)) }
    func refill(_ stream: StreamID, by bytes: Int) { write(stream, .windowUpdate(windowSizeIncrement: bytes)) }
    func sendGoAway(last: StreamID) {
        write(.connection, .goAway(lastStreamID: last == .greatest ? .maxID : HTTP2StreamID(last), errorCode: .noError, opaqueData: nil))
    }
    func sendPing() { write(.connection, .ping(HTTP2PingData(withInteger: 0x636f_6666_6572), ack: false)) }
    func flush() { context?.flush() }
    func close() { context?.close(promise: nil) }

    private func growConnectionWindow() {
        guard !connectionWindowGrown else { return }
        connectionWindowGrown = true
        write(.connection, .windowUpdate(windowSizeIncrement: TransportLimits.connectionWindowBytes - 65_535))
        flush()
    }

    private func write(_ stream: StreamID, _ payload: HTTP2Frame.FramePayload) {
        guard let context else { return }
        writingOwnFrame = true
        context.write(Self.wrapOutboundOut(HTTP2Frame(streamID: HTTP2StreamID(stream), payload: payload)), promise: nil)
        writingOwnFrame = false
    }
}

extension StreamID {
    init(http2 id: HTTP2StreamID) { self.init(UInt32(truncatingIfNeeded: Int(id))) }
}

extension HTTP2StreamID {
    init(_ id: StreamID) { self.init(Int(id.rawValue)) }
}

/// When to refill a window that NIOHTTP2 reports by events. Events are queued, so after a refill some still tell of the window before it.
struct WindowRefill {
    let target: Int
    private var awaitsRefill = true
    init(target: Int) { self.target = target }

    /// By how much to refill, now that the window is said to be so large; `nil`: not at all.
    mutating func increment(_ window: Int) -> Int? {
        if window >= target / 2 {
            awaitsRefill = false
            return nil
        }
        guard !awaitsRefill else { return nil }
        awaitsRefill = true
        return target - window
    }
}
