import Basics
import SecretMemory
import Testing

@testable import Resources

func json(_ text: String, secrets: SecretPlace = .nowhere) throws -> JSONValue { try JSONValue(parsing: text, secrets: secrets) }
func text(of secret: SecretValue?) -> String? { secret?.withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }

@Suite("JSON documents") struct JSONTests {
    @Test(
        "a document is printed as it was read",
        arguments: [
            "null", "true", "-0", "12", "-9223372036854775808", "1.5", "1e+20", "\"\"", "\"a\\\"b\\\\c\\n\"", "[]", "{}", "[1,[2,{\"b\":1,\"a\":null}]]",
            "\"\u{e9}\u{1f600}\"",
        ])
    func roundTrip(_ text: String) throws {
        #expect(try json(text).encodedString() == (text == "-0" ? "0" : text))
    }

    @Test("integers stay integers, what is greater becomes a double")
    func numbers() throws {
        #expect(try json("9223372036854775807") == .integer(.max))
        #expect(try json("9223372036854775808") == .double(9223372036854775808))
        #expect(try json("1.0") == .double(1))
        #expect(try json("1.0") != json("1"))
        #expect(try json("1.0").isEqualAsJSON(to: json("1")))
        #expect(try json("1E3") == .double(1000))
    }

    @Test("escapes are decoded, surrogate pairs too")
    func escapes() throws {
        #expect(try json(#""\u0041\u00e9\ud83d\ude00\/\b\f\t""#) == .string("A\u{e9}\u{1f600}/\u{8}\u{c}\t"))
    }

    @Test(
        "what is malformed is refused with its place",
        arguments: [
            ("{\n  \"a\": 1,\n  \"a\": 2\n}", 3, 3, "duplicate field"), ("[1,]", 1, 4, "invalid character where a value should begin"),
            ("{\"a\" 1}", 1, 6, "':' is expected after a member's name"), ("\"a\nb\"", 1, 3, "control character in a string"), ("01", 1, 1, "leading zero"),
            ("1.", 1, 3, "a digit is expected"), ("nul", 1, 1, "invalid literal"), ("[1] x", 1, 5, "unexpected data after the document"),
            ("{\"a\":", 1, 6, "unexpected end of JSON input"), ("\"abc", 1, 5, "unexpected end of JSON input in a string"),
            ("\"\\ud800\"", 1, 2, "lone surrogate"), ("\"\\x\"", 1, 2, "invalid escape"), ("\"\\u12\"", 1, 2, "invalid \\u escape"),
            ("1e999", 1, 1, "number out of range"),
            ("\"\\", 1, 3, "unexpected end of JSON input in a string"), ("", 1, 1, "unexpected end of JSON input"), ("-", 1, 2, "a digit is expected"),
        ])
    func malformed(_ text: String, line: Int, column: Int, what: String) {
        #expect(throws: MalformedDocument(what, line: line, column: column)) { try json(text) }
    }

    @Test("nesting is bounded")
    func depth() throws {
        let deepest = String(repeating: "[", count: JSONParser.depthMax) + String(repeating: "]", count: JSONParser.depthMax)
        #expect(try json(deepest).arrayValue?.count == 1)
        #expect(throws: MalformedDocument.self) { try json("[" + deepest + "]") }
        #expect(throws: MalformedDocument.self) { try json(String(repeating: "{\"a\":", count: 1_000_000)) }
    }

    @Test("invalid UTF-8 is refused, in secrets too")
    func invalidUTF8() {
        let broken: Bytes = Bytes("{\"stringData\":{\"a\":\"".utf8) + [0xff] + Bytes("\"}}".utf8)
        #expect(throws: MalformedDocument.self) { try JSONValue(parsing: broken, secrets: .object) }
        #expect(throws: MalformedDocument.self) { try JSONValue(parsing: broken, secrets: .nowhere) }
    }

    @Test("a random document cut or changed anywhere never traps")
    func mutations() throws {
        let document = Bytes(
            #"{"kind":"Secret","data":{"a":"c2VjcmV0","b":null},"l":[1,-2.5e3,true,"\ud83d\ude00\u0041"],"metadata":{"annotations":{"x":"y"}}}"#.utf8)
        var generator = SeededGenerator(seed: 7)
        for length in document.indices { _ = try? JSONValue(parsing: Bytes(document[..<length]), secrets: .object) }
        for _ in 0..<20_000 {
            var changed = document
            changed[Int(generator.next() % UInt64(changed.count))] = UInt8(truncatingIfNeeded: generator.next())
            if let value = try? JSONValue(parsing: changed, secrets: .object) {
                #expect(try JSONValue(parsing: value.encodedBytes(), secrets: .object) == value)
            }
        }
    }

    @Test("objects of many members find and lose them")
    func largeObjects() {
        var object = JSONObject()
        for number in 0..<1_000 { object["k\(number)"] = JSONValue(number) }
        for number in stride(from: 0, to: 1_000, by: 2) { object["k\(number)"] = nil }
        #expect(object.count == 500)
        #expect(object["k1"] == 1 && object["k2"] == nil && object["k999"] == 999)
        object.removeAll { $0.key.hasSuffix("1") }
        #expect(object["k1"] == nil && object["k3"] == 3 && object.count == 400)
    }

    @Test("pretty printing sorts members and indents by four")
    func pretty() throws {
        #expect(
            try json(#"{"b":[1,{}],"a":{"c":[]}}"#).encodedString(.pretty(indent: 4))
                == "{\n    \"a\": {\n        \"c\": []\n    },\n    \"b\": [\n        1,\n        {}\n    ]\n}")
    }
}

@Suite("secrets in documents") struct SecretLeafTests {
    static let canary = "canary-4711-canary"
    static let document =
        #"{"kind":"Secret","metadata":{"name":"x","annotations":{"a":"b","#
            + #""kubectl.kubernetes.io/last-applied-configuration":"{\"data\":\"canary-4711-canary\"}"}},"#
        + #""data":{"base":"Y2FuYXJ5LTQ3MTEtY2FuYXJ5"},"stringData":{"text":"canary-4711-canary\n"}}"#

    @Test("data, stringData and the last-applied annotation become secrets, nothing else does")
    func places() throws {
        let value = try json(Self.document, secrets: .object)
        #expect(text(of: value.at("data", "base")?.secretValue) == Self.canary)
        #expect(text(of: value.at("stringData", "text")?.secretValue) == Self.canary + "\n")
        #expect(value.at("metadata", "annotations", SecretPlace.lastAppliedAnnotation)?.isSecret == true)
        #expect(value.at("metadata", "annotations", "a") == "b")
    }

    @Test("on the wire they are what they were")
    func wire() throws {
        let value = try json(Self.document, secrets: .object)
        #expect(value.encodedString(secrets: .revealed) == Self.document)
        #expect(try JSONValue(parsing: value.encodedSecret()) == value)
    }

    @Test("no description, mirror or error shows one")
    func masked() throws {
        let value = try json(Self.document, secrets: .object)
        for shown in [
            value.description, "\(value)", String(reflecting: value), value.encodedString(), value.yamlString(), String(describing: value.objectValue),
        ] {
            #expect(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"))
        }
        var dumped = ""
        dump(value, to: &dumped)
        #expect(!dumped.contains("canary") && !dumped.contains("Y2FuYXJ5"))
        let illegal = #expect(throws: MalformedDocument.self) { try json("{\"data\":{\n\"a\":\"canary!\"}}", secrets: .object) }
        #expect(illegal?.description == "line 2, column 5: illegal base64 data")
    }

    @Test("lists, tables and watch events are looked into; directives are no data")
    func nested() throws {
        let list = try json(#"{"items":[{"data":{"a":"YQ=="}}]}"#, secrets: .object)
        #expect(list["items"]?.arrayValue?.first?.at("data", "a")?.isSecret == true)
        let event = try json(#"{"type":"ADDED","object":{"data":{"a":"YQ=="}}}"#, secrets: .object)
        #expect(event.at("object", "data", "a")?.isSecret == true)
        let table = try json(#"{"rows":[{"cells":["x"],"object":{"data":{"a":"YQ=="}}}]}"#, secrets: .object)
        #expect(table["rows"]?.arrayValue?.first?.at("object", "data", "a")?.isSecret == true)
        let patch = try json(#"{"data":{"$patch":"replace","a":null}}"#, secrets: .object)
        #expect(patch.at("data", "$patch") == "replace" && patch.at("data", "a") == .null)
    }

    @Test("what is no string cannot be a secret", arguments: ["1", "true", "[]", "{}", "1.5"])
    func wrongTypes(_ value: String) {
        #expect(throws: MalformedDocument.self) { try json("{\"data\":{\"a\":\(value)}}", secrets: .object) }
    }

    @Test("base64 is printed with the right padding", arguments: 0..<70)
    func base64(_ count: Int) throws {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 200) }
        let value = SecretValue(try SecretBytes(copying: bytes))
        var expected = Bytes()
        value.appendBase64(to: &expected)
        #expect(JSONValue.secret(value).encodedBytes() == Bytes("\"".utf8) + expected + Bytes("\"".utf8))
    }
}
