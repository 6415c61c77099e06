import CLinux
import Glibc

/// One row of the kernel's mount table.
package struct MountEntry: Hashable, Sendable {
    package var id: UInt64
    package var point: String
    /// Which directory of the file system is mounted; `/` for the whole.
    package var root: String
    package var type: String
    package var source: String
    package var mountOptions: [String]
    package var superOptions: [String]
    /// `shared:N`, `master:N`, …
    package var propagation: [String]

    package static let sourcePrefix = "coffer:"
    package var isOurs: Bool { type == "tmpfs" && source.hasPrefix(Self.sourcePrefix) && root == "/" }
}

package enum MountTable {
    /// All mounts of this process' namespace, in the order they were made; of several on one point the last is on top.
    package static func read() throws(SystemFailure) -> [MountEntry] {
        try lines().compactMap { entry(String(decoding: $0, as: UTF8.self)) }
    }

    private static func lines() throws(SystemFailure) -> [ArraySlice<UInt8>] {
        let file = try Descriptor(unsafe open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC), "reading the mount table")
        return try file.readAll(max: 64 << 20).split(separator: UInt8(ascii: "\n"))
    }

    /// The row of the mount that `descriptor` lies on; nil when it is in no namespace.
    static func entry(of descriptor: borrowing Descriptor) throws(SystemFailure) -> MountEntry? {
        var id: UInt64 = 0
        try check(unsafe clinux_table_id(descriptor.raw, &id), "asking for a mount's id")
        let start = Array("\(id) ".utf8)
        return try lines().first { $0.starts(with: start) }.flatMap { entry(String(decoding: $0, as: UTF8.self)) }
    }

    ///     36 35 98:0 /root /point rw,noatime shared:1 - type source rw,super
    static func entry(_ line: String) -> MountEntry? {
        let fields = line.split(separator: " ")
        guard fields.count >= 10, let id = UInt64(fields[0]), let dash = fields.firstIndex(of: "-"), dash >= 6, dash + 3 < fields.count else { return nil }
        return MountEntry(
            id: id, point: unescaped(fields[4]), root: unescaped(fields[3]), type: String(fields[dash + 1]), source: unescaped(fields[dash + 2]),
            mountOptions: fields[5].split(separator: ",").map(String.init), superOptions: fields[dash + 3].split(separator: ",").map(String.init),
            propagation: fields[6..<dash].map(String.init))
    }

    /// Blanks stand as `\040` and the like.
    private static func unescaped(_ text: Substring) -> String {
        guard text.contains("\\") else { return String(text) }
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3, let code = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8) {
                bytes.append(code)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// A tmpfs that could not be shown to be what it must be.
package struct VerificationFailure: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// The mount calls, as the engine uses them.
enum TemporaryFileSystem {
    static let attributes = UInt32(CLINUX_MOUNT_NOSUID | CLINUX_MOUNT_NODEV | CLINUX_MOUNT_NOEXEC)

    /// A detached tmpfs; gone with the descriptor if it is never attached.
    static func make(source: String, bytes: Int, inodes: Int, mode: String, noswap: Bool) throws(SystemFailure) -> Descriptor {
        let context = try Descriptor(unsafe clinux_fsopen("tmpfs"), "opening tmpfs")
        for (key, value) in [("source", source), ("size", String(bytes)), ("nr_inodes", String(inodes)), ("mode", mode)] {
            try check(unsafe clinux_fsconfig_string(context.raw, key, value), "setting tmpfs \(key)=\(value)")
        }
        if noswap { try check(unsafe clinux_fsconfig_flag(context.raw, "noswap"), "setting tmpfs noswap (Linux 6.4 or later, outside user namespaces)") }
        try check(clinux_fsconfig_create(context.raw), "creating tmpfs")
        return try Descriptor(clinux_fsmount(context.raw, attributes), "mounting tmpfs detached")
    }

    /// Before the first byte, and on the descriptor, so that no name can be exchanged in between: it is a tmpfs, and one
    /// that is never swapped. A detached mount is in no table, so the kernel is asked otherwise: a reconfiguration that says
    /// `noswap` is refused ("Cannot disable swap on remount") unless the file system has it from its birth.
    static func verify(_ mount: borrowing Descriptor, noswap: Bool) throws {
        var magic: UInt64 = 0
        try check(unsafe clinux_filesystem_magic(mount.raw, &magic), "asking for the file system's type")
        guard magic == UInt64(CLINUX_TMPFS_MAGIC) else { throw VerificationFailure("the file system is no tmpfs") }
        guard noswap else { return }
        let context = try Descriptor(clinux_fspick(mount.raw), "picking the tmpfs")
        guard unsafe clinux_fsconfig_flag(context.raw, "noswap") >= 0, clinux_fsconfig_reconfigure(context.raw) >= 0 else {
            throw VerificationFailure("the tmpfs may be swapped to disk")
        }
    }

    static func capacity(of mount: borrowing Descriptor) throws(SystemFailure) -> (bytes: Int, inodes: Int) {
        var bytes: UInt64 = 0, inodes: UInt64 = 0
        try check(unsafe clinux_capacity(mount.raw, &bytes, &inodes), "asking for the tmpfs' size")
        return (Int(clamping: bytes), Int(clamping: inodes))
    }

    static func grow(_ mount: borrowing Descriptor, bytes: Int, inodes: Int, noswap: Bool) throws(SystemFailure) {
        let context = try Descriptor(clinux_fspick(mount.raw), "picking the tmpfs")
        for (key, value) in [("size", bytes), ("nr_inodes", inodes)] {
            try check(unsafe clinux_fsconfig_string(context.raw, key, String(value)), "setting tmpfs \(key)=\(value)")
        }
        if noswap { try check(unsafe clinux_fsconfig_flag(context.raw, "noswap"), "setting tmpfs noswap") }
        try check(clinux_fsconfig_reconfigure(context.raw), "growing tmpfs")
    }

    static func readOnlyClone(of mount: borrowing Descriptor) throws(SystemFailure) -> Descriptor {
        let clone = try Descriptor(clinux_clone_mount(mount.raw), "cloning the mount")
        try check(clinux_mount_setattr(clone.raw, UInt64(CLINUX_MOUNT_RDONLY), 0), "making the clone read-only")
        return clone
    }
    /// A private writable clone of a mount that is attached read-only.
    static func writableClone(of mount: borrowing Descriptor) throws(SystemFailure) -> Descriptor {
        let clone = try Descriptor(clinux_clone_mount(mount.raw), "cloning the mount")
        try check(clinux_mount_setattr(clone.raw, 0, UInt64(CLINUX_MOUNT_RDONLY)), "making the clone writable")
        return clone
    }

    static func attach(_ mount: borrowing Descriptor, at target: borrowing Descriptor) throws(SystemFailure) {
        try check(clinux_attach(mount.raw, target.raw), "attaching the mount")
    }

    /// Unmounts what is on top at `name` in `directory`, links not followed; detaches it when it is busy.
    static func unmount(_ name: String, in directory: borrowing Descriptor) throws(SystemFailure) {
        let path = "/proc/self/fd/\(directory.raw)/\(name)"
        let result = unsafe clinux_unmount(path, 0)
        if result == -EBUSY {
            try check(unsafe clinux_unmount(path, 1), "detaching \(name)")
        } else {
            try check(result, "unmounting \(name)")
        }
    }
}
