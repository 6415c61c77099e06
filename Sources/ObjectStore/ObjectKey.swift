package import Basics
package import Resources

/// Where an object lies in Coffer's own key space:
///
///     objects/{resource}/{namespace}/{name}      objects/{resource}/{name}   for kinds without namespaces
///
/// Invariant: no part is empty (but `namespace`, for kinds without) or holds a slash or a NUL, so that no key lies within another's range.
package struct ObjectKey: Hashable, Sendable {
    package let type: ResourceType
    package let namespace: String
    package let name: String

    /// Nil for parts that cannot stand in a key.
    package init?(_ type: ResourceType, namespace: String, name: String) {
        guard Self.isPart(name), type.isNamespaced ? Self.isPart(namespace) : namespace.isEmpty else { return nil }
        self.type = type
        self.namespace = namespace
        self.name = name
    }

    /// Of a stored entry; nil for what is no object's key.
    package init?(_ bytes: Bytes) {
        guard let text = String(validating: bytes, as: UTF8.self) else { return nil }
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count >= 3, parts[0] == "objects", let type = ResourceType.plural(String(parts[1])) else { return nil }
        guard parts.count == (type.isNamespaced ? 4 : 3) else { return nil }
        self.init(type, namespace: type.isNamespaced ? String(parts[2]) : "", name: String(parts[parts.count - 1]))
    }

    package var bytes: Bytes { Self.prefix(type, namespace: type.isNamespaced ? namespace : nil) + Bytes(name.utf8) }

    /// Whose data keys seal it: its namespace's; those without one share `default`'s. A namespace's object is no secret.
    package var domain: String { namespace.isEmpty ? "default" : namespace }

    /// All objects of a kind, in one namespace or in all.
    package static func range(_ type: ResourceType, namespace: String?) -> KeyRange { .prefix(prefix(type, namespace: namespace)) }
    /// All objects there are.
    package static let all = KeyRange.prefix(Bytes("objects/".utf8))

    private static func prefix(_ type: ResourceType, namespace: String?) -> Bytes {
        Bytes("objects/\(type.plural)/\(namespace.map { $0 + "/" } ?? "")".utf8)
    }
    static func isPart(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= 253 && !text.utf8.contains { $0 == UInt8(ascii: "/") || $0 == 0 }
    }
}

extension ObjectKey: CustomStringConvertible {
    package var description: String { "\(type.plural)/\(namespace.isEmpty ? "" : namespace + "/")\(name)" }
}
