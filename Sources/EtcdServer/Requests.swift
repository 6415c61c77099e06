import Barrier
import Basics
import EtcdProtocol
import MVCC
import NIOCore
import RPC
import SecretMemory

// From the wire to the Barrier: validation with etcd's rules, and sealing.

/// What an answer must remember of the range that was asked for.
struct RangeShape: Sendable {
    var keysOnly = false
    var countOnly = false
    /// Sorting by VALUE happens above the waterline, over the whole range.
    var valueOrder: ValueOrder?
    struct ValueOrder: Sendable {
        var descending: Bool
        /// 0 is all.
        var limit: Int64
    }
}

/// The same for each operation of a transaction.
indirect enum OperationShape: Sendable {
    case range(RangeShape)
    case put
    case deleteRange
    case transaction(success: [OperationShape], failure: [OperationShape])
}

extension RangeRequestMessage {
    var interval: KeyRange { KeyRange(key: key, wireEnd: rangeEnd) }

    func validate() throws(Status) {
        guard !key.isEmpty else { throw .emptyKey }
        guard sortOrder != nil, sortTarget != nil else { throw .invalidSortOption }
    }

    /// Call after `validate`.
    func lowered() -> (RangeRequest, RangeShape) {
        var request = RangeRequest(Keyspace.plain.stored(interval))
        var shape = RangeShape(keysOnly: keysOnly, countOnly: countOnly)
        request.limit = max(limit, 0)
        request.revision = max(revision, 0)
        request.countOnly = countOnly
        request.minModificationRevision = minModRevision
        request.maxModificationRevision = maxModRevision
        request.minCreateRevision = minCreateRevision
        request.maxCreateRevision = maxCreateRevision
        request.sortOrder = switch sortOrder {
        case .ascend: .ascending
        case .descend: .descending
        default: .none
        }
        switch sortTarget {
        case .version: request.sortTarget = .version
        case .create: request.sortTarget = .create
        case .mod: request.sortTarget = .modification
        case .value where !countOnly:
            shape.valueOrder = .init(descending: sortOrder == .descend, limit: request.limit)
            // As for the other targets below: without an order, one key more than the limit is looked at, and those are sorted.
            let filters = minModRevision != 0 || maxModRevision != 0 || minCreateRevision != 0 || maxCreateRevision != 0
            request.limit = request.sortOrder != .none || filters || request.limit == .max || request.limit == 0 ? 0 : request.limit + 1
            request.sortOrder = .none
        default: break
        }
        return (request, shape)
    }
}

extension PutRequestMessage {
    func validate() throws(Status) {
        guard !key.isEmpty else { throw .emptyKey }
        guard key.count <= Limits.keyBytesMax else { throw .requestTooLarge }
        if ignoreValue, value.readableBytes > 0 { throw .valueProvided }
        if ignoreLease, lease != 0 { throw .leaseProvided }
    }

    /// Sealed from where it lies in the network's buffer.
    func sealed(by barrier: Barrier) throws -> PutRequest {
        var request = ignoreValue
            ? try barrier.putRequest(key: key, plaintext: nil)
            : try value.withUnsafeReadableBytes { try barrier.putRequest(key: key, plaintext: $0) }
        request.lease = lease
        request.keepsLease = ignoreLease
        request.returnsPrevious = prevKV
        return request
    }
}

extension DeleteRangeRequestMessage {
    var interval: KeyRange { KeyRange(key: key, wireEnd: rangeEnd) }
    func validate() throws(Status) {
        guard !key.isEmpty else { throw .emptyKey }
    }
    func lowered() -> DeleteRangeRequest {
        var request = DeleteRangeRequest(Keyspace.plain.stored(interval))
        request.returnsPrevious = prevKV
        return request
    }
}

extension CompareMessage {
    func lowered() throws(Status) -> EtcdCompare {
        guard !key.isEmpty else { throw .emptyKey }
        let range = Keyspace.plain.stored(KeyRange(key: key, wireEnd: rangeEnd))
        let relation: Compare.Relation
        switch result {
        case .equal: relation = .equal
        case .greater: relation = .greater
        case .less: relation = .less
        case .notEqual: relation = .notEqual
        case nil: throw .malformedCompare
        }
        switch target {
        case .version: return .plain(Compare(range, relation, .version(version)))
        case .create: return .plain(Compare(range, relation, .create(createRevision)))
        case .mod: return .plain(Compare(range, relation, .modification(modRevision)))
        case .lease: return .plain(Compare(range, relation, .lease(lease)))
        case .value:
            guard let secret = try? value.withUnsafeReadableBytes({ try SecretValue(copying: $0) }) else { throw .tooManyRequests }
            return .value(range, relation, secret)
        case nil: throw .malformedCompare
        }
    }
}

extension TransactionRequestMessage {
    /// Every key interval it names, for authorization; nested ones too, since a nested one is as good as an outer one.
    func accesses(into accesses: inout [Access]) {
        for compare in compare { accesses.append(.read(KeyRange(key: compare.key, wireEnd: compare.rangeEnd))) }
        for operation in success + failure {
            switch operation.request {
            case .range(let request): accesses.append(.read(request.interval))
            case .put(let request):
                accesses.append(.write(KeyRange(request.key)))
                if request.prevKV { accesses.append(.read(KeyRange(request.key))) }
            case .deleteRange(let request):
                accesses.append(.write(request.interval))
                if request.prevKV { accesses.append(.read(request.interval)) }
            case .transaction(let nested): nested.accesses(into: &accesses)
            case nil: break
            }
        }
    }

    /// etcd's `checkTxnRequest`: bounds, then each operation by its own rules. Duplicate keys are found by apply.
    func validate() throws(Status) {
        var steps = 0
        try validate(depth: 1, steps: &steps)
    }
    private func validate(depth: Int, steps: inout Int) throws(Status) {
        guard depth <= Limits.transactionDepthMax else { throw .nestedTooDeep }
        let most = max(compare.count, success.count, failure.count)
        steps += compare.count + success.count + failure.count
        guard most <= Limits.transactionOperationsMax, steps <= Limits.transactionStepsMax else { throw .tooManyOperations }
        for compare in compare where compare.key.isEmpty { throw .emptyKey }
        for operation in success + failure {
            switch operation.request {
            case .range(let request): try request.validate()
            case .put(let request): try request.validate()
            case .deleteRange(let request): try request.validate()
            case .transaction(let nested): try nested.validate(depth: depth + 1, steps: &steps)
            // An operation without a request: etcd says it of an unset oneof.
            case nil: throw Status(.invalidArgument, "etcdserver: key not found")
            }
        }
    }

    var shape: (success: [OperationShape], failure: [OperationShape]) {
        func shape(_ operation: RequestOperationMessage) -> OperationShape {
            switch operation.request {
            case .range(let request): .range(request.lowered().1)
            case .put, nil: .put
            case .deleteRange: .deleteRange
            case .transaction(let nested): .transaction(success: nested.success.map(shape), failure: nested.failure.map(shape))
            }
        }
        return (success.map(shape), failure.map(shape))
    }

    /// Call after `validate`. Throws `Status`, or what the Barrier's sealing throws.
    func sealed(by barrier: Barrier) throws -> EtcdTransaction {
        func lowered(_ operations: [RequestOperationMessage]) throws -> [EtcdOperation] {
            try operations.compactMap { operation in
                switch operation.request {
                case .range(let request): .range(request.lowered().0)
                case .put(let request): .put(try request.sealed(by: barrier))
                case .deleteRange(let request): .deleteRange(request.lowered())
                case .transaction(let nested): .transaction(try nested.sealed(by: barrier))
                case nil: nil
                }
            }
        }
        return EtcdTransaction(compares: try compare.map { try $0.lowered() }, success: try lowered(success), failure: try lowered(failure))
    }
}
