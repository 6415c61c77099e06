import APIClient
import Basics
import Resources
import Synchronization

/// The secrets API over a dictionary: enough of it to see what the command line sends and how it shows the answers.
final class MemoryServer: APITransport {
    private struct State {
        var objects: [String: Resource] = [:]
        var revision: Int64 = 0
        var requests: [APIRequest] = []
    }
    private let state = Mutex(State())
    static let now = Timestamp(secondsSinceEpoch: 1_800_000_000)

    var requests: [APIRequest] { state.withLock { $0.requests } }
    let server = "https://memory:6443"
    func close() async {}

    func send(_ request: APIRequest) async throws -> JSONValue {
        try state.withLock { state throws in
            state.requests.append(request)
            return try Self.answer(request, &state)
        }
    }

    /// The present objects' last changes, then the end.
    func open(_ request: APIRequest) async throws -> DocumentStream {
        let documents: [JSONValue] = try state.withLock { state throws in
            let target = try Self.target(request)
            return Self.selected(target, request, state).map { resource in
                let object = request.accept == APIRequest.table ? Table([resource], of: target.type, now: Self.now).json(resourceVersion: "1") : resource.json
                return ["type": "MODIFIED", "object": object]
            }
        }
        let rest = Mutex(documents[...])
        return DocumentStream { rest.withLock { $0.popFirst() } }
    }

    private struct Target {
        var type: ResourceType
        var namespace: String?
        var name = ""
        func key(_ name: String) -> String { "\(type.plural)/\(namespace ?? "")/\(name)" }
    }
    private static func target(_ request: APIRequest) throws -> Target {
        var parts = request.path.split(separator: "/").map(String.init)[2...]
        var namespace: String?
        if parts.first == "namespaces", parts.count > 2 { namespace = parts[3]; parts = parts.dropFirst(2) }
        guard let type = parts.first.flatMap({ ResourceType.plural($0) }) else { throw Status.noSuchPath }
        return Target(type: type, namespace: namespace, name: parts.dropFirst().first ?? "")
    }

    private static func selected(_ target: Target, _ request: APIRequest, _ state: State) -> [Resource] {
        func value(_ name: String) -> String { request.query.first { $0.name == name }?.value ?? "" }
        let labels = (try? LabelSelector(parsing: value("labelSelector"))) ?? .everything
        let fields = (try? FieldSelector(parsing: value("fieldSelector"), for: target.type)) ?? .everything
        return state.objects.values.filter { resource in
            resource.type == target.type && (target.namespace == nil || resource.namespace == target.namespace) && labels.matches(resource)
                && fields.matches(resource)
        }.sorted { ($0.namespace, $0.name) < ($1.namespace, $1.name) }
    }

    private static func answer(_ request: APIRequest, _ state: inout State) throws -> JSONValue {
        if request.path.hasPrefix("/apis/authorization.k8s.io") || request.path.hasPrefix("/apis/authentication.k8s.io") { return review(request) }
        if request.path.hasPrefix("/apis/coffer.dev") || request.path == "/version" { return operators(request) }
        if let document = discovery[request.path] { return document }
        let target = try target(request), isTable = request.accept == APIRequest.table
        let isDryRun = request.query.contains { $0.name == "dryRun" }
        func stored(_ name: String) throws -> Resource {
            guard let resource = state.objects[target.key(name)] else { throw Status.notFound(target.type, name) }
            return resource
        }
        func keep(_ resource: Resource) -> JSONValue {
            var kept = resource
            if !isDryRun {
                state.revision += 1
                kept.resourceVersion = String(state.revision)
                state.objects[target.key(kept.name)] = kept
            }
            return kept.json
        }
        switch request.method {
        case .get where target.name.isEmpty:
            let found = selected(target, request, state), version = String(state.revision)
            return isTable ? Table(found, of: target.type, now: now).json(resourceVersion: version) : target.type.list(found, resourceVersion: version)
        case .get:
            let found = try stored(target.name)
            return isTable ? Table([found], of: target.type, now: now).json(resourceVersion: found.resourceVersion) : found.json
        case .post:
            let created = try admitted(try Resource.decoding(request.body ?? .null, as: target.type), state)
            guard state.objects[target.key(created.name)] == nil else { throw Status.alreadyExists(target.type, created.name) }
            try created.validateForCreation()
            return keep(created)
        case .put, .patch:
            let old = try stored(target.name)
            var new =
                request.method == .put
                ? try Resource.decoding(request.body ?? .null, as: target.type)
                : try Patch(parsing: request.body?.encodedBytes() ?? [], as: Patch.ContentType(rawValue: request.contentType) ?? .merge).applied(to: old)
            new.carryIdentity(from: old)
            guard new.resourceVersion == old.resourceVersion else { throw Status.modified(target.type, old.name) }
            if target.type == .secrets {
                var secret = Secret(new)
                secret.normalize()
                new = secret.resource
            }
            try new.validateUpdate(of: old)
            return new == old ? old.json : keep(new)
        case .delete:
            let old = try stored(target.name)
            if !isDryRun { state.objects[target.key(target.name)] = nil }
            return Status.deleted(target.type, old.name, uid: old.uid).json
        }
    }

    private static let discovery: [String: JSONValue] = [
        "/api": ["kind": "APIVersions", "versions": ["v1"]],
        "/apis": ["groups": [["name": "coffer.dev", "versions": [["groupVersion": "coffer.dev/v1", "version": "v1"]]]]],
        "/openapi/v3/api/v1": [
            "components": [
                "schemas": [
                    "Pod": ["type": "object", "x-kubernetes-group-version-kind": [["group": "", "kind": "Pod", "version": "v1"]]],
                    "Secret": [
                        "type": "object", "description": "Secret data.", "x-kubernetes-group-version-kind": [["group": "", "kind": "Secret", "version": "v1"]],
                        "properties": [
                            "data": ["type": "object", "additionalProperties": ["type": "string"], "description": "The values, by key."],
                            "metadata": [
                                "type": "object", "description": "Names and more.",
                                "properties": ["finalizers": ["type": "array", "items": ["type": "string"]], "name": ["type": "string"]],
                            ],
                        ],
                    ],
                ]
            ]
        ],
    ]

    private static func admitted(_ resource: Resource, _ state: State) throws -> Resource {
        var new = resource
        new.uid = "uid-\(state.revision + 1)"
        new.creationTimestamp = Timestamp(secondsSinceEpoch: now.secondsSinceEpoch - 300)
        if new.type == .secrets {
            var secret = Secret(new)
            secret.normalize()
            new = secret.resource
        } else if new.type == .pods {
            var pod = Pod(new)
            pod.setDefaults()
            new = pod.resource
        }
        return new
    }

    /// Deleting is not allowed, everything else is.
    private static func review(_ request: APIRequest) -> JSONValue {
        var review = request.body ?? [:]
        switch request.path.split(separator: "/").last {
        case "selfsubjectreviews": review["status"] = ["userInfo": ["username": "tester", "groups": ["dev", "system:authenticated"]]]
        case "selfsubjectrulesreviews":
            review["status"] = [
                "resourceRules": [["verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": []]],
                "nonResourceRules": [["verbs": ["get"], "nonResourceURLs": ["/version"]]],
            ]
        default:
            let isDeletion = review.at("spec", "resourceAttributes", "verb")?.stringValue == "delete"
            review["status"] = isDeletion ? ["allowed": false, "reason": "nobody deletes here"] : ["allowed": true]
        }
        return review
    }

    private static func operators(_ request: APIRequest) -> JSONValue {
        let progress: JSONValue = ["domain": "namespace/prod", "level": "dek", "state": "Running", "generation": 2, "done": 3, "remaining": 7, "message": ""]
        switch request.path {
        case "/apis/coffer.dev/v1/namespaces/default/secrets/app/trail":
            func span(_ pod: String, _ version: String, _ state: String, until: String? = nil) -> JSONValue {
                var span: JSONValue = [
                    "pod": .string(pod), "podUID": .string("uid-" + pod), "node": "n1", "secretUID": "uid-s", "resourceVersion": .string(version),
                    "from": "2026-11-23T19:00:00Z", "state": .string(state),
                ]
                span["until"] = until.map(JSONValue.string)
                return span
            }
            return [
                "kind": "SecretTrail", "omitted": 2,
                "items": [
                    span("3", "1", "Replaced", until: "2026-11-23T19:01:00Z"), span("3", "2", "Held"), span("4", "1", "Held"), span("gone", "1", "Unconfirmed"),
                ],
            ]
        case "/apis/coffer.dev/v1/namespaces/default/secrets/other/trail": return ["kind": "SecretTrail", "items": []]
        case "/version": return ["gitVersion": "v1.30.0+coffer"]
        case "/apis/coffer.dev/v1/vault/status":
            return [
                "sealed": false, "keyring": "00ff", "slots": ["key-file"],
                "namespaces": [
                    [
                        "name": "prod", "kekVersion": 1,
                        "dataKeys": [["generation": 1, "state": "Retired", "values": 7], ["generation": 2, "state": "Active", "values": 3]],
                    ]
                ],
            ]
        case "/apis/coffer.dev/v1/operator/rotations":
            var complete = progress
            complete["state"] = "Complete"
            complete["done"] = 10
            complete["remaining"] = 0
            return ["items": [complete]]
        default: return progress
        }
    }
}
