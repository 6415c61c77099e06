import Access
import Resources

/// What a request is about, read from its method and path as Kubernetes reads them (`apiserver/pkg/endpoints/request/requestinfo.go`):
///
///     /api/v1/namespaces/{ns}/{resource}/{name}/{subresource}      /api/v1/{resource}/{name}/{subresource}
///     /apis/coffer.dev/v1/…                                        anything else: not about a resource
enum RequestTarget: Equatable {
    case resource(ResourceTarget)
    /// Coffer's own group, by its segments after the version: `["nodes", "a", "sync"]`.
    case coffer([String])
    /// What somebody asks about themselves.
    case review(SelfReview)
    /// Discovery, health, version: by its path.
    case path(String)

    init(method: String, path: String, isWatch: Bool) throws(Status) {
        var segments: [String] = []
        var trimmed = path.drop { $0 == "/" }
        while trimmed.last == "/" { trimmed.removeLast() }
        // Skipped, an empty word would make `DELETE …/namespaces//secrets` be about a namespace of that name.
        guard !trimmed.contains("//") else { throw .noSuchPath }
        for segment in trimmed.split(separator: "/") {
            guard let decoded = PercentEncoding.decode(segment), decoded != ".", decoded != ".." else { throw .badRequest("the path cannot be read") }
            segments.append(decoded)
        }
        if segments.starts(with: ["apis", "coffer.dev", "v1"]), segments.count > 3 {
            self = .coffer(Array(segments.dropFirst(3)))
        } else if segments.count == 4, let review = SelfReview.all.first(where: { ["apis", $0.group, "v1", $0.resource] == segments }) {
            self = .review(review)
        } else if segments.starts(with: ["api", "v1"]), segments.count > 2 {
            self = .resource(try ResourceTarget(method: method, segments: Array(segments.dropFirst(2)), isWatch: isWatch))
        } else {
            self = .path("/" + segments.joined(separator: "/"))
        }
    }
}

/// A request about resources.
struct ResourceTarget: Equatable {
    enum Verb: String { case get, list, watch, create, update, patch, delete, deletecollection }
    var verb: Verb
    var type: ResourceType
    /// Empty: all namespaces, or a kind without them.
    var namespace: String
    /// Empty: the collection.
    var name: String
    /// Empty: the object itself.
    var subresource: String

    init(method: String, segments: [String], isWatch: Bool) throws(Status) {
        var rest = segments[...]
        var namespace = ""
        if rest.first == "namespaces", rest.count > 2, rest[rest.startIndex + 2] != "status", rest[rest.startIndex + 2] != "finalize" {
            namespace = rest[rest.startIndex + 1]
            rest = rest.dropFirst(2)
        }
        guard let plural = rest.first, let type = ResourceType.plural(plural), rest.count <= 3 else { throw .noSuchPath }
        guard namespace.isEmpty || type.isNamespaced else { throw .noSuchPath }
        self.type = type
        self.namespace = namespace
        name = rest.dropFirst().first ?? ""
        subresource = rest.dropFirst(2).first ?? ""
        guard subresource.isEmpty || type.subresources.contains(subresource) else { throw .noSuchPath }
        guard name.isEmpty || namespace.isEmpty != type.isNamespaced else { throw .noSuchPath }
        verb = try Self.verb(method, hasName: !name.isEmpty, isWatch: isWatch)
        // The collection of all namespaces is only looked at.
        if type.isNamespaced, namespace.isEmpty, verb != .list, verb != .watch { throw .methodNotAllowed(method) }
        guard type.verbs.contains(verb.rawValue) else { throw .methodNotAllowed(method) }
        try Self.check(subresource, verb, method)
    }

    private static func verb(_ method: String, hasName: Bool, isWatch: Bool) throws(Status) -> Verb {
        switch (method, hasName) {
        case ("GET", false): return isWatch ? .watch : .list
        case ("GET", true): return isWatch ? .watch : .get
        case ("POST", _): return .create
        case ("PUT", true): return .update
        case ("PATCH", true): return .patch
        case ("DELETE", true): return .delete
        case ("DELETE", false): return .deletecollection
        default: throw .methodNotAllowed(method)
        }
    }

    private static func check(_ subresource: String, _ verb: Verb, _ method: String) throws(Status) {
        switch subresource {
        case "": break
        case "binding": guard verb == .create else { throw .methodNotAllowed(method) }
        default: guard verb == .get || verb == .update || verb == .patch else { throw .methodNotAllowed(method) }
        }
    }
}

enum PercentEncoding {
    /// Nil for what is cut short, not UTF-8, or holds a NUL.
    static func decode(_ text: Substring, plusIsSpace: Bool = false) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "%"):
                guard let high = rest.popFirst().flatMap(hex), let low = rest.popFirst().flatMap(hex) else { return nil }
                bytes.append(high << 4 | low)
            case UInt8(ascii: "+") where plusIsSpace:
                bytes.append(0x20)
            default:
                bytes.append(byte)
            }
        }
        return bytes.contains(0) ? nil : String(validating: bytes, as: UTF8.self)
    }
    private static func hex(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x41...0x46: digit - 0x41 + 10
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }
}
