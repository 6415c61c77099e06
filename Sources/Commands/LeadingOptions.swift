/// `kubectl` takes `--wait=false` and `--force=true`; the parser's flags take no value.
enum BooleanFlags {
    private static let names: Set<String> = [
        "all", "all-namespaces", "client", "force", "ignore-not-found", "list", "no-headers", "now", "output-watch-events", "overwrite", "quiet", "recursive", "reveal",
        "show-kind", "show-labels", "show-managed-fields", "server-side", "wait", "watch", "watch-only",
    ]

    static func plain(_ arguments: [String]) -> [String] {
        let end = arguments.firstIndex(of: "--") ?? arguments.endIndex
        let isRollout = arguments.first { !$0.hasPrefix("-") } == "rollout"
        return arguments[..<end].compactMap { argument in
            guard argument.hasPrefix("--"), let equals = argument.firstIndex(of: "=") else { return argument }
            let name = String(argument[..<equals].dropFirst(2))
            guard names.contains(name) else { return argument }
            switch argument[argument.index(after: equals)...] {
            case "true": return "--" + name
            // Only `rollout status` watches by itself.
            case "false": return name == "wait" || name == "watch" && isRollout ? "--no-" + name : nil
            default: return argument
            }
        } + arguments[end...]
    }
}

/// `kubectl` takes `-ojsonpath={.a[?(@.b=="c")]}` and `-lapp=web`; the parser takes what stands before an equals sign for the flag's name.
/// A bare `--dry-run` is the client's.
enum JoinedValues {
    private static let letters: Set<Character> = ["n", "o", "l", "L", "s", "f", "p"]

    static func split(_ arguments: [String]) -> [String] {
        let end = arguments.firstIndex(of: "--") ?? arguments.endIndex
        return arguments[..<end].indices.flatMap { index -> [String] in
            let argument = arguments[index], rest = argument.dropFirst(2)
            if argument == "--dry-run" {
                let isTold = index + 1 < end && DryRun(rawValue: arguments[index + 1]) != nil
                return [isTold ? argument : argument + "=client"]
            }
            guard argument.hasPrefix("-"), letters.contains(argument.dropFirst().first ?? "-"), rest.contains("="), rest.first != "=" else { return [argument] }
            return [String(argument.prefix(2)), String(rest)]
        } + arguments[end...]
    }
}

/// `kubectl` takes global flags before the verb as well as after it; the parser knows them only as the verb's.
enum LeadingOptions {
    private static let long: Set<String> = ["--kubeconfig", "--context", "--cluster", "--user", "--server", "--namespace", "--as", "--as-group"]
    private static let short: Set<Character> = ["s", "n"]

    /// `arguments` with the global flags that stand before the verb moved behind what follows it.
    static func moved(_ arguments: [String]) -> [String] {
        var leading: [String] = [], rest = arguments[...]
        while let flag = rest.first, let takesNext = kind(of: flag) {
            leading.append(rest.removeFirst())
            if takesNext {
                guard let value = rest.popFirst() else { return arguments }
                leading.append(value)
            }
        }
        guard !leading.isEmpty, !rest.isEmpty else { return arguments }
        let end = rest.firstIndex(of: "--") ?? rest.endIndex
        return Array(rest[..<end]) + leading + Array(rest[end...])
    }

    /// Whether the flag's value is the next argument; `nil` for what is no global flag.
    private static func kind(of argument: String) -> Bool? {
        if long.contains(argument) { return true }
        if let equals = argument.firstIndex(of: "="), long.contains(String(argument[..<equals])) { return false }
        guard argument.hasPrefix("-"), !argument.hasPrefix("--"), let letter = argument.dropFirst().first, short.contains(letter) else { return nil }
        return argument.count == 2
    }
}
