/// Linearizability without a search: answers carry revisions, so each one says where in the history it stands. What is left to check is
/// that it is right there, and that it stands after everything that was answered before it began.
package enum Checks {
    /// `leases`: by id; entries put with one may vanish without a request.
    package static func operations(_ operations: [Operation], _ ledger: Ledger, endedLeases: Set<Int64> = []) -> [Violation] {
        var violations = ledger.violations
        let written = effects(operations, ledger, &violations)
        for operation in operations { violations += answer(operation, ledger) }
        violations += origins(operations, written, ledger, endedLeases)
        violations += realTime(operations, written)
        return violations
    }

    /// Where each write's values stand in the history: by the operation's position, its revision.
    private static func effects(_ operations: [Operation], _ ledger: Ledger, _ violations: inout [Violation]) -> [Int: Int64] {
        var writerOf: [String: Int] = [:]
        for (position, operation) in operations.enumerated() {
            switch operation.request {
            case .put(let values, _): for value in values.values { writerOf[value] = position }
            case .exchange(_, _, let value): writerOf[value] = position
            case .delete, .read: break
            }
        }
        var written: [Int: Int64] = [:]
        for case .put(let version) in ledger.changes {
            guard let writer = writerOf[version.value] else {
                violations.append(Violation(.unsentIsAbsent, "\(version) was written by nobody"))
                continue
            }
            let operation = operations[writer]
            if operation.outcome == .notDone { violations.append(Violation(.unsentIsAbsent, "\(version) comes from a request that was surely not carried out")) }
            if let other = written[writer], other != version.revision {
                violations.append(Violation(.writtenOnce, "\(operation.request) was carried out at \(other) and at \(version.revision)"))
            }
            written[writer] = version.revision
            violations += effect(of: operation, version, ledger)
        }
        return written
    }

    /// Whether a version is what its request asked for.
    private static func effect(of operation: Operation, _ version: Version, _ ledger: Ledger) -> [Violation] {
        switch operation.request {
        case .put(let values, let lease):
            let there = Dictionary(ledger.changes(at: version.revision).map { change -> (String, String?) in
                if case .put(let version) = change { (change.key, version.value) } else { (change.key, nil) }
            }) { first, _ in first }
            guard there.count == values.count, values.allSatisfy({ there[$0.key] == $0.value }) else {
                return [Violation(.transactionIsWhole, "revision \(version.revision) holds \(there), \(values) was asked for")]
            }
            return version.lease == lease ? [] : [Violation(.transactionIsWhole, "\(version) should have lease \(lease)")]
        case .exchange(let key, let expected, _):
            guard version.key == key, ledger.changes(at: version.revision).count == 1 else {
                return [Violation(.transactionIsWhole, "revision \(version.revision) holds more or other than \(operation.request)")]
            }
            let before = ledger.version(of: key, at: version.revision - 1)?.revision ?? 0
            return before == expected ? [] : [Violation(.conditionHeld, "\(operation.request) was done at \(version.revision) over revision \(before)")]
        case .delete, .read: return []
        }
    }

    /// Whether an answer is right at the revision that it names.
    private static func answer(_ operation: Operation, _ ledger: Ledger) -> [Violation] {
        switch (operation.request, operation.outcome) {
        case (.put(let values, _), .done(let revision)):
            let missing = values.filter { ledger.version(of: $0.key, at: revision)?.value != $0.value }
            return missing.isEmpty ? [] : [Violation(.acknowledgedIsKept, "\(missing) was acknowledged at \(revision) and is not there")]
        case (.exchange(let key, _, let value), .done(let revision)):
            let there = ledger.version(of: key, at: revision)
            return there?.value == value && there?.revision == revision ? [] : [Violation(.acknowledgedIsKept, "\(key)=\(value) was acknowledged at \(revision) and is not there")]
        case (.exchange(let key, let expected, _), .refused(let revision)):
            let there = ledger.version(of: key, at: revision)?.revision ?? 0
            return there == expected ? [Violation(.conditionHeld, "\(operation.request) was refused at \(revision), where its condition holds")] : []
        case (.delete(let key), .done(let revision)):
            return ledger.version(of: key, at: revision) == nil ? [] : [Violation(.acknowledgedIsKept, "\(key) was deleted by \(revision) and is there")]
        case (.read(let scope, let wanted), .found(let versions, let revision)):
            let state = ledger.state(scope, at: wanted > 0 ? wanted : revision)
            return versions.sorted { $0.key < $1.key } == state ? [] : [Violation(.readIsState, "\(scope) at \(revision) is \(state), not \(versions)")]
        default: return []
        }
    }

    /// Every delete comes from a request, or from the end of a lease.
    private static func origins(_ operations: [Operation], _ written: [Int: Int64], _ ledger: Ledger, _ endedLeases: Set<Int64>) -> [Violation] {
        var acknowledged: [Int64: Set<String>] = [:], possible: [String: Int] = [:]
        for operation in operations {
            guard case .delete(let key) = operation.request else { continue }
            if case .done(let revision) = operation.outcome { acknowledged[revision, default: []].insert(key) }
            if operation.outcome == .unknown { possible[key, default: 0] += 1 }
        }
        var violations: [Violation] = []
        for case .delete(let key, let revision) in ledger.changes {
            if acknowledged[revision]?.contains(key) == true { continue }
            if let lease = ledger.version(of: key, at: revision - 1)?.lease, lease != 0, endedLeases.contains(lease) { continue }
            if let left = possible[key], left > 0 { possible[key] = left - 1; continue }
            violations.append(Violation(.deleteIsExplained, "\(key) was deleted at \(revision) by nobody"))
        }
        return violations
    }

    /// A write that began after revision r was known to anybody is later than r; a read of "now" shows at least r.
    private static func realTime(_ operations: [Operation], _ written: [Int: Int64]) -> [Violation] {
        var known: [(time: Int64, revision: Int64)] = operations.compactMap { operation in
            switch operation.outcome {
            case .done(let revision), .refused(let revision), .found(_, let revision): (operation.ended, revision)
            case .notDone, .unknown: nil
            }
        }.sorted { $0.time < $1.time }
        for position in known.indices.dropFirst() { known[position].revision = max(known[position].revision, known[position - 1].revision) }
        func floor(_ time: Int64) -> Int64 {
            var low = 0, high = known.count
            while low < high {
                let middle = (low + high) / 2
                if known[middle].time < time { low = middle + 1 } else { high = middle }
            }
            return low == 0 ? 0 : known[low - 1].revision
        }
        var violations: [Violation] = []
        for (position, operation) in operations.enumerated() {
            let least = floor(operation.began)
            if let revision = written[position], revision <= least {
                violations.append(Violation(.writeIsLater, "\(operation.request) stands at \(revision), and began when \(least) was known"))
            }
            switch (operation.request, operation.outcome) {
            case (.read(_, 0), .found(_, let revision)), (.exchange, .refused(let revision)), (.delete, .done(let revision)):
                if revision < least { violations.append(Violation(.readIsRecent, "\(operation.request) was answered at \(revision), and began when \(least) was known")) }
            default: break
            }
        }
        return violations
    }

    /// What is there in the end is what the history makes of it.
    package static func state(_ found: [Version], at revision: Int64, _ ledger: Ledger) -> [Violation] {
        let state = ledger.state(.prefix(""), at: revision), found = found.sorted { $0.key < $1.key }
        guard found != state else { return [] }
        let differences = Set(found).symmetricDifference(state).sorted { ($0.key, $0.revision) < ($1.key, $1.revision) }
        return [Violation(.stateIsHistory, "at \(revision), found and history differ in \(differences)")]
    }

    // MARK: Watches

    package static func watch(_ observation: Observation, _ ledger: Ledger) -> [Violation] {
        var violations: [Violation] = [], seen: Set<Change> = []
        var last: Int64 = 0, cursor = 0
        // From now on: the first word names the revision it begins after.
        let after = observation.after > 0 ? observation.after : observation.told.first?.revision ?? 0
        let everTold = Set(observation.told.flatMap(\.changes))
        for told in observation.told {
            for change in told.changes {
                if !observation.scope.contains(change.key) { violations.append(Violation(.watchFiltered, "\(change) was not asked for")) }
                if !seen.insert(change).inserted { violations.append(Violation(.watchUnique, "\(change) was told twice")) }
                if !ledger.changes(at: change.revision).contains(change) { violations.append(Violation(.watchTrue, "\(change) did not happen")) }
            }
            let revisions = told.changes.map(\.revision)
            if revisions != revisions.sorted() || (revisions.first ?? .max) < last { violations.append(Violation(.watchOrdered, "\(revisions) after \(last)")) }
            if let first = revisions.first, first == last { violations.append(Violation(.watchAtomic, "revision \(first) was told in two parts")) }
            last = max(last, revisions.last ?? 0)
            // All up to here was told; what was due before was looked at before.
            var missing: [Change] = []
            while cursor < ledger.changes.count, ledger.changes[cursor].revision <= told.revision {
                let change = ledger.changes[cursor]
                if change.revision > after, observation.scope.contains(change.key), !seen.contains(change) { missing.append(change) }
                cursor += 1
            }
            if let first = missing.first {
                // Never told is a gap; told too late is a word given too early, or a revision in parts.
                let rule: Violation.Rule = !everTold.contains(first) ? .watchReliable : told.changes.isEmpty ? .progressIsBehind : .watchAtomic
                violations.append(Violation(rule, "\(missing.count) changes up to \(told.revision) were not told, \(first) first"))
                break
            }
        }
        return violations
    }

    // MARK: Leases

    /// `seen`: when revisions were known to somebody, to have happened by then.
    package static func leases(_ records: [LeaseRecord], _ ledger: Ledger, seen: [(time: Int64, revision: Int64)]) -> [Violation] {
        let seen = seen.sorted { $0.revision < $1.revision }
        // The earliest time at which a revision, or a later one, was seen.
        var earliest = seen
        for position in earliest.indices.dropLast().reversed() { earliest[position].time = min(earliest[position].time, earliest[position + 1].time) }
        var violations: [Violation] = []
        for record in records {
            var gone: Set<Int64> = []
            for case .delete(let key, let revision) in ledger.changes where ledger.version(of: key, at: revision - 1)?.lease == record.id {
                gone.insert(revision)
                let isOnlyPart = ledger.keys.contains { ledger.version(of: $0, at: revision)?.lease == record.id }
                if isOnlyPart { violations.append(Violation(.leaseInOneRevision, "lease \(record.id): \(key) went at \(revision), others stayed")) }
                guard !record.wasRevoked, let place = earliest.firstIndex(where: { $0.revision >= revision }) else { continue }
                let time = earliest[place].time
                if let renewal = record.renewals.first(where: { time < $0.began + $0.seconds * 1_000_000_000 }) {
                    let early = Double(renewal.began + renewal.seconds * 1_000_000_000 - time) / 1e9
                    violations.append(Violation(.leaseNotEarly, "lease \(record.id) of \(renewal.seconds) s ended \(early) s early, at \(revision)"))
                }
            }
            if gone.count > 1 { violations.append(Violation(.leaseInOneRevision, "lease \(record.id) ended in revisions \(gone.sorted())")) }
        }
        return violations
    }
}
