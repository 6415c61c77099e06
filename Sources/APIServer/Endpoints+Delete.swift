import Foundation
import HTTPTypes
import HummingbirdCore
import ObjectStore
import Resources

// Delete, and delete a collection.
extension Endpoints {
    func delete(_ call: Call, _ target: ResourceTarget) async throws -> Response {
        let options = try await deletionOptions(call)
        guard let key = ObjectKey(target.type, namespace: target.namespace, name: target.name) else { throw Status.notFound(target.type, target.name) }
        guard let stored = try await store.find(key) else { throw Status.notFound(target.type, target.name) }
        try options.preconditions.check(stored)
        try await call.auditChange()
        switch try await delete(key, options, now: call.now) {
        case .removed(let uid): return Answer.json(Status.deleted(target.type, target.name, uid: uid).json)
        case .terminating(let resource): return Answer.json(resource.json)
        }
    }

    /// Without the objects' contents in the answer: who deletes need not read.
    func deleteCollection(_ call: Call, _ target: ResourceTarget, _ selection: Selection) async throws -> Response {
        let options = try await deletionOptions(call)
        let list = try await store.list(
            target.type, namespace: target.namespace.isEmpty ? nil : target.namespace, options: call.query.listOptions(),
            matches: selection.isEverything ? nil : { selection.matches($0) })
        try await call.auditChange(count: list.items.count)
        for item in list.items {
            do throws(Status) {
                _ = try await delete(item.key, options, now: call.now)
            } catch {
                guard error.reason == .notFound else { throw error }
            }
        }
        return Answer.json(Status(code: 200, reason: .unknown, message: "").json)
    }

    private func deletionOptions(_ call: Call) async throws -> DeletionOptions {
        let document = try await RequestDocument(call.request)
        return try DeletionOptions(call.query, body: document.isEmpty ? nil : try body(call, document))
    }

    private enum Deletion {
        case removed(uid: String)
        case terminating(Resource)
    }

    private func delete(_ key: ObjectKey, _ options: DeletionOptions, now: Timestamp) async throws(Status) -> Deletion {
        if options.isDryRun {
            guard let stored = try await store.find(key) else { throw .notFound(key.type, key.name) }
            try options.preconditions.check(stored)
            return .removed(uid: stored.shown.uid)
        }
        if key.type == .namespaces { return .terminating(try await store.terminateNamespace(key.name, options.preconditions, now: now)) }
        for _ in 0..<ObjectStore.deletionAttemptsMax {
            guard let stored = try await store.find(key) else { throw .notFound(key.type, key.name) }
            try options.preconditions.check(stored)
            do throws(Status) {
                switch step(stored, options, now: now) {
                case .remove:
                    try await store.delete(key, .init(uid: options.preconditions.uid, resourceVersion: String(stored.revision)))
                    return .removed(uid: stored.shown.uid)
                case .wait(let marked):
                    return .terminating(
                        try await store.update(key) { (current) throws(Status) in
                            guard current.resourceVersion == marked.resourceVersion else { throw .modified(key.type, key.name) }
                            return marked
                        })
                }
            } catch {
                // It changed since it was read: look at it again.
                guard error.reason == .conflict else { throw error }
            }
        }
        throw .modified(key.type, key.name)
    }

    private func step(_ stored: StoredObject, _ options: DeletionOptions, now: Timestamp) -> PodTermination.Step {
        guard case .success(let resource) = stored.content else { return .remove }
        if resource.type == .pods { return PodTermination.step(resource, graceSeconds: options.graceSeconds, now: now) }
        guard !resource.finalizers.isEmpty else { return .remove }
        var marked = resource
        marked.deletionTimestamp = resource.deletionTimestamp ?? now
        marked.deletionGracePeriodSeconds = 0
        return .wait(marked)
    }
}
