import Foundation
import NodeProtocol
import Resources
import Synchronization

/// Which nodes are connected, since when not, and what they say they hold. In memory: a restart asks the nodes again.
final class NodeSessions: Sendable {
    /// One secret in one pod's volume, as its node tells it: *claimed by the node*.
    struct Holding: Equatable, Sendable {
        var outcome: Acknowledgement.Outcome
        var namespace: String
        var podName: String
        var podUID: String
        var secretName: String
        var secretUID: String
        var resourceVersion: Int64
        var moment: Timestamp
    }
    private struct HoldingKey: Hashable {
        var podUID: String
        var secretName: String
    }
    private struct Node {
        var sessionID: UInt64 = 0
        var end: (@Sendable () -> Void)?
        var lastSeen: Date
        var acknowledgedRevision: Int64 = 0
        var holdings: [HoldingKey: Holding] = [:]
    }
    private struct State {
        var nextSession: UInt64 = 0
        var nodes: [String: Node] = [:]
    }
    private let state = Mutex(State())
    private let started: Date
    init(started: Date) { self.started = started }

    /// A node has one stream: the one that comes ends the one there was.
    func open(_ name: String, now: Date, end: @escaping @Sendable () -> Void) -> UInt64 {
        let (id, former) = state.withLock { state in
            state.nextSession += 1
            var node = state.nodes[name] ?? Node(lastSeen: now)
            let former = node.end
            node.sessionID = state.nextSession
            node.end = end
            node.lastSeen = now
            state.nodes[name] = node
            return (state.nextSession, former)
        }
        former?()
        return id
    }
    func close(_ name: String, session: UInt64, now: Date) {
        state.withLock { state in
            guard state.nodes[name]?.sessionID == session else { return }
            state.nodes[name]?.end = nil
            state.nodes[name]?.lastSeen = now
        }
    }
    func isOpen(_ name: String, session: UInt64) -> Bool { state.withLock { $0.nodes[name]?.sessionID == session } }

    /// Connected, or gone for less than `seconds`. A node not seen yet has had its chance since the start.
    func isPresent(_ name: String, graceSeconds: Double, now: Date) -> Bool {
        state.withLock { state in
            guard let node = state.nodes[name] else { return now.timeIntervalSince(started) < graceSeconds }
            return node.end != nil || now.timeIntervalSince(node.lastSeen) < graceSeconds
        }
    }
    func isConnected(_ name: String) -> Bool { state.withLock { $0.nodes[name]?.end != nil } }
    var connected: [String] { state.withLock { state in state.nodes.filter { $0.value.end != nil }.keys.sorted() } }

    /// Answers the uids of the pods whose removal is complete.
    func acknowledge(_ acknowledgement: Acknowledgement, now: Timestamp) -> [(namespace: String, name: String, uid: String)] {
        state.withLock { state in
            var node = state.nodes[acknowledgement.node] ?? Node(lastSeen: started)
            var removed: [(namespace: String, name: String, uid: String)] = []
            node.acknowledgedRevision = max(node.acknowledgedRevision, acknowledgement.revision)
            for entry in acknowledgement.entries {
                guard entry.outcome != .podRemoved else {
                    node.holdings = node.holdings.filter { $0.key.podUID != entry.podUID }
                    removed.append((entry.namespace, entry.podName, entry.podUID))
                    continue
                }
                let key = HoldingKey(podUID: entry.podUID, secretName: entry.secretName)
                guard node.holdings[key] != nil || node.holdings.count < APILimits.acknowledgementsPerNodeMax else { continue }
                node.holdings[key] = Holding(
                    outcome: entry.outcome, namespace: entry.namespace, podName: entry.podName, podUID: entry.podUID, secretName: entry.secretName,
                    secretUID: entry.secretUID, resourceVersion: entry.resourceVersion, moment: now)
            }
            state.nodes[acknowledgement.node] = node
            return removed
        }
    }

    func holdings(of name: String) -> (revision: Int64, holdings: [Holding]) {
        state.withLock { state in
            guard let node = state.nodes[name] else { return (0, []) }
            let sorted = node.holdings.values.sorted { ($0.namespace, $0.podName, $0.podUID, $0.secretName) < ($1.namespace, $1.podName, $1.podUID, $1.secretName) }
            return (node.acknowledgedRevision, sorted)
        }
    }
}

extension NodeSessions.Holding {
    var json: JSONValue {
        let said =
            switch outcome {
            case .materialized: "Materialized"
            case .wiped: "Wiped"
            case .podRemoved: "PodRemoved"
            }
        return [
            "outcome": .string(said), "namespace": .string(namespace), "pod": .string(podName), "podUID": .string(podUID),
            "secret": .string(secretName), "secretUID": .string(secretUID), "resourceVersion": .string(String(resourceVersion)),
            "time": .string(moment.description),
        ]
    }
}
