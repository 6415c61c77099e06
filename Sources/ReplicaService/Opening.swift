package import Basics
package import FileSealing
import Glibc
package import Logging
import MVCC
import Raft
import Replica
package import Storage
import WriteAheadLog

/// What a service is made of, before its thread runs.
struct OpenedStore: ~Copyable {
    var replica: Replica
    var disk: DiskLane
    var records: RecordLane
    var places: RecordPlaces
    var anchor: LogAnchor
    var isClustered: Bool
    var notes: [LogNote]
    var notesDone: UInt64
}

/// The file beside log and records that says: what this member had acknowledged was lost, and is being fetched from the others. It stays
/// until the member votes again, over restarts.
struct RepairMark: Sendable {
    private let path: String
    init(directory: String) { path = directory + "/repairing" }

    var isThere: Bool { access(path, F_OK) == 0 }
    /// The others must be a quorum without it, or nobody could make a learner of it: then what it holds is not to be given up.
    static func canRepair(_ member: MemberID, among members: [ClusterMember]) -> Bool {
        let voters = members.filter { !$0.isLearner }
        return voters.count >= 3 || (!voters.isEmpty && !voters.contains { $0.id == member })
    }

    /// With the members that can help. One that is there already stays as it is.
    func set(_ members: [ClusterMember]) throws(StorageFailure) {
        if isThere { return }
        try SmallFiles.replace(path, with: Command.member(.found(members)).encode())
    }
    /// As far as they can be read.
    var members: [ClusterMember] {
        guard let bytes = try? SmallFiles.read(path, bytesMax: Limits.peerMessageBytesMax), case .member(.found(let members))? = try? Command(decoding: bytes) else {
            return []
        }
        return members
    }
    func clear() throws(StorageFailure) {
        guard isThere else { return }
        try PosixFileSystem().remove(path)
        try PosixFileSystem().synchronizeDirectory(String(path.prefix(upTo: path.lastIndex(of: "/") ?? path.endIndex)))
    }
}

extension ReplicaService {
    /// Opens or creates the store in `directory` (its log in `log/`, its records in `records/`). Blocks; for a single member until it leads,
    /// for one of several not longer than its files take.
    ///
    /// Where a member of several finds that its log or records are damaged, it discards both, and fetches the store from the others: until it
    /// has caught up it neither votes nor answers. A single member is refused instead: what it holds may be all there is.
    package static func open(
        directory: String, fileKey: FileKey, keyring: KeyringID, member: MemberID, cluster: ClusterOpening = .alone, lane: (any PeerLane)? = nil,
        options: Options = Options(), fileSystem: any FileSystem = PosixFileSystem(), logger: Logger = Logger(label: "coffer.replica")
    ) throws(OpenFailure) -> ReplicaService {
        var options = options
        options.proposalBytesMax = min(options.proposalBytesMax, options.disk.payloadBytesMax - Origin.encodedBytes)
        let notes = lane == nil ? nil : PeerNotes(directory: directory, fileKey: fileKey, keyring: keyring, member: member, logger: logger)
        let opening = Opening(
            directory: directory, fileKey: fileKey, keyring: keyring, member: member, cluster: cluster, notes: notes, options: options,
            fileSystem: fileSystem, logger: logger)
        do {
            let opened: OpenedStore
            do { opened = try opening.open() } catch where lane != nil && opening.isRepairable(error) {
                logger.error("the store is damaged: it is fetched anew from the other members", metadata: ["damage": "\(error)"])
                let known = opening.salvagedMembers()
                guard RepairMark.canRepair(member, among: known) else { throw error }
                try opening.discard(known)
                opened = try opening.open()
            }
            return try ReplicaService(opened, member, lane, RepairMark(directory: directory), notes, options, logger)
        } catch let failure as StorageFailure {
            throw .storage(failure)
        } catch let failure as OpenFailure {
            throw failure
        } catch {
            throw .damaged("\(error)")
        }
    }
}

private struct Opening {
    var directory: String
    var fileKey: FileKey
    var keyring: KeyringID
    var member: MemberID
    var cluster: ClusterOpening
    /// `nil`: there is no way to other members.
    var notes: PeerNotes?
    var options: ReplicaService.Options
    var fileSystem: any FileSystem
    var logger: Logger

    /// What only another member can help against. Not: a directory of another's, in use, unreadable by our key, or a disk that fails.
    func isRepairable(_ error: any Error) -> Bool {
        if case .alone = cluster { return false }
        if case .forceNew = cluster { return false }
        guard let failure = error as? StorageFailure else { return error is RestoreError || error is Replica.RestartError }
        switch failure {
        case .damagedLog(let damage): return damage.kind != .wrongKeyring && damage.kind != .wrongMember && damage.kind != .unknownKeyGeneration
        case .damagedRecord, .damagedTable, .truncatedRecords, .missingRecord, .damagedPage: return true
        case .full, .io, .database, .closed, .inUse, .entryTooLarge, .damagedRecordHeader, .wrongKeyring, .wrongMember, .wrongFileKey, .newerFormat:
            return false
        }
    }

    /// Who can help: as the records say, if they can be read; else as was noted beside them, or said at the start.
    func salvagedMembers() -> [ClusterMember] {
        var store = Store()
        let places = RecordPlaces(directory: directory + "/records", fileKey: fileKey, keyring: keyring, member: member)
        if let records = try? places.open() {
            // Records come first, and any of them may be the damaged one.
            _ = try? records.restore(record: { _ in }, table: { row in if row.table == .members { try store.restore(table: row) } })
            records.close()
        }
        if !store.members.members.isEmpty { return store.members.members }
        if let noted = notes?.now.members, !noted.isEmpty { return noted }
        if case .bootstrap(let founders) = cluster { return founders }
        return []
    }

    /// The mark first: a start that is cut short goes on with the repair.
    func discard(_ known: [ClusterMember]) throws {
        let mark = RepairMark(directory: directory)
        try mark.set(known)
        for folder in ["log", "records"] {
            for name in try fileSystem.names(in: directory + "/" + folder) where name != "lock" && !name.hasPrefix("incoming-") {
                try fileSystem.remove(directory + "/" + folder + "/" + name)
            }
            try fileSystem.synchronizeDirectory(directory + "/" + folder)
        }
    }

    func open() throws -> OpenedStore {
        let places = RecordPlaces(directory: directory + "/records", fileKey: fileKey, keyring: keyring, member: member)
        let records = try places.open()
        do {
            places.removeLeftovers()
            var store = Store()
            let restored = try records.restore(record: { try store.restore($0) }, table: { try store.restore(table: $0) })
            try store.finishRestore(appliedIndex: restored?.applied ?? 0)
            if case .forceNew(let survivor) = cluster {
                // Durable before anything else: the next start, without the flag, must not count on the others again.
                var kept = Applied()
                store.keep(consensus: Membership(voters: [survivor.id]).encode(), into: &kept)
                try SnapshotIntake.store(RecordBatch(applied: restored?.applied ?? 0, tables: kept.tables), in: records)
            }
            let (disk, log) = try DiskLane.open(
                directory: directory + "/log", fileKey: fileKey, keyring: keyring, member: member, anchor: restored?.anchor,
                fileSystem: fileSystem, options: options.disk)
            if let damage = log.damage { logger.notice("a torn tail of the log was cut off", metadata: ["damage": "\(damage)"]) }
            do {
                let replica = try self.replica(store, restored, log, disk)
                let isClustered = replica.isClustered
                return OpenedStore(replica: replica, disk: disk, records: records, places: places, anchor: log.lastFrame, isClustered: isClustered,
                                   notes: log.notes, notesDone: log.notesDone)
            } catch {
                disk.close()
                throw error
            }
        } catch {
            records.close()
            throw error
        }
    }

    private func replica(_ store: consuming Store, _ restored: AppliedState?, _ log: RecoveredLog, _ disk: DiskLane) throws -> Replica {
        let state = log.state.map { HardState(term: $0.term, vote: $0.vote, commit: $0.commit) } ?? HardState()
        var entries = log.entries.map { Entry(index: $0.index, term: $0.term, kind: $0.isMembership ? .membership : .ordinary, payload: $0.payload) }
        var beginning = log.beginning.map { EntryPosition(index: $0.index, term: $0.term) }
        let isMembers = store.members.consensus != nil
        if let restored, restored.applied > 0, isMembers, !Self.reaches(entries, beginning, restored) {
            // The records came as a snapshot, and the crash before the log could begin anew: it does so now.
            let position = EntryPosition(index: restored.applied, term: restored.appliedTerm)
            let done = Monitor<Result<LogAnchor, StorageFailure>?>(nil)
            disk.append(LogBatch(restart: LogPosition(index: position.index, term: position.term))) { result in done.change { $0 = result } }
            _ = try done.wait { $0 }.get()
            entries = []
            beginning = position
        }
        return try Replica(configuration(), store: store, state: state, entries: entries, beginning: beginning)
    }
    /// Whether the log holds the entry that the records end with.
    private static func reaches(_ entries: [Entry], _ beginning: EntryPosition?, _ restored: AppliedState) -> Bool {
        if let first = entries.first, let last = entries.last, restored.applied >= first.index, restored.applied <= last.index {
            let entry = entries[Int(restored.applied - first.index)]
            return entry.index != restored.applied || restored.appliedTerm == 0 || entry.term == restored.appliedTerm
        }
        // A gap is the Replica's to name.
        if let first = entries.first, restored.applied + 1 < first.index { return true }
        return beginning?.index == restored.applied
    }

    private func configuration() -> Replica.Configuration {
        var generator = SystemRandomNumberGenerator()
        let isRepairing = notes != nil && RepairMark(directory: directory).isThere
        var founders: [ClusterMember] = [], survivor: ClusterMember?, membership = Membership(voters: [member])
        switch cluster {
        case .alone: break
        case .bootstrap(let members):
            founders = members
            membership = Membership(voters: members.filter { !$0.isLearner }.map(\.id))
        case .join: membership = Membership()
        case .forceNew(let record): survivor = record
        }
        if isRepairing {
            membership = Membership()
            let known = RepairMark(directory: directory).members
            if !known.isEmpty { founders = known }
        }
        var raft = Raft.Configuration(member: member, membership: membership, seed: generator.next())
        raft.electionTicks = options.electionTicks
        var configuration = Replica.Configuration(raft: raft)
        configuration.founders = founders
        configuration.survivor = survivor
        configuration.windowEntriesMax = options.logWindowEntriesMax
        configuration.proposalBytesMax = options.proposalBytesMax
        configuration.isRepairing = isRepairing
        let noted = notes?.now
        configuration.incarnation = max(wallMicroseconds(), (noted?.lastRun ?? 0) + 1)
        configuration.lastRun = noted?.lastRun
        configuration.witnesses = noted?.witnesses ?? []
        configuration.learnersMax = options.learnersMax
        return configuration
    }
}

/// Tells one run of a member from the next: see `Replica.Configuration.incarnation`.
func wallMicroseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(max(1, time.tv_sec)) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
}
