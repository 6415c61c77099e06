import Basics
import NodeProtocol
import ObjectStore
import Resources
import SecretMemory

/// One node's stream: what it was told, and what it must be told next. A value: pure.
struct NodeStreamState {
    private var revision: Int64 = 0
    private var pods: [String: DesiredPod] = [:]
    private var secrets: [SecretName: Told] = [:]
    private(set) var hasSnapshot = false

    private struct Told: Equatable {
        var uid: String
        var resourceVersion: Int64
    }

    /// The message that brings the node to `view`; nil when it is there. The first is a snapshot, also of nothing.
    mutating func message(for view: NodeProjection.View, nowMilliseconds: Int64) -> SyncMessage? {
        guard hasSnapshot else {
            told(view)
            return .snapshot(
                DesiredState(revision: view.revision, serverTimeMilliseconds: nowMilliseconds, pods: view.pods, secrets: view.secrets))
        }
        var delta = DesiredDelta(fromRevision: revision, revision: view.revision, serverTimeMilliseconds: nowMilliseconds)
        delta.pods = view.pods.filter { pods[$0.uid] != $0 }
        let uids = Set(view.pods.map(\.uid)), names = Set(view.secrets.map(\.identity))
        delta.removedPodUIDs = pods.keys.filter { !uids.contains($0) }.sorted()
        delta.secrets = view.secrets.filter { secrets[$0.identity] != Told(uid: $0.uid, resourceVersion: $0.resourceVersion) }
        delta.removedSecrets = secrets.keys.filter { !names.contains($0) }.sorted()
        if delta.pods.isEmpty, delta.removedPodUIDs.isEmpty, delta.secrets.isEmpty, delta.removedSecrets.isEmpty { return nil }
        told(view)
        return .delta(delta)
    }

    private mutating func told(_ view: NodeProjection.View) {
        hasSnapshot = true
        revision = view.revision
        pods = Dictionary(view.pods.map { ($0.uid, $0) }) { $1 }
        secrets = Dictionary(view.secrets.map { ($0.identity, Told(uid: $0.uid, resourceVersion: $0.resourceVersion)) }) { $1 }
    }

    /// The secrets in `view` whose content the node does not have: what is about to be released.
    func releases(_ view: NodeProjection.View) -> Set<SecretName> {
        Set(view.secrets.filter { secrets[$0.identity] != Told(uid: $0.uid, resourceVersion: $0.resourceVersion) }.map(\.identity))
    }
    /// The revision of the last message: the next one continues it.
    var toldRevision: Int64 { revision }
}

/// Confirms, before anything is released to a node, that what entitles it still holds: a member that was cut off from the others serves nothing.
struct ReleaseCheck: Sendable {
    let store: ObjectStore

    /// True when every secret that would be released is mounted by a pod that is, at a revision confirmed with a quorum just now, as the
    /// projection has it.
    func confirms(_ view: NodeProjection.View, releasing released: Set<SecretName>) async throws(Status) -> Bool {
        guard !released.isEmpty else { return true }
        let confirmed = try await store.currentRevision()
        guard view.revision < confirmed else { return true }
        // Later revisions exist, of anything at all: look whether they concern the pods that matter.
        var open = released
        for pod in view.podRevisions where !open.isDisjoint(with: pod.mounted) {
            guard let stored = try await store.find(pod.key, at: confirmed), stored.revision == pod.revision else { continue }
            open.subtract(pod.mounted)
        }
        return open.isEmpty
    }
}
