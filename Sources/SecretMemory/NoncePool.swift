import CSodium
import Glibc
import Synchronization

/// Random 24-byte nonces, drawn from the kernel a batch at a time, since a system call each would cost more than sealing.
///
/// Invariant: no nonce older than `ageMillisecondsMax` is handed out. A virtual machine that is stopped, copied and resumed
/// would otherwise go on with the nonces its twin uses too; so what was not used in the moment it was drawn is thrown away.
@safe package final class NoncePool: Sendable {
    package static let nonceBytes = 24
    static let batchNonces = 64
    static let ageMillisecondsMax: Int64 = 8

    private struct Batch: ~Copyable {
        var bytes = [UInt8](repeating: 0, count: batchNonces * nonceBytes)
        var next = batchNonces
        var drawnMilliseconds: Int64 = 0
    }
    private let batch = Mutex(Batch())

    package init() { _ = Sodium.ready }

    /// Writes the next nonce to the first 24 bytes of `target`.
    package func draw(into target: UnsafeMutableRawBufferPointer) {
        precondition(target.count >= Self.nonceBytes)
        batch.withLock { batch in
            let now = Self.coarseMilliseconds()
            if batch.next == Self.batchNonces || now - batch.drawnMilliseconds > Self.ageMillisecondsMax {
                unsafe batch.bytes.withUnsafeMutableBytes { bytes in
                    if let start = bytes.baseAddress { unsafe randombytes_buf(start, bytes.count) }
                }
                batch.next = 0
                batch.drawnMilliseconds = now
            }
            let start = batch.next * Self.nonceBytes
            unsafe batch.bytes.withUnsafeMutableBytes { bytes in
                let drawn = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[start..<start + Self.nonceBytes])
                unsafe target.copyMemory(from: UnsafeRawBufferPointer(drawn))
                unsafe drawn.initializeMemory(as: UInt8.self, repeating: 0)
            }
            batch.next += 1
        }
    }

    private static func coarseMilliseconds() -> Int64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
        return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
    }
}
