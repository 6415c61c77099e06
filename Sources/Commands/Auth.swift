import APIClient
package import ArgumentParser
import Basics
import Resources

package struct Auth: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(abstract: "Ask who you are and what you may do.", subcommands: [CanI.self, WhoAmI.self])
    package init() {}
}

package struct CanI: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "can-i", abstract: "Ask whether an action is allowed: yes, or no and why. Exit code 1 is no.",
        discussion: """
              cofferctl auth can-i create secrets -n prod
              cofferctl auth can-i get secret/web
              cofferctl auth can-i get /version
              cofferctl auth can-i --list
            """)
    @Argument(help: "VERB TYPE, VERB TYPE NAME, VERB TYPE/NAME, or VERB /PATH.") var words: [String] = []
    @Option(help: "The part it is about: status, binding.") var subresource = ""
    @Flag(name: [.customShort("A"), .long], help: "In all namespaces.") var allNamespaces = false
    @Flag(name: .shortAndLong, help: "Print nothing.") var quiet = false
    @Flag(help: "Show everything that is allowed.") var list = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        if list {
            guard words.isEmpty else { throw CommandError("list option must be specified with no arguments") }
            return try await showRules(invocation)
        }
        guard (2...3).contains(words.count) else {
            throw CommandError("you must specify two or three arguments: verb, resource, and optional resourceName")
        }
        let (client, contextNamespace) = try invocation.connect(global)
        let namespace = allNamespaces ? "" : global.namespace ?? contextNamespace
        let status = try await client.review("SelfSubjectAccessReview", group: "authorization.k8s.io", spec: try spec(namespace, invocation))["status"]
        let isAllowed = status?["allowed"]?.boolValue == true, reason = status?["reason"]?.stringValue ?? ""
        if !quiet { invocation.print(isAllowed ? "yes" : reason.isEmpty ? "no" : "no - " + TableText.printable(reason)) }
        if !isAllowed { throw AlreadyReported() }
    }

    private func spec(_ namespace: String, _ invocation: Invocation) throws -> JSONValue {
        let verb = words[0], what = words[1]
        if what.hasPrefix("/") {
            guard words.count == 2, subresource.isEmpty else { throw CommandError("a path has no name and no subresource") }
            return ["nonResourceAttributes": ["verb": .string(verb), "path": .string(what)]]
        }
        let parts = what.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 1 || words.count == 2 else { throw CommandError("the name is given twice: \(what) and \(words[2])") }
        let name = parts.count == 2 ? parts[1] : words.count == 3 ? words[2] : ""
        let type = ResourceType.named(parts[0])
        if type == nil, parts[0] != "*" { invocation.note("Warning: the server doesn't have a resource type '\(TableText.printable(parts[0]))'") }
        if type?.isNamespaced == false, global.namespace != nil {
            invocation.note("Warning: resource '\(parts[0])' is not namespace scoped")
        }
        return [
            "resourceAttributes": [
                "verb": .string(verb), "group": .string(type?.group ?? ""), "resource": .string(type?.plural ?? parts[0]), "subresource": .string(subresource),
                "name": .string(name), "namespace": .string(type?.isNamespaced == false ? "" : namespace),
            ]
        ]
    }

    private func showRules(_ invocation: Invocation) async throws {
        let (client, contextNamespace) = try invocation.connect(global)
        let spec: JSONValue = ["namespace": .string(global.namespace ?? contextNamespace)]
        let status = try await client.review("SelfSubjectRulesReview", group: "authorization.k8s.io", spec: spec)["status"] ?? [:]
        func cell(_ rule: JSONValue, _ member: String) -> String {
            "[" + (rule[member]?.arrayValue ?? []).compactMap(\.stringValue).map(TableText.printable).joined(separator: " ") + "]"
        }
        var rows = [["RESOURCES", "PATHS", "NAMES", "VERBS"]]
        for rule in status["resourceRules"]?.arrayValue ?? [] {
            let group = rule["apiGroups"]?.arrayValue?.first?.stringValue ?? "", resource = rule["resources"]?.arrayValue?.first?.stringValue ?? ""
            let more = (rule["resources"]?.arrayValue ?? []).dropFirst().compactMap(\.stringValue)
            let names = ([resource] + more).map { TableText.printable(group.isEmpty ? $0 : "\($0).\(group)") }.joined(separator: ",")
            rows.append([names, "[]", cell(rule, "resourceNames"), cell(rule, "verbs")])
        }
        for rule in status["nonResourceRules"]?.arrayValue ?? [] { rows.append(["", cell(rule, "nonResourceURLs"), "[]", cell(rule, "verbs")]) }
        invocation.output(Bytes(TableText.aligned(rows).utf8))
    }
}

package struct WhoAmI: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "whoami", abstract: "Show who the server takes you for.")
    @OptionGroup package var global: GlobalOptions
    package init() {}
    package func run(in invocation: Invocation) async throws {
        let client = try invocation.connect(global).client
        let user = try await client.review("SelfSubjectReview", group: "authentication.k8s.io", spec: nil).at("status", "userInfo") ?? [:]
        let groups = (user["groups"]?.arrayValue ?? []).compactMap(\.stringValue).map(TableText.printable).joined(separator: " ")
        let rows = [["ATTRIBUTE", "VALUE"], ["Username", TableText.printable(user["username"]?.stringValue ?? "")], ["Groups", "[\(groups)]"]]
        invocation.output(Bytes(TableText.aligned(rows).utf8))
    }
}
