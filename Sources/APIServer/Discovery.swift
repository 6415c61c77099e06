import Access
import HTTPTypes
import HummingbirdCore
import NIOCore
import Resources

/// What the server says of itself: groups, versions, resources. The documents are Kubernetes'; the resources are ours.
enum Discovery {
    /// Of the Kubernetes API whose resources and rules we follow; clients compare it with their own.
    static let major = "1", minor = "32"
    static let version: JSONValue = [
        "major": .string(major), "minor": .string(minor), "gitVersion": .string("v\(major).\(minor).0+coffer"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "swift", "platform": "linux/amd64",
    ]
    static let coreVersions: JSONValue = [
        "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [["clientCIDR": "0.0.0.0/0", "serverAddress": ""]],
    ]

    static let groups: JSONValue = ["kind": "APIGroupList", "apiVersion": "v1", "groups": .array(groupNames.map { .object(described($0)) })]
    static let groupNames = ["coffer.dev", "authentication.k8s.io", "authorization.k8s.io"]
    private static func described(_ group: String) -> JSONObject {
        let version: JSONValue = ["groupVersion": .string(group + "/v1"), "version": "v1"]
        return ["name": .string(group), "versions": [version], "preferredVersion": version]
    }
    /// Nil for a group that is not served.
    static func group(_ name: String) -> JSONValue? {
        guard groupNames.contains(name) else { return nil }
        var group: JSONValue = ["kind": "APIGroup", "apiVersion": "v1"]
        for member in described(name).members { group[member.key] = member.value }
        return group
    }
    static func resources(of group: String) -> JSONValue? {
        if group == "coffer.dev" { return cofferResources }
        let reviews = SelfReview.all.filter { $0.group == group }
        guard !reviews.isEmpty else { return nil }
        return [
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": .string(group + "/v1"),
            "resources": .array(
                reviews.map { review in
                    [
                        "name": .string(review.resource), "singularName": .string(review.kind.lowercased()), "namespaced": false,
                        "kind": .string(review.kind), "verbs": ["create"],
                    ]
                }),
        ]
    }
    /// All are parts of something, so that no client takes them for resources to `get`.
    static let cofferResources: JSONValue = [
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "coffer.dev/v1",
        "resources": .array(
            [
                ("nodes/sync", "DesiredState", ["create"]), ("nodes/acks", "AcknowledgementList", ["create", "get"]), ("operator/rotate", "Rotation", ["create"]),
                ("operator/rotations", "RotationList", ["get"]), ("vault/status", "VaultStatus", ["get"]),
            ].map { name, kind, verbs in
                ["name": .string(name), "singularName": "", "namespaced": false, "kind": .string(kind), "verbs": JSONValue(verbs)]
            }),
    ]

    static var coreResources: JSONValue {
        var resources: [JSONValue] = []
        for type in ResourceType.all {
            var entry: JSONValue = [
                "name": .string(type.plural), "singularName": .string(type.singular), "namespaced": .bool(type.isNamespaced), "kind": .string(type.kind),
                "verbs": JSONValue(type.verbs),
            ]
            if !type.shortNames.isEmpty { entry["shortNames"] = JSONValue(type.shortNames) }
            if !type.categories.isEmpty { entry["categories"] = JSONValue(type.categories) }
            resources.append(entry)
            for subresource in type.subresources {
                let isBinding = subresource == "binding"
                resources.append([
                    "name": .string("\(type.plural)/\(subresource)"), "singularName": "", "namespaced": .bool(type.isNamespaced),
                    "kind": .string(isBinding ? "Binding" : type.kind), "verbs": JSONValue(isBinding ? ["create"] : ["get", "patch", "update"]),
                ])
            }
        }
        return ["kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": .array(resources)]
    }

    static let paths: JSONValue = [
        "paths": JSONValue([
            "/api", "/api/v1", "/apis",
        ] + groupNames.sorted().flatMap { ["/apis/\($0)", "/apis/\($0)/v1"] } + [
            "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/readyz", "/version",
        ])
    ]
}

extension Endpoints {
    /// Whatever is no resource.
    func answer(_ call: Call, path: String) async throws -> Response {
        try call.authorize(.path(verb: call.request.method.rawValue.lowercased(), path: path))
        guard call.request.method == .get || call.request.method == .head else { throw Status.methodNotAllowed(call.request.method.rawValue) }
        let response = try document(call, path)
        try await call.auditRelease(count: 0)
        return call.request.method == .head ? response.createHeadResponse() : response
    }

    private func document(_ call: Call, _ path: String) throws(Status) -> Response {
        switch path {
        case "/": return Answer.json(Discovery.paths)
        case "/api": return Answer.json(Discovery.coreVersions)
        case "/api/v1": return Answer.json(Discovery.coreResources)
        case "/apis": return Answer.json(Discovery.groups)
        case "/version": return Answer.json(Discovery.version)
        case "/healthz", "/livez": return Answer.text("ok")
        case "/readyz":
            guard feed.read({ _ in true }) == true else { throw .serviceUnavailable("the objects are not loaded yet") }
            return Answer.text("ok")
        case "/openapi/v2": return openAPI2(call)
        case "/openapi/v3": return Answer.json(OpenAPI.index)
        case "/openapi/v3/api/v1": return Answer.json(OpenAPI.core)
        default:
            let segments = path.split(separator: "/").map(String.init)
            guard segments.first == "apis" else { throw .noSuchPath }
            switch segments.count {
            case 2: if let group = Discovery.group(segments[1]) { return Answer.json(group) }
            case 3 where segments[2] == "v1": if let resources = Discovery.resources(of: segments[1]) { return Answer.json(resources) }
            default: break
            }
            throw .noSuchPath
        }
    }

    private func openAPI2(_ call: Call) -> Response {
        guard call.request.headers[.accept]?.contains(OpenAPI.protobufMediaType) == true else { return Answer.json(OpenAPI.version2) }
        return Response(
            status: .ok, headers: [.contentType: OpenAPI.protobufContentType], body: ResponseBody(byteBuffer: ByteBuffer(bytes: OpenAPI.version2Protobuf)))
    }
}
