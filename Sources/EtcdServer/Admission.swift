package import Audit
package import Basics
package import RPC

/// Who asks. Users and tokens join the certificate here when etcd's Auth service comes.
package struct Caller: Sendable {
    package var peer: Peer
    package init(peer: Peer) { self.peer = peer }
}

/// What a request would touch, before it is acted on.
package enum Access: Sendable {
    case read(KeyRange)
    case write(KeyRange)
    /// Compaction, status, members: no keys.
    case administer(String)
    case lease(LeaseID)
}

/// Says whether a caller may.
package protocol Authorizer: Sendable {
    /// `nil`: allowed; else why not.
    func refusal(_ access: Access, by caller: Caller) -> Status?
}

/// etcd without `auth enable`: whoever reaches the port may. The daemon listens on loopback then.
package struct OpenAccess: Authorizer {
    package init() {}
    package func refusal(_ access: Access, by caller: Caller) -> Status? { nil }
}

/// Proof that a request was authorized and validated. Only `Gate` makes one, and nothing is submitted without.
struct Admission {
    let operation: AuditedOperation
    fileprivate init(_ operation: AuditedOperation) { self.operation = operation }
}

/// One line of the trail: what was let through, or told, or came of it. Keys are named; values never are.
package struct AuditedOperation: Sendable {
    package enum Verb: String, Sendable {
        case range, put, deleteRange, txn, compact, watch, leaseGrant, leaseRevoke
        case status, memberChange, moveLeader, alarm, defragment

        /// Changes are answered when their record is durable. What is only read is answered when its record is accepted.
        package var isChange: Bool { self != .range && self != .watch && self != .status }
    }
    package var verb: Verb
    package var key: Bytes
    package var rangeEnd: Bytes
    /// A transaction's keys and ranges, all branches.
    package var accesses: [Access] = []
    /// Keys or operations concerned beyond the first.
    package var count: Int
    package var peer: String
    /// `accepted` before it is acted on; afterwards, if it came to nothing, why.
    package var outcome = "accepted"
    package init(verb: Verb, key: Bytes = [], rangeEnd: Bytes = [], count: Int = 1, peer: String) {
        self.verb = verb; self.key = key; self.rangeEnd = rangeEnd; self.count = count; self.peer = peer
    }
}

/// Where the trail goes: one call per batch, before the batch is acted on. Throwing means that nothing may be acted on.
package protocol AuditTrail: Sendable {
    /// The ticket of the last record that must be durable before its operation is answered.
    func record(_ operations: [AuditedOperation]) throws -> AuditTicket
    var durable: AuditTicket { get }
    /// Calls once, from another thread or at once: with nothing, or with why the records up to the ticket may be lost.
    func whenDurable(_ ticket: AuditTicket, _ call: @escaping @Sendable ((any Error)?) -> Void)
}

/// The order every request goes through: authorize → validate → audit → act.
struct Gate {
    let authorizer: any Authorizer

    /// Steps 1 and 2. Step 3 happens once per batch (`EtcdLoop.submitBatch`), from what the admissions say.
    func admit(
        _ accesses: [Access], as operation: AuditedOperation, caller: Caller, validate: () throws(Status) -> Void
    ) throws(Status) -> Admission {
        for access in accesses {
            if let refusal = authorizer.refusal(access, by: caller) { throw refusal }
        }
        try validate()
        return Admission(operation)
    }
}
