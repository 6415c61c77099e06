// What clients of an etcd-like store did and saw, recorded while it was being hurt. Times are nanoseconds of one monotonic clock.

/// A version of an entry, as a client was shown it.
package struct Version: Hashable, Sendable {
    package var key: String
    package var value: String
    package var createRevision: Int64
    package var revision: Int64
    package var version: Int64
    package var lease: Int64
    package init(key: String, value: String, createRevision: Int64, revision: Int64, version: Int64, lease: Int64 = 0) {
        self.key = key; self.value = value; self.createRevision = createRevision; self.revision = revision; self.version = version; self.lease = lease
    }
}

/// One change of one entry. All changes of a revision happened together.
package enum Change: Hashable, Sendable {
    case put(Version)
    case delete(key: String, revision: Int64)
    package var key: String {
        switch self {
        case .put(let version): version.key
        case .delete(let key, _): key
        }
    }
    package var revision: Int64 {
        switch self {
        case .put(let version): version.revision
        case .delete(_, let revision): revision
        }
    }
}

/// Which entries a read or a watch is about.
package enum Scope: Hashable, Sendable {
    case key(String)
    case prefix(String)
    package func contains(_ key: String) -> Bool {
        switch self {
        case .key(let own): key == own
        case .prefix(let prefix): key.hasPrefix(prefix)
        }
    }
}

/// A request and its answer. Each value is written by one request only, so that an entry tells where it comes from.
package struct Operation: Sendable {
    package enum Request: Hashable, Sendable {
        /// All in one revision.
        case put([String: String], lease: Int64 = 0)
        /// Only if the entry was last written at `revision`; 0: only if there is none.
        case exchange(key: String, revision: Int64, value: String)
        case delete(key: String)
        /// As it is now, or was at a revision.
        case read(Scope, at: Int64 = 0)
    }
    package enum Outcome: Hashable, Sendable {
        /// Done, and the store was at this revision then.
        case done(revision: Int64)
        /// The condition did not hold at this revision.
        case refused(revision: Int64)
        case found([Version], revision: Int64)
        /// The client says that it was surely not carried out.
        case notDone
        case unknown
    }
    package var request: Request
    package var outcome: Outcome
    package var began: Int64
    package var ended: Int64
    package init(_ request: Request, _ outcome: Outcome, began: Int64, ended: Int64) {
        self.request = request; self.outcome = outcome; self.began = began; self.ended = ended
    }
}

/// What one watch was told, over however many connections.
package struct Observation: Sendable {
    package struct Told: Hashable, Sendable {
        /// Empty: the word that all up to `revision` was told.
        package var changes: [Change]
        package var revision: Int64
        package var time: Int64
        package init(_ changes: [Change], revision: Int64, time: Int64 = 0) { self.changes = changes; self.revision = revision; self.time = time }
    }
    package var scope: Scope
    /// It asked for everything after this revision; 0: from now on, which its first word says.
    package var after: Int64
    package var told: [Told] = []
    package init(_ scope: Scope, after: Int64, _ told: [Told] = []) { self.scope = scope; self.after = after; self.told = told }
}

/// The life of a lease, as its owner knows it.
package struct LeaseRecord: Sendable {
    package struct Renewal: Hashable, Sendable {
        package var began: Int64
        package var seconds: Int64
        package init(began: Int64, seconds: Int64) { self.began = began; self.seconds = seconds }
    }
    package var id: Int64
    /// The grant, then each renewal that was answered; `began` is when the answered request was sent at the earliest.
    package var renewals: [Renewal]
    /// Its owner asked for its end.
    package var wasRevoked = false
    package init(id: Int64, renewals: [Renewal], wasRevoked: Bool = false) { self.id = id; self.renewals = renewals; self.wasRevoked = wasRevoked }
}

package struct Violation: Hashable, Sendable, CustomStringConvertible {
    package enum Rule: String, Sendable, CaseIterable {
        // The store
        case revisionsAscend, versionsCount, stateIsHistory
        // Clients
        case acknowledgedIsKept, unsentIsAbsent, writtenOnce, transactionIsWhole, conditionHeld, deleteIsExplained
        case readIsState, readIsRecent, writeIsLater
        // Watches
        case watchOrdered, watchUnique, watchAtomic, watchReliable, watchFiltered, watchTrue, progressIsBehind
        // Leases
        case leaseNotEarly, leaseInOneRevision
    }
    package var rule: Rule
    package var what: String
    package init(_ rule: Rule, _ what: String) { self.rule = rule; self.what = what }
    package var description: String { "\(rule.rawValue): \(what)" }
}
