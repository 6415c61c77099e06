/// A deliberate bug, to show that the simulator finds it. The special build of `make mutants` compiles them in and chooses one
/// at run time; in every other build `isActive` is the constant `false`, and neither the question nor the bug is in the binary.
package enum Mutant: String, CaseIterable, Sendable {
    // Elections.
    case voteNotPersisted, votesCountedTwice, voteTwiceInTerm, voteForShorterLog, leadsBeforeVoteIsDurable, quorumOfHalf
    case preVoteGrantCountsAsVote
    // Replication.
    case oldTermCommittedByCounting, shortAppendTruncates, answerBeforeDurable, leaderCountsBeforeDurable
    case heartbeatCommitNotClamped, appendCommitNotClamped, storedWordOfOldTermCounts, conflictNotTruncated, appendWithoutAgreement
    case commitBeyondMatch, lostProbeNeverRepeated
    // Reads.
    case readBeforeFirstCommit, readRoundNotConfirmed, readContextReused, readSurvivesLeadership
    // Membership.
    case learnersCounted, oneSideOfJointDecides, campaignWithUnappliedChange, twoChangesAtOnce, autoLeaveForgotten
    // Store.
    case appliedBeforeDurable

    #if COFFER_MUTANTS
    /// Set once, before anything runs.
    nonisolated(unsafe) package static var selected: Mutant?
    package static func isActive(_ mutant: Mutant) -> Bool { selected == mutant }
    package static let areCompiledIn = true
    #else
    @inlinable @inline(__always) package static func isActive(_ mutant: Mutant) -> Bool { false }
    package static let areCompiledIn = false
    #endif
}
