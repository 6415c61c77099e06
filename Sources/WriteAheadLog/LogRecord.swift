package import Basics

/// An entry of the replicated log; `payload` is opaque here.
package struct LogEntry: Hashable, Sendable {
    package var index: LogIndex
    package var term: Term
    /// A change of membership, which consensus treats apart.
    package var isMembership: Bool
    package var payload: Bytes
    package init(index: LogIndex, term: Term, isMembership: Bool = false, payload: Bytes) {
        self.index = index; self.term = term; self.isMembership = isMembership; self.payload = payload
    }
}

/// What a member must remember besides entries (Raft's hard state). `vote` is the member voted for in `term`.
package struct LogState: Hashable, Sendable {
    package var term: Term
    package var vote: MemberID?
    package var commit: LogIndex
    package init(term: Term, vote: MemberID?, commit: LogIndex) { self.term = term; self.vote = vote; self.commit = commit }
}

/// An entry known by index and term alone: the one before the log's first.
package struct LogPosition: Hashable, Sendable {
    package var index: LogIndex
    package var term: Term
    package init(index: LogIndex, term: Term) { self.index = index; self.term = term }
}

/// Bytes that stand in the log until they are durable elsewhere as well: no part of consensus, of this member alone.
package struct LogNote: Hashable, Sendable {
    /// Never falls from one note to the next.
    package var number: UInt64
    package var bytes: Bytes
    package init(number: UInt64, bytes: Bytes) { self.number = number; self.bytes = bytes }
}

/// What becomes durable together. Entries follow each other; the first may supersede (index at or below the log's last).
package struct LogBatch: Hashable, Sendable {
    /// The store was replaced by a snapshot up to here: everything logged before is void, the next entry is `index + 1`.
    package var restart: LogPosition?
    package var entries: [LogEntry]
    package var state: LogState?
    package var notes: [LogNote]
    /// Notes up to this number are not needed any more.
    package var notesDone: UInt64?
    package init(
        entries: [LogEntry] = [], state: LogState? = nil, restart: LogPosition? = nil, notes: [LogNote] = [], notesDone: UInt64? = nil
    ) {
        self.entries = entries; self.state = state; self.restart = restart; self.notes = notes; self.notesDone = notesDone
    }
}

/// The records inside a frame, one after another:
///
///     0                                                     padding, to the frame's end
///     1 | index u64 | term u64 | length u32 | payload       entry
///     2 | term u64 | vote u64 (0: none) | commit u64        state
///     3 | index u64 | term u64                              restart: all before is void
///     4 | sequence u64 | tag 16                             anchor: the frame before this segment
///     5 | index u64 | term u64                              beginning: a restart said again in a new segment
///     6 | index u64 | term u64 | length u32 | payload       entry that changes the membership
///     7 | number u64 | length u64 | bytes                   note
///     8 | number u64 | 0 u64                                notes up to this one are done with
package enum LogRecord: Hashable, Sendable {
    case entry(LogEntry)
    case state(LogState)
    case restart(LogPosition)
    case anchor(LogAnchor)
    case beginning(LogPosition)
    case note(LogNote)
    case notesDone(UInt64)

    static let entryOverheadBytes = 21
    static let noteOverheadBytes = 17
    /// Anchor, state and beginning: what the first frame of a segment says again.
    static let carriedBytesMax = 25 + 25 + 17

    static func append(_ entry: LogEntry, to buffer: FrameBuffer) {
        buffer.append((entry.isMembership ? 6 : 1) as UInt8)
        buffer.append(entry.index)
        buffer.append(entry.term)
        buffer.append(UInt32(entry.payload.count))
        buffer.append(entry.payload)
    }
    static func append(_ state: LogState, to buffer: FrameBuffer) {
        buffer.append(2 as UInt8)
        buffer.append(state.term)
        buffer.append(state.vote?.rawValue ?? 0)
        buffer.append(state.commit)
    }
    static func append(_ position: LogPosition, restarts: Bool, to buffer: FrameBuffer) {
        buffer.append((restarts ? 3 : 5) as UInt8)
        buffer.append(position.index)
        buffer.append(position.term)
    }
    static func append(_ anchor: LogAnchor, to buffer: FrameBuffer) {
        buffer.append(4 as UInt8)
        anchor.append(to: buffer)
    }

    static func append(_ note: LogNote, to buffer: FrameBuffer) {
        buffer.append(7 as UInt8)
        buffer.append(note.number)
        buffer.append(UInt64(note.bytes.count))
        buffer.append(note.bytes)
    }
    static func append(notesDone number: UInt64, to buffer: FrameBuffer) {
        buffer.append(8 as UInt8)
        buffer.append(number)
        buffer.append(0 as UInt64)
    }

    /// Visits the records of a frame; false when the bytes are none of our making.
    static func visit(_ plaintext: RawBytes, _ body: (LogRecord) -> Bool) -> Bool {
        var offset = 0
        while let kind = plaintext.integer(UInt8.self, at: offset) {
            if kind == 0 { return plaintext.firstNonZero(from: offset) == nil }
            guard let (record, size) = parse(kind, plaintext, at: offset + 1) else { return false }
            offset += 1 + size
            guard body(record) else { return false }
        }
        return true
    }
    private static func parse(_ kind: UInt8, _ bytes: RawBytes, at offset: Int) -> (LogRecord, size: Int)? {
        guard let first = bytes.integer(UInt64.self, at: offset), let second = bytes.integer(UInt64.self, at: offset + 8) else { return nil }
        switch kind {
        case 1, 6:
            guard let length = bytes.integer(UInt32.self, at: offset + 16),
                  let payload = bytes.slice(at: offset + 20, count: Int(length)) else { return nil }
            return (.entry(LogEntry(index: first, term: second, isMembership: kind == 6, payload: payload.copied)), 20 + Int(length))
        case 2:
            guard let commit = bytes.integer(UInt64.self, at: offset + 16) else { return nil }
            return (.state(LogState(term: first, vote: second == 0 ? nil : MemberID(second), commit: commit)), 24)
        case 3: return (.restart(LogPosition(index: first, term: second)), 16)
        case 4:
            guard let anchor = LogAnchor(bytes, at: offset) else { return nil }
            return (.anchor(anchor), LogAnchor.encodedBytes)
        case 5: return (.beginning(LogPosition(index: first, term: second)), 16)
        case 7:
            guard let length = Int(exactly: second), let note = bytes.slice(at: offset + 16, count: length) else { return nil }
            return (.note(LogNote(number: first, bytes: note.copied)), 16 + length)
        case 8: return (.notesDone(first), 16)
        default: return nil
        }
    }
}
