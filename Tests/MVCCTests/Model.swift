import Basics
import MVCC

/// etcd's semantics, slow and obvious: a list of all versions ever written, in order; every question walks it.
struct Model {
    struct Version: Equatable { var version: KeyVersion; var value: SealedValue? }

    var history: [Version] = []
    var revision: Int64 = 1
    var compactRevision: Int64 = -1
    var leases: [LeaseID: Int64] = [:]
    var staleGenerations: Set<UInt32> = []

    // MARK: Reading

    /// The keys at a revision, in order.
    func state(at revision: Int64) -> [Version] {
        var byKey: [Bytes: Version] = [:]
        for version in history where version.version.revision.main <= revision {
            byKey[version.version.key] = version.value == nil ? nil : version
        }
        return byKey.keys.sorted { $0.lexicographicallyPrecedes($1) }.map { byKey[$0]! }
    }
    var now: [Version] { state(at: .max) }

    func range(_ request: RangeRequest, current: Int64) -> RangeResult {
        let at = request.revision > 0 ? request.revision : current
        let inRange = state(at: at).map(\.version).filter { request.range.contains($0.key) }
        if request.countOnly { return RangeResult(versions: [], more: false, count: Int64(inRange.count)) }
        let isFiltered = request.minModificationRevision != 0 || request.maxModificationRevision != 0
            || request.minCreateRevision != 0 || request.maxCreateRevision != 0
        var kept = inRange
        if request.limit > 0, request.sortOrder == .none, !isFiltered { kept = Array(kept.prefix(Int(request.limit) + 1)) }
        kept = kept.filter {
            !(request.minModificationRevision != 0 && $0.revision.main < request.minModificationRevision)
                && !(request.maxModificationRevision != 0 && $0.revision.main > request.maxModificationRevision)
                && !(request.minCreateRevision != 0 && $0.createRevision < request.minCreateRevision)
                && !(request.maxCreateRevision != 0 && $0.createRevision > request.maxCreateRevision)
        }
        if request.sortOrder != .none || request.sortTarget != .key {
            func field(_ version: KeyVersion) -> Int64 {
                switch request.sortTarget {
                case .key: Int64(kept.firstIndex { $0.key == version.key }!)
                case .version: version.version
                case .create: version.createRevision
                case .modification: version.revision.main
                }
            }
            let sign: Int64 = request.sortOrder == .descending ? -1 : 1
            kept = kept.enumerated().sorted { (sign * field($0.element), $0.offset) < (sign * field($1.element), $1.offset) }.map(\.element)
        }
        let more = request.limit > 0 && kept.count > request.limit
        if more { kept = Array(kept.prefix(Int(request.limit))) }
        return RangeResult(versions: kept, more: more, count: Int64(inRange.count))
    }

    func checked(_ request: RangeRequest, inTransaction: Bool) throws(CommandRefusal) {
        if request.revision > revision { throw .futureRevision(current: revision) }
        let isPast = inTransaction ? request.revision != 0 : request.revision > 0
        if isPast, request.revision < compactRevision { throw .compacted(compactRevision: compactRevision) }
    }

    func changes(_ range: KeyRange, from: Int64, through: Int64) -> [WatchEvent] {
        history.filter { $0.version.revision.main >= from && $0.version.revision.main <= through && range.contains($0.version.key) }.map { change in
            let before = change.version.revision.main - 1, isMade = change.value != nil && change.version.version == 1
            let previous = isMade ? nil : before >= compactRevision ? state(at: before).first { $0.version.key == change.version.key }?.version : nil
            return WatchEvent(kind: change.value == nil ? .delete : .put, version: change.version, previous: previous)
        }
    }

    // MARK: Writing

    mutating func apply(_ command: Command) -> Result<CommandResult, CommandRefusal> {
        var copy = self
        let result: Result<CommandResult, CommandRefusal>
        do throws(CommandRefusal) { result = .success(try copy.execute(command)) } catch { return .failure(error) }
        if copy.history.count > history.count { copy.revision += 1 }
        self = copy
        return result
    }

    private mutating func execute(_ command: Command) throws(CommandRefusal) -> CommandResult {
        switch command {
        case .put(let request):
            if request.lease != 0, leases[request.lease] == nil { throw .leaseNotFound }
            return .operation(try put(request))
        case .deleteRange(let request): return .operation(delete(request))
        case .transaction(let transaction, _):
            try Self.checkDuplicates(transaction)
            let before = self
            try before.check(transaction, puts: true)
            try before.check(transaction, puts: false)
            return .operation(try run(transaction, before))
        case .compact(let at):
            if at <= compactRevision { throw .compacted(compactRevision: compactRevision) }
            if at > revision { throw .futureRevision(current: revision) }
            compactRevision = at
            history = retained(at)
            return .none
        case .leaseGrant(let id, let seconds):
            if leases[id] != nil { throw .leaseExists }
            leases[id] = max(2, seconds)
            return .lease(id: id, seconds: max(2, seconds))
        case .leaseRevoke(let id):
            guard leases[id] != nil else { throw .leaseNotFound }
            for version in now where version.version.lease == id { _ = delete(DeleteRangeRequest(KeyRange(version.version.key))) }
            leases[id] = nil
            return .lease(id: id, seconds: 0)
        default: preconditionFailure("the model does not know this command")
        }
    }

    /// What a read or a watch from `compact` on can see.
    func retained(_ compact: Int64) -> [Version] {
        let visible = state(at: compact).map(\.version.revision)
        return history.filter { change in
            let at = change.version.revision
            return at.main > compact || (change.value == nil ? at.main == compact : visible.contains(at))
        }
    }

    private mutating func append(_ key: Bytes, _ value: SealedValue?, lease: LeaseID, create: Int64, version: Int64) {
        let sub = history.reversed().prefix { $0.version.revision.main == revision + 1 }.count
        let written = KeyVersion(key: key, revision: Revision(revision + 1, Int32(sub)), createRevision: create, version: version, lease: lease)
        history.append(Version(version: written, value: value))
    }

    private func checkPut(_ request: PutRequest) throws(CommandRefusal) {
        let existing = now.first { $0.version.key == request.key }
        if request.value == .unchanged || request.keepsLease, existing == nil { throw .keyNotFound }
        if request.value == .unchanged, let key = existing?.value?.dataKey, staleGenerations.contains(key.generation) { throw .staleKey(key) }
        if request.lease != 0, leases[request.lease] == nil { throw .leaseNotFound }
        if case .sealed(let value) = request.value, staleGenerations.contains(value.dataKey.generation) { throw .staleKey(value.dataKey) }
    }

    private mutating func put(_ request: PutRequest) throws(CommandRefusal) -> OperationResult {
        try checkPut(request)
        let existing = now.first { $0.version.key == request.key }
        let value = if case .sealed(let value) = request.value { value } else { existing!.value! }
        append(request.key, value, lease: request.keepsLease ? existing!.version.lease : request.lease,
            create: existing?.version.createRevision ?? revision + 1, version: (existing?.version.version ?? 0) + 1)
        return .put(previous: request.returnsPrevious ? existing?.version : nil)
    }

    private mutating func delete(_ request: DeleteRangeRequest) -> OperationResult {
        let doomed = now.map(\.version).filter { request.range.contains($0.key) }
        for version in doomed { append(version.key, nil, lease: 0, create: 0, version: 0) }
        return .deleteRange(deleted: Int64(doomed.count), previous: request.returnsPrevious ? doomed : [])
    }

    // MARK: Transactions

    private func holds(_ compare: Compare) -> Bool {
        if case .resolved(let result) = compare.target { return result }
        let absent = KeyVersion(key: [], revision: Revision(0), createRevision: 0, version: 0, lease: 0)
        let candidates = now.map(\.version).filter { compare.range.contains($0.key) }
        return (candidates.isEmpty ? [absent] : candidates).allSatisfy { version in
            let (actual, expected): (Int64, Int64) =
                switch compare.target {
                case .version(let value): (version.version, value)
                case .create(let value): (version.createRevision, value)
                case .modification(let value): (version.revision.main, value)
                case .lease(let value): (version.lease, value)
                case .resolved: (0, 0)
                }
            switch compare.relation {
            case .equal: return actual == expected
            case .notEqual: return actual != expected
            case .greater: return actual > expected
            case .less: return actual < expected
            }
        }
    }

    private func branch(_ transaction: Transaction) -> (Bool, [Operation]) {
        transaction.compares.allSatisfy(holds) ? (true, transaction.success) : (false, transaction.failure)
    }

    private func check(_ transaction: Transaction, puts: Bool) throws(CommandRefusal) {
        for operation in branch(transaction).1 {
            switch operation {
            case .put(let request): if puts { try checkPut(request) }
            case .range(let request): if !puts { try checked(request, inTransaction: true) }
            case .deleteRange: break
            case .transaction(let nested): try check(nested, puts: puts)
            }
        }
    }

    private mutating func run(_ transaction: Transaction, _ before: Model) throws(CommandRefusal) -> OperationResult {
        let (succeeded, operations) = before.branch(transaction)
        var results: [OperationResult] = []
        for operation in operations {
            switch operation {
            case .put(let request): results.append(try put(request))
            case .deleteRange(let request): results.append(delete(request))
            case .range(let request):
                results.append(.range(range(request, current: history.count > before.history.count ? revision + 1 : revision)))
            case .transaction(let nested): results.append(try run(nested, before))
            }
        }
        return .transaction(succeeded: succeeded, results)
    }

    /// By listing, for each operation, everything that may run beside it.
    private static func checkDuplicates(_ transaction: Transaction) throws(CommandRefusal) {
        for branch in [transaction.success, transaction.failure] {
            try checkSiblings(branch)
        }
    }
    private static func checkSiblings(_ operations: [Operation]) throws(CommandRefusal) {
        for case .transaction(let nested) in operations { try checkDuplicates(nested) }
        for (i, operation) in operations.enumerated() {
            for other in operations[(i + 1)...] {
                if touches(operation, other) { throw .duplicateKey }
            }
        }
    }
    private static func puts(_ operation: Operation) -> [Bytes] {
        switch operation {
        case .put(let request): [request.key]
        case .transaction(let nested): (nested.success + nested.failure).flatMap(puts)
        case .range, .deleteRange: []
        }
    }
    private static func deletes(_ operation: Operation) -> [KeyRange] {
        switch operation {
        case .deleteRange(let request): request.range.end?.count == 1 ? [] : [request.range]
        case .transaction(let nested): (nested.success + nested.failure).flatMap(deletes)
        case .range, .put: []
        }
    }
    /// etcd compares a nested transaction's puts with deletes beside it and in nested ones *before* it, not in later ones.
    private static func touches(_ a: Operation, _ b: Operation) -> Bool {
        if !Set(puts(a)).isDisjoint(with: puts(b)) { return true }
        let bothNested = if case (.transaction, .transaction) = (a, b) { true } else { false }
        func meets(_ keys: [Bytes], _ ranges: [KeyRange]) -> Bool { keys.contains { key in ranges.contains { $0.contains(key) } } }
        func isNested(_ operation: Operation) -> Bool { if case .transaction = operation { true } else { false } }
        if bothNested { return meets(puts(b), deletes(a)) }
        return meets(puts(a), deletes(b)) || meets(puts(b), deletes(a))
    }
}
