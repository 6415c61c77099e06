package import Resources

/// Typed requests to the secrets API.
package struct APIClient: Sendable {
    package let transport: any APITransport
    package init(transport: any APITransport) { self.transport = transport }

    /// Narrows a list or a watch.
    package struct Selection: Sendable {
        package var labels = ""
        package var fields = ""
        package init(labels: String = "", fields: String = "") { self.labels = labels; self.fields = fields }
        var query: [(name: String, value: String)] {
            (labels.isEmpty ? [] : [("labelSelector", labels)]) + (fields.isEmpty ? [] : [("fieldSelector", fields)])
        }
    }
    package struct Listing: Sendable {
        package var items: [Resource]
        package var resourceVersion: String
    }
    package enum Change: String, Sendable { case added, modified, deleted }
    package struct WatchEvent: Sendable {
        package var change: Change
        package var object: JSONValue
    }

    /// What cannot be part of a path is refused before anything is sent: without a name, a path is the whole collection's.
    package static func objectPath(_ type: ResourceType, namespace: String, name: String, subresource: String = "") throws(ConnectionFailure) -> String {
        guard !name.isEmpty else { throw ConnectionFailure("error: resource name may not be empty") }
        for (what, word) in [("resource name", name)] + (type.isNamespaced ? [("namespace", namespace)] : []) {
            if word.isEmpty || word == "." || word == ".." { throw ConnectionFailure("error: invalid \(what) \"\(word)\": [may not be '\(word)']") }
            if word.utf8.contains(0) { throw ConnectionFailure("error: invalid \(what): [may not contain NUL]") }
        }
        return path(type, namespace: namespace, name: name, subresource: subresource)
    }
    /// `namespace` is ignored by kinds without; `nil` is all.
    package static func path(_ type: ResourceType, namespace: String?, name: String = "", subresource: String = "") -> String {
        var path = type.group.isEmpty ? "/api/\(type.version)" : "/apis/\(type.group)/\(type.version)"
        if type.isNamespaced, let namespace { path += "/namespaces/\(APIRequest.encoded(namespace))" }
        path += "/\(type.plural)"
        if !name.isEmpty { path += "/\(APIRequest.encoded(name))" }
        if !subresource.isEmpty { path += "/\(subresource)" }
        return path
    }

    // MARK: Reading

    package func get(_ type: ResourceType, namespace: String, name: String) async throws -> Resource {
        try Self.resource(type, try await transport.send(APIRequest(.get, try Self.objectPath(type, namespace: namespace, name: name))))
    }
    /// `nil` when it is not there.
    package func find(_ type: ResourceType, namespace: String, name: String) async throws -> Resource? {
        do {
            return try await get(type, namespace: namespace, name: name)
        } catch let status as Status where status.reason == .notFound {
            return nil
        }
    }
    /// All pages of the list.
    package func list(_ type: ResourceType, namespace: String?, _ selection: Selection = Selection()) async throws -> Listing {
        let (items, version) = try await pages(type, namespace: namespace, selection, accept: "application/json") { $0["items"]?.arrayValue ?? [] }
        return Listing(items: try items.map { try Self.resource(type, $0) }, resourceVersion: version)
    }
    /// The server's table of a list, without any value: its columns and rows, and the version to watch from.
    package func table(_ type: ResourceType, namespace: String?, _ selection: Selection = Selection()) async throws -> (
        table: JSONValue, resourceVersion: String
    ) {
        var columns: JSONValue = []
        let (rows, version) = try await pages(type, namespace: namespace, selection, accept: APIRequest.table) { page in
            if let definitions = page["columnDefinitions"] { columns = definitions }
            return page["rows"]?.arrayValue ?? []
        }
        return (["kind": "Table", "columnDefinitions": columns, "rows": .array(rows)], version)
    }
    /// The table of one object.
    package func table(_ type: ResourceType, namespace: String, name: String) async throws -> (table: JSONValue, resourceVersion: String) {
        var request = APIRequest(.get, try Self.objectPath(type, namespace: namespace, name: name))
        request.accept = APIRequest.table
        let table = try await transport.send(request)
        return (table, table.at("metadata", "resourceVersion")?.stringValue ?? "")
    }

    private func pages(
        _ type: ResourceType, namespace: String?, _ selection: Selection, accept: String, take: (JSONValue) -> [JSONValue]
    ) async throws -> ([JSONValue], String) {
        var items: [JSONValue] = [], token = "", version = ""
        repeat {
            var request = APIRequest(.get, Self.path(type, namespace: namespace))
            request.accept = accept
            request.query = selection.query + [("limit", "500")] + (token.isEmpty ? [] : [("continue", token)])
            let page = try await transport.send(request)
            items += take(page)
            version = page.at("metadata", "resourceVersion")?.stringValue ?? version
            token = page.at("metadata", "continue")?.stringValue ?? ""
        } while !token.isEmpty
        return (items, version)
    }

    /// Events after `resourceVersion`. Ends when the server ends it: watch again from the last event's version.
    package func watch(
        _ type: ResourceType, namespace: String?, _ selection: Selection = Selection(), after resourceVersion: String, asTable: Bool = false
    ) async throws -> WatchStream {
        var request = APIRequest(.get, Self.path(type, namespace: namespace))
        request.query = selection.query + [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", resourceVersion)]
        if asTable { request.accept = APIRequest.table }
        return WatchStream(try await transport.open(request), resourceVersion: resourceVersion)
    }

    // MARK: Writing

    package func create(_ resource: Resource, dryRun: Bool = false) async throws -> Resource {
        try await write(.post, resource, path: Self.path(resource.type, namespace: resource.namespace), dryRun: dryRun)
    }
    package func replace(_ resource: Resource, dryRun: Bool = false) async throws -> Resource {
        try await write(.put, resource, path: try Self.objectPath(resource.type, namespace: resource.namespace, name: resource.name), dryRun: dryRun)
    }
    private func write(_ method: APIRequest.Method, _ resource: Resource, path: String, dryRun: Bool) async throws -> Resource {
        var request = APIRequest(method, path)
        request.query = [("fieldValidation", "Strict")] + (dryRun ? [("dryRun", "All")] : [])
        request.body = resource.json
        return try Self.resource(resource.type, try await transport.send(request))
    }
    package func patch(
        _ type: ResourceType, namespace: String, name: String, _ body: JSONValue, as contentType: Patch.ContentType, subresource: String = "",
        dryRun: Bool = false
    ) async throws -> Resource {
        var request = APIRequest(.patch, try Self.objectPath(type, namespace: namespace, name: name, subresource: subresource))
        request.query = dryRun ? [("dryRun", "All")] : []
        request.contentType = contentType.rawValue
        request.body = body
        return try Self.resource(type, try await transport.send(request))
    }
    /// The object as it is while it terminates, or `nil` when it is gone.
    @discardableResult
    package func delete(
        _ type: ResourceType, namespace: String, name: String, graceSeconds: Int64? = nil, uid: String = "", dryRun: Bool = false
    ) async throws -> Resource? {
        var request = APIRequest(.delete, try Self.objectPath(type, namespace: namespace, name: name))
        request.query = dryRun ? [("dryRun", "All")] : []
        var options: JSONObject = ["kind": "DeleteOptions", "apiVersion": "v1"]
        if let graceSeconds { options["gracePeriodSeconds"] = .integer(graceSeconds) }
        if !uid.isEmpty { options["preconditions"] = ["uid": .string(uid)] }
        request.body = .object(options)
        let answer = try await transport.send(request)
        return answer["kind"]?.stringValue == type.kind ? try Self.resource(type, answer) : nil
    }

    // MARK: About oneself

    /// Answers the review with its status.
    package func review(_ kind: String, group: String, spec: JSONValue?) async throws -> JSONValue {
        var request = APIRequest(.post, "/apis/\(group)/v1/\(kind.lowercased())s")
        var body: JSONValue = ["kind": .string(kind), "apiVersion": .string(group + "/v1"), "metadata": [:]]
        body["spec"] = spec
        request.body = body
        return try await transport.send(request)
    }

    // MARK: Operators

    /// Who held the secret, from when to when, as their nodes say.
    package func trail(namespace: String, secret: String) async throws -> SecretTrailAnswer {
        let path = "/apis/coffer.dev/v1/namespaces/\(APIRequest.encoded(namespace))/secrets/\(APIRequest.encoded(secret))/trail"
        return try SecretTrailAnswer(try await transport.send(APIRequest(.get, path)))
    }

    /// What is no resource: discovery, schemas.
    package func document(_ path: String) async throws -> JSONValue { try await transport.send(APIRequest(.get, path)) }
    package func serverVersion() async throws -> JSONValue { try await transport.send(APIRequest(.get, "/version")) }
    package func vaultStatus() async throws -> JSONValue { try await transport.send(APIRequest(.get, "/apis/coffer.dev/v1/vault/status")) }
    package func rotations() async throws -> [JSONValue] {
        try await transport.send(APIRequest(.get, "/apis/coffer.dev/v1/operator/rotations"))["items"]?.arrayValue ?? []
    }
    /// Of a namespace, or of what belongs to none: `cluster`, `plain`.
    package func rotate(namespace: String? = nil, domain: String? = nil, level: String) async throws -> JSONValue {
        var request = APIRequest(.post, "/apis/coffer.dev/v1/operator/rotate")
        var body: JSONValue = ["level": .string(level)]
        body["namespace"] = namespace.map { .string($0) }
        body["domain"] = domain.map { .string($0) }
        request.body = body
        return try await transport.send(request)
    }

    private static func resource(_ type: ResourceType, _ json: JSONValue) throws -> Resource {
        guard var tree = json.objectValue else { throw ConnectionFailure("the server did not answer with a \(type.kind)") }
        // Items of a list come without.
        tree["apiVersion"] = .string(type.apiVersion)
        tree["kind"] = .string(type.kind)
        return Resource(type, tree: tree)
    }
}

/// The events of one watch. Remembers how far it has come.
package final class WatchStream {
    private let documents: DocumentStream
    package private(set) var resourceVersion: String
    init(_ documents: DocumentStream, resourceVersion: String) { self.documents = documents; self.resourceVersion = resourceVersion }

    /// `nil` at the end; throws the `Status` that the server ends it with (410 when its history is gone).
    package func next() async throws -> APIClient.WatchEvent? {
        while let document = try await documents.next() {
            let object = document["object"] ?? .null
            if document["type"]?.stringValue == "ERROR" { throw Status(object) ?? Status.internalError("the watch ended with an error") }
            let version =
                object.at("metadata", "resourceVersion")?.stringValue
                ?? object["rows"]?.arrayValue?.last?.at("object", "metadata", "resourceVersion")?.stringValue
            if let version, !version.isEmpty { resourceVersion = version }
            switch document["type"]?.stringValue {
            case "ADDED": return APIClient.WatchEvent(change: .added, object: object)
            case "MODIFIED": return APIClient.WatchEvent(change: .modified, object: object)
            case "DELETED": return APIClient.WatchEvent(change: .deleted, object: object)
            default: continue  // bookmarks, and kinds of events yet unknown
            }
        }
        return nil
    }
}
