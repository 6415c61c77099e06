package import Basics

/// A running 64-bit hash over everything applied, sealed bytes included: members at the same applied index must agree.
/// It finds accidents (bit-rot, a bug); it is no defence against someone who wants a collision.
package struct StateHash: Hashable, Sendable {
    package private(set) var value: UInt64
    package init(_ value: UInt64 = 0x243f_6a88_85a3_08d3) { self.value = value }

    @inline(__always)
    package mutating func mix(_ word: UInt64) {
        let product = (value ^ word ^ 0x9e37_79b9_7f4a_7c15).multipliedFullWidth(by: 0xe703_7ed1_a0b4_28db)
        value = product.high ^ product.low &+ (word << 32 | word >> 32)
    }

    @inline(__always)
    package mutating func mix(_ word: Int64) { mix(UInt64(bitPattern: word)) }

    package mutating func mix(_ bytes: Bytes) { unsafe bytes.withUnsafeBytes { unsafe mix($0) } }
    package mutating func mix(_ bytes: ArraySlice<UInt8>) { unsafe bytes.withUnsafeBytes { unsafe mix($0) } }
    /// Sixteen bytes a step: the multiplication is what takes the time.
    private mutating func mix(_ buffer: UnsafeRawBufferPointer) {
        mix(UInt64(buffer.count))
        var i = 0
        while i + 16 <= buffer.count {
            let low = unsafe UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: i, as: UInt64.self))
            let high = unsafe UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: i + 8, as: UInt64.self))
            let product = (value ^ low ^ 0x9e37_79b9_7f4a_7c15).multipliedFullWidth(by: high ^ 0xe703_7ed1_a0b4_28db)
            value = product.high ^ product.low &+ (low &<< 32 | low &>> 32) &+ high
            i += 16
        }
        while i + 8 <= buffer.count {
            unsafe mix(UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: i, as: UInt64.self)))
            i += 8
        }
        var rest: UInt64 = 0, shift: UInt64 = 0
        while i < buffer.count {
            unsafe rest |= UInt64(buffer[i]) &<< shift
            shift += 8
            i += 1
        }
        mix(rest)
    }
}
