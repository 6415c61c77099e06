import Basics
import Glibc
import Logging
import NIOCore
import NIOPosix
import Synchronization

/// The way of our messages to one other member: a connection of its own, made again whenever it ends, and a queue before it.
///
/// 1. `send` (any thread, never blocking) puts messages into the queue, or drops them: while there is no connection, and when the queue is full.
/// 2. The event loop gathers what waits into frames, as long as the network takes them.
/// 3. A connection that ends is made again after a pause that doubles, with jitter, up to a second, or when the member itself connects; each attempt
///    takes the next address.
///
/// Raft tolerates loss; what it must hear of is that what was sent may be lost (`PeerReceiver.unreachable`), so that it probes. It also hears that
/// the process has ended (`gone`): the connection broke off, and then each of the member's addresses refused one.
///
/// Invariant: at most `queuedBytesMax` wait here, and about `gatheredBytesMax` in the channel, however slow the peer is.
final class PeerLink: PeerSessionOwner, @unchecked Sendable {
    struct Counters: Sendable {
        var sentMessages: UInt64 = 0, sentBytes: UInt64 = 0, droppedMessages: UInt64 = 0, connections: UInt64 = 0
    }
    private struct Queue {
        var messages: [Bytes] = []
        var bytes = 0
        var isOpen = false
        /// A flush is on its way, or waits for the network.
        var isScheduled = false
        var counters = Counters()
    }

    let member: MemberID
    private let transport: PeerTransport
    private let eventLoop: any EventLoop
    private let queue = Mutex(Queue())
    private let logger: Logger

    // Event loop only.
    private var urls: [PeerURL]
    private var attempts = 0
    private var session: PeerSession?
    private var isConnecting = false
    private var isClosed = false
    private var backoffMilliseconds = PeerLimits.backoffMillisecondsMin
    private var lastFailure: PeerFailure?
    /// How many addresses refused, one after the other, since the last connection ended; `nil` when that is told, and before there was one.
    private var refusals: Int?

    init(member: MemberID, urls: [PeerURL], transport: PeerTransport, eventLoop: any EventLoop, logger: Logger) {
        self.member = member
        self.urls = urls
        self.transport = transport
        self.eventLoop = eventLoop
        var logger = logger
        logger[metadataKey: "peer"] = "\(hex(member))"
        self.logger = logger
    }

    var isOpen: Bool { queue.withLock { $0.isOpen } }
    var counters: Counters { queue.withLock { $0.counters } }
    var queuedBytes: Int { queue.withLock { $0.bytes } }

    /// Any thread. Answers whether some were dropped.
    @discardableResult
    func send(_ messages: [Bytes]) -> Bool {
        let (schedules, dropped) = queue.withLock { queue -> (Bool, Bool) in
            var dropped = false
            for message in messages {
                let fits = queue.messages.count < PeerLimits.queuedMessagesMax && queue.bytes + message.count <= PeerLimits.queuedBytesMax
                guard queue.isOpen, fits, message.count <= PeerLimits.frameBytesMax - 4 else {
                    queue.counters.droppedMessages += 1
                    dropped = true
                    continue
                }
                queue.messages.append(message)
                queue.bytes += message.count
            }
            guard !queue.messages.isEmpty, !queue.isScheduled else { return (false, dropped) }
            queue.isScheduled = true
            return (true, dropped)
        }
        if schedules { eventLoop.execute { self.flush() } }
        return dropped
    }

    // MARK: Event loop

    func start() { eventLoop.execute { self.connect() } }
    func stop() {
        eventLoop.execute {
            self.isClosed = true
            self.session?.close(because: .closed)
        }
    }
    /// Other addresses; a connection that stands is kept.
    func move(to urls: [PeerURL]) {
        eventLoop.execute {
            if self.urls != urls { self.isThere() }
            self.urls = urls
        }
    }
    /// The member is known to be there: connects now, if it is not.
    func hasten() {
        eventLoop.execute {
            self.backoffMilliseconds = PeerLimits.backoffMillisecondsMin
            self.isThere()
            self.connect()
        }
    }
    /// Or may be: those who refused before do not count.
    private func isThere() { if refusals != nil { refusals = 0 } }
    /// Ends the connection; another is made at once.
    func renew() { eventLoop.execute { self.session?.close(because: .closed) } }

    private func flush() {
        guard let session else { return }
        while session.isWritable {
            guard let frames = gathered() else { return }
            session.send(frames)
        }
    }

    /// As many of the waiting messages as one frame takes; `nil`, and no flush scheduled, when none wait.
    private func gathered() -> ByteBuffer? {
        let taken = queue.withLock { queue -> [Bytes] in
            var bytes = 0, count = 0
            for message in queue.messages {
                guard count == 0 || bytes + message.count <= PeerLimits.gatheredBytesMax else { break }
                bytes += message.count
                count += 1
            }
            let taken = Array(queue.messages.prefix(count))
            queue.messages.removeFirst(count)
            queue.bytes -= bytes
            queue.counters.sentMessages += UInt64(count)
            queue.counters.sentBytes += UInt64(bytes)
            if count == 0 { queue.isScheduled = false }
            return taken
        }
        guard !taken.isEmpty else { return nil }
        let bodyBytes = taken.reduce(0) { $0 + 4 + $1.count }
        var buffer = ByteBufferAllocator().buffer(capacity: PeerFrame.headBytes + bodyBytes)
        buffer.writeInteger(UInt32(bodyBytes))
        buffer.writeInteger(PeerFrame.Kind.messages.rawValue)
        for message in taken {
            buffer.writeInteger(UInt32(message.count))
            buffer.writeBytes(message)
        }
        return buffer
    }

    private func connect() {
        guard !isClosed, !isConnecting, session == nil, !urls.isEmpty else { return }
        // Who does not know yet who it is has nothing to greet with.
        guard transport.identity.keyring != nil else {
            eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(PeerLimits.backoffMillisecondsMin)) { self.connect() }
            return
        }
        isConnecting = true
        let url = urls[attempts % urls.count]
        attempts &+= 1
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        transport.connect(to: url, hello: transport.greeting(.messages, to: member), on: eventLoop, owner: bound).whenFailure { error in
            bound.value.failed(isRefused: (error as? NIOConnectionError)?.isRefused == true)
            bound.value.ended(because: (error as? PeerFailure) ?? .unreachable("\(url): \(error)"))
        }
    }
    private func failed(isRefused: Bool) {
        guard let before = refusals, !isClosed else { return }
        refusals = isRefused ? before + 1 : 0
        guard isRefused, before + 1 >= urls.count else { return }
        refusals = nil
        transport.isGone(member)
    }

    func opened(_ session: PeerSession, with greeting: PeerGreeting) {
        guard !isClosed else { return session.close(because: .closed) }
        self.session = session
        isConnecting = false
        backoffMilliseconds = PeerLimits.backoffMillisecondsMin
        lastFailure = nil
        logger.info("connected to a peer", metadata: ["name": "\(greeting.name)", "address": "\(session.remoteAddress)"])
        queue.withLock {
            $0.isOpen = true
            $0.counters.connections += 1
        }
        transport.isReachable(member)
    }
    func writable(_ session: PeerSession) { flush() }
    func received(_ frame: PeerFrame, on session: PeerSession) throws(PeerViolation) { throw .unexpected(frame.kind) }
    func greeted(by greeting: PeerGreeting, on session: PeerSession) throws(PeerRefusal) -> PeerGreeting { preconditionFailure("a link connects") }
    func closed(_ session: PeerSession, because failure: PeerFailure) {
        isThere()
        ended(because: failure)
    }

    private func ended(because failure: PeerFailure) {
        guard isConnecting || session != nil else { return }
        isConnecting = false
        session = nil
        let wasOpen = queue.withLock { queue in
            defer {
                queue.counters.droppedMessages += UInt64(queue.messages.count)
                queue.messages.removeAll()
                queue.bytes = 0
                queue.isOpen = false
                queue.isScheduled = false
            }
            return queue.isOpen
        }
        guard !isClosed else { return }
        if failure != lastFailure {
            lastFailure = failure
            logger.log(level: failure.isExpected ? .info : .warning, "no connection to a peer", metadata: ["reason": "\(failure)"])
        }
        if wasOpen {
            refusals = 0
            transport.isUnreachable(member)
        }
        if case .refused(let refusal) = failure, refusal.reason == .removed { transport.isRemoved() }
        let pause = Int64.random(in: backoffMilliseconds / 2...backoffMilliseconds)
        backoffMilliseconds = min(backoffMilliseconds * 2, PeerLimits.backoffMillisecondsMax)
        eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(pause)) { self.connect() }
    }
}

private extension NIOConnectionError {
    /// The host answered, and nothing listens there; of its addresses, those of a kind that this host has no network for do not count.
    var isRefused: Bool {
        let codes = connectionErrors.map { ($0.error as? IOError)?.errnoCode }
        return codes.contains(ECONNREFUSED) && codes.allSatisfy { [ECONNREFUSED, ENETUNREACH, EADDRNOTAVAIL, EAFNOSUPPORT].contains($0) }
    }
}
