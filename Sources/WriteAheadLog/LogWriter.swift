package import Basics

/// Where a log writer's bytes go: files, or a simulated disk. Any error is final for the writer.
package protocol LogMedium {
    associatedtype Failure: Error
    /// A pre-filled segment (all zeros) becomes the one that is written.
    func begin(segment: UInt64) throws(Failure)
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, of segment: UInt64) throws(Failure)
    func synchronize(segment: UInt64) throws(Failure)
}

/// Turns batches into frames, and says what to write and what to sync.
///
/// A commit:
/// 1. records are gathered into a frame until it is full;
/// 2. a frame that does not fit into the segment begins the next one: what the old one got is written and synced first;
/// 3. a new segment starts with its header and a frame that says again what earlier segments, which may be cut, said of
///    state and beginning;
/// 4. sealed frames gather in a buffer and are written at once;
/// 5. one sync ends the commit.
///
/// Invariants: bytes once written are never written again; the front of the log is a prefix of what was acknowledged.
package struct LogWriter<Cipher: FrameCipher> {
    package private(set) var head: LogHead
    /// Oldest first; the last is the one being written.
    package private(set) var segments: [LogSegment]
    private let identity: LogIdentity
    private let cipher: Cipher
    private let segmentBytes: Int
    private let plaintextBytesMax: Int
    private let outputBytesMax: Int

    /// As of the last sealed frame.
    private var state: LogState?
    private var beginning: LogPosition?
    /// As of the frame being gathered.
    private var gatheredState: LogState?
    private var gatheredBeginning: LogPosition?
    private var gatheredIndexMax: LogIndex = 0
    private var gatheredNumberMax: UInt64 = 0
    private var notesDone: UInt64
    private var continuesSync = false
    private var isSegmentEnded = false
    private let records = FrameBuffer()
    private let carried = FrameBuffer(capacity: 256)
    private let associated = FrameBuffer(capacity: 256)
    /// Sealed, not yet written; ends at `head.offset`.
    private let output = FrameBuffer(capacity: 1 << 20)

    package init(
        continuing log: RecoveredLog, identity: LogIdentity, cipher: Cipher, segmentBytes: Int, frameBytesMax: Int = Limits.logFrameBytesMax
    ) {
        precondition(segmentBytes >= Self.segmentBytesMin && segmentBytes % Frame.alignmentBytes == 0)
        head = log.head
        segments = log.segments
        state = log.state
        beginning = log.beginning
        notesDone = log.notesDone
        gatheredState = log.state
        gatheredBeginning = log.beginning
        self.identity = identity
        self.cipher = cipher
        self.segmentBytes = segmentBytes
        outputBytesMax = frameBytesMax
        plaintextBytesMax = Self.plaintextBytesMax(segmentBytes: segmentBytes, frameBytesMax: frameBytesMax)
    }
    private static func plaintextBytesMax(segmentBytes: Int, frameBytesMax: Int) -> Int {
        let room = segmentBytes - SegmentHeader.bytes - Frame.size(ofPlaintext: LogRecord.carriedBytesMax)
        return min(frameBytesMax, room) - Frame.size(ofPlaintext: 0) - Frame.alignmentBytes
    }
    /// The largest payload of an entry that fits.
    package static func payloadBytesMax(segmentBytes: Int, frameBytesMax: Int) -> Int {
        max(0, plaintextBytesMax(segmentBytes: segmentBytes, frameBytesMax: frameBytesMax) - LogRecord.entryOverheadBytes)
    }
    /// Holds a header, the carried frame, and a frame with a small entry.
    package static var segmentBytesMin: Int { 512 }

    /// Whether a frame can hold the entry.
    package func fits(_ entry: LogEntry) -> Bool { LogRecord.entryOverheadBytes + entry.payload.count <= plaintextBytesMax }

    package var noteBytesMax: Int { plaintextBytesMax - LogRecord.noteOverheadBytes }

    /// Makes the batches durable, in order, with one sync (or one per segment it reaches). Every entry must fit.
    package mutating func commit<Medium: LogMedium>(_ batches: some Sequence<LogBatch>, to medium: Medium) throws(Medium.Failure) {
        for batch in batches { try gather(batch, medium) }
        try sealFrame(medium)
        guard output.count > 0 || continuesSync else { return }
        try write(medium)
        if !Mutant.isActive(.syncSkipped) { try medium.synchronize(segment: head.segment) }
        continuesSync = false
    }

    /// Forgets the oldest segments whose entries all lie below `index` and whose notes are done with, and returns their ids, oldest first.
    package mutating func cut(before index: LogIndex) -> [UInt64] {
        let keep = segments.firstIndex { $0.entryIndexMax >= index || $0.noteNumberMax > notesDone || $0.id == head.segment } ?? 0
        defer { segments.removeFirst(keep) }
        return segments.prefix(keep).map(\.id)
    }

    /// The next frame begins a new segment, so that this one can be cut when its entries are no longer needed.
    package mutating func endSegment() { isSegmentEnded = head.offset > 0 }

    /// The state comes last: its commit index counts on the entries. Where a torn write leaves some of a batch's entries without its state, their
    /// term tells a restart of the term at least (`Raft.init`), and nothing that depends on the vote was sent.
    private mutating func gather<Medium: LogMedium>(_ batch: LogBatch, _ medium: Medium) throws(Medium.Failure) {
        if let restart = batch.restart {
            try makeRoom(LogRecord.carriedBytesMax, medium)
            LogRecord.append(restart, restarts: true, to: records)
            gatheredBeginning = restart
        }
        for note in batch.notes {
            precondition(note.bytes.count <= noteBytesMax)
            try makeRoom(LogRecord.noteOverheadBytes + note.bytes.count, medium)
            LogRecord.append(note, to: records)
            gatheredNumberMax = max(gatheredNumberMax, note.number)
        }
        if let number = batch.notesDone {
            try makeRoom(LogRecord.carriedBytesMax, medium)
            LogRecord.append(notesDone: number, to: records)
            notesDone = max(notesDone, number)
        }
        for entry in batch.entries {
            precondition(fits(entry))
            try makeRoom(LogRecord.entryOverheadBytes + entry.payload.count, medium)
            LogRecord.append(entry, to: records)
            gatheredIndexMax = max(gatheredIndexMax, entry.index)
        }
        if let state = batch.state {
            try makeRoom(LogRecord.carriedBytesMax, medium)
            LogRecord.append(state, to: records)
            gatheredState = state
        }
    }
    private mutating func makeRoom<Medium: LogMedium>(_ size: Int, _ medium: Medium) throws(Medium.Failure) {
        if records.count + size > plaintextBytesMax { try sealFrame(medium) }
    }

    /// Seals what was gathered, in a new segment if need be.
    private mutating func sealFrame<Medium: LogMedium>(_ medium: Medium) throws(Medium.Failure) {
        guard records.count > 0 else { return }
        if head.offset == 0 || isSegmentEnded || head.offset + Frame.size(ofPlaintext: records.count) > segmentBytes { try beginSegment(medium) }
        seal(records)
        records.removeAll()
        segments[segments.count - 1].entryIndexMax = max(segments[segments.count - 1].entryIndexMax, gatheredIndexMax)
        segments[segments.count - 1].noteNumberMax = max(segments[segments.count - 1].noteNumberMax, gatheredNumberMax)
        (state, beginning, gatheredIndexMax, gatheredNumberMax) = (gatheredState, gatheredBeginning, 0, 0)
        if output.count >= outputBytesMax { try write(medium) }
    }

    private mutating func beginSegment<Medium: LogMedium>(_ medium: Medium) throws(Medium.Failure) {
        if head.offset > 0 {
            if output.count > 0 || continuesSync {
                try write(medium)
                try medium.synchronize(segment: head.segment)
                continuesSync = false
            }
            head.segment += 1
            head.offset = 0
        }
        isSegmentEnded = false
        try medium.begin(segment: head.segment)
        segments.append(LogSegment(id: head.segment))
        SegmentHeader(segment: head.segment, identity: identity, previous: head.anchor).append(to: output)
        head.offset = SegmentHeader.bytes
        carried.removeAll()
        LogRecord.append(head.anchor, to: carried)
        if let beginning { LogRecord.append(beginning, restarts: false, to: carried) }
        if let state { LogRecord.append(state, to: carried) }
        seal(carried)
    }

    /// Appends one frame to the output. The layout is drawn at `Frame`.
    private mutating func seal(_ plaintext: FrameBuffer) {
        let size = Frame.size(ofPlaintext: plaintext.count)
        plaintext.appendZeros(size - Frame.headerBytes - Frame.cipherOverheadBytes - plaintext.count)
        let start = output.count
        output.append(Frame.algorithm)
        output.append(continuesSync ? Frame.continuesSync : 0)
        output.append(cipher.generation)
        output.append(UInt32(size - Frame.headerBytes))
        output.append(0 as UInt32)
        associated.removeAll()
        Frame.appendAssociatedData(identity, segment: head.segment, sequence: head.anchor.sequence + 1, previous: head.anchor.tag, to: associated)
        unsafe associated.append(UnsafeRawBufferPointer(rebasing: output.bytes[start..<start + 8]))
        let target = unsafe output.extend(by: size - Frame.headerBytes)
        unsafe cipher.seal(plaintext.bytes, associatedData: associated.bytes, into: target)
        let frame = unsafe RawBytes(UnsafeRawBufferPointer(rebasing: output.bytes[start...]))
        output.store(Frame.checksum(ofFrame: frame), at: start + 8)
        head.anchor = LogAnchor(sequence: head.anchor.sequence + 1, tag: Frame.tag(ofFrame: frame))
        head.offset += size
        continuesSync = true
    }

    private mutating func write<Medium: LogMedium>(_ medium: Medium) throws(Medium.Failure) {
        guard output.count > 0 else { return }
        try unsafe medium.write(output.bytes, at: head.offset - output.count, of: head.segment)
        output.removeAll()
    }
}
