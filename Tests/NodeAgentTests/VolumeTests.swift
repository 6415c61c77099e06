import Foundation
import Mounts
import NodeAgent
import NodeProtocol
import SecretMemory
import Testing

@Suite(.serialized, .enabled(if: Node.isPossible, Node.why)) struct VolumeTests {
    @Test("a pod's secret appears as files on a read-only noswap tmpfs, and nothing is left when the pod is gone")
    func comeAndGo() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("user", "root"), ("password", "hunter2-and-more")])]
        let came = try node.sync()
        #expect(came.failures == [])
        #expect(came.reports.map(\.isReady) == [true])
        #expect(came.acknowledgements.map(\.outcome) == [.materialized])
        #expect(node.text(pod, "v", "user") == "root")
        #expect(node.text(pod, "v", "password") == "hunter2-and-more")
        let mount = try #require(try node.mounts.first)
        #expect(Set(["ro", "nosuid", "nodev", "noexec"]).isSubset(of: mount.mountOptions))
        #expect(mount.superOptions.contains("noswap"))
        #expect(!mount.source.contains(pod.uid))
        #expect(!FileManager.default.createFile(atPath: node.path(pod, "v", "x"), contents: nil))

        node.state.pods = []
        let gone = try node.sync()
        #expect(gone.failures == [])
        #expect(gone.acknowledgements.map(\.outcome) == [.wiped, .podRemoved])
        #expect(try node.mounts.isEmpty)
        #expect(node.leftovers == [])
        #expect(try node.reconciler?.status(node: "n").secretsHeld == 0)
    }
}
