import ArgumentParser
import Basics
import Certificates
import EtcdClient
import EtcdProtocol
import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import RPC

/// Flags of the verbs that ask the etcd port of the members, as etcdctl names them.
struct EndpointOptions: ParsableArguments, Sendable {
    @Option(help: "Addresses of members, joined by commas: host:port or https://host:port. Default: $COFFER_ENDPOINTS, $ETCDCTL_ENDPOINTS, 127.0.0.1:2379.")
    var endpoints: String?
    @Option(help: "The authority of the members' certificates; with it, or with https://, TLS is spoken.") var cacert: String?
    @Option(help: "The client's certificate.") var cert: String?
    @Option(help: "Its key.") var key: String?
    @Option(help: "Seconds until an unanswered call fails.") var commandTimeout = 10
    @Option(name: [.customShort("w"), .customLong("write-out")], help: "table or simple.") var format = EndpointFormat.table
    init() {}
}

enum EndpointFormat: String, ExpressibleByArgument, CaseIterable, Sendable { case table, simple }

/// One member's etcd port.
struct Endpoint: Hashable, Sendable {
    var text: String
    var host: String
    var port: Int
    var isTLS: Bool

    init(_ text: String) throws {
        self.text = text
        var rest = text[...]
        isTLS = rest.hasPrefix("https://")
        if let scheme = rest.firstRange(of: "://") {
            guard isTLS || rest.hasPrefix("http://") else { throw CommandError("'\(text)' is no endpoint: host:port, http:// or https:// is") }
            rest = rest[scheme.upperBound...]
        }
        guard let colon = rest.lastIndex(of: ":"), let port = UInt16(rest[rest.index(after: colon)...]), colon > rest.startIndex else {
            throw CommandError("'\(text)' is no endpoint: host:port is")
        }
        var host = rest[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        self.host = String(host)
        self.port = Int(port)
    }
}

extension EndpointOptions {
    func addresses(_ environment: [String: String]) throws -> [Endpoint] {
        let text = endpoints ?? environment["COFFER_ENDPOINTS"] ?? environment["ETCDCTL_ENDPOINTS"] ?? "127.0.0.1:2379"
        let addresses = try text.split(separator: ",").map { try Endpoint(String($0)) }
        guard !addresses.isEmpty else { throw CommandError("--endpoints names none") }
        return addresses
    }

    /// Asks one member.
    func ask<Answer: Sendable>(_ endpoint: Endpoint, _ body: (EtcdClient) async throws -> Answer) async throws -> Answer {
        let client: EtcdClient
        do {
            client = try await EtcdClient.connect(
                host: endpoint.host, port: endpoint.port, tls: try context(for: endpoint), on: MultiThreadedEventLoopGroup.singleton
            ).timed(.seconds(Int64(max(1, commandTimeout))))
        } catch let error as CommandError { throw error } catch { throw CommandError("\(endpoint.text) cannot be reached: \(error)") }
        let result: Result<Answer, any Error>
        do { result = .success(try await body(client)) } catch { result = .failure(error) }
        await client.close()
        do { return try result.get() } catch let status as Status { throw CommandError("\(endpoint.text): \(TableText.printable(status.message))") }
    }

    /// Asks the first of the members that can be reached; a refusal is final.
    func askAny<Answer: Sendable>(_ environment: [String: String], _ body: (EtcdClient) async throws -> Answer) async throws -> Answer {
        var last: any Error = CommandError("--endpoints names none")
        for endpoint in try addresses(environment) {
            do { return try await ask(endpoint, body) } catch {
                last = error
                guard let error = error as? CommandError, error.description.contains("cannot be reached") else { throw error }
            }
        }
        throw last
    }

    private func context(for endpoint: Endpoint) throws -> NIOSSLContext? {
        guard endpoint.isTLS || cacert != nil else { return nil }
        guard let cacert else { throw CommandError("\(endpoint.text): --cacert names the authority of the members' certificates") }
        guard (cert == nil) == (key == nil) else { throw CommandError("--cert and --key go together") }
        do {
            guard let authority = try Credential.loadCertificate(cacert) else { throw CommandError("no certificate at \(cacert)") }
            var credential: Credential?
            if let cert, let key {
                credential = try Credential.load(certificate: cert, key: key)
                guard credential != nil else { throw CommandError("no certificate and key at \(cert), \(key)") }
            }
            var configuration = try TransportSecurity.client(credential, servers: authority)
            configuration.applicationProtocols = ["h2"]
            return try NIOSSLContext(configuration: configuration)
        } catch let failure as CertificateFailure { throw CommandError("\(failure)") }
    }

    /// As etcdctl prints: a table with borders, or the cells of a row joined by commas.
    func print(_ headings: [String], _ rows: [[String]], in invocation: Invocation) {
        let rows = rows.map { $0.map(TableText.printable) }
        switch format {
        case .simple: for row in rows { invocation.print(row.joined(separator: ", ")) }
        case .table:
            var widths = headings.map(\.count)
            for row in rows { for (column, cell) in row.enumerated() { widths[column] = max(widths[column], cell.count) } }
            let rule = "+" + widths.map { String(repeating: "-", count: $0 + 2) }.joined(separator: "+") + "+"
            func centered(_ cells: [String]) -> String {
                "|" + zip(cells, widths).map { cell, width in
                    let left = (width - cell.count) / 2
                    return " " + String(repeating: " ", count: left) + cell + String(repeating: " ", count: width - cell.count - left) + " "
                }.joined(separator: "|") + "|"
            }
            func aligned(_ cells: [String]) -> String {
                "|" + zip(cells, widths).map { cell, width in
                    let space = String(repeating: " ", count: width - cell.count)
                    return Double(cell) != nil ? " \(space)\(cell) " : " \(cell)\(space) "
                }.joined(separator: "|") + "|"
            }
            for line in [rule, centered(headings), rule] + rows.map(aligned) + [rule] { invocation.print(line) }
        }
    }
}
