/// Everything that happened to the entries, in order: the state at any revision follows.
///
/// Invariant: `changes` ascend by revision, else `violations` says so.
package struct Ledger: Sendable {
    package let changes: [Change]
    /// All that ever were, in order.
    package let keys: [String]
    /// Per key, ascending; `nil` after a delete.
    private let histories: [String: [(revision: Int64, version: Version?)]]
    private let byRevision: [Int64: [Change]]
    /// What is wrong with the history in itself.
    package let violations: [Violation]

    package init(_ changes: [Change]) {
        var histories: [String: [(revision: Int64, version: Version?)]] = [:], violations: [Violation] = [], last: Int64 = 0
        for change in changes {
            if change.revision < last { violations.append(Violation(.revisionsAscend, "\(change) comes after revision \(last)")) }
            last = max(last, change.revision)
            let before = histories[change.key]?.last
            if let before, before.revision == change.revision { violations.append(Violation(.revisionsAscend, "\(change.key) changed twice in revision \(change.revision)")) }
            switch change {
            case .put(let version):
                let (create, count) = before?.version.map { ($0.createRevision, $0.version + 1) } ?? (version.revision, 1)
                if version.createRevision != create || version.version != count {
                    violations.append(Violation(.versionsCount, "\(version): created at \(create), version \(count) was due"))
                }
                histories[change.key, default: []].append((version.revision, version))
            case .delete(let key, let revision):
                if before?.version == nil { violations.append(Violation(.versionsCount, "\(key) was deleted at \(revision), and was not there")) }
                histories[key, default: []].append((revision, nil))
            }
        }
        self.changes = changes
        self.histories = histories
        keys = histories.keys.sorted()
        self.violations = violations
        byRevision = Dictionary(grouping: changes, by: \.revision)
    }

    package var revisions: [Int64] { byRevision.keys.sorted() }
    package func changes(at revision: Int64) -> [Change] { byRevision[revision] ?? [] }

    /// The entry at a revision.
    package func version(of key: String, at revision: Int64) -> Version? {
        guard let history = histories[key] else { return nil }
        var low = 0, high = history.count // the first after `revision`
        while low < high {
            let middle = (low + high) / 2
            if history[middle].revision <= revision { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? nil : history[low - 1].version
    }

    package func state(_ scope: Scope, at revision: Int64) -> [Version] {
        if case .key(let key) = scope { return version(of: key, at: revision).map { [$0] } ?? [] }
        return keys.filter(scope.contains).compactMap { version(of: $0, at: revision) }
    }
}
