/// What happens next in a run: the earliest event, and of those due at one time the first that was asked for.
/// A binary heap whose keys hold time and order in one word.
package struct EventQueue<Payload>: ~Copyable {
    private struct Item {
        /// Time in the upper 32 bits, order of asking in the lower.
        var key: UInt64
        var payload: Payload
    }
    private var heap: [Item] = []
    private var asked: UInt32 = 0

    package init() { heap.reserveCapacity(256) }
    package var isEmpty: Bool { heap.isEmpty }
    package var count: Int { heap.count }

    package mutating func schedule(_ payload: Payload, at time: UInt32) {
        asked &+= 1
        var hole = heap.count
        let item = Item(key: UInt64(time) << 32 | UInt64(asked), payload: payload)
        heap.append(item)
        while hole > 0 {
            let parent = (hole - 1) / 2
            guard heap[parent].key > item.key else { break }
            heap.swapAt(hole, parent)
            hole = parent
        }
    }

    package mutating func next() -> (time: UInt32, payload: Payload)? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            sink()
        }
        return (UInt32(first.key >> 32), first.payload)
    }

    private mutating func sink() {
        var hole = 0
        while true {
            var child = 2 * hole + 1
            guard child < heap.count else { return }
            if child + 1 < heap.count, heap[child + 1].key < heap[child].key { child += 1 }
            guard heap[child].key < heap[hole].key else { return }
            heap.swapAt(child, hole)
            hole = child
        }
    }
}
