/// gRPC's status codes; numbers are the protocol's.
package enum StatusCode: Int, Hashable, Sendable {
    case ok = 0, cancelled, unknown, invalidArgument, deadlineExceeded, notFound, alreadyExists, permissionDenied
    case resourceExhausted, failedPrecondition, aborted, outOfRange, unimplemented, `internal`, unavailable, dataLoss, unauthenticated
}

/// How a call ended. `message` is text for people; clients of etcd also match on it.
package struct Status: Error, Hashable, Sendable, CustomStringConvertible {
    /// What a client knows of the call's execution. Equality of statuses ignores it.
    package enum Origin: Sendable {
        /// The server said so.
        case answered
        /// The call left, and no answer came: it may have been carried out.
        case lost
        /// It never reached the server's services: not sent at all, or refused by HTTP/2's own rules.
        case unsent
    }
    package var code: StatusCode
    package var message: String
    package var origin: Origin
    package init(_ code: StatusCode, _ message: String, _ origin: Origin = .answered) { self.code = code; self.message = message; self.origin = origin }
    package static func == (a: Status, b: Status) -> Bool { a.code == b.code && a.message == b.message }
    package func hash(into hasher: inout Hasher) {
        hasher.combine(code)
        hasher.combine(message)
    }
    package func with(_ origin: Origin) -> Status { Status(code, message, origin) }
    package static let ok = Status(.ok, "")
    package var description: String { message.isEmpty ? "\(code)" : "\(code): \(message)" }

    /// As `grpc-message` carries it: printable ASCII stays, everything else (and `%`) becomes `%XX` of its UTF-8.
    package static func percentEncoded(_ text: String) -> String {
        if text.utf8.allSatisfy({ $0 >= 0x20 && $0 <= 0x7e && $0 != UInt8(ascii: "%") }) { return text }
        var encoded = ""
        for byte in text.utf8 {
            if byte >= 0x20, byte <= 0x7e, byte != UInt8(ascii: "%") {
                encoded.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                encoded += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return encoded
    }

    /// The inverse; what is no valid escape stays as it is, as the protocol asks.
    package static func percentDecoded(_ text: String) -> String {
        let bytes = Array(text.utf8)
        var decoded: [UInt8] = []
        decoded.reserveCapacity(bytes.count)
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "%"), index + 2 < bytes.count,
               let high = hexDigit(bytes[index + 1]), let low = hexDigit(bytes[index + 2]) {
                decoded.append(high << 4 | low)
                index += 3
            } else {
                decoded.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: decoded, as: UTF8.self)
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

extension StatusCode {
    /// What a response without gRPC's own status means, by its HTTP status.
    package init(httpStatus: Int) {
        self = switch httpStatus {
        case 400: .internal
        case 401: .unauthenticated
        case 403: .permissionDenied
        case 404: .unimplemented
        case 429, 502, 503, 504: .unavailable
        default: .unknown
        }
    }
}
