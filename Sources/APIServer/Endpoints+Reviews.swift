import Access
import HTTPTypes
import HummingbirdCore
import Resources

// What somebody may ask about themselves: may I do this, what may I do, who am I.
extension Endpoints {
    func answer(_ call: Call, _ review: SelfReview) async throws -> Response {
        try call.authorize(.resource(ResourceAction(verb: Self.verb(call), group: review.group, resource: review.resource)))
        guard call.request.method == .post else { throw Status.methodNotAllowed(call.request.method.rawValue) }
        let document = try await RequestDocument(call.request)
        let asked = try body(call, document)
        guard asked["kind"]?.stringValue ?? review.kind == review.kind else {
            throw Status.badRequest("the object provided is unrecognized (must be of type \(review.kind))")
        }
        let spec = asked["spec"] ?? [:], status: JSONValue
        switch review {
        case .access: status = try await access(call, spec)
        case .rules: status = Self.rules(of: call.identity)
        default: status = ["userInfo": ["username": .string(call.identity.user), "groups": JSONValue(call.identity.groups)]]
        }
        try await call.auditRelease(count: 0)
        return Answer.json([
            "kind": .string(review.kind), "apiVersion": .string(review.group + "/v1"), "metadata": [:], "spec": spec, "status": status,
        ], code: 201)
    }

    /// Only asking is open to all: any other method is for who may everything.
    private static func verb(_ call: Call) -> String { call.request.method == .post ? "create" : call.request.method.rawValue.lowercased() }

    private func access(_ call: Call, _ spec: JSONValue) async throws(Status) -> JSONValue {
        func text(_ attributes: JSONValue, _ member: String) -> String { attributes[member]?.stringValue ?? "" }
        let action: Action
        switch (spec["resourceAttributes"], spec["nonResourceAttributes"]) {
        case (let attributes?, nil):
            var resource = ResourceAction(
                verb: text(attributes, "verb"), group: text(attributes, "group"), resource: text(attributes, "resource"),
                subresource: text(attributes, "subresource"), namespace: text(attributes, "namespace"), name: text(attributes, "name"))
            if resource.group.isEmpty, resource.resource == "pods", call.identity.node != nil {
                resource.boundNode = try await boundNode(namespace: resource.namespace, pod: resource.name)
            }
            action = .resource(resource)
        case (nil, let attributes?):
            action = .path(verb: text(attributes, "verb"), path: text(attributes, "path"))
        default:
            throw .badRequest("exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be given")
        }
        switch Authorizer.decide(call.identity, action) {
        case .allowed: return ["allowed": true]
        case .denied(let why): return ["allowed": false, "reason": .string(why)]
        }
    }

    private static func rules(of identity: Identity) -> JSONValue {
        let rules = Authorizer.rules(of: identity)
        let resources = rules.resources.map { rule -> JSONValue in
            var json: JSONValue = ["verbs": JSONValue(rule.verbs), "apiGroups": JSONValue(rule.groups), "resources": JSONValue(rule.resources)]
            if !rule.names.isEmpty { json["resourceNames"] = JSONValue(rule.names) }
            return json
        }
        let paths = rules.paths.map { rule -> JSONValue in ["verbs": JSONValue(rule.verbs), "nonResourceURLs": JSONValue(rule.paths)] }
        // A node's rights to pods depend on where they are bound, which no list of rules can say.
        return ["resourceRules": .array(resources), "nonResourceRules": .array(paths), "incomplete": .bool(identity.node != nil)]
    }
}
