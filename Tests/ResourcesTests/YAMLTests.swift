import Basics
import Foundation
import SecretMemory
import Testing

@testable import Resources

func yaml(_ text: String) throws -> JSONValue { try #require(try YAMLReader.documents(Bytes(text.utf8)).first?.value) }

@Suite("manifests") struct ManifestTests {
    @Test(
        "scalars mean what Kubernetes' reader takes them for",
        arguments: [
            ("0400", JSONValue.integer(256)), ("0o17", .integer(15)), ("0x1F", .integer(31)), ("1_000", .integer(1000)), ("-12", .integer(-12)),
            ("1.5", .double(1.5)),
            ("1e3", .double(1000)), ("yes", .bool(true)), ("off", .bool(false)), ("~", .null), ("'0400'", .string("0400")), ("\"yes\"", .string("yes")),
            ("1.2.3", .string("1.2.3")),
            ("2020-01-01", .string("2020-01-01")), ("089", .integer(89)), ("y", .string("y")), ("!!str 12", .string("12")), ("+5", .integer(5)),
            ("--5", .string("--5")), ("-", .string("-")),
            ("1e", .string("1e")), ("99999999999999999999", .double(1e20)), ("0b101", .integer(5)), (".5", .double(0.5)), (".", .string(".")),
            ("0x-1", .string("0x-1")),
        ])
    func scalars(_ text: String, _ value: JSONValue) throws {
        guard text != "-" else { return #expect(YAMLScalar.plain(text) == value) }
        #expect(try yaml("a: \(text)") == ["a": value])
    }

    @Test("flow style with comments and trailing commas, as the documentation writes it")
    func flow() throws {
        let pod = try yaml(
            "---\n{\n  # a comment\n  apiVersion: \"v1\", kind: \"Pod\",\n  metadata: { name: \"p\", },\n"
                + "  spec: { volumes: [{ name: v, secret: { secretName: s, }, },], },\n}\n"
        )
        #expect(pod.at("spec", "volumes")?.arrayValue?.first?.at("secret", "secretName") == "s")
    }

    @Test("documents, lists of objects and empty documents")
    func documents() throws {
        let text =
            "# nothing\n---\nkind: Secret\napiVersion: v1\n---\n---\napiVersion: v1\nkind: List\n"
            + "items:\n- {kind: Pod, apiVersion: v1}\n- {kind: Secret, apiVersion: v1}\n"
        #expect(try Manifest.documents(Bytes(text.utf8)).map { $0.value["kind"]?.stringValue } == ["Secret", "Pod", "Secret"])
    }

    @Test("a Secret's data are secrets; another kind's are not touched")
    func secrets() throws {
        let secret = try yaml("kind: Secret\ndata:\n  a: |\n    c2Vj\n    cmV0\nstringData: {b: text}\n")
        #expect(text(of: secret.at("data", "a")?.secretValue) == "secret")
        #expect(text(of: secret.at("stringData", "b")?.secretValue) == "text")
        #expect(try yaml("kind: ConfigMap\ndata: {a: not base64!}").at("data", "a") == "not base64!")
    }

    @Test(
        "what is malformed is refused with its line, and never quoted",
        arguments: [
            ("a: b\nc: [canary\n", 3), ("b: 1\na: canary\na: 2\n", 2), ("kind: Secret\ndata:\n  x: canary!\n", 3), ("kind: Secret\ndata:\n  x: 4711\n", 3),
            ("a: *canary\n", 1), ("a: !!binary canary\n", 1), ("a:\n\t- canary\n", 2), ("kind: Secret\nstringData:\n  x: true\n", 3), ("? [canary]\n: 1\n", 1),
            ("a: b\nb: ü\nc: \u{7}canary\n", 3),
        ])
    func malformed(_ text: String, line: Int) {
        let error = #expect(throws: MalformedDocument.self) { try YAMLReader.documents(Bytes(text.utf8)) }
        #expect(error?.line == line)
        #expect(error?.description.contains("canary") == false && error?.description.contains("4711") == false)
    }

    @Test("what is no text is refused with its line")
    func notText() {
        let error = #expect(throws: MalformedDocument.self) { try YAMLReader.documents(Bytes("a: ü\nb: ".utf8) + [0xff, 0x0a]) }
        #expect(error?.line == 2)
    }

    @Test("anchors, aliases and merge keys work")
    func aliases() throws {
        let value = try yaml("base: &b {x: 1, y: 2}\nuse: *b\nmerged:\n  <<: *b\n  y: 3\n")
        #expect(value == ["base": ["x": 1, "y": 2], "use": ["x": 1, "y": 2], "merged": ["x": 1, "y": 3]])
    }

    @Test("an alias bomb is refused")
    func bomb() {
        var text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        for level in 1...12 { text += "a\(level): &a\(level) [" + Array(repeating: "*a\(level - 1)", count: 10).joined(separator: ",") + "]\n" }
        let error = #expect(throws: MalformedDocument.self) { try YAMLReader.documents(Bytes(text.utf8)) }
        #expect(error?.what.contains("aliases expand") == true)
    }

    @Test("an alias bomb in a key is refused before it is hashed", arguments: ["? *a30\n: x\n", "*a30 : x\n", "{[*a30]: x}\n", "b: {*a30 : x}\n"])
    func keyBomb(_ last: String) {
        var text = "a0: &a0 [x,x]\n"
        for level in 1...30 { text += "a\(level): &a\(level) [*a\(level - 1), *a\(level - 1)]\n" }
        #expect(throws: MalformedDocument.self) { try YAMLReader.documents(Bytes((text + last).utf8)) }
    }

    @Test("nesting is bounded before the recursive parser sees it", arguments: ["[", "{a: ", "- ", "? "])
    func nesting(_ step: String) {
        #expect(throws: MalformedDocument.self) { try YAMLReader.documents(Bytes(String(repeating: step, count: 100_000).utf8)) }
    }

    @Test("resources of kinds that are not served, and fields that a Secret has not, are refused by line")
    func kinds() {
        func error(_ text: String) -> String? { #expect(throws: MalformedDocument.self) { try Manifest.resources(Bytes(text.utf8)) }?.description }
        #expect(
            error("kind: Secret\napiVersion: v1\n---\nkind: Deployment\napiVersion: apps/v1\n")
                == "line 4, column 1: no matches for kind \"Deployment\" in version \"apps/v1\"")
        #expect(error("apiVersion: v1\n") == "line 1, column 1: Object 'Kind' is missing")
        #expect(error("kind: Secret\n") == "line 1, column 1: Object 'apiVersion' is missing")
        #expect(error("kind: Secret\napiVersion: v1\nstringdata: {a: b}\n") == "line 1, column 1: strict decoding error: unknown field \"stringdata\"")
        #expect(error("- a\n") == "line 1, column 1: an object with apiVersion and kind is expected, not array")
        #expect(
            error("kind: Pod\napiVersion: v1\nspec: {containers: 3}\n")
                == "line 1, column 1: Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into field spec.containers of type array")
    }

    @Test("the manifests of the Kubernetes documentation are read")
    func examples() throws {
        let folder = (ProcessInfo.processInfo.environment["COFFER_SHARED"] ?? "../shared") + "/data/kubernetes-examples"
        guard let files = try? FileManager.default.contentsOfDirectory(atPath: folder).filter({ $0.hasSuffix(".yaml") }) else {
            print("skipped: \(folder) is not there (set COFFER_SHARED)")
            return
        }
        #expect(files.count >= 6)
        for file in files {
            let bytes = Bytes(try Data(contentsOf: URL(fileURLWithPath: folder + "/" + file)))
            let resources = try Manifest.resources(bytes)
            #expect(!resources.isEmpty, "\(file)")
            for var resource in resources {
                if resource.type.isNamespaced { resource.namespace = "default" }
                if resource.type == .secrets {
                    var secret = Secret(resource)
                    secret.normalize()
                    resource = secret.resource
                }
                #expect(throws: Never.self, "\(file)") { try resource.validateForCreation() }
            }
        }
    }
}

@Suite("YAML output") struct YAMLPrinterTests {
    @Test("it looks like kubectl's")
    func looks() throws {
        let value = try json(
            ##"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"a":"true","##
                + ##""b":"1"},"annotations":{}},"spec":{"containers":[{"name":"c","command":["sh","-c","a: b"],"args":[]}],"##
                    + ##""text":"one\ntwo\n","n":null,"s":"*x","e":"","list":[[1,2],{"x":{"y":1}}]}}"##
        )
        #expect(
            value.yamlString() == """
                apiVersion: v1
                kind: Pod
                metadata:
                  annotations: {}
                  creationTimestamp: "2026-01-02T03:04:05Z"
                  labels:
                    a: "true"
                    b: "1"
                  name: p
                spec:
                  containers:
                  - args: []
                    command:
                    - sh
                    - -c
                    - 'a: b'
                    name: c
                  e: ""
                  list:
                  - - 1
                    - 2
                  - x:
                      "y": 1
                  "n": null
                  s: '*x'
                  text: |
                    one
                    two

                """)
    }

    @Test("any string comes back as it was, as a value, a key and an element")
    func roundTrip() throws {
        let pieces = [
            "a", " ", "\n", ":", "#", "-", "'", "\"", "\\", "{", "*", "0", "1", "e", "\t", "é", "😀", "\r", "\u{85}", "\u{2028}", "~", "yes", "?", "%", "!",
            "\u{7f}", "\u{1}",
        ]
        var generator = SeededGenerator(seed: 11)
        for _ in 0..<5_000 {
            let string = (0..<generator.next() % 8).map { _ in pieces[Int(generator.next() % UInt64(pieces.count))] }.joined()
            let value: JSONValue = [
                "k": .string(string), "l": [.string(string)], "deep": ["x": [["y": .string(string)]]], "keys": .object(JSONObject([(string, .integer(1))])),
            ]
            let printed = value.yamlString()
            let read = try? yaml(printed)
            #expect(read == value, "\(Array(string.utf8)) printed as\n\(printed)")
            if read != value { break }
        }
    }

    @Test("revealed secrets come back as they were, masked ones do not appear")
    func secrets() throws {
        var generator = SeededGenerator(seed: 3)
        for count in 0..<64 {
            let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next() % 96 + 32) }
            let value: JSONValue = [
                "kind": "Secret", "data": ["a": .secret(try SecretValue(copying: bytes))], "stringData": ["b": .secretText(try SecretValue(copying: bytes))],
            ]
            #expect(try yaml(value.yamlString(secrets: .revealed)) == value)
            #expect(value.yamlString().contains("a: <masked>") || value.yamlString().contains("a: '<masked>'"))
        }
    }
}
