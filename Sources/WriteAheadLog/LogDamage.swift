package import Basics

/// What is wrong with a log, and where. Of all kinds only a torn tail is harmless: nothing in it was ever acknowledged.
package struct LogDamage: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Kind: String, Hashable, Sendable, CaseIterable {
        /// The last sync did not finish: its frames are incomplete, and none of a later sync follows.
        case tornTail
        /// Checksum or shape is wrong, and frames of later syncs follow.
        case flippedBits
        /// Whole, but not what was sealed here: changed, moved, or sealed under another key.
        case badTag
        /// Opened, but no records: written by another version, or a mistake of ours.
        case malformedRecords
        /// Sealed under a file key of another generation.
        case unknownKeyGeneration
        /// A segment is not there, though what surrounds it is; or the front is gone beyond what was cut.
        case missingSegment
        /// A segment does not follow the one before it: frames at its end are gone.
        case sequenceGap
        /// The log ends before a frame that the records remember.
        case lostSyncedFrames
        /// The log has another frame where the records remember one.
        case anchorMismatch
        case wrongKeyring
        case wrongMember
        /// The first bytes of a segment in use are unreadable.
        case headerDamage
        /// An entry that does not follow the one before it.
        case indexGap
    }
    package var kind: Kind
    package var segment: UInt64
    /// In bytes, within the segment.
    package var offset: Int
    package init(_ kind: Kind, segment: UInt64, offset: Int) { self.kind = kind; self.segment = segment; self.offset = offset }
    package var isTornTail: Bool { kind == .tornTail }
    package var description: String { "damaged log: \(kind.rawValue) in segment \(segment) at offset \(offset)" }
}

/// Where the next frame goes.
package struct LogHead: Hashable, Sendable {
    package var segment: UInt64
    /// 0: the segment has not been begun.
    package var offset: Int
    /// The last frame.
    package var anchor: LogAnchor
    package init(segment: UInt64, offset: Int, anchor: LogAnchor) { self.segment = segment; self.offset = offset; self.anchor = anchor }
    package static let beginning = LogHead(segment: 1, offset: 0, anchor: .beginning)
}

/// A segment in use.
package struct LogSegment: Hashable, Sendable {
    package var id: UInt64
    /// The greatest index among its entries; 0 when it has none.
    package var entryIndexMax: LogIndex
    /// The greatest number among its notes; 0 when it has none.
    package var noteNumberMax: UInt64 = 0
    package init(id: UInt64, entryIndexMax: LogIndex = 0) { self.id = id; self.entryIndexMax = entryIndexMax }
}

/// What a log holds.
package struct RecoveredLog: Equatable, Sendable {
    package var state: LogState?
    /// The position before the first entry, when a restart said so.
    package var beginning: LogPosition?
    package var entries: [LogEntry] = []
    /// Those that are not done with, in the order they were written; and up to which number they are.
    package var notes: [LogNote] = []
    package var notesDone: UInt64 = 0
    package var damage: LogDamage?
    package var head = LogHead.beginning
    package var segments: [LogSegment] = []
    package var lastFrame: LogAnchor { head.anchor }
    package init() {}
}
