import Basics
import SecretMemory

/// A stream that says what it may not.
package struct ProtocolViolation: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// Turns the bytes of a stream, cut anywhere, into messages. Waiting pieces are held in memory that is wiped.
///
/// States: between transfers, or within one (`transfer` set). A transfer's items count only when its commit names the same
/// revision and the number of frames that came; before that the caller sees nothing of it.
package struct SyncDecoder: Sendable {
    private var pending: [SecretValue] = []
    private var pendingBytes = 0
    private var transfer: Transfer?

    private struct Transfer: Sendable {
        var kind: TransferKind
        var from: Int64
        var revision: Int64
        var serverTime: Int64
        var frames: UInt32 = 0
        var pods: [DesiredPod] = []
        var secrets: [DeliveredSecret] = []
        var removedPods: [String] = []
        var removedSecrets: [SecretName] = []
    }

    package init() {}

    /// True while a frame or a transfer is incomplete.
    package var isMidway: Bool { pendingBytes > 0 || transfer != nil }

    package mutating func consume(_ chunk: UnsafeRawBufferPointer) throws -> [SyncMessage] {
        guard pendingBytes == 0 else {
            pending.append(try unsafe SecretValue(copying: chunk))
            pendingBytes += chunk.count
            return try consumePending()
        }
        var messages: [SyncMessage] = []
        let used = try unsafe parse(chunk, into: &messages)
        if used < chunk.count { try unsafe keep(UnsafeRawBufferPointer(rebasing: chunk[used...])) }
        return messages
    }

    /// Joins the pieces only once a whole frame is there: the header says how much that is.
    private mutating func consumePending() throws -> [SyncMessage] {
        if let needed = try wantedBytes(), pendingBytes < needed { return [] }
        let pieces = pending
        let total = pendingBytes
        let joined = SecretValue(try unsafe SecretBytes(capacity: total) { target in
            var offset = 0
            for piece in pieces {
                unsafe piece.withUnsafeBytes { unsafe UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: $0) }
                offset += piece.count
            }
            return total
        })
        pending = []
        pendingBytes = 0
        var messages: [SyncMessage] = []
        try unsafe joined.withUnsafeBytes { bytes in
            let used = try unsafe parse(bytes, into: &messages)
            if used < bytes.count { try unsafe keep(UnsafeRawBufferPointer(rebasing: bytes[used...])) }
        }
        return messages
    }

    private mutating func keep(_ bytes: UnsafeRawBufferPointer) throws {
        pending.append(try unsafe SecretValue(copying: bytes))
        pendingBytes = bytes.count
    }

    /// Bytes of the first waiting frame with its header; nil while the length is not known.
    private func wantedBytes() throws -> Int? {
        guard pendingBytes >= 4 else { return 5 }
        var length = 0, seen = 0
        for piece in pending where seen < 4 {
            unsafe piece.withUnsafeBytes { bytes in
                for unsafe byte in unsafe bytes where seen < 4 {
                    length = length << 8 | Int(byte)
                    seen += 1
                }
            }
        }
        try Self.check(length)
        return length + 5
    }

    private static func check(_ length: Int) throws {
        guard length <= ProtocolLimits.frameBytesMax else { throw ProtocolViolation("a frame of \(length) bytes, \(ProtocolLimits.frameBytesMax) allowed") }
    }

    private mutating func parse(_ bytes: UnsafeRawBufferPointer, into messages: inout [SyncMessage]) throws -> Int {
        var offset = 0
        while bytes.count - offset >= 5 {
            let length = Int(UInt32(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            try Self.check(length)
            guard bytes.count - offset - 5 >= length else { break }
            let tag = unsafe bytes[offset + 4]
            guard let type = FrameType(rawValue: tag) else { throw ProtocolViolation("frame type \(tag) is unknown") }
            var reader = unsafe FrameReader(UnsafeRawBufferPointer(rebasing: bytes[(offset + 5)..<(offset + 5 + length)]))
            if let message = try handle(type, &reader) { messages.append(message) }
            try reader.expectEnd()
            offset += 5 + length
        }
        return offset
    }

    private mutating func handle(_ type: FrameType, _ reader: inout FrameReader) throws -> SyncMessage? {
        switch type {
        case .begin:
            guard transfer == nil else { throw ProtocolViolation("a transfer begins within another") }
            let tag = try reader.integer(UInt8.self)
            guard let kind = TransferKind(rawValue: tag) else { throw ProtocolViolation("transfer kind \(tag) is unknown") }
            transfer = Transfer(kind: kind, from: try reader.integer(), revision: try reader.integer(), serverTime: try reader.integer())
            return nil
        case .commit:
            return try commit(revision: try reader.integer(), frames: try reader.integer())
        case .heartbeat:
            return .heartbeat(revision: try reader.integer(), serverTimeMilliseconds: try reader.integer())
        case .goodbye:
            return .goodbye(reason: try reader.string(max: ProtocolLimits.reasonBytesMax))
        case .pod, .secret, .podRemoved, .secretRemoved:
            try collect(type, &reader)
            return nil
        }
    }

    private mutating func collect(_ type: FrameType, _ reader: inout FrameReader) throws {
        guard var open = transfer else { throw ProtocolViolation("an item outside a transfer") }
        transfer = nil
        open.frames += 1
        switch type {
        case .pod: open.pods.append(try reader.pod())
        case .secret: open.secrets.append(try reader.deliveredSecret())
        case .podRemoved: open.removedPods.append(try reader.string(max: ProtocolLimits.uidBytesMax))
        default:
            open.removedSecrets.append(SecretName(namespace: try reader.string(max: ProtocolLimits.nameBytesMax),
                                                  name: try reader.string(max: ProtocolLimits.nameBytesMax)))
        }
        guard open.kind == .delta || open.removedPods.isEmpty && open.removedSecrets.isEmpty else { throw ProtocolViolation("a removal within a snapshot") }
        guard open.pods.count <= ProtocolLimits.podsMax, open.removedPods.count <= ProtocolLimits.podsMax,
              open.secrets.count <= ProtocolLimits.secretsMax, open.removedSecrets.count <= ProtocolLimits.secretsMax
        else { throw ProtocolViolation("a transfer with too many items") }
        transfer = open
    }

    private mutating func commit(revision: Int64, frames: UInt32) throws -> SyncMessage {
        guard let done = transfer else { throw ProtocolViolation("a commit outside a transfer") }
        transfer = nil
        guard done.revision == revision, done.frames == frames else { throw ProtocolViolation("a commit that does not fit its transfer") }
        guard Set(done.pods.map(\.uid)).count == done.pods.count else { throw ProtocolViolation("a pod named twice in a transfer") }
        guard Set(done.secrets.map(\.identity)).count == done.secrets.count else { throw ProtocolViolation("a secret named twice in a transfer") }
        switch done.kind {
        case .snapshot:
            return .snapshot(DesiredState(revision: revision, serverTimeMilliseconds: done.serverTime, pods: done.pods, secrets: done.secrets))
        case .delta:
            return .delta(DesiredDelta(
                fromRevision: done.from, revision: revision, serverTimeMilliseconds: done.serverTime, pods: done.pods,
                removedPodUIDs: done.removedPods, secrets: done.secrets, removedSecrets: done.removedSecrets))
        }
    }
}

extension FrameReader {
    mutating func pod() throws -> DesiredPod {
        var pod = DesiredPod(namespace: try string(max: ProtocolLimits.nameBytesMax), name: try string(max: ProtocolLimits.nameBytesMax),
                             uid: try string(max: ProtocolLimits.uidBytesMax), phase: .unknown)
        let tag = try integer(UInt8.self)
        guard let phase = PodPhase(rawValue: tag) else { throw MalformedBytes("\(tag) is no pod phase", at: offset - 1) }
        pod.phase = phase
        if try bool() { pod.graceDeadlineMilliseconds = try integer() }
        if try bool() { pod.fsGroup = try integer() }
        for _ in 0..<(try count(max: ProtocolLimits.volumesPerPodMax, of: "volumes")) {
            var volume = DesiredVolume(name: try string(max: ProtocolLimits.nameBytesMax), defaultMode: try mode(), sources: [])
            for _ in 0..<(try count(max: ProtocolLimits.sourcesPerVolumeMax, of: "sources")) { volume.sources.append(try source()) }
            pod.volumes.append(volume)
        }
        return pod
    }

    private mutating func mode() throws -> UInt16 {
        let bits = try integer(UInt16.self)
        guard bits <= 0o777 else { throw MalformedBytes("mode \(String(bits, radix: 8)) is out of range", at: offset - 2) }
        return bits
    }

    private mutating func source() throws -> VolumeSource {
        let tag = try integer(UInt8.self)
        switch SourceTag(rawValue: tag) {
        case .unsupported: return .unsupported(kind: try string(max: ProtocolLimits.nameBytesMax))
        case .secret:
            var secret = SecretSource(secretName: try string(max: ProtocolLimits.nameBytesMax), isOptional: try bool())
            for _ in 0..<(try count(max: ProtocolLimits.itemsPerSourceMax, of: "items")) {
                secret.items.append(KeyToPath(key: try string(max: ProtocolLimits.nameBytesMax), path: try string(max: ProtocolLimits.pathBytesMax),
                                              mode: try bool() ? try mode() : nil))
            }
            return .secret(secret)
        case nil: throw MalformedBytes("\(tag) is no volume source", at: offset - 1)
        }
    }

    mutating func deliveredSecret() throws -> DeliveredSecret {
        var secret = DeliveredSecret(
            namespace: try string(max: ProtocolLimits.nameBytesMax), name: try string(max: ProtocolLimits.nameBytesMax),
            uid: try string(max: ProtocolLimits.uidBytesMax), resourceVersion: try integer(), content: .revoked)
        let tag = try integer(UInt8.self)
        switch ContentTag(rawValue: tag) {
        case .data:
            var entries: [SecretEntry] = []
            for _ in 0..<(try count(max: ProtocolLimits.keysPerSecretMax, of: "keys")) {
                entries.append(SecretEntry(key: try string(max: ProtocolLimits.nameBytesMax), value: try self.secret(max: Limits.secretDataBytesMax)))
            }
            secret.content = .data(entries)
        case .unreadable: secret.content = .unreadable(reason: try string(max: ProtocolLimits.reasonBytesMax))
        case .revoked: secret.content = .revoked
        case nil: throw MalformedBytes("\(tag) is no secret content", at: offset - 1)
        }
        return secret
    }
}
