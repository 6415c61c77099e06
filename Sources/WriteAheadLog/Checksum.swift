import CLinux

/// CRC-32C (Castagnoli, RFC 3720 §12.1). It finds accidents cheaply; what an attacker changed, the tag finds.
@safe package struct Checksum {
    private var remainder: UInt32 = ~0
    package init() {}

    package mutating func update(_ bytes: UnsafeRawBufferPointer) { remainder = unsafe clinux_crc32c(remainder, bytes.baseAddress, bytes.count) }
    package var value: UInt32 { ~remainder }

    package static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var checksum = Checksum()
        unsafe checksum.update(bytes)
        return checksum.value
    }
}
