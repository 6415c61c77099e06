import Basics
import Dispatch
import Logging
import NIOCore

/// The accepting side of one connection: messages, a request, or a snapshot, as its greeting said. Event loop only.
final class InboundPeer: PeerSessionOwner {
    private let transport: PeerTransport
    private let logger: Logger
    private var greeting: PeerGreeting?
    private var intake: SnapshotIntake?
    private var isAsked = false

    init(transport: PeerTransport, logger: Logger) {
        self.transport = transport
        self.logger = logger
    }

    func greeted(by greeting: PeerGreeting, on session: PeerSession) throws(PeerRefusal) -> PeerGreeting { try transport.answer(to: greeting) }

    func opened(_ session: PeerSession, with greeting: PeerGreeting) {
        self.greeting = greeting
        if greeting.purpose != .requests { transport.learn(greeting) }
    }

    func received(_ frame: PeerFrame, on session: PeerSession) throws(PeerViolation) {
        guard let greeting else { throw .unexpected(frame.kind) }
        switch (greeting.purpose, frame.kind) {
        case (.messages, .messages):
            guard let from = greeting.from else { throw .unexpected(frame.kind) }
            do throws(MalformedBytes) {
                transport.receiver?.received(try MessageBatch.parse(frame.body), from: from)
            } catch { throw .malformed(.messages, error) }
        case (.requests, .request):
            guard !isAsked else { throw .unexpected(frame.kind) }
            isAsked = true
            do throws(MalformedBytes) { answer(try PeerRequest(decoding: frame.body), from: greeting, on: session) } catch { throw .malformed(.request, error) }
        case (.snapshot, .snapshotOffer), (.snapshot, .snapshotChunk), (.snapshot, .snapshotEnd):
            try takeSnapshot(frame, from: greeting, on: session)
        default: throw .unexpected(frame.kind)
        }
    }

    func writable(_ session: PeerSession) {}

    func closed(_ session: PeerSession, because failure: PeerFailure) {
        intake?.abandon()
        intake = nil
        guard failure != .closed else { return }
        logger.log(level: failure.isExpected ? .debug : .warning, "a peer's connection was ended", metadata: [
            "address": "\(session.remoteAddress)", "name": "\(greeting?.name ?? "")", "reason": "\(failure)",
        ])
    }

    // MARK: Requests

    private func answer(_ request: PeerRequest, from greeting: PeerGreeting, on session: PeerSession) {
        guard let responder = transport.responder, let eventLoop = session.eventLoop else {
            return session.send(PeerFrame(.answer, PeerAnswer.encode(.failure(PeerRequestRefused("this member is not ready yet")))))
        }
        let bound = NIOLoopBound(session, eventLoop: eventLoop)
        Task {
            let result: Result<Bytes, PeerRequestRefused>
            do {
                let answer = try await responder.respond(to: request, from: greeting)
                result = answer.count <= PeerLimits.answerBytesMax ? .success(answer) : .failure(PeerRequestRefused("the answer is too large"))
            } catch {
                result = .failure(PeerRequestRefused("\(error)"))
            }
            eventLoop.execute { bound.value.send(PeerFrame(.answer, PeerAnswer.encode(result))) }
        }
    }

    // MARK: Snapshots

    private func takeSnapshot(_ frame: PeerFrame, from greeting: PeerGreeting, on session: PeerSession) throws(PeerViolation) {
        if frame.kind == .snapshotOffer {
            guard intake == nil, let from = greeting.from, let eventLoop = session.eventLoop else { throw .unexpected(frame.kind) }
            guard let receiver = transport.snapshots else { return session.refuse(PeerRefusal(.notReady, "this member takes no snapshots now")) }
            let intake = SnapshotIntake(receiver: receiver, from: from, session: NIOLoopBound(session, eventLoop: eventLoop), eventLoop: eventLoop)
            self.intake = intake
            return intake.begin(head: frame.body)
        }
        guard let intake else { throw .unexpected(frame.kind) }
        guard frame.kind == .snapshotChunk else { return intake.end() }
        do throws(MalformedBytes) {
            var reader = ByteReader(frame.body)
            let offset = try reader.read(UInt64.self)
            intake.take(Bytes(try reader.readRaw(reader.remaining)), at: offset)
        } catch { throw .malformed(.snapshotChunk, error) }
    }
}
