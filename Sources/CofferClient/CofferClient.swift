import Basics
import EtcdClient
import EtcdProtocol
import NIOCore
import RPC

/// A client of store daemons: `cofferd`, or etcd (3.4 and later).
///
///     let client = try await CofferClient.connect(to: ["https://a:2379", "https://b:2379", "https://c:2379"],
///         identity: .init(authorityFile: "ca.crt", certificateFile: "app.crt", keyFile: "app.key"))
///     try await client.put("db/password", try CofferClient.Secret("correct horse"))
///     for try await changes in client.watch(.prefix("db/")) { … }
///     await client.close()
///
/// Requests go to the members in turn. When one fails, reads are asked again of another one until `Configuration.timeout`. A write is
/// tried again only when it surely was not carried out (it was never sent, or the member said so); when that is not known, it fails with
/// `.outcomeUnknown` and is the caller's to look after. Reads are linearizable: they show every write acknowledged before they began.
/// All methods may be called from any task.
public final class CofferClient: Sendable {
    let configuration: Configuration
    let connections: Connections
    let clock = ContinuousClock()

    private init(_ configuration: Configuration, _ connections: Connections) {
        self.configuration = configuration
        self.connections = connections
    }

    /// Returns when one member has answered. Throws `.cannotConnect` for endpoints or files that cannot be used, `.unavailable` when
    /// nobody answers within `Configuration.timeout`.
    public static func connect(_ configuration: Configuration) async throws(CofferClientError) -> CofferClient {
        guard !configuration.endpoints.isEmpty else { throw CofferClientError(.cannotConnect, "no endpoints are given") }
        var endpoints: [Endpoint] = []
        for text in configuration.endpoints { endpoints.append(try Endpoint(text)) }
        let connections: Connections
        do { connections = Connections(endpoints, configuration, try configuration.identity?.context()) } catch {
            throw CofferClientError(.cannotConnect, "\(error)")
        }
        guard configuration.identity != nil || endpoints.allSatisfy({ !$0.isTLS }) else {
            throw CofferClientError(.cannotConnect, "https:// needs an identity: whom to trust")
        }
        let client = CofferClient(configuration, connections)
        do { _ = try await connections.connection(by: client.deadline) } catch {
            await connections.close()
            throw Self.error(error)
        }
        return client
    }
    public static func connect(to endpoints: [String], identity: Identity? = nil) async throws(CofferClientError) -> CofferClient {
        try await connect(Configuration(endpoints: endpoints, identity: identity))
    }

    /// Ends all watches, and the renewal of leases. What is under way fails.
    public func close() async { await connections.close() }

    // MARK: - Entries

    /// Writes an entry; answers the revision of the write. Throws `.conditionFailed`, `.outcomeUnknown`, `.notFound` (no such lease).
    @discardableResult
    public func put(_ key: Key, _ value: Secret, if condition: Condition = .always, lease: Int64 = 0) async throws(CofferClientError) -> Int64 {
        try Self.check(key)
        let requirements: [Requirement]
        switch condition {
        case .always:
            let answer = try await perform(.forbidden) { try await $0.put(PutRequestMessage(key: key.bytes, value: value.buffer, lease: lease)) }
            return answer.header?.revision ?? 0
        case .absent: requirements = [.absent(key)]
        case .unchanged(let revision): requirements = [.revision(key, revision)]
        }
        let result = try await transact(if: requirements, then: [.put(key, value, lease: lease)])
        guard result.succeeded else { throw CofferClientError(.conditionFailed, "\(key) is not as the condition wants it") }
        return result.revision
    }

    /// The entry as it is now, or was at `revision`; `nil` if there is none. Throws `.revisionGone`.
    public func get(_ key: Key, at revision: Int64 = 0) async throws(CofferClientError) -> Item? {
        try Self.check(key)
        return try await range(.one(key), at: revision).items.first
    }

    /// Entries in key order, at most `limit` (0: all there are), as they are now or were at `revision`. Throws `.revisionGone`.
    public func range(_ keys: Keys, limit: Int = 0, at revision: Int64 = 0) async throws(CofferClientError) -> Page {
        let (key, end) = keys.interval
        var request = RangeRequestMessage(key: key, rangeEnd: end)
        request.limit = Int64(max(0, limit))
        request.revision = revision
        let answer = try await perform(.harmless) { [request] in try await $0.range(request) }
        var items: [Item] = []
        items.reserveCapacity(answer.kvs.count)
        for message in answer.kvs { items.append(try Item(message)) }
        return Page(items: items, count: Int(answer.count), hasMore: answer.more, revision: revision == 0 ? answer.header?.revision ?? 0 : revision)
    }

    /// Removes entries; answers how many there were. Throws `.outcomeUnknown`.
    @discardableResult
    public func delete(_ keys: Keys) async throws(CofferClientError) -> Int {
        let (key, end) = keys.interval
        return Int(try await perform(.forbidden) { try await $0.deleteRange(DeleteRangeRequestMessage(key: key, rangeEnd: end)) }.deleted)
    }

    /// All or nothing, in one revision: `steps` if every requirement holds, else `otherwise`. Throws `.outcomeUnknown` if it could write.
    public func transact(if requirements: [Requirement], then steps: [Step], otherwise: [Step] = []) async throws(CofferClientError) -> TransactionResult {
        for case .put(let key, _, _) in steps + otherwise { try Self.check(key) }
        var request = TransactionRequestMessage()
        request.compare = requirements.map(\.message)
        request.success = steps.map(\.message)
        request.failure = otherwise.map(\.message)
        let writes = (steps + otherwise).contains(where: \.writes)
        let answer = try await perform(writes ? .forbidden : .harmless) { [request] in try await $0.transaction(request) }
        var found: [Item?] = []
        for response in answer.responses {
            guard case .range(let range)? = response.response else { continue }
            found.append(try range.kvs.first.map { (message) throws(CofferClientError) in try Item(message) })
        }
        return TransactionResult(succeeded: answer.succeeded, revision: answer.header?.revision ?? 0, found: found)
    }

    /// Forgets versions that were replaced before `revision`. Throws `.revisionGone` when that was done before, or is yet to come.
    public func compact(before revision: Int64) async throws(CofferClientError) {
        _ = try await perform(.recognised, alreadyDone: { $0.code == .outOfRange && $0.message.hasSuffix("has been compacted") ? .some(nil) : nil }) {
            try await $0.compact(revision: revision)
        }
    }

    // MARK: - The cluster

    /// The members, as the cluster agreed on them.
    public func members() async throws(CofferClientError) -> [Member] {
        try await perform(.harmless) { try await $0.members() }.members.map {
            Member(id: $0.id, name: $0.name, peerURLs: $0.peerURLs, clientURLs: $0.clientURLs, isLearner: $0.isLearner)
        }
    }

    /// What each endpoint's member says of itself, in the order of the configuration.
    public func status() async -> [(endpoint: String, status: Result<MemberStatus, CofferClientError>)] {
        await connections.greetings().map { endpoint, answer in
            switch answer {
            case .success(let message): (endpoint, .success(MemberStatus(message)))
            case .failure(let error): (endpoint, .failure(Self.error(error)))
            }
        }
    }

    // MARK: - Within

    var deadline: ContinuousClock.Instant { clock.now + configuration.timeout }

    private static func check(_ key: Key) throws(CofferClientError) {
        guard !key.bytes.isEmpty, key.bytes.count < Limits.keyBytesMax else {
            throw CofferClientError(.invalid, "a key has 1 to \(Limits.keyBytesMax - 1) bytes, not \(key.bytes.count)")
        }
    }

    /// One request, tried as often as it may be until the deadline. `alreadyDone` recognises the refusal that an attempt before, whose
    /// answer was lost, has caused.
    func perform<Answer: Sendable>(
        _ repetition: Repetition, by limit: ContinuousClock.Instant? = nil, alreadyDone: (Status) -> Answer? = { _ in nil },
        _ attempt: (EtcdClient) async throws -> Answer
    ) async throws(CofferClientError) -> Answer {
        let deadline = limit ?? deadline
        var attemptTimeout = configuration.attemptTimeout, mayHaveHappened = false, avoided: Int?
        var last: Status?
        while true {
            let connection: Connection
            do { connection = try await connections.connection(by: deadline, avoiding: avoided) } catch {
                throw Self.error(error, after: last)
            }
            let left = deadline - clock.now
            let timeout = repetition == .forbidden ? left : min(left, attemptTimeout)
            do {
                let answer = try await attempt(connection.client.timed(max(timeout, .milliseconds(1)).timeAmount))
                await connections.succeeded(connection.endpoint)
                return answer
            } catch {
                guard let status = error as? Status else { throw Self.error(error) }
                if mayHaveHappened, let answer = alreadyDone(status) { return answer }
                switch Verdict.on(status, repetition) {
                case .refused: throw CofferClientError(refusal: status)
                case .unknown:
                    await connections.failed(connection.endpoint, with: status)
                    throw CofferClientError(.outcomeUnknown, "whether it was done is not known: \(status)")
                case .retry:
                    await connections.failed(connection.endpoint, with: status)
                    if status.origin != .unsent { mayHaveHappened = true }
                    (avoided, last) = (connection.endpoint, status)
                    attemptTimeout = attemptTimeout * 2
                }
            }
        }
    }

    /// Whatever went wrong before a request was on its way.
    static func error(_ error: any Error, after status: Status? = nil) -> CofferClientError {
        if let known = error as? CofferClientError {
            guard known.code == .unavailable, let status else { return known }
            return CofferClientError(.unavailable, "\(status)")
        }
        return CofferClientError(.unavailable, "\(status ?? (error as? Status) ?? Status(.unavailable, "\(error)"))")
    }
}

extension CofferClient.MemberStatus {
    init(_ message: StatusResponseMessage) {
        id = message.header?.memberID ?? 0
        version = message.version
        leader = message.leader
        isLearner = message.isLearner
        revision = message.header?.revision ?? 0
        term = message.raftTerm
        committedIndex = message.raftIndex
        appliedIndex = message.raftAppliedIndex
        storeBytes = message.databaseBytes
        storeBytesInUse = message.databaseBytesInUse
        errors = message.errors
    }
}
