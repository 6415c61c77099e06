package import Basics

/// A domain as the replicated table holds it.
package struct DomainRecord: Hashable, Sendable {
    package var id: DomainID
    package var name: Bytes
    /// The generation that new ciphertext goes under; `nil` after shredding.
    package var activeGeneration: UInt32?
    /// The version that wraps new data keys; `nil` after shredding.
    package var activeKeyEncryptionKey: KeyEncryptionKeyID?
    package init(id: DomainID, name: Bytes, activeGeneration: UInt32?, activeKeyEncryptionKey: KeyEncryptionKeyID?) {
        self.id = id; self.name = name
        self.activeGeneration = activeGeneration; self.activeKeyEncryptionKey = activeKeyEncryptionKey
    }
}

/// Domains, KEK versions and DEK generations, with the live counts that forbid destroying what is needed.
///
/// The index names a DEK by a 4-byte number: its place in `dataKeys`. Number 0 is "none". Numbers are this process's own affair.
///
/// Invariants: a domain's active generation and KEK are in state `.active` and no others of the domain are;
/// a DEK's `ciphertexts` is the number of cells in the index that carry its number;
/// a KEK's `dataKeys` is the number of DEK records, not destroyed, that name it.
package struct KeyTable: Sendable {
    private struct Slot: Sendable {
        var id: DataKeyID
        /// `nil` until the record is read, during a restart.
        var record: DataKeyRecord?
        var ciphertexts: Int64 = 0
        var isDirty = false
    }
    private var dataKeySlots: [Slot] = [Slot(id: DataKeyID(DomainID(0), 0))]
    private var dataKeyNumbers: [DataKeyID: UInt32] = [:]
    private var dirty: [UInt32] = []
    /// The number counted last, most likely the next one asked for.
    private var recent: UInt32 = 0
    private var domainRecords: [DomainID: DomainRecord] = [:]
    private var domainNames: [Bytes: DomainID] = [:]
    private var keyEncryptionKeyRecords: [KeyEncryptionKeyID: KeyEncryptionKeyRecord] = [:]

    package init() {}

    // MARK: Reading. Lists are sorted by id, so that hash order shows nowhere.

    package var domains: [DomainRecord] { domainRecords.values.sorted { $0.id < $1.id } }
    package var keyEncryptionKeys: [KeyEncryptionKeyRecord] { keyEncryptionKeyRecords.values.sorted { $0.id < $1.id } }
    package var dataKeys: [DataKeyRecord] { dataKeySlots.compactMap { snapshot($0) }.sorted { $0.id < $1.id } }

    package func domain(_ id: DomainID) -> DomainRecord? { domainRecords[id] }
    package func domain(named name: Bytes) -> DomainRecord? { domainNames[name].flatMap { domainRecords[$0] } }
    package func keyEncryptionKey(_ id: KeyEncryptionKeyID) -> KeyEncryptionKeyRecord? { keyEncryptionKeyRecords[id] }
    package func dataKey(_ id: DataKeyID) -> DataKeyRecord? { dataKeyNumbers[id].flatMap { snapshot(dataKeySlots[Int($0)]) } }
    package func activeDataKey(of domain: DomainID) -> DataKeyID? {
        domainRecords[domain]?.activeGeneration.map { DataKeyID(domain, $0) }
    }

    private func snapshot(_ slot: Slot) -> DataKeyRecord? {
        guard var record = slot.record else { return nil }
        record.ciphertexts = slot.ciphertexts
        return record
    }

    // MARK: Numbers and counts

    /// The number of a key that new ciphertext may be sealed under.
    func activeNumber(of id: DataKeyID) -> Result<UInt32, CommandRefusal> {
        let known = dataKeySlots[Int(recent)].id == id ? recent : dataKeyNumbers[id]
        guard let number = known, let state = dataKeySlots[Int(number)].record?.state else { return .failure(.unknownKey) }
        return state == .active ? .success(number) : .failure(.staleKey(id))
    }
    func isActive(_ number: UInt32) -> Bool { dataKeySlots[Int(number)].record?.state == .active }
    func id(of number: UInt32) -> DataKeyID { dataKeySlots[Int(number)].id }

    mutating func number(of id: DataKeyID) -> UInt32 {
        if let number = dataKeyNumbers[id] { return number }
        let number = UInt32(dataKeySlots.count)
        dataKeySlots.append(Slot(id: id))
        dataKeyNumbers[id] = number
        return number
    }

    mutating func count(_ change: Int64, of number: UInt32) {
        if number == 0 { return }
        recent = number
        dataKeySlots[Int(number)].ciphertexts += change
        if !dataKeySlots[Int(number)].isDirty {
            dataKeySlots[Int(number)].isDirty = true
            dirty.append(number)
        }
    }

    /// Rows whose counts changed since the last call.
    mutating func writeCounts(into tables: inout [TableWrite]) {
        for number in dirty {
            dataKeySlots[Int(number)].isDirty = false
            guard let record = snapshot(dataKeySlots[Int(number)]) else { continue }
            tables.append(TableRow.write(record))
        }
        dirty.removeAll(keepingCapacity: true)
    }

    // MARK: Commands

    mutating func apply(_ command: KeyCommand, into tables: inout [TableWrite]) -> CommandRefusal? {
        switch command {
        case .createDomain(let id, let name, let kek, let dek): createDomain(id, name, kek, dek, &tables)
        case .addDataKey(let record): addDataKey(record, &tables)
        case .addKeyEncryptionKey(let record): addKeyEncryptionKey(record, &tables)
        case .rewrapDataKey(let id, let expected, let to, let wrapped): rewrap(id, expected, to, wrapped, &tables)
        case .rewrapKeyEncryptionKey(let id, let wrapped): rewrap(id, wrapped, &tables)
        case .destroyDataKey(let id): destroy(id, &tables)
        case .destroyKeyEncryptionKey(let id): destroy(id, &tables)
        case .shredDomain(let id): shred(id, &tables)
        }
    }

    private mutating func createDomain(
        _ id: DomainID, _ name: Bytes, _ kek: KeyEncryptionKeyRecord, _ dek: DataKeyRecord, _ tables: inout [TableWrite]
    ) -> CommandRefusal? {
        if domainRecords[id] != nil { return .domainExists(id) }
        if let taken = domainNames[name] { return .domainExists(taken) }
        guard kek.id.kek.count == 16, kek.domain == id, dek.id.domain == id, dek.wrappedBy == kek.id, keyEncryptionKeyRecords[kek.id] == nil,
            dataKeyNumbers[dek.id] == nil
        else { return .conflict }
        put(DomainRecord(id: id, name: name, activeGeneration: dek.id.generation, activeKeyEncryptionKey: kek.id), &tables)
        var first = kek
        first.state = .active
        first.dataKeys = 0
        keyEncryptionKeyRecords[kek.id] = first
        insert(dek, &tables)
        return nil
    }

    private mutating func addDataKey(_ record: DataKeyRecord, _ tables: inout [TableWrite]) -> CommandRefusal? {
        guard var domain = domainRecords[record.id.domain] else { return .unknownKey }
        guard let kek = keyEncryptionKeyRecords[record.wrappedBy], kek.state != .destroyed else { return .unknownKey }
        guard let greatest = greatestGeneration(of: domain.id), record.id.generation > greatest, record.id.generation - greatest == 1 else {
            return .conflict
        }
        if let previous = domain.activeGeneration { set(.decryptOnly, DataKeyID(domain.id, previous), &tables) }
        domain.activeGeneration = record.id.generation
        put(domain, &tables)
        insert(record, &tables)
        return nil
    }

    private mutating func addKeyEncryptionKey(_ record: KeyEncryptionKeyRecord, _ tables: inout [TableWrite]) -> CommandRefusal? {
        guard var domain = domainRecords[record.domain] else { return .unknownKey }
        guard record.id.kek.count == 16, keyEncryptionKeyRecords[record.id] == nil else { return .conflict }
        let (previousVersion, isFirst) = record.id.version.subtractingReportingOverflow(1)
        let follows = !isFirst && keyEncryptionKeyRecords[KeyEncryptionKeyID(record.id.kek, previousVersion)] != nil
        // The next version of the KEK in use, or (after shredding) a new one.
        guard domain.activeKeyEncryptionKey.map({ follows && $0.kek == record.id.kek }) ?? true else { return .conflict }
        if let previous = domain.activeKeyEncryptionKey { set(.decryptOnly, previous, &tables) }
        domain.activeKeyEncryptionKey = record.id
        put(domain, &tables)
        var added = record
        added.state = .active
        added.dataKeys = 0
        put(added, &tables)
        return nil
    }

    private mutating func rewrap(
        _ id: DataKeyID, _ expected: KeyEncryptionKeyID, _ to: KeyEncryptionKeyID, _ wrapped: Bytes, _ tables: inout [TableWrite]
    ) -> CommandRefusal? {
        guard var record = dataKey(id), record.state != .destroyed else { return .unknownKey }
        guard record.wrappedBy == expected else { return .conflict }
        guard let kek = keyEncryptionKeyRecords[to], kek.state != .destroyed else { return .unknownKey }
        countDataKeys(-1, of: expected, &tables)
        countDataKeys(1, of: to, &tables)
        record.wrappedBy = to
        record.wrapped = wrapped
        put(record, &tables)
        return nil
    }

    private mutating func rewrap(_ id: KeyEncryptionKeyID, _ wrapped: Bytes, _ tables: inout [TableWrite]) -> CommandRefusal? {
        guard var record = keyEncryptionKeyRecords[id], record.state != .destroyed else { return .unknownKey }
        record.wrapped = wrapped
        put(record, &tables)
        return nil
    }

    private mutating func destroy(_ id: DataKeyID, _ tables: inout [TableWrite]) -> CommandRefusal? {
        guard var record = dataKey(id) else { return .unknownKey }
        if record.state == .destroyed { return nil }
        if record.state == .active || (record.ciphertexts != 0 && !Mutant.isActive(.keyDestroyedInUse)) { return .keyInUse(count: record.ciphertexts) }
        countDataKeys(-1, of: record.wrappedBy, &tables)
        record.state = .destroyed
        record.wrapped = Bytes(repeating: 0, count: record.wrapped.count)
        put(record, &tables)
        return nil
    }

    private mutating func destroy(_ id: KeyEncryptionKeyID, _ tables: inout [TableWrite]) -> CommandRefusal? {
        guard var record = keyEncryptionKeyRecords[id] else { return .unknownKey }
        if record.state == .destroyed { return nil }
        if record.state == .active || record.dataKeys != 0 { return .keyInUse(count: record.dataKeys) }
        record.state = .destroyed
        record.wrapped = Bytes(repeating: 0, count: record.wrapped.count)
        put(record, &tables)
        return nil
    }

    private mutating func shred(_ id: DomainID, _ tables: inout [TableWrite]) -> CommandRefusal? {
        guard var domain = domainRecords[id] else { return .unknownKey }
        for var record in dataKeys where record.id.domain == id && record.state != .destroyed {
            countDataKeys(-1, of: record.wrappedBy, &tables)
            record.state = .destroyed
            record.wrapped = Bytes(repeating: 0, count: record.wrapped.count)
            put(record, &tables)
        }
        for var record in keyEncryptionKeys where record.domain == id && record.state != .destroyed && record.dataKeys == 0 {
            record.state = .destroyed
            record.wrapped = Bytes(repeating: 0, count: record.wrapped.count)
            put(record, &tables)
        }
        domain.activeGeneration = nil
        domain.activeKeyEncryptionKey = nil
        put(domain, &tables)
        return nil
    }

    // MARK: Rows

    private func greatestGeneration(of domain: DomainID) -> UInt32? {
        dataKeySlots.lazy.filter { $0.id.domain == domain && $0.record != nil }.map(\.id.generation).max()
    }

    /// A new active DEK, counted by its KEK.
    private mutating func insert(_ dek: DataKeyRecord, _ tables: inout [TableWrite]) {
        var record = dek
        record.state = .active
        put(record, &tables)
        countDataKeys(1, of: dek.wrappedBy, &tables)
    }

    private mutating func countDataKeys(_ change: Int64, of id: KeyEncryptionKeyID, _ tables: inout [TableWrite]) {
        guard var record = keyEncryptionKeyRecords[id] else { return }
        record.dataKeys += change
        put(record, &tables)
    }
    private mutating func set(_ state: KeyState, _ id: DataKeyID, _ tables: inout [TableWrite]) {
        guard var record = dataKey(id) else { return }
        record.state = state
        put(record, &tables)
    }
    private mutating func set(_ state: KeyState, _ id: KeyEncryptionKeyID, _ tables: inout [TableWrite]) {
        guard var record = keyEncryptionKeyRecords[id] else { return }
        record.state = state
        put(record, &tables)
    }
    private mutating func put(_ record: DomainRecord, _ tables: inout [TableWrite]) {
        domainRecords[record.id] = record
        domainNames[record.name] = record.id
        tables.append(TableRow.write(record))
    }
    private mutating func put(_ record: KeyEncryptionKeyRecord, _ tables: inout [TableWrite]) {
        keyEncryptionKeyRecords[record.id] = record
        tables.append(TableRow.write(record))
    }
    private mutating func put(_ record: DataKeyRecord, _ tables: inout [TableWrite]) {
        let number = Int(number(of: record.id))
        dataKeySlots[number].record = record
        tables.append(TableRow.write(snapshot(dataKeySlots[number])!))
    }

    // MARK: Restart

    mutating func restore(_ record: DomainRecord) {
        domainRecords[record.id] = record
        domainNames[record.name] = record.id
    }
    mutating func restore(_ record: KeyEncryptionKeyRecord) { keyEncryptionKeyRecords[record.id] = record }
    /// The stored count is compared with the cells' by `finishRestore`.
    mutating func restore(_ record: DataKeyRecord) { dataKeySlots[Int(number(of: record.id))].record = record }

    /// Compares the stored counts and references with what the records say.
    mutating func finishRestore() throws(RestoreError) {
        var wrapped: [KeyEncryptionKeyID: Int64] = [:]
        for slot in dataKeySlots.dropFirst() {
            let name = "data key \(slot.id.domain.rawValue)/\(slot.id.generation)"
            guard let record = slot.record else { throw RestoreError("\(name) is used by \(slot.ciphertexts) values and not listed") }
            guard record.ciphertexts == slot.ciphertexts else {
                throw RestoreError("\(name) is listed with \(record.ciphertexts) values, but \(slot.ciphertexts) records carry it")
            }
            if record.state != .destroyed { wrapped[record.wrappedBy, default: 0] += 1 }
            if record.state == .active, domainRecords[slot.id.domain]?.activeGeneration != slot.id.generation {
                throw RestoreError("\(name) is active, but not its domain's active one")
            }
        }
        for record in keyEncryptionKeys where record.dataKeys != wrapped[record.id] ?? 0 {
            throw RestoreError("key-encryption key version \(record.id.version) of domain \(record.domain.rawValue) is listed with "
                + "\(record.dataKeys) data keys, but \(wrapped[record.id] ?? 0) name it")
        }
        for domain in domains {
            guard let generation = domain.activeGeneration else { continue }
            guard dataKey(DataKeyID(domain.id, generation))?.state == .active else {
                throw RestoreError("domain \(domain.id.rawValue) has no active data key")
            }
        }
        for number in dirty { dataKeySlots[Int(number)].isDirty = false }
        dirty = []
    }
}
