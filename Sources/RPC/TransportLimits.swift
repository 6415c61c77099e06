import Basics
import NIOCore
import NIOHTTP2

/// Bounds of one HTTP/2 connection, each with its reason. A peer that exceeds one loses its stream or its connection, never more.
package enum TransportLimits {
    /// etcd lets gRPC's framing and the other fields of a request exceed its request bound by this much.
    package static let messageBytesMax = Limits.requestBytesMax + (512 << 10)
    /// Holds the largest request, so that a unary call never waits for a window update.
    static let streamWindowBytes = messageBytesMax + (64 << 10)
    /// Lets a hundred ordinary requests and several large ones be under way.
    static let connectionWindowBytes = 16 << 20
    /// Unfinished messages of one connection. Beyond it the stream that grows is refused: with all the windows closed instead,
    /// large messages that clients interleave would wait for each other for ever.
    static let unfinishedBytesMax = 64 << 20
    /// Answers that wait for a client to read them. Beyond it new calls on the connection are refused.
    static let unsentBytesMax = 64 << 20
    /// A streaming call is told to pause here…
    static let streamUnsentBytesHigh = 1 << 20
    /// …and to go on here.
    static let streamUnsentBytesLow = 256 << 10
    /// Answers smaller than this are not counted: a connection has at most `Limits.streamsPerConnectionMax` of them.
    static let countedAnswerBytesMin = 16 << 10
    /// grpc-go sends a PING with nearly every answer to estimate bandwidth: one per round trip, 20,000 a second on loopback at most.
    static let controlFramesPerSecondMax = 20_000
    /// A client says its settings once, and its windows a few times more as it measures; each moves every stream's window.
    static let settingsPerSecondMax = 100
    /// A cancelled call is a reset; clients of many short deadlines send bursts of them. A flood of them (CVE-2023-44487) is still cut.
    static let resetsPerTenSecondsMax = 5_000
    /// Stream errors (frames for streams that are gone, mostly) over a connection's life; clients keep connections for weeks.
    static let glitchesMax = 10_000
    /// A longer `grpc-message` is cut: clients bound what they read of headers.
    static let statusTextBytesMax = 4_096
    /// From accept to the first frame, TLS included.
    static let handshakeSeconds: Int64 = 10
    /// How exact deadlines are.
    static let deadlineSweep = TimeAmount.milliseconds(50)

    static func serverConfiguration() -> (NIOHTTP2Handler.ConnectionConfiguration, NIOHTTP2Handler.StreamConfiguration) {
        var connection = NIOHTTP2Handler.ConnectionConfiguration()
        connection.initialSettings = [
            HTTP2Setting(parameter: .maxConcurrentStreams, value: Limits.streamsPerConnectionMax),
            HTTP2Setting(parameter: .initialWindowSize, value: streamWindowBytes),
            HTTP2Setting(parameter: .maxHeaderListSize, value: 16 << 10),
        ]
        connection.controlFrameRateLimit.maximumCount = controlFramesPerSecondMax
        connection.controlFrameRateLimit.windowLength = .seconds(1)
        connection.maximumConnectionGlitches = glitchesMax
        var stream = NIOHTTP2Handler.StreamConfiguration()
        stream.streamResetFrameRateLimit.maximumCount = resetsPerTenSecondsMax
        stream.streamResetFrameRateLimit.windowLength = .seconds(10)
        return (connection, stream)
    }

    static func clientConfiguration() -> (NIOHTTP2Handler.ConnectionConfiguration, NIOHTTP2Handler.StreamConfiguration) {
        var (connection, stream) = serverConfiguration()
        connection.initialSettings = [
            HTTP2Setting(parameter: .enablePush, value: 0),
            HTTP2Setting(parameter: .initialWindowSize, value: 4 << 20),
            HTTP2Setting(parameter: .maxHeaderListSize, value: 16 << 10),
        ]
        connection.maximumConnectionGlitches = Int.max
        stream.streamErrorRateLimit.maximumCount = glitchesMax
        return (connection, stream)
    }
}
