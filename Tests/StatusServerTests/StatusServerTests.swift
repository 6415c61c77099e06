import AsyncHTTPClient
import Barrier
import Basics
import Foundation
import Logging
import NIOCore
import NIOHTTP1
import SecretMemory
@testable import StatusServer
import Testing

private struct Page: Equatable {
    var status: UInt
    var body: String
    init(_ status: UInt, _ body: String) { self.status = status; self.body = body }
}

/// A daemon's store with its status port on a free one, in a directory of its own.
private struct Watched {
    let barrier: Barrier
    let server: StatusServer

    static func run(_ body: @Sendable (Watched) async throws -> Void) async throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-status-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let barrier = try await Barrier.open(directory + "/data", seal: .keyFile(path: directory + "/seal.key"))
        let server = StatusServer(host: "127.0.0.1", port: 0, barrier: barrier, apiVersion: "3.7.0", logger: Logger(label: "test"))
        let task = Task { try await server.run() }
        do {
            let deadline = ContinuousClock.now + .seconds(60)
            while server.boundPort == nil, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(5)) }
            try await body(Watched(barrier: barrier, server: server))
        } catch {
            task.cancel()
            await barrier.close()
            throw error
        }
        task.cancel()
        _ = await task.result
        await barrier.close()
    }

    func get(_ path: String) async throws -> Page {
        let port = try #require(server.boundPort)
        let response = try await HTTPClient.shared.execute(HTTPClientRequest(url: "http://127.0.0.1:\(port)\(path)"), timeout: .seconds(10))
        let body = try await response.body.collect(upTo: 1 << 20)
        return Page(UInt(response.status.code), String(buffer: body))
    }

    func expect(_ path: String, _ status: UInt, _ body: String? = nil) async throws {
        let page = try await get(path)
        #expect(page.status == status, "\(path)")
        if let body { #expect(page.body == body, "\(path)") }
    }

    /// The sample of a metric without labels.
    func metric(_ name: String) async throws -> Double? {
        let line = try await get("/metrics").body.split(separator: "\n").first { $0.hasPrefix(name + " ") }
        return line.flatMap { Double($0.dropFirst(name.count + 1)) }
    }
}

@Suite struct StatusServerTests {
    @Test("a store that answers is healthy, alive and ready, in etcd's words")
    func healthy() async throws {
        try await Watched.run { watched in
            try await watched.expect("/health", 200, #"{"health":"true","reason":""}"#)
            try await watched.expect("/health?serializable=true", 200, #"{"health":"true","reason":""}"#)
            try await watched.expect("/readyz", 200, "ok\n")
            try await watched.expect("/livez", 200, "ok\n")
            try await watched.expect("/version", 200, #"{"etcdserver":"3.7.0","etcdcluster":"3.7.0"}"#)
            try await watched.expect("/nothing", 404)
        }
    }

    @Test("a store that has stopped is neither healthy nor alive, and says why in fixed words")
    func stopped() async throws {
        try await Watched.run { watched in
            await watched.barrier.close()
            try await watched.expect("/health", 503, #"{"health":"false","reason":"STORAGE FAILED"}"#)
            try await watched.expect("/livez", 503)
            try await watched.expect("/readyz", 503)
        }
    }

    @Test("the metrics follow what happens, under etcd's names, and name no key and no value")
    func metrics() async throws {
        try await Watched.run { watched in
            #expect(try await watched.metric("etcd_server_has_leader") == 1)
            #expect(try await watched.metric("etcd_server_is_leader") == 1)
            let before = try #require(try await watched.metric("etcd_debugging_mvcc_keys_total"))
            let (name, value) = ("canary-key-name-4711", "canary-value-0815")
            _ = try await watched.barrier.put(Bytes(name.utf8), domain: "prod", value: try SecretValue(copying: Bytes(value.utf8)), if: .absent)
            #expect(try await watched.metric("etcd_debugging_mvcc_keys_total") == before + 1)
            #expect(try #require(try await watched.metric("process_resident_memory_bytes")) > 1_000_000)
            let page = try await watched.get("/metrics").body
            #expect(!page.contains(name) && !page.contains(value))
        }
    }

    @Test("every line of the metrics is a comment or a sample of a metric that was announced")
    func form() async throws {
        try await Watched.run { watched in
            var announced: [String] = []
            for line in try await watched.get("/metrics").body.split(separator: "\n") {
                if line.hasPrefix("# TYPE ") { announced.append(String(line.split(separator: " ")[2])) }
                if line.hasPrefix("#") { continue }
                let fields = line.split(separator: " ")
                #expect(fields.count == 2 && Double(fields[1]) != nil, "\(line)")
                #expect(announced.contains(String(fields[0].prefix { $0 != "{" })), "\(line)")
            }
            #expect(announced.count > 15 && Set(announced).count == announced.count)
        }
    }

    @Test("a label's value cannot break its line") func labels() {
        #expect(Exposition.escaped("a\"b\\c\nd") == #"a\"b\\c\nd"#)
    }
}
