package import Basics
import SecretMemory
import Sealing

/// A named, versioned symmetric key of a namespace, without its material.
package struct NamedKey: Hashable, Sendable {
    package struct Version: Hashable, Sendable {
        /// From 1.
        package var number: UInt32
        package var createdMilliseconds: UInt64
    }
    package var namespace: String
    /// As it was given; names are told apart without case.
    package var name: String
    /// 16 random bytes, born with the key: one that is deleted and made again is another.
    package var id: Bytes
    /// In order; the last is the one that wraps.
    package var versions: [Version]
    package var current: UInt32 { versions.last?.number ?? 0 }
}

/// A named key with its material, as it is stored: sealed as a whole, like every value, under the data key of its namespace.
///
///     format u8 = 1 | key_id 16 | name prefixed | n u16 | n × { version u32 | created_ms u64 | material 32 }
struct StoredKey {
    static let format: UInt8 = 1
    static let versionsMax = 1_000
    static let materialBytes = NamedKeyEnvelope.keyBytes

    var key: NamedKey
    /// Beside `key.versions`.
    var material: [SecretValue]

    /// A first version.
    init(namespace: String, name: String, nowMilliseconds: UInt64) throws {
        key = NamedKey(namespace: namespace, name: name, id: Keyring.newKeyEncryptionKeyID(), versions: [])
        material = []
        try addVersion(nowMilliseconds: nowMilliseconds)
    }
    mutating func addVersion(nowMilliseconds: UInt64) throws {
        guard key.versions.count < Self.versionsMax else { throw KeyVaultError.tooManyVersions(limit: Self.versionsMax) }
        key.versions.append(.init(number: key.current + 1, createdMilliseconds: nowMilliseconds))
        material.append(SecretValue(try SecretBytes.random(count: Self.materialBytes)))
    }

    func encoded() throws -> SecretValue {
        var head = ByteWriter()
        head.write(Self.format); head.write(raw: key.id); head.write(prefixed: Bytes(key.name.utf8)); head.write(UInt16(key.versions.count))
        let total = head.bytes.count + key.versions.count * (12 + Self.materialBytes)
        return SecretValue(try SecretBytes(capacity: total) { target in
            var offset = 0
            func put(_ bytes: UnsafeRawBufferPointer) {
                UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: bytes)
                offset += bytes.count
            }
            head.bytes.withUnsafeBytes(put)
            for (version, material) in zip(key.versions, material) {
                var numbers = ByteWriter(capacity: 12)
                numbers.write(version.number); numbers.write(version.createdMilliseconds)
                numbers.bytes.withUnsafeBytes(put)
                material.withUnsafeBytes(put)
            }
            return offset
        })
    }

    init(namespace: String, decoding value: SecretValue) throws {
        // Read without an array of the whole, which would leave the material behind in memory.
        (key, material) = try value.withUnsafeBytes { bytes throws -> (NamedKey, [SecretValue]) in
            var offset = 0
            func take(_ count: Int) throws -> UnsafeRawBufferPointer {
                guard count >= 0, bytes.count - offset >= count else { throw KeyVaultError.unreadable("a stored key is cut short") }
                defer { offset += count }
                return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
            }
            func number<T: FixedWidthInteger>(_ type: T.Type = T.self) throws -> T {
                try take(T.bitWidth / 8).reduce(T(0)) { T.bitWidth == 8 ? T(truncatingIfNeeded: $1) : $0 << 8 | T(truncatingIfNeeded: $1) }
            }
            guard try number(UInt8.self) == Self.format else { throw KeyVaultError.unreadable("a stored key is of a newer format") }
            let id = Bytes(try take(NamedKeyEnvelope.keyIDBytes))
            let name = String(decoding: try take(Int(try number(UInt32.self))), as: UTF8.self)
            var key = NamedKey(namespace: namespace, name: name, id: id, versions: []), material: [SecretValue] = []
            for _ in 0..<(try number(UInt16.self)) {
                key.versions.append(.init(number: try number(), createdMilliseconds: try number()))
                material.append(try SecretValue(copying: try take(Self.materialBytes)))
            }
            guard offset == bytes.count, !key.versions.isEmpty else { throw KeyVaultError.unreadable("a stored key has no versions, or bytes too many") }
            return (key, material)
        }
    }

    func material(ofVersion number: UInt32) -> SecretValue? {
        key.versions.firstIndex { $0.number == number }.map { material[$0] }
    }
}
