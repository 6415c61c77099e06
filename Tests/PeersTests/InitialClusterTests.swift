import Testing

@testable import Peers

@Suite struct InitialClusterTests {
    let text = "a=https://127.0.0.1:1,b=https://127.0.0.1:2,c=https://host.example:3,a=https://[::1]:4"

    @Test("ids follow from token, names and addresses, in whatever order they are written")
    func ids() throws {
        let cluster = try InitialCluster(text, token: "t")
        let other = try InitialCluster("c=https://host.example:3,a=https://[::1]:4,a=https://127.0.0.1:1,b=https://127.0.0.1:2", token: "t")
        #expect(cluster == other && cluster.clusterID == other.clusterID && cluster.fingerprint == other.fingerprint)
        #expect(cluster.members.map(\.id) == cluster.members.map(\.id).sorted())
        #expect(cluster["a"]?.peerURLs == ["https://127.0.0.1:1", "https://[::1]:4"])
        #expect(cluster["d"] == nil)
        let renamed = try InitialCluster(text, token: "u")
        #expect(renamed.clusterID != cluster.clusterID && renamed["b"]?.id != cluster["b"]?.id && renamed.fingerprint != cluster.fingerprint)
        let moved = try InitialCluster(text.replacing(":2,", with: ":5,"), token: "t")
        #expect(moved["b"]?.id != cluster["b"]?.id && moved["c"]?.id == cluster["c"]?.id)
    }

    @Test("what names no cluster is refused", arguments: [
        "", "a", "a=", "=https://h:1", "a=http://h:1", "a=https://h", "a=https://h:99999",
        "a=https://h:1,b=https://h:1", "a=https://h/x:1",
    ])
    func malformed(_ text: String) {
        #expect(throws: (any Error).self) { try InitialCluster(text, token: "t") }
    }
}
