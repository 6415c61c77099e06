import APIClient
import ArgumentParser
import Resources

/// What a shell offers where a kind, a name, a namespace or a node is expected. Names are asked of the server, which gets a moment to answer:
/// without an answer there are none, and no message disturbs the line that is being typed.
enum NameCompletion {
    /// Of the run that a shell's script has asked for completions.
    @TaskLocal static var invocation: Invocation?

    /// A kind, then names of that kind; or `KIND/NAME`.
    @Sendable static func resources(_ words: [String], _ index: Int, _ prefix: String) async -> [String] {
        let line = TypedLine(words, before: index)
        if let slash = prefix.firstIndex(of: "/") {
            guard let type = ResourceType.named(String(prefix[..<slash])) else { return [] }
            return await names(type, line).map { prefix[...slash] + $0 }
        }
        guard let kind = line.positionals.first, !kind.contains("/") else { return ResourceType.all.map(\.plural) }
        let types = kind.split(separator: ",").compactMap { ResourceType.named(String($0)) }
        guard let type = types.first, types.count == 1 else { return [] }
        return await names(type, line)
    }
    @Sendable static func namespaces(_ words: [String], _ index: Int, _ prefix: String) async -> [String] {
        await names(.namespaces, TypedLine(words, before: index))
    }
    @Sendable static func nodes(_ words: [String], _ index: Int, _ prefix: String) async -> [String] { await names(.nodes, TypedLine(words, before: index)) }

    private static func names(_ type: ResourceType, _ line: TypedLine) async -> [String] {
        guard let invocation, let global = try? await GlobalFlags.asyncParse(line.globalFlags).global, let (client, contextNamespace) = try? invocation.connect(global) else {
            return []
        }
        let namespace = global.namespace ?? contextNamespace
        return await withTaskGroup(of: [String].self) { group in
            group.addTask {
                // Of a table the server sends names only.
                let rows = (try? await client.table(type, namespace: namespace).table)?["rows"]?.arrayValue ?? []
                return rows.compactMap { $0.at("object", "metadata", "name")?.stringValue.map(TableText.printable) }
            }
            group.addTask {
                try? await Task.sleep(for: invocation.completionTimeout)
                return []
            }
            defer { group.cancelAll() }
            return await group.next() ?? []
        }
    }
}

private struct GlobalFlags: AsyncParsableCommand { @OptionGroup var global: GlobalOptions }

/// The words before the one that is being typed, as far as completion needs to understand them.
private struct TypedLine {
    private static let globalLetters: Set<Character> = ["n", "s"]
    private static let letters: Set<Character> = globalLetters.union(["l", "o", "f", "L", "p"])
    private static let globalNames: Set<String> = ["--namespace", "--server", "--kubeconfig", "--context", "--cluster", "--user", "--as", "--as-group"]
    private static let names: Set<String> = globalNames.union([
        "--selector", "--field-selector", "--output", "--filename", "--label-columns", "--sort-by", "--dry-run", "--timeout", "--grace-period", "--patch",
        "--patch-file", "--type", "--subresource", "--for", "--cascade",
    ])
    /// After the verb.
    private(set) var positionals: [String] = []
    private(set) var globalFlags: [String] = []

    init(_ words: [String], before index: Int) {
        var rest = words.prefix(max(0, index)).dropFirst(), verbs: [String] = []
        while let word = rest.popFirst() {
            guard word.hasPrefix("-"), word.count > 1 else {
                // `rollout status` is a verb of two words.
                if verbs.isEmpty || verbs == ["rollout"] { verbs.append(word) } else { positionals.append(word) }
                continue
            }
            let name = String(word.prefix { $0 != "=" }), isLong = word.hasPrefix("--")
            let letter = word.dropFirst().first ?? "-"
            let isGlobal = isLong ? Self.globalNames.contains(name) : Self.globalLetters.contains(letter)
            let takesNext = isLong ? name == word && Self.names.contains(name) : word.count == 2 && Self.letters.contains(letter)
            // The value of the last one may be what is being typed.
            let value = takesNext ? rest.popFirst() : nil
            if isGlobal, !takesNext || value != nil { globalFlags += [word] + (value.map { [$0] } ?? []) }
        }
    }
}

extension CompletionKind {
    /// The kinds of resources, where only these are expected.
    static let resourceTypes = CompletionKind.list(ResourceType.all.map(\.plural))
    static let resources = CompletionKind.custom(NameCompletion.resources)
    static let namespaces = CompletionKind.custom(NameCompletion.namespaces)
    static let nodes = CompletionKind.custom(NameCompletion.nodes)
}
