package import Basics
import Sealing

/// What the data directory of a new member of a cluster is laid down with.
package struct NewMember: Hashable, Sendable {
    package var cluster: UInt64
    package var name: String
    package var member: MemberID
    /// The cluster's seal file, from a peer; `nil`: this member makes it.
    package var sealFile: Bytes?
    /// The directory is of a store that was alone, and becomes the first member of a cluster.
    package var adopts = false
    package init(cluster: UInt64, name: String, member: MemberID, sealFile: Bytes?) {
        self.cluster = cluster; self.name = name; self.member = member; self.sealFile = sealFile
    }

    /// A store that was alone names its cluster by its keyring, and goes on doing so.
    package static func cluster(of keyring: KeyringID) -> UInt64 { keyring.bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) } }

    fileprivate static let head = "coffer-cluster 1", first = "first"
    /// A start that was cut short left the same, or another's.
    func write(to path: String) throws {
        let file = path + "/cluster"
        if let found = try DataDirectory.cluster(of: path) {
            guard (found.cluster, found.name) == (cluster, name) else {
                throw DataDirectoryError.incomplete("\(path) belongs to member '\(found.name)' of cluster \(String(found.cluster, radix: 16))")
            }
            return
        }
        try SmallFile.write(Bytes("\(Self.head)\n\(String(cluster, radix: 16))\n\(name)\n\(adopts ? Self.first + "\n" : "")".utf8), to: file)
    }
}

extension DataDirectory {
    /// Whose directory it is, read without opening anything.
    package struct Occupant: Hashable, Sendable {
        package var member: MemberID
        package var keyring: KeyringID
        /// `nil`: of a store that was never started as a member of several.
        package var cluster: UInt64?
        package var name: String?
        /// It was alone before, and had its cluster grow from it.
        package var isFirst = false
    }

    /// `nil`: the directory is not there, new, or not laid down to its end.
    package static func occupant(of path: String) throws -> Occupant? {
        guard let record = try SmallFile.read(path + "/member", bytesMax: 1024), let seal = try sealFile(of: path) else { return nil }
        let member: MemberID
        do { member = try WrappedFileKey(parsing: record).member } catch { throw DataDirectoryError.incomplete("\(path)/member is damaged: \(error)") }
        let keyring: KeyringID
        do { keyring = try SealFile(decoding: seal).keyring } catch { throw DataDirectoryError.incomplete("\(path)/seal is damaged: \(error)") }
        let cluster = try cluster(of: path)
        return Occupant(member: member, keyring: keyring, cluster: cluster?.cluster, name: cluster?.name, isFirst: cluster?.isFirst ?? false)
    }

    /// Whether it was laid down for a member of a cluster.
    package static func isMembers(_ path: String) -> Bool { (try? SmallFile.read(path + "/cluster", bytesMax: 4096)) != nil }

    /// What other members are given: slots and wrapped roots, which open nothing without a slot's secret.
    package static func sealFile(of path: String) throws -> Bytes? { try SmallFile.read(path + "/seal", bytesMax: SealFile.fileBytesMax + 1) }

    static func cluster(of path: String) throws -> (cluster: UInt64, name: String, isFirst: Bool)? {
        guard let bytes = try SmallFile.read(path + "/cluster", bytesMax: 4096) else { return nil }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        let isFirst = lines.count == 5 && lines[3] == NewMember.first
        guard lines.count == 4 || isFirst, lines[0] == NewMember.head, let cluster = UInt64(lines[1], radix: 16) else {
            throw DataDirectoryError.incomplete("\(path)/cluster is damaged")
        }
        return (cluster, String(lines[2]), isFirst)
    }
}
