import Glibc

/// The contents of a file, and what of them a loss of power may take.
///
/// Invariant: `now` is `kept` with all `changes` done, in their order. A block of both is held once until one of them changes.
package struct LossyContents {
    /// What a disk writes whole or not at all.
    package static let sectorBytes = 512

    /// Bytes in blocks. One without bytes is a hole: it reads as zeros and takes no room.
    private struct Blocks {
        static let bytes = 4_096
        static let zeros = [UInt8](repeating: 0, count: bytes)
        var size = 0
        var blocks: [[UInt8]] = []
        /// Blocks that are no holes.
        private(set) var filled = 0

        /// What of `offset ..< offset + count` lies in one block after the other: block, place in it, place in the range.
        static func pieces(_ offset: Int, _ count: Int, of bytes: Int = bytes, _ body: (_ block: Int, _ start: Int, _ done: Int, _ length: Int) -> Void) {
            var done = 0
            while done < count {
                let start = (offset + done) % bytes, length = min(bytes - start, count - done)
                body((offset + done) / bytes, start, done, length)
                done += length
            }
        }
        func holes(_ offset: Int, _ count: Int) -> Int {
            var holes = 0
            Self.pieces(offset, count) { block, _, _, _ in if block >= blocks.count || blocks[block].isEmpty { holes += 1 } }
            return holes
        }
        func read(_ offset: Int, into target: UnsafeMutableRawBufferPointer) {
            Self.pieces(offset, target.count) { block, start, done, length in
                let piece = UnsafeMutableRawBufferPointer(rebasing: target[done..<done + length])
                if block < blocks.count, !blocks[block].isEmpty {
                    blocks[block].withUnsafeBytes { piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + length])) }
                } else { memset(piece.baseAddress!, 0, length) }
            }
        }
        mutating func write(_ source: UnsafeRawBufferPointer, at offset: Int) {
            guard !source.isEmpty else { return }
            size = max(size, offset + source.count)
            let needed = (size + Self.bytes - 1) / Self.bytes
            if blocks.count < needed { blocks.append(contentsOf: repeatElement([], count: needed - blocks.count)) }
            Self.pieces(offset, source.count) { block, start, done, length in
                if blocks[block].isEmpty { (blocks[block], filled) = (Self.zeros, filled + 1) }
                let piece = UnsafeRawBufferPointer(rebasing: source[done..<done + length])
                // Segments are filled with zeros before they are used: these share one block.
                let isSame = blocks[block].withUnsafeBytes { memcmp($0.baseAddress! + start, piece.baseAddress!, length) == 0 }
                if !isSame { blocks[block].withUnsafeMutableBytes { UnsafeMutableRawBufferPointer(rebasing: $0[start..<start + length]).copyMemory(from: piece) } }
            }
        }
        /// The blocks of this range become those of `other`.
        mutating func take(_ offset: Int, _ count: Int, from other: Blocks) {
            resize(max(size, offset + count))
            Self.pieces(offset, count) { block, _, _, _ in
                if blocks[block].isEmpty, !other.blocks[block].isEmpty { filled += 1 }
                blocks[block] = other.blocks[block]
            }
        }
        mutating func resize(_ size: Int) {
            let needed = (size + Self.bytes - 1) / Self.bytes, rest = size % Self.bytes
            filled -= blocks.dropFirst(needed).count { !$0.isEmpty }
            if blocks.count < needed { blocks.append(contentsOf: repeatElement([], count: needed - blocks.count)) } else { blocks.removeLast(blocks.count - needed) }
            if size < self.size, rest > 0, !blocks[needed - 1].isEmpty { for place in rest..<Self.bytes { blocks[needed - 1][place] = 0 } }
            self.size = size
        }
    }
    private enum Change { case write([UInt8], at: Int), resize(Int) }

    private var now = Blocks()
    private var kept = Blocks()
    private var changes: [Change] = []
    package init() {}

    package var size: Int { now.size }
    /// Bytes of room that it takes.
    package var room: Int { now.filled * Blocks.bytes }
    /// Bytes of room that a write takes in addition.
    package func growth(_ offset: Int, _ count: Int) -> Int { now.holes(offset, count) * Blocks.bytes }

    package func read(_ offset: Int, _ count: Int, appendingTo target: inout [UInt8]) {
        let count = max(0, min(count, size - offset)), start = target.count
        guard count > 0 else { return }
        target = [UInt8](unsafeUninitializedCapacity: start + count) { buffer, filled in
            let bytes = UnsafeMutableRawBufferPointer(buffer)
            target.withUnsafeBytes { bytes.copyMemory(from: $0) }
            now.read(offset, into: UnsafeMutableRawBufferPointer(rebasing: bytes[start..<start + count]))
            filled = start + count
        }
    }
    package mutating func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
        now.write(bytes, at: offset)
        let copy = [UInt8](unsafeUninitializedCapacity: bytes.count) { buffer, filled in
            UnsafeMutableRawBufferPointer(buffer).copyMemory(from: bytes)
            filled = bytes.count
        }
        changes.append(.write(copy, at: offset))
    }
    package mutating func resize(_ size: Int) {
        guard size != now.size else { return }
        now.resize(size)
        changes.append(.resize(size))
    }
    package mutating func sync() {
        defer { changes = [] }
        let isResized = changes.contains { if case .resize = $0 { true } else { false } }
        if isResized { return kept = now }
        for case .write(let bytes, let offset) in changes { kept.take(offset, bytes.count, from: now) }
    }
    /// Of each change every sector is kept or lost by itself, a share of them kept.
    package mutating func losePower(keeping share: Double, using generator: inout some RandomNumberGenerator) {
        for change in share > 0 ? changes : [] {
            switch change {
            case .resize(let size): if Double.random(in: 0..<1, using: &generator) < share { kept.resize(size) }
            case .write(let bytes, let offset):
                bytes.withUnsafeBytes { bytes in
                    Blocks.pieces(offset, bytes.count, of: Self.sectorBytes) { _, _, done, length in
                        guard Double.random(in: 0..<1, using: &generator) < share else { return }
                        kept.write(UnsafeRawBufferPointer(rebasing: bytes[done..<done + length]), at: offset + done)
                    }
                }
            }
        }
        now = kept
        changes = []
    }
}
