import NIOCore
import NIOHPACK
import RPC

/// What the transport tests talk to: `/echo/Unary` answers what it got, `/echo/Stream` sends each message back, `/echo/Fail` fails,
/// `/echo/Never` leaves its calls open, `/echo/Flood` streams until it is told to pause.
struct EchoFactory: ServiceFactory {
    let pauses: @Sendable (Bool) -> Void
    let resets: @Sendable () -> Void
    init(pauses: @escaping @Sendable (Bool) -> Void = { _ in }, resets: @escaping @Sendable () -> Void = {}) {
        self.pauses = pauses
        self.resets = resets
    }
    func connected(_ transport: any ServerTransport) -> any ConnectionService { EchoService(transport, pauses: pauses, resets: resets) }
}

final class EchoService: ConnectionService {
    private let transport: any ServerTransport
    private let pauses: @Sendable (Bool) -> Void
    private let resets: @Sendable () -> Void
    private var mayFlood = true
    init(_ transport: any ServerTransport, pauses: @escaping @Sendable (Bool) -> Void, resets: @escaping @Sendable () -> Void) {
        self.transport = transport
        self.pauses = pauses
        self.resets = resets
    }

    func open(_ stream: StreamID, path: String, metadata: HPACKHeaders) -> CallShape {
        switch path {
        case "/echo/Unary": .unary(method: 0)
        case "/echo/Stream": .streaming(method: 1)
        case "/echo/Fail": .unary(method: 2)
        case "/echo/Never": .unary(method: 3)
        case "/echo/Flood": .streaming(method: 4)
        default: .refused(Status(.unimplemented, "unknown method \(path)"))
        }
    }
    func message(_ message: ByteBuffer, on stream: StreamID, method: Int) {
        switch method {
        case 0: transport.answer(framed(message), on: stream)
        case 1: transport.send(framed(message), on: stream)
        case 2: transport.finish(stream, Status(.notFound, "nöt found: 100%"))
        case 4: flood(stream)
        default: break
        }
        transport.flush()
    }
    private func flood(_ stream: StreamID) {
        while mayFlood { transport.send(framed(ByteBuffer(repeating: 7, count: 100_000)), on: stream) }
    }
    private func framed(_ message: ByteBuffer) -> ByteBuffer {
        MessageFraming.framed(capacity: message.readableBytes, allocator: transport.allocator) { buffer in _ = buffer.writeImmutableBuffer(message) }
    }
    func halfClose(_ stream: StreamID, method: Int) {
        transport.finish(stream, .ok)
        transport.flush()
    }
    func reset(_ stream: StreamID, method: Int) {
        mayFlood = false
        resets()
    }
    func writability(_ writable: Bool, of stream: StreamID, method: Int) {
        mayFlood = writable
        pauses(writable)
    }
    func readComplete() {}
    func closed() { mayFlood = false }
}
