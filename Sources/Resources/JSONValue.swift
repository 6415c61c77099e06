package import SecretMemory

/// A JSON document as a value: what every resource, patch and answer is made of. Members keep their order, integers stay
/// integers, and a secret is a leaf of its own kind, which is never a `String` and never described.
package indirect enum JSONValue: Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case double(Double)
    case string(String)
    case array([JSONValue])
    case object(JSONObject)
    /// Bytes that travel as base64 text: a value of a Secret's `data`.
    case secret(SecretValue)
    /// UTF-8 text that is a secret: a value of `stringData`, the last-applied annotation.
    case secretText(SecretValue)
}

/// The members of a JSON object in their order; a name occurs once.
///
/// Invariant: `positions` is empty for small objects (a scan is faster there), else maps every name to its place.
package struct JSONObject: Sendable {
    package struct Member: Sendable {
        package var key: String
        package var value: JSONValue
    }
    package private(set) var members: [Member] = []
    private var positions: [String: Int] = [:]
    private static let scannedMax = 16

    package init() {}
    /// Later members replace earlier ones of the same name.
    package init(_ members: some Sequence<(String, JSONValue)>) {
        for (key, value) in members { self[key] = value }
    }

    package var count: Int { members.count }
    package var isEmpty: Bool { members.isEmpty }
    package var keys: [String] { members.map(\.key) }
    /// By name, as Kubernetes' printers order them.
    package var sortedMembers: [Member] { members.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) } }

    package func contains(_ key: String) -> Bool { position(of: key) != nil }

    /// Assigning `nil` removes the member.
    package subscript(key: String) -> JSONValue? {
        get { position(of: key).map { members[$0].value } }
        set {
            switch (position(of: key), newValue) {
            case (let place?, let value?): members[place].value = value
            case (nil, let value?): append(Member(key: key, value: value))
            case (_?, nil): removeValue(forKey: key)
            case (nil, nil): break
            }
        }
    }

    @discardableResult
    package mutating func removeValue(forKey key: String) -> JSONValue? {
        guard let place = position(of: key) else { return nil }
        let removed = members.remove(at: place)
        if !positions.isEmpty {
            positions = [:]
            if members.count > Self.scannedMax { index() }
        }
        return removed.value
    }

    package mutating func removeAll(where isRemoved: (Member) -> Bool) {
        let kept = members.filter { !isRemoved($0) }
        guard kept.count != members.count else { return }
        members = kept
        positions = [:]
        if members.count > Self.scannedMax { index() }
    }

    private func position(of key: String) -> Int? {
        positions.isEmpty ? members.firstIndex { $0.key == key } : positions[key]
    }
    private mutating func append(_ member: Member) {
        members.append(member)
        if !positions.isEmpty { positions[member.key] = members.count - 1 } else if members.count > Self.scannedMax { index() }
    }
    private mutating func index() {
        for (place, member) in members.enumerated() { positions[member.key] = place }
    }
}

// MARK: - Equality

/// Order of members does not matter; `1` and `1.0` differ (see `isEqualAsJSON(to:)`).
extension JSONObject: Equatable {
    package static func == (a: JSONObject, b: JSONObject) -> Bool {
        a.count == b.count && a.members.allSatisfy { b[$0.key] == $0.value }
    }
}

extension JSONValue: Equatable {
    package static func == (a: JSONValue, b: JSONValue) -> Bool { a.isEqual(b, mixesNumbers: false) }

    /// RFC 6902 §4.6: numbers are equal when their values are.
    package func isEqualAsJSON(to other: JSONValue) -> Bool { isEqual(other, mixesNumbers: true) }

    private func isEqual(_ other: JSONValue, mixesNumbers: Bool) -> Bool {
        switch (self, other) {
        case (.null, .null): true
        case (.bool(let a), .bool(let b)): a == b
        case (.integer(let a), .integer(let b)): a == b
        case (.double(let a), .double(let b)): a == b
        case (.integer(let a), .double(let b)), (.double(let b), .integer(let a)): mixesNumbers && Double(a) == b
        case (.string(let a), .string(let b)): a == b
        case (.secret(let a), .secret(let b)), (.secretText(let a), .secretText(let b)): a == b
        case (.array(let a), .array(let b)): a.count == b.count && zip(a, b).allSatisfy { $0.isEqual($1, mixesNumbers: mixesNumbers) }
        case (.object(let a), .object(let b)):
            a.count == b.count && a.members.allSatisfy { member in b[member.key].map { member.value.isEqual($0, mixesNumbers: mixesNumbers) } ?? false }
        default: false
        }
    }
}

// MARK: - Reading and writing parts

extension JSONValue {
    package var stringValue: String? { if case .string(let value) = self { value } else { nil } }
    package var integerValue: Int64? { if case .integer(let value) = self { value } else { nil } }
    package var boolValue: Bool? { if case .bool(let value) = self { value } else { nil } }
    package var arrayValue: [JSONValue]? { if case .array(let value) = self { value } else { nil } }
    package var objectValue: JSONObject? { if case .object(let value) = self { value } else { nil } }
    package var secretValue: SecretValue? {
        switch self {
        case .secret(let value), .secretText(let value): value
        default: nil
        }
    }
    /// Of an object or an array.
    package var isEmptyContainer: Bool {
        switch self {
        case .object(let object): object.isEmpty
        case .array(let elements): elements.isEmpty
        default: false
        }
    }
    package var isNull: Bool { if case .null = self { true } else { false } }
    package var isSecret: Bool { secretValue != nil }

    /// A member. Reading what is no object answers `nil`; writing replaces what is no object by one; writing `nil` removes.
    package subscript(key: String) -> JSONValue? {
        get { objectValue?[key] }
        set {
            if case .object(var object) = self {
                self = .null  // one owner while it changes, so that nothing is copied
                object[key] = newValue
                self = .object(object)
            } else if let newValue {
                self = .object([key: newValue])
            }
        }
    }

    /// A member of a member; writing makes the objects on the way.
    package subscript(path: [String]) -> JSONValue? {
        get { path.reduce(Optional(self)) { $0?[$1] } }
        set {
            guard let first = path.first else {
                if let newValue { self = newValue }
                return
            }
            if path.count == 1 { self[first] = newValue; return }
            if newValue == nil && self[first] == nil { return }
            var child = self[first] ?? .object([:])
            child[Array(path.dropFirst())] = newValue
            self[first] = child
        }
    }
    package func at(_ path: String...) -> JSONValue? { self[path] }

    /// The same document with the members of every object in the order of their names.
    package var sortedByName: JSONValue {
        switch self {
        case .array(let elements): .array(elements.map(\.sortedByName))
        case .object(let object): .object(JSONObject(object.sortedMembers.map { ($0.key, $0.value.sortedByName) }))
        default: self
        }
    }

    /// What JSON calls its type, as Go's decoder names it in errors.
    package var typeName: String {
        switch self {
        case .null: "null"
        case .bool: "bool"
        case .integer, .double: "number"
        case .string, .secret, .secretText: "string"
        case .array: "array"
        case .object: "object"
        }
    }
}

// MARK: - Literals

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByStringInterpolation, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral,
    ExpressibleByNilLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    package init(stringLiteral value: String) { self = .string(value) }
    package init(integerLiteral value: Int64) { self = .integer(value) }
    package init(floatLiteral value: Double) { self = .double(value) }
    package init(booleanLiteral value: Bool) { self = .bool(value) }
    package init(nilLiteral: ()) { self = .null }
    package init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
    package init(dictionaryLiteral elements: (String, JSONValue)...) { self = .object(JSONObject(elements)) }
    package init(_ value: Int) { self = .integer(Int64(value)) }
    package init(_ strings: [String]) { self = .array(strings.map { .string($0) }) }
}
extension JSONObject: ExpressibleByDictionaryLiteral {
    package init(dictionaryLiteral elements: (String, JSONValue)...) { self.init(elements) }
}

// MARK: - Description

/// Secrets are masked in whatever a log, an error or a debugger might show.
extension JSONValue: CustomStringConvertible, CustomDebugStringConvertible {
    package var description: String { encodedString(.compact, secrets: .masked) }
    package var debugDescription: String { description }
}
extension JSONObject: CustomStringConvertible, CustomDebugStringConvertible {
    package var description: String { JSONValue.object(self).description }
    package var debugDescription: String { description }
}
