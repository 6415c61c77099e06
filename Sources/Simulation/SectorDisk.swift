import Basics
import Glibc
import WriteAheadLog

/// A disk under the shipping log: what is durable, and what was written and not synced, in order. A sync makes a segment's writes
/// durable. When power is cut, the syncs that were reached count; of what was written after them any sectors of 512 bytes may be there.
///
/// Removed segments and new ones are entries of a directory: removals happen in order, later than asked for, or not at all.
final class SectorDisk: LogMedium {
    struct Segment {
        var id: UInt64
        var bytes: Bytes
        /// How far anything was ever written; what the bytes are must decide nothing, since keys and nonces differ from run to run.
        var used = 0
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
    /// The last writes, whose bytes may turn up in the wrong place.
    private var written: [(segment: UInt64, offset: Int, bytes: Bytes)] = []
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
            if let position = segments.firstIndex(where: { $0.id == id }) {
                segments[position].bytes = Bytes(repeating: 0, count: segmentBytes)
                segments[position].used = 0
            } else {
                segments.append(Segment(id: id, bytes: Bytes(repeating: 0, count: segmentBytes)))
                segments.sort { $0.id < $1.id }
            }
        case .write(let id, let offset, let bytes):
            place(bytes[...], at: offset, of: id)
            if written.count >= 32 { written.removeFirst() }
            written.append((id, offset, bytes))
        case .sync: break
        }
    }
    private func place(_ bytes: ArraySlice<UInt8>, at offset: Int, of id: UInt64) {
        guard let position = segments.firstIndex(where: { $0.id == id }) else { return }
        segments[position].bytes.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        segments[position].used = max(segments[position].used, offset + bytes.count)
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

    /// What may become of bytes that were written and synced.
    enum Rot: CaseIterable, Sendable {
        /// One bit turns over.
        case flip
        /// A sector shows what another one should.
        case misdirected
        /// A sector is as it was before its last write: nothing from somewhere on.
        case stale
        /// A whole write stands where another one should, which was as long.
        case spliced
    }
    /// Something acknowledged changes, before the last write that was synced. False if there is nothing yet.
    func rot(_ kind: Rot, _ chance: inout Chance) -> Bool {
        guard let lastSync else { return false }
        // A beginning that is to be cut is not looked at any more.
        let candidates = segments.indices.filter { position in
            let id = segments[position].id
            return id <= lastSync.segment && !removals.contains(id) && (id < lastSync.segment || lastSync.offset > 0)
        }
        guard !candidates.isEmpty else { return false }
        let position = chance.pick(candidates), id = segments[position].id
        let used = id == lastSync.segment ? lastSync.offset : segments[position].used
        guard used > 0 else { return false }
        let before = segments[position].bytes, place = chance.below(used), other = chance.pick(candidates)
        let start = place / Self.sectorBytes * Self.sectorBytes, end = min(used, start + Self.sectorBytes)
        switch kind {
        case .flip: segments[position].bytes[place] ^= UInt8(1 << chance.below(8))
        case .misdirected:
            let source = chance.below(segmentBytes / Self.sectorBytes) * Self.sectorBytes
            segments[position].bytes.replaceSubrange(start..<end, with: segments[other].bytes[source..<source + end - start])
        case .stale: for at in place..<end { segments[position].bytes[at] = 0 }
        case .spliced:
            let targets = written.filter { $0.segment == id && $0.offset + $0.bytes.count <= used }
            guard !targets.isEmpty else { return false }
            let target = chance.pick(targets)
            guard let source = written.last(where: { $0.bytes.count == target.bytes.count && $0.bytes != target.bytes }) else { return false }
            segments[position].bytes.replaceSubrange(target.offset..<target.offset + target.bytes.count, with: source.bytes)
        }
        return segments[position].bytes != before
    }

    // MARK: - Images

    /// All that is durable at a moment.
    struct Image {
        fileprivate var segments: [Segment]
        fileprivate var lastSync: (segment: UInt64, offset: Int)?
    }
    var image: Image { Image(segments: segments, lastSync: lastSync) }
    /// The disk is as it was then, whatever was written since.
    func putBack(_ image: Image) {
        removeAll()
        segments = image.segments
        lastSync = image.lastSync
    }

    func removeAll() {
        segments.removeAll()
        pending.removeAll()
        removals.removeAll()
        written.removeAll()
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
            segments[position].used = min(segments[position].used, start)
        }
    }
}

enum Secrecy {
    /// Every secret value begins so.
    static let canary = Bytes("CANARY:t0p-s3cret:".utf8)
    /// Every key's name, which the disk must not show either.
    static let keyMarker = Bytes("/registry/prod/".utf8)
    /// The canary as it is, in hexadecimal, and in base64 wherever in a group of three it begins.
    static let canaries: [Bytes] = [canary, hexadecimal(canary), base64(canary[...]), base64(canary.dropFirst(1)), base64(canary.dropFirst(2))]
    private static func hexadecimal(_ bytes: Bytes) -> Bytes {
        let digits = Bytes("0123456789abcdef".utf8)
        return bytes.flatMap { byte in [digits[Int(byte >> 4)], digits[Int(byte & 15)]] }
    }
    /// Whole groups of three only.
    private static func base64(_ bytes: ArraySlice<UInt8>) -> Bytes {
        let digits = Bytes("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        var text: Bytes = [], rest = bytes
        while rest.count >= 3 {
            let group = rest.prefix(3).reduce(0) { $0 << 8 | Int($1) }
            for shift in [18, 12, 6, 0] { text.append(digits[(group >> shift) & 63]) }
            rest = rest.dropFirst(3)
        }
        return text
    }
    static func holdsCanary(_ bytes: Bytes) -> Bool { canaries.contains { contains(bytes, $0) } }

    static func contains(_ bytes: Bytes, _ marker: Bytes) -> Bool {
        guard let first = marker.first, bytes.count >= marker.count else { return false }
        return bytes.withUnsafeBytes { bytes in
            marker.withUnsafeBytes { marker in
                var position = 0
                let last = bytes.count - marker.count
                while position <= last, let found = memchr(bytes.baseAddress! + position, Int32(first), last - position + 1) {
                    position = UnsafeRawPointer(found) - bytes.baseAddress!
                    if memcmp(bytes.baseAddress! + position, marker.baseAddress!, marker.count) == 0 { return true }
                    position += 1
                }
                return false
            }
        }
    }
}
