import Basics
import CSodium
import MVCC
import Sealing
import SecretMemory

/// Layers alone, on one thread.
enum Micro {
    /// Nanoseconds per call: the least of five runs.
    private static func nanoseconds(_ count: Int, _ body: (Int) throws -> Void) rethrows -> Double {
        var best = Double.infinity
        for _ in 0..<5 {
            let begin = monotonicNanoseconds()
            for index in 0..<count { try body(index) }
            best = min(best, Double(monotonicNanoseconds() - begin) / Double(count))
        }
        return best
    }

    /// Sealing and opening against libsodium's XChaCha20-Poly1305 with a ready key and a nonce drawn per message.
    static func sealing() throws -> [Figure] {
        let keyring = Keyring(id: Keyring.newID(), root: try RootKey.random(generation: 1))
        let (kek, dek) = try keyring.newDomain(DomainID(1), createdMilliseconds: 0)
        try keyring.install(kek)
        try keyring.install(dek)
        let id = DataKeyID(DomainID(1), 1), key = Bytes("namespaces/prod/secrets/database".utf8)
        var results: [Figure] = []
        for size in [16, 256, 1_024, 4_096, 65_536, 1_048_576] {
            let plaintext = Bytes(repeating: 0x76, count: size), count = max(20, min(50_000, 20_000_000 / (size + 400)))
            let sealed = try plaintext.withUnsafeBytes { try keyring.seal($0, key: key, under: id) }
            let sealing = try nanoseconds(count) { _ in _ = try plaintext.withUnsafeBytes { try keyring.seal($0, key: key, under: id) } }
            let room = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 16)
            defer { room.deallocate() }
            let opening = try nanoseconds(count) { _ in _ = try keyring.open(sealed, key: key, into: room) }
            let (bareSealing, bareOpening) = bare(plaintext, key, count)
            results.append(Figure(name: "seal-\(size)B", metric: "ns", ours: sealing, peer: bareSealing))
            results.append(Figure(name: "open-\(size)B", metric: "ns", ours: opening, peer: bareOpening))
        }
        return results
    }

    private static func bare(_ plaintext: Bytes, _ associated: Bytes, _ count: Int) -> (Double, Double) {
        var key = Bytes(repeating: 0, count: 32), nonce = Bytes(repeating: 0, count: 24)
        var ciphertext = Bytes(repeating: 0, count: plaintext.count + 16), opened = Bytes(repeating: 0, count: plaintext.count)
        randombytes_buf(&key, 32)
        let sealing = nanoseconds(count) { _ in
            randombytes_buf(&nonce, 24)
            crypto_aead_xchacha20poly1305_ietf_encrypt(
                &ciphertext, nil, plaintext, UInt64(plaintext.count), associated, UInt64(associated.count), nil, nonce, key)
        }
        let opening = nanoseconds(count) { _ in
            precondition(crypto_aead_xchacha20poly1305_ietf_decrypt(
                &opened, nil, nil, ciphertext, UInt64(ciphertext.count), associated, UInt64(associated.count), nonce, key) == 0)
        }
        return (sealing, opening)
    }

    /// The key index at 10⁶ keys of 60 bytes.
    static func index() throws -> [Figure] {
        let keyCount = 1_000_000
        var store = Store()
        var applied = Applied()
        // Generation 1 of domain 1, as the header of a sealed value says it.
        let header: Bytes = [SealedValue.magic, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
        let sealed = try SealedValue(parsing: header + Bytes(repeating: 0, count: SealedValue.overheadBytes - header.count))
        func key(_ number: Int) -> Bytes {
            let text = String(number)
            return Bytes(("/registry/secrets/namespace-with-a-name/secret-number-" + String(repeating: "0", count: 7 - text.count) + text).utf8)
        }
        let id = DomainID(1)
        let kek = KeyEncryptionKeyRecord(id: KeyEncryptionKeyID(Bytes(repeating: 1, count: 16), 1), domain: id, state: .active, wrapped: [1])
        let dek = DataKeyRecord(id: DataKeyID(id, 1), wrappedBy: kek.id, state: .active, wrapped: [1])
        if case .failure(let refusal) = store.apply(.key(.createDomain(id: id, name: [1], kek: kek, dek: dek)), at: 1, into: &applied) {
            throw Failure("the store refused a domain: \(refusal)")
        }
        let begin = monotonicNanoseconds()
        for number in 0..<keyCount {
            applied = Applied()
            let result = store.apply(.put(PutRequest(key: key(number), value: .sealed(sealed))), at: LogIndex(number + 2), into: &applied)
            if case .failure(let refusal) = result { throw Failure("the store refused a put: \(refusal)") }
        }
        let put = Double(monotonicNanoseconds() - begin) / Double(keyCount)
        var generator = SeededGenerator(seed: 1)
        let wanted = (0..<100_000).map { _ in key(Int.random(in: 0..<keyCount, using: &generator)) }
        let lookup = try nanoseconds(wanted.count) { index in
            guard try store.range(RangeRequest(KeyRange(wanted[index]))).count == 1 else { throw Failure("a key is lost") }
        }
        // Not "from a key, limited": the count of such an answer is of the whole rest, and takes a look at each.
        let request = RangeRequest(KeyRange(key(500_000), end: key(501_000)))
        let thousand = try nanoseconds(200) { _ in
            guard try store.range(request).versions.count == 1_000 else { throw Failure("keys are lost") }
        }
        return [
            Figure(name: "index-put-1e6", metric: "ns", ours: put, peer: nil),
            Figure(name: "index-lookup-1e6", metric: "ns", ours: lookup, peer: nil),
            Figure(name: "index-range1000-1e6", metric: "ns", ours: thousand, peer: nil),
            Figure(name: "index-1e6", metric: "bytes_per_key", ours: Double(store.indexBytes) / Double(keyCount), peer: nil),
        ]
    }
}
