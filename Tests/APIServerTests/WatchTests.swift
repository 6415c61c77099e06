import APIServer
import Audit
import Barrier
import Basics
import Certificates
import Foundation
import NIOHTTP1
import Resources
import Synchronization
import Testing

@Suite struct WatchTests {
    @Test("a watch tells what is there, then each change, over both protocols", arguments: [true, false])
    func events(http1: Bool) async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("first")).code == 201)
        let watch = try OpenWatch(server, secretsPath + "?watch=1", http1: http1)
        try await eventually("the present state is told") { watch.told == ["ADDED first"] }
        #expect(try await server.call(.POST, secretsPath, secretJSON("second")).code == 201)
        #expect(try await server.call(.PUT, secretsPath + "/first", secretJSON("first", "changed")).code == 200)
        #expect(try await server.call(.DELETE, secretsPath + "/second").code == 200)
        try await eventually("the changes are told") { watch.told == ["ADDED first", "ADDED second", "MODIFIED first", "DELETED second"] }
        watch.close()
        try await server.stop()
    }

    @Test("a watch resumes after a revision, with bookmarks if asked, and ends after its time")
    func resume() async throws {
        let server = try await TestServer()
        let created = try await server.call(.POST, secretsPath, secretJSON("first"))
        let revision = try #require(created.json.at("metadata", "resourceVersion")?.stringValue)
        #expect(try await server.call(.POST, secretsPath, secretJSON("second")).code == 201)
        let path = secretsPath + "?watch=true&resourceVersion=\(revision)"
        let watch = try OpenWatch(server, path + "&allowWatchBookmarks=true"), silent = try OpenWatch(server, path)
        try await eventually("the change after the revision is told") { watch.told == ["ADDED second"] && silent.told == ["ADDED second"] }
        server.keyValue.sendBookmarks()
        try await eventually("a bookmark is told to who asked") { watch.told.count == 2 }
        let bookmark = watch.seen.withLock { $0.lines[1] }
        #expect(bookmark["type"]?.stringValue == "BOOKMARK" && bookmark.at("object", "kind")?.stringValue == "Secret")
        #expect(bookmark.at("object", "metadata", "resourceVersion")?.stringValue == String(try await server.keyValue.currentRevision()))
        #expect(silent.told.count == 1)
        let brief = try OpenWatch(server, path + "&timeoutSeconds=1")
        try await eventually("a watch of one second ends") { brief.isOver }
        #expect(brief.seen.withLock { $0.code } == 200 && !watch.isOver && !silent.isOver)
        watch.close()
        silent.close()
        try await server.stop()
    }

    @Test("a streaming list is the present state, a bookmark that ends it, and the changes")
    func streamingList() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("first")).code == 201)
        let watch = try OpenWatch(
            server, secretsPath + "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion=1")
        try await eventually("the present state is told and ended") { watch.told == ["ADDED first", "BOOKMARK "] }
        let end = watch.seen.withLock { $0.lines[1] }
        #expect(end.at("object", "metadata", "annotations", "k8s.io/initial-events-end")?.stringValue == "true")
        #expect(try await server.call(.POST, secretsPath, secretJSON("second")).code == 201)
        try await eventually("the change is told") { watch.told.last == "ADDED second" }
        watch.close()
        try await server.stop()
    }

    @Test("a watch from the compacted past is gone; one that is overtaken is told so within")
    func gone() async throws {
        let server = try await TestServer()
        for number in 0..<3 { #expect(try await server.call(.POST, secretsPath, secretJSON("s\(number)")).code == 201) }
        server.keyValue.compact(try await server.keyValue.currentRevision())
        let gone = try await server.call(.GET, secretsPath + "?watch=1&resourceVersion=2")
        #expect(gone.code == 410 && gone.reason == "Expired")
        let watch = try OpenWatch(server, secretsPath + "?watch=1")
        try await eventually("the present state is told") { watch.told.count == 3 }
        server.keyValue.endWatches(.compacted(compactRevision: 99))
        try await eventually("the watch is ended with an error") { watch.isOver && watch.told.last == "ERROR " }
        #expect(watch.seen.withLock { $0.lines.last }?.at("object", "code")?.integerValue == 410)
        try await server.stop()
    }

    @Test("an object that leaves or enters the selection is deleted or added to who watches it")
    func selection() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("web", labels: ["tier": "front"])).code == 201)
        #expect(try await server.call(.POST, secretsPath, secretJSON("other")).code == 201)
        let watch = try OpenWatch(server, secretsPath + "?watch=1&labelSelector=tier%3Dfront")
        let single = try OpenWatch(server, "/api/v1/secrets?watch=1&fieldSelector=metadata.name%3Dother")
        try await eventually("the selected ones are told") { watch.told == ["ADDED web"] && single.told == ["ADDED other"] }
        for tier in ["back", "front"] {
            let patched = try await server.call(
                .PATCH, secretsPath + "/web", ["metadata": ["labels": ["tier": .string(tier)]]], contentType: "application/merge-patch+json")
            #expect(patched.code == 200)
        }
        try await eventually("leaving and entering are told") { watch.told == ["ADDED web", "DELETED web", "ADDED web"] }
        #expect(single.told == ["ADDED other"])
        watch.close()
        single.close()
        try await server.stop()
    }

    @Test("a watch shows tables to who asks for tables, and no value in them")
    func tables() async throws {
        let server = try await TestServer()
        #expect(try await server.call(.POST, secretsPath, secretJSON("web")).code == 201)
        let watch = try OpenWatch(server, secretsPath + "?watch=1", accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        try await eventually("a row is told") { watch.told == ["ADDED web"] }
        let line = try #require(watch.seen.withLock { $0.lines.first })
        #expect(line.at("object", "kind")?.stringValue == "Table" && !line.encodedString().contains("aHVudGVyMi1odW50ZXIy"))
        watch.close()
        try await server.stop()
    }

    @Test("a watch ends on the server when its client goes, over both protocols", arguments: [true, false])
    func clientGoes(http1: Bool) async throws {
        let server = try await TestServer()
        try await eventually("the feed watches") { server.keyValue.watcherCount == 1 }
        let watch = try OpenWatch(server, secretsPath + "?watch=1", http1: http1)
        try await eventually("the watch is open") { server.keyValue.watcherCount == 2 }
        watch.close()
        try await eventually("the watch is closed") { server.keyValue.watcherCount == 1 }
        try await server.stop()
    }

    @Test("the server stops though watches are open")
    func stop() async throws {
        let server = try await TestServer()
        let watches = try [true, false].map { try OpenWatch(server, secretsPath + "?watch=1", http1: $0) }
        try await eventually("the watches are open") { server.keyValue.watcherCount == 3 }
        try await server.stop()
        try await eventually("the watches are over") { watches.allSatisfy(\.isOver) }
        await #expect(throws: (any Error).self) { try await server.server.boundPort() }
    }

    @Test("each batch that a watch releases is in the trail")
    func audited() async throws {
        let server = try await TestServer()
        let watch = try OpenWatch(server, secretsPath + "?watch=1")
        try await eventually("the watch is open") { server.keyValue.watcherCount == 2 }
        #expect(try await server.call(.POST, secretsPath, secretJSON("web")).code == 201)
        try await eventually("the change is told") { watch.told == ["ADDED web"] }
        try server.audit.flush()
        let lines = try String(contentsOfFile: server.auditPath, encoding: .utf8).split(separator: "\n").filter { $0.contains("\"watch\"") }
        #expect(lines.count == 2 && lines.last?.contains("\"count\":1") == true)
        watch.close()
        try await server.stop()
    }
}
