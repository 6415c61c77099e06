import MVCC
import Testing

@Suite("when leases end")
struct LeaseClockTests {
    @Test("a lease ends when its time is over, not before, and is named once until it is tried again")
    func expiry() {
        var clock = LeaseClock()
        clock.granted(7, seconds: 5, at: 1_000)
        #expect(clock.expired(at: 5_999) == [])
        #expect(clock.nextDeadline == 6_000)
        #expect(clock.expired(at: 6_000) == [7])
        #expect(clock.expired(at: 6_001) == [])
        #expect(clock.expired(at: 6_000 + LeaseClock.retryMilliseconds) == [7])
        clock.revoked(7)
        #expect(clock.expired(at: 100_000) == [])
        #expect(clock.remainingMilliseconds(7, at: 0) == nil)
    }

    @Test("a renewal starts the time afresh; one that comes too late is refused")
    func renewal() {
        var clock = LeaseClock()
        clock.granted(1, seconds: 5, at: 0)
        #expect(clock.renewed(1, at: 4_000) == 5)
        #expect(clock.expired(at: 8_999) == [])
        #expect(clock.remainingMilliseconds(1, at: 8_999) == 1)
        #expect(clock.expired(at: 9_000) == [1])
        #expect(clock.renewed(1, at: 9_000) == nil)
        #expect(clock.renewed(2, at: 0) == nil)
    }

    @Test("leases end in the order of their times, however often they were renewed")
    func order() {
        var clock = LeaseClock()
        for id in 1...100 as ClosedRange<Int64> { clock.granted(id, seconds: 101 - id, at: 0) }
        for id in 1...50 as ClosedRange<Int64> { _ = clock.renewed(id, at: 10_000) }
        var ended: [Int64] = []
        for second in 1...120 as ClosedRange<Int64> {
            let now = clock.expired(at: second * 1_000)
            for id in now { clock.revoked(id) }
            ended += now
        }
        let expected = (1...100 as ClosedRange<Int64>).sorted { a, b in
            func deadline(_ id: Int64) -> Int64 { 101 - id + (id <= 50 ? 10 : 0) }
            return (deadline(a), a) < (deadline(b), b)
        }
        #expect(ended == expected)
    }

    @Test("a new leader goes on from the last checkpoint, with the time of an election more")
    func promotion() {
        var clock = LeaseClock(), checkpointed = Lease(id: 1, seconds: 100)
        checkpointed.checkpointSeconds = 30
        clock.promote([checkpointed, Lease(id: 2, seconds: 40)], at: 5_000, extraMilliseconds: 1_000)
        #expect(clock.remainingMilliseconds(1, at: 5_000) == 31_000)
        #expect(clock.remainingMilliseconds(2, at: 5_000) == 41_000)
        #expect(clock.renewed(1, at: 6_000) == 100)
        #expect(clock.remainingMilliseconds(1, at: 6_000) == 100_000)
        clock.demote()
        #expect(clock.count == 0)
        #expect(clock.expired(at: .max / 2) == [])
    }

    @Test("at most so many are named at a time")
    func limit() {
        var clock = LeaseClock()
        for id in 1...10 as ClosedRange<Int64> { clock.granted(id, seconds: 1, at: 0) }
        #expect(clock.expired(at: 2_000, limit: 4).count == 4)
        #expect(clock.expired(at: 2_000, limit: 100).count == 6)
    }
}
