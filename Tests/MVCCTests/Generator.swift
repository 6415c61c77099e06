import Basics
import MVCC

/// Random requests over a few keys that meet each other often.
struct Generator {
    var random: SeededGenerator
    var generations: ClosedRange<UInt32> = 1...1
    private var counter = 0

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    private static let keys: [Bytes] = [
        bytes("a"), bytes("aa"), bytes("ab"), bytes("ab\u{0}"), bytes("b"), bytes("b/1"), bytes("b/10"), bytes("b/2"), bytes("c"), [0x01], [0xff], [0xff, 0xff],
        bytes("a-long-common-prefix/1"), bytes("a-long-common-prefix/2"), bytes("a-long-common-prefix/22"),
    ]

    mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }
    mutating func number(_ range: ClosedRange<Int64>) -> Int64 { Int64.random(in: range, using: &random) }
    mutating func key() -> Bytes { Self.keys.randomElement(using: &random)! }
    mutating func range() -> KeyRange {
        switch number(0...9) {
        case 0...3: KeyRange(key())
        case 4: KeyRange(key(), end: [0])
        case 5: .prefix(key())
        case 6: KeyRange.prefix([])
        default: KeyRange(key(), end: key())
        }
    }
    mutating func lease() -> LeaseID { number(1...4) }

    mutating func rangeRequest(_ revision: Int64) -> RangeRequest {
        var request = RangeRequest(range())
        if chance(40) { request.limit = number(0...6) }
        if chance(40) { request.revision = number(-1...revision + 1) }
        if chance(40) { request.sortOrder = [.none, .ascending, .descending].randomElement(using: &random)! }
        if chance(40) { request.sortTarget = [.key, .version, .create, .modification].randomElement(using: &random)! }
        request.countOnly = chance(10)
        if chance(15) { request.minModificationRevision = number(0...revision) }
        if chance(15) { request.maxModificationRevision = number(0...revision) }
        if chance(15) { request.minCreateRevision = number(0...revision) }
        if chance(15) { request.maxCreateRevision = number(0...revision) }
        return request
    }
    mutating func putRequest() -> PutRequest {
        counter += 1
        let generation = UInt32.random(in: generations, using: &random)
        var request = PutRequest(key: key(), value: chance(15) ? .unchanged : .sealed(sealed("value \(counter)", generation: generation)))
        if chance(25) { request.lease = lease() } else if chance(15) { request.keepsLease = true }
        request.returnsPrevious = chance(30)
        return request
    }
    mutating func deleteRequest() -> DeleteRangeRequest {
        var request = DeleteRangeRequest(chance(60) ? KeyRange(key()) : range())
        request.returnsPrevious = chance(30)
        return request
    }
    mutating func compare(_ revision: Int64) -> Compare {
        let target: Compare.Target =
            switch number(0...4) {
            case 0: .version(number(0...3))
            case 1: .create(number(0...revision))
            case 2: .modification(number(0...revision))
            case 3: .lease(number(0...2))
            default: .resolved(chance(60))
            }
        return Compare(chance(70) ? KeyRange(key()) : range(), [.equal, .greater, .less, .notEqual].randomElement(using: &random)!, target)
    }
    mutating func transaction(_ revision: Int64, depth: Int = 0) -> Transaction {
        var transaction = Transaction()
        for _ in 0..<number(0...2) { transaction.compares.append(compare(revision)) }
        for _ in 0..<number(0...3) { transaction.success.append(operation(revision, depth)) }
        for _ in 0..<number(0...3) { transaction.failure.append(operation(revision, depth)) }
        return transaction
    }
    private mutating func operation(_ revision: Int64, _ depth: Int) -> Operation {
        switch number(0...9) {
        case 0...2: .range(rangeRequest(revision))
        case 3...6: .put(putRequest())
        case 7...8: .deleteRange(deleteRequest())
        default: depth < 2 ? .transaction(transaction(revision, depth: depth + 1)) : .put(putRequest())
        }
    }
    /// `revision` is the store's, so that revisions asked for are mostly ones that exist.
    mutating func command(_ revision: Int64) -> Command {
        switch number(0...99) {
        case 0..<45: .put(putRequest())
        case 45..<58: .deleteRange(deleteRequest())
        case 58..<86: .transaction(transaction(revision), guards: [])
        case 86..<91: .compact(revision: number(max(0, revision - 12)...revision + 1))
        case 91..<97: .leaseGrant(id: lease(), seconds: number(1...100))
        default: .leaseRevoke(id: lease())
        }
    }
}
