package import Basics

/// The authentication tag that ends a frame.
package struct FrameTag: Hashable, Sendable {
    package var high: UInt64
    package var low: UInt64
    package init(high: UInt64, low: UInt64) { self.high = high; self.low = low }
    package static let zero = FrameTag(high: 0, low: 0)
}

/// A frame of the log, by its number and tag. Who remembers one notices that the frame, or one before it, is gone or another.
package struct LogAnchor: Hashable, Sendable {
    /// Numbers frames over all segments; the first is 1. 0 is "before the first".
    package var sequence: UInt64
    package var tag: FrameTag
    package init(sequence: UInt64, tag: FrameTag) { self.sequence = sequence; self.tag = tag }
    package static let beginning = LogAnchor(sequence: 0, tag: .zero)
    package static let encodedBytes = 24

    package func append(to buffer: FrameBuffer) {
        buffer.append(sequence)
        buffer.append(tag.high)
        buffer.append(tag.low)
    }
    package init?(_ bytes: RawBytes, at offset: Int) {
        guard let sequence = bytes.integer(UInt64.self, at: offset), let high = bytes.integer(UInt64.self, at: offset + 8),
              let low = bytes.integer(UInt64.self, at: offset + 16) else { return nil }
        self.init(sequence: sequence, tag: FrameTag(high: high, low: low))
    }
}

/// Whose log it is. A frame opens under no other.
package struct LogIdentity: Hashable, Sendable {
    package var keyring: KeyringID
    package var member: MemberID
    package init(keyring: KeyringID, member: MemberID) { self.keyring = keyring; self.member = member }
}

/// The AEAD of frames, given from outside: this module knows no key.
package protocol FrameCipher {
    /// Which file key it holds; frames name it.
    var generation: UInt16 { get }
    /// Writes nonce, ciphertext and tag: `plaintext.count + Frame.cipherOverheadBytes` bytes.
    func seal(_ plaintext: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer)
    /// Writes the plaintext; false when the tag does not fit.
    func open(_ sealed: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool
}

/// A frame: a batch of records, sealed.
///
///      0     1       2           4        8         12         36
///     +-----+-------+-----------+--------+---------+----------+------------+--------+
///     | alg | flags | key_gen   | len    | crc32c  | nonce 24 | ciphertext | tag 16 |
///     | u8  | u8    | u16       | u32    | u32     |          |            |        |
///     +-----+-------+-----------+--------+---------+----------+------------+--------+
///
/// `len` counts nonce, ciphertext and tag; `crc32c` covers all but itself. The plaintext is padded so that a frame is a
/// multiple of 8 bytes. Flag 1: written in the same sync as the frame before it. Thus a hole *within* a sync is told from
/// one *before* a later sync: the first was never acknowledged, the second was.
///
/// Associated data: `"CFRAME1\0" | keyring 16 | member u64 | segment u64 | sequence u64 | previous tag 16 | alg … len`.
package enum Frame {
    package static let headerBytes = 12
    package static let cipherOverheadBytes = 40
    package static let alignmentBytes = 8
    static let algorithm: UInt8 = 1
    static let continuesSync: UInt8 = 1
    static let associatedBytes = 8 + 16 + 8 + 8 + 8 + 16 + 8
    static let domain: UInt64 = 0x4346_5241_4d45_3100

    struct Header: Equatable {
        var algorithm: UInt8
        var flags: UInt8
        var generation: UInt16
        var length: Int
        var checksum: UInt32

        /// `nil` at the end of the bytes.
        init?(_ bytes: RawBytes, at offset: Int) {
            guard let algorithm = bytes.integer(UInt8.self, at: offset), let flags = bytes.integer(UInt8.self, at: offset + 1),
                  let generation = bytes.integer(UInt16.self, at: offset + 2), let length = bytes.integer(UInt32.self, at: offset + 4),
                  let checksum = bytes.integer(UInt32.self, at: offset + 8) else { return nil }
            self.algorithm = algorithm; self.flags = flags; self.generation = generation
            self.length = Int(length); self.checksum = checksum
        }
        var isZero: Bool { algorithm == 0 && flags == 0 && generation == 0 && length == 0 && checksum == 0 }
        var isPlausible: Bool {
            algorithm == Frame.algorithm && flags & ~Frame.continuesSync == 0 && length >= Frame.cipherOverheadBytes
                && (length + Frame.headerBytes) % Frame.alignmentBytes == 0
        }
        var frameBytes: Int { Frame.headerBytes + length }
    }

    /// The frame's size for a plaintext of so many bytes, padding included.
    static func size(ofPlaintext count: Int) -> Int {
        let exact = headerBytes + cipherOverheadBytes + count
        return (exact + alignmentBytes - 1) / alignmentBytes * alignmentBytes
    }

    static func checksum(ofFrame frame: RawBytes) -> UInt32 {
        var checksum = Checksum()
        if let head = frame.slice(at: 0, count: 8), let body = frame.suffix(from: headerBytes) {
            unsafe checksum.update(head.pointer)
            unsafe checksum.update(body.pointer)
        }
        return checksum.value
    }

    static func appendAssociatedData(_ identity: LogIdentity, segment: UInt64, sequence: UInt64, previous: FrameTag, to buffer: FrameBuffer) {
        buffer.append(domain)
        buffer.append(identity.keyring.bytes)
        buffer.append(identity.member.rawValue)
        buffer.append(segment)
        buffer.append(sequence)
        buffer.append(previous.high)
        buffer.append(previous.low)
    }

    static func tag(ofFrame frame: RawBytes) -> FrameTag {
        FrameTag(high: frame.integer(at: frame.count - 16) ?? 0, low: frame.integer(at: frame.count - 8) ?? 0)
    }
}

/// The first bytes of a segment, in the clear; all zero in a segment that waits to be used.
///
///     "CFWALSG1" | segment u64 | keyring 16 | member u64 | previous sequence u64 | previous tag 16 | 0 u32 | crc32c u32
///
/// The anchor is what the first frame's associated data needs, so a log whose front was cut still opens; that frame proves it.
package struct SegmentHeader: Equatable, Sendable {
    package static let bytes = 72
    static let magic: UInt64 = 0x4346_5741_4c53_4731
    package var segment: UInt64
    package var identity: LogIdentity
    package var previous: LogAnchor

    func append(to buffer: FrameBuffer) {
        let start = buffer.count
        buffer.append(Self.magic)
        buffer.append(segment)
        buffer.append(identity.keyring.bytes)
        buffer.append(identity.member.rawValue)
        previous.append(to: buffer)
        buffer.append(0 as UInt32)
        guard let head = unsafe RawBytes(buffer.bytes).slice(at: start, count: Self.bytes - 4) else { return }
        buffer.append(unsafe Checksum.of(head.pointer))
    }
    enum Reading: Equatable { case blank, valid(SegmentHeader), damaged }
    static func read(_ bytes: RawBytes) -> Reading {
        guard let head = bytes.slice(at: 0, count: Self.bytes) else { return bytes.firstNonZero(from: 0) == nil ? .blank : .damaged }
        if head.firstNonZero(from: 0) == nil { return .blank }
        guard let covered = head.slice(at: 0, count: Self.bytes - 4), unsafe Checksum.of(covered.pointer) == head.integer(UInt32.self, at: Self.bytes - 4),
              head.integer(UInt64.self, at: 0) == magic, let segment = head.integer(UInt64.self, at: 8),
              let keyringBytes = head.slice(at: 16, count: 16), let keyring = KeyringID(keyringBytes.copied),
              let member = head.integer(UInt64.self, at: 32), let previous = LogAnchor(head, at: 40) else { return .damaged }
        return .valid(SegmentHeader(segment: segment, identity: LogIdentity(keyring: keyring, member: MemberID(member)), previous: previous))
    }
}
