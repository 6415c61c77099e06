import HummingbirdCore
import Logging
import NIOCore
import NIOSSL

/// Ends a connection that has not come to speak in time: within `APILimits.firstBytesMilliseconds` of being accepted it must be through with TLS and have
/// sent something of a request. Idle times count only from there; without this, whoever can connect, with no certificate at all, could hold
/// all the connections there may be for ever.
struct SpeakingInTime<Base: ServerChildChannel>: ServerChildChannel {
    let base: Base
    let milliseconds: Int64

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Base.Value> {
        base.setup(channel: channel, logger: logger).flatMapThrowing { value in
            let operations = channel.pipeline.syncOperations
            try operations.addHandler(FirstBytes(within: .milliseconds(milliseconds)), position: .after(operations.handler(type: NIOSSLServerHandler.self)))
            return value
        }
    }
    func handle(value: Base.Value, logger: Logger) async { await base.handle(value: value, logger: logger) }
}

/// Stands behind TLS. Lives on its channel's event loop.
private final class FirstBytes: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    /// HTTP/2's preface; the first line of a request is hardly shorter.
    private static let bytesMin = 24
    private let limit: TimeAmount
    private var bytes = 0
    private var deadline: Scheduled<Void>?

    init(within limit: TimeAmount) { self.limit = limit }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        deadline = context.eventLoop.scheduleTask(in: limit) { channel.close(promise: nil) }
    }
    func handlerRemoved(context: ChannelHandlerContext) { deadline?.cancel() }
    func channelInactive(context: ChannelHandlerContext) {
        deadline?.cancel()
        context.fireChannelInactive()
    }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if deadline != nil {
            bytes += Self.unwrapInboundIn(data).readableBytes
            if bytes >= Self.bytesMin {
                deadline?.cancel()
                deadline = nil
            }
        }
        context.fireChannelRead(data)
    }
}
