import Basics

/// A seeded source of decisions. Each concern of a run has its own, so that taking a fault away does not shuffle all others.
package struct Chance: Sendable {
    private var generator: SeededGenerator
    package init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

    package mutating func next() -> UInt64 { generator.next() }
    /// From 0 to `bound` - 1.
    package mutating func below(_ bound: Int) -> Int {
        precondition(bound > 0)
        return Int(truncatingIfNeeded: ((generator.next() >> 32) &* UInt64(bound)) >> 32)
    }
    package mutating func among(_ range: ClosedRange<Int>) -> Int { range.lowerBound + below(range.upperBound - range.lowerBound + 1) }
    package mutating func happens(perMillion: Int) -> Bool { perMillion > 0 && below(1_000_000) < perMillion }
    package mutating func pick<Choice>(_ choices: [Choice]) -> Choice { choices[below(choices.count)] }
    /// A source of its own, which draws nothing from this one afterwards.
    package mutating func split() -> Chance { Chance(seed: next()) }
}

/// Mixes words into a running hash; equal on every machine and in every process.
package struct EventHash: Hashable, Sendable {
    package private(set) var value: UInt64 = 0x6a09_e667_f3bc_c908
    package init() {}
    package mutating func mix(_ word: UInt64) {
        var z = (value ^ word) &* 0x9e37_79b9_7f4a_7c15
        z = (z ^ (z >> 29)) &* 0xbf58_476d_1ce4_e5b9
        value = z ^ (z >> 32)
    }
}
