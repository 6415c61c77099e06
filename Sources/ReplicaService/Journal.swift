package import Basics
import Storage
import Synchronization
import WriteAheadLog

/// The log of this member, lent to others who must make bytes durable: theirs go into its frames, with the entries, and share their sync.
///
/// 1. `keep` hands over notes, in the order of their numbers. They become durable with the next entries that this member logs.
/// 2. `flush` does not wait for entries.
/// 3. Once a note is durable where it belongs, `done` says so: before that, the part of the log that holds it is not removed.
/// 4. `takeRecovered` answers what the log held at the start and is not known to be done with.
///
/// Invariant: notes are of this member alone: no other one sees them, and a store that is fetched anew from others brings none.
package final class Journal: Sendable {
    private let disk: DiskLane
    private let recovered: Mutex<[Note]>
    package typealias Note = (number: UInt64, bytes: Bytes)
    /// Numbers up to this one were used.
    package let lastNumber: UInt64

    init(_ disk: DiskLane, notes: [LogNote], done: UInt64) {
        self.disk = disk
        lastNumber = max(notes.last?.number ?? 0, done)
        recovered = Mutex(notes.map { ($0.number, $0.bytes) })
    }

    /// Of one note.
    package var bytesMax: Int { disk.noteBytesMax }
    /// Once; what is not taken is let go of by the next `done`.
    package func takeRecovered() -> [Note] {
        recovered.withLock { notes in
            defer { notes = [] }
            return notes
        }
    }
    /// `kept` is called on the log's thread, which it must not block, with the number up to which notes are durable; `nil`: no more will be.
    package func begin(_ kept: @escaping @Sendable (UInt64?) -> Void) { disk.whenNotesAreKept { kept(try? $0.get()) } }
    /// False: the log is closed.
    package func keep(_ notes: [Note]) -> Bool { disk.keep(notes.map { LogNote(number: $0.number, bytes: $0.bytes) }) }
    package func flush() { disk.flushNotes() }
    package func done(through number: UInt64) { disk.notesAreDone(through: number) }
}
