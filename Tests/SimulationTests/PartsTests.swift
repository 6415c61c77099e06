import Basics
import Simulation
import Testing

@Suite("The simulator's parts")
struct PartsTests {
    @Test("events happen in order of time, and of asking within one time")
    func order() {
        var queue = EventQueue<Int>()
        var chance = Chance(seed: 1)
        var expected: [(time: UInt32, number: Int)] = []
        for number in 0..<500 {
            let time = UInt32(chance.below(20))
            queue.schedule(number, at: time)
            expected.append((time, number))
        }
        expected.sort { ($0.time, $0.number) < ($1.time, $1.number) }
        for next in expected {
            let event = queue.next()
            #expect(event?.time == next.time && event?.payload == next.number)
        }
        let isEmpty = queue.isEmpty
        #expect(isEmpty)
    }

    @Test("a choice falls on every value below its bound, and on no other")
    func below() {
        var chance = Chance(seed: 7)
        var seen = [Int](repeating: 0, count: 6)
        for _ in 0..<6_000 { seen[chance.below(6)] += 1 }
        #expect(seen.allSatisfy { $0 > 800 && $0 < 1_200 })
    }

    @Test("a ledger carries out the faults it is allowed, by number")
    func ledger() {
        var ledger = FaultLedger(allowed: [2, 5])
        #expect((1...6).map { _ in ledger.admits() } == [false, true, false, false, true, false])
        #expect(ledger.decided == 6 && ledger.carriedOut == 2)
    }

    @Test("no mutant is in a build that did not ask for it")
    func mutants() {
        #if !COFFER_MUTANTS
        #expect(!Mutant.areCompiledIn && Mutant.allCases.allSatisfy { !Mutant.isActive($0) })
        #endif
    }
}
