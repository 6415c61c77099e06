import Foundation
import Glibc
import Testing

/// Searches files for texts in every spelling that a leak could have: raw, base64 at each alignment, hex.
struct CanarySearch {
    private let patterns: [(canary: String, bytes: Data)]

    init(_ canaries: [String]) {
        patterns = canaries.flatMap { canary in Self.spellings(of: Array(canary.utf8)).map { (canary, Data($0)) } }
    }

    static func spellings(of bytes: [UInt8]) -> [[UInt8]] {
        let hex = bytes.map { String(format: "%02x", $0) }.joined()
        // The characters at either end depend on what stands beside it: they are left off.
        let base64 = (0..<3).map { before -> [UInt8] in
            let text = Array(Data([UInt8](repeating: 0, count: before) + bytes).base64EncodedString().utf8.prefix { $0 != UInt8(ascii: "=") })
            return Array(text.dropFirst(before == 0 ? 0 : before + 1).dropLast((before + bytes.count) % 3 == 0 ? 0 : 1))
        }
        return [bytes, Array(hex.utf8), Array(hex.uppercased().utf8)] + base64
    }

    /// Which canaries stand in `data`, passing over what is zero.
    func found(in data: Data) -> Set<String> {
        let chunk = 1 << 20, overlap = (patterns.map(\.bytes.count).max() ?? 1) - 1
        return data.withUnsafeBytes { all in
            var found: Set<String> = []
            for start in stride(from: 0, to: all.count, by: chunk) {
                let part = UnsafeRawBufferPointer(rebasing: all[start..<min(start + chunk + overlap, all.count)])
                if part[0] == 0, memcmp(part.baseAddress!, part.baseAddress! + 1, part.count - 1) == 0 { continue }
                let text = Data(part)
                for (canary, bytes) in patterns where !found.contains(canary) && text.range(of: bytes) != nil { found.insert(canary) }
            }
            return found
        }
    }

    /// The names of files count as content.
    func found(inDirectory path: String) throws -> [String] {
        let files = try FileManager.default.subpathsOfDirectory(atPath: path)
        return try files.sorted().flatMap { name -> [String] in
            var isDirectory: ObjCBool = false
            _ = FileManager.default.fileExists(atPath: path + "/" + name, isDirectory: &isDirectory)
            var canaries = found(in: Data(name.utf8))
            if !isDirectory.boolValue { canaries.formUnion(found(in: try Data(contentsOf: URL(fileURLWithPath: path + "/" + name), options: .mappedIfSafe))) }
            return canaries.sorted().map { "\(name): \($0)" }
        }
    }
}

@Suite(.enabled(if: Program.etcdctl != nil && Program.kubectl != nil, "etcdctl or kubectl is not installed")) struct CanaryTests {
    static let values = [
        "canary-etcd-value-5b1e9c", "canary-txn-value-77d0a2", "canary-leased-value-c3f1", "canary-old-value-1f8ee0", "canary-api-value-90ab47",
        "canary-applied-value-e2", "canary-patched-value-61", "canary-refused-value-0d", "canary-wrongtype-value-8",
    ]
    static let names = ["canary-etcd-key-2d41", "canary-namespace-8e7f", "canary-secret-name-33", "canary-data-key-f09a", "canary-registry-ns-4c"]

    @Test("the search finds a canary in each spelling and at each alignment")
    func searchFinds() throws {
        let search = CanarySearch(["canary-planted"]), bytes = Data("canary-planted".utf8)
        for before in ["", "a", "bc", "def", "ghij"] {
            for after in ["", "x", "yz"] {
                let text = Data(before.utf8) + bytes + Data(after.utf8)
                #expect(search.found(in: text).count == 1 && search.found(in: Data(text.base64EncodedString().utf8)).count == 1, "\(before) \(after)")
                #expect(search.found(in: Data(text.map { String(format: "%02X", $0) }.joined().utf8)).count == 1)
                #expect(search.found(in: Data(count: (1 << 20) - 5) + text + Data(count: 3 << 20)).count == 1)
            }
        }
        #expect(search.found(in: Data("canary-plante".utf8) + Data(count: 4 << 20)).isEmpty)
    }

    @Test("no value, key name or namespace is readable in the data directory or the log, and no value in the audit log")
    func nothingLeaks() async throws {
        let value = Self.values, name = Self.names
        try await Daemon.with("--log-level", "trace") { daemon in
            expect(try await daemon.etcdctl("put", name[0], value[3]), is: "OK\n")
            expect(try await daemon.etcdctl("put", name[0], value[0]), is: "OK\n")
            expect(try await daemon.etcdctl("put", "/registry/secrets/\(name[4])/s", value[0]), is: "OK\n")
            expect(try await daemon.etcdctl("txn", input: "value(\"\(name[0])\") = \"\(value[0])\"\n\nput \(name[0])/txn \(value[1])\n\n\n"), prints: "SUCCESS")
            let lease = try #require(try await daemon.etcdctl("lease", "grant", "600").output.firstMatch(of: /lease ([0-9a-f]+)/)?.output.1)
            expect(try await daemon.etcdctl("put", name[0] + "/leased", value[2], "--lease", String(lease)), is: "OK\n")
            expect(try await daemon.kubectl("create", "namespace", name[1]), prints: "created")
            expect(try await daemon.kubectl("create", "secret", "generic", name[2], "-n", name[1], "--from-literal=\(name[3])=\(value[4])"), prints: "created")
            func manifest(_ text: String, type: String = "Opaque") -> String {
                "apiVersion: v1\nkind: Secret\nmetadata: {name: applied, namespace: \(name[1])}\ntype: \(type)\nstringData: {\(name[3]): \(text)}\n"
            }
            expect(try await daemon.kubectl("apply", "-f", "-", input: manifest(value[5])), prints: "created")
            expect(try await daemon.kubectl("patch", "secret", "applied", "-n", name[1], "-p", "{\"stringData\":{\"\(name[3])\":\"\(value[6])\"}}"), prints: "patched")
            expect(try await daemon.kubectl("apply", "-f", "-", input: manifest(value[8], type: "kubernetes.io/tls")), 1)
            expect(try await daemon.kubectl("create", "secret", "generic", "refused", "-n", "nowhere", "--from-literal=a=\(value[7])"), 1)
            try await daemon.kill() // the log is replayed, and what the record store has is committed
            try await daemon.start()
            expect(try await daemon.etcdctl("get", name[0], "--print-value-only"), is: value[0] + "\n")
            expect(try await daemon.kubectl("get", "secret", name[2], "-n", name[1], "-o", "jsonpath={.data.\(name[3])}"),
                   is: Data(value[4].utf8).base64EncodedString())
            expect(try await daemon.etcdctl("del", name[0]), is: "1\n")
            #expect(try await daemon.terminate() == .exited(0))

            #expect(try CanarySearch(value + name).found(inDirectory: daemon.data) == [])
            #expect(CanarySearch(value + name).found(in: Data(daemon.log.utf8)) == [])
            let audit = try #require(FileManager.default.contents(atPath: daemon.audit))
            #expect(CanarySearch(value).found(in: audit) == [])
            #expect(CanarySearch([name[0], name[2]]).found(in: audit).count == 2, "the audit log names what was touched")
        }
    }
}
