import Basics
import HTTPTypes
import HummingbirdCore
import NIOCore
import Resources

/// A request's body, read whole within a bound, and overwritten when its only owner lets it go.
final class RequestDocument {
    private var buffer = ByteBuffer()

    init(_ request: Request, bytesMax: Int = APILimits.requestBodyBytesMax) async throws {
        if let announced = request.headers[.contentLength].flatMap({ Int($0) }), announced > bytesMax { throw Status.requestEntityTooLarge(bytesMax: bytesMax) }
        for try await piece in request.body {
            guard buffer.readableBytes + piece.readableBytes <= bytesMax else { throw Status.requestEntityTooLarge(bytesMax: bytesMax) }
            buffer.writeImmutableBuffer(piece)
        }
    }

    deinit { buffer.withUnsafeMutableReadableBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 0) } }

    var isEmpty: Bool { buffer.readableBytes == 0 }
    /// For bodies without secrets.
    var bytes: Bytes { Bytes(buffer.readableBytesView) }

    func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try buffer.withUnsafeReadableBytes(body) }

    func json(_ place: SecretPlace = .object) throws(Status) -> JSONValue {
        do {
            return try withBytes { try JSONValue(parsing: $0, secrets: place) }
        } catch {
            throw .badRequest("the object provided is malformed: \(error)")
        }
    }

    /// One document.
    func yaml() throws(Status) -> JSONValue {
        do throws(MalformedDocument) {
            let documents = try Manifest.documents(bytes)
            guard documents.count == 1, let document = documents.first else {
                throw MalformedDocument("one document is expected, not \(documents.count)", line: 0, column: 0)
            }
            return document.value
        } catch {
            throw .badRequest("the object provided is malformed: \(error)")
        }
    }
}
