import Barrier
import Basics
import NodeProtocol
import ObjectStore
import Resources
import SecretMemory
import Testing

@testable import APIServer

@Suite struct NodeProjectionTests {
    private static func stored(_ text: String, revision: Int64) throws -> StoredObject {
        guard case .object(let tree) = try JSONValue(parsing: text) else { throw MalformedDocument("no object", line: 1, column: 1) }
        let resource = Resource(text.contains("\"Pod\"") ? .pods : .secrets, tree: tree)
        let key = try #require(ObjectKey(resource.type, namespace: resource.namespace, name: resource.name))
        return StoredObject(key: key, createRevision: revision, revision: revision, content: .success(resource))
    }
    private static func pod(_ name: String, label: String, revision: Int64) throws -> StoredObject {
        try stored("""
            {"apiVersion":"v1","kind":"Pod","metadata":{"name":"\(name)","namespace":"a","uid":"uid-\(name)","labels":{"l":"\(label)"}},
             "spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}],"volumes":[{"name":"v","secret":{"secretName":"s"}}]}}
            """, revision: revision)
    }
    private static let secret = """
        {"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"a","uid":"uid-s"},"type":"Opaque","data":{"k":"dg=="}}
        """

    @Test("a pod that changes, or hands over to another one in one batch, does not take its secret's content away")
    func contentStays() throws {
        var projection = NodeProjection()
        func apply(_ revision: Int64, _ events: [ObjectEvent]) {
            let batch = ObjectEventBatch(revision: revision, events: events)
            #expect(projection.missingContent(for: batch).isEmpty)
            _ = projection.apply(batch, contents: [:])
        }
        apply(2, [ObjectEvent(kind: .added, object: try Self.stored(Self.secret, revision: 2), previous: nil),
                  ObjectEvent(kind: .added, object: try Self.pod("one", label: "x", revision: 2), previous: nil)])
        #expect(projection.view(of: "n", nowMilliseconds: 0).secrets.count == 1)
        apply(3, [ObjectEvent(kind: .modified, object: try Self.pod("one", label: "y", revision: 3), previous: nil)])
        #expect(projection.view(of: "n", nowMilliseconds: 0).secrets.count == 1)
        apply(4, [ObjectEvent(kind: .deleted, object: try Self.pod("one", label: "y", revision: 4), previous: nil),
                  ObjectEvent(kind: .added, object: try Self.pod("two", label: "z", revision: 4), previous: nil)])
        #expect(projection.view(of: "n", nowMilliseconds: 0).secrets.count == 1)
        apply(5, [ObjectEvent(kind: .deleted, object: try Self.pod("two", label: "z", revision: 5), previous: nil)])
        #expect(projection.view(of: "n", nowMilliseconds: 0).secrets.isEmpty)
        #expect(projection.secrets.values.allSatisfy { $0.content == nil })
    }
}
