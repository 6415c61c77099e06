import Basics

extension Store {
    /// (1) guards, (2) compares, all against the state before, giving the path through nested transactions, (3) every check that can refuse,
    /// along the path, (4) the operations in order, which cannot fail any more.
    mutating func applyTransaction(
        _ transaction: Transaction, _ guards: [Guard], _ applied: inout Applied
    ) -> Result<CommandResult, CommandRefusal> {
        do throws(CommandRefusal) {
            try transaction.validate()
            try checkEffort(transaction)
            for guarded in guards where guardOf(guarded.range) != guarded { throw .guardFailed }  // (1)
            var path: [Bool] = []
            resolve(transaction, &path)  // (2)
            var position = 0, plan = Plan()
            try checkPuts(transaction, path, &position, &plan)  // (3)
            position = 0
            try checkRanges(transaction, path, &position, &plan)
            if plan.putsDeletedKey { throw .keyNotFound }
            position = 0
            var puts = plan.puts[...]
            return .success(.operation(execute(transaction, path, &position, &puts, &applied)))  // (4)
        } catch { return .failure(error) }
    }

    /// A transaction that writes nothing, answered from now without going through the log; `nil` if the guards do not hold.
    package func read(_ transaction: Transaction, guards: [Guard]) throws(CommandRefusal) -> OperationResult {
        try transaction.validate()
        try checkEffort(transaction)
        for guarded in guards where guardOf(guarded.range) != guarded { throw .guardFailed }
        var path: [Bool] = [], position = 0, plan = Plan()
        resolve(transaction, &path)
        try checkRanges(transaction, path, &position, &plan)
        position = 0
        return try read(transaction, path, &position)
    }

    /// A single range may be the whole store; several together may look at so many keys, whichever of the branches they are in.
    private func checkEffort(_ transaction: Transaction) throws(CommandRefusal) {
        let ranges = transaction.ranges
        guard ranges.count > 1 else { return }
        var left = Limits.transactionKeysMax
        for range in ranges {
            index.scan(range) { _ in
                left -= 1
                return left >= 0
            }
            guard left >= 0 else { throw .limitReached }
        }
    }

    // MARK: (2) Compares

    private func resolve(_ transaction: Transaction, _ path: inout [Bool]) {
        let holds = transaction.compares.allSatisfy { self.holds($0) }
        path.append(holds)
        for case .transaction(let nested) in holds ? transaction.success : transaction.failure { resolve(nested, &path) }
    }

    /// A compare over a range must hold for each of its keys; over none, for a key with zeroes everywhere.
    private func holds(_ compare: Compare) -> Bool {
        if case .resolved(let result) = compare.target { return result }
        var all = true, any = false
        index.scan(compare.range) { entry in
            guard entry.isLive else { return true }
            any = true
            all = compare.holds(entry.latest.cell, lease: leaseNames[entry.latest.cell.lease])
            return all
        }
        if !any { return compare.holds(VersionCell(main: 0, sub: 0, create: 0, version: 0, dataKey: 0, lease: 0), lease: 0) }
        return all
    }

    // MARK: (3) Checks

    private struct Plan {
        /// One for each put on the path, in order.
        var puts: [CheckedPut] = []
        /// Ranges deleted on the path so far.
        var deleted: [KeyRange] = []
        /// A put wants the previous value or lease of a key that is deleted before it on the path.
        var putsDeletedKey = false
    }

    /// A put of a deleted key that wants the previous value or lease is refused, after all other checks. (In etcd it passes them, since only
    /// the state before is looked at, and then brings the server down; it takes a delete "from key on", which the duplicate rule does not see.)
    private func checkPuts(_ transaction: Transaction, _ path: [Bool], _ position: inout Int, _ plan: inout Plan) throws(CommandRefusal) {
        let branch = path[position] ? transaction.success : transaction.failure
        position += 1
        for operation in branch {
            switch operation {
            case .range: break
            case .put(let put):
                let checked = try check(put, inTransaction: true).get()
                if put.value == .unchanged || put.keepsLease, plan.deleted.contains(where: { $0.contains(put.key) }) { plan.putsDeletedKey = true }
                plan.puts.append(checked)
            case .deleteRange(let request): plan.deleted.append(request.range)
            case .transaction(let nested): try checkPuts(nested, path, &position, &plan)
            }
        }
    }

    private func checkRanges(_ transaction: Transaction, _ path: [Bool], _ position: inout Int, _ plan: inout Plan) throws(CommandRefusal) {
        let branch = path[position] ? transaction.success : transaction.failure
        position += 1
        for operation in branch {
            switch operation {
            case .range(let request):
                if request.revision > revision { throw .futureRevision(current: revision) }
                if request.revision != 0, request.revision < compactRevision { throw .compacted(compactRevision: compactRevision) }
            case .put, .deleteRange: break
            case .transaction(let nested): try checkRanges(nested, path, &position, &plan)
            }
        }
    }

    // MARK: (4) Execution

    private mutating func execute(
        _ transaction: Transaction, _ path: [Bool], _ position: inout Int, _ puts: inout ArraySlice<CheckedPut>, _ applied: inout Applied
    ) -> OperationResult {
        let succeeded = path[position]
        position += 1
        var results: [OperationResult] = []
        for operation in succeeded ? transaction.success : transaction.failure {
            switch operation {
            case .range(let request): results.append(.range(select(request, current: visible)))
            case .put(let put): results.append(.put(previous: write(put, puts.removeFirst(), &applied)))
            case .deleteRange(let request): results.append(delete(request, &applied))
            case .transaction(let nested): results.append(execute(nested, path, &position, &puts, &applied))
            }
        }
        return .transaction(succeeded: succeeded, results)
    }

    private func read(_ transaction: Transaction, _ path: [Bool], _ position: inout Int) throws(CommandRefusal) -> OperationResult {
        let succeeded = path[position]
        position += 1
        var results: [OperationResult] = []
        for operation in succeeded ? transaction.success : transaction.failure {
            switch operation {
            case .range(let request): results.append(.range(select(request, current: revision)))
            case .transaction(let nested): results.append(try read(nested, path, &position))
            case .put, .deleteRange: throw .conflict
            }
        }
        return .transaction(succeeded: succeeded, results)
    }
}

extension Compare {
    fileprivate func holds(_ cell: VersionCell, lease: LeaseID) -> Bool {
        func holds(_ actual: Int64, _ expected: Int64) -> Bool {
            switch relation {
            case .equal: actual == expected
            case .greater: actual > expected
            case .less: actual < expected
            case .notEqual: actual != expected
            }
        }
        return switch target {
        case .version(let expected): holds(cell.version, expected)
        case .create(let expected): holds(cell.create, expected)
        case .modification(let expected): holds(cell.main, expected)
        case .lease(let expected): holds(lease, expected)
        case .resolved(let result): result
        }
    }
}

extension Transaction {
    /// Whether neither branch, nor any transaction within, writes.
    package var isReadOnly: Bool {
        (success + failure).allSatisfy { operation in
            switch operation {
            case .range: true
            case .put, .deleteRange: false
            case .transaction(let nested): nested.isReadOnly
            }
        }
    }

    /// Bounds and etcd's rule against duplicate keys; the front door's check as well as apply's.
    package func validate(operationsMax: Int = Limits.transactionOperationsMax) throws(CommandRefusal) {
        var steps = 0
        try checkBounds(operationsMax, depth: 1, steps: &steps)
        _ = try written(success)
        _ = try written(failure)
    }

    private func checkBounds(_ operationsMax: Int, depth: Int, steps: inout Int) throws(CommandRefusal) {
        if depth > Limits.transactionDepthMax { throw .nestingTooDeep }
        let count = max(compares.count, success.count, failure.count)
        steps += compares.count + success.count + failure.count
        if count > operationsMax || steps > Limits.transactionStepsMax { throw .tooManyOperations }
        for operation in success + failure {
            if case .transaction(let nested) = operation { try nested.checkBounds(operationsMax - count, depth: depth + 1, steps: &steps) }
        }
    }

    /// Of more than one key, that it reads, compares or deletes; in all branches.
    fileprivate var ranges: [KeyRange] {
        var found = compares.filter { if case .resolved = $0.target { false } else { true } }.map(\.range)
        for operation in success + failure {
            switch operation {
            case .range(let request): found.append(request.range)
            case .deleteRange(let request): found.append(request.range)
            case .put: break
            case .transaction(let nested): found += nested.ranges
            }
        }
        return found.filter { $0.end != nil }
    }

    /// What a branch may write: no key may be put twice, nor put and deleted, except that the two branches of one nested transaction
    /// may put the same key. A delete "from key on" is not seen here, as etcd's rule does not see it; what it does follows from the order.
    /// Where keys lie in spaces, told by their first byte, such a delete ends with its space: at an end of one byte.
    private typealias Written = (puts: Set<Bytes>, deletes: [KeyRange])
    private func written(_ branch: [Operation]) throws(CommandRefusal) -> Written {
        var puts: Set<Bytes> = [], deletes: [KeyRange] = []
        for case .deleteRange(let request) in branch where request.range.end?.count != 1 { deletes.append(request.range) }
        for case .transaction(let nested) in branch {
            let (then, thenDeletes) = try written(nested.success)
            let (otherwise, otherwiseDeletes) = try written(nested.failure)
            let isDeleted = { (key: Bytes) in deletes.contains { $0.contains(key) } }
            if !puts.isDisjoint(with: then) || then.contains(where: isDeleted) { throw .duplicateKey }
            if !puts.isDisjoint(with: otherwise) || otherwise.contains(where: isDeleted) { throw .duplicateKey }
            puts.formUnion(then)
            puts.formUnion(otherwise)
            deletes += thenDeletes + otherwiseDeletes
        }
        for case .put(let put) in branch {
            if puts.contains(put.key) || deletes.contains(where: { $0.contains(put.key) }) { throw .duplicateKey }
            puts.insert(put.key)
        }
        return (puts, deletes)
    }
}
