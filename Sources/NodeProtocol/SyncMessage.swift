package import SecretMemory
import Basics

/// What the server tells a node on its stream: a complete state, a change, or that it is still there.
package enum SyncMessage: Sendable, Equatable {
    case snapshot(DesiredState)
    case delta(DesiredDelta)
    /// All up to `revision` was told.
    case heartbeat(revision: Int64, serverTimeMilliseconds: Int64)
    /// The server ends the stream and says why; the node comes back after a pause.
    case goodbye(reason: String)
}

/// A frame on the wire, integers big-endian, strings and values with a u32 length before them:
///
///     length u32 | type u8 | payload              length counts the payload only
///
///     1 begin          kind u8 (1 snapshot, 2 delta) | from i64 | revision i64 | server time i64
///     2 pod            namespace | name | uid | phase u8 | grace? i64 | fsGroup? u32 | volumes
///     3 secret         namespace | name | uid | resourceVersion i64 | 1 entries (key | value)* / 2 reason / 3
///     4 pod removed    uid
///     5 secret removed namespace | name
///     6 commit         revision i64 | frames since begin u32
///     7 heartbeat      revision i64 | server time i64
///     8 goodbye        reason
///
/// A transfer is `begin`, its items, `commit`: nothing of it counts before the commit, so that a stream cut in the middle
/// changes nothing, and neither side ever holds a frame larger than one secret.
enum FrameType: UInt8 {
    case begin = 1, pod, secret, podRemoved, secretRemoved, commit, heartbeat, goodbye
}
enum TransferKind: UInt8 { case snapshot = 1, delta }
enum ContentTag: UInt8 { case data = 1, unreadable, revoked }
enum SourceTag: UInt8 { case secret = 1, unsupported }

extension SyncMessage {
    /// The frames to send, in order, each wiped when it is let go.
    package func frames() throws -> [SecretValue] {
        switch self {
        case .snapshot(let state):
            return try Self.transfer(.snapshot, from: 0, to: state.revision, at: state.serverTimeMilliseconds,
                                     pods: state.pods, secrets: state.secrets)
        case .delta(let delta):
            return try Self.transfer(.delta, from: delta.fromRevision, to: delta.revision, at: delta.serverTimeMilliseconds,
                                     pods: delta.pods, removedPods: delta.removedPodUIDs, secrets: delta.secrets, removedSecrets: delta.removedSecrets)
        case .heartbeat(let revision, let time):
            return [try Self.frame(.heartbeat) { $0.write(revision); $0.write(time) }]
        case .goodbye(let reason):
            return [try Self.frame(.goodbye) { $0.write(string: reason) }]
        }
    }

    private static func transfer(_ kind: TransferKind, from: Int64, to: Int64, at time: Int64, pods: [DesiredPod], removedPods: [String] = [],
                                 secrets: [DeliveredSecret], removedSecrets: [SecretName] = []) throws -> [SecretValue] {
        var frames = [try frame(.begin) { $0.write(kind.rawValue); $0.write(from); $0.write(to); $0.write(time) }]
        for uid in removedPods { frames.append(try frame(.podRemoved) { $0.write(string: uid) }) }
        for secret in removedSecrets {
            frames.append(try frame(.secretRemoved) { $0.write(string: secret.namespace); $0.write(string: secret.name) })
        }
        for pod in pods { frames.append(try frame(.pod) { $0.write(pod) }) }
        for secret in secrets { frames.append(try encode(secret)) }
        let count = UInt32(frames.count - 1)
        frames.append(try frame(.commit) { $0.write(to); $0.write(count) })
        return frames
    }

    private static func frame(_ type: FrameType, _ write: (inout ByteWriter) -> Void) throws -> SecretValue {
        var payload = ByteWriter()
        write(&payload)
        var frame = ByteWriter(capacity: payload.bytes.count + 5)
        frame.write(UInt32(payload.bytes.count))
        frame.write(type.rawValue)
        frame.write(raw: payload.bytes)
        return try SecretValue(copying: frame.bytes)
    }

    /// Values are copied from their owner into the frame and nowhere else; only the lengths and names pass through a writer.
    private static func encode(_ secret: DeliveredSecret) throws -> SecretValue {
        var head = ByteWriter()
        head.write(string: secret.namespace)
        head.write(string: secret.name)
        head.write(string: secret.uid)
        head.write(secret.resourceVersion)
        var entries: [SecretEntry] = []
        switch secret.content {
        case .data(let data):
            entries = data
            head.write(ContentTag.data.rawValue)
            head.write(UInt32(data.count))
        case .unreadable(let reason):
            head.write(ContentTag.unreadable.rawValue)
            head.write(string: reason)
        case .revoked:
            head.write(ContentTag.revoked.rawValue)
        }
        let payloadBytes = entries.reduce(head.bytes.count) { $0 + 8 + $1.key.utf8.count + $1.value.count }
        guard payloadBytes <= ProtocolLimits.frameBytesMax else { throw MalformedBytes("secret of \(payloadBytes) bytes", at: 0) }
        var prefix = ByteWriter(capacity: 5 + head.bytes.count)
        prefix.write(UInt32(payloadBytes))
        prefix.write(FrameType.secret.rawValue)
        prefix.write(raw: head.bytes)
        let bytes = try unsafe SecretBytes(capacity: payloadBytes + 5) { target in
            var offset = unsafe append(prefix.bytes, to: target, at: 0)
            for entry in entries {
                var name = ByteWriter(capacity: 8 + entry.key.utf8.count)
                name.write(string: entry.key)
                name.write(UInt32(entry.value.count))
                offset = unsafe append(name.bytes, to: target, at: offset)
                unsafe entry.value.withUnsafeBytes { value in
                    unsafe UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: value)
                }
                offset += entry.value.count
            }
            return offset
        }
        return SecretValue(bytes)
    }

    private static func append(_ bytes: Bytes, to target: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
        unsafe UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyBytes(from: bytes)
        return offset + bytes.count
    }
}

extension ByteWriter {
    mutating func write(string: String) { write(prefixed: string.utf8) }

    mutating func write(_ pod: DesiredPod) {
        write(string: pod.namespace)
        write(string: pod.name)
        write(string: pod.uid)
        write(pod.phase.rawValue)
        write(bool: pod.graceDeadlineMilliseconds != nil)
        if let deadline = pod.graceDeadlineMilliseconds { write(deadline) }
        write(bool: pod.fsGroup != nil)
        if let group = pod.fsGroup { write(group) }
        write(UInt32(pod.volumes.count))
        for volume in pod.volumes {
            write(string: volume.name)
            write(volume.defaultMode)
            write(UInt32(volume.sources.count))
            for source in volume.sources { write(source) }
        }
    }

    private mutating func write(_ source: VolumeSource) {
        switch source {
        case .unsupported(let kind):
            write(SourceTag.unsupported.rawValue)
            write(string: kind)
        case .secret(let secret):
            write(SourceTag.secret.rawValue)
            write(string: secret.secretName)
            write(bool: secret.isOptional)
            write(UInt32(secret.items.count))
            for item in secret.items {
                write(string: item.key)
                write(string: item.path)
                write(bool: item.mode != nil)
                if let mode = item.mode { write(mode) }
            }
        }
    }
}
