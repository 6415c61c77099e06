import SecretMemory
import Testing

struct SecretBytesTests {
    private struct Refusal: Error {}

    @Test("the bytes that were filled in are the bytes held")
    func fill() throws {
        let secret = try unsafe SecretBytes(capacity: 8) { target in
            unsafe target.copyBytes(from: [1, 2, 3])
            return 3
        }
        #expect(secret.count == 3)
        let held = unsafe secret.withUnsafeBytes { unsafe Array($0) }
        #expect(held == [1, 2, 3])
    }

    @Test("a fill that throws leaves no secret and passes its error on", arguments: [false, true])
    func failedFill(guarded: Bool) {
        #expect(throws: Refusal.self) {
            _ = try unsafe SecretBytes(capacity: 16, guarded: guarded) { target in
                unsafe target.copyBytes(from: [9, 9, 9])
                throw Refusal()
            }
        }
    }

    @Test("equality compares contents and lengths", arguments: [false, true])
    func equality(guarded: Bool) throws {
        let a = try SecretBytes(copying: [1, 2, 3], guarded: guarded)
        let same = a.isEqual(to: try SecretBytes(copying: [1, 2, 3]))
        let other = a.isEqual(to: try SecretBytes(copying: [1, 2, 4]))
        let shorter = a.isEqual(to: try SecretBytes(copying: [1, 2]))
        #expect(same && !other && !shorter)
    }

    @Test("a clone is a second owner: it outlives the first")
    func clone() throws {
        func copy() throws -> SecretBytes {
            let first = try SecretBytes(copying: [5, 6, 7])
            return try first.clone()
        }
        let second = try copy()
        let held = unsafe second.withUnsafeBytes { unsafe Array($0) }
        #expect(held == [5, 6, 7])
    }

    @Test("random secrets have their length and differ")
    func random() throws {
        let a = try SecretBytes.random(count: 32), b = try SecretBytes.random(count: 32, guarded: true)
        #expect(a.count == 32 && b.count == 32)
        let same = a.isEqual(to: b)
        #expect(!same)
    }

    @Test("no way of printing a secret value shows it")
    func unprintable() throws {
        let value = try SecretValue(copying: Array("hunter2-hunter2".utf8))
        var dumped = ""
        dump(value, to: &dumped)
        for text in ["\(value)", String(describing: value), String(reflecting: value), "\([value])", "\(Optional(value) as Any)", dumped] {
            #expect(!text.contains("hunter2"))
        }
    }

    @Test("an empty secret is a secret")
    func empty() throws {
        let value = try SecretValue(copying: [])
        #expect(try value.count == 0 && value == SecretValue(copying: []))
    }
}
