import Basics
import NIOCore
import RPC
import Testing

@Suite struct FrameParserTests {
    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    private func frame(_ type: UInt8, flags: UInt8 = 0, stream: UInt32 = 0, _ payload: [UInt8] = []) -> [UInt8] {
        let length = payload.count
        return [UInt8(length >> 16), UInt8(length >> 8 & 255), UInt8(length & 255), type, flags]
            + [UInt8(stream >> 24), UInt8(stream >> 16 & 255), UInt8(stream >> 8 & 255), UInt8(stream & 255)] + payload
    }
    /// What a client sends before anything else, then these.
    private func begun(_ frames: [UInt8]...) -> [UInt8] { Self.preface + frame(4) + frames.flatMap { $0 } }
    private func parse(_ bytes: [UInt8], piece: Int = .max) throws(HTTP2ConnectionError) -> [InboundFrame] {
        var parser = FrameParser(), frames: [InboundFrame] = [], rest = bytes[...]
        while !rest.isEmpty {
            parser.append(ByteBuffer(bytes: rest.prefix(piece)))
            rest = rest.dropFirst(piece)
            while let frame = try parser.next() { frames.append(frame) }
        }
        return frames
    }
    private func number(_ bytes: [UInt8]) -> HTTP2ErrorNumber? {
        do throws(HTTP2ConnectionError) {
            _ = try parse(bytes)
            return nil
        } catch { return error.number }
    }

    @Test("a conversation is read the same, however it is cut", arguments: [1, 2, 3, 7, 9, 10, 16, 64, .max])
    func reads(piece: Int) throws {
        let bytes = begun(
            frame(4, [0, 4, 0, 1, 0, 0]), frame(4, flags: 1), frame(1, flags: 0x4, stream: 1, [0x82, 0x84]),
            frame(0, flags: 0x8, stream: 1, [2, 7, 0, 0]), frame(0, flags: 1, stream: 1), frame(6, [1, 2, 3, 4, 5, 6, 7, 8]), frame(6, flags: 1, [UInt8](repeating: 0, count: 8)),
            frame(8, stream: 1, [0x80, 0, 1, 0]), frame(3, stream: 1, [0, 0, 0, 8]),
            frame(2, stream: 5, [0, 0, 0, 3, 9]), frame(200, stream: 1, [1]), frame(7, [UInt8](repeating: 0, count: 8)))
        let one = StreamID(1)
        #expect(try parse(bytes, piece: piece) == [
            .settings([]), .settings([.init(identifier: 4, value: 65_536)]), .settingsAcknowledged,
            .headerBlock(one, ByteBuffer(bytes: [0x82, 0x84]), endStream: false),
            .data(one, ByteBuffer(bytes: [7]), flowBytes: 4, endStream: false), .data(one, ByteBuffer(), flowBytes: 0, endStream: true),
            .ping(0x0102_0304_0506_0708), .pingAnswer, .windowUpdate(one, increment: 256), .reset(one), .ignored, .ignored, .goAway,
        ])
    }

    @Test("frames that were read are let go, also when no read ends with one")
    func letsGo() throws {
        var parser = FrameParser()
        parser.append(ByteBuffer(bytes: begun()))
        while try parser.next() != nil {}
        let bytes = frame(99, [UInt8](repeating: 1, count: 16_000)), half = bytes.count / 2
        parser.append(ByteBuffer(bytes: bytes[..<half]))
        for _ in 0..<100 {
            parser.append(ByteBuffer(bytes: bytes[half...] + bytes[..<half]))
            #expect(try parser.next() == .ignored)
            #expect(try parser.next() == nil)
            #expect(parser.pendingCapacity <= 4 * bytes.count)
        }
    }

    @Test("a frame of very many settings ends the connection")
    func refusesManySettings() {
        let setting: [UInt8] = [0, 4, 0, 0, 0, 1]
        #expect(number(begun(frame(4, [[UInt8]](repeating: setting, count: 65).flatMap(\.self)))) == .enhanceYourCalm)
        #expect(number(begun(frame(4, [[UInt8]](repeating: setting, count: 64).flatMap(\.self)))) == nil)
    }

    @Test("a header block in pieces, padded and with a priority, is put together")
    func joinsBlocks() throws {
        let bytes = begun(frame(1, flags: 0x1 | 0x8 | 0x20, stream: 3, [1, 0, 0, 0, 0, 15, 0x82, 0xff]), frame(9, stream: 3, [0x84]), frame(9, flags: 0x4, stream: 3, [0x85]))
        #expect(try parse(bytes).last == .headerBlock(StreamID(3), ByteBuffer(bytes: [0x82, 0x84, 0x85]), endStream: true))
    }

    @Test("what breaks the protocol is named by its number")
    func namesErrors() {
        #expect(number(Array("GET / HTTP/1.1\r\n\r\n".utf8)) == .protocolError)
        #expect(number(Self.preface + frame(6, [UInt8](repeating: 0, count: 8))) == .protocolError)
        #expect(number(begun(frame(0, [1]))) == .protocolError)
        #expect(number(begun(frame(1, flags: 4, [0x82]))) == .protocolError)
        #expect(number(begun(frame(0, flags: 8, stream: 1, [5, 1]))) == .protocolError)
        #expect(number(begun(frame(0, flags: 8, stream: 1))) == .protocolError)
        #expect(number(begun(frame(1, flags: 0x24, stream: 1, [0, 0]))) == .frameSizeError)
        #expect(number(begun(frame(1, flags: 0x24, stream: 1, [0, 0, 0, 1, 5]))) == .protocolError)
        #expect(number(begun(frame(2, stream: 1, [1]))) == .frameSizeError)
        #expect(number(begun(frame(3, stream: 1, [1]))) == .frameSizeError)
        #expect(number(begun(frame(4, [1]))) == .frameSizeError)
        #expect(number(begun(frame(4, flags: 1, [1, 2, 3, 4, 5, 6]))) == .frameSizeError)
        #expect(number(begun(frame(4, stream: 1))) == .protocolError)
        #expect(number(begun(frame(5, stream: 1, [0, 0, 0, 2]))) == .protocolError)
        #expect(number(begun(frame(6, [1]))) == .frameSizeError)
        #expect(number(begun(frame(7, [1]))) == .frameSizeError)
        #expect(number(begun(frame(8, [1]))) == .frameSizeError)
        #expect(number(begun(frame(9, stream: 1))) == .protocolError)
        #expect(number(begun([0, 0x40, 1, 0, 0, 0, 0, 0, 1])) == .frameSizeError)
    }

    @Test("a header block is interrupted by nothing and has an end")
    func boundsBlocks() {
        let opened = frame(1, stream: 1, [0x82])
        #expect(number(begun(opened, frame(6, [UInt8](repeating: 0, count: 8)))) == .protocolError)
        #expect(number(begun(opened, frame(9, flags: 4, stream: 3))) == .protocolError)
        #expect(number(begun(opened, [UInt8]((0..<20).flatMap { _ in frame(9, stream: 1) }))) == .enhanceYourCalm)
        #expect(number(begun(opened, frame(9, stream: 1, [UInt8](repeating: 0, count: 16_384)))) == .enhanceYourCalm)
    }

    @Test("random frames are read or refused, never more", arguments: 0..<20)
    func survivesRandom(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<500 {
            var bytes = begun()
            for _ in 0..<8 {
                let payload = (0..<Int.random(in: 0...20, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
                bytes += frame(.random(in: 0...10, using: &generator), flags: .random(in: 0...255, using: &generator), stream: .random(in: 0...4, using: &generator), payload)
            }
            _ = number(bytes)
        }
    }
}
