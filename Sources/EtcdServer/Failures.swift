import Barrier
import EtcdProtocol
import MVCC
import RPC

// What etcd's clients are told, in etcd's words: clientv3 knows its errors by code and text.
extension Status {
    static let emptyKey = Status(.invalidArgument, "etcdserver: key is not provided")
    static let valueProvided = Status(.invalidArgument, "etcdserver: value is provided")
    static let leaseProvided = Status(.invalidArgument, "etcdserver: lease is provided")
    static let tooManyOperations = Status(.invalidArgument, "etcdserver: too many operations in txn request")
    static let duplicateKey = Status(.invalidArgument, "etcdserver: duplicate key given in txn request")
    static let invalidSortOption = Status(.invalidArgument, "etcdserver: invalid sort option")
    static let requestTooLarge = Status(.invalidArgument, "etcdserver: request is too large")
    static let tooManyRequests = Status(.resourceExhausted, "etcdserver: too many requests")
    static let nestedTooDeep = Status(.invalidArgument, "etcdserver: transactions are nested too deep")
    static let malformedCompare = Status(.invalidArgument, "etcdserver: malformed compare")

    /// What etcd's tools do with a snapshot (status, restore into an etcd) wants etcd's own file, with every value in the clear.
    static let noSnapshot = Status(
        .unimplemented, "etcdserver: no snapshot in etcd's file format is made of an encrypted store: stop the daemon and copy its data directory, or let a learner join")

    static func malformed(_ error: WireError) -> Status {
        error == .nestedTooDeep ? .nestedTooDeep : Status(.internal, "grpc: failed to unmarshal the received message: \(error)")
    }

    init(_ failure: EtcdFailure) {
        switch failure {
        case .refused(let refusal): self.init(refusal)
        case .unreadable(let value): self.init(.dataLoss, "etcdserver: \(value)")
        case .overloaded: self = .tooManyRequests
        case .noSpace: self.init(.resourceExhausted, "etcdserver: mvcc: database space exceeded")
        case .outcomeUnknown: self.init(.unavailable, "etcdserver: request timed out")
        case .notLeader: self.init(.unavailable, "etcdserver: no leader")
        case .unavailable(let reason): self.init(.unavailable, "etcdserver: \(reason)")
        }
    }

    init(_ refusal: CommandRefusal) {
        switch refusal {
        case .compacted: self.init(.outOfRange, "etcdserver: mvcc: required revision has been compacted")
        case .futureRevision: self.init(.outOfRange, "etcdserver: mvcc: required revision is a future revision")
        case .leaseNotFound: self.init(.notFound, "etcdserver: requested lease not found")
        case .leaseExists: self.init(.failedPrecondition, "etcdserver: lease already exists")
        case .leaseSecondsTooLarge: self.init(.outOfRange, "etcdserver: too large lease TTL")
        case .keyNotFound: self.init(.invalidArgument, "etcdserver: key not found")
        case .duplicateKey: self = .duplicateKey
        case .tooManyOperations: self = .tooManyOperations
        case .nestingTooDeep: self = .nestedTooDeep
        // The Barrier retries these; what still comes through is load.
        case .guardFailed, .staleKey: self = .tooManyRequests
        case .member(let refusal): self.init(refusal)
        case .limitReached: self.init(.resourceExhausted, "etcdserver: a limit is reached")
        case .domainExists, .unknownKey, .keyInUse, .conflict: self.init(.failedPrecondition, "etcdserver: \(refusal)")
        }
    }

    init(_ refusal: MemberRefusal) {
        switch refusal {
        case .exists: self.init(.failedPrecondition, "etcdserver: member ID already exist")
        case .peerURLTaken: self.init(.failedPrecondition, "etcdserver: Peer URLs already exists")
        case .notFound: self.init(.notFound, "etcdserver: member not found")
        case .removed: self.init(.notFound, "etcdserver: member not found")
        case .notLearner: self.init(.failedPrecondition, "etcdserver: can only promote a learner member")
        case .alreadyLearner: self.init(.failedPrecondition, "etcdserver: the member is a learner already")
        case .notInSync: self.init(.failedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
        case .losesQuorum: self.init(.failedPrecondition, "etcdserver: re-configuration failed due to not enough started members")
        case .lastVoter: self.init(.failedPrecondition, "etcdserver: the last voting member stays")
        case .tooMany: self.init(.failedPrecondition, "etcdserver: too many members in cluster")
        case .tooManyLearners: self.init(.failedPrecondition, "etcdserver: too many learner members in cluster")
        case .notNow(let reason): self.init(.unavailable, "etcdserver: unhealthy cluster: \(reason)")
        }
    }
}
