package import Basics

/// What the log carries. Applied in log order on every member, with the same result on each: no clock, no key, no chance.
package enum Command: Hashable, Sendable {
    /// A new leader's first entry.
    case none
    case put(PutRequest)
    case deleteRange(DeleteRangeRequest)
    case transaction(Transaction, guards: [Guard])
    /// Forget history before this revision.
    case compact(revision: Int64)
    /// `id` 0 is replaced by the proposer before it is proposed.
    case leaseGrant(id: LeaseID, seconds: Int64)
    case leaseRevoke(id: LeaseID)
    /// The leader's word on how long leases still have to live, so that a change of leader does not renew them.
    case leaseCheckpoint([LeaseCheckpoint])
    case reseal([Reseal])
    case key(KeyCommand)
    /// A named replicated setting (domain rules, progress of a rotation…): last writer wins, or guarded by `expecting`.
    case setting(name: Bytes, value: Bytes?, expecting: Bytes??)
    case member(MemberCommand)
    case alarm(Alarm, isRaised: Bool)
}

extension Command {
    /// Whether it takes room that does not come back by itself: what a full disk refuses. Whatever gives room back passes.
    package var growsStore: Bool {
        switch self {
        case .put, .leaseGrant, .reseal: true
        case .transaction(let transaction, _): transaction.puts
        case .key(let command):
            switch command {
            case .createDomain, .addDataKey, .addKeyEncryptionKey: true
            case .rewrapDataKey, .rewrapKeyEncryptionKey, .destroyDataKey, .destroyKeyEncryptionKey, .shredDomain: false
            }
        case .setting(_, let value, _): value != nil
        case .none, .deleteRange, .compact, .leaseRevoke, .leaseCheckpoint, .member, .alarm: false
        }
    }
}
extension Transaction {
    /// Whether either branch may put.
    var puts: Bool {
        (success + failure).contains { operation in
            switch operation {
            case .put: true
            case .transaction(let nested): nested.puts
            case .range, .deleteRange: false
            }
        }
    }
}

package struct LeaseCheckpoint: Hashable, Sendable {
    package var id: LeaseID
    /// 0: the full time to live again (the lease was renewed).
    package var remainingSeconds: Int64
    package init(id: LeaseID, remainingSeconds: Int64) { self.id = id; self.remainingSeconds = remainingSeconds }
}

/// Replace the ciphertext of one record, at the same revision and unseen by watchers,
/// if it is still sealed under `expected`.
package struct Reseal: Hashable, Sendable {
    package var revision: Revision
    package var key: Bytes
    package var expected: DataKeyID
    package var value: SealedValue
    package init(revision: Revision, key: Bytes, expected: DataKeyID, value: SealedValue) {
        self.revision = revision; self.key = key; self.expected = expected; self.value = value
    }
}

package enum KeyState: UInt8, Hashable, Sendable {
    /// The one that new ciphertext goes under.
    case active = 1
    case decryptOnly, destroyed
}

/// A KEK version as the replicated table holds it. `wrapped` is opaque here (layout: Docs/Formats.md).
package struct KeyEncryptionKeyRecord: Hashable, Sendable {
    package var id: KeyEncryptionKeyID
    package var domain: DomainID
    package var state: KeyState
    package var wrapped: Bytes
    /// Data-key records wrapped by this version; kept by apply.
    package var dataKeys: Int64 = 0
    package init(id: KeyEncryptionKeyID, domain: DomainID, state: KeyState, wrapped: Bytes) {
        self.id = id; self.domain = domain; self.state = state; self.wrapped = wrapped
    }
}

/// A DEK generation as the replicated table holds it.
package struct DataKeyRecord: Hashable, Sendable {
    package var id: DataKeyID
    package var wrappedBy: KeyEncryptionKeyID
    package var state: KeyState
    package var wrapped: Bytes
    /// Ciphertexts under this generation, current and retained history; kept by apply.
    package var ciphertexts: Int64 = 0
    package init(id: DataKeyID, wrappedBy: KeyEncryptionKeyID, state: KeyState, wrapped: Bytes) {
        self.id = id; self.wrappedBy = wrappedBy; self.state = state; self.wrapped = wrapped
    }
}

/// Changes of the key tables: no revisions, no history, not reachable as keys.
package enum KeyCommand: Hashable, Sendable {
    /// A domain with its first KEK and DEK; refused with `.domainExists` when the name or id is taken.
    case createDomain(id: DomainID, name: Bytes, kek: KeyEncryptionKeyRecord, dek: DataKeyRecord)
    /// A new active generation; the previous active one becomes decrypt-only. Its number must be the next one.
    case addDataKey(DataKeyRecord)
    /// A new active KEK version; the previous one becomes decrypt-only.
    case addKeyEncryptionKey(KeyEncryptionKeyRecord)
    /// The same DEK, wrapped by another KEK version. Refused unless it is wrapped by `expected` now.
    case rewrapDataKey(id: DataKeyID, expected: KeyEncryptionKeyID, to: KeyEncryptionKeyID, wrapped: Bytes)
    /// The same KEK, wrapped by another root generation.
    case rewrapKeyEncryptionKey(id: KeyEncryptionKeyID, wrapped: Bytes)
    /// Refused with `.keyInUse` while its count is not zero or it is active; zeroes the wrapped bytes.
    case destroyDataKey(DataKeyID)
    case destroyKeyEncryptionKey(KeyEncryptionKeyID)
    /// Destroys every key of a domain, whatever is sealed under it: cryptographic erasure. The domain keeps its name and id,
    /// and can be written to again after a new KEK version and DEK generation.
    case shredDomain(DomainID)
}

/// Why apply refused a command. The store is unchanged then.
package enum CommandRefusal: Error, Hashable, Sendable {
    case compacted(compactRevision: Int64)
    case futureRevision(current: Int64)
    case leaseNotFound, leaseExists, leaseSecondsTooLarge
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    case keyNotFound
    case duplicateKey
    /// A guard no longer holds: resolve the compares again.
    case guardFailed
    /// Sealed under a generation that is no longer active: seal again.
    case staleKey(DataKeyID)
    case domainExists(DomainID), unknownKey, keyInUse(count: Int64), conflict
    case tooManyOperations, nestingTooDeep, limitReached
    case member(MemberRefusal)
}

package enum CommandResult: Hashable, Sendable {
    case none
    case operation(OperationResult)
    case lease(id: LeaseID, seconds: Int64)
    /// How many of the `Reseal`s still applied.
    case resealed(Int)
}
