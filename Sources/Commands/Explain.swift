import APIClient
package import ArgumentParser
import Resources

package struct Explain: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Show the fields of a kind, as the server describes them.",
        discussion: """
              cofferctl explain secret
              cofferctl explain pod.spec.volumes.secret
              cofferctl explain pod --recursive
            """)
    @Argument(help: "TYPE, or TYPE.FIELD.FIELD…", completion: .resourceTypes) var path: String
    @Flag(help: "Show the fields of fields, without descriptions.") var recursive = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let words = path.split(separator: ".", omittingEmptySubsequences: true).map(String.init)
        guard let first = words.first else { throw CommandError("a kind is expected: see api-resources") }
        let type = try ResourceArguments.type(first)
        let document = try await invocation.connect(global).client.document("/openapi/v3/\(type.group.isEmpty ? "api" : "apis/\(type.group)")/\(type.version)")
        let schemas = document.at("components", "schemas")?.objectValue?.members.map(\.value) ?? []
        guard var schema = schemas.first(where: { $0["x-kubernetes-group-version-kind"]?.arrayValue?.first?["kind"]?.stringValue == type.kind }) else {
            throw CommandError("the server does not describe \(type.kind)")
        }
        for (place, word) in words.enumerated().dropFirst() {
            guard let field = Self.content(schema)["properties"]?[word] else {
                throw CommandError("field \"\(word)\" does not exist in \(words[..<place].joined(separator: "."))")
            }
            schema = field
        }
        var text = "KIND:       \(type.kind)\nVERSION:    \(type.apiVersion)\n\n"
        if words.count > 1 { text += "FIELD: \(words[words.count - 1]) <\(Self.typeName(schema))>\n\n" }
        text += "DESCRIPTION:\n    \(Self.description(schema) ?? "<empty>")\n"
        let fields = Self.fields(schema, depth: 0, isRecursive: recursive)
        if !fields.isEmpty { text += "\nFIELDS:\n" + fields }
        invocation.print(text)
    }

    private static let depthMax = 16

    private static func fields(_ schema: JSONValue, depth: Int, isRecursive: Bool) -> String {
        guard depth < depthMax else { return "" }
        let indent = String(repeating: "  ", count: depth + 1)
        return (content(schema)["properties"]?.objectValue?.sortedMembers ?? []).map { member in
            let line = "\(indent)\(TableText.printable(member.key))\t<\(typeName(member.value))>\n"
            if isRecursive { return line + fields(member.value, depth: depth + 1, isRecursive: true) }
            return line + (description(member.value).map { "\(indent)  \($0)\n" } ?? "") + "\n"
        }.joined()
    }

    /// Of a list or a map, that of its elements.
    private static func content(_ schema: JSONValue) -> JSONValue {
        let inner = schema["items"] ?? schema["additionalProperties"]
        return inner.map(content) ?? schema
    }
    private static func description(_ schema: JSONValue) -> String? { schema["description"]?.stringValue.map(TableText.printable) }
    private static func typeName(_ schema: JSONValue) -> String {
        if let items = schema["items"] { return "[]" + typeName(items) }
        if let values = schema["additionalProperties"] { return "map[string]" + typeName(values) }
        if schema["x-kubernetes-int-or-string"]?.boolValue == true { return "IntOrString" }
        guard let type = schema["type"]?.stringValue else { return "Object" }
        return type == "object" ? "Object" : TableText.printable(type)
    }
}
