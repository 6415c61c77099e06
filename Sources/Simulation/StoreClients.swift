import Basics
import MVCC
import Replica
import Sealing
import SecretMemory

/// Clients, each with one request under way, and what they know: keys, values sent, leases, the data key in use.
struct StoreClients {
    struct Request {
        enum Kind {
            case write(SealedValue?)
            /// A transaction that puts only if its compare holds.
            case compare(SealedValue)
            case range(KeyRange, revision: Int64)
            case grant(LeaseID, seconds: Int64), keepAlive(LeaseID), revoke
            /// A member asks before it releases secrets to a node.
            case release(node: Int, stream: Int)
            case createDomain, newDataKey(WrappedDataKey), destroyDataKey(DataKeyID)
            case newKeyEncryptionKey(WrappedKeyEncryptionKey), destroyKeyEncryptionKey(KeyEncryptionKeyID), other
        }
        var number: Int
        var client: Int
        var member: Int
        var kind: Kind
        var isLinearizable = false
        var askedAt: UInt32
        /// The greatest revision that anyone had been told of when this was asked.
        var acknowledgedBefore: Int64
    }
    struct LeaseTerm {
        var id: LeaseID
        var seconds: Int64
        /// When the last renewal that was confirmed had been asked for.
        var renewedAt: UInt32
        /// Whoever applied this much has it, or had it.
        var grantedIndex: LogIndex
    }
    static let domain = DomainID(7)
    let count: Int
    let keyring: Keyring
    private let root: RootKey
    /// Sorted.
    let keys: [Bytes] = (0..<12).map { Secrecy.keyMarker + Bytes((($0 < 10 ? "0" : "") + "\($0)").utf8) }
    var hasDomain = false
    var isResting = false
    /// Made once: proposed again when nobody knows what became of it.
    var firstKeys: (kek: WrappedKeyEncryptionKey, dek: WrappedDataKey)?
    /// The next generation, once it was proposed.
    var nextDataKey: WrappedDataKey?
    var generation: UInt32 = 1
    /// New data keys are wrapped by it.
    var keyEncryptionKey: KeyEncryptionKeyID?
    /// The next version, once it was proposed.
    var nextKeyEncryptionKey: WrappedKeyEncryptionKey?
    var leases: [LeaseTerm] = []
    private(set) var requests: [Ticket: Request] = [:]
    private var lastNumber = 0
    private var succeededAt: UInt32 = 0
    private var succeeded = 0
    /// Of those without an answer.
    var oldest: Request? { requests.values.min { $0.number < $1.number } }

    init(count: Int, keyring: Keyring, root: RootKey) {
        self.count = count
        self.keyring = keyring
        self.root = root
    }
    /// The keys that a member's tables list, and no others.
    func keyring(of table: KeyTable) throws -> Keyring {
        let listed = Keyring(id: keyring.id, root: root)
        for record in table.keyEncryptionKeys where record.state != .destroyed { try listed.install(WrappedKeyEncryptionKey(id: record.id, wrapped: record.wrapped)) }
        for record in table.dataKeys where record.state != .destroyed {
            try listed.install(WrappedDataKey(id: record.id, wrappedBy: record.wrappedBy, wrapped: record.wrapped))
        }
        return listed
    }

    mutating func nextNumber() -> Int {
        lastNumber += 1
        return lastNumber
    }
    /// The request's number and the key are in the plaintext, behind the canary.
    func seal(_ number: Int, key: Bytes) -> SealedValue? {
        let plaintext = Secrecy.canary + key + Bytes(" \(number)".utf8)
        return try? plaintext.withUnsafeBytes { try keyring.seal($0, key: key, under: DataKeyID(Self.domain, generation)) }
    }
    func opens(_ value: SealedValue, key: Bytes) -> Bool {
        guard let opened = try? keyring.open(value, key: key) else { return false }
        return opened.withUnsafeBytes { $0.starts(with: Secrecy.canary + key) }
    }
    mutating func asks(_ request: Request) { requests[Ticket(request.number)] = request }
    mutating func take(_ ticket: Ticket) -> Request? { requests.removeValue(forKey: ticket) }
    func isBusy(_ client: Int) -> Bool { requests.values.contains { $0.client == client } }
    mutating func succeeds(at time: UInt32) {
        succeededAt = time
        succeeded += 1
    }
    func successes(since time: UInt32) -> Int { succeededAt > time ? succeeded : 0 }
    /// The member is gone, and with it what waited there.
    mutating func abandon(at member: Int) { requests = requests.filter { $0.value.member != member } }
}

// What clients do, and what they make of the answers.
extension StoreWorld {
    mutating func act(_ client: Int) {
        queue.schedule(.client(Int32(client)), at: now + UInt32(clientChance.among(5...120)))
        let number = clientChance.below(members.count), choice = clientChance.below(100)
        let key = clientChance.pick(clients.keys), span = clientChance.below(clients.keys.count)
        guard !clients.isResting, !clients.isBusy(client), members[number].isUp, members[number].pausedUntil <= now else { return }
        guard clients.hasDomain else {
            if client == 0 { createDomain(number) }
            return
        }
        switch choice {
        case 0..<45: put(client, number, key, lease: choice < 6 ? clients.leases.last?.id ?? 0 : 0)
        case 45..<53: propose(.deleteRange(DeleteRangeRequest(KeyRange(key))), client, number, .write(nil))
        case 53..<55: propose(.deleteRange(DeleteRangeRequest(range(span))), client, number, .write(nil))
        case 55..<64: compareAndPut(client, number, key)
        case 64..<76: ask(range(span), client, number, isLinearizable: true, revision: 0)
        case 76..<82: ask(range(span), client, number, isLinearizable: false, revision: 0)
        case 82..<86:
            let revision = max(1, members[number].replica.store.revision - Int64(clientChance.below(8)))
            ask(range(span), client, number, isLinearizable: true, revision: revision)
        case 86..<94: useLease(client, number, choice)
        case 94..<96: propose(.compact(revision: max(1, members[number].replica.store.revision - Int64(clientChance.pick([0, 10, 10])))), client, number, .other)
        case 96..<98: rotate(client, number)
        default: reseal(client, number, key)
        }
    }
    private func range(_ first: Int) -> KeyRange {
        KeyRange(clients.keys[first], end: clients.keys[min(first + 4, clients.keys.count - 1)] + [0])
    }
    mutating func propose(_ command: Command, _ client: Int, _ member: Int, number: Int? = nil, _ kind: StoreClients.Request.Kind) {
        let number = number ?? clients.nextNumber()
        clients.asks(StoreClients.Request(number: number, client: client, member: member, kind: kind, askedAt: now, acknowledgedBefore: model.acknowledged))
        step(member, .proposed([Proposal(ticket: Ticket(number), command: command)]))
    }
    private mutating func ask(_ range: KeyRange, _ client: Int, _ member: Int, isLinearizable: Bool, revision: Int64) {
        var request = RangeRequest(range)
        request.revision = revision
        let number = clients.nextNumber()
        clients.asks(StoreClients.Request(number: number, client: client, member: member, kind: .range(range, revision: revision),
                                          isLinearizable: isLinearizable, askedAt: now, acknowledgedBefore: model.acknowledged))
        step(member, .asked([Question(ticket: Ticket(number), .range(request), linearizable: isLinearizable)]))
    }

    private mutating func put(_ client: Int, _ member: Int, _ key: Bytes, lease: LeaseID) {
        let number = clients.nextNumber()
        guard let value = clients.seal(number, key: key) else { return model.fail(.keyNeeded, "the active data key does not seal") }
        model.sends(value, request: number)
        var put = PutRequest(key: key, value: .sealed(value))
        put.lease = lease
        propose(.put(put), client, member, number: number, .write(value))
    }
    private mutating func compareAndPut(_ client: Int, _ member: Int, _ key: Bytes) {
        let number = clients.nextNumber(), seen = members[member].replica.store.version(of: key)?.revision.main ?? 0
        guard let value = clients.seal(number, key: key) else { return model.fail(.keyNeeded, "the active data key does not seal") }
        model.sends(value, request: number)
        let transaction = Transaction(compares: [Compare(KeyRange(key), .equal, .modification(seen))],
                                      success: [.put(PutRequest(key: key, value: .sealed(value)))], failure: [.range(RangeRequest(KeyRange(key)))])
        propose(.transaction(transaction, guards: []), client, member, number: number, .compare(value))
    }
    private mutating func useLease(_ client: Int, _ member: Int, _ choice: Int) {
        if choice < 88 || clients.leases.isEmpty {
            let seconds = Int64(clientChance.among(2...6)), id = LeaseID(1_000 + clients.nextNumber())
            return propose(.leaseGrant(id: id, seconds: seconds), client, member, .grant(id, seconds: seconds))
        }
        let lease = clientChance.pick(clients.leases).id
        if choice < 93 {
            let number = clients.nextNumber()
            clients.asks(StoreClients.Request(number: number, client: client, member: member, kind: .keepAlive(lease), askedAt: now,
                                              acknowledgedBefore: model.acknowledged))
            return step(member, .asked([Question(ticket: Ticket(number), .leaseKeepAlive(lease))]))
        }
        clients.leases.removeAll { $0.id == lease }
        propose(.leaseRevoke(id: lease), client, member, .revoke)
    }

    // MARK: - Keys

    private mutating func createDomain(_ member: Int) {
        if clients.firstKeys == nil {
            clients.firstKeys = try? clients.keyring.newDomain(StoreClients.domain, createdMilliseconds: 1)
            if let new = clients.firstKeys {
                try? clients.keyring.install(new.kek)
                try? clients.keyring.install(new.dek)
            }
        }
        guard let new = clients.firstKeys else { return model.fail(.keyNeeded, "no keys can be made") }
        clients.keyEncryptionKey = new.kek.id
        propose(.key(.createDomain(
            id: StoreClients.domain, name: Bytes("default".utf8),
            kek: KeyEncryptionKeyRecord(id: new.kek.id, domain: StoreClients.domain, state: .active, wrapped: new.kek.wrapped),
            dek: DataKeyRecord(id: new.dek.id, wrappedBy: new.kek.id, state: .active, wrapped: new.dek.wrapped))), 0, member, .createDomain)
    }
    private mutating func rotate(_ client: Int, _ member: Int) {
        switch clientChance.below(8) {
        case 0..<3: if clients.generation > 1 { destroyDataKey(client, member) }
        case 3..<5: addDataKey(client, member)
        case 5: addKeyEncryptionKey(client, member)
        case 6: rewrap(DataKeyID(StoreClients.domain, UInt32(1 + clientChance.below(Int(clients.generation)))), client, member)
        default:
            guard let newest = clients.keyEncryptionKey, newest.version > 1 else { return }
            let old = KeyEncryptionKeyID(newest.kek, newest.version - 1)
            propose(.key(.destroyKeyEncryptionKey(old)), client, member, .destroyKeyEncryptionKey(old))
        }
    }
    mutating func destroyDataKey(_ client: Int, _ member: Int) {
        let old = DataKeyID(StoreClients.domain, clients.generation - 1)
        propose(.key(.destroyDataKey(old)), client, member, .destroyDataKey(old))
    }
    mutating func addDataKey(_ client: Int, _ member: Int) {
        let id = DataKeyID(StoreClients.domain, clients.generation + 1)
        guard let kek = clients.keyEncryptionKey else { return }
        if clients.nextDataKey?.id != id { clients.nextDataKey = nil }
        // An earlier proposal may yet be applied: the same key, wrapped anew. Unless its wrapping key is gone, and with it the proposal.
        if let next = clients.nextDataKey, next.wrappedBy != kek { clients.nextDataKey = try? clients.keyring.rewrap(next, under: kek) }
        if clients.nextDataKey == nil { clients.nextDataKey = try? clients.keyring.newDataKey(id, under: kek, createdMilliseconds: 1) }
        guard let new = clients.nextDataKey else { return model.fail(.keyNeeded, "no data key can be made") }
        propose(.key(.addDataKey(DataKeyRecord(id: id, wrappedBy: kek, state: .active, wrapped: new.wrapped))), client, member, .newDataKey(new))
    }
    private mutating func addKeyEncryptionKey(_ client: Int, _ member: Int) {
        guard let newest = clients.keyEncryptionKey else { return }
        let id = KeyEncryptionKeyID(newest.kek, newest.version + 1)
        if clients.nextKeyEncryptionKey?.id != id { clients.nextKeyEncryptionKey = try? clients.keyring.newKeyEncryptionKey(id, createdMilliseconds: 1) }
        guard let new = clients.nextKeyEncryptionKey else { return model.fail(.keyNeeded, "no key-encryption key can be made") }
        let record = KeyEncryptionKeyRecord(id: id, domain: StoreClients.domain, state: .active, wrapped: new.wrapped)
        propose(.key(.addKeyEncryptionKey(record)), client, member, .newKeyEncryptionKey(new))
    }
    private mutating func rewrap(_ id: DataKeyID, _ client: Int, _ member: Int) {
        guard let newest = clients.keyEncryptionKey, let record = members[member].replica.store.keys.dataKey(id), record.state != .destroyed,
              record.wrappedBy != newest, let new = try? clients.keyring.rewrap(
                WrappedDataKey(id: id, wrappedBy: record.wrappedBy, wrapped: record.wrapped), under: newest) else { return }
        propose(.key(.rewrapDataKey(id: id, expected: record.wrappedBy, to: newest, wrapped: new.wrapped)), client, member, .other)
    }
    private mutating func reseal(_ client: Int, _ member: Int, _ key: Bytes) {
        let store = members[member].records
        guard let version = members[member].replica.store.version(of: key), let value = store.records[version.revision]?.value,
              let opened = try? clients.keyring.open(value, key: key) else { return }
        let generation = clients.generation
        let dataKey = DataKeyID(StoreClients.domain, generation)
        guard let sealed = opened.withUnsafeBytes({ try? clients.keyring.seal($0, key: key, under: dataKey) }) else { return }
        model.isSealed(sealed)
        propose(.reseal([Reseal(revision: version.revision, key: key, expected: value.dataKey, value: sealed)]), client, member, .other)
    }

    // MARK: - Answers

    mutating func answer(_ reply: Reply) {
        guard let request = clients.take(reply.ticket) else { return model.fail(.answeredOnce, "request \(reply.ticket) is answered, and nobody waits for it") }
        switch reply.outcome {
        case .applied(let result, let revision): applied(request, result, revision)
        case .range(let result, let revision):
            guard case .range(let range, let asked) = request.kind else { return }
            if request.isLinearizable, revision < request.acknowledgedBefore {
                model.fail(.linearizableRead, "request \(request.number) shows revision \(revision), though \(request.acknowledgedBefore) "
                           + "was acknowledged before")
            }
            model.reads(result, range: range, at: asked == 0 ? revision : asked, keys: clients.keys, request: request.number)
            clients.succeeds(at: now)
        case .leaseKeptAlive(let id, _, _):
            for position in clients.leases.indices where clients.leases[position].id == id {
                clients.leases[position].renewedAt = max(clients.leases[position].renewedAt, request.askedAt)
            }
        case .revision(let revision): released(request, at: revision)
        case .refused(let refusal):
            refused(request)
            switch (refusal, request.kind) {
            case (.domainExists, .createDomain): clients.hasDomain = true
            // The next generation is there, though its proposer was never told.
            case (.conflict, .newKeyEncryptionKey(let key)): if members[request.member].replica.store.keys.keyEncryptionKey(key.id) != nil { goOn(under: key) }
            case (.staleKey(let id), _): if id.generation == clients.generation, let next = clients.nextDataKey { goOn(under: next) }
            default: break
            }
        case .notLeader, .noSpace, .overloaded, .unavailable: refused(request)
        case .unknown, .leaseStatus, .leases: released(request, at: nil)
        }
    }
    private mutating func refused(_ request: StoreClients.Request) {
        switch request.kind {
        case .write(let value?), .compare(let value): model.refuses(value, request: request.number)
        case .release: released(request, at: nil)
        default: break
        }
    }
    private mutating func applied(_ request: StoreClients.Request, _ result: CommandResult, _ revision: Int64) {
        clients.succeeds(at: now)
        switch request.kind {
        case .write(let value): model.acknowledges(value, at: revision, request: request.number)
        case .compare(let value):
            guard case .operation(.transaction(succeeded: true, _)) = result else { return model.refuses(value, request: request.number) }
            model.acknowledges(value, at: revision, request: request.number)
        case .grant(let id, let seconds):
            clients.leases.append(StoreClients.LeaseTerm(
                id: id, seconds: seconds, renewedAt: request.askedAt, grantedIndex: members[request.member].replica.store.appliedIndex))
            if clients.leases.count > 8 { clients.leases.removeFirst() }
        case .createDomain: clients.hasDomain = true
        case .newDataKey(let key): goOn(under: key)
        // What is sealed under it does not open any more.
        case .destroyDataKey(let id): clients.keyring.forget(id)
        case .newKeyEncryptionKey(let key): goOn(under: key)
        case .destroyKeyEncryptionKey(let id): clients.keyring.forget(id)
        case .range, .keepAlive, .revoke, .release, .other: break
        }
    }
    private mutating func goOn(under key: WrappedKeyEncryptionKey) {
        guard let newest = clients.keyEncryptionKey, key.id.version == newest.version + 1 else { return }
        clients.keyEncryptionKey = key.id
        if (try? clients.keyring.install(key)) == nil { model.fail(.keyNeeded, "a new key-encryption key does not open") }
    }
    private mutating func goOn(under key: WrappedDataKey) {
        guard key.id.generation == clients.generation + 1 else { return }
        clients.generation += 1
        if (try? clients.keyring.install(key)) == nil { model.fail(.keyNeeded, "a new data key does not open") }
    }
}
