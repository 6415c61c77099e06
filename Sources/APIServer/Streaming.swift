import HTTPTypes
import HummingbirdCore
import NIOCore
import Resources
import ServiceLifecycle
import Synchronization

/// The reader takes less than is told it: its stream ends, and it resumes from where it was.
struct SlowReader: Error {}

/// Where the maker of an endless answer puts its pieces. Bounded in pieces and bytes, so that a slow reader costs no memory.
final class Outlet: Sendable {
    private static let waitingBytesMax = 64 << 20
    private let continuation: AsyncStream<ByteBuffer>.Continuation
    private let waitingBytes = Mutex(0)

    init(_ continuation: AsyncStream<ByteBuffer>.Continuation) { self.continuation = continuation }

    func send(_ piece: ByteBuffer) throws {
        let waiting = waitingBytes.withLock { bytes in
            bytes += piece.readableBytes
            return bytes
        }
        // One piece always may wait, however large.
        guard waiting == piece.readableBytes || waiting <= Self.waitingBytesMax else { throw SlowReader() }
        switch continuation.yield(piece) {
        case .enqueued: break
        case .dropped: throw SlowReader()
        case .terminated: throw CancellationError()
        @unknown default: throw CancellationError()
        }
    }
    func wrote(_ piece: ByteBuffer) { waitingBytes.withLock { $0 -= piece.readableBytes } }
    func finish() { continuation.finish() }
}

/// An answer without an end of its own. It ends when `produce` returns or throws, after `seconds`, when the client goes, when the server
/// stops, or when the client reads too slowly; then `produce` is cancelled.
enum Streaming {
    static func response(
        on channel: any Channel, contentType: String, seconds: Int64? = nil, produce: @escaping @Sendable (Outlet) async throws -> Void
    ) -> Response {
        let body = ResponseBody { writer in
            let (pieces, continuation) = AsyncStream.makeStream(of: ByteBuffer.self, bufferingPolicy: .bufferingOldest(APILimits.streamBatchesWaitingMax))
            let outlet = Outlet(continuation)
            InboundEnd.whenEnded(channel) { outlet.finish() }
            try await withGracefulShutdownHandler {
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask {
                        defer { outlet.finish() }
                        try? await produce(outlet)
                    }
                    if let seconds {
                        group.addTask {
                            try? await Task.sleep(for: .seconds(seconds))
                            outlet.finish()
                        }
                    }
                    defer { group.cancelAll() }
                    for await piece in pieces {
                        outlet.wrote(piece)
                        try await writer.write(piece)
                    }
                }
            } onGracefulShutdown: {
                outlet.finish()
            }
            try await writer.finish(nil)
        }
        return Response(status: .ok, headers: [.contentType: contentType, .cacheControl: "no-cache, private"], body: body)
    }
}
