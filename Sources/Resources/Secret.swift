package import SecretMemory

/// A Secret, read from its resource.
package struct Secret: Sendable {
    package var resource: Resource
    package init(_ resource: Resource) { self.resource = resource }

    package enum BuiltInType {
        package static let opaque = "Opaque"
        package static let tls = "kubernetes.io/tls"
        package static let dockerConfig = "kubernetes.io/dockercfg"
        package static let dockerConfigJSON = "kubernetes.io/dockerconfigjson"
        package static let basicAuth = "kubernetes.io/basic-auth"
        package static let sshAuth = "kubernetes.io/ssh-auth"
        package static let serviceAccountToken = "kubernetes.io/service-account-token"
        package static let bootstrapToken = "bootstrap.kubernetes.io/token"
    }

    package var type: String { resource.tree["type"]?.stringValue ?? BuiltInType.opaque }
    package var isImmutable: Bool { resource.tree["immutable"]?.boolValue ?? false }
    /// By key.
    package var data: [(key: String, value: SecretValue)] {
        (resource.tree["data"]?.objectValue?.sortedMembers ?? []).compactMap { member in member.value.secretValue.map { (member.key, $0) } }
    }
    package subscript(key: String) -> SecretValue? { resource.tree["data"]?[key]?.secretValue }

    /// What storage keeps: `stringData` merged into `data`, which it overrides; a type.
    package mutating func normalize() {
        if let texts = resource.tree["stringData"]?.objectValue {
            var data = resource.tree["data"]?.objectValue ?? [:]
            for member in texts.members {
                if let value = member.value.secretValue { data[member.key] = .secret(value) }
            }
            if !texts.isEmpty { resource.tree["data"] = .object(data) }
            resource.tree["stringData"] = nil
        }
        if resource.tree["type"]?.stringValue ?? "" == "" { resource.tree["type"] = .string(BuiltInType.opaque) }
    }
}
