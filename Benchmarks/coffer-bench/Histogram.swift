/// Latencies by size: 64 steps per doubling, so a quantile is within 1.6 %.
struct Histogram: Sendable {
    private var counts = [UInt64](repeating: 0, count: 64 * 40)
    private var total: UInt64 = 0

    private static func slot(_ nanoseconds: UInt64) -> Int {
        let value = max(nanoseconds, 64)
        let exponent = 63 - value.leadingZeroBitCount
        let mantissa = Int((value >> UInt64(exponent - 6)) & 63)
        return min((exponent - 6) * 64 + mantissa, 64 * 40 - 1)
    }
    private static func nanoseconds(_ slot: Int) -> Double {
        let exponent = slot / 64 + 6, mantissa = slot % 64
        return Double(UInt64(64 + mantissa) << UInt64(exponent - 6))
    }

    mutating func add(nanoseconds: UInt64) {
        counts[Self.slot(nanoseconds)] += 1
        total += 1
    }
    mutating func merge(_ other: Histogram) {
        for slot in counts.indices { counts[slot] += other.counts[slot] }
        total += other.total
    }
    /// In microseconds.
    func quantile(_ q: Double) -> Double {
        let wanted = UInt64((Double(total) * q).rounded(.up))
        var seen: UInt64 = 0
        for (slot, count) in counts.enumerated() {
            seen += count
            if seen >= wanted, count > 0 { return Self.nanoseconds(slot) / 1_000 }
        }
        return 0
    }
}
