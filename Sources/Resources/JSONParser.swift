package import Basics
package import SecretMemory

/// Why a document does not parse, and where. Never quotes it: what is malformed may be a secret.
package struct MalformedDocument: Error, Equatable, CustomStringConvertible {
    package var what: String
    /// From 1; 0 when unknown. Columns count bytes in JSON, characters in YAML.
    package var line: Int
    package var column: Int
    package init(_ what: String, line: Int, column: Int) { self.what = what; self.line = line; self.column = column }
    package var description: String { line > 0 ? "line \(line), column \(column): \(what)" : what }
}

extension JSONValue {
    /// Parses one JSON document (RFC 8259) and nothing after it; secrets according to `place`.
    /// Objects with a name twice are refused: which of the two counts would be a matter of taste, and of attack.
    package init(parsing bytes: UnsafeRawBufferPointer, secrets place: SecretPlace = .object) throws(MalformedDocument) {
        var parser = JSONParser(bytes)
        self = try parser.document(place)
    }
    package init(parsing bytes: Bytes, secrets place: SecretPlace = .object) throws(MalformedDocument) {
        let result = bytes.withUnsafeBytes { buffer in
            Result { () throws(MalformedDocument) in try JSONValue(parsing: buffer, secrets: place) }
        }
        self = try result.get()
    }
    package init(parsing text: String, secrets place: SecretPlace = .object) throws(MalformedDocument) {
        self = try JSONValue(parsing: Bytes(text.utf8), secrets: place)
    }
    package init(parsing value: SecretValue, secrets place: SecretPlace = .object) throws(MalformedDocument) {
        self = try value.withUnsafeBytes { (buffer: UnsafeRawBufferPointer) throws(MalformedDocument) in try JSONValue(parsing: buffer, secrets: place) }
    }
}

/// Reads a buffer once, front to back. Every access is checked against the end; nesting is bounded, so recursion ends.
struct JSONParser {
    /// Deeper documents come from nobody's client, and each level costs stack.
    static let depthMax = 128

    private let bytes: UnsafeRawBufferPointer
    private var position = 0
    private var depth = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func document(_ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        skipSpace()
        let result = try value(place)
        skipSpace()
        guard position == bytes.count else { throw error("unexpected data after the document") }
        return result
    }

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
        while let byte = peek, byte == 0x20 || byte == 0x0a || byte == 0x0d || byte == 0x09 { position += 1 }
    }

    private func error(_ what: String, at place: Int? = nil) -> MalformedDocument {
        var line = 1, column = 1
        for index in 0..<min(place ?? position, bytes.count) {
            if bytes[index] == 0x0a { line += 1; column = 1 } else { column += 1 }
        }
        return MalformedDocument(what, line: line, column: column)
    }

    private mutating func value(_ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        switch peek {
        case UInt8(ascii: "{"): return try nested { (parser) throws(MalformedDocument) in try parser.object(place) }
        case UInt8(ascii: "["): return try nested { (parser) throws(MalformedDocument) in try parser.array(place) }
        case UInt8(ascii: "\""): return try string(place)
        case UInt8(ascii: "t"): return try literal("true", .bool(true), place)
        case UInt8(ascii: "f"): return try literal("false", .bool(false), place)
        case UInt8(ascii: "n"): return try literal("null", .null, .nowhere)
        case UInt8(ascii: "-"): return try number(place)
        case nil: throw error("unexpected end of JSON input")
        case let digit? where digit >= 0x30 && digit <= 0x39: return try number(place)
        default: throw error("invalid character where a value should begin")
        }
    }

    private mutating func nested(_ body: (inout JSONParser) throws(MalformedDocument) -> JSONValue) throws(MalformedDocument) -> JSONValue {
        guard depth < Self.depthMax else { throw error("nested deeper than \(Self.depthMax) levels") }
        depth += 1
        defer { depth -= 1 }
        position += 1
        return try body(&self)
    }

    private mutating func object(_ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        guard !isLeaf(place) else { throw error("cannot unmarshal object into a secret value of type string") }
        var object = JSONObject()
        skipSpace()
        if peek == UInt8(ascii: "}") { position += 1; return .object(object) }
        while true {
            skipSpace()
            let start = position
            guard peek == UInt8(ascii: "\"") else { throw error("a member's name in quotes is expected") }
            let key = try text()
            guard !object.contains(key) else { throw error("duplicate field", at: start) }
            skipSpace()
            guard peek == UInt8(ascii: ":") else { throw error("':' is expected after a member's name") }
            position += 1
            skipSpace()
            object[key] = try value(place.member(key))
            skipSpace()
            switch peek {
            case UInt8(ascii: ","): position += 1
            case UInt8(ascii: "}"): position += 1; return .object(object)
            case nil: throw error("unexpected end of JSON input")
            default: throw error("',' or '}' is expected after a member")
            }
        }
    }

    private mutating func array(_ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        guard !isLeaf(place) else { throw error("cannot unmarshal array into a secret value of type string") }
        var elements: [JSONValue] = []
        skipSpace()
        if peek == UInt8(ascii: "]") { position += 1; return .array(elements) }
        while true {
            skipSpace()
            elements.append(try value(place.element))
            skipSpace()
            switch peek {
            case UInt8(ascii: ","): position += 1
            case UInt8(ascii: "]"): position += 1; return .array(elements)
            case nil: throw error("unexpected end of JSON input")
            default: throw error("',' or ']' is expected after an element")
            }
        }
    }

    private func isLeaf(_ place: SecretPlace) -> Bool { if case .leaf = place { true } else { false } }

    private mutating func literal(_ word: StaticString, _ result: JSONValue, _ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        guard !isLeaf(place) else { throw error("cannot unmarshal bool into a secret value of type string") }
        let matches = word.withUTF8Buffer { word in
            bytes.count - position >= word.count && zip(word, bytes[position...]).allSatisfy { $0 == $1 }
        }
        guard matches else { throw error("invalid literal") }
        position += word.utf8CodeUnitCount
        return result
    }

    // MARK: Numbers

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`; without fraction and exponent an integer, if it fits.
    private mutating func number(_ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        guard !isLeaf(place) else { throw error("cannot unmarshal number into a secret value of type string") }
        let start = position
        var isInteger = true
        if peek == UInt8(ascii: "-") { position += 1 }
        let leading = peek
        guard skipDigits() > 0 else { throw error("a digit is expected") }
        if leading == UInt8(ascii: "0"), position - start > (bytes[start] == UInt8(ascii: "-") ? 2 : 1) { throw error("leading zero", at: start) }
        if peek == UInt8(ascii: ".") {
            isInteger = false
            position += 1
            guard skipDigits() > 0 else { throw error("a digit is expected") }
        }
        if peek == UInt8(ascii: "e") || peek == UInt8(ascii: "E") {
            isInteger = false
            position += 1
            if peek == UInt8(ascii: "+") || peek == UInt8(ascii: "-") { position += 1 }
            guard skipDigits() > 0 else { throw error("a digit is expected") }
        }
        guard position - start <= 400 else { throw error("number of more than 400 digits", at: start) }
        let digits = String(decoding: bytes[start..<position], as: UTF8.self)
        if isInteger, let integer = Int64(digits) { return .integer(integer) }
        guard let double = Double(digits), double.isFinite else { throw error("number out of range", at: start) }
        return .double(double)
    }

    private mutating func skipDigits() -> Int {
        let start = position
        while let byte = peek, byte >= 0x30 && byte <= 0x39 { position += 1 }
        return position - start
    }

    // MARK: Strings

    private mutating func string(_ place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        guard let form = place.stringForm else { return .string(try text()) }
        let start = position
        let secret = try secretText()
        switch form {
        case .text:
            return .secretText(secret)
        case .base64:
            guard let decoded = try? secret.withUnsafeBytes({ try SecretValue(base64: $0.assumingMemoryBound(to: UInt8.self)) }) else {
                throw error("illegal base64 data", at: start)
            }
            return .secret(decoded)
        }
    }

    private mutating func text() throws(MalformedDocument) -> String {
        let (raw, escaped) = try scanString()
        let start = position
        let bytes = UnsafeRawBufferPointer(rebasing: self.bytes[raw])
        if !escaped {
            guard let text = String(validating: bytes, as: UTF8.self) else { throw error("invalid UTF-8", at: raw.lowerBound) }
            return text
        }
        var unescaped = Bytes()
        unescaped.reserveCapacity(bytes.count)
        do throws(BadEscape) {
            try Self.unescape(bytes) { unescaped.append($0) }
        } catch {
            throw self.error(error.what, at: raw.lowerBound + error.offset)
        }
        guard let text = String(validating: unescaped, as: UTF8.self) else { throw error("invalid UTF-8", at: start) }
        return text
    }

    /// The string's bytes in memory that is wiped.
    private mutating func secretText() throws(MalformedDocument) -> SecretValue {
        let (raw, escaped) = try scanString()
        let bytes = UnsafeRawBufferPointer(rebasing: self.bytes[raw])
        do {
            if !escaped {
                guard isValidUTF8(bytes) else { throw BadEscape(what: "invalid UTF-8", offset: 0) }
                return try SecretValue(copying: bytes)
            }
            let secret = try SecretBytes(capacity: bytes.count) { target in
                var used = 0
                try Self.unescape(bytes) {
                    target[used] = $0; used += 1
                }  // an escape is never longer than its sequence
                guard isValidUTF8(UnsafeRawBufferPointer(rebasing: target[..<used])) else { throw BadEscape(what: "invalid UTF-8", offset: 0) }
                return used
            }
            return SecretValue(secret)
        } catch let bad as BadEscape {
            throw error(bad.what, at: raw.lowerBound + bad.offset)
        } catch {
            throw self.error("no memory for a secret")
        }
    }

    /// The bytes between the quotes, and whether there are escapes among them.
    private mutating func scanString() throws(MalformedDocument) -> (Range<Int>, escaped: Bool) {
        position += 1
        let start = position
        var escaped = false
        while let byte = peek {
            switch byte {
            case UInt8(ascii: "\""):
                position += 1
                return (start..<position - 1, escaped)
            case UInt8(ascii: "\\"):
                escaped = true
                position += 2
            case 0..<0x20:
                throw error("control character in a string")
            default:
                position += 1
            }
        }
        position = bytes.count
        throw error("unexpected end of JSON input in a string")
    }

    struct BadEscape: Error { var what: String, offset: Int }

    private static func unescape(_ bytes: UnsafeRawBufferPointer, _ emit: (UInt8) -> Void) throws(BadEscape) {
        var index = 0
        while index < bytes.count {
            let byte = bytes[index]
            guard byte == UInt8(ascii: "\\") else { emit(byte); index += 1; continue }
            guard index + 1 < bytes.count else { throw BadEscape(what: "escape cut short", offset: index) }
            switch bytes[index + 1] {
            case UInt8(ascii: "\""): emit(0x22)
            case UInt8(ascii: "\\"): emit(0x5c)
            case UInt8(ascii: "/"): emit(0x2f)
            case UInt8(ascii: "b"): emit(0x08)
            case UInt8(ascii: "f"): emit(0x0c)
            case UInt8(ascii: "n"): emit(0x0a)
            case UInt8(ascii: "r"): emit(0x0d)
            case UInt8(ascii: "t"): emit(0x09)
            case UInt8(ascii: "u"):
                let scalar = try unicodeEscape(bytes, &index)
                for unit in Character(scalar).utf8 { emit(unit) }
                continue
            default: throw BadEscape(what: "invalid escape", offset: index)
            }
            index += 2
        }
    }

    /// `\uXXXX`, or a pair of them for what lies beyond the basic plane; a lone surrogate is refused.
    private static func unicodeEscape(_ bytes: UnsafeRawBufferPointer, _ index: inout Int) throws(BadEscape) -> Unicode.Scalar {
        let start = index
        func unit(_ at: Int) -> UInt32? {
            guard at + 6 <= bytes.count, bytes[at] == UInt8(ascii: "\\"), bytes[at + 1] == UInt8(ascii: "u") else { return nil }
            var value: UInt32 = 0
            for digit in bytes[at + 2..<at + 6] {
                guard let nibble = hexDigit(digit) else { return nil }
                value = value << 4 | UInt32(nibble)
            }
            return value
        }
        guard let high = unit(start) else { throw BadEscape(what: "invalid \\u escape", offset: start) }
        index += 6
        if let scalar = Unicode.Scalar(high) { return scalar }
        guard high < 0xdc00, let low = unit(index), (0xdc00...0xdfff).contains(low),
            let scalar = Unicode.Scalar(0x10000 + (high - 0xd800) << 10 + (low - 0xdc00))
        else {
            throw BadEscape(what: "lone surrogate", offset: start)
        }
        index += 6
        return scalar
    }
}

func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 0x30...0x39: byte - 0x30
    case 0x61...0x66: byte - 0x61 + 10
    case 0x41...0x46: byte - 0x41 + 10
    default: nil
    }
}

/// Without making a `String` of it.
func isValidUTF8(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var decoder = UTF8(), iterator = bytes.makeIterator()
    while true {
        switch decoder.decode(&iterator) {
        case .scalarValue: continue
        case .emptyInput: return true
        case .error: return false
        }
    }
}
