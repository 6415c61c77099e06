import APIServer
import Audit
import Barrier
import Basics
import Certificates
import Foundation
import NIOHTTP1
import Resources
import Synchronization
import Testing

@Suite struct SecretEndpointTests {
    @Test("a secret is created from JSON or YAML, its texts folded into data, and told back whole")
    func create() async throws {
        let server = try await TestServer()
        let created = try await server.call(.POST, secretsPath, secretJSON("web", "hunter2"))
        #expect(created.code == 201)
        #expect(created.json.at("data", "password")?.stringValue == nil)
        #expect(created.text.contains(#""password":"aHVudGVyMg==""#))
        #expect(!created.text.contains("stringData"))
        #expect(created.json["type"]?.stringValue == "Opaque")
        #expect(created.json.at("metadata", "uid")?.stringValue?.count == 36)
        #expect(created.json.at("metadata", "namespace")?.stringValue == "default")
        #expect(created.json.at("metadata", "labels") == nil)
        #expect(Timestamp(created.json.at("metadata", "creationTimestamp")?.stringValue ?? "") != nil)
        let yaml = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: two\nstringData:\n  password: |\n    line\n"
        #expect(try await server.call(.POST, secretsPath, contentType: "application/yaml", text: yaml).code == 201)
        let read = try await server.call(.GET, secretsPath + "/two")
        #expect(read.text.contains("bGluZQo="))
        #expect(try await server.call(.POST, secretsPath, secretJSON("web")).reason == "AlreadyExists")
        try await server.stop()
    }

    @Test("a generated name keeps its stem and is new each time")
    func generateName() async throws {
        let server = try await TestServer()
        var names: Set<String> = []
        for _ in 0..<5 {
            var body = secretJSON("x")
            body["metadata"] = ["generateName": "key-"]
            let created = try await server.call(.POST, secretsPath, body)
            let name = created.json.at("metadata", "name")?.stringValue ?? ""
            #expect(created.code == 201 && name.hasPrefix("key-") && name.count == 9)
            names.insert(name)
        }
        #expect(names.count == 5)
        try await server.stop()
    }

    @Test("a dry run answers as if, and stores nothing")
    func dryRun() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath + "?dryRun=All", secretJSON("web")).code == 201)
        #expect(try await server.call(.GET, secretsPath + "/web").code == 404)
        let created = try await server.call(.POST, secretsPath, secretJSON("web"))
        #expect(try await server.call(.POST, secretsPath + "?dryRun=All", secretJSON("web")).code == 409)
        let patch: JSONValue = ["metadata": ["labels": ["a": "b"]]]
        let patched = try await server.call(.PATCH, secretsPath + "/web?dryRun=All", patch, contentType: "application/merge-patch+json")
        #expect(patched.json.at("metadata", "labels", "a")?.stringValue == "b")
        #expect(try await server.call(.DELETE, secretsPath + "/web?dryRun=All").code == 200)
        #expect(try await server.call(.GET, secretsPath + "/web").json.at("metadata", "resourceVersion") == created.json.at("metadata", "resourceVersion"))
        #expect(try await server.call(.POST, secretsPath + "?dryRun=Some", secretJSON("x")).code == 400)
        try await server.stop()
    }

    @Test("unknown fields are refused, warned of or ignored, as the client asks")
    func fieldValidation() async throws {
        let server = try await TestServer()
        var body = secretJSON("web")
        body["stringdata"] = ["a": "b"]
        let strict = try await server.call(.POST, secretsPath + "?fieldValidation=Strict", body)
        #expect(strict.code == 400 && strict.message.contains("strict decoding error: unknown field \"stringdata\""))
        let warned = try await server.call(.POST, secretsPath, body)
        #expect(warned.code == 201 && warned.headers.first(name: "Warning") == #"299 - "unknown field \"stringdata\"""#)
        #expect(!warned.text.contains("stringdata"))
        #expect(try await server.call(.POST, secretsPath + "?fieldValidation=Ignore", ["metadata": ["name": "y"], "foo": 1]).headers.first(name: "Warning") == nil)
        try await server.stop()
    }

    @Test("what is wrong is said in Kubernetes' words, and nothing is stored", arguments: [
        (#"{"metadata":{"name":"x"},"data":{"a":"%%%"}}"#, 400, "illegal base64 data"),
        (#"{"metadata":{"name":"x"}"#, 400, "unexpected end of JSON input"),
        ("{\n  \"metadata\": {\"name\": \"x\"},\n  oops\n}", 400, "line 3"),
        (#"{"metadata":{"name":"x","name":"y"}}"#, 400, "duplicate field"),
        (#"{"metadata":{"name":"X_Y"}}"#, 422, "Secret \"X_Y\" is invalid: metadata.name: Invalid value: \"X_Y\""),
        (#"{"metadata":{"name":".."}}"#, 422, "metadata.name"),
        (#"{"metadata":{}}"#, 422, "name or generateName is required"),
        (#"{"metadata":{"name":"x"},"data":{"a/b":""}}"#, 422, "data[a/b]"),
        (#"{"metadata":{"name":"x"},"type":"kubernetes.io/tls","data":{}}"#, 422, "data[tls.crt]: Required value"),
        (#"{"metadata":{"name":"x","namespace":"other"}}"#, 400, "the namespace of the provided object does not match"),
        (#"{"metadata":{"name":"x","resourceVersion":"5"}}"#, 400, "resourceVersion should not be set"),
        (#"{"kind":"Pod","metadata":{"name":"x"}}"#, 400, "must be of type Secret"),
        (#"[]"#, 400, ""), (#""#, 400, "the body of the request is empty"), (#"{"metadata":{"name":5}}"#, 400, "cannot unmarshal number"),
    ])
    func badBodies(body: String, code: Int, message: String) async throws {
        let server = try await TestServer()
        let refused = try await server.call(.POST, secretsPath, text: body)
        #expect(refused.code == code && refused.json["kind"]?.stringValue == "Status")
        #expect(message.isEmpty || refused.message.contains(message), "\(refused.message)")
        #expect(try await server.call(.GET, secretsPath).json["items"]?.arrayValue?.isEmpty == true)
        try await server.stop()
    }

    @Test("an error never quotes a secret")
    func noEcho() async throws {
        let server = try await TestServer()
        for body in [
            #"{"metadata":{"name":"x"},"data":{"a":"topsecretvalue!"}}"#, #"{"metadata":{"name":"x"},"stringData":{"a":["topsecretvalue!"]}}"#,
            #"{"metadata":{"name":"x"},"data":{"a":"dG9wc2VjcmV0dmFsdWU"} oops "topsecretvalue!"}"#,
            #"{"metadata":{"name":"x"},"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"topsecretvalue!"}}"#,
        ] {
            let refused = try await server.call(.POST, secretsPath, text: body)
            #expect(refused.code >= 400)
            #expect(!refused.text.contains("topsecret") && !refused.text.contains("dG9wc2"))
        }
        #expect(try !String(contentsOfFile: server.auditPath, encoding: .utf8).contains("topsecret"))
        try await server.stop()
    }

    @Test("a body of more than 3 MiB is refused, and data of more than 1 MiB")
    func sizes() async throws {
        let server = try await TestServer()
        let large = try await server.call(.POST, secretsPath, text: String(repeating: " ", count: 3 << 20) + "{}")
        #expect(large.code == 413 && large.reason == "RequestEntityTooLarge")
        let exact = try await server.call(.POST, secretsPath, secretJSON("exact", String(repeating: "x", count: 1 << 20)))
        #expect(exact.code == 201)
        let above = try await server.call(.POST, secretsPath, secretJSON("above", String(repeating: "x", count: 1 << 20 + 1)))
        #expect(above.code == 422 && above.message.contains("Too long"))
        try await server.stop()
    }

    @Test("media types that are not spoken are refused by name")
    func mediaTypes() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("x"), contentType: "text/plain").code == 415)
        #expect(try await server.call(.GET, secretsPath, accept: "application/vnd.kubernetes.protobuf").code == 406)
        #expect(try await server.call(.GET, secretsPath, accept: "application/vnd.kubernetes.protobuf,application/json").code == 200)
        #expect(try await server.call(.PATCH, secretsPath + "/x", secretJSON("x"), contentType: "application/apply-patch+yaml").code == 415)
        #expect(try await server.call(.POST, secretsPath, contentType: "application/vnd.kubernetes.protobuf", text: "k8s\u{0}\u{a}\u{ff}").code == 400)
        try await server.stop()
    }

    @Test("paths that name nothing, and methods that do not fit, are said to", arguments: [
        ("GET", "/api/v1/configmaps", 404), ("GET", "/api/v2/secrets", 404), ("GET", "/nowhere", 404), ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", "/api/v1/secrets/x", 404), ("POST", "/api/v1/secrets", 405), ("PUT", secretsPath, 405), ("GET", secretsPath + "/x/status", 404),
        ("POST", secretsPath + "/x", 405), ("DELETE", "/api/v1/namespaces", 405), ("GET", secretsPath + "/%2e%2e", 400), ("GET", secretsPath + "/a%2Fb", 404),
        ("GET", secretsPath + "?limit=x", 400), ("GET", secretsPath + "?labelSelector=a%20in%20(", 400),
        ("GET", secretsPath + "?fieldSelector=data.x=1", 400), ("GET", secretsPath + "?continue=zz", 400), ("GET", podsPath + "/x/binding", 405),
        ("GET", "/apis/coffer.dev/v1/nowhere", 404),
    ])
    func paths(method: String, path: String, code: Int) async throws {
        let server = try await TestServer()
        let reply = try await server.call(.init(rawValue: method), path, method == "GET" ? nil : secretJSON("x"))
        #expect(reply.code == code && reply.json["kind"]?.stringValue == "Status", "\(reply.text)")
        try await server.stop()
    }

    @Test("an update needs the version it was made from, if it names one, and keeps what a client cannot change")
    func update() async throws {
        let server = try await TestServer()
        let created = try await server.call(.POST, secretsPath, secretJSON("web", "one"))
        var body = secretJSON("web", "two")
        body[["metadata", "resourceVersion"]] = "1"
        #expect(try await server.call(.PUT, secretsPath + "/web", body).reason == "Conflict")
        body[["metadata", "resourceVersion"]] = created.json.at("metadata", "resourceVersion")
        body[["metadata", "creationTimestamp"]] = "2001-01-01T00:00:00Z"
        let updated = try await server.call(.PUT, secretsPath + "/web", body)
        #expect(updated.code == 200 && updated.text.contains("dHdv"))
        #expect(updated.json.at("metadata", "uid") == created.json.at("metadata", "uid"))
        #expect(updated.json.at("metadata", "creationTimestamp") == created.json.at("metadata", "creationTimestamp"))
        #expect(try await server.call(.PUT, secretsPath + "/web", secretJSON("web", "three")).code == 200)
        #expect(try await server.call(.PUT, secretsPath + "/web", secretJSON("other")).code == 400)
        #expect(try await server.call(.PUT, secretsPath + "/missing", secretJSON("missing")).code == 404)
        body[["metadata", "resourceVersion"]] = nil
        body[["metadata", "uid"]] = "5e0b1b5a-0000-4000-8000-000000000000"
        #expect(try await server.call(.PUT, secretsPath + "/web", body).reason == "Conflict")
        body[["metadata", "uid"]] = nil
        body["type"] = "kubernetes.io/basic-auth"
        #expect(try await server.call(.PUT, secretsPath + "/web", body).code == 422)
        try await server.stop()
    }

    @Test("an immutable secret changes in its labels only")
    func immutable() async throws {
        let server = try await TestServer()
        var body = secretJSON("web", "one")
        body["immutable"] = true
        #expect(try await server.call(.POST, secretsPath, body).code == 201)
        let merge = "application/merge-patch+json"
        #expect(try await server.call(.PATCH, secretsPath + "/web", ["stringData": ["password": "two"]], contentType: merge).code == 422)
        #expect(try await server.call(.PATCH, secretsPath + "/web", ["immutable": false], contentType: merge).code == 422)
        #expect(try await server.call(.PATCH, secretsPath + "/web", ["metadata": ["labels": ["a": "b"]]], contentType: merge).code == 200)
        #expect(try await server.call(.GET, secretsPath + "/web").text.contains("b25l"))
        try await server.stop()
    }

    @Test("patches come in three forms")
    func patches() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("web", "one", labels: ["a": "1"])).code == 201)
        let path = secretsPath + "/web"
        let json = try await server.call(
            .PATCH, path, contentType: "application/json-patch+json",
            text: #"[{"op":"test","path":"/metadata/labels/a","value":"1"},{"op":"add","path":"/data/user","value":"YWRtaW4="}]"#)
        #expect(json.code == 200 && json.text.contains("YWRtaW4="))
        let failed = try await server.call(
            .PATCH, path, contentType: "application/json-patch+json", text: #"[{"op":"test","path":"/metadata/labels/a","value":"2"}]"#)
        #expect(failed.code == 422)
        let merge = try await server.call(.PATCH, path, ["data": ["user": nil], "metadata": ["labels": ["a": nil, "b": "2"]]], contentType: "application/merge-patch+json")
        #expect(merge.json.at("metadata", "labels") == ["b": "2"] && !merge.text.contains("YWRtaW4="))
        let bare = try await server.call(.PATCH, path, ["metadata": ["labels": ["b": nil]]], contentType: "application/merge-patch+json")
        #expect(bare.code == 200 && bare.json.at("metadata", "labels") == nil, "what is empty is left out")
        let strategic = try await server.call(
            .PATCH, path, ["stringData": ["token": "t"], "metadata": ["annotations": ["note": "n"]]], contentType: "application/strategic-merge-patch+json")
        #expect(strategic.code == 200 && strategic.text.contains("dA==") && strategic.text.contains("b25l"))
        #expect(try await server.call(.PATCH, path, ["metadata": ["resourceVersion": "1"]], contentType: "application/merge-patch+json").code == 409)
        #expect(try await server.call(.PATCH, path, ["metadata": ["name": "other"]], contentType: "application/merge-patch+json").code == 400)
        #expect(try await server.call(.PATCH, secretsPath + "/missing", [:], contentType: "application/merge-patch+json").code == 404)
        try await server.stop()
    }

    @Test("a deletion heeds its preconditions; a collection goes by its selector")
    func deletion() async throws {
        let server = try await TestServer()
        let created = try await server.call(.POST, secretsPath, secretJSON("web"))
        let uid = try #require(created.json.at("metadata", "uid")?.stringValue)
        let wrong: JSONValue = ["kind": "DeleteOptions", "apiVersion": "v1", "preconditions": ["uid": "other"]]
        #expect(try await server.call(.DELETE, secretsPath + "/web", wrong).reason == "Conflict")
        let deleted = try await server.call(.DELETE, secretsPath + "/web", ["preconditions": ["uid": .string(uid)]])
        #expect(deleted.code == 200 && deleted.json.at("details", "uid")?.stringValue == uid && deleted.json["status"]?.stringValue == "Success")
        for (name, tier) in [("a", "front"), ("b", "back"), ("c", "front")] {
            #expect(try await server.call(.POST, secretsPath, secretJSON(name, labels: ["tier": tier])).code == 201)
        }
        let collection = try await server.call(.DELETE, secretsPath + "?labelSelector=tier%3Dfront")
        #expect(collection.code == 200 && collection.json["items"] == nil)
        let left = try await server.call(.GET, secretsPath).json["items"]?.arrayValue?.map { $0.at("metadata", "name")?.stringValue }
        #expect(left == ["b"])
        try await server.stop()
    }

    @Test("an object with finalizers waits for the last one to be taken off")
    func finalizers() async throws {
        let server = try await TestServer()
        var body = secretJSON("held")
        body[["metadata", "finalizers"]] = ["example.com/hold"]
        #expect(try await server.call(.POST, secretsPath, body).code == 201)
        #expect(try await server.call(.DELETE, secretsPath + "/held").json.at("metadata", "deletionTimestamp") != nil)
        #expect(try await server.call(.GET, secretsPath + "/held").code == 200)
        let freed = try await server.call(.PATCH, secretsPath + "/held", ["metadata": ["finalizers": nil]], contentType: "application/merge-patch+json")
        #expect(freed.code == 200)
        #expect(try await server.call(.GET, secretsPath + "/held").code == 404)
        try await server.stop()
    }

    @Test("lists come in pages, by label and field, as tables without values, and as metadata")
    func lists() async throws {
        let server = try await TestServer()
        for number in 0..<5 { #expect(try await server.call(.POST, secretsPath, secretJSON("s\(number)", labels: ["odd": "\(number % 2)"])).code == 201) }
        func names(_ reply: Reply) -> [String] { (reply.json["items"]?.arrayValue ?? []).compactMap { $0.at("metadata", "name")?.stringValue } }
        let first = try await server.call(.GET, secretsPath + "?limit=2")
        #expect(names(first) == ["s0", "s1"] && first.json.at("metadata", "remainingItemCount")?.integerValue == 3)
        let token = try #require(first.json.at("metadata", "continue")?.stringValue)
        #expect(names(try await server.call(.GET, secretsPath + "?limit=9&continue=\(token)")) == ["s2", "s3", "s4"])
        #expect(names(try await server.call(.GET, secretsPath + "?labelSelector=odd%3D1")) == ["s1", "s3"])
        #expect(names(try await server.call(.GET, "/api/v1/secrets?fieldSelector=metadata.name%3Ds2,type%3DOpaque")) == ["s2"])
        let table = try await server.call(.GET, secretsPath, accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        #expect(table.json["kind"]?.stringValue == "Table" && table.json["rows"]?.arrayValue?.count == 5)
        #expect(!table.text.contains("aHVudGVyMi1odW50ZXIy"))
        let metadata = try await server.call(.GET, secretsPath, accept: "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        #expect(metadata.json["kind"]?.stringValue == "PartialObjectMetadataList" && names(metadata).count == 5)
        #expect(!metadata.text.contains("aHVudGVyMi1odW50ZXIy"))
        let revision = try #require(first.json.at("metadata", "resourceVersion")?.stringValue)
        #expect(try await server.call(.DELETE, secretsPath + "/s0").code == 200)
        #expect(names(try await server.call(.GET, secretsPath + "?resourceVersion=\(revision)&resourceVersionMatch=Exact")).count == 5)
        #expect(names(try await server.call(.GET, secretsPath + "?resourceVersion=\(revision)")).count == 4)
        #expect(try await server.call(.GET, secretsPath + "?resourceVersion=99999").code == 504)
        server.keyValue.compact(try await server.keyValue.currentRevision())
        #expect(try await server.call(.GET, secretsPath + "?limit=9&continue=\(token)").reason == "Expired")
        try await server.stop()
    }

    @Test("one secret that cannot be opened breaks no list, is named in it, is not overwritten, and can be deleted")
    func unreadable() async throws {
        let server = try await TestServer()
        for name in ["good", "lost"] { #expect(try await server.call(.POST, secretsPath, secretJSON(name)).code == 201) }
        server.keyValue.makeUnreadable("objects/secrets/default/lost", reason: "its data key is gone")
        let items = try await server.call(.GET, secretsPath).json["items"]?.arrayValue ?? []
        #expect(items.count == 2)
        #expect(items.last?.at("metadata", "annotations", "coffer.dev/unreadable")?.stringValue == "its data key is gone")
        #expect(try await server.call(.GET, secretsPath + "/lost").code == 500)
        #expect(try await server.call(.PUT, secretsPath + "/lost", secretJSON("lost")).code == 500)
        #expect(try await server.call(.DELETE, secretsPath + "/lost").code == 200)
        #expect(try await server.call(.GET, secretsPath).json["items"]?.arrayValue?.count == 1)
        try await server.stop()
    }

    @Test("namespaces are labelled with their name, go with what is in them, and nothing is made where none is")
    func namespaces() async throws {
        let server = try await TestServer()
        let created = try await server.call(.POST, "/api/v1/namespaces", ["metadata": ["name": "prod"]])
        #expect(created.json.at("metadata", "labels", "kubernetes.io/metadata.name")?.stringValue == "prod")
        #expect(created.json.at("status", "phase")?.stringValue == "Active")
        let path = "/api/v1/namespaces/prod/secrets"
        #expect(try await server.call(.POST, path, secretJSON("web")).code == 201)
        #expect(try await server.call(.POST, "/api/v1/namespaces/nowhere/secrets", secretJSON("web")).message == "namespaces \"nowhere\" not found")
        let deleted = try await server.call(.DELETE, "/api/v1/namespaces/prod")
        #expect(deleted.json.at("status", "phase")?.stringValue == "Terminating")
        try await eventually("the namespace is gone") { try await server.call(.GET, "/api/v1/namespaces/prod").code == 404 }
        #expect(try await server.call(.GET, "/api/v1/secrets").json["items"]?.arrayValue?.isEmpty == true)
        try await server.stop()
    }

    @Test("a sealed store is said to be one")
    func sealed() async throws {
        let server = try await TestServer()
        server.keyValue.failWrites(.sealed)
        let refused = try await server.call(.POST, secretsPath, secretJSON("web"))
        #expect(refused.code == 503 && refused.message == "the store is sealed")
        try await server.stop()
    }
}

@Suite struct DiscoveryTests {
    @Test("the server says what it serves")
    func documents() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.GET, "/api").json["versions"]?.arrayValue?.first?.stringValue == "v1")
        let resources = try await server.call(.GET, "/api/v1").json["resources"]?.arrayValue ?? []
        let names = Set(resources.compactMap { $0["name"]?.stringValue })
        #expect(names.isSuperset(of: ["secrets", "pods", "pods/status", "pods/binding", "nodes", "namespaces"]))
        #expect(try await server.call(.GET, "/apis").json.at("groups")?.arrayValue?.first?["name"]?.stringValue == "coffer.dev")
        #expect(try await server.call(.GET, "/apis/coffer.dev/v1").json["resources"]?.arrayValue?.isEmpty == false)
        #expect(try await server.call(.GET, "/version").json["major"]?.stringValue == "1")
        let openAPI = try await server.call(.GET, "/openapi/v3/api/v1").json
        let secret = openAPI.at("components", "schemas", "io.k8s.api.core.v1.Secret", "properties")
        #expect(secret?.at("data", "additionalProperties", "format")?.stringValue == "byte")
        #expect(secret?.at("stringData", "description")?.stringValue?.isEmpty == false)
        for group in ["authorization.k8s.io", "authentication.k8s.io", "coffer.dev"] {
            #expect(try await server.call(.GET, "/apis/\(group)").json.at("preferredVersion", "groupVersion")?.stringValue == group + "/v1")
            #expect(try await server.call(.GET, "/apis/\(group)/v1").json["resources"]?.arrayValue?.isEmpty == false)
        }
        #expect(try await server.call(.GET, "/apis/apps/v1").code == 404)
        let version2 = try await server.call(.GET, "/openapi/v2").json
        #expect(version2["swagger"]?.stringValue == "2.0")
        let patch = version2.at("paths", "/api/v1/namespaces/{namespace}/secrets/{name}", "patch")
        #expect(patch?.at("x-kubernetes-group-version-kind", "kind")?.stringValue == "Secret")
        #expect(patch?["parameters"]?.arrayValue?.contains { $0["name"]?.stringValue == "dryRun" } == true)
        let protobuf = try await server.call(.GET, "/openapi/v2", accept: "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
        #expect(protobuf.headers.first(name: "Content-Type") == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        try await server.stop()
    }
}

@Suite struct OperationsTests {
    @Test("an administrator rotates keys, sees progress and the vault's status; nobody else does")
    func operations() async throws {
        let server = try await TestServer()
        let root = "/apis/coffer.dev/v1"
        let rotated = try await server.call(.POST, root + "/operator/rotate", ["namespace": "default", "level": "dek"])
        #expect(rotated.code == 202 && rotated.json["state"]?.stringValue == "Running" && rotated.json["remaining"]?.integerValue == 7)
        let etcd = try await server.call(.POST, root + "/operator/rotate", ["domain": "plain", "level": "kek"])
        #expect(etcd.code == 202 && etcd.json["domain"]?.stringValue == "plain")
        #expect(server.operations.asked.withLock { $0 } == ["dek of namespace/default", "kek of plain"])
        for wrong: JSONValue in [["level": "dek"], ["domain": "x", "level": "dek"], ["domain": "plain", "namespace": "default", "level": "dek"]] {
            #expect(try await server.call(.POST, root + "/operator/rotate", wrong).code == 400)
        }
        #expect(try await server.call(.POST, root + "/operator/rotate", ["namespace": "nowhere", "level": "dek"]).code == 404)
        #expect(try await server.call(.POST, root + "/operator/rotate", ["namespace": "default", "level": "x"]).code == 400)
        #expect(try await server.call(.POST, "/api/v1/namespaces", ["metadata": ["name": "stuck"]]).code == 201)
        #expect(try await server.call(.POST, root + "/operator/rotate", ["namespace": "stuck", "level": "kek"]).reason == "Conflict")
        #expect(try await server.call(.GET, root + "/operator/rotations").json["items"]?.arrayValue?.count == 1)
        let status = try await server.call(.GET, root + "/vault/status")
        #expect(status.json["sealed"]?.boolValue == false && status.json.at("slots")?.arrayValue?.first?.stringValue == "key-file")
        for identity in [CertificateIdentity.node("a"), CertificateIdentity(commonName: "jane", organizations: [])] {
            #expect(try await server.call(.GET, root + "/vault/status", as: identity).code == 403)
            #expect(try await server.call(.POST, root + "/operator/rotate", ["namespace": "default", "level": "dek"], as: identity).code == 403)
        }
        try await server.stop()
    }
}

@Suite struct AuditTests {
    @Test("each request leaves its record, with who, what and why, and no value; a change a second one, with what came of it")
    func records() async throws {
        let server = try await TestServer()
        try server.audit.flush()
        let before = try String(contentsOfFile: server.auditPath, encoding: .utf8).split(separator: "\n").count
        _ = try await server.call(.POST, secretsPath, secretJSON("web", "very-secret-value"))
        _ = try await server.call(.POST, secretsPath, secretJSON("web", "very-secret-value"))
        _ = try await server.call(.GET, secretsPath + "/web")
        _ = try await server.call(.GET, secretsPath + "/missing")
        _ = try await server.call(.GET, secretsPath, as: .node("a"))
        _ = try await server.call(.POST, secretsPath, text: "{")
        _ = try await server.call(.GET, secretsPath + "?labelSelector=%zz")
        _ = try await server.call(.GET, "/%2e%2e/secrets")
        server.clock.advance(seconds: 400 * 86_400)
        _ = try await server.call(.GET, secretsPath + "/web")
        try server.audit.flush()
        let lines = try String(contentsOfFile: server.auditPath, encoding: .utf8).split(separator: "\n").dropFirst(before)
            .map { try JSONValue(parsing: String($0), secrets: .nowhere) }
        let told = lines.map { line in
            ["who", "verb", "resource", "decision", "outcome"].map { line[$0]?.stringValue ?? "" }.joined(separator: " ")
        }
        #expect(told == [
            "coffer-admin create namespaces/default/secrets allowed admitted",
            "coffer-admin create namespaces/default/secrets allowed 201",
            "coffer-admin create namespaces/default/secrets allowed admitted",
            "coffer-admin create namespaces/default/secrets allowed 409",
            "coffer-admin get namespaces/default/secrets/web allowed ok",
            "coffer-admin get namespaces/default/secrets/missing allowed 404",
            "system:node:a list namespaces/default/secrets denied 403",
            "coffer-admin create namespaces/default/secrets allowed 400",
            "coffer-admin get \(secretsPath) denied 400",
            "coffer-admin get /%2e%2e/secrets denied 400",
            "system:anonymous get \(secretsPath)/web denied 401",
        ])
        #expect(lines.allSatisfy { $0["because"]?.stringValue?.isEmpty == false })
        #expect(try !String(contentsOfFile: server.auditPath, encoding: .utf8).contains("very-secret"))
        try await server.stop()
    }

    @Test("when the trail cannot be written, nothing is done and nothing released")
    func closed() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("web")).code == 201)
        try server.audit.close()
        #expect(try await server.call(.GET, secretsPath + "/web").code == 503)
        #expect(try await server.call(.POST, secretsPath, secretJSON("two")).code == 503)
        #expect(server.keyValue.stored("objects/secrets/default/two") == nil)
        try await server.stop()
    }
}
