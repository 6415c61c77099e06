import Basics
import Resources

/// The schemas of what is served, made from the same tables that check it. `kubectl` reads version 3 to know that the server checks
/// fields itself, and for `explain`; version 2 is for older ones, which without definitions leave the checking to the server.
enum OpenAPI {
    static let protobufMediaType = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    /// As Kubernetes answers it: an `@` is asked for, but may not stand in a content type, and kubectl refuses it there.
    static let protobufContentType = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    private static let info: JSONValue = ["title": "Coffer", "version": "v1"]

    /// What version 2 says: that the kinds' patches know these parameters, for which older clients look before `--dry-run=server` and `diff`.
    /// No definitions: a client that has some checks fields by them itself, and Pods have more than are listed here.
    private static let patchParameters = ["dryRun", "fieldManager", "fieldValidation", "force", "pretty"]
    private static func objectPath(_ type: ResourceType) -> String {
        "/api/v1/" + (type.isNamespaced ? "namespaces/{namespace}/" : "") + type.plural + "/{name}"
    }

    static let version2: JSONValue = {
        var paths = JSONObject()
        for type in ResourceType.all {
            paths[objectPath(type)] = [
                "patch": [
                    "operationId": .string("patchCoreV1\(type.kind)"), "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": groupVersionKind(type),
                    "parameters": .array(patchParameters.map { ["name": .string($0), "in": "query", "type": "string", "uniqueItems": true] }),
                    "responses": ["200": ["description": "OK"]],
                ]
            ]
        }
        return ["swagger": "2.0", "info": info, "paths": .object(paths), "definitions": [:]]
    }()

    /// The same document in gnostic's `OpenAPIv2.proto`:
    ///
    ///     Document  1 swagger, 2 info {1 title, 2 version}, 8 paths {2 path {1 name, 2 item {8 patch}}}
    ///     Operation 5 operation_id, 8 parameters {1 parameter {2 non_body_parameter {3 query {2 in, 4 name}}}}, 13 vendor_extension {1 name, 2 value {2 yaml}}
    static let version2Protobuf: Bytes = {
        func field(_ number: UInt8, _ content: Bytes) -> Bytes {
            var count = content.count, length = Bytes()
            while count >= 0x80 { length.append(UInt8(count & 0x7f | 0x80)); count >>= 7 }
            return [number << 3 | 2] + length + [UInt8(count)] + content
        }
        func text(_ number: UInt8, _ text: String) -> Bytes { field(number, Bytes(text.utf8)) }
        let parameters = patchParameters.flatMap { field(8, field(1, field(2, field(3, text(2, "query") + text(4, $0))))) }
        let paths = ResourceType.all.flatMap { type -> Bytes in
            let kind = groupVersionKind(type).encodedString()  // JSON is YAML
            let operation = text(5, "patchCoreV1\(type.kind)") + parameters + field(13, text(1, "x-kubernetes-group-version-kind") + field(2, text(2, kind)))
            return field(2, text(1, objectPath(type)) + field(2, field(8, operation)))
        }
        return text(1, "2.0") + field(2, text(1, "Coffer") + text(2, "v1")) + field(8, paths)
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
