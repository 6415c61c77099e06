import Barrier
import NodeProtocol
import ObjectStore
import Resources
import SecretMemory

/// What every node is entitled to, kept up to date from the stream of changes. A value: no clock, no I/O.
///
/// A node is given a secret only while a pod *bound to it* mounts it and consumes: Pending or Running, or terminating within its grace.
/// The node never names a secret; unbinding drops access in its own revision.
///
/// Invariants: `revision` is the last one applied whole. The content of a secret is held exactly while some consuming pod mounts it:
/// `secrets[name].content != nil` iff `mounts[name] > 0`. `podsByNode` has exactly the pods with a node.
struct NodeProjection: Sendable {
    struct ProjectedPod: Sendable {
        var resource: Resource
        var revision: Int64
        /// Nil for a pod that consumes nothing: not bound, over, or not readable.
        var desired: DesiredPod?
        var nodeName: String
        var mounted: [SecretName]
    }
    struct ProjectedSecret: Sendable {
        var uid: String
        var revision: Int64
        var content: SecretContent?
    }

    private(set) var revision: Int64 = 0
    private(set) var pods: [ObjectKey: ProjectedPod] = [:]
    private(set) var nodes: [String: Resource] = [:]
    private(set) var secrets: [SecretName: ProjectedSecret] = [:]
    private(set) var namespaces: [String: Resource] = [:]
    private var podsByNode: [String: Set<ObjectKey>] = [:]
    private var mounts: [SecretName: Int] = [:]
    private var consumers: [SecretName: Set<ObjectKey>] = [:]
    /// What controllers look for, so that they need not look through everything.
    private(set) var podsAwaitingNode: Set<ObjectKey> = []
    private(set) var podsTerminating: Set<ObjectKey> = []

    /// What a batch changed, for those who act on it.
    struct Changes: Sendable, Equatable {
        /// Nodes whose share may be another now.
        var nodes: Set<String> = []
        var kinds: Kinds = []
    }
    struct Kinds: OptionSet, Sendable {
        let rawValue: UInt8
        static let pods = Kinds(rawValue: 1), nodes = Kinds(rawValue: 2), namespaces = Kinds(rawValue: 4), secrets = Kinds(rawValue: 8)
    }

    // MARK: Taking changes

    /// The secrets whose content must be at hand to apply the batch: mounted by a pod that comes, and not held yet.
    func missingContent(for batch: ObjectEventBatch) -> [SecretName] {
        var wanted: Set<SecretName> = []
        var told: Set<SecretName> = []
        for event in batch.events {
            switch event.object.key.type {
            case .pods where event.kind != .deleted: wanted.formUnion(Self.project(event.object).mounted)
            case .secrets: told.insert(Self.name(event.object.key))
            default: break
            }
        }
        return wanted.filter { mounts[$0] == nil && !told.contains($0) && secrets[$0] != nil }.sorted()
    }

    /// `contents`: what `missingContent` asked for, read at the batch's revision.
    mutating func apply(_ batch: ObjectEventBatch, contents: [SecretName: StoredObject]) -> Changes {
        var changes = Changes()
        // Contents told in the batch are held until its end, though the pod that mounts them may come after them.
        var told: [SecretName: SecretContent] = [:]
        // What a pod left is let go only then, too: the pod itself, changed, or another one may still mount it.
        var left: Set<SecretName> = []
        for event in batch.events {
            switch event.object.key.type {
            case .pods: set(pod: event.kind == .deleted ? nil : event.object, event.object.key, &left, &changes)
            case .secrets: set(secret: event.kind == .deleted ? nil : event.object, event.object.key, &told, &changes)
            case .nodes:
                nodes[event.object.key.name] = event.kind == .deleted ? nil : event.object.shown
                changes.kinds.insert(.nodes)
            default:
                namespaces[event.object.key.name] = event.kind == .deleted ? nil : event.object.shown
                changes.kinds.insert(.namespaces)
            }
        }
        for (name, object) in contents where secrets[name]?.revision == object.revision { told[name] = Self.content(object) }
        for (name, content) in told where mounts[name] != nil { secrets[name]?.content = content }
        for name in left where mounts[name] == nil { secrets[name]?.content = nil }
        revision = max(revision, batch.revision)
        return changes
    }

    private mutating func set(pod object: StoredObject?, _ key: ObjectKey, _ left: inout Set<SecretName>, _ changes: inout Changes) {
        changes.kinds.insert(.pods)
        podsAwaitingNode.remove(key)
        podsTerminating.remove(key)
        if let old = pods.removeValue(forKey: key) {
            left.formUnion(old.mounted)
            changes.nodes.insert(old.nodeName)
            if !old.nodeName.isEmpty {
                podsByNode[old.nodeName]?.remove(key)
                if podsByNode[old.nodeName]?.isEmpty == true { podsByNode[old.nodeName] = nil }
            }
            for name in old.mounted {
                consumers[name]?.remove(key)
                if consumers[name]?.isEmpty == true { consumers[name] = nil }
                mounts[name, default: 1] -= 1
                if mounts[name] == 0 { mounts[name] = nil }
            }
        }
        guard let object else { return }
        let new = Self.project(object)
        pods[key] = new
        if case .success = object.content {
            if Scheduling.awaitsNode(new.resource) { podsAwaitingNode.insert(key) }
            if new.resource.isBeingDeleted { podsTerminating.insert(key) }
        }
        changes.nodes.insert(new.nodeName)
        if !new.nodeName.isEmpty { podsByNode[new.nodeName, default: []].insert(key) }
        for name in new.mounted {
            consumers[name, default: []].insert(key)
            mounts[name, default: 0] += 1
        }
    }

    private mutating func set(secret object: StoredObject?, _ key: ObjectKey, _ told: inout [SecretName: SecretContent], _ changes: inout Changes) {
        let name = Self.name(key)
        changes.kinds.insert(.secrets)
        told[name] = nil
        // The uid of one that does not open is not known, but it is the one it was.
        let knownUID = secrets[name]?.uid ?? ""
        secrets[name] = object.map { ProjectedSecret(uid: $0.shown.uid.isEmpty ? knownUID : $0.shown.uid, revision: $0.revision, content: nil) }
        if let object { told[name] = Self.content(object) }
        for pod in consumers[name] ?? [] { if let node = pods[pod]?.nodeName { changes.nodes.insert(node) } }
    }

    // MARK: Reading

    /// What one node is to have now, with the revision at which each pod was seen.
    struct View: Sendable {
        var revision: Int64
        var pods: [DesiredPod]
        var podRevisions: [(key: ObjectKey, revision: Int64, mounted: [SecretName])]
        var secrets: [DeliveredSecret]
    }

    func view(of node: String, nowMilliseconds: Int64) -> View {
        var view = View(revision: revision, pods: [], podRevisions: [], secrets: [])
        var names: Set<SecretName> = []
        for key in podsByNode[node] ?? [] {
            guard let pod = pods[key], let desired = pod.desired else { continue }
            if let deadline = desired.graceDeadlineMilliseconds, deadline <= nowMilliseconds { continue }
            view.pods.append(desired)
            view.podRevisions.append((key, pod.revision, pod.mounted))
            names.formUnion(pod.mounted)
        }
        view.pods.sort { $0.uid < $1.uid }
        for name in names.sorted() {
            guard let secret = secrets[name], let content = secret.content else { continue }
            view.secrets.append(
                DeliveredSecret(namespace: name.namespace, name: name.name, uid: secret.uid, resourceVersion: secret.revision, content: content))
        }
        return view
    }

    /// The pods bound to a node, whatever they consume.
    func pods(on node: String) -> [ProjectedPod] { (podsByNode[node] ?? []).compactMap { pods[$0] } }
    func podCount(on node: String) -> Int { (podsByNode[node] ?? []).count { pods[$0].map { !Pod($0.resource).isTerminal } ?? false } }
    /// Whether a pod bound to the node refers to the secret in any way, mounted or not.
    func isEntitled(node: String, to name: SecretName) -> Bool {
        pods(on: node).contains { pod in
            pod.desired != nil && pod.resource.namespace == name.namespace && Pod(pod.resource).referencedSecrets.contains(name.name)
        }
    }

    // MARK: From objects

    private static func name(_ key: ObjectKey) -> SecretName { SecretName(namespace: key.namespace, name: key.name) }

    static func project(_ object: StoredObject) -> ProjectedPod {
        let resource = object.shown, pod = Pod(resource)
        var projected = ProjectedPod(resource: resource, revision: object.revision, desired: nil, nodeName: pod.nodeName, mounted: [])
        guard case .success = object.content, !pod.nodeName.isEmpty, !pod.isTerminal else { return projected }
        let volumes = pod.volumes.compactMap(Self.volume)
        projected.mounted = Set(volumes.flatMap(\.sources).compactMap { source in
            guard case .secret(let secret) = source, !secret.secretName.isEmpty else { return nil }
            return SecretName(namespace: resource.namespace, name: secret.secretName)
        }).sorted()
        projected.desired = DesiredPod(
            namespace: resource.namespace, name: resource.name, uid: resource.uid, phase: phase(pod.phase),
            graceDeadlineMilliseconds: resource.deletionTimestamp.map { $0.secondsSinceEpoch * 1000 },
            fsGroup: pod.fsGroup.flatMap { UInt32(exactly: $0) }, volumes: volumes)
        return projected
    }

    private static func phase(_ phase: Pod.Phase) -> PodPhase {
        switch phase {
        case .pending: .pending
        case .running: .running
        case .succeeded: .succeeded
        case .failed: .failed
        case .unknown: .unknown
        }
    }

    /// Nil for volumes that are no business of ours.
    private static func volume(_ volume: Pod.Volume) -> DesiredVolume? {
        func source(_ secret: Pod.SecretSource) -> VolumeSource {
            let items = (secret.items ?? []).map { KeyToPath(key: $0.key, path: $0.path, mode: $0.mode.flatMap { UInt16(exactly: $0) }) }
            return .secret(SecretSource(secretName: secret.secretName, items: items, isOptional: secret.isOptional))
        }
        let sources: [VolumeSource]
        switch volume.source {
        case .secret(let secret): sources = [source(secret)]
        case .projected(let secrets, let unsupported): sources = secrets.map(source) + unsupported.map { .unsupported(kind: $0) }
        case .other: return nil
        }
        let mode = UInt16(exactly: volume.defaultMode) ?? DesiredVolume.defaultModeBits
        return DesiredVolume(name: volume.name, defaultMode: mode, sources: sources)
    }

    /// An operator's word that a secret is to be wiped wherever it is, though pods still want it.
    static let revokedAnnotation = "coffer.dev/revoked"

    private static func content(_ object: StoredObject) -> SecretContent {
        switch object.content {
        case .failure(let failure): return .unreadable(reason: failure.reason)
        case .success(let resource):
            if resource.annotation(revokedAnnotation) == "true" { return .revoked }
            return .data(Secret(resource).data.map { SecretEntry(key: $0.key, value: $0.value) })
        }
    }
}
