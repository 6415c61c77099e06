package import Basics

/// How each side of a connection begins: who it is, and what the connection is for.
///
///     "CFPEER" | u16 version | u8 purpose | u64 cluster | u64 from | u64 to | keyring 16 | prefixed name | u8 n | n × prefixed URL
///
/// A member that has not joined yet knows neither cluster nor keyring nor its id: zeros. It may ask (`requests`), and nothing else.
package struct PeerGreeting: Equatable, Sendable {
    package static let version: UInt16 = 1
    private static let magic = Bytes("CFPEER".utf8)

    package enum Purpose: UInt8, Sendable { case messages = 1, snapshot = 2, requests = 3 }
    package var purpose: Purpose
    package var cluster: UInt64
    package var from: MemberID?
    /// Whom the connecting side means to reach.
    package var to: MemberID?
    package var keyring: KeyringID?
    /// The member's name, which its certificate must carry.
    package var name: String
    /// Where the sender can be reached: a member that is behind may not have it in its table yet.
    package var peerURLs: [String]

    package init(purpose: Purpose, cluster: UInt64, from: MemberID?, to: MemberID?, keyring: KeyringID?, name: String, peerURLs: [String]) {
        self.purpose = purpose; self.cluster = cluster; self.from = from; self.to = to; self.keyring = keyring
        self.name = name; self.peerURLs = peerURLs
    }

    package func encode() -> Bytes {
        var writer = ByteWriter(capacity: 128)
        writer.write(raw: Self.magic)
        writer.write(Self.version)
        writer.write(purpose.rawValue)
        writer.write(cluster)
        writer.write(from?.rawValue ?? 0)
        writer.write(to?.rawValue ?? 0)
        writer.write(raw: keyring?.bytes ?? Bytes(repeating: 0, count: 16))
        writer.write(prefixed: name.utf8)
        writer.write(UInt8(min(peerURLs.count, PeerLimits.urlsMax)))
        for url in peerURLs.prefix(PeerLimits.urlsMax) { writer.write(prefixed: url.utf8) }
        return writer.bytes
    }

    package init(decoding bytes: Bytes) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard Bytes(try reader.readRaw(Self.magic.count)) == Self.magic else { throw MalformedBytes("no greeting of a Coffer member", at: 0) }
        let version = try reader.read(UInt16.self)
        // A later version says so before anything this one could not read.
        guard version == Self.version else { throw MalformedBytes("version \(version) of the peer protocol, this member speaks \(Self.version)", at: reader.offset) }
        guard let purpose = Purpose(rawValue: try reader.read(UInt8.self)) else { throw MalformedBytes("an unknown purpose", at: reader.offset) }
        let cluster = try reader.read(UInt64.self), from = try reader.read(UInt64.self), to = try reader.read(UInt64.self)
        let keyring = Bytes(try reader.readRaw(16))
        let name = try reader.readText()
        var urls: [String] = []
        let count = try reader.read(UInt8.self)
        guard count <= PeerLimits.urlsMax else { throw MalformedBytes("\(count) addresses", at: reader.offset) }
        for _ in 0..<count { urls.append(try reader.readText()) }
        try reader.expectEnd()
        self.init(purpose: purpose, cluster: cluster, from: from == 0 ? nil : MemberID(from), to: to == 0 ? nil : MemberID(to),
                  keyring: keyring.allSatisfy { $0 == 0 } ? nil : KeyringID(keyring), name: name, peerURLs: urls)
    }
}

/// Why one side will not talk to the other. Told to it, and both log it.
package struct PeerRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Reason: UInt8, Sendable {
        case malformed = 1, wrongCluster, wrongKeyring, wrongMember, notThePeer, removed, stranger, tooMany, notReady
    }
    package var reason: Reason
    package var text: String
    package init(_ reason: Reason, _ text: String) { self.reason = reason; self.text = text }
    package var description: String { text }

    package func encode() -> Bytes {
        var writer = ByteWriter()
        writer.write(reason.rawValue)
        writer.write(prefixed: String(text.prefix(256)).utf8)
        return writer.bytes
    }
    package init(decoding bytes: Bytes) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let reason = Reason(rawValue: try reader.read(UInt8.self)) else { throw MalformedBytes("an unknown reason", at: 0) }
        self.init(reason, try reader.readText())
        try reader.expectEnd()
    }
}

extension ByteReader {
    /// Prefixed text, without what could deceive a reader of logs.
    mutating func readText() throws(MalformedBytes) -> String {
        let bytes = try readPrefixed()
        guard bytes.count <= PeerLimits.textBytesMax, let text = String(validating: bytes, as: UTF8.self) else { throw MalformedBytes("no text", at: offset) }
        guard text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && !(0x7f...0x9f).contains($0.value) }) else { throw MalformedBytes("control characters", at: offset) }
        return text
    }
}
