import CSodium
import Glibc
import Synchronization

/// Unique 24-byte nonces, drawn from the kernel a batch at a time, since a system call each would cost more than sealing: the first is random,
/// and each of the others differs from the one before in its last 8 bytes, which count. So a batch shares its first 16 bytes, and what XChaCha20
/// derives from them.
///
/// Two batches, of any number of processes, meet no sooner than random nonces would: they would have to agree in 16 random bytes, and overlap.
///
/// Invariant: no batch older than `ageMillisecondsMax` is drawn from. A virtual machine that is stopped, copied and resumed
/// would otherwise go on with the nonces its twin uses too; so what was not used in the moment it was drawn is thrown away.
@safe package final class NoncePool: Sendable {
    package static let nonceBytes = 24
    /// What a batch has in common.
    package static let prefixBytes = 16
    static let batchNonces = 1_024
    static let ageMillisecondsMax: Int64 = 8

    private struct Batch: ~Copyable {
        var prefix: (UInt64, UInt64) = (0, 0)
        var next: UInt64 = 0
        var left = 0
        var drawnMilliseconds: Int64 = 0

        mutating func renew(_ now: Int64) {
            var random: (UInt64, UInt64, UInt64) = (0, 0, 0)
            unsafe withUnsafeMutableBytes(of: &random) { if let start = $0.baseAddress { unsafe randombytes_buf(start, nonceBytes) } }
            prefix = (random.0, random.1)
            next = random.2
            left = batchNonces
            drawnMilliseconds = now
        }
    }
    private let batch = Mutex(Batch())

    package init() { _ = Sodium.ready }

    /// Writes the next nonce to the first 24 bytes of `target`.
    package func draw(into target: UnsafeMutableRawBufferPointer) {
        precondition(target.count >= Self.nonceBytes)
        batch.withLock { batch in
            let now = Self.coarseMilliseconds()
            if batch.left == 0 || now - batch.drawnMilliseconds > Self.ageMillisecondsMax { batch.renew(now) }
            unsafe target.storeBytes(of: batch.prefix.0, as: UInt64.self)
            unsafe target.storeBytes(of: batch.prefix.1, toByteOffset: 8, as: UInt64.self)
            unsafe target.storeBytes(of: batch.next, toByteOffset: 16, as: UInt64.self)
            batch.next &+= 1
            batch.left -= 1
        }
    }

    private static func coarseMilliseconds() -> Int64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
        return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
    }
}
