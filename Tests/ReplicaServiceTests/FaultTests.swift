import Basics
import MVCC
import ReplicaService
import Storage
import Synchronization
import Testing

/// The real file system until its disk is told to fail: then every sync of data fails. Told to be full, it makes no new file.
final class FailingFileSystem: FileSystem {
    private let real = PosixFileSystem()
    let fails = Mutex(false)
    let isFull = Mutex(false)

    private final class File: StoredFile {
        let real: any StoredFile, owner: FailingFileSystem
        init(_ real: any StoredFile, _ owner: FailingFileSystem) { self.real = real; self.owner = owner }
        func byteCount() throws(StorageFailure) -> Int { try real.byteCount() }
        func read(into target: UnsafeMutableRawBufferPointer, at offset: Int) throws(StorageFailure) -> Int { try real.read(into: target, at: offset) }
        func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(StorageFailure) { try real.write(bytes, at: offset) }
        func synchronizeData() throws(StorageFailure) {
            if owner.fails.withLock({ $0 }) { throw .io(operation: "fdatasync", code: 5) }
            try real.synchronizeData()
        }
        func synchronize() throws(StorageFailure) { try real.synchronize() }
        func close() { real.close() }
    }
    func makeDirectory(_ path: String) throws(StorageFailure) { try real.makeDirectory(path) }
    func names(in directory: String) throws(StorageFailure) -> [String] { try real.names(in: directory) }
    func open(_ path: String, creating: Bool) throws(StorageFailure) -> any StoredFile {
        if creating, isFull.withLock({ $0 }) { throw .full(operation: "open") }
        return File(try real.open(path, creating: creating), self)
    }
    func lock(_ path: String) throws(StorageFailure) -> any StoredFile { try real.lock(path) }
    func rename(_ path: String, to newPath: String) throws(StorageFailure) { try real.rename(path, to: newPath) }
    func remove(_ path: String) throws(StorageFailure) { try real.remove(path) }
    func synchronizeDirectory(_ path: String) throws(StorageFailure) { try real.synchronizeDirectory(path) }
}

@Suite("A failing disk")
struct FaultTests {
    @Test("a failed sync is never acknowledged: writes under way end unknown, later requests find the service failed, watches end")
    func failedSync() async throws {
        let directory = try TemporaryDirectory(), files = FailingFileSystem()
        let service = try await Fixture.started(directory, files: files)
        let box = WatchBox(service), answers = AnswerBox()
        service.watch(Fixture.everything, sink: box)
        _ = try await service.propose(Fixture.put("a", "durable"))
        files.fails.withLock { $0 = true }
        service.submit((0..<10).map { Submission(ticket: $0, sink: answers, request: .propose(Fixture.put("b", "\($0)"))) })
        #expect(await eventually { answers.count == 10 })
        for result in answers.all.values {
            guard case .failure(let error) = result else { Issue.record("a write was acknowledged after a failed sync"); continue }
            #expect(error == .outcomeUnknown)
        }
        #expect(await eventually { if case .failed = service.status().condition { true } else { false } })
        do {
            _ = try await service.propose(Fixture.put("c", "1"))
            Issue.record("a failed service took a write")
        } catch { #expect(error == .unavailable("the log: fdatasync failed with error 5")) }
        do {
            _ = try await service.range(RangeRequest(Fixture.everything))
            Issue.record("a failed service answered a linearizable read")
        } catch { #expect(error == .unavailable("the log: fdatasync failed with error 5")) }
        #expect(box.cancellation == .unavailable("the log: fdatasync failed with error 5"))
        service.close()
        guard case .failed = service.status().condition else { Issue.record("the failure is forgotten"); return }

        // The disk is well again: what was acknowledged is there.
        let again = try Fixture.open(directory)
        #expect(try await again.get("a") == Fixture.sealed("durable"))
        again.close()
    }

    @Test("a disk that fails at the start is reported by open")
    func failedStart() async throws {
        let directory = try TemporaryDirectory(), files = FailingFileSystem()
        try await Fixture.started(directory).close()
        files.fails.withLock { $0 = true }
        #expect(throws: ReplicaService.OpenFailure.self) { try Fixture.open(directory, files: files) }
        try Fixture.open(directory).close()
    }
}

@Suite("A full disk")
struct FullDiskTests {
    /// With the log's next segment not to be had: its present one is all the room there is.
    private func full(_ files: FailingFileSystem, _ service: ReplicaService) async throws {
        files.isFull.withLock { $0 = true }
        let text = String(repeating: "x", count: 20_000)
        var refused = false
        for number in 0..<1_000 where !refused {
            do { _ = try await service.propose(Fixture.put("filler", "\(number) \(text)")) } catch {
                #expect(error == .noSpace)
                refused = true
            }
            try await Task.sleep(for: .milliseconds(1))
        }
        #expect(refused)
    }

    @Test("a full disk refuses what grows the store; reads, deletions, compaction and ends of leases pass; room again, and writes pass again")
    func full() async throws {
        let directory = try TemporaryDirectory(), files = FailingFileSystem()
        let service = try await Fixture.started(directory, files: files) {
            $0.disk.segmentBytes = 1 << 20
            $0.disk.fillRetryNanoseconds = 5_000_000
            $0.tickMilliseconds = 5
        }
        _ = try await service.propose(.leaseGrant(id: 9, seconds: 600))
        _ = try await service.propose(Fixture.put("leased", "1", lease: 9))
        let before = try await service.propose(Fixture.put("kept", "1")).revision
        try await full(files, service)

        let put = PutRequest(key: Bytes("t".utf8), value: .sealed(Fixture.sealed("2")))
        let nested = Transaction(success: [.transaction(Transaction(failure: [.put(put)]))])
        let growing: [Command] = [
            Fixture.put("new", "1"), .leaseGrant(id: 10, seconds: 60), .transaction(nested, guards: []), .setting(name: [1], value: [1], expecting: nil),
        ]
        for command in growing {
            do {
                _ = try await service.propose(command)
                Issue.record("a full disk took \(command)")
            } catch { #expect(error == .noSpace) }
        }
        #expect(try await service.get("kept") == Fixture.sealed("1"))
        #expect(try await service.propose(.leaseRevoke(id: 9)).revision > before)
        #expect(try await service.get("leased") == nil)
        _ = try await service.propose(Fixture.delete("filler"))
        let delete = Transaction(success: [.deleteRange(DeleteRangeRequest(KeyRange(Bytes("kept".utf8))))])
        let deleted = try await service.propose(.transaction(delete, guards: []))
        _ = try await service.propose(.compact(revision: deleted.revision))
        #expect(service.status().condition == .running)

        files.isFull.withLock { $0 = false }
        #expect(await eventually { service.status().hasSpace })
        #expect(try await service.propose(Fixture.put("new", "2")).revision > deleted.revision)
        service.close()
        let again = try Fixture.open(directory, files: files) { $0.disk.segmentBytes = 1 << 20 }
        #expect(try await again.get("new") == Fixture.sealed("2"))
        #expect(try await again.get("kept") == nil)
        again.close()
    }
}
