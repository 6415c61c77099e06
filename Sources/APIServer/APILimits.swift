import Basics

/// Bounds of the secrets API, each with its reason.
enum APILimits {
    /// Kubernetes' bound on the body of a request: a Secret of 1 MiB in base64, with its last-applied copy.
    static let requestBodyBytesMax = 3 << 20
    /// A watch without `timeoutSeconds` ends after about half an hour, so that clients come to spread again.
    static let watchSecondsDefault: Int64 = 1_800
    static let watchSecondsMax: Int64 = 86_400
    /// Batches that wait for one slow reader; beyond it the stream ends and the client resumes from where it was.
    static let streamBatchesWaitingMax = 1_024
    /// A pod's grace: longer ones are cut, since its node keeps its secrets for as long.
    static let graceSecondsMax: Int64 = 86_400
    /// Kubernetes' bound on a generated name's stem: the suffix and all labels made of it must fit.
    static let generatedStemCharactersMax = 58
    static let generatedNameAttemptsMax = 8
    /// What one node may tell of itself: a pod has a hundred volumes at most.
    static let acknowledgementsPerNodeMax = Limits.podsPerNodeMax * 100
    /// Trails of secrets that one node's acknowledgement changes at a time: together they share the log's syncs.
    static let trailsAtOnce = 16
    /// How long it is kept who held a secret, after the last one let go of it.
    static let trailSecondsMax: Int64 = 30 * 86_400
    /// From accept to the first bytes of a request, TLS included: who cannot say anything by then holds a place for nothing.
    static let firstBytesMilliseconds: Int64 = 10_000
    /// A connection without a request under way is closed.
    static let connectionIdleSeconds: Int64 = 180
}
