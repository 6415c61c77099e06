import EtcdClient
import Faults
import Foundation
import Glibc
import NIOPosix

struct Failure: Error, CustomStringConvertible { var description: String }

/// A started server, a client of it, and the revision that a sequence begins at.
final class Peer {
    let name: String
    let client: EtcdClient
    private let process: Process
    var base: Int64 = 0

    init(name: String, executable: String, port: Int, arguments: [String], folder: URL) async throws {
        self.name = name
        let log = folder.appendingPathComponent("\(name).log")
        try Data().write(to: log)
        let handle = try FileHandle(forWritingTo: log)
        process = Process()
        process.executableURL = URL(fileURLWithPath: executable)
        process.arguments = arguments
        process.currentDirectoryURL = folder
        process.environment = ProcessInfo.processInfo.environment.merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = handle
        process.standardError = handle
        try process.run()
        func text() -> String { (try? String(contentsOf: log, encoding: .utf8)) ?? "" }
        let deadline = ContinuousClock.now + .seconds(60)
        while !text().contains("ready to serve client requests") {
            guard ContinuousClock.now < deadline, process.isRunning else {
                process.terminate()
                throw Failure(description: "\(name) did not start:\n\(text().suffix(2_000))")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        client = try await EtcdClient.connect(host: "127.0.0.1", port: port, on: MultiThreadedEventLoopGroup.singleton)
    }

    func stop() async {
        await client.close()
        if process.isRunning { process.terminate() }
        process.waitUntilExit()
    }
}

/// Debian's etcd and cofferd, both with their data in memory.
struct ServerPair {
    let etcd: Peer, coffer: Peer
    private let folder: URL
    var both: [Peer] { [etcd, coffer] }

    static let etcdPath: String? = ["/usr/bin/etcd", "/usr/local/bin/etcd"].first { access($0, X_OK) == 0 }
    /// `COFFER_DIFFERENTIAL_COFFERD`, or the one built beside the tests.
    static let cofferPath: String? = {
        let built = Bundle.main.executableURL?.deletingLastPathComponent().appendingPathComponent("cofferd").path
        let beside = CommandLine.arguments.first.map { URL(fileURLWithPath: $0).deletingLastPathComponent().appendingPathComponent("cofferd").path }
        let here = FileManager.default.currentDirectoryPath + "/.build/debug/cofferd"
        return [ProcessInfo.processInfo.environment["COFFER_DIFFERENTIAL_COFFERD"], built, beside, here].compactMap(\.self).first { access($0, X_OK) == 0 }
    }()

    init(etcd etcdPath: String, coffer cofferPath: String) async throws {
        let ports = try freePorts(3)
        let memory = access("/dev/shm", W_OK) == 0 ? URL(fileURLWithPath: "/dev/shm") : FileManager.default.temporaryDirectory
        folder = memory.appendingPathComponent("coffer-differential-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        do {
            let peerURL = "http://127.0.0.1:\(ports[0])", etcdPort = ports[1]
            etcd = try await Peer(name: "etcd", executable: etcdPath, port: etcdPort, arguments: [
                "--data-dir", "etcd", "--listen-client-urls", "http://127.0.0.1:\(etcdPort)", "--advertise-client-urls", "http://127.0.0.1:\(etcdPort)",
                "--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default=\(peerURL)",
                "--quota-backend-bytes", "8589934592",
            ], folder: folder)
        } catch {
            try? FileManager.default.removeItem(at: folder)
            throw error
        }
        do {
            let port = ports[2]
            coffer = try await Peer(name: "cofferd", executable: cofferPath, port: port, arguments: [
                "--data-dir", "coffer", "--listen-client-urls", "http://127.0.0.1:\(port)", "--listen-secrets-url", "https://127.0.0.1:0",
            ], folder: folder)
        } catch {
            await etcd.stop()
            try? FileManager.default.removeItem(at: folder)
            throw error
        }
    }

    func stop() async {
        for peer in both { await peer.stop() }
        try? FileManager.default.removeItem(at: folder)
    }
}
