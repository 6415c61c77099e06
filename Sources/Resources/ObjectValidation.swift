import Basics
import SecretMemory
import SecretMemory

/// Validation as Kubernetes does it: every fault is found, named by its field and collected in one 422.
extension Resource {
    /// Throws a 422 with a cause per field.
    package func validateForCreation() throws(Status) {
        var errors = metadataErrors()
        switch type.kind {
        case "Secret": errors += Secret(self).errors()
        case "Pod": errors += Pod(self).errors()
        case "Node": errors += Node(self).errors()
        default: break
        }
        if !errors.isEmpty { throw .invalid(type, name, errors) }
    }

    /// Of `self` as what replaces `old`. Identity must have been carried over (see `carryIdentity(from:)`).
    package func validateUpdate(of old: Resource) throws(Status) {
        var errors = metadataErrors() + metadataErrors(replacing: old)
        switch type.kind {
        case "Secret": errors += Secret(self).errors() + Secret(self).errors(replacing: Secret(old))
        case "Pod": errors += Pod(self).errors() + Pod(self).errors(replacing: Pod(old))
        case "Node": errors += Node(self).errors()
        default: break
        }
        if !errors.isEmpty { throw .invalid(type, name, errors) }
    }

    /// What a client cannot change and may leave out: identity, birth, and a deletion under way.
    package mutating func carryIdentity(from old: Resource) {
        for key in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generateName"] {
            self["metadata", key] = old.tree["metadata"]?[key]
        }
        if uid.isEmpty { uid = old.uid }
        if resourceVersion.isEmpty { resourceVersion = old.resourceVersion }
        if type.isNamespaced && namespace.isEmpty { namespace = old.namespace }
    }

    private func metadataErrors() -> [FieldError] {
        var errors: [FieldError] = []
        let check = type.kind == "Namespace" ? Names.errors(dns1123Label:) : Names.errors(dns1123Subdomain:)
        if name.isEmpty {
            errors.append(.required("metadata.name", "name or generateName is required"))
        } else {
            errors += check(name).map { .invalid("metadata.name", name, $0) }
        }
        if !generateName.isEmpty {
            // A dash at the end is the usual form; the suffix that follows makes the name whole.
            let stem = generateName.hasSuffix("-") ? generateName.dropLast() + "a" : generateName[...]
            errors += check(String(stem)).map { .invalid("metadata.generateName", generateName, $0) }
        }
        if type.isNamespaced {
            if namespace.isEmpty {
                errors.append(.required("metadata.namespace"))
            } else {
                errors += Names.errors(dns1123Label: namespace).map { .invalid("metadata.namespace", namespace, $0) }
            }
        } else if !namespace.isEmpty {
            errors.append(.forbidden("metadata.namespace", "not allowed on this type"))
        }
        for (key, value) in labelPairs {
            errors += Names.errors(qualifiedName: key).map { .invalid("metadata.labels", key, $0) }
            errors += Names.errors(labelValue: value).map { .invalid("metadata.labels", value, $0) }
        }
        errors += annotationErrors()
        for finalizer in finalizers { errors += Names.errors(qualifiedName: finalizer).map { .invalid("metadata.finalizers", finalizer, $0) } }
        for (index, owner) in (tree["metadata"]?["ownerReferences"]?.arrayValue ?? []).enumerated() {
            for key in ["apiVersion", "kind", "name", "uid"] where owner[key]?.stringValue ?? "" == "" {
                errors.append(.required("metadata.ownerReferences[\(index)].\(key)", "must not be empty"))
            }
        }
        return errors
    }

    private func annotationErrors() -> [FieldError] {
        var errors: [FieldError] = [], bytes = 0
        for member in tree["metadata"]?["annotations"]?.objectValue?.members ?? [] {
            errors += Names.errors(qualifiedName: member.key.lowercased()).map { .invalid("metadata.annotations", member.key, $0) }
            bytes += member.key.utf8.count + (member.value.stringValue?.utf8.count ?? member.value.secretValue?.count ?? 0)
        }
        if bytes > Limits.annotationsBytesMax { errors.append(.tooLong("metadata.annotations", bytesMax: Limits.annotationsBytesMax)) }
        return errors
    }

    private func metadataErrors(replacing old: Resource) -> [FieldError] {
        var errors: [FieldError] = []
        for (path, new, before) in [("name", name, old.name), ("namespace", namespace, old.namespace), ("uid", uid, old.uid)] where new != before {
            errors.append(.invalid("metadata.\(path)", new, "field is immutable"))
        }
        if resourceVersion.isEmpty { errors.append(.invalid("metadata.resourceVersion", "", "must be specified for an update")) }
        if old.isBeingDeleted {
            for added in finalizers where !old.finalizers.contains(added) {
                errors.append(
                    .forbidden("metadata.finalizers", "no new finalizers can be added if the object is being deleted, found new finalizers \"\(added)\""))
            }
        }
        return errors
    }
}

// MARK: - Secret

extension Secret {
    func errors() -> [FieldError] {
        var errors: [FieldError] = [], total = 0
        for (key, value) in data {
            errors += Names.errors(secretKey: key).map { .invalid("data[\(key)]", key, $0) }
            total += value.count
        }
        if total > Limits.secretDataBytesMax { errors.append(.tooLong("data", bytesMax: Limits.secretDataBytesMax)) }
        func require(_ key: String) { if self[key] == nil { errors.append(.required("data[\(key)]")) } }
        switch type {
        case BuiltInType.tls:
            require("tls.crt")
            require("tls.key")
        case BuiltInType.dockerConfig:
            require(".dockercfg")
            errors += jsonErrors(".dockercfg")
        case BuiltInType.dockerConfigJSON:
            require(".dockerconfigjson")
            errors += jsonErrors(".dockerconfigjson")
        case BuiltInType.basicAuth:
            if self["username"] == nil && self["password"] == nil {
                require("username")
                require("password")
            }
        case BuiltInType.sshAuth:
            if self["ssh-privatekey"]?.count ?? 0 == 0 { errors.append(.required("data[ssh-privatekey]")) }
        case BuiltInType.serviceAccountToken:
            if resource.annotation("kubernetes.io/service-account.name") ?? "" == "" {
                errors.append(.required("metadata.annotations[kubernetes.io/service-account.name]"))
            }
        case BuiltInType.bootstrapToken:
            require("token-id")
            require("token-secret")
        default:
            break
        }
        return errors
    }

    private func jsonErrors(_ key: String) -> [FieldError] {
        guard let value = self[key] else { return [] }
        do throws(MalformedDocument) {
            // As secrets throughout, so that nothing of it stays in ordinary strings.
            let document = try JSONValue(parsing: value, secrets: .anywhere)
            return document.objectValue == nil ? [.invalid("data[\(key)]", redacted: "an object is expected, not \(document.typeName)")] : []
        } catch {
            return [.invalid("data[\(key)]", redacted: error.description)]
        }
    }

    func errors(replacing old: Secret) -> [FieldError] {
        var errors: [FieldError] = []
        if type != old.type { errors.append(.invalid("type", type, "field is immutable")) }
        guard old.isImmutable else { return errors }
        if !isImmutable { errors.append(.forbidden("immutable", "field is immutable when `immutable` is set")) }
        if (resource.tree["data"] ?? [:]) != (old.resource.tree["data"] ?? [:]) {
            errors.append(.forbidden("data", "field is immutable when `immutable` is set"))
        }
        return errors
    }
}

// MARK: - Node

extension Node {
    func errors() -> [FieldError] {
        (resource.tree["spec"]?["taints"]?.arrayValue ?? []).enumerated().flatMap { index, taint -> [FieldError] in
            let path = "spec.taints[\(index)]", key = taint["key"]?.stringValue ?? "", effect = taint["effect"]?.stringValue ?? ""
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
            return Names.errors(qualifiedName: key).map { .invalid("\(path).key", key, $0) }
                + (effects.contains(effect) ? [] : [.notSupported("\(path).effect", effect, supported: effects)])
        }
    }
}
