/// A kind of resource as the API serves it: its names, scope, verbs and shape.
package struct ResourceType: Sendable {
    package let group: String
    package let version: String
    /// As paths name it: `secrets`.
    package let plural: String
    package let singular: String
    package let kind: String
    package let shortNames: [String]
    package let isNamespaced: Bool
    package let verbs: [String]
    /// Parts with a path of their own: `status`, `binding`.
    package let subresources: [String]
    package let categories: [String]
    /// The fields known of it: types, and how lists merge.
    package let schema: Schema

    package var apiVersion: String { group.isEmpty ? version : group + "/" + version }
    /// As error messages name it: `secrets`, `deployments.apps`.
    package var qualifiedName: String { group.isEmpty ? plural : plural + "." + group }
    package var listKind: String { kind + "List" }

    private static let allVerbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]

    package static let namespaces = ResourceType(
        group: "", version: "v1", plural: "namespaces", singular: "namespace", kind: "Namespace", shortNames: ["ns"], isNamespaced: false,
        verbs: ["create", "delete", "get", "list", "patch", "update", "watch"], subresources: ["status"], categories: [], schema: .namespace)
    package static let nodes = ResourceType(
        group: "", version: "v1", plural: "nodes", singular: "node", kind: "Node", shortNames: ["no"], isNamespaced: false,
        verbs: allVerbs, subresources: ["status"], categories: [], schema: .node)
    package static let pods = ResourceType(
        group: "", version: "v1", plural: "pods", singular: "pod", kind: "Pod", shortNames: ["po"], isNamespaced: true,
        verbs: allVerbs, subresources: ["binding", "status"], categories: ["all"], schema: .pod)
    package static let secrets = ResourceType(
        group: "", version: "v1", plural: "secrets", singular: "secret", kind: "Secret", shortNames: [], isNamespaced: true,
        verbs: allVerbs, subresources: [], categories: [], schema: .secret)

    /// By plural name.
    package static let all: [ResourceType] = [namespaces, nodes, pods, secrets]

    /// As paths name it.
    package static func plural(_ name: String) -> ResourceType? { all.first { $0.plural == name } }
    package static func kind(_ kind: String, apiVersion: String = "v1") -> ResourceType? { all.first { $0.kind == kind && $0.apiVersion == apiVersion } }
    /// As people name it: plural, singular or short, in any case, with or without version (`pods.v1.`).
    package static func named(_ name: String) -> ResourceType? {
        let word = name.lowercased().split(separator: ".", omittingEmptySubsequences: true).first.map(String.init) ?? ""
        return all.first { $0.plural == word || $0.singular == word || $0.shortNames.contains(word) }
    }
}

extension ResourceType: Hashable, CustomStringConvertible {
    package static func == (a: ResourceType, b: ResourceType) -> Bool { a.plural == b.plural && a.apiVersion == b.apiVersion }
    package func hash(into hasher: inout Hasher) { hasher.combine(plural) }
    package var description: String { qualifiedName }
}
