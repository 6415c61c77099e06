package import NodeProtocol

/// What is to be done now, what to say of each pod, and when to look again.
///
/// Rules, each with a property test:
/// 1. A consumer is a pod bound here with this uid, pending or running, and a terminating one until its grace ends by the
///    server's clock. A volume without a consumer goes, at once.
/// 2. Nothing goes because of what is not known: without a view, only what a record itself says is over (its grace), or
///    everything once the server was silent longer than the policy allows.
/// 3. A missing or unreadable secret keeps what is mounted and mounts nothing new; a revoked one takes it away.
/// 4. A volume whose pod has another namespace or name than the record, or the mount itself, has is first removed and only then made for the new one.
/// 5. Foreign mounts are reported and never touched.
/// 6. Content is written when its shape differs, and not because of a new revision alone.
package struct MountPlan: Hashable, Sendable {
    package var actions: [MountAction] = []
    /// Of the pods that are consumers, sorted by uid.
    package var reports: [PodReport] = []
    /// The next local time at which this plan may change by itself.
    package var wakeMilliseconds: Int64?

    package init() {}

    fileprivate mutating func wake(at milliseconds: Int64) { wakeMilliseconds = min(wakeMilliseconds ?? .max, milliseconds) }
}

/// `view` nil: nothing complete was heard yet, or not enough to believe it (see `SyncView`).
package func plan(view: DesiredState?, observed: ObservedNode, now: NodeTime, policy: MountPolicy, fingerprint: Fingerprint) -> MountPlan {
    var planner = Planner(observed: observed, now: now, policy: policy)
    planner.plan(view, fingerprint)
    return planner.result
}

/// Pods of the view that may have secrets now, and when that ends.
package func consumers(in view: DesiredState, at now: NodeTime) -> [DesiredPod] { view.pods.filter { $0.isConsumer(at: now.serverMilliseconds) } }

extension DesiredPod {
    package func isConsumer(at serverMilliseconds: Int64) -> Bool {
        guard phase != .succeeded, phase != .failed else { return false }
        return isWithinGrace(at: serverMilliseconds)
    }
    fileprivate func accepts(_ record: VolumeRecord) -> Bool { record.namespace == namespace && record.podName == name }
}

private struct Planner {
    let observed: ObservedNode
    let now: NodeTime
    let policy: MountPolicy
    var result = MountPlan()

    /// A volume of a consumer.
    private struct Want {
        var pod: DesiredPod
        var verdict: VolumeVerdict
    }
    private var wants: [VolumeID: Want] = [:]
    private var wantedIDs: [VolumeID] = []
    /// By pod uid: what is not yet as it should be, in the order of the volumes.
    private var complaints: [String: [Reason]] = [:]
    /// Content is served, but with something to say.
    private var remarks: [String: [Reason]] = [:]

    init(observed: ObservedNode, now: NodeTime, policy: MountPolicy) { self.observed = observed; self.now = now; self.policy = policy }

    private var isStale: Bool {
        guard let limit = policy.staleMillisecondsMax else { return false }
        return now.localMilliseconds - observed.heardMilliseconds >= limit
    }

    mutating func plan(_ view: DesiredState?, _ fingerprint: Fingerprint) {
        let pods = view.map { consumers(in: $0, at: now).sorted { $0.uid < $1.uid } } ?? []
        if let view {
            let secrets = SecretLookup(view.secrets)
            for pod in pods { collect(pod, secrets, fingerprint) }
            for pod in view.pods {
                if let deadline = pod.graceDeadlineMilliseconds, pod.isConsumer(at: now.serverMilliseconds) { wakeAtServerTime(deadline) }
            }
        }
        var makes: [MountAction] = []
        var seen: Set<VolumeID> = []
        for volume in observed.volumes {
            seen.insert(volume.id)
            if let action = action(for: volume, view: view) {
                if case .remove = action { result.actions.append(action) } else { makes.append(action) }
            }
        }
        for id in wantedIDs where !seen.contains(id) {
            if let want = wants[id], let action = creation(of: id, for: want, revision: view?.revision ?? 0) { makes.append(action) }
        }
        if view != nil || isStale { result.actions += observed.strays.map(MountAction.removeStray) }
        result.actions += makes
        if let limit = policy.staleMillisecondsMax, !isStale { result.wake(at: observed.heardMilliseconds.saturatingAdd(limit)) }
        result.reports = pods.map(report)
    }

    // MARK: what is wanted

    private mutating func collect(_ pod: DesiredPod, _ secrets: SecretLookup, _ fingerprint: Fingerprint) {
        guard VolumeNames.isPodUID(pod.uid) else { return complain(pod, Reason(.invalidPod, "the pod's uid is no lower-case UUID")) }
        for volume in pod.volumes {
            guard let id = VolumeID(podUID: pod.uid, volume: volume.name) else {
                complain(pod, Reason(.invalidVolume, "a volume's name is no DNS label"))
                continue
            }
            guard wants[id] == nil else {
                complain(pod, Reason(.invalidVolume, "two volumes are named \(volume.name)"))
                continue
            }
            wantedIDs.append(id)
            let verdict = volume.verdict(namespace: pod.namespace, group: pod.fsGroup, policy: policy, secrets: secrets, fingerprint: fingerprint)
            wants[id] = Want(pod: pod, verdict: verdict)
        }
    }

    private mutating func complain(_ pod: DesiredPod, _ reason: Reason) { complaints[pod.uid, default: []].append(reason) }
    private mutating func remark(_ pod: DesiredPod, _ reason: Reason) { remarks[pod.uid, default: []].append(reason) }

    private func record(_ pod: DesiredPod, _ layout: VolumeLayout, revision: Int64, retired: [RetiredVersion] = []) -> VolumeRecord {
        VolumeRecord(namespace: pod.namespace, podName: pod.name, revision: revision, graceDeadlineMilliseconds: pod.graceDeadlineMilliseconds,
                     shape: layout.shape, holdings: layout.holdings, retired: retired)
    }

    private mutating func creation(of id: VolumeID, for want: Want, revision: Int64) -> MountAction? {
        switch want.verdict {
        case .unavailable(let reason), .revoked(let reason):
            complain(want.pod, reason)
            return nil
        case .layout(let layout):
            guard !isStale else {
                complain(want.pod, Reason(.stale, "the server was not heard for too long"))
                return nil
            }
            guard observed.isConnected else {
                complain(want.pod, Reason(.pending, "volume \(id.volume) waits for the server"))
                return nil
            }
            complain(want.pod, Reason(.pending, "volume \(id.volume) is being made"))
            return .create(id, record(want.pod, layout, revision: revision), layout)
        }
    }

    // MARK: what is there

    private mutating func action(for volume: ObservedVolume, view: DesiredState?) -> MountAction? {
        let want = wants[volume.id]
        if case .foreign(let what) = volume.mount {
            if let want { complain(want.pod, Reason(.foreignMount, "volume \(volume.id.volume): \(what) is mounted in its place")) }
            return nil
        }
        if let failure = volume.failure, failure.retryMilliseconds > now.localMilliseconds {
            result.wake(at: failure.retryMilliseconds)
            if let want { complain(want.pod, Reason(.failed, "volume \(volume.id.volume): \(failure.message)")) }
            return nil
        }
        if let cause = removalCause(of: volume, want: want, view: view) {
            if let want { complain(want.pod, Self.complaint(for: cause, want.verdict, volume.id)) }
            return .remove(volume.id, cause)
        }
        guard let want else {
            // No view: what stands stays, and so do its versions' ends.
            return versionsDue(volume)
        }
        guard volume.mount == .ours else { return creation(of: volume.id, for: want, revision: view?.revision ?? 0) }
        switch want.verdict {
        case .revoked, .unavailable:
            if case .unavailable(let reason) = want.verdict { remark(want.pod, Reason(reason.code, reason.message + "; the last version stays")) }
            return versionsDue(volume)
        case .layout(let layout):
            return refreshed(volume, layout, want.pod, revision: view?.revision ?? 0)
        }
    }

    private func removalCause(of volume: ObservedVolume, want: Want?, view: DesiredState?) -> MountAction.RemovalCause? {
        if isStale { return .stale }
        guard view != nil else {
            guard let deadline = volume.record?.graceDeadlineMilliseconds, deadline <= now.serverMilliseconds else { return nil }
            return .graceEnded
        }
        guard let want else { return volume.record?.graceDeadlineMilliseconds.map { $0 <= now.serverMilliseconds } == true ? .graceEnded : .noConsumer }
        if let record = volume.record, !want.pod.accepts(record) { return .podReplaced }
        if volume.mount == .ours, volume.owner != VolumeOwner.name(of: volume.id, namespace: want.pod.namespace, podName: want.pod.name) { return .podReplaced }
        if case .revoked = want.verdict, volume.mount == .ours { return .revoked }
        return nil
    }

    private static func complaint(for cause: MountAction.RemovalCause, _ verdict: VolumeVerdict, _ id: VolumeID) -> Reason {
        switch cause {
        case .revoked:
            if case .revoked(let reason) = verdict { return reason }
            return Reason(.secretRevoked, "volume \(id.volume): revoked")
        case .podReplaced: return Reason(.podUIDReused, "volume \(id.volume): another pod had this uid; its files are removed first")
        default: return Reason(.stale, "the server was not heard for too long")
        }
    }

    /// The volume is mounted and its content can be had: written anew, noted anew, or left.
    private mutating func refreshed(_ volume: ObservedVolume, _ layout: VolumeLayout, _ pod: DesiredPod, revision: Int64) -> MountAction? {
        guard observed.isConnected else { return versionsDue(volume) }
        guard let known = volume.record else {
            remark(pod, Reason(.pending, "volume \(volume.id.volume) was found without a record and is written anew"))
            return .update(volume.id, record(pod, layout, revision: revision), layout)
        }
        if known.shape != layout.shape {
            if let action = versionsDue(volume) { return action }
            if let wait = mustWait(known, layout) {
                result.wake(at: wait)
                remark(pod, Reason(.pending, "volume \(volume.id.volume): a newer version waits for the grace of older ones"))
                return nil
            }
            return .update(volume.id, record(pod, layout, revision: revision, retired: known.retired), layout)
        }
        if let action = versionsDue(volume) { return action }
        var noted = record(pod, layout, revision: known.revision, retired: known.retired)
        guard noted != known else { return nil }
        noted.revision = revision
        return .note(volume.id, noted)
    }

    /// Too many superseded versions are still readable: nil when another may join them.
    private func mustWait(_ known: VolumeRecord, _ layout: VolumeLayout) -> Int64? {
        guard let first = known.retired.map(\.dueMilliseconds).min() else { return nil }
        let size = known.shape.capacity.union(layout.shape.capacity).bytes
        let (total, overflow) = size.multipliedReportingOverflow(by: known.retired.count + 2)
        let room = !overflow && (total <= 3 * policy.volumeBytesMax || known.retired.count < 1)
        return room && known.retired.count < policy.retiredVersionsMax ? nil : first
    }

    private mutating func versionsDue(_ volume: ObservedVolume) -> MountAction? {
        guard volume.mount == .ours, let record = volume.record else { return nil }
        let due = record.retired.filter { $0.dueMilliseconds <= now.localMilliseconds }.map(\.name)
        for version in record.retired where version.dueMilliseconds > now.localMilliseconds { result.wake(at: version.dueMilliseconds) }
        return due.isEmpty ? nil : .wipeVersions(volume.id, due)
    }

    private mutating func wakeAtServerTime(_ deadline: Int64) {
        let (wait, overflow) = deadline.subtractingReportingOverflow(now.serverMilliseconds)
        if !overflow { result.wake(at: now.localMilliseconds.saturatingAdd(wait)) }
    }

    // MARK: what is said

    private func report(_ pod: DesiredPod) -> PodReport {
        let complaints = complaints[pod.uid] ?? [], remarks = remarks[pod.uid] ?? []
        if let first = complaints.first { return report(pod, false, Reason(first.code, Self.joined(complaints))) }
        if let first = remarks.first { return report(pod, true, Reason(first.code, Self.joined(remarks))) }
        guard !pod.volumes.isEmpty else { return report(pod, true, Reason(.noSecretVolumes, "the pod has no volume of secrets")) }
        return report(pod, true, Reason(.mounted, pod.volumes.count == 1 ? "1 volume is mounted" : "\(pod.volumes.count) volumes are mounted"))
    }
    private func report(_ pod: DesiredPod, _ isReady: Bool, _ reason: Reason) -> PodReport {
        PodReport(podUID: pod.uid, namespace: pod.namespace, podName: pod.name, isReady: isReady, reason: reason)
    }
    /// A condition's message is shown in tables: a few sentences, not a hundred.
    private static func joined(_ reasons: [Reason]) -> String {
        let shown = reasons.prefix(4).map(\.message).joined(separator: "; ")
        return reasons.count > 4 ? shown + "; and \(reasons.count - 4) more" : shown
    }
}

extension Int64 {
    fileprivate func saturatingAdd(_ other: Int64) -> Int64 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? (other < 0 ? .min : .max) : sum
    }
}
