import Barrier
import Basics
package import Resources

/// Some objects of one kind at one revision.
package struct ObjectList: Sendable {
    package var items: [StoredObject]
    package var revision: Int64
    /// For the rest of the list, at the same revision; empty when this is all.
    package var continueToken: String
    /// How many objects follow, when it is known: not under a filter.
    package var remaining: Int64?
}

package struct ListOptions: Sendable, Equatable {
    package enum Version: Sendable, Equatable {
        case latest
        /// As it was at this revision.
        case exact(Int64)
        /// Answered with the latest, once the store has come that far.
        case notOlderThan(Int64)
    }
    /// 0: all.
    package var limit = 0
    package var continueToken = ""
    package var version = Version.latest
    package init(limit: Int = 0, continueToken: String = "", version: Version = .latest) {
        self.limit = limit; self.continueToken = continueToken; self.version = version
    }
}

extension ObjectStore {
    /// How many entries are opened at a time.
    private static let chunkCount = 500

    /// In order of namespace and name. `matches` is asked of every object, also of the stand-ins of unreadable ones.
    package func list(
        _ type: ResourceType, namespace: String?, options: ListOptions = ListOptions(), matches: ((Resource) -> Bool)? = nil
    ) async throws(Status) -> ObjectList {
        if let namespace, ObjectKey(type, namespace: namespace, name: "x") == nil { return try await empty() }
        let range = ObjectKey.range(type, namespace: namespace)
        var cursor = try cursor(range, options)
        let limit = options.limit > 0 ? min(options.limit, Limits.listObjectsMax) : Limits.listObjectsMax
        var items: [StoredObject] = []
        while true {
            let wanted = matches == nil ? min(limit - items.count, Self.chunkCount) : Self.chunkCount
            let listing = try await chunk(KeyRange(cursor.start, end: range.end), limit: wanted, at: cursor.revision, isContinued: !options.continueToken.isEmpty)
            if case .notOlderThan(let revision) = options.version, listing.revision < revision { throw Status(.futureRevision(current: listing.revision)) }
            cursor.revision = cursor.revision == 0 ? listing.revision : cursor.revision
            var taken = 0
            for entry in listing.entries where items.count < limit {
                taken += 1
                cursor.start = entry.key + [0]
                guard let stored = StoredObject(entry), matches?(stored.shown) ?? true else { continue }
                items.append(stored)
            }
            let left = listing.count - Int64(taken)
            guard left > 0, items.count < limit, taken > 0 else {
                return ObjectList(
                    items: items, revision: cursor.revision, continueToken: left > 0 ? cursor.token : "",
                    remaining: left > 0 && matches == nil ? left : nil)
            }
        }
    }

    private func empty() async throws(Status) -> ObjectList {
        ObjectList(items: [], revision: try await currentRevision(), continueToken: "", remaining: nil)
    }

    private func chunk(_ range: KeyRange, limit: Int, at revision: Int64, isContinued: Bool) async throws(Status) -> Listing {
        do {
            return try await keyValue.list(range, limit: limit, revision: revision)
        } catch .compacted(let oldest) {
            throw isContinued ? .expiredContinueToken : .expired(requested: revision, oldest: oldest)
        } catch {
            throw Status(error)
        }
    }

    private func cursor(_ range: KeyRange, _ options: ListOptions) throws(Status) -> ListCursor {
        if !options.continueToken.isEmpty {
            // Made by us, but given by a client: a start outside the range would show what was not asked for, and not authorized.
            guard let cursor = ListCursor(token: options.continueToken), range.contains(cursor.start) else {
                throw .badRequest("continue key is not valid")
            }
            guard options.version == .latest else {
                throw .badRequest("resourceVersion: Forbidden: specifying resource version is not allowed when using continue")
            }
            return cursor
        }
        if case .exact(let revision) = options.version { return ListCursor(revision: revision, start: range.key) }
        return ListCursor(revision: 0, start: range.key)
    }
}

/// Where a list goes on: at which revision, from which key.
struct ListCursor: Equatable {
    var revision: Int64
    var start: Bytes

    init(revision: Int64, start: Bytes) { self.revision = revision; self.start = start }

    /// Hexadecimal of `version u8 | revision i64 | key`.
    var token: String {
        var writer = ByteWriter()
        writer.write(UInt8(1))
        writer.write(revision)
        writer.write(raw: start)
        return writer.bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    init?(token: String) {
        let digits = Bytes(token.utf8)
        guard digits.count % 2 == 0, digits.count <= 4096 else { return nil }
        var bytes: Bytes = []
        for place in stride(from: 0, to: digits.count, by: 2) {
            guard let high = Self.nibble(digits[place]), let low = Self.nibble(digits[place + 1]) else { return nil }
            bytes.append(high << 4 | low)
        }
        var reader = ByteReader(bytes)
        guard let version = try? reader.read(UInt8.self), version == 1, let revision = try? reader.read(Int64.self), revision > 0,
            let start = try? reader.readRaw(reader.remaining)
        else { return nil }
        self.init(revision: revision, start: Bytes(start))
    }

    private static func nibble(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }
}
