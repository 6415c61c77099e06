import Foundation
import NIOHTTP1
import Resources
import Testing

/// Connections of clients that do not speak.
@Suite struct ConnectionTests {
    private func connected(_ port: Int) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
        try #require(result == 0)
        return descriptor
    }
    private func isClosed(_ descriptor: Int32) -> Bool {
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT))
        return count == 0 || (count < 0 && errno != EAGAIN)
    }

    @Test("what a client without a certificate makes up cannot fill the trail: long names are cut")
    func cutsLongNames() async throws {
        let server = try await TestServer()
        let before = try Data(contentsOf: URL(fileURLWithPath: server.auditPath)).count, long = String(repeating: "x", count: 20_000)
        #expect(try await server.call(.GET, "/api/v1/namespaces/" + long, as: nil, http1: true).code == 401)
        #expect(try await server.call(.GET, "/" + long, as: nil, http1: true).code == 401)
        try await eventually("both are recorded") { try Data(contentsOf: URL(fileURLWithPath: server.auditPath)).count > before + 2_000 }
        #expect(try Data(contentsOf: URL(fileURLWithPath: server.auditPath)).count < before + 8_000)
        try await server.stop()
    }

    @Test("who connects and says nothing, or never ends its handshake, loses the connection; who speaks keeps it")
    func endsSilentConnections() async throws {
        let server = try await TestServer(firstBytesMilliseconds: 3_000) // enough for a handshake on a busy machine
        let silent = try connected(server.port), stuck = try connected(server.port)
        defer {
            close(silent)
            close(stuck)
        }
        let hello: [UInt8] = [0x16, 3, 1, 2, 0, 1]
        #expect(send(stuck, hello, hello.count, Int32(MSG_NOSIGNAL)) == hello.count)
        try await eventually("both are closed") { isClosed(silent) && isClosed(stuck) }
        #expect(try await server.call(.GET, "/api/v1/namespaces/default").code == 200)
        try await server.stop()
    }
}
