package import Basics

/// A file of objects as people write them: YAML documents, or JSON, lists of objects flattened.
package enum Manifest {
    /// One object and the line its document begins at (0: unknown).
    package struct Document: Sendable, Equatable {
        package var value: JSONValue
        package var line: Int
    }

    package static func documents(_ bytes: Bytes) throws(MalformedDocument) -> [Document] {
        guard bytes.count <= Limits.manifestBytesMax else {
            throw MalformedDocument("a manifest of more than \(Limits.manifestBytesMax) bytes", line: 0, column: 0)
        }
        var documents: [Document] = []
        if let json = jsonDocument(bytes) {
            documents = [Document(value: json, line: 1)]
        } else {
            documents = try YAMLReader.documents(bytes).map { Document(value: $0.value, line: $0.line) }
        }
        var objects: [Document] = []
        for document in documents {
            guard let object = document.value.objectValue else {
                throw MalformedDocument("an object with apiVersion and kind is expected, not \(document.value.typeName)", line: document.line, column: 1)
            }
            if let kind = object["kind"]?.stringValue, kind.hasSuffix("List"), let items = object["items"]?.arrayValue {
                objects += items.map { Document(value: $0, line: document.line) }
            } else {
                objects.append(document)
            }
        }
        return objects
    }

    /// Its objects, each of a kind that is served. Throws with the line of the first that is none.
    package static func resources(_ bytes: Bytes) throws(MalformedDocument) -> [Resource] {
        var resources: [Resource] = []
        for document in try documents(bytes) {
            func malformed(_ what: String) -> MalformedDocument { MalformedDocument(what, line: document.line, column: 1) }
            guard let kind = document.value["kind"]?.stringValue, !kind.isEmpty else { throw malformed("Object 'Kind' is missing") }
            guard let version = document.value["apiVersion"]?.stringValue, !version.isEmpty else { throw malformed("Object 'apiVersion' is missing") }
            guard let type = ResourceType.kind(kind, apiVersion: version) else { throw malformed("no matches for kind \"\(kind)\" in version \"\(version)\"") }
            var unknown: [String] = []
            do throws(Status) {
                resources.append(try Resource.decoding(document.value, as: type, unknown: &unknown))
            } catch {
                throw malformed(error.message)
            }
            if let first = unknown.first { throw malformed("strict decoding error: unknown field \"\(first)\"") }
        }
        return resources
    }

    /// One YAML document whose secrets stand where `place` says: a patch.
    package static func document(_ bytes: Bytes, secrets place: SecretPlace) throws(MalformedDocument) -> JSONValue {
        let documents = try YAMLReader.documents(bytes, secrets: place)
        guard documents.count == 1 else { throw MalformedDocument("one document is expected, not \(documents.count)", line: 0, column: 0) }
        return documents[0].value
    }

    /// JSON is YAML too, but its own parser keeps secrets out of strings.
    private static func jsonDocument(_ bytes: Bytes) -> JSONValue? {
        guard let first = bytes.first(where: { $0 > 0x20 }), first == UInt8(ascii: "{") else { return nil }
        return try? JSONValue(parsing: bytes)
    }
}
