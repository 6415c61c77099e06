import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import Peers

@Suite("The loop that members' connections and the replica share")
struct PeerLoopTests {
    @Test("turns without end do not keep it from its connections")
    func fairness() async throws {
        let loop = PeerLoop(), flood = Flood(loop)
        final class Echo: ChannelInboundHandler {
            typealias InboundIn = ByteBuffer
            func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.writeAndFlush(data, promise: nil) }
        }
        let server = try await ServerBootstrap(group: loop.group)
            .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Echo()) } }
            .bind(host: "127.0.0.1", port: 0).get()
        flood.begin()
        let client = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connect(to: try #require(server.localAddress)) { channel in
                channel.eventLoop.makeCompletedFuture { try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel) }
            }
        try await client.executeThenClose { inbound, outbound in
            var answers = inbound.makeAsyncIterator()
            for number in 0..<100 {
                try await outbound.write(ByteBuffer(integer: UInt64(number)))
                #expect(try await answers.next()?.readableBytes == 8)
            }
        }
        #expect(flood.end() > 100, "and turns go on")
        try await server.close()
        await loop.shutDown()
    }

    /// Schedules itself again with every turn, as busy clients do.
    private final class Flood: Sendable {
        private let loop: PeerLoop
        private let state = Mutex((turns: 0, isOver: false))
        init(_ loop: PeerLoop) { self.loop = loop }
        func begin() {
            loop.schedule {
                guard !self.state.withLock({ state in state.turns += 1; return state.isOver }) else { return false }
                self.begin()
                return true
            }
        }
        func end() -> Int { state.withLock { state in state.isOver = true; return state.turns } }
    }
}
