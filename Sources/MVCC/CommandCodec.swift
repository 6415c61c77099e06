package import Basics
import CLinux

/// The form of a command in the log, in messages between members and in snapshots:
///
///     format u8 = 1 | kind u8 | fields
///
/// Big-endian integers; bytes and lists with a u32 length. Sealed values are checked for their header as they are read.
/// The reader never traps and never builds more than the bytes at hand can hold.
extension Command {
    private static let format: UInt8 = 1
    private enum Kind: UInt8 {
        case none = 0, put, deleteRange, transaction, compact, leaseGrant, leaseRevoke, leaseCheckpoint, reseal, key, setting, member, alarm
    }

    /// Whether two encoded commands are the same. (`==` looks at one byte after the other.)
    package static func isSame(_ one: Bytes, _ other: Bytes) -> Bool {
        guard one.count == other.count, !one.isEmpty else { return one.count == other.count }
        return unsafe one.span.withUnsafeBytes { one in
            unsafe other.span.withUnsafeBytes { other in unsafe clinux_is_same(one.baseAddress!, other.baseAddress!, one.count) != 0 }
        }
    }

    package func encode() -> Bytes {
        if case .put(let put) = self { return Self.encode(put) }
        var writer = ByteWriter(capacity: 128)
        writer.write(Self.format)
        switch self {
        case .none: writer.write(Kind.none.rawValue)
        case .put: break  // above
        case .deleteRange(let request):
            writer.write(Kind.deleteRange.rawValue)
            writer.write(request)
        case .transaction(let transaction, let guards):
            writer.write(Kind.transaction.rawValue)
            writer.write(transaction)
            writer.write(list: guards) { $0.write($1) }
        case .compact(let revision):
            writer.write(Kind.compact.rawValue)
            writer.write(revision)
        case .leaseGrant(let id, let seconds):
            writer.write(Kind.leaseGrant.rawValue)
            writer.write(id)
            writer.write(seconds)
        case .leaseRevoke(let id):
            writer.write(Kind.leaseRevoke.rawValue)
            writer.write(id)
        case .leaseCheckpoint(let checkpoints):
            writer.write(Kind.leaseCheckpoint.rawValue)
            writer.write(list: checkpoints) { $0.write($1.id); $0.write($1.remainingSeconds) }
        case .reseal(let reseals):
            writer.write(Kind.reseal.rawValue)
            writer.write(list: reseals) { $0.write($1) }
        case .key(let command):
            writer.write(Kind.key.rawValue)
            writer.write(command)
        case .setting(let name, let value, let expecting):
            writer.write(Kind.setting.rawValue)
            writer.write(prefixed: name)
            writer.write(optional: value)
            writer.write(bool: expecting != nil)
            if let expecting { writer.write(optional: expecting) }
        case .member(let command):
            writer.write(Kind.member.rawValue)
            writer.write(command)
        case .alarm(let alarm, let isRaised):
            writer.write(Kind.alarm.rawValue)
            writer.write(alarm.kind.rawValue)
            writer.write(alarm.member.rawValue)
            writer.write(bool: isRaised)
        }
        return writer.bytes
    }

    /// The hot path: one allocation of the right size, filled straight. The same bytes as `ByteWriter.write(_: PutRequest)` makes.
    private static func encode(_ put: PutRequest) -> Bytes {
        let value: ArraySlice<UInt8>? = if case .sealed(let sealed) = put.value { sealed.bytes } else { nil }
        let count = 3 + (put.lease != 0 ? 8 : 0) + 4 + put.key.count + (value.map { 4 + $0.count } ?? 0)
        return unsafe Bytes(unsafeUninitializedCapacity: count) { buffer, initialized in
            let target = UnsafeMutableRawBufferPointer(buffer)
            var at = 3
            func store<T: FixedWidthInteger>(_ value: T) {
                unsafe target.storeBytes(of: value.bigEndian, toByteOffset: at, as: T.self)
                at += MemoryLayout<T>.size
            }
            func store(prefixed bytes: some Collection<UInt8>) {
                store(UInt32(bytes.count))
                unsafe UnsafeMutableRawBufferPointer(rebasing: target[at..<at + bytes.count]).copyBytes(from: bytes)
                at += bytes.count
            }
            unsafe target[0] = format
            unsafe target[1] = Kind.put.rawValue
            unsafe target[2] = put.flags
            if put.lease != 0 { store(put.lease) }
            store(prefixed: put.key)
            if let value { store(prefixed: value) }
            initialized = at
        }
    }

    /// The key that an encoded put writes, nothing else of it read; `nil` for other commands and what is none.
    static func putKey(in bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        let start = bytes.startIndex
        guard bytes.count >= 3, bytes[start] == format, bytes[start + 1] == Kind.put.rawValue else { return nil }
        let rest = bytes.dropFirst(bytes[start + 2] & 8 != 0 ? 11 : 3)
        guard rest.count >= 4 else { return nil }
        let count = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
        return count <= rest.count - 4 ? rest.dropFirst(4).prefix(count) : nil
    }

    package init(decoding bytes: Bytes) throws(MalformedBytes) { try self.init(decoding: bytes[...]) }

    package init(decoding bytes: ArraySlice<UInt8>) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        let format: UInt8 = try reader.read()
        guard format == Self.format else { throw MalformedBytes("command of format \(format)", at: 0) }
        let raw: UInt8 = try reader.read()
        guard let kind = Kind(rawValue: raw) else { throw MalformedBytes("\(raw) is no command", at: 1) }
        switch kind {
        case .none: self = .none
        case .put: self = .put(try reader.readPut())
        case .deleteRange: self = .deleteRange(try reader.readDeleteRange())
        case .transaction:
            let transaction = try reader.readTransaction(depth: 1)
            self = .transaction(transaction, guards: try reader.readList { reader throws(MalformedBytes) in try reader.readGuard() })
        case .compact: self = .compact(revision: try reader.read())
        case .leaseGrant: self = .leaseGrant(id: try reader.read(), seconds: try reader.read())
        case .leaseRevoke: self = .leaseRevoke(id: try reader.read())
        case .leaseCheckpoint:
            self = .leaseCheckpoint(try reader.readList { reader throws(MalformedBytes) in
                LeaseCheckpoint(id: try reader.read(), remainingSeconds: try reader.read())
            })
        case .reseal: self = .reseal(try reader.readList { reader throws(MalformedBytes) in try reader.readReseal() })
        case .key: self = .key(try reader.readKeyCommand())
        case .setting:
            let name = try reader.readPrefixed(), value = try reader.readOptional()
            let expecting: Bytes?? = try reader.readBool() ? .some(try reader.readOptional()) : nil
            self = .setting(name: name, value: value, expecting: expecting)
        case .member: self = .member(try reader.readMemberCommand())
        case .alarm:
            let alarm: Alarm.Kind = try reader.readRawValue("alarm")
            self = .alarm(Alarm(alarm, of: MemberID(try reader.read())), isRaised: try reader.readBool())
        }
        try reader.expectEnd()
    }
}

extension PutRequest {
    /// 1 sealed value follows, 2 keeps the lease, 4 returns the previous version, 8 lease follows.
    fileprivate var flags: UInt8 {
        let flags: UInt8 = (keepsLease ? 2 : 0) | (returnsPrevious ? 4 : 0) | (lease != 0 ? 8 : 0)
        return value == .unchanged ? flags : flags | 1
    }
}

// MARK: Writing

extension ByteWriter {
    fileprivate mutating func write<T>(list: [T], _ element: (inout ByteWriter, T) -> Void) {
        write(UInt32(list.count))
        for item in list { element(&self, item) }
    }

    fileprivate mutating func write(_ range: KeyRange) {
        write(prefixed: range.key)
        write(optional: range.end)
    }

    fileprivate mutating func write(_ put: PutRequest) {
        write(put.flags)
        if put.lease != 0 { write(put.lease) }
        write(prefixed: put.key)
        if case .sealed(let value) = put.value { write(prefixed: value.bytes) }
    }

    fileprivate mutating func write(_ request: DeleteRangeRequest) {
        write(bool: request.returnsPrevious)
        write(request.range)
    }

    fileprivate mutating func write(_ request: RangeRequest) {
        write(request.range)
        write(request.limit)
        write(request.revision)
        write(request.sortOrder.rawValue)
        write(request.sortTarget.rawValue)
        write(bool: request.countOnly)
        let bounds = [request.minModificationRevision, request.maxModificationRevision, request.minCreateRevision, request.maxCreateRevision]
        let isFiltered = bounds.contains { $0 != 0 }
        write(bool: isFiltered)
        if isFiltered { for bound in bounds { write(bound) } }
    }

    fileprivate mutating func write(_ compare: Compare) {
        write(compare.range)
        write(compare.relation.rawValue)
        switch compare.target {
        case .version(let value): write(0 as UInt8); write(value)
        case .create(let value): write(1 as UInt8); write(value)
        case .modification(let value): write(2 as UInt8); write(value)
        case .lease(let value): write(3 as UInt8); write(value)
        case .resolved(let value): write(4 as UInt8); write(bool: value)
        }
    }

    fileprivate mutating func write(_ operation: Operation) {
        switch operation {
        case .range(let request): write(0 as UInt8); write(request)
        case .put(let request): write(1 as UInt8); write(request)
        case .deleteRange(let request): write(2 as UInt8); write(request)
        case .transaction(let nested): write(3 as UInt8); write(nested)
        }
    }

    fileprivate mutating func write(_ transaction: Transaction) {
        write(list: transaction.compares) { $0.write($1) }
        write(list: transaction.success) { $0.write($1) }
        write(list: transaction.failure) { $0.write($1) }
    }

    fileprivate mutating func write(_ guarded: Guard) {
        write(guarded.range)
        write(guarded.count)
        write(guarded.modificationRevisionMax)
    }

    fileprivate mutating func write(_ reseal: Reseal) {
        write(reseal.revision.main)
        write(reseal.revision.sub)
        write(prefixed: reseal.key)
        write(reseal.expected)
        write(prefixed: reseal.value.bytes)
    }

    /// Unlike in the tables, a KEK's id has a length here: apply refuses a wrong one by name.
    private mutating func write(command id: KeyEncryptionKeyID) {
        write(prefixed: id.kek)
        write(id.version)
    }
    private mutating func write(_ record: KeyEncryptionKeyRecord) {
        write(command: record.id)
        write(record.domain.rawValue)
        write(record.state.rawValue)
        write(prefixed: record.wrapped)
        write(record.dataKeys)
    }
    private mutating func write(_ record: DataKeyRecord) {
        write(record.id)
        write(command: record.wrappedBy)
        write(record.state.rawValue)
        write(prefixed: record.wrapped)
        write(record.ciphertexts)
    }

    fileprivate mutating func write(_ command: KeyCommand) {
        switch command {
        case .createDomain(let id, let name, let kek, let dek):
            write(0 as UInt8)
            write(id.rawValue)
            write(prefixed: name)
            write(kek)
            write(dek)
        case .addDataKey(let record): write(1 as UInt8); write(record)
        case .addKeyEncryptionKey(let record): write(2 as UInt8); write(record)
        case .rewrapDataKey(let id, let expected, let to, let wrapped):
            write(3 as UInt8)
            write(id)
            write(command: expected)
            write(command: to)
            write(prefixed: wrapped)
        case .rewrapKeyEncryptionKey(let id, let wrapped): write(4 as UInt8); write(command: id); write(prefixed: wrapped)
        case .destroyDataKey(let id): write(5 as UInt8); write(id)
        case .destroyKeyEncryptionKey(let id): write(6 as UInt8); write(command: id)
        case .shredDomain(let id): write(7 as UInt8); write(id.rawValue)
        }
    }
}

// MARK: Reading

extension ByteReader {
    /// Every element takes a byte at least, so a length beyond what is left is refused before anything is built.
    fileprivate mutating func readList<T>(_ element: (inout ByteReader) throws(MalformedBytes) -> T) throws(MalformedBytes) -> [T] {
        let count: UInt32 = try read()
        guard Int(count) <= remaining else { throw MalformedBytes("list of \(count) elements in \(remaining) bytes", at: offset) }
        var list: [T] = []
        for _ in 0..<count { list.append(try element(&self)) }
        return list
    }

    fileprivate mutating func readRawValue<T: RawRepresentable<UInt8>>(_ what: String) throws(MalformedBytes) -> T {
        let raw: UInt8 = try read()
        guard let value = T(rawValue: raw) else { throw MalformedBytes("\(raw) is no \(what)", at: offset - 1) }
        return value
    }

    private mutating func readRange() throws(MalformedBytes) -> KeyRange {
        let key = try readPrefixed()
        return KeyRange(key, end: try readOptional())
    }

    private mutating func readSealed() throws(MalformedBytes) -> SealedValue {
        let at = offset
        let part = try readPrefixedPart()
        // A part keeps all of the command in memory: only the greater one of it does.
        do { return try SealedValue(parsing: 2 * part.count < bytes.count ? Bytes(part)[...] : part) } catch { throw MalformedBytes(error.what, at: at) }
    }

    fileprivate mutating func readPut() throws(MalformedBytes) -> PutRequest {
        let flags: UInt8 = try read()
        guard flags < 16 else { throw MalformedBytes("\(flags) are no flags of a put", at: offset - 1) }
        let lease: LeaseID = flags & 8 != 0 ? try read() : 0
        if flags & 8 != 0, lease == 0 { throw MalformedBytes("a lease of 0", at: offset - 8) }
        let key = try readPrefixed()
        var put = PutRequest(key: key, value: flags & 1 != 0 ? .sealed(try readSealed()) : .unchanged)
        put.lease = lease
        put.keepsLease = flags & 2 != 0
        put.returnsPrevious = flags & 4 != 0
        return put
    }

    fileprivate mutating func readDeleteRange() throws(MalformedBytes) -> DeleteRangeRequest {
        let returnsPrevious = try readBool()
        var request = DeleteRangeRequest(try readRange())
        request.returnsPrevious = returnsPrevious
        return request
    }

    private mutating func readRangeRequest() throws(MalformedBytes) -> RangeRequest {
        var request = RangeRequest(try readRange())
        request.limit = try read()
        request.revision = try read()
        request.sortOrder = try readRawValue("sort order")
        request.sortTarget = try readRawValue("sort target")
        request.countOnly = try readBool()
        if try readBool() {
            request.minModificationRevision = try read()
            request.maxModificationRevision = try read()
            request.minCreateRevision = try read()
            request.maxCreateRevision = try read()
        }
        return request
    }

    private mutating func readCompare() throws(MalformedBytes) -> Compare {
        let range = try readRange(), relation: Compare.Relation = try readRawValue("relation")
        let target: Compare.Target
        switch try read(UInt8.self) {
        case 0: target = .version(try read())
        case 1: target = .create(try read())
        case 2: target = .modification(try read())
        case 3: target = .lease(try read())
        case 4: target = .resolved(try readBool())
        case let other: throw MalformedBytes("\(other) is no target of a compare", at: offset - 1)
        }
        return Compare(range, relation, target)
    }

    private mutating func readOperation(depth: Int) throws(MalformedBytes) -> Operation {
        switch try read(UInt8.self) {
        case 0: return .range(try readRangeRequest())
        case 1: return .put(try readPut())
        case 2: return .deleteRange(try readDeleteRange())
        case 3: return .transaction(try readTransaction(depth: depth + 1))
        case let other: throw MalformedBytes("\(other) is no operation", at: offset - 1)
        }
    }

    fileprivate mutating func readTransaction(depth: Int) throws(MalformedBytes) -> Transaction {
        guard depth <= Limits.transactionDepthMax else { throw MalformedBytes("transactions nested too deep", at: offset) }
        let compares = try readList { reader throws(MalformedBytes) in try reader.readCompare() }
        let success = try readList { reader throws(MalformedBytes) in try reader.readOperation(depth: depth) }
        let failure = try readList { reader throws(MalformedBytes) in try reader.readOperation(depth: depth) }
        return Transaction(compares: compares, success: success, failure: failure)
    }

    fileprivate mutating func readGuard() throws(MalformedBytes) -> Guard {
        Guard(try readRange(), count: try read(), modificationRevisionMax: try read())
    }

    fileprivate mutating func readReseal() throws(MalformedBytes) -> Reseal {
        let main: Int64 = try read(), sub: Int32 = try read()
        return Reseal(revision: Revision(main, sub), key: try readPrefixed(), expected: try readDataKeyID(), value: try readSealed())
    }

    private mutating func readCommandKEK() throws(MalformedBytes) -> KeyEncryptionKeyID {
        let kek = try readPrefixed()
        return KeyEncryptionKeyID(kek, try read())
    }
    private mutating func readKEKRecord() throws(MalformedBytes) -> KeyEncryptionKeyRecord {
        let id = try readCommandKEK(), domain = DomainID(try read()), state: KeyState = try readRawValue("key state")
        var record = KeyEncryptionKeyRecord(id: id, domain: domain, state: state, wrapped: try readPrefixed())
        record.dataKeys = try read()
        return record
    }
    private mutating func readDEKRecord() throws(MalformedBytes) -> DataKeyRecord {
        let id = try readDataKeyID(), kek = try readCommandKEK(), state: KeyState = try readRawValue("key state")
        var record = DataKeyRecord(id: id, wrappedBy: kek, state: state, wrapped: try readPrefixed())
        record.ciphertexts = try read()
        return record
    }

    fileprivate mutating func readKeyCommand() throws(MalformedBytes) -> KeyCommand {
        switch try read(UInt8.self) {
        case 0:
            let id = DomainID(try read()), name = try readPrefixed()
            return .createDomain(id: id, name: name, kek: try readKEKRecord(), dek: try readDEKRecord())
        case 1: return .addDataKey(try readDEKRecord())
        case 2: return .addKeyEncryptionKey(try readKEKRecord())
        case 3:
            let id = try readDataKeyID(), expected = try readCommandKEK()
            return .rewrapDataKey(id: id, expected: expected, to: try readCommandKEK(), wrapped: try readPrefixed())
        case 4:
            let id = try readCommandKEK()
            return .rewrapKeyEncryptionKey(id: id, wrapped: try readPrefixed())
        case 5: return .destroyDataKey(try readDataKeyID())
        case 6: return .destroyKeyEncryptionKey(try readCommandKEK())
        case 7: return .shredDomain(DomainID(try read()))
        case let other: throw MalformedBytes("\(other) is no key command", at: offset - 1)
        }
    }
}
