package import Resources

/// A secret's trail as the server tells it.
package struct SecretTrailAnswer: Sendable {
    package enum State: String, Sendable {
        case held = "Held", replaced = "Replaced", wiped = "Wiped"
        /// The pod is gone, and its node never said that it wiped what it held.
        case unconfirmed = "Unconfirmed"
    }
    /// One version in one pod.
    package struct Span: Sendable {
        package var pod: String
        package var podUID: String
        package var node: String
        package var secretUID: String
        package var resourceVersion: Int64
        package var from: Timestamp
        package var until: Timestamp?
        package var state: State
    }
    /// In the order they began.
    package var spans: [Span]
    /// Older ones that are not kept any more.
    package var omitted: Int64
    /// As it came.
    package var json: JSONValue

    init(_ json: JSONValue) throws {
        guard let rows = json["items"]?.arrayValue else { throw ConnectionFailure("the server did not answer with a trail") }
        self.json = json
        omitted = json["omitted"]?.integerValue ?? 0
        spans = try rows.map { row in
            guard let state = row["state"]?.stringValue.flatMap(State.init), let from = row["from"]?.stringValue.flatMap({ Timestamp($0) }),
                let version = row["resourceVersion"]?.stringValue.flatMap({ Int64($0) })
            else { throw ConnectionFailure("the server answered with a trail that cannot be read") }
            func text(_ key: String) -> String { row[key]?.stringValue ?? "" }
            return Span(
                pod: text("pod"), podUID: text("podUID"), node: text("node"), secretUID: text("secretUID"), resourceVersion: version, from: from,
                until: row["until"]?.stringValue.flatMap { Timestamp($0) }, state: state)
        }
    }
}
