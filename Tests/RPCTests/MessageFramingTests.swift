import NIOCore
import RPC
import Testing

@Suite struct MessageFramingTests {
    private func frame(_ text: String) -> ByteBuffer {
        MessageFraming.framed(capacity: text.utf8.count, allocator: ByteBufferAllocator()) { buffer in _ = buffer.writeString(text) }
    }

    @Test("a frame is a zero, the length and the message")
    func frames() { #expect(Array(frame("abc").readableBytesView) == [0, 0, 0, 0, 3, 0x61, 0x62, 0x63]) }

    @Test("messages come out whole, wherever the frames were cut", arguments: 1...23)
    func reassembles(piece: Int) throws {
        var wire = frame("first")
        for text in ["", "a longer second message"] {
            var next = frame(text)
            wire.writeBuffer(&next)
        }
        var assembler = MessageAssembler(messageBytesMax: 100)
        var messages: [String] = []
        while wire.readableBytes > 0 {
            assembler.append(wire.readSlice(length: min(piece, wire.readableBytes))!)
            while let message = try assembler.next() { messages.append(String(buffer: message)) }
        }
        #expect(messages == ["first", "", "a longer second message"])
        #expect(assembler.heldBytes == 0)
    }

    @Test("messages that were read are let go, also when no frame ends with one")
    func letsGo() throws {
        let wire = frame(String(repeating: "x", count: 8_000)), half = 4_000
        var assembler = MessageAssembler(messageBytesMax: 10_000)
        assembler.append(wire.getSlice(at: 0, length: half)!)
        for _ in 0..<100 {
            var next = wire.getSlice(at: half, length: wire.readableBytes - half)!
            next.writeImmutableBuffer(wire.getSlice(at: 0, length: half)!)
            assembler.append(next)
            #expect(try assembler.next()?.readableBytes == 8_000)
            #expect(try assembler.next() == nil)
            #expect(assembler.heldCapacity <= 64 << 10)
        }
    }

    @Test("an oversize message is refused by its prefix alone")
    func refusesOversize() {
        var assembler = MessageAssembler(messageBytesMax: 100)
        assembler.append(ByteBuffer(bytes: [0, 0, 0, 0, 101]))
        #expect(throws: MessageAssembler.Failure.tooLarge(limit: 100)) { try assembler.next() }
    }

    @Test("a compressed message is refused")
    func refusesCompressed() {
        var assembler = MessageAssembler(messageBytesMax: 100)
        assembler.append(ByteBuffer(bytes: [1, 0, 0, 0, 1, 7]))
        #expect(throws: MessageAssembler.Failure.compressed) { try assembler.next() }
    }
}
