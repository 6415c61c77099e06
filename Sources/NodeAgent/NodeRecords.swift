import Basics
import CSodium
import Foundation
import Mounts
import NodeProtocol
import SecretMemory

/// What outlives the process, on the agent's own tmpfs: one file per volume, one for the node, and the key of the hashes.
/// Ids, revisions, names of files, keyed hashes; no value.
///
///     node.json                        { "revision", "heard", "serverOffset" }
///     volumes/<uid>.<volume>.json      a `VolumeRecord`
///     hash.key                         32 random bytes
///
/// Files are exchanged whole by rename. One that cannot be read counts as absent: the mount table wins, and the volume is written anew.
struct NodeRecords: ~Copyable {
    private let directory: Descriptor
    private let volumes: Descriptor
    private let hashKey: SecretBytes
    static let fileBytesMax = 16 << 20

    struct Node: Codable, Equatable {
        var revision: Int64 = 0
        /// In milliseconds since boot.
        var heard: Int64 = 0
        var serverOffset: Int64 = 0
    }

    init(directory: consuming Descriptor) throws {
        let volumes = try directory.directory("volumes", mode: 0o700)
        let hashKey = try Self.loadKey(directory)
        self.volumes = volumes
        self.hashKey = hashKey
        self.directory = directory
    }

    private static func loadKey(_ directory: borrowing Descriptor) throws -> SecretBytes {
        if try directory.kind(of: "hash.key") == .file {
            let known = try directory.open("hash.key", UInt64(O_RDONLY | O_NOFOLLOW)).readAll(max: 64)
            if known.count == 32 { return try SecretBytes(copying: known) }
        }
        let fresh = try SecretBytes.random(count: 32)
        try unsafe fresh.withUnsafeBytes { try unsafe replace("hash.key", with: $0, in: directory) }
        return fresh
    }

    private static func replace(_ name: String, with bytes: UnsafeRawBufferPointer, in directory: borrowing Descriptor) throws(SystemFailure) {
        let draft = name + ".new"
        try directory.remove(draft)
        let file = try directory.open(draft, UInt64(O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW), mode: 0o600)
        try unsafe file.write(bytes)
        try directory.rename(draft, to: name)
    }

    /// BLAKE2b, keyed: equal values are told apart from different ones, and the hash tells nobody else anything.
    func fingerprint(_ value: SecretValue) -> Bytes {
        var hash = Bytes(repeating: 0, count: 16)
        unsafe value.withUnsafeBytes { bytes in
            unsafe hashKey.withUnsafeBytes { key in
                let result = unsafe crypto_generichash(
                    &hash, hash.count, bytes.bindMemory(to: UInt8.self).baseAddress, UInt64(bytes.count),
                    key.bindMemory(to: UInt8.self).baseAddress, key.count)
                precondition(result == 0)
            }
        }
        return hash
    }

    // MARK: the node

    func loadNode() -> Node {
        guard let bytes = read("node.json", in: directory) else { return Node() }
        return (try? JSONDecoder().decode(Node.self, from: bytes)) ?? Node()
    }
    func save(_ node: Node) throws { try save(node, as: "node.json", in: directory) }

    // MARK: volumes

    private static func name(_ id: VolumeID) -> String { "\(id.podUID).\(id.volume).json" }

    /// All that can be read; others are dropped.
    func loadVolumes() throws -> [VolumeID: VolumeRecord] {
        var records: [VolumeID: VolumeRecord] = [:]
        for name in try volumes.names() {
            let parts = name.split(separator: ".")
            guard parts.count == 3, parts[2] == "json", let id = VolumeID(podUID: String(parts[0]), volume: String(parts[1])), Self.name(id) == name,
                  let bytes = read(name, in: volumes), let stored = try? JSONDecoder().decode(StoredVolume.self, from: bytes)
            else {
                try volumes.remove(name)
                continue
            }
            records[id] = stored.record
        }
        return records
    }
    func save(_ record: VolumeRecord, for id: VolumeID) throws { try save(StoredVolume(record), as: Self.name(id), in: volumes) }
    func drop(_ id: VolumeID) throws { try volumes.remove(Self.name(id)) }

    private func read(_ name: String, in directory: borrowing Descriptor) -> Data? {
        guard let file = try? directory.open(name, UInt64(O_RDONLY | O_NOFOLLOW)), let bytes = try? file.readAll(max: Self.fileBytesMax) else { return nil }
        return Data(bytes)
    }
    private func save(_ value: some Encodable, as name: String, in directory: borrowing Descriptor) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        let data = try encoder.encode(value)
        try unsafe data.withUnsafeBytes { try unsafe Self.replace(name, with: $0, in: directory) }
    }
}

/// `VolumeRecord` as JSON.
private struct StoredVolume: Codable {
    struct File: Codable { var path: String, mode: UInt16, bytes: Int, hash: String }
    struct Secret: Codable { var namespace: String, name: String, uid: String, version: Int64 }
    struct Retired: Codable { var name: String, due: Int64 }
    var namespace: String
    var pod: String
    var revision: Int64
    var grace: Int64?
    var group: UInt32?
    var files: [File]
    var secrets: [Secret]
    var retired: [Retired]

    init(_ record: VolumeRecord) {
        namespace = record.namespace; pod = record.podName; revision = record.revision; grace = record.graceDeadlineMilliseconds
        group = record.shape.group
        files = record.shape.files.map { File(path: $0.path, mode: $0.mode, bytes: $0.byteCount, hash: Data($0.fingerprint).base64EncodedString()) }
        secrets = record.holdings.map { Secret(namespace: $0.secret.namespace, name: $0.secret.name, uid: $0.uid, version: $0.resourceVersion) }
        retired = record.retired.map { Retired(name: $0.name, due: $0.dueMilliseconds) }
    }
    var record: VolumeRecord {
        let entries = files.map {
            FileEntry(path: $0.path, mode: $0.mode, byteCount: $0.bytes, fingerprint: Bytes(Data(base64Encoded: $0.hash) ?? Data()))
        }
        return VolumeRecord(
            namespace: namespace, podName: pod, revision: revision, graceDeadlineMilliseconds: grace,
            shape: VolumeShape(files: entries, group: group),
            holdings: secrets.map { Holding(secret: SecretName(namespace: $0.namespace, name: $0.name), uid: $0.uid, resourceVersion: $0.version) },
            retired: retired.map { RetiredVersion(name: $0.name, dueMilliseconds: $0.due) })
    }
}
