package import Basics

package enum VoteResult: Hashable, Sendable { case pending, won, lost }

/// Decides by majority of a set of voters. The empty set agrees to everything, so that two can be required jointly.
package struct Majority: Hashable, Sendable {
    /// Sorted, without duplicates.
    package let voters: [MemberID]
    package init(_ voters: some Sequence<MemberID>) {
        var unique: [MemberID] = []
        for voter in voters.sorted() where voter != unique.last { unique.append(voter) }
        self.voters = unique
    }

    package func contains(_ member: MemberID) -> Bool { voters.contains(member) }
    package var quorum: Int { voters.count / 2 + 1 }

    /// The greatest number that a majority has reached; `UInt64.max` for no voters at all.
    package func reached(_ number: (MemberID) -> UInt64) -> UInt64 {
        if voters.count == 1 { return number(voters[0]) }
        guard !voters.isEmpty else { return .max }
        return voters.map(number).sorted(by: >)[quorum - 1]
    }

    package func result(_ vote: (MemberID) -> Bool?) -> VoteResult {
        var granted = 0, missing = 0
        for voter in voters {
            switch vote(voter) {
            case true?: granted += 1
            case nil: missing += 1
            case false?: break
            }
        }
        if voters.isEmpty || granted >= quorum { return .won }
        return granted + missing >= quorum ? .pending : .lost
    }
}

/// One election's votes, a set by voter: an answer that comes twice counts once, and the first one counts.
package struct Ballot: Hashable, Sendable {
    private var votes: [(voter: MemberID, granted: Bool)] = []
    package init() {}
    package mutating func record(_ voter: MemberID, granted: Bool) {
        guard self[voter] == nil else { return }
        votes.append((voter, granted))
    }
    package subscript(voter: MemberID) -> Bool? { votes.first { $0.voter == voter }?.granted }

    package static func == (a: Ballot, b: Ballot) -> Bool { a.votes.elementsEqual(b.votes) { $0 == $1 } }
    package func hash(into hasher: inout Hasher) { hasher.combine(votes.count) }
}
