import Basics
import MVCC

/// The store as it must be, kept in the simplest way: every change by revision, and every key's versions. Filled by whichever member
/// publishes a revision first; all others, and every answer to a client, are compared with it.
struct StoreModel {
    private(set) var violation: Violation?
    /// `changes[r - 2]`: what revision r changed.
    private var changes: [[WatchEvent]] = []
    private var versions: [Bytes: [(revision: Int64, version: KeyVersion?)]] = [:]
    /// The revision at which each write appeared, and what became of the request.
    private var appeared: [Bytes: Int64] = [:]
    private var sent: [Bytes: Int] = [:]
    private var refused: Set<Int> = []
    private var nonces: Set<Bytes> = []
    private var hashes: [LogIndex: StateHash] = [:]
    private(set) var acknowledged: Int64 = 1
    private(set) var answersCompared = 0
    var last: Int64 { Int64(changes.count) + 1 }

    mutating func fail(_ promise: Violation.Promise, _ detail: String) {
        if violation == nil { violation = Violation(promise, detail) }
    }
    func events(of revision: Int64) -> [WatchEvent] {
        revision >= 2 && revision <= last ? changes[Int(revision) - 2] : []
    }
    private static func name(_ value: SealedValue) -> Bytes { Bytes(value.tag) }

    // MARK: - Writes

    mutating func sends(_ value: SealedValue, request: Int) {
        sent[Self.name(value)] = request
        isSealed(value)
    }
    /// No nonce may come twice.
    mutating func isSealed(_ value: SealedValue) {
        if !nonces.insert(Bytes(value.bytes.dropFirst(SealedValue.headerBytes).prefix(24))).inserted { fail(.nonceReuse, "two values are sealed under one nonce") }
    }
    /// The client was told that nothing was changed.
    mutating func refuses(_ value: SealedValue, request: Int) {
        refused.insert(request)
        if let revision = appeared[Self.name(value)] { fail(.unsentWrite, "request \(request) was refused, and is revision \(revision)") }
    }
    mutating func acknowledges(_ value: SealedValue?, at revision: Int64, request: Int) {
        answersCompared += 1
        acknowledged = max(acknowledged, revision)
        guard revision <= last else { return fail(.acknowledgedWrite, "request \(request) is acknowledged at revision \(revision), which nobody has") }
        if let value, appeared[Self.name(value)] != revision {
            let found = appeared[Self.name(value)].map(String.init) ?? "nowhere"
            fail(.acknowledgedWrite, "request \(request) is acknowledged at revision \(revision), but is \(found)")
        }
    }

    // MARK: - What members publish

    mutating func publishes(_ events: [WatchEvent], from published: Int64, through revision: Int64, member: Int) {
        var position = 0, expected = published + 1
        while position < events.count {
            let current = events[position].version.revision.main
            guard current == expected else {
                return fail(.watchOrder, "member \(member + 1) publishes revision \(current) where \(expected) is due")
            }
            var group: [WatchEvent] = []
            while position < events.count, events[position].version.revision.main == current {
                group.append(events[position])
                position += 1
            }
            if current == last + 1 { learn(group, current) } else { compare(group, self.events(of: current), current, member) }
            expected += 1
        }
        if expected != revision + 1 { fail(.revisionOrder, "member \(member + 1) is at revision \(revision), its events end at \(expected - 1)") }
    }
    private mutating func learn(_ group: [WatchEvent], _ revision: Int64) {
        for event in group {
            if event.previous != version(of: event.version.key, at: revision - 1) {
                fail(.watchOrder, "revision \(revision) is published with another version before it than there was")
            }
            versions[event.version.key, default: []].append((revision, event.kind == .put ? event.version : nil))
            guard let value = event.value else { continue }
            let name = Self.name(value)
            guard let request = sent[name] else { return fail(.unsentWrite, "revision \(revision) holds a value nobody sent") }
            if refused.contains(request) { fail(.unsentWrite, "request \(request) was refused, and became revision \(revision)") }
            if let earlier = appeared[name] { fail(.unsentWrite, "request \(request) became revision \(earlier), and \(revision) again") }
            appeared[name] = revision
        }
        changes.append(group)
    }
    private mutating func compare(_ mine: [WatchEvent], _ theirs: [WatchEvent], _ revision: Int64, _ member: Int) {
        let isEqual = mine.count == theirs.count && zip(mine, theirs).allSatisfy {
            $0.kind == $1.kind && $0.version == $1.version && $0.value == $1.value && $0.previous == $1.previous
        }
        if !isEqual { fail(.equalState, "member \(member + 1) publishes another revision \(revision)") }
    }

    mutating func holds(_ hash: StateHash, at index: LogIndex, member: Int) {
        guard let known = hashes[index] else { return hashes[index] = hash }
        if known != hash { fail(.equalState, "member \(member + 1) has another state after entry \(index)") }
    }

    // MARK: - Reads

    func version(of key: Bytes, at revision: Int64) -> KeyVersion? {
        guard let history = versions[key] else { return nil }
        return history.last { $0.revision <= revision }?.version
    }
    /// `keys`: all there are, sorted.
    mutating func reads(_ result: RangeResult, range: KeyRange, at revision: Int64, keys: [Bytes], request: Int) {
        answersCompared += 1
        guard revision <= last else { return fail(.readAtRevision, "request \(request) is answered at revision \(revision), which nobody has") }
        let expected = keys.filter(range.contains).compactMap { version(of: $0, at: revision) }
        if result.versions != expected { fail(.readAtRevision, "request \(request) does not show the state of revision \(revision)") }
    }
    mutating func shows(_ history: History, from: Int64, through: Int64, member: Int) {
        answersCompared += 1
        let expected = from > history.through ? [] : (from...history.through).flatMap(events(of:))
        let isEqual = history.events.count == expected.count
            && zip(history.events, expected).allSatisfy { $0.kind == $1.kind && $0.version == $1.version && $0.previous == $1.previous }
        if !isEqual || history.through > through { fail(.watchOrder, "member \(member + 1) shows other changes from revision \(from) to \(history.through)") }
    }
}
