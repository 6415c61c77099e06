import ObjectStore
import Resources

/// The query parameters of Kubernetes' API.
struct RequestQuery: Equatable {
    private var values: [String: String] = [:]

    static let none = RequestQuery()
    private init() {}

    /// Of what follows the `?`.
    init(_ text: Substring) throws(Status) {
        for pair in text.split(separator: "&", omittingEmptySubsequences: true) {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let key = PercentEncoding.decode(parts[0], plusIsSpace: true),
                let value = PercentEncoding.decode(parts.count > 1 ? parts[1] : "", plusIsSpace: true)
            else { throw .badRequest("the query cannot be read") }
            if values[key] == nil { values[key] = value }
        }
    }

    subscript(key: String) -> String? { values[key].flatMap { $0.isEmpty ? nil : $0 } }

    private func flag(_ key: String) -> Bool {
        guard let value = values[key] else { return false }
        return value.isEmpty || value == "1" || value.lowercased() == "true"
    }
    private func number(_ key: String) throws(Status) -> Int64? {
        guard let value = self[key] else { return nil }
        guard let number = Int64(value), number >= 0 else { throw .badRequest("\(key): Invalid value: \"\(value)\": must be a number, 0 or more") }
        return number
    }

    var isWatch: Bool { flag("watch") }
    /// Kubernetes' streaming lists: the present state as events, a bookmark that ends it, then the changes.
    var sendsInitialEvents: Bool { flag("sendInitialEvents") }
    var allowsBookmarks: Bool { flag("allowWatchBookmarks") }
    func limit() throws(Status) -> Int { Int(clamping: try number("limit") ?? 0) }
    func timeoutSeconds() throws(Status) -> Int64? { try number("timeoutSeconds") }
    func gracePeriodSeconds() throws(Status) -> Int64? { try number("gracePeriodSeconds") }

    func isDryRun() throws(Status) -> Bool {
        guard let value = self["dryRun"] else { return false }
        guard value == "All" else { throw .badRequest("dryRun: Unsupported value: \"\(value)\": supported values: \"All\"") }
        return true
    }

    enum FieldValidation: String { case ignore = "Ignore", warn = "Warn", strict = "Strict" }
    func fieldValidation() throws(Status) -> FieldValidation {
        guard let value = self["fieldValidation"] else { return .warn }
        guard let known = FieldValidation(rawValue: value) else {
            throw .badRequest("fieldValidation: Unsupported value: \"\(value)\": supported values: \"Ignore\", \"Strict\", \"Warn\"")
        }
        return known
    }

    /// Where a watch begins: after this revision; nil: with the present state.
    func watchStart() throws(Status) -> Int64? {
        let revision = try number("resourceVersion") ?? 0
        return revision == 0 ? nil : revision
    }

    func listOptions() throws(Status) -> ListOptions {
        let match = self["resourceVersionMatch"], token = self["continue"] ?? ""
        guard let revision = try number("resourceVersion"), revision > 0 else {
            guard match == nil || match == "NotOlderThan" && self["resourceVersion"] != nil else {
                throw .badRequest("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
            }
            return ListOptions(limit: try limit(), continueToken: token)
        }
        switch match {
        case nil where try limit() > 0 && token.isEmpty: return ListOptions(limit: try limit(), version: .exact(revision))
        case nil, "NotOlderThan": return ListOptions(limit: try limit(), continueToken: token, version: .notOlderThan(revision))
        case "Exact": return ListOptions(limit: try limit(), continueToken: token, version: .exact(revision))
        case .some(let other):
            throw .badRequest("resourceVersionMatch: Unsupported value: \"\(other)\": supported values: \"Exact\", \"NotOlderThan\"")
        }
    }
}

/// What a list or a watch is restricted to.
struct Selection: Sendable {
    /// Empty: any.
    let name: String
    let labels: LabelSelector
    let fields: FieldSelector

    init(_ query: RequestQuery, _ target: ResourceTarget) throws(Status) {
        labels = try query["labelSelector"].map { (text) throws(Status) in try LabelSelector(parsing: text) } ?? .everything
        fields = try query["fieldSelector"].map { (text) throws(Status) in try FieldSelector(parsing: text, for: target.type) } ?? .everything
        name = target.name.isEmpty ? fields.exactValue(of: "metadata.name") ?? "" : target.name
    }

    var isEverything: Bool { name.isEmpty && labels.isEverything && fields.isEverything }
    func matches(_ resource: Resource) -> Bool { (name.isEmpty || name == resource.name) && labels.matches(resource) && fields.matches(resource) }
}
