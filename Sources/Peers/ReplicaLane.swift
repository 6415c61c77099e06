package import Basics
package import Logging
package import MVCC
package import NIOCore
package import Replica
package import ReplicaService
import Synchronization

/// The Replica's way to its peers: messages and snapshots, encoded, over `PeerTransport`.
///
/// What comes in is decoded on the transport's event loop; a message that does not decode, or that names another sender than the one whose
/// certificate opened the connection, is dropped and counted: Raft goes on without it.
package final class ReplicaLane: PeerLane {
    private struct State {
        var service: ReplicaService?
        var addresses: [MemberID: [PeerURL]] = [:]
        var transfers: Set<MemberID> = []
        var malformed: UInt64 = 0
        var isRemoved = false
        var whenRemoved: (@Sendable () -> Void)?
    }
    private let transport: PeerTransport
    private let eventLoop: any EventLoop
    private let logger: Logger
    private let state = Mutex(State())

    package init(transport: PeerTransport, eventLoop: any EventLoop, logger: Logger) {
        self.transport = transport
        self.eventLoop = eventLoop
        self.logger = logger
    }

    /// Where messages go from now on. Call once.
    package func attach(_ service: ReplicaService) {
        state.withLock { $0.service = service }
        transport.attach(receiver: self, snapshots: self)
        // Of those removed before this start the table knows; of later ones `membersChanged` tells.
        Task { [transport] in
            if let removed = try? await service.inspect({ $0.members.removed }) { transport.refuse(removed) }
        }
    }
    /// Called once, when the others say that this member has been removed, or its own table does.
    package func whenRemoved(_ call: @escaping @Sendable () -> Void) {
        let isRemoved = state.withLock { state in
            state.whenRemoved = state.isRemoved ? nil : call
            return state.isRemoved
        }
        if isRemoved { call() }
    }
    package var malformedMessages: UInt64 { state.withLock { $0.malformed } }

    // MARK: Out

    package func send(_ messages: [PeerMessage]) {
        // Most turns speak to one member or to all; grouped, since each link has a lock.
        var groups: [(to: MemberID, payloads: [Bytes])] = []
        for message in messages {
            let payload = message.encode()
            if let known = groups.firstIndex(where: { $0.to == message.to }) { groups[known].payloads.append(payload) } else { groups.append((message.to, [payload])) }
        }
        for group in groups { transport.send(group.payloads, to: group.to) }
    }

    /// One at a time for each member; an attempt that breaks off is made again, and goes on where it stopped.
    package func sendSnapshot(to member: MemberID, _ source: SnapshotSource) {
        let urls = state.withLock { state -> [PeerURL]? in
            guard state.transfers.insert(member).inserted else { return nil }
            return state.addresses[member] ?? []
        }
        guard let urls, !urls.isEmpty else {
            if urls != nil { endTransfer(to: member) }
            return source.ended(installed: false)
        }
        Task { [self] in
            let installed = await transfer(source, to: member, at: urls)
            endTransfer(to: member)
            source.ended(installed: installed)
        }
    }
    private func endTransfer(to member: MemberID) { state.withLock { state in _ = state.transfers.remove(member) } }

    private static let attemptsMax = 5
    private func transfer(_ source: SnapshotSource, to member: MemberID, at urls: [PeerURL]) async -> Bool {
        for attempt in 0..<Self.attemptsMax {
            let url = urls[attempt % urls.count]
            do {
                try await transport.sendSnapshot(SourceStream(source: source), to: member, at: url, on: eventLoop)
                logger.notice("a snapshot was sent", metadata: ["peer": "\(hex(member))"])
                return true
            } catch {
                logger.warning("a snapshot was not sent", metadata: ["peer": "\(hex(member))", "reason": "\(error)"])
            }
            try? await Task.sleep(for: .milliseconds(100 << attempt))
        }
        return false
    }
    private struct SourceStream: SnapshotStream {
        let source: SnapshotSource
        var head: Bytes { source.head }
        func read(at offset: UInt64, count: Int) throws -> Bytes { try source.read(at: offset, count: count) }
    }

    package func value(at revision: Revision, from member: MemberID) async throws -> SealedValue {
        let urls = state.withLock { $0.addresses[member] ?? [] }
        var last: any Error = PeerFailure.unreachable("no address of member \(hex(member)) is known")
        for url in urls {
            do {
                let (answer, peer) = try await transport.ask(.value(revision), of: url, on: eventLoop)
                guard peer.from == member else { throw PeerFailure.unreachable("\(url) is not member \(hex(member))") }
                return try SealedValue(parsing: answer)
            } catch { last = error }
        }
        throw last
    }

    package func membersChanged(_ members: [ClusterMember]) {
        let addresses = members.map { member in
            PeerAddress(member: member.id, name: member.name, urls: member.peerURLs.compactMap { text in try? PeerURL(text) })
        }
        state.withLock { state in state.addresses = Dictionary(addresses.map { ($0.member, $0.urls) }) { $1 } }
        transport.membersChanged(addresses)
        if let own = transport.identity.member, !members.isEmpty, wasMember.exchange(members.contains { $0.id == own }), !members.contains(where: { $0.id == own }) { removed() }
    }
    private let wasMember = Flag()

    /// Set and read from the replica's thread.
    private final class Flag: Sendable {
        private let value = Mutex(false)
        func exchange(_ new: Bool) -> Bool { value.withLock { value in defer { value = new }; return value } }
    }
}

extension ReplicaLane: SnapshotReceiver {
    private func service() throws -> ReplicaService {
        guard let service = state.withLock({ $0.service }) else { throw PeerRefusal(.notReady, "this member has not started yet") }
        return service
    }
    package func begin(_ head: Bytes, from member: MemberID) throws -> UInt64 { try service().beginSnapshot(head, from: member) }
    package func receive(_ bytes: Bytes, at offset: UInt64, from member: MemberID) throws { try service().receiveSnapshot(bytes, at: offset, from: member) }
    package func finish(from member: MemberID) throws { try service().finishSnapshot(from: member) }
    package func interrupted(from member: MemberID) {}
}

extension ReplicaLane: PeerReceiver {
    package func received(_ messages: [Bytes], from member: MemberID) {
        var decoded: [PeerMessage] = []
        decoded.reserveCapacity(messages.count)
        var malformed: UInt64 = 0, size = 0
        for bytes in messages {
            size += bytes.count
            do throws(MalformedBytes) {
                let message = try PeerMessage(decoding: bytes)
                if message.from == member { decoded.append(message) } else { malformed += 1 }
            } catch {
                malformed += 1
                logger.warning("a peer's message does not decode", metadata: ["peer": "\(hex(member))", "reason": "\(error)"])
            }
        }
        if malformed > 0 { state.withLock { $0.malformed += malformed } }
        if !decoded.isEmpty { state.withLock { $0.service }?.receive(decoded, bytes: size) }
    }
    package func unreachable(_ member: MemberID) { state.withLock { $0.service }?.unreachable(member) }
    package func gone(_ member: MemberID) { state.withLock { $0.service }?.gone(member) }
    package func reachable(_ member: MemberID) { state.withLock { $0.service }?.reachable(member) }
    package func removed() {
        let call = state.withLock { state in
            state.isRemoved = true
            defer { state.whenRemoved = nil }
            return state.whenRemoved
        }
        call?()
    }
}
