package import NIOCore

/// `grpc-timeout`: at most eight digits and a unit.
package enum Timeout {
    /// `nil` for text that is no timeout. Longer than about 290 years is cut to that.
    package static func parse(_ text: some StringProtocol) -> TimeAmount? {
        let bytes = Array(text.utf8)
        guard bytes.count >= 2, bytes.count <= 9, let unit = bytes.last else { return nil }
        var value: Int64 = 0
        for byte in bytes.dropLast() {
            guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
            value = value * 10 + Int64(byte - UInt8(ascii: "0"))
        }
        let nanoseconds: Int64
        switch unit {
        case UInt8(ascii: "n"): nanoseconds = 1
        case UInt8(ascii: "u"): nanoseconds = 1_000
        case UInt8(ascii: "m"): nanoseconds = 1_000_000
        case UInt8(ascii: "S"): nanoseconds = 1_000_000_000
        case UInt8(ascii: "M"): nanoseconds = 60_000_000_000
        case UInt8(ascii: "H"): nanoseconds = 3_600_000_000_000
        default: return nil
        }
        let (product, overflow) = value.multipliedReportingOverflow(by: nanoseconds)
        return .nanoseconds(overflow ? .max : product)
    }

    /// In the finest unit that takes at most eight digits.
    package static func format(_ amount: TimeAmount) -> String {
        let units: [(String, Int64)] = [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000)]
        let nanoseconds = max(amount.nanoseconds, 0)
        for (name, size) in units where nanoseconds / size <= 99_999_999 { return "\(nanoseconds / size)\(name)" }
        return "\(min(nanoseconds / 3_600_000_000_000, 99_999_999))H"
    }
}
