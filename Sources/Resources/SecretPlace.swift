/// Where in a document secrets stand. The parsers walk it beside the document, so that a secret's text goes straight into
/// `SecretValue` and is never a `String`, although the `kind` that would tell is often read after the data.
///
///     object ──data──▶ members(.base64) ──*──▶ leaf      object ──items[]──▶ object
///        │ ──stringData──▶ members(.text) ──*──▶ leaf    object ──rows[]──▶ row ──object──▶ object
///        └─metadata──▶ metadata ──annotations──▶ annotations ──last-applied──▶ leaf(.text)
///
/// Of the kinds served only Secrets have `data` or `stringData`, in objects and in merge patches alike.
package enum SecretPlace: Sendable, Equatable {
    package enum Form: Sendable { case base64, text }
    /// A document without secrets (a token review, an OpenAPI schema).
    case nowhere
    /// A resource, a list of them, a Table, a watch event, or a merge patch of a resource.
    case object
    case objects, rows, row, metadata, annotations
    /// An object whose values are secrets.
    case members(Form)
    case leaf(Form)
    /// RFC 6902 operations: every string in a `value` is taken for a secret, until its path tells otherwise.
    case patchOperations, patchOperation
    case anywhere

    package static let lastAppliedAnnotation = "kubectl.kubernetes.io/last-applied-configuration"

    package func member(_ key: String) -> SecretPlace {
        switch self {
        case .object:
            switch key {
            case "data": .members(.base64)
            case "stringData": .members(.text)
            case "metadata": .metadata
            case "items": .objects
            case "rows": .rows
            case "object": .object
            default: .nowhere
            }
        case .row: key == "object" ? .object : .nowhere
        case .metadata: key == "annotations" ? .annotations : .nowhere
        case .annotations: key == Self.lastAppliedAnnotation ? .leaf(.text) : .nowhere
        case .members(let form): key.hasPrefix("$") ? .nowhere : .leaf(form)  // `$patch` and its like are directives
        case .patchOperation: key == "value" ? .anywhere : .nowhere
        case .anywhere: .anywhere
        case .nowhere, .objects, .rows, .leaf, .patchOperations: .nowhere
        }
    }

    package var element: SecretPlace {
        switch self {
        case .objects: .object
        case .rows: .row
        case .patchOperations: .patchOperation
        case .anywhere: .anywhere
        default: .nowhere
        }
    }

    /// What a string here is.
    var stringForm: Form? {
        switch self {
        case .leaf(let form): form
        case .anywhere: .text
        default: nil
        }
    }
}
