import Foundation
import Mounts
import NodeAgent
import NodeProtocol
import SecretMemory
import Testing

/// A node under test: a root directory of its own, and a server that is a value.
final class Node {
    let root: String
    var state: DesiredState
    var options: EngineOptions
    private(set) var reconciler: NodeReconciler?

    static let isPossible = geteuid() == 0
    static let why: Comment = "needs root and a kernel with noswap tmpfs: mounts are made"

    init(grace: Int64 = 50, policy: MountPolicy? = nil) throws {
        root = "/tmp/coffer-node-\(UInt64.random(in: 0...UInt64.max))"
        state = DesiredState(revision: 1, serverTimeMilliseconds: Self.serverNow)
        options = EngineOptions(rootDirectory: root, policy: policy ?? MountPolicy(versionGraceMilliseconds: grace))
    }

    deinit {
        reconciler = nil
        for entry in ((try? MountTable.read()) ?? []).reversed() where entry.point.hasPrefix(root + "/") { umount2(entry.point, Int32(MNT_DETACH)) }
        try? FileManager.default.removeItem(atPath: root)
    }

    static var serverNow: Int64 { Int64(Date().timeIntervalSince1970 * 1_000) }

    /// Starts the agent's core, again if need be; what the last one held in memory is gone.
    func start(crashPoint: @escaping CrashPoint = { _ in }) throws {
        reconciler = nil
        reconciler = NodeReconciler(engine: try VolumeEngine(options, crashPoint: crashPoint), policy: options.policy)
    }
    func stop() { reconciler = nil }

    /// Tells the present state as a newer snapshot, and works.
    @discardableResult
    func sync() throws -> Reconciliation {
        state.revision += 1
        state.serverTimeMilliseconds = Self.serverNow
        let reconciler = try #require(reconciler)
        #expect(try reconciler.receive(.snapshot(state)) == .accepted)
        return try reconciler.reconcile()
    }
    func work() throws -> Reconciliation { try #require(reconciler).reconcile() }

    func path(_ pod: DesiredPod, _ volume: String = "v", _ file: String = "") -> String { "\(root)/pods/\(pod.uid)/\(volume)" + (file.isEmpty ? "" : "/" + file) }
    func text(_ pod: DesiredPod, _ volume: String = "v", _ file: String) -> String? { try? String(contentsOfFile: path(pod, volume, file), encoding: .utf8) }
    var mounts: [MountEntry] { get throws { try MountTable.read().filter { $0.point.hasPrefix(root + "/pods/") } } }

    /// Every path below `pods`.
    var leftovers: [String] { (FileManager.default.enumerator(atPath: root + "/pods")?.allObjects as? [String] ?? []).sorted() }
}

func podUID(_ number: Int) -> String {
    let tail = String(number, radix: 16)
    return "00000000-0000-4000-8000-" + String(repeating: "0", count: 12 - tail.count) + tail
}

func pod(_ number: Int, namespace: String = "prod", secret: String = "db", group: UInt32? = nil) -> DesiredPod {
    DesiredPod(namespace: namespace, name: "pod-\(number)", uid: podUID(number), phase: .running, fsGroup: group,
               volumes: [DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: secret))])])
}

func secret(_ name: String = "db", namespace: String = "prod", version: Int64 = 1, data: [(String, String)]) throws -> DeliveredSecret {
    DeliveredSecret(namespace: namespace, name: name, uid: "uid-\(namespace)-\(name)", resourceVersion: version, content: .data(
        try data.map { SecretEntry(key: $0.0, value: try SecretValue(copying: Array($0.1.utf8))) }))
}

/// Polls until `condition` holds; false when it did not within the time.
func eventually(seconds: Double = 60, _ condition: () throws -> Bool) rethrows -> Bool {
    let end = Date().addingTimeInterval(seconds)
    while Date() < end {
        if try condition() { return true }
        usleep(2_000)
    }
    return try condition()
}
