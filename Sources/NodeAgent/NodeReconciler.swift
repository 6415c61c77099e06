import Basics
import CLinux
package import Mounts
package import NodeProtocol
import SecretMemory

/// What one round of work came to.
package struct Reconciliation: Sendable, Equatable {
    /// Of every consumer, sorted by uid.
    package var reports: [PodReport] = []
    /// What was materialized and wiped, in the order it was done.
    package var acknowledgements: [Acknowledgement.Entry] = []
    /// What stands besides, for a server that may not know: see `tellHoldings`.
    package var holdings: [Acknowledgement.Entry] = []
    /// In milliseconds since boot: when to look again without being asked.
    package var wakeMilliseconds: Int64?
    /// Actions that failed, in words.
    package var failures: [String] = []
    package init() {}
}

/// View, plan and engine together: messages in, mounts and words out. One thread owns it; it knows no network.
package final class NodeReconciler {
    private let engine: VolumeEngine
    private let policy: MountPolicy
    private var view: SyncView
    private var isDrained = false
    private var tellsHoldings = false
    private var last = Reconciliation()
    /// Keyed hashes of what is held, per secret version, so that an unchanged secret is hashed once.
    private var hashes: [HashKey: Bytes] = [:]
    /// Secrets that a volume no longer has, though a superseded version of it, soon to be wiped, does.
    private var leaving: [VolumeID: [Holding]] = [:]
    private static let roundsMax = 16

    private struct HashKey: Hashable { var uid: String, resourceVersion: Int64, key: String }

    package init(engine: VolumeEngine, policy: MountPolicy) {
        self.engine = engine
        self.policy = policy
        view = SyncView(revision: engine.node.revision, heardMilliseconds: engine.node.heardMilliseconds,
                        serverOffsetMilliseconds: engine.node.serverOffsetMilliseconds)
    }

    package var revision: Int64 { view.revision }
    package var isNoswap: Bool { engine.noswap }

    /// Pods that have something mounted here.
    package func observedPodUIDs() throws -> [String] {
        var uids: [String] = []
        for volume in try engine.observe().volumes where volume.mount == .ours && uids.last != volume.id.podUID { uids.append(volume.id.podUID) }
        return uids
    }

    package func receive(_ message: SyncMessage) throws -> SyncView.Verdict {
        var mounted = 0
        if case .snapshot(let state) = message, state.pods.isEmpty { mounted = try engine.observe().volumes.filter { $0.mount == .ours }.count }
        return view.receive(message, localMilliseconds: clinux_boot_milliseconds(), mountedVolumes: mounted)
    }
    package func disconnect() { view.disconnect() }

    /// A server that was started again, or another one, does not know what this node holds: it is told with the next complete view.
    package func tellHoldings() { tellsHoldings = true }

    /// Plans and acts until there is nothing to do, or only what failed.
    package func reconcile() throws -> Reconciliation {
        var result = Reconciliation()
        try engine.save(VolumeEngine.NodeMark(revision: view.revision, heardMilliseconds: view.heardMilliseconds,
                                              serverOffsetMilliseconds: view.serverOffsetMilliseconds))
        guard !isDrained else { return result }
        for _ in 0..<Self.roundsMax {
            let now = view.now(localMilliseconds: clinux_boot_milliseconds())
            view.release(at: now)
            let plan = try makePlan(at: now)
            result.reports = plan.reports
            result.wakeMilliseconds = plan.wakeMilliseconds
            guard !plan.actions.isEmpty else { break }
            try perform(plan.actions, into: &result)
        }
        if tellsHoldings, view.isConnected {
            tellsHoldings = false
            let told = Set(result.acknowledgements.filter { $0.outcome == .materialized }.map { "\($0.podUID)/\($0.secretUID)" })
            result.holdings = engine.recorded.flatMap { Self.entries(.materialized, $0.id, $0.record) }
                .filter { !told.contains("\($0.podUID)/\($0.secretUID)") }
        }
        forgetHashes()
        last = result
        return result
    }

    private func makePlan(at now: NodeTime) throws -> MountPlan {
        let (volumes, strays) = try engine.observe()
        let observed = ObservedNode(volumes: volumes, strays: strays, heardMilliseconds: view.heardMilliseconds, isConnected: view.isConnected)
        return plan(view: view.desired, observed: observed, now: now, policy: policy) { [self] reference in
            let key = HashKey(uid: reference.secret.uid, resourceVersion: reference.secret.resourceVersion, key: reference.entry.key)
            if let known = hashes[key] { return known }
            let hash = engine.fingerprint(reference.entry.value)
            hashes[key] = hash
            return hash
        }
    }

    private func perform(_ actions: [MountAction], into result: inout Reconciliation) throws {
        let secrets = SecretLookup(view.desired?.secrets ?? [])
        for action in actions {
            let before = action.volume.flatMap(engine.record)
            do {
                try engine.perform(action, secrets: secrets)
            } catch let crash as CrashRequest {
                throw crash
            } catch {
                result.failures.append("\(action.volume?.description ?? "a stray mount"): \(error)")
                continue
            }
            if let id = action.volume { acknowledge(action, id, before, into: &result) }
        }
    }

    private func acknowledge(_ action: MountAction, _ id: VolumeID, _ before: VolumeRecord?, into result: inout Reconciliation) {
        switch action {
        case .create(_, let record, _), .update(_, let record, _), .note(_, let record):
            let names = Set(record.holdings.map(\.secret))
            let left = before?.holdings.filter { !names.contains($0.secret) } ?? []
            if !left.isEmpty { leaving[id, default: []] += left }
            if record.holdings != before?.holdings || action.steps.count > 1 { result.acknowledgements += Self.entries(.materialized, id, record) }
        case .remove:
            guard let before else { return }
            result.acknowledgements += wiped(id, before, before.holdings + (leaving.removeValue(forKey: id) ?? []))
            if !engine.hasRecords(ofPod: id.podUID) {
                result.acknowledgements.append(.init(outcome: .podRemoved, namespace: before.namespace, podName: before.podName, podUID: id.podUID))
            }
        case .wipeVersions:
            guard let record = engine.record(of: id), record.retired.isEmpty, let left = leaving.removeValue(forKey: id) else { return }
            result.acknowledgements += wiped(id, record, left)
        case .removeStray: break
        }
    }

    /// Of `holdings`, what no volume of the pod has any more.
    private func wiped(_ id: VolumeID, _ record: VolumeRecord, _ holdings: [Holding]) -> [Acknowledgement.Entry] {
        var standing: Set<SecretName> = []
        for (other, record) in engine.recorded where other.podUID == id.podUID { standing.formUnion(record.holdings.map(\.secret)) }
        var gone = record
        gone.holdings = holdings.filter { !standing.contains($0.secret) }
        return Self.entries(.wiped, id, gone)
    }

    private static func entries(_ outcome: Acknowledgement.Outcome, _ id: VolumeID, _ record: VolumeRecord) -> [Acknowledgement.Entry] {
        record.holdings.map {
            .init(outcome: outcome, namespace: record.namespace, podName: record.podName, podUID: id.podUID, secretName: $0.secret.name,
                  secretUID: $0.uid, resourceVersion: $0.resourceVersion)
        }
    }

    /// Hashes live as long as what they are of.
    private func forgetHashes() {
        guard !hashes.isEmpty else { return }
        var kept: [HashKey: Bytes] = [:]
        for secret in view.desired?.secrets ?? [] {
            guard case .data(let entries) = secret.content else { continue }
            for entry in entries {
                let key = HashKey(uid: secret.uid, resourceVersion: secret.resourceVersion, key: entry.key)
                if let hash = hashes[key] { kept[key] = hash }
            }
        }
        hashes = kept
    }

    // MARK: by hand

    /// Wipes and unmounts everything of ours, lets go of every secret in memory, and stays so until the process is started again.
    package func drain() throws -> Reconciliation {
        isDrained = true
        view.keepNothing(at: view.now(localMilliseconds: clinux_boot_milliseconds()))
        forgetHashes()
        var result = Reconciliation()
        let (volumes, strays) = try engine.observe()
        let standing = volumes.filter { $0.mount != .none || $0.record != nil }
        try perform(standing.map { .remove($0.id, .drained) } + strays.map(MountAction.removeStray), into: &result)
        try perform(engine.observe().volumes.map { .remove($0.id, .drained) }, into: &result)
        last = result
        return result
    }

    /// What nothing accounts for: mounts of ours without a record, mount points without a mount, strays.
    package func leftovers() throws -> [String] {
        let (volumes, strays) = try engine.observe()
        var found: [String] = []
        for volume in volumes where volume.record == nil {
            switch volume.mount {
            case .ours: found.append("\(engine.rootPath)/pods/\(volume.id): a mount without a record")
            case .none: found.append("\(engine.rootPath)/pods/\(volume.id): an empty mount point")
            case .foreign(let what): found.append("\(engine.rootPath)/pods/\(volume.id): foreign (\(what)), never touched")
            }
        }
        return found + strays.map { "\($0.path): a mount of the agent's that is no volume" }
    }

    /// Removes the leftovers that are ours.
    package func collectLeftovers() throws -> Reconciliation {
        var result = Reconciliation()
        let (volumes, strays) = try engine.observe()
        let actions = volumes.filter { volume in
            if case .foreign = volume.mount { return false }
            return volume.record == nil
        }.map { MountAction.remove($0.id, .noConsumer) }
        try perform(actions + strays.map(MountAction.removeStray), into: &result)
        return result
    }

    package func status(node: String) throws -> NodeStatus {
        let (volumes, strays) = try engine.observe()
        let heard = clinux_boot_milliseconds() - view.heardMilliseconds
        return NodeStatus(
            node: node, root: engine.rootPath, revision: view.revision, isConnected: view.isConnected, isDrained: isDrained, isNoswap: engine.noswap,
            heardMillisecondsAgo: heard, pods: (view.desired?.pods ?? []).count, secretsHeld: (view.desired?.secrets ?? []).count,
            volumes: volumes.map(NodeStatus.Volume.init), strays: strays.map(\.path), reports: last.reports.map(NodeStatus.Report.init))
    }
}
