/// Prometheus' text format, version 0.0.4.
struct Exposition {
    enum Kind: String { case gauge, counter }
    private(set) var text = ""

    mutating func add(_ name: String, _ kind: Kind, _ help: String, _ value: some BinaryInteger) { add(name, kind, help, text: "\(value)") }
    mutating func add(_ name: String, _ kind: Kind, _ help: String, _ value: Double) { add(name, kind, help, text: "\(value)") }
    mutating func add(_ name: String, _ kind: Kind, _ help: String, _ value: Bool) { add(name, kind, help, text: value ? "1" : "0") }
    /// One sample for each of `values`, told apart by `label`.
    mutating func add(_ name: String, _ kind: Kind, _ help: String, by label: String, _ values: [(String, Int64)]) {
        guard !values.isEmpty else { return }
        begin(name, kind, help)
        for (labelled, value) in values { text += "\(name){\(label)=\"\(Self.escaped(labelled))\"} \(value)\n" }
    }

    private mutating func add(_ name: String, _ kind: Kind, _ help: String, text value: String) {
        begin(name, kind, help)
        text += "\(name) \(value)\n"
    }
    private mutating func begin(_ name: String, _ kind: Kind, _ help: String) { text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n" }

    static func escaped(_ label: String) -> String {
        var escaped = ""
        for scalar in label.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\\\"
            case "\"": escaped += "\\\""
            case "\n": escaped += "\\n"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
