import Basics
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import RPC
import Testing

/// A client that speaks frames byte by byte, against both kinds of frames.
@Suite(.serialized) struct HostileClientTests {
    private static let group = MultiThreadedEventLoopGroup.singleton
    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

    private func frame(_ type: UInt8, flags: UInt8 = 0, stream: UInt32 = 0, _ payload: [UInt8] = []) -> [UInt8] {
        let length = payload.count
        return [UInt8(length >> 16), UInt8(length >> 8 & 255), UInt8(length & 255), type, flags]
            + [UInt8(stream >> 24), UInt8(stream >> 16 & 255), UInt8(stream >> 8 & 255), UInt8(stream & 255)] + payload
    }
    /// POST /echo/Unary, application/grpc, as literals.
    private func head(_ path: String = "/echo/Unary") -> [UInt8] {
        func text(_ text: String) -> [UInt8] { [UInt8(text.utf8.count)] + Array(text.utf8) }
        return [0x83, 0x86, 0x04] + text(path) + [0x00] + text("content-type") + text("application/grpc") + [0x00] + text("te") + text("trailers")
    }

    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let sink: NIOLockedValueBox<[UInt8]>
        init(_ sink: NIOLockedValueBox<[UInt8]>) { self.sink = sink }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let bytes = Self.unwrapInboundIn(data).readableBytesView
            sink.withLockedValue { $0 += bytes }
        }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }

    /// Sends, and answers what comes back until the server closes or `isEnough`.
    private func exchange(
        _ frames: Server.Frames, _ bytes: [UInt8], isEnough: @Sendable ([UInt8]) -> Bool = { _ in false }
    ) async throws -> (received: [UInt8], closed: Bool) {
        let server = try await Server.listen(
            .init(host: "127.0.0.1", port: 0, frames: frames), group: Self.group, factory: EchoFactory(), logger: Logger(label: "test"))
        let received = NIOLockedValueBox<[UInt8]>([]), closed = NIOLockedValueBox(false)
        let channel = try await ClientBootstrap(group: Self.group).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Collector(received)) }
        }.connect(host: "127.0.0.1", port: server.port).get()
        channel.closeFuture.whenComplete { _ in closed.withLockedValue { $0 = true } }
        try? await channel.writeAndFlush(ByteBuffer(bytes: bytes))
        let deadline = ContinuousClock.now + .seconds(10)
        while !closed.withLockedValue({ $0 }), !isEnough(received.withLockedValue { $0 }), ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(2))
        }
        let result = (received.withLockedValue { $0 }, closed.withLockedValue { $0 })
        try? await channel.close()
        await server.shutdown(grace: .milliseconds(50))
        return result
    }
    private func begun(_ frames: [UInt8]...) -> [UInt8] { Self.preface + frame(4) + frames.flatMap { $0 } }
    /// Frames of a type in what a server sent.
    private static func count(_ type: UInt8, in bytes: [UInt8]) -> Int {
        var position = 0, count = 0
        while position + 9 <= bytes.count {
            if bytes[position + 3] == type { count += 1 }
            position += 9 + Int(bytes[position]) << 16 + Int(bytes[position + 1]) << 8 + Int(bytes[position + 2])
        }
        return count
    }

    @Test("a call spoken byte by byte is answered with headers, data and trailers", arguments: Server.Frames.allCases)
    func answers(frames: Server.Frames) async throws {
        let request: [UInt8] = [0, 0, 0, 0, 2, 7, 9]
        let (received, closed) = try await exchange(frames, begun(frame(1, flags: 4, stream: 1, head()), frame(0, flags: 1, stream: 1, request))) {
            Self.count(1, in: $0) >= 2
        }
        #expect(!closed && Self.count(1, in: received) == 2 && Self.count(0, in: received) == 1)
        #expect(received.indices.contains { received[$0...].starts(with: request) })
    }

    @Test("what breaks the protocol ends the connection with GOAWAY", arguments: Server.Frames.allCases)
    func endsConnections(frames: Server.Frames) async throws {
        var openings: [[UInt8]] = [
            frame(0, stream: 1, [1]), frame(1, flags: 4, stream: 2, head()), frame(1, flags: 4, stream: 1, [0xff, 0xff, 0xff, 0xff, 0xff]),
            frame(8, [0, 0, 0, 0]), frame(8, [0x7f, 0xff, 0xff, 0xff]) + frame(8, [0x7f, 0xff, 0xff, 0xff]), frame(4, [0, 4, 0xff, 0xff, 0xff, 0xff]),
            frame(3, stream: 99, [0, 0, 0, 8]), frame(1, stream: 1, head()) + frame(6, [UInt8](repeating: 0, count: 8)),
        ]
        if frames == .own { openings.append(frame(5, stream: 1, [0, 0, 0, 2])) }  // swift-nio-http2 resets the stream only.
        for opening in openings {
            let (received, closed) = try await exchange(frames, begun(opening))
            #expect(closed && Self.count(7, in: received) >= 1, "\(opening.prefix(12))")
        }
    }

    @Test("a flood of resets ends the connection", arguments: Server.Frames.allCases)
    func endsResetFloods(frames: Server.Frames) async throws {
        var flood: [UInt8] = []
        for call in 0..<6_000 {
            let stream = UInt32(call * 2 + 1)
            flood += frame(1, flags: 4, stream: stream, head("/echo/Never")) + frame(3, stream: stream, [0, 0, 0, 8])
        }
        #expect(try await exchange(frames, begun(flood)).closed)
    }

    @Test("a flood of pings ends the connection", arguments: Server.Frames.allCases)
    func endsPingFloods(frames: Server.Frames) async throws {
        let ping = frame(6, [UInt8](repeating: 0, count: 8))
        #expect(try await exchange(frames, begun([UInt8]((0..<25_000).flatMap { _ in ping }))).closed)
    }

    @Test("data after the end of a call does not call again", arguments: Server.Frames.allCases)
    func refusesDataAfterTheEnd(frames: Server.Frames) async throws {
        let request = frame(0, flags: 1, stream: 1, [0, 0, 0, 0, 0])
        let (received, _) = try await exchange(frames, begun(frame(1, flags: 4, stream: 1, head("/echo/Never")), request, request, frame(6, [UInt8](repeating: 0, count: 8)))) {
            Self.count(6, in: $0) >= 1
        }
        #expect(Self.count(0, in: received) == 0)
    }

    @Test("an answer waits for the client's windows, piece by piece")
    func waitsForWindows() async throws {
        // Windows of ten bytes for streams, then five more by update: fifteen of twenty arrive.
        let small = frame(4, [0, 4, 0, 0, 0, 10])
        let request: [UInt8] = [0, 0, 0, 0, 15] + [UInt8](repeating: 7, count: 15)
        let frames = begun(small, frame(1, flags: 4, stream: 1, head()), frame(0, flags: 1, stream: 1, request), frame(8, stream: 1, [0, 0, 0, 5]))
        let (received, closed) = try await exchange(.own, frames) {
            Self.count(0, in: $0) >= 2
        }
        #expect(!closed && Self.count(1, in: received) == 1, "trailers wait behind the data")
        let (whole, _) = try await exchange(
            .own, begun(small, frame(1, flags: 4, stream: 1, head()), frame(0, flags: 1, stream: 1, request), frame(8, stream: 1, [0, 0, 0, 5]), frame(4, [0, 4, 0, 0, 0, 20]))
        ) { Self.count(1, in: $0) >= 2 }
        #expect(Self.count(1, in: whole) == 2 && Self.count(0, in: whole) == 3)
    }

    @Test("more streams than may be are refused, not served", arguments: Server.Frames.allCases)
    func boundsStreams(frames: Server.Frames) async throws {
        var calls: [UInt8] = []
        for call in 0..<1_100 { calls += frame(1, flags: 4, stream: UInt32(call * 2 + 1), head("/echo/Never")) }
        let (received, closed) = try await exchange(frames, begun(calls)) { Self.count(3, in: $0) >= 100 }
        #expect(closed || Self.count(3, in: received) == 100)
    }

    private func message(_ bytes: [UInt8]) -> [UInt8] {
        [0] + withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { [UInt8]($0) } + bytes
    }
    private func data(_ stream: UInt32, _ bytes: [UInt8], end: Bool) -> [UInt8] {
        let starts = Array(stride(from: 0, to: bytes.count, by: 16_384))
        return starts.flatMap { start in
            frame(0, flags: end && start == starts.last ? 1 : 0, stream: stream, [UInt8](bytes[start..<min(start + 16_384, bytes.count)]))
        }
    }

    @Test("whole messages that wait for the end of their calls are bounded as unfinished ones are")
    func boundsWaitingMessages() async throws {
        let large = message([UInt8](repeating: 1, count: 1_500_000))
        var calls: [UInt8] = []
        for call in 0..<50 { calls += frame(1, flags: 4, stream: UInt32(call * 2 + 1), head("/echo/Never")) + data(UInt32(call * 2 + 1), large, end: false) }
        let (received, _) = try await exchange(.own, begun(calls)) { Self.count(1, in: $0) >= 1 }
        #expect(Self.count(1, in: received) >= 1, "of fifty calls of 1.5 MB some are refused")
    }

    @Test("calls whose answers wait for the client's window count as open")
    func boundsWaitingAnswers() async throws {
        var calls = frame(4, [0, 4, 0, 0, 0, 0])
        for call in 0..<1_100 {
            let stream = UInt32(call * 2 + 1)
            calls += frame(1, flags: 4, stream: stream, head()) + frame(0, flags: 1, stream: stream, message([7]))
        }
        let (received, closed) = try await exchange(.own, begun(calls)) { Self.count(3, in: $0) >= 100 }
        #expect(!closed && Self.count(3, in: received) == 100)
    }

    @Test("calls ended by their client's mistakes are counted as resets", arguments: ["data", "trailers"])
    func countsMistakesAsResets(kind: String) async throws {
        var flood: [UInt8] = []
        for call in 0..<6_000 {
            let stream = UInt32(call * 2 + 1)
            flood += frame(1, flags: 4, stream: stream, head("/echo/Never")) + frame(0, flags: 1, stream: stream, message([]))
            flood += kind == "data" ? frame(0, stream: stream, [0]) : frame(1, flags: 5, stream: stream, head("/echo/Never"))
        }
        #expect(try await exchange(.own, begun(flood)).closed)
    }

    @Test("a flood of SETTINGS ends the connection", arguments: Server.Frames.allCases)
    func endsSettingsFloods(frames: Server.Frames) async throws {
        let settings = frame(4, [0, 4, 0, 0, 0, 1])
        #expect(try await exchange(frames, begun([UInt8]((0..<25_000).flatMap { _ in settings }))).closed)
    }

    /// Writes until the server has closed the connection, and reads nothing.
    private func isClosedUnread(_ bytes: [UInt8]) async throws -> Bool {
        let server = try await Server.listen(
            .init(host: "127.0.0.1", port: 0), group: Self.group, factory: EchoFactory(), logger: Logger(label: "test"))
        let channel = try await ClientBootstrap(group: Self.group).channelOption(.autoRead, value: false)
            .connect(host: "127.0.0.1", port: server.port).get()
        channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
        let deadline = ContinuousClock.now + .seconds(20)
        var begun = false
        while !begun || server.connectionCount > 0, ContinuousClock.now < deadline {
            begun = begun || server.connectionCount > 0
            try await Task.sleep(for: .milliseconds(2))
        }
        let closed = server.connectionCount == 0
        try? await channel.close()
        await server.shutdown(grace: .milliseconds(50))
        return closed
    }

    @Test("a client that is refused again and again and reads no answer loses its connection")
    func endsUnreadRefusals() async throws {
        var calls: [UInt8] = []
        let block = head("/" + String(repeating: "%", count: 100))  // Three times as long in the answer's text.
        for call in 0..<40_000 { calls += frame(1, flags: 5, stream: UInt32(call * 2 + 1), block) }
        #expect(try await isClosedUnread(begun(calls)))
    }

    @Test("a stream whose answers are not read ends when the connection's answers are too many")
    func boundsAnswersOfStreams() async throws {
        // Each message is sent back, and the client's windows take nothing: 64 MiB wait, and the next message ends the stream.
        let isReset = NIOLockedValueBox(false)
        let server = try await Server.listen(
            .init(host: "127.0.0.1", port: 0), group: Self.group,
            factory: EchoFactory(resets: { isReset.withLockedValue { $0 = true } }), logger: Logger(label: "test"))
        let channel = try await ClientBootstrap(group: Self.group).connect(host: "127.0.0.1", port: server.port).get()
        var conversation = frame(4, [0, 4, 0, 0, 0, 0]) + frame(1, flags: 4, stream: 1, head("/echo/Stream"))
        let echoed = data(1, message([UInt8](repeating: 1, count: 1 << 20)), end: false)
        for _ in 0..<70 { conversation += echoed }
        try? await channel.writeAndFlush(ByteBuffer(bytes: begun(conversation)))
        let deadline = ContinuousClock.now + .seconds(20)
        while !isReset.withLockedValue({ $0 }), ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(2)) }
        #expect(isReset.withLockedValue { $0 })
        try? await channel.close()
        await server.shutdown(grace: .milliseconds(50))
    }

    // MARK: Random conversations

    private struct Generator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
        mutating func number(below bound: Int) -> Int { Int(next() % UInt64(bound)) }
        mutating func bytes(below bound: Int) -> [UInt8] { (0..<number(below: bound)).map { _ in UInt8(truncatingIfNeeded: next()) } }
        mutating func one<T>(_ items: [T]) -> T { items[number(below: items.count)] }
    }

    /// A frame that begins well: header blocks that are nearly right, settings and windows at their ends, gRPC's lengths that lie.
    private func frame(_ generator: inout Generator) -> [UInt8] {
        let stream = UInt32(generator.one([1, 1, 3, 5, 0, 2, 0x7fff_ffff]))
        switch generator.number(below: 12) {
        case 0...3:
            var block = generator.number(below: 8) == 0 ? generator.bytes(below: 80) : head()
            for _ in 0..<generator.number(below: 3) where !block.isEmpty {
                block[generator.number(below: block.count)] = UInt8(truncatingIfNeeded: generator.next())
            }
            // Table sizes, indices and lengths as HPACK's integers, up to ten bytes of them.
            if generator.number(below: 4) == 0 {
                block.append(generator.one([0x3f, 0xff, 0x7f, 0x40, 0x1f, 0x20]))
                block += [UInt8](repeating: 0xff, count: generator.number(below: 11)) + [generator.one([0, 0x7f])]
            }
            return frame(1, flags: generator.one([4, 5, 4, 0, 12, 36]), stream: stream, block)
        case 4...6:
            let length = generator.one([0, 1, 5, 0x00ff_ffff, 0xffff_ffff] as [UInt32])
            let message = [generator.one([0, 0, 1, 9]), UInt8(length >> 24), UInt8(length >> 16 & 255), UInt8(length >> 8 & 255), UInt8(length & 255)]
            return frame(0, flags: generator.one([0, 1, 8, 9]), stream: stream, message + generator.bytes(below: 12))
        case 7:
            let value = generator.one([0, 1, 0x3fff, 0x4000, 0xff_ffff, 0x7fff_ffff, 0xffff_ffff] as [UInt32])
            return frame(4, [0, UInt8(generator.number(below: 9)), UInt8(value >> 24), UInt8(value >> 16 & 255), UInt8(value >> 8 & 255), UInt8(value & 255)])
        case 8:
            let increments: [[UInt8]] = [[0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 1], [0xff, 0xff, 0xff, 0xff], [0, 0]]
            return frame(8, stream: generator.one([0, stream]), generator.one(increments))
        case 9: return frame(3, stream: stream, [0, 0, 0, 8])
        case 10: return frame(9, flags: 4, stream: stream, generator.bytes(below: 40))
        default: return frame(UInt8(generator.number(below: 12)), flags: UInt8(truncatingIfNeeded: generator.next()), stream: stream, generator.bytes(below: 60))
        }
    }

    @Test("random conversations, nearly right, end with answers or with the connection, and the server goes on", arguments: Server.Frames.allCases)
    func randomConversations(frames: Server.Frames) async throws {
        let server = try await Server.listen(
            .init(host: "127.0.0.1", port: 0, frames: frames), group: Self.group, factory: EchoFactory(), logger: Logger(label: "test"))
        var generator = Generator(state: 7)
        for _ in 0..<250 {
            let received = NIOLockedValueBox<[UInt8]>([]), closed = NIOLockedValueBox(false)
            let channel = try await ClientBootstrap(group: Self.group).channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Collector(received)) }
            }.connect(host: "127.0.0.1", port: server.port).get()
            channel.closeFuture.whenComplete { _ in closed.withLockedValue { $0 = true } }
            var conversation = begun()
            for _ in 0...generator.number(below: 12) { conversation += frame(&generator) }
            // Whoever reads to here answers the ping; whoever waits for the rest of a header block is left alone.
            conversation += frame(6, [1, 2, 3, 4, 5, 6, 7, 8])
            try? await channel.writeAndFlush(ByteBuffer(bytes: conversation))
            let deadline = ContinuousClock.now + .milliseconds(200)
            while !closed.withLockedValue({ $0 }), Self.count(6, in: received.withLockedValue { $0 }) == 0, ContinuousClock.now < deadline {
                await Task.yield()
            }
            try? await channel.close()
        }
        let client = try await Client.connect(host: "127.0.0.1", port: server.port, on: Self.group)
        let answer = try await client.unary(path: "/echo/Unary", message: ByteBuffer(bytes: [0, 0, 0, 0, 10] + Array("still here".utf8)))
        #expect(String(buffer: answer) == "still here")
        await client.close()
        await server.shutdown(grace: .milliseconds(50))
    }
}
