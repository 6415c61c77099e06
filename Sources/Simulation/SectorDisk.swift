import Basics
import WriteAheadLog

/// A disk under the shipping log: what is durable, and what was written and not synced, in order. A sync makes a segment's writes
/// durable. When power is cut, the syncs that were reached count; of what was written after them any sectors of 512 bytes may be there.
///
/// Removed segments and new ones are entries of a directory: removals happen in order, later than asked for, or not at all.
final class SectorDisk: LogMedium {
    struct Segment {
        var id: UInt64
        var bytes: Bytes
    }
    private enum Operation {
        case begin(UInt64)
        case write(UInt64, offset: Int, Bytes)
        case sync(UInt64)
    }
    static let sectorBytes = 512
    let segmentBytes: Int
    /// Sorted by id.
    private(set) var segments: [Segment] = []
    private var pending: [Operation] = []
    private var removals: [UInt64] = []
    /// Where the last sync that ended had begun: all before it is acknowledged, and something synced follows it.
    private var lastSync: (segment: UInt64, offset: Int)?
    /// What must never stand in anything written here.
    private let forbidden: [Bytes]
    private(set) var leak: String?

    init(segmentBytes: Int, forbidden: [Bytes]) {
        self.segmentBytes = segmentBytes
        self.forbidden = forbidden
    }

    func begin(segment: UInt64) { pending.append(.begin(segment)) }
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, of segment: UInt64) {
        let written = Bytes(bytes)
        for marker in forbidden where Secrecy.contains(written, marker) { leak = "segment \(segment) is to hold \(String(decoding: marker, as: UTF8.self))" }
        pending.append(.write(segment, offset: offset, written))
    }
    func synchronize(segment: UInt64) { pending.append(.sync(segment)) }

    /// The syncs that were asked for have ended: what was written before the last of them is durable.
    func finish() {
        let end = pending.lastIndex { if case .sync = $0 { true } else { false } }.map { $0 + 1 } ?? 0
        noteSync(pending.prefix(end))
        for operation in pending.prefix(end) { perform(operation) }
        pending.removeFirst(end)
        settleRemovals(removals.count)
    }
    private func noteSync(_ operations: ArraySlice<Operation>) {
        // Of several, the last.
        let ends = operations.indices.filter { if case .sync = operations[$0] { true } else { false } }
        guard let last = ends.last else { return }
        let begin = ends.dropLast().last.map { $0 + 1 } ?? operations.startIndex
        for operation in operations[begin..<last] {
            guard case .write(let id, let offset, _) = operation else { continue }
            return lastSync = (id, offset)
        }
    }
    private func perform(_ operation: Operation) {
        switch operation {
        case .begin(let id):
            if let position = segments.firstIndex(where: { $0.id == id }) { segments[position].bytes = Bytes(repeating: 0, count: segmentBytes) } else {
                segments.append(Segment(id: id, bytes: Bytes(repeating: 0, count: segmentBytes)))
                segments.sort { $0.id < $1.id }
            }
        case .write(let id, let offset, let bytes): place(bytes[...], at: offset, of: id)
        case .sync: break
        }
    }
    private func place(_ bytes: ArraySlice<UInt8>, at offset: Int, of id: UInt64) {
        guard let position = segments.firstIndex(where: { $0.id == id }) else { return }
        segments[position].bytes.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }

    /// Power is cut somewhere in what is pending. Up to a sync that was reached all is there; behind it, any sectors.
    func crash(_ chance: inout Chance) {
        let syncs = pending.indices.filter { if case .sync = pending[$0] { true } else { false } }
        // The last sync may be reached too, though nobody was told.
        let reached = chance.below(syncs.count + 1)
        let durable = reached == 0 ? 0 : syncs[reached - 1] + 1
        noteSync(pending[..<durable])
        for operation in pending[..<durable] { perform(operation) }
        // What comes after the next sync was not written yet.
        let end = reached < syncs.count ? syncs[reached] : pending.count
        for operation in pending[durable..<end] { tear(operation, &chance) }
        pending.removeAll()
        settleRemovals(chance.below(removals.count + 1))
        removals.removeAll()
    }
    private func tear(_ operation: Operation, _ chance: inout Chance) {
        guard case .write(let id, let offset, let bytes) = operation else { return perform(operation) }
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, ((offset + start) / Self.sectorBytes + 1) * Self.sectorBytes - offset)
            if chance.below(2) == 0 { place(bytes[start..<end], at: offset + start, of: id) }
            start = end
        }
    }

    /// One bit of what is acknowledged turns over. False if there is nothing yet.
    func rot(_ chance: inout Chance) -> Bool {
        guard let lastSync else { return false }
        // A beginning that is to be cut is not looked at any more.
        let candidates = segments.filter { $0.id <= lastSync.segment && !removals.contains($0.id) && ($0.id < lastSync.segment || lastSync.offset > 0) }
        guard !candidates.isEmpty else { return false }
        let segment = chance.pick(candidates)
        let used = segment.id == lastSync.segment ? lastSync.offset : (segment.bytes.lastIndex { $0 != 0 } ?? 0) + 1
        guard let position = segments.firstIndex(where: { $0.id == segment.id }), used > 0 else { return false }
        segments[position].bytes[chance.below(used)] ^= UInt8(1 << chance.below(8))
        return true
    }
    func removeAll() {
        segments.removeAll()
        pending.removeAll()
        removals.removeAll()
        lastSync = nil
    }

    func remove(_ ids: [UInt64]) { removals.append(contentsOf: ids) }
    private func settleRemovals(_ count: Int) {
        let gone = removals.prefix(count)
        segments.removeAll { gone.contains($0.id) }
        removals.removeFirst(count)
    }
    /// What recovery does with a torn tail: zeros from there on, so that no remnant is ever taken for a frame.
    func cutOff(from id: UInt64, offset: Int, keeping used: UInt64) {
        segments.removeAll { $0.id > used }
        for position in segments.indices where segments[position].id >= id {
            let start = segments[position].id == id ? offset : 0
            let count = segments[position].bytes.count - start
            segments[position].bytes.replaceSubrange(start..., with: Bytes(repeating: 0, count: count))
        }
    }
}

enum Secrecy {
    /// Every secret value begins so.
    static let canary = Bytes("CANARY:t0p-s3cret:".utf8)
    /// Every key's name, which the disk must not show either.
    static let keyMarker = Bytes("/registry/prod/".utf8)

    static func contains(_ bytes: Bytes, _ marker: Bytes) -> Bool {
        guard let first = marker.first, bytes.count >= marker.count else { return false }
        return bytes.withUnsafeBufferPointer { bytes in
            var position = 0
            while position <= bytes.count - marker.count {
                if bytes[position] == first, marker.indices.allSatisfy({ bytes[position + $0] == marker[$0] }) { return true }
                position += 1
            }
            return false
        }
    }
}
