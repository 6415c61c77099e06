import Basics
import FileSealing
import Foundation
import Storage
import Synchronization
import Testing
import WriteAheadLog

@Suite("The log on disk")
struct DiskLaneTests {
    /// Segments of whole blocks are written past the page cache, the others through it.
    @Test("what was acknowledged is there after reopening, on a real file system", arguments: [4_096, 5_000, 65_536])
    func roundtrip(segmentBytes: Int) throws {
        func entry(_ index: LogIndex) -> LogEntry { StorageTests.entry(index, bytes: 1 + Int(index) * 37 % 900) }
        let directory = try TemporaryDirectory()
        let state = LogState(term: 2, vote: MemberID(9), commit: 1)
        var options = DiskLane.Options()
        options.segmentBytes = segmentBytes
        for round in 0..<5 as Range<UInt64> {
            let (lane, log) = try DiskLane.open(
                directory: directory.path + "/log", fileKey: fileKey(), keyring: keyring, member: member, anchor: nil, options: options)
            #expect(log.damage == nil)
            #expect(log.entries == (0..<round * 9).map { entry($0 + 1) })
            #expect(log.state == (round == 0 ? nil : state))
            for i in 1...9 as ClosedRange<LogIndex> { _ = try lane.append(LogBatch(entries: [entry(round * 9 + i)], state: state)) }
            lane.close()
        }
    }

    @Test("every file operation of open, append, roll and cut: nothing is acknowledged before its sync")
    func operations() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk, segmentBytes: 512)
        #expect(disk.operations == [
            "mkdir", "create fill", "write fill 0..<512", "sync fill", "rename fill to 0000000000000001.log", "sync directory",
        ])
        disk.forgetOperations()
        _ = try lane.append(1...1)
        lane.waitUntilReady()
        #expect(disk.operations == [
            "write 0000000000000001.log 0..<272", "sync data 0000000000000001.log",
            "create fill", "write fill 0..<512", "sync fill", "rename fill to 0000000000000002.log", "sync directory",
        ])
        disk.forgetOperations()
        _ = try lane.append(2...2)
        _ = try lane.append(3...3)
        lane.waitUntilReady()
        #expect(disk.operations == [
            "write 0000000000000001.log 272..<392", "sync data 0000000000000001.log",
            "write 0000000000000001.log 392..<512", "sync data 0000000000000001.log",
        ])
        disk.forgetOperations()
        _ = try lane.append(4...4)
        lane.waitUntilReady()
        #expect(disk.operations == [
            "write 0000000000000002.log 0..<272", "sync data 0000000000000002.log",
            "create fill", "write fill 0..<512", "sync fill", "rename fill to 0000000000000003.log", "sync directory",
        ])
        disk.forgetOperations()
        lane.cut(before: 4)
        lane.close()
        #expect(disk.operations == ["remove 0000000000000001.log", "sync directory"])
        disk.forgetOperations()
        let (reopened, log) = try open(disk, segmentBytes: 512, anchor: LogAnchor(sequence: 5, tag: FrameTag(high: 0, low: 0)).ignoringTag(disk))
        #expect(log.entries.map(\.index) == [4])
        reopened.waitUntilReady()
        #expect(disk.operations == ["mkdir"], "the spare segment is still there")
        reopened.close()
    }

    @Test("notes share the sync of the next batch, or have one when asked for; they are there after reopening, as long as they are not done with")
    func notes() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk, segmentBytes: 4_096)
        lane.waitUntilReady()
        let kept = Answers<UInt64>()
        lane.whenNotesAreKept { if let number = try? $0.get() { kept.add(number) } }
        disk.forgetOperations()
        #expect(lane.keep([LogNote(number: 1, bytes: [1]), LogNote(number: 2, bytes: [2])]))
        #expect(disk.operations.isEmpty && kept.all.isEmpty, "nobody asked for them")
        _ = try lane.append(1...1)
        #expect(kept.all == [2], "told before the batch is")
        #expect(disk.operations.filter { $0.hasPrefix("sync data") }.count == 1)
        lane.flushNotes()
        #expect(lane.keep([LogNote(number: 3, bytes: [3])]))
        lane.flushNotes()
        #expect(kept.wait(for: 2) == [2, 3])
        lane.notesAreDone(through: 1)
        #expect(lane.keep([LogNote(number: 4, bytes: [4])]))
        lane.close()
        #expect(kept.all == [2, 3, 4], "what was kept is not lost by closing")
        #expect(!lane.keep([LogNote(number: 5, bytes: [5])]))
        let (reopened, log) = try open(disk, segmentBytes: 4_096)
        #expect(log.notes.map(\.number) == [2, 3, 4] && log.notesDone == 1 && log.entries.map(\.index) == [1])
        reopened.close()
    }

    @Test("after a failed sync those who wait for notes are told, too")
    func failedNotes() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk, segmentBytes: 4_096)
        lane.waitUntilReady()
        let failures = Answers<StorageFailure>()
        lane.whenNotesAreKept { if case .failure(let failure) = $0 { failures.add(failure) } }
        disk.failSync(after: 0)
        #expect(lane.keep([LogNote(number: 1, bytes: [1])]))
        lane.flushNotes()
        #expect(failures.wait(for: 1).count == 1)
        lane.close()
    }

    @Test("a file that is closed twice closes no other one, which has its descriptor by then")
    func closedTwice() throws {
        let directory = try TemporaryDirectory(), files = PosixFileSystem()
        for round in 0..<20 {
            let closed = try files.lock(directory.path + "/lock")
            closed.close()
            let other = try files.open(directory.path + "/\(round)", creating: true)
            closed.close()
            try other.synchronize()
            other.close()
        }
    }

    @Test("cut removes only whole old segments")
    func cut() throws {
        let disk = SimulatedDisk()
        var (lane, _) = try open(disk)
        var anchor: LogAnchor?
        for i in 1...40 as ClosedRange<LogIndex> {
            anchor = try lane.append(i...i)
            lane.waitUntilReady()
        }
        let before = disk.names.count
        lane.cut(before: 1)
        lane.cut(before: 20)
        lane.close()
        #expect(disk.names.count < before)
        let log: RecoveredLog
        (lane, log) = try open(disk, anchor: anchor)
        #expect(log.damage == nil)
        let first = try #require(log.entries.first?.index)
        #expect(first > 1 && first <= 20)
        #expect(log.entries.map(\.index) == Array(first...40))
        lane.close()
    }

    @Test("eight threads append: every batch is durable, and completions come in the order of appends")
    func concurrency() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk, segmentBytes: 64 * 1024)
        let answers = Answers<LogIndex>()
        let next = Mutex<LogIndex>(1)
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            for _ in 0..<200 {
                next.withLock { next in
                    let index = next
                    next += 1
                    lane.append(LogBatch(entries: [entry(index)])) { result in
                        if case .success = result { answers.add(index) }
                    }
                }
            }
        }
        #expect(answers.wait(for: 1600) == Array(1...1600))
        lane.close()
        let (reopened, log) = try open(disk, segmentBytes: 64 * 1024)
        #expect(log.entries.map(\.index) == Array(1...1600))
        reopened.close()
    }

    @Test("a failed sync ends it: its batch and all later ones fail, and the sync is not tried again", arguments: 0..<3)
    func failedSync(after count: Int) throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk, segmentBytes: 64 * 1024)
        _ = try lane.append(1...1)
        lane.waitUntilReady()
        disk.failSync(after: count)
        for i in 0..<LogIndex(count) { _ = try lane.append(i + 2...i + 2) }
        let failure = StorageFailure.io(operation: "sync data 0000000000000001.log", code: 5)
        #expect(throws: failure) { try lane.append(20...20) }
        disk.forgetOperations()
        #expect(throws: failure) { try lane.append(21...21) }
        #expect(disk.operations.isEmpty)
        lane.close()
    }

    @Test("a failed write ends it as well")
    func failedWrite() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk, segmentBytes: 64 * 1024)
        _ = try lane.append(1...1)
        lane.waitUntilReady()
        disk.failWrite(after: 0)
        #expect(throws: StorageFailure.io(operation: "write", code: 5)) { try lane.append(2...2) }
        #expect(throws: StorageFailure.io(operation: "write", code: 5)) { try lane.append(3...3) }
        lane.close()
    }

    @Test("a full disk is said while there is still a segment in reserve, tears nothing, and is over when space returns")
    func fullDisk() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk)
        _ = try lane.append(1...1)
        lane.waitUntilReady()
        disk.limit(bytesLeft: 0)
        var index: LogIndex = 1
        while lane.reserve == .ready {
            index += 1
            _ = try lane.append(index...index)
        }
        eventually("the shortage to be known") { lane.reserve == .failing(.full(operation: "write")) }
        index += 1
        _ = try lane.append(index...index)
        disk.limit(bytesLeft: 1 << 20)
        lane.waitUntilReady()
        for _ in 0..<20 {
            index += 1
            _ = try lane.append(index...index)
        }
        lane.close()
        let (reopened, log) = try open(disk)
        #expect(log.damage == nil)
        #expect(log.entries.map(\.index) == Array(1...index))
        reopened.close()
    }

    @Test("a disk that stays full fails the batch that finds no room, whole, and loses none before it")
    func fullForGood() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk)
        _ = try lane.append(1...1)
        lane.waitUntilReady()
        disk.limit(bytesLeft: 0)
        var last: LogIndex = 1
        var failure: StorageFailure?
        while failure == nil, last < 100 {
            do { _ = try lane.append(last + 1...last + 1); last += 1 } catch { failure = error }
        }
        #expect(failure == .full(operation: "write"))
        #expect(throws: StorageFailure.full(operation: "write")) { try lane.append(last + 1...last + 1) }
        lane.close()
        disk.limit(bytesLeft: 1 << 20)
        let (reopened, log) = try open(disk)
        #expect(log.damage == nil)
        #expect(log.entries.map(\.index) == Array(1...last))
        _ = try reopened.append(last + 1...last + 1)
        reopened.close()
    }

    @Test("an entry larger than a frame is refused, and nothing is acknowledged behind it")
    func tooLarge() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk)
        _ = try lane.append(1...1)
        #expect(throws: StorageFailure.entryTooLarge) { try lane.append(2...2, bytes: 2000) }
        #expect(throws: StorageFailure.entryTooLarge) { try lane.append(3...3) }
        lane.close()
    }

    @Test("a power cut that drops what was not synced never loses an acknowledged batch", arguments: 0..<60)
    func powerCut(seed: Int) throws {
        var generator = SeededGenerator(seed: UInt64(seed))
        var disk = SimulatedDisk()
        var acknowledged: LogIndex = 0, anchor: LogAnchor?
        for _ in 0..<6 {
            let (lane, log) = try open(disk, anchor: anchor)
            let found = log.entries.map(\.index)
            #expect(found == (0..<found.count).map { LogIndex($0) + 1 })
            #expect(LogIndex(found.count) >= acknowledged)
            #expect(log.damage == nil || log.damage?.kind == .tornTail)
            let answers = Answers<(LogIndex, LogAnchor)>()
            let first = LogIndex(found.count) + 1, count = LogIndex.random(in: 1...30, using: &generator)
            for i in first..<first + count {
                lane.append(LogBatch(entries: [entry(i, bytes: Int(i) * 37 % 300)])) { result in
                    if case .success(let anchor) = result { answers.add((i, anchor)) }
                }
            }
            _ = answers.wait(for: Int.random(in: 0...Int(count), using: &generator))
            let known = answers.all
            disk = disk.afterPowerCut(&generator)
            if let last = known.last { (acknowledged, anchor) = last }
            lane.close()
        }
    }

    @Test("a torn tail is cut off, reported once, and overwritten")
    func tornTail() throws {
        let disk = SimulatedDisk()
        var (lane, _) = try open(disk)
        _ = try lane.append(1...2)
        lane.close()
        let name = "0000000000000001.log"
        var bytes = try #require(disk.contents(of: name))
        let end = (bytes.lastIndex { $0 != 0 } ?? 0) / 8 * 8 + 8
        for i in end..<end + 400 { bytes[i] = 0xee }
        disk.replace(name, with: bytes)
        var log: RecoveredLog
        (lane, log) = try open(disk)
        #expect(log.damage == LogDamage(.tornTail, segment: 1, offset: end))
        #expect(log.entries.map(\.index) == [1, 2])
        _ = try lane.append(3...3)
        lane.close()
        (lane, log) = try open(disk)
        #expect(log.damage == nil)
        #expect(log.entries.map(\.index) == [1, 2, 3])
        lane.close()
    }

    @Test("damage before the tail is refused by name, and nothing is changed")
    func damage() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk)
        for i in 1...4 as ClosedRange<LogIndex> { _ = try lane.append(i...i) }
        lane.waitUntilReady()
        lane.close()
        let name = "0000000000000001.log"
        var bytes = try #require(disk.contents(of: name))
        bytes[310] ^= 1
        disk.replace(name, with: bytes)
        disk.forgetOperations()
        #expect(throws: StorageFailure.damagedLog(LogDamage(.flippedBits, segment: 1, offset: 272))) { try open(disk) }
        #expect(disk.operations == ["mkdir"])
        let seen = try DiskLane.inspect(directory: "log", fileKey: fileKey(), keyring: keyring, member: member, anchor: nil, fileSystem: disk)
        #expect(seen.entries.map(\.index) == [1])
    }

    @Test("a log of another keyring, member or key is refused, and so is one in use")
    func foreign() throws {
        let disk = SimulatedDisk()
        let (lane, _) = try open(disk)
        _ = try lane.append(1...3)
        #expect(throws: StorageFailure.inUse) { try open(disk) }
        lane.close()
        func kind(_ body: () throws -> Void) -> LogDamage.Kind? {
            do { try body() } catch StorageFailure.damagedLog(let damage) { return damage.kind } catch {}
            return nil
        }
        #expect(kind { _ = try open(disk, keyring: otherKeyring) } == .wrongKeyring)
        #expect(kind { _ = try open(disk, member: MemberID(4)) } == .wrongMember)
        #expect(kind { _ = try open(disk, key: fileKey(8)) } == .badTag)
        #expect(kind { _ = try open(disk, key: fileKey(7, generation: 2)) } == .unknownKeyGeneration)
    }

    @Test("a log made with another segment size goes on in new segments")
    func otherSegmentSize() throws {
        let disk = SimulatedDisk()
        var index: LogIndex = 0
        for size in [1024, 4096, 512, 2048] {
            let (lane, log) = try open(disk, segmentBytes: size)
            #expect(log.damage == nil)
            #expect(log.entries.count == Int(index))
            for _ in 0..<10 {
                index += 1
                _ = try lane.append(index...index)
            }
            lane.close()
        }
    }

    @Test("what is appended after closing is refused")
    func closed() throws {
        let (lane, _) = try open(SimulatedDisk())
        lane.close()
        #expect(throws: StorageFailure.closed) { try lane.append(1...1) }
    }
}

extension LogAnchor {
    /// The anchor with the tag the disk really has: this test looks at operations only.
    fileprivate func ignoringTag(_ disk: SimulatedDisk) throws -> LogAnchor {
        let log = try DiskLane.inspect(
            directory: "log", fileKey: fileKey(), keyring: keyring, member: member,
            anchor: LogAnchor(sequence: .max, tag: .zero), fileSystem: disk)
        return log.lastFrame
    }
}
