/// The shape of a field: what type it must have, which of its members are known, and how a strategic merge treats it.
/// One table says all three, so that they cannot disagree.
package indirect enum Schema: Sendable {
    /// Kept as it is.
    case anything
    case string, integer, boolean
    /// A number or a string: quantities, ports by name.
    case integerOrString
    /// An object with any names.
    case map(Schema)
    /// `isOpen`: members that are not listed are kept, else they are dropped and reported.
    case object([String: Schema], isOpen: Bool)
    case list(Schema, ListMerge)
    /// A Secret's `data` and `stringData`.
    case secretData, secretText
    /// An object that a patch replaces as a whole.
    case atomic(Schema)
}

/// How a strategic merge patch merges a list with the present one.
package enum ListMerge: Sendable, Equatable {
    /// The patch's list replaces the present one.
    case atomic
    /// Objects with the same value of this member are merged. `retainsKeys`: a patch of an element says by `$retainKeys`
    /// which members may stay (an element is a union, as a volume is).
    case byKey(String, retainsKeys: Bool = false)
    /// Elements are primitive and are added if absent.
    case set
}

/// A field that has the wrong type. Never contains the value.
package struct SchemaMismatch: Error, Equatable, CustomStringConvertible {
    package var path: String
    package var found: String
    package var expected: String
    package var description: String { "json: cannot unmarshal \(found) into field \(path) of type \(expected)" }
}

extension Schema {
    /// The schema of a member of an object of this schema.
    package func member(_ key: String) -> Schema {
        switch self {
        case .object(let members, _): members[key] ?? .anything
        case .map(let value): value
        case .atomic(let inner): inner.member(key)
        default: .anything
        }
    }
    package var element: Schema { if case .list(let element, _) = self { element } else { .anything } }
    package var listMerge: ListMerge { if case .list(_, let merge) = self { merge } else { .atomic } }
    package var isAtomic: Bool { if case .atomic = self { true } else { false } }

    /// The value with `null` members and unknown members of closed objects left out; the latter are named in `unknown`.
    package func conforming(_ value: JSONValue, path: String = "", unknown: inout [String]) throws(SchemaMismatch) -> JSONValue {
        switch (self, value) {
        case (.anything, _), (.string, .string), (.integer, .integer), (.boolean, .bool), (.integerOrString, .integer), (.integerOrString, .double),
            (.integerOrString, .string), (.secretData, .secret), (.secretText, .secretText):
            return value
        case (.string, .secretText):
            return value  // the last-applied annotation
        case (.integer, .double(let double)):
            guard let integer = Int64(exactly: double) else { throw mismatch(value, path) }
            return .integer(integer)
        case (.atomic(let inner), _):
            return try inner.conforming(value, path: path, unknown: &unknown)
        case (.list(let element, _), .array(let elements)):
            var result: [JSONValue] = []
            result.reserveCapacity(elements.count)
            for (index, child) in elements.enumerated() where !child.isNull {
                result.append(try element.conforming(child, path: "\(path)[\(index)]", unknown: &unknown))
            }
            return .array(result)
        case (.map, .object(let object)), (.object, .object(let object)), (.secretData, .object(let object)), (.secretText, .object(let object)):
            return try conforming(object, path: path, unknown: &unknown)
        default:
            throw mismatch(value, path)
        }
    }

    private func conforming(_ object: JSONObject, path: String, unknown: inout [String]) throws(SchemaMismatch) -> JSONValue {
        var result = JSONObject()
        for member in object.members where !member.value.isNull {
            let place = path.isEmpty ? member.key : "\(path).\(member.key)"
            let schema: Schema
            switch self {
            case .object(let members, let isOpen):
                guard let known = members[member.key] else {
                    if isOpen { result[member.key] = member.value } else { unknown.append(place) }
                    continue
                }
                schema = known
            case .map(let inner): schema = inner
            default:
                guard member.value.isSecret else { throw SchemaMismatch(path: place, found: member.value.typeName, expected: "string") }
                result[member.key] = member.value
                continue
            }
            result[member.key] = try schema.conforming(member.value, path: place, unknown: &unknown)
        }
        return .object(result)
    }

    private func mismatch(_ value: JSONValue, _ path: String) -> SchemaMismatch { SchemaMismatch(path: path, found: value.typeName, expected: typeName) }

    private var typeName: String {
        switch self {
        case .anything: "any"
        case .string: "string"
        case .integer: "integer"
        case .boolean: "bool"
        case .integerOrString: "integer or string"
        case .map, .object, .secretData, .secretText: "object"
        case .list: "array"
        case .atomic(let inner): inner.typeName
        }
    }
}
