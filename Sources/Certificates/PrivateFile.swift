import Glibc

package import Basics

/// Files that only their owner may read, written so that a crash leaves the old one or the new one, whole.
///
/// Steps: (1) a new file beside the target, mode given at creation; (2) written and synced; (3) moved into place: `rename` replaces,
/// `link` refuses when something stands there; (4) the directory is synced.
package enum PrivateFile {
    package enum Replacement: Sendable { case refused, allowed }

    package static func write(_ contents: Bytes, to path: String, replacing: Replacement, mode: UInt32 = 0o600) throws(CertificateFailure) {
        let directory = parent(of: path)
        let temporary = "\(path).new-\(getpid())-\(UInt32.random(in: .min ... .max))"
        let descriptor = open(temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, mode)  // (1)
        guard descriptor >= 0 else { throw failure(temporary) }
        do throws(CertificateFailure) {
            try fill(descriptor, with: contents, path: temporary)  // (2)
            try move(temporary, to: path, replacing: replacing)  // (3)
        } catch {
            unlink(temporary)
            throw error
        }
        try sync(directory: directory)  // (4)
    }

    /// The whole file, at most `limit` bytes; with the mode it has. Nil when there is none.
    package static func read(_ path: String, limit: Int = 1 << 20) throws(CertificateFailure) -> (contents: Bytes, mode: UInt32)? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure(path)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure(path) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw .file(path: path, reason: "not a regular file") }
        var contents: Bytes = []
        var chunk = Bytes(repeating: 0, count: 16 * 1024)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure(path) }
            if count == 0 { break }
            contents.append(contentsOf: chunk[..<count])
            guard contents.count <= limit else { throw .file(path: path, reason: "longer than \(limit) bytes") }
        }
        return (contents, status.st_mode & 0o7777)
    }

    /// Makes the directory (not its parents) for its owner alone, unless it is there. Its name is durable then.
    package static func makeDirectory(_ path: String) throws(CertificateFailure) {
        let isNew = mkdir(path, 0o700) == 0
        guard isNew || errno == EEXIST else { throw failure(path) }
        var trimmed = path[...]
        while trimmed.count > 1, trimmed.hasSuffix("/") { trimmed.removeLast() }
        let directory = parent(of: String(trimmed))
        // One that is there may be of a start that was cut short. Where we may not look, another made it, and saw to its name.
        if isNew || access(directory, R_OK) == 0 { try sync(directory: directory) }
    }

    private static func fill(_ descriptor: Int32, with contents: Bytes, path: String) throws(CertificateFailure) {
        defer { close(descriptor) }
        var written = 0
        while written < contents.count {
            let count = contents.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + written, $0.count - written) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw failure(path) }
            written += count
        }
        guard fsync(descriptor) == 0 else { throw failure(path) }
    }

    private static func move(_ temporary: String, to path: String, replacing: Replacement) throws(CertificateFailure) {
        switch replacing {
        case .allowed:
            guard rename(temporary, path) == 0 else { throw failure(path) }
        case .refused:
            guard link(temporary, path) == 0 else { throw errno == EEXIST ? .exists(path: path) : failure(path) }
            unlink(temporary)
        }
    }

    private static func sync(directory: String) throws(CertificateFailure) {
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(directory) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure(directory) }
    }

    private static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private static func failure(_ path: String) -> CertificateFailure {
        .file(path: path, reason: String(cString: strerror(errno)))
    }
}
