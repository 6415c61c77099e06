import Basics
import EtcdProtocol
import NIOCore
import SecretMemory

extension CofferClient {
    /// A value that must not leak: it is wiped when the last reference goes, and no way of printing shows it.
    /// On its way from and to the network it also passes through buffers that are not wiped.
    public struct Secret: Sendable, Equatable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
        let value: SecretValue

        /// Copies the bytes; the source is the caller's to wipe. Throws `.outOfMemory`.
        public init(_ bytes: some Collection<UInt8>) throws(CofferClientError) {
            do { value = try SecretValue(copying: bytes) } catch { throw CofferClientError(.outOfMemory, "\(error)") }
        }
        /// The UTF-8 bytes of `text`, which stays in memory as long as the string does.
        public init(_ text: String) throws(CofferClientError) { try self.init(text.utf8) }

        /// Number of bytes.
        public var count: Int { value.count }
        /// Gives the bytes to `body`; the pointer must not be kept.
        public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try value.withUnsafeBytes(body) }
        /// A plain copy, no longer protected.
        public func revealed() -> [UInt8] { value.withUnsafeBytes { Array($0) } }
        /// A plain copy as text (invalid UTF-8 is replaced), no longer protected.
        public func revealedText() -> String { value.withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }

        var buffer: ByteBuffer { value.withUnsafeBytes { ByteBuffer(bytes: $0) } }

        public var description: String { "<secret>" }
        public var debugDescription: String { "<secret>" }
        public var customMirror: Mirror { Mirror(self, children: []) }
    }

    /// The name of an entry: any bytes, 1 to 65,535 of them, in byte order.
    public struct Key: Hashable, Comparable, Sendable, ExpressibleByStringInterpolation, CustomStringConvertible {
        public var bytes: [UInt8]
        public init(_ bytes: some Collection<UInt8>) { self.bytes = Array(bytes) }
        public init(_ text: String) { bytes = Array(text.utf8) }
        public init(stringLiteral text: String) { self.init(text) }
        public static func < (a: Key, b: Key) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }
        public var description: String { String(decoding: bytes, as: UTF8.self) }
    }

    /// Which entries a request is about.
    public enum Keys: Hashable, Sendable {
        case all
        case one(Key)
        case prefix(Key)
        /// From the lower bound up to, and without, the upper one.
        case range(Range<Key>)

        /// Key and end, as etcd writes them: an end of one zero byte is "no end".
        var interval: (key: Bytes, end: Bytes) {
            switch self {
            case .all: ([0], [0])
            case .one(let key): (key.bytes, [])
            case .prefix(let key): key.bytes.isEmpty ? ([0], [0]) : (key.bytes, Self.end(ofPrefix: key.bytes))
            case .range(let range): (range.lowerBound.bytes.isEmpty ? [0] : range.lowerBound.bytes, range.upperBound.bytes)
            }
        }
        private static func end(ofPrefix prefix: Bytes) -> Bytes {
            guard let last = prefix.lastIndex(where: { $0 < 0xff }) else { return [0] }
            return Bytes(prefix[..<last]) + [prefix[last] + 1]
        }
    }

    /// One version of an entry. Revisions count the store's changes, from 2 on.
    public struct Item: Sendable {
        public let key: Key
        public let value: Secret
        /// When the entry was made.
        public let createRevision: Int64
        /// When this version was written.
        public let revision: Int64
        /// 1 for the first version since it was made.
        public let version: Int64
        /// The lease it ends with; 0: none.
        public let lease: Int64

        init(_ message: KeyValueMessage) throws(CofferClientError) {
            key = Key(message.key)
            value = try Secret(message.plainValue.readableBytesView)
            (createRevision, revision, version, lease) = (message.createRevision, message.modRevision, message.version, message.lease)
        }
    }

    /// Items in key order.
    public struct Page: Sendable {
        public let items: [Item]
        /// All that the request is about, whatever the limit.
        public let count: Int
        /// Whether the limit cut it short.
        public let hasMore: Bool
        /// The revision that the page shows.
        public let revision: Int64
    }

    /// What must hold for a write to happen.
    public enum Condition: Hashable, Sendable {
        case always
        /// There is no such entry.
        case absent
        /// The entry is the version written at this revision.
        case unchanged(since: Int64)
    }

    /// What a transaction requires of one entry.
    public enum Requirement: Sendable {
        case absent(Key)
        case exists(Key)
        case revision(Key, Int64)
        /// The entry's value is this one.
        case value(Key, Secret)

        var message: CompareMessage {
            var compare = CompareMessage()
            switch self {
            case .absent(let key): (compare.key, compare.target) = (key.bytes, .create)
            case .exists(let key): (compare.key, compare.target, compare.result) = (key.bytes, .create, .greater)
            case .revision(let key, let revision): (compare.key, compare.target, compare.modRevision) = (key.bytes, .mod, revision)
            case .value(let key, let secret): (compare.key, compare.target, compare.value) = (key.bytes, .value, secret.buffer)
            }
            return compare
        }
    }

    /// A step within a transaction.
    public enum Step: Sendable {
        case put(Key, Secret, lease: Int64 = 0)
        case delete(Keys)
        case get(Key)

        var writes: Bool {
            if case .get = self { false } else { true }
        }
        var message: RequestOperationMessage {
            switch self {
            case .put(let key, let value, let lease): return RequestOperationMessage(.put(PutRequestMessage(key: key.bytes, value: value.buffer, lease: lease)))
            case .delete(let keys):
                let (key, end) = keys.interval
                return RequestOperationMessage(.deleteRange(DeleteRangeRequestMessage(key: key, rangeEnd: end)))
            case .get(let key): return RequestOperationMessage(.range(RangeRequestMessage(key: key.bytes)))
            }
        }
    }

    public struct TransactionResult: Sendable {
        /// Whether every requirement held.
        public let succeeded: Bool
        /// The store's revision after it.
        public let revision: Int64
        /// What each `get` of the steps found, in order.
        public let found: [Item?]
    }

    /// All changes of one or more whole revisions, in order; without changes, the word that all up to `revision` was told.
    public struct Changes: Sendable {
        public enum Change: Sendable {
            case put(Item)
            case delete(Key, revision: Int64)
            public var revision: Int64 {
                switch self {
                case .put(let item): item.revision
                case .delete(_, let revision): revision
                }
            }
        }
        public let changes: [Change]
        public let revision: Int64
    }

    /// A lease as the store has it.
    public struct LeaseStatus: Sendable, Hashable {
        /// Time left, in whole seconds.
        public let seconds: Int64
        public let grantedSeconds: Int64
        /// The entries that end with it, in order.
        public let keys: [Key]
    }

    /// A member of the cluster, as the cluster lists it.
    public struct Member: Sendable, Hashable {
        public let id: UInt64
        /// Empty before the member has started for the first time.
        public let name: String
        public let peerURLs: [String]
        public let clientURLs: [String]
        /// Follows, but has no vote yet.
        public let isLearner: Bool
    }

    /// A member, as it sees itself.
    public struct MemberStatus: Sendable, Hashable {
        public let id: UInt64
        public let version: String
        /// The leader it knows; 0: none.
        public let leader: UInt64
        public let isLearner: Bool
        public let revision: Int64
        public let term: UInt64
        /// Of the log: agreed and known here; and applied.
        public let committedIndex: UInt64
        public let appliedIndex: UInt64
        /// Size of its files, in bytes; and of what is in use in them.
        public let storeBytes: Int64
        public let storeBytesInUse: Int64
        /// Alarms and other complaints.
        public let errors: [String]
    }
}
