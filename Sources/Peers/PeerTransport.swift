package import Basics
package import Certificates
package import Logging
package import NIOCore
import NIOPosix
import NIOSSL
import Synchronization

/// Who this member is to its peers; what is not known yet is `nil`.
package struct PeerIdentity: Hashable, Sendable {
    package var name: String
    package var cluster: UInt64
    package var member: MemberID?
    package var keyring: KeyringID?
    package var peerURLs: [String]
    package init(name: String, cluster: UInt64 = 0, member: MemberID? = nil, keyring: KeyringID? = nil, peerURLs: [String] = []) {
        self.name = name; self.cluster = cluster; self.member = member; self.keyring = keyring; self.peerURLs = peerURLs
    }
}

/// Another member, and where it is.
package struct PeerAddress: Hashable, Sendable {
    package var member: MemberID
    /// Empty until it has said so.
    package var name: String
    package var urls: [PeerURL]
    package init(member: MemberID, name: String = "", urls: [PeerURL]) { self.member = member; self.name = name; self.urls = urls }
}

/// Where messages of other members go. Called on the transport's event loop: hand over and return, never block.
package protocol PeerReceiver: AnyObject, Sendable {
    func received(_ messages: [Bytes], from member: MemberID)
    /// The connection to it ended: what was sent last may be lost.
    func unreachable(_ member: MemberID)
    /// Nothing listens where it was: its process has ended, as far as can be told.
    func gone(_ member: MemberID)
    func reachable(_ member: MemberID)
    /// The others say that this member has been removed.
    func removed()
}

/// What members say to each other, over mutual TLS. Usable from any thread; nothing here blocks.
///
/// 1. Each member listens. Who connects greets, and is greeted back (`PeerSession`): certificate, name, cluster, keyring, member.
/// 2. Messages of Raft go over a connection per direction (`PeerLink`), from a bounded queue that drops.
/// 3. A request (seal file, facts) and a snapshot take a connection each.
/// 4. Certificates are read again when their files change; then all connections are made anew, so that none outlives its reason.
///
/// Leaves to others: what messages mean, who is a member.
package final class PeerTransport: Sendable {
    private struct State {
        var identity: PeerIdentity
        var links: [MemberID: PeerLink] = [:]
        /// Members of the table; links to others were learnt from their greetings.
        var known: Set<MemberID> = []
        /// As the table has them: nobody else's certificate speaks for these members.
        var names: [MemberID: String] = [:]
        var removed: Set<MemberID> = []
        /// Members whose greeting was accepted: they have a directory, and may have voted.
        var heard: Set<MemberID> = []
        var inbound: [ObjectIdentifier: any Channel] = [:]
        var outbound: [ObjectIdentifier: any Channel] = [:]
        var listeners: [any Channel] = []
        var receiver: (any PeerReceiver)?
        var responder: (any PeerResponder)?
        var snapshots: (any SnapshotReceiver)?
        var reload: RepeatedTask?
        var isClosed = false
    }

    let security: PeerSecurity
    let logger: Logger
    private let group: any EventLoopGroup
    private let state: Mutex<State>

    package init(identity: PeerIdentity, security: PeerSecurity, group: any EventLoopGroup, logger: Logger) {
        self.security = security
        self.group = group
        self.logger = logger
        state = Mutex(State(identity: identity))
    }

    package var identity: PeerIdentity { state.withLock { $0.identity } }
    /// Once it is known; before, nothing but requests is answered.
    package func identify(_ identity: PeerIdentity) { state.withLock { $0.identity = identity } }
    package func attach(receiver: any PeerReceiver, snapshots: (any SnapshotReceiver)? = nil) {
        state.withLock {
            $0.receiver = receiver
            $0.snapshots = snapshots
        }
    }
    package func attach(responder: any PeerResponder) { state.withLock { $0.responder = responder } }
    var responder: (any PeerResponder)? { state.withLock { $0.responder } }
    var snapshots: (any SnapshotReceiver)? { state.withLock { $0.snapshots } }
    var receiver: (any PeerReceiver)? { state.withLock { $0.receiver } }

    // MARK: Members

    /// The other members and their addresses now. Who was among them and is not any more has been removed, and is refused from now on.
    package func membersChanged(_ addresses: [PeerAddress]) {
        let (started, stopped, cut) = state.withLock { state -> ([PeerLink], [PeerLink], [any Channel]) in
            guard !state.isClosed else { return ([], [], []) }
            let present = Set(addresses.map(\.member))
            // A removed member's connection must end, so that it is told at the next; the others' are made anew at once.
            let cut = state.known.isSubset(of: present) ? [] : Array(state.inbound.values)
            state.removed.formUnion(state.known.subtracting(present))
            state.removed.subtract(present)
            state.known = present
            state.names = Dictionary(addresses.filter { !$0.name.isEmpty }.map { ($0.member, $0.name) }) { $1 }
            var started: [PeerLink] = []
            for address in addresses where address.member != state.identity.member {
                if let link = state.links[address.member] {
                    link.move(to: address.urls)
                } else {
                    let link = PeerLink(member: address.member, urls: address.urls, transport: self, eventLoop: group.next(), logger: logger)
                    state.links[address.member] = link
                    started.append(link)
                }
            }
            let gone = state.removed.filter { state.links[$0] != nil }
            return (started, gone.compactMap { state.links.removeValue(forKey: $0) }, cut)
        }
        for channel in cut { channel.close(promise: nil) }
        for link in stopped { link.stop() }
        for link in started { link.start() }
    }

    /// Members that are refused from now on: their ids are never used again.
    package func refuse(_ removed: [MemberID]) {
        let links = state.withLock { state in
            state.removed.formUnion(removed)
            return removed.compactMap { state.links.removeValue(forKey: $0) }
        }
        for link in links { link.stop() }
    }

    /// A member that this one has not in its table yet greets: it must be answerable.
    func learn(_ greeting: PeerGreeting) {
        guard let member = greeting.from else { return }
        defer { isReachable(member) }
        let urls = greeting.peerURLs.compactMap { text in try? PeerURL(text) }
        guard !urls.isEmpty else { return }
        let link = state.withLock { state -> PeerLink? in
            // It is up: no need to wait for the next attempt.
            state.links[member]?.hasten()
            guard !state.isClosed, member != state.identity.member, state.links[member] == nil, !state.removed.contains(member) else { return nil }
            guard state.links.count < PeerLimits.inboundConnectionsMax else { return nil }
            let link = PeerLink(member: member, urls: urls, transport: self, eventLoop: group.next(), logger: logger)
            state.links[member] = link
            return link
        }
        link?.start()
    }

    /// Any thread; drops what has no way to go.
    package func send(_ messages: [Bytes], to member: MemberID) {
        let link = state.withLock { $0.links[member] }
        if let link, link.send(messages) == false { return }
        receiver?.unreachable(member)
    }

    func isRemoved() { receiver?.removed() }
    func isReachable(_ member: MemberID) { receiver?.reachable(member) }
    func isUnreachable(_ member: MemberID) { receiver?.unreachable(member) }
    func isGone(_ member: MemberID) { receiver?.gone(member) }

    // MARK: Greetings

    func greeting(_ purpose: PeerGreeting.Purpose, to member: MemberID?) -> PeerGreeting {
        let identity = identity
        return PeerGreeting(purpose: purpose, cluster: identity.cluster, from: identity.member, to: member, keyring: identity.keyring,
                            name: identity.name, peerURLs: identity.peerURLs)
    }

    /// The accepting side's decision.
    func answer(to greeting: PeerGreeting) throws(PeerRefusal) -> PeerGreeting {
        let identity = identity
        guard greeting.purpose != .requests else { return self.greeting(.requests, to: greeting.from) }
        guard identity.member != nil, let keyring = identity.keyring, receiver != nil else {
            throw PeerRefusal(.notReady, "this member has not joined yet")
        }
        guard greeting.cluster == identity.cluster else { throw .cluster(greeting.cluster, identity.cluster) }
        guard greeting.keyring == keyring else { throw PeerRefusal(.wrongKeyring, "another keyring: these members do not share their keys") }
        guard let from = greeting.from, from != identity.member else {
            throw PeerRefusal(.stranger, greeting.from == nil ? "a member without an id" : "another process is member \(hex(greeting.from)) too")
        }
        try verify(greeting.name, of: from)
        // Before whom it meant: those it knows may all have been replaced, and this one have the address of one of them.
        guard !state.withLock({ $0.removed.contains(from) }) else {
            throw PeerRefusal(.removed, "member \(hex(from)) has been removed from the cluster")
        }
        guard greeting.to == nil || greeting.to == identity.member else {
            throw PeerRefusal(.wrongMember, "this is member \(hex(identity.member)), not \(hex(greeting.to))")
        }
        state.withLock { state in if state.heard.count < PeerLimits.inboundConnectionsMax { state.heard.insert(from) } }
        return self.greeting(greeting.purpose, to: from)
    }

    /// A certificate carries its member's name; the table says which member has it.
    func verify(_ name: String, of member: MemberID?) throws(PeerRefusal) {
        guard let member, let known = state.withLock({ $0.names[member] }), known != name else { return }
        throw PeerRefusal(.notThePeer, "member \(hex(member)) is '\(known)', not '\(name)'")
    }

    /// Whether that member has ever spoken here since this one was started.
    package func hasHeard(_ member: MemberID) -> Bool { state.withLock { $0.heard.contains(member) } }

    // MARK: Connections

    /// Listens; answers the ports, of which 0 was a free one.
    package func listen(on urls: [PeerURL]) async throws -> [Int] {
        var ports: [Int] = []
        for url in urls {
            let channel = try await ServerBootstrap(group: group)
                .serverChannelOption(.backlog, value: 256)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
                .childChannelOption(.socketOption(.so_keepalive), value: 1)
                .childChannelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture { try self.accept(channel) }
                }
                .bind(host: url.host, port: url.port).get()
            state.withLock { $0.listeners.append(channel) }
            ports.append(channel.localAddress?.port ?? url.port)
        }
        watchCertificates()
        return ports
    }

    private struct TooManyConnections: Error {}

    private func accept(_ channel: any Channel) throws {
        let isAdmitted = state.withLock { state in
            guard !state.isClosed, state.inbound.count < PeerLimits.inboundConnectionsMax else { return false }
            state.inbound[ObjectIdentifier(channel)] = channel
            return true
        }
        guard isAdmitted else { throw TooManyConnections() }
        let id = ObjectIdentifier(channel)
        channel.closeFuture.whenComplete { [weak self] _ in self?.state.withLock { $0.inbound[id] = nil } }
        let operations = channel.pipeline.syncOperations
        try operations.addHandler(NIOSSLServerHandler(context: security.current.server))
        try operations.addHandler(PeerSession(hello: nil, owner: InboundPeer(transport: self, logger: logger), transport: self))
    }

    /// Connects and greets; `owner` hears how it goes once there is a connection, the future fails if there is none.
    func connect<Owner: PeerSessionOwner>(
        to url: PeerURL, hello: PeerGreeting, on eventLoop: any EventLoop, owner: NIOLoopBound<Owner>
    ) -> EventLoopFuture<Void> {
        let context = security.current.client
        return ClientBootstrap(group: eventLoop)
            .connectTimeout(.seconds(PeerLimits.connectSeconds))
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.socketOption(.so_keepalive), value: 1)
            .channelOption(.writeBufferWaterMark, value: ChannelOptions.Types.WriteBufferWaterMark(low: 1 << 18, high: PeerLimits.gatheredBytesMax))
            .channelOption(.tcpOption(.init(rawValue: 18 /* TCP_USER_TIMEOUT */)), value: ChannelOptions.Types.SocketOption.Value(PeerLimits.unacknowledgedMilliseconds))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let id = ObjectIdentifier(channel)
                    self.state.withLock { $0.outbound[id] = channel }
                    channel.closeFuture.whenComplete { [weak self] _ in self?.state.withLock { $0.outbound[id] = nil } }
                    let operations = channel.pipeline.syncOperations
                    try operations.addHandler(NIOSSLClientHandler(context: context, serverHostname: Self.serverName(url.host)))
                    try operations.addHandler(PeerSession(hello: hello, owner: owner.value, transport: self))
                }
            }
            .connect(host: url.host, port: url.port)
            .map { _ in }
    }

    /// SNI takes names only; an address is verified from the certificate's addresses.
    private static func serverName(_ host: String) -> String? {
        (try? SocketAddress(ipAddress: host, port: 0)) == nil ? host : nil
    }

    // MARK: Certificates

    private func watchCertificates() {
        let task = group.next().scheduleRepeatedTask(initialDelay: .seconds(PeerLimits.reloadSeconds), delay: .seconds(PeerLimits.reloadSeconds)) { [weak self] _ in
            self?.reloadCertificates()
        }
        state.withLock {
            $0.reload?.cancel()
            $0.reload = task
        }
    }

    /// Now, if their files have changed.
    package func reloadCertificates() {
        do {
            guard try security.reloadIfChanged() else { return }
            logger.notice("peer certificates were read again", metadata: ["expires": "\(security.current.notAfter)"])
            let (links, inbound) = state.withLock { (Array($0.links.values), Array($0.inbound.values)) }
            for link in links { link.renew() }
            for channel in inbound { channel.close(promise: nil) }
        } catch {
            logger.error("peer certificates have changed and do not load: those read before stay in force", metadata: ["reason": "\(error)"])
        }
    }

    // MARK: Looking, ending

    /// Per member: whether it can be reached, and what became of what was sent.
    package struct LinkStatus: Sendable {
        package var member: MemberID
        package var isOpen: Bool
        package var queuedBytes: Int
        package var sentMessages: UInt64, sentBytes: UInt64, droppedMessages: UInt64, connections: UInt64
    }
    package func linkStatus() -> [LinkStatus] {
        let links = state.withLock { Array($0.links.values) }
        return links.sorted { $0.member < $1.member }.map { link in
            let counters = link.counters
            return LinkStatus(
                member: link.member, isOpen: link.isOpen, queuedBytes: link.queuedBytes, sentMessages: counters.sentMessages,
                sentBytes: counters.sentBytes, droppedMessages: counters.droppedMessages, connections: counters.connections)
        }
    }

    package func shutdown() async {
        // Let go of without the lock: with the receiver a whole member may end, which speaks to the others until then.
        let before = state.withLock { state in
            defer { state = State(identity: state.identity, isClosed: true) }
            return state
        }
        before.reload?.cancel()
        for link in before.links.values { link.stop() }
        for channel in before.listeners + Array(before.inbound.values) + Array(before.outbound.values) { try? await channel.close() }
    }
}
