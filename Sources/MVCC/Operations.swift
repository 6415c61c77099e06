package import Basics

// What a client may ask of the store, below the waterline: values are sealed, compares by value are already resolved.

package struct RangeRequest: Hashable, Sendable {
    package enum SortTarget: UInt8, Sendable { case key, version, create, modification }
    package enum SortOrder: UInt8, Sendable { case none, ascending, descending }

    package var range: KeyRange
    /// 0 is "all".
    package var limit: Int64 = 0
    /// 0 is "now".
    package var revision: Int64 = 0
    package var sortOrder = SortOrder.none
    package var sortTarget = SortTarget.key
    package var countOnly = false
    package var minModificationRevision: Int64 = 0
    package var maxModificationRevision: Int64 = 0
    package var minCreateRevision: Int64 = 0
    package var maxCreateRevision: Int64 = 0
    package init(_ range: KeyRange) { self.range = range }
}

package enum PutValue: Hashable, Sendable {
    case sealed(SealedValue)
    /// etcd's `ignore_value`: keep the previous sealed value.
    case unchanged
}

package struct PutRequest: Hashable, Sendable {
    package var key: Bytes
    package var value: PutValue
    package var lease: LeaseID = 0
    /// etcd's `ignore_lease`.
    package var keepsLease = false
    package var returnsPrevious = false
    package init(key: Bytes, value: PutValue) { self.key = key; self.value = value }
}

package struct DeleteRangeRequest: Hashable, Sendable {
    package var range: KeyRange
    package var returnsPrevious = false
    package init(_ range: KeyRange) { self.range = range }
}

package struct Compare: Hashable, Sendable {
    package enum Relation: UInt8, Sendable { case equal, greater, less, notEqual }
    package enum Target: Hashable, Sendable {
        case version(Int64), create(Int64), modification(Int64), lease(LeaseID)
        /// A compare by value, resolved above the waterline and secured by a `Guard`.
        case resolved(Bool)
    }
    package var range: KeyRange
    package var relation: Relation
    package var target: Target
    package init(_ range: KeyRange, _ relation: Relation, _ target: Target) {
        self.range = range; self.relation = relation; self.target = target
    }
}

package indirect enum Operation: Hashable, Sendable {
    case range(RangeRequest)
    case put(PutRequest)
    case deleteRange(DeleteRangeRequest)
    case transaction(Transaction)
}

package struct Transaction: Hashable, Sendable {
    package var compares: [Compare]
    package var success: [Operation]
    package var failure: [Operation]
    package init(compares: [Compare] = [], success: [Operation] = [], failure: [Operation] = []) {
        self.compares = compares; self.success = success; self.failure = failure
    }
}

/// What the Barrier saw when it resolved a compare by value. Apply refuses the transaction when it no longer holds.
package struct Guard: Hashable, Sendable {
    package var range: KeyRange
    package var count: Int64
    /// The greatest modification revision in the range; 0 when it is empty.
    package var modificationRevisionMax: Int64
    package init(_ range: KeyRange, count: Int64, modificationRevisionMax: Int64) {
        self.range = range; self.count = count; self.modificationRevisionMax = modificationRevisionMax
    }
}

/// All that is known of one version of a key, but its value.
package struct KeyVersion: Hashable, Sendable {
    package var key: Bytes
    /// Where its record lies; `revision.main` is etcd's mod_revision.
    package var revision: Revision
    package var createRevision: Int64
    package var version: Int64
    package var lease: LeaseID
    package init(key: Bytes, revision: Revision, createRevision: Int64, version: Int64, lease: LeaseID) {
        self.key = key; self.revision = revision; self.createRevision = createRevision
        self.version = version; self.lease = lease
    }
}

package struct RangeResult: Hashable, Sendable {
    package var versions: [KeyVersion]
    package var more: Bool
    package var count: Int64
    package init(versions: [KeyVersion], more: Bool, count: Int64) { self.versions = versions; self.more = more; self.count = count }
}

package indirect enum OperationResult: Hashable, Sendable {
    case range(RangeResult)
    case put(previous: KeyVersion?)
    case deleteRange(deleted: Int64, previous: [KeyVersion])
    case transaction(succeeded: Bool, [OperationResult])
}
