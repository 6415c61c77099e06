/// Kubernetes' rules for names, keys and label values, each answering what is wrong in Kubernetes' words
/// (`apimachinery/pkg/util/validation/validation.go`). Empty: nothing is wrong.
package enum Names {
    private static let labelRule =
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character "
        + "(e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    private static let subdomainRule =
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
        + "(e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    private static let qualifiedRule =
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
        + "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    private static let valueRule =
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
        + "(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    private static let keyRule =
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
        + "(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"

    private static func isLower(_ byte: UInt8) -> Bool { byte >= 0x61 && byte <= 0x7a || byte >= 0x30 && byte <= 0x39 }
    private static func isAlphanumeric(_ byte: UInt8) -> Bool { isLower(byte) || byte >= 0x41 && byte <= 0x5a }
    private static func tooLong(_ max: Int) -> String { "must be no more than \(max) characters" }

    /// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
    private static func isLabel(_ bytes: some BidirectionalCollection<UInt8>) -> Bool {
        guard let first = bytes.first, let last = bytes.last else { return false }
        return isLower(first) && isLower(last) && bytes.allSatisfy { isLower($0) || $0 == UInt8(ascii: "-") }
    }
    /// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
    private static func isQualifiedPart(_ bytes: some BidirectionalCollection<UInt8>) -> Bool {
        guard let first = bytes.first, let last = bytes.last else { return false }
        return isAlphanumeric(first) && isAlphanumeric(last) && bytes.allSatisfy { isAlphanumeric($0) || [0x2d, 0x5f, 0x2e].contains($0) }
    }

    package static func errors(dns1123Label name: String) -> [String] {
        var errors: [String] = []
        if name.utf8.count > 63 { errors.append(tooLong(63)) }
        if !isLabel(name.utf8) { errors.append(labelRule) }
        return errors
    }
    package static func errors(dns1123Subdomain name: String) -> [String] {
        var errors: [String] = []
        if name.utf8.count > 253 { errors.append(tooLong(253)) }
        if name.isEmpty || !name.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy({ isLabel($0) }) {
            errors.append(subdomainRule)
        }
        return errors
    }
    /// A label's or annotation's key: `[prefix/]name`.
    package static func errors(qualifiedName name: String) -> [String] {
        let parts = name.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        var errors: [String] = []
        guard parts.count <= 2, let last = parts.last else {
            return ["a qualified name \(qualifiedRule) with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
        }
        if parts.count == 2 {
            if parts[0].isEmpty {
                errors.append("prefix part must be non-empty")
            } else {
                errors += Names.errors(dns1123Subdomain: String(decoding: parts[0], as: UTF8.self)).map { "prefix part " + $0 }
            }
        }
        if last.isEmpty { errors.append("name part must be non-empty") } else if last.count > 63 { errors.append("name part " + tooLong(63)) }
        if !isQualifiedPart(last) { errors.append("name part " + qualifiedRule) }
        return errors
    }
    package static func errors(labelValue value: String) -> [String] {
        var errors: [String] = []
        if value.utf8.count > 63 { errors.append(tooLong(63)) }
        if !value.isEmpty && !isQualifiedPart(value.utf8) { errors.append(valueRule) }
        return errors
    }
    /// A key of a Secret's data, which becomes a file's name.
    package static func errors(secretKey key: String) -> [String] {
        var errors: [String] = []
        if key.utf8.count > 253 { errors.append(tooLong(253)) }
        if key.isEmpty || !key.utf8.allSatisfy({ isAlphanumeric($0) || [0x2d, 0x5f, 0x2e].contains($0) }) { errors.append(keyRule) }
        if key == "." {
            errors.append("must not be '.'")
        } else if key == ".." {
            errors.append("must not be '..'")
        } else if key.hasPrefix("..") {
            errors.append("must not start with '..'")
        }
        return errors
    }
    /// An environment variable's name, as Kubernetes takes it: anything printable but `=`.
    package static func errors(environmentName name: String) -> [String] {
        name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "=") } && !name.isEmpty
            ? [] : ["a valid environment variable name must consist only of printable ASCII characters other than '='"]
    }

    /// A path below a volume's root: relative, without `..`, and nothing that a file system or a terminal could take for something else.
    package static func errors(relativePath path: String) -> [String] {
        var errors: [String] = []
        if path.hasPrefix("/") { errors.append("must be a relative path") }
        let parts = path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
        if parts.contains("..") { errors.append("must not contain '..'") } else if path.hasPrefix("..") { errors.append("must not start with '..'") }
        if !path.hasPrefix("/") && parts.contains(where: { $0.isEmpty || $0 == "." }) { errors.append("must not contain empty or '.' elements") }
        if path.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) { errors.append("must not contain control characters") }
        if parts.contains(where: { $0.utf8.count > 255 }) { errors.append("must not contain elements of more than 255 bytes") }
        if path.utf8.count > 4_095 { errors.append(tooLong(4_095)) }
        return errors
    }
}
