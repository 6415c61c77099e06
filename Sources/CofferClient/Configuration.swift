import Basics
import Certificates
import NIOSSL

extension CofferClient {
    /// How a client reaches its cluster.
    public struct Configuration: Sendable {
        /// `https://host:port` of each member; `http://` on loopback only. Asked in turn.
        public var endpoints: [String]
        /// For `https://`.
        public var identity: Identity?
        /// A request that is not answered by then fails. Watches and kept leases go on for longer.
        public var timeout = Duration.seconds(10)
        /// What may be repeated is tried at another member after this time, the next time after twice as much, and so on.
        public var attemptTimeout = Duration.seconds(2)
        /// To have a connection and a first answer on it.
        public var connectTimeout = Duration.seconds(2)
        /// How long an endpoint rests that failed once; doubles with each failure in a row.
        public var restMin = Duration.milliseconds(50)
        public var restMax = Duration.seconds(3)
        /// A watch that hears nothing for so long asks, and after as much silence again goes to another member.
        public var watchSilence = Duration.seconds(3)

        public init(endpoints: [String], identity: Identity? = nil) {
            self.endpoints = endpoints
            self.identity = identity
        }
    }

    /// PEM files for TLS: whom to trust, and who this client is.
    public struct Identity: Hashable, Sendable {
        public var authorityFile: String
        public var certificateFile: String?
        public var keyFile: String?
        /// Without a certificate the client is anonymous, which servers may refuse.
        public init(authorityFile: String, certificateFile: String? = nil, keyFile: String? = nil) {
            self.authorityFile = authorityFile
            self.certificateFile = certificateFile
            self.keyFile = keyFile
        }

        func context() throws -> NIOSSLContext {
            guard let authority = try Credential.loadCertificate(authorityFile) else { throw CertificateFailure.incomplete(missing: authorityFile) }
            var credential: Credential?
            if let certificateFile, let keyFile {
                credential = try Credential.load(certificate: certificateFile, key: keyFile)
                guard credential != nil else { throw CertificateFailure.incomplete(missing: certificateFile) }
            } else if let missing = certificateFile ?? keyFile {
                throw CertificateFailure.incomplete(missing: "the other one of \(missing)")
            }
            var configuration = try TransportSecurity.client(credential, servers: authority)
            configuration.applicationProtocols = ["h2"]
            return try NIOSSLContext(configuration: configuration)
        }
    }
}

/// Where a member listens.
struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    var host: String
    var port: Int
    var isTLS: Bool
    var description: String { (isTLS ? "https://" : "http://") + (host.contains(":") ? "[\(host)]" : host) + ":\(port)" }

    /// `https://host:port`, `http://host:port` or `host:port`, which is plaintext; an IPv6 address in brackets.
    init(_ text: String) throws(CofferClientError) {
        var rest = Substring(text)
        isTLS = rest.hasPrefix("https://")
        if let scheme = ["https://", "http://"].first(where: rest.hasPrefix) { rest = rest.dropFirst(scheme.count) }
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        guard let colon = rest.lastIndex(of: ":"), let port = Int(rest[colon...].dropFirst()), (1...65_535).contains(port) else {
            throw CofferClientError(.cannotConnect, "'\(text)' is no endpoint: https://host:port is one")
        }
        var host = rest[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() } else if host.contains(":") || host.contains("/") { host = "" }
        guard !host.isEmpty else { throw CofferClientError(.cannotConnect, "'\(text)' is no endpoint: https://host:port is one") }
        (self.host, self.port) = (String(host), port)
        guard isTLS || isLoopback else { throw CofferClientError(.cannotConnect, "'\(text)': without TLS only loopback is allowed; use https://") }
    }

    var isLoopback: Bool {
        if host == "localhost" || host == "::1" { return true }
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
    }
}
