package import Basics
import NIOCore

/// What stands between two members on a connection, after TLS:
///
///     u32 length of the body | u8 kind | body
package struct PeerFrame: Equatable, Sendable {
    package enum Kind: UInt8, Sendable {
        /// The first frame of the side that connects: `PeerGreeting`.
        case hello = 1
        /// Its answer: the other side's `PeerGreeting`.
        case welcome = 2
        /// The last frame: why the connection ends (`PeerRefusal`).
        case refused = 3
        /// u32-prefixed messages, one after the other.
        case messages = 4
        case request = 5
        case answer = 6
        /// A snapshot is to come: its head. Answered by `snapshotAt`.
        case snapshotOffer = 7
        /// u64: so much of it is here already.
        case snapshotAt = 8
        /// u64 offset | bytes.
        case snapshotChunk = 9
        /// From the sender: there is no more. From the receiver: it is installed.
        case snapshotEnd = 10
        /// Nothing, so that the other side hears something: see `PeerSession`.
        case ping = 11
    }
    static let headBytes = 5
    package var kind: Kind
    package var body: Bytes
    package init(_ kind: Kind, _ body: Bytes) { self.kind = kind; self.body = body }
}

/// Bytes that no member sends. The connection they came on is closed, with this as the reason.
package enum PeerViolation: Error, Equatable, Sendable, CustomStringConvertible {
    case unknownKind(UInt8)
    case frameTooLong(UInt32, max: Int)
    case malformed(PeerFrame.Kind, MalformedBytes)
    case unexpected(PeerFrame.Kind)
    package var description: String {
        switch self {
        case .unknownKind(let kind): "a frame of the unknown kind \(kind)"
        case .frameTooLong(let length, let max): "a frame of \(length) bytes where at most \(max) are allowed"
        case .malformed(let kind, let error): "a malformed \(kind) frame: \(error)"
        case .unexpected(let kind): "a \(kind) frame out of place"
        }
    }
}

/// Cuts the stream of bytes into frames. A length is checked before anything is kept for it.
struct PeerFrameParser {
    private var buffer = ByteBuffer()
    var bodyBytesMax = PeerLimits.greetingBytesMax

    mutating func append(_ bytes: inout ByteBuffer) {
        if buffer.readableBytes == 0 { buffer = bytes } else { buffer.writeBuffer(&bytes) }
    }

    /// The next whole frame; `nil` until more bytes come.
    mutating func next() throws(PeerViolation) -> PeerFrame? {
        guard let length = buffer.getInteger(at: buffer.readerIndex, as: UInt32.self),
              let rawKind = buffer.getInteger(at: buffer.readerIndex + 4, as: UInt8.self) else { return nil }
        guard let kind = PeerFrame.Kind(rawValue: rawKind) else { throw .unknownKind(rawKind) }
        guard length <= UInt32(bodyBytesMax) else { throw .frameTooLong(length, max: bodyBytesMax) }
        guard buffer.readableBytes - PeerFrame.headBytes >= Int(length) else {
            // What was read of earlier frames is given back before the rest of a large one gathers.
            if buffer.readerIndex > PeerLimits.gatheredBytesMax { buffer.discardReadBytes() }
            return nil
        }
        buffer.moveReaderIndex(forwardBy: PeerFrame.headBytes)
        let body = buffer.readBytes(length: Int(length)) ?? []
        // Let go of, so that whoever reads from the network writes into it again instead of into a copy.
        if buffer.readableBytes == 0 { buffer = ByteBuffer() }
        return PeerFrame(kind, body)
    }
}

extension ByteBuffer {
    mutating func write(_ frame: PeerFrame) {
        writeInteger(UInt32(frame.body.count))
        writeInteger(frame.kind.rawValue)
        writeBytes(frame.body)
    }
}

/// The body of a `messages` frame.
enum MessageBatch {
    static func parse(_ body: Bytes) throws(MalformedBytes) -> [Bytes] {
        var reader = ByteReader(body), messages: [Bytes] = []
        while !reader.isAtEnd { messages.append(try reader.readPrefixed()) }
        return messages
    }
}
