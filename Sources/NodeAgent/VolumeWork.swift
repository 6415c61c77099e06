import Basics
import Glibc
package import Mounts
import NodeProtocol
import SecretMemory

/// Called before every step, with its name: tests end the process, or the work, there.
package typealias CrashPoint = (MountStep) throws -> Void

/// Something foreign lies where a volume of ours is or is to be.
struct ForeignMount: Error, CustomStringConvertible {
    var description: String
}

/// One action being carried out: the descriptors it holds between its steps. Whatever is cut off closes them, and with the
/// last descriptor a tmpfs that was not attached is gone.
struct VolumeWork: ~Copyable {
    let id: VolumeID
    let noswap: Bool
    private let pods: Int32
    private var parent: Descriptor?
    private var target: Descriptor?
    /// The writable handle.
    private var volume: Descriptor?
    private var clone: Descriptor?
    private(set) var isMounted = false
    /// The version this work writes.
    let version: String

    init(id: VolumeID, noswap: Bool, pods: borrowing Descriptor, version: String) {
        self.id = id; self.noswap = noswap; self.pods = pods.raw; self.version = version
    }

    private func unopened(_ what: String) -> PlaceRefusal { PlaceRefusal("the volume's \(what) is not open") }

    // MARK: making

    mutating func makeDirectory() throws {
        let root = Descriptor(raw: try checkErrno(fcntl(pods, F_DUPFD_CLOEXEC, 0), "duplicating a descriptor"))
        do {
            let pod = try root.directory(id.podUID, mode: NodeRoot.directoryMode)
            target = try pod.directory(id.volume, mode: NodeRoot.directoryMode)
            parent = consume pod
        } catch {
            switch error.code {
            case ELOOP: throw PlaceRefusal("a symbolic link is in the place of \(id)")
            case EXDEV: throw ForeignMount(description: "something is mounted in the place of \(id)")
            case ENOTDIR: throw PlaceRefusal("something that is no directory is in the place of \(id)")
            default: throw error
            }
        }
    }

    mutating func makeFileSystem(_ record: VolumeRecord) throws {
        let shape = record.shape, size = shape.capacity.times(3)
        let source = MountEntry.sourcePrefix + VolumeOwner.name(of: id, namespace: record.namespace, podName: record.podName)
        let made = try TemporaryFileSystem.make(source: source, bytes: max(size.bytes, 64 << 10), inodes: max(size.inodes, 64), mode: "0755", noswap: noswap)
        try VersionTree.own(try made.open(".", Descriptor.readable), group: shape.group)
        volume = consume made
    }

    mutating func verify() throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        try TemporaryFileSystem.verify(volume, noswap: noswap)
        self.volume = consume volume
    }

    mutating func writeVersion(_ layout: VolumeLayout, _ secrets: SecretLookup) throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        do {
            try VersionTree.write(layout, as: version, secrets: secrets, in: volume)
        } catch {
            // What was written of it goes at once, overwritten like any other.
            try? Self.wipeTree(version, in: volume)
            throw error
        }
        self.volume = consume volume
    }

    mutating func linkCurrent(_ shape: VolumeShape) throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        try VersionTree.makeCurrent(version, shape, in: volume)
        self.volume = consume volume
    }

    mutating func makeReadOnlyClone() throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        clone = try TemporaryFileSystem.readOnlyClone(of: volume)
        self.volume = consume volume
    }

    mutating func attach() throws {
        guard let clone = clone.take() else { throw unopened("clone") }
        guard let target = target.take() else { throw unopened("mount point") }
        try TemporaryFileSystem.attach(clone, at: target)
    }

    /// Looks at the place by its name, as a pod's runtime will, and asks the mount table what is there.
    mutating func verifyAttached() throws {
        guard let parent = parent.take() else { throw unopened("pod directory") }
        let entry = try Self.entry(id.volume, in: parent)
        guard let entry, entry.isOurs else { throw ForeignMount(description: "something was mounted over \(id)") }
        let missing = ["ro", "nosuid", "nodev", "noexec"].filter { !entry.mountOptions.contains($0) }
        guard missing.isEmpty else { throw VerificationFailure("the mount of \(id) lacks \(missing.joined(separator: ", "))") }
        guard !noswap || entry.superOptions.contains("noswap") else { throw VerificationFailure("the mount of \(id) lacks noswap") }
        self.parent = consume parent
    }

    private static func entry(_ name: String, in parent: borrowing Descriptor) throws -> MountEntry? {
        try MountTable.entry(of: try parent.open(name, Descriptor.pathOnly))
    }

    // MARK: what is there already

    /// False when nothing of ours is mounted there.
    @discardableResult
    mutating func recoverHandle() throws -> Bool {
        let root = Descriptor(raw: try checkErrno(fcntl(pods, F_DUPFD_CLOEXEC, 0), "duplicating a descriptor"))
        do {
            let pod = try root.open(id.podUID, Descriptor.pathOnly, resolve: Resolve.sameMount)
            let place = try pod.open(id.volume, Descriptor.pathOnly)
            let found = try MountTable.entry(of: place)
            parent = consume pod
            guard let found, found.point.hasSuffix("/\(id.podUID)/\(id.volume)") else { return false }
            guard found.isOurs else { throw ForeignMount(description: "\(found.type) of \(found.source) is mounted over \(id)") }
            volume = try TemporaryFileSystem.writableClone(of: place)
            isMounted = true
            return true
        } catch let error as SystemFailure where error.isNoEntry {
            return false
        } catch let error as SystemFailure where error.code == EXDEV || error.code == ELOOP || error.code == ENOTDIR {
            throw ForeignMount(description: "the place of \(id) is not a directory of this agent's")
        }
    }

    /// The version that is current, by `..data`.
    mutating func currentVersion() throws -> String? {
        guard let volume = volume.take() else { return nil }
        let current = try volume.readLink(VersionTree.current)
        self.volume = consume volume
        return current
    }

    /// Whether the current version has exactly these files, with their modes, owner and content.
    mutating func matches(_ shape: VolumeShape, fingerprint: (SecretValue) -> Bytes) throws -> Bool {
        guard let volume = volume.take() else { return false }
        let result = try VersionTree.matches(shape, in: volume, fingerprint: fingerprint)
        self.volume = consume volume
        return result
    }

    mutating func clearUnfinished(keeping: [String]) throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        try volume.remove(VersionTree.unfinished)
        let current = try volume.readLink(VersionTree.current)
        for name in try VersionTree.versions(in: volume) where name != current && !keeping.contains(name) { try Self.wipeTree(name, in: volume) }
        self.volume = consume volume
    }

    /// Room for the new version beside all that stand.
    mutating func grow(to shape: VolumeShape, from old: VolumeShape?, standing: Int) throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        let version = old.map { shape.capacity.union($0.capacity) } ?? shape.capacity
        let need = version.times(max(standing + 1, 3)), have = try TemporaryFileSystem.capacity(of: volume)
        if have.bytes < need.bytes || have.inodes < need.inodes {
            try TemporaryFileSystem.grow(volume, bytes: max(have.bytes, need.bytes), inodes: max(have.inodes, need.inodes), noswap: noswap)
        }
        try VersionTree.own(try volume.open(".", Descriptor.readable), group: shape.group)
        self.volume = consume volume
    }

    mutating func unlinkOldNames(_ shape: VolumeShape) throws {
        guard let volume = volume.take() else { throw unopened("file system") }
        try VersionTree.removeNames(notIn: shape, from: volume)
        self.volume = consume volume
    }

    // MARK: wiping

    /// `names` nil: all there is.
    mutating func wipe(_ step: VersionTree.WipeStep, _ names: [String]?) throws {
        guard let volume = volume.take() else { return }
        for name in try names ?? volume.names() { try VersionTree.wipe(step, name, in: volume) }
        self.volume = consume volume
    }

    private static func wipeTree(_ name: String, in volume: borrowing Descriptor) throws {
        for step in [VersionTree.WipeStep.overwrite, .truncate, .unlink] { try VersionTree.wipe(step, name, in: volume) }
    }

    /// Unmounts ours. One of ours beneath it, stacked by a race that was lost, is wiped and unmounted too; anything else stops this.
    mutating func unmount() throws {
        guard isMounted else { return }
        for _ in 0..<8 {
            volume = nil
            guard let parent = parent.take() else { return }
            try TemporaryFileSystem.unmount(id.volume, in: parent)
            guard try recoverHandle() else { return }
            for step in [VersionTree.WipeStep.overwrite, .truncate, .unlink] { try wipe(step, nil) }
        }
        throw PlaceRefusal("too many mounts on \(id)")
    }

    mutating func removeDirectory() throws {
        if let parent = parent.take() { try parent.remove(id.volume, directory: true) }
        let result = unsafe unlinkat(pods, id.podUID, AT_REMOVEDIR)
        if result < 0, errno != ENOENT, errno != ENOTEMPTY, errno != EEXIST { throw SystemFailure("removing the pod's directory", code: errno) }
    }
}
