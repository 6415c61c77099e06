import Basics

/// Bytes to records, or a named damage. Segments are given in ascending order, whole; then `finish` says what the log holds.
///
/// 1. A segment's header says whose it is and which frame precedes it.
/// 2. Frames are opened one after another, each bound to the one before it, until the first that is blank or broken.
/// 3. A blank with nothing but zeros behind it, in this segment and the next ones, is the end.
/// 4. Anything else is a torn tail if no frame of a later sync is found behind it; the records' anchor overrules that:
///    what they remember had been synced.
/// 5. Otherwise it is damage. What came before it is returned; what to do is not decided here.
///
/// No bytes make it trap: all of them are foreign.
package struct LogRecovery<Cipher: FrameCipher> {
    private let identity: LogIdentity
    private let anchor: LogAnchor
    private let cipher: Cipher
    private var log = RecoveredLog()
    /// Where reading stopped short of a clean end; later segments decide what it was.
    private var tear: LogDamage?
    private var isFirstSegment = true
    private var indexAfterRestart: LogIndex?
    private let plaintext = FrameBuffer()
    private let associated = FrameBuffer(capacity: 256)

    /// `anchor`: the last frame that the records remember; `nil` when there are no records yet.
    package init(identity: LogIdentity, anchor: LogAnchor?, cipher: Cipher) {
        self.identity = identity
        self.anchor = anchor ?? .beginning
        self.cipher = cipher
    }

    package mutating func read(segment id: UInt64, _ bytes: UnsafeRawBufferPointer) {
        guard log.damage == nil else { return }
        let bytes = unsafe RawBytes(bytes)
        switch SegmentHeader.read(bytes) {
        case .blank where bytes.firstNonZero(from: 0) == nil:
            return
        case .blank, .damaged:
            // A header and the first frame's lie in one sector: a torn write cannot spoil one and spare the other.
            if hasSyncedFrame(bytes, from: 0) {
                log.damage = tear.map { inside($0) } ?? LogDamage(.headerDamage, segment: id, offset: 0)
            } else if tear == nil {
                tear = LogDamage(.tornTail, segment: id, offset: 0)
            }
        case .valid(let header):
            if let tear {
                // A segment is begun only when the one before it has been synced.
                log.damage = inside(tear)
            } else if let kind = objection(to: header, id) {
                log.damage = LogDamage(kind, segment: id, offset: 0)
            } else {
                readFrames(id, bytes)
            }
            isFirstSegment = false
        }
    }

    package consuming func finish() -> RecoveredLog {
        if log.damage == nil, log.lastFrame.sequence < anchor.sequence {
            log.damage = LogDamage(.lostSyncedFrames, segment: tear?.segment ?? log.head.segment, offset: tear?.offset ?? log.head.offset)
        }
        if log.damage == nil { log.damage = tear }
        return log
    }

    /// A tear that turned out to lie before synced frames.
    private func inside(_ tear: LogDamage) -> LogDamage {
        LogDamage(tear.offset == 0 ? .headerDamage : .flippedBits, segment: tear.segment, offset: tear.offset)
    }

    private mutating func objection(to header: SegmentHeader, _ id: UInt64) -> LogDamage.Kind? {
        if header.identity.keyring != identity.keyring { return .wrongKeyring }
        if header.identity.member != identity.member { return .wrongMember }
        if header.segment != id { return .headerDamage }
        guard isFirstSegment else {
            guard let last = log.segments.last else { return .missingSegment }
            if id != last.id &+ 1 { return .missingSegment }
            return header.previous == log.lastFrame ? nil : .sequenceGap
        }
        if header.previous.sequence > anchor.sequence { return .missingSegment }
        if header.previous.sequence == anchor.sequence, header.previous.tag != anchor.tag { return .anchorMismatch }
        log.head = LogHead(segment: id, offset: 0, anchor: header.previous)
        return nil
    }

    private mutating func readFrames(_ id: UInt64, _ bytes: RawBytes) {
        var offset = SegmentHeader.bytes
        var segment = LogSegment(id: id)
        var accepted = false
        while let header = Frame.Header(bytes, at: offset), !header.isZero {
            guard let frame = wholeFrame(header, bytes, at: offset) else { break }
            let sequence = log.lastFrame.sequence &+ 1
            if let kind = accept(frame, header, sequence, &segment, isFirst: !accepted) {
                log.damage = LogDamage(kind, segment: id, offset: offset)
                return
            }
            offset += frame.count
            if !accepted { log.segments.append(segment) }
            accepted = true
            log.segments[log.segments.count - 1] = segment
            log.head = LogHead(segment: id, offset: offset, anchor: LogAnchor(sequence: sequence, tag: Frame.tag(ofFrame: frame)))
            if sequence == anchor.sequence, log.lastFrame != anchor {
                log.damage = LogDamage(.anchorMismatch, segment: id, offset: offset)
                return
            }
        }
        if accepted, bytes.firstNonZero(from: offset) == nil { return }
        if hasSyncedFrame(bytes, from: offset) {
            log.damage = LogDamage(.flippedBits, segment: id, offset: offset)
        } else {
            // A segment without its first frame was never in use: all of it is torn.
            tear = LogDamage(.tornTail, segment: id, offset: accepted ? offset : 0)
        }
    }

    /// The frame at `offset` if its shape and checksum are right.
    private func wholeFrame(_ header: Frame.Header, _ bytes: RawBytes, at offset: Int) -> RawBytes? {
        guard header.isPlausible, let frame = bytes.slice(at: offset, count: header.frameBytes),
              Frame.checksum(ofFrame: frame) == header.checksum else { return nil }
        return frame
    }

    /// Whether a whole frame that began a sync of its own lies behind `start`. Its being there proves that what lies at
    /// `start` had been synced, and so acknowledged.
    private func hasSyncedFrame(_ bytes: RawBytes, from start: Int) -> Bool {
        var offset = start + Frame.alignmentBytes
        // Headers that look right by chance are rare; a disk full of forged ones must not cost quadratic time.
        var checksumBytesLeft = 16 * bytes.count
        while let header = Frame.Header(bytes, at: offset) {
            if header.isPlausible, header.generation == cipher.generation, header.frameBytes <= bytes.count - offset {
                checksumBytesLeft -= header.frameBytes
                if checksumBytesLeft < 0 { return true }
                if header.flags == 0, wholeFrame(header, bytes, at: offset) != nil { return true }
            }
            offset += Frame.alignmentBytes
        }
        return false
    }

    /// Opens a frame and takes its records; a kind of damage if that fails.
    private mutating func accept(
        _ frame: RawBytes, _ header: Frame.Header, _ sequence: UInt64, _ segment: inout LogSegment, isFirst: Bool
    ) -> LogDamage.Kind? {
        guard header.generation == cipher.generation else { return .unknownKeyGeneration }
        guard let head = frame.slice(at: 0, count: 8), let sealed = frame.suffix(from: Frame.headerBytes) else { return .malformedRecords }
        associated.removeAll()
        Frame.appendAssociatedData(identity, segment: segment.id, sequence: sequence, previous: log.lastFrame.tag, to: associated)
        unsafe associated.append(head.pointer)
        plaintext.removeAll()
        let target = unsafe plaintext.extend(by: sealed.count - Frame.cipherOverheadBytes)
        guard unsafe cipher.open(sealed.pointer, associatedData: associated.bytes, into: target) else { return .badTag }
        var failure: LogDamage.Kind?
        var indexMax = segment.entryIndexMax, numberMax = segment.noteNumberMax
        let isWellFormed = LogRecord.visit(unsafe RawBytes(plaintext.bytes)) { record in
            switch record {
            case .entry(let entry): indexMax = max(indexMax, entry.index)
            case .note(let note): numberMax = max(numberMax, note.number)
            default: break
            }
            failure = take(record, isFirst: isFirst)
            return failure == nil
        }
        segment.entryIndexMax = indexMax
        segment.noteNumberMax = numberMax
        return failure ?? (isWellFormed ? nil : .malformedRecords)
    }

    private mutating func take(_ record: LogRecord, isFirst: Bool) -> LogDamage.Kind? {
        switch record {
        case .entry(let entry): return take(entry)
        case .state(let state): log.state = state
        case .beginning(let position): log.beginning = position
        case .restart(let position):
            log.beginning = position
            indexAfterRestart = position.index &+ 1
            log.entries.removeAll()
        case .note(let note): if note.number > log.notesDone { log.notes.append(note) }
        case .notesDone(let number):
            log.notesDone = max(log.notesDone, number)
            log.notes.removeFirst(log.notes.prefix { $0.number <= number }.count)
        case .anchor(let anchor):
            guard isFirst, anchor == log.lastFrame else { return .sequenceGap }
        }
        return nil
    }
    /// Appends, or supersedes the entry at the same index and all behind it.
    private mutating func take(_ entry: LogEntry) -> LogDamage.Kind? {
        guard let first = log.entries.first?.index else {
            if let wanted = indexAfterRestart, entry.index != wanted { return .indexGap }
            indexAfterRestart = nil
            // A beginning said again by a later segment: the entries next to it were cut.
            if let beginning = log.beginning, entry.index != beginning.index &+ 1 { log.beginning = nil }
            log.entries.append(entry)
            return nil
        }
        if entry.index < first {
            // It supersedes all that is here, and more in segments that were cut since.
            if let beginning = log.beginning, entry.index <= beginning.index { return .indexGap }
            log.entries = [entry]
            return nil
        }
        guard entry.index - first <= UInt64(log.entries.count) else { return .indexGap }
        log.entries.removeLast(log.entries.count - Int(entry.index - first))
        log.entries.append(entry)
        return nil
    }
}
