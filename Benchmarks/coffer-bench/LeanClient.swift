import EtcdProtocol
import NIOCore
import NIOHPACK
import NIOPosix
import RPC

/// One connection's share of the clients, as lean as HTTP/2 lets a client be: what the generator costs is taken from the server it
/// shares the machine with. Each request is a header block of indexed fields and one DATA frame, from a template; of each answer the
/// status is checked and the time taken. Event loop only.
final class LeanClient: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var context: ChannelHandlerContext?
    private var parser = FrameParser(role: .client)
    private var decoder = HPACKDecoder(allocator: ByteBufferAllocator())
    /// Trailers of indexed fields only that said OK.
    private var knownOK: ByteBuffer?
    private let path: String
    private let authority: String
    private let template: ByteBuffer
    private let keyOffset: Int
    private let keys: Int
    private let clients: Int
    private var generator: SeededDigits
    private var begun: [UInt64]
    private var nextStream: UInt32 = 1
    private var sentHeaders = false
    private var sendWindow = 65_535
    private var consumed = 0
    /// Clients that wait for the server's window.
    private var waiting: [Int] = []
    private var clientOfStream: [UInt32: Int] = [:]
    private var out = ByteBuffer()

    var measures = false
    var stopped = false
    private(set) var open = 0
    private(set) var answered = 0
    private(set) var failure: String?
    private(set) var latencies = Histogram()

    private static let windowBytes = 256 << 20

    init(_ load: Load, authority: String, clients: Int, seed: UInt64) throws {
        self.authority = authority
        self.clients = clients
        keys = load.keys
        generator = SeededDigits(seed: seed)
        begun = Array(repeating: 0, count: clients)
        let key = Array("bench/00000000".utf8)
        var message: ByteBuffer
        switch load.kind {
        case .put:
            path = "/etcdserverpb.KV/Put"
            let request = PutRequestMessage(key: key, value: ByteBuffer(repeating: 0x76, count: load.valueBytes))
            message = try MessageFraming.framed(capacity: 512, allocator: ByteBufferAllocator()) { buffer throws in try request.encode(into: &buffer) }
        case .range:
            path = "/etcdserverpb.KV/Range"
            let request = RangeRequestMessage(key: key)
            message = try MessageFraming.framed(capacity: 64, allocator: ByteBufferAllocator()) { buffer throws in try request.encode(into: &buffer) }
        }
        guard message.readableBytes <= FrameParser.payloadBytesMax else { throw Failure("values of at most \(FrameParser.payloadBytesMax - 64) bytes") }
        // Both requests begin with the key: prefix, tag, length, "bench/", then the digits.
        keyOffset = MessageFraming.prefixBytes + 2 + 6
        template = message
    }

    static func connect(
        _ load: Load, to server: ServerUnderTest, clients: Int, seed: UInt64, group: any EventLoopGroup
    ) async throws -> (any Channel, NIOLoopBound<LeanClient>) {
        let channel = try await ClientBootstrap(group: group).channelOption(.tcpOption(.tcp_nodelay), value: 1).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(LeanClient(load, authority: "\(server.host):\(server.port)", clients: clients, seed: seed))
            }
        }.connect(host: server.host, port: server.port).get()
        let bound = try await channel.eventLoop.submit {
            NIOLoopBound(try channel.pipeline.syncOperations.handler(type: LeanClient.self), eventLoop: channel.eventLoop)
        }.get()
        return (channel, bound)
    }

    // MARK: Out

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func channelActive(context: ChannelHandlerContext) {
        out.writeString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        writeHead(length: 12, type: 4, flags: 0, stream: 0)
        out.writeMultipleIntegers(UInt16(2), UInt32(0), UInt16(4), UInt32(1 << 20))  // No pushes; streams' windows.
        writeWindowUpdate(Self.windowBytes - 65_535)
        flush()
        context.fireChannelActive()
    }

    func start() {
        for client in 0..<clients { send(client) }
        flush()
    }

    private func writeHead(length: Int, type: UInt8, flags: UInt8, stream: UInt32) {
        out.writeMultipleIntegers(UInt32(length) << 8 | UInt32(type), flags, stream)
    }
    private func writeWindowUpdate(_ increment: Int) {
        writeHead(length: 4, type: 8, flags: 0, stream: 0)
        out.writeInteger(UInt32(increment))
    }

    /// The first request's fields enter the server's table, in this order; the later ones point at them there.
    private func headerBlock() -> [UInt8] {
        let fields: [(name: UInt8, value: String)] = [(4, path), (1, authority), (31, "application/grpc")]
        guard sentHeaders else {
            sentHeaders = true
            var block: [UInt8] = [0x83, 0x86]  // POST, http.
            for (name, value) in fields { block += [0x40 | name, UInt8(value.utf8.count)] + Array(value.utf8) }
            block += [0x40, 2] + Array("te".utf8) + [8] + Array("trailers".utf8)
            return block
        }
        return [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]
    }

    private func send(_ client: Int) {
        guard sendWindow >= template.readableBytes else { return waiting.append(client) }
        sendWindow -= template.readableBytes
        let block = headerBlock()
        writeHead(length: block.count, type: 1, flags: 0x4, stream: nextStream)
        out.writeBytes(block)
        writeHead(length: template.readableBytes, type: 0, flags: 0x1, stream: nextStream)
        let at = out.writerIndex
        out.writeImmutableBuffer(template)
        out.setBytes(generator.digits(below: keys), at: at + keyOffset)
        clientOfStream[nextStream] = client
        nextStream += 2
        open += 1
        begun[client] = monotonicNanoseconds()
    }

    private func flush() {
        guard out.readableBytes > 0, let context else { return }
        let taken = out
        out = context.channel.allocator.buffer(capacity: 16 << 10)
        context.writeAndFlush(Self.wrapOutboundOut(taken), promise: nil)
    }

    // MARK: In

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        parser.append(Self.unwrapInboundIn(data))
        do {
            while let frame = try parser.next() { try receive(frame) }
        } catch {
            fail("\(error)")
        }
    }
    func channelReadComplete(context: ChannelHandlerContext) { flush() }
    func channelInactive(context: ChannelHandlerContext) {
        self.context = nil
        if open > 0 { fail("the server closed the connection") }
    }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        fail("\(error)")
        context.close(promise: nil)
    }
    private func fail(_ reason: String) { failure = failure ?? reason }

    private func receive(_ frame: InboundFrame) throws {
        switch frame {
        case .headerBlock(let stream, let block, let endStream):
            let isOK = try endsWell(block, endStream: endStream)
            if endStream { finish(stream.rawValue, isOK) }
        case .data(_, _, let flowBytes, let endStream):
            if endStream { fail("an answer without trailers") }
            consumed += flowBytes
            if consumed > Self.windowBytes / 2 {
                writeWindowUpdate(consumed)
                consumed = 0
            }
        case .settings(let settings):
            for setting in settings where setting.identifier == 3 && Int(setting.value) < clients { fail("the server takes \(setting.value) streams only") }
            writeHead(length: 0, type: 4, flags: 1, stream: 0)
        case .ping(let opaque):
            writeHead(length: 8, type: 6, flags: 1, stream: 0)
            out.writeInteger(opaque)
        case .windowUpdate(let stream, let increment):
            guard stream.rawValue == 0 else { return }
            sendWindow += increment
            let resumed = waiting
            waiting.removeAll(keepingCapacity: true)
            for client in resumed { send(client) }
        case .reset: fail("a stream was reset")
        case .goAway: fail("the server is going away")
        case .settingsAcknowledged, .pingAnswer, .ignored: break
        }
    }

    /// Every block is read, since it may change the table; but trailers that repeat known ones, in indexed fields only, mean the same.
    private func endsWell(_ block: ByteBuffer, endStream: Bool) throws -> Bool {
        let isIndexed = block.readableBytesView.allSatisfy { $0 & 0x80 != 0 && $0 != 0xff }
        if isIndexed, !endStream { return true }
        if isIndexed, block == knownOK { return true }
        var rest = block
        let headers = try decoder.decodeHeaders(from: &rest)
        if !isIndexed { knownOK = nil }
        guard endStream else { return true }
        guard headers.first(name: "grpc-status") == "0" else {
            fail("\(headers.first(name: "grpc-status") ?? "no status") \(headers.first(name: "grpc-message") ?? "")")
            return false
        }
        if isIndexed { knownOK = block }
        return true
    }

    private func finish(_ stream: UInt32, _ isOK: Bool) {
        guard let client = clientOfStream.removeValue(forKey: stream) else { return fail("an answer to no request") }
        open -= 1
        guard isOK else { return }
        if measures {
            answered += 1
            latencies.add(nanoseconds: monotonicNanoseconds() - begun[client])
        }
        if !stopped { send(client) }
    }
}
