import CLinux
import Glibc

/// The agent's directory, held by descriptors:
///
///     ROOT/lock                      one agent at a time
///     ROOT/pods/<uid>/<volume>       mount points
///     ROOT/state                     a tmpfs of the agent's own: records, never values
///     ROOT/agent.sock                status
///
/// Every component of the path is opened without following links; the directory must be ours, writable by nobody else, and
/// nothing may be mounted on it. When anything is not as it should be, nothing was changed.
package struct NodeRoot: ~Copyable, Sendable {
    package let path: String
    let directory: Descriptor
    let pods: Descriptor
    private let lock: Descriptor

    static let directoryMode: mode_t = 0o750

    package init(path: String) throws {
        let components = try Self.components(of: path)
        let directory = try Self.walk(components, path: path)
        try Self.checkOwner(directory, path)
        let lock = try Self.locked(directory, path)
        let pods = try Self.below(directory, "pods", path)
        self.path = "/" + components.joined(separator: "/")
        self.lock = lock
        self.pods = pods
        self.directory = directory
    }

    private static func components(of path: String) throws -> [String] {
        guard path.hasPrefix("/") else { throw PlaceRefusal("the root directory must be an absolute path") }
        guard path.utf8.count <= 512, path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\\") }) else {
            throw PlaceRefusal("the root directory's path must be short and of plain characters without blanks")
        }
        let components = path.split(separator: "/").map(String.init)
        guard !components.isEmpty, !components.contains("."), !components.contains("..") else {
            throw PlaceRefusal("the root directory must be below / and its path without . and ..")
        }
        return components
    }

    /// Opens the path step by step, making what is missing; the last step must not enter another mount.
    private static func walk(_ components: [String], path: String) throws -> Descriptor {
        var place = try Descriptor(unsafe open("/", CLINUX_OPEN_PATH | O_DIRECTORY | O_CLOEXEC), "opening /")
        for (depth, name) in components.enumerated() {
            let isLast = depth == components.count - 1
            do {
                place = try place.directory(name, mode: isLast ? directoryMode : 0o755, resolve: isLast ? Resolve.sameMount : Resolve.strict)
            } catch {
                let prefix = "/" + components.prefix(depth + 1).joined(separator: "/")
                switch error.code {
                case ELOOP: throw PlaceRefusal("\(prefix) is a symbolic link: the root directory must be named by its real path")
                case EXDEV: throw PlaceRefusal("something is mounted on \(prefix): the root directory must be a plain directory")
                case ENOTDIR: throw PlaceRefusal("\(prefix) is no directory")
                default: throw error
                }
            }
        }
        return place
    }

    private static func checkOwner(_ directory: borrowing Descriptor, _ path: String) throws {
        var information = stat()
        try checkErrno(unsafe fstatat(directory.raw, "", &information, CLINUX_EMPTY_PATH), "looking at \(path)")
        guard information.st_uid == geteuid() else { throw PlaceRefusal("\(path) belongs to user \(information.st_uid), not to this agent's") }
        guard information.st_mode & 0o022 == 0 else { throw PlaceRefusal("\(path) is writable by others than its owner") }
    }

    private static func below(_ directory: borrowing Descriptor, _ name: String, _ path: String) throws -> Descriptor {
        do {
            return try directory.directory(name, mode: directoryMode)
        } catch {
            switch error.code {
            case ELOOP: throw PlaceRefusal("\(path)/\(name) is a symbolic link")
            case EXDEV: throw PlaceRefusal("something is mounted on \(path)/\(name)")
            case ENOTDIR: throw PlaceRefusal("\(path)/\(name) is no directory")
            default: throw error
            }
        }
    }

    private static func locked(_ directory: borrowing Descriptor, _ path: String) throws -> Descriptor {
        let file = try directory.open("lock", UInt64(O_RDWR | O_CREAT | O_NOFOLLOW), mode: 0o600, resolve: Resolve.sameMount)
        if flock(file.raw, LOCK_EX | LOCK_NB) < 0 {
            guard errno == EWOULDBLOCK else { throw SystemFailure("locking \(path)/lock", code: errno) }
            throw PlaceRefusal("another agent works on \(path)")
        }
        return file
    }

    // MARK: the state's tmpfs

    /// The tmpfs for records, found or mounted. A disk must not learn which pods had which secrets.
    borrowing func openState(at statePath: String?, noswap: Bool) throws -> Descriptor {
        let place: String
        let parent: Descriptor
        if let statePath {
            let components = try Self.components(of: statePath)
            guard let last = components.last, components.count > 1 else { throw PlaceRefusal("the state directory must be below another") }
            place = last
            parent = try Self.walk(components.dropLast(), path: statePath)
        } else {
            place = "state"
            parent = try directory.open(".", Descriptor.pathOnly)
        }
        do {
            let target = try parent.directory(place, mode: 0o700)
            let mount = try TemporaryFileSystem.make(source: MountEntry.sourcePrefix + "state", bytes: 64 << 20, inodes: 65_536, mode: "0700", noswap: noswap)
            try TemporaryFileSystem.verify(mount, noswap: noswap)
            try TemporaryFileSystem.attach(mount, at: target)
        } catch let error as SystemFailure where error.code == ELOOP {
            throw PlaceRefusal("the state directory is a symbolic link")
        } catch let error as SystemFailure where error.code == EXDEV {
            // Mounted already: by an earlier run, or by somebody else.
        }
        let state = try parent.open(place, Descriptor.readable)
        guard let entry = try MountTable.entry(of: state), entry.isOurs, entry.source == MountEntry.sourcePrefix + "state" else {
            throw PlaceRefusal("something that is not the agent's is mounted on its state directory")
        }
        try TemporaryFileSystem.verify(state, noswap: noswap)
        return state
    }
}
