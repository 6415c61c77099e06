import NIOCore
import NIOHPACK

/// HTTP/2 below gRPC, as `ServerConnection` uses it: frames out. Frames in arrive by the connection's `received…` methods.
/// Two implementations: `FrameHandler` (ours) and `NIOFrameHandler` (on swift-nio-http2), held together by the same tests.
///
/// Bytes of DATA that the client's windows, or the socket, do not take yet wait here; `ServerConnection.wrote` hears of those that left.
protocol FrameLayer: AnyObject {
    /// `:status 200` and the content type.
    func sendResponseHeaders(_ stream: StreamID)
    func sendData(_ data: ByteBuffer, on stream: StreamID)
    /// `grpc-status: 0`, and the end of the stream.
    func sendOKTrailers(_ stream: StreamID)
    /// Other trailers, or a whole answer without a message. Ends the stream.
    func sendFinal(_ fields: [(name: String, value: String)], on stream: StreamID)
    /// The client may stop sending: the answer is complete.
    func sendStop(_ stream: StreamID)
    /// `bytes` of a streaming call's request were taken.
    func refill(_ stream: StreamID, by bytes: Int)
    func sendGoAway(last: StreamID)
    func sendPing()
    func flush()
    func close()
    var channel: (any Channel)? { get }
}

extension StreamID {
    /// Frames that concern the connection.
    static let connection = StreamID(0)
    /// In a GOAWAY: every stream the client may have opened.
    static let greatest = StreamID(UInt32(Int32.max))
}

/// What a call's HEADERS say, read once; a client that repeats itself is not read again.
struct RequestHead {
    enum Shape {
        case call(path: String)
        /// No gRPC: POST and its content type are missing.
        case foreign
        case refused(Status)
    }
    var shape: Shape
    var timeout: TimeAmount?
    var metadata: HPACKHeaders

    init(_ headers: HPACKHeaders) {
        metadata = headers
        guard headers.first(name: ":method") == "POST", let path = headers.first(name: ":path"),
              headers.first(name: "content-type")?.hasPrefix("application/grpc") == true else {
            shape = .foreign
            return
        }
        shape = .call(path: path)
        if let encoding = headers.first(name: "grpc-encoding"), encoding != "identity" {
            shape = .refused(Status(.unimplemented, "grpc: message encoding is not supported"))
        }
        guard let text = headers.first(name: "grpc-timeout") else { return }
        timeout = Timeout.parse(text)
        if timeout == nil { shape = .refused(Status(.internal, "grpc: malformed grpc-timeout")) }
    }
}
