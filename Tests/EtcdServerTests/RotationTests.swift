import Barrier
import Basics
import EtcdClient
import EtcdProtocol
import Foundation
import NIOCore
import NIOPosix
import Synchronization
import Testing

@Suite struct RotationTests {
    private final class Answered: EtcdSink {
        private let continuation: CheckedContinuation<Void, Never>
        init(_ continuation: CheckedContinuation<Void, Never>) { self.continuation = continuation }
        func deliver(_ answers: [EtcdAnswer]) { continuation.resume() }
    }

    @Test("an event that was on its way while its value's key was rotated and destroyed is told with its value")
    func eventOfADestroyedKey() async throws {
        try await ServedStore.run { store in
            try await store.put("k", "before")  // the domain's keys are there now
            let call = try await store.client.watch()
            var create = WatchCreateRequestMessage()
            create.key = bytes("k")
            try call.send(.create(create))
            var responses = call.responses.makeAsyncIterator()
            #expect(try await responses.next(isolation: #isolation)?.created == true)

            // The event is handed to loops that stand still until the key is gone.
            let gate = DispatchSemaphore(value: 0)
            var loops = 0
            for loop in MultiThreadedEventLoopGroup.singleton.makeIterator() {
                loop.execute { gate.wait() }
                loops += 1
            }
            defer { for _ in 0..<loops { gate.signal() } }
            let request = try "overtaken".utf8.withContiguousStorageIfAvailable {
                try store.barrier.putRequest(key: bytes("k"), plaintext: UnsafeRawBufferPointer($0))
            }
            let put = try #require(request)
            let ended = Mutex<EtcdSession?>(nil)
            await withCheckedContinuation { continuation in
                let session = store.barrier.session(sink: Answered(continuation))
                ended.withLock { $0 = session }
                session.submit([EtcdRequest(ticket: 1, kind: .put(put))])
            }
            var pace = KeyRotation.Pace()
            pace.drainMilliseconds = 0
            let rotation = KeyRotation(barrier: store.barrier, pace: pace)
            await rotation.start()
            _ = try await rotation.rotate(Domain(ofPlainKey: bytes("k")), level: .dataKey)
            let deadline = ContinuousClock.now + .seconds(20)
            func states() -> [String] { store.barrier.domainKeys().first?.dataKeys.map { $0.state.rawValue } ?? [] }
            while states() != ["destroyed", "active"], ContinuousClock.now < deadline { await rotation.settle() }
            #expect(states() == ["destroyed", "active"])
            for _ in 0..<loops { gate.signal() }
            loops = 0

            let told = try #require(try await responses.next(isolation: #isolation))
            #expect(told.cancelReason == "")
            #expect(told.events.first?.kv.map { String(buffer: $0.plainValue) } == "overtaken")
            call.cancel()
            await rotation.stop()
        }
    }
}
