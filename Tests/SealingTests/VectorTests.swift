import Basics
import Foundation
import Testing

struct VectorTests {
    @Test("the vectors are there, of every kind, and some of each kind open")
    func present() {
        #expect(Vector.all.count >= 40)
        for kind in ["value", "data key", "key-encryption key", "file key", "seal file", "named key"] {
            let outcomes = Set(Vector.all.filter { $0.kind == kind }.map(\.outcome))
            #expect(outcomes.contains("opens") && outcomes.count > 2, "\(kind)")
        }
    }

    @Test("each vector has the outcome that its header names", arguments: Vector.all)
    func outcome(vector: Vector) throws {
        switch vector.open(vector.blob) {
        case .success(let plaintext):
            #expect(vector.outcome == "opens")
            #expect(try plaintext == vector.bytes(vector.kind == "seal file" ? "root" : "plaintext"))
        case .failure(let failure):
            // A value's key is authenticated by the commitment, so that a moved value and a wrong key look the same.
            let expected = vector.kind == "value" && vector.outcome == "moved record" ? "bad commitment" : vector.outcome
            #expect(failure.text == expected)
        }
    }

    @Test("every single flipped bit of every vector that opens is refused", arguments: Vector.all.filter { $0.outcome == "opens" })
    func flippedBits(vector: Vector) {
        for bit in 0..<vector.blob.count * 8 {
            var changed = vector.blob
            changed[bit / 8] ^= 1 << (bit % 8)
            if case .success = vector.open(changed) { Issue.record("\(vector.name) opens with bit \(bit) flipped") }
        }
    }

    @Test("no vector that opens does so cut short anywhere", arguments: Vector.all.filter { $0.outcome == "opens" })
    func cutShort(vector: Vector) {
        for count in 0..<vector.blob.count {
            if case .success = vector.open(Bytes(vector.blob.prefix(count))) { Issue.record("\(vector.name) opens with \(count) bytes") }
        }
    }
}
