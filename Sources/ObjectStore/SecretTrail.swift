import Barrier
import Basics
package import Resources

/// Who held which version of one secret on one node, from when to when. *Claimed by the node*: it says what it made readable and what it
/// wiped; the moments are those at which the store heard it.
///
/// Invariant: `spans` are in the order they began, a pod has at most one that has not ended, and both kinds are bounded.
package struct SecretTrail: Sendable, Equatable {
    package enum End: String, Sendable {
        /// Another version took its place.
        case replaced = "Replaced"
        /// Overwritten and gone.
        case wiped = "Wiped"
    }
    package struct Holder: Sendable, Equatable {
        package var podName: String
        package var podUID: String
        /// Of the secret, as it was given to the node.
        package var secretUID: String
        package var resourceVersion: Int64
        package init(podName: String, podUID: String, secretUID: String, resourceVersion: Int64) {
            self.podName = podName; self.podUID = podUID; self.secretUID = secretUID; self.resourceVersion = resourceVersion
        }
    }
    package struct Span: Sendable, Equatable {
        package var holder: Holder
        package var from: Timestamp
        /// Nil: not ended, as far as the node said.
        package var until: Timestamp?
        package var end: End?
    }
    package private(set) var spans: [Span] = []
    /// Ended ones that were dropped for newer ones, or could not be read any more.
    package private(set) var omitted: Int64 = 0

    static let endedMax = 512, heldMax = Limits.podsPerNodeMax
    package init() {}

    package func knows(secretUID: String) -> Bool { spans.contains { $0.holder.secretUID == secretUID } }

    /// False when that was known already, or is older than what is: a node may say things twice.
    package mutating func materialized(_ holder: Holder, now: Timestamp) -> Bool {
        if let place = held(by: holder.podUID) {
            let known = spans[place].holder
            guard known.secretUID != holder.secretUID || known.resourceVersion < holder.resourceVersion else { return false }
            end(place, .replaced, now)
        } else {
            guard spans.count(where: { $0.until == nil }) < Self.heldMax else { return false }
        }
        spans.append(Span(holder: holder, from: now))
        return true
    }

    /// False when nothing was known to be held.
    package mutating func wiped(podUID: String, now: Timestamp) -> Bool {
        guard let place = held(by: podUID) else { return false }
        end(place, .wiped, now)
        return true
    }

    /// Forgets what ended before `moment`, and what began before it in pods of which nobody knows any more.
    mutating func forget(before moment: Timestamp, knownPod: (Holder) -> Bool) {
        spans.removeAll { span in
            if let until = span.until { return until < moment }
            return span.from < moment && !knownPod(span.holder)
        }
    }

    private func held(by podUID: String) -> Int? { spans.lastIndex { $0.until == nil && $0.holder.podUID == podUID } }

    private mutating func end(_ place: Int, _ end: End, _ now: Timestamp) {
        // A clock set back makes no span of negative length.
        spans[place].until = max(now, spans[place].from)
        spans[place].end = end
        guard spans.count(where: { $0.until != nil }) > Self.endedMax, let oldest = spans.firstIndex(where: { $0.until != nil }) else { return }
        spans.remove(at: oldest)
        omitted += 1
    }

    // MARK: As it is stored

    static func unreadable() -> SecretTrail {
        var trail = SecretTrail()
        trail.omitted = 1
        return trail
    }

    var json: JSONValue {
        let spans = spans.map { span -> JSONValue in
            var json = span.holder.json
            json["from"] = .integer(span.from.secondsSinceEpoch)
            if let until = span.until { json["until"] = .integer(until.secondsSinceEpoch) }
            if let end = span.end { json["end"] = .string(end.rawValue) }
            return json
        }
        return ["spans": .array(spans), "omitted": .integer(omitted)]
    }

    /// Nil for what is none.
    init?(_ json: JSONValue) {
        guard let omitted = json["omitted"]?.integerValue, omitted >= 0, omitted < 1 << 53, let rows = json["spans"]?.arrayValue else { return nil }
        self.omitted = omitted
        for row in rows {
            guard let holder = Holder(row), let from = row["from"]?.integerValue else { return nil }
            let until = row["until"]?.integerValue.map { Timestamp(secondsSinceEpoch: $0) }
            spans.append(Span(holder: holder, from: Timestamp(secondsSinceEpoch: from), until: until, end: row["end"]?.stringValue.flatMap(End.init)))
        }
    }
}

extension SecretTrail.Holder {
    /// Also a part of what is told to clients, where the version is text, as in all of the API.
    package var json: JSONValue {
        ["pod": .string(podName), "podUID": .string(podUID), "secretUID": .string(secretUID), "resourceVersion": .string(String(resourceVersion))]
    }
    init?(_ json: JSONValue) {
        guard let podName = json["pod"]?.stringValue, let podUID = json["podUID"]?.stringValue, let secretUID = json["secretUID"]?.stringValue,
            let version = json["resourceVersion"]?.stringValue.flatMap({ Int64($0) })
        else { return nil }
        self.init(podName: podName, podUID: podUID, secretUID: secretUID, resourceVersion: version)
    }
}

/// Where a trail lies, beside the objects and out of their watches' sight: `trail/{namespace}/{secret}/{node}`.
package struct TrailKey: Hashable, Sendable {
    package let namespace: String
    package let secret: String
    package let node: String

    /// Nil for parts that cannot stand in a key.
    package init?(namespace: String, secret: String, node: String) {
        guard ObjectKey.isPart(namespace), ObjectKey.isPart(secret), ObjectKey.isPart(node) else { return nil }
        self.namespace = namespace; self.secret = secret; self.node = node
    }
    init?(_ bytes: Bytes) {
        let parts = String(validating: bytes, as: UTF8.self)?.split(separator: "/", omittingEmptySubsequences: false).map(String.init) ?? []
        guard parts.count == 4, parts[0] == "trail" else { return nil }
        self.init(namespace: parts[1], secret: parts[2], node: parts[3])
    }
    var bytes: Bytes { Bytes("trail/\(namespace)/\(secret)/\(node)".utf8) }

    static func range(_ words: String...) -> KeyRange { .prefix(Bytes((["trail"] + words).map { $0 + "/" }.joined().utf8)) }
}

extension ObjectStore {
    private static let chunkCount = 100

    /// Tries again when others change it in between. Nothing is written when `change` answers false.
    package func updateTrail(_ key: TrailKey, _ change: (inout SecretTrail) async throws(Status) -> Bool) async throws(Status) {
        for _ in 0..<Self.attemptsMax {
            let entry: Entry?
            do { entry = try await keyValue.get(key.bytes, revision: 0) } catch { throw Status(error) }
            var trail = entry.map(Self.trail) ?? SecretTrail()
            guard try await change(&trail) else { return }
            if try await write(trail, key, at: entry?.modificationRevision) { return }
        }
        throw .tooManyRequests("the trail of secret \"\(key.secret)\" is changed by others all the time", retryAfterSeconds: 1)
    }

    /// Of all nodes, those of the past as well; by the nodes' names.
    package func trails(namespace: String, secret: String) async throws(Status) -> [(node: String, trail: SecretTrail)] {
        guard let key = TrailKey(namespace: namespace, secret: secret, node: "x") else { return [] }
        var found: [(node: String, trail: SecretTrail)] = []
        try await forEachTrail(TrailKey.range(key.namespace, key.secret)) { (key, entry) in found.append((key.node, Self.trail(entry))) }
        return found
    }

    /// Forgets what ended before `moment`. Which pods are known is asked at that moment.
    package func forgetTrails(before moment: Timestamp, knownPod: (TrailKey, SecretTrail.Holder) -> Bool) async throws(Status) {
        try await forEachTrail(TrailKey.range()) { (key, entry) throws(Status) in
            let before = Self.trail(entry)
            var trail = before
            trail.forget(before: moment) { knownPod(key, $0) }
            guard trail != before else { return }
            if trail.spans.isEmpty { _ = try await discard(entry: entry) } else { _ = try await write(trail, key, at: entry.modificationRevision) }
        }
    }

    func discardTrails(of namespace: String) async throws(Status) {
        guard ObjectKey.isPart(namespace) else { return }
        try await forEachTrail(TrailKey.range(namespace)) { (_, entry) throws(Status) in _ = try await discard(entry: entry) }
    }

    /// Of namespaces that are none: see `discardOrphans`.
    func discardOrphanedTrails(isKnown: (String) async throws(Status) -> Bool) async throws(Status) {
        try await forEachTrail(TrailKey.range()) { (key, entry) throws(Status) in
            if try await !isKnown(key.namespace) { _ = try await discard(entry: entry) }
        }
    }

    private func forEachTrail(_ range: KeyRange, _ body: (TrailKey, Entry) async throws(Status) -> Void) async throws(Status) {
        var start = range.key, isDone = false
        while !isDone {
            let listing: Listing
            do { listing = try await keyValue.list(KeyRange(start, end: range.end), limit: Self.chunkCount, revision: 0) } catch { throw Status(error) }
            for entry in listing.entries {
                start = entry.key + [0]
                if let key = TrailKey(entry.key) { try await body(key, entry) }
            }
            isDone = !listing.more || listing.entries.isEmpty
        }
    }

    /// A damaged one holds up nobody: what comes from now on is kept, and that something is missing.
    private static func trail(_ entry: Entry) -> SecretTrail {
        guard case .success(let value) = entry.value, let json = try? JSONValue(parsing: value), let trail = SecretTrail(json) else { return .unreadable() }
        return trail
    }

    /// False when somebody was faster.
    private func write(_ trail: SecretTrail, _ key: TrailKey, at revision: Int64?) async throws(Status) -> Bool {
        guard let value = try? trail.json.encodedSecret() else { throw .serviceUnavailable("no memory for a trail") }
        do {
            _ = try await keyValue.put(key.bytes, domain: key.namespace, value: value, if: revision.map(Precondition.modificationRevision) ?? .absent)
            return true
        } catch .preconditionFailed {
            return false
        } catch {
            throw Status(error)
        }
    }

    private func discard(entry: Entry) async throws(Status) -> Bool {
        do {
            _ = try await keyValue.delete(entry.key, if: .modificationRevision(entry.modificationRevision))
            return true
        } catch .preconditionFailed {
            return false
        } catch {
            throw Status(error)
        }
    }
}
