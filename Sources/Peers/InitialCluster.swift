package import Basics
import Crypto

/// The members a new cluster begins with, as `--initial-cluster` and `--initial-cluster-token` say; the same on each of them.
///
/// Ids follow from it, as in etcd: a member's from token, name and peer URLs, the cluster's from token and members' ids. So all members
/// know all ids before they have spoken to each other.
package struct InitialCluster: Hashable, Sendable {
    package struct Member: Hashable, Sendable {
        package var id: MemberID
        package var name: String
        /// Sorted.
        package var peerURLs: [String]
    }
    package struct Malformed: Error, Hashable, Sendable, CustomStringConvertible {
        package var description: String
    }

    package let token: String
    /// By id.
    package let members: [Member]

    /// `name=https://host:port,name=https://host:port…`; a member with several URLs is named several times.
    package init(_ text: String, token: String) throws {
        var urls: [(name: String, urls: [String])] = []
        for part in text.split(separator: ",") {
            let halves = part.split(separator: "=", maxSplits: 1).map(String.init)
            guard halves.count == 2, (1...63).contains(halves[0].utf8.count) else {
                throw Malformed(description: "'\(part)' names no member: name=https://host:port does")
            }
            let url = try PeerURL(halves[1]).description
            if let known = urls.firstIndex(where: { $0.name == halves[0] }) { urls[known].urls.append(url) } else { urls.append((halves[0], [url])) }
        }
        guard !urls.isEmpty else { throw Malformed(description: "the initial cluster has no members") }
        guard urls.count <= PeerFacts.membersMax else { throw Malformed(description: "\(urls.count) members are too many") }
        let all = urls.flatMap(\.urls)
        guard Set(all).count == all.count else { throw Malformed(description: "a peer URL is given twice") }
        guard urls.allSatisfy({ $0.urls.count <= PeerLimits.urlsMax }) else { throw Malformed(description: "a member has too many peer URLs") }
        self.token = token
        members = urls.map { Member(id: Self.id(token: token, name: $0.name, peerURLs: $0.urls.sorted()), name: $0.name, peerURLs: $0.urls.sorted()) }
            .sorted { $0.id < $1.id }
        guard Set(members.map(\.id)).count == members.count else { throw Malformed(description: "two members have one id") }
    }

    package subscript(name: String) -> Member? { members.first { $0.name == name } }

    package var clusterID: UInt64 {
        var writer = ByteWriter()
        writer.write(prefixed: "coffer cluster".utf8)
        writer.write(prefixed: token.utf8)
        for member in members { writer.write(member.id.rawValue) }
        return Self.number(writer.bytes)
    }

    /// Tells members started with the same flags from others.
    package var fingerprint: Bytes {
        var writer = ByteWriter()
        writer.write(prefixed: "coffer initial cluster".utf8)
        writer.write(prefixed: token.utf8)
        for member in members {
            writer.write(prefixed: member.name.utf8)
            for url in member.peerURLs { writer.write(prefixed: url.utf8) }
        }
        return Bytes(SHA256.hash(data: writer.bytes))
    }

    private static func id(token: String, name: String, peerURLs: [String]) -> MemberID {
        var writer = ByteWriter()
        writer.write(prefixed: "coffer member".utf8)
        writer.write(prefixed: token.utf8)
        writer.write(prefixed: name.utf8)
        for url in peerURLs { writer.write(prefixed: url.utf8) }
        return MemberID(number(writer.bytes))
    }
    /// Eight bytes of the hash; never 0.
    private static func number(_ bytes: Bytes) -> UInt64 {
        max(1, SHA256.hash(data: bytes).prefix(8).reduce(0) { $0 << 8 | UInt64($1) })
    }
}
