import Barrier
import Basics
import Clustering
import KeyVault
public import Logging
import MVCC
import ObjectStore
import ReplicaService
import Sealing
import SecretMemory

/// A store for secrets inside your process: every value encrypted under its namespace's key, names and log encrypted on disk,
/// every acknowledged write durable.
///
///     let coffer = try await Coffer.open("/var/lib/app/secrets", unlock: .keyFile("/etc/app/coffer.key"))
///     try await coffer.put("db/password", try Coffer.Secret("correct horse"))
///     let item = try await coffer.get("db/password")
///     await coffer.close()
///
/// One process has a directory open at a time. All methods may be called from any task; those that return a revision return when
/// the change is on disk.
public final class Coffer: Sendable {
    let barrier: Barrier
    let objects: ObjectStore
    let vault: KeyVault
    /// `nil`: the store is alone.
    let among: Company?
    /// Fetched and opened at once when nothing else limits a request.
    static let itemsMax = 100_000

    init(_ barrier: Barrier, _ logger: Logger, among: Company? = nil) {
        self.barrier = barrier
        self.among = among
        objects = ObjectStore(keyValue: barrier)
        vault = KeyVault(barrier: barrier, now: Clock.milliseconds, logger: logger)
    }

    /// Opens `directory`, or makes a store there if it is new or empty. Throws `.cannotOpen` when it is in use, of another key, damaged,
    /// or of a newer format; nothing is changed then.
    public static func open(_ directory: String, unlock: Unlock, logger: Logger = Logger(label: "coffer")) async throws(CofferError) -> Coffer {
        do {
            let coffer = Coffer(try await Barrier.open(directory, seal: unlock.source, logger: logger), logger)
            await coffer.vault.start()
            return coffer
        } catch { throw CofferError(.cannotOpen, "\(error)") }
    }

    /// Finishes what is under way, hands leadership to another member if it is held here, and lets go of the directory.
    /// Everything fails with `.unavailable` afterwards.
    public func close() async {
        await vault.stop()
        await among?.member.handOver(barrier)
        await barrier.close()
        await among?.member.stop()
    }

    // MARK: - Entries

    /// Writes an entry; answers the revision of the write. Throws `.conditionFailed`.
    @discardableResult
    public func put(_ key: Key, _ value: Secret, if condition: Condition = .always, lease: Int64 = 0) async throws(CofferError) -> Int64 {
        let result = try await transact(if: Self.requirements(condition, key), then: [.put(key, value, lease: lease)])
        guard result.succeeded else { throw CofferError(.conditionFailed, "\(key) is not as the condition wants it") }
        return result.revision
    }

    /// The entry as it is now, or was at `revision`; `nil` if there is none.
    public func get(_ key: Key, at revision: Int64 = 0) async throws(CofferError) -> Item? {
        try await range(.one(key), at: revision).items.first
    }

    /// Entries in key order, at most `limit` (0: as many as there are, at most 100,000).
    public func range(_ keys: Keys, limit: Int = 0, at revision: Int64 = 0) async throws(CofferError) -> Page {
        var request = RangeRequest(Keyspace.plain.stored(keys.keyRange))
        request.limit = Int64(limit > 0 ? min(limit, Self.itemsMax) : Self.itemsMax)
        request.revision = revision
        // What the answer names cannot be compacted away before it is fetched.
        let pin = barrier.service.pin()
        defer { pin.release() }
        guard case .range(let result, let current) = try await ask(.range(request, linearizable: true)) else { throw Self.confused }
        return Page(items: try items(result.versions), count: Int(result.count), hasMore: result.more, revision: revision == 0 ? current : revision)
    }

    /// Removes entries; answers how many there were.
    @discardableResult
    public func delete(_ keys: Keys) async throws(CofferError) -> Int {
        let request = DeleteRangeRequest(Keyspace.plain.stored(keys.keyRange))
        guard case .command(.operation(.deleteRange(let deleted, _)), _) = try await ask(.deleteRange(request)) else { throw Self.confused }
        return Int(deleted)
    }

    /// All or nothing, in one revision: `steps` if every requirement holds, else `otherwise`.
    public func transact(if requirements: [Requirement], then steps: [Step], otherwise: [Step] = []) async throws(CofferError) -> TransactionResult {
        let pin = barrier.service.pin()
        defer { pin.release() }
        for _ in 0..<Self.attemptsMax {
            do {
                let transaction = EtcdTransaction(
                    compares: requirements.map(\.compare), success: try steps.map(operation), failure: try otherwise.map(operation))
                guard case .command(.operation(.transaction(let succeeded, let results)), let revision) = try await barrier.transaction(transaction) else {
                    throw Self.confused
                }
                var found: [Item?] = []
                for case .range(let result) in results { found.append(try items(result.versions).first) }
                return TransactionResult(succeeded: succeeded, revision: revision, found: found)
            } catch let pending as Barrier.DomainPending {
                do { try await barrier.prepare(pending.domain) } catch { throw CofferError(error) }
            } catch let error as CofferError { throw error } catch let error as EtcdFailure { throw CofferError(error) } catch {
                throw CofferError(.unavailable, "\(error)")
            }
        }
        throw CofferError(.busy, "the keys of the domain are not ready")
    }

    /// Forgets versions that were replaced before `revision`. Answers when that is durable.
    public func compact(before revision: Int64) async throws(CofferError) { _ = try await ask(.compact(revision: revision)) }

    // MARK: - Leases

    /// A lease: entries put with it vanish, in one revision, when it ends. Answers its id.
    public func grantLease(seconds: Int64) async throws(CofferError) -> Int64 {
        guard case .command(.lease(let id, _), _) = try await ask(.leaseGrant(id: 0, seconds: seconds)) else { throw Self.confused }
        return id
    }
    /// Begins its time anew; answers the seconds it has.
    public func keepAlive(lease: Int64) async throws(CofferError) -> Int64 {
        guard case .leaseKeptAlive(_, let seconds, _) = try await ask(.leaseKeepAlive(lease)) else { throw Self.confused }
        return seconds
    }
    /// Ends it, and its entries with it.
    public func revoke(lease: Int64) async throws(CofferError) { _ = try await ask(.leaseRevoke(id: lease)) }

    // MARK: - Within

    private static let attemptsMax = 4
    static let confused = CofferError(.unavailable, "an answer of another kind")

    private static func requirements(_ condition: Condition, _ key: Key) -> [Requirement] {
        switch condition {
        case .always: []
        case .absent: [.absent(key)]
        case .unchanged(let revision): [.revision(key, revision)]
        }
    }

    private func operation(_ step: Step) throws -> EtcdOperation {
        switch step {
        case .get(let key): return .range(RangeRequest(Keyspace.plain.stored(KeyRange(key.bytes))))
        case .delete(let keys): return .deleteRange(DeleteRangeRequest(Keyspace.plain.stored(keys.keyRange)))
        case .put(let key, let value, let lease):
            guard !key.bytes.isEmpty, key.bytes.count < Limits.keyBytesMax else {
                throw CofferError(.invalid, "a key has 1 to \(Limits.keyBytesMax - 1) bytes, not \(key.bytes.count)")
            }
            guard value.count <= Limits.requestBytesMax else { throw CofferError(.invalid, "a value has at most \(Limits.requestBytesMax) bytes") }
            var put = try value.withUnsafeBytes { try barrier.putRequest(key: key.bytes, plaintext: $0) }
            put.lease = lease
            return .put(put)
        }
    }

    func items(_ versions: [KeyVersion]) throws(CofferError) -> [Item] {
        var items: [Item] = []
        items.reserveCapacity(versions.count)
        for version in versions { items.append(try item(version)) }
        return items
    }
    func item(_ version: KeyVersion) throws(CofferError) -> Item {
        let value: SecretValue
        do { value = try barrier.plaintext(of: version) } catch { throw CofferError(.unreadable, error.description) }
        return Item(version, Secret(value))
    }

    /// One request, one answer.
    private func ask(_ kind: EtcdRequest.Kind) async throws(CofferError) -> AnswerBody {
        let barrier = barrier
        let result: Result<AnswerBody, EtcdFailure> = await withCheckedContinuation { continuation in
            barrier.session(sink: OneAnswer(continuation)).submit([EtcdRequest(ticket: 0, kind: kind)])
        }
        do { return try result.get() } catch { throw CofferError(error) }
    }
    private final class OneAnswer: EtcdSink {
        private let continuation: CheckedContinuation<Result<AnswerBody, EtcdFailure>, Never>
        init(_ continuation: CheckedContinuation<Result<AnswerBody, EtcdFailure>, Never>) { self.continuation = continuation }
        func deliver(_ answers: [EtcdAnswer]) {
            precondition(answers.count == 1)
            continuation.resume(returning: answers[0].result)
        }
    }
}

extension Coffer.Item {
    init(_ version: KeyVersion, _ value: Coffer.Secret) {
        key = Coffer.Key(Keyspace.name(version.key))
        self.value = value
        (createRevision, revision, self.version, lease) = (version.createRevision, version.revision.main, version.version, version.lease)
    }
}

extension Coffer.Unlock {
    var source: SealSource {
        switch self {
        case .keyFile(let path): .keyFile(path: path)
        case .passphraseFile(let path): .passphraseFile(path: path)
        }
    }
}

extension Coffer.Requirement {
    fileprivate var compare: EtcdCompare {
        func range(_ key: Coffer.Key) -> KeyRange { Keyspace.plain.stored(KeyRange(key.bytes)) }
        return switch self {
        case .absent(let key): .plain(Compare(range(key), .equal, .create(0)))
        case .exists(let key): .plain(Compare(range(key), .greater, .create(0)))
        case .revision(let key, let revision): .plain(Compare(range(key), .equal, .modification(revision)))
        case .value(let key, let value): .value(range(key), .equal, value.value)
        }
    }
}

extension CofferError {
    init(_ failure: EtcdFailure) {
        switch failure {
        case .refused(.compacted(let revision)): self.init(.revisionGone, "history before revision \(revision) was compacted")
        case .refused(.futureRevision(let current)): self.init(.revisionGone, "the store is at revision \(current) only")
        case .refused(.leaseNotFound): self.init(.notFound, "there is no such lease")
        case .refused(.leaseExists): self.init(.alreadyExists, "there is such a lease already")
        case .refused(.keyNotFound): self.init(.notFound, "there is no such entry")
        case .refused(.member(.notNow(let reason))): self.init(.busy, "the members cannot be changed just now: \(reason)")
        case .refused(.member(.notInSync)): self.init(.conditionFailed, "the learner has yet to catch up")
        case .refused(.member(.notFound)), .refused(.member(.removed)): self.init(.notFound, "there is no such member")
        case .refused(let refusal): self.init(.invalid, "the store refuses: \(refusal)")
        case .unreadable(let value): self.init(.unreadable, value.description)
        case .overloaded: self.init(.busy, "too much is under way: try again")
        case .noSpace: self.init(.unavailable, "the disk is full: entries can still be removed, and written again once there is room")
        case .outcomeUnknown: self.init(.unavailable, "the store stopped; whether the change was made shows when it is opened again")
        case .notLeader: self.init(.unavailable, "this member does not lead")
        case .unavailable(let reason): self.init(.unavailable, reason)
        }
    }
}
