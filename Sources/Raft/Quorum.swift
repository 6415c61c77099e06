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
    package var quorum: Int { Mutant.isActive(.quorumOfHalf) ? max(1, (voters.count + 1) / 2) : voters.count / 2 + 1 }
    /// Members that are in one of the two only.
    package func differences(from other: Majority) -> Int {
        voters.count { !other.contains($0) } + other.voters.count { !contains($0) }
    }

    /// The greatest number that a majority has reached; `UInt64.max` for no voters at all.
    package func reached(_ number: (MemberID) -> UInt64) -> UInt64 {
        switch voters.count {
        case 0: return .max
        case 1: return number(voters[0])
        case 2: return min(number(voters[0]), number(voters[1]))
        case 3:
            let a = number(voters[0]), b = number(voters[1]), c = number(voters[2])
            return max(min(a, b), min(max(a, b), c))
        default: return voters.map(number).sorted(by: >)[quorum - 1]
        }
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
    private struct Vote: Hashable { var voter: MemberID; var granted: Bool }
    private var votes: [Vote] = []
    package init() {}
    package mutating func record(_ voter: MemberID, granted: Bool) {
        guard self[voter] == nil else { return }
        votes.append(Vote(voter: voter, granted: granted))
    }
    package subscript(voter: MemberID) -> Bool? { votes.first { $0.voter == voter }?.granted }
}
