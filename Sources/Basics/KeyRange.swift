/// etcd's half-open key interval, as its wire says it:
/// no `end` is the one key, `end == [0]` is "from `key` on", else `key ..< end`.
package struct KeyRange: Hashable, Sendable {
    package var key: Bytes
    package var end: Bytes?
    package init(_ key: Bytes, end: Bytes? = nil) { self.key = key; self.end = end }

    /// From the wire's `range_end`, where empty means a single key.
    package init(key: Bytes, wireEnd: Bytes) { self.init(key, end: wireEnd.isEmpty ? nil : wireEnd) }

    /// All keys that begin with `prefix` (every key, for an empty one).
    package static func prefix(_ prefix: Bytes) -> KeyRange {
        guard !prefix.isEmpty else { return KeyRange([0], end: [0]) }
        return KeyRange(prefix, end: successor(ofPrefix: prefix))
    }

    package var isSingleKey: Bool { end == nil }
    package var isFromKey: Bool { end == [0] }

    package func contains(_ candidate: Bytes) -> Bool {
        guard let end else { return candidate == key }
        if candidate.lexicographicallyPrecedes(key) { return false }
        return isFromKey || candidate.lexicographicallyPrecedes(end)
    }

    /// The least key greater than every key with this prefix; `[0]` ("no upper bound") when all bytes are 0xff.
    package static func successor(ofPrefix prefix: Bytes) -> Bytes {
        var end = prefix
        while let last = end.last {
            if last < 0xff { end[end.count - 1] = last + 1; return end }
            end.removeLast()
        }
        return [0]
    }
}
