import Basics
import FileSealing
import Foundation
import Logging
import MVCC
import ReplicaService
import SecretMemory
import Storage
import Synchronization
import Testing

/// A directory that goes away with the last reference.
final class TemporaryDirectory: Sendable {
    let path = FileManager.default.temporaryDirectory.path + "/coffer-replica-" + UUID().uuidString
    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

enum Fixture {
    static let domain = DomainID(7)

    static func open(
        _ directory: TemporaryDirectory, files: any FileSystem = PosixFileSystem(), _ change: (inout ReplicaService.Options) -> Void = { _ in }
    ) throws -> ReplicaService {
        var options = ReplicaService.Options()
        options.disk.segmentBytes = 8 << 20
        options.tickMilliseconds = 20
        change(&options)
        let key = try FileKey(key: try SecretBytes(copying: Bytes(repeating: 9, count: 32)), generation: 1)
        guard let keyring = KeyringID(Bytes(repeating: 3, count: 16)) else { preconditionFailure("16 bytes are a keyring id") }
        return try ReplicaService.open(directory: directory.path, fileKey: key, keyring: keyring, member: MemberID(1), options: options,
            fileSystem: files)
    }
    /// With a domain to seal under.
    static func started(
        _ directory: TemporaryDirectory, files: any FileSystem = PosixFileSystem(), _ change: (inout ReplicaService.Options) -> Void = { _ in }
    ) async throws -> ReplicaService {
        let service = try open(directory, files: files, change)
        let kek = KeyEncryptionKeyID(Bytes(repeating: 1, count: 16), 1), dek = DataKeyID(domain, 1)
        _ = try await service.propose(.key(.createDomain(
            id: domain, name: Bytes("default".utf8), kek: KeyEncryptionKeyRecord(id: kek, domain: domain, state: .active, wrapped: [1]),
            dek: DataKeyRecord(id: dek, wrappedBy: kek, state: .active, wrapped: [2]))))
        return service
    }

    /// Looks sealed; holds `text` readably.
    static func sealed(_ text: String) -> SealedValue {
        var bytes = Bytes(repeating: 0, count: SealedValue.overheadBytes)
        bytes[0] = SealedValue.magic
        bytes[7] = 1
        bytes[15] = UInt8(domain.rawValue)
        bytes.insert(contentsOf: Bytes(text.utf8), at: bytes.count - 16)
        guard let value = try? SealedValue(parsing: bytes) else { preconditionFailure("88 bytes and the magic are a sealed value") }
        return value
    }
    static func put(_ key: String, _ text: String, lease: LeaseID = 0) -> Command {
        var put = PutRequest(key: Bytes(key.utf8), value: .sealed(sealed(text)))
        put.lease = lease
        return .put(put)
    }
    static func delete(_ key: String) -> Command { .deleteRange(DeleteRangeRequest(KeyRange(Bytes(key.utf8)))) }
    static let everything = KeyRange.prefix([])
}

/// A thread that runs turns as they are scheduled, until the last reference to it goes.
final class ThreadLoop: TurnLoop {
    private struct Queue {
        var turns: [@Sendable () -> Bool] = []
        var later: [(due: UInt64, turn: @Sendable () -> Bool)] = []
        var isClosed = false
        var delayed = 0
    }
    private let queue = Monitor(Queue())
    /// Turns that were scheduled for later, so far.
    var delayed: Int { queue.withLock { $0.delayed } }
    private let thread: LaneThread

    init() throws {
        thread = try LaneThread { [queue] in
            while true {
                let due = queue.withLock { $0.later.map(\.due).min() ?? .max }
                let turns = queue.wait(until: due) { queue in queue.turns.isEmpty && !queue.isClosed ? nil : queue.turns }
                let now = monotonicNanoseconds()
                let (late, isClosed) = queue.withLock { queue in
                    queue.turns.removeFirst(turns?.count ?? 0)
                    defer { queue.later.removeAll { $0.due <= now } }
                    return (queue.later.filter { $0.due <= now }.map(\.turn), queue.isClosed)
                }
                if isClosed { return }
                for turn in (turns ?? []) + late { _ = turn() }
            }
        }
    }
    deinit {
        queue.change { $0.isClosed = true }
        thread.join()
    }
    func schedule(_ turn: @escaping @Sendable () -> Bool) { queue.change { $0.turns.append(turn) } }
    func schedule(afterMilliseconds milliseconds: Int64, _ turn: @escaping @Sendable () -> Bool) {
        let due = monotonicNanoseconds() + UInt64(max(0, milliseconds)) * 1_000_000
        queue.change { queue in
            queue.later.append((due, turn))
            queue.delayed += 1
        }
    }
}

extension ReplicaService {
    func get(_ key: String, revision: Int64 = 0) async throws -> SealedValue? {
        var request = RangeRequest(KeyRange(Bytes(key.utf8)))
        request.revision = revision
        return try await range(request).result.versions.first.map { try sealedValue(of: $0) }
    }
}

/// What was logged: of states that pass by, a line stays.
final class RecordedLog: Sendable {
    private let lines = Mutex<[String]>([])
    var logger: Logger { Logger(label: "replica") { _ in Handler(log: self) } }
    /// Whether one line has all of these.
    func says(_ texts: String...) -> Bool { lines.withLock { $0.contains { line in texts.allSatisfy { line.contains($0) } } } }

    private struct Handler: LogHandler {
        let log: RecordedLog
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.info
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) {
            log.lines.withLock { $0.append("\(event.message) \(metadata.merging(event.metadata ?? [:]) { $1 })") }
        }
    }
}

/// Waits for `condition`, looking again every few milliseconds; false when it did not come true in time.
func eventually(seconds: Double = 60, _ condition: () throws -> Bool) async rethrows -> Bool {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while ContinuousClock.now < deadline {
        if try condition() { return true }
        try? await Task.sleep(for: .milliseconds(2))
    }
    return try condition()
}

/// Collects answers by ticket.
final class AnswerBox: AnswerSink {
    private struct State { var answers: [UInt64: Result<AnswerBody, ReplicaError>] = [:]; var deliveries = 0, duplicates = 0 }
    private let state = Mutex(State())
    func deliver(_ answers: [Answer]) {
        state.withLock { state in
            state.deliveries += 1
            for answer in answers where state.answers.updateValue(answer.result, forKey: answer.ticket) != nil { state.duplicates += 1 }
        }
    }
    var count: Int { state.withLock { $0.answers.count } }
    var deliveries: Int { state.withLock { $0.deliveries } }
    var duplicates: Int { state.withLock { $0.duplicates } }
    subscript(ticket: UInt64) -> Result<AnswerBody, ReplicaError>? { state.withLock { $0.answers[ticket] } }
    var all: [UInt64: Result<AnswerBody, ReplicaError>] { state.withLock { $0.answers } }
}

/// Collects what watches are told, and consumes it at once unless told to be slow.
final class WatchBox: WatchSink {
    private struct State { var deliveries: [WatchDelivery] = []; var isSlow: Bool; var service: ReplicaService?; var owed: [WatchID: Int] = [:] }
    private let state: Mutex<State>
    init(_ service: ReplicaService, isSlow: Bool = false) { state = Mutex(State(isSlow: isSlow, service: service)) }

    func deliver(_ deliveries: [WatchDelivery]) {
        let consumed = state.withLock { state -> [(ReplicaService, WatchID, Int)] in
            state.deliveries.append(contentsOf: deliveries)
            var consumed: [(ReplicaService, WatchID, Int)] = []
            for delivery in deliveries {
                guard case .events(let events, _) = delivery.content else { continue }
                if state.isSlow { state.owed[delivery.watch, default: 0] += events.count } else if let service = state.service {
                    consumed.append((service, delivery.watch, events.count))
                }
            }
            return consumed
        }
        for (service, watch, count) in consumed { service.consumed(watch, events: count) }
    }
    /// Consumes what is owed, and everything from now on.
    func hurry() {
        let (service, owed) = state.withLock { state in
            state.isSlow = false
            defer { state.owed = [:] }
            return (state.service, state.owed)
        }
        for (watch, count) in owed { service?.consumed(watch, events: count) }
    }
    var deliveries: [WatchDelivery] { state.withLock { $0.deliveries } }
    var events: [WatchEvent] {
        deliveries.flatMap { delivery -> [WatchEvent] in if case .events(let events, _) = delivery.content { events } else { [] } }
    }
    var cancellation: WatchCancellation? {
        for delivery in deliveries { if case .cancelled(let reason, _) = delivery.content { return reason } }
        return nil
    }
    var isCreated: Bool { deliveries.contains { if case .created = $0.content { true } else { false } } }
}
