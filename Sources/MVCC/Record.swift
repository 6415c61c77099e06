package import Basics

/// One change, as the record lane stores it under its revision.
package struct Record: Hashable, Sendable {
    package enum Value: Hashable, Sendable {
        case sealed(SealedValue)
        /// The same sealed value as the record at that revision (etcd's `ignore_value`).
        case copy(of: Revision)
        /// A deletion.
        case tombstone
    }
    package var version: KeyVersion
    package var value: Value
    package init(version: KeyVersion, value: Value) { self.version = version; self.value = value }
    package var revision: Revision { version.revision }
}

/// What a restart reads of a record: its metadata and which data key its value is under (`nil`: a tombstone).
package struct RecordMetadata: Hashable, Sendable {
    package var version: KeyVersion
    package var dataKey: DataKeyID?
    package init(version: KeyVersion, dataKey: DataKeyID?) { self.version = version; self.dataKey = dataKey }
}

/// State the store must find again after a restart and that is no record: leases, key records, counts, compaction point.
package struct TableWrite: Hashable, Sendable {
    package enum Table: UInt8, Sendable, CaseIterable { case meta = 1, leases, keyEncryptionKeys, dataKeys, domains, members, settings }
    package var table: Table
    package var key: Bytes
    /// `nil` deletes.
    package var value: Bytes?
    package init(_ table: Table, _ key: Bytes, _ value: Bytes?) { self.table = table; self.key = key; self.value = value }
}

/// One change as watchers see it. `value` is carried along while it is at hand, else read back by its revision.
package struct WatchEvent: Hashable, Sendable {
    package enum Kind: UInt8, Sendable { case put, delete }
    package var kind: Kind
    /// For a delete: key and revision of the deletion, other fields 0.
    package var version: KeyVersion
    package var value: SealedValue?
    /// The version before this change, if there was one and it is not compacted.
    package var previous: KeyVersion?
    package init(kind: Kind, version: KeyVersion, value: SealedValue? = nil, previous: KeyVersion? = nil) {
        self.kind = kind; self.version = version; self.value = value; self.previous = previous
    }
}
