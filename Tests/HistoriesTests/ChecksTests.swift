import Histories
import Testing

/// A small history that is right, and everything that can be made wrong about it.
@Suite struct ChecksTests {
    private struct Recorded {
        var changes: [Change]
        var operations: [Operation]
        var watches: [Observation]
        var leases: [LeaseRecord]
        var seen: [(time: Int64, revision: Int64)] = [(9_000_000_000, 8)]

        var rules: Set<Violation.Rule> {
            let ledger = Ledger(changes)
            let found = Checks.operations(operations, ledger, endedLeases: Set(leases.map(\.id))) + watches.flatMap { Checks.watch($0, ledger) }
                + Checks.leases(leases, ledger, seen: seen)
            return Set(found.map(\.rule))
        }
    }

    private static func put(_ key: String, _ value: String, _ create: Int64, _ revision: Int64, _ version: Int64, lease: Int64 = 0) -> Change {
        .put(Version(key: key, value: value, createRevision: create, revision: revision, version: version, lease: lease))
    }
    private static let a1 = put("a", "v1", 2, 2, 1), a2 = put("a", "v2", 2, 3, 2), gone = Change.delete(key: "a", revision: 4)
    private static let b1 = put("b", "v3", 5, 5, 1), c1 = put("c", "v4", 5, 5, 1)
    private static let l1 = put("l/1", "v5", 6, 6, 1, lease: 7), l2 = put("l/2", "v6", 7, 7, 1, lease: 7)
    private static let ends = [Change.delete(key: "l/1", revision: 8), .delete(key: "l/2", revision: 8)]
    private static func version(_ change: Change) -> Version {
        guard case .put(let version) = change else { preconditionFailure("not a put") }
        return version
    }

    private static let good = Recorded(
        changes: [a1, a2, gone, b1, c1, l1, l2] + ends,
        operations: [
            Operation(.put(["a": "v1"]), .done(revision: 2), began: 0, ended: 10),
            Operation(.exchange(key: "a", revision: 2, value: "v2"), .unknown, began: 20, ended: 30),
            Operation(.read(.key("a")), .found([version(a2)], revision: 3), began: 40, ended: 50),
            Operation(.delete(key: "a"), .done(revision: 4), began: 60, ended: 70),
            Operation(.exchange(key: "a", revision: 3, value: "v9"), .refused(revision: 4), began: 80, ended: 90),
            Operation(.put(["b": "v3", "c": "v4"]), .done(revision: 5), began: 100, ended: 110),
            Operation(.put(["b": "v8"]), .notDone, began: 100, ended: 110),
            Operation(.put(["b": "v7"]), .unknown, began: 100, ended: 110),
            Operation(.read(.prefix(""), at: 2), .found([version(a1)], revision: 5), began: 120, ended: 130),
            Operation(.put(["l/1": "v5"], lease: 7), .done(revision: 6), began: 140, ended: 150),
            Operation(.put(["l/2": "v6"], lease: 7), .done(revision: 7), began: 160, ended: 170),
            Operation(.read(.prefix("")), .found([version(b1), version(c1)], revision: 8), began: 9_000_000_000, ended: 9_000_000_010),
        ],
        watches: [
            Observation(.prefix(""), after: 1, [
                .init([a1, a2], revision: 3), .init([gone], revision: 4), .init([], revision: 4), .init([b1, c1, l1], revision: 6), .init([l2] + ends, revision: 8),
            ]),
            Observation(.key("b"), after: 0, [.init([], revision: 4), .init([b1], revision: 5), .init([], revision: 8)]),
        ],
        leases: [LeaseRecord(id: 7, renewals: [.init(began: 130, seconds: 2), .init(began: 1_000_000_000, seconds: 2)])])

    @Test("a history that is right is found right")
    func rightIsRight() { #expect(Self.good.rules == []) }

    private static let broken: [(String, Violation.Rule, @Sendable (inout Recorded) -> Void)] = [
        ("an acknowledged write is lost", .acknowledgedIsKept, { $0.changes.removeFirst(2) }),
        ("an acknowledged conditional write stands elsewhere", .acknowledgedIsKept, { $0.operations[1].outcome = .done(revision: 2) }),
        ("an acknowledged delete left the entry", .acknowledgedIsKept, { $0.operations[3].outcome = .done(revision: 3) }),
        ("a write that was refused for sure appears", .unsentIsAbsent, { $0.operations[0].outcome = .notDone }),
        ("a value nobody wrote appears", .unsentIsAbsent, { $0.changes.append(put("x", "stranger", 9, 9, 1)) }),
        ("a write was carried out twice", .writtenOnce, { $0.changes.append(put("a", "v1", 9, 9, 1)) }),
        ("half of a transaction is there", .transactionIsWhole, { $0.changes.removeAll { $0 == c1 } }),
        ("a transaction's revision holds another write", .transactionIsWhole, { $0.changes[4] = put("c", "v4", 6, 6, 1) }),
        ("a lease was not attached", .transactionIsWhole, { $0.changes[5] = put("l/1", "v5", 6, 6, 1) }),
        ("a condition did not hold", .conditionHeld, { $0.operations[1].request = .exchange(key: "a", revision: 0, value: "v2") }),
        ("a condition held and was refused", .conditionHeld, { $0.operations[4].request = .exchange(key: "a", revision: 0, value: "v9") }),
        ("an entry vanished by itself", .deleteIsExplained, { $0.operations.remove(at: 3) }),
        ("an entry vanished with a lease that lives", .deleteIsExplained, { $0.leases = [] }),
        ("a read shows what was not there", .readIsState, { $0.operations[2].outcome = .found([version(a1)], revision: 3) }),
        ("a read misses what was there", .readIsState, { $0.operations[11].outcome = .found([version(b1)], revision: 8) }),
        ("a read of the past shows another past", .readIsState, { $0.operations[8].outcome = .found([version(a2)], revision: 5) }),
        ("a read is stale", .readIsRecent, { $0.operations[2] = Operation(.read(.key("a")), .found([version(a2)], revision: 3), began: 115, ended: 118) }),
        ("a write took a revision that was known before", .writeIsLater, {
            $0.operations[0].began = 75
            $0.operations[0].ended = 79
        }),
        ("a write of unknown outcome took a revision that was known before", .writeIsLater, { $0.operations[1].began = 75 }),
        ("revisions go back", .revisionsAscend, { $0.changes.swapAt(0, 1) }),
        ("an entry changed twice in a revision", .revisionsAscend, { $0.changes.insert(put("a", "v1", 2, 2, 2), at: 1) }),
        ("a version was skipped", .versionsCount, { $0.changes[1] = put("a", "v2", 2, 3, 3) }),
        ("a delete removed nothing", .versionsCount, { $0.changes.insert(.delete(key: "zz", revision: 5), at: 5) }),
        ("a watch goes back", .watchOrdered, { $0.watches[0].told[0] = .init([a2, a1], revision: 3) }),
        ("a watch goes back between words", .watchOrdered, { $0.watches[0].told.append(.init([b1], revision: 5)) }),
        ("a watch repeats", .watchUnique, { $0.watches[0].told.append(.init(ends, revision: 8)) }),
        ("a watch tells a revision in two parts", .watchAtomic, { $0.watches[0].told[3...3] = [.init([b1], revision: 5), .init([c1, l1], revision: 6)] }),
        ("a watch has a gap", .watchReliable, { $0.watches[0].told.remove(at: 1) }),
        ("a watch leaves out one of a revision", .watchReliable, { $0.watches[0].told[3] = .init([b1, l1], revision: 6) }),
        ("a watch tells what it was not asked for", .watchFiltered, { $0.watches[1].told[1] = .init([b1, c1], revision: 5) }),
        ("a watch tells what did not happen", .watchTrue, { $0.watches[0].told[0] = .init([a1, put("a", "v0", 2, 3, 2)], revision: 3) }),
        ("progress runs ahead of a change", .progressIsBehind, { $0.watches[1].told.insert(.init([], revision: 5), at: 1) }),
        ("a lease ended early", .leaseNotEarly, { $0.leases[0].renewals.append(.init(began: 8_000_000_000, seconds: 2)) }),
        ("a lease's end was seen early by somebody", .leaseNotEarly, { $0.seen = [(2_500_000_000, 11)] }),
        ("a lease's entries went one by one", .leaseInOneRevision, { $0.changes[8] = .delete(key: "l/2", revision: 9) }),
    ]

    @Test("each way to break it is found, by name", arguments: broken.indices)
    func brokenIsFound(case index: Int) {
        let (title, rule, breaks) = Self.broken[index]
        var history = Self.good
        breaks(&history)
        #expect(history.rules.contains(rule), "\(title): found \(history.rules)")
    }

    @Test("every rule has a history that breaks it")
    func allRules() {
        #expect(Set(Self.broken.map(\.1)).union([.stateIsHistory]) == Set(Violation.Rule.allCases))
        #expect(Checks.state([Self.version(Self.b1)], at: 8, Ledger(Self.good.changes)).map(\.rule) == [.stateIsHistory])
        #expect(Checks.state([Self.version(Self.b1), Self.version(Self.c1)], at: 8, Ledger(Self.good.changes)).isEmpty)
    }
}
