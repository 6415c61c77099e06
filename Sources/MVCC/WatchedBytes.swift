import Basics

/// Of which keys somebody may watch the changes, by their first byte: uses of one store differ in it, and what nobody watches needs no events.
package struct WatchedBytes: Sendable, Equatable {
    /// Watches, by the first byte of the keys in their ranges.
    private var counts: [Int]
    private init(_ count: Int) { counts = Array(repeating: count, count: 256) }
    package static let none = WatchedBytes(0), all = WatchedBytes(1)

    /// No key is empty.
    func contains(_ key: Bytes) -> Bool { key.first.map { counts[Int($0)] > 0 } ?? false }

    mutating func add(_ range: KeyRange) { change(range, by: 1) }
    /// One that was added.
    mutating func remove(_ range: KeyRange) { change(range, by: -1) }
    private mutating func change(_ range: KeyRange, by change: Int) {
        let first = Int(range.key.first ?? 0)
        let last = range.isFromKey ? 255 : range.end.map { Int($0.first ?? 0) } ?? first
        for byte in first..<max(first, last + 1) { counts[byte] += change }
    }
}
