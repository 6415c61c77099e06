package import SecretMemory

/// One object of a served kind: its document, checked against the kind's schema, with its metadata at hand.
/// What the document says beyond what we read of it (a Pod's fields above all) is kept.
package struct Resource: Sendable, Equatable {
    package let type: ResourceType
    package var tree: JSONObject

    /// Of what the store keeps, or of what was checked already.
    package init(_ type: ResourceType, tree: JSONObject) { self.type = type; self.tree = tree }

    /// Of what a client sent: the right kind (or none), fields of the right types, without `null`s. `unknown` are the fields
    /// that were dropped. Throws a 400.
    package static func decoding(_ json: JSONValue, as type: ResourceType, unknown: inout [String]) throws(Status) -> Resource {
        guard let object = json.objectValue else {
            throw .badRequest("couldn't get version/kind; json parse error: json: cannot unmarshal \(json.typeName) into an object with apiVersion and kind")
        }
        let version = object["apiVersion"]?.stringValue ?? type.apiVersion, kind = object["kind"]?.stringValue ?? type.kind
        guard version == type.apiVersion, kind == type.kind else {
            throw .badRequest(
                "the object provided is unrecognized (must be of type \(type.kind)): "
                    + "the data is of \(version), Kind=\(kind), not of \(type.apiVersion), Kind=\(type.kind)"
            )
        }
        do {
            var tree = try type.schema.conforming(json, unknown: &unknown)
            tree["apiVersion"] = .string(type.apiVersion)
            tree["kind"] = .string(type.kind)
            return Resource(type, tree: tree.objectValue ?? [:])
        } catch {
            throw .badRequest("\(type.kind) in version \"\(type.version)\" cannot be handled as a \(type.kind): \(error)")
        }
    }
    package static func decoding(_ json: JSONValue, as type: ResourceType) throws(Status) -> Resource {
        var unknown: [String] = []
        return try decoding(json, as: type, unknown: &unknown)
    }

    package var json: JSONValue {
        get { .object(tree) }
        set { tree = newValue.objectValue ?? [:] }
    }
    package subscript(path: String...) -> JSONValue? {
        get { json[path] }
        set {
            var whole = json
            tree = [:]
            whole[path] = newValue
            tree = whole.objectValue ?? [:]
        }
    }
}

// MARK: - Metadata

extension Resource {
    private func text(_ key: String) -> String { tree["metadata"]?[key]?.stringValue ?? "" }
    private mutating func setText(_ key: String, _ value: String) { self["metadata", key] = value.isEmpty ? nil : .string(value) }

    package var name: String {
        get { text("name") }
        set { setText("name", newValue) }
    }
    package var generateName: String {
        get { text("generateName") }
        set { setText("generateName", newValue) }
    }
    /// Empty for kinds without namespaces.
    package var namespace: String {
        get { text("namespace") }
        set { setText("namespace", newValue) }
    }
    package var uid: String {
        get { text("uid") }
        set { setText("uid", newValue) }
    }
    package var resourceVersion: String {
        get { text("resourceVersion") }
        set { setText("resourceVersion", newValue) }
    }
    package var creationTimestamp: Timestamp? {
        get { Timestamp(text("creationTimestamp")) }
        set { setText("creationTimestamp", newValue?.description ?? "") }
    }
    package var deletionTimestamp: Timestamp? {
        get { Timestamp(text("deletionTimestamp")) }
        set { setText("deletionTimestamp", newValue?.description ?? "") }
    }
    package var deletionGracePeriodSeconds: Int64? {
        get { tree["metadata"]?["deletionGracePeriodSeconds"]?.integerValue }
        set { self["metadata", "deletionGracePeriodSeconds"] = newValue.map { .integer($0) } }
    }
    package var finalizers: [String] {
        get { (tree["metadata"]?["finalizers"]?.arrayValue ?? []).compactMap(\.stringValue) }
        set { self["metadata", "finalizers"] = newValue.isEmpty ? nil : JSONValue(newValue) }
    }
    /// For look-ups only: its order is by chance. `labelPairs` has one.
    package var labels: [String: String] {
        var labels: [String: String] = [:]
        for (key, value) in labelPairs { labels[key] = value }
        return labels
    }
    package var labelPairs: [(key: String, value: String)] {
        (tree["metadata"]?["labels"]?.objectValue?.sortedMembers ?? []).compactMap { member in member.value.stringValue.map { (member.key, $0) } }
    }
    /// Without secret ones.
    package var annotationPairs: [(key: String, value: String)] {
        (tree["metadata"]?["annotations"]?.objectValue?.sortedMembers ?? []).compactMap { member in member.value.stringValue.map { (member.key, $0) } }
    }
    package func annotation(_ key: String) -> String? { tree["metadata"]?["annotations"]?[key]?.stringValue }

    /// What `kubectl apply` last applied: holds the secret's data, so it is treated as data.
    package var lastApplied: SecretValue? {
        get { tree["metadata"]?["annotations"]?[SecretPlace.lastAppliedAnnotation]?.secretValue }
        set {
            self["metadata", "annotations", SecretPlace.lastAppliedAnnotation] = newValue.map { .secretText($0) }
            if tree["metadata"]?["annotations"]?.objectValue?.isEmpty == true { self["metadata", "annotations"] = nil }
        }
    }
    package var isBeingDeleted: Bool { deletionTimestamp != nil }

    /// The object without any secret: what a list without reveal, a trace or a table may carry.
    package var withoutSecretData: Resource {
        var copy = self
        copy.tree["data"] = nil
        copy.tree["stringData"] = nil
        copy.lastApplied = nil
        return copy
    }

    /// How messages name it: `secret/web-tls`.
    package var reference: String { "\(type.singular)/\(name)" }
}

// MARK: - Lists

extension ResourceType {
    /// A `SecretList` and its like.
    package func list(_ items: [Resource], resourceVersion: String, continueToken: String = "", remaining: Int64? = nil) -> JSONValue {
        var metadata: JSONObject = ["resourceVersion": .string(resourceVersion)]
        if !continueToken.isEmpty { metadata["continue"] = .string(continueToken) }
        if let remaining { metadata["remainingItemCount"] = .integer(remaining) }
        return ["kind": .string(listKind), "apiVersion": .string(apiVersion), "metadata": .object(metadata), "items": .array(items.map(\.json))]
    }
}
