package import NIOCore
package import NIOHPACK

/// A call on a connection; HTTP/2's stream id, but users only compare it.
package struct StreamID: Hashable, Comparable, Sendable {
    package var rawValue: UInt32
    package init(_ rawValue: UInt32) { self.rawValue = rawValue }
    package static func < (a: StreamID, b: StreamID) -> Bool { a.rawValue < b.rawValue }
}

/// Who is at the other end, as far as the connection knows.
package struct Peer: Sendable {
    /// The certificate's bytes (DER), verified by TLS; `nil` on a connection without one.
    package var certificate: [UInt8]?
    package var address: String
    package init(certificate: [UInt8]? = nil, address: String) { self.certificate = certificate; self.address = address }
}

/// What a service wants done with a call that opens.
package enum CallShape: Sendable {
    /// One message in, one out. The message is delivered once, after the client has half-closed. `method` is the service's own number.
    case unary(method: Int)
    /// Messages in both directions, delivered as they come.
    case streaming(method: Int)
    case refused(Status)
}

/// The seam between gRPC's carrier and its users, upwards: what happens on one connection. Called on its event loop only.
///
/// For one stream: `open`, then `message`…, then `halfClose`, in this order; `reset` at any time after `open`, and nothing after it.
/// After the service finished a stream it hears nothing of it any more.
package protocol ConnectionService: AnyObject {
    func open(_ stream: StreamID, path: String, metadata: HPACKHeaders) -> CallShape
    func message(_ message: ByteBuffer, on stream: StreamID, method: Int)
    func halfClose(_ stream: StreamID, method: Int)
    /// The client went away, cancelled, or its deadline passed.
    func reset(_ stream: StreamID, method: Int)
    /// A streaming call has sent enough (`false`), or may go on (`true`).
    func writability(_ writable: Bool, of stream: StreamID, method: Int)
    /// All that one read from the network brought is delivered: the moment to hand work on as one batch.
    func readComplete()
    /// The connection is gone, all its streams with it (without a `reset` each).
    func closed()
}

/// The seam, downwards: what a service may ask of the carrier, on the event loop only. Messages are whole gRPC frames
/// (`MessageFraming.framed`). Nothing leaves before `flush`. Unknown or finished streams are ignored: a client may cancel at any time.
package protocol ServerTransport: AnyObject {
    var eventLoop: any EventLoop { get }
    var allocator: ByteBufferAllocator { get }
    var peer: Peer { get }
    /// Response headers of a streaming call, before its first message.
    func start(_ stream: StreamID)
    func send(_ message: ByteBuffer, on stream: StreamID)
    /// Trailers. A stream that was not started gets a trailers-only answer.
    func finish(_ stream: StreamID, _ status: Status)
    /// Headers, the one message and trailers of a unary call.
    func answer(_ message: ByteBuffer, on stream: StreamID)
    func flush()
}

/// Makes the service of each new connection.
package protocol ServiceFactory: Sendable {
    func connected(_ transport: any ServerTransport) -> any ConnectionService
}
