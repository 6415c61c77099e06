package import Basics

/// The body of `POST /apis/coffer.dev/v1/nodes/{name}/sync`. The answer is an endless stream of frames.
///
///     version u16 | node | last revision i64 | count u32, pod uids
package struct SyncRequest: Sendable, Equatable {
    package var node: String
    /// The last complete revision this node has seen; 0 for none. A server behind it must not serve.
    package var resumeRevision: Int64
    /// Pods for which something is mounted here, as the mount table says.
    package var observedPodUIDs: [String]
    package init(node: String, resumeRevision: Int64, observedPodUIDs: [String]) {
        self.node = node; self.resumeRevision = resumeRevision; self.observedPodUIDs = observedPodUIDs
    }

    package func encode() -> Bytes {
        var writer = ByteWriter()
        writer.write(ProtocolLimits.version)
        writer.write(string: node)
        writer.write(resumeRevision)
        writer.write(UInt32(observedPodUIDs.count))
        for uid in observedPodUIDs { writer.write(string: uid) }
        return writer.bytes
    }

    package init(decoding bytes: Bytes) throws {
        self = try unsafe bytes.withUnsafeBytes { raw in
            var reader = unsafe FrameReader(raw)
            try reader.version()
            var request = SyncRequest(node: try reader.string(max: ProtocolLimits.nameBytesMax), resumeRevision: try reader.integer(), observedPodUIDs: [])
            for _ in 0..<(try reader.count(max: ProtocolLimits.acknowledgementsMax, of: "pods")) {
                request.observedPodUIDs.append(try reader.string(max: ProtocolLimits.uidBytesMax))
            }
            try reader.expectEnd()
            return request
        }
    }
}

/// The body of `POST /apis/coffer.dev/v1/nodes/{name}/acks`: what the node says it has done. *Claimed by the node*; the server keeps it as that.
///
///     version u16 | node | revision i64 | count u32, entries
package struct Acknowledgement: Sendable, Equatable {
    package enum Outcome: UInt8, Sendable, CaseIterable {
        /// The secret's bytes are readable in the pod's volume.
        case materialized = 1
        /// They were overwritten, cut and unlinked, and the volume no longer has them.
        case wiped
        /// The pod's removal is complete: none of its volumes is left here. The secret's fields are empty.
        case podRemoved
    }
    package struct Entry: Sendable, Equatable {
        package var outcome: Outcome
        package var namespace: String
        package var podName: String
        package var podUID: String
        package var secretName: String
        package var secretUID: String
        package var resourceVersion: Int64
        package init(outcome: Outcome, namespace: String, podName: String, podUID: String, secretName: String = "", secretUID: String = "",
                     resourceVersion: Int64 = 0) {
            self.outcome = outcome; self.namespace = namespace; self.podName = podName; self.podUID = podUID
            self.secretName = secretName; self.secretUID = secretUID; self.resourceVersion = resourceVersion
        }
    }
    package var node: String
    /// The revision whose state this is.
    package var revision: Int64
    package var entries: [Entry]
    package init(node: String, revision: Int64, entries: [Entry]) { self.node = node; self.revision = revision; self.entries = entries }

    package func encode() -> Bytes {
        var writer = ByteWriter()
        writer.write(ProtocolLimits.version)
        writer.write(string: node)
        writer.write(revision)
        writer.write(UInt32(entries.count))
        for entry in entries {
            writer.write(entry.outcome.rawValue)
            for text in [entry.namespace, entry.podName, entry.podUID, entry.secretName, entry.secretUID] { writer.write(string: text) }
            writer.write(entry.resourceVersion)
        }
        return writer.bytes
    }

    package init(decoding bytes: Bytes) throws {
        self = try unsafe bytes.withUnsafeBytes { raw in
            var reader = unsafe FrameReader(raw)
            try reader.version()
            var acknowledgement = Acknowledgement(node: try reader.string(max: ProtocolLimits.nameBytesMax), revision: try reader.integer(), entries: [])
            for _ in 0..<(try reader.count(max: ProtocolLimits.acknowledgementsMax, of: "entries")) {
                acknowledgement.entries.append(try reader.acknowledgementEntry())
            }
            try reader.expectEnd()
            return acknowledgement
        }
    }
}

extension FrameReader {
    mutating func version() throws(MalformedBytes) {
        let version = try integer(UInt16.self)
        guard version == ProtocolLimits.version else { throw MalformedBytes("protocol version \(version), \(ProtocolLimits.version) known", at: 0) }
    }

    mutating func acknowledgementEntry() throws -> Acknowledgement.Entry {
        let tag = try integer(UInt8.self)
        guard let outcome = Acknowledgement.Outcome(rawValue: tag) else { throw MalformedBytes("\(tag) is no outcome", at: offset - 1) }
        return Acknowledgement.Entry(
            outcome: outcome, namespace: try string(max: ProtocolLimits.nameBytesMax), podName: try string(max: ProtocolLimits.nameBytesMax),
            podUID: try string(max: ProtocolLimits.uidBytesMax), secretName: try string(max: ProtocolLimits.nameBytesMax),
            secretUID: try string(max: ProtocolLimits.uidBytesMax), resourceVersion: try integer())
    }
}
