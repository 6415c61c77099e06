/// What someone asked for, what was decided and why, and what came of it: one per request, or per batch of watch events.
/// It names objects and never holds a value.
package struct AuditRecord: Hashable, Sendable {
    package enum Decision: Hashable, Sendable { case allowed(because: String), denied(because: String) }

    /// Milliseconds since 1970, read by whoever makes the record.
    package var timeMilliseconds: UInt64
    /// Where it came in: `secrets`, `etcd`, `keyvault`, `node`.
    package var surface: String
    /// The authenticated name; `anonymous` if there is none.
    package var who: String
    /// `get`, `list`, `watch`, `create`, `put`, `range`, `txn` …
    package var verb: String
    /// What it was about, as a path: `namespaces/prod/secrets/db`, or a key range. Names only.
    package var resource: String
    package var decision: Decision
    /// What came of it: `ok`, or the error's code.
    package var outcome: String
    /// How many objects or events it concerned.
    package var count: Int

    package init(
        timeMilliseconds: UInt64, surface: String, who: String, verb: String, resource: String, decision: Decision, outcome: String, count: Int = 1
    ) {
        self.timeMilliseconds = timeMilliseconds; self.surface = surface; self.who = who; self.verb = verb
        self.resource = resource; self.decision = decision; self.outcome = outcome; self.count = count
    }

    /// One line of JSON, with its line feed. Control characters in names are escaped, so that no name can forge a line.
    func appendLine(to line: inout [UInt8]) {
        line.append(contentsOf: #"{"time":"#.utf8)
        line.append(contentsOf: String(timeMilliseconds).utf8)
        func field(_ name: String, _ value: String) {
            line.append(contentsOf: #",""#.utf8)
            line.append(contentsOf: name.utf8)
            line.append(contentsOf: #"":"#.utf8)
            Self.append(value, to: &line)
        }
        field("surface", surface); field("who", who); field("verb", verb); field("resource", resource)
        switch decision {
        case .allowed(let reason): field("decision", "allowed"); field("because", reason)
        case .denied(let reason): field("decision", "denied"); field("because", reason)
        }
        field("outcome", outcome)
        line.append(contentsOf: #","count":\#(count)}"#.utf8)
        line.append(UInt8(ascii: "\n"))
    }

    private static let hexDigits = Array("0123456789abcdef".utf8)
    private static func append(_ value: String, to line: inout [UInt8]) {
        func isPlain(_ byte: UInt8) -> Bool { byte >= 0x20 && byte != 0x7f && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\") }
        line.append(UInt8(ascii: "\""))
        defer { line.append(UInt8(ascii: "\"")) }
        if value.utf8.allSatisfy(isPlain) { return line.append(contentsOf: value.utf8) }
        for byte in value.utf8 {
            switch byte {
            case _ where isPlain(byte): line.append(byte)
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): line.append(contentsOf: [UInt8(ascii: "\\"), byte])
            default: line.append(contentsOf: #"\u00"#.utf8 + [hexDigits[Int(byte >> 4)], hexDigits[Int(byte & 15)]])
            }
        }
    }
}
