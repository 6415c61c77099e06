package import Basics

/// A patch as a request carries it, in one of the three forms `kubectl` sends.
package enum Patch: Sendable, Equatable {
    case json(JSONPatch)
    case merge(JSONValue)
    case strategic(JSONValue)

    package enum ContentType: String, Sendable, CaseIterable {
        case json = "application/json-patch+json"
        case merge = "application/merge-patch+json"
        case strategic = "application/strategic-merge-patch+json"
    }

    /// Throws a 400.
    package init(parsing bytes: UnsafeRawBufferPointer, as contentType: ContentType) throws(Status) {
        do throws(MalformedDocument) {
            switch contentType {
            case .json: self = .json(try JSONPatch(try JSONValue(parsing: bytes, secrets: .patchOperations)))
            case .merge: self = .merge(try JSONValue(parsing: bytes))
            case .strategic: self = .strategic(try JSONValue(parsing: bytes))
            }
        } catch {
            throw .badRequest("error decoding patch: \(error)")
        }
    }
    package init(parsing bytes: Bytes, as contentType: ContentType) throws(Status) {
        let result = bytes.withUnsafeBytes { buffer in Result { () throws(Status) in try Patch(parsing: buffer, as: contentType) } }
        self = try result.get()
    }

    /// The patched resource, checked against its schema; not yet validated. Throws a 400, or a 422 where the patch does not fit.
    package func applied(to resource: Resource, unknown: inout [String]) throws(Status) -> Resource {
        let patched: JSONValue
        do throws(PatchError) {
            switch self {
            case .json(let patch): patched = try patch.applied(to: resource.json)
            case .merge(let patch): patched = resource.json.mergePatched(by: patch)
            case .strategic(let patch): patched = try resource.json.strategicMergePatched(by: patch, schema: resource.type.schema)
            }
        } catch {
            throw Status(code: error.isUnprocessable ? 422 : 400, reason: error.isUnprocessable ? .invalid : .badRequest, message: error.what)
        }
        return try Resource.decoding(patched, as: resource.type, unknown: &unknown)
    }
    package func applied(to resource: Resource) throws(Status) -> Resource {
        var unknown: [String] = []
        return try applied(to: resource, unknown: &unknown)
    }

    /// The optimistic lock that a patch can carry in `metadata.resourceVersion`.
    package var resourceVersion: String? {
        switch self {
        case .json: nil
        case .merge(let patch), .strategic(let patch): patch.at("metadata", "resourceVersion")?.stringValue
        }
    }
}

/// A patch that does not apply. Names places, never values.
package struct PatchError: Error, Equatable, CustomStringConvertible {
    package var what: String
    /// The patch is well formed, but the object is not as it expects (422 and not 400).
    package var isUnprocessable: Bool
    package init(_ what: String, isUnprocessable: Bool = false) { self.what = what; self.isUnprocessable = isUnprocessable }
    package var description: String { what }
}

extension JSONValue {
    /// RFC 7386: members merge, `null` removes, everything else replaces.
    package func mergePatched(by patch: JSONValue) -> JSONValue {
        guard case .object(let changes) = patch else { return patch }
        var result = objectValue ?? [:]
        for change in changes.members {
            if change.value.isNull {
                result[change.key] = nil
            } else {
                result[change.key] = (result[change.key] ?? .null).mergePatched(by: change.value)
            }
        }
        return .object(result)
    }
}
