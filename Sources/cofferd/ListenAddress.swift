import ArgumentParser

/// Where to listen, as etcd writes it: `http://127.0.0.1:2379`.
struct ListenAddress: ExpressibleByArgument, Equatable {
    var isTLS: Bool
    var host: String
    var port: Int

    init?(argument: String) {
        let rest: Substring
        if argument.hasPrefix("https://") { (isTLS, rest) = (true, argument.dropFirst(8)) }
        else if argument.hasPrefix("http://") { (isTLS, rest) = (false, argument.dropFirst(7)) }
        else { return nil }
        guard let colon = rest.lastIndex(of: ":"), let port = Int(rest[rest.index(after: colon)...]), (0...65535).contains(port) else { return nil }
        var host = rest[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        guard !host.isEmpty else { return nil }
        self.host = host == "localhost" ? "127.0.0.1" : String(host)
        self.port = port
    }

    /// An address, not a name: `127.0.0.1.example.org` may be anywhere.
    var isLoopback: Bool {
        let octets = host.split(separator: ".", omittingEmptySubsequences: false)
        let isAddress = octets.count == 4 && octets.allSatisfy { UInt8($0) != nil && $0.allSatisfy(\.isNumber) }
        return host == "::1" || (isAddress && octets[0] == "127")
    }
    var defaultValueDescription: String { url }
    var url: String { "\(isTLS ? "https" : "http")://\(host.contains(":") ? "[\(host)]" : host):\(port)" }
}
