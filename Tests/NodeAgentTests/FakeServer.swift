import Basics
import Certificates
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import NodeAgent
import NodeProtocol
import SecretMemory
import Synchronization

/// A server that says what a test wants, over TLS with the node's certificate asked for, and remembers what it was told.
final class FakeServer: Sendable {
    struct Heard: Sendable {
        var requests: [SyncRequest] = []
        var acknowledgements: [Acknowledgement.Entry] = []
        /// Method, path and body of everything else.
        var calls: [String] = []
        var streams: [any Channel] = []
    }
    let heard = Mutex(Heard())
    /// How many acknowledgements are not taken, with 503.
    let refusals = Mutex(0)
    let options: ServerOptions
    private let channel: any Channel
    private let folder: String

    init() async throws {
        folder = "/tmp/coffer-pki-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: folder + "/nodes", withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        let directory = CertificateDirectory(path: folder), now = Date()
        let authority = try directory.authority(now: now)
        let credential = try directory.server(names: ["localhost", "127.0.0.1"], authority: authority, now: now)
        _ = try directory.client(file: "nodes/n1", .node("n1"), authority: authority, now: now)
        var tls = try TransportSecurity.server(credential, clients: authority.certificate, certificates: .required)
        tls.applicationProtocols = ["http/1.1"]
        let context = try NIOSSLContext(configuration: tls)
        let owner = Reference()
        channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: context))
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                    try channel.pipeline.syncOperations.addHandler(Responder(server: owner))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        options = ServerOptions(node: "n1", server: "https://127.0.0.1:\(channel.localAddress?.port ?? 0)", caFile: directory.authorityCertificatePath,
                                certificateFile: folder + "/nodes/n1.crt", keyFile: folder + "/nodes/n1.key")
        owner.server.withLock { $0 = self }
    }

    func close() async throws {
        cut()
        try await channel.close()
        try FileManager.default.removeItem(atPath: folder)
    }

    /// Sends raw bytes on every open stream.
    func send(_ bytes: Bytes) {
        for stream in heard.withLock({ $0.streams }) { stream.writeAndFlush(HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(bytes: bytes))), promise: nil) }
    }
    func send(_ message: SyncMessage) throws { send(try message.frames().flatMap { $0.withUnsafeBytes { Array($0) } }) }
    func cut() {
        let streams = heard.withLock { heard in
            defer { heard.streams = [] }
            return heard.streams
        }
        for stream in streams { stream.close(promise: nil) }
    }

    final class Reference: Sendable {
        let server = Mutex<FakeServer?>(nil)
    }

    private final class Responder: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart
        private let server: Reference
        private var head: HTTPRequestHead?
        private var body = ByteBuffer()
        init(server: Reference) { self.server = server }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head):
                self.head = head
                body.clear()
            case .body(let part): body.writeImmutableBuffer(part)
            case .end: answer(context)
            }
        }

        private func answer(_ context: ChannelHandlerContext) {
            guard let head, let server = server.server.withLock({ $0 }) else { return context.close(promise: nil) }
            let bytes = Array(body.readableBytesView)
            if head.uri.hasSuffix("/sync"), let request = try? SyncRequest(decoding: bytes) {
                context.writeAndFlush(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .ok))), promise: nil)
                server.heard.withLock {
                    $0.requests.append(request)
                    $0.streams.append(context.channel)
                }
                return
            }
            if head.uri.hasSuffix("/acks"), server.refusals.withLock({ if $0 > 0 { $0 -= 1; return true } else { return false } }) {
                let headers: HTTPHeaders = ["content-length": "0"]
                context.write(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .serviceUnavailable, headers: headers))), promise: nil)
                return context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
            }
            server.heard.withLock { heard in
                if head.uri.hasSuffix("/acks"), let acknowledgement = try? Acknowledgement(decoding: bytes) {
                    heard.acknowledgements += acknowledgement.entries
                } else {
                    heard.calls.append("\(head.method) \(head.uri) \(String(decoding: bytes, as: UTF8.self))")
                }
            }
            context.write(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .ok, headers: ["content-length": "2"]))), promise: nil)
            context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: "{}")))), promise: nil)
            context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        }
    }
}
