import NIOCore

/// Notices that a client will send no more. Over HTTP/1.1 that is how one that goes away is seen: the connection stays open for answers
/// until something is written to it. (An HTTP/2 stream closes as a whole.) Lives on its channel's event loop.
final class InboundEnd: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = Any

    private var actions: [@Sendable () -> Void] = []
    private var hasEnded = false

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed { end() }
        context.fireUserInboundEventTriggered(event)
    }
    func channelInactive(context: ChannelHandlerContext) {
        end()
        context.fireChannelInactive()
    }

    private func whenEnded(_ action: @escaping @Sendable () -> Void) {
        if hasEnded { action() } else { actions.append(action) }
    }
    private func end() {
        hasEnded = true
        let actions = actions
        self.actions = []
        for action in actions { action() }
    }

    /// `action` is called at the end of the channel's input, or of the channel; once or twice.
    static func whenEnded(_ channel: any Channel, _ action: @escaping @Sendable () -> Void) {
        channel.closeFuture.whenComplete { _ in action() }
        channel.eventLoop.execute {
            guard let handler = try? channel.pipeline.syncOperations.handler(type: InboundEnd.self) else { return }
            handler.whenEnded(action)
        }
    }
}
