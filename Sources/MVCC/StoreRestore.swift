package import Basics

/// What a restart has read so far.
struct Restoring: Sendable {
    var last = Revision(0, 0)
    var state: TableRow.State?
    var isFinished = false
}

extension Store {
    /// The next stored record, in revision order. Bytes were authenticated by the file layer; what does not fit is damage all the same.
    package mutating func restore(_ metadata: RecordMetadata) throws(RestoreError) {
        let version = metadata.version, at = version.revision
        guard at.main >= 1, at.main <= PackedCell.revisionMax, at.sub >= 0, at > restoring.last else {
            throw RestoreError("record \(at.main).\(at.sub) follows \(restoring.last.main).\(restoring.last.sub)")
        }
        guard !version.key.isEmpty, version.key.count <= Limits.keyBytesMax else { throw RestoreError("record \(at.main).\(at.sub) has no possible key") }
        let isPut = metadata.dataKey != nil
        guard isPut ? version.version >= 1 && version.version <= PackedCell.revisionMax && version.createRevision >= 1 && version.createRevision <= at.main
            : version.version == 0 && version.createRevision == 0
        else { throw RestoreError("record \(at.main).\(at.sub) has version \(version.version), created at \(version.createRevision)") }
        restoring.last = at
        let dataKey = metadata.dataKey.map { keys.number(of: $0) } ?? 0
        let entry = index.findOrInsert(version.key)
        index.append(
            VersionCell(
                main: at.main, sub: at.sub, create: version.createRevision, version: version.version, dataKey: dataKey,
                lease: isPut ? leaseNames.use(version.lease) : 0),
            to: entry)
        keys.count(1, of: dataKey)
        recent.append(at, version.key)
    }

    /// One row of a table. Rows of `meta` that are not the store's own are passed over.
    package mutating func restore(table row: TableWrite) throws(RestoreError) {
        guard let value = row.value else { return }
        do throws(MalformedBytes) {
            switch row.table {
            case .meta where row.key == TableRow.compactKey: compactRevision = try TableRow.compact(value)
            case .meta where row.key == TableRow.stateKey: restoring.state = try TableRow.state(value)
            case .meta: break
            case .members: try members.restore(key: row.key, value)
            case .leases: leases.insert(try TableRow.lease(row.key, value))
            case .keyEncryptionKeys: keys.restore(try TableRow.keyEncryptionKey(row.key, value))
            case .dataKeys: keys.restore(try TableRow.dataKey(row.key, value))
            case .domains: keys.restore(try TableRow.domain(row.key, value))
            case .settings: settings[row.key] = value
            }
        } catch { throw RestoreError("a row of table \(row.table): \(error)") }
    }

    /// Puts together what records and rows say, and compares them. `appliedIndex` is what the record lane found beside them.
    package mutating func finishRestore(appliedIndex: LogIndex) throws(RestoreError) {
        precondition(!restoring.isFinished, "a restart is finished once")
        restoring.isFinished = true
        self.appliedIndex = appliedIndex
        revision = max(1, restoring.last.main)
        if let state = restoring.state {
            guard state.cells == index.cellCount else { throw RestoreError("\(index.cellCount) records are stored, \(state.cells) were counted") }
            guard state.revision >= revision, state.revision <= PackedCell.revisionMax else {
                throw RestoreError("records reach revision \(revision), the state \(state.revision)")
            }
            revision = state.revision
            hash = StateHash(state.hash)
        } else if index.cellCount > 0 {
            throw RestoreError("there are records, but no word of the state they belong to")
        }
        guard compactRevision <= revision else { throw RestoreError("compacted at \(compactRevision), beyond revision \(revision)") }
        try keys.finishRestore()
        try attachLeases()
    }

    private mutating func attachLeases() throws(RestoreError) {
        var attached: [(key: Bytes, lease: LeaseID)] = []
        index.scan(KeyRange.prefix([])) { entry in
            let latest = entry.latest.cell
            if latest.lease != 0, !latest.isTombstone { attached.append((entry.key, leaseNames[latest.lease])) }
            return true
        }
        for (key, lease) in attached {
            guard leases[lease] != nil else { throw RestoreError("a key is attached to lease \(lease), which is not there") }
            leases.attach(key, to: lease)
        }
    }
}

extension Store {
    /// What is wrong with the index, for tests and checks; `nil` when its invariants hold.
    package func indexViolation() -> String? { index.violation() }
}
