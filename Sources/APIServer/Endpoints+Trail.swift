import Access
import HummingbirdCore
import Logging
import NodeProtocol
import ObjectStore
import Resources

// Who held a secret, from when to when.
extension Endpoints {
    /// Keeps what a node says it made readable and wiped. A claim is kept only of a secret whose uid the
    /// node knows: uids are told to nobody but who may read the secret, so no node makes up trails of what it was never given.
    ///
    /// Answers a failure when the store cannot be written for now; what can never be kept holds up nothing else.
    func keep(_ entries: [Acknowledgement.Entry], of node: String, now: Timestamp) async -> Status? {
        var changes: [TrailKey: [Acknowledgement.Entry]] = [:]
        for entry in entries where entry.outcome != .podRemoved {
            guard let key = TrailKey(namespace: entry.namespace, secret: entry.secretName, node: node) else { continue }
            changes[key, default: []].append(entry)
        }
        return await withTaskGroup(of: Status?.self) { group in
            var failure: Status?
            for (place, (key, entries)) in changes.enumerated() {
                if place >= APILimits.trailsAtOnce, let told = await group.next() { failure = failure ?? told }
                group.addTask { await self.keep(entries, key, now: now) }
            }
            for await told in group { failure = failure ?? told }
            return failure
        }
    }

    private func keep(_ entries: [Acknowledgement.Entry], _ key: TrailKey, now: Timestamp) async -> Status? {
        do throws(Status) {
            guard let namespace = ObjectKey(.namespaces, namespace: "", name: key.namespace), let found = try await store.find(namespace),
                !found.shown.isBeingDeleted
            else { return nil }
            try await store.updateTrail(key) { (trail) throws(Status) in
                var isChanged = false
                for entry in entries {
                    switch entry.outcome {
                    case .materialized:
                        guard entry.resourceVersion > 0 else { continue }
                        if !trail.knows(secretUID: entry.secretUID) { guard try await wasGiven(entry) else { continue } }
                        let holder = SecretTrail.Holder(
                            podName: entry.podName, podUID: entry.podUID, secretUID: entry.secretUID, resourceVersion: entry.resourceVersion)
                        if trail.materialized(holder, now: now) { isChanged = true }
                    case .wiped: if trail.wiped(podUID: entry.podUID, now: now) { isChanged = true }
                    case .podRemoved: break
                    }
                }
                return isChanged
            }
            return nil
        } catch {
            switch error.reason {
            case .serviceUnavailable, .tooManyRequests, .timeout: return error
            default:
                logger.error("a secret's trail cannot be kept", metadata: ["node": "\(key.node)", "reason": "\(error.message)"])
                return nil
            }
        }
    }

    /// That the secret had this uid: it still has, or had it at that version.
    private func wasGiven(_ entry: Acknowledgement.Entry) async throws(Status) -> Bool {
        guard let key = ObjectKey(.secrets, namespace: entry.namespace, name: entry.secretName), !entry.secretUID.isEmpty else { return false }
        if try await store.find(key)?.shown.uid == entry.secretUID { return true }
        do throws(Status) {
            return try await store.find(key, at: entry.resourceVersion)?.shown.uid == entry.secretUID
        } catch {
            // Compacted, or not written yet: nothing says so.
            guard error.reason == .expired || error.reason == .timeout else { throw error }
            return false
        }
    }

    func trail(_ call: Call, namespace: String, secret: String) async throws -> Response {
        try call.authorize(
            .resource(ResourceAction(verb: "get", group: "coffer.dev", resource: "secrets", subresource: "trail", namespace: namespace, name: secret)))
        let trails = try await store.trails(namespace: namespace, secret: secret)
        if trails.isEmpty {
            guard let key = ObjectKey(.secrets, namespace: namespace, name: secret), try await store.find(key) != nil else {
                throw Status.notFound(.secrets, secret)
            }
        }
        var rows: [(from: Timestamp, json: JSONValue)] = []
        for (node, trail) in trails {
            guard let key = TrailKey(namespace: namespace, secret: secret, node: node) else { continue }
            for span in trail.spans {
                let isKnown = span.until != nil || feed.read { $0.holds(span.holder, key) } ?? true
                rows.append((span.from, Self.json(span, node, isKnown: isKnown)))
            }
        }
        try await call.auditRelease(count: rows.count)
        var answer: JSONValue = [
            "kind": "SecretTrail", "apiVersion": "coffer.dev/v1", "namespace": .string(namespace), "secret": .string(secret),
            "items": .array(rows.sorted { $0.from < $1.from }.map(\.json)),
        ]
        let omitted = trails.reduce(0) { $0 + $1.trail.omitted }
        if omitted > 0 { answer["omitted"] = .integer(omitted) }
        return Answer.json(answer)
    }

    private static func json(_ span: SecretTrail.Span, _ node: String, isKnown: Bool) -> JSONValue {
        var json = span.holder.json
        json["node"] = .string(node)
        json["from"] = .string(span.from.description)
        if let until = span.until { json["until"] = .string(until.description) }
        json["state"] = .string(span.end?.rawValue ?? (isKnown ? "Held" : "Unconfirmed"))
        return json
    }
}

extension NodeProjection {
    /// That the pod is there, on that node. One that is gone, and whose node never said that it wiped what it held, may still hold it.
    func holds(_ holder: SecretTrail.Holder, _ key: TrailKey) -> Bool {
        guard let pod = ObjectKey(.pods, namespace: key.namespace, name: holder.podName).flatMap({ pods[$0] }) else { return false }
        return pod.resource.uid == holder.podUID && pod.nodeName == key.node
    }
}
