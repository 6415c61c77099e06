import CSodium
import SecretMemory

/// Many 32-byte keys in few pages, locked as far as the process may: guarded memory of their own would cost each key 12 KiB and a lock.
///
/// Invariants: a slot in `free` is zero; a slot that was handed out and not yet removed holds a key; blocks never move.
/// Not synchronised: its owner holds a lock.
@safe struct KeySlab: ~Copyable {
    static let keyBytes = 32
    static let blockKeys = 256
    private var blocks: [UnsafeMutableRawPointer] = unsafe []
    private var free: [Int] = []
    /// False once a block could not be locked into memory (the memlock limit): its keys may reach the swap.
    private(set) var isLocked = true

    init() {}
    deinit { for unsafe block in unsafe blocks { unsafe sodium_free(block) } }

    /// Copies the key; answers its slot.
    mutating func insert(_ key: borrowing SecretBytes) throws(SealingError) -> Int {
        precondition(key.count == Self.keyBytes)
        if free.isEmpty { try grow() }
        let slot = free.removeLast()
        unsafe key.withUnsafeBytes { unsafe address(slot).copyMemory(from: $0.baseAddress!, byteCount: Self.keyBytes) }
        return slot
    }
    mutating func remove(_ slot: Int) {
        unsafe sodium_memzero(address(slot), Self.keyBytes)
        free.append(slot)
    }
    /// The 32 bytes at `target` become a copy, which the caller wipes.
    func copy(_ slot: Int, to target: UnsafeMutableRawPointer) { unsafe target.copyMemory(from: address(slot), byteCount: Self.keyBytes) }

    private func address(_ slot: Int) -> UnsafeMutableRawPointer {
        unsafe blocks[slot / Self.blockKeys] + slot % Self.blockKeys * Self.keyBytes
    }
    private mutating func grow() throws(SealingError) {
        _ = Sodium.ready
        let size = Self.blockKeys * Self.keyBytes
        guard let block = unsafe sodium_malloc(size) else { throw .memory("no guarded memory for keys: the memlock limit is reached") }
        unsafe sodium_memzero(block, size)
        // `sodium_malloc` locks, and says nothing when it cannot.
        if unsafe sodium_mlock(block, size) != 0 { isLocked = false }
        let first = unsafe blocks.count * Self.blockKeys
        unsafe blocks.append(block)
        free.append(contentsOf: (first..<first + Self.blockKeys).reversed())
    }
}
