package import Basics
package import NodeProtocol
import SecretMemory

/// One file as it stands in a volume: all that decides whether it must be written again, and no value.
package struct FileEntry: Hashable, Sendable {
    package var path: String
    /// Permission bits, the group's already in.
    package var mode: UInt16
    package var byteCount: Int
    /// A keyed hash of the content; the key never leaves the node.
    package var fingerprint: Bytes
    package init(path: String, mode: UInt16, byteCount: Int, fingerprint: Bytes) {
        self.path = path; self.mode = mode; self.byteCount = byteCount; self.fingerprint = fingerprint
    }
}

/// The whole visible content of a volume. Equal shapes need no write.
package struct VolumeShape: Hashable, Sendable {
    /// Sorted by path; no path is another's directory.
    package var files: [FileEntry]
    /// `fsGroup`.
    package var group: UInt32?
    package init(files: [FileEntry], group: UInt32?) { self.files = files; self.group = group }

    package static let pageBytes = 4_096
    /// What one version takes on tmpfs: whole pages of content, and an inode for each file, directory and link.
    package var capacity: VolumeCapacity {
        var bytes = 0
        var directories: Set<String> = []
        for file in files {
            bytes += (file.byteCount + Self.pageBytes - 1) / Self.pageBytes * Self.pageBytes
            let components = file.path.split(separator: "/")
            var prefix = ""
            for component in components {
                // A top-level name is a link beside `..data`; long link targets take a page of their own.
                if prefix.isEmpty, component.utf8.count > 100 { bytes += Self.pageBytes }
                prefix += "/" + component
                directories.insert(prefix)
            }
        }
        return VolumeCapacity(bytes: bytes, inodes: directories.count * 2 + 4)
    }
}

package struct VolumeCapacity: Hashable, Sendable {
    package var bytes: Int
    package var inodes: Int
    package init(bytes: Int, inodes: Int) { self.bytes = bytes; self.inodes = inodes }
    package static func + (a: VolumeCapacity, b: VolumeCapacity) -> VolumeCapacity { VolumeCapacity(bytes: a.bytes + b.bytes, inodes: a.inodes + b.inodes) }
    package func times(_ count: Int) -> VolumeCapacity { VolumeCapacity(bytes: bytes * count, inodes: inodes * count) }
    package func union(_ other: VolumeCapacity) -> VolumeCapacity { VolumeCapacity(bytes: max(bytes, other.bytes), inodes: max(inodes, other.inodes)) }
}

/// Where a file's bytes are found when it is written.
package struct ContentReference: Hashable, Sendable {
    package var secret: SecretName
    package var key: String
    package init(secret: SecretName, key: String) { self.secret = secret; self.key = key }
}

/// A secret that a volume has bytes of.
package struct Holding: Hashable, Comparable, Sendable {
    package var secret: SecretName
    package var uid: String
    package var resourceVersion: Int64
    package init(secret: SecretName, uid: String, resourceVersion: Int64) { self.secret = secret; self.uid = uid; self.resourceVersion = resourceVersion }
    package static func < (a: Holding, b: Holding) -> Bool { (a.secret, a.uid, a.resourceVersion) < (b.secret, b.uid, b.resourceVersion) }
}

/// A volume as it is to be written.
package struct VolumeLayout: Hashable, Sendable {
    package var shape: VolumeShape
    /// Of `shape.files`, in their order.
    package var contents: [ContentReference]
    /// Sorted; every secret looked at, also one that gives no file.
    package var holdings: [Holding]
    package init(shape: VolumeShape, contents: [ContentReference], holdings: [Holding]) {
        self.shape = shape; self.contents = contents; self.holdings = holdings
    }
}

/// Why something is as it is: the condition's reason, in Kubernetes' CamelCase, and a sentence. Never bytes of a value.
package struct Reason: Hashable, Sendable {
    package enum Code: String, Sendable, CaseIterable {
        case mounted = "Mounted", noSecretVolumes = "NoSecretVolumes", pending = "Pending"
        case secretMissing = "SecretMissing", keyMissing = "KeyMissing", secretUnreadable = "SecretUnreadable", secretRevoked = "SecretRevoked"
        case unsupportedSource = "UnsupportedVolumeSource", invalidPod = "InvalidPod", invalidVolume = "InvalidVolume", invalidPath = "InvalidPath"
        case volumeTooLarge = "VolumeTooLarge", foreignMount = "ForeignMount", podUIDReused = "PodUIDReused", stale = "Stale", failed = "MountFailed"
    }
    package var code: Code
    package var message: String
    package init(_ code: Code, _ message: String) { self.code = code; self.message = message }
}

/// What the present view says of one volume.
package enum VolumeVerdict: Hashable, Sendable {
    case layout(VolumeLayout)
    /// Cannot be had now: what is mounted stays as it is, nothing new is mounted.
    case unavailable(Reason)
    /// What is mounted goes.
    case revoked(Reason)
}

/// Bounds and times of one node.
package struct MountPolicy: Hashable, Sendable {
    package var volumeBytesMax: Int
    package var filesPerVolumeMax: Int
    /// How long a version is kept readable after a newer one took its place.
    package var versionGraceMilliseconds: Int64
    /// Superseded versions of one volume that may wait for their end; beyond it, or beyond three versions of the largest
    /// allowed volume, an update waits instead.
    package var retiredVersionsMax: Int
    /// Wipe everything once the server was not heard for so long; nil keeps the last good version.
    package var staleMillisecondsMax: Int64?
    package init(volumeBytesMax: Int = Limits.volumeBytesMax, filesPerVolumeMax: Int = 10_000, versionGraceMilliseconds: Int64 = 2_000,
                 retiredVersionsMax: Int = 64, staleMillisecondsMax: Int64? = nil) {
        self.volumeBytesMax = volumeBytesMax; self.filesPerVolumeMax = filesPerVolumeMax; self.versionGraceMilliseconds = versionGraceMilliseconds
        self.retiredVersionsMax = retiredVersionsMax; self.staleMillisecondsMax = staleMillisecondsMax
    }
}

/// Computes the keyed hash of a value. Given from outside, since cores have no keys.
package typealias Fingerprint = (SecretContentReference) -> Bytes

/// One value of one secret version, to be hashed (and the hash remembered) by the shell.
package struct SecretContentReference {
    package var secret: DeliveredSecret
    package var entry: SecretEntry
}

extension DesiredVolume {
    /// What this volume of a pod in `namespace` is to hold.
    ///
    /// A secret is looked up under the pod's own namespace and nowhere else: that is how two namespaces with equal secret names
    /// stay apart. Later sources win over earlier ones on the same path, as in Kubernetes.
    package func verdict(namespace: String, group: UInt32?, policy: MountPolicy, secrets: SecretLookup, fingerprint: Fingerprint) -> VolumeVerdict {
        var files: [(FileEntry, ContentReference)] = []
        var places: [String: Int] = [:]
        var holdings: [Holding] = []
        var bytes = 0
        for source in sources {
            guard case .secret(let wanted) = source else {
                if case .unsupported(let kind) = source {
                    return .unavailable(Reason(.unsupportedSource, "volume \(name): a source of kind \(kind) is not delivered by this agent, only secrets are"))
                }
                continue
            }
            let secretName = secrets.name(of: wanted.secretName, in: namespace)
            guard let secret = secrets[secretName] else {
                if wanted.isOptional { continue }
                return .unavailable(Reason(.secretMissing, "volume \(name): secret \(wanted.secretName) does not exist"))
            }
            let data: [SecretEntry]
            switch secret.content {
            case .revoked: return .revoked(Reason(.secretRevoked, "volume \(name): secret \(wanted.secretName) was revoked"))
            case .unreadable(let why):
                return .unavailable(Reason(.secretUnreadable, "volume \(name): secret \(wanted.secretName) cannot be opened: \(why)"))
            case .data(let entries): data = entries
            }
            holdings.append(Holding(secret: secretName, uid: secret.uid, resourceVersion: secret.resourceVersion))
            for (item, entry) in wanted.selection(from: data) {
                guard let entry else {
                    if wanted.isOptional { continue }
                    return .unavailable(Reason(.keyMissing, "volume \(name): secret \(wanted.secretName) has no key \(item.key)"))
                }
                if wanted.items.isEmpty, !VolumeNames.isSecretKey(item.key) {
                    return .unavailable(Reason(.invalidPath, "volume \(name): secret \(wanted.secretName) has a key that is no file name"))
                }
                do { _ = try VolumeNames.components(of: item.path) } catch {
                    return .unavailable(Reason(.invalidPath, "volume \(name), key \(item.key): \(error)"))
                }
                bytes += entry.value.count
                guard bytes <= policy.volumeBytesMax, files.count < policy.filesPerVolumeMax else {
                    let bounds = "\(policy.volumeBytesMax) bytes or \(policy.filesPerVolumeMax) files"
                    return .unavailable(Reason(.volumeTooLarge, "volume \(name) is larger than \(bounds)"))
                }
                let mode = (item.mode ?? defaultMode) & 0o777 | (group == nil ? 0 : 0o440)
                let hash = fingerprint(SecretContentReference(secret: secret, entry: entry))
                let file = FileEntry(path: item.path, mode: mode, byteCount: entry.value.count, fingerprint: hash)
                let content = ContentReference(secret: secretName, key: entry.key)
                if let place = places[item.path] {
                    files[place] = (file, content)
                } else {
                    places[item.path] = files.count
                    files.append((file, content))
                }
            }
        }
        let sorted = files.sorted { $0.0.path.utf8.lexicographicallyPrecedes($1.0.path.utf8) }
        if let (file, directory) = Self.conflict(among: sorted.map(\.0.path)) {
            return .unavailable(Reason(.invalidPath, "volume \(name): \(file) is a file and, for \(directory), a directory"))
        }
        let shape = VolumeShape(files: sorted.map(\.0), group: group)
        return .layout(VolumeLayout(shape: shape, contents: sorted.map(\.1), holdings: holdings.sortedUnique()))
    }

    /// A path that is a directory on the way to another.
    private static func conflict(among paths: [String]) -> (String, String)? {
        let files = Set(paths)
        for path in paths {
            var prefix = ""
            for component in path.split(separator: "/").dropLast() {
                prefix += prefix.isEmpty ? String(component) : "/" + component
                if files.contains(prefix) { return (prefix, path) }
            }
        }
        return nil
    }
}

extension SecretSource {
    /// What is asked for, each with the entry that has it. Without items: every key under its own name.
    fileprivate func selection(from data: [SecretEntry]) -> [(KeyToPath, SecretEntry?)] {
        guard !items.isEmpty else { return data.map { (KeyToPath(key: $0.key, path: $0.key), $0) } }
        var places: [String: Int] = [:]
        for (place, entry) in data.enumerated() { places[entry.key] = place }
        return items.map { item in (item, places[item.key].map { data[$0] }) }
    }
}

extension Array where Element: Comparable {
    fileprivate func sortedUnique() -> [Element] {
        var unique: [Element] = []
        for element in sorted() where unique.last != element { unique.append(element) }
        return unique
    }
}

/// Secrets of a view, by name, and their entries by key.
package struct SecretLookup: Sendable {
    private var secrets: [SecretName: DeliveredSecret] = [:]
    private var entries: [ContentReference: SecretEntry] = [:]
    package init(_ delivered: [DeliveredSecret]) {
        for secret in delivered {
            secrets[secret.identity] = secret
            guard case .data(let data) = secret.content else { continue }
            for entry in data { entries[ContentReference(secret: secret.identity, key: entry.key)] = entry }
        }
    }
    package subscript(_ name: SecretName) -> DeliveredSecret? { secrets[name] }
    fileprivate func name(of secret: String, in namespace: String) -> SecretName {
        let own = SecretName(namespace: namespace, name: secret)
        guard Mutant.isActive(.secretOfOtherNamespace), secrets[own] == nil else { return own }
        return secrets.keys.filter { $0.name == secret }.min() ?? own
    }
    package func entry(_ reference: ContentReference) -> SecretEntry? { entries[reference] }
}
