import Basics
import CLinux
import Glibc
import Synchronization

/// The few operations the log needs of a file system; a seam for faults. Paths are absolute or relative to the process.
package protocol FileSystem: Sendable {
    /// Succeeds when it exists. Its name is durable when this returns.
    func makeDirectory(_ path: String) throws(StorageFailure)
    func names(in directory: String) throws(StorageFailure) -> [String]
    func open(_ path: String, creating: Bool) throws(StorageFailure) -> any StoredFile
    /// An exclusive lock, held until the file is closed. Throws `.inUse`.
    func lock(_ path: String) throws(StorageFailure) -> any StoredFile
    func rename(_ path: String, to newPath: String) throws(StorageFailure)
    func remove(_ path: String) throws(StorageFailure)
    func synchronizeDirectory(_ path: String) throws(StorageFailure)
}

/// An open file. Reads and writes are whole or throw (a read may end at the end of the file).
package protocol StoredFile: AnyObject, Sendable {
    func byteCount() throws(StorageFailure) -> Int
    func read(into target: UnsafeMutableRawBufferPointer, at offset: Int) throws(StorageFailure) -> Int
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(StorageFailure)
    /// From now on whole blocks (`Limits.diskBlockBytes`) are read and written, from memory aligned like them, past the page cache: what is
    /// written once and synced at once gains nothing from it. False where that is not to be had.
    func bypassCache() -> Bool
    /// Contents, and what is needed to read them back (`fdatasync`).
    func synchronizeData() throws(StorageFailure)
    /// Contents and attributes (`fsync`).
    func synchronize() throws(StorageFailure)
    /// A second time it does nothing: the descriptor's number may be another file's by then.
    func close()
}

extension StoredFile {
    package func bypassCache() -> Bool { false }
}

/// The real one. Files are readable by their owner alone.
package struct PosixFileSystem: FileSystem {
    package init() {}

    package func makeDirectory(_ path: String) throws(StorageFailure) {
        let isNew = unsafe mkdir(path, 0o700) == 0
        guard isNew || errno == EEXIST else { throw .posix("mkdir") }
        var parent = path[...]
        while parent.hasSuffix("/") { parent.removeLast() }
        parent = parent.lastIndex(of: "/").map { parent[...$0] } ?? "."
        // One that is there may be of a start that was cut short. Where we may not look, another made it, and saw to its name.
        if !isNew, unsafe access(String(parent), R_OK) != 0 { return }
        try synchronizeDirectory(String(parent))
    }
    package func names(in directory: String) throws(StorageFailure) -> [String] {
        guard let stream = unsafe opendir(directory) else { throw .posix("opendir") }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { field in
                unsafe String(decoding: field.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }
    package func open(_ path: String, creating: Bool) throws(StorageFailure) -> any StoredFile {
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (creating ? O_CREAT | O_EXCL : 0), 0o600)
        guard descriptor >= 0 else { throw .posix("open") }
        return PosixFile(descriptor)
    }
    package func lock(_ path: String) throws(StorageFailure) -> any StoredFile {
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_CREAT, 0o600)
        guard descriptor >= 0 else { throw .posix("open") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let failure = errno == EWOULDBLOCK ? StorageFailure.inUse : .posix("flock")
            Glibc.close(descriptor)
            throw failure
        }
        return PosixFile(descriptor)
    }
    package func rename(_ path: String, to newPath: String) throws(StorageFailure) {
        guard unsafe Glibc.rename(path, newPath) == 0 else { throw .posix("rename") }
    }
    package func remove(_ path: String) throws(StorageFailure) {
        guard unsafe unlink(path) == 0 else { throw .posix("unlink") }
    }
    package func synchronizeDirectory(_ path: String) throws(StorageFailure) {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .posix("open") }
        defer { Glibc.close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .posix("fsync") }
    }
}

final class PosixFile: StoredFile {
    private let descriptor: Int32
    private let isOpen = Atomic<Bool>(true)
    private let bypassesCache = Atomic<Bool>(false)
    init(_ descriptor: Int32) { self.descriptor = descriptor }

    func byteCount() throws(StorageFailure) -> Int {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw .posix("fstat") }
        return status.st_size
    }
    func read(into target: UnsafeMutableRawBufferPointer, at offset: Int) throws(StorageFailure) -> Int {
        var done = 0
        while done < target.count, let base = target.baseAddress {
            let count = unsafe pread(descriptor, base + done, target.count - done, off_t(offset + done))
            if count < 0 {
                if mayGoOn() { continue }
                throw .posix("pread")
            }
            if count == 0 { break }
            done += count
        }
        return done
    }
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(StorageFailure) {
        var done = 0
        while done < bytes.count, let base = bytes.baseAddress {
            let count = unsafe pwrite(descriptor, base + done, bytes.count - done, off_t(offset + done))
            if count < 0 {
                if mayGoOn() { continue }
                throw .posix("pwrite")
            }
            done += count
        }
    }
    private func mayGoOn() -> Bool {
        if errno == EINTR { return true }
        // The disk's blocks are larger, or its file system promised more than it does.
        return errno == EINVAL && bypassesCache.exchange(false, ordering: .relaxed) && clinux_bypass_cache(descriptor, 0) == 0
    }
    func bypassCache() -> Bool {
        guard clinux_bypass_cache(descriptor, 1) == 0 else { return false }
        bypassesCache.store(true, ordering: .relaxed)
        return true
    }
    func synchronizeData() throws(StorageFailure) {
        guard fdatasync(descriptor) == 0 else { throw .posix("fdatasync") }
    }
    func synchronize() throws(StorageFailure) {
        guard fsync(descriptor) == 0 else { throw .posix("fsync") }
    }
    func close() { if isOpen.exchange(false, ordering: .relaxed) { Glibc.close(descriptor) } }
}

extension StorageFailure {
    /// From `errno`, at once after the call that set it.
    static func posix(_ operation: String) -> StorageFailure {
        let code = errno
        return code == ENOSPC || code == EDQUOT ? .full(operation: operation) : .io(operation: operation, code: code)
    }
}
