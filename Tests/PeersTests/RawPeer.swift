import Basics
import Certificates
import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import Synchronization

@testable import Peers

/// Speaks TLS, and then says what a test wants.
final class RawPeer: Sendable {
    private let channel: any Channel
    private let received: Received
    var frames: [PeerFrame] { received.frames.withLock { $0 } }

    private final class Received: Sendable { let frames = Mutex<[PeerFrame]>([]) }
    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private var parser = PeerFrameParser()
        private let received: Received
        init(_ received: Received) { self.received = received }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = unwrapInboundIn(data)
            parser.append(&bytes)
            while let frame = try? parser.next() { received.frames.withLock { $0.append(frame) } }
        }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }

    private init(channel: any Channel, received: Received) {
        self.channel = channel
        self.received = received
    }

    static func configuration(_ files: PeerSecurity.Files) throws -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .file(files.authority)
        configuration.certificateChain = try NIOSSLCertificate.fromPEMFile(files.certificate).map { .certificate($0) }
        configuration.privateKey = .privateKey(try NIOSSLPrivateKey(file: files.key, format: .pem))
        configuration.applicationProtocols = ["coffer-peer/1"]
        return configuration
    }

    static func connect(to url: PeerURL, _ configuration: TLSConfiguration) async throws -> RawPeer {
        let context = try NIOSSLContext(configuration: configuration), received = Received()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(NIOSSLClientHandler(context: context, serverHostname: nil))
                    try channel.pipeline.syncOperations.addHandler(Handler(received))
                }
            }
            .connect(host: url.host, port: url.port).get()
        return RawPeer(channel: channel, received: received)
    }
    func write(_ frame: PeerFrame) {
        var buffer = ByteBuffer()
        buffer.write(frame)
        write(buffer)
    }
    func write(_ bytes: ByteBuffer) { channel.writeAndFlush(bytes, promise: nil) }
    func closed() async throws { try await channel.closeFuture.get() }
}
