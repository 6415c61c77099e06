import APIClient
import Basics
import Resources
import Testing

@testable import Commands

@Suite("values stay masked") struct MaskingTests {
    static let canary = "canary-4711-canary"
    static let encoded = "Y2FuYXJ5LTQ3MTEtY2FuYXJ5"

    static func server() async -> MemoryServer {
        let server = MemoryServer()
        var line = CommandLineRun(server: server)
        line.input = Bytes("kind: Secret\napiVersion: v1\nmetadata: {name: s}\nstringData: {password: \(canary)}\n".utf8)
        #expect(await line.run(["apply", "-f", "-"]).code == 0)
        return server
    }

    @Test(
        "no output without --reveal holds a value, in clear or encoded",
        arguments: [
            "get secrets", "get secret s -o yaml", "get secret s -o json", "get secrets -o yaml", "get secrets -o json", "get secret s -o wide",
            "get secret s -o name",
            "get secret s -o jsonpath={.data}", "get secret s -o jsonpath={..}", "get secret s -o jsonpath={.metadata.annotations}",
            "get secrets -o jsonpath-as-json={.items[*].data}",
            "get secret s -o custom-columns=A:.data.password,B:.metadata.annotations", "describe secret s", "describe secrets", "get secrets -w",
            "get secrets -w -o yaml",
            "get secrets -w -o json", "label secret s a=b -o yaml", "annotate secret s a=b -o json", "patch secret s -p {} -o yaml", "apply -f - -o yaml",
            "apply -f - --dry-run=client -o json",
            "replace -f - -o yaml", "create -f - --dry-run=client -o yaml", "get secrets --sort-by=.data.password -o yaml",
            "create secret generic x --from-literal=a=canary-4711-canary -o yaml",
            "patch secret s --type=json -p [{\"op\":\"test\",\"path\":\"/data/password\",\"value\":\"Y2FuYXJ5LTQ3MTEtY2FuYXJ4\"}]", "delete secret s",
        ])
    func masked(_ command: String) async {
        var line = CommandLineRun(server: await Self.server())
        line.input = Bytes("kind: Secret\napiVersion: v1\nmetadata: {name: s, labels: {x: y}}\nstringData: {password: \(Self.canary)}\n".utf8)
        let text = await line.run(command.split(separator: " ").map(String.init)).text
        #expect(!text.isEmpty)
        #expect(!text.contains(Self.canary) && !text.contains(Self.encoded) && !text.contains("canary"), "\(text)")
    }

    @Test(
        "with --reveal it is shown",
        arguments: ["get secret s -o yaml --reveal", "get secret s -o json --reveal", "get secret s -o jsonpath={.data.password} --reveal"])
    func revealed(_ command: String) async {
        let text = await CommandLineRun(server: await Self.server()).run(command.split(separator: " ").map(String.init)).text
        #expect(text.contains(Self.encoded))
    }

    @Test("a table asks the server for a table, so that no value is even sent")
    func tables() async throws {
        let server = await Self.server()
        _ = await CommandLineRun(server: server).run(["get", "secrets"])
        #expect(server.requests.last?.accept == APIRequest.table)
    }

    @Test("a second apply of stringData sends nothing")
    func idempotent() async throws {
        let server = await Self.server()
        var line = CommandLineRun(server: server)
        line.input = Bytes("kind: Secret\napiVersion: v1\nmetadata: {name: s}\nstringData: {password: \(Self.canary)}\n".utf8)
        let before = server.requests.count
        #expect(await line.run(["apply", "-f", "-"]).text == "secret/s unchanged\n")
        #expect(server.requests.dropFirst(before).allSatisfy { $0.method == .get })
    }

    @Test("control characters of a name or a label do not reach the terminal")
    func control() {
        #expect(TableText.printable("a\u{1b}[31mb\u{9b}") == "a\u{fffd}[31mb\u{fffd}")
    }
}
