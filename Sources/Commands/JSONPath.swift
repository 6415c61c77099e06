import Resources

/// `kubectl`'s JSONPath templates (`client-go/util/jsonpath`): text with expressions in braces.
///
///     {.items[*].metadata.name}   {range .items[*]}{.metadata.name}{"\n"}{end}   {..name}   {.data['tls\.crt']}
///     {.items[?(@.type=="Opaque")].metadata.name}   {.items[0:2]}   {.items[-1:]}   {['a','b']}
struct JSONPath {
    enum Node: Equatable {
        case text(String)
        case path([Step])
        case range([Step], [Node])
    }
    indirect enum Step: Equatable {
        case member(String)
        case wildcard
        case descendants
        case index(Int)
        case slice(Int?, Int?, Int)
        case union([Step])
        case filter(Operand, String?, Operand?)
        /// `$`: back to the whole document.
        case root
    }
    enum Operand: Equatable {
        case path([Step])
        case literal(JSONValue)
    }
    struct Malformed: Error, CustomStringConvertible { var description: String }

    private let nodes: [Node]

    init(_ template: String) throws {
        var parser = JSONPathParser(template)
        nodes = try parser.template(untilEnd: false)
    }
    /// A path without braces, as `custom-columns` and `--sort-by` take them too.
    init(relaxed text: String) throws {
        try self.init(text.hasPrefix("{") ? text : "{" + (text.hasPrefix(".") || text.hasPrefix("[") ? "" : ".") + text + "}")
    }

    func render(_ document: JSONValue, secrets: SecretDisplay) -> String {
        Self.render(nodes, document, root: document, secrets)
    }
    /// The values of all expressions.
    func values(_ document: JSONValue) -> [JSONValue] {
        nodes.flatMap { node -> [JSONValue] in if case .path(let steps) = node { Self.evaluate(steps, [document], root: document) } else { [] } }
    }

    private static func render(_ nodes: [Node], _ current: JSONValue, root: JSONValue, _ secrets: SecretDisplay) -> String {
        nodes.map { node in
            switch node {
            case .text(let text): text
            case .path(let steps): evaluate(steps, [current], root: root).map { text(of: $0, secrets) }.joined(separator: " ")
            case .range(let steps, let body): evaluate(steps, [current], root: root).map { render(body, $0, root: root, secrets) }.joined()
            }
        }.joined()
    }

    /// Strings without quotes, everything else as JSON.
    static func text(of value: JSONValue, _ secrets: SecretDisplay) -> String {
        switch value {
        case .string(let text): return text
        case .secret, .secretText:
            let quoted = value.encodedString(secrets: secrets)
            if case .string(let text)? = try? JSONValue(parsing: quoted, secrets: .nowhere) { return text }
            return quoted
        case .null: return ""
        default: return value.encodedString(secrets: secrets)
        }
    }

    static func evaluate(_ steps: [Step], _ start: [JSONValue], root: JSONValue) -> [JSONValue] {
        steps.reduce(start) { values, step in values.flatMap { apply(step, to: $0, root: root) } }
    }

    private static func apply(_ step: Step, to value: JSONValue, root: JSONValue) -> [JSONValue] {
        switch step {
        case .root: return [root]
        case .member(let name): return value[name].map { [$0] } ?? []
        case .wildcard: return children(value)
        case .descendants: return [value] + children(value).flatMap { apply(.descendants, to: $0, root: root) }
        case .index(let index):
            guard let elements = value.arrayValue else { return [] }
            let place = index < 0 ? elements.count + index : index
            return elements.indices.contains(place) ? [elements[place]] : []
        case .slice(let from, let to, let step):
            guard let elements = value.arrayValue else { return [] }
            func place(_ index: Int) -> Int { min(max(index < 0 ? elements.count + index : index, 0), elements.count) }
            let start = place(from ?? 0), end = place(to ?? elements.count)
            return start < end ? stride(from: start, to: end, by: step).map { elements[$0] } : []
        case .union(let steps): return steps.flatMap { apply($0, to: value, root: root) }
        case .filter(let left, let relation, let right):
            return (value.arrayValue ?? []).filter { holds($0, left, relation, right, root: root) }
        }
    }
    private static func children(_ value: JSONValue) -> [JSONValue] { value.arrayValue ?? value.objectValue?.sortedMembers.map(\.value) ?? [] }

    private static func holds(_ element: JSONValue, _ left: Operand, _ relation: String?, _ right: Operand?, root: JSONValue) -> Bool {
        func values(_ operand: Operand) -> [JSONValue] {
            switch operand {
            case .literal(let value): [value]
            case .path(let steps): evaluate(steps, [element], root: root)
            }
        }
        let found = values(left)
        guard let relation, let right else { return !found.isEmpty }
        guard let a = found.first, let b = values(right).first else { return false }
        switch relation {
        case "==": return a.isEqualAsJSON(to: b)
        case "!=": return !a.isEqualAsJSON(to: b)
        default:
            guard let order = order(a, b) else { return false }
            return switch relation {
            case "<": order < 0
            case "<=": order <= 0
            case ">": order > 0
            default: order >= 0
            }
        }
    }

    /// Negative, zero or positive; `nil` for values of different types.
    static func order(_ a: JSONValue, _ b: JSONValue) -> Int? {
        func number(_ value: JSONValue) -> Double? {
            switch value {
            case .integer(let integer): Double(integer)
            case .double(let double): double
            default: nil
            }
        }
        if let a = number(a), let b = number(b) { return a < b ? -1 : a > b ? 1 : 0 }
        if let a = a.stringValue, let b = b.stringValue { return a < b ? -1 : a > b ? 1 : 0 }
        return nil
    }
}

struct JSONPathParser {
    private let text: [Character]
    private var position = 0
    private var depth = 0
    init(_ text: String) { self.text = Array(text) }

    private var peek: Character? { position < text.count ? text[position] : nil }
    private mutating func take(_ word: String) -> Bool {
        guard text[position...].starts(with: word) else { return false }
        position += word.count
        return true
    }
    private mutating func skipSpace() { while let next = peek, next.isWhitespace { position += 1 } }
    private func malformed(_ what: String) -> JSONPath.Malformed {
        JSONPath.Malformed(description: "error parsing jsonpath \(String(text)): \(what) at \(position + 1)")
    }

    mutating func template(untilEnd: Bool) throws -> [JSONPath.Node] {
        guard depth < 32 else { throw malformed("nested too deeply") }
        depth += 1
        defer { depth -= 1 }
        var nodes: [JSONPath.Node] = [], plain = ""
        func flush() { if !plain.isEmpty { nodes.append(.text(plain)); plain = "" } }
        while let next = peek {
            guard next == "{" else { plain.append(next); position += 1; continue }
            flush()
            position += 1
            skipSpace()
            if keyword("end") {
                guard untilEnd else { throw malformed("end without range") }
                return nodes
            }
            if keyword("range", closing: false) {
                let steps = try path()
                try close()
                nodes.append(.range(steps, try template(untilEnd: true)))
            } else if peek == "\"" || peek == "'" {
                nodes.append(.text(try quoted()))
                try close()
            } else {
                nodes.append(.path(try path()))
                try close()
            }
        }
        guard !untilEnd else { throw malformed("unterminated range") }
        flush()
        return nodes
    }

    private mutating func keyword(_ word: String, closing: Bool = true) -> Bool {
        let start = position
        if take(word) {
            skipSpace()
            if !closing, position > start + word.count { return true }
            if closing, peek == "}" { position += 1; return true }
        }
        position = start
        return false
    }
    private mutating func close() throws {
        skipSpace()
        guard take("}") else { throw malformed("unclosed action") }
    }

    private mutating func path() throws -> [JSONPath.Step] {
        var steps: [JSONPath.Step] = []
        skipSpace()
        if take("$") { steps.append(.root) } else { _ = take("@") }
        while let next = peek {
            switch next {
            case ".":
                position += 1
                if take(".") { steps.append(.descendants) }
                if peek == "[" { continue }
                if take("*") { steps.append(.wildcard); continue }
                let name = word()
                if !name.isEmpty { steps.append(.member(name)) }
            case "[":
                position += 1
                steps.append(try bracket())
            default:
                if steps.isEmpty, next.isLetter || next == "_" { steps.append(.member(word())); continue }
                return steps
            }
        }
        return steps
    }

    /// A member's name; a backslash takes the next character as it is.
    private mutating func word() -> String {
        var name = ""
        while let next = peek, !".[]{} \t\n=!<>()|,".contains(next) {
            position += 1
            if next == "\\", let escaped = peek {
                name.append(escaped)
                position += 1
            } else {
                name.append(next)
            }
        }
        return name
    }

    private mutating func bracket() throws -> JSONPath.Step {
        skipSpace()
        if take("?(") {
            let filter = try self.filter()
            guard take("]") else { throw malformed("unterminated filter") }
            return filter
        }
        var steps: [JSONPath.Step] = []
        repeat {
            skipSpace()
            if take("*") {
                steps.append(.wildcard)
            } else if peek == "'" || peek == "\"" {
                steps.append(.member(try quoted()))
            } else {
                steps.append(try index())
            }
            skipSpace()
        } while take(",")
        guard take("]") else { throw malformed("unterminated array") }
        return steps.count == 1 ? steps[0] : .union(steps)
    }

    private mutating func index() throws -> JSONPath.Step {
        func number() throws -> Int? {
            let start = position
            if peek == "-" { position += 1 }
            while let next = peek, next.isASCII, next.isNumber { position += 1 }
            guard position > start else { return nil }
            guard let value = Int(String(text[start..<position])) else { throw malformed("invalid array index") }
            return value
        }
        let first = try number()
        guard take(":") else {
            guard let first else { throw malformed("invalid array index") }
            return .index(first)
        }
        let last = try number(), step = take(":") ? try number() : nil
        guard step ?? 1 > 0 else { throw malformed("a step must be positive") }
        return .slice(first, last, step ?? 1)
    }

    private mutating func filter() throws -> JSONPath.Step {
        let left = try operand()
        skipSpace()
        if take(")") { return .filter(left, nil, nil) }
        guard let relation = ["==", "!=", "<=", ">=", "<", ">"].first(where: { text[position...].starts(with: $0) }) else {
            throw malformed("unknown relation")
        }
        position += relation.count
        let right = try operand()
        skipSpace()
        guard take(")") else { throw malformed("unterminated filter") }
        return .filter(left, relation, right)
    }
    private mutating func operand() throws -> JSONPath.Operand {
        skipSpace()
        if peek == "'" || peek == "\"" { return .literal(.string(try quoted())) }
        if peek == "@" || peek == "$" || peek == "." { return .path(try path()) }
        let start = position
        while let next = peek, !")=!<> ".contains(next) { position += 1 }
        guard let value = try? JSONValue(parsing: String(text[start..<position]), secrets: .nowhere) else { throw malformed("unknown literal") }
        return .literal(value)
    }

    private mutating func quoted() throws -> String {
        let quote = peek
        position += 1
        var result = ""
        while let next = peek, next != quote {
            position += 1
            guard next == "\\", let escaped = peek else { result.append(next); continue }
            position += 1
            switch escaped {
            case "n": result.append("\n")
            case "t": result.append("\t")
            case "r": result.append("\r")
            default: result.append(escaped)
            }
        }
        guard peek == quote else { throw malformed("unterminated quoted string") }
        position += 1
        return result
    }
}
