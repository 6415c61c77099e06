package import Basics

/// What a leader knows of one member's log.
///
///     probe ── an append was confirmed ──▶ replicate
///      ▲ │ ▲                                   │
///      │ │ └─── rejected, or unreachable ──────┤
///      │ └─ what it needs is not in our log ─┐ │
///      └──── a snapshot was sent, or not ── snapshot
///
/// Invariant: match < next. Everything up to `match` is durable there and equal to ours.
package struct Progress: Hashable, Sendable {
    package enum Flow: Hashable, Sendable {
        /// Searching where the logs agree: one message at a time.
        case probe(awaitsAnswer: Bool)
        /// Sending ahead.
        case replicate(InFlight)
        /// Our log begins after what it has: nothing is sent while it receives the store.
        case snapshot
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

    /// The progress of a membership's members, sorted: those known keep theirs, those removed lose it.
    /// A new one is taken for active, or it would cost the leader its quorum before it could speak.
    package static func of(_ membership: Membership, known: [Progress], next: LogIndex) -> [Progress] {
        membership.members.map { member in
            if let old = known.first(where: { $0.member == member }) { return old }
            var new = Progress(member: member, next: next)
            new.isActive = !known.isEmpty
            return new
        }
    }

    /// The leader's own log: durable up to here.
    package mutating func isDurable(through index: LogIndex) {
        match = max(match, index)
        next = max(next, match + 1)
    }

    package mutating func sent(through last: LogIndex, bytes: Int) {
        switch flow {
        case .probe: flow = .probe(awaitsAnswer: true)
        case .replicate(var inFlight):
            guard last >= next else { return }
            flow = .snapshot // so that the messages in flight are changed in place
            inFlight.append(InFlight.Sent(last: last, bytes: bytes))
            next = last + 1
            flow = .replicate(inFlight)
        case .snapshot: break
        }
    }

    /// Whether another append may go out now.
    package func admits(inFlightMax: Int, bytesMax: Int) -> Bool {
        switch flow {
        case .probe(let awaitsAnswer): !awaitsAnswer
        case .replicate(let inFlight): inFlight.count < inFlightMax && inFlight.bytes < bytesMax
        case .snapshot: false
        }
    }

    package var isProbe: Bool { if case .probe = flow { true } else { false } }

    /// It has everything up to `index`; ours begins after `base`. False when that was known.
    package mutating func confirmed(through index: LogIndex, base: LogIndex) -> Bool {
        let isNews = index > match
        if isNews { match = index }
        switch flow {
        case .probe(let awaitsAnswer):
            // A probe at the point where the logs meet is confirmed without a new match.
            guard isNews || (awaitsAnswer && index == match && index + 1 == next) else { break }
            next = match + 1
            flow = .replicate(InFlight())
        case .replicate(var inFlight):
            guard isNews else { break }
            next = max(next, match + 1)
            flow = .snapshot
            inFlight.confirm(through: index)
            flow = .replicate(inFlight)
        case .snapshot:
            // However it came by it.
            guard match >= base else { break }
            next = match + 1
            flow = .replicate(InFlight())
        }
        return isNews
    }

    /// False when the rejection is of an older message, or leads nowhere.
    package mutating func rejected(previous: LogIndex, agreement: LogIndex) -> Bool {
        switch flow {
        case .replicate:
            // At or before the match: late, or its log is shorter than what it confirmed. The probe will tell.
            guard previous > match || agreement < match else { return false }
            next = match + 1
        case .probe:
            guard previous == next - 1, previous > 0 else { return false }
            let earlier = min(previous - 1, agreement)
            // It lost what it had confirmed, and is not counted for it any more.
            match = min(match, earlier)
            next = earlier + 1
        case .snapshot: return false
        }
        flow = .probe(awaitsAnswer: false)
        return true
    }

    /// A heartbeat was answered: what a probe waited for may have been lost.
    package mutating func resume() {
        if case .probe = flow { flow = .probe(awaitsAnswer: false) }
    }

    /// What was sent ahead is probably lost.
    package mutating func isUnreachable() {
        guard case .replicate = flow else { return }
        next = match + 1
        flow = .probe(awaitsAnswer: false)
    }

    package mutating func needsSnapshot() { flow = .snapshot }

    /// It said that it holds the store as of `index`; or that came to nothing. Either way the next word is its own, or a heartbeat's.
    package mutating func snapshotEnded(at index: LogIndex?) {
        guard case .snapshot = flow else { return }
        next = max(match, index ?? 0) + 1
        flow = .probe(awaitsAnswer: true)
    }
}

/// The appends that are under way to one member, oldest first.
package struct InFlight: Hashable, Sendable {
    package struct Sent: Hashable, Sendable { var last: LogIndex; var bytes: Int }
    private var sent: [Sent] = []
    /// Those before are confirmed. Invariant: head ≤ sent.count.
    private var head = 0
    package private(set) var bytes = 0

    package init() {}
    package var count: Int { sent.count - head }

    package mutating func append(_ message: Sent) {
        sent.append(message)
        bytes += message.bytes
    }

    package mutating func confirm(through index: LogIndex) {
        while head < sent.count, sent[head].last <= index {
            bytes -= sent[head].bytes
            head += 1
        }
        if head == sent.count {
            sent.removeAll(keepingCapacity: true)
            head = 0
        } else if head > 64 {
            sent.removeFirst(head)
            head = 0
        }
    }

    package static func == (a: InFlight, b: InFlight) -> Bool { a.sent[a.head...] == b.sent[b.head...] }
    package func hash(into hasher: inout Hasher) { hasher.combine(sent[head...]) }
}
