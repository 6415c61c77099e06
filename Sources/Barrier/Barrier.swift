package import Basics
package import MVCC
package import ReplicaService
package import Sealing
package import SecretMemory
import Synchronization

/// The waterline. Values are sealed here on their way down and opened here on their way up; nothing below it has a key,
/// nothing above it reaches the Replica.
///
/// 1. A write is sealed under the active data key of its key's domain; the domain's keys are made at its first write.
/// 2. What comes back are references (`KeyVersion`); a value is fetched by its revision and opened where it is wanted,
///    on the thread that wants it.
/// 3. A write that a rotation overtook (`staleKey`) is sealed again under the new generation.
///
/// Leaves to others: who may do what (above), durability and order (below).
package final class Barrier: Sendable {
    package let service: ReplicaService
    package var keyring: Keyring { directory.keyring }
    let domains: KeyDomains
    let directory: DataDirectory
    let doubted = Mutex(DoubtedValues())

    /// Attempts to seal or compare again before a request fails with "try again".
    static let attemptsMax = 8

    init(service: ReplicaService, directory: DataDirectory, now: @escaping @Sendable () -> UInt64) {
        self.service = service
        self.directory = directory
        domains = KeyDomains(keyring: directory.keyring, now: now)
    }

    /// Opens the keys of the replicated table. Once, before the first request. `waits`: as long as there is no leader, or none that answers.
    func start(waits: Bool = false) async throws(EtcdFailure) {
        while true {
            do throws(EtcdFailure) {
                _ = try await ask(.readIndex)
                try follow()
                _ = try await dataKey(of: .plain)
                return
            } catch {
                guard waits, error.mayPass else { throw error }
            }
            try? await Task.sleep(for: .milliseconds(50))
        }
    }

    package func status() -> ReplicaStatus { service.status() }
    package var memberID: UInt64 { directory.member.rawValue }
    package func keyTable() -> KeyTable { service.keyTable() }

    // MARK: Keys

    /// Takes over what the replicated key table says now, and answers that table.
    @discardableResult package func follow() throws(EtcdFailure) -> KeyTable {
        do { return try domains.follow(service.keyTable) } catch { throw .unavailable("the key table does not open: \(error)") }
    }

    /// The data key that new values of `domain` go under, made now if this is its first.
    func dataKey(of domain: Domain) async throws(EtcdFailure) -> DataKeyID {
        if let key = domains.active(domain) { return key }
        do { _ = try await propose(try domains.creation(of: domain)) } catch let failure as EtcdFailure {
            guard case .refused(.domainExists) = failure else { throw failure }
        } catch { throw .unavailable("no keys for the domain: \(error)") }
        try follow()
        guard let key = domains.active(domain) else { throw .unavailable("the domain's keys are destroyed") }
        return key
    }

    // MARK: Sealing

    /// The keys of the domain must first be made, which takes a write: `prepare`, then again.
    package struct DomainPending: Error { package var domain: Domain }

    /// A put of a client's key: stored key, sealed value. `plaintext` `nil`: keep the value there is.
    package func putRequest(key: Bytes, plaintext: UnsafeRawBufferPointer?) throws -> PutRequest {
        let stored = Keyspace.plain.stored(key)
        guard let plaintext = unsafe plaintext else { return PutRequest(key: stored, value: .unchanged) }
        let domain = Domain(ofPlainKey: key)
        let sealed = try underActiveKey(of: { domains.active(domain) }) { try unsafe keyring.seal(plaintext, key: stored, under: $0) }
        guard let sealed else { throw DomainPending(domain: domain) }
        return PutRequest(key: stored, value: .sealed(sealed))
    }
    /// What `seal` makes with the active key; `nil` if there is none. Between finding a key and using it, rotations may retire and destroy it.
    func underActiveKey(of active: () -> DataKeyID?, _ seal: (DataKeyID) throws -> SealedValue) throws -> SealedValue? {
        guard var key = active() else { return nil }
        while true {
            do { return try seal(key) } catch SealingError.unknownKey(key) {
                guard let next = active() else { return nil }
                guard next != key else { throw SealingError.unknownKey(key) }
                key = next
            }
        }
    }
    package func prepare(_ domain: Domain) async throws(EtcdFailure) { _ = try await dataKey(of: domain) }

    /// The command with every value that a rotation overtook sealed under its domain's present generation.
    package func sealedAgain(_ command: Command) throws -> Command {
        try follow()
        switch command {
        case .put(let put): return .put(try sealedAgain(put))
        case .transaction(let transaction, let guards): return .transaction(try sealedAgain(transaction), guards: guards)
        default: return command
        }
    }
    private func sealedAgain(_ transaction: Transaction) throws -> Transaction {
        func again(_ operation: Operation) throws -> Operation {
            switch operation {
            case .put(let put): .put(try sealedAgain(put))
            case .transaction(let nested): .transaction(try sealedAgain(nested))
            case .range, .deleteRange: operation
            }
        }
        return Transaction(compares: transaction.compares, success: try transaction.success.map(again), failure: try transaction.failure.map(again))
    }
    private func sealedAgain(_ put: PutRequest) throws -> PutRequest {
        var put = put
        switch put.value {
        case .sealed(let value):
            put.value = .sealed(try sealedAgain(value, key: put.key))
        case .unchanged:
            // The value it would copy is under a retired generation: write it out instead.
            guard let current = service.version(of: put.key) else { return put }
            put.value = .sealed(try sealedAgain(try sealedValue(of: current), key: put.key))
        }
        return put
    }
    /// The same value under the active generation of its domain.
    func sealedAgain(_ value: SealedValue, key: Bytes) throws -> SealedValue {
        let domain = value.dataKey.domain
        let sealed = try underActiveKey(of: { domains.active(domain) }) { active in
            if active == value.dataKey { return value }
            let plaintext = try keyring.open(value, key: key)
            return try unsafe plaintext.withUnsafeBytes { bytes throws -> SealedValue in try unsafe keyring.seal(bytes, key: key, under: active) }
        }
        guard let sealed else { throw SealingError.unknownKey(value.dataKey) }
        return sealed
    }

    // MARK: Opening

    /// The ciphertext of a version; its length tells the plaintext's.
    package func sealedValue(of version: KeyVersion) throws(UnreadableValue) -> SealedValue {
        do { return try service.sealedValue(of: version.revision) } catch { throw UnreadableValue(reason: "\(error)") }
    }
    /// Straight into a response. `target` has room for `value.plaintextByteCount` bytes.
    package func open(_ value: SealedValue, storedKey: Bytes, into target: UnsafeMutableRawBufferPointer) throws(UnreadableValue) -> Int {
        do { return try unsafe keyring.open(value, key: storedKey, into: target) } catch {
            guard learns(from: error) else { throw unreadable(value, storedKey, error) }
            do { return try unsafe keyring.open(value, key: storedKey, into: target) } catch { throw unreadable(value, storedKey, error) }
        }
    }
    package func plaintext(of version: KeyVersion) throws(UnreadableValue) -> SecretValue {
        try plaintext(of: try sealedValue(of: version), storedKey: version.key)
    }
    func plaintext(of value: SealedValue, storedKey: Bytes) throws(UnreadableValue) -> SecretValue {
        do { return SecretValue(try keyring.open(value, key: storedKey)) } catch {
            guard learns(from: error) else { throw unreadable(value, storedKey, error) }
            do { return SecretValue(try keyring.open(value, key: storedKey)) } catch { throw unreadable(value, storedKey, error) }
        }
    }
    /// Named, and looked after.
    private func unreadable(_ value: SealedValue, _ storedKey: Bytes, _ error: SealingError) -> UnreadableValue {
        if case .memory = error {} else { doubt(value, storedKey: storedKey) }
        return UnreadableValue(reason: "\(error)")
    }
    /// A key that another member made is not open here yet. Its record is applied, since it is before any value under it: whether it opens now.
    private func learns(from error: SealingError) -> Bool {
        guard case .unknownKey = error else { return false }
        do { try follow() } catch { return false }
        return true
    }

    // MARK: Asking

    package func session(sink: any EtcdSink) -> EtcdSession { EtcdSession(barrier: self, sink: sink) }

    /// One request, one answer.
    func ask(_ request: Submission.Request) async throws(EtcdFailure) -> AnswerBody { try await holding(request).body }

    /// The same; what the answer names stays readable while `pin` is held.
    func holding(_ request: Submission.Request) async throws(EtcdFailure) -> (body: AnswerBody, pin: ReadPin) {
        let (result, pin): (Result<AnswerBody, ReplicaError>, ReadPin) = await withCheckedContinuation { continuation in
            service.submit([Submission(ticket: 0, sink: OneAnswer(continuation, service), request: request)])
        }
        return (try result.mapError(EtcdFailure.init).get(), pin)
    }
    func propose(_ command: Command) async throws(EtcdFailure) -> (result: CommandResult, revision: Int64) {
        guard case .command(let result, let revision) = try await ask(.propose(command)) else { throw .unavailable("an answer of another kind") }
        return (result, revision)
    }
    /// Proposes; seals again and retries what a rotation overtook.
    func write(_ command: Command) async throws(EtcdFailure) -> (result: CommandResult, revision: Int64) {
        var command = command
        for _ in 0..<Self.attemptsMax {
            do { return try await propose(command) } catch {
                guard case .refused(.staleKey) = error else { throw error }
                do { command = try sealedAgain(command) } catch { throw .unavailable("sealing again: \(error)") }
            }
        }
        throw .overloaded
    }

    private final class OneAnswer: AnswerSink {
        private let continuation: CheckedContinuation<(Result<AnswerBody, ReplicaError>, ReadPin), Never>
        private let service: ReplicaService
        init(_ continuation: CheckedContinuation<(Result<AnswerBody, ReplicaError>, ReadPin), Never>, _ service: ReplicaService) {
            self.continuation = continuation
            self.service = service
        }
        func deliver(_ answers: [Answer]) {
            precondition(answers.count == 1)
            continuation.resume(returning: (answers[0].result, service.pin()))
        }
    }
}
