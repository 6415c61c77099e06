import Basics
import Certificates
import Faults
import Foundation
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import NIOSSL
import Synchronization
import Testing

@testable import Peers

@Suite struct PeerTransportTests {
    func message(_ number: UInt32, bytes: Int = 4) -> Bytes {
        var writer = ByteWriter()
        writer.write(number)
        writer.write(raw: Bytes(repeating: 0x5a, count: max(0, bytes - 4)))
        return writer.bytes
    }

    @Test("messages arrive in order, both ways, small and large")
    func exchange() async throws {
        try await withPair { _, a, b in
            let sent = (0..<2_000).map { message($0) } + [message(9_999, bytes: 6 << 20)]
            for message in sent { a.transport.send([message], to: b.member) }
            b.transport.send([message(1), message(2)], to: a.member)
            try await eventually("all arrived") { b.receiver.messages.count == sent.count && a.receiver.messages.count == 2 }
            #expect(b.receiver.messages == sent)
            #expect(b.receiver.state.withLock { $0.messages.allSatisfy { $0.from == a.member } })
        }
    }

    @Test("a member that comes back is found again, and the sender hears that it was gone")
    func reconnect() async throws {
        try await withPair { folder, a, b in
            await b.transport.shutdown()
            try await eventually("a hears of it") { !a.receiver.state.withLock { $0.unreachable.isEmpty } && !a.isConnected(to: b) }
            try await eventually("a hears that its process has ended, once") { a.receiver.state.withLock { $0.gone } == [b.member] }
            a.transport.send([message(1)], to: b.member)
            let again = try await Node.start(2, "b", folder.files("b"))
            a.transport.membersChanged([a.address, again.address])
            try await eventually("a found it") { a.isConnected(to: again) }
            a.transport.send([message(2)], to: again.member)
            try await eventually("it hears") { again.receiver.messages == [message(2)] }
            #expect(a.link(to: again)?.droppedMessages == 1)
            await again.transport.shutdown()
        }
    }

    @Test("a network that stops forwarding without a word is noticed by both sides within seconds, and the connection is made anew when it forwards again")
    func silence() async throws {
        let folder = try PeerFolder()
        let a = try await Node.start(1, "a", folder.issue("a")), b = try await Node.start(2, "b", folder.issue("b"))
        let proxy = try await TCPProxy.listen(to: b.url.port)
        a.transport.membersChanged([a.address, PeerAddress(member: b.member, urls: [PeerURL(host: "127.0.0.1", port: proxy.port)])])
        try await eventually("a is connected") { a.isConnected(to: b) }
        a.transport.send([message(1)], to: b.member)
        try await eventually("it hears") { b.receiver.messages == [message(1)] }
        // Longer than the patience of either: what is idle but alive stays. Unless this process itself was kept from running for so long: then once more.
        var stayed = false
        for _ in 0..<5 where !stayed {
            let connections = a.link(to: b)?.connections, since = ContinuousClock.now
            try await eventually("time passes") { ContinuousClock.now - since > .milliseconds(PeerLimits.silenceMilliseconds * 3 / 2) }
            try await eventually("a is connected") { a.isConnected(to: b) }
            stayed = a.link(to: b)?.connections == connections
        }
        #expect(stayed)

        let told = a.receiver.state.withLock { $0.unreachable.count }, logged = b.log.text.count
        proxy.set(.held)
        try await eventually("a gives up what is silent, and who sends is told, so that it probes") {
            !a.isConnected(to: b) && a.receiver.state.withLock { $0.unreachable.count } > told
        }
        try await eventually("b gives it up too") { b.log.text.dropFirst(logged).contains("nothing was heard for") }
        proxy.set(.open)
        try await eventually("a is connected again") { a.isConnected(to: b) }
        try await eventually("it hears again") {
            a.transport.send([message(2)], to: b.member)
            return b.receiver.messages.last == message(2)
        }
        await a.transport.shutdown()
        await b.transport.shutdown()
        await proxy.close()
    }

    @Test("a slow receiver costs a bounded queue: what does not fit is dropped, and said")
    func slowReceiver() async throws {
        try await withPair { _, a, b in
            let gate = DispatchGate()
            // b's event loop stands still in the middle of a delivery.
            let blocking = BlockingReceiver(gate: gate)
            b.transport.attach(receiver: blocking)
            let one = message(1, bytes: 1 << 20)
            for _ in 0..<200 { a.transport.send([one], to: b.member) }
            let status = try #require(a.link(to: b))
            #expect(status.queuedBytes <= PeerLimits.queuedBytesMax)
            #expect(status.droppedMessages >= 100)
            #expect(a.receiver.state.withLock { $0.unreachable.contains(b.member) })
            gate.open()
            try await eventually("what was queued arrives") { blocking.count.withLock { $0 } == 200 - Int(a.link(to: b)!.droppedMessages) }
        }
    }

    @Test("who has no certificate of the peers' authority, or none at all, or a client's, is refused")
    func wrongCertificates() async throws {
        let folder = try PeerFolder(), other = try PeerFolder()
        let a = try await Node.start(1, "a", try folder.issue("a"))
        let stranger = try await Node.start(2, "b", try other.issue("b"))
        stranger.transport.membersChanged([a.address])
        try await eventually("the stranger is told by TLS") { stranger.log.text.contains("TLS") }
        #expect(!stranger.isConnected(to: a))

        // The right authority, but a client of it.
        let client = try await Node.start(
            3, "coffer-admin", try folder.save(try folder.authority.issueClient(.administrator, now: Date()), "client"))
        client.transport.membersChanged([a.address])
        try await eventually("it is told why") { client.log.text.contains("no member's") || a.log.text.contains("no member's") }
        #expect(!client.isConnected(to: a))

        // A member's certificate, another member's name.
        let impostor = try await Node.start(4, "a", try folder.issue("d"))
        impostor.transport.membersChanged([a.address])
        try await eventually("the name counts") { impostor.log.text.contains("the certificate is of member 'd', the greeting of 'a'") }

        // No certificate at all.
        var bare = TLSConfiguration.makeClientConfiguration()
        bare.certificateVerification = .none
        bare.applicationProtocols = ["coffer-peer/1"]
        let raw = try await RawPeer.connect(to: a.url, bare)
        raw.write(PeerFrame(.hello, PeerGreeting(
            purpose: .messages, cluster: 1, from: MemberID(9), to: nil, keyring: Node.keyring, name: "a", peerURLs: []).encode()))
        try await raw.closed()
        #expect(raw.frames.isEmpty)
        #expect(a.receiver.messages.isEmpty)
        for node in [a, stranger, client, impostor] { await node.transport.shutdown() }
    }

    @Test("another cluster, another keyring, another member than meant: each is refused by name", arguments: ["cluster", "keyring", "member"])
    func mismatches(_ what: String) async throws {
        let folder = try PeerFolder()
        let a = try await Node.start(1, "a", try folder.issue("a"))
        let b = try await Node.start(
            2, "b", try folder.issue("b"), cluster: what == "cluster" ? 2 : 1, keyring: what == "keyring" ? KeyringID(Bytes(repeating: 8, count: 16)) : Node.keyring)
        b.transport.membersChanged([PeerAddress(member: what == "member" ? MemberID(5) : a.member, urls: [a.url])])
        let expected = ["cluster": "another cluster: 2 where this is 1", "keyring": "another keyring", "member": "this is member 1, not 5"][what]!
        try await eventually(expected) { b.log.text.contains(expected) }
        #expect(b.transport.linkStatus().allSatisfy { !$0.isOpen })
        await a.transport.shutdown()
        await b.transport.shutdown()
    }

    @Test("a removed member is refused; one that is unknown here is heard and can be answered")
    func membership() async throws {
        let folder = try PeerFolder()
        let a = try await Node.start(1, "a", try folder.issue("a")), b = try await Node.start(2, "b", try folder.issue("b"))
        b.transport.membersChanged([a.address])
        try await eventually("a learnt of b from its greeting") { b.isConnected(to: a) && a.isConnected(to: b) }
        a.transport.membersChanged([a.address, b.address])
        a.transport.membersChanged([a.address])
        b.transport.membersChanged([])
        b.transport.membersChanged([a.address])
        try await eventually("b is told") { b.log.text.contains("member 2 has been removed from the cluster") && b.receiver.state.withLock { $0.isRemoved } }
        #expect(!b.isConnected(to: a))
        await a.transport.shutdown()
        await b.transport.shutdown()
    }

    @Test("nobody's certificate speaks for another member: neither who connects nor who answers")
    func names() async throws {
        let folder = try PeerFolder()
        let a = try await Node.start(1, "a", try folder.issue("a")), b = try await Node.start(2, "b", try folder.issue("b"))
        let impostor = try await Node.start(2, "c", try folder.issue("c"))
        let named = [PeerAddress(member: a.member, name: "a", urls: [a.url]), PeerAddress(member: b.member, name: "b", urls: [b.url])]
        a.transport.membersChanged(named)
        impostor.transport.membersChanged([a.address])
        try await eventually("who connects is refused") { impostor.log.text.contains("member 2 is 'b', not 'c'") }
        #expect(!impostor.isConnected(to: a))
        try await eventually("the member itself is reached") { a.isConnected(to: b) }
        // Another process where it was.
        a.transport.membersChanged([named[0], PeerAddress(member: b.member, name: "b", urls: [impostor.url])])
        await b.transport.shutdown()
        try await eventually("who answers is refused") { a.log.text.contains("refused: member 2 is 'b', not 'c'") && !a.isConnected(to: b) }
        a.transport.send([message(1)], to: b.member)
        #expect(impostor.receiver.messages.isEmpty)
        await a.transport.shutdown()
        await impostor.transport.shutdown()
    }

    @Test("certificates replaced on disk are used without a restart; a broken file changes nothing")
    func rotation() async throws {
        try await withPair { folder, a, b in
            let before = try #require(a.link(to: b)).connections
            let old = try Bytes(Data(contentsOf: URL(fileURLWithPath: folder.path + "/ca.crt")))
            // (1) A second authority beside the first, for both; (2) new certificates from it; (3) the first one goes.
            let next = try CertificateAuthority.create(name: "peers-2", now: Date())
            try PrivateFile.write(old + next.credential.certificatePEM, to: folder.path + "/ca.crt", replacing: .allowed)
            for node in [a, b] { node.transport.reloadCertificates() }
            try folder.issue("a", by: next)
            try folder.issue("b", by: next)
            for node in [a, b] { node.transport.reloadCertificates() }
            try PrivateFile.write(next.credential.certificatePEM, to: folder.path + "/ca.crt", replacing: .allowed)
            for node in [a, b] { node.transport.reloadCertificates() }
            try await eventually("connected anew") { a.isConnected(to: b) && b.isConnected(to: a) && a.link(to: b)!.connections > before }
            a.transport.send([message(7)], to: b.member)
            try await eventually("it works") { b.receiver.messages.contains(message(7)) }
            // Who still has a certificate of the first authority is out.
            let late = try await Node.start(3, "c", try folder.issue("c"))
            late.transport.membersChanged([a.address])
            try await eventually("the old one is refused") { late.log.text.contains("TLS") }
            #expect(!late.isConnected(to: a))
            await late.transport.shutdown()

            try PrivateFile.write(Bytes("nonsense".utf8), to: folder.path + "/a.crt", replacing: .allowed)
            a.transport.reloadCertificates()
            #expect(a.log.text.contains("those read before stay in force"))
            a.transport.send([message(8)], to: b.member)
            try await eventually("still works") { b.receiver.messages.contains(message(8)) }
        }
    }

    @Test("a request is answered to a member that has not joined yet, and a refusal comes as text")
    func requests() async throws {
        let folder = try PeerFolder()
        let a = try await Node.start(1, "a", try folder.issue("a"))
        let joiner = try await Node.start(3, "c", try folder.issue("c"), cluster: 0, keyring: nil)
        joiner.transport.identify(PeerIdentity(name: "c"))
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        await #expect(throws: PeerRequestRefused("this member is not ready yet")) { try await joiner.transport.ask(.facts, of: a.url, on: loop) }
        a.transport.attach(responder: EchoResponder())
        let facts = PeerFacts(cluster: 1, member: a.member, leader: nil, members: [
            .init(id: a.member, name: "a", peerURLs: [a.url.description], clientURLs: ["http://127.0.0.1:2379"], isLearner: false, wasHeard: true),
        ])
        let (answer, peer) = try await joiner.transport.ask(.facts, of: a.url, on: loop)
        #expect(try PeerFacts(decoding: answer).members.count == 1)
        #expect(peer.name == "a" && peer.cluster == 1 && peer.from == a.member)
        #expect(try PeerFacts(decoding: facts.encode()) == facts)
        await #expect(throws: PeerRequestRefused("no seal for c")) { try await joiner.transport.ask(.value(Revision(7, 1)), of: a.url, on: loop) }
        await #expect(throws: PeerRequestRefused("no seal for c")) { try await joiner.transport.ask(.sealFile(bootstrap: [1]), of: a.url, on: loop) }
        await #expect(throws: PeerFailure.self) { try await joiner.transport.ask(.facts, of: PeerURL(host: "127.0.0.1", port: 1), on: loop) }
        // It may not speak as a member: not before it knows who it is, and not as one of another cluster.
        joiner.transport.identify(PeerIdentity(name: "c", keyring: Node.keyring))
        joiner.transport.membersChanged([a.address])
        try await eventually("refused") { joiner.log.text.contains("another cluster") }
        await a.transport.shutdown()
        await joiner.transport.shutdown()
    }

    @Test("garbage, an oversized frame, an unknown kind or a frame out of place ends the connection with its reason", arguments: 0..<6)
    func garbage(_ which: Int) async throws {
        let folder = try PeerFolder()
        let a = try await Node.start(1, "a", try folder.issue("a"))
        let raw = try await RawPeer.connect(to: a.url, try RawPeer.configuration(try folder.issue("b")))
        let hello = PeerFrame(.hello, PeerGreeting(
            purpose: .messages, cluster: 1, from: MemberID(2), to: nil, keyring: Node.keyring, name: "b", peerURLs: []).encode())
        let reason: String
        switch which {
        case 0:
            raw.write(ByteBuffer(string: "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
            reason = "unknown kind"
        case 1:
            raw.write(ByteBuffer(bytes: [0xff, 0xff, 0xff, 0xff, 1]))
            reason = "a frame of 4294967295 bytes"
        case 2:
            raw.write(PeerFrame(.hello, Bytes("CFPEER".utf8) + [0, 9, 1]))
            reason = "version 9 of the peer protocol"
        case 3:
            raw.write(PeerFrame(.messages, []))
            reason = "out of place"
        case 4:
            raw.write(hello)
            raw.write(PeerFrame(.messages, [0xff, 0xff, 0xff, 0xff, 1, 2]))
            reason = "malformed"
        default:
            raw.write(hello)
            raw.write(PeerFrame(.snapshotChunk, Bytes(repeating: 0, count: 8)))
            reason = "out of place"
        }
        try await raw.closed()
        let refusal = try #require(raw.frames.last { $0.kind == .refused })
        let text = try PeerRefusal(decoding: refusal.body).text
        #expect(text.contains(reason), "\(text)")
        try await eventually("it is logged") { a.log.text.contains(reason) }
        #expect(a.receiver.messages.isEmpty)
        await a.transport.shutdown()
    }

    @Test("bytes at random never trap the parsers, and whole frames survive any cut")
    func fuzz() throws {
        var generator = SeededGenerator(seed: 22)
        for _ in 0..<20_000 {
            let bytes = (0..<Int.random(in: 0..<80, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            _ = try? PeerGreeting(decoding: bytes)
            _ = try? PeerGreeting(decoding: Bytes("CFPEER".utf8) + [0, 1] + bytes)
            _ = try? PeerRequest(decoding: bytes)
            _ = try? PeerFacts(decoding: bytes)
            _ = try? PeerRefusal(decoding: bytes)
            _ = try? PeerAnswer.decode(bytes)
            _ = try? MessageBatch.parse(bytes)
            var parser = PeerFrameParser(), buffer = ByteBuffer(bytes: bytes)
            parser.append(&buffer)
            while let _ = try? parser.next() {}
        }
        let frames = (0..<50).map { PeerFrame(.messages, Bytes(repeating: UInt8($0), count: $0 * 7)) }
        var all = ByteBuffer()
        for frame in frames { all.write(frame) }
        for _ in 0..<50 {
            var parser = PeerFrameParser(), rest = all, parsed: [PeerFrame] = []
            while rest.readableBytes > 0 {
                var part = rest.readSlice(length: min(rest.readableBytes, Int.random(in: 1...400, using: &generator)))!
                parser.append(&part)
                while let frame = try parser.next() { parsed.append(frame) }
            }
            #expect(parsed == frames)
        }
    }

    @Test("a snapshot arrives whole, and a broken transfer goes on where it broke off")
    func snapshots() async throws {
        let folder = try PeerFolder(), store = MemorySnapshots()
        let a = try await Node.start(1, "a", try folder.issue("a")), b = try await Node.start(2, "b", try folder.issue("b"), snapshots: store)
        let content = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        await #expect(throws: PeerFailure.self) {
            try await a.transport.sendSnapshot(MemoryStream(content: content, failsAt: 1_500_000), to: b.member, at: b.url, on: loop)
        }
        try await eventually("the receiver hears of it") { store.state.withLock { $0.interruptions == 1 } }
        let kept = store.state.withLock { $0.content.count }
        #expect(kept > 0 && kept < content.count)
        try await a.transport.sendSnapshot(MemoryStream(content: content, failsAt: nil), to: b.member, at: b.url, on: loop)
        #expect(store.state.withLock { $0.content == content && $0.isFinished && $0.resumedAt == kept })
        await a.transport.shutdown()
        await b.transport.shutdown()
    }
}

private struct EchoResponder: PeerResponder {
    func respond(to request: PeerRequest, from peer: PeerGreeting) async throws -> Bytes {
        guard request == .facts else { throw PeerRequestRefused("no seal for \(peer.name)") }
        return PeerFacts(cluster: 1, member: MemberID(1), leader: MemberID(1), members: [
            .init(id: MemberID(1), name: "a", peerURLs: [], clientURLs: [], isLearner: false),
        ]).encode()
    }
}

private final class DispatchGate: Sendable {
    private let condition = ConditionLock(value: 0)
    func open() { condition.lock(); condition.unlock(withValue: 1) }
    func wait() { condition.lock(whenValue: 1); condition.unlock() }
}

private final class BlockingReceiver: PeerReceiver {
    let gate: DispatchGate
    let count = Mutex(0)
    init(gate: DispatchGate) { self.gate = gate }
    func received(_ messages: [Bytes], from member: MemberID) {
        gate.wait()
        count.withLock { $0 += messages.count }
    }
    func unreachable(_ member: MemberID) {}
    func gone(_ member: MemberID) {}
    func reachable(_ member: MemberID) {}
    func removed() {}
}

private struct MemoryStream: SnapshotStream {
    struct Broken: Error {}
    let content: Bytes
    let failsAt: UInt64?
    var head: Bytes { [1, 2, 3] }
    func read(at offset: UInt64, count: Int) throws -> Bytes {
        if let failsAt, offset >= failsAt { throw Broken() }
        return Bytes(content[min(Int(offset), content.count)..<min(Int(offset) + count, content.count)])
    }
}

private final class MemorySnapshots: SnapshotReceiver {
    struct State { var content: Bytes = [], isFinished = false, interruptions = 0, resumedAt = 0 }
    struct Gap: Error {}
    let state = Mutex(State())
    func begin(_ head: Bytes, from member: MemberID) throws -> UInt64 {
        state.withLock {
            $0.resumedAt = $0.content.count
            return UInt64($0.content.count)
        }
    }
    func receive(_ bytes: Bytes, at offset: UInt64, from member: MemberID) throws {
        try state.withLock {
            guard offset == UInt64($0.content.count) else { throw Gap() }
            $0.content += bytes
        }
    }
    func finish(from member: MemberID) throws { state.withLock { $0.isFinished = true } }
    func interrupted(from member: MemberID) { state.withLock { $0.interruptions += 1 } }
}
