/// A label selector as queries write it (`apimachinery/pkg/labels/selector.go`): requirements joined by commas, all of which must hold.
///
///     a=b  a==b  a!=b  a in (b,c)  a notin (b,c)  a  !a
///
/// As in Kubernetes, `!=` and `notin` hold for an object without the label.
package struct LabelSelector: Sendable, Equatable {
    package enum Requirement: Sendable, Equatable {
        case isIn(key: String, values: [String])
        case notIn(key: String, values: [String])
        case exists(key: String)
        case absent(key: String)
        case greater(key: String, than: Int64)
        case less(key: String, than: Int64)
    }
    package var requirements: [Requirement]
    package static let everything = LabelSelector(requirements: [])
    package init(requirements: [Requirement]) { self.requirements = requirements }
    package var isEverything: Bool { requirements.isEmpty }

    /// Throws a 400.
    package init(parsing text: String) throws(Status) {
        var parser = Parser(text)
        do throws(Parser.Malformed) {
            requirements = try parser.requirements()
        } catch {
            throw .badRequest("unable to parse requirement: \(error.what)")
        }
    }

    package func matches(_ labels: [String: String]) -> Bool {
        requirements.allSatisfy { requirement in
            switch requirement {
            case .isIn(let key, let values): labels[key].map(values.contains) ?? false
            case .notIn(let key, let values): labels[key].map { !values.contains($0) } ?? true
            case .exists(let key): labels[key] != nil
            case .absent(let key): labels[key] == nil
            case .greater(let key, let bound): labels[key].flatMap { Int64($0) }.map { $0 > bound } ?? false
            case .less(let key, let bound): labels[key].flatMap { Int64($0) }.map { $0 < bound } ?? false
            }
        }
    }
    package func matches(_ resource: Resource) -> Bool { isEverything || matches(resource.labels) }

    private struct Parser {
        struct Malformed: Error { var what: String }
        private let text: [Character]
        private var position = 0
        init(_ text: String) { self.text = Array(text) }

        private mutating func skipSpace() { while position < text.count, text[position] == " " || text[position] == "\t" { position += 1 } }
        private mutating func take(_ symbol: String) -> Bool {
            skipSpace()
            guard text[position...].starts(with: symbol) else { return false }
            position += symbol.count
            return true
        }
        private mutating func word() -> String {
            skipSpace()
            let start = position
            while position < text.count, !" \t,=!()<>".contains(text[position]) { position += 1 }
            return String(text[start..<position])
        }

        mutating func requirements() throws(Malformed) -> [Requirement] {
            var list: [Requirement] = []
            skipSpace()
            guard position < text.count else { return list }
            repeat { list.append(try requirement()) } while take(",")
            guard position == text.count else { throw Malformed(what: "found '\(text[position])', expected: ',' or 'end of string'") }
            return list
        }

        private mutating func requirement() throws(Malformed) -> Requirement {
            if take("!") { return .absent(key: try key()) }
            let key = try key()
            skipSpace()
            if position == text.count || text[position] == "," { return .exists(key: key) }
            if take("!=") { return .notIn(key: key, values: [try value()]) }
            if take("==") || take("=") { return .isIn(key: key, values: [try value()]) }
            if take(">") { return .greater(key: key, than: try bound()) }
            if take("<") { return .less(key: key, than: try bound()) }
            switch word() {
            case "in": return .isIn(key: key, values: try values())
            case "notin": return .notIn(key: key, values: try values())
            case let other: throw Malformed(what: "found '\(other)', expected: in, notin, =, ==, !=, gt, lt")
            }
        }
        private mutating func key() throws(Malformed) -> String {
            let key = word()
            if let error = Names.errors(qualifiedName: key).first { throw Malformed(what: "key: Invalid value: \"\(key)\": \(error)") }
            return key
        }
        private mutating func value() throws(Malformed) -> String {
            let value = word()
            if let error = Names.errors(labelValue: value).first { throw Malformed(what: "values: Invalid value: \"\(value)\": \(error)") }
            return value
        }
        private mutating func bound() throws(Malformed) -> Int64 {
            guard let bound = Int64(word()) else { throw Malformed(what: "for 'Gt', 'Lt' operators, the value must be an integer") }
            return bound
        }
        private mutating func values() throws(Malformed) -> [String] {
            guard take("(") else { throw Malformed(what: "expected: '('") }
            var values: [String] = []
            repeat { values.append(try value()) } while take(",")
            guard take(")") else { throw Malformed(what: "expected: ',' or ')'") }
            return values
        }
    }
}

/// A field selector: `metadata.name=web,type!=Opaque`. Each kind has the fields Kubernetes gives it; asking for another is an error.
package struct FieldSelector: Sendable, Equatable {
    package struct Requirement: Sendable, Equatable {
        package var field: String
        package var equals: Bool
        package var value: String
    }
    package var requirements: [Requirement]
    package static let everything = FieldSelector(requirements: [])
    package init(requirements: [Requirement]) { self.requirements = requirements }
    package var isEverything: Bool { requirements.isEmpty }

    /// Throws a 400.
    package init(parsing text: String, for type: ResourceType) throws(Status) {
        var requirements: [Requirement] = []
        for term in Self.terms(text) where !term.isEmpty {
            guard let (field, equals, value) = Self.split(term) else {
                throw .badRequest("invalid selector: '\(text)'; can't understand '\(term)'")
            }
            guard Self.fields(of: type).contains(field) else {
                throw .badRequest("field label not supported: \(field)")
            }
            requirements.append(Requirement(field: field, equals: equals, value: value))
        }
        self.requirements = requirements
    }

    /// The value that `field` must have, if the selector says so: narrows a list to one object, or to a node's pods.
    package func exactValue(of field: String) -> String? { requirements.first { $0.field == field && $0.equals }?.value }

    package func matches(_ resource: Resource) -> Bool {
        requirements.allSatisfy { (Self.value(of: $0.field, in: resource) == $0.value) == $0.equals }
    }

    private static func fields(of type: ResourceType) -> [String] {
        var fields = ["metadata.name"]
        if type.isNamespaced { fields.append("metadata.namespace") }
        switch type.kind {
        case "Secret": fields.append("type")
        case "Pod":
            fields += [
                "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP",
                "status.nominatedNodeName",
            ]
        case "Node": fields.append("spec.unschedulable")
        case "Namespace": fields.append("status.phase")
        default: break
        }
        return fields
    }
    private static func value(of field: String, in resource: Resource) -> String {
        let leaf = resource.json[field.split(separator: ".").map(String.init)]
        switch leaf {
        case .string(let text): return text
        case .bool(let flag): return flag ? "true" : "false"
        default: return field == "spec.unschedulable" || field == "spec.hostNetwork" ? "false" : ""
        }
    }

    /// Commas and signs of equality can be escaped by a backslash.
    private static func terms(_ text: String) -> [String] {
        var terms: [String] = [], term = "", escaped = false
        for character in text {
            if !escaped && character == "," { terms.append(term); term = ""; continue }
            term.append(character)
            escaped = !escaped && character == "\\"
        }
        return terms + [term]
    }
    private static func split(_ term: String) -> (String, Bool, String)? {
        let characters = Array(term)
        guard let sign = characters.firstIndex(where: { $0 == "=" || $0 == "!" }) else { return nil }
        let rest = characters[sign...]
        let equals = !rest.starts(with: "!="), width = rest.starts(with: "!=") || rest.starts(with: "==") ? 2 : 1
        guard rest.starts(with: "=") || rest.starts(with: "!=") else { return nil }
        var value = "", escaped = false
        for character in rest.dropFirst(width) {
            if !escaped && character == "\\" { escaped = true; continue }
            guard !escaped || ",=\\".contains(character) else { return nil }
            value.append(character)
            escaped = false
        }
        let field = String(characters[..<sign])
        return escaped || field.isEmpty ? nil : (field, equals, value)
    }
}
