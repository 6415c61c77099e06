import Basics
import FileSealing
import SecretMemory
import Testing

struct FileKeyTests {
    private let key: FileKey
    init() throws { key = try FileKey(key: SecretBytes(copying: Bytes(repeating: 7, count: 32)), generation: 3) }

    @Test("what was sealed opens again, whatever its length", arguments: [0, 1, 15, 16, 17, 4_095, 100_000])
    func roundTrip(count: Int) throws {
        let plain = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let sealed = key.seal(plain, associatedData: [1, 2, 3])
        #expect(sealed.count == count + FileKey.overheadBytes)
        #expect(try key.open(sealed, associatedData: [1, 2, 3]) == plain)
    }

    @Test("every single flipped bit is refused")
    func flippedBits() throws {
        let sealed = key.seal(Bytes("a frame of the log".utf8), associatedData: [1])
        for bit in 0..<sealed.count * 8 {
            var changed = sealed
            changed[bit / 8] ^= 1 << (bit % 8)
            #expect(throws: FileSealingError.badTag) { try key.open(changed, associatedData: [1]) }
        }
    }

    @Test("other associated data and another key are refused")
    func bound() throws {
        let sealed = key.seal([1, 2, 3], associatedData: [1])
        #expect(throws: FileSealingError.badTag) { try key.open(sealed, associatedData: [2]) }
        #expect(throws: FileSealingError.badTag) { try key.open(sealed, associatedData: []) }
        let other = try FileKey(key: SecretBytes(copying: Bytes(repeating: 8, count: 32)), generation: 3)
        #expect(throws: FileSealingError.badTag) { try other.open(sealed, associatedData: [1]) }
    }

    @Test("fewer bytes than the overhead are named truncated, a missing end a bad tag")
    func truncated() throws {
        let sealed = key.seal([1, 2, 3], associatedData: [])
        for count in 0..<FileKey.overheadBytes {
            #expect(throws: FileSealingError.truncated) { try key.open(sealed.prefix(count), associatedData: []) }
        }
        for count in FileKey.overheadBytes..<sealed.count {
            #expect(throws: FileSealingError.badTag) { try key.open(sealed.prefix(count), associatedData: []) }
        }
    }

    @Test("a name's hash is the same under one key and another under another")
    func names() throws {
        func hash(_ name: String, _ key: FileKey) -> Bytes {
            var out = Bytes(repeating: 0, count: FileKey.nameHashBytes)
            Bytes(name.utf8).withUnsafeBytes { name in out.withUnsafeMutableBytes { key.hash(name: name, into: $0) } }
            return out
        }
        let other = try FileKey(key: SecretBytes(copying: Bytes(repeating: 8, count: 32)), generation: 3)
        #expect(hash("prod/db", key) == hash("prod/db", key))
        #expect(Set([hash("prod/db", key), hash("prod/dc", key), hash("", key), hash("prod/db", other)]).count == 4)
    }

    @Test("a key of another length is refused")
    func keyLength() {
        #expect(throws: FileSealingError.wrongKeyLength) { try FileKey(key: SecretBytes(copying: [1, 2, 3]), generation: 1) }
    }

    @Test("what many threads seal at once, under many batches of nonces, opens")
    func batches() async throws {
        let key = key
        try await withThrowingTaskGroup(of: Void.self) { group in
            for thread in 0..<4 {
                group.addTask {
                    for number in 0..<3_000 {
                        let plain = Bytes("\(thread) \(number)".utf8)
                        let opened = try key.open(key.seal(plain, associatedData: [1]), associatedData: [1])
                        #expect(opened == plain)
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    @Test("a batch of nonces is begun anew after a moment, so that a copied machine does not go on with it")
    func age() async throws {
        let first = key.seal([], associatedData: []).prefix(16)
        try await Task.sleep(for: .milliseconds(30))
        #expect(key.seal([], associatedData: []).prefix(16) != first)
    }

    @Test("no nonce comes twice, from many threads at once")
    func nonces() async {
        let key = key
        let all = await withTaskGroup(of: [Bytes].self) { group in
            for _ in 0..<8 {
                group.addTask { (0..<2_000).map { _ in Bytes(key.seal([], associatedData: []).prefix(24)) } }
            }
            return await group.reduce(into: []) { $0 += $1 }
        }
        #expect(Set(all).count == 16_000)
    }
}
