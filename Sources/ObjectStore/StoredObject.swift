package import Barrier
import Basics
package import Resources
import SecretMemory

/// An object as the store has it: readable or not, and at which revision.
package struct StoredObject: Sendable {
    package let key: ObjectKey
    package let createRevision: Int64
    /// What `metadata.resourceVersion` tells.
    package let revision: Int64
    package let content: Result<Resource, UnreadableValue>

    package init(key: ObjectKey, createRevision: Int64, revision: Int64, content: Result<Resource, UnreadableValue>) {
        self.key = key; self.createRevision = createRevision; self.revision = revision; self.content = content
    }

    package static let unreadableAnnotation = "coffer.dev/unreadable"

    /// The object; for one that cannot be opened, what is known of it: names, revision and the reason, as an annotation.
    /// Such a stand-in is shown in lists and watches and never accepted as the basis of a change.
    package var shown: Resource {
        switch content {
        case .success(let resource): return resource
        case .failure(let failure):
            var standIn = Resource(key.type, tree: ["apiVersion": .string(key.type.apiVersion), "kind": .string(key.type.kind), "metadata": [:]])
            standIn.name = key.name
            standIn.namespace = key.namespace
            standIn.resourceVersion = String(revision)
            standIn["metadata", "annotations"] = [Self.unreadableAnnotation: .string(failure.reason)]
            return standIn
        }
    }

    /// Nil for an entry that is no object's.
    init?(_ entry: Entry) {
        guard let key = ObjectKey(entry.key) else { return nil }
        let content: Result<Resource, UnreadableValue> = entry.value.flatMap { value in
            do throws(MalformedDocument) {
                guard let tree = try JSONValue(parsing: value).objectValue else { return .failure(UnreadableValue(reason: "it is no object")) }
                var resource = Resource(key.type, tree: tree)
                guard resource.name == key.name, resource.namespace == key.namespace else {
                    return .failure(UnreadableValue(reason: "it is another object's content"))
                }
                resource.resourceVersion = String(entry.modificationRevision)
                return .success(resource)
            } catch {
                return .failure(UnreadableValue(reason: "it does not parse: \(error.what)"))
            }
        }
        self.init(key: key, createRevision: entry.createRevision, revision: entry.modificationRevision, content: content)
    }
}

extension Resource {
    /// What is stored: without the resource version, which is the entry's revision, straight into memory that is wiped.
    func encodedForStorage() throws(Status) -> SecretValue {
        var stored = self
        stored.resourceVersion = ""
        do { return try stored.json.encodedSecret() } catch { throw Status.serviceUnavailable("no memory for a secret") }
    }
    func at(revision: Int64) -> Resource {
        var copy = self
        copy.resourceVersion = String(revision)
        return copy
    }
    package var key: ObjectKey? { ObjectKey(type, namespace: namespace, name: name) }
}

extension Status {
    /// What a failure below means to a client of the API, when the operation at hand gives it no closer meaning.
    package init(_ error: BarrierError) {
        switch error {
        case .compacted(let oldest): self = .expired(requested: 0, oldest: oldest)
        case .futureRevision(let current):
            self = .timeout("Too large resource version, current: \(current)")
        case .sealed: self = .serviceUnavailable("the store is sealed")
        case .overloaded: self = .tooManyRequests("the store is busy, please try again later", retryAfterSeconds: 1)
        case .unavailable(let reason): self = .serviceUnavailable(reason)
        case .tooLarge(let limit): self = .requestEntityTooLarge(bytesMax: limit)
        case .unreadable(let failure): self = .internalError(failure.description)
        case .refused(let reason): self = .internalError(reason)
        case .preconditionFailed: self = Status(code: 409, reason: .conflict, message: Status.modifiedMeanwhile)
        }
    }
}
