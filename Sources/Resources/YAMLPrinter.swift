package import Basics
import SecretMemory

extension JSONValue {
    /// YAML as `kubectl -o yaml` prints it: members by name, lists at their key's indentation, text of several lines as a block.
    package func yamlBytes(secrets: SecretDisplay) -> Bytes {
        var sink = ByteSink(target: nil)
        YAMLPrinter(secrets: secrets).document(self, &sink)
        let count = sink.count
        return Bytes(unsafeUninitializedCapacity: count) { buffer, used in
            var sink = ByteSink(target: UnsafeMutableRawBufferPointer(buffer))
            YAMLPrinter(secrets: secrets).document(self, &sink)
            used = sink.count
        }
    }
    package func yamlString(secrets: SecretDisplay = .masked) -> String { String(decoding: yamlBytes(secrets: secrets), as: UTF8.self) }
}

struct YAMLPrinter {
    let secrets: SecretDisplay

    func document(_ value: JSONValue, _ sink: inout ByteSink) {
        block(value, indent: 0, isInline: true, &sink)
    }

    /// Writes `value` where a key or a dash has just been written; ends its line. `isInline`: nothing stands before it on the line.
    private func block(_ value: JSONValue, indent: Int, isInline: Bool, _ sink: inout ByteSink) {
        switch value {
        case .object(let object) where !object.isEmpty:
            for (index, member) in object.sortedMembers.enumerated() {
                if index > 0 || !isInline { pad(indent, &sink) }
                scalar(member.key, indent: indent, isKey: true, &sink)
                sink.write(UInt8(ascii: ":"))
                child(member.value, indent: indent, &sink)
            }
        case .array(let elements) where !elements.isEmpty:
            for (index, element) in elements.enumerated() {
                if index > 0 || !isInline { pad(indent, &sink) }
                sink.write("- ")
                block(element, indent: indent + 2, isInline: true, &sink)
            }
        default:
            leaf(value, indent: indent, &sink)
            sink.write(UInt8(ascii: "\n"))
        }
    }

    private func child(_ value: JSONValue, indent: Int, _ sink: inout ByteSink) {
        switch value {
        case .object(let object) where !object.isEmpty:
            sink.write(UInt8(ascii: "\n"))
            block(value, indent: indent + 2, isInline: false, &sink)
        case .array(let elements) where !elements.isEmpty:
            sink.write(UInt8(ascii: "\n"))
            block(value, indent: indent, isInline: false, &sink)
        default:
            sink.write(UInt8(ascii: " "))
            leaf(value, indent: indent + 2, &sink)
            sink.write(UInt8(ascii: "\n"))
        }
    }

    private func pad(_ count: Int, _ sink: inout ByteSink) { for _ in 0..<count { sink.write(UInt8(ascii: " ")) } }

    private func leaf(_ value: JSONValue, indent: Int, _ sink: inout ByteSink) {
        switch value {
        case .null: sink.write("null")
        case .bool(let value): sink.write(value ? "true" : "false")
        case .integer(let value): sink.write(String(value))
        case .double(let value): sink.write(JSONPrinter.text(of: value))
        case .string(let text): scalar(text, indent: indent, isKey: false, &sink)
        case .array: sink.write("[]")
        case .object: sink.write("{}")
        case .secret(let value):
            guard secrets == .revealed else { return scalar(SecretDisplay.mask, indent: indent, isKey: false, &sink) }
            // Base64 of a few digits could be read as a number or a word.
            let isPlain = value.count > 6
            if !isPlain { sink.write(UInt8(ascii: "\"")) }
            value.withUnsafeBytes { sink.writeBase64($0) }
            if !isPlain { sink.write(UInt8(ascii: "\"")) }
        case .secretText:
            // One line of JSON string, which YAML reads the same, so that the text needs no inspection.
            var printer = JSONPrinter(sink: sink, layout: .compact, secrets: secrets)
            printer.write(value, level: 0)
            sink = printer.sink
        }
    }

    private func scalar(_ text: String, indent: Int, isKey: Bool, _ sink: inout ByteSink) {
        switch YAMLStyle.of(text) {
        case .plain: sink.write(text)
        case .singleQuoted:
            sink.write(UInt8(ascii: "'"))
            for byte in text.utf8 {
                if byte == UInt8(ascii: "'") { sink.write(byte) }
                sink.write(byte)
            }
            sink.write(UInt8(ascii: "'"))
        case .block where !isKey:
            sink.write(text.hasSuffix("\n\n") || text == "\n" ? "|+" : text.hasSuffix("\n") ? "|" : "|-")
            var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            if text.hasSuffix("\n") { lines.removeLast() }
            for line in lines {
                sink.write(UInt8(ascii: "\n"))
                if !line.isEmpty { pad(indent, &sink) }
                sink.write(line.utf8)
            }
        case .block, .doubleQuoted:
            var printer = JSONPrinter(sink: sink, layout: .compact, secrets: secrets)
            printer.write(.string(text), level: 0)
            sink = printer.sink
        }
    }
}

/// How a string must be written so that it is read as the same string.
enum YAMLStyle: Equatable {
    case plain, singleQuoted, doubleQuoted, block

    static func of(_ text: String) -> YAMLStyle {
        if text.isEmpty || YAMLScalar.plain(text).stringValue == nil { return .doubleQuoted }
        if ["y", "Y", "n", "N", "=", "<<"].contains(text) || looksLikeDate(text) { return .doubleQuoted }
        let bytes = Array(text.utf8)
        if bytes.contains(where: { ($0 < 0x20 && $0 != 0x0a) || $0 == 0x7f })
            || text.unicodeScalars.contains(where: { (0x80...0x9f).contains($0.value) || [0x2028, 0x2029, 0xfeff].contains($0.value) })
        {
            return .doubleQuoted
        }
        if bytes.contains(0x0a) {
            // A block's first line tells its indentation: it must not begin with a space.
            return bytes.first == 0x20 || bytes.first == 0x0a ? .doubleQuoted : .block
        }
        if bytes.first == 0x20 || bytes.last == 0x20 { return .singleQuoted }
        let indicators = Array("!&*{}[]|>@`\"'#%,".utf8)
        if indicators.contains(bytes[0]) { return .singleQuoted }
        if [0x2d, 0x3f, 0x3a].contains(bytes[0]) && (bytes.count == 1 || bytes[1] == 0x20) { return .singleQuoted }
        if text.hasPrefix("---") || text.hasPrefix("...") || bytes.last == UInt8(ascii: ":") { return .singleQuoted }
        for (index, byte) in bytes.enumerated().dropLast() {
            if byte == UInt8(ascii: ":") && bytes[index + 1] == 0x20 { return .singleQuoted }
            if byte == 0x20 && bytes[index + 1] == UInt8(ascii: "#") { return .singleQuoted }
        }
        return .plain
    }

    private static func looksLikeDate(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        return bytes.count >= 8 && bytes[..<4].allSatisfy { $0 >= 0x30 && $0 <= 0x39 } && bytes[4] == UInt8(ascii: "-")
            && bytes.last.map { $0 >= 0x30 && $0 <= 0x5a } == true
    }
}
