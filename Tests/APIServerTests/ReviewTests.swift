import Audit
import Certificates
import Foundation
import NIOHTTP1
import Resources
import Testing

/// What somebody asks about themselves, and asking in another's name.
@Suite struct ReviewTests {
    static let accessPath = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    static let stranger = CertificateIdentity(commonName: "jane", organizations: ["dev"])

    static func asked(_ verb: String, _ resource: String, group: String = "", name: String = "", namespace: String = "default", sub: String = "") -> JSONValue {
        [
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "spec": [
                "resourceAttributes": [
                    "verb": .string(verb), "resource": .string(resource), "group": .string(group), "name": .string(name), "namespace": .string(namespace),
                    "subresource": .string(sub),
                ]
            ],
        ]
    }

    @Test("may I, what may I, who am I: each is told about themselves, nobody without a certificate", arguments: [true, false])
    func reviews(http1: Bool) async throws {
        let server = try await TestServer(schedules: false)
        #expect(try await server.call(.POST, podsPath, podJSON("mine", node: "a")).code == 201)
        func may(_ identity: CertificateIdentity, _ asked: JSONValue) async throws -> (allowed: Bool?, reason: String?) {
            let reply = try await server.call(.POST, Self.accessPath, asked, as: identity, http1: http1)
            #expect(reply.code == 201, "\(reply.text)")
            return (reply.json.at("status", "allowed")?.boolValue, reply.json.at("status", "reason")?.stringValue)
        }
        #expect(try await may(.administrator, Self.asked("delete", "secrets")).allowed == true)
        let secret = try await may(.node("a"), Self.asked("get", "secrets", name: "web"))
        #expect(secret.allowed == false && secret.reason == "a node receives secrets by its sync stream only")
        #expect(try await may(.node("a"), Self.asked("get", "pods", name: "mine")).allowed == true)
        #expect(try await may(.node("b"), Self.asked("get", "pods", name: "mine")).allowed == false)
        #expect(try await may(.node("a"), Self.asked("create", "nodes", group: "coffer.dev", name: "a", namespace: "", sub: "sync")).allowed == true)
        #expect(try await may(Self.stranger, Self.asked("list", "secrets")).allowed == false)
        #expect(try await may(Self.stranger, ["spec": ["nonResourceAttributes": ["verb": "get", "path": "/version"]]]).allowed == true)
        #expect(try await server.call(.POST, Self.accessPath, ["spec": [:]], http1: http1).code == 400)
        #expect(try await server.call(.POST, Self.accessPath, ["kind": "Pod"], http1: http1).code == 400)
        #expect(try await server.call(.GET, Self.accessPath, http1: http1).code == 405)
        #expect(try await server.call(.GET, Self.accessPath, as: Self.stranger, http1: http1).code == 403)
        #expect(try await server.call(.POST, Self.accessPath, Self.asked("get", "secrets"), as: nil, http1: http1).code == 401)

        let who = try await server.call(.POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", [:], as: .node("a"), http1: http1)
        #expect(who.json.at("status", "userInfo", "username")?.stringValue == "system:node:a")
        let rules = try await server.call(.POST, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", ["spec": ["namespace": "default"]], http1: http1)
        #expect(rules.json.at("status", "resourceRules")?.arrayValue?.first?["verbs"]?.arrayValue?.first?.stringValue == "*")
        try await server.stop()
    }

    @Test("an administrator may ask in another's name and is then answered as that one; nobody else may, and it is in the trail")
    func impersonation() async throws {
        let server = try await TestServer(schedules: false)
        #expect(try await server.call(.POST, secretsPath, secretJSON("web")).code == 201)
        let jane = [("Impersonate-User", "jane")]
        let refused = try await server.call(.GET, secretsPath + "/web", headers: jane)
        #expect(refused.code == 403 && refused.message.contains("User \"jane\" cannot get resource \"secrets\""))
        #expect(try await server.call(.GET, secretsPath + "/web", headers: jane + [("Impersonate-Group", "system:masters")]).code == 200)
        let node = [("Impersonate-User", "system:node:a"), ("Impersonate-Group", "system:nodes")]
        #expect(try await server.call(.GET, podsPath + "?fieldSelector=spec.nodeName=a", headers: node).code == 200)
        #expect(try await server.call(.GET, secretsPath, headers: node).code == 403)
        // A node's stream says that the node is there: only the node itself may open it.
        #expect(try await server.call(.POST, "/apis/coffer.dev/v1/nodes/a/sync", [:], headers: node).code == 403)
        #expect(try await server.call(.GET, secretsPath, headers: [("Impersonate-User", "system:anonymous")]).code == 401)
        #expect(try await server.call(.GET, secretsPath, headers: [("Impersonate-Group", "system:masters")]).code == 400)
        #expect(try await server.call(.GET, secretsPath, headers: jane + [("Impersonate-Uid", "1")]).code == 400)

        let stranger = try await server.call(.GET, "/version", as: Self.stranger, headers: [("Impersonate-User", "coffer-admin")])
        #expect(stranger.code == 403 && stranger.message.contains("User \"jane\" cannot impersonate resource \"users\""))
        #expect(try await server.call(.GET, secretsPath, as: nil, headers: [("Impersonate-User", "coffer-admin"), ("Impersonate-Group", "system:masters")]).code == 401)
        try server.audit.flush()
        let trail = try String(contentsOfFile: server.auditPath, encoding: .utf8)
        #expect(trail.contains("coffer-admin as jane") && trail.contains("coffer-admin as system:node:a"))
        try await server.stop()
    }

    @Test("a node does not claim labels by which an administrator keeps pods to some nodes")
    func restrictedLabels() async throws {
        let server = try await TestServer(schedules: false)
        var node: JSONValue = ["metadata": ["name": "a", "labels": ["node-restriction.kubernetes.io/tier": "secure"]]]
        let refused = try await server.call(.POST, "/api/v1/nodes", node, as: .node("a"))
        #expect(refused.code == 403 && refused.message.contains("is not allowed to set the following labels: node-restriction.kubernetes.io/tier"))
        #expect(try await server.call(.GET, "/api/v1/nodes/a").code == 404)
        node[["metadata", "labels"]] = ["rack": "7"]
        #expect(try await server.call(.POST, "/api/v1/nodes", node, as: .node("a")).code == 201)
        try await server.stop()
    }
}
