import Access
import Audit
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import ObjectStore
import Resources

/// What the answers to requests are made from. `respond` walks the chain: authenticate, find what is asked, authorize, validate, audit, act.
struct Endpoints: HTTPResponder {
    struct Context: InitializableFromSource {
        let channel: any Channel
        init(source: ApplicationRequestContextSource) { channel = source.channel }
    }

    let store: ObjectStore
    let feed: ObjectFeed
    let sessions: NodeSessions
    let operations: any Operations
    let audit: AuditLog
    let clock: @Sendable () -> Date
    let heartbeatSeconds: Double
    let logger: Logger

    func respond(to request: Request, context: Context) async throws -> Response {
        do {
            return try await answer(request, context.channel)
        } catch let status as Status {
            return Answer.status(status)
        } catch {
            // Its text may quote what was sent: the kind of error is enough.
            logger.debug("a request failed", metadata: ["error": "\(type(of: error))"])
            return Answer.status(.internalError("an internal error of type \(type(of: error))"))
        }
    }

    private func answer(_ request: Request, _ channel: any Channel) async throws -> Response {
        let moment = clock()
        let whole = request.head.path ?? "/"
        let parts = whole.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let path = String(parts.first ?? "/")
        let call = Call(request, channel: channel, path: path, moment: moment, clock: clock, audit: audit)
        do {
            try await call.identify()
            try call.read(query: parts.count > 1 ? parts[1] : "")
            switch try RequestTarget(method: request.method.rawValue, path: path, isWatch: call.query.isWatch) {
            case .resource(let target): return call.concluded(try await answer(call, target))
            case .coffer(let segments): return call.concluded(try await answer(call, coffer: segments))
            case .review(let review): return call.concluded(try await answer(call, review))
            case .path(let path): return call.concluded(try await answer(call, path: path))
            }
        } catch let status as Status {
            try call.auditFailure(status)
            throw status
        } catch {
            try call.auditFailure(.internalError(""))
            throw error
        }
    }

    // MARK: Resources

    private func answer(_ call: Call, _ target: ResourceTarget) async throws -> Response {
        let selection = try Selection(call.query, target)
        var action = ResourceAction(
            verb: target.verb.rawValue, resource: target.type.plural, subresource: target.subresource, namespace: target.namespace, name: target.name,
            selectedNode: selection.fields.exactValue(of: "spec.nodeName"))
        if target.type == .pods, call.identity.node != nil { action.boundNode = try await boundNode(namespace: target.namespace, pod: target.name) }
        if target.type == .nodes, target.verb == .create, call.identity.node != nil {
            return try await createNode(call, target, action)
        }
        try call.authorize(.resource(action))
        guard let rendering = Rendering(accept: call.request.headers[.accept]) else { throw Status.notAcceptable(accepted: Rendering.accepted) }
        switch target.verb {
        case .get: return try await get(call, target, rendering)
        case .list: return try await list(call, target, selection, rendering)
        case .watch: return try await watch(call, target, selection, rendering)
        case .create: return try await create(call, target, try await RequestDocument(call.request), rendering)
        case .update: return try await update(call, target, rendering)
        case .patch: return try await patch(call, target, rendering)
        case .delete: return try await delete(call, target)
        case .deletecollection: return try await deleteCollection(call, target, selection)
        }
    }

    func boundNode(namespace: String, pod name: String) async throws(Status) -> String? {
        guard let key = ObjectKey(.pods, namespace: namespace, name: name), let pod = try await store.find(key) else { return nil }
        let name = Pod(pod.shown).nodeName
        return name.isEmpty ? nil : name
    }

    /// A node registers itself: the name that counts is the object's, which comes in the body.
    private func createNode(_ call: Call, _ target: ResourceTarget, _ action: ResourceAction) async throws -> Response {
        let document = try await RequestDocument(call.request)
        let node = try body(call, document)
        var action = action
        action.name = node.at("metadata", "name")?.stringValue ?? ""
        try call.authorize(.resource(action))
        // Labels that an administrator sets to send pods to some nodes only are not for a node to claim.
        let claimed = (node.at("metadata", "labels")?.objectValue?.sortedMembers ?? []).map(\.key).filter(NodeRules.isRestricted(label:))
        guard claimed.isEmpty else {
            throw Status.forbidden(.nodes, action.name, "is not allowed to set the following labels: \(claimed.joined(separator: ", "))")
        }
        guard let rendering = Rendering(accept: call.request.headers[.accept]) else { throw Status.notAcceptable(accepted: Rendering.accepted) }
        return try await create(call, target, document, rendering)
    }

    // MARK: Bodies

    func body(_ call: Call, _ document: RequestDocument) throws(Status) -> JSONValue {
        guard !document.isEmpty else { throw .badRequest("the body of the request is empty") }
        let media = (call.request.headers[.contentType] ?? "application/json").split(separator: ";").first.map(\.trimmed)?.lowercased() ?? ""
        switch media {
        case "application/json": return try document.json()
        case "application/yaml", "application/x-yaml", "text/yaml": return try document.yaml()
        case KubernetesProtobuf.mediaType: return try document.protobuf()
        default: throw .unsupportedMediaType(accepted: ["application/json", "application/yaml"])
        }
    }

    func tableIncludes(_ call: Call) throws(Status) -> Table.Included {
        guard let value = call.query["includeObject"] else { return .metadata }
        guard let included = Table.Included(rawValue: value) else {
            throw .badRequest("includeObject: Unsupported value: \"\(value)\": supported values: \"None\", \"Metadata\", \"Object\"")
        }
        return included
    }

    func one(_ call: Call, _ resource: Resource, _ rendering: Rendering, code: Int = 200, warnings: [String] = []) throws(Status) -> Response {
        Answer.json(rendering.one(resource, now: call.now, including: try tableIncludes(call)), code: code, warnings: warnings)
    }
}
