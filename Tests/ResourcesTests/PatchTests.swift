import SecretMemory
import Testing

@testable import Resources

@Suite("JSON patch, RFC 6902 appendix A") struct JSONPatchTests {
    struct Example: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var document: String, patch: String
        /// `nil`: an error.
        var result: String?
    }
    static let examples: [Example] = [
        .init(
            testDescription: "A.1 adding a member", document: #"{"foo":"bar"}"#, patch: #"[{"op":"add","path":"/baz","value":"qux"}]"#,
            result: #"{"baz":"qux","foo":"bar"}"#),
        .init(
            testDescription: "A.2 adding an element", document: #"{"foo":["bar","baz"]}"#, patch: #"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            result: #"{"foo":["bar","qux","baz"]}"#),
        .init(
            testDescription: "A.3 removing a member", document: #"{"baz":"qux","foo":"bar"}"#, patch: #"[{"op":"remove","path":"/baz"}]"#,
            result: #"{"foo":"bar"}"#),
        .init(
            testDescription: "A.4 removing an element", document: #"{"foo":["bar","qux","baz"]}"#, patch: #"[{"op":"remove","path":"/foo/1"}]"#,
            result: #"{"foo":["bar","baz"]}"#),
        .init(
            testDescription: "A.5 replacing a value", document: #"{"baz":"qux","foo":"bar"}"#, patch: #"[{"op":"replace","path":"/baz","value":"boo"}]"#,
            result: #"{"baz":"boo","foo":"bar"}"#),
        .init(
            testDescription: "A.6 moving a value", document: #"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            patch: #"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#, result: #"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#),
        .init(
            testDescription: "A.7 moving an element", document: #"{"foo":["all","grass","cows","eat"]}"#,
            patch: #"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            result: #"{"foo":["all","cows","eat","grass"]}"#),
        .init(
            testDescription: "A.8 testing: success", document: #"{"baz":"qux","foo":["a",2,"c"]}"#,
            patch: #"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#, result: #"{"baz":"qux","foo":["a",2,"c"]}"#),
        .init(testDescription: "A.9 testing: error", document: #"{"baz":"qux"}"#, patch: #"[{"op":"test","path":"/baz","value":"bar"}]"#, result: nil),
        .init(
            testDescription: "A.10 adding a nested object", document: #"{"foo":"bar"}"#, patch: #"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            result: #"{"foo":"bar","child":{"grandchild":{}}}"#),
        .init(
            testDescription: "A.11 ignoring unknown members", document: #"{"foo":"bar"}"#, patch: #"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#,
            result: #"{"foo":"bar","baz":"qux"}"#),
        .init(
            testDescription: "A.12 adding to what is not there", document: #"{"foo":"bar"}"#, patch: #"[{"op":"add","path":"/baz/bat","value":"qux"}]"#,
            result: nil),
        .init(
            testDescription: "A.13 an invalid document", document: #"{"foo":"bar"}"#, patch: #"[{"op":"add","path":"/baz","value":"qux","op":"remove"}]"#,
            result: nil),
        .init(
            testDescription: "A.14 escapes in the pointer", document: #"{"/":9,"~1":10}"#, patch: #"[{"op":"test","path":"/~01","value":10}]"#,
            result: #"{"/":9,"~1":10}"#),
        .init(
            testDescription: "A.15 comparing a string with a number", document: #"{"/":9,"~1":10}"#, patch: #"[{"op":"test","path":"/~01","value":"10"}]"#,
            result: nil),
        .init(
            testDescription: "A.16 adding an array", document: #"{"foo":["bar"]}"#, patch: #"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            result: #"{"foo":["bar",["abc","def"]]}"#),
        .init(testDescription: "an index beyond the end", document: #"{"foo":["bar"]}"#, patch: #"[{"op":"add","path":"/foo/2","value":1}]"#, result: nil),
        .init(testDescription: "an index with a leading zero", document: #"{"foo":["a","b"]}"#, patch: #"[{"op":"remove","path":"/foo/01"}]"#, result: nil),
        .init(
            testDescription: "an index of many digits", document: #"{"foo":["a","b"]}"#, patch: #"[{"op":"remove","path":"/foo/99999999999999999999"}]"#,
            result: nil),
        .init(testDescription: "moving into itself", document: #"{"a":{"b":1}}"#, patch: #"[{"op":"move","from":"/a","path":"/a/b"}]"#, result: nil),
        .init(testDescription: "replacing the whole", document: #"{"a":1}"#, patch: #"[{"op":"replace","path":"","value":{"b":2}}]"#, result: #"{"b":2}"#),
        .init(testDescription: "removing the whole", document: #"{"a":1}"#, patch: #"[{"op":"remove","path":""}]"#, result: nil),
        .init(testDescription: "a number equal by value", document: #"{"a":1}"#, patch: #"[{"op":"test","path":"/a","value":1.0}]"#, result: #"{"a":1}"#),
        .init(testDescription: "an unknown operation", document: "{}", patch: #"[{"op":"merge","path":"/a","value":1}]"#, result: nil),
        .init(testDescription: "a path that is no pointer", document: "{}", patch: #"[{"op":"add","path":"a","value":1}]"#, result: nil),
        .init(testDescription: "no array", document: "{}", patch: "{}", result: nil),
    ]

    @Test("the examples and our own", arguments: examples)
    func applies(_ example: Example) throws {
        let result = Result { try JSONPatch(json(example.patch, secrets: .patchOperations)).applied(to: json(example.document)) }
        if let expected = example.result { #expect(try result.get() == json(expected)) } else { #expect(throws: (any Error).self) { try result.get() } }
    }

    static func secret() throws -> JSONValue { try json(#"{"kind":"Secret","metadata":{"labels":{"a":"plain"}},"data":{"a":"c2VjcmV0"}}"#, secrets: .object) }

    @Test("a value at data's path is decoded into a secret, elsewhere it is a string")
    func secrets() throws {
        let patch = try JSONPatch(
            json(
                ##"[{"op":"test","path":"/data/a","value":"c2VjcmV0"},{"op":"add","path":"/data/b","value":"Yg=="},{"op":"add","##
                    + ##""path":"/metadata/name","value":"n"},{"op":"replace","path":"/stringData","value":{"t":"u"}}]"##
                    .replacing("replace", with: "add"), secrets: .patchOperations))
        let result = try patch.applied(to: Self.secret())
        #expect(text(of: result.at("data", "b")?.secretValue) == "b")
        #expect(text(of: result.at("stringData", "t")?.secretValue) == "u")
        #expect(result.at("metadata", "name") == "n")
    }

    @Test("a secret cannot be copied or moved to where it would be plain", arguments: ["copy", "move"])
    func noLaundering(_ verb: String) throws {
        let patch = try JSONPatch(json(#"[{"op":"\#(verb)","from":"/data/a","path":"/metadata/labels/b"}]"#, secrets: .patchOperations))
        #expect(throws: PatchError.self) { try patch.applied(to: Self.secret()) }
        let within = try JSONPatch(json(#"[{"op":"\#(verb)","from":"/data/a","path":"/data/b"}]"#, secrets: .patchOperations))
        #expect(text(of: try within.applied(to: Self.secret()).at("data", "b")?.secretValue) == "secret")
    }

    private func applied(_ operations: [String], to document: String = #"{"s":{"x":{"a":1}}}"#) throws -> JSONValue {
        let patch = try JSONPatch(JSONValue(parsing: "[" + operations.joined(separator: ",") + "]", secrets: .patchOperations))
        return try patch.applied(to: JSONValue(parsing: document))
    }

    @Test("no sequence of operations nests an object deeper than the parser reads it again")
    func depthIsBounded() throws {
        let level = [#"{"op":"add","path":"/s/n","value":{}}"#, #"{"op":"move","from":"/s/x","path":"/s/n/x"}"#, #"{"op":"move","from":"/s/n","path":"/s/x"}"#]
        // The document, "s" and "x" are three levels; the last one is made while "n" holds it: one more each.
        let deep = try applied((0..<125).flatMap { _ in level })
        #expect(try JSONValue(parsing: deep.encodedString(.compact)) == deep)
        for levels in [126, 3_000] { #expect(throws: PatchError.self) { try applied((0..<levels).flatMap { _ in level }) } }
        // A hundred levels at a time, which would end the stack of whoever walks them.
        let tower = String(repeating: #"{"a":"#, count: 100) + "1" + String(repeating: "}", count: 100), top = String(repeating: "/a", count: 99)
        let step = [#"{"op":"add","path":"/s/n","value":\#(tower)}"#, #"{"op":"move","from":"/s/x","path":"/s/n\#(top)/x"}"#, level[2]]
        #expect(throws: PatchError.self) { try applied((0..<200).flatMap { _ in step }) }
    }

    @Test("copies add up to a bound: they cannot double an object again and again")
    func copiesAreBounded() throws {
        var operations: [String] = []
        for index in 0..<60 { operations.append(#"{"op":"copy","from":"/s","path":"/s/k\#(index)"}"#) }
        #expect(throws: PatchError.self) { try applied(operations) }
        #expect(throws: Never.self) { try applied(Array(operations.prefix(8))) }
    }

    @Test("many operations on large objects are refused before they take long")
    func workIsBounded() throws {
        let members = (0..<20_000).map { #""k\#($0)":0"# }.joined(separator: ",")
        let document = #"{"s":{\#(members)}}"#
        let replaced = [String](repeating: #"{"op":"replace","path":"/s/k5","value":1}"#, count: 10_000)
        #expect(throws: PatchError.self) { try applied(replaced, to: document) }
        #expect(try applied(Array(replaced.prefix(20)), to: document)["s"]?["k5"] == 1)
        let moved = (0..<10_000).map { $0 % 2 == 0 ? #"{"op":"move","from":"/s","path":"/t"}"# : #"{"op":"move","from":"/t","path":"/s"}"# }
        #expect(throws: PatchError.self) { try applied(moved, to: document) }
    }

    @Test("illegal base64 for data is refused without quoting it")
    func illegalBase64() throws {
        let error = #expect(throws: MalformedDocument.self) {
            try JSONPatch(json(#"[{"op":"add","path":"/data/b","value":"canary!"}]"#, secrets: .patchOperations))
        }
        #expect(error?.description.contains("canary") == false)
    }
}

@Suite("JSON merge patch, RFC 7386 appendix A") struct MergePatchTests {
    @Test(
        "the examples",
        arguments: [
            (#"{"a":"b"}"#, #"{"a":"c"}"#, #"{"a":"c"}"#), (#"{"a":"b"}"#, #"{"b":"c"}"#, #"{"a":"b","b":"c"}"#), (#"{"a":"b"}"#, #"{"a":null}"#, "{}"),
            (#"{"a":"b","b":"c"}"#, #"{"a":null}"#, #"{"b":"c"}"#), (#"{"a":["b"]}"#, #"{"a":"c"}"#, #"{"a":"c"}"#),
            (#"{"a":"c"}"#, #"{"a":["b"]}"#, #"{"a":["b"]}"#),
            (#"{"a":{"b":"c"}}"#, #"{"a":{"b":"d","c":null}}"#, #"{"a":{"b":"d"}}"#), (#"{"a":[{"b":"c"}]}"#, #"{"a":[1]}"#, #"{"a":[1]}"#),
            (#"["a","b"]"#, #"["c","d"]"#, #"["c","d"]"#), (#"{"a":"b"}"#, #"["c"]"#, #"["c"]"#), (#"{"a":"foo"}"#, "null", "null"),
            (#"{"a":"foo"}"#, #""bar""#, #""bar""#),
            (#"{"e":null}"#, #"{"a":1}"#, #"{"e":null,"a":1}"#), ("[1,2]", #"{"a":"b","c":null}"#, #"{"a":"b"}"#),
            ("{}", #"{"a":{"bb":{"ccc":null}}}"#, #"{"a":{"bb":{}}}"#),
        ])
    func examples(_ document: String, _ patch: String, _ result: String) throws {
        #expect(try json(document).mergePatched(by: json(patch)) == json(result))
    }
}

@Suite("strategic merge patch") struct StrategicMergeTests {
    func patched(_ document: String, _ patch: String, _ schema: Schema = .pod) throws -> JSONValue {
        try json(document).strategicMergePatched(by: json(patch), schema: schema)
    }

    @Test(
        "lists, maps and directives",
        arguments: [
            // containers merge by name, others of their fields stay
            (
                #"{"spec":{"containers":[{"name":"a","image":"1","env":[{"name":"X","value":"1"}]},{"name":"b","image":"1"}]}}"#,
                #"{"spec":{"containers":[{"name":"a","image":"2","env":[{"name":"Y","value":"2"}]}]}}"#,
                #"{"spec":{"containers":[{"name":"a","image":"2","env":[{"name":"X","value":"1"},{"name":"Y","value":"2"}]},{"name":"b","image":"1"}]}}"#
            ),
            // an element is deleted by its key
            (
                #"{"spec":{"volumes":[{"name":"a","emptyDir":{}},{"name":"b","emptyDir":{}}]}}"#, #"{"spec":{"volumes":[{"$patch":"delete","name":"a"}]}}"#,
                #"{"spec":{"volumes":[{"name":"b","emptyDir":{}}]}}"#
            ),
            // a list is replaced
            (
                #"{"spec":{"containers":[{"name":"a","image":"1"}]}}"#, #"{"spec":{"containers":[{"$patch":"replace"},{"name":"c","image":"3"}]}}"#,
                #"{"spec":{"containers":[{"name":"c","image":"3"}]}}"#
            ),
            // an object is replaced, or deleted
            (#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#, #"{"metadata":{"labels":{"$patch":"replace","c":"3"}}}"#, #"{"metadata":{"labels":{"c":"3"}}}"#),
            (#"{"metadata":{"name":"x","labels":{"a":"1"}}}"#, #"{"metadata":{"labels":{"$patch":"delete"}}}"#, #"{"metadata":{"name":"x"}}"#),
            // null removes
            (#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#, #"{"metadata":{"labels":{"a":null}}}"#, #"{"metadata":{"labels":{"b":"2"}}}"#),
            // primitive lists are united, and elements deleted by name
            (
                #"{"metadata":{"finalizers":["a","b"]}}"#, #"{"metadata":{"finalizers":["c"],"$deleteFromPrimitiveList/finalizers":["a"]}}"#,
                #"{"metadata":{"finalizers":["b","c"]}}"#
            ),
            // atomic lists are replaced
            (#"{"spec":{"tolerations":[{"key":"a"}]}}"#, #"{"spec":{"tolerations":[{"key":"b"}]}}"#, #"{"spec":{"tolerations":[{"key":"b"}]}}"#),
            // keys that are not retained go
            (
                #"{"spec":{"volumes":[{"name":"a","emptyDir":{}}]}}"#,
                #"{"spec":{"volumes":[{"name":"a","$retainKeys":["name","secret"],"secret":{"secretName":"s"}}]}}"#,
                #"{"spec":{"volumes":[{"name":"a","secret":{"secretName":"s"}}]}}"#
            ),
            // the order is given; what it does not name stays behind what it followed
            (
                #"{"spec":{"containers":[{"name":"a"},{"name":"sidecar"},{"name":"b"}]}}"#,
                #"{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"},{"name":"c"}],"containers":[{"name":"c"}]}}"#,
                #"{"spec":{"containers":[{"name":"b"},{"name":"a"},{"name":"sidecar"},{"name":"c"}]}}"#
            ),
            // conditions by type
            (
                #"{"status":{"conditions":[{"type":"Ready","status":"False"},{"type":"X","status":"True"}]}}"#,
                #"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
                #"{"status":{"conditions":[{"type":"Ready","status":"True"},{"type":"X","status":"True"}]}}"#
            ),
            // owners by uid, mounts by path
            (
                #"{"metadata":{"ownerReferences":[{"uid":"1","name":"a"}]},"spec":{"containers":[{"name":"a","#
                    + #""volumeMounts":[{"mountPath":"/a","name":"v"}]}]}}"#,
                #"{"metadata":{"ownerReferences":[{"uid":"1","name":"b"}]},"spec":{"containers":[{"name":"a","#
                    + #""volumeMounts":[{"mountPath":"/b","name":"v"}]}]}}"#,
                #"{"metadata":{"ownerReferences":[{"uid":"1","name":"b"}]},"spec":{"containers":[{"name":"a","#
                    + #""volumeMounts":[{"mountPath":"/a","name":"v"},{"mountPath":"/b","name":"v"}]}]}}"#
            ),
            // the node selector is one value
            (#"{"spec":{"nodeSelector":{"a":"1"}}}"#, #"{"spec":{"nodeSelector":{"b":"2"}}}"#, #"{"spec":{"nodeSelector":{"b":"2"}}}"#),
        ])
    func merges(_ document: String, _ patch: String, _ result: String) throws {
        let merged = try patched(document, patch)
        #expect(merged == (try json(result)), "\(merged)")
    }

    @Test(
        "a patch that makes no sense is refused",
        arguments: [
            #"{"spec":{"containers":[{"image":"x"}]}}"#, #"{"spec":{"containers":["x"]}}"#, #"{"spec":{"$patch":"explode"}}"#,
            #"{"spec":{"volumes":[{"name":"a","$retainKeys":["name"],"secret":{}}]}}"#, "[]", "1",
        ])
    func refuses(_ patch: String) {
        #expect(throws: PatchError.self) { try patched(#"{"spec":{"containers":[],"volumes":[{"name":"a"}]}}"#, patch) }
    }

    @Test("a secret's data merges by key and takes null")
    func secretData() throws {
        let secret = try json(#"{"data":{"a":"YQ==","b":"Yg=="}}"#, secrets: .object)
        let patch = try json(#"{"data":{"a":null,"c":"Yw=="}}"#, secrets: .object)
        let result = try secret.strategicMergePatched(by: patch, schema: .secret)
        #expect(result["data"]?.objectValue?.keys == ["b", "c"])
    }
}

@Suite("three-way patches of apply") struct ThreeWayPatchTests {
    static let cases: [(String, String, String, String)] = [
        // (original, modified, current, patch)
        (#"{"metadata":{"labels":{"a":"1"}}}"#, #"{"metadata":{"labels":{"a":"1"}}}"#, #"{"metadata":{"uid":"u","labels":{"a":"1","other":"2"}}}"#, "{}"),
        (
            #"{"metadata":{"labels":{"a":"1","b":"1"}}}"#, #"{"metadata":{"labels":{"a":"2"}}}"#, #"{"metadata":{"labels":{"a":"1","b":"1","other":"2"}}}"#,
            #"{"metadata":{"labels":{"a":"2","b":null}}}"#
        ),
        // someone changed what the manifest says: it is set back
        (#"{"spec":{"x":1}}"#, #"{"spec":{"x":1}}"#, #"{"spec":{"x":2}}"#, #"{"spec":{"x":1}}"#),
        // what someone removed and the manifest drops needs nothing
        (#"{"spec":{"x":1}}"#, #"{"spec":{}}"#, #"{"spec":{}}"#, "{}"),
        // an element is changed, one deleted, others' elements stay
        (
            #"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}}"#, #"{"spec":{"containers":[{"name":"a","image":"2"}]}}"#,
            #"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"},{"name":"injected","image":"9"}]}}"#,
            #"{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"image":"2","name":"a"},{"$patch":"delete","name":"b"}]}}"#
        ),
        // a volume changes its kind
        (
            #"{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}"#, #"{"spec":{"volumes":[{"name":"v","secret":{"secretName":"s"}}]}}"#,
            #"{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}"#,
            #"{"spec":{"$setElementOrder/volumes":[{"name":"v"}],"volumes":[{"$retainKeys":["name","secret"],"emptyDir":null,"name":"v","#
                + #""secret":{"secretName":"s"}}]}}"#
        ),
        (
            #"{"metadata":{"finalizers":["a","b"]}}"#, #"{"metadata":{"finalizers":["b","c"]}}"#, #"{"metadata":{"finalizers":["a","b","x"]}}"#,
            #"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["b","c"],"finalizers":["c"]}}"#
        ),
    ]

    @Test("only what the manifest changes or drops is in the patch", arguments: cases)
    func patches(_ original: String, _ modified: String, _ current: String, _ patch: String) throws {
        let made = ThreeWayPatch.strategic(original: try json(original), modified: try json(modified), current: try json(current), schema: .pod)
        #expect(made == (try json(patch)), "\(made)")
    }

    @Test("applying the patch gives what the manifest says, and a second apply has nothing to do", arguments: cases)
    func converges(_ original: String, _ modified: String, _ current: String, _ patch: String) throws {
        let wanted = try json(modified), live = try json(current)
        let made = ThreeWayPatch.strategic(original: try json(original), modified: wanted, current: live, schema: .pod)
        let result = try live.strategicMergePatched(by: made, schema: .pod)
        let second = ThreeWayPatch.strategic(original: wanted, modified: wanted, current: result, schema: .pod)
        #expect(second == [:], "\(second)")
    }
}
