import Faults
import Foundation
import Glibc

/// A TCP connection to this machine that says anything.
enum RawConnection {
    /// Sends all of `bytes`, closes its half, and reads what comes until the other end closes or is silent for `seconds`.
    static func exchange(port: Int, _ bytes: [UInt8], silenceSeconds seconds: Int = 2) async throws -> [UInt8] {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try blockingExchange(port, bytes, seconds) }) }
        }
    }

    /// A number whose `count` next ones are such ports, below those that the system chooses by itself.
    static func freeBase(_ count: Int) throws -> Int {
        for _ in 0..<100 {
            let base = Int.random(in: 20_000...29_000)
            if (try? takePorts((1...count).map { base + $0 })) != nil { return base }
        }
        throw Child.Failure(description: "no \(count) free ports in a row")
    }

    private static func blockingExchange(_ port: Int, _ bytes: [UInt8], _ seconds: Int) throws -> [UInt8] {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Child.Failure(description: "socket: \(errno)") }
        defer { close(descriptor) }
        var timeout = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let connected = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
        guard connected == 0 else { throw Child.Failure(description: "connect: \(errno)") }
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { send(descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL)) }
            if count <= 0 { break } // refused by now: that is the other end's right
            sent += count
        }
        shutdown(descriptor, Int32(SHUT_WR))
        var answer: [UInt8] = [], chunk = [UInt8](repeating: 0, count: 65536)
        while answer.count < 4 << 20 {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            if count <= 0 { break }
            answer += chunk[..<count]
        }
        return answer
    }
}

/// HTTP/2 frames, right and wrong.
enum Frames {
    static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    static let settings = frame(type: 4, stream: 0)
    static let opening = preface + settings

    /// `length` is what the header says, if not the truth.
    static func frame(type: UInt8, flags: UInt8 = 0, stream: UInt32, _ payload: [UInt8] = [], length: Int? = nil) -> [UInt8] {
        let length = length ?? payload.count
        return [UInt8(truncatingIfNeeded: length >> 16), UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length), type, flags]
            + bytes(stream) + payload
    }
    static func bytes(_ number: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: number >> (24 - 8 * $0)) } }

    /// HPACK: literals without indexing, without Huffman.
    static func fields(_ fields: [(String, String)]) -> [UInt8] {
        fields.flatMap { name, value -> [UInt8] in
            [0] + text(name) + text(value)
        }
    }
    private static func text(_ text: String) -> [UInt8] {
        let bytes = Array(text.utf8)
        guard bytes.count >= 127 else { return [UInt8(bytes.count)] + bytes }
        var rest = bytes.count - 127, length: [UInt8] = [127]
        while rest >= 128 {
            length.append(UInt8(rest & 127) | 128)
            rest >>= 7
        }
        return length + [UInt8(rest)] + bytes
    }
    static func request(_ path: String, more: [(String, String)] = []) -> [UInt8] {
        fields([(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")] + more)
    }
    /// The frames of a call, up to its message.
    static func call(_ path: String, stream: UInt32 = 1) -> [UInt8] { frame(type: 1, flags: 4, stream: stream, request(path)) }
    /// A gRPC message, whose prefix may lie.
    static func message(_ bytes: [UInt8], compressed: UInt8 = 0, length: UInt32? = nil) -> [UInt8] {
        [compressed] + self.bytes(length ?? UInt32(bytes.count)) + bytes
    }
}

/// The same "random" bytes at each run.
struct NoiseGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 { // SplitMix64
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = (state ^ state >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
    mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }
}
