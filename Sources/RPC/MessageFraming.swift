package import NIOCore

/// gRPC's envelope of a message:
///
///     compressed u8 (0) | length u32, big-endian | message
package enum MessageFraming {
    package static let prefixBytes = 5

    /// A buffer with room for the prefix; `body` appends the message.
    package static func framed<E: Error>(
        capacity: Int, allocator: ByteBufferAllocator, _ body: (inout ByteBuffer) throws(E) -> Void
    ) throws(E) -> ByteBuffer {
        var buffer = allocator.buffer(capacity: capacity + prefixBytes)
        buffer.writeInteger(UInt8(0))
        buffer.writeInteger(UInt32(0))
        try body(&buffer)
        buffer.setInteger(UInt32(buffer.writerIndex - prefixBytes), at: 1)
        return buffer
    }
}

/// Puts messages together from DATA frames, which may end anywhere.
///
/// Invariant: what is held is less than one whole message: `prefixBytes` and at most `messageBytesMax`.
package struct MessageAssembler {
    package enum Failure: Error, Hashable {
        case compressed
        case tooLarge(limit: Int)
    }

    private let messageBytesMax: Int
    private var held: ByteBuffer?

    package init(messageBytesMax: Int) { self.messageBytesMax = messageBytesMax }

    /// Bytes of an unfinished message.
    package var heldBytes: Int { held?.readableBytes ?? 0 }
    /// The memory that takes.
    package var heldCapacity: Int { held?.capacity ?? 0 }

    package mutating func append(_ bytes: ByteBuffer) {
        guard held != nil, heldBytes > 0 else {
            held = bytes
            return
        }
        // A slice of the network's read buffer is kept alive here only until the message is whole; messages before it are let go.
        held?.discardReadBytes()
        held?.writeImmutableBuffer(bytes)
    }

    /// The next whole message, without its prefix; `nil` when more bytes are needed.
    package mutating func next() throws(Failure) -> ByteBuffer? {
        guard let length = try announcedLength() else { return nil }
        guard heldBytes >= MessageFraming.prefixBytes + length else { return nil }
        held?.moveReaderIndex(forwardBy: MessageFraming.prefixBytes)
        let message = held?.readSlice(length: length)
        if heldBytes == 0 { held = nil }
        return message
    }

    /// Reads the prefix as soon as it is there, so that an oversize message is refused before it is received.
    private func announcedLength() throws(Failure) -> Int? {
        guard let held, held.readableBytes >= MessageFraming.prefixBytes,
              let compressed = held.getInteger(at: held.readerIndex, as: UInt8.self),
              let length = held.getInteger(at: held.readerIndex + 1, as: UInt32.self) else { return nil }
        guard compressed == 0 else { throw .compressed }
        guard Int(length) <= messageBytesMax else { throw .tooLarge(limit: messageBytesMax) }
        return Int(length)
    }
}

extension MessageAssembler.Failure {
    package var status: Status {
        switch self {
        case .compressed: Status(.unimplemented, "grpc: compressed messages are not supported")
        case .tooLarge(let limit): Status(.resourceExhausted, "grpc: received message larger than max (\(limit) bytes)")
        }
    }
}
