package import Audit
import Basics
package import ReplicaService

/// The store's log as the audit file's journal: the record of a change is durable with the change itself, by one sync.
package struct StoreJournal: AuditJournal {
    private let journal: Journal
    package init(_ journal: Journal) { self.journal = journal }

    package var bytesMax: Int { journal.bytesMax }
    package var lastNumber: UInt64 { journal.lastNumber }
    package func takeRecovered() -> [AuditNote] { journal.takeRecovered().map { AuditNote(number: $0.number, bytes: $0.bytes) } }
    package func begin(_ kept: @escaping @Sendable (UInt64?) -> Void) { journal.begin(kept) }
    package func keep(_ notes: [AuditNote]) -> Bool { journal.keep(notes.map { ($0.number, $0.bytes) }) }
    package func flush() { journal.flush() }
    package func done(through number: UInt64) { journal.done(through: number) }
}
