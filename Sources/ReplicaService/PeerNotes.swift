import Basics
import Dispatch
import FileSealing
import Glibc
import Logging
import MVCC
import Replica
import Storage
import Synchronization

/// What a member of several keeps beside log and records, so that it is there when those are damaged, or gone back in time: who the others are
/// and where, what it remembers of each (`Witness`), and which run of itself was the last that took part.
///
///     "CFPEERS1" | file key generation u16 | sealed under the file key:
///         run u64 | length u32, members as a founding command | count u32 | count × { member u64 | run u64 | term u64 | index u64 }
///     AD = "CFPEERS1" | keyring 16 | member u64
///
/// Written under another name, synced, renamed. What the others acknowledged is written a few seconds late: a member that is asked after a
/// restart may know a little less than it knew.
final class PeerNotes: Sendable {
    struct Content: Hashable, Sendable {
        var lastRun: UInt64 = 0
        var members: [ClusterMember] = []
        var witnesses: [Witness] = []
    }
    private static let magic = Bytes("CFPEERS1".utf8)
    private static let bytesMax = 1 << 20
    private let directory: String
    private let fileKey: FileKey
    private let associatedData: Bytes
    private let logger: Logger
    private let content: Mutex<Content>
    /// One write at a time; those that were asked for meanwhile become one.
    private let queue = DispatchQueue(label: "coffer.peer-notes")
    private let isQueued = Mutex(false)
    private var path: String { directory + "/peers" }

    init(directory: String, fileKey: FileKey, keyring: KeyringID, member: MemberID, logger: Logger) {
        self.directory = directory
        self.fileKey = fileKey
        self.logger = logger
        var data = ByteWriter()
        data.write(raw: Self.magic)
        data.write(raw: keyring.bytes)
        data.write(member.rawValue)
        associatedData = data.bytes
        content = Mutex(Content())
        do {
            if let found = try Self.read(directory + "/peers", fileKey, associatedData) { content.withLock { $0 = found } }
        } catch {
            // As if it had never been written: the others know more of this member than it does, and it is repaired.
            logger.error("what is noted of the other members cannot be read", metadata: ["path": "\(directory)/peers", "reason": "\(error)"])
        }
    }

    var now: Content { content.withLock { $0 } }

    /// On the disk when it returns.
    func takePart(in run: UInt64) throws(StorageFailure) {
        let changed = content.withLock { content in
            content.lastRun = run
            return content
        }
        let result: Result<Void, StorageFailure> = queue.sync { do throws(StorageFailure) { return .success(try write(changed)) } catch { return .failure(error) } }
        try result.get()
    }
    /// On the disk soon.
    func note(members: [ClusterMember], witnesses: [Witness]) {
        let isNew = content.withLock { content in
            guard content.members != members || content.witnesses != witnesses else { return false }
            content.members = members
            content.witnesses = witnesses
            return true
        }
        guard isNew, !isQueued.withLock({ queued in defer { queued = true }; return queued }) else { return }
        queue.async { [self] in
            isQueued.withLock { $0 = false }
            do { try write(now) } catch {
                logger.warning("what is known of the other members cannot be noted", metadata: ["reason": "\(error)"])
            }
        }
    }
    /// Returns when nothing is being written any more.
    func settle() { queue.sync {} }

    private func write(_ content: Content) throws(StorageFailure) {
        var plain = ByteWriter()
        plain.write(content.lastRun)
        plain.write(prefixed: content.members.isEmpty ? [] : Command.member(.found(content.members)).encode())
        plain.write(UInt32(content.witnesses.count))
        for witness in content.witnesses {
            plain.write(witness.member.rawValue)
            plain.write(witness.run)
            plain.write(witness.term)
            plain.write(witness.index)
        }
        var bytes = ByteWriter()
        bytes.write(raw: Self.magic)
        bytes.write(fileKey.generation)
        bytes.write(raw: fileKey.seal(plain.bytes, associatedData: associatedData))
        try SmallFiles.replace(path, with: bytes.bytes)
    }

    private static func read(_ path: String, _ fileKey: FileKey, _ associatedData: Bytes) throws -> Content? {
        guard let bytes = try SmallFiles.read(path, bytesMax: bytesMax) else { return nil }
        var reader = ByteReader(bytes)
        guard Bytes(try reader.readRaw(magic.count)) == magic else { throw MalformedBytes("no notes of peers", at: 0) }
        let generation: UInt16 = try reader.read()
        guard generation == fileKey.generation else { throw MalformedBytes("sealed under generation \(generation)", at: magic.count) }
        let plain = try fileKey.open(try reader.readRaw(reader.remaining), associatedData: associatedData)
        reader = ByteReader(plain)
        var content = Content()
        content.lastRun = try reader.read()
        let members = try reader.readPrefixed()
        if !members.isEmpty {
            guard case .member(.found(let found)) = try Command(decoding: members) else { throw MalformedBytes("no members", at: 8) }
            content.members = found
        }
        let count: UInt32 = try reader.read()
        guard Int(count) <= reader.remaining / 32 else { throw MalformedBytes("\(count) witnesses", at: reader.offset) }
        for _ in 0..<count {
            content.witnesses.append(Witness(member: MemberID(try reader.read()), run: try reader.read(), term: try reader.read(), index: try reader.read()))
        }
        try reader.expectEnd()
        return content
    }
}

/// Files that are read whole, and replaced whole or not at all.
enum SmallFiles {
    static func replace(_ path: String, with bytes: Bytes) throws(StorageFailure) {
        let files = PosixFileSystem()
        unlink(path + ".new") // of a write that was cut short
        let file = try files.open(path + ".new", creating: true)
        defer { file.close() }
        let written: Result<Void, StorageFailure> = bytes.withUnsafeBytes { bytes in
            do throws(StorageFailure) { return .success(try file.write(bytes, at: 0)) } catch { return .failure(error) }
        }
        try written.get()
        try file.synchronize()
        try files.rename(path + ".new", to: path)
        try files.synchronizeDirectory(String(path.prefix(upTo: path.lastIndex(of: "/") ?? path.endIndex)))
    }
    /// `nil`: it is not there. Throws when it is longer than `bytesMax`.
    static func read(_ path: String, bytesMax: Int) throws -> Bytes? {
        guard access(path, F_OK) == 0 else { return nil }
        let file = try PosixFileSystem().open(path, creating: false)
        defer { file.close() }
        let size = try file.byteCount()
        guard size <= bytesMax else { throw MalformedBytes("\(size) bytes in \(path)", at: 0) }
        var bytes = Bytes(repeating: 0, count: size)
        let read = try bytes.withUnsafeMutableBytes { target in try file.read(into: target, at: 0) }
        guard read == size else { throw MalformedBytes("\(read) of \(size) bytes", at: read) }
        return bytes
    }
}
