package import Basics

/// Which watches does a change of this key concern?
///
/// Watches of one key are found by hash. Ranges lie in a treap ordered by (first key, last key, id) in which every node knows the greatest end below it,
/// so that a key meets only the ranges it is in and the path to them: O(log n + matches). Priorities come from a counter: same calls, same tree.
/// Watches that begin and end alike share a node, as those of many clients on one prefix do.
package struct WatchMatcher: Sendable {
    package typealias ID = UInt64

    private struct Node: Sendable {
        var low: Bytes
        /// `nil`: no end.
        var high: Bytes?
        var ids: [ID]
        var priority: UInt64
        var left = -1, right = -1
        /// The greatest `high` in this subtree.
        var greatest: Bytes?
    }

    /// Where a watch lies: its range, and its place among the ids of that key or node, so that thousands of them end in no time.
    private struct Place: Sendable {
        var range: KeyRange
        var position = 0
    }
    private var places: [ID: Place] = [:]
    private var single: [Bytes: [ID]] = [:]
    private var nodes: [Node] = []
    private var free: [Int] = []
    private var root = -1
    private var generator = SeededGenerator(seed: 0)
    /// Of all keys in the ranges.
    package private(set) var watched = WatchedBytes.none

    package init() {}

    package var count: Int { places.count }
    package func range(of id: ID) -> KeyRange? { places[id]?.range }

    /// A range that holds no key matches nothing. Registering an id again replaces its range.
    package mutating func register(_ id: ID, _ range: KeyRange) {
        remove(id)
        places[id] = Place(range: range)
        watched.add(range)
        guard let end = range.end else {
            single[range.key, default: []].append(id)
            places[id]?.position = (single[range.key]?.count ?? 1) - 1
            return
        }
        let high = range.isFromKey ? nil : end
        if let high, !precedes(range.key, high) { return }
        root = insert(id, range.key, high, at: root)
    }

    package mutating func remove(_ id: ID) {
        guard let place = places.removeValue(forKey: id) else { return }
        let range = place.range
        watched.remove(range)
        guard let end = range.end else {
            if let moved = single[range.key]?.takeOut(at: place.position) { places[moved]?.position = place.position }
            if single[range.key]?.isEmpty == true { single[range.key] = nil }
            return
        }
        let high = range.isFromKey ? nil : end
        if let high, !precedes(range.key, high) { return }
        root = remove(place.position, range.key, high, at: root)
    }

    /// The ids of all watches whose range holds the key, in ascending order.
    package func match(_ key: Bytes) -> [ID] {
        var found = single[key] ?? []
        collect(key, at: root, into: &found)
        if found.count > 1 { found.sort() }
        return found
    }

    private func collect(_ key: Bytes, at slot: Int, into found: inout [ID]) {
        var slot = slot
        while slot >= 0 {
            // Nothing below ends after the key.
            if let greatest = nodes[slot].greatest, !precedes(key, greatest) { return }
            collect(key, at: nodes[slot].left, into: &found)
            // Neither this range nor any to the right has begun.
            if precedes(key, nodes[slot].low) { return }
            if nodes[slot].high.map({ precedes(key, $0) }) ?? true { found += nodes[slot].ids }
            slot = nodes[slot].right
        }
    }

    // MARK: The treap

    private static func endsBefore(_ a: Bytes?, _ b: Bytes?) -> Bool {
        guard let a else { return false }
        guard let b else { return true }
        return precedes(a, b)
    }

    /// -1, 0 or 1 as (low, high) lies before, at or after the node.
    private func order(_ low: Bytes, _ high: Bytes?, _ slot: Int) -> Int {
        if low != nodes[slot].low { return precedes(low, nodes[slot].low) ? -1 : 1 }
        if high == nodes[slot].high { return 0 }
        return Self.endsBefore(high, nodes[slot].high) ? -1 : 1
    }

    private mutating func update(_ slot: Int) {
        var greatest = nodes[slot].high
        for child in [nodes[slot].left, nodes[slot].right] where child >= 0 {
            if Self.endsBefore(greatest, nodes[child].greatest) { greatest = nodes[child].greatest }
        }
        nodes[slot].greatest = greatest
    }

    private mutating func rotateRight(_ slot: Int) -> Int {
        let up = nodes[slot].left
        nodes[slot].left = nodes[up].right
        nodes[up].right = slot
        update(slot)
        update(up)
        return up
    }
    private mutating func rotateLeft(_ slot: Int) -> Int {
        let up = nodes[slot].right
        nodes[slot].right = nodes[up].left
        nodes[up].left = slot
        update(slot)
        update(up)
        return up
    }

    private mutating func insert(_ id: ID, _ low: Bytes, _ high: Bytes?, at slot: Int) -> Int {
        guard slot >= 0 else {
            let node = Node(low: low, high: high, ids: [id], priority: generator.next(), greatest: high)
            if let reused = free.popLast() {
                nodes[reused] = node
                return reused
            }
            nodes.append(node)
            return nodes.count - 1
        }
        switch order(low, high, slot) {
        case 0:
            places[id]?.position = nodes[slot].ids.count
            nodes[slot].ids.append(id)
        case -1:
            let child = insert(id, low, high, at: nodes[slot].left)
            nodes[slot].left = child
            if nodes[child].priority > nodes[slot].priority { return rotateRight(slot) }
        default:
            let child = insert(id, low, high, at: nodes[slot].right)
            nodes[slot].right = child
            if nodes[child].priority > nodes[slot].priority { return rotateLeft(slot) }
        }
        update(slot)
        return slot
    }

    private mutating func remove(_ position: Int, _ low: Bytes, _ high: Bytes?, at slot: Int) -> Int {
        precondition(slot >= 0, "a registered range is in the tree")
        switch order(low, high, slot) {
        case 0:
            if let moved = nodes[slot].ids.takeOut(at: position) { places[moved]?.position = position }
            return nodes[slot].ids.isEmpty ? drop(slot) : slot
        case -1: nodes[slot].left = remove(position, low, high, at: nodes[slot].left)
        default: nodes[slot].right = remove(position, low, high, at: nodes[slot].right)
        }
        update(slot)
        return slot
    }

    /// Rotates the node down until it has one child at most, and puts that in its place.
    private mutating func drop(_ slot: Int) -> Int {
        let left = nodes[slot].left, right = nodes[slot].right
        guard left >= 0, right >= 0 else {
            nodes[slot] = Node(low: [], high: [], ids: [], priority: 0)
            free.append(slot)
            return left >= 0 ? left : right
        }
        let up: Int
        if nodes[left].priority > nodes[right].priority {
            up = rotateRight(slot)
            nodes[up].right = drop(slot)
        } else {
            up = rotateLeft(slot)
            nodes[up].left = drop(slot)
        }
        update(up)
        return up
    }
}

extension [WatchMatcher.ID] {
    /// The last one takes its place; answers which one that was.
    fileprivate mutating func takeOut(at position: Int) -> WatchMatcher.ID? {
        let last = removeLast()
        guard position < count else { return nil }
        self[position] = last
        return last
    }
}
