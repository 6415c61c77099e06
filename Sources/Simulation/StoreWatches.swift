import Basics
import MVCC
import Replica

/// A client that watches a range: it comes to a member, is told what it missed and then what is new there, and goes to another one
/// when that ends, or without reason.
struct StoreWatcher {
    let range: KeyRange
    /// Everything before this revision was told.
    var next: Int64 = 2
    var place: (member: Int, incarnation: Int32)?
    private(set) var told = 0

    init(range: KeyRange) { self.range = range }

    mutating func isTold(_ events: [WatchEvent], through revision: Int64) {
        told += events.count
        next = max(next, revision + 1)
    }
}

extension StoreWorld {
    private static let allKeys = KeyRange(Secrecy.keyMarker, end: Secrecy.keyMarker.dropLast() + [0x30])

    mutating func beginWatches(_ count: Int) {
        for _ in 0..<count {
            let first = clientChance.below(clients.keys.count), last = min(first + clientChance.below(5), clients.keys.count - 1)
            let ranges = [Self.allKeys, KeyRange(clients.keys[first]), KeyRange(clients.keys[first], end: clients.keys[last] + [0])]
            watchers.append(StoreWatcher(range: clientChance.pick(ranges)))
        }
        matchers = members.map { _ in WatchMatcher() }
    }

    // MARK: - Going to a member

    mutating func tendWatches() {
        for position in watchers.indices {
            let stray = clientChance.below(members.count), isRestless = clientChance.below(12) == 0
            if let place = watchers[position].place, members[place.member].isUp, members[place.member].incarnation == place.incarnation, !isRestless { continue }
            watch(position, at: stray)
        }
        lookBack()
    }
    mutating func watch(_ position: Int, at number: Int) {
        if let place = watchers[position].place { matchers[place.member].remove(WatchMatcher.ID(position)) }
        watchers[position].place = nil
        guard members[number].isUp, !isPaused(number), members[number].replica.isOutOfService == nil else { return }
        watchers[position].place = (number, members[number].incarnation)
        matchers[number].register(WatchMatcher.ID(position), watchers[position].range)
        catchUp(position, number)
    }
    /// From history, until nothing is missing.
    private mutating func catchUp(_ position: Int, _ number: Int) {
        let store = members[number].replica.store.revision, compacted = members[number].replica.store.compactRevision
        // Only this much may be missing, and the watcher is told so.
        watchers[position].next = max(watchers[position].next, compacted + 1)
        while watchers[position].next <= store {
            do {
                let from = watchers[position].next
                let history = try members[number].replica.store.changes(in: watchers[position].range, from: from, through: store, limit: 7)
                tell(position, number, history.events, through: history.through)
                guard model.violation == nil, history.through >= from else { return }
            } catch { return model.fail(.watchOrder, "member \(number + 1) does not show changes from \(watchers[position].next): \(error)") }
        }
    }

    // MARK: - Being told

    mutating func tellWatches(_ number: Int, _ events: [WatchEvent], through revision: Int64) {
        var found: [[WatchEvent]] = watchers.map { _ in [] }
        for event in events {
            for id in matchers[number].match(event.version.key) { found[Int(id)].append(event) }
        }
        for position in watchers.indices {
            guard let place = watchers[position].place, place.member == number, place.incarnation == members[number].incarnation else { continue }
            let next = watchers[position].next
            // The member may be behind what the watcher was told elsewhere.
            tell(position, number, found[position].filter { $0.version.revision.main >= next }, through: revision)
        }
    }
    /// The store was replaced: what lies between comes from history.
    mutating func fallBehind(_ number: Int) {
        for position in watchers.indices where watchers[position].place?.member == number {
            watchers[position].place?.incarnation = members[number].incarnation
            catchUp(position, number)
        }
    }

    /// All changes of the range from `next` on, each once, in order, with what was there before; nothing is told to be over before.
    private mutating func tell(_ position: Int, _ number: Int, _ events: [WatchEvent], through revision: Int64) {
        let watcher = watchers[position]
        guard revision >= watcher.next else {
            if !events.isEmpty { model.fail(.watchOrder, "watcher \(position + 1) is told again of revision \(revision) by member \(number + 1)") }
            return
        }
        let expected = (watcher.next...revision).flatMap(model.events(of:)).filter { watcher.range.contains($0.version.key) }
        let isEqual = events.count == expected.count
            && zip(events, expected).allSatisfy { $0.kind == $1.kind && $0.version == $1.version && $0.previous == $1.previous }
        if !isEqual {
            model.fail(.watchOrder, "watcher \(position + 1) is told of \(events.count) changes from revision \(watcher.next) to \(revision) "
                       + "by member \(number + 1); there were \(expected.count), or others")
        }
        watchers[position].isTold(events, through: revision)
    }

    /// Anyone may ask any member for what there was.
    private mutating func lookBack() {
        let number = clientChance.below(members.count), back = Int64(clientChance.below(40))
        guard members[number].isUp, members[number].repairers == nil else { return }
        let store = members[number].replica.store.revision, from = max(2, members[number].replica.store.compactRevision + 1, store - back)
        guard from <= store else { return }
        do {
            let history = try members[number].replica.store.changes(in: Self.allKeys, from: from, through: store, limit: 1_000)
            model.shows(history, from: from, through: store, member: number)
        } catch { model.fail(.watchOrder, "member \(number + 1) does not show changes from \(from): \(error)") }
    }
}

// MARK: - Leases

extension StoreWorld {
    /// After a member applied something: which leases are gone there, and were they to go?
    mutating func reviewLeases(_ member: StoreMember) {
        let applied = member.replica.store.appliedIndex, revision = member.replica.store.revision
        for lease in clients.leases where applied >= lease.grantedIndex {
            if member.replica.store.lease(lease.id) != nil {
                member.attached[lease.id] = (member.replica.store.keys(ofLease: lease.id), revision)
            } else { ended(lease, at: member, revision) }
        }
    }
    /// Nobody revoked it: its time must be over, by the slowest of clocks. Its keys went with it, at once.
    private mutating func ended(_ lease: StoreClients.LeaseTerm, at member: StoreMember, _ revision: Int64) {
        clients.leases.removeAll { $0.id == lease.id }
        let lived = Int64(now) - Int64(lease.renewedAt)
        if lived < lease.seconds * 960 { model.fail(.leaseNotEarly, "lease \(lease.id) of \(lease.seconds) s ended \(lived) ms after it was last renewed") }
        for key in clients.keys where model.version(of: key, at: revision)?.lease == lease.id {
            model.fail(.leaseRemoval, "lease \(lease.id) is gone at revision \(revision), and a key is attached to it")
        }
        // With one revision since, whatever was attached before was changed by that one.
        guard let (keys, before) = member.attached.removeValue(forKey: lease.id), !keys.isEmpty, revision <= before + 1 else { return }
        let changed = revision == before ? [] : model.events(of: revision).map(\.version.key)
        if !keys.allSatisfy(changed.contains) {
            model.fail(.leaseRemoval, "lease \(lease.id) had \(keys.count) keys, and not all of them went in the revision that ended it")
        }
    }
}
