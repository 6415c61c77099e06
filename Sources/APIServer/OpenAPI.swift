import Basics
import Resources

/// The schemas of what is served, made from the same tables that check it. `kubectl` reads version 3 to know that the server checks
/// fields itself, and for `explain`; version 2 is for older ones, which without a schema leave the checking to the server.
enum OpenAPI {
    static let protobufMediaType = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    /// As Kubernetes answers it: an `@` is asked for, but may not stand in a content type, and kubectl refuses it there.
    static let protobufContentType = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    private static let info: JSONValue = ["title": "Coffer", "version": "v1"]

    static let version2: JSONValue = ["swagger": "2.0", "info": info, "paths": [:], "definitions": [:]]
    /// The same document in gnostic's `OpenAPIv2.proto`: swagger = 1, info = 2 {title = 1, version = 2}, paths = 8.
    static let version2Protobuf: Bytes = {
        func field(_ number: UInt8, _ content: Bytes) -> Bytes { [number << 3 | 2, UInt8(content.count)] + content }
        return field(1, Bytes("2.0".utf8)) + field(2, field(1, Bytes("Coffer".utf8)) + field(2, Bytes("v1".utf8))) + field(8, [])
    }()

    static let index: JSONValue = ["paths": ["api/v1": ["serverRelativeURL": "/openapi/v3/api/v1"]]]

    static let core: JSONValue = {
        var paths = JSONObject(), schemas = JSONObject()
        for type in ResourceType.all {
            let base = "/api/v1/" + (type.isNamespaced ? "namespaces/{namespace}/" : "") + type.plural
            paths[base] = .object(operations(type, ["get": "list", "post": "create", "delete": "deletecollection"]))
            paths[base + "/{name}"] = .object(operations(type, ["get": "get", "put": "put", "patch": "patch", "delete": "delete"]))
            schemas[name(type)] = document(type)
        }
        return ["openapi": "3.0.0", "info": info, "paths": .object(paths), "components": ["schemas": .object(schemas)]]
    }()

    private static func name(_ type: ResourceType) -> String { "io.k8s.api.core.v1.\(type.kind)" }
    private static func groupVersionKind(_ type: ResourceType) -> JSONValue {
        ["group": .string(type.group), "kind": .string(type.kind), "version": .string(type.version)]
    }

    private static func operations(_ type: ResourceType, _ methods: KeyValuePairs<String, String>) -> JSONObject {
        var operations = JSONObject()
        for (method, action) in methods {
            var parameters = ["pretty"]
            if method != "get" { parameters += ["dryRun"] }
            if ["post", "put", "patch"].contains(method) { parameters += ["fieldManager", "fieldValidation"] }
            operations[method] = [
                "operationId": .string("\(action)CoreV1\(type.kind)"), "x-kubernetes-action": .string(action),
                "x-kubernetes-group-version-kind": groupVersionKind(type),
                "parameters": .array(parameters.map { ["name": .string($0), "in": "query", "schema": ["type": "string"]] }),
                "responses": ["200": ["description": "OK", "content": ["application/json": ["schema": ["$ref": .string("#/components/schemas/\(name(type))")]]]]],
            ]
        }
        return operations
    }

    private static func document(_ type: ResourceType) -> JSONValue {
        var schema = self.schema(type.schema, at: type.kind)
        schema["description"] = FieldDescriptions.of[type.kind].map { .string($0) }
        schema["x-kubernetes-group-version-kind"] = [groupVersionKind(type)]
        return schema
    }

    /// `path` begins with the kind; metadata is the same in all of them.
    private static func schema(_ schema: Schema, at path: String) -> JSONValue {
        switch schema {
        case .anything: return ["x-kubernetes-preserve-unknown-fields": true]
        case .string: return ["type": "string"]
        case .integer: return ["type": "integer", "format": "int64"]
        case .boolean: return ["type": "boolean"]
        case .integerOrString: return ["x-kubernetes-int-or-string": true]
        case .map(let value): return ["type": "object", "additionalProperties": self.schema(value, at: path)]
        case .atomic(let inner): return self.schema(inner, at: path)
        case .secretData: return ["type": "object", "additionalProperties": ["type": "string", "format": "byte"]]
        case .secretText: return ["type": "object", "additionalProperties": ["type": "string"]]
        case .list(let element, let merge):
            var list: JSONValue = ["type": "array", "items": self.schema(element, at: path)]
            switch merge {
            case .atomic: list["x-kubernetes-list-type"] = "atomic"
            case .set:
                list["x-kubernetes-list-type"] = "set"
                list["x-kubernetes-patch-strategy"] = "merge"
            case .byKey(let key, let retainsKeys):
                list["x-kubernetes-patch-merge-key"] = .string(key)
                list["x-kubernetes-patch-strategy"] = .string(retainsKeys ? "merge,retainKeys" : "merge")
            }
            return list
        case .object(let members, let isOpen):
            var properties = JSONObject()
            for (key, member) in members.sorted(by: { $0.key < $1.key }) {
                let place = key == "metadata" ? "metadata" : "\(path).\(key)"
                var property = self.schema(member, at: place)
                if let description = FieldDescriptions.of[place] ?? FieldDescriptions.of[key] { property["description"] = .string(description) }
                properties[key] = property
            }
            var object: JSONValue = ["type": "object", "properties": .object(properties)]
            if isOpen { object["x-kubernetes-preserve-unknown-fields"] = true }
            return object
        }
    }
}
