import ObjectStore
import Resources

/// What a client says of a deletion, in the body (`DeleteOptions`) or the query.
struct DeletionOptions: Equatable {
    var graceSeconds: Int64?
    var preconditions = ObjectStore.DeletionPreconditions()
    var isDryRun = false

    init(_ query: RequestQuery, body: JSONValue?) throws(Status) {
        graceSeconds = try query.gracePeriodSeconds()
        isDryRun = try query.isDryRun()
        guard let body, body.objectValue?.isEmpty == false else { return }
        guard body["kind"]?.stringValue ?? "DeleteOptions" == "DeleteOptions" else { throw .badRequest("the body of a deletion must be DeleteOptions") }
        if let seconds = body["gracePeriodSeconds"] {
            guard let seconds = seconds.integerValue, seconds >= 0 else { throw .badRequest("gracePeriodSeconds must be a number, 0 or more") }
            graceSeconds = seconds
        }
        preconditions.uid = body.at("preconditions", "uid")?.stringValue
        preconditions.resourceVersion = body.at("preconditions", "resourceVersion")?.stringValue
        if let runs = body["dryRun"]?.arrayValue, !runs.isEmpty {
            guard runs.allSatisfy({ $0.stringValue == "All" }) else { throw .badRequest("dryRun: supported values: \"All\"") }
            isDryRun = true
        }
    }
}

/// A pod's end:
///
///     bound ──delete──▶ terminating until `deletionTimestamp` ──its node says it is gone, or it is over, or the time has come──▶ (absent)
///     not bound, or over, or grace 0 ──delete──▶ (absent)
///
/// The time is the server's. A second deletion can only bring it nearer.
enum PodTermination {
    enum Step: Equatable { case remove, wait(Resource) }

    static func step(_ pod: Resource, graceSeconds wanted: Int64?, now: Timestamp) -> Step {
        let view = Pod(pod)
        var grace = min(wanted ?? view.terminationGracePeriodSeconds, APILimits.graceSecondsMax)
        if view.nodeName.isEmpty || view.isTerminal { grace = 0 }
        if let deadline = pod.deletionTimestamp { grace = min(grace, max(0, deadline.secondsSinceEpoch - now.secondsSinceEpoch)) }
        if grace <= 0, pod.finalizers.isEmpty { return .remove }
        var marked = pod
        marked.deletionTimestamp = Timestamp(secondsSinceEpoch: now.secondsSinceEpoch + grace)
        marked.deletionGracePeriodSeconds = grace
        return .wait(marked)
    }

    /// Whether a terminating pod need not be waited for any longer.
    static func isDue(_ pod: Resource, now: Timestamp) -> Bool {
        guard let deadline = pod.deletionTimestamp, pod.finalizers.isEmpty else { return false }
        let view = Pod(pod)
        return deadline <= now || view.nodeName.isEmpty || view.isTerminal
    }
}
