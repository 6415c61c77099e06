import Basics
import CLinux

/// A node of the B+tree: up to 64 entries in order; inner nodes have one child more than separators.
///
///     count u16 | leaf u8 | 0 | skip u16 | 0 u16 | next leaf 8 | 0 16 | hints 64 × u64 | entries 64 × 8 | children 65 × 8 (inner only)
///
/// `skip` is a common prefix length of all entries' keys; a hint is the 8 bytes of a key after it, big-endian, zero-padded.
/// So a search touches one contiguous array of hints and nearly always one key per node.
///
/// Invariant: hint(a) < hint(b) implies a < b; a < b implies hint(a) ≤ hint(b).
@safe struct Node: Equatable {
    static let capacity = 64
    private static let hintsOffset = 32, entriesOffset = 32 + capacity * 8, childrenOffset = 32 + capacity * 16
    static let leafBytes = childrenOffset, innerBytes = childrenOffset + (capacity + 1) * 8

    let memory: UnsafeMutableRawPointer
    @inline(__always) static func == (a: Node, b: Node) -> Bool { unsafe a.memory == b.memory }

    static func make(leaf: Bool) -> Node {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: leaf ? leafBytes : innerBytes, alignment: 16)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: 32)
        unsafe memory.storeBytes(of: leaf ? 1 : 0, toByteOffset: 2, as: UInt8.self)
        return unsafe Node(memory: memory)
    }
    func free() { unsafe memory.deallocate() }

    @inline(__always) var count: Int {
        get { unsafe Int(memory.load(as: UInt16.self)) }
        nonmutating set { unsafe memory.storeBytes(of: UInt16(newValue), as: UInt16.self) }
    }
    @inline(__always) var isLeaf: Bool { unsafe memory.load(fromByteOffset: 2, as: UInt8.self) == 1 }
    /// At most 65,535, though a common prefix may be one longer.
    @inline(__always) var skip: Int {
        get { unsafe Int(memory.load(fromByteOffset: 4, as: UInt16.self)) }
        nonmutating set { unsafe memory.storeBytes(of: UInt16(newValue), toByteOffset: 4, as: UInt16.self) }
    }
    @inline(__always) var next: Node? {
        get { unsafe memory.load(fromByteOffset: 8, as: UnsafeMutableRawPointer?.self).map(Node.init) }
        nonmutating set { unsafe memory.storeBytes(of: newValue?.memory, toByteOffset: 8, as: UnsafeMutableRawPointer?.self) }
    }
    @inline(__always) var hints: UnsafeMutablePointer<UInt64> { unsafe (memory + Self.hintsOffset).assumingMemoryBound(to: UInt64.self) }
    @inline(__always) var entries: UnsafeMutablePointer<KeyEntry> { unsafe (memory + Self.entriesOffset).assumingMemoryBound(to: KeyEntry.self) }
    @inline(__always) var children: UnsafeMutablePointer<Node> { unsafe (memory + Self.childrenOffset).assumingMemoryBound(to: Node.self) }

    /// Its head and hints.
    @inline(__always)
    func prefetch() {
        var line = 0
        while line < Self.entriesOffset {
            unsafe clinux_prefetch(memory + line)
            line += 64
        }
    }

    @inline(__always)
    static func hint(_ key: UnsafeRawPointer, _ count: Int, _ skip: Int) -> UInt64 {
        let left = count - skip
        if left >= 8 { return unsafe UInt64(bigEndian: (key + skip).loadUnaligned(as: UInt64.self)) }
        var value: UInt64 = 0
        var i = 0
        while i < left {
            unsafe value |= UInt64((key + skip + i).load(as: UInt8.self)) << UInt64(56 - 8 * i)
            i += 1
        }
        return value
    }

    /// Recomputes `skip` and all hints.
    func rehint() {
        let count = self.count
        guard count > 1 else {
            skip = 0
            if count == 1 { unsafe hints[0] = unsafe Self.hint(entries[0].keyBytes, entries[0].keyByteCount, 0) }
            return
        }
        let first = unsafe entries[0], last = unsafe entries[count - 1]
        let common = unsafe min(0xffff, commonPrefixCount(first.keyBytes, first.keyByteCount, last.keyBytes, last.keyByteCount))
        skip = common
        for i in 0..<count { unsafe hints[i] = unsafe Self.hint(entries[i].keyBytes, entries[i].keyByteCount, common) }
    }

    /// By the hints, of which there is one at least.
    @inline(__always)
    func firstSlot(notBelow hint: UInt64) -> Int {
        let hints = unsafe self.hints
        var low = 0, length = count
        while length > 1 {  // branch-free lower bound
            let half = length >> 1
            low = unsafe hints[low + half - 1] < hint ? low + half : low
            length -= half
        }
        return unsafe hints[low] < hint ? low + 1 : low
    }

    /// The first slot whose key is not less than `key`, and whether it equals it.
    @inline(__always)
    func lowerBound(_ key: UnsafeRawPointer, _ keyCount: Int) -> (slot: Int, found: Bool) {
        let count = self.count, skip = self.skip
        if count == 0 { return (0, false) }
        let hint = unsafe Self.hint(key, keyCount, skip), hints = unsafe self.hints
        var low = firstSlot(notBelow: hint)
        if skip > 0 {
            let shared = min(skip, keyCount)
            // Any entry tells the common prefix: a leaf's that is probably looked for, an inner node's always the same.
            let witness = unsafe entries[isLeaf ? min(low, count - 1) : 0]
            let order = unsafe compareBytes(key, shared, witness.keyBytes, shared)
            if order < 0 { return (0, false) }
            if order > 0 { return (count, false) }
            if keyCount < skip { return (0, false) }
        }
        var high = low
        while high < count, unsafe hints[high] == hint { high += 1 }
        while low < high {  // within equal hints, by the whole key
            let middle = (low + high) >> 1
            let order = unsafe compareBytes(entries[middle].keyBytes, entries[middle].keyByteCount, key, keyCount)
            if order == 0 { return (middle, true) }
            if order < 0 { low = middle + 1 } else { high = middle }
        }
        return (low, false)
    }

    func insert(_ entry: KeyEntry, at slot: Int) {
        let count = self.count, skip = self.skip
        unsafe (entries + slot + 1).update(from: entries + slot, count: count - slot)
        unsafe (hints + slot + 1).update(from: hints + slot, count: count - slot)
        unsafe entries[slot] = entry
        self.count = count + 1
        let neighbour = unsafe entries[slot == 0 ? 1 : 0]
        if unsafe count <= 1 || entry.keyByteCount < skip || compareBytes(entry.keyBytes, skip, neighbour.keyBytes, skip) != 0 {
            rehint()
        } else {
            unsafe hints[slot] = unsafe Self.hint(entry.keyBytes, entry.keyByteCount, skip)
        }
    }

    func insertChild(_ child: Node, at slot: Int) {
        unsafe (children + slot + 1).update(from: children + slot, count: count + 1 - slot)
        unsafe children[slot] = child
    }

    func removeEntry(at slot: Int) {
        let tail = count - slot - 1
        unsafe (entries + slot).update(from: entries + slot + 1, count: tail)
        unsafe (hints + slot).update(from: hints + slot + 1, count: tail)
        count -= 1
    }

    func removeChild(at slot: Int) {
        unsafe (children + slot).update(from: children + slot + 1, count: count - slot)
    }
}

/// The B+tree of keys. It owns nodes, entries and separators; leaves are chained for scans.
///
/// Invariants: separator i is greater than every key under child i and not greater than any under child i + 1;
/// every inner node has at least one separator; the depth is the same everywhere.
struct KeyTree: ~Copyable, @unchecked Sendable {
    private var root = Node.make(leaf: true)
    var slab = Slab()
    private(set) var count = 0
    private var nodeBytes = Node.leafBytes

    var bytes: Int { nodeBytes + slab.bytes }

    @inline(__always)
    private func leaf(for key: UnsafeRawPointer, _ keyCount: Int) -> Node {
        var node = root
        while !node.isLeaf {
            let (slot, found) = unsafe node.lowerBound(key, keyCount)
            node = unsafe node.children[found ? slot + 1 : slot]
        }
        return node
    }

    func find(_ key: UnsafeRawBufferPointer) -> KeyEntry? {
        guard let base = key.baseAddress, key.count > 0 else { return nil }
        let leaf = unsafe leaf(for: base, key.count)
        let (slot, found) = unsafe leaf.lowerBound(base, key.count)
        return unsafe found ? leaf.entries[slot] : nil
    }

    /// Visits entries from `key` on, in order, until `visit` answers false.
    @inline(__always)
    func scan<E: Error>(from key: UnsafeRawBufferPointer, _ visit: (KeyEntry) throws(E) -> Bool) throws(E) {
        var node: Node, slot = 0
        if let base = key.baseAddress, key.count > 0 {
            node = unsafe leaf(for: base, key.count)
            slot = unsafe node.lowerBound(base, key.count).slot
        } else {
            node = root
            while !node.isLeaf { node = unsafe node.children[0] }
        }
        while true {
            let count = node.count, entries = unsafe node.entries
            while slot < count {
                guard unsafe try visit(entries[slot]) else { return }
                slot += 1
            }
            guard let following = node.next else { return }
            node = following
            slot = 0
        }
    }

    /// Asks memory for what `findOrInsert` will touch for each of these keys, and tells which entries it will probably find. Lookups one after the
    /// other wait for memory half a dozen times each; here all keys wait together, once at each level.
    func prefetch(_ batch: inout PrefetchBatch) {
        var node = root
        batch.begin(at: root)
        while !node.isLeaf { // all leaves are equally deep
            unsafe batch.descend { node, key in
                let (slot, found) = unsafe node.lowerBound(key.baseAddress!, key.count)
                return unsafe node.children[found ? slot + 1 : slot]
            }
            node = unsafe node.children[0]
        }
        batch.findEntries()
    }

    // MARK: Insertion

    private mutating func makeEntry(_ key: UnsafeRawPointer, _ keyCount: Int) -> KeyEntry {
        let memory = unsafe slab.allocate(KeyEntry.headerBytes + keyCount)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: KeyEntry.headerBytes)
        unsafe memory.storeBytes(of: UInt64(keyCount - 1) << 48, toByteOffset: 8, as: UInt64.self)
        unsafe (memory + KeyEntry.headerBytes).copyMemory(from: key, byteCount: keyCount)
        return unsafe KeyEntry(memory: memory)
    }
    private mutating func free(_ entry: KeyEntry) {
        unsafe slab.deallocate(entry.memory, KeyEntry.headerBytes + entry.keyByteCount)
    }
    private mutating func makeNode(leaf: Bool) -> Node {
        nodeBytes += leaf ? Node.leafBytes : Node.innerBytes
        return .make(leaf: leaf)
    }
    private mutating func free(_ node: Node) {
        nodeBytes -= node.isLeaf ? Node.leafBytes : Node.innerBytes
        node.free()
    }
    /// The shortest key that separates `left` from the `right` that follows it.
    private mutating func makeSeparator(_ left: KeyEntry, _ right: KeyEntry) -> KeyEntry {
        let common = unsafe commonPrefixCount(left.keyBytes, left.keyByteCount, right.keyBytes, right.keyByteCount)
        return unsafe makeEntry(right.keyBytes, common + 1)
    }

    /// The entry of `key`, made (without a version) if it is not there. The key has 1 … 65,536 bytes.
    mutating func findOrInsert(_ key: UnsafeRawBufferPointer) -> KeyEntry {
        precondition(key.count > 0 && key.count <= Limits.keyBytesMax, "key length out of bounds")
        let (entry, split) = unsafe insert(key.baseAddress!, key.count, under: root)
        if let split {
            let top = makeNode(leaf: false)
            unsafe top.children[0] = root
            unsafe top.children[1] = split.right
            top.insert(split.separator, at: 0)
            root = top
        }
        return entry
    }

    private typealias Split = (separator: KeyEntry, right: Node)

    private mutating func insert(_ key: UnsafeRawPointer, _ keyCount: Int, under node: Node) -> (KeyEntry, Split?) {
        let (slot, found) = unsafe node.lowerBound(key, keyCount)
        if node.isLeaf {
            if found { return unsafe (node.entries[slot], nil) }
            let entry = unsafe makeEntry(key, keyCount)
            count += 1
            guard node.count == Node.capacity else {
                node.insert(entry, at: slot)
                return (entry, nil)
            }
            return (entry, splitLeaf(node, inserting: entry, at: slot))
        }
        let childSlot = found ? slot + 1 : slot
        let (entry, split) = unsafe insert(key, keyCount, under: node.children[childSlot])
        guard let split else { return (entry, nil) }
        guard node.count == Node.capacity else {
            node.insertChild(split.right, at: childSlot + 1)
            node.insert(split.separator, at: childSlot)
            return (entry, nil)
        }
        return (entry, splitInner(node, inserting: split, at: childSlot))
    }

    /// Appending at the very end leaves the left leaf full: ascending loads pack densely.
    private mutating func splitLeaf(_ node: Node, inserting entry: KeyEntry, at slot: Int) -> Split {
        let appends = slot == Node.capacity && node.next == nil
        let middle = appends ? Node.capacity : Node.capacity / 2
        let right = makeNode(leaf: true)
        unsafe right.entries.update(from: node.entries + middle, count: Node.capacity - middle)
        right.count = Node.capacity - middle
        right.next = node.next
        node.count = middle
        node.next = right
        if !appends { node.rehint() }
        right.rehint()
        if slot <= middle, !appends { node.insert(entry, at: slot) } else { right.insert(entry, at: slot - middle) }
        return unsafe (makeSeparator(node.entries[node.count - 1], right.entries[0]), right)
    }

    private mutating func splitInner(_ node: Node, inserting split: Split, at slot: Int) -> Split {
        let middle = Node.capacity / 2, right = makeNode(leaf: false)
        let up = unsafe node.entries[middle], moved = Node.capacity - middle - 1
        unsafe right.entries.update(from: node.entries + middle + 1, count: moved)
        unsafe right.children.update(from: node.children + middle + 1, count: moved + 1)
        right.count = moved
        node.count = middle
        node.rehint()
        right.rehint()
        let (target, at) = slot <= middle ? (node, slot) : (right, slot - middle - 1)
        target.insertChild(split.right, at: at + 1)
        target.insert(split.separator, at: at)
        return (up, right)
    }

    // MARK: Removal

    /// Removes the entry and frees it.
    mutating func remove(_ entry: KeyEntry) {
        removeEntry(entry, under: root)
        if !root.isLeaf, root.count == 0 {
            let old = root
            root = unsafe old.children[0]
            free(old)
        }
        count -= 1
        free(entry)
    }

    private static let countMin = Node.capacity / 4, mergedCountMax = Node.capacity * 3 / 4

    private mutating func removeEntry(_ entry: KeyEntry, under node: Node) {
        let (slot, found) = unsafe node.lowerBound(entry.keyBytes, entry.keyByteCount)
        if node.isLeaf {
            precondition(found, "the index does not hold the entry it is asked to remove")
            node.removeEntry(at: slot)
            return
        }
        let childSlot = found ? slot + 1 : slot
        let child = unsafe node.children[childSlot]
        removeEntry(entry, under: child)
        if child.count < Self.countMin { rebalance(node, left: max(0, childSlot - 1)) }
    }

    /// Merges children `left` and `left + 1`, or shares their entries evenly.
    private mutating func rebalance(_ parent: Node, left slot: Int) {
        let left = unsafe parent.children[slot], right = unsafe parent.children[slot + 1], separator = unsafe parent.entries[slot]
        if left.isLeaf {
            if left.count + right.count <= Self.mergedCountMax {
                unsafe (left.entries + left.count).update(from: right.entries, count: right.count)
                left.count += right.count
                left.next = right.next
                left.rehint()
                dropChild(right, of: parent, at: slot)
            } else {
                shareLeaves(left, right)
                unsafe parent.entries[slot] = unsafe makeSeparator(left.entries[left.count - 1], right.entries[0])
                parent.rehint()
            }
            free(separator)
        } else if left.count + right.count + 1 <= Self.mergedCountMax {
            unsafe left.entries[left.count] = separator
            unsafe (left.entries + left.count + 1).update(from: right.entries, count: right.count)
            unsafe (left.children + left.count + 1).update(from: right.children, count: right.count + 1)
            left.count += right.count + 1
            left.rehint()
            dropChild(right, of: parent, at: slot)
        } else {
            unsafe parent.entries[slot] = shareInner(left, right, separator)
            parent.rehint()
        }
    }

    private mutating func dropChild(_ right: Node, of parent: Node, at slot: Int) {
        parent.removeChild(at: slot + 1)
        parent.removeEntry(at: slot)
        if parent.count == 0 { parent.skip = 0 }
        free(right)
    }

    private func shareLeaves(_ left: Node, _ right: Node) {
        let total = left.count + right.count, half = total / 2
        if left.count < half {
            let moved = half - left.count
            unsafe (left.entries + left.count).update(from: right.entries, count: moved)
            unsafe right.entries.update(from: right.entries + moved, count: right.count - moved)
        } else {
            let moved = left.count - half
            unsafe (right.entries + moved).update(from: right.entries, count: right.count)
            unsafe right.entries.update(from: left.entries + half, count: moved)
        }
        left.count = half
        right.count = total - half
        left.rehint()
        right.rehint()
    }

    /// Shares evenly through the parent's separator; answers the new one.
    private func shareInner(_ left: Node, _ right: Node, _ separator: KeyEntry) -> KeyEntry {
        var entries = unsafe Array(UnsafeBufferPointer(start: left.entries, count: left.count))
        entries.append(separator)
        unsafe entries.append(contentsOf: UnsafeBufferPointer(start: right.entries, count: right.count))
        var children = unsafe Array(UnsafeBufferPointer(start: left.children, count: left.count + 1))
        unsafe children.append(contentsOf: UnsafeBufferPointer(start: right.children, count: right.count + 1))
        let half = entries.count / 2
        fill(left, entries[..<half], children[...half])
        fill(right, entries[(half + 1)...], children[(half + 1)...])
        return entries[half]
    }

    private func fill(_ node: Node, _ entries: ArraySlice<KeyEntry>, _ children: ArraySlice<Node>) {
        for (slot, entry) in entries.enumerated() { unsafe node.entries[slot] = entry }
        for (slot, child) in children.enumerated() { unsafe node.children[slot] = child }
        node.count = entries.count
        node.rehint()
    }

    // MARK: Invariants and end

    /// What is wrong with the tree, for tests; `nil` when its invariants hold.
    func violation() -> String? {
        var depths: [Int] = [], last: Bytes?, seen = 0, leaves: [Node] = []
        func check(_ node: Node, _ depth: Int, _ low: Bytes?, _ high: Bytes?) -> String? {
            for slot in 0..<node.count {
                let key = unsafe node.entries[slot].key
                if let low, key.lexicographicallyPrecedes(low) { return "key below its separator" }
                if let high, !key.lexicographicallyPrecedes(high) { return "key not below its separator" }
                if node.skip > key.count { return "skip longer than a key" }
                if unsafe node.hints[slot] != Node.hint(node.entries[slot].keyBytes, key.count, node.skip) { return "stale hint" }
            }
            if node.isLeaf {
                depths.append(depth)
                leaves.append(node)
                for slot in 0..<node.count {
                    let key = unsafe node.entries[slot].key
                    if let last, !last.lexicographicallyPrecedes(key) { return "keys out of order" }
                    last = key
                    seen += 1
                }
                return nil
            }
            if node.count == 0 { return "an inner node without separator" }
            for slot in 0...node.count {
                let lower = unsafe slot == 0 ? low : node.entries[slot - 1].key, upper = unsafe slot == node.count ? high : node.entries[slot].key
                if let found = unsafe check(node.children[slot], depth + 1, lower, upper) { return found }
            }
            return nil
        }
        if let found = check(root, 0, nil, nil) { return found }
        if depths.contains(where: { $0 != depths[0] }) { return "leaves at different depths" }
        if seen != count { return "\(seen) keys in the leaves, \(count) counted" }
        for i in leaves.indices {
            let expected = i + 1 < leaves.count ? leaves[i + 1] : nil
            if leaves[i].next != expected { return "broken chain of leaves" }
        }
        return nil
    }

    deinit {
        func freeAll(_ node: Node) {
            for slot in 0..<node.count where unsafe KeyEntry.headerBytes + node.entries[slot].keyByteCount > Slab.blockBytesMax {
                unsafe node.entries[slot].memory.deallocate()  // smaller ones go with the slab's chunks
            }
            if !node.isLeaf { for slot in 0...node.count { unsafe freeAll(node.children[slot]) } }
            node.free()
        }
        freeAll(root)
    }
}
