import Basics
import Sealing
import SecretMemory
import Testing

/// Seal files of random and of randomly changed bytes: parsed or refused, and opened by nobody.
@Suite struct SealFileFuzzTests {
    private struct Generator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
        mutating func number(below bound: Int) -> Int { Int(next() % UInt64(bound)) }
        mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: next()) }
    }

    @Test("changed, cut, lengthened and random bytes are parsed or refused, and none opens", arguments: [1, 2, 3, 4])
    func fuzz(seed: UInt64) throws {
        var generator = Generator(state: seed)
        let key = Bytes(repeating: 7, count: 32)
        let root = try RootKey.random(generation: 1)
        let keyring = Keyring.newID()
        let recipients = try [key, Bytes(repeating: 8, count: 32)].map { try KeyFileSlot.recipient(for: SecretBytes(copying: $0)) }
        let good = try SealFile(keyring: keyring, root: root, recipients: recipients).encoded()
        var parsed = 0
        for _ in 0..<1_500 {
            var bytes = good
            switch generator.number(below: 5) {
            case 0: bytes = (0..<generator.number(below: 400)).map { _ in generator.byte() }
            case 1: bytes.removeLast(generator.number(below: bytes.count) + 1)
            case 2: bytes += (0...generator.number(below: 40)).map { _ in generator.byte() }
            case 3:
                // Lengths and counts of its own format, at random places.
                let at = 24 + generator.number(below: bytes.count - 26)
                let length = [0, 1, 0x7fff, 0xffff, bytes.count][generator.number(below: 5)]
                bytes[at] = UInt8(truncatingIfNeeded: length >> 8)
                bytes[at + 1] = UInt8(truncatingIfNeeded: length)
            default: for _ in 0...generator.number(below: 4) { bytes[generator.number(below: bytes.count)] ^= generator.byte() | 1 }
            }
            guard bytes != good, let file = try? SealFile(decoding: bytes) else { continue }
            parsed += 1
            #expect(throws: SealFileError.self) { _ = try file.open(with: .keyFile(try SecretBytes(copying: key))) }
        }
        #expect(parsed > 100, "most changes are left to the mac")
    }
}
