package import Basics

/// What a leader knows of one member's log.
///
///     probe ── an append was confirmed ──▶ replicate
///       ▲                                      │
///       └──── an append was rejected ──────────┘
///
/// Invariant: match < next. Everything up to `match` is durable there and equal to ours.
package struct Progress: Hashable, Sendable {
    package enum Flow: Hashable, Sendable {
        /// Searching where the logs agree: one message at a time.
        case probe(awaitsAnswer: Bool)
        /// Sending ahead: the last index of each message that is not confirmed yet.
        case replicate(inFlight: [LogIndex])
    }
    package let member: MemberID
    package private(set) var match: LogIndex = 0
    package private(set) var next: LogIndex
    package private(set) var flow = Flow.probe(awaitsAnswer: false)
    /// The commit index it was last told.
    package var commitTold: LogIndex = 0
    /// Heard from since the last check of the quorum.
    package var isActive = false
    /// The last read round it confirmed.
    package var readSequence: UInt64 = 0

    package init(member: MemberID, next: LogIndex) { self.member = member; self.next = next }

    /// The leader's own log: durable up to here.
    package mutating func isDurable(through index: LogIndex) {
        match = max(match, index)
        next = max(next, match + 1)
    }

    package mutating func sent(through last: LogIndex) {
        switch flow {
        case .probe: flow = .probe(awaitsAnswer: true)
        case .replicate(var inFlight):
            guard last >= next else { return }
            flow = .probe(awaitsAnswer: false) // so that the array is changed in place
            inFlight.append(last)
            next = last + 1
            flow = .replicate(inFlight: inFlight)
        }
    }

    /// Whether another append may go out now.
    package func admits(inFlightMax: Int) -> Bool {
        switch flow {
        case .probe(let awaitsAnswer): !awaitsAnswer
        case .replicate(let inFlight): inFlight.count < inFlightMax
        }
    }

    /// False when that was known.
    package mutating func confirmed(through index: LogIndex) -> Bool {
        guard index > match else {
            // A probe at the point where the logs meet is confirmed without a new match.
            if case .probe(awaitsAnswer: true) = flow, index == match, index + 1 == next { flow = .replicate(inFlight: []) }
            return false
        }
        match = index
        next = max(next, index + 1)
        switch flow {
        case .probe: flow = .replicate(inFlight: [])
        case .replicate(let inFlight): flow = .replicate(inFlight: inFlight.filter { $0 > index })
        }
        return true
    }

    /// False when the rejection is of an older message, or leads nowhere.
    package mutating func rejected(previous: LogIndex, agreement: LogIndex) -> Bool {
        switch flow {
        case .replicate:
            guard previous > match else { return false }
            next = match + 1
        case .probe:
            guard previous == next - 1 else { return false }
            let earlier = max(match, min(previous - min(previous, 1), agreement)) + 1
            // It takes back what it confirmed: no earlier entry will do either. Asked again with the next heartbeat.
            guard earlier < next else { return false }
            next = earlier
        }
        flow = .probe(awaitsAnswer: false)
        return true
    }

    /// A heartbeat was answered: what a probe waited for may have been lost.
    package mutating func resume() {
        if case .probe = flow { flow = .probe(awaitsAnswer: false) }
    }
}
