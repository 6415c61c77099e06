/// A position in the store's history: `main` counts mutating transactions, `sub` the changes within one.
package struct Revision: Hashable, Comparable, Sendable {
    package var main: Int64
    package var sub: Int32
    package init(_ main: Int64, _ sub: Int32 = 0) { self.main = main; self.sub = sub }
    package static func < (a: Revision, b: Revision) -> Bool { (a.main, a.sub) < (b.main, b.sub) }
}

/// A key, or a value below the waterline: plain bytes.
package typealias Bytes = [UInt8]

/// etcd's 64-bit lease id; 0 means "no lease".
package typealias LeaseID = Int64

/// Number of a log entry; the first is 1.
package typealias LogIndex = UInt64
/// Raft's election term; the first is 1.
package typealias Term = UInt64

/// A Raft member, unique in its cluster; never 0.
package struct MemberID: Hashable, Comparable, Sendable {
    package var rawValue: UInt64
    package init(_ rawValue: UInt64) { self.rawValue = rawValue }
    package static func < (a: MemberID, b: MemberID) -> Bool { a.rawValue < b.rawValue }
}

/// The keyring a ciphertext belongs to: 16 random bytes, born at init, carried by snapshots.
package struct KeyringID: Hashable, Sendable {
    package var bytes: Bytes
    package init?(_ bytes: Bytes) {
        guard bytes.count == 16 else { return nil }
        self.bytes = bytes
    }
}

/// A domain is what shares data keys: a namespace, or `default` for plain keys.
package struct DomainID: Hashable, Comparable, Sendable {
    package var rawValue: UInt64
    package init(_ rawValue: UInt64) { self.rawValue = rawValue }
    package static func < (a: DomainID, b: DomainID) -> Bool { a.rawValue < b.rawValue }
}

/// A data-encryption key (DEK): one generation of one domain.
package struct DataKeyID: Hashable, Comparable, Sendable {
    package var domain: DomainID
    package var generation: UInt32
    package init(_ domain: DomainID, _ generation: UInt32) { self.domain = domain; self.generation = generation }
    package static func < (a: DataKeyID, b: DataKeyID) -> Bool { (a.domain, a.generation) < (b.domain, b.generation) }
}

/// A version of a key-encryption key (KEK). `kek` is 16 random bytes.
package struct KeyEncryptionKeyID: Hashable, Comparable, Sendable {
    package var kek: Bytes
    package var version: UInt32
    package init(_ kek: Bytes, _ version: UInt32) { self.kek = kek; self.version = version }
    package static func < (a: KeyEncryptionKeyID, b: KeyEncryptionKeyID) -> Bool {
        a.kek == b.kek ? a.version < b.version : a.kek.lexicographicallyPrecedes(b.kek)
    }
}
