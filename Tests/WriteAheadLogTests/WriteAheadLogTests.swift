import Basics
import Testing
import WriteAheadLog

@Suite("The write-ahead log's codec")
struct CodecTests {
    @Test("CRC-32C gives RFC 3720's check values, at every length of the eight-byte step")
    func checksum() {
        func crc(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { Checksum.of($0) } }
        #expect(crc(Array("123456789".utf8)) == 0xe306_9283)
        #expect(crc([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
        #expect(crc([UInt8](repeating: 0xff, count: 32)) == 0x62a8_ab43)
        let bytes = (0..<67).map { UInt8($0) }
        for split in 0...67 {
            var checksum = Checksum()
            bytes[..<split].withUnsafeBytes { checksum.update($0) }
            bytes[split...].withUnsafeBytes { checksum.update($0) }
            #expect(checksum.value == crc(bytes))
        }
    }

    @Test("what was committed is recovered: entries, state, position, over many segments")
    func roundtrip() {
        var log = MemoryLog()
        for i in 1...40 as ClosedRange<LogIndex> { log.append(i...i, state: LogState(term: 1, vote: MemberID(3), commit: i - 1)) }
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.entries == (1...40).map { LogEntry(index: $0, term: 1, payload: payload($0, 20)) })
        #expect(recovered.state == LogState(term: 1, vote: MemberID(3), commit: 39))
        #expect(recovered.head == log.writer.head)
        #expect(recovered.segments == log.writer.segments)
        #expect(recovered.segments.count > 3)
    }

    @Test("a recovered log is continued where it ended")
    func continued() {
        var log = MemoryLog()
        log.append(1...7)
        for next in 8...30 as ClosedRange<LogIndex> {
            log.writer = LogWriter(continuing: log.recovered(), identity: identity, cipher: ToyCipher(), segmentBytes: 1024)
            log.append(next...next)
        }
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.entries.map(\.index) == Array(1...30))
    }

    @Test("a commit larger than a segment is split into frames and spans segments")
    func largeCommit() {
        var log = MemoryLog()
        log.append(1...100)
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.entries.map(\.index) == Array(1...100))
    }

    @Test("later entries supersede earlier ones at and behind their index")
    func superseding() {
        var log = MemoryLog()
        log.append(1...10)
        log.append(6...7, term: 2)
        let recovered = log.recovered()
        #expect(recovered.entries.map(\.index) == Array(1...7))
        #expect(recovered.entries.map(\.term) == [1, 1, 1, 1, 1, 2, 2])
    }

    @Test("a restart voids what came before, and the position is said again in later segments")
    func restart() {
        var log = MemoryLog()
        log.append(1...5)
        log.writer.commit([LogBatch(restart: LogPosition(index: 50, term: 4))], to: log.medium)
        #expect(log.recovered().beginning == LogPosition(index: 50, term: 4))
        #expect(log.recovered().entries.isEmpty)
        log.append(51...53, term: 4)
        #expect(log.recovered().entries.map(\.index) == [51, 52, 53])
        #expect(log.recovered().beginning == LogPosition(index: 50, term: 4))
    }

    @Test("the front is cut by whole segments below the index only, and what stays opens, with the state it had")
    func cut() throws {
        var log = MemoryLog()
        let state = LogState(term: 1, vote: nil, commit: 0)
        log.append(1...3, state: state)
        for i in 4...60 as ClosedRange<LogIndex> { log.append(i...i) }
        let before = log.writer.segments
        for index in 1...60 as ClosedRange<LogIndex> {
            var writer = log.writer
            var segments = log.medium.segments
            for id in writer.cut(before: index) { segments[id] = nil }
            let kept = recover(segments, anchor: log.writer.head.anchor).entries.map(\.index)
            #expect(kept.contains(index), "entry \(index) was cut with those before it")
            let oldest = try #require(writer.segments.first)
            #expect(oldest.entryIndexMax >= index, "segment \(oldest.id) could go")
        }
        let removed = log.writer.cut(before: 30)
        #expect(removed == Array(before.map(\.id).prefix(removed.count)))
        #expect(!removed.isEmpty)
        for id in removed { log.medium.segments[id] = nil }
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.state == state)
        let first = try #require(recovered.entries.first?.index)
        #expect(first <= 30 && recovered.entries.last?.index == 60)
        #expect(log.writer.cut(before: 1_000).count == log.medium.segments.count - 1, "the segment being written stays")
    }

    @Test("where the front was cut, an entry before all that is left supersedes it: the log goes on from there")
    func cutBeforeSuperseded() {
        var log = MemoryLog()
        log.append(1...127)
        log.writer.endSegment()
        log.append(128...130)
        log.append(127...129, term: 2)
        let removed = log.writer.cut(before: 128)
        #expect(!removed.isEmpty)
        for id in removed { log.medium.segments[id] = nil }
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.entries.map(\.index) == [127, 128, 129] && recovered.entries.allSatisfy { $0.term == 2 })
    }

    @Test("no entry supersedes the beginning of the log")
    func beginningStays() {
        var log = MemoryLog()
        log.writer.commit([LogBatch(restart: LogPosition(index: 50, term: 4))], to: log.medium)
        log.append(51...53, term: 4)
        log.append(50...50, term: 5)
        #expect(log.recovered().damage?.kind == .indexGap)
    }

    @Test("an ended segment takes no more entries, and can be cut with what it holds")
    func endedSegment() {
        var log = MemoryLog()
        log.append(1...2)
        log.writer.endSegment()
        log.append(3...3)
        #expect(log.writer.segments == [LogSegment(id: 1, entryIndexMax: 2), LogSegment(id: 2, entryIndexMax: 3)])
        #expect(log.writer.cut(before: 3) == [1])
        log.medium.segments[1] = nil
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.entries.map(\.index) == [3])
    }

    @Test("notes are recovered with what they were committed with, in order, until they are done with; a segment with others of them stays")
    func notes() {
        func notes(_ numbers: ClosedRange<UInt64>) -> [LogNote] { numbers.map { LogNote(number: $0, bytes: payload($0, Int($0))) } }
        var log = MemoryLog(segmentBytes: 512)
        log.writer.commit([LogBatch(notes: notes(1...3))], to: log.medium)
        for i in 1...30 as ClosedRange<LogIndex> {
            let batch = LogBatch(entries: [LogEntry(index: i, term: 1, payload: payload(i, 20))], notes: notes(3 + i...3 + i))
            log.writer.commit([batch], to: log.medium)
        }
        #expect(log.recovered().damage == nil)
        #expect(log.recovered().notes == notes(1...33))
        #expect(log.recovered().entries.map(\.index) == Array(1...30))
        #expect(log.writer.cut(before: 30).isEmpty, "none of its notes are done with")
        log.writer.commit([LogBatch(notesDone: 20)], to: log.medium)
        #expect(log.recovered().notes == notes(21...33) && log.recovered().notesDone == 20)
        log.writer = LogWriter(continuing: log.recovered(), identity: identity, cipher: ToyCipher(), segmentBytes: 512)
        let removed = log.writer.cut(before: 30)
        #expect(!removed.isEmpty)
        for id in removed { log.medium.segments[id] = nil }
        let recovered = log.recovered(anchor: log.writer.head.anchor)
        #expect(recovered.damage == nil)
        #expect(recovered.notes == notes(21...33))
        log.writer.commit([LogBatch(notesDone: 33)], to: log.medium)
        #expect(log.recovered().notes.isEmpty)
        #expect(log.writer.cut(before: 30).count == log.medium.segments.count - 1)
    }

    @Test("a torn tail takes the notes of what was never synced, and none before them")
    func tornNotes() {
        var log = MemoryLog()
        log.writer.commit([LogBatch(notes: [LogNote(number: 1, bytes: [1])])], to: log.medium)
        let synced = log.writer.head
        log.writer.commit([LogBatch(notes: [LogNote(number: 2, bytes: [2])])], to: log.medium)
        let segment = log.medium.segments[synced.segment] ?? []
        for end in synced.offset..<log.writer.head.offset {
            let torn = Array(segment[..<end]) + [UInt8](repeating: 0, count: segment.count - end)
            #expect(recover([synced.segment: torn], anchor: synced.anchor).notes.map(\.number) == [1], "torn at \(end)")
        }
    }

    @Test("the steps of commits: one write and one sync each; a full segment is synced before the next begins")
    func steps() {
        var log = MemoryLog(segmentBytes: 512)
        for i in 1...5 as ClosedRange<LogIndex> { log.append(i...i) }
        #expect(log.medium.steps.map(\.description) == [
            "begin 1", "write 1 0..<248", "synchronize 1",
            "write 1 248..<344", "synchronize 1",
            "write 1 344..<440", "synchronize 1",
            "begin 2", "write 2 0..<248", "synchronize 2",
            "write 2 248..<344", "synchronize 2",
        ])
    }

    @Test("entries that do not follow each other are named an index gap")
    func indexGap() {
        var log = MemoryLog()
        log.append(1...3)
        log.append(5...5)
        #expect(log.recovered().damage?.kind == .indexGap)
        #expect(log.recovered().entries.map(\.index) == [1, 2, 3])
    }
}

@Suite("Damage of the log")
struct DamageTests {
    /// Four commits; the range is what the last one wrote.
    static func small() -> (MemoryLog, last: Range<Int>) {
        var log = MemoryLog()
        for i in 1...4 as ClosedRange<LogIndex> { log.append(i...i, state: LogState(term: 1, vote: nil, commit: i - 1)) }
        guard case .write(_, let last) = log.medium.steps[log.medium.steps.count - 2] else { return (log, 0..<0) }
        return (log, last)
    }

    @Test("a tail torn at any byte is named, and everything before it kept")
    func tornTail() {
        let (log, last) = Self.small()
        for filler in [0, 0x5a] as [UInt8] {
            for cut in last {
                var segments = log.medium.segments
                for i in cut..<last.upperBound { segments[1]![i] = filler }
                if segments == log.medium.segments { continue }
                let recovered = recover(segments)
                if cut == last.lowerBound && filler == 0 {
                    #expect(recovered.damage == nil, "nothing was written")
                } else {
                    #expect(recovered.damage == LogDamage(.tornTail, segment: 1, offset: last.lowerBound))
                }
                #expect(recovered.entries.map(\.index) == [1, 2, 3])
                #expect(recovered.head.offset == last.lowerBound)
            }
        }
    }

    @Test("a tear in a frame that the records remember is no torn tail but lost frames")
    func anchoredTail() {
        let (log, last) = Self.small()
        var segments = log.medium.segments
        for i in last { segments[1]![i] = 0 }
        let recovered = recover(segments, anchor: log.writer.head.anchor)
        #expect(recovered.damage == LogDamage(.lostSyncedFrames, segment: 1, offset: last.lowerBound))
    }

    @Test("a batch torn between its frames never leaves its state without its entries: a commit index would call superseded ones committed")
    func tornBatch() {
        var log = MemoryLog(segmentBytes: 8192)
        let old = LogState(term: 1, vote: MemberID(3), commit: 2), new = LogState(term: 2, vote: MemberID(4), commit: 40)
        log.append(1...40, state: old)
        let start = log.writer.head.offset
        var recovered = log.recovered()
        recovered.damage = nil
        log.writer = LogWriter(continuing: recovered, identity: identity, cipher: ToyCipher(), segmentBytes: 8192, frameBytesMax: 400)
        log.append(3...40, term: 2, payloadBytes: 40, state: new)
        let end = log.writer.head.offset
        #expect(log.medium.segments.count == 1 && log.recovered().state == new)
        var lengths: Set<Int> = []
        for cut in stride(from: start, to: end, by: 8) {
            var segments = log.medium.segments
            for i in cut..<end { segments[1]![i] = 0 }
            let torn = recover(segments)
            #expect(torn.damage == nil || torn.damage?.kind == .tornTail)
            #expect(torn.state == old, "the last frame ends with the state")
            // The old entries, or the new ones as far as they go: of one batch nothing is left out in between.
            let count = torn.entries.filter { $0.term == 2 }.count
            #expect(torn.entries.map(\.index) == Array(1...LogIndex(count == 0 ? 40 : 2 + count)))
            lengths.insert(count)
        }
        #expect(lengths.count > 3, "the batch takes several frames")
    }

    @Test("any sectors of the last commit missing, in any combination, are a torn tail and never damage")
    func tornSectors() {
        var generator = SeededGenerator(seed: 11)
        for round in 0..<300 {
            var log = MemoryLog(segmentBytes: 8192)
            log.append(1...2)
            let before = log.medium.segments
            let entries = Int.random(in: 1...60, using: &generator)
            // A small frame limit makes several frames of it.
            var recovered = log.recovered()
            recovered.damage = nil
            log.writer = LogWriter(continuing: recovered, identity: identity, cipher: ToyCipher(), segmentBytes: 8192, frameBytesMax: 400)
            log.append(3...LogIndex(2 + entries), payloadBytes: 40)
            var segments = log.medium.segments
            for sector in stride(from: 0, to: 8192, by: 512) where Bool.random(using: &generator) {
                segments[1]!.replaceSubrange(sector..<sector + 512, with: before[1]![sector..<sector + 512])
            }
            let torn = recover(segments)
            #expect(torn.damage == nil || torn.damage?.kind == .tornTail, "round \(round): \(String(describing: torn.damage))")
            #expect(torn.entries.map(\.index) == Array(1...LogIndex(torn.entries.count)))
            #expect(torn.entries.count >= 2)
        }
    }

    @Test("every single flipped bit is noticed, and what is returned is a prefix")
    func everyBit() {
        var log = MemoryLog(segmentBytes: 512)
        for i in 1...5 as ClosedRange<LogIndex> { log.append(i...i, payloadBytes: 8) }
        let anchor = log.writer.head.anchor, whole = log.recovered().entries
        #expect(log.medium.segments.count == 2)
        let segmentOneEnd = log.medium.steps.compactMap { if case .write(1, let range) = $0 { range.upperBound } else { nil } }.max() ?? 0
        for id in log.medium.segments.keys.sorted() {
            for bit in 0..<512 * 8 {
                var segments = log.medium.segments
                segments[id]![bit / 8] ^= 1 << UInt8(bit % 8)
                let recovered = recover(segments, anchor: anchor)
                if recovered.damage == nil || !whole.starts(with: recovered.entries) {
                    Issue.record("bit \(bit) of segment \(id) passed unnoticed")
                }
                // In the acknowledged part it is damage, never a torn tail.
                let framesEnd = id == 1 ? segmentOneEnd : log.writer.head.offset
                if bit / 8 < framesEnd && recovered.damage?.isTornTail != false {
                    Issue.record("bit \(bit) of segment \(id) was taken for a torn tail")
                }
            }
        }
    }

    @Test("without an anchor, a flip before the last commit is damage by the frames behind it")
    func flipsBeforeLaterFrames() {
        let (log, last) = Self.small()
        for offset in stride(from: 0, to: last.lowerBound, by: 3) {
            var segments = log.medium.segments
            segments[1]![offset] ^= 0x10
            let damage = recover(segments).damage
            #expect(damage != nil && damage?.isTornTail == false, "offset \(offset)")
        }
    }

    @Test("a missing segment is named: in the middle, at the front beyond what was cut, at the end")
    func missingSegments() {
        var log = MemoryLog(segmentBytes: 512)
        for i in 1...12 as ClosedRange<LogIndex> { log.append(i...i) }
        let anchor = log.writer.head.anchor, ids = log.medium.segments.keys.sorted()
        #expect(ids.count >= 4)
        var segments = log.medium.segments
        segments[ids[1]] = nil
        #expect(recover(segments, anchor: anchor).damage?.kind == .missingSegment)
        segments = log.medium.segments
        segments[ids[0]] = nil
        #expect(recover(segments, anchor: nil).damage?.kind == .missingSegment)
        segments = log.medium.segments
        segments[ids.last!] = nil
        #expect(recover(segments, anchor: anchor).damage?.kind == .lostSyncedFrames)
        #expect(recover([:], anchor: anchor).damage?.kind == .lostSyncedFrames)
    }

    @Test("a segment whose last frames are gone is a gap in the sequence")
    func sequenceGap() {
        var log = MemoryLog(segmentBytes: 512)
        for i in 1...6 as ClosedRange<LogIndex> { log.append(i...i) }
        var segments = log.medium.segments
        for i in 344..<512 { segments[1]![i] = 0 }
        #expect(recover(segments).damage?.kind == .sequenceGap)
    }

    @Test("another history under the same key is not the one the records remember")
    func anchorMismatch() {
        var log = MemoryLog(), other = MemoryLog()
        log.append(1...4)
        other.append(1...5)
        #expect(other.recovered(anchor: log.writer.head.anchor).damage?.kind == .anchorMismatch)
    }

    @Test("a frame moved to another place does not open there")
    func movedFrame() {
        var log = MemoryLog()
        for i in 1...4 as ClosedRange<LogIndex> { log.append(i...i) }
        var segments = log.medium.segments
        let second = 248..<344, third = 344..<440
        let bytes = segments[1]!
        segments[1]!.replaceSubrange(second, with: bytes[third])
        segments[1]!.replaceSubrange(third, with: bytes[second])
        #expect(recover(segments).damage == LogDamage(.badTag, segment: 1, offset: 248))
    }

    @Test("another keyring's, member's, key's or key generation's log is refused by name")
    func foreign() {
        var log = MemoryLog()
        log.append(1...4)
        var other = identity
        other.keyring = KeyringID(Bytes(repeating: 1, count: 16))!
        #expect(log.recovered(identity: other).damage?.kind == .wrongKeyring)
        other = identity
        other.member = MemberID(4)
        #expect(log.recovered(identity: other).damage?.kind == .wrongMember)
        #expect(log.recovered(cipher: ToyCipher(key: 8)).damage?.kind == .badTag)
        #expect(log.recovered(cipher: ToyCipher(generation: 2)).damage?.kind == .unknownKeyGeneration)
    }

    @Test("no bytes make recovery trap")
    func hostileBytes() {
        var generator = SeededGenerator(seed: 5)
        let (log, _) = Self.small()
        for _ in 0..<3_000 {
            var segments = log.medium.segments
            for _ in 0..<Int.random(in: 1...8, using: &generator) {
                let offset = Int.random(in: 0..<1024, using: &generator)
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: segments[1]![offset] = UInt8.random(in: 0...255, using: &generator)
                case 1: segments[1]!.replaceSubrange(offset..<min(1024, offset + 8), with: repeatElement(0xff, count: min(1024, offset + 8) - offset))
                default: segments[1]!.removeLast(min(segments[1]!.count, offset / 64))
                }
                if segments[1]!.count < 1024 { segments[1]! += [UInt8](repeating: 0, count: 1024 - segments[1]!.count) }
            }
            if Bool.random(using: &generator) { segments[1]!.removeLast(Int.random(in: 0...1024, using: &generator)) }
            let recovered = recover(segments)
            #expect(recovered.entries.count <= 4)
        }
        for count in 0..<200 {
            let noise = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
            #expect(recover([1: noise]).entries.isEmpty)
        }
    }
}
