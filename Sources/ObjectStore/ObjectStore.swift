package import Barrier
import Basics
package import Resources

/// Typed resources over keys, with Kubernetes' rules of concurrency: an object is created only where none is, changed only from the
/// version that was read, deleted only if it is the one that was meant. All failures are Statuses, ready to be answered.
///
/// Invariant: `metadata.resourceVersion` is the modification revision of the object's key, and is not part of what is stored.
package struct ObjectStore: Sendable {
    /// How often a change is tried again when others change the object in between.
    static let attemptsMax = 32
    package static let deletionAttemptsMax = attemptsMax

    package let keyValue: any KeyValue
    package init(keyValue: any KeyValue) { self.keyValue = keyValue }

    /// The present revision, confirmed with a quorum.
    package func currentRevision() async throws(Status) -> Int64 {
        do { return try await keyValue.currentRevision() } catch { throw Status(error) }
    }

    // MARK: Read

    /// `revision` 0 is now.
    package func find(_ key: ObjectKey, at revision: Int64 = 0) async throws(Status) -> StoredObject? {
        do { return try await keyValue.get(key.bytes, revision: revision).flatMap(StoredObject.init) } catch { throw Status(error) }
    }

    package func get(_ type: ResourceType, namespace: String, name: String, at revision: Int64 = 0) async throws(Status) -> Resource {
        guard let key = ObjectKey(type, namespace: namespace, name: name), let stored = try await find(key, at: revision) else {
            throw .notFound(type, name)
        }
        switch stored.content {
        case .success(let resource): return resource
        case .failure(let failure): throw Self.unreadable(key, failure)
        }
    }

    // MARK: Write

    /// Into a namespace only while it is there and stays: see `Namespaces`.
    package func create(_ resource: Resource) async throws(Status) -> Resource {
        guard let key = resource.key else { throw .badRequest("the name or namespace of the object cannot be used") }
        guard !key.namespace.isEmpty else { return try await put(new: resource, key) }
        try await requireActive(namespace: key.namespace)
        let created = try await put(new: resource, key)
        do throws(Status) {
            // A deletion of the namespace that began before this check may have swept it before the object came; one that begins later sees it.
            try await requireActive(namespace: key.namespace)
        } catch {
            if let revision = Int64(created.resourceVersion) { _ = try? await remove(key, at: revision) }
            throw error
        }
        return created
    }

    /// What `create` would say, without writing.
    package func checkCreation(of resource: Resource) async throws(Status) -> Resource {
        guard let key = resource.key else { throw .badRequest("the name or namespace of the object cannot be used") }
        if !key.namespace.isEmpty { try await requireActive(namespace: key.namespace) }
        guard try await find(key) == nil else { throw .alreadyExists(key.type, key.name) }
        return resource
    }

    private func put(new resource: Resource, _ key: ObjectKey) async throws(Status) -> Resource {
        let value = try resource.encodedForStorage()
        do {
            return resource.at(revision: try await keyValue.put(key.bytes, domain: key.domain, value: value, if: .absent))
        } catch .preconditionFailed {
            throw .alreadyExists(key.type, key.name)
        } catch {
            throw Status(error)
        }
    }

    /// Reads, lets `change` make another version of it, writes that if the object is still the one that was read, else begins again.
    /// Nothing is written when `change` changes nothing. `change` may be called several times, and may refuse by throwing.
    package func update(_ key: ObjectKey, _ change: (Resource) async throws(Status) -> Resource) async throws(Status) -> Resource {
        for _ in 0..<Self.attemptsMax {
            guard let stored = try await find(key) else { throw .notFound(key.type, key.name) }
            guard case .success(let current) = stored.content else { throw Self.unreadable(stored) }
            let changed = try await change(current).at(revision: stored.revision)
            precondition(changed.key == key, "an update changes no names")
            if changed == current { return current }
            let value = try changed.encodedForStorage()
            do {
                return changed.at(
                    revision: try await keyValue.put(key.bytes, domain: key.domain, value: value, if: .modificationRevision(stored.revision)))
            } catch .preconditionFailed(current: 0) {
                throw .notFound(key.type, key.name)
            } catch .preconditionFailed {
                continue
            } catch {
                throw Status(error)
            }
        }
        throw .modified(key.type, key.name)
    }

    /// What must be so of an object that is to be deleted.
    package struct DeletionPreconditions: Sendable, Equatable {
        package var uid: String?
        package var resourceVersion: String?
        package init(uid: String? = nil, resourceVersion: String? = nil) { self.uid = uid; self.resourceVersion = resourceVersion }

        package func check(_ object: StoredObject) throws(Status) {
            let actual = object.shown
            // An unreadable object's uid is not known: whoever names one does not mean it.
            if let uid, uid != actual.uid { throw .preconditionFailed(object.key.type, object.key.name, uid: uid, actual: actual.uid) }
            if let resourceVersion, resourceVersion != actual.resourceVersion {
                throw .preconditionFailed(object.key.type, object.key.name, resourceVersion: resourceVersion, actual: actual.resourceVersion)
            }
        }
    }

    /// Removes it now; one that cannot be opened, too. Answers what was removed. `decide` is asked of each version before it goes.
    @discardableResult
    package func delete(
        _ key: ObjectKey, _ preconditions: DeletionPreconditions = DeletionPreconditions(), decide: (StoredObject) throws(Status) -> Void = { _ in }
    ) async throws(Status) -> StoredObject {
        for _ in 0..<Self.attemptsMax {
            guard let stored = try await find(key) else { throw .notFound(key.type, key.name) }
            try preconditions.check(stored)
            try decide(stored)
            if try await remove(key, at: stored.revision) { return stored }
        }
        throw .modified(key.type, key.name)
    }

    /// False when it is no longer the version at `revision`.
    func remove(_ key: ObjectKey, at revision: Int64) async throws(Status) -> Bool {
        do {
            _ = try await keyValue.delete(key.bytes, if: .modificationRevision(revision))
            return true
        } catch .preconditionFailed {
            return false
        } catch {
            throw Status(error)
        }
    }

    static func unreadable(_ key: ObjectKey, _ failure: UnreadableValue) -> Status {
        .internalError("\(key.type.singular) \"\(key.name)\": \(failure.description)")
    }
    static func unreadable(_ stored: StoredObject) -> Status {
        guard case .failure(let failure) = stored.content else { preconditionFailure("\(stored.key) is readable") }
        return unreadable(stored.key, failure)
    }
}
