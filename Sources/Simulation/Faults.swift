/// A moment at which a fault hurts more than at a random one.
package enum Moment: UInt8, CaseIterable, Sendable {
    case campaigned, voteDurable, elected, appendSent, appendDurable, committed, readBegun, restarted, changeProposed, snapshotSent
}

/// What can go wrong with a member, apart from single messages.
package enum Mishap: UInt8, CaseIterable, Sendable {
    case crash
    /// Nobody hears it, and it hears nobody.
    case isolate
    /// Nobody hears it.
    case mute
    /// It hears nobody.
    case deafen
    /// Stands still, with its clock, and goes on later as if nothing had happened.
    case pause
    /// Whatever is on its way to or from it is lost.
    case loseInFlight
    /// The members fall into two groups that do not hear each other.
    case split
    /// Its next sync fails: what was written may be there or not, and the member stops.
    case failSync
    /// Another member campaigns at once.
    case rival
    /// It and another one crash.
    case crashPair
    /// It may neither vote nor lead for a while.
    case quarantine
}

/// How hard a run is tried. Drawn from the seed, so that no two runs are tried alike ("swarm testing"); most runs leave most faults out.
package struct FaultProfile: Sendable {
    /// A fault aimed at a moment.
    package struct Aim: Sendable {
        package var moment: Moment
        package var mishap: Mishap
        package var perMillion: Int
    }
    package var lossPerMillion: Int
    package var duplicatePerMillion: Int
    /// Milliseconds a message takes at most; the least is 1.
    package var delayMax: Int
    /// Messages that take a hundred times as long.
    package var stragglerPerMillion: Int
    /// Votes that take longer than an election.
    package var lateVotePerMillion: Int
    package var syncMax: Int
    /// Milliseconds between two mishaps at random, at most; 0: none.
    package var mishapEvery: Int
    package var mishaps: [Mishap]
    package var outageMax: Int
    package var aims: [Aim]

    package init(_ chance: inout Chance) {
        lossPerMillion = chance.pick([0, 0, 2_000, 20_000, 150_000])
        duplicatePerMillion = chance.pick([0, 0, 10_000, 100_000])
        delayMax = chance.pick([2, 10, 40, 200, 900])
        stragglerPerMillion = chance.pick([0, 0, 1_000, 20_000])
        lateVotePerMillion = chance.pick([0, 0, 20_000, 200_000])
        syncMax = chance.pick([1, 5, 30, 300])
        mishapEvery = chance.pick([0, 500, 2_000, 2_000, 8_000])
        mishaps = Mishap.allCases.filter { _ in chance.below(3) > 0 }
        if mishaps.isEmpty { mishaps = [.crash] }
        outageMax = chance.pick([300, 2_000, 6_000])
        aims = []
        for _ in 0..<chance.pick([0, 1, 1, 2, 3]) {
            aims.append(Aim(moment: chance.pick(Moment.allCases), mishap: chance.pick(Mishap.allCases),
                            perMillion: chance.pick([5_000, 50_000, 300_000])))
        }
    }
    /// Nothing goes wrong.
    package static let calm: FaultProfile = {
        var chance = Chance(seed: 0)
        var profile = FaultProfile(&chance)
        profile.lossPerMillion = 0
        profile.duplicatePerMillion = 0
        profile.delayMax = 5
        profile.stragglerPerMillion = 0
        profile.lateVotePerMillion = 0
        profile.syncMax = 2
        profile.mishapEvery = 0
        profile.aims = []
        return profile
    }()
}

/// Numbers every fault of a run in the order of its decisions. Shrinking repeats a run with a part of them only.
package struct FaultLedger: Sendable {
    package private(set) var decided = 0
    package private(set) var carriedOut = 0
    /// Sorted; `nil` allows all.
    private let allowed: [Int]?
    private var nextAllowed = 0

    package init(allowed: [Int]? = nil) { self.allowed = allowed }

    /// Whether the fault just decided upon is carried out.
    package mutating func admits() -> Bool {
        decided += 1
        if let allowed {
            while nextAllowed < allowed.count, allowed[nextAllowed] < decided { nextAllowed += 1 }
            guard nextAllowed < allowed.count, allowed[nextAllowed] == decided else { return false }
        }
        carriedOut += 1
        return true
    }
}
