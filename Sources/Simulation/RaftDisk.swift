import Basics
import Raft

/// An entry as checkers remember it: its term, and a hash of it and of everything before it.
struct Link: Equatable {
    var term: Term
    var chain: UInt64

    init(_ entry: Entry, after previous: UInt64) {
        var hash = EventHash()
        hash.mix(previous)
        hash.mix(entry.term)
        var word: UInt64 = UInt64(entry.payload.count)
        for byte in entry.payload { word = word &* 257 &+ UInt64(byte) }
        hash.mix(word)
        term = entry.term
        chain = hash.value
    }
}

/// A log as checkers remember it: one link an entry, from index 1 on, whatever was compacted.
struct LinkedLog {
    private(set) var links: [Link] = []
    var last: LogIndex { LogIndex(links.count) }

    subscript(index: LogIndex) -> Link? { index > 0 && index <= last ? links[Int(index) - 1] : nil }
    func chain(at index: LogIndex) -> UInt64 { index == 0 ? 0 : self[index]?.chain ?? .max }

    mutating func cut(after index: LogIndex) { if index < last { links.removeSubrange(Int(index)...) } }
    mutating func append(_ link: Link) { links.append(link) }
    mutating func replace(with other: LinkedLog) { links = other.links }
}

/// A member's log on disk: what is durable, and the writes on their way, in order. The shipping log keeps a prefix of its
/// writes whatever a crash does to the sectors beneath (which the full simulation tries), so here a crash keeps a prefix.
struct RaftDisk {
    struct Write {
        var entries: [Entry]
        /// One for each entry.
        var links: [Link]
        var state: HardState?
        var afterwards: [Message]
        var stored: Raft.Stored
    }
    private(set) var state = HardState()
    /// The store holds everything up to here for good; entries up to `base` are gone.
    private(set) var base = EntryPosition.start
    private(set) var entries: [Entry] = []
    private(set) var log = LinkedLog()
    var waiting: [Write] = []
    /// How many of `waiting` the sync under way will make durable; 0: none is under way.
    var syncing = 0

    mutating func perform(_ write: Write) {
        if let first = write.entries.first {
            let kept = first.index - base.index - 1
            if kept < LogIndex(entries.count) { entries.removeSubrange(Int(kept)...) }
            entries.append(contentsOf: write.entries)
            log.cut(after: first.index - 1)
            for link in write.links { log.append(link) }
        }
        if let state = write.state { self.state = state }
    }

    /// The store holds everything up to `index`, and the log's beginning is dropped.
    mutating func cut(through index: LogIndex) {
        guard index > base.index, index <= base.index + LogIndex(entries.count) else { return }
        let count = Int(index - base.index)
        base = entries[count - 1].position
        entries.removeFirst(count)
    }
    /// Another member's store, as of `position`, took the place of this one's: what was logged is void.
    mutating func restart(at position: EntryPosition, log newLog: LinkedLog) {
        base = position
        entries.removeAll()
        log.replace(with: newLog)
    }
}
