import Basics
import SecretMemory
import Testing

@testable import Resources

func resource(_ type: ResourceType, _ text: String) throws -> Resource {
    var resource = try Resource.decoding(try json(text, secrets: .object), as: type)
    if type.isNamespaced && resource.namespace.isEmpty { resource.namespace = "ns" }
    return resource
}
func faults(_ type: ResourceType, _ text: String) throws -> [String] {
    do throws(Status) {
        try resourceOrThrow(type, text).validateForCreation()
        return []
    } catch {
        #expect(error.code == 422 && error.reason == .invalid)
        return (error.details?.causes ?? []).map { "\($0.field): \($0.message)" }
    }
}
private func resourceOrThrow(_ type: ResourceType, _ text: String) throws(Status) -> Resource {
    guard let resource = try? resource(type, text) else { throw .badRequest("malformed") }
    return resource
}

@Suite("validation") struct ValidationTests {
    @Test(
        "names as Kubernetes rules them",
        arguments: [
            ("a", true), ("a.b-c.d", true), ("1", true), ("", false), ("A", false), ("-a", false), ("a-", false), ("a..b", false), (".a", false),
            ("a_b", false), ("..", false),
            ("a/b", false), ("a\0b", false), ("é", false), (String(repeating: "a", count: 253), true), (String(repeating: "a", count: 254), false),
        ])
    func subdomains(_ name: String, isValid: Bool) {
        #expect(Names.errors(dns1123Subdomain: name).isEmpty == isValid)
    }

    @Test(
        "keys of a secret are file names",
        arguments: [
            ("a", true), (".dotfile", true), ("A_b-C.9", true), ("...", false), ("..a", false), (".", false), ("..", false), ("a/b", false), ("", false),
            ("a b", false), ("a\0", false),
            (String(repeating: "k", count: 253), true), (String(repeating: "k", count: 254), false),
        ])
    func secretKeys(_ key: String, isValid: Bool) {
        #expect(Names.errors(secretKey: key).isEmpty == isValid)
    }

    @Test(
        "label keys and values",
        arguments: [
            ("app", "x", true), ("example.com/app", "", true), ("/app", "x", false), ("a/b/c", "x", false), ("app", "-x", false),
            ("a", String(repeating: "v", count: 64), false), ("Ex.com/a", "x", false),
        ])
    func labels(_ key: String, _ value: String, isValid: Bool) {
        #expect((Names.errors(qualifiedName: key) + Names.errors(labelValue: value)).isEmpty == isValid)
    }

    @Test("an invalid object is answered with every fault, by field")
    func status() throws {
        let secret = try resource(
            .secrets, #"{"metadata":{"name":"Bad_Name","labels":{"a b":"c"}},"type":"kubernetes.io/tls","data":{"..":"Y2FuYXJ5","tls.crt":"Y2FuYXJ5"}}"#)
        let status = #expect(throws: Status.self) { try secret.validateForCreation() }
        #expect(status?.code == 422)
        #expect(
            status?.message.hasPrefix(
                "Secret \"Bad_Name\" is invalid: [metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of") == true)
        #expect(status?.details?.causes.map(\.field) == ["metadata.name", "metadata.labels", "data[..]", "data[tls.key]"])
        #expect(status?.json.encodedString().contains("canary") == false && status?.json.encodedString().contains("Y2FuYXJ5") == false)
    }

    @Test(
        "built-in types need their keys",
        arguments: [
            (#""type":"kubernetes.io/tls","data":{"tls.crt":"","tls.key":""}"#, []),
            (#""type":"kubernetes.io/tls""#, ["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
            (#""type":"kubernetes.io/dockercfg","data":{".dockercfg":"e30="}"#, []),
            (#""type":"kubernetes.io/dockercfg""#, ["data[.dockercfg]: Required value"]),
            (#""type":"kubernetes.io/dockerconfigjson","data":{".dockerconfigjson":"eyJhdXRocyI6e319"}"#, []),
            (
                #""type":"kubernetes.io/dockerconfigjson","data":{".dockerconfigjson":"e2NhbmFyeQ=="}"#,
                ["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": line 1, column 2: a member's name in quotes is expected"]
            ),
            (#""type":"kubernetes.io/basic-auth","data":{"username":""}"#, []),
            (#""type":"kubernetes.io/basic-auth""#, ["data[username]: Required value", "data[password]: Required value"]),
            (#""type":"kubernetes.io/ssh-auth","data":{"ssh-privatekey":"YQ=="}"#, []),
            (#""type":"kubernetes.io/ssh-auth""#, ["data[ssh-privatekey]: Required value"]),
            (#""type":"kubernetes.io/service-account-token""#, ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]),
            (#""type":"bootstrap.kubernetes.io/token","data":{"token-id":"YQ=="}"#, ["data[token-secret]: Required value"]), (#""type":"example.com/own""#, []),
            (#""data":{}"#, []),
        ] as [(String, [String])])
    func types(_ fields: String, _ expected: [String]) throws {
        #expect(try faults(.secrets, "{\"metadata\":{\"name\":\"s\"},\(fields)}") == expected)
    }

    @Test("data is bounded at 1 MiB, annotations at 256 KiB")
    func sizes() throws {
        func secret(_ count: Int) throws -> Resource {
            var secret = try resource(.secrets, #"{"metadata":{"name":"s"}}"#)
            secret["data", "k"] = .secret(try SecretValue(copying: [UInt8](repeating: 1, count: count)))
            return secret
        }
        #expect(throws: Never.self) { try secret(1_048_576).validateForCreation() }
        let status = #expect(throws: Status.self) { try secret(1_048_577).validateForCreation() }
        #expect(status?.message == "Secret \"s\" is invalid: data: Too long: must have at most 1048576 bytes")
        var annotated = try secret(1)
        annotated["metadata", "annotations", "a"] = .string(String(repeating: "x", count: 262_144))
        #expect(throws: Status.self) { try annotated.validateForCreation() }
    }

    @Test("what is immutable stays, what must be given is given")
    func updates() throws {
        func secret(_ fields: String) throws -> Resource {
            try resource(.secrets, "{\"metadata\":{\"name\":\"s\",\"uid\":\"u\",\"resourceVersion\":\"1\"},\(fields)}")
        }
        func faults(_ old: Resource, _ new: Resource) -> [String] {
            do throws(Status) { try new.validateUpdate(of: old); return [] } catch { return (error.details?.causes ?? []).map { "\($0.field): \($0.message)" } }
        }
        let old = try secret(#""type":"Opaque","immutable":true,"data":{"a":"YQ=="}"#)
        #expect(faults(old, old) == [])
        #expect(
            faults(old, try secret(#""type":"other","immutable":false,"data":{"a":"Yg=="}"#)) == [
                "type: Invalid value: \"other\": field is immutable", "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ])
        let mutable = try secret(#""data":{"a":"YQ=="}"#)
        #expect(faults(mutable, try secret(#""data":{"a":"Yg=="},"immutable":true"#)) == [])
        var renamed = mutable
        renamed.uid = "other"
        renamed.resourceVersion = ""
        #expect(faults(mutable, renamed).map { String($0.prefix { $0 != ":" }) } == ["metadata.uid", "metadata.resourceVersion"])
    }

    @Test("identity comes from the stored object")
    func identity() throws {
        let old = try resource(.secrets, #"{"metadata":{"name":"s","uid":"u","resourceVersion":"7","creationTimestamp":"2026-01-01T00:00:00Z"}}"#)
        var new = try resource(.secrets, #"{"metadata":{"name":"s","creationTimestamp":"1999-01-01T00:00:00Z","deletionTimestamp":"1999-01-01T00:00:00Z"}}"#)
        new.carryIdentity(from: old)
        #expect(new.uid == "u" && new.resourceVersion == "7" && new.creationTimestamp == old.creationTimestamp && !new.isBeingDeleted)
    }

    static func pod(volume: String, mounts: String = "[]") -> String {
        "{\"metadata\":{\"name\":\"p\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"volumeMounts\":\(mounts)}],\"volumes\":[\(volume)]}}"
    }
    @Test(
        "volumes that cannot be mounted are refused",
        arguments: [
            (#"{"name":"v","secret":{"secretName":"s","defaultMode":256,"items":[{"key":"a","path":"x/y"},{"key":"b","path":"x/z","mode":511}]}}"#, []),
            (#"{"name":"v","secret":{"secretName":"s","defaultMode":512}}"#, ["spec.volumes[0].secret.defaultMode"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"b","mode":-1}]}}"#, ["spec.volumes[0].secret.items[0].mode"]),
            (#"{"name":"v","secret":{}}"#, ["spec.volumes[0].secret.secretName"]),
            (#"{"name":"v","secret":{"secretName":"../s"}}"#, ["spec.volumes[0].secret.secretName"]),
            (#"{"name":"v"}"#, ["spec.volumes[0]"]), (#"{"secret":{"secretName":"s"}}"#, ["spec.volumes[0].name"]),
            (#"{"name":"V","emptyDir":{}}"#, ["spec.volumes[0].name"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"/x"}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"x/../y"}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"..data"}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"."}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"x//y"}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"x\ny"}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"x\u0000"}]}}"#, ["spec.volumes[0].secret.items[0].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"x"},{"key":"b","path":"x"}]}}"#, ["spec.volumes[0].secret.items[1].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"a"},{"key":"b","path":"a/b"}]}}"#, ["spec.volumes[0].secret.items[1].path"]),
            (#"{"name":"v","secret":{"secretName":"s","items":[{"key":"a","path":"a/b"},{"key":"b","path":"a"}]}}"#, ["spec.volumes[0].secret.items[1].path"]),
            (#"{"name":"v","emptyDir":{},"secret":{"secretName":"s"}}"#, ["spec.volumes[0].secret"]),
            (#"{"name":"v","emptyDir":{}},{"name":"v","emptyDir":{}}"#, ["spec.volumes[1].name"]),
            (#"{"name":"v","projected":{"sources":[{"configMap":{"name":"c"}},{"secret":{"name":"s"}}]}}"#, []),
            (
                #"{"name":"v","projected":{"sources":[{"secret":{"name":"s","items":[{"key":"a","path":"a"}]}},{"secret":{"name":"t","#
                    + #""items":[{"key":"b","path":"a/b"}]}}]}}"#,
                ["spec.volumes[0].projected.sources[1].secret.items[0].path"]
            ),
        ] as [(String, [String])])
    func volumes(_ volume: String, _ expected: [String]) throws {
        #expect(try faults(.pods, Self.pod(volume: volume)).map { String($0[..<($0.firstRange(of: ": ")?.lowerBound ?? $0.endIndex)]) } == expected)
    }

    @Test("mounts name a volume, containers a name and an image; references are checked")
    func containers() throws {
        #expect(try faults(.pods, #"{"metadata":{"name":"p"},"spec":{}}"#) == ["spec.containers: Required value"])
        #expect(
            try faults(.pods, Self.pod(volume: #"{"name":"v","emptyDir":{}}"#, mounts: #"[{"name":"w","mountPath":"/a"},{"name":"v","mountPath":"/a"}]"#)) == [
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            ])
        let references =
            #"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"S","#
                + #""key":".."}}}],"envFrom":[{"secretRef":{}}]}]}}"#
        #expect(
            try faults(.pods, references).map { String($0[..<($0.firstRange(of: ": ")?.lowerBound ?? $0.endIndex)]) } == [
                "spec.containers[0].image", "spec.containers[0].env[0].valueFrom.secretKeyRef.name", "spec.containers[0].env[0].valueFrom.secretKeyRef.key",
                "spec.containers[0].envFrom[0].secretRef.name",
            ])
    }

    @Test("a pod's spec does not change, but for images")
    func podUpdates() throws {
        let old = try resource(
            .pods, Self.pod(volume: #"{"name":"v","emptyDir":{}}"#).replacing("\"name\":\"p\"", with: #""name":"p","uid":"u","resourceVersion":"1""#))
        var image = old
        image["spec", "containers"] = [["name": "c", "image": "other", "volumeMounts": []]]
        #expect(throws: Never.self) { try image.validateUpdate(of: old) }
        var moved = old
        moved["spec", "nodeName"] = "b"
        #expect(throws: Status.self) { try moved.validateUpdate(of: old) }
    }

    @Test("a pod's references are what it is entitled to, each once")
    func references() throws {
        let pod = Pod(
            try resource(
                .pods,
                #"{"metadata":{"name":"p"},"spec":{"imagePullSecrets":[{"name":"pull"}],"initContainers":[{"name":"i","env":[{"name":"A","#
                    + #""valueFrom":{"secretKeyRef":{"name":"env","key":"k"}}}]}],"containers":[{"name":"c","#
                        + #""envFrom":[{"secretRef":{"name":"env"}},{"configMapRef":{"name":"no"}}]}],"volumes":[{"name":"v","#
                            + #""secret":{"secretName":"vol"}},{"name":"w","projected":{"sources":[{"secret":{"name":"proj"}},{"configMap":{"name":"c"}}]}}]}}"#
            ))
        #expect(pod.referencedSecrets == ["env", "proj", "pull", "vol"])
        #expect(pod.volumes[1].source == .projected([Pod.SecretSource(secretName: "proj")], unsupported: ["configMap"]))
    }

    @Test("wrong types and wrong kinds are a bad request that names the field")
    func decoding() {
        func message(_ text: String) -> String? { #expect(throws: Status.self) { try resource(.secrets, text) }?.message }
        #expect(message(#"{"metadata":{"labels":{"a":1}}}"#)?.hasSuffix("json: cannot unmarshal number into field metadata.labels.a of type string") == true)
        #expect(message(#"{"kind":"Pod"}"#)?.contains("must be of type Secret") == true)
        #expect(message("[]")?.contains("cannot unmarshal array") == true)
        #expect(message(#"{"data":"c2VjcmV0"}"#)?.contains("data of type object") == true)
    }

    @Test("unknown fields of a Secret are dropped and named, a pod's are kept")
    func unknown() throws {
        var unknown: [String] = []
        let secret = try Resource.decoding(try json(#"{"stringdata":{"a":"b"},"metadata":{"name":"s","x":1}}"#), as: .secrets, unknown: &unknown)
        #expect(unknown == ["stringdata", "metadata.x"] && secret.tree["stringdata"] == nil)
        let pod = try Resource.decoding(try json(#"{"spec":{"dnsConfig":{"a":[1]},"x":null}}"#), as: .pods, unknown: &unknown)
        #expect(pod["spec", "dnsConfig"] == ["a": [1]] && pod.tree["spec"]?["x"] == nil)
    }

    @Test("stringData becomes data and wins")
    func stringData() throws {
        var secret = Secret(try resource(.secrets, #"{"metadata":{"name":"s"},"data":{"a":"YQ==","b":"Yg=="},"stringData":{"a":"z"}}"#))
        secret.normalize()
        #expect(secret.type == "Opaque" && text(of: secret["a"]) == "z" && text(of: secret["b"]) == "b" && secret.resource.tree["stringData"] == nil)
    }
}

@Suite("selectors") struct SelectorTests {
    @Test(
        "label selectors",
        arguments: [
            ("", true), ("app=web", true), ("app==web,tier!=db", true), ("app!=web", false), ("app in (web,api)", true), ("app notin (web)", false),
            ("other notin (x)", true),
            ("other!=x", true), ("app", true), ("!app", false), ("!other", true), ("other", false), (" app = web , tier in ( front ) ", true), ("n>3", true),
            ("n<3", false), ("empty=", true),
            ("other in ()", false),
        ])
    func labels(_ selector: String, matches: Bool) throws {
        #expect(try LabelSelector(parsing: selector).matches(["app": "web", "tier": "front", "n": "5", "empty": ""]) == matches)
    }
    @Test("malformed label selectors are refused", arguments: ["a=b=c", "a in b", "a in (b", "=x", "a b", "!", "a>b", "a=b,", "-a=b", "a=b c"])
    func malformedLabels(_ selector: String) {
        let status = #expect(throws: Status.self) { try LabelSelector(parsing: selector) }
        #expect(status?.code == 400)
    }
    @Test(
        "field selectors",
        arguments: [
            ("", true), ("metadata.name=p", true), ("metadata.name!=p", false), ("spec.nodeName=n,status.phase==Running", true), ("spec.nodeName=", false),
            ("metadata.namespace=ns", true),
            ("spec.hostNetwork=false", true),
        ])
    func fields(_ selector: String, matches: Bool) throws {
        let pod = try resource(.pods, #"{"metadata":{"name":"p"},"spec":{"nodeName":"n"},"status":{"phase":"Running"}}"#)
        #expect(try FieldSelector(parsing: selector, for: .pods).matches(pod) == matches)
    }
    @Test("unknown fields are refused", arguments: ["data.a=b", "spec.nodeName=x", "metadata.name", "=x", "type=a\\b"])
    func malformedFields(_ selector: String) {
        #expect(throws: Status.self) { try FieldSelector(parsing: selector, for: .secrets) }
    }
    @Test("an exact value can be had, for narrowing")
    func exact() throws {
        #expect(try FieldSelector(parsing: "spec.nodeName=n", for: .pods).exactValue(of: "spec.nodeName") == "n")
        #expect(try FieldSelector(parsing: "spec.nodeName!=n", for: .pods).exactValue(of: "spec.nodeName") == nil)
    }
}

@Suite("answers") struct AnswerTests {
    @Test("errors are worded as Kubernetes words them")
    func words() {
        #expect(Status.notFound(.secrets, "x").message == "secrets \"x\" not found")
        #expect(Status.alreadyExists(.secrets, "x").message == "secrets \"x\" already exists")
        #expect(
            Status.modified(.secrets, "x").message
                == "Operation cannot be fulfilled on secrets \"x\": the object has been modified; please apply your changes to the latest version and try again"
        )
        #expect(
            Status.forbidden(user: "eve", verb: "get", type: "secrets", name: "x", namespace: "ns").message
                == "secrets \"x\" is forbidden: User \"eve\" cannot get resource \"secrets\" in API group \"\" in the namespace \"ns\"")
        #expect(Status.expired(requested: 5, oldest: 9).message == "too old resource version: 5 (9)")
    }
    @Test("a Status comes back from its JSON")
    func roundTrip() throws {
        let status = Status.invalid(.secrets, "x", [.required("data[a]"), .invalid("metadata.name", "X", "no")])
        #expect(Status(try json(status.json.encodedString())) == status)
        #expect(Status(["kind": "Secret"]) == nil)
    }
    @Test(
        "moments are written and read",
        arguments: [(0, "1970-01-01T00:00:00Z"), (951_827_696, "2000-02-29T12:34:56Z"), (1_795_460_580, "2026-11-23T19:03:00Z"), (-1, "1969-12-31T23:59:59Z")]
            as [(Int64, String)])
    func moments(_ seconds: Int64, _ text: String) {
        #expect(Timestamp(secondsSinceEpoch: seconds).description == text)
        #expect(Timestamp(text)?.secondsSinceEpoch == seconds)
    }
    @Test(
        "what is no moment is none",
        arguments: [
            "", "2026-11-23", "2026-13-01T00:00:00Z", "2026-11-23T19:03:00+01:00", "2026-11-23T25:03:00Z", "2026-11-23T19:03:00.Z", "x026-11-23T19:03:00Z",
        ])
    func noMoments(_ text: String) { #expect(Timestamp(text) == nil) }
    @Test(
        "ages as kubectl shows them",
        arguments: [
            (0, "0s"), (119, "119s"), (120, "2m"), (190, "3m10s"), (3_599, "59m"), (10_800, "3h"), (11_000, "3h3m"), (100_000, "27h"), (172_800, "2d"),
            (200_000, "2d7h"), (86_400 * 30, "30d"),
            (86_400 * 800, "2y70d"), (-5, "<invalid>"),
        ] as [(Int64, String)])
    func ages(_ seconds: Int64, _ text: String) { #expect(Age.text(seconds: seconds) == text) }

    @Test("tables have kubectl's columns and no values")
    func tables() throws {
        let now = try #require(Timestamp("2026-01-02T00:00:00Z"))
        let secret = try resource(
            .secrets,
            #"{"metadata":{"name":"s","creationTimestamp":"2026-01-01T00:00:00Z","#
                + #""annotations":{"kubectl.kubernetes.io/last-applied-configuration":"canary"}},"type":"Opaque","data":{"a":"Y2FuYXJ5"}}"#
        )
        let table = Table([secret], of: .secrets, now: now)
        #expect(table.columns.filter { $0.priority == 0 }.map(\.name) == ["Name", "Type", "Data", "Age"])
        #expect(table.rows[0].cells == ["s", "Opaque", 1, "24h"])
        let shown = table.json(resourceVersion: "5").encodedString(secrets: .revealed)
        #expect(!shown.contains("Y2FuYXJ5") && !shown.contains("canary") && shown.contains("PartialObjectMetadata"))
        let pod = try resource(
            .pods,
            #"{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"a"},{"name":"b"}]},"status":{"phase":"Running","#
                + #""containerStatuses":[{"ready":true,"restartCount":2}]}}"#
        )
        #expect(Table([pod], of: .pods, now: now).rows[0].cells == ["p", "1/2", "Running", "2", "<unknown>", "<none>", "n", "<none>", "<none>"])
        let node = try resource(
            .nodes,
            #"{"metadata":{"name":"n","labels":{"node-role.kubernetes.io/worker":""}},"spec":{"unschedulable":true},"#
                + #""status":{"conditions":[{"type":"Ready","status":"True"}],"nodeInfo":{"kubeletVersion":"v1"}}}"#
        )
        #expect(Array(Table([node], of: .nodes, now: now).rows[0].cells.prefix(5)) == ["n", "Ready,SchedulingDisabled", "worker", "<unknown>", "v1"])
        let namespace = try resource(.namespaces, #"{"metadata":{"name":"x","deletionTimestamp":"2026-01-01T00:00:00Z"}}"#)
        #expect(Table([namespace], of: .namespaces, now: now).rows[0].cells == ["x", "Terminating", "<unknown>"])
    }

    @Test(
        "resources are found by any of their names",
        arguments: [("po", "pods"), ("Pod", "pods"), ("secrets", "secrets"), ("ns", "namespaces"), ("pods.v1.", "pods")])
    func names(_ name: String, _ plural: String) { #expect(ResourceType.named(name)?.plural == plural) }

    @Test("a condition's transition time changes with its status only")
    func conditions() throws {
        var pod = Pod(try resource(.pods, #"{"metadata":{"name":"p"}}"#))
        let early = Timestamp(secondsSinceEpoch: 100), late = Timestamp(secondsSinceEpoch: 200)
        let type = Pod.secretsReadyCondition
        pod.set(.init(type: type, status: "False", reason: "SecretMissing", message: "a"), now: early)
        pod.set(.init(type: type, status: "False", reason: "SecretMissing", message: "b"), now: late)
        #expect(pod.resource["status", "conditions"]?.arrayValue?.first?["lastTransitionTime"] == .string(early.description))
        pod.set(.init(type: type, status: "True", reason: "Ready", message: ""), now: late)
        #expect(pod.resource["status", "conditions"]?.arrayValue?.count == 1)
        #expect(pod.resource["status", "conditions"]?.arrayValue?.first?["lastTransitionTime"] == .string(late.description))
        #expect(pod.condition(type)?.status == "True")
    }
}
