import Basics
import MVCC
import ReplicaService
import Sealing
import Synchronization

/// Which data key new values of a domain go under. The replicated key table is the truth; this is what of it is open here.
///
/// Invariant: every key that `active` names is installed in the keyring.
final class KeyDomains: Sendable {
    private struct State {
        /// The one that nearly every put of the etcd port wants, without a hash of a name.
        var plain: DataKeyID?
        var active: [Bytes: DataKeyID] = [:]
        var activeByID: [DomainID: DataKeyID] = [:]
    }
    private let state = Mutex(State())
    /// Held while a table is read and followed, so that no older one comes after a newer.
    private let following = Mutex(())
    private let keyring: Keyring
    private let now: @Sendable () -> UInt64

    /// `now`: milliseconds since 1970, written into new keys' headers.
    init(keyring: Keyring, now: @escaping @Sendable () -> UInt64) { self.keyring = keyring; self.now = now }

    func active(_ domain: Domain) -> DataKeyID? {
        state.withLock { domain == .plain ? $0.plain : $0.active[domain.name] }
    }
    func active(_ domain: DomainID) -> DataKeyID? { state.withLock { $0.activeByID[domain] } }

    /// Opens what the table holds and is not open yet, wipes what it no longer holds, and follows its active generations.
    func follow(_ current: () -> KeyTable) throws(SealingError) -> KeyTable {
        try following.withLock { _ throws(SealingError) in
            let table = current()
            try follow(table)
            return table
        }
    }
    private func follow(_ table: KeyTable) throws(SealingError) {
        for record in table.keyEncryptionKeys {
            if record.state == .destroyed { keyring.forget(record.id) } else { try keyring.install(WrappedKeyEncryptionKey(record)) }
        }
        for record in table.dataKeys {
            if record.state == .destroyed { keyring.forget(record.id) } else { try keyring.install(WrappedDataKey(record)) }
        }
        var active: [Bytes: DataKeyID] = [:], activeByID: [DomainID: DataKeyID] = [:]
        for domain in table.domains {
            guard let generation = domain.activeGeneration else { continue }
            active[domain.name] = DataKeyID(domain.id, generation)
            activeByID[domain.id] = DataKeyID(domain.id, generation)
        }
        let followed = State(plain: active[Domain.plain.name], active: active, activeByID: activeByID)
        state.withLock { $0 = followed }
    }

    /// The command that gives `domain` its first keys.
    func creation(of domain: Domain) throws(SealingError) -> Command {
        let id = DomainID(UInt64.random(in: 1...UInt64.max))
        let (kek, dek) = try keyring.newDomain(id, createdMilliseconds: now())
        return .key(.createDomain(
            id: id, name: domain.name,
            kek: KeyEncryptionKeyRecord(id: kek.id, domain: id, state: .active, wrapped: kek.wrapped),
            dek: DataKeyRecord(id: dek.id, wrappedBy: dek.wrappedBy, state: .active, wrapped: dek.wrapped)))
    }

    /// The command that gives a domain its next data key.
    func nextDataKey(of domain: DomainRecord) throws(SealingError) -> Command? {
        guard let generation = domain.activeGeneration, let kek = domain.activeKeyEncryptionKey else { return nil }
        let dek = try keyring.newDataKey(DataKeyID(domain.id, generation + 1), under: kek, createdMilliseconds: now())
        return .key(.addDataKey(DataKeyRecord(id: dek.id, wrappedBy: dek.wrappedBy, state: .active, wrapped: dek.wrapped)))
    }

    /// The command that gives a domain the next version of its key-encryption key.
    func nextKeyEncryptionKey(of domain: DomainRecord) throws(SealingError) -> Command? {
        guard let active = domain.activeKeyEncryptionKey else { return nil }
        let next = KeyEncryptionKeyID(active.kek, active.version + 1)
        let kek = try keyring.newKeyEncryptionKey(next, createdMilliseconds: now())
        return .key(.addKeyEncryptionKey(KeyEncryptionKeyRecord(id: kek.id, domain: domain.id, state: .active, wrapped: kek.wrapped)))
    }

    /// The command that wraps a data key by another version of its key-encryption key.
    func rewrap(_ record: DataKeyRecord, to kek: KeyEncryptionKeyID) throws(SealingError) -> Command {
        let rewrapped = try keyring.rewrap(WrappedDataKey(record), under: kek)
        return .key(.rewrapDataKey(id: record.id, expected: record.wrappedBy, to: kek, wrapped: rewrapped.wrapped))
    }
}

extension WrappedKeyEncryptionKey {
    init(_ record: KeyEncryptionKeyRecord) { self.init(id: record.id, wrapped: record.wrapped) }
}
extension WrappedDataKey {
    init(_ record: DataKeyRecord) { self.init(id: record.id, wrappedBy: record.wrappedBy, wrapped: record.wrapped) }
}
