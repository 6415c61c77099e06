import Foundation
import Logging
import Mounts
import NodeAgent
import NodeProtocol
import SecretMemory
import Synchronization
import NIOCore
import NIOSSL
import Glibc
import Testing

/// The whole agent but its process: loop, stream and engine against a server over TLS.
@Suite(.serialized, .enabled(if: Node.isPossible, Node.why)) struct StreamTests {
    private func eventually(_ condition: () async throws -> Bool) async throws -> Bool {
        let end = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < end {
            if try await condition() { return true }
            try await Task.sleep(for: .milliseconds(5))
        }
        return try await condition()
    }

    private func withAgent(_ body: (Node, FakeServer, AgentLoop) async throws -> Void) async throws {
        let node = try Node(), server = try await FakeServer(), loop = AgentLoop()
        let options = node.options
        try await loop.start { NodeReconciler(engine: try VolumeEngine(options), policy: options.policy) }
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let service = NodeAgentService(server: server.options, loop: loop, logger: logger)
        let running = Task { try await service.run() }
        do { try await body(node, server, loop) } catch { Issue.record(error) }
        running.cancel()
        loop.stop()
        _ = await running.result
        try await server.close()
    }

    private func streams(_ server: FakeServer) -> Int { server.heard.withLock { $0.streams.count } }

    @Test("a snapshot is mounted, acknowledged and reported; a delta changes it; a removal is acknowledged")
    func follow() async throws {
        try await withAgent { node, server, _ in
            #expect(try await eventually { streams(server) == 1 })
            #expect(server.heard.withLock { $0.requests } == [SyncRequest(node: "n1", resumeRevision: 0, observedPodUIDs: [])])
            #expect(server.heard.withLock { $0.calls.contains { $0.hasPrefix("POST /api/v1/nodes ") && $0.contains("n1") } })
            let pod = pod(1)
            try server.send(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: Node.serverNow, pods: [pod], secrets: [try secret(data: [("k", "one")])])))
            #expect(try await eventually { node.text(pod, "v", "k") == "one" })
            #expect(try await eventually { server.heard.withLock { $0.acknowledgements.map(\.outcome) } == [.materialized] })
            #expect(try await eventually {
                server.heard.withLock { $0.calls.contains { call in
                    call.hasPrefix("PATCH /api/v1/namespaces/prod/pods/pod-1/status ") && call.contains("SecretsReady") && call.contains("True") && call.contains(pod.uid)
                } }
            })
            try server.send(.delta(DesiredDelta(fromRevision: 5, revision: 6, serverTimeMilliseconds: Node.serverNow, secrets: [try secret(version: 6, data: [("k", "two")])])))
            #expect(try await eventually { node.text(pod, "v", "k") == "two" })
            try server.send(.delta(DesiredDelta(fromRevision: 6, revision: 7, serverTimeMilliseconds: Node.serverNow, removedPodUIDs: [pod.uid])))
            #expect(try await eventually { node.leftovers.isEmpty })
            #expect(try await eventually { server.heard.withLock { $0.acknowledgements.map(\.outcome) } == [.materialized, .materialized, .wiped, .podRemoved] })
        }
    }

    @Test("why no server is reached is said in words that a person can act on")
    func reasons() async throws {
        #expect(NodeAgentService.reason(IOError(errnoCode: ECONNREFUSED, reason: "connect")) == "the server does not listen: connection refused")
        let foreign = NIOSSLError.handshakeFailed(.sslError([]))
        #expect(NodeAgentService.reason(foreign) == "\(foreign)")
        #expect(NodeAgentService.reason(NIOSSLError.unableToValidateCertificate).hasPrefix("the server's certificate is not signed by the authority in --ca-file"))
    }

    @Test("a server that takes no acknowledgement for now is told again, on the same stream")
    func acknowledgedLater() async throws {
        try await withAgent { node, server, _ in
            #expect(try await eventually { streams(server) == 1 })
            server.refusals.withLock { $0 = 2 }
            let pod = pod(1)
            try server.send(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: Node.serverNow, pods: [pod], secrets: [try secret(data: [("k", "one")])])))
            #expect(try await eventually { server.heard.withLock { $0.acknowledgements.map(\.outcome) } == [.materialized] })
            #expect(server.refusals.withLock { $0 } == 0)
            #expect(server.heard.withLock { $0.requests.count } == 1)
        }
    }

    @Test("a pod that cannot have its secrets says so, by its reason")
    func notReady() async throws {
        try await withAgent { _, server, _ in
            #expect(try await eventually { streams(server) == 1 })
            try server.send(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: Node.serverNow, pods: [pod(1)])))
            #expect(try await eventually { server.heard.withLock { $0.calls.contains { $0.contains("\"False\"") && $0.contains("SecretMissing") } } })
        }
    }

    @Test("a stream cut within a transfer changes nothing; the agent comes back with its revision, refuses an older state and takes a newer one")
    func cutStream() async throws {
        try await withAgent { node, server, loop in
            let pod = pod(1)
            #expect(try await eventually { streams(server) == 1 })
            try server.send(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: Node.serverNow, pods: [pod], secrets: [try secret(data: [("k", "one")])])))
            #expect(try await eventually { node.text(pod, "v", "k") == "one" })
            // The first frame of a snapshot without pods, and then nothing.
            let begin = try #require(try SyncMessage.snapshot(DesiredState(revision: 6, serverTimeMilliseconds: 0)).frames().first)
            server.send(begin.withUnsafeBytes { Array($0) })
            server.cut()
            #expect(try await eventually { streams(server) == 1 })
            #expect(server.heard.withLock { $0.requests.last } == SyncRequest(node: "n1", resumeRevision: 5, observedPodUIDs: [pod.uid]))
            #expect(node.text(pod, "v", "k") == "one")
            // An older server: the agent leaves it.
            let requests = server.heard.withLock { $0.requests.count }
            try server.send(.snapshot(DesiredState(revision: 4, serverTimeMilliseconds: Node.serverNow)))
            #expect(try await eventually { server.heard.withLock { $0.requests.count } > requests })
            #expect(node.text(pod, "v", "k") == "one")
            server.heard.withLock { $0.streams.removeFirst(max($0.streams.count - 1, 0)) }
            try server.send(.snapshot(DesiredState(revision: 8, serverTimeMilliseconds: Node.serverNow)))
            #expect(try await eventually { node.leftovers.isEmpty })
            #expect(try await loop.ask { $0.revision } == 8)
        }
    }

    @Test("a server that comes anew is told what the node holds, once, and nothing that is gone")
    func holdings() async throws {
        try await withAgent { node, server, _ in
            let pods = [pod(1), pod(2)]
            func secrets() throws -> [DeliveredSecret] { [try secret(version: 3, data: [("k", "one")])] }
            func outcomes() -> [String] { server.heard.withLock { $0.acknowledgements.map { "\($0.outcome) \($0.podName) \($0.resourceVersion)" }.sorted() } }
            #expect(try await eventually { streams(server) == 1 })
            try server.send(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: Node.serverNow, pods: pods, secrets: try secrets())))
            #expect(try await eventually { outcomes() == ["materialized pod-1 3", "materialized pod-2 3"] })
            server.heard.withLock { $0.acknowledgements = [] }
            server.cut()
            #expect(try await eventually { streams(server) == 1 })
            try server.send(.snapshot(DesiredState(revision: 6, serverTimeMilliseconds: Node.serverNow, pods: [pods[0]], secrets: try secrets())))
            #expect(try await eventually { outcomes() == ["materialized pod-1 3", "podRemoved pod-2 0", "wiped pod-2 3"] })
            try server.send(.delta(DesiredDelta(fromRevision: 6, revision: 7, serverTimeMilliseconds: Node.serverNow, removedPodUIDs: [pods[0].uid])))
            #expect(try await eventually { outcomes().count == 5 })
            #expect(outcomes().filter { $0.hasPrefix("materialized") }.count == 1)
            #expect(node.leftovers == [])
        }
    }

    @Test("bytes that are no frames end the stream, and what is mounted stays")
    func garbage() async throws {
        try await withAgent { node, server, _ in
            let pod = pod(1)
            #expect(try await eventually { streams(server) == 1 })
            try server.send(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: Node.serverNow, pods: [pod], secrets: [try secret(data: [("k", "one")])])))
            #expect(try await eventually { node.text(pod, "v", "k") == "one" })
            server.send([0xff, 0xff, 0xff, 0xff, 0x09, 1, 2, 3])
            #expect(try await eventually { server.heard.withLock { $0.requests.count } == 2 })
            #expect(node.text(pod, "v", "k") == "one")
        }
    }

    @Test("the status socket answers questions and is its owner's alone")
    func socket() async throws {
        try await withAgent { node, _, loop in
            let root = node.root
            let serving = Task { try await StatusSocket.serve(root: root) { question in
                question.verb == .status ? StatusAnswer(status: try? await loop.ask { try $0.status(node: "n1") }) : StatusAnswer(error: "no")
            } }
            #expect(try await eventually { FileManager.default.fileExists(atPath: StatusSocket.path(root: root)) })
            let answer = Mutex<StatusAnswer?>(nil)
            let isAnswered = try await eventually {
                let reply = try await StatusSocket.ask(StatusQuestion(.status), root: root)
                answer.withLock { $0 = reply }
                return reply != nil
            }
            #expect(isAnswered)
            #expect(answer.withLock { $0?.status?.node } == "n1")
            #expect(try FileManager.default.attributesOfItem(atPath: StatusSocket.path(root: root))[.posixPermissions] as? Int == 0o600)
            #expect(try await StatusSocket.ask(StatusQuestion(.drain), root: root)?.error == "no")
            serving.cancel()
            _ = await serving.result
            #expect(try await StatusSocket.ask(StatusQuestion(.status), root: "/tmp/coffer-no-agent") == nil)
        }
    }
}
