/// A Pod, read from its resource: what scheduling, entitlement and mounting need of it.
package struct Pod: Sendable {
    package var resource: Resource
    package init(_ resource: Resource) { self.resource = resource }

    package enum Phase: String, Sendable { case pending = "Pending", running = "Running", succeeded = "Succeeded", failed = "Failed", unknown = "Unknown" }

    private var spec: JSONValue? { resource.tree["spec"] }

    package var nodeName: String {
        get { spec?["nodeName"]?.stringValue ?? "" }
        set { resource["spec", "nodeName"] = newValue.isEmpty ? nil : .string(newValue) }
    }
    package var phase: Phase {
        get { resource.tree["status"]?["phase"]?.stringValue.flatMap(Phase.init) ?? .pending }
        set { resource["status", "phase"] = .string(newValue.rawValue) }
    }
    /// Succeeded and Failed pods are over: they consume nothing.
    package var isTerminal: Bool { phase == .succeeded || phase == .failed }
    package var terminationGracePeriodSeconds: Int64 { spec?["terminationGracePeriodSeconds"]?.integerValue ?? 30 }
    package var fsGroup: Int64? { spec?["securityContext"]?["fsGroup"]?.integerValue }
    /// By label name.
    package var nodeSelector: [(key: String, value: String)] {
        (spec?["nodeSelector"]?.objectValue?.sortedMembers ?? []).compactMap { member in member.value.stringValue.map { (member.key, $0) } }
    }
    /// Init containers first, then containers, then ephemeral ones.
    package var containers: [Container] {
        ["initContainers", "containers", "ephemeralContainers"].flatMap { spec?[$0]?.arrayValue ?? [] }.map(Container.init)
    }
    package var volumes: [Volume] { (spec?["volumes"]?.arrayValue ?? []).map(Volume.init) }
    package var imagePullSecrets: [String] { (spec?["imagePullSecrets"]?.arrayValue ?? []).compactMap { $0["name"]?.stringValue } }

    // MARK: Parts

    package struct Container: Sendable {
        package var name: String
        package var image: String
        /// Names of secrets that its environment refers to, each with whether it may be absent.
        package var environmentSecrets: [(name: String, optional: Bool)]
        init(_ json: JSONValue) {
            name = json["name"]?.stringValue ?? ""
            image = json["image"]?.stringValue ?? ""
            let single = (json["env"]?.arrayValue ?? []).compactMap { $0.at("valueFrom", "secretKeyRef") }
            let whole = (json["envFrom"]?.arrayValue ?? []).compactMap { $0["secretRef"] }
            environmentSecrets = (single + whole).compactMap { reference in
                reference["name"]?.stringValue.map { ($0, reference["optional"]?.boolValue ?? false) }
            }
        }
    }

    /// One key of a secret and the path of its file.
    package struct KeyToPath: Equatable, Sendable {
        package var key: String
        package var path: String
        package var mode: Int64?
        package init(key: String, path: String, mode: Int64? = nil) { self.key = key; self.path = path; self.mode = mode }
        init(_ json: JSONValue) {
            self.init(key: json["key"]?.stringValue ?? "", path: json["path"]?.stringValue ?? "", mode: json["mode"]?.integerValue)
        }
    }
    /// A secret as a source of files. Without `items`: every key, under its own name.
    package struct SecretSource: Equatable, Sendable {
        package var secretName: String
        package var items: [KeyToPath]?
        package var isOptional: Bool
        package init(secretName: String, items: [KeyToPath]? = nil, isOptional: Bool = false) {
            self.secretName = secretName; self.items = items; self.isOptional = isOptional
        }
        init(_ json: JSONValue, name: String) {
            let items = (json["items"]?.arrayValue ?? []).map(KeyToPath.init)
            self.init(secretName: json[name]?.stringValue ?? "", items: items.isEmpty ? nil : items, isOptional: json["optional"]?.boolValue ?? false)
        }
    }
    package struct Volume: Equatable, Sendable {
        package enum Source: Equatable, Sendable {
            case secret(SecretSource)
            /// Sources in their order; `unsupported` are the names of those that are no secrets (`configMap`).
            case projected([SecretSource], unsupported: [String])
            /// Any other kind, by its name (`emptyDir`): no business of ours.
            case other(String)
        }
        package var name: String
        package var source: Source
        /// Mode of files whose item names none; Kubernetes' default is 0644.
        package var defaultMode: Int64
        package static let defaultFileMode: Int64 = 0o644

        init(_ json: JSONValue) {
            name = json["name"]?.stringValue ?? ""
            if let secret = json["secret"] {
                source = .secret(SecretSource(secret, name: "secretName"))
                defaultMode = secret["defaultMode"]?.integerValue ?? Self.defaultFileMode
            } else if let projected = json["projected"] {
                let sources = projected["sources"]?.arrayValue ?? []
                source = .projected(
                    sources.compactMap { $0["secret"].map { SecretSource($0, name: "name") } },
                    unsupported: sources.flatMap { $0.objectValue?.keys.filter { $0 != "secret" } ?? [] })
                defaultMode = projected["defaultMode"]?.integerValue ?? Self.defaultFileMode
            } else {
                source = .other(json.objectValue?.keys.first { $0 != "name" } ?? "emptyDir")
                defaultMode = Self.defaultFileMode
            }
        }
        package var secretSources: [SecretSource] {
            switch source {
            case .secret(let source): [source]
            case .projected(let sources, _): sources
            case .other: []
            }
        }
    }

    /// Every secret the pod refers to, by volume, environment or image pull: what it is entitled to. Sorted, each once.
    package var referencedSecrets: [String] {
        var names = volumes.flatMap { $0.secretSources.map(\.secretName) } + containers.flatMap { $0.environmentSecrets.map(\.name) } + imagePullSecrets
        names.removeAll { $0.isEmpty }
        names.sort { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        return names.reduce(into: []) { list, name in if list.last != name { list.append(name) } }
    }

    // MARK: Conditions

    /// `coffer.dev/SecretsReady`, which the agent sets.
    package static let secretsReadyCondition = "coffer.dev/SecretsReady"

    package func condition(_ type: String) -> Condition? {
        (resource.tree["status"]?["conditions"]?.arrayValue ?? []).first { $0["type"]?.stringValue == type }.map(Condition.init)
    }
    package struct Condition: Equatable, Sendable {
        package var type: String
        /// `True`, `False` or `Unknown`.
        package var status: String
        package var reason: String
        package var message: String
        package init(type: String, status: String, reason: String, message: String) {
            self.type = type; self.status = status; self.reason = reason; self.message = message
        }
        init(_ json: JSONValue) {
            self.init(
                type: json["type"]?.stringValue ?? "", status: json["status"]?.stringValue ?? "", reason: json["reason"]?.stringValue ?? "",
                message: json["message"]?.stringValue ?? "")
        }
        /// `transition`: when `status` last changed.
        package func json(transition: Timestamp) -> JSONValue {
            [
                "type": .string(type), "status": .string(status), "reason": .string(reason), "message": .string(message),
                "lastTransitionTime": .string(transition.description),
            ]
        }
    }
    /// Sets or replaces the condition of that type; its transition time changes only with its status.
    package mutating func set(_ condition: Condition, now: Timestamp) {
        var conditions = resource.tree["status"]?["conditions"]?.arrayValue ?? []
        if let place = conditions.firstIndex(where: { $0["type"]?.stringValue == condition.type }) {
            let before = conditions[place]
            let changed = before["status"]?.stringValue != condition.status
            let transition = changed ? now : before["lastTransitionTime"]?.stringValue.flatMap { Timestamp($0) } ?? now
            conditions[place] = condition.json(transition: transition)
        } else {
            conditions.append(condition.json(transition: now))
        }
        resource["status", "conditions"] = .array(conditions)
    }

    // MARK: Defaults

    /// What Kubernetes fills in at creation, as far as anyone here reads it.
    package mutating func setDefaults() {
        func setIfAbsent(_ json: inout JSONValue, _ key: String, _ value: JSONValue) { if json[key] == nil { json[key] = value } }
        var spec = resource.tree["spec"] ?? [:]
        setIfAbsent(&spec, "restartPolicy", "Always")
        setIfAbsent(&spec, "terminationGracePeriodSeconds", 30)
        setIfAbsent(&spec, "dnsPolicy", "ClusterFirst")
        setIfAbsent(&spec, "schedulerName", "default-scheduler")
        setIfAbsent(&spec, "securityContext", [:])
        if let volumes = spec["volumes"]?.arrayValue {
            spec["volumes"] = .array(
                volumes.map { volume in
                    var volume = volume
                    for source in ["secret", "projected"] where volume[source] != nil {
                        if volume[source]?["defaultMode"] == nil { volume[[source, "defaultMode"]] = .integer(Volume.defaultFileMode) }
                    }
                    if volume.objectValue?.count == 1 { volume["emptyDir"] = [:] }
                    return volume
                })
        }
        resource.tree["spec"] = spec
        if resource.tree["status"]?["phase"] == nil { phase = .pending }
    }
}
