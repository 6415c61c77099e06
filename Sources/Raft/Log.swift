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
    package private(set) var last: EntryPosition
    private var entries: [Entry]
    package private(set) var committed: LogIndex
    /// The last entry known to be durable here.
    package private(set) var durable: LogIndex
    /// The last entry handed to storage.
    package private(set) var offered: LogIndex
    /// The last entry handed out to be applied.
    package private(set) var released: LogIndex
    /// Where the held entries of kind `.membership` are, in order. There are few.
    private var changes: [LogIndex] = []
    /// The log's end, as it was last handed out: followers that are equally far, and storage, share one array.
    private var tail: [Entry] = []
    private var tailBytes = 0

    /// A log as it was found on disk: `entries` follow `base` without a gap, and all of them are durable.
    package init(base: EntryPosition = .start, entries: [Entry] = [], committed: LogIndex = 0, applied: LogIndex = 0) {
        for (offset, entry) in entries.enumerated() { precondition(entry.index == base.index + 1 + LogIndex(offset), "a gap in the log") }
        self.base = base
        self.entries = entries
        last = entries.last?.position ?? base
        precondition(applied >= base.index && applied <= last.index, "applied index outside the log")
        released = applied
        self.committed = max(applied, min(committed, last.index))
        durable = last.index
        offered = last.index
        for entry in entries where entry.kind == .membership { changes.append(entry.index) }
    }

    package var count: Int { entries.count }

    /// `nil` beyond either end.
    package func term(at index: LogIndex) -> Term? {
        if index == last.index { return last.term }
        if index == base.index { return base.term }
        guard index > base.index, index < last.index else { return nil }
        return entries[offset(index)].term
    }
    package func agrees(with position: EntryPosition) -> Bool { term(at: position.index) == position.term }

    package subscript(index: LogIndex) -> Entry {
        precondition(index > base.index && index <= last.index, "entry \(index) is not in memory")
        return entries[offset(index)]
    }

    /// Entries after `index`, as many as fit in `bytesMax`, at least one if there is one. `nil` when they are no longer held.
    package mutating func entries(after index: LogIndex, bytesMax: Int) -> [Entry]? {
        guard index >= base.index else { return nil }
        guard index < last.index else { return [] }
        if holdsTail(after: index), tailBytes <= bytesMax { return tail }
        var end = offset(index + 1), bytes = 0
        let begin = end
        while end < entries.count {
            let size = entries[end].payload.count
            guard end == begin || bytes + size <= bytesMax else { break }
            bytes += size
            end += 1
        }
        let taken = Array(entries[begin..<end])
        if end == entries.count { (tail, tailBytes) = (taken, bytes) }
        return taken
    }

    /// The bytes of the payloads from `first` to `last`, as far as they are held.
    package func payloadBytes(from first: LogIndex, through last: LogIndex) -> Int {
        var bytes = 0, index = max(first, base.index + 1)
        while index <= last, index <= self.last.index {
            bytes += entries[offset(index)].payload.count
            index += 1
        }
        return bytes
    }

    /// Is there a change of membership after `index`, up to `end`?
    package func hasChange(after index: LogIndex, through end: LogIndex) -> Bool {
        guard let newest = changes.last, newest > index else { return false }
        return changes.contains { $0 > index && $0 <= end }
    }

    /// §5.4.1: is a log that ends at `other` at least as up to date as this one?
    package func isUpToDate(_ other: EntryPosition) -> Bool {
        other.term > last.term || (other.term == last.term && other.index >= last.index) || Mutant.isActive(.voteForShorterLog)
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
        last = entry.position
        if entry.kind == .membership { changes.append(entry.index) }
        entries.append(entry)
    }

    /// What a follower does with a leader's entries: keep what agrees, replace from the first conflict on.
    /// A shorter, older message therefore truncates nothing. False, without a change, when the conflict is with a
    /// committed entry, which no correct leader sends.
    package mutating func merge(_ new: [Entry]) -> Bool {
        guard let first = new.first else { return true }
        var known = 0
        if first.index <= last.index {
            known = new.firstIndex { !agrees(with: $0.position) } ?? new.count
            if Mutant.isActive(.shortAppendTruncates), known == new.count { truncate(after: max(committed, first.index + LogIndex(new.count) - 1)) }
            guard known < new.count else { return true }
            let index = new[known].index
            if Mutant.isActive(.conflictNotTruncated), index <= last.index { return true }
            guard index > committed else { return false }
            if index <= last.index { truncate(after: index - 1) }
        }
        if known == 0, offered == last.index { (tail, tailBytes) = (new, payloadBytes(new)) }
        for entry in new[known...] { append(entry) }
        return true
    }

    private func payloadBytes(_ entries: [Entry]) -> Int { entries.reduce(0) { $0 + $1.payload.count } }

    private mutating func truncate(after index: LogIndex) {
        entries.removeSubrange(offset(index + 1)...)
        last = entries.last?.position ?? base
        offered = min(offered, index)
        durable = min(durable, index)
        while let change = changes.last, change > index { changes.removeLast() }
        (tail, tailBytes) = ([], 0)
    }

    /// Nothing behind the commit index is believed.
    mutating func forgetUncommitted() { if last.index > committed { truncate(after: committed) } }

    /// What storage has not been given yet. They count as given from now on.
    package mutating func takeUnoffered() -> [Entry] {
        guard offered < last.index else { return [] }
        defer { offered = last.index }
        if holdsTail(after: offered) { return tail }
        return Array(entries[offset(offered + 1)...])
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
        changes.removeAll { $0 <= index }
        base = position
    }

    /// The store came to hold everything up to `position`, durably, by other means than this log.
    /// Where the log agrees with that, it goes on from there; else it begins anew.
    package mutating func restart(at position: EntryPosition) {
        if position.index >= base.index, agrees(with: position) {
            entries.removeFirst(Int(position.index - base.index))
            changes.removeAll { $0 <= position.index }
            committed = max(committed, position.index)
            durable = max(durable, position.index)
            offered = max(offered, position.index)
        } else {
            precondition(position.index > committed, "a store that contradicts what is committed")
            entries.removeAll()
            changes.removeAll()
            last = position
            (committed, durable, offered) = (position.index, position.index, position.index)
        }
        (tail, tailBytes) = ([], 0)
        base = position
        released = position.index
    }

    private func holdsTail(after index: LogIndex) -> Bool { tail.first?.index == index + 1 && tail.last?.index == last.index }
    private func offset(_ index: LogIndex) -> Int { Int(index - base.index) - 1 }
}
