/// A deliberate bug, to show that the simulator finds it. The special build of `make mutants` compiles them in and chooses one
/// at run time; in every other build `isActive` is the constant `false`, and neither the question nor the bug is in the binary.
package enum Mutant: String, CaseIterable, Sendable {
    // Elections.
    case voteNotPersisted, termForgotten, voteTwiceInTerm, voteForShorterLog, staleVoteCounts, preVoteCountsAsVote
    case candidateAsksBeforeDurable, storedWordOfOldTermCounts, quorumOfHalf, quarantinedVotes
    // Replication.
    case oldTermCommittedByCounting, shortAppendTruncates, conflictNotTruncated, appendWithoutAgreement
    case answerBeforeDurable, leaderCountsBeforeDurable, heartbeatCountsAsAppend
    case heartbeatCommitNotClamped, committedWithoutAgreement
    case uncommittedNeverRefunded, transferNeverEnds
    // Reads.
    case readBeforeFirstCommit, readRoundNotConfirmed, readContextReused, readSurvivesLeadership, followerReadsAlone
    // Membership and snapshots.
    case learnersCounted, oneSideOfJointDecides, twoChangesAtOnce, autoLeaveForgotten
    // The store, its log and its records.
    case forwardedAppliedTwice, deposedAcknowledges, eventsPublishedTwice, readBeforeApplied, appliedIndexAhead, logCutTooFar
    case syncSkipped, leaseEndsEarly, leaseKeysStay, keyDestroyedInUse, compactionTooFar, historySplitsRevision
    // Members that lost something.
    case damagedVoterReadmitted, putBackUnnoticed
    // Sealing.
    case nonceTooShort, keyNameNotBound
    // The agents of nodes.
    case wipeSkipped, graceNeverEnds, secretOfOtherNamespace, olderViewAccepted

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
