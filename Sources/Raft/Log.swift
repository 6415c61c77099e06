package import Basics

/// The part of the replicated log that is in memory, and how far each entry has come.
///
///      base          released        committed         last
///        │ ◀── handed ──▶│               │               │
///        ├───────────────┼───────────────┼───────────────┤
///              durable may lie anywhere ≥ released:  │ durable   │ offered
///
/// Invariant: base ≤ released ≤ min(committed, durable); durable ≤ offered ≤ last.
/// Invariant: what is released for applying is durable *here* and committed, and never changes again.
package struct Log: Sendable {
    /// The entry before the first one held.
    package private(set) var base: EntryPosition
    private var entries: [Entry]
    package private(set) var committed: LogIndex
    /// The last entry known to be durable here.
    package private(set) var durable: LogIndex
    /// The last entry handed to storage.
    package private(set) var offered: LogIndex
    /// The last entry handed out to be applied.
    package private(set) var released: LogIndex

    /// A log as it was found on disk: `entries` follow `base` without a gap, and all of them are durable.
    package init(base: EntryPosition = .start, entries: [Entry] = [], committed: LogIndex = 0, applied: LogIndex = 0) {
        for (offset, entry) in entries.enumerated() { precondition(entry.index == base.index + 1 + LogIndex(offset), "a gap in the log") }
        self.base = base
        self.entries = entries
        let last = base.index + LogIndex(entries.count)
        precondition(applied >= base.index && applied <= last, "applied index outside the log")
        released = applied
        self.committed = max(applied, min(committed, last))
        durable = last
        offered = last
    }

    package var last: EntryPosition { entries.last?.position ?? base }
    package var count: Int { entries.count }

    /// `nil` beyond either end.
    package func term(at index: LogIndex) -> Term? {
        if index == base.index { return base.term }
        guard index > base.index, index <= last.index else { return nil }
        return entries[offset(index)].term
    }
    package func agrees(with position: EntryPosition) -> Bool { term(at: position.index) == position.term }

    package subscript(index: LogIndex) -> Entry {
        precondition(index > base.index && index <= last.index, "entry \(index) is not in memory")
        return entries[offset(index)]
    }

    /// Entries after `index`, as many as fit in `bytesMax`, at least one if there is one. `nil` when they are no longer held.
    package func entries(after index: LogIndex, bytesMax: Int) -> [Entry]? {
        guard index >= base.index else { return nil }
        guard index < last.index else { return [] }
        var end = offset(index + 1), bytes = 0
        let begin = end
        while end < entries.count, end == begin || bytes + entries[end].payload.count <= bytesMax {
            bytes += entries[end].payload.count
            end += 1
        }
        return Array(entries[begin..<end])
    }

    /// §5.4.1: is a log that ends at `other` at least as up to date as this one?
    package func isUpToDate(_ other: EntryPosition) -> Bool {
        other.term > last.term || (other.term == last.term && other.index >= last.index)
    }

    /// The last position at or before `position` whose term is not above its term: where two logs might agree.
    package func lastPossibleAgreement(with position: EntryPosition) -> EntryPosition {
        var index = min(position.index, last.index)
        while index > base.index, let term = term(at: index), term > position.term { index -= 1 }
        return EntryPosition(index: index, term: term(at: index) ?? 0)
    }

    // MARK: - Changes

    package mutating func append(_ entry: Entry) {
        precondition(entry.index == last.index + 1, "a gap in the log")
        entries.append(entry)
    }

    /// What a follower does with a leader's entries: keep what agrees, replace from the first conflict on.
    /// A shorter, older message therefore truncates nothing. False, without a change, when the conflict is with a
    /// committed entry, which no correct leader sends.
    package mutating func merge(_ new: [Entry]) -> Bool {
        guard let conflict = new.firstIndex(where: { !agrees(with: $0.position) }) else { return true }
        let index = new[conflict].index
        guard index > committed else { return false }
        if index <= last.index {
            entries.removeSubrange(offset(index)...)
            offered = min(offered, index - 1)
            durable = min(durable, index - 1)
        }
        for entry in new[conflict...] { append(entry) }
        return true
    }

    /// What storage has not been given yet. They count as given from now on.
    package mutating func takeUnoffered() -> [Entry] {
        guard offered < last.index else { return [] }
        let taken = Array(entries[offset(offered + 1)...])
        offered = last.index
        return taken
    }

    package mutating func markDurable(through position: EntryPosition) {
        guard agrees(with: position), position.index <= offered else { return }
        durable = max(durable, position.index)
    }

    package mutating func commit(through index: LogIndex) {
        precondition(index <= last.index, "commit beyond the log")
        committed = max(committed, index)
    }

    /// The next mark up to which entries may be applied, if it moved.
    package mutating func release() -> LogIndex? {
        let next = min(committed, durable)
        guard next > released else { return nil }
        released = next
        return next
    }

    /// Forgets entries up to `index`, which must have been released.
    package mutating func compact(through index: LogIndex) {
        guard index > base.index else { return }
        precondition(index <= released, "the log is cut only where it was applied")
        let position = self[index].position
        entries.removeFirst(offset(index) + 1)
        base = position
    }

    private func offset(_ index: LogIndex) -> Int { Int(index - base.index) - 1 }
}
