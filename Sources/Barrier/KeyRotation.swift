package import Basics
package import Logging
import MVCC
import ReplicaService
import Sealing
import SecretMemory

package enum RotationError: Error, Hashable, Sendable {
    case unknownDomain(String)
    /// The domain's keys were destroyed.
    case shredded(String)
    /// Something still refers to the key.
    case keyInUse(count: Int64)
    case noSuchKey
    /// Others rotated it again and again meanwhile.
    case conflict
    case unavailable(String)
}

/// Rotation of domains' keys, and the background work that follows from it until the old keys can be destroyed.
///
///     DEK  active ──rotate──▶ decrypt-only ──its last value is sealed again──▶ destroyed
///     KEK  active ──rotate──▶ decrypt-only ──its last data key is wrapped again──▶ destroyed
///
/// 1. `rotate` proposes the new key; from its acceptance on, apply refuses what is sealed under the old one.
/// 2. The worker wraps data keys that an old KEK version wraps, under the active one.
/// 3. It seals values again that lie under an old DEK, retained history too, a batch at a time (`Pace`): the same revision, no event.
/// 4. It waits a moment for what is still on its way up (`Pace.drainMilliseconds`), then destroys old keys that nothing refers to.
///    Apply counts, and refuses when it is too early.
/// 5. It has the log before all this removed, and says so in `Progress`.
///
/// What is left to do is what the replicated table and its counts say, so there is no progress to keep: after a restart, or on
/// another member, the worker goes on where it was. `start` looks for such work; `stop` ends it between two batches.
/// Of several members the one that leads works, wherever a rotation was asked for; the others remove their own logs, when they see a key destroyed.
package actor KeyRotation {
    /// How fast values are sealed again, so that clients hardly notice.
    package struct Pace: Sendable {
        package var versionsPerBatchMax = 128
        package var batchBytesMax = 1 << 20
        package var bytesPerSecondMax = 32 << 20
        package var pauseMilliseconds = 2
        /// Between the last value sealed again and the destruction of its old key: watch events that carry the old ciphertext,
        /// and reads that have just fetched it, are opened meanwhile.
        package var drainMilliseconds = 2_000
        /// Before trying again what failed for a passing reason.
        package var retryMilliseconds = 1_000
        package init() {}
    }
    /// Which key of a domain a rotation replaces.
    package enum Level: String, Hashable, Sendable, CaseIterable {
        /// The DEK: new values go under a new generation, old ones are sealed again in the background.
        case dataKey = "dek"
        /// The KEK: a new version wraps the domain's data keys; no value is touched.
        case keyEncryptionKey = "kek"
    }
    /// What the worker is about.
    package struct Progress: Hashable, Sendable {
        package var isWorking = false
        /// Values sealed again since the start of the process.
        package var resealed: Int64 = 0
        /// Values under old keys that do not open: they keep their key from being destroyed.
        package var unreadable: [String] = []
        /// Old ciphertext is gone from the log up to this entry; 0 when there was none to remove yet. Pages that the record store has freed
        /// may hold it until they are written again.
        package var logRemovedThrough: LogIndex = 0
        /// Why the last pass could not finish.
        package var failure: String?
    }

    private let barrier: Barrier
    private let pace: Pace
    private let logger: Logger
    private var work: Task<Void, Never>?
    private var retry: Task<Void, Never>?
    private var attendance: Task<Void, Never>?
    /// Of the table when it was last looked at.
    private var attended: Attended?
    private var isAskedAgain = false
    private var isStopped = true
    private var state = Progress()
    private static let attemptsMax = 8
    private static let unreadableMax = 100

    package init(barrier: Barrier, pace: Pace = Pace(), logger: Logger = Logger(label: "coffer.rotation")) {
        self.barrier = barrier; self.pace = pace; self.logger = logger
    }

    package var progress: Progress {
        var progress = state
        progress.isWorking = work != nil
        return progress
    }

    /// Goes on with what an earlier process left undone.
    package func start() {
        isStopped = false
        guard barrier.service.hasPeers else { return wake() }
        attendance = Task { [pace] in
            while !Task.isCancelled {
                self.attend()
                try? await Task.sleep(for: .milliseconds(pace.retryMilliseconds))
            }
        }
    }
    /// Returns when the worker has ended; what it has not done, the next `start` does.
    package func stop() async {
        isStopped = true
        work?.cancel()
        retry?.cancel()
        attendance?.cancel()
        await settle()
    }
    /// Returns when the worker has nothing more to do, or cannot do it now.
    package func settle() async {
        while let work { await work.value }
    }

    // MARK: Asked for

    /// Answers the new generation or version. Values and keys under the old one follow in the background.
    package func rotate(_ domain: Domain, level: Level) async throws(RotationError) -> UInt32 {
        let name = String(decoding: domain.name, as: UTF8.self)
        for _ in 0..<Self.attemptsMax {
            guard let record = try follow().domain(named: domain.name) else { throw .unknownDomain(name) }
            let command: Command?
            do {
                command = switch level {
                case .dataKey: try barrier.domains.nextDataKey(of: record)
                case .keyEncryptionKey: try barrier.domains.nextKeyEncryptionKey(of: record)
                }
            } catch SealingError.unknownKeyEncryptionKey { continue // rotated away meanwhile
            } catch { throw .unavailable("\(error)") }
            guard let command else { throw .shredded(name) }
            do { _ = try await barrier.propose(command) } catch {
                if case .refused(.conflict) = error { continue }
                throw .unavailable("\(error)")
            }
            try follow()
            logger.info("a key was rotated", metadata: ["domain": "\(name)", "level": "\(level.rawValue)"])
            wake()
            switch command {
            case .key(.addDataKey(let added)): return added.id.generation
            case .key(.addKeyEncryptionKey(let added)): return added.id.version
            default: preconditionFailure("a rotation adds a key")
            }
        }
        throw .conflict
    }

    /// Destroys an old generation for good, if nothing is sealed under it; the worker does so by itself.
    package func destroy(_ domain: Domain, generation: UInt32) async throws(RotationError) {
        let name = String(decoding: domain.name, as: UTF8.self)
        guard let record = barrier.service.keyTable().domain(named: domain.name) else { throw .unknownDomain(name) }
        do { _ = try await barrier.propose(.key(.destroyDataKey(DataKeyID(record.id, generation)))) } catch {
            switch error {
            case .refused(.keyInUse(let count)): throw .keyInUse(count: count)
            case .refused(.unknownKey): throw .noSuchKey
            default: throw .unavailable("\(error)")
            }
        }
        try follow()
    }

    @discardableResult private func follow() throws(RotationError) -> KeyTable {
        do { return try barrier.follow() } catch { throw .unavailable("\(error)") }
    }

    // MARK: Among others

    /// What has to change for there to be something new to do.
    private struct Attended: Hashable {
        var leadsSince: Term?
        var dataKeys: [DataKeyRecord]
        var keyEncryptionKeys: [KeyEncryptionKeyRecord]
        var destroyed: Int { dataKeys.count { $0.state == .destroyed } }
    }
    private var leads: Bool {
        let status = barrier.service.status()
        return !barrier.service.hasPeers || status.leader == status.member
    }

    private func attend() {
        let status = barrier.service.status(), table = barrier.service.keyTable()
        let seen = Attended(
            leadsSince: status.leader == status.member ? status.term : nil,
            dataKeys: table.dataKeys.map { var key = $0; key.ciphertexts = 0; return key },
            keyEncryptionKeys: table.keyEncryptionKeys.map { var key = $0; key.dataKeys = 0; return key })
        defer { attended = seen }
        guard !isStopped, let before = attended else { return seen.leadsSince == nil ? () : wake() }
        if seen.leadsSince != nil {
            if seen != before { wake() }
        } else if seen.destroyed > before.destroyed, work == nil {
            work = Task {
                do { try await self.removeLog() } catch { self.logger.warning("old ciphertext stays in the log for now", metadata: ["reason": "\(error)"]) }
                self.workEnded()
            }
        }
    }
    private func workEnded() { work = nil }

    // MARK: The worker

    private func wake() {
        if isStopped || !leads { return }
        isAskedAgain = true
        if work == nil { work = Task { await self.run() } }
    }

    private func run() async {
        while isAskedAgain, !isStopped, leads {
            isAskedAgain = false
            state.failure = nil
            state.unreadable = []
            do { try await pass() } catch is CancellationError { break } catch {
                state.failure = "\(error)"
                logger.warning("re-encryption pauses", metadata: ["reason": "\(error)"])
                tryLater()
                break
            }
        }
        work = nil
    }
    private func tryLater() {
        retry?.cancel()
        retry = Task {
            do { try await Task.sleep(for: .milliseconds(pace.retryMilliseconds)) } catch { return }
            self.wake()
        }
    }

    /// Once through all that is left to do. Throws when it should be tried again later.
    private func pass() async throws {
        var emptied: [DataKeyID] = []
        for domain in try barrier.follow().domains {
            try Task.checkCancellation()
            guard leads else { return } // whoever leads now goes on
            try await rewrapDataKeys(of: domain) // (2)
            let retired = try barrier.follow().dataKeys.filter { $0.id.domain == domain.id && $0.state == .decryptOnly }
            for key in retired where domain.activeGeneration != nil {
                if try await resealValues(under: key.id) { emptied.append(key.id) } // (3)
            }
        }
        if !emptied.isEmpty { try await Task.sleep(for: .milliseconds(pace.drainMilliseconds)) }
        for key in emptied { try await retire(.destroyDataKey(key)) } // (4)
        for key in barrier.service.keyTable().keyEncryptionKeys where key.state == .decryptOnly && key.dataKeys == 0 {
            try await retire(.destroyKeyEncryptionKey(key.id))
        }
        if !emptied.isEmpty { try await removeLog() } // (5)
    }

    /// A segment goes when two checkpoints lie between its entries and the present; each needs something to store.
    private func removeLog() async throws {
        let last = barrier.service.status().logIndex
        barrier.service.endLogSegment()
        for _ in 0..<3 {
            _ = try await barrier.propose(.none)
            let index = barrier.service.status().appliedIndex
            while barrier.service.status().storedIndex < index {
                guard barrier.service.status().condition == .running else { throw EtcdFailure.unavailable("the store has stopped") }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
        state.logRemovedThrough = last
        logger.info("old ciphertext is gone from the log", metadata: ["through": "\(last)"])
    }

    private func rewrapDataKeys(of domain: DomainRecord) async throws {
        let table = try barrier.follow()
        guard let active = table.domain(domain.id)?.activeKeyEncryptionKey else { return }
        for key in table.dataKeys where key.id.domain == domain.id && key.state != .destroyed && key.wrappedBy != active {
            try Task.checkCancellation()
            let command = try barrier.domains.rewrap(key, to: active)
            do { _ = try await barrier.propose(command) } catch {
                guard case .refused(.conflict) = error else { throw error }
                isAskedAgain = true
            }
        }
    }

    /// Whether nothing is left under the key.
    private func resealValues(under key: DataKeyID) async throws -> Bool {
        var start = Bytes(), failures = 0
        let limit = pace.versionsPerBatchMax
        while true {
            try Task.checkCancellation()
            let from = start
            let versions = try await barrier.service.inspect { $0.versions(under: key, from: from, limit: limit) }
            guard let last = versions.last else { return failures == 0 }
            start = last.key + [0]
            var rest = versions[...]
            while !rest.isEmpty {
                let (batch, bytes) = try takeBatch(&rest, under: key, &failures)
                if batch.isEmpty { continue }
                guard let resealed = try await reseal(batch) else { return false }
                state.resealed += Int64(resealed)
                try await Task.sleep(for: .milliseconds(max(pace.pauseMilliseconds, bytes * 1_000 / max(1, pace.bytesPerSecondMax))))
            }
        }
    }

    /// How many were replaced; `nil` if the domain was rotated again: its values go under the newest generation, in another pass.
    private func reseal(_ batch: [Reseal]) async throws(EtcdFailure) -> Int? {
        let answer: (result: CommandResult, revision: Int64)
        do { answer = try await barrier.propose(.reseal(batch)) } catch {
            guard case .refused(.staleKey) = error else { throw error }
            isAskedAgain = true
            return nil
        }
        guard case .resealed(let count) = answer.result else { throw .unavailable("an answer of another kind") }
        return count
    }

    /// Values sealed again under their domain's active key, as many as one batch may have.
    private func takeBatch(_ rest: inout ArraySlice<KeyVersion>, under key: DataKeyID, _ failures: inout Int) throws -> ([Reseal], bytes: Int) {
        var batch: [Reseal] = [], bytes = 0
        while let version = rest.first, bytes < pace.batchBytesMax {
            rest.removeFirst()
            let sealed: SealedValue
            do { sealed = try barrier.service.sealedValue(of: version) } catch .refused(.compacted) { continue }
            do {
                let again = try barrier.sealedAgain(sealed, key: version.key)
                batch.append(Reseal(revision: version.revision, key: version.key, expected: key, value: again))
                bytes += again.bytes.count
            } catch let error as SealingError {
                failures += 1
                if state.unreadable.count < Self.unreadableMax { state.unreadable.append("revision \(version.revision.main): \(error)") }
            }
        }
        return (batch, bytes)
    }

    private func retire(_ command: KeyCommand) async throws {
        do { _ = try await barrier.propose(.key(command)) } catch {
            guard case .refused(.keyInUse) = error else { throw error }
            isAskedAgain = true
        }
        try barrier.follow()
    }
}

// MARK: - What there is

/// The keys of one domain, as the replicated table has them; counts may be a moment old.
package struct DomainKeys: Hashable, Sendable {
    package enum State: String, Hashable, Sendable { case active, decryptOnly = "decrypt-only", destroyed }
    package struct DataKey: Hashable, Sendable {
        package var generation: UInt32
        package var state: State
        /// Values under it, now and in retained history.
        package var ciphertexts: Int64
        /// The KEK version that wraps it.
        package var wrappedByVersion: UInt32
    }
    package struct KeyEncryptionKey: Hashable, Sendable {
        package var version: UInt32
        package var state: State
        /// Data keys that it wraps.
        package var dataKeys: Int64
    }
    /// `namespace/prod`, `cluster`, `plain`, `registry/prod`.
    package var name: String
    package var id: UInt64
    package var dataKeys: [DataKey]
    package var keyEncryptionKeys: [KeyEncryptionKey]

    /// Values that are yet to be sealed again.
    package var remaining: Int64 { dataKeys.filter { $0.state == .decryptOnly }.map(\.ciphertexts).reduce(0, +) }
}

extension Barrier {
    /// In order of their names.
    package func domainKeys() -> [DomainKeys] {
        let table = service.keyTable()
        let dataKeys = table.dataKeys, keyEncryptionKeys = table.keyEncryptionKeys
        return table.domains.map { domain in
            DomainKeys(
                name: String(decoding: domain.name, as: UTF8.self), id: domain.id.rawValue,
                dataKeys: dataKeys.filter { $0.id.domain == domain.id }.map {
                    .init(generation: $0.id.generation, state: .init($0.state), ciphertexts: $0.ciphertexts, wrappedByVersion: $0.wrappedBy.version)
                },
                keyEncryptionKeys: keyEncryptionKeys.filter { $0.domain == domain.id }.map {
                    .init(version: $0.id.version, state: .init($0.state), dataKeys: $0.dataKeys)
                })
        }.sorted { $0.name < $1.name }
    }
}

extension DomainKeys.State {
    fileprivate init(_ state: KeyState) {
        self = switch state { case .active: .active; case .decryptOnly: .decryptOnly; case .destroyed: .destroyed }
    }
}
