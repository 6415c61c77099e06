import SecretMemory

/// A list as people read it (`meta.k8s.io/v1 Table`): columns by kind as `kubectl` shows them. Never holds a value of a secret.
package struct Table: Sendable, Equatable {
    package struct Column: Sendable, Equatable {
        package var name: String
        package var type: String
        package var format: String
        /// 0 is always shown, 1 with `-o wide`.
        package var priority: Int
        package var about: String
        init(_ name: String, type: String = "string", format: String = "", priority: Int = 0, _ about: String) {
            self.name = name; self.type = type; self.format = format; self.priority = priority; self.about = about
        }
    }
    package struct Row: Sendable, Equatable {
        package var cells: [JSONValue]
        package var resource: Resource
    }
    package var columns: [Column]
    package var rows: [Row]

    /// Ages are reckoned at `now`.
    package init(_ resources: [Resource], of type: ResourceType, now: Timestamp) {
        columns = Self.columns(of: type)
        rows = resources.map { Row(cells: Self.cells(of: $0, now: now), resource: $0) }
    }

    /// `includeObject` of the request.
    package enum Included: String, Sendable { case none = "None", metadata = "Metadata", object = "Object" }

    package func json(resourceVersion: String, continueToken: String = "", including: Included = .metadata, apiVersion: String = "meta.k8s.io/v1") -> JSONValue
    {
        var metadata: JSONObject = ["resourceVersion": .string(resourceVersion)]
        if !continueToken.isEmpty { metadata["continue"] = .string(continueToken) }
        return [
            "kind": "Table", "apiVersion": .string(apiVersion), "metadata": .object(metadata),
            "columnDefinitions": .array(
                columns.map { column in
                    [
                        "name": .string(column.name), "type": .string(column.type), "format": .string(column.format), "description": .string(column.about),
                        "priority": JSONValue(column.priority),
                    ]
                }),
            "rows": .array(
                rows.map { row in
                    var object: JSONObject = ["cells": .array(row.cells)]
                    switch including {
                    case .none: break
                    case .metadata:
                        object["object"] = [
                            "kind": "PartialObjectMetadata", "apiVersion": .string(apiVersion),
                            "metadata": row.resource.withoutSecretData.tree["metadata"] ?? [:],
                        ]
                    case .object: object["object"] = row.resource.json
                    }
                    return .object(object)
                }),
        ]
    }

    private static func columns(of type: ResourceType) -> [Column] {
        let name = Column("Name", format: "name", "Name must be unique within a namespace.")
        let age = Column("Age", "Time since the object was created.")
        return switch type.kind {
        case "Secret": [name, Column("Type", "What kind of secret it is."), Column("Data", type: "integer", "Number of keys."), age]
        case "Pod":
            [
                name, Column("Ready", "Containers that are ready, of all."), Column("Status", "Phase, or why it is not as it should be."),
                Column("Restarts", "Restarts of its containers."), age, Column("IP", priority: 1, "Address of the pod."),
                Column("Node", priority: 1, "Node it is bound to."), Column("Nominated Node", priority: 1, "Node it may be bound to."),
                Column("Readiness Gates", priority: 1, "Conditions that make it ready."),
            ]
        case "Node":
            [
                name, Column("Status", "Whether it is ready and takes pods."), Column("Roles", "Its roles."), age, Column("Version", "Version of its agent."),
                Column("Internal-IP", priority: 1, "Address within the cluster."), Column("External-IP", priority: 1, "Address outside."),
                Column("OS-Image", priority: 1, "Operating system."), Column("Kernel-Version", priority: 1, "Kernel."),
                Column("Container-Runtime", priority: 1, "What runs containers."),
            ]
        default: [name, Column("Status", "Phase."), age]
        }
    }

    private static func cells(of resource: Resource, now: Timestamp) -> [JSONValue] {
        let name = JSONValue.string(resource.name)
        let age = JSONValue.string(resource.creationTimestamp.map { Age.text(seconds: now.secondsSinceEpoch - $0.secondsSinceEpoch) } ?? "<unknown>")
        func text(_ value: String?, or absent: String = "<none>") -> JSONValue { .string(value.flatMap { $0.isEmpty ? nil : $0 } ?? absent) }
        switch resource.type.kind {
        case "Secret":
            let secret = Secret(resource)
            return [name, .string(secret.type), JSONValue(resource.tree["data"]?.objectValue?.count ?? 0), age]
        case "Pod":
            let status = resource.tree["status"], pod = Pod(resource)
            let statuses = status?["containerStatuses"]?.arrayValue ?? []
            let ready = statuses.filter { $0["ready"]?.boolValue == true }.count
            let restarts = statuses.reduce(Int64(0)) { $0.addingReportingOverflow($1["restartCount"]?.integerValue ?? 0).partialValue }
            let count = resource.tree["spec"]?["containers"]?.arrayValue?.count ?? 0
            return [
                name, .string("\(ready)/\(count)"), .string(Self.status(of: pod)), .string(String(restarts)), age, text(status?["podIP"]?.stringValue),
                text(pod.nodeName),
                text(status?["nominatedNodeName"]?.stringValue), "<none>",
            ]
        case "Node":
            let node = Node(resource), info = resource.tree["status"]?["nodeInfo"]
            let status = (node.readyStatus == "True" ? "Ready" : node.readyStatus == "False" ? "NotReady" : "Unknown")
            return [
                name, .string(status + (node.isUnschedulable ? ",SchedulingDisabled" : "")), text(node.roles.joined(separator: ",")), age,
                text(node.version, or: ""),
                text(node.address("InternalIP")), text(node.address("ExternalIP")), text(info?["osImage"]?.stringValue, or: "<unknown>"),
                text(info?["kernelVersion"]?.stringValue, or: "<unknown>"), text(info?["containerRuntimeVersion"]?.stringValue, or: "<unknown>"),
            ]
        default:
            let phase = resource.isBeingDeleted ? "Terminating" : resource.tree["status"]?["phase"]?.stringValue
            return [name, text(phase, or: "Active"), age]
        }
    }

    private static func status(of pod: Pod) -> String {
        if pod.resource.isBeingDeleted { return "Terminating" }
        if let reason = pod.resource.tree["status"]?["reason"]?.stringValue, !reason.isEmpty { return reason }
        for container in pod.resource.tree["status"]?["containerStatuses"]?.arrayValue ?? [] {
            if let reason = container.at("state", "waiting", "reason")?.stringValue { return reason }
        }
        return pod.phase == .succeeded ? "Completed" : pod.phase.rawValue
    }
}

/// A duration as `kubectl` shows it (`apimachinery/pkg/util/duration.HumanDuration`): 59s, 3m10s, 47h, 3d4h, 2y10d.
package enum Age {
    package static func text(seconds: Int64) -> String {
        if seconds < -1 { return "<invalid>" }
        if seconds < 0 { return "0s" }
        let minutes = seconds / 60, hours = seconds / 3_600, days = seconds / 86_400, years = days / 365
        func pair(_ a: Int64, _ unit: String, _ b: Int64, _ small: String) -> String { b == 0 ? "\(a)\(unit)" : "\(a)\(unit)\(b)\(small)" }
        if seconds < 120 { return "\(seconds)s" }
        if minutes < 10 { return pair(minutes, "m", seconds % 60, "s") }
        if minutes < 180 { return "\(minutes)m" }
        if hours < 8 { return pair(hours, "h", minutes % 60, "m") }
        if hours < 48 { return "\(hours)h" }
        if hours < 192 { return pair(days, "d", hours % 24, "h") }
        if days < 730 { return "\(days)d" }
        if years < 8 { return pair(years, "y", days % 365, "d") }
        return "\(years)y"
    }
}
