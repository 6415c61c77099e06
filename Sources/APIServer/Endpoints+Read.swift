import Foundation
import HTTPTypes
import HummingbirdCore
import ObjectStore
import Resources

// Get, list, watch.
extension Endpoints {
    func get(_ call: Call, _ target: ResourceTarget, _ rendering: Rendering) async throws -> Response {
        let options = try call.query.listOptions()
        let resource: Resource
        if case .exact(let revision) = options.version {
            resource = try await store.get(target.type, namespace: target.namespace, name: target.name, at: revision)
        } else {
            resource = try await store.get(target.type, namespace: target.namespace, name: target.name)
        }
        try await call.auditRelease(count: 1)
        return try one(call, resource, rendering)
    }

    func list(_ call: Call, _ target: ResourceTarget, _ selection: Selection, _ rendering: Rendering) async throws -> Response {
        let including = try tableIncludes(call)
        let list = try await store.list(
            target.type, namespace: target.namespace.isEmpty ? nil : target.namespace, options: call.query.listOptions(),
            matches: selection.isEverything ? nil : { selection.matches($0) })
        try await call.auditRelease(count: list.items.count)
        return Answer.json(
            rendering.list(
                target.type, list.items.map(\.shown), resourceVersion: String(list.revision), continueToken: list.continueToken,
                remaining: list.remaining, now: call.now, including: including))
    }

    /// From the given revision on; without one, the present state first, as additions.
    func watch(_ call: Call, _ target: ResourceTarget, _ selection: Selection, _ rendering: Rendering) async throws -> Response {
        let namespace = target.namespace.isEmpty ? nil : target.namespace
        let seconds = min(try call.query.timeoutSeconds() ?? APILimits.watchSecondsDefault, APILimits.watchSecondsMax)
        let writer = WatchWriter(
            type: target.type, selection: selection, rendering: rendering, including: try tableIncludes(call), bookmarks: call.query.allowsBookmarks)
        var initial: [Resource] = []
        let start: Int64, sendsInitial = call.query.sendsInitialEvents
        if let revision = try call.query.watchStart(), !sendsInitial {
            start = revision
        } else {
            let list = try await store.list(target.type, namespace: namespace, matches: { selection.matches($0) })
            initial = list.items.map(\.shown)
            start = list.revision
        }
        let watch = try await store.watch(target.type, namespace: namespace, after: start)
        try await call.auditRelease(count: initial.count)
        let clock = clock, first = initial
        return Streaming.response(on: call.channel, contentType: "application/json", seconds: seconds) { outlet in
            do {
                for resource in first { try outlet.send(writer.event("ADDED", resource, now: clock())) }
                if sendsInitial { try outlet.send(writer.bookmark(start, endsInitial: true)) }
                for try await batch in watch {
                    let pieces = writer.pieces(of: batch, now: clock())
                    if pieces.objects > 0 { try await call.auditBatch(count: pieces.objects) }
                    for piece in pieces.buffers { try outlet.send(piece) }
                }
            } catch let status as Status {
                try outlet.send(WatchWriter.error(status))
            }
        }
    }
}
