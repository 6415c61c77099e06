/// `kubectl` takes global flags before the verb as well as after it; the parser knows them only as the verb's.
enum LeadingOptions {
    private static let long: Set<String> = ["--kubeconfig", "--context", "--cluster", "--user", "--server", "--namespace"]
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
