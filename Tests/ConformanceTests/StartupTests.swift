import Foundation
import Glibc
import Testing

/// What cofferd refuses at its start: a clear error on stderr, exit code 1 (64 for usage), and the data directory as it was, to the byte.
@Suite struct StartupTests {
    /// Kind, mode, size and time of everything under `path`, and a digest of what each file begins with (segments of the log are long).
    static func snapshot(_ path: String) async throws -> String {
        let script = """
            cd "$1" && find . -printf '%p %y %m\\n' | sort && find . -type f -printf '%p %s %T@\\n' | sort
            find . -type f | sort | while read -r file; do head -c 4194304 "$file" | cksum; done
            """
        let listing = try await Program.run(URL(fileURLWithPath: "/bin/sh"), ["-c", script, "sh", path])
        expect(listing)
        return listing.output
    }

    /// Starts a daemon that must give up, and compares the directory before and after.
    func refused(
        _ daemon: Daemon, _ flags: [String: String] = [:], more: [String] = [], status: Int32 = 1, directory: String? = nil, says texts: String...,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        let directory = directory ?? daemon.data
        let exists = FileManager.default.fileExists(atPath: directory)
        let before = exists ? try await Self.snapshot(directory) : ""
        let beside = [flags["pki-dir"] ?? daemon.pki, flags["audit-log"] ?? daemon.audit]
        let present = beside.map(FileManager.default.fileExists(atPath:))
        let run = try await Program.run(Daemon.program, daemon.arguments(flags) + more, environment: Daemon.environment, in: daemon.home)
        #expect(run.status == status, Comment(rawValue: run.text), sourceLocation: sourceLocation)
        #expect(!run.output.contains("ready"), Comment(rawValue: run.text), sourceLocation: sourceLocation)
        for text in texts { #expect(run.errors.contains(text), Comment(rawValue: run.errors), sourceLocation: sourceLocation) }
        #expect(FileManager.default.fileExists(atPath: directory) == exists, "\(directory) was made", sourceLocation: sourceLocation)
        let after = exists ? try await Self.snapshot(directory) : ""
        #expect(after == before, "the directory was changed", sourceLocation: sourceLocation)
        #expect(beside.map(FileManager.default.fileExists(atPath:)) == present, "certificates or a trail were made", sourceLocation: sourceLocation)
    }

    /// A laid down, stopped store.
    func withStoppedStore(_ body: (Daemon) async throws -> Void) async throws {
        try await Daemon.with { daemon in
            #expect(try await daemon.terminate() == .exited(0))
            try await body(daemon)
            // Whatever was refused, the right key still opens it.
            try await daemon.start()
        }
    }

    @Test("a second daemon on the same directory is refused, and the first goes on")
    func secondDaemon() async throws {
        try await Daemon.with { daemon in
            try await eventually("the next segment of the log is filled") { FileManager.default.fileExists(atPath: daemon.data + "/log/0000000000000002.log") }
            // What the first daemon writes by itself (records are stored every 100 ms) is not the second one's doing.
            var last = ""
            try await eventually("the first daemon rests") {
                try await Task.sleep(for: .milliseconds(400))
                let present = try await Self.snapshot(daemon.data)
                defer { last = present }
                return present == last
            }
            try await refused(daemon, says: "cofferd: ", "\(daemon.data) is in use by another process")
            #expect(daemon.isRunning)
            guard Program.etcdctl != nil else { return print("etcdctl is not installed: the first daemon is only seen running") }
            expect(try await daemon.etcdctl("put", "k", "v"), is: "OK\n")
        }
    }

    @Test("a directory is refused with a wrong, a missing, a readable, a short or an enclosed key file")
    func keyFiles() async throws {
        try await withStoppedStore { daemon in
            func key(_ name: String, _ bytes: Int, mode: Int = 0o400) -> String {
                let path = daemon.home.path + "/" + name
                let contents = Data((0..<bytes).map { UInt8(truncatingIfNeeded: $0 &* 37) })
                #expect(FileManager.default.createFile(atPath: path, contents: contents, attributes: [.posixPermissions: mode]))
                return path
            }
            let wrong = key("wrong.key", 32)
            try await refused(daemon, ["seal-key-file": wrong], says: "the key file \(wrong) does not open \(daemon.data)/seal")
            let missing = daemon.home.path + "/missing.key"
            try await refused(daemon, ["seal-key-file": missing], says: "the key file \(missing) is not there", "bring it back")
            #expect(!FileManager.default.fileExists(atPath: missing))
            let short = key("short.key", 31)
            try await refused(daemon, ["seal-key-file": short], says: short)
            let empty = key("empty.key", 0)
            try await refused(daemon, ["seal-key-file": empty], says: empty)
            let readable = daemon.home.path + "/readable.key"
            try FileManager.default.copyItem(atPath: daemon.sealKey, toPath: readable)
            #expect(chmod(readable, 0o444) == 0)
            try await refused(daemon, ["seal-key-file": readable], says: "\(readable) has mode 444: only its owner may read it (chmod 400)")
            try await refused(daemon, ["seal-key-file": daemon.data + "/seal.key"], says: "lies inside the data directory")
            try await refused(daemon, ["seal-key-file": daemon.data + "/member"], says: "lies inside the data directory")
            let link = daemon.home.path + "/link.key"
            #expect(symlink(daemon.data + "/member", link) == 0)
            try await refused(daemon, ["seal-key-file": link], says: "lies inside the data directory")
            try await refused(daemon, ["seal-key-file": daemon.home.path], says: daemon.home.path)
            let passphrase = key("passphrase", 20)
            var flags = daemon.arguments().filter { $0 != "--seal-key-file" && $0 != daemon.sealKey }
            flags += ["--seal-passphrase-file", passphrase]
            let run = try await Program.run(Daemon.program, flags, environment: Daemon.environment, in: daemon.home)
            expect(run, 1, prints: "the passphrase in \(passphrase) does not open \(daemon.data)/seal")
        }
    }

    @Test("a directory of a newer format, of something else, or with another keyring's seal is refused and left as it is")
    func directories() async throws {
        try await withStoppedStore { daemon in
            func overwritten(_ name: String, with bytes: Data?, says texts: [String], key: String? = nil, line: Int = #line) async throws {
                let path = daemon.data + "/" + name
                let kept = try #require(FileManager.default.contents(atPath: path))
                if let bytes { try bytes.write(to: URL(fileURLWithPath: path)) } else { try FileManager.default.removeItem(atPath: path) }
                let before = try await Self.snapshot(daemon.data)
                let flags = key.map { ["seal-key-file": $0] } ?? [:]
                let run = try await Program.run(Daemon.program, daemon.arguments(flags), environment: Daemon.environment, in: daemon.home)
                let place = SourceLocation(fileID: #fileID, filePath: #filePath, line: line, column: 1)
                #expect(run.status == 1, Comment(rawValue: run.text), sourceLocation: place)
                for text in texts { #expect(run.errors.contains(text), Comment(rawValue: run.errors), sourceLocation: place) }
                #expect(try await Self.snapshot(daemon.data) == before, "the directory was changed", sourceLocation: place)
                try kept.write(to: URL(fileURLWithPath: path))
            }
            func flipped(_ name: String, at offset: Int) throws -> Data {
                var bytes = try #require(FileManager.default.contents(atPath: daemon.data + "/" + name))
                bytes[bytes.startIndex + (offset < 0 ? bytes.count + offset : offset)] ^= 1
                return bytes
            }
            try await overwritten("format", with: Data("coffer 2\n".utf8), says: ["has format coffer 2, newer than this program knows (coffer 1)"])
            try await overwritten("format", with: Data("postgres\n".utf8), says: ["not a Coffer data directory"])
            try await overwritten("format", with: Data(), says: ["not a Coffer data directory"])
            try await overwritten("seal", with: nil, says: ["\(daemon.data)/seal is missing"])
            try await overwritten("seal", with: Data(), says: ["does not open \(daemon.data)/seal"])
            try await overwritten("seal", with: try flipped("seal", at: -1), says: ["does not open \(daemon.data)/seal"])
            try await overwritten("seal", with: try flipped("seal", at: 20), says: ["does not open \(daemon.data)/seal"])
            try await overwritten("member", with: try flipped("member", at: 60), says: ["\(daemon.data)/member"])
            try await overwritten("member", with: Data("short".utf8), says: ["\(daemon.data)/member is damaged"])

            try await Daemon.with { other in
                #expect(try await other.terminate() == .exited(0))
                let seal = try #require(FileManager.default.contents(atPath: other.data + "/seal"))
                try await overwritten("seal", with: seal, says: ["does not open \(daemon.data)/seal"])
                try await overwritten("seal", with: seal, says: ["\(daemon.data)/member", "another keyring"], key: other.sealKey)
            }
        }
    }

    @Test("a directory with foreign files, a file, or a link in place of the data directory is refused and left as it is")
    func foreignPlaces() async throws {
        try await Daemon.with(started: false) { daemon in
            let foreign = daemon.home.path + "/foreign"
            try FileManager.default.createDirectory(atPath: foreign, withIntermediateDirectories: true)
            try Data("mine".utf8).write(to: URL(fileURLWithPath: foreign + "/notes.txt"))
            try await refused(daemon, ["data-dir": foreign], directory: foreign, says: "\(foreign) is not empty and not a Coffer data directory")
            let file = try daemon.home.write("a file", to: "file")
            try await refused(daemon, ["data-dir": file], directory: daemon.home.path + "/foreign", says: "cofferd: ", file)
            let link = daemon.home.path + "/link"
            #expect(symlink(foreign, link) == 0)
            try await refused(daemon, ["data-dir": link], directory: foreign, says: "\(link) is a symbolic link")
            try await refused(daemon, ["data-dir": foreign + "/notes.txt/deeper"], directory: foreign, says: "cofferd: ")
        }
    }

    @Test("an agent whose node cannot have that name is refused before anything is made", arguments: ["../x", "Node", "a b"])
    func nodeName(name: String) async throws {
        try await Daemon.with(started: false) { daemon in
            let root = daemon.home.path + "/agent"
            let flags = ["--server", "https://127.0.0.1:1", "--ca-file", "ca", "--cert-file", "cert", "--key-file", "key", "--root-dir", root]
            let run = try await Program.run(Program.folder.appendingPathComponent("coffer-agent"), ["run", "--node-name=" + name] + flags)
            #expect(run.status == 64 && run.errors.contains("Error: --node-name \(name): "), "\(run.errors)")
            #expect(!FileManager.default.fileExists(atPath: root))
        }
    }

    @Test("addresses, ports and flags that cannot be meant are refused as usage errors, before anything is made", arguments: [
        (["--listen-client-urls", "http://0.0.0.0:2379"], "without TLS the etcd port listens on loopback only"),
        (["--listen-client-urls", "http://192.0.2.7:2379"], "without TLS the etcd port listens on loopback only"),
        (["--listen-client-urls", "http://[::]:2379"], "without TLS the etcd port listens on loopback only"),
        (["--listen-client-urls", "http://127.0.0.1.example.org:2379"], "without TLS the etcd port listens on loopback only"),
        (["--listen-secrets-url", "http://127.0.0.1:6443"], "the secrets API is https:// only"),
        (["--listen-client-urls", "127.0.0.1:2379"], "127.0.0.1:2379"),
        (["--listen-client-urls", "http://127.0.0.1"], "http://127.0.0.1"),
        (["--listen-client-urls", "http://127.0.0.1:65536"], "65536"),
        (["--listen-client-urls", "http://127.0.0.1:-1"], "-1"),
        (["--listen-client-urls", "http://127.0.0.1:99999999999999999999"], "99999999999999999999"),
        (["--listen-client-urls", "http://:2379"], "http://:2379"),
        (["--listen-client-urls", "unix:///tmp/socket"], "unix:///tmp/socket"),
        (["--listen-secrets-url", "https://127.0.0.1:port"], "https://127.0.0.1:port"),
        (["--no-such-flag"], "Unknown option '--no-such-flag'"),
        (["--event-loops", "65"], "--event-loops wants 0 to 64"),
        (["--event-loops", "many"], "many"),
        (["--log-level", "loud"], "'loud' is no log level"),
        (["--data-dir", ""], "--data-dir is empty"),
        (["--cert-file", "x"], "--cert-file and --key-file go together"),
        (["--seal-passphrase-file", "x"], "not both"),
        (["stray"], "stray"),
    ])
    func usage(flags: [String], text: String) async throws {
        try await Daemon.with(started: false) { daemon in
            try await refused(daemon, more: flags, status: 64, says: "Error: ", text, "--help")
            #expect(try FileManager.default.contentsOfDirectory(atPath: daemon.home.path).allSatisfy { $0.hasPrefix(".run-") }, "something was made")
        }
    }

    @Test("a port that is taken is an error of its own, and the directory stays usable")
    func portsTaken() async throws {
        try await Daemon.with { holder in
            try await Daemon.with(started: false) { daemon in
                for flags in [["listen-client-urls": "http://127.0.0.1:\(holder.ports.etcd)"], ["listen-secrets-url": "https://127.0.0.1:\(holder.ports.api)"]] {
                    let run = try await Program.run(Daemon.program, daemon.arguments(flags), environment: Daemon.environment, in: daemon.home)
                    expect(run, 1, prints: "cofferd: cannot listen on \(flags.values.first!)", "in use")
                }
                try await daemon.start()
            }
        }
    }
}
