import Basics
import Glibc
import Mounts
import NodeProtocol
import SecretMemory

/// The inside of a volume, as the kubelet lays it out, which programs that watch their files rely on:
///
///     ..2026_11_23_19_03_00.4711/      a version: every file with its mode
///     ..data -> ..2026_11_23_…         exchanged by rename(2): one MOVED_TO ..data per update
///     user -> ..data/user              a link for each top-level name
///
/// All work is through one writable handle; visible is only a read-only clone of the mount.
enum VersionTree {
    static let current = "..data"
    static let unfinished = "..data_tmp"

    // MARK: writing

    /// Files get their owner and mode before they can be seen, and their bytes come straight from the secret's memory.
    static func write(_ layout: VolumeLayout, as version: String, secrets: SecretLookup, in volume: borrowing Descriptor) throws {
        let group = layout.shape.group
        let root = try makeDirectory(version, in: volume, group: group)
        for (file, content) in zip(layout.shape.files, layout.contents) {
            guard let entry = secrets.entry(content), entry.value.count == file.byteCount else {
                throw PlaceRefusal("the content of \(file.path) is no longer held")
            }
            let components = try VolumeNames.components(of: file.path)
            try write(entry.value, file, components[...], below: root, group: group)
        }
    }

    private static func write(_ value: SecretValue, _ file: FileEntry, _ components: ArraySlice<String>, below directory: borrowing Descriptor,
                              group: UInt32?) throws {
        guard let name = components.first else { throw PlaceRefusal("an empty path") }
        guard components.count == 1 else {
            let next = try makeDirectory(name, in: directory, group: group)
            return try write(value, file, components.dropFirst(), below: next, group: group)
        }
        let target = try directory.open(name, UInt64(O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW), mode: 0o600)
        try unsafe value.withUnsafeBytes { try unsafe target.write($0) }
        if let group { try checkErrno(fchown(target.raw, 0, group), "giving \(name) to its group") }
        try checkErrno(fchmod(target.raw, mode_t(file.mode)), "setting the mode of \(name)")
    }

    private static func makeDirectory(_ name: String, in directory: borrowing Descriptor, group: UInt32?) throws(SystemFailure) -> Descriptor {
        if unsafe mkdirat(directory.raw, name, 0o700) < 0, errno != EEXIST { throw SystemFailure("making directory \(name)", code: errno) }
        let made = try directory.open(name, Descriptor.readable, resolve: Resolve.sameMount)
        try own(made, group: group)
        return made
    }

    /// 0755; with a group, that group's and inherited by what comes below.
    static func own(_ directory: borrowing Descriptor, group: UInt32?) throws(SystemFailure) {
        if let group { try checkErrno(fchown(directory.raw, 0, group), "giving a directory to its group") }
        try checkErrno(fchmod(directory.raw, group == nil ? 0o755 : 0o2755), "setting a directory's mode")
    }

    /// `..data` by rename, so that a reader sees the old or the new version and nothing between; then the names beside it.
    static func makeCurrent(_ version: String, _ shape: VolumeShape, in volume: borrowing Descriptor) throws(SystemFailure) {
        try volume.remove(unfinished)
        try volume.link(unfinished, to: version)
        try volume.rename(unfinished, to: current)
        for name in topLevelNames(shape) {
            let target = "\(current)/\(name)"
            if try volume.readLink(name) == target { continue }
            try volume.remove(name)
            try volume.link(name, to: target)
        }
    }

    static func removeNames(notIn shape: VolumeShape, from volume: borrowing Descriptor) throws(SystemFailure) {
        let wanted = Set(topLevelNames(shape))
        for name in try volume.names() where !name.hasPrefix("..") && !wanted.contains(name) {
            if try volume.kind(of: name) == .link { try volume.remove(name) }
        }
    }

    static func topLevelNames(_ shape: VolumeShape) -> [String] {
        var names: [String] = []
        for file in shape.files {
            let name = String(file.path.split(separator: "/")[0])
            if names.last != name { names.append(name) }
        }
        return names
    }

    // MARK: reading

    /// Names of version directories, current or not, sorted.
    static func versions(in volume: borrowing Descriptor) throws(SystemFailure) -> [String] {
        var versions: [String] = []
        for name in try volume.names() where name.hasPrefix("..") && name != current && name != unfinished {
            if try volume.kind(of: name) == .directory { versions.append(name) }
        }
        return versions
    }

    /// Whether the current version has exactly these files, each with its mode, group and content, and a name beside `..data`.
    static func matches(_ shape: VolumeShape, in volume: borrowing Descriptor, fingerprint: (SecretValue) -> Bytes) throws -> Bool {
        guard let version = try volume.readLink(current), try volume.kind(of: version) == .directory else { return false }
        for name in topLevelNames(shape) where try volume.readLink(name) != "\(current)/\(name)" { return false }
        let root = try volume.open(version, Descriptor.readable)
        guard try countFiles(in: root) == shape.files.count else { return false }
        for expected in shape.files {
            guard let file = try? root.open(expected.path, UInt64(O_RDONLY | O_NOFOLLOW)) else { return false }
            var information = stat()
            try checkErrno(unsafe fstat(file.raw, &information), "looking at a file")
            guard information.st_mode & 0o7777 == mode_t(expected.mode), information.st_gid == expected.group(in: shape),
                  Int(information.st_size) == expected.byteCount
            else { return false }
            let content = SecretValue(try unsafe SecretBytes(capacity: expected.byteCount) { target in
                var done = 0
                while done < target.count {
                    let count = unsafe pread(file.raw, target.baseAddress?.advanced(by: done), target.count - done, off_t(done))
                    guard try checkErrno(count, "reading a file") > 0 else { break }
                    done += count
                }
                return done
            })
            guard content.count == expected.byteCount, fingerprint(content) == expected.fingerprint else { return false }
        }
        return true
    }

    private static func countFiles(in directory: borrowing Descriptor) throws(SystemFailure) -> Int {
        var count = 0
        for name in try directory.names() {
            guard try directory.kind(of: name) == .directory else {
                count += 1
                continue
            }
            count += try countFiles(in: try directory.open(name, Descriptor.readable))
        }
        return count
    }

    // MARK: wiping

    enum WipeStep { case overwrite, truncate, unlink }

    /// One step over a whole tree. Overwriting reaches the pages and every map of them, truncation every open descriptor;
    /// only then are the names taken. Each step can be repeated, and finds what an earlier, killed one left.
    static func wipe(_ step: WipeStep, _ name: String, in directory: borrowing Descriptor) throws {
        switch try directory.kind(of: name) {
        case nil: return
        case .link, .other:
            if step == .unlink { try directory.remove(name) }
        case .file: try wipeFile(step, name, in: directory)
        case .directory:
            let inner = try directory.open(name, Descriptor.readable)
            for child in try inner.names() { try wipe(step, child, in: inner) }
            if step == .unlink { try directory.remove(name, directory: true) }
        }
    }

    private static func wipeFile(_ step: WipeStep, _ name: String, in directory: borrowing Descriptor) throws {
        guard step != .unlink else { return try directory.remove(name) }
        let file = try directory.open(name, UInt64(O_RDWR | O_NOFOLLOW))
        guard step == .overwrite else {
            try checkErrno(ftruncate(file.raw, 0), "truncating")
            return
        }
        var information = stat()
        try checkErrno(unsafe fstat(file.raw, &information), "asking for a file's size")
        var left = Int(information.st_size)
        let zeros = [UInt8](repeating: 0, count: min(max(left, 1), 65_536))
        while left > 0 {
            let count = min(left, zeros.count)
            try unsafe zeros.withUnsafeBytes { bytes in
                try unsafe file.write(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            }
            left -= count
        }
    }
}

extension FileEntry {
    fileprivate func group(in shape: VolumeShape) -> gid_t { shape.group ?? 0 }
}
