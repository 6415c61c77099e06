import Basics
import EtcdClient
import EtcdProtocol
import NIOCore
import RPC

/// One request to either server. Revisions in it are relative to the sequence's beginning (`Relative`) until they are sent.
enum Call {
    case put(PutRequestMessage)
    case range(RangeRequestMessage)
    case deleteRange(DeleteRangeRequestMessage)
    case transaction(TransactionRequestMessage)
    case compact(Int64)
    case grant(id: Int64, seconds: Int64)
    case revoke(Int64)
    case timeToLive(Int64)
    case leases
    case keepAlive(Int64)
}

/// Revisions counted from a sequence's first; told from real ones by their size.
enum Relative {
    private static let mark: Int64 = 1 << 40
    static func revision(_ offset: Int64) -> Int64 { mark + offset }
    static func resolved(_ revision: Int64, _ base: Int64) -> Int64 { revision > mark >> 1 ? max(0, base + revision - mark) : revision }
}

extension Call {
    func based(on base: Int64) -> Call {
        switch self {
        case .range(let request): .range(Self.based(request, base))
        case .transaction(let request): .transaction(Self.based(request, base))
        case .compact(let revision): .compact(Relative.resolved(revision, base))
        default: self
        }
    }
    private static func based(_ request: RangeRequestMessage, _ base: Int64) -> RangeRequestMessage {
        var request = request
        for path in [\RangeRequestMessage.revision, \.minModRevision, \.maxModRevision, \.minCreateRevision, \.maxCreateRevision] {
            request[keyPath: path] = Relative.resolved(request[keyPath: path], base)
        }
        return request
    }
    private static func based(_ request: TransactionRequestMessage, _ base: Int64) -> TransactionRequestMessage {
        var request = request
        for index in request.compare.indices {
            request.compare[index].createRevision = Relative.resolved(request.compare[index].createRevision, base)
            request.compare[index].modRevision = Relative.resolved(request.compare[index].modRevision, base)
        }
        func operation(_ operation: RequestOperationMessage) -> RequestOperationMessage {
            switch operation.request {
            case .range(let range): RequestOperationMessage(.range(based(range, base)))
            case .transaction(let nested): RequestOperationMessage(.transaction(based(nested, base)))
            default: operation
            }
        }
        request.success = request.success.map(operation)
        request.failure = request.failure.map(operation)
        return request
    }

    /// The answer in words that are the same for both: revisions counted from the sequence's first; no ids of clusters and members.
    func answer(of peer: Peer) async -> String {
        let words = Words(base: peer.base), client = peer.client
        do {
            switch based(on: peer.base) {
            case .put(let request): return words.put(try await client.put(request))
            case .range(let request): return words.range(try await client.range(request))
            case .deleteRange(let request): return words.deleteRange(try await client.deleteRange(request))
            case .transaction(let request): return words.transaction(try await client.transaction(request))
            case .compact(let revision): return "compacted " + words.header(try await client.compact(revision: revision))
            case .grant(let id, let seconds):
                let answer = try await client.grantLease(seconds: seconds, id: id)
                return "granted \(answer.id) \(answer.seconds)s " + words.header(answer.header)
            case .revoke(let id):
                try await client.revokeLease(id)
                return "revoked"
            case .timeToLive(let id):
                let answer = try await client.leaseTimeToLive(id, keys: true)
                let keys = answer.keys.map(words.text).sorted().joined(separator: ",")
                return "lease \(answer.id) granted \(answer.grantedSeconds) left \(answer.seconds.signum()) keys \(keys) " + words.header(answer.header)
            case .leases:
                let answer = try await client.leases()
                return "leases \(answer.leases.map(\.id).sorted()) " + words.header(answer.header)
            case .keepAlive(let id):
                let answer = try await client.keepLeaseAlive(id)
                return "kept \(answer.id) \(answer.seconds)s"
            }
        } catch let status as Status {
            return "\(status.code): \(status.message)"
        } catch {
            return "\(error)"
        }
    }
}

/// Answers in words.
struct Words {
    let base: Int64

    func revision(_ revision: Int64) -> String { revision == 0 ? "0" : "+\(revision - base)" }
    func text(_ bytes: Bytes) -> String { String(decoding: bytes, as: UTF8.self) }
    func header(_ header: ResponseHeader?) -> String { header.map { "@" + revision($0.revision) } ?? "no header" }
    func kv(_ kv: KeyValueMessage) -> String {
        "\(text(kv.key))=\(String(buffer: kv.plainValue)) c\(revision(kv.createRevision)) m\(revision(kv.modRevision)) v\(kv.version) l\(kv.lease)"
    }
    func list(_ kvs: [KeyValueMessage]) -> String { "[" + kvs.map(kv).joined(separator: "; ") + "]" }

    func put(_ answer: PutResponseMessage) -> String { "put \(header(answer.header)) before \(answer.prevKV.map(kv) ?? "none")" }
    func range(_ answer: RangeResponseMessage) -> String { "range \(header(answer.header)) \(answer.count) \(answer.more ? "more " : "")\(list(answer.kvs))" }
    func deleteRange(_ answer: DeleteRangeResponseMessage) -> String { "deleted \(header(answer.header)) \(answer.deleted) \(list(answer.prevKVs))" }
    func transaction(_ answer: TransactionResponseMessage) -> String {
        let parts = answer.responses.map { operation in
            switch operation.response {
            case .range(let range): self.range(range)
            case .put(let put): self.put(put)
            case .deleteRange(let deleted): deleteRange(deleted)
            case .transaction(let nested): transaction(nested)
            case nil: "nothing"
            }
        }
        return "txn \(header(answer.header)) \(answer.succeeded) {" + parts.joined(separator: " | ") + "}"
    }
    func event(_ event: EventMessage) -> String { "\(event.kind) \(event.kv.map(kv) ?? "none") before \(event.prevKV.map(kv) ?? "none")" }
}
