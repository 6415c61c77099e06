import Access
import Audit
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore
import Resources
import Synchronization

/// One request on its way: authenticate → authorize → validate → audit → act.
///
/// Invariant: the trail gets one record of it, durable before anything happens or is released; a watch gets one per batch besides, and a
/// change a second one, of what came of it. What was denied or failed before it came to anything is recorded without waiting.
final class Call: Sendable {
    let request: Request
    let channel: any Channel
    let path: String
    let moment: Date
    private let clock: @Sendable () -> Date
    private let audit: AuditLog
    private let state: Mutex<State>

    private struct State {
        var identity = PeerIdentity.anonymous
        /// Who asks to be taken for `identity`; nil: it is themselves.
        var impersonator: String?
        var query = RequestQuery.none
        var surface = "secrets"
        var verb: String
        var resource: String
        var allowed = false
        var isRecorded = false
        /// A change was let through: what comes of it is still to be recorded.
        var isChanging = false
    }

    /// Nobody's, with an empty query, until `identify` and `read` say otherwise: what fails there is in the trail too.
    init(_ request: Request, channel: any Channel, path: String, moment: Date, clock: @escaping @Sendable () -> Date, audit: AuditLog) {
        self.clock = clock
        self.request = request; self.channel = channel; self.path = path
        self.moment = moment; self.audit = audit
        state = Mutex(State(verb: request.method.rawValue.lowercased(), resource: path))
    }

    var identity: Identity { state.withLock { $0.identity } }
    var query: RequestQuery { state.withLock { $0.query } }
    var isImpersonated: Bool { state.withLock { $0.impersonator != nil } }

    // MARK: Authenticate

    func identify() async throws {
        let peer = try await PeerIdentity.of(channel, now: moment)
        state.withLock { $0.identity = peer }
        guard let impersonation = try Impersonation(request.headers) else { return }
        try authorize(impersonation.action)
        state.withLock { state in
            state.impersonator = peer.user
            state.identity = impersonation.identity
        }
    }
    func read(query text: Substring) throws(Status) {
        let query = try RequestQuery(text)
        state.withLock { $0.query = query }
    }

    var now: Timestamp { Timestamp(secondsSinceEpoch: Int64(moment.timeIntervalSince1970)) }

    // MARK: Authorize

    func authorize(_ action: Action, surface: String = "secrets") throws(Status) {
        state.withLock { state in
            state.surface = surface
            switch action {
            case .path(let verb, let path): (state.verb, state.resource) = (verb, path)
            case .resource(let action): (state.verb, state.resource) = (action.verb, Self.text(action))
            }
        }
        guard case .denied(let why) = Authorizer.decide(identity, action) else {
            state.withLock { $0.allowed = true }
            return
        }
        try note(.denied(because: why), outcome: identity == PeerIdentity.anonymous ? "401" : "403", count: 0)
        if identity == PeerIdentity.anonymous { throw .unauthorized }
        switch action {
        case .path(let verb, let path): throw .forbidden(user: identity.user, verb: verb, path: path, why: why)
        case .resource(let action):
            let resource = action.resource + (action.subresource.isEmpty ? "" : "/" + action.subresource)
            throw .forbidden(
                user: identity.user, verb: action.verb, type: resource, group: action.group, name: action.name, namespace: action.namespace, why: why)
        }
    }

    private static func text(_ action: ResourceAction) -> String {
        var parts: [String] = action.group.isEmpty ? [] : [action.group]
        if !action.namespace.isEmpty { parts += ["namespaces", action.namespace] }
        parts.append(action.resource)
        if !action.name.isEmpty { parts.append(action.name) }
        if !action.subresource.isEmpty { parts.append(action.subresource) }
        return parts.joined(separator: "/")
    }

    // MARK: Audit

    /// Before a change is made, of `count` objects at most; once, however often the change is tried.
    func auditChange(count: Int = 1) async throws(Status) {
        guard !state.withLock({ $0.isRecorded }) else { return }
        try await record(.allowed(because: reason), outcome: "admitted", count: count)
        state.withLock { $0.isChanging = true }
    }
    /// Before what was read is released.
    func auditRelease(count: Int) async throws(Status) { try await record(.allowed(because: reason), outcome: "ok", count: count) }
    /// Of one batch of a stream, besides the request's own record.
    func auditBatch(count: Int) async throws(Status) { try await record(.allowed(because: reason), outcome: "ok", count: count) }
    /// Of a request that failed before it came to a record, or after it was let through.
    func auditFailure(_ status: Status) throws(Status) {
        let (isRecorded, allowed) = state.withLock { ($0.isRecorded, $0.allowed) }
        if isRecorded { return conclude(status.code) }
        try note(allowed ? .allowed(because: reason) : .denied(because: status.message), outcome: String(status.code), count: 0)
    }
    /// The answer, with what came of a change recorded. The change is: if its outcome cannot be, the next request is refused.
    func concluded(_ response: Response) -> Response {
        conclude(response.status.code)
        return response
    }
    private func conclude(_ code: Int) {
        let isChanging = state.withLock { state in
            defer { state.isChanging = false }
            return state.isChanging
        }
        if isChanging { try? note(.allowed(because: reason), outcome: String(code), count: 0) }
    }

    private var reason: String {
        identity.groups.contains(Identity.administrators) ? "group \(Identity.administrators)" : identity.node.map { "node \($0)" } ?? "anyone"
    }

    private func made(_ decision: AuditRecord.Decision, _ outcome: String, _ count: Int) -> AuditRecord {
        state.withLock { state in
            state.isRecorded = true
            return AuditRecord(
                timeMilliseconds: UInt64(max(0, clock().timeIntervalSince1970 * 1000)), surface: state.surface,
                who: state.impersonator.map { "\($0) as \(state.identity.user)" } ?? state.identity.user, verb: state.verb,
                resource: Self.cut(state.resource), decision: decision.cut, outcome: outcome, count: count)
        }
    }
    /// What somebody without a certificate made up goes into the trail, and fills the disk: no honest name is as long.
    fileprivate static func cut(_ text: String) -> String {
        let bytesMax = 1_024
        return text.utf8.count <= bytesMax ? text : String(decoding: text.utf8.prefix(bytesMax), as: UTF8.self) + "…"
    }
    /// Returns when the record is durable.
    private func record(_ decision: AuditRecord.Decision, outcome: String, count: Int) async throws(Status) {
        do { try await audit.record(made(decision, outcome, count)) } catch { throw Self.refusal(error) }
    }
    /// Returns when the record is accepted.
    private func note(_ decision: AuditRecord.Decision, outcome: String, count: Int) throws(Status) {
        do { try audit.append(made(decision, outcome, count)) } catch { throw Self.refusal(error) }
    }
    private static func refusal(_ error: AuditError) -> Status {
        if case .overloaded = error { return .tooManyRequests("the audit trail is behind, please try again later", retryAfterSeconds: 1) }
        return .serviceUnavailable("the audit trail cannot be written; nothing is done unseen")
    }
}

extension AuditRecord.Decision {
    fileprivate var cut: Self {
        switch self {
        case .allowed(let why): .allowed(because: Call.cut(why))
        case .denied(let why): .denied(because: Call.cut(why))
        }
    }
}
