import Basics
import CLinux

/// Keys of the commands that are applied next, and how far each was followed into the index so that memory may be asked for what comes then.
///
/// What it finds is a guess, for asking memory only: it goes by the hints, and nothing is kept of it when the index changes.
@safe struct PrefetchBatch: @unchecked Sendable {
    static let keysMax = 32

    private var bytes: [UInt8] = []
    private var ends: [Int] = []
    private var nodes: [Node] = []
    private var slots: [UnsafeMutablePointer<KeyEntry>] = unsafe []

    /// A single lookup has nobody to wait with.
    var isWorthwhile: Bool { ends.count > 1 }

    mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
    }
    mutating func append(_ key: ArraySlice<UInt8>) {
        guard !key.isEmpty else { return }
        bytes.append(contentsOf: key)
        ends.append(bytes.count)
    }

    private func withKey<R>(_ position: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        let start = position == 0 ? 0 : ends[position - 1], end = ends[position]
        return unsafe bytes.withUnsafeBytes { bytes in unsafe body(UnsafeRawBufferPointer(rebasing: bytes[start..<end])) }
    }

    // MARK: Into the index

    mutating func begin(at root: Node) {
        nodes.removeAll(keepingCapacity: true)
        for _ in ends { nodes.append(root) }
    }
    mutating func descend(_ child: (Node, UnsafeRawBufferPointer) -> Node) {
        for position in nodes.indices {
            let next = unsafe withKey(position) { key in unsafe child(nodes[position], key) }
            nodes[position] = next
            next.prefetch()
        }
    }
    /// In the leaves that were reached.
    mutating func findEntries() {
        unsafe slots.removeAll(keepingCapacity: true)
        for position in nodes.indices where nodes[position].count > 0 {
            let leaf = nodes[position]
            let slot = unsafe withKey(position) { key in unsafe leaf.firstSlot(notBelow: Node.hint(key.baseAddress!, key.count, leaf.skip)) }
            let place = unsafe leaf.entries + min(slot, leaf.count - 1)
            unsafe clinux_prefetch(place)
            unsafe slots.append(place)
        }
        for unsafe place in unsafe slots {
            let entry = unsafe place.pointee.memory
            unsafe clinux_prefetch(entry)
            unsafe clinux_prefetch(entry + 64)
        }
    }
    func forEachEntry(_ visit: (KeyEntry) -> Void) { for unsafe place in unsafe slots { unsafe visit(place.pointee) } }
}
