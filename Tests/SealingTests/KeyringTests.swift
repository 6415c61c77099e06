import Basics
import Sealing
import SecretMemory
import Testing

struct KeyringTests {
    let id: KeyringID, root: RootKey, keyring: Keyring
    let domain = DomainID(42)
    let kek: WrappedKeyEncryptionKey, dek: WrappedDataKey

    init() throws {
        id = Keyring.newID()
        root = try RootKey.random(generation: 1)
        keyring = Keyring(id: id, root: root)
        (kek, dek) = try keyring.newDomain(domain, createdMilliseconds: 1_000)
        try keyring.install(kek)
        try keyring.install(dek)
    }
    private func seal(_ text: String, key: String = "a", under id: DataKeyID? = nil) throws -> SealedValue {
        try Bytes(text.utf8).withUnsafeBytes { try keyring.seal($0, key: Bytes(key.utf8), under: id ?? dek.id) }
    }
    private func open(_ value: SealedValue, key: String = "a", with keyring: Keyring? = nil) throws -> String {
        try (keyring ?? self.keyring).open(value, key: Bytes(key.utf8)).withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
    }

    @Test("wrapped keys have the sizes of the layout, a value grows by 88 bytes")
    func sizes() throws {
        #expect(kek.wrapped.count == 140 && dek.wrapped.count == 148)
        #expect(try seal("12345").bytes.count == 93)
        #expect(try seal("12345").dataKey == dek.id && seal("12345").plaintextByteCount == 5)
    }

    @Test("a value opens under its key name and under no other")
    func bound() throws {
        let value = try seal("hunter2")
        #expect(try open(value) == "hunter2")
        #expect(throws: SealingError.badCommitment) { try open(value, key: "b") }
        #expect(throws: SealingError.badCommitment) { try open(value, key: "") }
    }

    @Test("the same value sealed twice gives other bytes")
    func nonces() throws {
        #expect(try seal("x").bytes != seal("x").bytes)
    }

    @Test("a value of another keyring with the same keys is refused")
    func otherKeyring() throws {
        let other = Keyring(id: Keyring.newID(), root: root)
        #expect(throws: SealingError.badCommitment) { try other.install(kek) }
        #expect(throws: SealingError.unknownKey(dek.id)) { try open(try seal("x"), with: other) }
    }

    @Test("another domain's data key does not open it, even with the header rewritten")
    func otherDomain() throws {
        let (kek2, dek2) = try keyring.newDomain(DomainID(43), createdMilliseconds: 1)
        try keyring.install(kek2)
        try keyring.install(dek2)
        var bytes = Bytes(try seal("x").bytes)
        bytes[15] = 43
        #expect(throws: SealingError.badCommitment) { try open(try SealedValue(parsing: bytes)) }
    }

    @Test("a data key needs its key-encryption key, which needs its root")
    func order() throws {
        let fresh = Keyring(id: id, root: root)
        #expect(throws: SealingError.unknownKeyEncryptionKey(kek.id)) { try fresh.install(dek) }
        try fresh.install(kek)
        try fresh.install(dek)
        #expect(try open(try seal("x"), with: fresh) == "x")
        let later = Keyring(id: id, root: try RootKey.random(generation: 2))
        #expect(throws: SealingError.unknownRoot(generation: 1)) { try later.install(kek) }
    }

    @Test("a record under another name than its header's is refused as moved")
    func movedRecords() throws {
        let fresh = Keyring(id: id, root: root)
        let movedKEK = WrappedKeyEncryptionKey(id: KeyEncryptionKeyID(kek.id.kek, 2), wrapped: kek.wrapped)
        #expect(throws: SealingError.movedRecord) { try fresh.install(movedKEK) }
        try fresh.install(kek)
        let movedDEK = WrappedDataKey(id: DataKeyID(domain, 2), wrappedBy: dek.wrappedBy, wrapped: dek.wrapped)
        #expect(throws: SealingError.movedRecord) { try fresh.install(movedDEK) }
    }

    @Test("a new generation seals, the old one still opens, until it is forgotten")
    func generations() throws {
        let old = try seal("old")
        let next = try keyring.newDataKey(DataKeyID(domain, 2), under: kek.id, createdMilliseconds: 2)
        try keyring.install(next)
        let new = try seal("new", under: next.id)
        #expect(try open(old) == "old" && open(new) == "new")
        keyring.forget(dek.id)
        #expect(throws: SealingError.unknownKey(dek.id)) { try open(old) }
        #expect(try open(new) == "new")
    }

    @Test("a data key rewrapped under a new version of its key-encryption key opens what it sealed")
    func rewrap() throws {
        let value = try seal("kept")
        let kek2 = try keyring.newKeyEncryptionKey(KeyEncryptionKeyID(kek.id.kek, 2), createdMilliseconds: 5)
        try keyring.install(kek2)
        let rewrapped = try keyring.rewrap(dek, under: kek2.id)
        let fresh = Keyring(id: id, root: root)
        try fresh.install(kek2)
        try fresh.install(rewrapped)
        #expect(try open(value, with: fresh) == "kept")
    }

    @Test("a key-encryption key rewrapped under a new root opens without the old one")
    func rewrapRoot() throws {
        let root2 = try RootKey.random(generation: 2)
        keyring.install(root2)
        let rewrapped = try keyring.rewrap(kek)
        let fresh = Keyring(id: id, root: root2)
        try fresh.install(rewrapped)
        try fresh.install(dek)
        #expect(try open(try seal("x"), with: fresh) == "x")
        keyring.forgetRoot(generation: 1)
        #expect(throws: SealingError.unknownRoot(generation: 1)) { try keyring.rewrap(kek) }
    }

    @Test("forgetting everything seals: nothing opens, nothing is made")
    func sealed() throws {
        let value = try seal("x")
        keyring.forgetAll()
        #expect(throws: SealingError.unknownKey(dek.id)) { try open(value) }
        #expect(throws: SealingError.unknownKey(dek.id)) { try seal("y") }
        #expect(throws: SealingError.unknownRoot(generation: 1)) { try keyring.newDomain(DomainID(9), createdMilliseconds: 0) }
    }

    @Test("a file key opens for its keyring and root only")
    func fileKey() throws {
        let wrapped = try keyring.newFileKey(member: MemberID(7), generation: 1, createdMilliseconds: 3)
        let parsed = try WrappedFileKey(parsing: wrapped.wrapped)
        #expect(parsed == wrapped && wrapped.wrapped.count == 128)
        let key = try keyring.unwrap(wrapped), again = try Keyring(id: id, root: root).unwrap(wrapped)
        let same = key.isEqual(to: again)
        #expect(same && key.count == 32)
        #expect(throws: SealingError.badCommitment) { _ = try Keyring(id: Keyring.newID(), root: root).unwrap(wrapped) }
    }

    @Test("many keys live in the slab, and slots of forgotten ones are used again")
    func slab() throws {
        for round in 0..<2 {
            for number in 0..<600 {
                let next = try keyring.newDataKey(DataKeyID(domain, UInt32(number + 2)), under: kek.id, createdMilliseconds: 0)
                try keyring.install(next)
                let text = "\(round)-\(number)"
                #expect(try open(try seal(text, under: next.id)) == text)
            }
            for number in 0..<600 { keyring.forget(DataKeyID(domain, UInt32(number + 2))) }
        }
        #expect(try open(try seal("first")) == "first")
    }

    @Test("long key names and values from several tasks at once open right")
    func concurrent() async throws {
        await withTaskGroup(of: Bool.self) { group in
            for task in 0..<8 {
                group.addTask { [self] in
                    (0..<200).allSatisfy { number in
                        let text = String(repeating: "v", count: number * 31), key = String(repeating: "k", count: task * 700 + number)
                        return (try? open(try seal(text, key: key), key: key)) == text
                    }
                }
            }
            for await fine in group { #expect(fine) }
        }
    }
}
