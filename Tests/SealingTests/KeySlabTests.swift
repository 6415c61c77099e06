import Basics
import SecretMemory
@testable import Sealing
import Testing

struct KeySlabTests {
    private func key(_ byte: UInt8) throws -> SecretBytes { try SecretBytes(copying: Bytes(repeating: byte, count: 32)) }
    private func held(_ slab: borrowing KeySlab, _ slot: Int) -> Bytes {
        var copy = Bytes(repeating: 0xff, count: 32)
        copy.withUnsafeMutableBytes { slab.copy(slot, to: $0.baseAddress!) }
        return copy
    }

    @Test("a removed key is wiped where it lay, and its neighbours stay")
    func wiped() throws {
        var slab = KeySlab()
        let first = try slab.insert(key(1)), second = try slab.insert(key(2)), third = try slab.insert(key(3))
        slab.remove(second)
        #expect(held(slab, second) == Bytes(repeating: 0, count: 32))
        #expect(held(slab, first) == Bytes(repeating: 1, count: 32) && held(slab, third) == Bytes(repeating: 3, count: 32))
        #expect(try slab.insert(key(4)) == second)
        #expect(held(slab, second) == Bytes(repeating: 4, count: 32))
    }

    @Test("keys stay where they are when the slab grows")
    func grows() throws {
        var slab = KeySlab(), slots: [Int] = []
        for number in 0..<600 { slots.append(try slab.insert(key(UInt8(number % 251)))) }
        #expect(Set(slots).count == 600)
        for number in 0..<600 { #expect(held(slab, slots[number]) == Bytes(repeating: UInt8(number % 251), count: 32)) }
    }
}
