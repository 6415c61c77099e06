import Access
import Basics
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore
import NodeProtocol
import ObjectStore
import Resources
import SecretMemory

// Coffer's own group: the nodes' streams, and what operators ask of the key management.
extension Endpoints {
    func answer(_ call: Call, coffer segments: [String]) async throws -> Response {
        let method = call.request.method
        switch (method, segments.count, segments[0], segments.last) {
        case (.post, 3, "nodes", "sync"): return try await synchronize(call, node: segments[1])
        case (.post, 3, "nodes", "acks"): return try await acknowledge(call, node: segments[1])
        case (.get, 3, "nodes", "acks"): return try await acknowledgements(call, node: segments[1])
        case (.get, 5, "namespaces", "trail") where segments[2] == "secrets": return try await trail(call, namespace: segments[1], secret: segments[3])
        case (.post, 2, "operator", "rotate"): return try await rotate(call)
        case (.get, 2, "operator", "rotations"):
            try authorize(call, "get", "operator", name: "rotations")
            let rotations = try await operations.rotations()
            try await call.auditRelease(count: rotations.count)
            return Answer.json(["kind": "RotationList", "apiVersion": "coffer.dev/v1", "items": .array(rotations.map(\.json))])
        case (.get, 2, "vault", "status"):
            try authorize(call, "get", "vault", name: "status")
            let status = try await operations.vaultStatus()
            try await call.auditRelease(count: 1)
            return Answer.json(status.json)
        default:
            try call.authorize(.path(verb: method.rawValue.lowercased(), path: call.path))
            throw Status.noSuchPath
        }
    }

    private func authorize(
        _ call: Call, _ verb: String, _ resource: String, name: String, subresource: String = "", surface: String = "secrets"
    ) throws(Status) {
        try call.authorize(
            .resource(ResourceAction(verb: verb, group: "coffer.dev", resource: resource, subresource: subresource, name: name)), surface: surface)
    }

    // MARK: Operators

    private func rotate(_ call: Call) async throws -> Response {
        try authorize(call, "create", "operator", name: "rotate")
        let document = try body(call, try await RequestDocument(call.request))
        let scope = try Self.scope(document)
        guard let level = document["level"]?.stringValue.flatMap(RotationLevel.init) else {
            throw Status.badRequest("level: supported values: \(RotationLevel.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        if case .namespace(let name) = scope {
            guard let key = ObjectKey(.namespaces, namespace: "", name: name), try await store.find(key) != nil else { throw Status.notFound(.namespaces, name) }
        }
        try await call.auditChange()
        return Answer.json(try await operations.rotate(scope, level: level).json, code: 202)
    }

    private static func scope(_ document: JSONValue) throws(Status) -> RotationScope {
        switch (document["namespace"]?.stringValue, document["domain"]?.stringValue) {
        case (let name?, nil) where Names.errors(dns1123Label: name).isEmpty: return .namespace(name)
        case (.some, nil): throw .badRequest("namespace: a namespace's name is expected")
        case (nil, "cluster"): return .cluster
        case (nil, "plain"): return .plain
        case (nil, .some): throw .badRequest("domain: supported values: cluster, plain")
        default: throw .badRequest("exactly one of namespace and domain must be given")
        }
    }

    // MARK: Nodes

    private func acknowledgements(_ call: Call, node: String) async throws -> Response {
        try authorize(call, "get", "nodes", name: node, subresource: "acks")
        let (revision, holdings) = sessions.holdings(of: node)
        try await call.auditRelease(count: holdings.count)
        return Answer.json([
            "kind": "AcknowledgementList", "apiVersion": "coffer.dev/v1", "node": .string(node), "connected": .bool(sessions.isConnected(node)),
            "revision": .string(String(revision)), "items": .array(holdings.map(\.json)),
        ])
    }

    /// The trail calls these *claimed by the node*. A pod that is being deleted and gone from its node is gone.
    private func acknowledge(_ call: Call, node: String) async throws -> Response {
        try authorizeNode(call, node, "acks")
        let body = try await RequestDocument(call.request, bytesMax: ProtocolLimits.requestBytesMax)
        let acknowledgement: Acknowledgement
        do { acknowledgement = try Acknowledgement(decoding: body.bytes) } catch { throw Status.badRequest("the acknowledgement cannot be read: \(error)") }
        guard acknowledgement.node == node else { throw Status.badRequest("the acknowledgement is of another node") }
        try await call.auditChange(count: acknowledgement.entries.count)
        // Also when the trail cannot be kept for now: a disk that is full holds up no pod's end. The node says all of it again.
        let failure = await keep(acknowledgement.entries, of: node, now: call.now)
        for pod in sessions.acknowledge(acknowledgement, now: call.now) {
            guard let key = ObjectKey(.pods, namespace: pod.namespace, name: pod.name) else { continue }
            do throws(Status) {
                try await store.delete(key, .init(uid: pod.uid)) { (current) throws(Status) in
                    let resource = current.shown
                    guard resource.isBeingDeleted, resource.finalizers.isEmpty, Pod(resource).nodeName == node else { throw .modified(.pods, pod.name) }
                }
            } catch {
                // Gone already, another pod of that name, or not being deleted: nothing to do.
                guard error.reason == .notFound || error.reason == .conflict else { throw error }
            }
        }
        if let failure { throw failure }
        return Answer.json(Status(code: 200, reason: .unknown, message: "").json)
    }

    /// Only the node itself: an administrator may read secrets, but who opens a node's stream says that the node is there.
    private func authorizeNode(_ call: Call, _ node: String, _ subresource: String) throws(Status) {
        try authorize(call, "create", "nodes", name: node, subresource: subresource, surface: "node")
        guard call.identity.node == node, !call.isImpersonated else {
            throw .forbidden(
                user: call.identity.user, verb: "create", type: "nodes/\(subresource)", group: "coffer.dev", name: node, why: "only the node itself may do this")
        }
    }

    private func synchronize(_ call: Call, node: String) async throws -> Response {
        try authorizeNode(call, node, "sync")
        let body = try await RequestDocument(call.request, bytesMax: ProtocolLimits.requestBytesMax)
        let request: SyncRequest
        do { request = try SyncRequest(decoding: body.bytes) } catch { throw Status.badRequest("the request cannot be read: \(error)") }
        guard request.node == node else { throw Status.badRequest("the request is of another node") }
        guard try await store.currentRevision() >= request.resumeRevision else {
            throw Status.serviceUnavailable("the node has seen a later revision than this server has")
        }
        try await call.auditRelease(count: 0)
        let stream = NodeStream(
            node: node, resumeRevision: request.resumeRevision, feed: feed, check: ReleaseCheck(store: store), clock: clock,
            heartbeatSeconds: heartbeatSeconds, release: { (count) throws(Status) in try await call.auditBatch(count: count) })
        let sessions = sessions, clock = clock
        return Streaming.response(on: call.channel, contentType: "application/octet-stream") { outlet in
            let session = sessions.open(node, now: clock()) { outlet.finish() }
            defer { sessions.close(node, session: session, now: clock()) }
            try await stream.run(into: outlet)
        }
    }
}

/// Feeds one node's stream: at each change that may concern it, and every few seconds a sign of life.
struct NodeStream: Sendable {
    let node: String
    let resumeRevision: Int64
    let feed: ObjectFeed
    let check: ReleaseCheck
    let clock: @Sendable () -> Date
    let heartbeatSeconds: Double
    /// Told before so many secrets are released; throws when they must not be. Returns when that is on record.
    let release: @Sendable (Int) async throws(Status) -> Void

    private static let tickMilliseconds = 250
    private static let confirmationAttemptsMax = 400
    private enum Wake { case change, tick }

    func run(into outlet: Outlet) async throws {
        let changes = feed.changes(of: node)
        let (wakes, wake) = AsyncStream.makeStream(of: Wake.self, bufferingPolicy: .bufferingNewest(2))
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { for await _ in changes { wake.yield(.change) } }
            group.addTask {
                while !Task.isCancelled {
                    try? await Task.sleep(for: .milliseconds(Self.tickMilliseconds))
                    wake.yield(.tick)
                }
            }
            defer { group.cancelAll() }
            var state = NodeStreamState()
            var lastSent = clock()
            for await cause in wakes {
                do {
                    if cause == .change || !state.hasSnapshot, try await push(&state, outlet) { lastSent = clock() }
                } catch let status as Status {
                    try send(.goodbye(reason: status.message), outlet)
                    return
                }
                guard state.hasSnapshot, clock().timeIntervalSince(lastSent) >= heartbeatSeconds else { continue }
                try send(.heartbeat(revision: state.toldRevision, serverTimeMilliseconds: milliseconds), outlet)
                lastSent = clock()
            }
        }
    }

    private var milliseconds: Int64 { Int64(clock().timeIntervalSince1970 * 1000) }

    /// True when something was sent.
    private func push(_ state: inout NodeStreamState, _ outlet: Outlet) async throws -> Bool {
        for _ in 0..<Self.confirmationAttemptsMax {
            guard let view = feed.read({ $0.view(of: node, nowMilliseconds: milliseconds) }), view.revision >= resumeRevision else { return false }
            let released = state.releases(view)
            guard try await check.confirms(view, releasing: released) else {
                // The feed is behind what the store confirms: a moment later it is not.
                try await Task.sleep(for: .milliseconds(5))
                continue
            }
            guard let message = state.message(for: view, nowMilliseconds: milliseconds) else { return false }
            try await release(released.count)
            try send(message, outlet)
            return true
        }
        throw Status.serviceUnavailable("what entitles the node could not be confirmed")
    }

    private func send(_ message: SyncMessage, _ outlet: Outlet) throws {
        let frames = try message.frames()
        var buffer = ByteBufferAllocator().buffer(capacity: frames.reduce(0) { $0 + $1.count })
        for frame in frames { _ = frame.withUnsafeBytes { buffer.writeBytes($0) } }
        try outlet.send(buffer)
    }
}
