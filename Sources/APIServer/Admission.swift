import Resources

/// What is made of an object before it is stored: names and identity given, what a client may not say left out, defaults, rules.
enum Admission {
    /// As new. `makeSuffix` gives five characters for a generated name.
    static func creation(
        _ given: Resource, namespace: String, uid: String, now: Timestamp, makeSuffix: () -> String
    ) throws(Status) -> Resource {
        var resource = given
        guard resource.namespace.isEmpty || !resource.type.isNamespaced || resource.namespace == namespace else {
            throw .badRequest("the namespace of the provided object does not match the namespace sent on the request")
        }
        guard resource.resourceVersion.isEmpty else { throw .badRequest("resourceVersion should not be set on objects to be created") }
        if resource.type.isNamespaced { resource.namespace = namespace }
        if resource.name.isEmpty, !resource.generateName.isEmpty {
            resource.name = String(resource.generateName.prefix(APILimits.generatedStemCharactersMax)) + makeSuffix()
        }
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "managedFields"] { resource["metadata", key] = nil }
        resource.uid = uid
        resource.creationTimestamp = now
        switch resource.type {
        case .namespaces:
            resource["metadata", "labels", "kubernetes.io/metadata.name"] = .string(resource.name)
            resource.tree["status"] = ["phase": "Active"]
        case .pods:
            resource.tree["status"] = nil
        default: break
        }
        resource = completed(resource)
        try resource.validateForCreation()
        return resource
    }

    /// As what replaces `old`. The subresource `status` changes the status and nothing else; without it, the status stays.
    static func update(_ given: Resource, replacing old: Resource, subresource: String) throws(Status) -> Resource {
        var resource = given
        guard resource.name.isEmpty || resource.name == old.name else {
            throw .badRequest("the name of the object (\(resource.name)) does not match the name on the URL (\(old.name))")
        }
        guard resource.namespace.isEmpty || resource.namespace == old.namespace else {
            throw .badRequest("the namespace of the object (\(resource.namespace)) does not match the namespace on the request (\(old.namespace))")
        }
        resource.name = old.name
        resource.carryIdentity(from: old)
        guard resource.uid == old.uid else { throw .preconditionFailed(old.type, old.name, uid: resource.uid, actual: old.uid) }
        guard resource.resourceVersion == old.resourceVersion else { throw .modified(old.type, old.name) }
        resource["metadata", "managedFields"] = nil
        if subresource == "status" {
            var changed = old
            changed.tree["status"] = resource.tree["status"]
            resource = changed
        } else if resource.type.subresources.contains("status") {
            resource.tree["status"] = old.tree["status"]
        }
        if resource.type == .namespaces { resource["metadata", "labels", "kubernetes.io/metadata.name"] = .string(resource.name) }
        resource = completed(resource)
        try resource.validateUpdate(of: old)
        return resource
    }

    /// `pods/binding`: gives a pod its node, once.
    static func binding(_ pod: Resource, to binding: JSONValue, now: Timestamp) throws(Status) -> Resource {
        guard let kind = binding.at("target", "kind")?.stringValue ?? .some("Node"), kind == "Node",
            let node = binding.at("target", "name")?.stringValue, !node.isEmpty
        else { throw .badRequest("the target of a binding must be a Node with a name") }
        guard Names.errors(dns1123Subdomain: node).isEmpty else { throw .badRequest("the target of the binding is no node's name") }
        let uid = binding.at("metadata", "uid")?.stringValue ?? ""
        guard uid.isEmpty || uid == pod.uid else { throw .preconditionFailed(.pods, pod.name, uid: uid, actual: pod.uid) }
        var bound = Pod(pod)
        guard !pod.isBeingDeleted else { throw .conflict(.pods, pod.name, "pod \(pod.name) is being deleted, cannot be assigned to a host") }
        guard bound.nodeName.isEmpty else { throw .conflict(.pods, pod.name, "pod \(pod.name) is already assigned to node \"\(bound.nodeName)\"") }
        bound.nodeName = node
        bound.set(Pod.Condition(type: "PodScheduled", status: "True", reason: "", message: ""), now: now)
        return bound.resource
    }

    /// Members of metadata that are left out when empty, as Kubernetes leaves them out.
    private static let omittedWhenEmpty = ["labels", "annotations", "finalizers", "ownerReferences"]

    private static func completed(_ given: Resource) -> Resource {
        var resource = given
        for member in omittedWhenEmpty where resource["metadata", member]?.isEmptyContainer == true { resource["metadata", member] = nil }
        switch resource.type {
        case .secrets:
            var secret = Secret(resource)
            secret.normalize()
            if secret.resource.tree["data"]?.isEmptyContainer == true { secret.resource.tree["data"] = nil }
            return secret.resource
        case .pods:
            var pod = Pod(resource)
            pod.setDefaults()
            return pod.resource
        default:
            return resource
        }
    }
}
