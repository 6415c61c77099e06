import RPC

/// What it would mean to carry a request out twice.
enum Repetition {
    /// Nothing: a read.
    case harmless
    /// The same as once, and the second answer tells: a lease granted under an id of ours, a revocation, a compaction, a keep-alive.
    case recognised
    /// Possibly the loss of what another client wrote in between.
    case forbidden
}

/// What to do about an attempt that failed.
enum Verdict: Equatable {
    /// Try again, at another member if there is one.
    case retry
    /// The answer is no, and would be again.
    case refused
    /// The write may have happened. Never tried again.
    case unknown

    /// The rule of retries:
    ///
    ///     the server refused for good                          → refused
    ///     surely not carried out (not sent, no leader, busy)   → retry, whatever it is
    ///     anything else                                        → retry what may be repeated, else unknown
    static func on(_ status: Status, _ repetition: Repetition) -> Verdict {
        switch (status.origin, status.code) {
        case (.unsent, _): return .retry
        case (.lost, _): return repetition == .forbidden ? .unknown : .retry
        case (.answered, .invalidArgument), (.answered, .notFound), (.answered, .alreadyExists), (.answered, .permissionDenied),
             (.answered, .failedPrecondition), (.answered, .outOfRange), (.answered, .unimplemented), (.answered, .unauthenticated),
             (.answered, .dataLoss): return .refused
        case (.answered, .resourceExhausted): return passes(status) ? .retry : .refused
        case (.answered, .internal) where repetition != .forbidden: return .refused
        case (.answered, _): return repetition != .forbidden || isUnexecuted(status) ? .retry : .unknown
        }
    }

    /// Too much load is a matter of time; a quota is not.
    private static func passes(_ status: Status) -> Bool { status.message == "etcdserver: too many requests" }

    /// Said by a member before it proposes anything.
    private static func isUnexecuted(_ status: Status) -> Bool { unexecuted.contains(status.message) }
    private static let unexecuted: Set<String> = [
        "etcdserver: no leader", "etcdserver: not leader", "raft proposal dropped", "etcdserver: rpc not supported for learner",
    ]
}

/// Waits between attempts: doubling from `first` up to `longest`, each drawn from its upper half, so that clients do not come back together.
struct Backoff: Sendable {
    var first: Duration
    var longest: Duration

    /// After so many failures in a row (1…).
    func wait(failures: Int, using generator: inout some RandomNumberGenerator) -> Duration {
        let doubled = first * (1 << min(max(failures - 1, 0), 20))
        return min(doubled, longest) * Double.random(in: 0.5...1, using: &generator)
    }
}

/// Which endpoint to ask: in turn, without those that failed lately. Time is what its host says, since any moment.
///
/// Invariant: an endpoint that failed is asked again at the latest after the longest wait.
struct EndpointTable {
    private struct Place {
        var failures = 0
        var restsUntil = Duration.zero
    }
    private var places: [Place]
    private var next = 0
    let backoff: Backoff

    init(count: Int, backoff: Backoff) {
        precondition(count > 0)
        places = Array(repeating: Place(), count: count)
        self.backoff = backoff
    }

    /// The endpoint whose turn it is, not `avoided` if another one is awake; and how long to wait for it: zero unless all of them rest.
    mutating func pick(at now: Duration, avoiding avoided: Int? = nil) -> (endpoint: Int, wait: Duration) {
        let inTurn = (0..<places.count).map { (next + $0) % places.count }
        let awake = inTurn.filter { places[$0].restsUntil <= now }
        let chosen = awake.first { $0 != avoided } ?? awake.first ?? inTurn.min { places[$0].restsUntil < places[$1].restsUntil } ?? 0
        next = (chosen + 1) % places.count
        return (chosen, max(.zero, places[chosen].restsUntil - now))
    }

    mutating func failed(_ endpoint: Int, at now: Duration, using generator: inout some RandomNumberGenerator) {
        // Many calls that were under way together are one failure.
        guard places[endpoint].restsUntil <= now else { return }
        places[endpoint].failures += 1
        places[endpoint].restsUntil = now + backoff.wait(failures: places[endpoint].failures, using: &generator)
    }
    mutating func succeeded(_ endpoint: Int) { places[endpoint] = Place() }
}
