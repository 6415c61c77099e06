/// A value as it exists below the waterline: ciphertext with a readable 16-byte header.
///
///     0xE1 | alg u8 | flags u16 | dek_gen u32 | domain u64 | nonce 24 | commitment 32 | ciphertext | tag 16
///
/// Who holds one can tell which data key opens it, and nothing else. Made by `Sealing`; parsed, never built, elsewhere.
package struct SealedValue: Hashable, Sendable {
    package static let magic: UInt8 = 0xE1
    package static let headerBytes = 16
    /// What sealing adds to a plaintext: header, nonce, commitment, tag.
    package static let overheadBytes = 88

    /// May be a part of the log's entry or the message that it came with.
    package let bytes: ArraySlice<UInt8>

    package init(parsing bytes: Bytes) throws(MalformedBytes) { try self.init(parsing: bytes[...]) }
    package init(parsing bytes: ArraySlice<UInt8>) throws(MalformedBytes) {
        guard bytes.count >= Self.overheadBytes else { throw MalformedBytes("sealed value of \(bytes.count) bytes", at: 0) }
        guard bytes.first == Self.magic else { throw MalformedBytes("no sealed value", at: 0) }
        self.bytes = bytes
    }
    /// `position` counts from the value's beginning.
    package subscript(position: Int) -> UInt8 { bytes[bytes.startIndex + position] }

    package var dataKey: DataKeyID {
        var generation: UInt32 = 0, domain: UInt64 = 0
        for i in 4..<8 { generation = generation << 8 | UInt32(self[i]) }
        for i in 8..<16 { domain = domain << 8 | UInt64(self[i]) }
        return DataKeyID(DomainID(domain), generation)
    }
    /// The authentication tag, which metadata stored beside the value is bound to.
    package var tag: ArraySlice<UInt8> { bytes.suffix(16) }
    package var plaintextByteCount: Int { bytes.count - Self.overheadBytes }
}
