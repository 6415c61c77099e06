import HTTPTypes
import HummingbirdCore
import NIOCore
import Resources

/// How answers are put on the wire. A document's secrets go from their owner's memory straight into the buffer that is sent.
enum Answer {
    static func json(_ document: JSONValue, code: Int = 200, warnings: [String] = []) -> Response {
        let headers: HTTPFields = [.contentType: "application/json", .cacheControl: "no-cache, private"]
        return adding(warnings, to: Response(status: .init(code: code), headers: headers, body: ResponseBody(byteBuffer: buffer(document))))
    }
    static func adding(_ warnings: [String], to response: Response) -> Response {
        var response = response
        for warning in warnings {
            response.headers.append(HTTPField(name: warningName, value: "299 - \(JSONValue.string(warning).encodedString())"))
        }
        return response
    }
    static func text(_ text: String, code: Int = 200) -> Response {
        Response(status: .init(code: code), headers: [.contentType: "text/plain; charset=utf-8"], body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }
    static func status(_ status: Status) -> Response {
        var response = json(status.json, code: status.code)
        if let seconds = status.details?.retryAfterSeconds, seconds > 0 { response.headers[.retryAfter] = String(seconds) }
        return response
    }

    private static let warningName = HTTPField.Name("Warning")!

    static func buffer(_ document: JSONValue, newline: Bool = false) -> ByteBuffer {
        let count = document.encodedByteCount()
        var buffer = ByteBufferAllocator().buffer(capacity: count + 1)
        _ = buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { document.encode(into: UnsafeMutableRawBufferPointer(rebasing: $0[..<count])) }
        if newline { buffer.writeInteger(UInt8(ascii: "\n")) }
        return buffer
    }
}
