package import Basics

/// A lease as clients see it, without the time, which is the leader's (`LeaseClock`).
package struct Lease: Hashable, Sendable {
    package var id: LeaseID
    /// Granted time to live.
    package var seconds: Int64
    /// The leader's last word on the time left; 0: all of it.
    package var checkpointSeconds: Int64 = 0
    package init(id: LeaseID, seconds: Int64) { self.id = id; self.seconds = seconds }
}

/// Leases and the keys attached to them.
///
/// Invariant: `positions` of a lease maps each of its `keys` to its place in that array.
struct LeaseTable: Sendable {
    private struct Attached: Sendable {
        var lease: Lease
        var keys: [Bytes] = []
        var positions: [Bytes: Int] = [:]
    }
    private var leases: [LeaseID: Attached] = [:]

    var count: Int { leases.count }
    subscript(id: LeaseID) -> Lease? { leases[id]?.lease }

    mutating func insert(_ lease: Lease) { leases[lease.id, default: Attached(lease: lease)].lease = lease }
    mutating func remove(_ id: LeaseID) { leases[id] = nil }
    mutating func attach(_ key: Bytes, to id: LeaseID) {
        guard leases[id]?.positions[key] == nil else { return }
        precondition(leases[id] != nil, "attaching to a lease that is not there")
        leases[id]!.positions[key] = leases[id]!.keys.count
        leases[id]!.keys.append(key)
    }
    mutating func detach(_ key: Bytes, from id: LeaseID) {
        guard let position = leases[id]?.positions.removeValue(forKey: key) else { return }
        let last = leases[id]!.keys.removeLast()
        if last != key {
            leases[id]!.keys[position] = last
            leases[id]!.positions[last] = position
        }
    }
    /// In key order.
    func keys(of id: LeaseID) -> [Bytes] { leases[id]?.keys.sorted { $0.lexicographicallyPrecedes($1) } ?? [] }
    /// By id.
    var all: [Lease] { leases.values.map(\.lease).sorted { $0.id < $1.id } }
}

/// Lease ids as 4-byte numbers, counted by the cells that carry them: history shows leases long gone.
struct LeaseNames: Sendable {
    private var ids: [LeaseID] = [0]
    private var uses: [Int] = [0]
    private var numbers: [LeaseID: UInt32] = [:]
    private var free: [UInt32] = []

    subscript(number: UInt32) -> LeaseID { ids[Int(number)] }

    /// The number of an id, used once more.
    mutating func use(_ id: LeaseID) -> UInt32 {
        if id == 0 { return 0 }
        if let number = numbers[id] {
            uses[Int(number)] += 1
            return number
        }
        let number: UInt32
        if let reused = free.popLast() {
            number = reused
            ids[Int(number)] = id
            uses[Int(number)] = 1
        } else {
            number = UInt32(ids.count)
            ids.append(id)
            uses.append(1)
        }
        numbers[id] = number
        return number
    }
    mutating func drop(_ number: UInt32) {
        if number == 0 { return }
        uses[Int(number)] -= 1
        guard uses[Int(number)] == 0 else { return }
        numbers[ids[Int(number)]] = nil
        free.append(number)
    }
}

/// When leases end: the leader's, outside the replicated state. Time is monotonic milliseconds, given by the caller.
///
/// A new leader calls `promote` with all leases; then `granted`, `renewed`, `revoked` as they come; and proposes to revoke what `expired` answers.
/// Deadlines wait in a heap; a renewal only moves the deadline, and the heap's element is put right when it comes up.
package struct LeaseClock: Sendable {
    private struct Term: Sendable {
        var milliseconds: Int64
        var deadline: Int64
        /// Told as expired; told again only after `retryMilliseconds`.
        var toldAt: Int64?
    }
    private struct Waiting: Sendable { var at: Int64; var id: LeaseID }

    /// An expired lease is named again after this long, should its revocation have got lost.
    package static let retryMilliseconds: Int64 = 3_000

    private var terms: [LeaseID: Term] = [:]
    private var heap: [Waiting] = []
    package init() {}

    package var count: Int { terms.count }

    /// Starts afresh as the leader: every lease gets what its last checkpoint left it (or all its time), and `extraMilliseconds` more,
    /// so that clients which could not reach a leader have the time of an election to renew.
    package mutating func promote(_ leases: [Lease], at now: Int64, extraMilliseconds: Int64) {
        terms = [:]
        heap = []
        for lease in leases {
            let left = Self.milliseconds(lease.checkpointSeconds > 0 ? min(lease.checkpointSeconds, lease.seconds) : lease.seconds)
            set(lease.id, Self.milliseconds(lease.seconds), deadline: now + left + extraMilliseconds)
        }
    }
    package mutating func demote() { terms = [:]; heap = [] }

    package mutating func granted(_ id: LeaseID, seconds: Int64, at now: Int64) {
        let milliseconds = Self.milliseconds(Mutant.isActive(.leaseEndsEarly) ? seconds / 2 : seconds)
        set(id, milliseconds, deadline: now + milliseconds)
    }
    /// Answers the time to live in seconds; `nil` when the lease is unknown or has already ended.
    package mutating func renewed(_ id: LeaseID, at now: Int64) -> Int64? {
        guard var term = terms[id], term.deadline > now else { return nil }
        term.deadline = now + term.milliseconds
        term.toldAt = nil
        terms[id] = term
        return term.milliseconds / 1000
    }
    package mutating func revoked(_ id: LeaseID) { terms[id] = nil }

    /// What is left; below 0 once it has ended, `nil` when unknown.
    package func remainingMilliseconds(_ id: LeaseID, at now: Int64) -> Int64? { terms[id].map { $0.deadline - now } }

    /// Leases whose time is over, in the order they ended, at most `limit`.
    package mutating func expired(at now: Int64, limit: Int = 1_000) -> [LeaseID] {
        var ended: [LeaseID] = []
        while ended.count < limit, let first = heap.first, first.at <= now {
            popFirst()
            guard var term = terms[first.id] else { continue }
            let due = term.toldAt.map { $0 + Self.retryMilliseconds } ?? term.deadline
            guard due <= now else { push(Waiting(at: due, id: first.id)); continue }
            term.toldAt = now
            terms[first.id] = term
            push(Waiting(at: now + Self.retryMilliseconds, id: first.id))
            ended.append(first.id)
        }
        return ended
    }
    /// When `expired` may next have something to say.
    package var nextDeadline: Int64? { heap.first?.at }

    private static func milliseconds(_ seconds: Int64) -> Int64 { min(max(seconds, 0), Limits.leaseSecondsMax) * 1000 }

    private mutating func set(_ id: LeaseID, _ milliseconds: Int64, deadline: Int64) {
        terms[id] = Term(milliseconds: milliseconds, deadline: deadline)
        push(Waiting(at: deadline, id: id))
    }

    // A binary heap by (time, id).
    private static func precedes(_ a: Waiting, _ b: Waiting) -> Bool { (a.at, a.id) < (b.at, b.id) }
    private mutating func push(_ waiting: Waiting) {
        heap.append(waiting)
        var at = heap.count - 1
        while at > 0, Self.precedes(heap[at], heap[(at - 1) / 2]) {
            heap.swapAt(at, (at - 1) / 2)
            at = (at - 1) / 2
        }
    }
    private mutating func popFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var at = 0
        while true {
            var least = at
            for child in [2 * at + 1, 2 * at + 2] where child < heap.count && Self.precedes(heap[child], heap[least]) { least = child }
            if least == at { return }
            heap.swapAt(at, least)
            at = least
        }
    }
}
