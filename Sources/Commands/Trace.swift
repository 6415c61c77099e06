import APIClient
package import ArgumentParser
import Basics
import Resources

/// Who held a secret, and which version of it, from when to when.
package struct Trace: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Show which pods held which version of a secret, from when to when, as their nodes say.",
        discussion: """
              cofferctl trace secret/web -n prod

            Held: it is there now. Replaced: another version took its place. Wiped: overwritten and gone. Unconfirmed: the pod is gone, and \
            its node never said that it wiped what it held.
            """)
    @Argument(help: "secret/NAME or secret NAME.", completion: .resources) var words: [String] = []
    @Flag(name: .long, help: "Print no headings.") var noHeaders = false
    @Option(name: [.customShort("o", allowingJoined: true), .long], help: "wide, json, yaml or jsonpath=….") var output: String?
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let targets = try ResourceArguments(words).targets
        guard targets.count == 1, targets[0].type == .secrets, let name = targets[0].name else { throw CommandError("one secret is expected: secret/NAME") }
        let format = try OutputFormat(output)
        switch format {
        case .name, .columns: throw CommandError("a trail is printed as a table, or with -o wide, json, yaml or jsonpath=…")
        default: break
        }
        let (client, contextNamespace) = try invocation.connect(global)
        let namespace = global.namespace ?? contextNamespace
        let trail = try await client.trail(namespace: namespace, secret: name)
        guard case .table(let isWide) = format else {
            return Printer(format, invocation).print(trail.json)
        }
        if trail.omitted > 0 { invocation.note("\(trail.omitted) earlier entries are not kept any more") }
        guard !trail.spans.isEmpty else { return invocation.note("No pod has held secret/\(name) in \(namespace) namespace.") }
        var rows = noHeaders ? [] : [["POD", "NODE", "VERSION", "FROM", "UNTIL", "STATE"] + (isWide ? ["POD-UID", "SECRET-UID"] : [])]
        for span in trail.spans {
            let row = [span.pod, span.node, String(span.resourceVersion), span.from.description, span.until?.description ?? "-", span.state.rawValue]
            rows.append((row + (isWide ? [span.podUID, span.secretUID] : [])).map(TableText.printable))
        }
        invocation.output(Bytes(TableText.aligned(rows).utf8))
    }
}
