import APIServer
import AsyncHTTPClient
import Certificates
import Foundation
import NIOCore
import NIOHTTP1
import NIOSSL
import Resources
import Testing

@Suite struct IdentityTests {
    @Test("an administrator is known by certificate over HTTP/1.1 and over HTTP/2", arguments: [true, false])
    func administrator(http1: Bool) async throws {
        let server = try await TestServer()
        let created = try await server.call(.POST, secretsPath, secretJSON("web"), http1: http1)
        #expect(created.code == 201)
        #expect(created.version.major == (http1 ? 1 : 2))
        try await server.stop()
    }

    @Test("a node is known by certificate over HTTP/1.1 and over HTTP/2, and is refused secrets", arguments: [true, false])
    func node(http1: Bool) async throws {
        let server = try await TestServer()
        let refused = try await server.call(.GET, secretsPath, as: .node("a"), http1: http1)
        #expect(refused.code == 403)
        #expect(refused.message.contains("secrets is forbidden: User \"system:node:a\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""))
        #expect(try await server.call(.GET, podsPath + "?fieldSelector=spec.nodeName=a", as: .node("a"), http1: http1).code == 200)
        try await server.stop()
    }

    @Test("who shows no certificate may ask for health and nothing else", arguments: [true, false])
    func anonymous(http1: Bool) async throws {
        let server = try await TestServer()
        for path in ["/healthz", "/livez", "/readyz"] { #expect(try await server.call(.GET, path, as: nil, http1: http1).code == 200) }
        for path in ["/api", "/version", secretsPath, "/apis/coffer.dev/v1/vault/status", "/", "/nowhere"] {
            let refused = try await server.call(.GET, path, as: nil, http1: http1)
            #expect(refused.code == 401 && refused.reason == "Unauthorized", "\(path)")
        }
        #expect(try await server.call(.POST, secretsPath, secretJSON("web"), as: nil, http1: http1).code == 401)
        try await server.stop()
    }

    @Test("who is known but in no group sees what is served, and no object")
    func stranger() async throws {
        let server = try await TestServer()
        let jane = CertificateIdentity(commonName: "jane", organizations: ["dev"])
        for path in ["/api", "/api/v1", "/apis", "/version", "/openapi/v3"] { #expect(try await server.call(.GET, path, as: jane).code == 200) }
        for path in [secretsPath, secretsPath + "/web", "/api/v1/namespaces", "/apis/coffer.dev/v1/vault/status", "/apis/coffer.dev/v1/nodes/a/acks"] {
            let refused = try await server.call(.GET, path, as: jane)
            #expect(refused.code == 403 && refused.reason == "Forbidden", "\(path)")
        }
        try await server.stop()
    }

    @Test("a certificate of another authority is refused by TLS", arguments: [true, false])
    func otherAuthority(http1: Bool) async throws {
        let server = try await TestServer()
        let other = try CertificateAuthority.create(now: Date())
        var configuration = HTTPClient.Configuration()
        configuration.tlsConfiguration = try TransportSecurity.client(try other.issueClient(.administrator, now: Date()), servers: server.authority.certificate)
        configuration.httpVersion = http1 ? .http1Only : .automatic
        configuration.connectionPool.retryConnectionEstablishment = false
        let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        await #expect(throws: (any Error).self) {
            try await client.execute(HTTPClientRequest(url: "https://127.0.0.1:\(server.port)/healthz"), timeout: .seconds(10))
        }
        try await client.shutdown()
        try await server.stop()
    }

    @Test("a server's certificate is no client's")
    func serverAsClient() async throws {
        let server = try await TestServer()
        var configuration = HTTPClient.Configuration()
        configuration.tlsConfiguration = try TransportSecurity.client(
            try server.authority.issueServer(names: ["coffer-admin"], now: Date()), servers: server.authority.certificate)
        configuration.connectionPool.retryConnectionEstablishment = false
        let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        let code = try? await client.execute(HTTPClientRequest(url: "https://127.0.0.1:\(server.port)/healthz"), timeout: .seconds(10)).status.code
        #expect(code == nil || code == 401)
        try await client.shutdown()
        try await server.stop()
    }

    @Test("a connection that outlives its certificate is nobody's")
    func expiredMeanwhile() async throws {
        let server = try await TestServer()
        let client = try server.client(.administrator)
        let request = HTTPClientRequest(url: "https://127.0.0.1:\(server.port)\(secretsPath)")
        #expect(try await client.execute(request, timeout: .seconds(10)).status.code == 200)
        server.clock.advance(seconds: 400 * 86_400)
        #expect(try await client.execute(request, timeout: .seconds(10)).status.code == 401)
        try await client.shutdown()
        try await server.stop()
    }

    @Test("a node may do for itself and its pods what it must, and nothing for others")
    func nodeRules() async throws {
        let server = try await TestServer(schedules: false)
        for (name, node) in [("mine", "a"), ("other", "b")] {
            #expect(try await server.call(.POST, podsPath, podJSON(name, node: node)).code == 201)
        }
        let status: JSONValue = ["status": ["phase": "Running"]]
        func patch(_ path: String) async throws -> Int {
            try await server.call(.PATCH, path, status, as: .node("a"), contentType: "application/merge-patch+json").code
        }
        #expect(try await patch(podsPath + "/mine/status") == 200)
        #expect(try await patch(podsPath + "/other/status") == 403)
        #expect(try await patch(podsPath + "/mine") == 403)
        #expect(try await server.call(.GET, podsPath + "/mine", as: .node("a")).code == 200)
        #expect(try await server.call(.GET, podsPath + "/other", as: .node("a")).code == 403)
        #expect(try await server.call(.GET, podsPath, as: .node("a")).code == 403)
        #expect(try await server.call(.GET, podsPath + "?fieldSelector=spec.nodeName=b", as: .node("a")).code == 403)
        #expect(try await server.call(.POST, podsPath, podJSON("new", node: "a"), as: .node("a")).code == 403)
        #expect(try await server.call(.POST, podsPath + "/other/binding", ["target": ["name": "a"]], as: .node("a")).code == 403)
        #expect(try await server.call(.DELETE, podsPath + "/mine", as: .node("a")).code == 403)
        let node: JSONValue = ["apiVersion": "v1", "kind": "Node", "metadata": ["name": "a"]]
        #expect(try await server.call(.POST, "/api/v1/nodes", node, as: .node("a")).code == 201)
        #expect(try await server.call(.POST, "/api/v1/nodes", ["metadata": ["name": "b"]], as: .node("a")).code == 403)
        #expect(try await server.call(.GET, "/api/v1/nodes/b", as: .node("a")).code == 403)
        #expect(try await server.call(.DELETE, "/api/v1/nodes/a", as: .node("a")).code == 403)
        try await server.stop()
    }
}
