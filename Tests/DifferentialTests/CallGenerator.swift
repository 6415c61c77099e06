import Basics
import EtcdProtocol
import NIOCore

/// Random requests over few keys, so that they meet; aimed at what the sequence's revisions may be.
struct CallGenerator {
    private var state: UInt64
    private(set) var granted: [Int64] = []
    private let firstLease: Int64
    /// A guess at the sequence's revision so far; both servers are asked the same whatever it is.
    private(set) var revision: Int64 = 0
    private(set) var compacted: Int64 = 0

    init(seed: UInt64) {
        state = seed &* 0xd134_2543_de82_ef95  // not a multiple of the step below, or neighbouring seeds would share their numbers
        firstLease = Int64(seed % 1_000_000) * 10
    }

    /// SplitMix64.
    mutating func random(_ range: ClosedRange<Int>) -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        z ^= z >> 31
        return range.lowerBound + Int(z % UInt64(range.count))
    }
    mutating func chance(_ percent: Int) -> Bool { random(1...100) <= percent }
    private mutating func one<T>(_ items: [T]) -> T { items[random(0...items.count - 1)] }

    private mutating func key() -> Bytes {
        if chance(1) { return [] }
        return Bytes(one(["a", "b", "b/1", "b/10", "b/2", "c", "d", "é", "k k", "z", "\u{0}", "b\u{0}"]).utf8)
    }
    private mutating func value() -> ByteBuffer {
        ByteBuffer(string: one(["", "v\(random(0...9))", "v\(random(0...9))", "two words", "grüße", String(repeating: "x", count: 300)]))
    }
    private mutating func lease() -> Int64 { firstLease + Int64(random(1...3)) }
    private mutating func pastRevision() -> Int64 { Relative.revision(max(0, revision + 1 - Int64(random(0...(chance(80) ? 12 : 40))))) }

    /// The end of a range: a single key, another key, a prefix, all from the key on.
    private mutating func end(of key: Bytes) -> Bytes {
        switch random(0...9) {
        case 0...3: []
        case 4...5: self.key()
        case 6: [0]
        default: key.isEmpty ? [0] : KeyRange.prefix(key).end ?? [0]
        }
    }

    mutating func next() -> Call {
        switch random(0...99) {
        case 0..<32:
            revision += 1
            return .put(put())
        case 32..<54: return .range(range())
        case 54..<62:
            revision += 1
            return .deleteRange(deleteRange())
        case 62..<84:
            revision += 1
            return .transaction(transaction(depth: 0))
        case 84..<88:
            return .compact(Relative.revision(max(0, revision - Int64(random(-2...12)))))
        default: return leaseCall()
        }
    }

    private mutating func put() -> PutRequestMessage {
        var request = PutRequestMessage(key: key(), value: value())
        if chance(12) {
            request.ignoreValue = true
            if chance(95) { request.value = ByteBuffer() }
        }
        if chance(25) { request.lease = lease() }
        if chance(12) {
            request.ignoreLease = true
            if chance(95) { request.lease = 0 }
        }
        request.prevKV = chance(30)
        return request
    }

    private mutating func range() -> RangeRequestMessage {
        var request = RangeRequestMessage(key: key())
        request.rangeEnd = end(of: request.key)
        if chance(40) { request.limit = Int64(random(0...5)) }
        if chance(40) { request.revision = pastRevision() }
        if chance(50) {
            request.sortOrder = one([RangeRequestMessage.SortOrder.none, .ascend, .descend])
            request.sortTarget = one([RangeRequestMessage.SortTarget.key, .version, .create, .mod, .value])
        }
        request.serializable = chance(20)
        request.keysOnly = chance(15)
        request.countOnly = chance(10)
        if chance(8) { request.minModRevision = pastRevision() }
        if chance(8) { request.maxModRevision = pastRevision() }
        if chance(8) { request.minCreateRevision = pastRevision() }
        if chance(8) { request.maxCreateRevision = pastRevision() }
        return request
    }

    private mutating func deleteRange() -> DeleteRangeRequestMessage {
        var request = DeleteRangeRequestMessage(key: key())
        request.rangeEnd = end(of: request.key)
        request.prevKV = chance(40)
        return request
    }

    private mutating func transaction(depth: Int) -> TransactionRequestMessage {
        var request = TransactionRequestMessage()
        request.compare = (0..<random(0...2)).map { _ in compare() }
        request.success = (0..<random(0...3)).map { _ in operation(depth) }
        request.failure = (0..<random(0...3)).map { _ in operation(depth) }
        return request
    }
    private mutating func compare() -> CompareMessage {
        var compare = CompareMessage()
        compare.key = key()
        if chance(25) { compare.rangeEnd = end(of: compare.key) }
        compare.result = one([CompareMessage.Relation.equal, .greater, .less, .notEqual])
        let target = one([CompareMessage.Target.version, .create, .mod, .value, .lease])
        compare.target = target
        switch target {
        case .version: compare.version = Int64(random(0...3))
        case .create: compare.createRevision = chance(30) ? 0 : pastRevision()
        case .mod: compare.modRevision = chance(30) ? 0 : pastRevision()
        case .value: compare.value = value()
        case .lease: compare.lease = chance(40) ? 0 : lease()
        }
        return compare
    }
    private mutating func operation(_ depth: Int) -> RequestOperationMessage {
        switch random(0...11) {
        case 0...4: RequestOperationMessage(.put(put()))
        case 5...7: RequestOperationMessage(.range(range()))
        case 8...9: RequestOperationMessage(.deleteRange(deleteRange()))
        default: depth < 2 ? RequestOperationMessage(.transaction(transaction(depth: depth + 1))) : RequestOperationMessage(.range(range()))
        }
    }

    private mutating func leaseCall() -> Call {
        switch random(0...6) {
        case 0...1:
            let id = lease()
            if !granted.contains(id) { granted.append(id) }
            return .grant(id: id, seconds: one([1000, 600, 9_000_000_000, 9_000_000_001, 300]))
        case 2: return .revoke(lease())
        case 3...4: return .timeToLive(lease())
        case 5: return .keepAlive(lease())
        default: return .leases
        }
    }

    /// Takes note of what was done.
    mutating func note(_ call: Call, _ answer: String) {
        guard case .compact(let revision) = call, answer.hasPrefix("compacted") else { return }
        compacted = max(compacted, Relative.resolved(revision, 0))
    }

    /// A watch that begins when all is over, of `length` revisions.
    mutating func lateWatch(before length: Int64) -> WatchCreateRequestMessage {
        var request = WatchCreateRequestMessage()
        request.key = chance(60) ? [0] : Bytes("b".utf8)
        request.rangeEnd = request.key == [0] ? [0] : Bytes("c".utf8)
        request.prevKV = chance(50)
        if chance(15) { request.excludesPuts = true } else if chance(15) { request.excludesDeletes = true }
        // Not at exactly the compaction's revision: there, 3.4 forgets a deletion which 3.6 and Coffer tell.
        let behind = compacted > 1 && chance(15)
        request.startRevision = Relative.revision(behind ? compacted - 1 : min(length, compacted + Int64(random(1...8))))
        return request
    }
}
