import Basics
import SecretMemory

extension Coffer {
    /// A value that must not leak: it is wiped when the last reference goes, and no way of printing shows it.
    public struct Secret: Sendable, Equatable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
        let value: SecretValue
        init(_ value: SecretValue) { self.value = value }

        /// Copies the bytes; the source is the caller's to wipe. Throws `CofferError.outOfMemory`.
        public init(_ bytes: some Collection<UInt8>) throws(CofferError) {
            do { value = try SecretValue(copying: bytes) } catch { throw CofferError(.outOfMemory, "\(error)") }
        }
        /// The UTF-8 bytes of `text`, which stays in memory as long as the string does.
        public init(_ text: String) throws(CofferError) { try self.init(text.utf8) }

        /// Number of bytes.
        public var count: Int { value.count }
        /// Gives the bytes to `body`; the pointer must not be kept.
        public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { try value.withUnsafeBytes(body) }
        /// A plain copy, no longer protected.
        public func revealed() -> [UInt8] { value.withUnsafeBytes { Array($0) } }
        /// A plain copy as text (invalid UTF-8 is replaced), no longer protected.
        public func revealedText() -> String { value.withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }

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

        var keyRange: KeyRange {
            switch self {
            case .all: .prefix([])
            case .one(let key): KeyRange(key.bytes)
            case .prefix(let key): .prefix(key.bytes)
            case .range(let range): KeyRange(range.lowerBound.bytes, end: range.upperBound.bytes)
            }
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
    }

    /// A step within a transaction.
    public enum Step: Sendable {
        case put(Key, Secret, lease: Int64 = 0)
        case delete(Keys)
        case get(Key)
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
        }
        public let changes: [Change]
        public let revision: Int64
    }

    /// What opens the seal of a store: without it nothing in the directory can be read.
    public enum Unlock: Hashable, Sendable {
        /// A file of 32 random bytes outside the data directory, for its owner's eyes alone. Made, with its store, if neither is there.
        case keyFile(String)
        /// A file whose first line is a passphrase (stretched by Argon2id: opening takes about half a second).
        case passphraseFile(String)
    }

    /// Which key of a namespace a rotation replaces.
    public enum RotatedKey: Sendable {
        /// The data key: values are sealed again in the background.
        case dataKey
        /// The key-encryption key: data keys are wrapped again.
        case keyEncryptionKey
    }

    /// The keys of one domain (a namespace, or the plain entries), without any key.
    public struct DomainStatus: Sendable, Hashable {
        /// `namespace/…` or `plain`.
        public let name: String
        /// The generation that new values go under.
        public let generation: Int
        public let keyEncryptionKeyVersion: Int
        /// Values, history too, under older generations.
        public let remaining: Int
    }
}

public struct CofferError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// The directory or its seal could not be opened; nothing was changed.
        case cannotOpen
        case conditionFailed
        case notFound
        case alreadyExists
        /// The name, value or request is not one that can be.
        case invalid
        /// That revision was compacted, or is yet to come.
        case revisionGone
        /// A value that does not open: damaged, or its key was destroyed.
        case unreadable
        /// Too much is under way: try again.
        case busy
        /// The store is closed or failed, or the outcome is not known.
        case unavailable
        case outOfMemory
    }
    public let code: Code
    /// For people. Never contains a value.
    public let message: String
    init(_ code: Code, _ message: String) { self.code = code; self.message = message }
    public var description: String { message }
}
