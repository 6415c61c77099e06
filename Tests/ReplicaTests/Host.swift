import Basics
import MVCC
import Raft
import Replica
import Testing

/// A replica with a disk and a record lane in memory. Writes become durable when the test says so; a crash loses the others.
struct Host: ~Copyable {
    struct LogWrite { var entries: [Entry]; var state: HardState?; var stored: Raft.Stored }
    struct DurableLog {
        var state = HardState()
        var entries: [Entry] = []
        mutating func perform(_ write: LogWrite) {
            if let first = write.entries.first { entries.removeAll { $0.index >= first.index } }
            entries.append(contentsOf: write.entries)
            if let state = write.state { self.state = state }
        }
    }
    struct Row: Hashable { var table: TableWrite.Table; var key: Bytes }
    struct DurableRecords {
        var applied: LogIndex = 0
        var records: [Revision: (version: KeyVersion, value: SealedValue?)] = [:]
        var rows: [Row: Bytes] = [:]
        mutating func perform(_ checkpoint: Checkpoint) {
            for record in checkpoint.records {
                let value: SealedValue? = switch record.value {
                case .sealed(let value): value
                case .copy(let source): records[source]?.value
                case .tombstone: nil
                }
                records[record.revision] = (record.version, value)
            }
            for revision in checkpoint.removed { records[revision] = nil }
            for row in checkpoint.tables { rows[Row(table: row.table, key: row.key)] = row.value }
            applied = checkpoint.applied
        }
        func store() throws -> Store {
            var store = Store()
            for (row, value) in rows { try store.restore(table: TableWrite(row.table, row.key, value)) }
            for revision in records.keys.sorted() {
                guard let record = records[revision] else { continue }
                try store.restore(RecordMetadata(version: record.version, dataKey: record.value?.dataKey))
            }
            try store.finishRestore(appliedIndex: applied)
            return store
        }
    }

    var replica: Replica
    var log: DurableLog
    var records: DurableRecords
    var logWrites: [LogWrite] = []
    var checkpoints: [Checkpoint] = []
    var outcomes: [Ticket: Outcome] = [:]
    var events: [WatchEvent] = []
    /// Records told by `.written`, by revision: what readers find before it is stored.
    var written: [Revision: Record.Value] = [:]
    var halted: String?
    private var lastTicket: Ticket = 0
    private var time: Int64 = 0

    init(log: DurableLog = DurableLog(), records: DurableRecords = DurableRecords()) throws {
        self.log = log
        self.records = records
        var configuration = Replica.Configuration(raft: Raft.Configuration(member: MemberID(1), voters: [MemberID(1)], seed: 1))
        configuration.leaseGraceMilliseconds = 1_000
        replica = try Replica(configuration, store: try records.store(), state: log.state, entries: log.entries)
    }

    /// What a restart after a crash finds.
    consuming func crashed() throws -> Host { try Host(log: log, records: records) }

    mutating func handle(_ event: consuming Event) {
        var buffer = EffectBuffer()
        replica.handle(event, into: &buffer)
        for effect in buffer.take() {
            switch effect {
            case .persist(let entries, let state, let afterwards, let stored):
                #expect(afterwards.isEmpty)
                logWrites.append(LogWrite(entries: entries, state: state, stored: stored))
            case .send(let messages): #expect(messages.isEmpty)
            case .written(let records): for record in records { written[record.revision] = record.value }
            case .answer(let replies):
                for reply in replies {
                    #expect(outcomes[reply.ticket] == nil, "ticket \(reply.ticket) was answered twice")
                    outcomes[reply.ticket] = reply.outcome
                }
            case .publish(let events, _): self.events.append(contentsOf: events)
            case .store(let checkpoint): checkpoints.append(checkpoint)
            case .cutLog(let index): log.entries.removeAll { $0.index < index }
            case .halt(let reason): halted = reason
            case .keysChanged, .compacted, .standing, .membersChanged: break
            case .restartLog, .snapshotWanted, .replaced, .outOfService, .repaired, .putBack, .recognized: Issue.record("a single member has no use for \(effect)")
            }
        }
    }

    mutating func finishLogWrite() {
        guard !logWrites.isEmpty else { return }
        let write = logWrites.removeFirst()
        log.perform(write)
        handle(.logged(write.stored))
    }
    mutating func finishLogWrites() { while !logWrites.isEmpty { finishLogWrite() } }
    mutating func finishCheckpoint() {
        guard !checkpoints.isEmpty else { return }
        let checkpoint = checkpoints.removeFirst()
        records.perform(checkpoint)
        handle(.stored(through: checkpoint.applied))
    }
    mutating func lead() {
        handle(.campaign)
        finishLogWrites()
    }
    mutating func advance(milliseconds: Int64) {
        time += milliseconds
        handle(.time(time))
        handle(.tick)
    }

    mutating func propose(_ command: Command) -> Ticket {
        lastTicket += 1
        handle(.proposed([Proposal(ticket: lastTicket, command: command)]))
        return lastTicket
    }
    mutating func ask(_ kind: Question.Kind, linearizable: Bool = true) -> Ticket {
        lastTicket += 1
        handle(.asked([Question(ticket: lastTicket, kind, linearizable: linearizable)]))
        return lastTicket
    }
    /// Proposes and waits for the disk.
    @discardableResult
    mutating func carryOut(_ command: Command) -> Outcome? {
        let ticket = propose(command)
        finishLogWrites()
        return outcomes[ticket]
    }
    func get(_ key: String) -> KeyVersion? { replica.store.version(of: Bytes(key.utf8)) }
}

enum Fixture {
    static let domain = DomainID(7)
    static func createDomain() -> Command {
        let kek = KeyEncryptionKeyID(Bytes(repeating: 1, count: 16), 1), dek = DataKeyID(domain, 1)
        return .key(.createDomain(
            id: domain, name: Bytes("default".utf8), kek: KeyEncryptionKeyRecord(id: kek, domain: domain, state: .active, wrapped: [1]),
            dek: DataKeyRecord(id: dek, wrappedBy: kek, state: .active, wrapped: [2])))
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
}
