import AsyncHTTPClient
import Basics
import NIOCore
import NIOHTTP1
import NIOSSL
package import Resources
import SecretMemory

/// Requests over HTTPS with a client certificate. Bodies hold secrets: they are written straight from `SecretValue`s into their
/// buffers, and what was received is overwritten once it is parsed.
package final class HTTPTransport: APITransport {
    /// The largest list; one watch line.
    private static let answerBytesMax = 1 << 30, lineBytesMax = 16 << 20
    private static let requestSeconds: Int64 = 120

    private let client: HTTPClient
    package let server: String
    private let impersonated: ClientConfiguration.Impersonation?

    package init(_ configuration: ClientConfiguration) throws {
        var tls = TLSConfiguration.makeClientConfiguration()
        do {
            if let authority = configuration.authority { tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(authority)) }
            if let certificate = configuration.certificate { tls.certificateChain = try NIOSSLCertificate.fromPEMBytes(certificate).map { .certificate($0) } }
            if let key = configuration.key {
                let pem = key.withUnsafeBytes { Bytes($0) }
                tls.privateKey = .privateKey(try NIOSSLPrivateKey(bytes: pem, format: .pem))
            }
        } catch {
            throw ConfigurationError("the certificates of the configuration cannot be read: \(error)")
        }
        if configuration.skipsVerification { tls.certificateVerification = .none }
        var options = HTTPClient.Configuration(tlsConfiguration: tls)
        options.timeout.connect = .seconds(10)
        if let name = configuration.tlsServerName, let host = Self.host(configuration.server) { options.dnsOverride = [name: host] }
        client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: options)
        impersonated = configuration.impersonated
        server = configuration.tlsServerName.map { Self.replacingHost(configuration.server, by: $0) } ?? configuration.server
    }

    package func close() async { try? await client.shutdown() }

    package func send(_ request: APIRequest) async throws -> JSONValue {
        let response = try await execute(request, seconds: Self.requestSeconds)
        return try await Self.document(response, request)
    }

    package func open(_ request: APIRequest) async throws -> DocumentStream {
        let response = try await execute(request, seconds: 86_400)
        guard response.status.code < 300 else {
            _ = try await Self.document(response, request)
            throw ConnectionFailure("the server answered \(response.status.code) to a watch")
        }
        let lines = LineReader(response.body.makeAsyncIterator(), lineBytesMax: Self.lineBytesMax)
        return DocumentStream { try await lines.next() }
    }

    // MARK: HTTP

    private func execute(_ request: APIRequest, seconds: Int64) async throws -> HTTPClientResponse {
        var message = HTTPClientRequest(url: server + request.target)
        message.method = HTTPMethod(rawValue: request.method.rawValue)
        message.headers.add(name: "Accept", value: request.accept)
        message.headers.add(name: "User-Agent", value: "cofferctl")
        if let impersonated {
            message.headers.add(name: "Impersonate-User", value: impersonated.user)
            for group in impersonated.groups { message.headers.add(name: "Impersonate-Group", value: group) }
        }
        if let body = request.body {
            message.headers.add(name: "Content-Type", value: request.contentType)
            let count = body.encodedByteCount()
            var buffer = ByteBufferAllocator().buffer(capacity: count)
            buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { body.encode(into: $0) }
            message.body = .bytes(buffer)
        }
        do {
            return try await client.execute(message, timeout: .seconds(seconds))
        } catch {
            throw failure(error)
        }
    }

    private func failure(_ error: any Error) -> any Error {
        if error is CancellationError { return error }
        let text = "\(error)", address = server.split(separator: "/").last.map(String.init) ?? server
        if text.contains("Connection refused") || text.contains("errno: 111") {
            return ConnectionFailure("The connection to the server \(address) was refused - did you specify the right host or port?")
        }
        if text.contains("CERTIFICATE_VERIFY_FAILED") || text.contains("unableToValidateCertificate") {
            return ConnectionFailure(
                "Unable to connect to the server: tls: failed to verify the server's certificate: "
                    + "it is not signed by the configured authority, or is for another host"
            )
        }
        if let timeout = error as? HTTPClientError, [.connectTimeout, .deadlineExceeded, .readTimeout].contains(timeout) {
            return ConnectionFailure("Unable to connect to the server: \(address): i/o timeout")
        }
        return ConnectionFailure("Unable to connect to the server: \(address): \(text)")
    }

    private static func document(_ response: HTTPClientResponse, _ request: APIRequest) async throws -> JSONValue {
        var buffer = ByteBuffer()
        defer { buffer.withUnsafeMutableReadableBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 0) } }
        do {
            for try await piece in response.body {
                guard buffer.readableBytes + piece.readableBytes <= answerBytesMax else { throw ConnectionFailure("the server's answer is too large") }
                buffer.writeImmutableBuffer(piece)
            }
        } catch let error as ConnectionFailure {
            throw error
        } catch {
            throw ConnectionFailure("the connection broke while the answer was read: \(error)")
        }
        let parsed = Result { try buffer.withUnsafeReadableBytes { try JSONValue(parsing: $0) } }
        if response.status.code >= 400 {
            if let json = try? parsed.get(), let status = Status(json) { throw status }
            throw Status(
                code: Int(response.status.code), reason: .unknown,
                message: "the server responded with the status code \(response.status.code) but did not return more information")
        }
        if buffer.readableBytes == 0 { return .null }
        do { return try parsed.get() } catch {
            throw ConnectionFailure("the server's answer to \(request.method.rawValue) \(request.path) is no JSON: \(error)")
        }
    }

    private static func host(_ server: String) -> String? {
        guard let authority = server.split(separator: "/").last else { return nil }
        return authority.lastIndex(of: ":").map { String(authority[..<$0]) } ?? String(authority)
    }
    private static func replacingHost(_ server: String, by name: String) -> String {
        guard let host = host(server), let place = server.range(of: host) else { return server }
        return server.replacingCharacters(in: place, with: name)
    }
}

extension String {
    fileprivate func replacingCharacters(in range: Range<Index>, with text: String) -> String { self[..<range.lowerBound] + text + self[range.upperBound...] }
    fileprivate func range(of text: String) -> Range<Index>? { firstRange(of: text) }
}

/// Cuts a body into its lines and parses each.
private final class LineReader {
    private var pieces: HTTPClientResponse.Body.AsyncIterator
    private var buffer = ByteBuffer()
    private let lineBytesMax: Int
    private var scanned = 0
    init(_ pieces: HTTPClientResponse.Body.AsyncIterator, lineBytesMax: Int) { self.pieces = pieces; self.lineBytesMax = lineBytesMax }

    func next() async throws -> JSONValue? {
        while true {
            if let end = buffer.readableBytesView.dropFirst(scanned).firstIndex(of: UInt8(ascii: "\n")) {
                let count = end - buffer.readerIndex
                defer {
                    buffer.withUnsafeMutableReadableBytes {
                        _ = UnsafeMutableRawBufferPointer(rebasing: $0[..<count]).initializeMemory(as: UInt8.self, repeating: 0)
                    }
                    buffer.moveReaderIndex(forwardBy: count + 1)
                    buffer.discardReadBytes()
                    scanned = 0
                }
                if count == 0 { continue }
                return try buffer.withUnsafeReadableBytes { try JSONValue(parsing: UnsafeRawBufferPointer(rebasing: $0[..<count])) }
            }
            scanned = buffer.readableBytes
            guard scanned <= lineBytesMax else { throw ConnectionFailure("a watch event of more than \(lineBytesMax) bytes") }
            // One reader at a time: the stream is not Sendable, and the iterator's own method does not say that it stays here.
            nonisolated(unsafe) var iterator = pieces
            let piece = try await iterator.next()
            pieces = iterator
            guard let piece else { return nil }
            buffer.writeImmutableBuffer(piece)
        }
    }
}
