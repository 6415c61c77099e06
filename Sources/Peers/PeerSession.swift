import Basics
import Certificates
import Foundation
import NIOCore
import NIOSSL
import NIOTLS

/// What a connection belongs to. Called on the connection's event loop.
protocol PeerSessionOwner: AnyObject {
    /// The accepting side decides: its own greeting in answer, or a refusal.
    func greeted(by greeting: PeerGreeting, on session: PeerSession) throws(PeerRefusal) -> PeerGreeting
    /// Both sides know each other; frames may be sent.
    func opened(_ session: PeerSession, with greeting: PeerGreeting)
    func received(_ frame: PeerFrame, on session: PeerSession) throws(PeerViolation)
    func writable(_ session: PeerSession)
    /// Once, whatever happened before.
    func closed(_ session: PeerSession, because failure: PeerFailure)
}

/// One connection, from either side. Event loop only.
///
///     connecting side:  TLS ─▶ hello ─▶ (welcome) ─▶ open
///     accepting side:   TLS ─▶ (hello) ─▶ welcome ─▶ open        any ─▶ refused, closed
///
/// 1. TLS has verified the other's certificate against the peers' authority (both sides).
/// 2. The certificate must be a member's, and carry the name the greeting gives; which must be the name of the member it gives, where that
///    is known.
/// 3. Frames before the greeting are bounded tightly, frames after it by `PeerLimits.frameBytesMax`.
/// 4. Once open, each side says something at least every `pingMilliseconds`, and gives up a connection on which it heard nothing for
///    `silenceMilliseconds`: a network may stop forwarding without a word. Not while it does not read on purpose.
final class PeerSession: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum State { case greeting, open, closed }
    private(set) var state = State.greeting
    /// Ours, if we connected.
    private let hello: PeerGreeting?
    private var owner: (any PeerSessionOwner)?
    private let transport: PeerTransport
    private var parser = PeerFrameParser()
    private var context: ChannelHandlerContext?
    private var timeout: Scheduled<Void>?
    /// Until then whoever connects hears of a failure from the connection attempt itself.
    private var wasActive = false
    private var lastRead = NIODeadline.uptimeNanoseconds(0)
    private var lastWrite = NIODeadline.uptimeNanoseconds(0)
    private var isReading = true
    /// The other side's, once it is open.
    private(set) var peer: PeerGreeting?

    /// `hello` `nil`: the accepting side.
    init(hello: PeerGreeting?, owner: any PeerSessionOwner, transport: PeerTransport) {
        self.hello = hello
        self.owner = owner
        self.transport = transport
    }

    var isWritable: Bool { context?.channel.isWritable ?? false }
    /// Stops reading, so that the other side waits.
    func setReading(_ reads: Bool) {
        guard let context, state != .closed else { return }
        isReading = reads
        lastRead = .now()
        _ = context.channel.setOption(.autoRead, value: reads)
        if reads { context.read() }
    }
    var eventLoop: (any EventLoop)? { context?.eventLoop }
    var remoteAddress: String { context?.channel.remoteAddress?.description ?? "closed" }

    // MARK: Sending

    func send(_ frame: PeerFrame) {
        guard let context, state != .closed else { return }
        var buffer = context.channel.allocator.buffer(capacity: PeerFrame.headBytes + frame.body.count)
        buffer.write(frame)
        send(buffer)
    }
    /// Whole frames.
    func send(_ frames: ByteBuffer) {
        guard let context, state != .closed else { return }
        lastWrite = .now()
        context.writeAndFlush(wrapOutboundOut(frames), promise: nil)
    }
    /// Says why and closes.
    func refuse(_ refusal: PeerRefusal) {
        send(PeerFrame(.refused, refusal.encode()))
        close(because: .refusing(refusal))
    }
    func close(because failure: PeerFailure) {
        guard state != .closed else { return }
        state = .closed
        timeout?.cancel()
        context?.close(promise: nil)
        let owner = owner
        self.owner = nil
        if wasActive { owner?.closed(self, because: failure) }
    }

    // MARK: Channel

    func channelActive(context: ChannelHandlerContext) {
        wasActive = true
        context.fireChannelActive()
    }
    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        wasActive = context.channel.isActive
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: .seconds(PeerLimits.greetingSeconds)) { [weak self] in
            self?.close(because: .noGreeting)
        }
    }
    func handlerRemoved(context: ChannelHandlerContext) {
        close(because: .closed)
        self.context = nil
    }
    func channelInactive(context: ChannelHandlerContext) {
        close(because: .closed)
        context.fireChannelInactive()
    }
    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted? = event as? TLSUserEvent, let hello { send(PeerFrame(.hello, hello.encode())) }
        context.fireUserInboundEventTriggered(event)
    }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // The other side is gone without a word: a crash, not a matter of TLS.
        if case .uncleanShutdown? = error as? NIOSSLError { return close(because: .unreachable("the connection broke off")) }
        close(because: error is NIOSSLError || error is NIOSSLExtraError || error is BoringSSLError ? .tls("\(error)") : .unreachable("\(error)"))
    }
    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if state == .open, context.channel.isWritable { owner?.writable(self) }
        context.fireChannelWritabilityChanged()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        guard state != .closed else { return }
        lastRead = .now()
        parser.append(&bytes)
        do throws(PeerViolation) {
            while state != .closed, let frame = try parser.next() { try take(frame) }
        } catch {
            send(PeerFrame(.refused, PeerRefusal(.malformed, "\(error)").encode()))
            close(because: .violation(error))
        }
    }

    private func take(_ frame: PeerFrame) throws(PeerViolation) {
        if frame.kind == .refused {
            do throws(MalformedBytes) { return close(because: .refused(try PeerRefusal(decoding: frame.body))) } catch { throw .malformed(.refused, error) }
        }
        switch state {
        case .greeting: try greet(frame)
        case .open: if frame.kind != .ping { try owner?.received(frame, on: self) }
        case .closed: break
        }
    }

    // MARK: Greeting

    private func greet(_ frame: PeerFrame) throws(PeerViolation) {
        guard frame.kind == (hello == nil ? .hello : .welcome) else { throw .unexpected(frame.kind) }
        let greeting: PeerGreeting
        do throws(MalformedBytes) { greeting = try PeerGreeting(decoding: frame.body) } catch { throw .malformed(frame.kind, error) }
        do throws(PeerRefusal) {
            try verifyCertificate(of: greeting)
            if let hello {
                try verify(greeting, against: hello)
            } else if let owner {
                send(PeerFrame(.welcome, try owner.greeted(by: greeting, on: self).encode()))
            }
        } catch {
            return refuse(error)
        }
        timeout?.cancel()
        peer = greeting
        state = .open
        parser.bodyBytesMax = PeerLimits.frameBytesMax
        lastRead = .now()
        listen()
        owner?.opened(self, with: greeting)
    }

    /// (4)
    private func listen() {
        guard let context, state == .open else { return }
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(PeerLimits.pingMilliseconds)) { [weak self] in
            guard let self, state == .open else { return }
            let now = NIODeadline.now()
            if isReading, now - lastRead > .milliseconds(PeerLimits.silenceMilliseconds) {
                return close(because: .unreachable("nothing was heard for \(PeerLimits.silenceMilliseconds) ms"))
            }
            // What the network does not take is not added to: it will be heard when it gets through.
            if isWritable, now - lastWrite >= .milliseconds(PeerLimits.pingMilliseconds / 2) { send(PeerFrame(.ping, [])) }
            listen()
        }
    }

    /// (2) A certificate of the right authority is not enough: a client's must not speak as a member, nor one member as another.
    private func verifyCertificate(of greeting: PeerGreeting) throws(PeerRefusal) {
        guard let context, let certificate = try? context.pipeline.syncOperations.nioSSL_peerCertificate() else {
            throw PeerRefusal(.notThePeer, "no certificate was shown")
        }
        let identity: CertificateIdentity
        do throws(CertificateFailure) { identity = try CertificateIdentity(peer: certificate, now: Date()) } catch {
            throw PeerRefusal(.notThePeer, "\(error)")
        }
        guard identity.isMember else { throw PeerRefusal(.notThePeer, "the certificate of '\(identity.commonName)' is no member's") }
        guard identity.commonName == greeting.name else {
            throw PeerRefusal(.notThePeer, "the certificate is of member '\(identity.commonName)', the greeting of '\(greeting.name)'")
        }
    }

    private func verify(_ welcome: PeerGreeting, against hello: PeerGreeting) throws(PeerRefusal) {
        try transport.verify(welcome.name, of: welcome.from)
        // Who has not joined yet asks whoever is there.
        guard hello.purpose != .requests else { return }
        guard welcome.cluster == hello.cluster else { throw .cluster(welcome.cluster, hello.cluster) }
        guard welcome.keyring == hello.keyring else { throw PeerRefusal(.wrongKeyring, "another keyring: these members do not share their keys") }
        guard hello.to == nil || welcome.from == hello.to else {
            throw PeerRefusal(.wrongMember, "reached member \(hex(welcome.from)) where \(hex(hello.to)) was meant")
        }
    }
}

extension PeerRefusal {
    static func cluster(_ theirs: UInt64, _ ours: UInt64) -> PeerRefusal {
        PeerRefusal(.wrongCluster, "another cluster: \(String(theirs, radix: 16)) where this is \(String(ours, radix: 16))")
    }
}
func hex(_ member: MemberID?) -> String { member.map { String($0.rawValue, radix: 16) } ?? "none" }
