import Basics
import SecretMemory
import Yams

private typealias YAMLNode = Yams.Node

/// YAML documents as JSON values, resolved as Kubernetes' own reader does (YAML 1.1 words for booleans, octal numbers with a
/// leading zero). The only file that knows Yams.
///
/// Attacks it ends: aliases that expand without bound (the nodes of all documents are counted as they expand, and aliases
/// may not be keys, which would be hashed before they are counted), nesting without bound (checked before the recursive
/// parser sees the text), names that occur twice. Errors give lines and never quote the text.
enum YAMLReader {
    /// Beyond any honest manifest of `Limits.manifestBytesMax`, and little enough to be held.
    static let nodesMax = 1_000_000
    private static let depthMax = JSONParser.depthMax
    /// Longest run of indentation and list dashes that a line may begin with.
    private static let indentMax = 1_000

    /// One value per document that is not empty, with the line it begins at.
    /// Secrets stand where `place` says; by default where the document's own kind has them.
    static func documents(_ bytes: Bytes, secrets place: SecretPlace? = nil) throws(MalformedDocument) -> [(value: JSONValue, line: Int)] {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            // No character reaches over the end of a line.
            let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            let line = lines.firstIndex { String(validating: $0, as: UTF8.self) == nil }
            throw MalformedDocument("invalid UTF-8", line: line.map { $0 + 1 } ?? 0, column: 0)
        }
        try checkNesting(bytes)
        try checkAliases(bytes)
        var documents: [(JSONValue, Int)] = [], nodesLeft = nodesMax
        do {
            let parser = try Parser(yaml: text, resolver: .basic, encoding: .utf8)
            while let root = try parser.nextRoot() {
                let kind = kind(of: root)
                var conversion = Conversion(nodesLeft: nodesLeft)
                let value = try conversion.value(
                    root, place ?? (kind == nil || kind == "Secret" || kind?.hasSuffix("List") == true ? .object : .nowhere), depth: 0)
                nodesLeft = conversion.nodesLeft
                if !value.isNull { documents.append((value, root.mark?.line ?? 0)) }
            }
        } catch let error as MalformedDocument {
            throw error
        } catch let error as YamlError {
            throw MalformedDocument(error)
        } catch {
            throw MalformedDocument("the YAML cannot be read", line: 0, column: 0)
        }
        return documents
    }

    private static func kind(of root: YAMLNode) -> String? {
        guard case .mapping(let mapping) = root else { return nil }
        return mapping.first { $0.key.scalar?.string == "kind" }?.value.scalar?.string
    }

    // MARK: Before the parser

    private static func checkNesting(_ bytes: Bytes) throws(MalformedDocument) {
        var line = 1, open = 0, indent = 0, isIndent = true
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\n"):
                line += 1
                indent = 0
                isIndent = true
                continue
            case UInt8(ascii: "{"), UInt8(ascii: "["): open += 1
            case UInt8(ascii: "}"), UInt8(ascii: "]"): open = max(0, open - 1)
            default: break
            }
            isIndent = isIndent && [0x20, 0x2d, 0x3f, 0x3a, 0x09].contains(byte)
            if isIndent { indent += 1 }
            guard open <= indentMax, indent <= indentMax else { throw MalformedDocument("nested too deeply", line: line, column: 0) }
        }
    }

    /// Refuses an alias that is, or lies in, a mapping's key. Looks only at texts that have both anchors and aliases.
    private static func checkAliases(_ bytes: Bytes) throws(MalformedDocument) {
        func isName(_ byte: UInt8) -> Bool { byte > 0x20 && ![0x2c, 0x5b, 0x5d, 0x7b, 0x7d, 0x3a].contains(byte) }
        func begins(_ index: Int, _ mark: UInt8) -> Bool {
            guard bytes[index] == mark, index + 1 < bytes.count, isName(bytes[index + 1]) else { return false }
            return index == 0 || [0x20, 0x0a, 0x0d, 0x09, 0x5b, 0x7b, 0x2c].contains(bytes[index - 1])
        }
        guard bytes.indices.contains(where: { begins($0, UInt8(ascii: "&")) }) else { return }
        let aliases = bytes.indices.filter { begins($0, UInt8(ascii: "*")) }
        guard !aliases.isEmpty else { return }
        func lineNumber(_ index: Int) -> Int { bytes[..<index].count { $0 == 0x0a } + 1 }
        for index in aliases {
            var end = index + 1
            while end < bytes.count, isName(bytes[end]) { end += 1 }
            while end < bytes.count, bytes[end] == 0x20 { end += 1 }
            guard end == bytes.count || bytes[end] != UInt8(ascii: ":") else {
                throw MalformedDocument("an alias cannot be a key", line: lineNumber(index), column: 0)
            }
        }
        var previous: UInt8 = 0x0a, beforeKey: UInt8 = 0x0a
        for (index, byte) in bytes.enumerated() {
            let isComplex =
                byte == UInt8(ascii: "?") && [0x20, 0x0a, 0x2d, 0x5b, 0x7b, 0x2c].contains(previous) && (index + 1 == bytes.count || bytes[index + 1] <= 0x20)
            let closes = byte == UInt8(ascii: ":") && [0x5d, 0x7d].contains(beforeKey)
            guard !isComplex && !closes else { throw MalformedDocument("keys that are no words, in a text with aliases", line: lineNumber(index), column: 0) }
            previous = byte
            if byte > 0x20 { beforeKey = byte }
        }
    }

    // MARK: From nodes to values

    private struct Conversion {
        var nodesLeft: Int

        mutating func value(_ node: YAMLNode, _ place: SecretPlace, depth: Int) throws -> JSONValue {
            nodesLeft -= 1
            guard nodesLeft >= 0 else { throw malformed("aliases expand to more than \(YAMLReader.nodesMax) values", node) }
            guard depth <= YAMLReader.depthMax else { throw malformed("nested deeper than \(YAMLReader.depthMax) levels", node) }
            switch node {
            case .scalar(let scalar): return try self.scalar(scalar, node, place)
            case .sequence(let sequence):
                guard place.stringForm == nil else { throw malformed("cannot unmarshal array into a secret value of type string", node) }
                var elements: [JSONValue] = []
                for child in sequence { elements.append(try value(child, place.element, depth: depth + 1)) }
                return .array(elements)
            case .mapping(let mapping):
                guard place.stringForm == nil else { throw malformed("cannot unmarshal object into a secret value of type string", node) }
                return .object(try object(mapping, place, depth: depth))
            case .alias: throw malformed("unresolved alias", node)
            }
        }

        private mutating func object(_ mapping: YAMLNode.Mapping, _ place: SecretPlace, depth: Int) throws -> JSONObject {
            var object = JSONObject(), merged: [YAMLNode] = []
            for (key, child) in mapping {
                guard let scalar = key.scalar else { throw malformed("a key must be a word", key) }
                if scalar.string == "<<" && scalar.style == .plain {
                    merged += child.sequence.map { Array($0) } ?? [child]
                    continue
                }
                guard !object.contains(scalar.string) else { throw malformed("duplicate field", key) }
                object[scalar.string] = try value(child, place.member(scalar.string), depth: depth + 1)
            }
            for node in merged {
                guard let mapping = node.mapping else { throw malformed("a merge key needs a mapping", node) }
                for member in try self.object(mapping, place, depth: depth + 1).members where !object.contains(member.key) { object[member.key] = member.value }
            }
            return object
        }

        private func scalar(_ scalar: YAMLNode.Scalar, _ node: YAMLNode, _ place: SecretPlace) throws -> JSONValue {
            guard let resolved = YAMLScalar.resolve(scalar.string, isPlain: scalar.style == .plain, tag: scalar.tag.description) else {
                throw malformed("a value of this tag is not supported", node)
            }
            guard let form = place.stringForm, !resolved.isNull else { return resolved }
            guard case .string(let text) = resolved else { throw malformed("cannot unmarshal \(resolved.typeName) into a secret value of type string", node) }
            switch form {
            case .text: return .secretText(try SecretValue(copying: text.utf8))
            case .base64:
                guard let value = try? SecretValue(base64: Bytes(text.utf8)) else {
                    // Such a document was printed without its values.
                    throw malformed(text == SecretDisplay.mask ? "illegal base64 data: \(SecretDisplay.mask) stands for a value that was not shown" : "illegal base64 data", node)
                }
                return .secret(value)
            }
        }

        private func malformed(_ what: String, _ node: YAMLNode) -> MalformedDocument {
            MalformedDocument(what, line: node.mark?.line ?? 0, column: node.mark?.column ?? 0)
        }
    }
}

extension MalformedDocument {
    private static let nameCharactersMax = 63

    /// Only the problem and the place: Yams' own description shows the line.
    fileprivate init(_ error: YamlError) {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _), .composer(_, let problem, let mark, _):
            self.init(problem, line: mark.line, column: mark.column)
        case .duplicatedKeysInMapping(let names, let context):
            let name = names.first.map { " \"\($0.prefix(Self.nameCharactersMax))\"" } ?? ""
            self.init("duplicate field\(name)", line: context.mark.line, column: context.mark.column)
        case .reader(let problem, let offset, _, let yaml):
            let before = offset.map { yaml.prefix($0).utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) } ?? []
            self.init(problem, line: before.count, column: before.last.map { $0.count + 1 } ?? 0)
        default: self.init("the YAML cannot be read", line: 0, column: 0)
        }
    }
}

/// What a scalar means, after YAML 1.1 as Kubernetes' reader has it (`sigs.k8s.io/yaml`, go-yaml v2 `resolve.go`).
enum YAMLScalar {
    /// `nil`: a tag that JSON has no form for.
    static func resolve(_ text: String, isPlain: Bool, tag: String) -> JSONValue? {
        switch tag {
        case "tag:yaml.org,2002:str", "!": return .string(text)
        case "", "?", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null":
            return isPlain || !(tag.isEmpty || tag == "?") ? plain(text) : .string(text)
        default: return nil
        }
    }

    static func plain(_ text: String) -> JSONValue {
        switch text {
        case "", "~", "null", "Null", "NULL": return .null
        case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON": return .bool(true)
        case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF": return .bool(false)
        default: return number(text) ?? .string(text)
        }
    }

    private static func number(_ text: String) -> JSONValue? {
        guard let first = text.utf8.first, text.utf8.count <= 400, (first >= 0x30 && first <= 0x39) || [0x2b, 0x2d, 0x2e].contains(first) else { return nil }
        let isNegative = first == UInt8(ascii: "-")
        let digits = (first == UInt8(ascii: "-") || first == UInt8(ascii: "+") ? text.dropFirst() : text[...]).filter { $0 != "_" }
        func integer(_ digits: Substring, _ radix: Int) -> JSONValue? {
            guard let head = digits.utf8.first, head != UInt8(ascii: "-"), head != UInt8(ascii: "+") else { return nil }
            return Int64((isNegative ? "-" : "") + digits, radix: radix).map { .integer($0) }
        }
        for (prefix, radix) in [("0b", 2), ("0o", 8), ("0x", 16)] where digits.hasPrefix(prefix) { return integer(digits.dropFirst(2)[...], radix) }
        if digits.count > 1, digits.hasPrefix("0"), digits.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x37 }) { return integer(digits[...], 8) }
        if let decimal = integer(digits[...], 10) { return decimal }
        // [0-9]* (. [0-9]*)? ([eE][-+]?[0-9]+)?, with a digit somewhere before the exponent
        guard digits.utf8.allSatisfy({ ($0 >= 0x30 && $0 <= 0x39) || [0x2e, 0x65, 0x45, 0x2b, 0x2d].contains($0) }),
            let head = digits.utf8.first, head != UInt8(ascii: "-"), head != UInt8(ascii: "+"), digits.utf8.contains(where: { $0 >= 0x30 && $0 <= 0x39 }),
            let double = Double((isNegative ? "-" : "") + digits), double.isFinite
        else { return nil }
        return .double(double)
    }
}
