/// A Node, read from its resource: what the scheduler asks of it.
package struct Node: Sendable {
    package var resource: Resource
    package init(_ resource: Resource) { self.resource = resource }

    package var isUnschedulable: Bool { resource.tree["spec"]?["unschedulable"]?.boolValue ?? false }
    /// Its `Ready` condition is `True`.
    package var isReady: Bool { readyStatus == "True" }
    package var readyStatus: String {
        (resource.tree["status"]?["conditions"]?.arrayValue ?? []).first { $0["type"]?.stringValue == "Ready" }?["status"]?.stringValue ?? "Unknown"
    }
    /// From its `node-role.kubernetes.io/…` labels.
    package var roles: [String] {
        resource.labelPairs.compactMap { label in
            if label.key.hasPrefix("node-role.kubernetes.io/") { return String(label.key.dropFirst("node-role.kubernetes.io/".count)) }
            return label.key == "kubernetes.io/role" ? label.value : nil
        }
    }
    package var version: String { resource.tree["status"]?["nodeInfo"]?["kubeletVersion"]?.stringValue ?? "" }

    package func address(_ type: String) -> String? {
        (resource.tree["status"]?["addresses"]?.arrayValue ?? []).first { $0["type"]?.stringValue == type }?["address"]?.stringValue
    }

    /// Whether every label a pod's `nodeSelector` asks for is here.
    package func satisfies(_ nodeSelector: [(key: String, value: String)]) -> Bool {
        let labels = resource.labels
        return nodeSelector.allSatisfy { labels[$0.key] == $0.value }
    }
}
