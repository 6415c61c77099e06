import Foundation
import HTTPTypes
import HummingbirdCore
import ObjectStore
import Resources

// Create, update, patch.
extension Endpoints {
    func create(_ call: Call, _ target: ResourceTarget, _ document: RequestDocument, _ rendering: Rendering) async throws -> Response {
        let isDryRun = try call.query.isDryRun()
        if target.subresource == "binding" { return try await bind(call, target, document, isDryRun: isDryRun) }
        guard target.name.isEmpty else { throw Status.methodNotAllowed("POST") }
        var unknown: [String] = []
        let given = try Resource.decoding(try body(call, document), as: target.type, unknown: &unknown)
        let warnings = try fieldWarnings(call, given, unknown)
        for attempt in 1... {
            let resource = try Admission.creation(
                given, namespace: target.namespace, uid: UUID().uuidString.lowercased(), now: call.now, makeSuffix: Self.nameSuffix)
            do throws(Status) {
                try await call.auditChange()
                let created = isDryRun ? try await store.checkCreation(of: resource) : try await store.create(resource)
                return try one(call, created, rendering, code: 201, warnings: warnings)
            } catch {
                // A generated name that is taken is no fault of the client's.
                let isRetried = error.reason == .alreadyExists && given.name.isEmpty && attempt < APILimits.generatedNameAttemptsMax
                guard isRetried else { throw error }
            }
        }
        preconditionFailure("the attempts end in an answer or an error")
    }

    /// Kubernetes' alphabet: no vowels, so no words; none that look alike.
    private static func nameSuffix() -> String {
        let alphabet = Array("bcdfghjklmnpqrstvwxz2456789")
        return String((0..<5).map { _ in alphabet[Int.random(in: 0..<alphabet.count)] })
    }

    /// Fields that are not known were dropped: says so, or refuses, as the client asks.
    private func fieldWarnings(_ call: Call, _ resource: Resource, _ unknown: [String]) throws(Status) -> [String] {
        let warnings = unknown.map { "unknown field \"\($0)\"" }
        switch try call.query.fieldValidation() {
        case .ignore: return []
        case .warn: return warnings
        case .strict:
            guard !warnings.isEmpty else { return [] }
            throw .badRequest(
                "\(resource.type.kind) in version \"\(resource.type.version)\" cannot be handled as a \(resource.type.kind): strict decoding error: "
                    + warnings.joined(separator: ", "))
        }
    }

    private func bind(_ call: Call, _ target: ResourceTarget, _ document: RequestDocument, isDryRun: Bool) async throws -> Response {
        let binding = try body(call, document)
        guard let key = ObjectKey(.pods, namespace: target.namespace, name: target.name) else { throw Status.notFound(.pods, target.name) }
        let now = call.now
        _ = try await change(key, isDryRun: isDryRun) { (current) throws(Status) in
            let bound = try Admission.binding(current, to: binding, now: now)
            try await call.auditChange()
            return bound
        }
        return Answer.json(Status(code: 201, reason: .unknown, message: "").json, code: 201)
    }

    func update(_ call: Call, _ target: ResourceTarget, _ rendering: Rendering) async throws -> Response {
        let document = try await RequestDocument(call.request)
        var unknown: [String] = []
        let given = try Resource.decoding(try body(call, document), as: target.type, unknown: &unknown)
        let warnings = try fieldWarnings(call, given, unknown)
        return try await modify(call, target, rendering, warnings: warnings) { (current) throws(Status) in
            try Admission.update(given, replacing: current, subresource: target.subresource)
        }
    }

    func patch(_ call: Call, _ target: ResourceTarget, _ rendering: Rendering) async throws -> Response {
        let media = (call.request.headers[.contentType] ?? "").split(separator: ";").first.map(\.trimmed)?.lowercased() ?? ""
        guard let contentType = Patch.ContentType(rawValue: media) else {
            throw Status.unsupportedMediaType(accepted: Patch.ContentType.allCases.map(\.rawValue))
        }
        let document = try await RequestDocument(call.request)
        let patch = try document.patch(contentType)
        // Warnings are of the patch, not of what the store holds: taken from the last attempt.
        let dropped = Dropped()
        let validation = try call.query.fieldValidation()
        let response = try await modify(call, target, rendering, warnings: []) { (current) throws(Status) in
            var unknown: [String] = []
            let patched = try patch.applied(to: current, unknown: &unknown)
            if validation == .strict { _ = try fieldWarnings(call, patched, unknown) }
            dropped.fields = unknown
            return try Admission.update(patched, replacing: current, subresource: target.subresource)
        }
        return validation == .warn ? Answer.adding(dropped.fields.map { "unknown field \"\($0)\"" }, to: response) : response
    }
    private final class Dropped { var fields: [String] = [] }

    private func modify(
        _ call: Call, _ target: ResourceTarget, _ rendering: Rendering, warnings: [String], _ make: (Resource) async throws(Status) -> Resource
    ) async throws -> Response {
        let isDryRun = try call.query.isDryRun()
        guard let key = ObjectKey(target.type, namespace: target.namespace, name: target.name) else { throw Status.notFound(target.type, target.name) }
        let changed = try await change(key, isDryRun: isDryRun) { (current) throws(Status) in
            let next = try await make(current)
            try await call.auditChange()
            return next
        }
        if !isDryRun { try await finishDeletion(of: changed, key) }
        return try one(call, changed, rendering, warnings: warnings)
    }

    private func change(_ key: ObjectKey, isDryRun: Bool, _ make: (Resource) async throws(Status) -> Resource) async throws(Status) -> Resource {
        guard isDryRun else { return try await store.update(key, make) }
        return try await make(try await store.get(key.type, namespace: key.namespace, name: key.name))
    }

    /// An object that only waited for its finalizers goes when the last one is taken off; a pod that is over need not be waited for.
    private func finishDeletion(of resource: Resource, _ key: ObjectKey) async throws(Status) {
        guard resource.isBeingDeleted, resource.finalizers.isEmpty, resource.type != .namespaces else { return }
        if resource.type == .pods, !PodTermination.isDue(resource, now: Timestamp(secondsSinceEpoch: Int64(clock().timeIntervalSince1970))) { return }
        do throws(Status) {
            try await store.delete(key, .init(uid: resource.uid, resourceVersion: resource.resourceVersion))
        } catch {
            // Somebody else was faster, or changed it: it is theirs to finish.
            guard error.reason == .notFound || error.reason == .conflict else { throw error }
        }
    }
}

extension RequestDocument {
    func patch(_ contentType: Patch.ContentType) throws(Status) -> Patch {
        do {
            return try withBytes { try Patch(parsing: $0, as: contentType) }
        } catch let status as Status {
            throw status
        } catch {
            throw .badRequest("error decoding patch")
        }
    }
}
