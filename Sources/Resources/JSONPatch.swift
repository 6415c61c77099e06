import SecretMemory

/// RFC 6902: a list of operations, applied in order, all or none.
package struct JSONPatch: Sendable, Equatable {
    package enum Operation: Sendable, Equatable {
        case add(JSONPointer, JSONValue)
        case remove(JSONPointer)
        case replace(JSONPointer, JSONValue)
        case move(from: JSONPointer, JSONPointer)
        case copy(from: JSONPointer, JSONPointer)
        case test(JSONPointer, JSONValue)
    }
    package var operations: [Operation]
    /// Each copies or shifts up to the whole document.
    static let operationsMax = 10_000
    /// Kubernetes' bound on what copies may add up to: each can double the document.
    static let copiedBytesMax = 3 << 20
    /// Members and elements on the operations' paths: each operation may touch all of them.
    static let touchedMax = 2_000_000

    /// `json` as parsed with `SecretPlace.patchOperations`: strings in values become ordinary ones where their path is no secret's.
    package init(_ json: JSONValue) throws(MalformedDocument) {
        guard let list = json.arrayValue else { throw MalformedDocument("a JSON patch is an array of operations", line: 0, column: 0) }
        guard list.count <= Self.operationsMax else {
            throw MalformedDocument("the allowed maximum operations in a JSON patch is \(Self.operationsMax)", line: 0, column: 0)
        }
        operations = []
        for (index, item) in list.enumerated() {
            func malformed(_ what: String) -> MalformedDocument { MalformedDocument("operation \(index): \(what)", line: 0, column: 0) }
            guard let name = item["op"]?.stringValue else { throw malformed("\"op\" is missing") }
            guard let text = item["path"]?.stringValue, let path = JSONPointer(text) else { throw malformed("\"path\" is no JSON pointer") }
            func value() throws(MalformedDocument) -> JSONValue {
                guard let value = item["value"] else { throw malformed("\"value\" is missing") }
                guard let settled = value.settled(at: path.place) else { throw malformed("illegal base64 data in \"value\"") }
                return settled
            }
            func from() throws(MalformedDocument) -> JSONPointer {
                guard let text = item["from"]?.stringValue, let from = JSONPointer(text) else { throw malformed("\"from\" is no JSON pointer") }
                return from
            }
            switch name {
            case "add": operations.append(.add(path, try value()))
            case "remove": operations.append(.remove(path))
            case "replace": operations.append(.replace(path, try value()))
            case "move": operations.append(.move(from: try from(), path))
            case "copy": operations.append(.copy(from: try from(), path))
            case "test": operations.append(.test(path, try value()))
            default: throw malformed("unknown \"op\"")
            }
        }
    }

    /// Never larger than document, patch and `copiedBytesMax` together, and never deeper than the parser reads.
    package func applied(to document: JSONValue) throws(PatchError) -> JSONValue {
        var result = document, copiedBytes = 0, touched = 0
        for operation in operations {
            touched += operation.paths.reduce(0) { $0 + result.width(along: $1) }
            guard touched <= Self.touchedMax else { throw .tooMuch }
            switch operation {
            case .add(let path, let value): try result.add(value, at: path)
            case .remove(let path): _ = try result.remove(at: path)
            case .replace(let path, let value):
                guard !path.tokens.isEmpty else { result = value; continue }
                _ = try result.remove(at: path)
                try result.add(value, at: path)
            case .move(let from, let path):
                guard !path.isInside(from) else { throw PatchError("move: \"\(path)\" lies inside of \"\(from)\"", isUnprocessable: true) }
                let value = try result.remove(at: from)
                touched += value.approximateBytes / 8  // it is looked through
                guard touched <= Self.touchedMax else { throw .tooMuch }
                try result.add(try value.carried(from: from, to: path), at: path)
            case .copy(let from, let path):
                let value = try result.value(at: from)
                copiedBytes += value.approximateBytes
                guard copiedBytes <= Self.copiedBytesMax else { throw .tooMuch }
                try result.add(try value.carried(from: from, to: path), at: path)
            case .test(let path, let value):
                guard try result.value(at: path).isEqualAsJSON(to: value) else {
                    throw PatchError("the server rejected our request due to an error in our request: testing path \"\(path)\" failed", isUnprocessable: true)
                }
            }
        }
        return result
    }
}

extension JSONPatch.Operation {
    /// What it reads or changes.
    fileprivate var paths: [JSONPointer] {
        switch self {
        case .add(let path, _), .remove(let path), .replace(let path, _), .test(let path, _): [path]
        case .move(let from, let path), .copy(let from, let path): [from, path]
        }
    }
}

/// RFC 6901.
package struct JSONPointer: Sendable, Equatable, CustomStringConvertible {
    package var tokens: [String]

    package init?(_ text: String) {
        guard text.isEmpty || text.hasPrefix("/") else { return nil }
        tokens = []
        for raw in text.split(separator: "/", omittingEmptySubsequences: false).dropFirst() {
            var token = "", escaped = false
            for character in raw.unicodeScalars {
                switch (escaped, character) {
                case (true, "0"): token += "~"
                case (true, "1"): token += "/"
                case (true, _): return nil
                case (false, "~"): escaped = true; continue
                default: token.unicodeScalars.append(character)
                }
                escaped = false
            }
            if escaped { return nil }
            tokens.append(token)
        }
    }
    package var description: String {
        tokens.map { token in "/" + token.map { $0 == "~" ? "~0" : $0 == "/" ? "~1" : String($0) }.joined() }.joined()
    }
    package func isInside(_ other: JSONPointer) -> Bool { tokens.count > other.tokens.count && tokens.starts(with: other.tokens) }

    /// What stands there in a resource.
    var place: SecretPlace {
        tokens.reduce(.object) { place, token in
            switch place {
            case .objects, .rows: place.element
            default: place.member(token)
            }
        }
    }

    /// An index into an array of `count`; `nil` when it is none, or beyond `max`.
    static func index(_ token: String, max: Int) -> Int? {
        guard token.utf8.count <= 9, token.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), token == "0" || !token.hasPrefix("0"), let index = Int(token),
            index <= max
        else { return nil }
        return index
    }
}

extension JSONValue {
    fileprivate func value(at path: JSONPointer) throws(PatchError) -> JSONValue {
        var value = self
        for token in path.tokens {
            switch value {
            case .object(let object):
                guard let child = object[token] else { throw .missing(path) }
                value = child
            case .array(let elements):
                guard let index = JSONPointer.index(token, max: elements.count - 1) else { throw .missing(path) }
                value = elements[index]
            default: throw .missing(path)
            }
        }
        return value
    }

    /// Members and elements beside the path, as far as it leads.
    fileprivate func width(along path: JSONPointer) -> Int {
        var value = self, total = 0
        for token in path.tokens {
            switch value {
            case .object(let object):
                total += object.count
                guard let child = object[token] else { return total }
                value = child
            case .array(let elements):
                total += elements.count
                guard let index = JSONPointer.index(token, max: elements.count - 1) else { return total }
                value = elements[index]
            default: return total
            }
        }
        return total
    }

    /// Levels of objects and arrays; what is deeper than the parser reads counts as that.
    private func depth(atMost most: Int = JSONParser.depthMax + 1) -> Int {
        guard most > 0 else { return 0 }
        return switch self {
        case .array(let elements): 1 + (elements.lazy.map { $0.depth(atMost: most - 1) }.max() ?? 0)
        case .object(let object): 1 + (object.members.lazy.map { $0.value.depth(atMost: most - 1) }.max() ?? 0)
        default: 0
        }
    }

    /// As it would be written, about.
    fileprivate var approximateBytes: Int {
        switch self {
        case .array(let elements): elements.reduce(8) { $0 + $1.approximateBytes }
        case .object(let object): object.members.reduce(8) { $0 + $1.key.utf8.count + $1.value.approximateBytes }
        case .string(let text): 8 + text.utf8.count
        case .secret(let value), .secretText(let value): 8 + value.count
        case .null, .bool, .integer, .double: 8
        }
    }

    fileprivate mutating func add(_ value: JSONValue, at path: JSONPointer) throws(PatchError) {
        guard let last = path.tokens.last else { self = value; return }
        guard path.tokens.count + value.depth() <= JSONParser.depthMax else {
            throw PatchError("the document would be nested deeper than \(JSONParser.depthMax) levels", isUnprocessable: true)
        }
        try change(path.tokens.dropLast()[...], path) { (parent) throws(PatchError) in
            switch parent {
            case .object(var object):
                parent = .null
                object[last] = value
                parent = .object(object)
            case .array(var elements):
                guard let index = last == "-" ? elements.count : JSONPointer.index(last, max: elements.count) else { throw .missing(path) }
                parent = .null
                elements.insert(value, at: index)
                parent = .array(elements)
            default: throw .missing(path)
            }
        }
    }

    fileprivate mutating func remove(at path: JSONPointer) throws(PatchError) -> JSONValue {
        guard let last = path.tokens.last else { throw PatchError("the whole document cannot be removed", isUnprocessable: true) }
        var removed: JSONValue = .null
        try change(path.tokens.dropLast()[...], path) { (parent) throws(PatchError) in
            switch parent {
            case .object(var object):
                guard let value = object.removeValue(forKey: last) else { throw .missing(path) }
                removed = value
                parent = .object(object)
            case .array(var elements):
                guard let index = JSONPointer.index(last, max: elements.count - 1) else { throw .missing(path) }
                removed = elements.remove(at: index)
                parent = .array(elements)
            default: throw .missing(path)
            }
        }
        return removed
    }

    private mutating func change(
        _ tokens: ArraySlice<String>, _ path: JSONPointer, _ body: (inout JSONValue) throws(PatchError) -> Void
    ) throws(PatchError) {
        guard let token = tokens.first else { return try body(&self) }
        switch self {
        case .object(var object):
            guard var child = object[token] else { throw .missing(path) }
            try child.change(tokens.dropFirst(), path, body)
            object[token] = child
            self = .object(object)
        case .array(var elements):
            guard let index = JSONPointer.index(token, max: elements.count - 1) else { throw .missing(path) }
            try elements[index].change(tokens.dropFirst(), path, body)
            self = .array(elements)
        default: throw .missing(path)
        }
    }

    /// A moved or copied value must not turn a secret into plain text: a secret may go only where secrets stand, and a
    /// plain value into such a place becomes one.
    fileprivate func carried(from: JSONPointer, to path: JSONPointer) throws(PatchError) -> JSONValue {
        guard from.place != path.place else { return self }
        guard !containsSecret else { throw PatchError("a secret cannot be moved or copied from \"\(from)\" to \"\(path)\"", isUnprocessable: true) }
        guard let asSecrets = self.asSecretTexts, let settled = asSecrets.settled(at: path.place) else {
            throw PatchError("illegal base64 data at \"\(from)\"", isUnprocessable: true)
        }
        return settled
    }

    package var containsSecret: Bool {
        switch self {
        case .secret, .secretText: true
        case .array(let elements): elements.contains { $0.containsSecret }
        case .object(let object): object.members.contains { $0.value.containsSecret }
        default: false
        }
    }

    private var asSecretTexts: JSONValue? {
        switch self {
        case .string(let text):
            return (try? SecretValue(copying: text.utf8)).map { .secretText($0) }
        case .array(let elements):
            return .array(elements.compactMap(\.asSecretTexts))
        case .object(let object):
            return .object(JSONObject(object.members.compactMap { member in member.value.asSecretTexts.map { (member.key, $0) } }))
        default: return self
        }
    }

    /// Of a value whose strings were all taken for secrets: those that are none at `place` become strings, those of `data` are
    /// decoded. `nil`: illegal base64.
    package func settled(at place: SecretPlace) -> JSONValue? {
        switch self {
        case .secretText(let value):
            switch place.stringForm {
            case .text: return self
            case .base64:
                return (try? value.withUnsafeBytes { try SecretValue(base64: $0.assumingMemoryBound(to: UInt8.self)) }).map { .secret($0) }
            case nil: return .string(value.withUnsafeBytes { String(decoding: $0, as: UTF8.self) })
            }
        case .array(let elements):
            var result: [JSONValue] = []
            for element in elements {
                guard let settled = element.settled(at: place.element) else { return nil }
                result.append(settled)
            }
            return .array(result)
        case .object(let object):
            var result = JSONObject()
            for member in object.members {
                guard let settled = member.value.settled(at: place.member(member.key)) else { return nil }
                result[member.key] = settled
            }
            return .object(result)
        default:
            return self
        }
    }
}

extension PatchError {
    fileprivate static let tooMuch = PatchError("the JSON patch makes too much of the object", isUnprocessable: true)
    fileprivate static func missing(_ path: JSONPointer) -> PatchError {
        PatchError("the server rejected our request due to an error in our request: path \"\(path)\" does not exist", isUnprocessable: true)
    }
}
