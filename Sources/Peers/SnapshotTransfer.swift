package import Basics
import Dispatch
package import NIOCore
import Synchronization

/// A snapshot to send. Read on a thread that may block.
package protocol SnapshotStream: Sendable {
    /// What the receiver must know first; the same for a transfer that is resumed.
    var head: Bytes { get }
    /// At most `count` bytes from `offset` on; none at the end.
    func read(at offset: UInt64, count: Int) throws -> Bytes
}

/// Where a snapshot goes. Called on a thread that may block, one call after the other for one connection.
package protocol SnapshotReceiver: AnyObject, Sendable {
    /// How many bytes of the snapshot with this head are here already. What it throws is told to the sender.
    func begin(_ head: Bytes, from member: MemberID) throws -> UInt64
    func receive(_ bytes: Bytes, at offset: UInt64, from member: MemberID) throws
    /// All of it is there: returns when it is installed, durably.
    func finish(from member: MemberID) throws
    /// The connection ended before that; what came may be kept for a resumption.
    func interrupted(from member: MemberID)
}

/// The receiving side's work, off the event loop: chunks are handed over in order, and reading stops while several wait.
final class SnapshotIntake: Sendable {
    private static let waitingMax = 4
    private let receiver: any SnapshotReceiver
    private let member: MemberID
    private let session: NIOLoopBound<PeerSession>
    private let eventLoop: any EventLoop
    private let queue = DispatchQueue(label: "coffer.snapshot.intake")
    private struct State { var waiting = 0, isOver = false }
    private let state = Mutex(State())

    init(receiver: any SnapshotReceiver, from member: MemberID, session: NIOLoopBound<PeerSession>, eventLoop: any EventLoop) {
        self.receiver = receiver
        self.member = member
        self.session = session
        self.eventLoop = eventLoop
    }

    func begin(head: Bytes) {
        work { [self] in
            var writer = ByteWriter()
            writer.write(try receiver.begin(head, from: member))
            return PeerFrame(.snapshotAt, writer.bytes)
        }
    }
    func take(_ bytes: Bytes, at offset: UInt64) {
        if state.withLock({ $0.waiting += 1; return $0.waiting == Self.waitingMax }) { session.value.setReading(false) }
        work { [self] in
            try receiver.receive(bytes, at: offset, from: member)
            let resumes = state.withLock { state in
                state.waiting -= 1
                return state.waiting == Self.waitingMax - 1
            }
            if resumes { eventLoop.execute { [session] in session.value.setReading(true) } }
            return nil
        }
    }
    func end() {
        work { [self] in
            try receiver.finish(from: member)
            state.withLock { $0.isOver = true }
            return PeerFrame(.snapshotEnd, [])
        }
    }
    func abandon() {
        queue.async { [self] in
            let wasOver = state.withLock { state in
                defer { state.isOver = true }
                return state.isOver
            }
            if !wasOver { receiver.interrupted(from: member) }
        }
    }

    private func work(_ body: @escaping @Sendable () throws -> PeerFrame?) {
        queue.async { [self] in
            guard !state.withLock({ $0.isOver }) else { return }
            do {
                guard let frame = try body() else { return }
                eventLoop.execute { [session] in session.value.send(frame) }
            } catch {
                let wasOver = state.withLock { state in
                    defer { state.isOver = true }
                    return state.isOver
                }
                if !wasOver { receiver.interrupted(from: member) }
                let refusal = PeerRefusal(.notReady, "\(error)")
                eventLoop.execute { [session] in session.value.refuse(refusal) }
            }
        }
    }
}

/// The sending side: offer, wait for where to begin, chunks as the network takes them, end, wait for the receiver's word.
private final class SnapshotOutlet: PeerSessionOwner {
    private let stream: any SnapshotStream
    private let promise: EventLoopPromise<Void>
    private let eventLoop: any EventLoop
    private let queue = DispatchQueue(label: "coffer.snapshot.outlet")
    private var session: PeerSession?
    private var offset: UInt64 = 0
    private enum Phase { case offering, reading, blocked, ended, over }
    private var phase = Phase.offering

    init(stream: any SnapshotStream, promise: EventLoopPromise<Void>, eventLoop: any EventLoop) {
        self.stream = stream
        self.promise = promise
        self.eventLoop = eventLoop
    }

    func opened(_ session: PeerSession, with greeting: PeerGreeting) {
        self.session = session
        session.send(PeerFrame(.snapshotOffer, stream.head))
    }

    func received(_ frame: PeerFrame, on session: PeerSession) throws(PeerViolation) {
        switch (phase, frame.kind) {
        case (.offering, .snapshotAt):
            do throws(MalformedBytes) {
                var reader = ByteReader(frame.body)
                offset = try reader.read(UInt64.self)
                try reader.expectEnd()
            } catch { throw .malformed(.snapshotAt, error) }
            readNext()
        case (.ended, .snapshotEnd):
            phase = .over
            promise.succeed(())
            session.close(because: .closed)
        default: throw .unexpected(frame.kind)
        }
    }

    private func readNext() {
        phase = .reading
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        queue.async { [stream, offset, eventLoop] in
            let result = Result { try stream.read(at: offset, count: PeerLimits.snapshotChunkBytes) }
            eventLoop.execute { bound.value.take(result) }
        }
    }

    private func take(_ result: Result<Bytes, any Error>) {
        guard phase == .reading, let session else { return }
        switch result {
        case .failure(let error): fail(.unreachable("the snapshot cannot be read: \(error)"))
        case .success(let bytes) where bytes.isEmpty:
            phase = .ended
            session.send(PeerFrame(.snapshotEnd, []))
        case .success(let bytes):
            var writer = ByteWriter(capacity: 8 + bytes.count)
            writer.write(offset)
            writer.write(raw: bytes)
            session.send(PeerFrame(.snapshotChunk, writer.bytes))
            offset += UInt64(bytes.count)
            if session.isWritable { readNext() } else { phase = .blocked }
        }
    }

    func writable(_ session: PeerSession) { if phase == .blocked { readNext() } }

    func fail(_ failure: PeerFailure) {
        guard phase != .over else { return }
        phase = .over
        promise.fail(failure)
        session?.close(because: failure)
    }
    func closed(_ session: PeerSession, because failure: PeerFailure) { fail(failure) }
    func greeted(by greeting: PeerGreeting, on session: PeerSession) throws(PeerRefusal) -> PeerGreeting { preconditionFailure("it connects") }
}

extension PeerTransport {
    /// Returns when `member` has installed the snapshot. An attempt that fails is to be made again: the receiver says what it has already.
    package func sendSnapshot(_ stream: any SnapshotStream, to member: MemberID, at url: PeerURL, on eventLoop: any EventLoop) async throws {
        let promise = eventLoop.makePromise(of: Void.self)
        eventLoop.execute { [self] in
            let outlet = SnapshotOutlet(stream: stream, promise: promise, eventLoop: eventLoop)
            let bound = NIOLoopBound(outlet, eventLoop: eventLoop)
            connect(to: url, hello: greeting(.snapshot, to: member), on: eventLoop, owner: bound).whenFailure { error in
                bound.value.fail((error as? PeerFailure) ?? .unreachable("\(url): \(error)"))
            }
        }
        try await promise.futureResult.get()
    }
}
