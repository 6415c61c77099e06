import Basics
import NodeProtocol
import SecretMemory
import Testing

private func sampleState() throws -> DesiredState {
    let pod = DesiredPod(
        namespace: "prod", name: "web", uid: "11111111-2222-3333-4444-555555555555", phase: .running, graceDeadlineMilliseconds: 99, fsGroup: 2_000,
        volumes: [
            DesiredVolume(name: "creds", defaultMode: 0o400, sources: [
                .secret(SecretSource(secretName: "db", items: [KeyToPath(key: "user", path: "a/user", mode: 0o440), KeyToPath(key: "x", path: "y")], isOptional: true)),
                .unsupported(kind: "configMap"),
            ]),
        ])
    return DesiredState(revision: 42, serverTimeMilliseconds: 1_700_000_000_000, pods: [pod], secrets: [
        DeliveredSecret(namespace: "prod", name: "db", uid: "u1", resourceVersion: 40, content: .data([
            SecretEntry(key: "user", value: try SecretValue(copying: Array("root".utf8))),
            SecretEntry(key: "empty", value: try SecretValue(copying: [UInt8]())),
        ])),
        DeliveredSecret(namespace: "prod", name: "broken", uid: "u2", resourceVersion: 7, content: .unreadable(reason: "no key")),
        DeliveredSecret(namespace: "prod", name: "gone", uid: "u3", resourceVersion: 8, content: .revoked),
    ])
}

private func sampleDelta() -> DesiredDelta {
    DesiredDelta(fromRevision: 42, revision: 43, serverTimeMilliseconds: 5, removedPodUIDs: ["p"], removedSecrets: [SecretName(namespace: "a", name: "b")])
}

private func bytes(of messages: [SyncMessage]) throws -> Bytes {
    try messages.flatMap { try $0.frames() }.flatMap { $0.withUnsafeBytes { Array($0) } }
}

private func decode(_ bytes: Bytes, pieces: Int, with decoder: inout SyncDecoder) throws -> [SyncMessage] {
    var messages: [SyncMessage] = [], offset = 0
    while offset < bytes.count {
        let end = min(offset + pieces, bytes.count)
        messages += try bytes[offset..<end].withUnsafeBytes { try decoder.consume($0) }
        offset = end
    }
    return messages
}

private func decode(_ bytes: Bytes, pieces: Int = .max >> 1) throws -> [SyncMessage] {
    var decoder = SyncDecoder()
    return try decode(bytes, pieces: pieces, with: &decoder)
}

@Suite struct SyncDecoderTests {
    @Test("every message survives the wire, however the stream is cut", arguments: [1, 2, 3, 5, 7, 64, 1_000_000])
    func roundTrip(pieces: Int) throws {
        let messages: [SyncMessage] = [
            .snapshot(try sampleState()), .heartbeat(revision: 42, serverTimeMilliseconds: 4), .delta(sampleDelta()), .goodbye(reason: "stepping down"),
        ]
        #expect(try decode(try bytes(of: messages), pieces: pieces) == messages)
    }

    @Test("a stream cut anywhere shows nothing of the open transfer, and never traps")
    func cut() throws {
        let whole = try bytes(of: [.snapshot(try sampleState())])
        for length in 0..<whole.count {
            var decoder = SyncDecoder()
            #expect(try decode(Array(whole[..<length]), pieces: 11, with: &decoder).isEmpty)
            #expect(length == 0 || decoder.isMidway)
        }
    }

    @Test("any flipped bit gives a message or an error, never a trap")
    func flips() throws {
        let whole = try bytes(of: [.snapshot(try sampleState()), .delta(sampleDelta())])
        var refused = 0
        for position in whole.indices {
            for bit in 0..<8 {
                var damaged = whole
                damaged[position] ^= 1 << UInt8(bit)
                do { _ = try decode(damaged) } catch { refused += 1 }
            }
        }
        #expect(refused > whole.count)
    }

    @Test("random bytes never trap")
    func noise() {
        var generator = SeededGenerator(seed: 7)
        var refused = 0
        for _ in 0..<2_000 {
            var noise = (0..<Int.random(in: 0..<200, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            // Half of them get a plausible header, to reach the payload parsers.
            if Bool.random(using: &generator), noise.count > 5 { noise.replaceSubrange(0..<5, with: [0, 0, 0, UInt8(noise.count - 5), UInt8.random(in: 1...8, using: &generator)]) }
            do { _ = try decode(noise) } catch { refused += 1 }
        }
        #expect(refused > 500)
    }

    @Test("a frame beyond the bound is refused by its header, before its bytes are awaited", arguments: [1, 100])
    func oversizedFrame(pieces: Int) throws {
        #expect(throws: ProtocolViolation.self) { try decode([0x7f, 0, 0, 0, 1, 0], pieces: pieces) }
    }

    @Test("items outside a transfer, nested transfers and wrong commits are refused")
    func grammar() throws {
        let frames = try SyncMessage.snapshot(try sampleState()).frames().map { $0.withUnsafeBytes { Array($0) } }
        let begin = frames[0], pod = frames[1], commit = try #require(frames.last)
        #expect(throws: ProtocolViolation("an item outside a transfer")) { try decode(pod) }
        #expect(throws: ProtocolViolation("a transfer begins within another")) { try decode(begin + begin) }
        #expect(throws: ProtocolViolation("a commit outside a transfer")) { try decode(commit) }
        #expect(throws: ProtocolViolation("a commit that does not fit its transfer")) { try decode(begin + pod + commit) }
        #expect(throws: ProtocolViolation("a pod named twice in a transfer")) {
            try decode(begin + pod + pod + frames[2] + frames[3] + Array(commit))
        }
        #expect(throws: ProtocolViolation("frame type 9 is unknown")) { try decode([0, 0, 0, 0, 9]) }
    }

    @Test("a mode beyond 0777, an unknown phase and bad UTF-8 are malformed")
    func malformedPods() throws {
        var state = try sampleState()
        state.pods[0].volumes[0].defaultMode = 0o1000
        #expect(throws: MalformedBytes.self) { try decode(try bytes(of: [.snapshot(state)])) }
        var raw = try bytes(of: [.goodbye(reason: "aa")])
        raw[raw.count - 1] = 0xff
        #expect(throws: MalformedBytes.self) { try decode(raw) }
    }

    @Test("a delta continues the state it names and no other")
    func deltas() throws {
        let state = try sampleState()
        var delta = sampleDelta()
        delta.removedPodUIDs = [state.pods[0].uid]
        delta.removedSecrets = [SecretName(namespace: "prod", name: "gone")]
        delta.secrets = [DeliveredSecret(namespace: "prod", name: "db", uid: "u1", resourceVersion: 43, content: .revoked)]
        let next = try state.applying(delta)
        #expect(next.revision == 43)
        #expect(next.pods.isEmpty)
        #expect(next.secrets.map(\.name) == ["db", "broken"])
        #expect(next.secrets[0].resourceVersion == 43)
        #expect(throws: DeltaMismatch(expected: 43, got: 42)) { try next.applying(delta) }
    }

    @Test("a secret whose frame would be too large is refused by the sender")
    func oversizedSecret() throws {
        let value = try SecretValue(copying: Bytes(repeating: 1, count: ProtocolLimits.frameBytesMax))
        let state = DesiredState(revision: 1, serverTimeMilliseconds: 0, secrets: [
            DeliveredSecret(namespace: "n", name: "s", uid: "u", resourceVersion: 1, content: .data([SecretEntry(key: "k", value: value)])),
        ])
        #expect(throws: MalformedBytes.self) { try SyncMessage.snapshot(state).frames() }
    }
}

@Suite struct RequestTests {
    @Test("a sync request and an acknowledgement survive the wire, and every shortened form is refused")
    func roundTrip() throws {
        let request = SyncRequest(node: "n1", resumeRevision: 9, observedPodUIDs: ["a", "b"])
        #expect(try SyncRequest(decoding: request.encode()) == request)
        let acknowledgement = Acknowledgement(node: "n1", revision: 3, entries: Acknowledgement.Outcome.allCases.map {
            .init(outcome: $0, namespace: "ns", podName: "p", podUID: "u", secretName: "s", secretUID: "su", resourceVersion: 2)
        })
        #expect(try Acknowledgement(decoding: acknowledgement.encode()) == acknowledgement)
        for length in 0..<request.encode().count {
            #expect(throws: MalformedBytes.self) { try SyncRequest(decoding: Array(request.encode()[..<length])) }
        }
        for length in 0..<acknowledgement.encode().count {
            #expect(throws: MalformedBytes.self) { try Acknowledgement(decoding: Array(acknowledgement.encode()[..<length])) }
        }
        #expect(throws: MalformedBytes.self) { try SyncRequest(decoding: request.encode() + [0]) }
    }

    @Test("another protocol version is refused by its number")
    func version() {
        #expect(throws: MalformedBytes("protocol version 2, 1 known", at: 0)) { try SyncRequest(decoding: [0, 2]) }
    }
}
