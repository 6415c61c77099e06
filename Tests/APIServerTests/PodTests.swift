@testable import APIServer
import Basics
import Certificates
import Foundation
import NIOHTTP1
import Resources
import Testing

@Suite struct PodTests {
    func created(_ server: TestServer, _ body: JSONValue) async throws -> JSONValue {
        let reply = try await server.call(.POST, podsPath, body)
        #expect(reply.code == 201, "\(reply.text)")
        return reply.json
    }
    func code(_ server: TestServer, _ name: String) async throws -> Int { try await server.call(.GET, podsPath + "/" + name).code }

    @Test("a pod is completed with defaults, and a status a client gives it does not count")
    func creation() async throws {
        let server = try await TestServer(schedules: false)
        var body = podJSON("web")
        body["status"] = ["phase": "Running"]
        let pod = try await created(server, body)
        #expect(pod.at("status", "phase")?.stringValue == "Pending")
        #expect(pod.at("spec", "terminationGracePeriodSeconds")?.integerValue == 30)
        #expect(pod.at("spec", "volumes")?.arrayValue?.first?.at("secret", "defaultMode")?.integerValue == 420)
        let running = try await server.call(.PATCH, podsPath + "/web/status", ["status": ["phase": "Running"]], contentType: "application/merge-patch+json")
        #expect(running.json.at("status", "phase")?.stringValue == "Running")
        let kept = try await server.call(.PUT, podsPath + "/web", podJSON("web"))
        #expect(kept.code == 200 && kept.json.at("status", "phase")?.stringValue == "Running")
        #expect(try await server.call(.PUT, podsPath + "/web", podJSON("web", secret: "other")).code == 422)
        #expect(try await server.call(.POST, podsPath, ["metadata": ["name": "bad"], "spec": ["containers": []]]).code == 422)
        try await server.stop()
    }

    @Test("a pod is bound once")
    func binding() async throws {
        let server = try await TestServer(schedules: false)
        _ = try await created(server, podJSON("web"))
        let binding: JSONValue = ["apiVersion": "v1", "kind": "Binding", "metadata": ["name": "web"], "target": ["kind": "Node", "name": "a"]]
        #expect(try await server.call(.POST, podsPath + "/web/binding", binding).code == 201)
        let again = try await server.call(.POST, podsPath + "/web/binding", binding)
        #expect(again.code == 409 && again.message.contains("already assigned to node \"a\""))
        #expect(try await server.call(.GET, podsPath + "/web").json.at("spec", "nodeName")?.stringValue == "a")
        #expect(try await server.call(.POST, podsPath + "/missing/binding", binding).code == 404)
        #expect(try await server.call(.POST, podsPath + "/web/binding", ["target": ["kind": "Pod", "name": "a"]]).code == 400)
        try await server.stop()
    }

    @Test("a pod that is not bound, or is over, or is given no grace, goes at once")
    func atOnce() async throws {
        let server = try await TestServer(schedules: false)
        _ = try await created(server, podJSON("unbound"))
        #expect(try await server.call(.DELETE, podsPath + "/unbound").json["kind"]?.stringValue == "Status")
        #expect(try await code(server, "unbound") == 404)
        _ = try await created(server, podJSON("over", node: "a"))
        let merge = "application/merge-patch+json"
        #expect(try await server.call(.PATCH, podsPath + "/over/status", ["status": ["phase": "Succeeded"]], contentType: merge).code == 200)
        #expect(try await server.call(.DELETE, podsPath + "/over").code == 200)
        #expect(try await code(server, "over") == 404)
        _ = try await created(server, podJSON("forced", node: "a"))
        #expect(try await server.call(.DELETE, podsPath + "/forced?gracePeriodSeconds=0").code == 200)
        #expect(try await code(server, "forced") == 404)
        _ = try await created(server, podJSON("forced", node: "a"))
        #expect(try await server.call(.DELETE, podsPath + "/forced", ["gracePeriodSeconds": 0]).code == 200)
        #expect(try await code(server, "forced") == 404)
        try await server.stop()
    }

    @Test("a bound pod terminates until its grace, by the server's clock, has run out")
    func grace() async throws {
        let server = try await TestServer(schedules: false)
        _ = try await created(server, podJSON("web", node: "a", grace: 3_600))
        let deleted = try await server.call(.DELETE, podsPath + "/web")
        #expect(deleted.json["kind"]?.stringValue == "Pod" && deleted.json.at("metadata", "deletionGracePeriodSeconds")?.integerValue == 3_600)
        let deadline = try #require(deleted.json.at("metadata", "deletionTimestamp")?.stringValue)
        #expect(try await server.call(.DELETE, podsPath + "/web?gracePeriodSeconds=7200").json.at("metadata", "deletionTimestamp")?.stringValue == deadline)
        let sooner = try await server.call(.DELETE, podsPath + "/web?gracePeriodSeconds=1800").json.at("metadata", "deletionTimestamp")?.stringValue
        #expect(try #require(sooner) < deadline)
        #expect(try await code(server, "web") == 200)
        #expect(try await server.call(.POST, podsPath + "/web/binding", ["target": ["name": "b"]]).code == 409)
        server.clock.advance(seconds: 1_801)
        try await eventually("the pod is gone") { try await code(server, "web") == 404 }
        try await server.stop()
    }

    @Test("a terminating pod goes as soon as it is told to be over")
    func overWhileTerminating() async throws {
        let server = try await TestServer(schedules: false)
        _ = try await created(server, podJSON("web", node: "a", grace: 3_600))
        #expect(try await server.call(.DELETE, podsPath + "/web").code == 200)
        #expect(try await server.call(
            .PATCH, podsPath + "/web/status", ["status": ["phase": "Failed"]], as: .node("a"), contentType: "application/merge-patch+json").code == 200)
        try await eventually("the pod is gone") { try await code(server, "web") == 404 }
        try await server.stop()
    }

    @Test("a grace is bounded")
    func bound() {
        var pod = Resource(.pods, tree: ["metadata": ["name": "web"], "spec": ["nodeName": "a", "terminationGracePeriodSeconds": .integer(.max)]])
        let now = Timestamp(secondsSinceEpoch: 1_000)
        guard case .wait(let marked) = PodTermination.step(pod, graceSeconds: nil, now: now) else { Issue.record("it goes at once"); return }
        #expect(marked.deletionTimestamp == Timestamp(secondsSinceEpoch: 1_000 + 86_400))
        pod.finalizers = ["a/b"]
        guard case .wait = PodTermination.step(pod, graceSeconds: 0, now: now) else { Issue.record("it goes though it has a finalizer"); return }
    }
}

@Suite struct SchedulingTests {
    func node(_ name: String, ready: String = "True", cordoned: Bool = false, labels: JSONObject = [:]) -> Node {
        Node(Resource(.nodes, tree: [
            "metadata": ["name": .string(name), "labels": .object(labels)], "spec": ["unschedulable": .bool(cordoned)],
            "status": ["conditions": [["type": "Ready", "status": .string(ready)]]],
        ]))
    }
    func pod(selector: JSONObject = [:]) -> Pod { Pod(Resource(.pods, tree: ["metadata": ["name": "p"], "spec": ["nodeSelector": .object(selector)]])) }

    @Test("ready, not cordoned, matching, fewest pods, then by name")
    func choice() {
        let nodes: [Scheduling.Candidate] = [
            .init(node: node("e", ready: "Unknown"), pods: 0), .init(node: node("d", cordoned: true), pods: 0),
            .init(node: node("c", labels: ["disk": "ssd"]), pods: 5), .init(node: node("b"), pods: 1), .init(node: node("a"), pods: 1),
        ]
        #expect(Scheduling.choose(for: pod(), among: nodes) == .node(4))
        #expect(Scheduling.choose(for: pod(selector: ["disk": "ssd"]), among: nodes) == .node(2))
        #expect(Scheduling.choose(for: pod(selector: ["disk": "tape"]), among: nodes)
            == .none("0/5 nodes are available: 1 not ready, 1 unschedulable, 3 not matching the pod's node selector."))
    }

    @Test("pods come to the node that is connected, and wait with a reason while there is none")
    func binding() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, podsPath, podJSON("web")).code == 201)
        try await eventually("the pod says why it waits") {
            let pod = try await server.call(.GET, podsPath + "/web").json
            return pod.at("status", "conditions")?.arrayValue?.contains { $0["reason"]?.stringValue == "Unschedulable" } == true
        }
        let node = try NodeClient(server, "a")
        try await eventually("the pod is bound") { try await server.call(.GET, podsPath + "/web").json.at("spec", "nodeName")?.stringValue == "a" }
        try await eventually("the node is told of it") { node.pods == ["default/web"] }
        #expect(try await server.call(.GET, "/api/v1/nodes/a").json.at("status", "conditions")?.arrayValue?.first?["status"]?.stringValue == "True")
        let cordon: JSONValue = ["spec": ["unschedulable": true]]
        #expect(try await server.call(.PATCH, "/api/v1/nodes/a", cordon, contentType: "application/strategic-merge-patch+json").code == 200)
        #expect(try await server.call(.POST, podsPath, podJSON("late")).code == 201)
        try await eventually("the pod waits for a node that takes pods") {
            let pod = try await server.call(.GET, podsPath + "/late").json
            return pod.at("status", "conditions")?.arrayValue?.contains { $0["message"]?.stringValue?.contains("1 unschedulable") == true } == true
        }
        node.close()
        try await eventually("the node's stream is seen closed") {
            try await server.call(.GET, "/apis/coffer.dev/v1/nodes/a/acks").json["connected"]?.boolValue == false
        }
        server.clock.advance(seconds: 11)
        try await eventually("the node is not ready") {
            try await server.call(.GET, "/api/v1/nodes/a").json.at("status", "conditions")?.arrayValue?.first?["status"]?.stringValue == "Unknown"
        }
        try await server.stop()
    }
}
