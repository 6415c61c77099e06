package import Basics
package import SecretMemory

package enum JSONLayout: Sendable, Equatable {
    case compact
    /// Members sorted by name, each on its line, as `kubectl -o json` prints.
    case pretty(indent: Int)
}

/// What becomes of secrets when a document is written.
package enum SecretDisplay: Sendable {
    /// For the wire and the store: base64, or the text itself.
    case revealed
    /// For eyes and logs.
    case masked

    package static let mask = "<masked>"
}

extension JSONValue {
    /// For logs, errors and documents without secrets. What holds revealed secrets belongs in `encodedSecret` or a buffer.
    package func encodedString(_ layout: JSONLayout = .compact, secrets: SecretDisplay = .masked) -> String {
        String(decoding: encodedBytes(layout, secrets: secrets), as: UTF8.self)
    }

    package func encodedBytes(_ layout: JSONLayout = .compact, secrets: SecretDisplay = .revealed) -> Bytes {
        let count = encodedByteCount(layout, secrets: secrets)
        return Bytes(unsafeUninitializedCapacity: count) { buffer, used in
            used = encode(into: UnsafeMutableRawBufferPointer(buffer), layout, secrets: secrets)
        }
    }

    /// The document with its secrets in memory that is wiped: what an object store seals.
    package func encodedSecret() throws -> SecretValue {
        SecretValue(try SecretBytes(capacity: encodedByteCount()) { encode(into: $0) })
    }

    package func encodedByteCount(_ layout: JSONLayout = .compact, secrets: SecretDisplay = .revealed) -> Int {
        var printer = JSONPrinter(sink: ByteSink(target: nil), layout: layout, secrets: secrets)
        printer.write(self, level: 0)
        return printer.sink.count
    }

    /// Writes what fits and answers the whole length; `target` is to hold `encodedByteCount`.
    @discardableResult
    package func encode(into target: UnsafeMutableRawBufferPointer, _ layout: JSONLayout = .compact, secrets: SecretDisplay = .revealed) -> Int {
        var printer = JSONPrinter(sink: ByteSink(target: target), layout: layout, secrets: secrets)
        printer.write(self, level: 0)
        return printer.sink.count
    }
}

/// Counts bytes, and writes those that fit in its target, if it has one.
struct ByteSink {
    let target: UnsafeMutableRawBufferPointer?
    private(set) var count = 0
    init(target: UnsafeMutableRawBufferPointer?) { self.target = target }

    mutating func write(_ byte: UInt8) {
        if let target, count < target.count { target[count] = byte }
        count += 1
    }
    mutating func write(_ bytes: some Sequence<UInt8>) { for byte in bytes { write(byte) } }
    mutating func write(_ text: String) { write(text.utf8) }

    /// Padded base64, without a table: time depends on the length only.
    mutating func writeBase64(_ bytes: UnsafeRawBufferPointer) {
        var index = 0
        while index < bytes.count {
            let left = bytes.count - index
            let a = Int(bytes[index]), b = left > 1 ? Int(bytes[index + 1]) : 0, c = left > 2 ? Int(bytes[index + 2]) : 0
            write(Self.base64Digit(a >> 2))
            write(Self.base64Digit((a & 3) << 4 | b >> 4))
            write(left > 1 ? Self.base64Digit((b & 15) << 2 | c >> 6) : UInt8(ascii: "="))
            write(left > 2 ? Self.base64Digit(c & 63) : UInt8(ascii: "="))
            index += 3
        }
    }
    private static func base64Digit(_ value: Int) -> UInt8 {
        var digit = value + 65
        digit += ((25 - value) >> 8) & 6
        digit -= ((51 - value) >> 8) & 75
        digit -= ((61 - value) >> 8) & 15
        digit += ((62 - value) >> 8) & 3
        return UInt8(truncatingIfNeeded: digit)
    }
}

struct JSONPrinter {
    var sink: ByteSink
    let layout: JSONLayout
    let secrets: SecretDisplay

    mutating func write(_ value: JSONValue, level: Int) {
        switch value {
        case .null: sink.write("null")
        case .bool(let value): sink.write(value ? "true" : "false")
        case .integer(let value): sink.write(String(value))
        case .double(let value): sink.write(Self.text(of: value))
        case .string(let value): quoted(value.utf8)
        case .array(let elements): list("[", elements.count, "]", level) { printer, index in printer.write(elements[index], level: level + 1) }
        case .object(let object):
            let members = layout == .compact ? object.members : object.sortedMembers
            list("{", members.count, "}", level) { printer, index in
                printer.quoted(members[index].key.utf8)
                printer.sink.write(printer.layout == .compact ? ":" : ": ")
                printer.write(members[index].value, level: level + 1)
            }
        case .secret(let value):
            guard secrets == .revealed else { return quoted(SecretDisplay.mask.utf8) }
            sink.write(UInt8(ascii: "\""))
            value.withUnsafeBytes { sink.writeBase64($0) }
            sink.write(UInt8(ascii: "\""))
        case .secretText(let value):
            guard secrets == .revealed else { return quoted(SecretDisplay.mask.utf8) }
            value.withUnsafeBytes { quoted($0) }
        }
    }

    private mutating func list(_ open: String, _ count: Int, _ close: String, _ level: Int, _ element: (inout JSONPrinter, Int) -> Void) {
        sink.write(open)
        for index in 0..<count {
            if index > 0 { sink.write(UInt8(ascii: ",")) }
            newline(level + 1)
            element(&self, index)
        }
        if count > 0 { newline(level) }
        sink.write(close)
    }

    private mutating func newline(_ level: Int) {
        guard case .pretty(let indent) = layout else { return }
        sink.write(UInt8(ascii: "\n"))
        for _ in 0..<level * indent { sink.write(UInt8(ascii: " ")) }
    }

    /// Doubles print as their shortest decimal form; a whole one keeps its fraction (`1.0`), so that it is read as a double again.
    static func text(of value: Double) -> String {
        precondition(value.isFinite, "JSON has no form for \(value)")
        return value.description
    }

    private mutating func quoted(_ text: some Collection<UInt8>) {
        sink.write(UInt8(ascii: "\""))
        var index = text.startIndex
        while index != text.endIndex {
            let byte = text[index]
            text.formIndex(after: &index)
            switch byte {
            case UInt8(ascii: "\""): sink.write("\\\"")
            case UInt8(ascii: "\\"): sink.write("\\\\")
            case 0x0a: sink.write("\\n")
            case 0x0d: sink.write("\\r")
            case 0x09: sink.write("\\t")
            case 0..<0x20, 0x7f: escaped(UInt16(byte))
            case 0xc2, 0xe2, 0xef: multibyte(byte, text, &index)
            default: sink.write(byte)
            }
        }
        sink.write(UInt8(ascii: "\""))
    }

    /// Escapes what YAML takes for a line break or refuses (U+0080…9F, U+2028, U+2029, U+FEFF), so that a quoted string is the same in both.
    private mutating func multibyte<Text: Collection<UInt8>>(_ first: UInt8, _ text: Text, _ index: inout Text.Index) {
        let next = Array(text[index...].prefix(2))
        switch (first, next.first, next.count > 1 ? next[1] : 0) {
        case (0xc2, let second?, _) where second < 0xa0:
            escaped(UInt16(second))
            text.formIndex(after: &index)
        case (0xe2, 0x80, 0xa8), (0xe2, 0x80, 0xa9), (0xef, 0xbb, 0xbf):
            escaped(first == 0xef ? 0xfeff : next[1] == 0xa8 ? 0x2028 : 0x2029)
            text.formIndex(&index, offsetBy: 2)
        default: sink.write(first)
        }
    }
    private mutating func escaped(_ unit: UInt16) {
        sink.write("\\u")
        for shift in [12, 8, 4, 0] { sink.write(Self.hex[Int(unit >> UInt16(shift)) & 15]) }
    }
    private static let hex = Bytes("0123456789abcdef".utf8)
}
