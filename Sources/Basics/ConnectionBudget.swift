/// How many connections the servers of one process may hold, of the files it may have open: without what is left for the store's own, the log's next
/// segment could not be opened, and the store would stop because somebody connected often enough.
package struct ConnectionBudget: Equatable, Sendable {
    /// Of log, records, trail and certificates, of members to each other, of threads and event loops.
    package static let filesReserved = 768
    package var clients: Int
    package var secrets: Int
    package init(filesMax: Int) {
        let reserved = min(Self.filesReserved, max(filesMax, 0) / 2), left = max(filesMax, 0) - reserved
        clients = max(1, min(Limits.connectionsMax, left / 2))
        secrets = max(1, min(Limits.connectionsMax, left / 2))
    }
}
