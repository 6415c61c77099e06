import Foundation
import Logging
import ObjectStore
import Resources

/// What happens without a request: pods are bound and ended, namespaces are emptied, nodes are found present or absent. Each looks at
/// the feed's state, does what it finds due, and looks again when something changed or some seconds passed. All steps may be repeated.
///
/// Of several members with one store the leader does them. Only whether a node is there is told by the member that has its stream: it renews
/// the node's heartbeat, and the others find the node absent when nobody has done so for long.
struct Controllers: Sendable {
    /// A node without a stream for so long is no longer ready.
    static let nodeAbsenceSeconds = 10.0
    /// Among several members: how old a heartbeat gets before it is renewed, and before the node counts as absent.
    static let heartbeatRenewalSeconds: Int64 = 10
    static let heartbeatAbsenceSeconds: Int64 = 30

    let store: ObjectStore
    let feed: ObjectFeed
    let sessions: NodeSessions
    let schedules: Bool
    let isOneOfMany: Bool
    let leads: @Sendable () -> Bool
    let clock: @Sendable () -> Date
    let logger: Logger

    func run() async {
        await prepare()
        await withDiscardingTaskGroup { group in
            group.addTask { await self.feed.run() }
            group.addTask { await self.repeating(at: .pods) { await self.endPods() } }
            group.addTask { await self.repeating(at: [.namespaces, .pods, .secrets]) { await self.emptyNamespaces() } }
            group.addTask { await self.repeating(at: .nodes) { await self.reviewNodes() } }
            group.addTask { await self.forgetTrails() }
            if self.schedules { group.addTask { await self.repeating(at: [.pods, .nodes]) { await self.schedulePods() } } }
        }
    }

    /// The namespace that is always there, and what an interruption may have left; tried until the store can be reached.
    private func prepare() async {
        while !Task.isCancelled {
            do throws(Status) {
                let now = now
                try await store.ensureNamespace(ObjectStore.defaultNamespace) {
                    var namespace = Resource(
                        .namespaces,
                        tree: [
                            "apiVersion": "v1", "kind": "Namespace",
                            "metadata": [
                                "name": .string(ObjectStore.defaultNamespace),
                                "labels": ["kubernetes.io/metadata.name": .string(ObjectStore.defaultNamespace)],
                            ], "status": ["phase": "Active"],
                        ])
                    namespace.uid = UUID().uuidString.lowercased()
                    namespace.creationTimestamp = now
                    return namespace
                }
                try await store.discardOrphans()
                return
            } catch {
                logger.debug("the store is not ready", metadata: ["reason": "\(error.message)"])
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    /// At each change of these kinds, and every second for what only time brings.
    private func repeating(at kinds: NodeProjection.Kinds, _ step: @escaping @Sendable () async -> Void) async {
        let changes = feed.changes(of: kinds)
        await withDiscardingTaskGroup { group in
            let (wakes, wake) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
            group.addTask { for await _ in changes { wake.yield() }; wake.finish() }
            group.addTask {
                while !Task.isCancelled {
                    try? await Task.sleep(for: .seconds(1))
                    wake.yield()
                }
            }
            for await _ in wakes { await step() }
        }
    }

    private var now: Timestamp { Timestamp(secondsSinceEpoch: Int64(clock().timeIntervalSince1970)) }

    /// A failure concerns one object and one attempt: the next look tries again.
    private func attempt(_ what: String, _ step: () async throws(Status) -> Void) async {
        do throws(Status) {
            try await step()
        } catch {
            if error.reason != .notFound { logger.debug("a controller's step failed", metadata: ["step": "\(what)", "reason": "\(error.message)"]) }
        }
    }

    // MARK: Pods

    func endPods() async {
        guard leads() else { return }
        let now = now
        let due = feed.read { projection in
            projection.podsTerminating.compactMap { projection.pods[$0] }.filter { PodTermination.isDue($0.resource, now: now) }
        } ?? []
        for pod in due {
            guard let key = pod.resource.key else { continue }
            await attempt("end pod") { () async throws(Status) in
                try await store.delete(key, .init(uid: pod.resource.uid)) { (current) throws(Status) in
                    guard PodTermination.isDue(current.shown, now: now) else { throw .modified(.pods, key.name) }
                }
            }
        }
    }

    func schedulePods() async {
        guard leads(), let (pods, nodes) = feed.read({ projection -> ([Resource], [Scheduling.Candidate]) in
            guard !projection.podsAwaitingNode.isEmpty else { return ([], []) }
            return (projection.podsAwaitingNode.compactMap { projection.pods[$0]?.resource },
                    projection.nodes.values.map { Scheduling.Candidate(node: Node($0), pods: projection.podCount(on: $0.name)) })
        }) else { return }
        var candidates = nodes
        let inOrder = pods.sorted {
            ($0.creationTimestamp?.secondsSinceEpoch ?? 0, $0.namespace, $0.name) < ($1.creationTimestamp?.secondsSinceEpoch ?? 0, $1.namespace, $1.name)
        }
        for pod in inOrder {
            guard let key = pod.key else { continue }
            switch Scheduling.choose(for: Pod(pod), among: candidates) {
            case .node(let place):
                let name = candidates[place].node.resource.name
                candidates[place].pods += 1
                await attempt("bind pod") { () async throws(Status) in
                    _ = try await store.update(key) { (current) throws(Status) in
                        guard Scheduling.awaitsNode(current), current.uid == pod.uid else { throw .modified(.pods, key.name) }
                        return try Admission.binding(current, to: ["target": ["kind": "Node", "name": .string(name)]], now: now)
                    }
                }
            case .none(let why):
                guard Pod(pod).condition("PodScheduled")?.message != why else { continue }
                await attempt("say why a pod waits") { () async throws(Status) in
                    _ = try await store.update(key) { (current) throws(Status) in
                        guard Scheduling.awaitsNode(current) else { return current }
                        var waiting = Pod(current)
                        waiting.set(Pod.Condition(type: "PodScheduled", status: "False", reason: "Unschedulable", message: why), now: now)
                        return waiting.resource
                    }
                }
            }
        }
    }

    // MARK: Namespaces

    func emptyNamespaces() async {
        guard leads() else { return }
        let ending = feed.read { $0.namespaces.values.filter(\.isBeingDeleted).map(\.name) } ?? []
        for name in ending.sorted() {
            await attempt("empty namespace") { () async throws(Status) in _ = try await store.sweepNamespace(name, now: now) }
        }
    }

    // MARK: Trails

    /// Every hour: what ended so long ago that nobody is told of it any more.
    private func forgetTrails() async {
        while !Task.isCancelled {
            try? await Task.sleep(for: .seconds(3_600))
            guard leads() else { continue }
            await attempt("forget trails") { () async throws(Status) in
                let oldest = Timestamp(secondsSinceEpoch: now.secondsSinceEpoch - APILimits.trailSecondsMax)
                try await store.forgetTrails(before: oldest) { key, holder in feed.read { $0.holds(holder, key) } ?? true }
            }
        }
    }

    // MARK: Nodes

    func reviewNodes() async {
        let moment = clock(), now = now.secondsSinceEpoch
        let known = feed.read { $0.nodes.values.map { ($0.name, Node($0).readyStatus, now - NodeCondition.heartbeat(of: $0)) } }
        guard let known else { return }
        for name in sessions.connected where !known.contains(where: { $0.0 == name }) { await register(name) }
        for (name, status, age) in known {
            let isPresent = sessions.isPresent(name, graceSeconds: Self.nodeAbsenceSeconds, now: moment)
            if sessions.isConnected(name) {
                if status != "True" || (isOneOfMany && age >= Self.heartbeatRenewalSeconds) { await set(ready: true, of: name) }
            } else if !isPresent, status == "True", !isOneOfMany || age >= Self.heartbeatAbsenceSeconds {
                await set(ready: false, of: name)
            }
        }
    }

    private func register(_ name: String) async {
        var node = Resource(.nodes, tree: ["apiVersion": "v1", "kind": "Node", "metadata": ["name": .string(name)], "spec": [:]])
        node["metadata", "labels"] = ["kubernetes.io/hostname": .string(name)]
        node.uid = UUID().uuidString.lowercased()
        node.creationTimestamp = now
        let created = NodeCondition.ready(true, in: node, now: now)
        await attempt("register node") { () async throws(Status) in _ = try await store.create(created) }
    }

    private func set(ready: Bool, of name: String) async {
        guard let key = ObjectKey(.nodes, namespace: "", name: name) else { return }
        await attempt("tell whether a node is ready") { () async throws(Status) in
            _ = try await store.update(key) { (current) throws(Status) in
                // Another member may have heard of it just now.
                let age = now.secondsSinceEpoch - NodeCondition.heartbeat(of: current)
                guard ready || !isOneOfMany || age >= Self.heartbeatAbsenceSeconds else { return current }
                return NodeCondition.ready(ready, in: current, now: now)
            }
        }
    }
}

enum NodeCondition {
    /// When a member last told that the node is there, in seconds; 0: never.
    static func heartbeat(of node: Resource) -> Int64 {
        let ready = (node.tree["status"]?["conditions"]?.arrayValue ?? []).first { $0["type"]?.stringValue == "Ready" }
        let moment = ready?["lastHeartbeatTime"]?.stringValue.flatMap { Timestamp($0) }
        // What a client wrote there is not to be reckoned with beyond reason.
        return min(max(0, moment?.secondsSinceEpoch ?? 0), 1 << 40)
    }
    static func ready(_ ready: Bool, in node: Resource, now: Timestamp) -> Resource {
        var conditions = node.tree["status"]?["conditions"]?.arrayValue ?? []
        let before = conditions.first { $0["type"]?.stringValue == "Ready" }
        let status = ready ? "True" : "Unknown"
        let transition = before?["status"]?.stringValue == status ? before?["lastTransitionTime"]?.stringValue ?? now.description : now.description
        let condition: JSONValue = [
            "type": "Ready", "status": .string(status), "reason": ready ? "AgentConnected" : "AgentAbsent",
            "message": ready ? "the agent's stream is open" : "the agent's stream is closed", "lastHeartbeatTime": .string(now.description),
            "lastTransitionTime": .string(transition),
        ]
        conditions.removeAll { $0["type"]?.stringValue == "Ready" }
        var changed = node
        changed["status", "conditions"] = .array(conditions + [condition])
        return changed
    }
}

/// The minimal scheduler's decision: ready, not cordoned, matching the pod's node selector, fewest pods, then by name.
enum Scheduling {
    struct Candidate {
        var node: Node
        var pods: Int
    }
    enum Choice: Equatable { case node(Int), none(String) }

    static func awaitsNode(_ resource: Resource) -> Bool {
        let pod = Pod(resource), scheduler = resource.json.at("spec", "schedulerName")?.stringValue ?? ""
        let gates = resource.json.at("spec", "schedulingGates")?.arrayValue ?? []
        return pod.nodeName.isEmpty && !pod.isTerminal && !resource.isBeingDeleted && gates.isEmpty && ["", "default-scheduler"].contains(scheduler)
    }

    static func choose(for pod: Pod, among candidates: [Candidate]) -> Choice {
        let fitting = candidates.indices.filter { place in
            let node = candidates[place].node
            return node.isReady && !node.isUnschedulable && !node.resource.isBeingDeleted && node.satisfies(pod.nodeSelector)
        }
        let best = fitting.min { a, b in
            (candidates[a].pods, candidates[a].node.resource.name) < (candidates[b].pods, candidates[b].node.resource.name)
        }
        if let best { return .node(best) }
        let notReady = candidates.count { !$0.node.isReady }, cordoned = candidates.count { $0.node.isReady && $0.node.isUnschedulable }
        let other = candidates.count - notReady - cordoned
        return .none(
            "0/\(candidates.count) nodes are available: \(notReady) not ready, \(cordoned) unschedulable, \(other) not matching the pod's node selector.")
    }
}
