import Basics
import MVCC
import ReplicaService
import Storage
import Synchronization
import Testing

/// The real file system until its disk is told to fail: then every sync of data fails.
final class FailingFileSystem: FileSystem {
    private let real = PosixFileSystem()
    let fails = Mutex(false)

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
    func open(_ path: String, creating: Bool) throws(StorageFailure) -> any StoredFile { File(try real.open(path, creating: creating), self) }
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
