package import Basics
import FileSealing
import Glibc
package import Sealing
import SecretMemory
import Storage

/// What opens the seal of a data directory.
package enum SealSource: Hashable, Sendable {
    /// A file of 32 random bytes, outside the data directory; made if the directory is new and the file is not there.
    case keyFile(path: String)
    /// A file whose first line is the passphrase.
    case passphraseFile(path: String)
}

/// Why a data directory was not opened. Nothing was changed then.
package enum DataDirectoryError: Error, Equatable, CustomStringConvertible {
    case inUse(String)
    case newerFormat(found: String, path: String)
    case link(String)
    case notOurs(String)
    case keyFileInside(String)
    case keyFileMissing(String)
    case keyFilePermissions(String, mode: UInt32)
    case wrongSeal(String)
    case incomplete(String)
    case storage(String)
    case file(String, operation: String, code: Int32)

    package var description: String {
        switch self {
        case .inUse(let path): "\(path) is in use by another process"
        case .newerFormat(let found, let path): "\(path) has format \(found), newer than this program knows (\(DataDirectory.format)): use a newer Coffer"
        case .link(let path): "\(path) is a symbolic link, and what it points to could be exchanged: name the directory itself"
        case .notOurs(let path): "\(path) is not empty and not a Coffer data directory: name an empty or new one"
        case .keyFileInside(let path): "the key file \(path) lies inside the data directory: a key beside what it protects protects nothing; keep it elsewhere"
        case .keyFileMissing(let path): "the key file \(path) is not there, and the data directory needs it: bring it back, nothing else opens this directory"
        case .keyFilePermissions(let path, let mode): "\(path) has mode \(String(mode, radix: 8)): only its owner may read it (chmod 400)"
        case .wrongSeal(let reason): reason
        case .incomplete(let what): what
        case .storage(let reason): reason
        case .file(let path, let operation, let code): "\(operation) \(path): \(unsafe String(cString: strerror(code)))"
        }
    }
}

/// A data directory, locked and unsealed.
///
///     format        "coffer 1\n"
///     lock          locked while a process has the directory open
///     seal          the seal file (slots and wrapped roots), in clear: read before anything else
///     cluster       of a member of several: cluster and name
///     member        this member's wrapped file key
///     log/          segments of the write-ahead log
///     records/      LMDB
///
/// A new directory is laid down in this order: lock, format, seal, cluster, member; each file is synced under another name and
/// then renamed, so a crash leaves a directory that the next start completes or names.
///
/// Invariant: `seal`, `cluster` and `member` are never overwritten here.
package final class DataDirectory: Sendable {
    static let format = "coffer 1"
    package let path: String
    package let keyring: Keyring
    package let member: MemberID
    let fileKey: FileKey
    private let lock: any StoredFile

    var logPath: String { path + "/log" }
    var recordsPath: String { path + "/records" }

    private init(path: String, keyring: Keyring, member: MemberID, fileKey: FileKey, lock: any StoredFile) {
        self.path = path; self.keyring = keyring; self.member = member; self.fileKey = fileKey; self.lock = lock
    }
    func unlock() { lock.close() }

    /// Opens `path`, or lays it down if it is new or empty. `now`: milliseconds since 1970.
    /// `founding`: whose it becomes, if it is new.
    package static func open(_ path: String, seal source: SealSource, founding: NewMember? = nil, now: UInt64) throws -> DataDirectory {
        let files = PosixFileSystem()
        try source.refuseInside(path) // before a new directory is made, and once more with what it is then
        let isNew = try prepare(path, files)
        if !isNew { try checkFormat(path) } // before the lock is made: nothing is put beside another's files
        try source.refuseInside(path)
        let lock: any StoredFile
        do { lock = try files.lock(path + "/lock") } catch StorageFailure.inUse { throw DataDirectoryError.inUse(path) }
        do {
            if isNew { try SmallFile.write(Bytes((format + "\n").utf8), to: path + "/format") }
            let (sealFile, root) = try unseal(path, source, given: founding?.sealFile)
            let keyring = Keyring(id: sealFile.keyring, root: root)
            let record = try memberKey(path, keyring, founding, now: now)
            let fileKey: FileKey
            do { fileKey = try FileKey(key: try keyring.unwrap(record), generation: record.generation) } catch {
                throw DataDirectoryError.wrongSeal("\(path)/seal does not open \(path)/member: one of them is damaged or belongs to another keyring (\(error))")
            }
            return DataDirectory(path: path, keyring: keyring, member: record.member, fileKey: fileKey, lock: lock)
        } catch {
            lock.close()
            throw error
        }
    }

    /// Makes the directory if need be; answers whether it is to be laid down.
    private static func prepare(_ path: String, _ files: PosixFileSystem) throws -> Bool {
        var info = stat()
        if unsafe lstat(path, &info) == 0, info.st_mode & S_IFMT == S_IFLNK { throw DataDirectoryError.link(path) }
        do {
            try files.makeDirectory(path)
            let names = try files.names(in: path)
            if names.contains("format") { return false }
            // "format" is the first file after the lock: without it, only the lock may be there.
            guard names.allSatisfy({ $0 == "lock" || $0.hasSuffix(SmallFile.temporarySuffix) }) else { throw DataDirectoryError.notOurs(path) }
            return true
        } catch let failure as StorageFailure { throw DataDirectoryError.storage("\(path): \(failure)") }
    }

    private static func checkFormat(_ path: String) throws {
        let found = String(decoding: try SmallFile.read(path + "/format", bytesMax: 64) ?? [], as: UTF8.self).split(separator: "\n").first.map(String.init) ?? ""
        if found == format { return }
        throw found.hasPrefix("coffer ") ? DataDirectoryError.newerFormat(found: found, path: path) : DataDirectoryError.notOurs(path)
    }

    /// Opens the seal file with the source's secret, or makes both if the directory is new. `given`: the cluster's seal file, kept once it has opened.
    private static func unseal(_ path: String, _ source: SealSource, given: Bytes?) throws -> (SealFile, RootKey) {
        let sealPath = path + "/seal"
        if let bytes = try SmallFile.read(sealPath, bytesMax: SealFile.fileBytesMax + 1) {
            do {
                let file = try SealFile(decoding: bytes)
                return (file, try file.open(with: try source.secret(creating: false)))
            } catch let error as SealFileError {
                throw DataDirectoryError.wrongSeal("\(source.name) does not open \(sealPath): \(error)")
            }
        }
        guard try SmallFile.read(path + "/member", bytesMax: 1024) == nil else {
            throw DataDirectoryError.incomplete("\(sealPath) is missing, and without it nothing in \(path) opens: restore it from a backup")
        }
        if let given {
            do {
                let file = try SealFile(decoding: given)
                let root = try file.open(with: try source.secret(creating: false))
                try SmallFile.write(given, to: sealPath)
                return (file, root)
            } catch let error as SealFileError {
                throw DataDirectoryError.wrongSeal("\(source.name) does not open the cluster's seal file: \(error)")
            }
        }
        let root = try RootKey.random(generation: 1)
        let file = try SealFile(keyring: Keyring.newID(), root: root, recipients: [try source.recipient()])
        try SmallFile.write(file.encoded(), to: sealPath)
        return (file, root)
    }

    private static func memberKey(_ path: String, _ keyring: Keyring, _ founding: NewMember?, now: UInt64) throws -> WrappedFileKey {
        let memberPath = path + "/member"
        if let bytes = try SmallFile.read(memberPath, bytesMax: 1024) {
            if let founding, founding.adopts { try founding.write(to: path) }
            do { return try WrappedFileKey(parsing: bytes) } catch { throw DataDirectoryError.incomplete("\(memberPath) is damaged: \(error)") }
        }
        if let founding { try founding.write(to: path) }
        let member = founding?.member ?? MemberID(UInt64.random(in: 1...UInt64(Int64.max)))
        let record = try keyring.newFileKey(member: member, generation: 1, createdMilliseconds: now)
        try SmallFile.write(record.wrapped, to: memberPath)
        return record
    }
}

extension SealSource {
    var name: String {
        switch self {
        case .keyFile(let path): "the key file \(path)"
        case .passphraseFile(let path): "the passphrase in \(path)"
        }
    }
    private var path: String {
        switch self { case .keyFile(let path), .passphraseFile(let path): path }
    }

    /// A key beside what it protects protects nothing. Follows links: the real places count.
    func refuseInside(_ directory: String) throws {
        func real(_ path: String) -> String? {
            guard let resolved = unsafe realpath(path, nil) else { return nil }
            defer { unsafe free(resolved) }
            return unsafe String(cString: resolved)
        }
        let parent = path.contains("/") ? String(path[..<path.lastIndex(of: "/")!]) : "."
        guard let outer = real(directory), let inner = real(path) ?? real(parent.isEmpty ? "/" : parent) else {
            // Not made yet: their names tell.
            let trimmed = directory.hasSuffix("/") ? directory : directory + "/"
            if path.hasPrefix(trimmed) { throw DataDirectoryError.keyFileInside(path) }
            return
        }
        if inner == outer || inner.hasPrefix(outer + "/") { throw DataDirectoryError.keyFileInside(path) }
    }

    /// A new slot's public half; makes the key file if it is not there.
    func recipient() throws -> SlotRecipient {
        switch try secret(creating: true) {
        case .keyFile(let key): try KeyFileSlot.recipient(for: key)
        case .passphrase(let passphrase): try PassphraseSlot.recipient(for: passphrase)
        }
    }

    func secret(creating: Bool) throws -> SlotSecret {
        var info = stat()
        let exists = unsafe stat(path, &info) == 0
        if exists, info.st_mode & 0o077 != 0 { throw DataDirectoryError.keyFilePermissions(path, mode: info.st_mode & 0o777) }
        switch self {
        case .keyFile:
            if !exists {
                guard creating else { throw DataDirectoryError.keyFileMissing(path) }
                try unsafe SecretBytes.random(count: KeyFileSlot.keyBytes).withUnsafeBytes { bytes throws in
                    try unsafe SmallFile.write(bytes, to: path, mode: 0o400)
                }
            }
            return .keyFile(try SmallFile.readSecret(path, bytesMax: 4096))
        case .passphraseFile:
            guard exists else { throw DataDirectoryError.keyFileMissing(path) }
            let line = try SmallFile.readSecret(path, bytesMax: 4096)
            let trimmed = try unsafe line.withUnsafeBytes { bytes throws -> SecretBytes in
                let end = unsafe bytes.firstIndex { $0 == 0x0a || $0 == 0x0d } ?? bytes.count
                guard end > 0 else { throw DataDirectoryError.wrongSeal("\(path) holds no passphrase") }
                return try unsafe SecretBytes(copying: UnsafeRawBufferPointer(rebasing: bytes[..<end]))
            }
            return .passphrase(trimmed)
        }
    }
}

/// Files of a few bytes that are read whole, and written whole or not at all.
enum SmallFile {
    static let temporarySuffix = ".new"

    /// `nil` when it is not there.
    static func read(_ path: String, bytesMax: Int) throws -> Bytes? {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        if descriptor < 0 {
            if errno == ENOENT { return nil }
            throw DataDirectoryError.file(path, operation: "open", code: errno)
        }
        defer { close(descriptor) }
        return try unsafe Bytes(unsafeUninitializedCapacity: bytesMax) { target, count in
            count = try unsafe fill(UnsafeMutableRawBufferPointer(target), from: descriptor, path)
        }
    }
    /// Straight into memory that wipes itself.
    static func readSecret(_ path: String, bytesMax: Int) throws -> SecretBytes {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw DataDirectoryError.file(path, operation: "open", code: errno) }
        defer { close(descriptor) }
        return try unsafe SecretBytes(capacity: bytesMax) { try unsafe fill($0, from: descriptor, path) }
    }
    private static func fill(_ target: UnsafeMutableRawBufferPointer, from descriptor: Int32, _ path: String) throws -> Int {
        var count = 0
        while count < target.count {
            let read = unsafe Glibc.read(descriptor, target.baseAddress! + count, target.count - count)
            if read < 0, errno == EINTR { continue }
            guard read >= 0 else { throw DataDirectoryError.file(path, operation: "read", code: errno) }
            if read == 0 { break }
            count += read
        }
        return count
    }

    static func write(_ bytes: Bytes, to path: String, mode: mode_t = 0o600) throws {
        try unsafe bytes.withUnsafeBytes { try unsafe write($0, to: path, mode: mode) }
    }
    /// Synced under another name, then linked to `path`, which must not exist; then the folder is synced.
    static func write(_ bytes: UnsafeRawBufferPointer, to path: String, mode: mode_t) throws {
        let temporary = path + temporarySuffix
        unsafe unlink(temporary)
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)
        guard descriptor >= 0 else { throw DataDirectoryError.file(temporary, operation: "create", code: errno) }
        defer { unsafe unlink(temporary) }
        var offset = 0
        while offset < bytes.count {
            let written = unsafe Glibc.write(descriptor, bytes.baseAddress! + offset, bytes.count - offset)
            if written < 0, errno == EINTR { continue }
            guard written > 0 else { close(descriptor); throw DataDirectoryError.file(temporary, operation: "write", code: errno) }
            offset += written
        }
        guard fsync(descriptor) == 0, close(descriptor) == 0 else { throw DataDirectoryError.file(temporary, operation: "sync", code: errno) }
        guard unsafe link(temporary, path) == 0 else { throw DataDirectoryError.file(path, operation: "create", code: errno) }
        let folder = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        do { try PosixFileSystem().synchronizeDirectory(folder.isEmpty ? "/" : folder) } catch {
            throw DataDirectoryError.storage("\(folder): \(error)")
        }
    }
}
