import Basics
import Resources

/// The schemas of what is served, made from the same tables that check it. `kubectl` reads version 3 to know that the server checks
/// fields itself, and for `explain`; version 2 is for older ones.
enum OpenAPI {
    static let protobufMediaType = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    /// As Kubernetes answers it: an `@` is asked for, but may not stand in a content type, and kubectl refuses it there.
    static let protobufContentType = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    private static let info: JSONValue = ["title": "Coffer", "version": "v1"]

    /// Version 2 says that the kinds' patches know these parameters, for which older clients look before `--dry-run=server` and `diff`.
    ///
    /// Where Namespaces take `fieldValidation`, a client takes a kind that it does not find for a custom resource, and fails because there are none to list.
    private static func patchParameters(_ type: ResourceType) -> [String] {
        ["dryRun", "fieldManager"] + (type == .namespaces ? [] : ["fieldValidation"]) + ["pretty"]
    }
    private static func objectPath(_ type: ResourceType) -> String {
        "/api/v1/" + (type.isNamespaced ? "namespaces/{namespace}/" : "") + type.plural + "/{name}"
    }
    /// An older client checks fields by these itself, so only kinds are defined here whose every field is listed.
    private static let defined: [ResourceType] = [.namespaces, .secrets]

    static let version2: JSONValue = {
        var paths = JSONObject(), definitions = JSONObject()
        for type in ResourceType.all {
            paths[objectPath(type)] = [
                "patch": [
                    "operationId": .string("patchCoreV1\(type.kind)"), "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": groupVersionKind(type),
                    "parameters": .array(patchParameters(type).map { ["name": .string($0), "in": "query", "type": "string", "uniqueItems": true] }),
                    "responses": ["200": ["description": "OK"]],
                ]
            ]
        }
        for type in defined { definitions[name(type)] = document(type) }
        return ["swagger": "2.0", "info": info, "paths": .object(paths), "definitions": .object(definitions)]
    }()

    /// The same document in gnostic's `OpenAPIv2.proto`:
    ///
    ///     Document  1 swagger, 2 info {1 title, 2 version}, 8 paths {2 path {1 name, 2 item {8 patch}}}, 9 definitions {1 named {1 name, 2 schema}}
    ///     Operation 5 operation_id, 8 parameters {1 parameter {2 non_body_parameter {3 query {2 in, 4 name}}}}, 13 vendor_extension
    ///     Schema    2 format, 4 description, 21 additional_properties {1 schema}, 22 type {1 value}, 23 items {1 schema},
    ///               25 properties {1 named {1 name, 2 schema}}, 31 vendor_extension {1 name, 2 value {2 yaml}}
    static let version2Protobuf: Bytes = {
        let paths = ResourceType.all.flatMap { type -> Bytes in
            let parameters = patchParameters(type).flatMap { field(8, field(1, field(2, field(3, text(2, "query") + text(4, $0))))) }
            let operation = text(5, "patchCoreV1\(type.kind)") + parameters + field(13, vendorExtension("x-kubernetes-group-version-kind", groupVersionKind(type)))
            return field(2, text(1, objectPath(type)) + field(2, field(8, operation)))
        }
        let definitions = defined.flatMap { field(1, text(1, name($0)) + field(2, protobuf(schema: document($0)))) }
        return text(1, "2.0") + field(2, text(1, "Coffer") + text(2, "v1")) + field(8, paths) + field(9, definitions)
    }()

    private static func protobuf(schema: JSONValue) -> Bytes {
        (schema.objectValue?.members ?? []).flatMap { member -> Bytes in
            switch member.key {
            case "format": text(2, member.value.stringValue ?? "")
            case "description": text(4, member.value.stringValue ?? "")
            case "additionalProperties": field(21, field(1, protobuf(schema: member.value)))
            case "type": field(22, text(1, member.value.stringValue ?? ""))
            case "items": field(23, field(1, protobuf(schema: member.value)))
            case "properties":
                field(25, (member.value.objectValue?.members ?? []).flatMap { field(1, text(1, $0.key) + field(2, protobuf(schema: $0.value))) })
            default: field(31, vendorExtension(member.key, member.value))
            }
        }
    }
    /// JSON is YAML.
    private static func vendorExtension(_ name: String, _ value: JSONValue) -> Bytes { text(1, name) + field(2, text(2, value.encodedString())) }
    private static func text(_ number: UInt64, _ text: String) -> Bytes { field(number, Bytes(text.utf8)) }
    private static func field(_ number: UInt64, _ content: Bytes) -> Bytes {
        func varint(_ value: UInt64) -> Bytes {
            var rest = value, bytes = Bytes()
            while rest >= 0x80 { bytes.append(UInt8(rest & 0x7f | 0x80)); rest >>= 7 }
            return bytes + [UInt8(rest)]
        }
        return varint(number << 3 | 2) + varint(UInt64(content.count)) + content
    }

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
