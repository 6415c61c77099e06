import Barrier
import Basics
import EtcdProtocol
import MVCC
import NIOCore
import ReplicaService
import RPC
import Synchronization

/// From the Barrier's answers to etcd's messages. Values are fetched as ciphertext and opened while they are written into
/// the response; one that does not open fails the whole answer.
struct AnswerBuilder: Sendable {
    let barrier: Barrier
    let identity: EtcdService.Identity
    let term: UInt64
    let opener: BarrierOpener
    /// Of the values fetched for one answer: a transaction may name one large value a thousand times.
    private final class Weight: Sendable {
        let bytes = Atomic(0)
        let max: Int
        init(max: Int) { self.max = max }
    }
    private var weight: Weight?

    init(barrier: Barrier, identity: EtcdService.Identity, term: UInt64, opener: BarrierOpener) {
        self.barrier = barrier; self.identity = identity; self.term = term; self.opener = opener
    }

    /// gRPC clients take no more by default than this (etcd's take 2 GiB); larger is asked for in pieces.
    static let answerBytesMax = 1 << 30

    static let tooLarge = Status(.resourceExhausted, "etcdserver: the answer is too large: ask with a limit")

    func header(_ revision: Int64) -> ResponseHeader {
        ResponseHeader(clusterID: identity.clusterID, memberID: identity.memberID, revision: revision, raftTerm: term)
    }

    func framed<M: WireMessage>(_ message: M, allocator: ByteBufferAllocator) throws -> ByteBuffer {
        let size = message.encodedBytes
        guard size <= Self.answerBytesMax else { throw Self.tooLarge }
        return try MessageFraming.framed(capacity: size, allocator: allocator) { buffer throws in try message.encode(into: &buffer, opener: opener) }
    }

    /// How many values the answer may have to fetch.
    func versions(in body: AnswerBody, _ reply: EtcdLoop.Reply) -> Int {
        func count(_ result: OperationResult) -> Int {
            switch result {
            case .range(let range): range.versions.count
            case .put(let previous): previous == nil ? 0 : 1
            case .deleteRange(_, let previous): previous.count
            case .transaction(_, let results): results.reduce(0) { $0 + count($1) }
            }
        }
        switch body {
        case .range(let range, _): return range.versions.count
        case .command(.operation(let result), _): return count(result)
        default: return 0
        }
    }

    /// A Put's usual answer, with its frame, over what `scratch` held: no allocation.
    func put(revision: Int64, into scratch: inout ByteBuffer) throws {
        scratch.clear()
        scratch.writeRepeatingByte(0, count: MessageFraming.prefixBytes)
        try PutResponseMessage(header: header(revision), prevKV: nil).append(to: &scratch, opener: opener)
        scratch.setInteger(UInt32(scratch.writerIndex - MessageFraming.prefixBytes), at: 1)
    }

    /// Its keys and values come to more than was allowed.
    struct TooHeavy: Error {}

    /// The whole gRPC frame. Throws `TooHeavy` before anything of more than `bytesMax` is opened.
    func message(
        _ body: AnswerBody, _ reply: EtcdLoop.Reply, bytesMax: Int = AnswerBuilder.answerBytesMax, allocator: ByteBufferAllocator
    ) throws -> ByteBuffer {
        var weighing = self
        weighing.weight = Weight(max: bytesMax)
        return try weighing.weighed(body, reply, allocator: allocator)
    }
    private func weighed(_ body: AnswerBody, _ reply: EtcdLoop.Reply, allocator: ByteBufferAllocator) throws -> ByteBuffer {
        switch (reply, body) {
        case (.put, .command(.operation(.put(let previous)), let revision)):
            let message = PutResponseMessage(header: header(revision), prevKV: try previous.map { try keyValue($0) })
            return try MessageFraming.framed(capacity: 64, allocator: allocator) { buffer throws in try message.append(to: &buffer, opener: opener) }
        case (.range(let shape), .range(let result, let revision)):
            let message = try range(result, shape, header: header(revision))
            return try framed(message, allocator: allocator)
        case (.deleteRange, .command(.operation(.deleteRange(let deleted, let previous)), let revision)):
            return try framed(
                DeleteRangeResponseMessage(header: header(revision), deleted: deleted, prevKVs: try previous.map { try keyValue($0) }),
                allocator: allocator)
        case (.transaction(let success, let failure), .command(.operation(let result), let revision)):
            guard case .transaction(let succeeded, let results) = result else { throw Mismatch() }
            var walk = RevisionWalk(before: result.mutates ? revision - 1 : revision, after: revision)
            let responses = try operations(results, succeeded ? success : failure, &walk)
            return try framed(TransactionResponseMessage(header: header(revision), succeeded: succeeded, responses: responses), allocator: allocator)
        case (.compact, .command(_, let revision)), (.leaseRevoke, .command(_, let revision)):
            return try framed(HeaderOnlyMessage(header: header(revision)), allocator: allocator)
        case (.leaseGrant, .command(.lease(let id, let seconds), let revision)):
            return try framed(LeaseResponseMessage(header: header(revision), id: id, seconds: seconds), allocator: allocator)
        case (.leaseKeepAlive, .leaseKeptAlive(let id, let seconds, let revision)):
            return try framed(LeaseResponseMessage(header: header(revision), id: id, seconds: seconds), allocator: allocator)
        case (.leaseStatus, .leaseStatus(let status, let revision)):
            var message = LeaseTimeToLiveResponseMessage()
            message.header = header(revision)
            message.id = status.id
            message.seconds = status.remainingSeconds
            message.grantedSeconds = status.grantedSeconds
            message.keys = status.keys.map { Bytes(Keyspace.name($0)) }
            return try framed(message, allocator: allocator)
        case (.leases, .leases(let ids, let revision)):
            var message = LeaseLeasesResponseMessage()
            message.header = header(revision)
            message.leases = ids.map { IdentifierMessage($0) }
            return try framed(message, allocator: allocator)
        default: throw Mismatch()
        }
    }
    /// The layers disagree about what was asked: our mistake, and only this request's.
    struct Mismatch: Error {}

    // MARK: Key-value

    func keyValue(_ version: KeyVersion, withValue: Bool = true, value: SealedValue? = nil) throws -> KeyValueMessage {
        let sealed = withValue ? try value ?? barrier.sealedValue(of: version) : nil
        if let weight {
            let bytes = version.key.count + (sealed?.plaintextByteCount ?? 0)
            let total = weight.bytes.add(bytes, ordering: .relaxed).newValue
            guard total <= Self.answerBytesMax else { throw Self.tooLarge }
            guard total <= weight.max else { throw TooHeavy() }
        }
        return KeyValueMessage(
            key: Bytes(Keyspace.name(version.key)), createRevision: version.createRevision, modRevision: version.revision.main,
            version: version.version, value: sealed.map { .sealed($0, storedKey: version.key) } ?? .none, lease: version.lease)
    }

    private func range(_ result: RangeResult, _ shape: RangeShape, header: ResponseHeader?) throws -> RangeResponseMessage {
        var versions = result.versions, more = result.more
        if let order = shape.valueOrder {
            versions = try barrier.sortedByValue(versions, descending: order.descending)
            if order.limit > 0, versions.count > Int(order.limit) {
                versions.removeLast(versions.count - Int(order.limit))
                more = true
            }
        }
        var kvs: [KeyValueMessage] = []
        kvs.reserveCapacity(versions.count)
        if !shape.countOnly {
            for version in versions { kvs.append(try keyValue(version, withValue: !shape.keysOnly)) }
        }
        return RangeResponseMessage(header: header, kvs: kvs, more: more, count: result.count)
    }

    /// etcd heads each answer within a transaction with the revision its operation saw or made.
    private struct RevisionWalk {
        let before: Int64
        let after: Int64
        var wrote = false
        var header: ResponseHeader {
            var header = ResponseHeader()
            header.revision = wrote ? after : before
            return header
        }
    }

    private func operations(_ results: [OperationResult], _ shapes: [OperationShape], _ walk: inout RevisionWalk) throws -> [ResponseOperationMessage] {
        guard results.count == shapes.count else { throw Mismatch() }
        var responses: [ResponseOperationMessage] = []
        for (result, shape) in zip(results, shapes) {
            switch (result, shape) {
            case (.range(let result), .range(let shape)):
                responses.append(ResponseOperationMessage(.range(try range(result, shape, header: walk.header))))
            case (.put(let previous), .put):
                walk.wrote = true
                responses.append(ResponseOperationMessage(.put(PutResponseMessage(header: walk.header, prevKV: try previous.map { try keyValue($0) }))))
            case (.deleteRange(let deleted, let previous), .deleteRange):
                if deleted > 0 { walk.wrote = true }
                responses.append(ResponseOperationMessage(.deleteRange(DeleteRangeResponseMessage(
                    header: walk.header, deleted: deleted, prevKVs: try previous.map { try keyValue($0) }))))
            case (.transaction(let succeeded, let results), .transaction(let success, let failure)):
                let nested = try operations(results, succeeded ? success : failure, &walk)
                responses.append(ResponseOperationMessage(.transaction(TransactionResponseMessage(
                    header: ResponseHeader(), succeeded: succeeded, responses: nested))))
            default: throw Mismatch()
            }
        }
        return responses
    }
}

extension OperationResult {
    /// Whether it made a revision.
    var mutates: Bool {
        switch self {
        case .range: false
        case .put: true
        case .deleteRange(let deleted, _): deleted > 0
        case .transaction(_, let results): results.contains { $0.mutates }
        }
    }
}
