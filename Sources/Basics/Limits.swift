/// Every bound of the system, each with its reason. Units end the name.
package enum Limits {
    /// etcd's default `--max-request-bytes`.
    package static let requestBytesMax = 1_572_864
    /// etcd's default `--max-txn-ops`.
    package static let transactionOperationsMax = 128
    /// Depth of transactions within transactions: deeper ones come from nobody's client, and recursion must end.
    package static let transactionDepthMax = 8
    /// Compares and operations of a transaction, those of nested ones included: within etcd's bound per level, nested ones could be a hundred
    /// thousand, and what is checked for each pair of them takes the store's thread for minutes.
    package static let transactionStepsMax = 2_048
    /// Keys that a transaction's ranges look at together, when there are several ranges: each may be the whole store.
    package static let transactionKeysMax = 1_000_000
    /// LMDB and log frames stay small; etcd has no bound but the request's.
    package static let keyBytesMax = 64 * 1024
    /// Kubernetes' bound on a Secret's data.
    package static let secretDataBytesMax = 1_048_576
    /// One of Coffer's own objects, as stored: a full Secret in base64, its annotations (of which the last-applied copy may be as large
    /// again), and room for the rest.
    package static let objectBytesMax = 3 << 20
    /// Kubernetes' bound on annotations of one object.
    package static let annotationsBytesMax = 262_144
    /// Proposals that wait for the log at one time; beyond it, "too many requests".
    package static let proposalsInFlightMax = 65_536
    /// Bytes of the proposals in flight.
    package static let proposalBytesInFlightMax = 256 << 20
    /// Events buffered for one watcher before it is made to catch up from history.
    package static let watcherEventsMax = 16_384
    /// And the values in them, sealed; history is told without values, which are fetched when the watcher reads.
    package static let watcherBytesMax = 16 << 20
    /// Watches on one stream or connection.
    package static let watchesPerConnectionMax = 100_000
    /// Watches of one member, all connections together: a gigabyte of them, about.
    package static let watchesMax = 1_000_000
    /// One frame of the log: a batch of entries.
    package static let logFrameBytesMax = 8 << 20
    /// What disks read and write at a time, or a multiple of it; memory for it is aligned alike.
    package static let diskBlockBytes = 4_096
    /// One segment of the log, pre-filled.
    package static let logSegmentBytes = 64 << 20
    /// etcd's bound on a lease's time to live, in seconds.
    package static let leaseSecondsMax: Int64 = 9_000_000_000
    package static let leasesMax = 1_000_000
    /// Streams a client may have open on one connection.
    package static let streamsPerConnectionMax = 1_000
    package static let connectionsMax = 10_000
    /// Members of one cluster, learners included; also URLs of one member. Beyond seven, each further voter only costs.
    package static let membersMax = 64
    /// A member's name, or one URL of it.
    package static let memberTextBytesMax = 1_024
    /// One message between members: a batch of entries, and room for one large entry more.
    package static let peerMessageBytesMax = 16 << 20
    /// Messages of other members that wait for the replica, and their bytes: they are sent again when they are dropped.
    package static let peerMessagesWaitingMax = 65_536
    package static let peerBytesWaitingMax = 64 << 20
    /// A manifest given to the command line.
    package static let manifestBytesMax = 16 << 20
    /// Pods on one node (Kubernetes' default is 110).
    package static let podsPerNodeMax = 1_000
    /// Sum of the bytes of one volume.
    package static let volumeBytesMax = 4 << 20
    /// Objects of one kind that one list returns without a continue token.
    package static let listObjectsMax = 100_000
}
