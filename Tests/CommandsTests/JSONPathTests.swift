import Resources
import Testing

@testable import Commands

@Suite("jsonpath templates") struct JSONPathTests {
    static let document = ##"""
        {"kind":"List","items":[
          {"kind":"None","metadata":{"name":"127.0.0.1","labels":{"a.b/c":"x"}},"status":{"capacity":{"cpu":"4"},"n":3},"tags":[]},
          {"kind":"None","metadata":{"name":"127.0.0.2"},"status":{"capacity":{"cpu":"8"},"n":10},"tags":["x","y"]}
        ],"users":[{"name":"myself","user":{}},{"name":"e2e","user":{"username":"admin","password":"secret"}}]}
        """##

    @Test(
        "templates render as kubectl's",
        arguments: [
            ("kind is {.kind}", "kind is List"), ("{.kind} {['kind']}", "List List"), ("{..name}", "127.0.0.1 127.0.0.2 myself e2e"),
            ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"), ("{.users[0].name}", "myself"), ("{.items[*]['metadata.name','status.capacity']}", ""),
            ("{.items[*].status['capacity','n']}", #"{"cpu":"4"} 3 {"cpu":"8"} 10"#), (#"{.users[?(@.name=="e2e")].user.password}"#, "secret"),
            (#"{range .items[*]}[{.metadata.name}, {.status.capacity.cpu}]{"\n"}{end}"#, "[127.0.0.1, 4]\n[127.0.0.2, 8]\n"),
            ("{.items[-1].metadata.name}", "127.0.0.2"),
            ("{.items[0:1].metadata.name}", "127.0.0.1"), ("{.items[1:].metadata.name}", "127.0.0.2"), ("{.items[::1].status.n}", "3 10"),
            (#"{.items[0].metadata.labels.a\.b/c}"#, "x"),
            ("{.items[0].metadata.labels['a.b/c']}", "x"), ("{.items[?(@.status.n>5)].metadata.name}", "127.0.0.2"),
            ("{.items[?(@.tags[1])].metadata.name}", "127.0.0.2"),
            ("{.items[9].x}", ""), ("{.nothing}", ""), ("{$.kind}", "List"), ("plain", "plain"), ("{.items[*].tags}", #"[] ["x","y"]"#),
            (#"{.items[?(@.metadata.name!='127.0.0.1')].status.n}"#, "10"), ("{.users[*].user}", #"{} {"username":"admin","password":"secret"}"#),
        ])
    func renders(_ template: String, _ expected: String) throws {
        #expect(try JSONPath(template).render(try JSONValue(parsing: Self.document, secrets: .nowhere), secrets: .masked) == expected)
    }

    @Test(
        "malformed templates are refused",
        arguments: ["{.a", "{range .a}", "{end}", "{.a[}", "{.a[x]}", "{.a[?(@.b]}", "{\"x}", "{.a[?(@.b==)]}", "{.a[0:1:0]}", "{.a[99999999999999999999]}"])
    func malformed(_ template: String) {
        #expect(throws: JSONPath.Malformed.self) { try JSONPath(template) }
    }
}
