import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import RPC
import Testing

/// Everything twice: with our frames, and with swift-nio-http2's.
@Suite(.serialized) struct TransportTests {
    private static let group = MultiThreadedEventLoopGroup.singleton
    private let logger = Logger(label: "test")

    private func serving<R: Sendable>(
        _ frames: Server.Frames, _ factory: EchoFactory = EchoFactory(), connectionsMax: Int = 100, _ body: (Server) async throws -> R
    ) async throws -> R {
        let server = try await Server.listen(
            .init(host: "127.0.0.1", port: 0, connectionsMax: connectionsMax, frames: frames), group: Self.group, factory: factory, logger: logger)
        do {
            let result = try await body(server)
            await server.shutdown(grace: .milliseconds(200))
            return result
        } catch {
            await server.shutdown(grace: .milliseconds(200))
            throw error
        }
    }
    private func connect(_ server: Server) async throws -> Client {
        try await Client.connect(host: "127.0.0.1", port: server.port, on: Self.group)
    }
    private func frame(_ bytes: ByteBuffer) -> ByteBuffer {
        MessageFraming.framed(capacity: bytes.readableBytes, allocator: ByteBufferAllocator()) { buffer in _ = buffer.writeImmutableBuffer(bytes) }
    }
    private func status(_ body: () async throws -> Void) async throws -> Status {
        do { try await body() } catch let status as Status { return status }
        return .ok
    }

    @Test("a unary call is answered, empty or as large as a request may be", arguments: Server.Frames.allCases, [0, 1, 20_000, 1_572_864])
    func answersUnary(frames: Server.Frames, size: Int) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let message = ByteBuffer(repeating: 42, count: size)
            #expect(try await client.unary(path: "/echo/Unary", message: frame(message)) == message)
            await client.close()
        }
    }

    @Test("large messages on many streams of one connection do not wait for each other", arguments: Server.Frames.allCases)
    func answersInterleaved(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<12 {
                    group.addTask { try await client.unary(path: "/echo/Unary", message: frame(ByteBuffer(repeating: 1, count: 1_000_000))).readableBytes }
                }
                for try await size in group { #expect(size == 1_000_000) }
            }
            await client.close()
        }
    }

    @Test("a larger message than may be is refused, and the connection goes on", arguments: Server.Frames.allCases)
    func refusesOversize(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let refusal = try await status { _ = try await client.unary(path: "/echo/Unary", message: frame(ByteBuffer(repeating: 1, count: 3_000_000))) }
            #expect(refusal.code == .resourceExhausted)
            #expect(try await client.unary(path: "/echo/Unary", message: frame(ByteBuffer(string: "on"))) == ByteBuffer(string: "on"))
            await client.close()
        }
    }

    @Test("a compressed message is refused as unimplemented", arguments: Server.Frames.allCases)
    func refusesCompressed(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let refusal = try await status { _ = try await client.unary(path: "/echo/Unary", message: ByteBuffer(bytes: [1, 0, 0, 0, 0])) }
            #expect(refusal.code == .unimplemented)
            await client.close()
        }
    }

    @Test("a message cut short, none, or two in a unary call are errors", arguments: Server.Frames.allCases, [[0, 0, 0, 0, 9, 1], [], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] as [[UInt8]])
    func refusesBadFraming(frames: Server.Frames, bytes: [UInt8]) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let refusal = try await status { _ = try await client.unary(path: "/echo/Unary", message: ByteBuffer(bytes: bytes)) }
            #expect(refusal.code == .internal || refusal.code == .unimplemented)
            await client.close()
        }
    }

    @Test("an unknown method is unimplemented", arguments: Server.Frames.allCases)
    func refusesUnknown(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let refusal = try await status { _ = try await client.unary(path: "/nobody/Knows", message: frame(ByteBuffer())) }
            #expect(refusal == Status(.unimplemented, "unknown method /nobody/Knows"))
            await client.close()
        }
    }

    @Test("an error's text survives the header, whatever is in it", arguments: Server.Frames.allCases)
    func carriesText(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let failure = try await status { _ = try await client.unary(path: "/echo/Fail", message: frame(ByteBuffer())) }
            #expect(failure == Status(.notFound, "nöt found: 100%"))
            await client.close()
        }
    }

    @Test("a deadline ends a call that nobody answers, and the service hears of it", arguments: Server.Frames.allCases)
    func endsLateCalls(frames: Server.Frames) async throws {
        let resets = NIOLockedValueBox(0)
        try await serving(frames, EchoFactory(resets: { resets.withLockedValue { $0 += 1 } })) { server in
            let client = try await connect(server)
            let late = try await status { _ = try await client.unary(path: "/echo/Never", metadata: [("grpc-timeout", "80m")], message: frame(ByteBuffer())) }
            #expect(late.code == .deadlineExceeded)
            #expect(resets.withLockedValue { $0 } == 1)
            await client.close()
        }
    }

    @Test("a malformed deadline is refused", arguments: Server.Frames.allCases)
    func refusesBadDeadline(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let refusal = try await status { _ = try await client.unary(path: "/echo/Unary", metadata: [("grpc-timeout", "soon")], message: frame(ByteBuffer())) }
            #expect(refusal.code == .internal)
            await client.close()
        }
    }

    @Test("a streaming call goes both ways until the client half-closes", arguments: Server.Frames.allCases)
    func streams(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            let stream = try await client.stream(path: "/echo/Stream")
            stream.send(frame(ByteBuffer(string: "one")))
            var messages = stream.messages.makeAsyncIterator()
            #expect(try await messages.next() == ByteBuffer(string: "one"))
            stream.send(frame(ByteBuffer(repeating: 3, count: 1_000_000)))
            #expect(try await messages.next()?.readableBytes == 1_000_000)
            stream.halfClose()
            #expect(try await messages.next() == nil)
            await client.close()
        }
    }

    @Test("a streaming call that sends without end is paused, and goes on as the client reads", arguments: Server.Frames.allCases)
    func pausesFloods(frames: Server.Frames) async throws {
        let pauses = NIOLockedValueBox(0)
        try await serving(frames, EchoFactory(pauses: { writable in if !writable { pauses.withLockedValue { $0 += 1 } } })) { server in
            let client = try await connect(server)
            let stream = try await client.stream(path: "/echo/Flood")
            stream.send(frame(ByteBuffer(string: "go")))
            var received = 0
            for try await message in stream.messages {
                received += message.readableBytes
                if received > 1_000_000 { break }
            }
            let deadline = ContinuousClock.now + .seconds(60)
            while pauses.withLockedValue({ $0 }) == 0, ContinuousClock.now < deadline { await Task.yield() }
            #expect(pauses.withLockedValue { $0 } == 1)
            stream.cancel()
            await client.close()
        }
    }

    @Test("a burst of three thousand calls on one connection, far beyond its streams, is answered whole", arguments: Server.Frames.allCases)
    func answersBursts(frames: Server.Frames) async throws {
        try await serving(frames) { server in
            let client = try await connect(server)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for call in 0..<3_000 {
                    group.addTask {
                        let message = ByteBuffer(string: "\(call)")
                        let answer = try await client.unary(path: "/echo/Unary", message: frame(message))
                        #expect(answer == message)
                    }
                }
                try await group.waitForAll()
            }
            await client.close()
        }
    }

    @Test("connections beyond the bound are closed", arguments: Server.Frames.allCases)
    func boundsConnections(frames: Server.Frames) async throws {
        try await serving(frames, connectionsMax: 1) { server in
            let first = try await connect(server)
            #expect(try await first.unary(path: "/echo/Unary", message: frame(ByteBuffer())) == ByteBuffer())
            let refused = try await status {
                do {
                    let second = try await connect(server)
                    _ = try await second.unary(path: "/echo/Unary", message: frame(ByteBuffer()))
                } catch let status as Status { throw status } catch { throw Status(.unavailable, "\(error)") }
            }
            #expect(refused.code == .unavailable)
            #expect(try await first.unary(path: "/echo/Unary", message: frame(ByteBuffer())) == ByteBuffer())
            await first.close()
        }
    }

    @Test("shutdown lets a call in flight end, ends streams, and closes", arguments: Server.Frames.allCases)
    func drains(frames: Server.Frames) async throws {
        let server = try await Server.listen(
            .init(host: "127.0.0.1", port: 0, frames: frames), group: Self.group, factory: EchoFactory(), logger: logger)
        let client = try await connect(server)
        let stream = try await client.stream(path: "/echo/Stream")
        stream.send(frame(ByteBuffer(string: "here")))
        var messages = stream.messages.makeAsyncIterator()
        #expect(try await messages.next() == ByteBuffer(string: "here"))
        await server.shutdown(grace: .seconds(5))
        await #expect(throws: Status(.unavailable, "etcdserver: server stopped")) { try await messages.next() }
        #expect(server.connectionCount == 0)
        await client.close()
    }

    @Test("bytes that are no HTTP/2 close the connection, and the server goes on", arguments: Server.Frames.allCases, 0..<24)
    func survivesGarbage(frames: Server.Frames, seed: Int) async throws {
        try await serving(frames) { server in
            var generator = SystemRandomNumberGenerator()
            var bytes = ByteBuffer()
            // Some begin like a client does, so that the frame parser sees the garbage.
            if seed % 2 == 0 { bytes.writeString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); bytes.writeBytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) }
            if seed % 4 == 0 { bytes.writeBytes([0, 0, 40, UInt8(seed / 4), 5, 0, 0, 0, 1]) }
            bytes.writeBytes((0..<2_000).map { _ in UInt8.random(in: 0...255, using: &generator) })
            let channel = try await ClientBootstrap(group: Self.group).connect(host: "127.0.0.1", port: server.port).get()
            try? await channel.writeAndFlush(bytes)
            try? await channel.close()
            let client = try await connect(server)
            #expect(try await client.unary(path: "/echo/Unary", message: frame(ByteBuffer(string: "alive"))) == ByteBuffer(string: "alive"))
            await client.close()
        }
    }
}
