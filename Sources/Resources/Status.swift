/// Kubernetes' `Status`: how every request that failed is answered, in its words (`apimachinery/pkg/api/errors/errors.go`).
package struct Status: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Reason: String, Sendable {
        case unknown = "", unauthorized = "Unauthorized", forbidden = "Forbidden", notFound = "NotFound", alreadyExists = "AlreadyExists"
        case conflict = "Conflict", gone = "Gone", invalid = "Invalid", serverTimeout = "ServerTimeout", timeout = "Timeout"
        case tooManyRequests = "TooManyRequests", badRequest = "BadRequest", methodNotAllowed = "MethodNotAllowed", notAcceptable = "NotAcceptable"
        case requestEntityTooLarge = "RequestEntityTooLarge", unsupportedMediaType = "UnsupportedMediaType", internalError = "InternalError"
        case expired = "Expired", serviceUnavailable = "ServiceUnavailable"
    }
    package struct Cause: Equatable, Sendable {
        package var reason: String
        package var message: String
        package var field: String
        package init(reason: String, message: String, field: String) { self.reason = reason; self.message = message; self.field = field }
    }
    package struct Details: Equatable, Sendable {
        package var name = ""
        package var group = ""
        package var kind = ""
        package var uid = ""
        package var causes: [Cause] = []
        package var retryAfterSeconds = 0
        package init(name: String = "", group: String = "", kind: String = "", uid: String = "", causes: [Cause] = [], retryAfterSeconds: Int = 0) {
            self.name = name; self.group = group; self.kind = kind; self.uid = uid; self.causes = causes; self.retryAfterSeconds = retryAfterSeconds
        }
    }
    package var code: Int
    package var reason: Reason
    package var message: String
    package var details: Details?
    package init(code: Int, reason: Reason, message: String, details: Details? = nil) {
        self.code = code; self.reason = reason; self.message = message; self.details = details
    }
    package var isSuccess: Bool { code < 400 }
    package var description: String { message }
}

// MARK: - The failures

extension Status {
    private static func about(_ type: ResourceType, _ name: String) -> Details { Details(name: name, group: type.group, kind: type.plural) }

    package static func notFound(_ type: ResourceType, _ name: String) -> Status {
        Status(code: 404, reason: .notFound, message: "\(type.qualifiedName) \"\(name)\" not found", details: about(type, name))
    }
    /// A path that names nothing served.
    package static let noSuchPath = Status(code: 404, reason: .notFound, message: "the server could not find the requested resource", details: Details())
    package static func alreadyExists(_ type: ResourceType, _ name: String) -> Status {
        Status(code: 409, reason: .alreadyExists, message: "\(type.qualifiedName) \"\(name)\" already exists", details: about(type, name))
    }
    package static func conflict(_ type: ResourceType, _ name: String, _ why: String) -> Status {
        Status(code: 409, reason: .conflict, message: "Operation cannot be fulfilled on \(type.qualifiedName) \"\(name)\": \(why)", details: about(type, name))
    }
    package static let modifiedMeanwhile = "the object has been modified; please apply your changes to the latest version and try again"
    package static func modified(_ type: ResourceType, _ name: String) -> Status { conflict(type, name, modifiedMeanwhile) }
    package static func preconditionFailed(_ type: ResourceType, _ name: String, uid: String, actual: String) -> Status {
        conflict(type, name, "Precondition failed: UID in precondition: \(uid), UID in object meta: \(actual)")
    }
    package static func preconditionFailed(_ type: ResourceType, _ name: String, resourceVersion: String, actual: String) -> Status {
        conflict(type, name, "Precondition failed: ResourceVersion in precondition: \(resourceVersion), ResourceVersion in object meta: \(actual)")
    }
    /// 422, with one cause per field.
    package static func invalid(_ type: ResourceType, _ name: String, _ errors: [FieldError]) -> Status {
        invalid(kind: type.group.isEmpty ? type.kind : "\(type.kind).\(type.group)", group: type.group, plainKind: type.kind, name, errors)
    }
    package static func invalid(kind: String, group: String, plainKind: String, _ name: String, _ errors: [FieldError]) -> Status {
        let list = errors.map(\.description)
        let message = "\(kind) \"\(name)\" is invalid: " + (list.count == 1 ? list[0] : "[" + list.joined(separator: ", ") + "]")
        let causes = errors.map { Cause(reason: $0.kind.rawValue, message: $0.body, field: $0.path) }
        return Status(code: 422, reason: .invalid, message: message, details: Details(name: name, group: group, kind: plainKind, causes: causes))
    }
    package static func badRequest(_ message: String) -> Status { Status(code: 400, reason: .badRequest, message: message) }
    package static let unauthorized = Status(code: 401, reason: .unauthorized, message: "Unauthorized")
    /// `why` follows the sentence, as authorizers' reasons do.
    package static func forbidden(
        user: String, verb: String, type resource: String, group: String = "", name: String = "", namespace: String? = nil, why: String = ""
    ) -> Status {
        let qualified = group.isEmpty ? resource : "\(resource).\(group)"
        let subject = name.isEmpty ? "\(qualified) is forbidden" : "\(qualified) \"\(name)\" is forbidden"
        let place = namespace.map { $0.isEmpty ? " at the cluster scope" : " in the namespace \"\($0)\"" } ?? " at the cluster scope"
        let message = "\(subject): User \"\(user)\" cannot \(verb) resource \"\(resource)\" in API group \"\(group)\"\(place)" + (why.isEmpty ? "" : ": \(why)")
        return Status(code: 403, reason: .forbidden, message: message, details: Details(name: name, group: group, kind: resource))
    }
    package static func forbidden(_ type: ResourceType, _ name: String, _ why: String) -> Status {
        Status(code: 403, reason: .forbidden, message: "\(type.qualifiedName) \"\(name)\" is forbidden: \(why)", details: about(type, name))
    }
    package static func forbidden(user: String, verb: String, path: String, why: String = "") -> Status {
        Status(
            code: 403, reason: .forbidden, message: "forbidden: User \"\(user)\" cannot \(verb) path \"\(path)\"" + (why.isEmpty ? "" : ": \(why)"),
            details: Details())
    }
    package static func methodNotAllowed(_ method: String) -> Status {
        Status(code: 405, reason: .methodNotAllowed, message: "the server does not allow this method on the requested resource", details: Details(kind: method))
    }
    package static func notAcceptable(accepted: [String]) -> Status {
        Status(
            code: 406, reason: .notAcceptable,
            message: "only the following media types are accepted: \(accepted.joined(separator: ", "))", details: Details())
    }
    package static func unsupportedMediaType(accepted: [String]) -> Status {
        Status(
            code: 415, reason: .unsupportedMediaType,
            message: "the body of the request was in an unknown format - accepted media types include: \(accepted.joined(separator: ", "))", details: Details())
    }
    package static func requestEntityTooLarge(bytesMax: Int) -> Status {
        Status(code: 413, reason: .requestEntityTooLarge, message: "Request entity too large: limit is \(bytesMax)", details: Details())
    }
    /// History before `oldest` is compacted: a watch from `requested` must list again.
    package static func expired(requested: Int64, oldest: Int64) -> Status {
        Status(code: 410, reason: .expired, message: "too old resource version: \(requested) (\(oldest))")
    }
    package static let expiredContinueToken = Status(
        code: 410, reason: .expired,
        message: "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.")
    package static func tooManyRequests(_ message: String, retryAfterSeconds: Int) -> Status {
        Status(code: 429, reason: .tooManyRequests, message: message, details: Details(retryAfterSeconds: retryAfterSeconds))
    }
    package static func timeout(_ message: String) -> Status {
        Status(code: 504, reason: .timeout, message: "Timeout: \(message)", details: Details(retryAfterSeconds: 1))
    }
    package static func serviceUnavailable(_ message: String) -> Status { Status(code: 503, reason: .serviceUnavailable, message: message) }
    package static func internalError(_ message: String) -> Status {
        let cause = Cause(reason: "InternalError", message: message, field: "")
        return Status(code: 500, reason: .internalError, message: "Internal error occurred: \(message)", details: Details(causes: [cause]))
    }
    /// The answer to a deletion that is done.
    package static func deleted(_ type: ResourceType, _ name: String, uid: String) -> Status {
        Status(code: 200, reason: .unknown, message: "", details: Details(name: name, group: type.group, kind: type.plural, uid: uid))
    }
}

// MARK: - As JSON

extension Status {
    package var json: JSONValue {
        var object: JSONObject = ["kind": "Status", "apiVersion": "v1", "metadata": [:], "status": isSuccess ? "Success" : "Failure"]
        if !message.isEmpty { object["message"] = .string(message) }
        if reason != .unknown { object["reason"] = .string(reason.rawValue) }
        if let details { object["details"] = details.json }
        if !(isSuccess && code == 200) { object["code"] = .integer(Int64(code)) }
        return .object(object)
    }

    /// Of a server's answer; `nil` when the document is no Status.
    package init?(_ json: JSONValue) {
        guard json["kind"]?.stringValue == "Status" else { return nil }
        let succeeded = json["status"]?.stringValue == "Success"
        code = json["code"]?.integerValue.flatMap { Int(exactly: $0) } ?? (succeeded ? 200 : 500)
        reason = json["reason"]?.stringValue.flatMap(Reason.init(rawValue:)) ?? .unknown
        message = json["message"]?.stringValue ?? ""
        details = json["details"].map(Details.init)
    }
}

extension Status.Details {
    fileprivate var json: JSONValue {
        var object = JSONObject()
        for (key, value) in [("name", name), ("group", group), ("kind", kind), ("uid", uid)] where !value.isEmpty { object[key] = .string(value) }
        if !causes.isEmpty {
            object["causes"] = .array(
                causes.map { cause in
                    var member: JSONObject = ["reason": .string(cause.reason), "message": .string(cause.message)]
                    if !cause.field.isEmpty { member["field"] = .string(cause.field) }
                    return .object(member)
                })
        }
        if retryAfterSeconds > 0 { object["retryAfterSeconds"] = JSONValue(retryAfterSeconds) }
        return .object(object)
    }
    fileprivate init(_ json: JSONValue) {
        name = json["name"]?.stringValue ?? ""
        group = json["group"]?.stringValue ?? ""
        kind = json["kind"]?.stringValue ?? ""
        uid = json["uid"]?.stringValue ?? ""
        causes = (json["causes"]?.arrayValue ?? []).map {
            Status.Cause(reason: $0["reason"]?.stringValue ?? "", message: $0["message"]?.stringValue ?? "", field: $0["field"]?.stringValue ?? "")
        }
        retryAfterSeconds = json["retryAfterSeconds"]?.integerValue.flatMap { Int(exactly: $0) } ?? 0
    }
}
