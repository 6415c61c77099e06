package import NIOCore

// RFC 9113 §4.1:
//
//     length u24 | type u8 | flags u8 | reserved 1 bit, stream u31 | payload

package enum HTTP2ErrorNumber: UInt32, Sendable {
    case noError = 0, protocolError, internalError, flowControlError, settingsTimeout, streamClosed, frameSizeError, refusedStream
    case cancel, compressionError, connectError, enhanceYourCalm
}

/// The peer broke the protocol: the connection ends with GOAWAY and this number.
package struct HTTP2ConnectionError: Error, Hashable, CustomStringConvertible {
    package var number: HTTP2ErrorNumber
    package var reason: String
    package init(_ number: HTTP2ErrorNumber, _ reason: String) { self.number = number; self.reason = reason }
    package var description: String { "\(number): \(reason)" }
}

/// A frame as a server reads it: padding and priorities are gone, header blocks are whole.
package enum InboundFrame: Equatable, Sendable {
    /// `flowBytes` counts against the windows: the data and its padding.
    case data(StreamID, ByteBuffer, flowBytes: Int, endStream: Bool)
    case headerBlock(StreamID, ByteBuffer, endStream: Bool)
    case reset(StreamID)
    case settings([Setting])
    case settingsAcknowledged
    case ping(UInt64)
    case pingAnswer
    case goAway
    case windowUpdate(StreamID, increment: Int)
    /// PRIORITY and frames of unknown types: nothing to do but to count them.
    case ignored

    package struct Setting: Hashable, Sendable {
        package var identifier: UInt16
        package var value: UInt32
        package init(identifier: UInt16, value: UInt32) { self.identifier = identifier; self.value = value }
    }
}

/// Bytes to frames, for a server (or a client that wants no pushes). Knows the form of each frame and what may follow what within a header block; streams and windows
/// are `FrameHandler`'s. Throws at the first byte that breaks the protocol; what it throws ends the connection.
///
///     preface ──▶ first SETTINGS ──▶ frames ◀──▶ header block (CONTINUATION of one stream only)
package struct FrameParser {
    static let preface: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    private static let prefaceBytes = 24
    static let headerBytes = 9
    /// We announce no larger ones.
    package static let payloadBytesMax = 16_384
    /// A header block in so many pieces is an attack (CVE-2024-27316).
    private static let continuationsMax = 8
    package static let headerBlockBytesMax = 16 << 10
    /// There are six known ones; many of them in one frame are an attack (CVE-2019-9515).
    private static let settingsMax = 64

    private enum State {
        case preface
        case firstSettings
        case frames
        case headerBlock(StreamID, ByteBuffer, endStream: Bool, pieces: Int)
    }
    private var state = State.preface
    private var pending = ByteBuffer()

    package enum Role: Sendable { case server, client }

    /// A client's parser expects no preface: a server begins with its SETTINGS.
    package init(role: Role = .server) { if role == .client { state = .firstSettings } }

    /// What was not yet parsed: at most one frame.
    package var pendingBytes: Int { pending.readableBytes }
    /// The memory that takes.
    package var pendingCapacity: Int { pending.capacity }

    package mutating func append(_ bytes: ByteBuffer) {
        if pending.readableBytes == 0 {
            pending = bytes
        } else {
            // Whoever lets every read end within a frame would have all frames before it kept.
            pending.discardReadBytes()
            pending.writeImmutableBuffer(bytes)
        }
    }

    /// The next frame; `nil` when more bytes are needed.
    package mutating func next() throws(HTTP2ConnectionError) -> InboundFrame? {
        if case .preface = state {
            guard try readPreface() else { return nil }
        }
        while true {
            guard let (type, flags, stream, payload) = try readFrame() else { return nil }
            if let frame = try interpret(type, flags, stream, payload) { return frame }
        }
    }

    private mutating func readPreface() throws(HTTP2ConnectionError) -> Bool {
        let count = min(pending.readableBytes, Self.prefaceBytes)
        let matches = Self.preface.withUTF8Buffer { preface in pending.readableBytesView.prefix(count).elementsEqual(preface.prefix(count)) }
        guard matches else { throw HTTP2ConnectionError(.protocolError, "no HTTP/2 preface") }
        guard count == Self.prefaceBytes else { return false }
        pending.moveReaderIndex(forwardBy: count)
        state = .firstSettings
        return true
    }

    private mutating func readFrame() throws(HTTP2ConnectionError) -> (type: UInt8, flags: UInt8, stream: StreamID, payload: ByteBuffer)? {
        let start = pending.readerIndex
        guard let head = pending.getInteger(at: start, as: UInt32.self) else { return nil }
        let length = Int(head >> 8)
        guard length <= Self.payloadBytesMax else { throw HTTP2ConnectionError(.frameSizeError, "a frame of \(length) bytes") }
        guard pending.readableBytes >= Self.headerBytes + length, let flags = pending.getInteger(at: start + 4, as: UInt8.self),
              let stream = pending.getInteger(at: start + 5, as: UInt32.self) else { return nil }
        pending.moveReaderIndex(forwardBy: Self.headerBytes)
        guard let payload = pending.readSlice(length: length) else { return nil }
        return (UInt8(truncatingIfNeeded: head), flags, StreamID(stream & 0x7fff_ffff), payload)
    }

    private enum Flag {
        static let endStream: UInt8 = 0x1, acknowledgement: UInt8 = 0x1, endHeaders: UInt8 = 0x4, padded: UInt8 = 0x8, priority: UInt8 = 0x20
    }

    /// `nil`: part of a header block that is not whole yet.
    private mutating func interpret(
        _ type: UInt8, _ flags: UInt8, _ stream: StreamID, _ payload: ByteBuffer
    ) throws(HTTP2ConnectionError) -> InboundFrame? {
        if case .headerBlock(let open, let block, let endStream, let pieces) = state {
            guard type == 9, stream == open else { throw HTTP2ConnectionError(.protocolError, "a header block is interrupted") }
            return try continueBlock(open, block, endStream, pieces, flags, payload)
        }
        if case .firstSettings = state {
            guard type == 4, flags & Flag.acknowledgement == 0 else { throw HTTP2ConnectionError(.protocolError, "the first frame is not SETTINGS") }
            state = .frames
        }
        switch type {
        case 0:
            try require(stream.rawValue != 0, "DATA on stream 0")
            let data = try unpadded(payload, flags)
            return .data(stream, data, flowBytes: payload.readableBytes, endStream: flags & Flag.endStream != 0)
        case 1: return try beginBlock(stream, flags, payload)
        case 2:
            try require(stream.rawValue != 0, "PRIORITY on stream 0")
            try requireSize(payload.readableBytes == 5, "PRIORITY")
            return .ignored
        case 3:
            try require(stream.rawValue != 0, "RST_STREAM on stream 0")
            try requireSize(payload.readableBytes == 4, "RST_STREAM")
            return .reset(stream)
        case 4: return try settings(stream, flags, payload)
        case 5: throw HTTP2ConnectionError(.protocolError, "PUSH_PROMISE, which was not asked for")
        case 6:
            try require(stream.rawValue == 0, "PING on a stream")
            guard payload.readableBytes == 8, let opaque = payload.getInteger(at: payload.readerIndex, as: UInt64.self) else {
                throw HTTP2ConnectionError(.frameSizeError, "PING")
            }
            return flags & Flag.acknowledgement == 0 ? .ping(opaque) : .pingAnswer
        case 7:
            try require(stream.rawValue == 0, "GOAWAY on a stream")
            try requireSize(payload.readableBytes >= 8, "GOAWAY")
            return .goAway
        case 8:
            guard payload.readableBytes == 4, let increment = payload.getInteger(at: payload.readerIndex, as: UInt32.self) else {
                throw HTTP2ConnectionError(.frameSizeError, "WINDOW_UPDATE")
            }
            return .windowUpdate(stream, increment: Int(increment & 0x7fff_ffff))
        case 9: throw HTTP2ConnectionError(.protocolError, "CONTINUATION without HEADERS")
        default: return .ignored
        }
    }

    private func require(_ holds: Bool, _ reason: String) throws(HTTP2ConnectionError) {
        if !holds { throw HTTP2ConnectionError(.protocolError, reason) }
    }
    private func requireSize(_ holds: Bool, _ frame: String) throws(HTTP2ConnectionError) {
        if !holds { throw HTTP2ConnectionError(.frameSizeError, frame) }
    }

    private func unpadded(_ payload: ByteBuffer, _ flags: UInt8) throws(HTTP2ConnectionError) -> ByteBuffer {
        guard flags & Flag.padded != 0 else { return payload }
        var payload = payload
        guard let padding = payload.readInteger(as: UInt8.self), Int(padding) <= payload.readableBytes,
              let data = payload.readSlice(length: payload.readableBytes - Int(padding)) else {
            throw HTTP2ConnectionError(.protocolError, "more padding than payload")
        }
        return data
    }

    private mutating func beginBlock(_ stream: StreamID, _ flags: UInt8, _ payload: ByteBuffer) throws(HTTP2ConnectionError) -> InboundFrame? {
        try require(stream.rawValue != 0, "HEADERS on stream 0")
        var block = try unpadded(payload, flags)
        if flags & Flag.priority != 0 {
            guard let dependency = block.readInteger(as: UInt32.self), block.readInteger(as: UInt8.self) != nil else {
                throw HTTP2ConnectionError(.frameSizeError, "HEADERS")
            }
            try require(dependency & 0x7fff_ffff != stream.rawValue, "a stream depends on itself")
        }
        let endStream = flags & Flag.endStream != 0
        guard flags & Flag.endHeaders == 0 else { return .headerBlock(stream, block, endStream: endStream) }
        state = .headerBlock(stream, block, endStream: endStream, pieces: 1)
        return nil
    }

    private mutating func continueBlock(
        _ stream: StreamID, _ block: ByteBuffer, _ endStream: Bool, _ pieces: Int, _ flags: UInt8, _ payload: ByteBuffer
    ) throws(HTTP2ConnectionError) -> InboundFrame? {
        guard pieces < Self.continuationsMax, block.readableBytes + payload.readableBytes <= Self.headerBlockBytesMax else {
            throw HTTP2ConnectionError(.enhanceYourCalm, "a header block too long")
        }
        var block = block
        block.writeImmutableBuffer(payload)
        guard flags & Flag.endHeaders != 0 else {
            state = .headerBlock(stream, block, endStream: endStream, pieces: pieces + 1)
            return nil
        }
        state = .frames
        return .headerBlock(stream, block, endStream: endStream)
    }

    private func settings(_ stream: StreamID, _ flags: UInt8, _ payload: ByteBuffer) throws(HTTP2ConnectionError) -> InboundFrame {
        try require(stream.rawValue == 0, "SETTINGS on a stream")
        if flags & Flag.acknowledgement != 0 {
            try requireSize(payload.readableBytes == 0, "SETTINGS")
            return .settingsAcknowledged
        }
        try requireSize(payload.readableBytes % 6 == 0, "SETTINGS")
        guard payload.readableBytes / 6 <= Self.settingsMax else { throw HTTP2ConnectionError(.enhanceYourCalm, "too many settings") }
        var payload = payload, settings: [InboundFrame.Setting] = []
        while let identifier = payload.readInteger(as: UInt16.self), let value = payload.readInteger(as: UInt32.self) {
            settings.append(.init(identifier: identifier, value: value))
        }
        return .settings(settings)
    }
}
