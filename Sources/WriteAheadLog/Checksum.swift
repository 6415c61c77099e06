/// CRC-32C (Castagnoli, RFC 3720 §12.1), eight bytes a step. It finds accidents cheaply; what an attacker changed, the tag finds.
@safe package struct Checksum {
    private static let polynomial: UInt32 = 0x82f6_3b78
    /// Eight tables of 256: `tables[k * 256 + b]` is the remainder of byte `b` followed by `k` zero bytes.
    private static let tables: [UInt32] = {
        var tables = [UInt32](repeating: 0, count: 8 * 256)
        for byte in 0..<256 {
            var remainder = UInt32(byte)
            for _ in 0..<8 { remainder = (remainder >> 1) ^ (remainder & 1 == 1 ? polynomial : 0) }
            tables[byte] = remainder
        }
        for byte in 0..<256 {
            for slice in 1..<8 {
                let previous = tables[(slice - 1) * 256 + byte]
                tables[slice * 256 + byte] = (previous >> 8) ^ tables[Int(previous & 0xff)]
            }
        }
        return tables
    }()

    private var remainder: UInt32 = ~0
    package init() {}

    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var crc = remainder, offset = 0
        unsafe Self.tables.withUnsafeBufferPointer { table in
            while offset + 8 <= bytes.count {
                let word = unsafe UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) ^ UInt64(crc)
                let low = UInt32(truncatingIfNeeded: word), high = UInt32(truncatingIfNeeded: word >> 32)
                let near = unsafe table[7 * 256 + Int(low & 0xff)] ^ table[6 * 256 + Int(low >> 8 & 0xff)]
                    ^ table[5 * 256 + Int(low >> 16 & 0xff)] ^ table[4 * 256 + Int(low >> 24)]
                let far = unsafe table[3 * 256 + Int(high & 0xff)] ^ table[2 * 256 + Int(high >> 8 & 0xff)]
                    ^ table[256 + Int(high >> 16 & 0xff)] ^ table[Int(high >> 24)]
                crc = near ^ far
                offset += 8
            }
            while offset < bytes.count {
                crc = unsafe (crc >> 8) ^ table[Int((crc ^ UInt32(bytes[offset])) & 0xff)]
                offset += 1
            }
        }
        remainder = crc
    }
    package var value: UInt32 { ~remainder }

    package static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var checksum = Checksum()
        unsafe checksum.update(bytes)
        return checksum.value
    }
}
