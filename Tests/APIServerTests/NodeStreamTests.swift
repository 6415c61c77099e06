@testable import APIServer
import Barrier
import Basics
import Certificates
import Foundation
import NIOHTTP1
import NodeProtocol
import ObjectStore
import Resources
import SecretMemory
import Synchronization
import Testing

@Suite struct NodeStreamTests {
    func post(_ server: TestServer, _ path: String, _ body: JSONValue) async throws {
        let reply = try await server.call(.POST, path, body)
        #expect(reply.code == 201, "\(reply.text)")
    }

    @Test("a node gets the secrets its pods mount, as they change, over both protocols, and nothing else", arguments: [true, false])
    func entitlement(http1: Bool) async throws {
        let server = try await TestServer(schedules: false)
        try await post(server, "/api/v1/namespaces", ["metadata": ["name": "prod"]])
        try await post(server, secretsPath, secretJSON("web", "default-value"))
        try await post(server, "/api/v1/namespaces/prod/secrets", secretJSON("web", "prod-value"))
        try await post(server, secretsPath, secretJSON("unused", "never-sent"))
        let a = try NodeClient(server, "a", http1: http1), b = try NodeClient(server, "b", http1: http1)
        try await eventually("both have a snapshot of nothing") { a.hasSnapshot && b.hasSnapshot }
        #expect(a.secrets.isEmpty && b.secrets.isEmpty)
        try await post(server, podsPath, podJSON("web", node: "a"))
        try await post(server, "/api/v1/namespaces/prod/pods", podJSON("web", node: "b"))
        try await eventually("each has its namespace's") { a.secrets == ["default/web=default-value"] && b.secrets == ["prod/web=prod-value"] }
        let pod = try #require(a.pod("web"))
        #expect(pod.volumes == [DesiredVolume(name: "keys", sources: [.secret(SecretSource(secretName: "web"))])])
        #expect(try await server.call(.PUT, secretsPath + "/web", secretJSON("web", "changed")).code == 200)
        try await eventually("the change arrives") { a.secrets == ["default/web=changed"] }
        #expect(b.secrets == ["prod/web=prod-value"])
        try await post(server, podsPath, podJSON("second", node: "a"))
        try await eventually("the second pod is told, the secret not again") { a.pods == ["default/second", "default/web"] }
        #expect(try await server.call(.DELETE, podsPath + "/web?gracePeriodSeconds=0").code == 200)
        try await eventually("the first pod is gone, the secret stays for the other") { a.pods == ["default/second"] }
        #expect(a.secrets == ["default/web=changed"])
        #expect(try await server.call(.DELETE, podsPath + "/second?gracePeriodSeconds=0").code == 200)
        try await eventually("nothing is left") { a.pods.isEmpty && a.secrets.isEmpty }
        #expect(a.seen.withLock { $0.snapshots } == 1)
        #expect(a.seen.withLock { $0.failure } == nil)
        a.close()
        b.close()
        try await server.stop()
    }

    @Test("a secret that comes after its pod is sent then, and one that is deleted is taken away")
    func lateSecret() async throws {
        let server = try await TestServer(schedules: false)
        try await post(server, podsPath, podJSON("web", node: "a"))
        let node = try NodeClient(server, "a")
        try await eventually("the pod is told") { node.pods == ["default/web"] }
        #expect(node.secrets.isEmpty)
        try await post(server, secretsPath, secretJSON("web", "late"))
        try await eventually("the secret arrives") { node.secrets == ["default/web=late"] }
        #expect(try await server.call(.DELETE, secretsPath + "/web").code == 200)
        try await eventually("the secret goes") { node.secrets.isEmpty }
        try await post(server, secretsPath, secretJSON("web", "again"))
        try await eventually("the new one arrives") { node.secrets == ["default/web=again"] }
        node.close()
        try await server.stop()
    }

    @Test("pods that are over consume nothing; terminating ones do until their time", arguments: ["Succeeded", "Failed"])
    func over(phase: String) async throws {
        let server = try await TestServer(schedules: false)
        try await post(server, secretsPath, secretJSON("web", "value"))
        try await post(server, podsPath, podJSON("web", node: "a"))
        try await post(server, podsPath, podJSON("ending", node: "a", grace: 3_600))
        let node = try NodeClient(server, "a")
        try await eventually("both pods are told") { node.pods.count == 2 }
        let patched = try await server.call(
            .PATCH, podsPath + "/web/status", ["status": ["phase": .string(phase)]], as: .node("a"), contentType: "application/merge-patch+json")
        #expect(patched.code == 200)
        try await eventually("the one that is over is not") { node.pods == ["default/ending"] }
        #expect(try await server.call(.DELETE, podsPath + "/ending").code == 200)
        try await eventually("the other's deadline is told") { node.pod("ending")?.graceDeadlineMilliseconds != nil }
        #expect(node.secrets == ["default/web=value"])
        server.clock.advance(seconds: 3_602)
        try await eventually("nothing is left") { node.pods.isEmpty && node.secrets.isEmpty }
        node.close()
        try await server.stop()
    }

    @Test("references by environment entitle, and are not sent; projected sources are, and other sources are named")
    func references() async throws {
        let server = try await TestServer(schedules: false)
        for name in ["env", "one", "two"] { try await post(server, secretsPath, secretJSON(name, name)) }
        let pod: JSONValue = [
            "metadata": ["name": "web"],
            "spec": [
                "nodeName": "a", "securityContext": ["fsGroup": 2000],
                "containers": [["name": "main", "image": "busybox", "envFrom": [["secretRef": ["name": "env"]]]]],
                "volumes": [
                    ["name": "scratch", "emptyDir": [:]],
                    [
                        "name": "all",
                        "projected": [
                            "defaultMode": 256,
                            "sources": [
                                ["secret": ["name": "one", "items": [["key": "password", "path": "a/b", "mode": 511]]]],
                                ["secret": ["name": "two", "optional": true]], ["configMap": ["name": "c"]],
                            ],
                        ],
                    ],
                ],
            ],
        ]
        try await post(server, podsPath, pod)
        let node = try NodeClient(server, "a")
        try await eventually("the mounted secrets arrive") { node.secrets == ["default/one=one", "default/two=two"] }
        let told = try #require(node.pod("web"))
        #expect(told.fsGroup == 2000)
        #expect(told.volumes == [
            DesiredVolume(
                name: "all", defaultMode: 0o400,
                sources: [
                    .secret(SecretSource(secretName: "one", items: [KeyToPath(key: "password", path: "a/b", mode: 0o777)])),
                    .secret(SecretSource(secretName: "two", isOptional: true)), .unsupported(kind: "configMap"),
                ])
        ])
        node.close()
        try await server.stop()
    }

    @Test("a secret that cannot be opened, or is revoked, is told as that")
    func withheld() async throws {
        let server = try await TestServer(schedules: false)
        for name in ["lost", "revoked"] {
            try await post(server, secretsPath, secretJSON(name, "value"))
            try await post(server, podsPath, podJSON(name, secret: name, node: "a"))
        }
        let node = try NodeClient(server, "a")
        try await eventually("both arrive") { node.secrets.count == 2 }
        let revoked: JSONValue = ["metadata": ["annotations": ["coffer.dev/revoked": "true"]]]
        #expect(try await server.call(.PATCH, secretsPath + "/revoked", revoked, contentType: "application/merge-patch+json").code == 200)
        server.keyValue.makeUnreadable("objects/secrets/default/lost", reason: "its data key is gone")
        server.keyValue.endWatches(.compacted(compactRevision: 1))
        try await eventually("revocation is told") { node.secrets.contains("default/revoked=revoked") }
        let second = try NodeClient(server, "a")
        try await eventually("and the unreadable one") { second.secrets == ["default/lost=unreadable: its data key is gone", "default/revoked=revoked"] }
        second.close()
        try await server.stop()
    }

    @Test("a stream is the node's own, the newest one counts, and it lives by heartbeats")
    func streams() async throws {
        let server = try await TestServer(schedules: false, heartbeatSeconds: 0.3)
        let stranger = try NodeClient(server, "a", as: .node("b")), administrator = try NodeClient(server, "a", as: .administrator)
        try await eventually("others are refused") { stranger.isOver && administrator.isOver }
        #expect(stranger.seen.withLock { $0.code } == 403 && administrator.seen.withLock { $0.code } == 403)
        let ahead = try NodeClient(server, "a", resume: 1_000)
        try await eventually("a server behind the node does not serve it") { ahead.isOver }
        #expect(ahead.seen.withLock { $0.code } == 503)
        let first = try NodeClient(server, "a")
        try await eventually("heartbeats come") { first.seen.withLock { $0.heartbeats } >= 2 }
        let second = try NodeClient(server, "a")
        try await eventually("the newer stream has ended the older") { first.isOver && second.hasSnapshot && !second.isOver }
        let bad = try await server.call(.POST, "/apis/coffer.dev/v1/nodes/a/sync", as: .node("a"), contentType: "application/octet-stream", text: "garbage")
        #expect(bad.code == 400)
        second.close()
        try await server.stop()
    }

    @Test("what a node acknowledges is kept as its claim, and ends pods that are being deleted")
    func acknowledgements() async throws {
        let server = try await TestServer(schedules: false)
        try await post(server, secretsPath, secretJSON("web", "value"))
        try await post(server, podsPath, podJSON("web", node: "a", grace: 3_600))
        try await post(server, podsPath, podJSON("living", node: "a"))
        let node = try NodeClient(server, "a")
        try await eventually("the pods are told") { node.pods.count == 2 }
        let uid = try #require(node.pod("web")?.uid), livingUID = try #require(node.pod("living")?.uid)
        let materialized = Acknowledgement.Entry(
            outcome: .materialized, namespace: "default", podName: "web", podUID: uid, secretName: "web", secretUID: "s", resourceVersion: 7)
        #expect(try await node.acknowledge(server, [materialized]) == 200)
        let claims = try await server.call(.GET, "/apis/coffer.dev/v1/nodes/a/acks").json
        #expect(claims["items"]?.arrayValue?.count == 1 && claims["connected"]?.boolValue == true)
        #expect(claims["items"]?.arrayValue?.first?["outcome"]?.stringValue == "Materialized")
        #expect(try await node.acknowledge(server, [materialized], as: .node("b")) == 403)
        #expect(try await server.call(.GET, "/apis/coffer.dev/v1/nodes/a/acks", as: .node("a")).code == 403)
        #expect(try await server.call(.DELETE, podsPath + "/web").code == 200)
        let removed = Acknowledgement.Entry(outcome: .podRemoved, namespace: "default", podName: "web", podUID: uid)
        let premature = Acknowledgement.Entry(outcome: .podRemoved, namespace: "default", podName: "living", podUID: livingUID)
        let foreign = Acknowledgement.Entry(outcome: .podRemoved, namespace: "default", podName: "web", podUID: "other")
        #expect(try await node.acknowledge(server, [foreign, premature]) == 200)
        #expect(try await server.call(.GET, podsPath + "/web").code == 200)
        #expect(try await node.acknowledge(server, [removed]) == 200)
        #expect(try await server.call(.GET, podsPath + "/web").code == 404)
        #expect(try await server.call(.GET, podsPath + "/living").code == 200)
        #expect(try await server.call(.GET, "/apis/coffer.dev/v1/nodes/a/acks").json["items"]?.arrayValue?.isEmpty == true)
        node.close()
        try await server.stop()
    }

    @Test("who held a secret is kept: versions in their order, wiped with the pod, after the secret itself; nothing made up is")
    func trail() async throws {
        let server = try await TestServer(schedules: false)
        let path = "/apis/coffer.dev/v1/namespaces/default/secrets/web/trail"
        #expect(try await server.call(.GET, path).code == 404)
        try await post(server, secretsPath, secretJSON("web", "value"))
        try await post(server, podsPath, podJSON("web", node: "a"))
        let node = try NodeClient(server, "a")
        try await eventually("the pod and its secret are told") { node.pods.count == 1 && node.secrets.count == 1 }
        #expect(try await server.call(.GET, path).json["items"]?.arrayValue?.isEmpty == true)
        let stored = try await server.call(.GET, secretsPath + "/web").json
        let secretUID = try #require(stored.at("metadata", "uid")?.stringValue), podUID = try #require(node.pod("web")?.uid)
        func said(_ outcome: Acknowledgement.Outcome, _ version: Int64, uid: String, secret: String = "web") -> Acknowledgement.Entry {
            .init(outcome: outcome, namespace: "default", podName: "web", podUID: podUID, secretName: secret, secretUID: uid, resourceVersion: version)
        }
        func states() async throws -> [String] {
            (try await server.call(.GET, path).json["items"]?.arrayValue ?? []).map { row in
                "\(row["pod"]?.stringValue ?? "") \(row["node"]?.stringValue ?? "") \(row["resourceVersion"]?.stringValue ?? "") \(row["state"]?.stringValue ?? "")"
            }
        }
        let first = try #require(stored.at("metadata", "resourceVersion")?.stringValue.flatMap { Int64($0) })
        #expect(try await node.acknowledge(server, [said(.materialized, first, uid: "made-up"), said(.materialized, first, uid: secretUID, secret: "other")]) == 200)
        #expect(try await states() == [])
        #expect(try await node.acknowledge(server, [said(.materialized, first, uid: secretUID)]) == 200)
        #expect(try await states() == ["web a \(first) Held"])
        let changed = try await server.call(.PUT, secretsPath + "/web", secretJSON("web", "changed")).json
        let second = try #require(changed.at("metadata", "resourceVersion")?.stringValue.flatMap { Int64($0) })
        // The secret goes before its node says that it had it: the version says whose it was.
        #expect(try await server.call(.DELETE, secretsPath + "/web").code == 200)
        #expect(try await node.acknowledge(server, [said(.materialized, second, uid: secretUID)]) == 200)
        #expect(try await states() == ["web a \(first) Replaced", "web a \(second) Held"])
        #expect(try await server.call(.DELETE, podsPath + "/web?gracePeriodSeconds=0").code == 200)
        try await eventually("the pod is gone, and nothing is said of what it held") { try await states().last == "web a \(second) Unconfirmed" }
        let removed = Acknowledgement.Entry(outcome: .podRemoved, namespace: "default", podName: "web", podUID: podUID)
        #expect(try await node.acknowledge(server, [said(.wiped, second, uid: secretUID), removed]) == 200)
        #expect(try await states() == ["web a \(first) Replaced", "web a \(second) Wiped"])
        #expect(try await server.call(.GET, path, as: .node("a")).code == 403)
        #expect(try await server.call(.GET, "/apis/coffer.dev/v1/namespaces/default/secrets/none/trail").code == 404)
        node.close()
        try await server.stop()
    }

    @Test("a pod deleted and made anew under its name is another pod")
    func reuse() async throws {
        let server = try await TestServer(schedules: false)
        try await post(server, secretsPath, secretJSON("web", "value"))
        try await post(server, podsPath, podJSON("web", node: "a"))
        let node = try NodeClient(server, "a")
        try await eventually("the pod is told") { node.pods == ["default/web"] }
        let first = try #require(node.pod("web")?.uid)
        #expect(try await server.call(.DELETE, podsPath + "/web?gracePeriodSeconds=0").code == 200)
        try await post(server, podsPath, podJSON("web", node: "a"))
        try await eventually("the new one is told") { node.pods == ["default/web"] && node.pod("web")?.uid != first }
        node.close()
        try await server.stop()
    }

    @Test("a change reaches the node's stream within milliseconds")
    func latency() async throws {
        let server = try await TestServer(schedules: false)
        try await post(server, secretsPath, secretJSON("web", "0"))
        try await post(server, podsPath, podJSON("web", node: "a"))
        let node = try NodeClient(server, "a")
        try await eventually("the secret arrives") { node.secrets == ["default/web=0"] }
        var milliseconds: [Double] = []
        for round in 1...20 {
            let reply = try await server.call(.PUT, secretsPath + "/web", secretJSON("web", "\(round)"))
            #expect(reply.code == 200)
            let acknowledged = ContinuousClock.now
            try await eventually("round \(round) arrives") { node.secrets == ["default/web=\(round)"] }
            milliseconds.append((ContinuousClock.now - acknowledged) / .milliseconds(1))
        }
        // Of half of them: on a busy machine one or the other waits for its turn. What looks for changes now and then would be late with most.
        #expect(milliseconds.sorted()[10] < 1_000, "they took \(milliseconds) ms")
        node.close()
        try await server.stop()
    }
}

@Suite struct ProjectionTests {
    let keyValue = MemoryKeyValue()
    let store: ObjectStore
    init() async throws {
        store = ObjectStore(keyValue: keyValue)
        _ = try await store.create(Resource(.namespaces, tree: ["apiVersion": "v1", "kind": "Namespace", "metadata": ["name": "default"]]))
    }
    func object(_ type: ResourceType, _ name: String, revision: Int64, _ tree: JSONObject) throws -> StoredObject {
        var resource = Resource(type, tree: tree)
        resource.name = name
        resource.namespace = "default"
        resource.uid = "uid-\(name)"
        return StoredObject(key: try #require(resource.key), createRevision: 1, revision: revision, content: .success(resource))
    }
    func pod(_ name: String, revision: Int64, node: String, secrets: [String]) throws -> ObjectEvent {
        let volumes = secrets.map { JSONValue.object(["name": .string("v-\($0)"), "secret": ["secretName": .string($0)]]) }
        return ObjectEvent(kind: .added, object: try object(.pods, name, revision: revision, ["spec": ["nodeName": .string(node), "volumes": .array(volumes)]]), previous: nil)
    }
    func secret(_ name: String, revision: Int64, _ kind: ObjectEvent.Kind = .added) throws -> ObjectEvent {
        ObjectEvent(kind: kind, object: try object(.secrets, name, revision: revision, ["data": ["k": .secret(try SecretValue(copying: [1]))]]), previous: nil)
    }

    @Test("a secret's content is held only while a pod mounts it")
    func contents() throws {
        var projection = NodeProjection()
        _ = projection.apply(ObjectEventBatch(revision: 1, events: [try secret("s", revision: 1)]), contents: [:])
        let name = SecretName(namespace: "default", name: "s")
        #expect(projection.secrets[name]?.content == nil)
        let arrival = ObjectEventBatch(revision: 2, events: [try pod("p", revision: 2, node: "a", secrets: ["s"])])
        #expect(projection.missingContent(for: arrival) == [name])
        let changes = projection.apply(arrival, contents: [name: try secret("s", revision: 1).object])
        #expect(changes.nodes == ["a"])
        #expect(projection.view(of: "a", nowMilliseconds: 0).secrets.count == 1)
        #expect(projection.view(of: "b", nowMilliseconds: 0).secrets.isEmpty)
        #expect(projection.isEntitled(node: "a", to: name) && !projection.isEntitled(node: "b", to: name))
        let gone = ObjectEvent(kind: .deleted, object: try pod("p", revision: 3, node: "a", secrets: ["s"]).object, previous: nil)
        #expect(projection.apply(ObjectEventBatch(revision: 3, events: [gone]), contents: [:]).nodes == ["a"])
        #expect(projection.secrets[name]?.content == nil && projection.secrets[name] != nil)
        #expect(projection.view(of: "a", nowMilliseconds: 0).pods.isEmpty)
    }

    @Test("content told before the pod that mounts it, in one batch, is kept")
    func order() throws {
        var projection = NodeProjection()
        let batch = ObjectEventBatch(revision: 2, events: [try secret("s", revision: 1), try pod("p", revision: 2, node: "a", secrets: ["s"])])
        #expect(projection.missingContent(for: batch).isEmpty)
        _ = projection.apply(batch, contents: [:])
        #expect(projection.view(of: "a", nowMilliseconds: 0).secrets.map(\.name) == ["s"])
    }

    @Test("random histories: a node's view is what its pods and the secrets say")
    func model() throws {
        var generator = SeededGenerator(seed: 7)
        for _ in 0..<50 {
            var projection = NodeProjection()
            var pods: [String: (node: String, secrets: [String])] = [:], secrets: [String: Int64] = [:]
            for revision in Int64(1)...60 {
                let name = "x\(Int.random(in: 0..<5, using: &generator))"
                let event: ObjectEvent
                switch Int.random(in: 0..<4, using: &generator) {
                case 0:
                    let mounted = (0..<4).map { "x\($0)" }.filter { _ in Bool.random(using: &generator) }
                    let node = ["", "a", "b"][Int.random(in: 0..<3, using: &generator)]
                    pods[name] = (node, mounted)
                    event = try pod(name, revision: revision, node: node, secrets: mounted)
                case 1:
                    guard let old = pods.removeValue(forKey: name) else { continue }
                    event = ObjectEvent(kind: .deleted, object: try pod(name, revision: revision, node: old.node, secrets: old.secrets).object, previous: nil)
                case 2:
                    secrets[name] = revision
                    event = try secret(name, revision: revision)
                default:
                    guard secrets.removeValue(forKey: name) != nil else { continue }
                    event = try secret(name, revision: revision, .deleted)
                }
                let batch = ObjectEventBatch(revision: revision, events: [event])
                var contents: [SecretName: StoredObject] = [:]
                for missing in projection.missingContent(for: batch) {
                    let at = try #require(secrets[missing.name])
                    contents[missing] = try secret(missing.name, revision: at).object
                }
                _ = projection.apply(batch, contents: contents)
                for node in ["a", "b"] {
                    let view = projection.view(of: node, nowMilliseconds: 0)
                    let expectedPods = pods.filter { $0.value.node == node }.keys.sorted()
                    let expected = Set(pods.values.filter { $0.node == node }.flatMap(\.secrets)).filter { secrets[$0] != nil }.sorted()
                    #expect(view.pods.map(\.name).sorted() == expectedPods)
                    #expect(view.secrets.map(\.name) == expected)
                    #expect(view.secrets.allSatisfy { secrets[$0.name] == $0.resourceVersion })
                    if projection.secrets.contains(where: { name, secret in
                        (secret.content != nil) != pods.values.contains { !$0.node.isEmpty && $0.secrets.contains(name.name) }
                    }) { Issue.record("content is held that nobody mounts, or not held though somebody does") }
                }
            }
        }
    }

    @Test("a stream's messages bring the node to each view")
    func messages() throws {
        var projection = NodeProjection(), stream = NodeStreamState()
        _ = projection.apply(ObjectEventBatch(revision: 1, events: [try secret("s", revision: 1)]), contents: [:])
        guard case .snapshot(var state)? = stream.message(for: projection.view(of: "a", nowMilliseconds: 5), nowMilliseconds: 5) else {
            Issue.record("no snapshot comes first")
            return
        }
        #expect(stream.message(for: projection.view(of: "a", nowMilliseconds: 5), nowMilliseconds: 5) == nil)
        let batch = ObjectEventBatch(revision: 4, events: [try pod("p", revision: 4, node: "a", secrets: ["s"])])
        _ = projection.apply(batch, contents: [SecretName(namespace: "default", name: "s"): try secret("s", revision: 1).object])
        let view = projection.view(of: "a", nowMilliseconds: 5)
        #expect(stream.releases(view) == [SecretName(namespace: "default", name: "s")])
        guard case .delta(let delta)? = stream.message(for: view, nowMilliseconds: 5) else {
            Issue.record("no change follows")
            return
        }
        state = try state.applying(delta)
        #expect(state.pods == view.pods && state.secrets == view.secrets && state.revision == 4)
        #expect(stream.releases(view).isEmpty)
    }

    @Test("nothing is released while the projection is behind a change that concerns the pod")
    func releaseCheck() async throws {
        var web = Resource(.pods, tree: [
            "apiVersion": "v1", "kind": "Pod", "metadata": ["name": "web", "namespace": "default"],
            "spec": ["nodeName": "a", "volumes": [["name": "v", "secret": ["secretName": "s"]]]],
        ])
        web.uid = "u"
        web = try await store.create(web)
        let key = try #require(web.key), name = SecretName(namespace: "default", name: "s")
        let revision = try #require(Int64(web.resourceVersion))
        var projection = NodeProjection()
        let stored = try #require(try await store.find(key))
        _ = projection.apply(
            ObjectEventBatch(revision: revision, events: [ObjectEvent(kind: .added, object: stored, previous: nil), try secret("s", revision: 2)]), contents: [:])
        let view = projection.view(of: "a", nowMilliseconds: 0)
        let check = ReleaseCheck(store: store)
        #expect(try await check.confirms(view, releasing: [name]))
        keyValue.skipRevision()
        #expect(try await check.confirms(view, releasing: [name]), "revisions of others do not matter")
        try await store.delete(key)
        #expect(try await check.confirms(view, releasing: [name]) == false)
        #expect(try await check.confirms(view, releasing: []))
    }
}
