import Basics
package import Resources

/// The life of namespaces: nothing is created where none is, and a deleted one goes after its contents.
///
///     (absent) ──create──▶ Active ──delete──▶ Terminating ──contents gone──▶ (absent)
///
/// Deleting: (1) mark it Terminating, which every later creation sees; (2) remove what is in it, pods without grace, until nothing is
/// left; (3) remove it, if it is still the one that was emptied. Any step may be repeated, by any member, after any interruption.
/// A creation that passed its check before (1) checks again after it wrote, and takes back what (2) may have missed.
extension ObjectStore {
    package static let defaultNamespace = "default"

    func requireActive(namespace: String) async throws(Status) {
        let found = try await get(.namespaces, namespace: "", name: namespace)
        if found.isBeingDeleted {
            throw .forbidden(.namespaces, namespace, "unable to create new content in namespace \(namespace) because it is being terminated")
        }
    }

    /// Makes it unless it is there.
    package func ensureNamespace(_ name: String, make: () -> Resource) async throws(Status) {
        guard let key = ObjectKey(.namespaces, namespace: "", name: name) else { throw .badRequest("\(name) is no namespace's name") }
        guard try await find(key) == nil else { return }
        do throws(Status) {
            _ = try await create(make())
        } catch {
            guard error.reason == .alreadyExists else { throw error }
        }
    }

    /// (1). Answers it as it stands then.
    package func terminateNamespace(_ name: String, _ preconditions: DeletionPreconditions, now: Timestamp) async throws(Status) -> Resource {
        guard name != Self.defaultNamespace else { throw .forbidden(.namespaces, name, "this namespace may not be deleted") }
        guard let key = ObjectKey(.namespaces, namespace: "", name: name) else { throw .notFound(.namespaces, name) }
        return try await update(key) { (current) throws(Status) in
            try preconditions.check(StoredObject(key: key, createRevision: 0, revision: Int64(current.resourceVersion) ?? 0, content: .success(current)))
            guard !current.isBeingDeleted else { return current }
            var terminating = current
            terminating.deletionTimestamp = now
            terminating["status", "phase"] = "Terminating"
            return terminating
        }
    }

    /// (2) and (3). True when the namespace is gone; false when something in it has finalizers and must be waited for.
    package func sweepNamespace(_ name: String, now: Timestamp) async throws(Status) -> Bool {
        guard let key = ObjectKey(.namespaces, namespace: "", name: name) else { return true }
        guard let namespace = try await find(key) else { return true }
        guard namespace.shown.isBeingDeleted else { return false }
        for type in ResourceType.all where type.isNamespaced {
            for object in try await list(type, namespace: name).items {
                try await discard(object, now: now)
            }
        }
        for type in ResourceType.all where type.isNamespaced {
            guard try await list(type, namespace: name, options: ListOptions(limit: 1)).items.isEmpty else { return false }
        }
        guard namespace.shown.finalizers.isEmpty else { return false }
        try await discardTrails(of: name)
        return try await remove(key, at: namespace.revision)
    }

    private func discard(_ object: StoredObject, now: Timestamp) async throws(Status) {
        do throws(Status) {
            if object.shown.finalizers.isEmpty {
                try await delete(object.key)
            } else if !object.shown.isBeingDeleted {
                _ = try await update(object.key) { (current) throws(Status) in
                    var marked = current
                    marked.deletionTimestamp = current.deletionTimestamp ?? now
                    marked.deletionGracePeriodSeconds = 0
                    return marked
                }
            }
        } catch {
            guard error.reason == .notFound else { throw error }
        }
    }

    /// Names that still hold objects though they are no namespaces': left by an interruption, for whoever sweeps.
    package func discardOrphans() async throws(Status) {
        var isKnown: [String: Bool] = [:]
        for type in ResourceType.all where type.isNamespaced {
            for object in try await list(type, namespace: nil).items {
                let namespace = object.key.namespace
                if isKnown[namespace] == nil, let key = ObjectKey(.namespaces, namespace: "", name: namespace) {
                    isKnown[namespace] = try await find(key) != nil
                }
                guard isKnown[namespace] == false else { continue }
                _ = try await remove(object.key, at: object.revision)
            }
        }
        try await discardOrphanedTrails { (namespace) throws(Status) in
            guard isKnown[namespace] == nil, let key = ObjectKey(.namespaces, namespace: "", name: namespace) else { return isKnown[namespace] ?? false }
            let isThere = try await find(key) != nil
            isKnown[namespace] = isThere
            return isThere
        }
    }
}
