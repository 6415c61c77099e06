import CLinux
import Glibc

/// A call that the kernel refused: what was wanted, and errno. Never bytes of a value.
package struct SystemFailure: Error, Equatable, CustomStringConvertible {
    package var what: String
    package var code: Int32
    package init(_ what: String, code: Int32) { self.what = what; self.code = code }
    package var description: String { "\(what): \(unsafe String(cString: strerror(code)))" }
    var isNoEntry: Bool { code == ENOENT }
}

/// Something at a place that must not be there. Nothing was changed.
package struct PlaceRefusal: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// An open file, directory or mount with one owner; closed when its lifetime ends.
package struct Descriptor: ~Copyable, Sendable {
    let raw: Int32
    init(raw: Int32) { self.raw = raw }
    deinit { close(raw) }

    /// From a call of `CLinux`, which answers a descriptor or -errno.
    init(_ result: Int32, _ what: @autoclosure () -> String) throws(SystemFailure) {
        guard result >= 0 else { throw SystemFailure(what(), code: -result) }
        raw = result
    }
}

/// Throws when a call of `CLinux` answered -errno.
@discardableResult
func check(_ result: Int32, _ what: @autoclosure () -> String) throws(SystemFailure) -> Int32 {
    guard result >= 0 else { throw SystemFailure(what(), code: -result) }
    return result
}

/// Throws when a call of the C library answered -1; `errno` is read at once.
@discardableResult
func checkErrno<T: SignedInteger>(_ result: T, _ what: @autoclosure () -> String) throws(SystemFailure) -> T {
    guard result >= 0 else { throw SystemFailure(what(), code: errno) }
    return result
}

/// How a name below a directory may resolve: never through a link, never out of it.
enum Resolve {
    static let strict = UInt64(CLINUX_RESOLVE_NO_SYMLINKS | CLINUX_RESOLVE_NO_MAGICLINKS | CLINUX_RESOLVE_BENEATH)
    /// Nor into another mount.
    static let sameMount = strict | UInt64(CLINUX_RESOLVE_NO_XDEV)
}

extension Descriptor {
    static let pathOnly = UInt64(CLINUX_OPEN_PATH | O_DIRECTORY)
    static let readable = UInt64(O_RDONLY | O_DIRECTORY)

    borrowing func open(_ name: String, _ flags: UInt64, mode: UInt64 = 0, resolve: UInt64 = Resolve.strict) throws(SystemFailure) -> Descriptor {
        try Descriptor(unsafe clinux_openat2(raw, name, flags, mode, resolve), "opening \(name)")
    }

    /// A directory below, made if it is missing. With `resolve` `.sameMount` something mounted there is an error (EXDEV).
    borrowing func directory(_ name: String, mode: mode_t, resolve: UInt64 = Resolve.sameMount) throws(SystemFailure) -> Descriptor {
        do {
            return try open(name, Self.pathOnly, resolve: resolve)
        } catch where error.isNoEntry {
            let made = unsafe mkdirat(raw, name, mode)
            if made < 0, errno != EEXIST { throw SystemFailure("making directory \(name)", code: errno) }
            return try open(name, Self.pathOnly, resolve: resolve)
        }
    }

    /// Names in this directory, sorted, without `.` and `..`.
    borrowing func names() throws(SystemFailure) -> [String] {
        let listing = try open(".", Self.readable)
        let copy = try checkErrno(dup(listing.raw), "reading a directory")
        guard let stream = unsafe fdopendir(copy) else {
            close(copy)
            throw SystemFailure("reading a directory", code: errno)
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    enum Kind: Equatable { case directory, file, link, other }

    /// What a name is, links not followed; nil when it is not there.
    borrowing func kind(of name: String) throws(SystemFailure) -> Kind? {
        var information = stat()
        if unsafe fstatat(raw, name, &information, AT_SYMLINK_NOFOLLOW) < 0 {
            if errno == ENOENT { return nil }
            throw SystemFailure("looking at \(name)", code: errno)
        }
        switch information.st_mode & S_IFMT {
        case S_IFDIR: return .directory
        case S_IFREG: return .file
        case S_IFLNK: return .link
        default: return .other
        }
    }

    borrowing func readLink(_ name: String) throws(SystemFailure) -> String? {
        var buffer = [CChar](repeating: 0, count: 1_024)
        let count = unsafe readlinkat(raw, name, &buffer, buffer.count)
        if count < 0 {
            if errno == ENOENT || errno == EINVAL { return nil }
            throw SystemFailure("reading link \(name)", code: errno)
        }
        return String(validating: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    borrowing func link(_ name: String, to target: String) throws(SystemFailure) {
        try checkErrno(unsafe symlinkat(target, raw, name), "linking \(name)")
    }
    borrowing func rename(_ name: String, to other: String) throws(SystemFailure) {
        try checkErrno(unsafe renameat(raw, name, raw, other), "renaming \(name)")
    }
    /// Removing what is not there succeeds.
    borrowing func remove(_ name: String, directory: Bool = false) throws(SystemFailure) {
        if unsafe unlinkat(raw, name, directory ? AT_REMOVEDIR : 0) < 0, errno != ENOENT { throw SystemFailure("removing \(name)", code: errno) }
    }

    borrowing func write(_ bytes: UnsafeRawBufferPointer) throws(SystemFailure) {
        var rest = unsafe bytes
        while unsafe !rest.isEmpty {
            let written = unsafe Glibc.write(raw, rest.baseAddress, rest.count)
            if written < 0, errno == EINTR { continue }
            try checkErrno(written, "writing")
            unsafe rest = UnsafeRawBufferPointer(rebasing: rest[written...])
        }
    }

    /// The whole of a small file, up to `max` bytes.
    borrowing func readAll(max: Int) throws(SystemFailure) -> [UInt8] {
        var content: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(raw, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            try checkErrno(count, "reading")
            guard count > 0 else { return content }
            guard content.count + count <= max else { throw SystemFailure("reading", code: EFBIG) }
            content.append(contentsOf: buffer.prefix(count))
        }
    }
}
