package import Basics
import Glibc
import Logging
package import MVCC
import Replica
package import Storage
import Synchronization
import WriteAheadLog

/// One member of the store, at work: a thread owns the `Replica` and carries out its effects on the disk lane and the record lane. It is one of
/// its own, or the one that brings other members' messages (`Options.loop`).
/// Everything here may be called from any thread; none of it blocks but `open`, `close` and `version(of:)`.
///
/// 1. `submit` hands over requests; their answers come to each submission's sink, in batches, on the replica's thread.
/// 2. Answers and events name versions; `sealedValue(of:)` fetches what they hold, on the caller's thread: from the overlay of
///    records not yet stored, else from the record lane.
/// 3. A failed disk stops the service for good: what is under way ends with `.outcomeUnknown`, what comes after with `.unavailable`.
///
/// Invariant: a write is acknowledged only after it is durable and applied; a linearizable read shows all of those.
package final class ReplicaService: Sendable {
    package struct Options: Sendable {
        package var proposalsInFlightMax = Limits.proposalsInFlightMax
        package var proposalBytesInFlightMax = Limits.proposalBytesInFlightMax
        /// One command, encoded: well below a frame of the log; in a log of small segments, what a frame of it can hold.
        package var proposalBytesMax = Limits.logFrameBytesMax / 2
        package var watcherEventsMax = Limits.watcherEventsMax
        package var watcherBytesMax = Limits.watcherBytesMax
        /// Raft's tick, the leases' resolution, and the time between checkpoints of the record lane.
        package var tickMilliseconds: Int64 = 100
        /// How long a reader may hold back the records that a compaction takes away.
        package var pinMillisecondsMax: Int64 = 2_000
        /// How long closing waits for writes under way.
        package var closingMillisecondsMax: Int64 = 10_000
        /// A member that hears of no leader for between one and two times as many ticks stands for election.
        package var electionTicks = 10
        /// Entries of the log kept for members that are behind: they get the whole store otherwise.
        package var logWindowEntriesMax = 50_000
        /// Learners that may be added at a time.
        package var learnersMax = Limits.membersMax
        package var disk = DiskLane.Options()
        /// Where turns happen, if not on a thread of their own. It must go on until the service has ended.
        package var loop: (any TurnLoop)?
        package init() {}
    }

    /// Why a store could not be opened. Nothing was changed, but for a torn tail that was cut off.
    package enum OpenFailure: Error, CustomStringConvertible {
        case storage(StorageFailure)
        /// Log and records do not fit together, or records do not fit among themselves.
        case damaged(String)
        package var description: String {
            switch self {
            case .storage(let failure): "\(failure)"
            case .damaged(let what): what
            }
        }
    }

    let shared: SharedState
    let intake: SnapshotIntake
    let options: Options
    let lane: (any PeerLane)?
    private let replica: ReplicaThread
    private let disk: DiskLane
    /// Keeps bytes of whoever shares this member's log until they are durable elsewhere.
    package let journal: Journal
    /// `nil`: on a loop, which tells when it has `ended`.
    private let thread: LaneThread?
    private let ended: Monitor<Bool>
    private let lastWatch = Atomic<UInt64>(0)

    init(_ opened: consuming OpenedStore, _ member: MemberID, _ lane: (any PeerLane)?, _ mark: RepairMark, _ notes: PeerNotes?, _ options: Options, _ logger: Logger) throws {
        let shared = SharedState(member: member, keys: opened.replica.store.keys, records: opened.records)
        let isClustered = opened.isClustered, disk = opened.disk, places = opened.places
        let journal = Journal(disk, notes: opened.notes, done: opened.notesDone)
        let intake = SnapshotIntake(places) { installation in
            let isAbandoned = shared.mailbox.change { mailbox in
                if !mailbox.isAbandoned { mailbox.mail.installations.append(installation) }
                return mailbox.isAbandoned
            }
            if isAbandoned { installation.completion(.unavailable("the store is closed")) }
        }
        let thread = ReplicaThread(opened, shared: shared, lane: lane, mark: mark, notes: notes, options: options, logger: logger)
        self.shared = shared
        self.intake = intake
        replica = thread
        self.disk = disk
        self.journal = journal
        self.options = options
        self.lane = lane
        let ended = Monitor(false)
        self.ended = ended
        if let loop = options.loop {
            self.thread = nil
            thread.run(on: loop) { ended.change { $0 = true } }
        } else {
            self.thread = try LaneThread { thread.run() }
        }
        // Among others a leader may be long in coming.
        let condition = shared.status.wait { status in status.condition == .starting && !(isClustered && status.hasBegun) ? nil : status.condition }
        if case .failed(let reason) = condition {
            end(.abrupt)
            throw OpenFailure.damaged(reason)
        }
    }
    deinit { end(.abrupt) }

    // MARK: - Requests

    /// Hands over a burst of requests. Each is answered exactly once.
    package func submit(_ submissions: [Submission]) {
        var requests: [Mail.Request] = []
        requests.reserveCapacity(submissions.count)
        for submission in submissions { requests.append(request(submission)) }
        let refused = shared.mailbox.change { mailbox -> (ReplicaError, abandoned: Bool)? in
            if let error = mailbox.closed, mailbox.isAbandoned { return (error, true) }
            if mailbox.mail.requests.isEmpty { mailbox.mail.requests.reserveCapacity(requests.count) }
            for request in requests { post(request, to: &mailbox) }
            return nil
        }
        // The thread is gone: answered here.
        guard let refused else { return }
        for request in requests { request.sink.deliver([Answer(ticket: request.ticket, result: .failure(refused.0))]) }
    }

    private func post(_ request: Mail.Request, to mailbox: inout Mailbox) {
        func reject(_ error: ReplicaError) { mailbox.mail.rejected.append((request.sink, request.ticket, error)) }
        if let error = mailbox.closed { return reject(error) }
        if case .proposal(_, let payload) = request.content {
            if payload.count > options.proposalBytesMax { return reject(.refused(.limitReached)) }
            if !mailbox.admits(payload.count, options) { return reject(.overloaded) }
        }
        mailbox.mail.requests.append(request)
    }

    private func request(_ submission: Submission) -> Mail.Request {
        let content: Mail.Request.Content = switch submission.request {
        case .propose(let command): Self.proposal(command)
        case .range(let range, let linearizable): .question(.range(range), linearizable: linearizable)
        case .read(let transaction, let guards, let linearizable): .question(.transaction(transaction, guards: guards), linearizable: linearizable)
        case .readIndex: .question(.revision, linearizable: true)
        case .leaseKeepAlive(let id): .question(.leaseKeepAlive(id), linearizable: true)
        case .leaseStatus(let id, let withKeys): .question(.leaseStatus(id, withKeys: withKeys), linearizable: true)
        case .leases: .question(.leases, linearizable: true)
        }
        return Mail.Request(sink: submission.sink, ticket: submission.ticket, content: content)
    }

    /// Encoded here, on the submitter's thread.
    private static func proposal(_ command: Command) -> Mail.Request.Content {
        var command = command
        if case .leaseGrant(0, let seconds) = command { command = .leaseGrant(id: LeaseID.random(in: 1...LeaseID.max), seconds: seconds) }
        return .proposal(command, payload: command.encode())
    }

    /// One request, one answer.
    package func ask(_ request: Submission.Request) async throws(ReplicaError) -> AnswerBody {
        let result: Result<AnswerBody, ReplicaError> = await withCheckedContinuation { continuation in
            submit([Submission(ticket: 0, sink: SingleAnswer(continuation), request: request)])
        }
        return try result.get()
    }
    package func propose(_ command: Command) async throws(ReplicaError) -> (result: CommandResult, revision: Int64) {
        guard case .command(let result, let revision) = try await ask(.propose(command)) else { preconditionFailure("an answer of another kind") }
        return (result, revision)
    }
    package func range(_ request: RangeRequest, linearizable: Bool = true) async throws(ReplicaError) -> (result: RangeResult, revision: Int64) {
        guard case .range(let result, let revision) = try await ask(.range(request, linearizable: linearizable)) else {
            preconditionFailure("an answer of another kind")
        }
        return (result, revision)
    }

    private final class SingleAnswer: AnswerSink {
        private let continuation: CheckedContinuation<Result<AnswerBody, ReplicaError>, Never>
        init(_ continuation: CheckedContinuation<Result<AnswerBody, ReplicaError>, Never>) { self.continuation = continuation }
        func deliver(_ answers: [Answer]) {
            precondition(answers.count == 1)
            continuation.resume(returning: answers[0].result)
        }
    }

    // MARK: - Values

    /// The sealed value of a version. `.refused(.compacted)` when it was compacted meanwhile: hold a `ReadPin` to prevent that.
    package func sealedValue(of revision: Revision) throws(ReplicaError) -> SealedValue {
        try value(of: revision, overlaid: shared.overlay[revision])
    }
    package func sealedValue(of version: KeyVersion) throws(ReplicaError) -> SealedValue { try sealedValue(of: version.revision) }

    /// The same for many, in their order: one look into the overlay, one into the record lane.
    package func sealedValues(of revisions: [Revision]) -> [Result<SealedValue, ReplicaError>] {
        let overlaid = shared.overlay.values(of: revisions)
        let missing = revisions.indices.filter { overlaid[$0] == nil }
        var found: [Int: SealedValue] = [:]
        if !missing.isEmpty, let values = try? shared.records.read(missing.map { revisions[$0] }) {
            for (position, value) in zip(missing, values) { found[position] = value }
        }
        return revisions.indices.map { position in
            if let value = found[position] { return .success(value) }
            // A copy, a deletion, one that moved meanwhile, or a damaged one: each on its own.
            do throws(ReplicaError) { return .success(try value(of: revisions[position], overlaid: overlaid[position])) } catch { return .failure(error) }
        }
    }

    private func value(of revision: Revision, overlaid: Record.Value?) throws(ReplicaError) -> SealedValue {
        var found = overlaid
        // Twice: what the overlay names a copy of may leave the record lane just when the copy arrives there.
        for _ in 0..<2 {
            switch found {
            case .sealed(let value)?: return value
            case .tombstone?: throw .unavailable("no value at revision \(revision.main)")
            case .copy(let source)?:
                if let value = try stored(source) { return value }
                // A compaction took the source away in the very commit that brought the copy, and the overlay has not heard of it yet.
                if let value = try stored(revision) { return value }
            case nil: if let value = try stored(revision) { return value }
            }
            found = shared.overlay[revision]
        }
        let compactRevision = status().compactRevision
        if revision.main < compactRevision { throw .refused(.compacted(compactRevision: compactRevision)) }
        throw .unavailable("no value at revision \(revision.main)")
    }
    private func stored(_ revision: Revision) throws(ReplicaError) -> SealedValue? {
        do { return try shared.records.read(revision) } catch {
            switch error {
            case .damagedRecord, .damagedPage: shared.mailbox.change { $0.mail.damage = $0.mail.damage ?? "\(error)" }
            default: break
            }
            throw .unavailable("\(error)")
        }
    }

    /// Keeps what the versions known now hold readable; see `ReadPin`.
    package func pin() -> ReadPin { shared.pins.pin() }

    // MARK: - Watches

    /// A name for a watch that is about to be made, so that its deliveries can be told apart from the first on.
    package func nextWatchID() -> WatchID { WatchID(lastWatch.add(1, ordering: .relaxed).newValue) }

    /// Begins a watch; its first delivery is `.created`.
    @discardableResult
    package func watch(_ range: KeyRange, options: WatchOptions = WatchOptions(), sink: any WatchSink, id: WatchID? = nil) -> WatchID {
        let id = id ?? nextWatchID()
        post(.register(id, range, options, sink)) {
            sink.deliver([WatchDelivery(watch: id, content: .cancelled(.unavailable("the store is closed"), revision: self.status().revision))])
        }
        return id
    }
    /// Its last delivery will be `.cancelled`; none, if it has had that already.
    package func cancel(_ watch: WatchID) { post(.cancel(watch)) {} }
    /// The sink has got rid of so many events.
    package func consumed(_ watch: WatchID, events: Int) { post(.consumed(watch, events: events)) {} }
    /// Once all of these watches are live, `sink` is told `.progress` for `WatchID.all`: after every event up to that revision.
    package func requestProgress(of watches: [WatchID], sink: any WatchSink) { post(.progress(watches, sink)) {} }

    private func post(_ order: Mail.WatchOrder, ifAbandoned: () -> Void) {
        let isAbandoned = shared.mailbox.change { mailbox in
            if !mailbox.isAbandoned { mailbox.mail.watchOrders.append(order) }
            return mailbox.isAbandoned
        }
        if isAbandoned { ifAbandoned() }
    }

    // MARK: - Looking

    /// Whether there is a way to other members.
    package var hasPeers: Bool { lane != nil }

    package func status() -> ReplicaStatus {
        var status = shared.status.withLock { $0 }
        shared.mailbox.withLock { mailbox in
            status.proposalsInFlight = mailbox.proposalsInFlight
            status.proposalBytesInFlight = mailbox.proposalBytesInFlight
        }
        return status
    }

    /// Domains, KEKs and DEKs as of the last change of any; their counts may be a tick old.
    package func keyTable() -> KeyTable { shared.keys.withLock { $0 } }

    /// Lets go of the log's present segment: it is removed once two further checkpoints have made all its entries durable elsewhere
    /// (`ReplicaStatus.storedIndex`). For when what was written should not linger.
    package func endLogSegment() { disk.endSegment() }

    /// Looks at the store between two turns of its thread. `body` must be quick: nothing else happens meanwhile.
    package func inspect<R: Sendable>(_ body: @escaping @Sendable (borrowing Store) -> R) async throws(ReplicaError) -> R {
        let result: R? = await withCheckedContinuation { continuation in
            let isAbandoned = shared.mailbox.change { mailbox in
                if !mailbox.isAbandoned { mailbox.mail.calls.append { continuation.resume(returning: body($0)) } }
                return mailbox.isAbandoned
            }
            if isAbandoned { continuation.resume(returning: nil) }
        }
        guard let result else { throw .unavailable("the store is closed") }
        return result
    }

    /// The present version of a key. From the replica's own thread at once, from others it waits for a turn.
    package func version(of key: Bytes) -> KeyVersion? {
        if isOnReplicaThread { return replica.version(of: key) }
        let answer = Monitor<KeyVersion??>(nil)
        let isAbandoned = shared.mailbox.change { mailbox in
            if !mailbox.isAbandoned { mailbox.mail.calls.append { store in let version = store.version(of: key); answer.change { $0 = .some(version) } } }
            return mailbox.isAbandoned
        }
        return isAbandoned ? nil : answer.wait { $0 }
    }

    // MARK: - The end

    /// Finishes what is under way, stores everything, lets go of the files. Blocks until then; not to be called from a sink.
    package func close() {
        intake.close()
        end(.graceful)
    }

    /// Stops as a crash would: nothing is finished, nothing more is stored.
    package func abandon() {
        intake.close()
        end(.abrupt)
    }

    private func end(_ ending: Mail.Ending) {
        shared.mailbox.change { mailbox in
            mailbox.closed = mailbox.closed ?? .unavailable("the store is closed")
            if !mailbox.isAbandoned { mailbox.mail.ending = mailbox.mail.ending == .abrupt ? .abrupt : ending }
        }
        if let thread { return thread.join() }
        // Let go of by the last message of another member.
        if isOnReplicaThread { return replica.conclude() }
        ended.wait { $0 ? () : nil }
    }
    private var isOnReplicaThread: Bool { shared.thread.load(ordering: .relaxed) == UInt(pthread_self()) }
}
