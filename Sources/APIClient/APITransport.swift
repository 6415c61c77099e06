package import Resources

/// A request to the server, before it is bytes.
package struct APIRequest: Sendable, Equatable {
    package enum Method: String, Sendable { case get = "GET", post = "POST", put = "PUT", patch = "PATCH", delete = "DELETE" }
    package var method: Method
    /// Percent-encoded where needed.
    package var path: String
    package var query: [(name: String, value: String)] = []
    package var contentType = "application/json"
    package var accept = "application/json"
    package var body: JSONValue?
    package init(_ method: Method, _ path: String) { self.method = method; self.path = path }

    package static let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    package static func == (a: APIRequest, b: APIRequest) -> Bool {
        a.method == b.method && a.target == b.target && a.contentType == b.contentType && a.accept == b.accept && a.body == b.body
    }

    /// Path and query as the request line has them.
    package var target: String {
        guard !query.isEmpty else { return path }
        return path + "?" + query.map { "\(Self.encoded($0.name))=\(Self.encoded($0.value))" }.joined(separator: "&")
    }

    /// RFC 3986's unreserved characters stay.
    package static func encoded(_ text: String) -> String {
        let hex = Array("0123456789ABCDEF")
        return text.utf8.reduce(into: "") { result, byte in
            switch byte {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, 0x2d, 0x2e, 0x5f, 0x7e: result.unicodeScalars.append(Unicode.Scalar(byte))
            default: result += "%\(hex[Int(byte >> 4)])\(hex[Int(byte & 15)])"
            }
        }
    }
}

/// Carries requests. Throws `Status` for what the server refuses, `ConnectionFailure` when it cannot be reached.
package protocol APITransport: Sendable {
    /// Where they go: `https://host:port`.
    var server: String { get }
    func send(_ request: APIRequest) async throws -> JSONValue
    /// An answer of one JSON document per line, without an end of its own.
    func open(_ request: APIRequest) async throws -> DocumentStream
    func close() async
}

/// The documents of an endless answer, one at a time; `nil` at its end.
package struct DocumentStream {
    package let next: () async throws -> JSONValue?
    package init(next: @escaping () async throws -> JSONValue?) { self.next = next }
}

/// The server was not reached, or what answered is not one.
package struct ConnectionFailure: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}
