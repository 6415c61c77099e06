/// Where a member listens for its peers: `https://host:port`. Peers speak TLS, always.
package struct PeerURL: Hashable, Sendable, CustomStringConvertible {
    package var host: String
    package var port: Int

    package struct Malformed: Error, Equatable, Sendable, CustomStringConvertible {
        package var text: String
        package var description: String { "'\(text)' is no peer URL: https://host:port is (peers always speak TLS)" }
    }

    package init(host: String, port: Int) { self.host = host; self.port = port }
    package init(_ text: String) throws(Malformed) {
        guard text.hasPrefix("https://") else { throw Malformed(text: text) }
        let rest = text.dropFirst(8)
        guard let colon = rest.lastIndex(of: ":"), let port = UInt16(rest[rest.index(after: colon)...]) else { throw Malformed(text: text) }
        var host = rest[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        let allowed = host.utf8.allSatisfy { byte in
            (byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7a) || (byte >= 0x30 && byte <= 0x3a) || byte == 0x2d || byte == 0x2e || byte == 0x5f || byte == 0x25
        }
        guard !host.isEmpty, host.utf8.count <= 253, allowed else { throw Malformed(text: text) }
        self.host = String(host)
        self.port = Int(port)
    }
    package var description: String { "https://\(host.contains(":") ? "[\(host)]" : host):\(port)" }
}
