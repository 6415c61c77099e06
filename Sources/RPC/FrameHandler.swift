import Basics
import NIOCore
import NIOHPACK
import NIOTLS

/// Our HTTP/2 frames, for a gRPC server: no stream channels, no frame objects, answers written as bytes into one buffer per flush.
///
/// What it relies on: the answers' header blocks are always the same, written as literals without a dynamic table; a client's header block
/// that repeats the one before, in indexed fields only, means the same (the table has not changed in between), and is not read again.
///
/// Flow control: towards us, the connection's window is refilled when half of it is used, and streams' as their messages are taken; what
/// a client may make us hold is bounded by `ServerConnection`. Towards the client, DATA leaves while both windows and the socket take it; the
/// rest waits in `flows`, and trailers behind it.
///
/// Invariants: `flows` has an entry for each stream that waits or whose window is not the initial one; a stream is in either `blocked`
/// or `windowless`, once, while its queue is not empty.
final class FrameHandler: ChannelInboundHandler, FrameLayer {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private struct Flow {
        var window: Int
        var queue = CircularBuffer<ByteBuffer>()
        /// Header block to send when the queue is empty; ends the stream.
        var trailers: ByteBuffer?
        var stopsSender = false
    }

    private let connection: ServerConnection
    private let requiresTLS: Bool
    private var context: ChannelHandlerContext?
    private var parser = FrameParser()
    private var decoder: HPACKDecoder
    /// Header blocks of indexed fields only, read since the table last changed.
    private var repeated: [(block: ByteBuffer, head: RequestHead)] = []
    private static let repeatedMax = 4
    private static let outBytesMin = 4 << 10, outBytesKept = 32 << 10
    private var lastStream = StreamID.connection
    private var out: ByteBuffer
    private var began = false
    private var failed = false
    private var receiveWindow = TransportLimits.connectionWindowBytes
    private var sendWindow = 65_535
    private var initialSendWindow = 65_535
    private var flows: [StreamID: Flow] = [:]
    /// Streams whose turn comes when the connection's window, or the socket, takes more.
    private var blocked = CircularBuffer<StreamID>()
    /// Streams with DATA and no window of their own.
    private var windowless: Set<StreamID> = []
    private var controlRate = RateLimit(eventsMax: TransportLimits.controlFramesPerSecondMax, seconds: 1)
    private var settingsRate = RateLimit(eventsMax: TransportLimits.settingsPerSecondMax, seconds: 1)
    private var resetRate = RateLimit(eventsMax: TransportLimits.resetsPerTenSecondsMax, seconds: 10)
    private var unreadAnswers = 0

    init(_ connection: ServerConnection, allocator: ByteBufferAllocator, requiresTLS: Bool) {
        self.connection = connection
        self.requiresTLS = requiresTLS
        decoder = HPACKDecoder(allocator: allocator, maxDynamicTableSize: HPACKDecoder.maxDynamicTableSize, maxHeaderListSize: 16 << 10)
        out = allocator.buffer(capacity: Self.outBytesMin)
    }

    var channel: (any Channel)? { context?.channel }

    // MARK: Life

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        connection.opened(self)
        if context.channel.isActive { begin() }
    }
    func channelActive(context: ChannelHandlerContext) {
        begin()
        context.fireChannelActive()
    }
    func channelInactive(context: ChannelHandlerContext) {
        end()
        context.fireChannelInactive()
    }
    func handlerRemoved(context: ChannelHandlerContext) { end() }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { connection.failed(error) }

    private func end() {
        context = nil
        flows.removeAll()
        blocked.removeAll()
        windowless.removeAll()
        connection.closed()
    }

    /// Our SETTINGS, and the connection's window, which SETTINGS cannot change.
    private func begin() {
        guard !began else { return }
        began = true
        let settings: [(UInt16, Int)] = [
            (3, Limits.streamsPerConnectionMax), (4, TransportLimits.streamWindowBytes), (6, FrameParser.headerBlockBytesMax),
        ]
        writeHead(length: 6 * settings.count, type: 4, flags: 0, .connection)
        for (identifier, value) in settings {
            out.writeInteger(identifier)
            out.writeInteger(UInt32(value))
        }
        writeWindowUpdate(.connection, TransportLimits.connectionWindowBytes - 65_535)
        flush()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if requiresTLS, let event = event as? TLSUserEvent, case .handshakeCompleted(let negotiated) = event, negotiated != "h2" { close() }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: In

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !failed else { return }
        parser.append(Self.unwrapInboundIn(data))
        do throws(HTTP2ConnectionError) {
            while self.context != nil, let frame = try parser.next() { try receive(frame) }
        } catch {
            fail(error)
        }
    }

    private func fail(_ error: HTTP2ConnectionError) {
        failed = true
        writeGoAway(last: lastStream, error.number)
        flush()
        connection.failed(error)
    }

    private func receive(_ frame: InboundFrame) throws(HTTP2ConnectionError) {
        switch frame {
        case .data(let stream, let bytes, let flowBytes, let endStream): try receiveData(stream, bytes, flowBytes, endStream)
        case .headerBlock(let stream, let block, let endStream): try receiveBlock(stream, block, endStream)
        case .reset(let stream):
            try countReset()
            try checkKnown(stream)
            drop(stream)
            connection.receivedReset(stream)
        case .settings(let settings):
            guard settingsRate.admits() else { throw HTTP2ConnectionError(.enhanceYourCalm, "too many SETTINGS") }
            try apply(settings)
            writeHead(length: 0, type: 4, flags: 1, .connection)
            try countAnswer()
            connection.receivedSettings()
            pump()
        case .ping(let opaque):
            try countControl()
            writeHead(length: 8, type: 6, flags: 1, .connection)
            out.writeInteger(opaque)
            try countAnswer()
        case .pingAnswer:
            try countControl()
            connection.receivedPingAnswer()
        case .windowUpdate(let stream, let increment): try receiveWindowUpdate(stream, increment)
        case .settingsAcknowledged, .goAway, .ignored: try countControl()
        }
    }

    private func countControl() throws(HTTP2ConnectionError) {
        if !controlRate.admits() { throw HTTP2ConnectionError(.enhanceYourCalm, "too many control frames") }
    }
    private func countReset() throws(HTTP2ConnectionError) {
        if !resetRate.admits() { throw HTTP2ConnectionError(.enhanceYourCalm, "too many resets") }
    }
    /// Answers to a client that does not read them pile up in the socket's queue: of control frames, and of calls that are refused.
    private func countAnswer() throws(HTTP2ConnectionError) {
        guard context?.channel.isWritable == false else {
            unreadAnswers = 0
            return
        }
        unreadAnswers += 1
        if unreadAnswers > 10_000 { throw HTTP2ConnectionError(.enhanceYourCalm, "answers are not being read") }
    }

    /// A stream that was never opened cannot be spoken of.
    private func checkKnown(_ stream: StreamID) throws(HTTP2ConnectionError) {
        guard stream.rawValue % 2 == 1, stream <= lastStream else { throw HTTP2ConnectionError(.protocolError, "a frame for an idle stream") }
    }

    private func receiveData(_ stream: StreamID, _ bytes: ByteBuffer, _ flowBytes: Int, _ endStream: Bool) throws(HTTP2ConnectionError) {
        try checkKnown(stream)
        receiveWindow -= flowBytes
        guard receiveWindow >= 0 else { throw HTTP2ConnectionError(.flowControlError, "more DATA than the connection's window") }
        if receiveWindow < TransportLimits.connectionWindowBytes / 2 {
            writeWindowUpdate(.connection, TransportLimits.connectionWindowBytes - receiveWindow)
            receiveWindow = TransportLimits.connectionWindowBytes
        }
        if bytes.readableBytes == 0, !endStream { try countControl() }
        let padding = flowBytes - bytes.readableBytes
        if padding > 0, !endStream {
            try countAnswer()
            writeWindowUpdate(stream, padding)
        }
        // It ends the call, not what was begun for it: as good as a reset (CVE-2025-8671).
        if connection.isEnded(stream) { try countReset() }
        connection.receivedData(bytes, on: stream, endStream: endStream)
    }

    private func receiveBlock(_ stream: StreamID, _ block: ByteBuffer, _ endStream: Bool) throws(HTTP2ConnectionError) {
        guard stream.rawValue % 2 == 1 else { throw HTTP2ConnectionError(.protocolError, "a client's stream with an even number") }
        try countAnswer()
        let head = try read(block)
        guard stream > lastStream else {
            // Trailers; or the remains of a stream that is gone, whose block had to be read all the same.
            guard connection.isOpen(stream) else { return }
            if !endStream || connection.isEnded(stream) { try countReset() }
            return connection.receivedTrailers(on: stream, endStream: endStream)
        }
        lastStream = stream
        guard !connection.refusesStreams else { return }
        // A stream whose answer waits for the client's window is still open.
        guard connection.openStreams < Limits.streamsPerConnectionMax, flows.count < Limits.streamsPerConnectionMax else {
            return writeReset(stream, .refusedStream)
        }
        connection.receivedHead(head, on: stream, endStream: endStream)
    }

    private func read(_ block: ByteBuffer) throws(HTTP2ConnectionError) -> RequestHead {
        if let known = repeated.first(where: { $0.block == block }) { return known.head }
        let head = RequestHead(try decode(block))
        guard Self.isIndexedOnly(block) else {
            repeated.removeAll(keepingCapacity: true)  // The table may have changed, and what they say with it.
            return head
        }
        if repeated.count == Self.repeatedMax { repeated.removeFirst() }
        repeated.append((block, head))
        return head
    }

    private func decode(_ block: ByteBuffer) throws(HTTP2ConnectionError) -> HPACKHeaders {
        var block = block
        do { return try decoder.decodeHeaders(from: &block) } catch {
            throw HTTP2ConnectionError(.compressionError, "a header block does not decode")
        }
    }

    /// Only fields of one byte that point into the tables: reading them again would change nothing.
    private static func isIndexedOnly(_ block: ByteBuffer) -> Bool {
        block.readableBytesView.allSatisfy { $0 & 0x80 != 0 && $0 != 0xff }
    }

    private func receiveWindowUpdate(_ stream: StreamID, _ increment: Int) throws(HTTP2ConnectionError) {
        guard increment > 0 else { throw HTTP2ConnectionError(.protocolError, "a window update of nothing") }
        if stream.rawValue == 0 {
            sendWindow += increment
            guard sendWindow <= Int(Int32.max) else { throw HTTP2ConnectionError(.flowControlError, "the connection's window is too large") }
        } else {
            try checkKnown(stream)
            guard flows[stream] != nil || connection.isOpen(stream) else { return }
            let window = (flows[stream]?.window ?? initialSendWindow) + increment
            guard window <= Int(Int32.max) else { throw HTTP2ConnectionError(.flowControlError, "a stream's window is too large") }
            flows[stream, default: Flow(window: initialSendWindow)].window = window
            if window > 0, windowless.remove(stream) != nil { blocked.append(stream) }
        }
        pump()
    }

    private func apply(_ settings: [InboundFrame.Setting]) throws(HTTP2ConnectionError) {
        var window: Int?
        for setting in settings {
            switch setting.identifier {
            case 2: if setting.value > 1 { throw HTTP2ConnectionError(.protocolError, "ENABLE_PUSH is neither 0 nor 1") }
            case 4:
                guard setting.value <= UInt32(Int32.max) else { throw HTTP2ConnectionError(.flowControlError, "INITIAL_WINDOW_SIZE is too large") }
                window = Int(setting.value)
            case 5:
                guard (16_384...16_777_215).contains(setting.value) else { throw HTTP2ConnectionError(.protocolError, "MAX_FRAME_SIZE is out of bounds") }
                // Larger ones would make others wait longer, and win nothing.
            default: break
            }
        }
        if let window { try setInitialWindow(window) }
    }

    private func setInitialWindow(_ bytes: Int) throws(HTTP2ConnectionError) {
        let change = bytes - initialSendWindow
        initialSendWindow = bytes
        for stream in flows.keys.sorted() {
            guard let window = flows[stream]?.window, window + change <= Int(Int32.max) else {
                throw HTTP2ConnectionError(.flowControlError, "INITIAL_WINDOW_SIZE makes a window too large")
            }
            flows[stream]?.window = window + change
        }
        blocked.append(contentsOf: windowless.sorted())
        windowless.removeAll()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        connection.readComplete()
        flush()
        context.fireChannelReadComplete()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { pump() }
        connection.resumeWritable()
        connection.flush()
        flush()
        context.fireChannelWritabilityChanged()
    }

    // MARK: Out

    /// `:status: 200` from the static table, then `content-type: application/grpc` as a literal that no table keeps.
    private static let responseBlock: [UInt8] = [0x88, 0x0f, 0x10, 16] + Array("application/grpc".utf8)
    /// `grpc-status: 0`, the same way.
    private static let okBlock: [UInt8] = [0x00, 11] + Array("grpc-status".utf8) + [1, UInt8(ascii: "0")]
    private static let endStreamAndHeaders: UInt8 = 0x5, endHeaders: UInt8 = 0x4

    private func writeHead(length: Int, type: UInt8, flags: UInt8, _ stream: StreamID) {
        out.writeMultipleIntegers(UInt32(length) << 8 | UInt32(type), flags, stream.rawValue)
    }
    private func writeWindowUpdate(_ stream: StreamID, _ increment: Int) {
        writeHead(length: 4, type: 8, flags: 0, stream)
        out.writeInteger(UInt32(increment))
    }
    private func writeReset(_ stream: StreamID, _ number: HTTP2ErrorNumber) {
        writeHead(length: 4, type: 3, flags: 0, stream)
        out.writeInteger(number.rawValue)
    }
    private func writeGoAway(last: StreamID, _ number: HTTP2ErrorNumber) {
        writeHead(length: 8, type: 7, flags: 0, .connection)
        out.writeInteger(last.rawValue)
        out.writeInteger(number.rawValue)
    }

    func sendResponseHeaders(_ stream: StreamID) {
        writeHead(length: Self.responseBlock.count, type: 1, flags: Self.endHeaders, stream)
        out.writeBytes(Self.responseBlock)
    }

    func sendData(_ data: ByteBuffer, on stream: StreamID) {
        let count = data.readableBytes
        let flow = flows.isEmpty ? nil : flows[stream]
        let window = flow?.window ?? initialSendWindow
        if flow?.queue.isEmpty != false, mayWrite(count), count <= window, count <= FrameParser.payloadBytesMax {
            writeData(data, on: stream)  // The usual case.
            // A unary answer's stream ends here and needs no window; a stream that goes on does.
            if flow != nil || connection.isOpen(stream) { flows[stream] = Flow(window: window - count) }
            return
        }
        if flow?.queue.isEmpty != false { blocked.append(stream) }
        enqueue(data, on: stream)
        pump()
    }

    /// In its place: a second reference would have the whole queue copied for each message.
    private func enqueue(_ data: ByteBuffer, on stream: StreamID) {
        flows[stream, default: Flow(window: initialSendWindow)].queue.append(data)
    }

    private func mayWrite(_ count: Int) -> Bool {
        sendWindow >= count && blocked.isEmpty && context?.channel.isWritable == true
    }

    /// One frame's worth.
    private func writeData(_ data: ByteBuffer, on stream: StreamID) {
        let count = data.readableBytes
        sendWindow -= count
        writeHead(length: count, type: 0, flags: 0, stream)
        if count <= 4096 {
            out.writeImmutableBuffer(data)
        } else {
            // Large ones go as they are, behind what is written already.
            guard let context else { return }
            writeOut(context, flushing: false)
            context.write(Self.wrapOutboundOut(data), promise: nil)
        }
        connection.wrote(count, of: stream)
    }

    /// Hands on what is written. Taken first, since the socket may call back while it takes it; the memory comes back if it took it all.
    private func writeOut(_ context: ChannelHandlerContext, flushing: Bool) {
        var taken = ByteBuffer()
        swap(&taken, &out)
        if flushing { context.writeAndFlush(Self.wrapOutboundOut(taken), promise: nil) } else { context.write(Self.wrapOutboundOut(taken), promise: nil) }
        guard out.capacity == 0, taken.capacity <= Self.outBytesKept else { return }
        taken.clear(minimumCapacity: Self.outBytesMin)
        out = taken
    }

    /// Sends what windows and socket take, a frame of each blocked stream in turn.
    private func pump() {
        while let stream = blocked.first, sendWindow > 0, context?.channel.isWritable == true {
            blocked.removeFirst()
            switch takePiece(of: stream) {
            case .nothing: continue
            case .noWindow: windowless.insert(stream)  // It comes back with a window update of its own.
            case .piece(let piece, let isLast):
                writeData(piece, on: stream)
                if isLast { finishQueued(stream) } else { blocked.append(stream) }
            }
        }
    }

    private enum Taken {
        case nothing, noWindow
        case piece(ByteBuffer, isLast: Bool)
    }
    /// Changes the flow in its place: a queue may be long, and is not to be copied for each frame.
    private func takePiece(of stream: StreamID) -> Taken {
        guard let index = flows.index(forKey: stream), let first = flows.values[index].queue.first else { return .nothing }
        let waiting = first.readableBytes, window = flows.values[index].window
        let count = max(0, min(waiting, window, sendWindow, FrameParser.payloadBytesMax))
        guard count > 0 || waiting == 0 else { return .noWindow }
        var data = flows.values[index].queue.removeFirst()
        guard let piece = data.readSlice(length: count) else { return .nothing }
        flows.values[index].window -= count
        if data.readableBytes > 0 { flows.values[index].queue.prepend(data) }
        return .piece(piece, isLast: flows.values[index].queue.isEmpty)
    }
    private func finishQueued(_ stream: StreamID) {
        guard let flow = flows[stream], let trailers = flow.trailers else { return }
        flows[stream] = nil
        writeBlock(trailers, on: stream)
        if flow.stopsSender { writeReset(stream, .noError) }
    }

    private func writeBlock(_ block: ByteBuffer, on stream: StreamID) {
        writeHead(length: block.readableBytes, type: 1, flags: Self.endStreamAndHeaders, stream)
        out.writeImmutableBuffer(block)
    }

    func sendOKTrailers(_ stream: StreamID) {
        if !flows.isEmpty, let flow = flows[stream] {
            if flow.queue.isEmpty { flows[stream] = nil } else { flows[stream]?.trailers = ByteBuffer(bytes: Self.okBlock); return }
        }
        writeHead(length: Self.okBlock.count, type: 1, flags: Self.endStreamAndHeaders, stream)
        out.writeBytes(Self.okBlock)
    }

    func sendFinal(_ fields: [(name: String, value: String)], on stream: StreamID) {
        var block = connection.allocator.buffer(capacity: 128)
        for (name, value) in fields {
            block.writeInteger(UInt8(0))
            Self.writeText(name, to: &block)
            Self.writeText(value, to: &block)
        }
        if let flow = flows[stream], !flow.queue.isEmpty {
            flows[stream]?.trailers = block
        } else {
            flows[stream] = nil
            writeBlock(block, on: stream)
        }
    }

    /// A literal without Huffman's code: length (7-bit prefix), bytes.
    private static func writeText(_ text: String, to block: inout ByteBuffer) {
        var length = text.utf8.count
        if length < 127 {
            block.writeInteger(UInt8(length))
        } else {
            block.writeInteger(UInt8(127))
            length -= 127
            while length >= 128 {
                block.writeInteger(UInt8(length & 127) | 128)
                length >>= 7
            }
            block.writeInteger(UInt8(length))
        }
        block.writeString(text)
    }

    func sendStop(_ stream: StreamID) {
        if flows[stream]?.trailers != nil { flows[stream]?.stopsSender = true } else { writeReset(stream, .noError) }
    }
    func refill(_ stream: StreamID, by bytes: Int) { writeWindowUpdate(stream, bytes) }
    func sendGoAway(last: StreamID) { writeGoAway(last: last, .noError) }
    func sendPing() {
        writeHead(length: 8, type: 6, flags: 0, .connection)
        out.writeInteger(UInt64(0x636f_6666_6572))
    }

    private func drop(_ stream: StreamID) {
        guard !flows.isEmpty, flows.removeValue(forKey: stream) != nil else { return }
        blocked.removeAll { $0 == stream }
        windowless.remove(stream)
    }

    func flush() {
        guard let context, out.readableBytes > 0 else {
            context?.flush()
            return
        }
        writeOut(context, flushing: true)
    }
    func close() { context?.close(promise: nil) }
}

/// So many events in so many seconds, counted in windows one after another.
private struct RateLimit {
    let eventsMax: Int
    let seconds: Int64
    private var count = 0
    private var windowEnd = NIODeadline.uptimeNanoseconds(0)
    init(eventsMax: Int, seconds: Int64) { self.eventsMax = eventsMax; self.seconds = seconds }

    mutating func admits() -> Bool {
        let now = NIODeadline.now()
        if now >= windowEnd {
            windowEnd = now + .seconds(seconds)
            count = 0
        }
        count += 1
        return count <= eventsMax
    }
}
