/// One field that is not as the rules want it, in Kubernetes' words (`apimachinery/pkg/util/validation/field/errors.go`).
/// Made so that a secret cannot get in: `shown` is a name, a type or a number, never a value of `data`.
package struct FieldError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Kind: String, Sendable {
        case required = "FieldValueRequired", invalid = "FieldValueInvalid", notSupported = "FieldValueNotSupported"
        case duplicate = "FieldValueDuplicate", forbidden = "FieldValueForbidden", tooLong = "FieldValueTooLong", tooMany = "FieldValueTooMany"
        case notFound = "FieldValueNotFound"
        var words: String {
            switch self {
            case .required: "Required value"
            case .invalid: "Invalid value"
            case .notSupported: "Unsupported value"
            case .duplicate: "Duplicate value"
            case .forbidden: "Forbidden"
            case .tooLong: "Too long"
            case .tooMany: "Too many"
            case .notFound: "Not found"
            }
        }
    }
    package var kind: Kind
    package var path: String
    package var shown: String?
    package var detail: String

    private init(_ kind: Kind, _ path: String, shown: String? = nil, _ detail: String) {
        self.kind = kind; self.path = path; self.shown = shown; self.detail = detail
    }
    package static func required(_ path: String, _ detail: String = "") -> FieldError { FieldError(.required, path, detail) }
    package static func invalid(_ path: String, _ value: String, _ detail: String) -> FieldError { FieldError(.invalid, path, shown: quoted(value), detail) }
    package static func invalid(_ path: String, _ value: Int64, _ detail: String) -> FieldError { FieldError(.invalid, path, shown: String(value), detail) }
    /// Without the value, which is a secret or large.
    package static func invalid(_ path: String, redacted detail: String) -> FieldError {
        FieldError(.invalid, path, shown: "\"<secret contents redacted>\"", detail)
    }
    package static func notSupported(_ path: String, _ value: String, supported: [String]) -> FieldError {
        FieldError(.notSupported, path, shown: quoted(value), "supported values: " + supported.map(quoted).joined(separator: ", "))
    }
    package static func duplicate(_ path: String, _ value: String) -> FieldError { FieldError(.duplicate, path, shown: quoted(value), "") }
    package static func forbidden(_ path: String, _ detail: String) -> FieldError { FieldError(.forbidden, path, detail) }
    package static func tooLong(_ path: String, bytesMax: Int) -> FieldError { FieldError(.tooLong, path, "must have at most \(bytesMax) bytes") }
    package static func notFound(_ path: String, _ value: String) -> FieldError { FieldError(.notFound, path, shown: quoted(value), "") }

    private static func quoted(_ value: String) -> String {
        JSONValue.string(value.unicodeScalars.count > 300 ? String(value.unicodeScalars.prefix(300)) + "…" : value).encodedString()
    }

    /// Without the path, as a cause in a Status says it.
    package var body: String {
        var text = kind.words
        if let shown { text += ": " + shown }
        if !detail.isEmpty { text += ": " + detail }
        return text
    }
    package var description: String { "\(path): \(body)" }
}
