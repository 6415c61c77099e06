import Basics
import WriteAheadLog

/// An AEAD in shape only: it notices every change, and keeps no secret.
final class ToyCipher: FrameCipher {
    let key: UInt64
    let generation: UInt16
    private var counter: UInt64 = 0
    init(key: UInt64 = 7, generation: UInt16 = 1) { self.key = key; self.generation = generation }

    func seal(_ plaintext: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) {
        counter += 1
        target.initializeMemory(as: UInt8.self, repeating: 0)
        target.storeBytes(of: counter, as: UInt64.self)
        let body = UnsafeMutableRawBufferPointer(rebasing: target[24..<24 + plaintext.count])
        body.copyMemory(from: plaintext)
        mask(body, counter)
        let tag = tag(UnsafeRawBufferPointer(rebasing: target[..<(24 + plaintext.count)]), associatedData)
        target.storeBytes(of: tag.0, toByteOffset: 24 + plaintext.count, as: UInt64.self)
        target.storeBytes(of: tag.1, toByteOffset: 32 + plaintext.count, as: UInt64.self)
    }
    func open(_ sealed: UnsafeRawBufferPointer, associatedData: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
        let bodyEnd = sealed.count - 16
        let expected = tag(UnsafeRawBufferPointer(rebasing: sealed[..<bodyEnd]), associatedData)
        guard sealed.loadUnaligned(fromByteOffset: bodyEnd, as: UInt64.self) == expected.0,
              sealed.loadUnaligned(fromByteOffset: bodyEnd + 8, as: UInt64.self) == expected.1 else { return false }
        target.copyMemory(from: UnsafeRawBufferPointer(rebasing: sealed[24..<bodyEnd]))
        mask(target, sealed.loadUnaligned(as: UInt64.self))
        return true
    }
    private func mask(_ bytes: UnsafeMutableRawBufferPointer, _ nonce: UInt64) {
        var generator = SeededGenerator(seed: key ^ nonce)
        for i in bytes.indices { bytes[i] ^= UInt8(truncatingIfNeeded: generator.next()) }
    }
    private func tag(_ bytes: UnsafeRawBufferPointer, _ associatedData: UnsafeRawBufferPointer) -> (UInt64, UInt64) {
        var a: UInt64 = 0xcbf2_9ce4_8422_2325 ^ key, b: UInt64 = key &* 31
        for part in [associatedData, bytes] {
            for byte in part {
                a = (a ^ UInt64(byte)) &* 0x100_0000_01b3
                b = (b &+ a) &* 0x9e37_79b9_7f4a_7c15
            }
            a ^= UInt64(part.count)
        }
        return (a, b ^ b >> 29)
    }
}

/// Segments in memory. Remembers what was written since the last sync, for tearing.
final class MemoryMedium: LogMedium {
    enum Step: Equatable, CustomStringConvertible {
        case begin(UInt64), write(UInt64, Range<Int>), synchronize(UInt64)
        var description: String {
            switch self {
            case .begin(let id): "begin \(id)"
            case .write(let id, let range): "write \(id) \(range.lowerBound)..<\(range.upperBound)"
            case .synchronize(let id): "synchronize \(id)"
            }
        }
    }
    let segmentBytes: Int
    var segments: [UInt64: [UInt8]] = [:]
    var steps: [Step] = []
    init(segmentBytes: Int) { self.segmentBytes = segmentBytes }

    func begin(segment: UInt64) { segments[segment] = [UInt8](repeating: 0, count: segmentBytes); steps.append(.begin(segment)) }
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, of segment: UInt64) {
        segments[segment]!.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        steps.append(.write(segment, offset..<offset + bytes.count))
    }
    func synchronize(segment: UInt64) { steps.append(.synchronize(segment)) }
}

let identity = LogIdentity(keyring: KeyringID(Bytes(repeating: 0xaa, count: 16))!, member: MemberID(3))

/// A log in memory: a writer, its segments, and recovery from any image of them.
struct MemoryLog {
    var writer: LogWriter<ToyCipher>
    let medium: MemoryMedium
    init(segmentBytes: Int = 1024, cipher: ToyCipher = ToyCipher()) {
        medium = MemoryMedium(segmentBytes: segmentBytes)
        writer = LogWriter(continuing: RecoveredLog(), identity: identity, cipher: cipher, segmentBytes: segmentBytes)
    }
    mutating func append(_ indexes: ClosedRange<LogIndex>, term: Term = 1, payloadBytes: Int = 20, state: LogState? = nil) {
        let entries = indexes.map { LogEntry(index: $0, term: term, payload: payload($0, payloadBytes)) }
        writer.commit([LogBatch(entries: entries, state: state)], to: medium)
    }
    func recovered(anchor: LogAnchor? = nil, cipher: ToyCipher = ToyCipher(), identity: LogIdentity = identity) -> RecoveredLog {
        recover(medium.segments, anchor: anchor, cipher: cipher, identity: identity)
    }
}
func payload(_ index: LogIndex, _ bytes: Int) -> Bytes { (0..<bytes).map { UInt8(truncatingIfNeeded: Int(index) &* 31 &+ $0) } }

func recover(
    _ segments: [UInt64: [UInt8]], anchor: LogAnchor? = nil, cipher: ToyCipher = ToyCipher(), identity: LogIdentity = identity
) -> RecoveredLog {
    var recovery = LogRecovery(identity: identity, anchor: anchor, cipher: cipher)
    for (id, bytes) in segments.sorted(by: { $0.key < $1.key }) {
        bytes.withUnsafeBytes { recovery.read(segment: id, $0) }
    }
    return recovery.finish()
}
