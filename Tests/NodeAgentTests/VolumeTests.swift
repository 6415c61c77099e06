import Foundation
import Mounts
import NodeAgent
import NodeProtocol
import SecretMemory
import Synchronization
import Testing

@Suite(.serialized, .enabled(if: Node.isPossible, Node.why)) struct VolumeTests {
    private func mode(_ path: String) throws -> Int { try #require(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int) }
    private func group(_ path: String) throws -> Int { try #require(try FileManager.default.attributesOfItem(atPath: path)[.groupOwnerAccountID] as? Int) }

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

    @Test("the layout is the kubelet's: ..data by rename, links beside it, modes and groups as asked")
    func layout() throws {
        let node = try Node()
        try node.start()
        var pod = pod(1, group: 4_711)
        let items = [KeyToPath(key: "user", path: "conf/user", mode: 0o400), KeyToPath(key: "password", path: "pw")]
        pod.volumes = [DesiredVolume(name: "v", defaultMode: 0o600, sources: [.secret(SecretSource(secretName: "db", items: items))])]
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("user", "root"), ("password", "x"), ("other", "not asked for")])]
        #expect(try node.sync().failures == [])
        let place = node.path(pod)
        #expect(try FileManager.default.contentsOfDirectory(atPath: place).filter { !$0.hasPrefix("..2") }.sorted() == ["..data", "conf", "pw"])
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: place + "/pw") == "..data/pw")
        let version = try FileManager.default.destinationOfSymbolicLink(atPath: place + "/..data")
        #expect(version.wholeMatch(of: /\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+/) != nil)
        #expect(node.text(pod, "v", "conf/user") == "root")
        #expect(try mode("\(place)/\(version)/conf/user") == 0o440)
        #expect(try mode("\(place)/\(version)/pw") == 0o640)
        #expect(try group("\(place)/\(version)/pw") == 4_711)
        #expect(try mode("\(place)/\(version)/conf") == 0o2755)

        // A mode alone is a change.
        pod.volumes[0].defaultMode = 0o400
        node.state.pods = [pod]
        #expect(try node.sync().failures == [])
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: place + "/..data") != version)
        #expect(try mode("\(place)/..data/pw") == 0o440)
    }

    @Test("an update keeps the superseded version for its grace and then leaves nothing of it; equal content is not written again")
    func update() throws {
        let node = try Node(grace: 300)
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("a", "one"), ("b", "one")])]
        try node.sync()
        let place = node.path(pod)
        let first = try FileManager.default.destinationOfSymbolicLink(atPath: place + "/..data")
        node.state.secrets = [try secret(version: 2, data: [("a", "one"), ("b", "one")])]
        #expect(try node.sync().acknowledgements.map(\.resourceVersion) == [2])
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: place + "/..data") == first)

        node.state.secrets = [try secret(version: 3, data: [("a", "two"), ("c", "two")])]
        let result = try node.sync()
        #expect(node.text(pod, "v", "a") == "two")
        #expect(node.text(pod, "v", "c") == "two")
        #expect(node.text(pod, "v", "b") == nil)
        #expect(node.text(pod, "v", "\(first)/b") == "one")
        let wake = try #require(result.wakeMilliseconds)
        #expect(eventually { AgentClock.milliseconds >= wake })
        _ = try node.work()
        #expect(!FileManager.default.fileExists(atPath: "\(place)/\(first)"))
        #expect(try FileManager.default.contentsOfDirectory(atPath: place).count == 4)
    }

    @Test("a secret that leaves a volume is said to be wiped once the superseded version is; one in two volumes, with the second")
    func leaving() throws {
        let node = try Node(grace: 300)
        try node.start()
        var pod = pod(1)
        pod.volumes = [DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db")), .secret(SecretSource(secretName: "extra", isOptional: true))])]
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "one")]), try secret("extra", data: [("x", "more")])]
        #expect(try node.sync().acknowledgements.map(\.secretName) == ["db", "extra"])
        node.state.secrets = [try secret(data: [("k", "one")])]
        let left = try node.sync()
        #expect(left.acknowledgements.allSatisfy { $0.outcome == .materialized && $0.secretName == "db" })
        #expect(node.text(pod, "v", "x") == nil)
        let wake = try #require(left.wakeMilliseconds)
        #expect(eventually { AgentClock.milliseconds >= wake })
        #expect(try node.work().acknowledgements.map { "\($0.outcome) \($0.secretName)" } == ["wiped extra"])

        pod.volumes.append(DesiredVolume(name: "w", sources: [.secret(SecretSource(secretName: "db"))]))
        node.state.pods = [pod]
        #expect(try node.sync().acknowledgements.map(\.secretName) == ["db"])
        node.state.pods = []
        #expect(try node.sync().acknowledgements.map { "\($0.outcome) \($0.secretName)" } == ["wiped db", "podRemoved "])
        #expect(node.leftovers == [])
    }

    @Test("the same secret name in two namespaces gives each pod its own namespace's value")
    func namespaces() throws {
        let node = try Node()
        try node.start()
        let blue = pod(1, namespace: "blue"), green = pod(2, namespace: "green"), red = pod(3, namespace: "red")
        node.state.pods = [blue, green, red]
        node.state.secrets = [try secret(namespace: "blue", data: [("k", "blue's")]), try secret(namespace: "green", data: [("k", "green's")])]
        let result = try node.sync()
        #expect(node.text(blue, "v", "k") == "blue's")
        #expect(node.text(green, "v", "k") == "green's")
        #expect(node.text(red, "v", "k") == nil)
        #expect(result.reports.map(\.reason.code) == [.mounted, .mounted, .secretMissing])
    }

    @Test("one of two consumers leaves: the other keeps the secret, and the copy in memory goes only with the last")
    func consumers() throws {
        let node = try Node()
        try node.start()
        let first = pod(1), second = pod(2)
        node.state.pods = [first, second]
        var held: SecretValue? = try SecretValue(copying: Array("shared".utf8))
        weak let watched = held
        node.state.secrets = [DeliveredSecret(namespace: "prod", name: "db", uid: "u", resourceVersion: 1, content: .data([SecretEntry(key: "k", value: try #require(held))]))]
        held = nil
        try node.sync()
        node.state.pods = [second]
        #expect(try node.sync().acknowledgements.map(\.podName) == ["pod-1", "pod-1"])
        #expect(node.text(first, "v", "k") == nil)
        #expect(node.text(second, "v", "k") == "shared")
        #expect(watched != nil)
        var last = second
        last.phase = .succeeded
        node.state.pods = [last]
        try node.sync()
        node.state.secrets = []
        #expect(watched == nil)
        #expect(node.leftovers == [])
    }

    @Test("a terminating pod keeps its secrets until its grace ends by the server's clock, with no server needed for the end")
    func grace() throws {
        let node = try Node()
        try node.start()
        var pod = pod(1)
        pod.graceDeadlineMilliseconds = Node.serverNow + 600_000
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "v")])]
        let result = try node.sync()
        #expect(node.text(pod, "v", "k") == "v")
        #expect(result.wakeMilliseconds != nil)
        pod.graceDeadlineMilliseconds = Node.serverNow + 400
        node.state.pods = [pod]
        try node.sync()
        try #require(node.reconciler).disconnect()
        #expect(try eventually {
            _ = try node.work()
            return node.leftovers.isEmpty
        })
        #expect(try node.mounts.isEmpty)
    }

    @Test("a uid used again by another pod never shows it the first one's files")
    func uidReuse() throws {
        let node = try Node()
        try node.start()
        let old = pod(1, namespace: "blue")
        node.state.pods = [old]
        node.state.secrets = [try secret(namespace: "blue", data: [("k", "blue's")])]
        try node.sync()
        var new = pod(1, namespace: "green")
        new.name = "other"
        node.state.pods = [new]
        node.state.secrets = []
        #expect(try node.sync().reports.map(\.reason.code) == [.secretMissing])
        #expect(node.leftovers == [])
        node.state.secrets = [try secret(namespace: "green", data: [("k", "green's")])]
        try node.sync()
        #expect(node.text(new, "v", "k") == "green's")
    }

    @Test("a secret deleted while mounted stays, revoked it goes, missing it is waited for")
    func missing() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        #expect(try node.sync().reports.map(\.reason.code) == [.secretMissing])
        node.state.secrets = [try secret(data: [("k", "v")])]
        #expect(try node.sync().reports.map(\.isReady) == [true])
        node.state.secrets = []
        let kept = try node.sync()
        #expect(kept.reports.map(\.reason.code) == [.secretMissing])
        #expect(kept.reports.map(\.isReady) == [true])
        #expect(node.text(pod, "v", "k") == "v")
        node.state.secrets = [DeliveredSecret(namespace: "prod", name: "db", uid: "u", resourceVersion: 9, content: .revoked)]
        #expect(try node.sync().reports.map(\.reason.code) == [.secretRevoked])
        #expect(node.leftovers == [])
    }

    @Test("hostile names reach no path", arguments: ["../../../../tmp/x", "/etc/x", "..data", "a\0b", "a\nb", "."])
    func hostileNames(name: String) throws {
        let node = try Node()
        try node.start()
        var byPath = pod(1), byVolume = pod(2), byUID = pod(3)
        byPath.volumes = [DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db", items: [KeyToPath(key: "k", path: name)]))])]
        byVolume.volumes[0].name = name
        byUID.uid = name
        node.state.pods = [byPath, byVolume, byUID]
        node.state.secrets = [try secret(data: [("k", "v")])]
        let result = try node.sync()
        #expect(Set(result.reports.map(\.reason.code)) == [.invalidPath, .invalidVolume, .invalidPod])
        #expect(node.leftovers == [])
    }

    @Test("0 bytes, 1 MiB and 1,000 keys are delivered; a volume beyond its bound is refused and the last version stays")
    func sizes() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        let large = String(repeating: "x", count: 1 << 20)
        node.state.secrets = [try secret(data: [("empty", ""), ("large", large)])]
        #expect(try node.sync().failures == [])
        #expect(node.text(pod, "v", "empty") == "")
        #expect(node.text(pod, "v", "large") == large)
        let many = (0..<1_000).map { ("key-\($0)", "value \($0)") }
        node.state.secrets = [try secret(version: 2, data: many)]
        #expect(try node.sync().failures == [])
        for (key, value) in many { #expect(node.text(pod, "v", key) == value) }
        node.state.secrets = [try secret(version: 3, data: (0..<5).map { ("k\($0)", large) })]
        let refused = try node.sync()
        #expect(refused.reports.map(\.reason.code) == [.volumeTooLarge])
        #expect(node.text(pod, "v", "key-7") == "value 7")
    }

    @Test("as many versions as may stand fit, with long names, deep paths and growing content")
    func capacity() throws {
        let node = try Node(grace: 60_000)
        try node.start()
        var pod = pod(1)
        let names = (0..<200).map { String(repeating: "n", count: 240) + "\($0)" }
        let items = names.enumerated().map { KeyToPath(key: $1, path: $0 % 2 == 0 ? $1 : "d\($0)/e/" + $1) }
        pod.volumes = [DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db", items: items))])]
        node.state.pods = [pod]
        var standing = 0
        for version in 1...8 {
            let value = String(repeating: "x", count: version * 700)
            node.state.secrets = [try secret(version: Int64(version), data: names.map { ($0, value) })]
            #expect(try node.sync().failures == [])
            let now = try FileManager.default.contentsOfDirectory(atPath: node.path(pod)).filter { $0.hasPrefix("..2") }.count
            if now > standing { #expect(node.text(pod, "v", names[0]) == value) }
            standing = now
        }
        #expect(standing >= 3)
    }

    @Test("a volume that somebody unmounted is made again")
    func unmounted() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "v")])]
        try node.sync()
        #expect(umount2(node.path(pod), Int32(MNT_DETACH)) == 0)
        #expect(node.text(pod, "v", "k") == nil)
        #expect(try node.work().reports.map(\.isReady) == [true])
        #expect(node.text(pod, "v", "k") == "v")
    }

    @Test("many volumes come and go, and a projected volume merges its secrets")
    func many() throws {
        let node = try Node()
        try node.start()
        node.state.pods = (1...100).map { pod($0) }
        node.state.pods[0].volumes = [DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db")), .secret(SecretSource(secretName: "tls"))])]
        node.state.secrets = [try secret(data: [("k", "v")]), try secret("tls", data: [("crt", "c")])]
        #expect(try node.sync().failures == [])
        #expect(try node.mounts.count == 100)
        #expect(node.text(node.state.pods[0], "v", "k") == "v")
        #expect(node.text(node.state.pods[0], "v", "crt") == "c")
        var made = 0
        try node.start { step in if step == .makeFileSystem { made += 1 } }
        try node.sync()
        #expect(made == 0, "another start takes what is there")
        #expect(try node.mounts.count == 100)
        node.state.pods = []
        #expect(try node.sync().failures == [])
        #expect(node.leftovers == [])
    }

    // MARK: what readers see

    @Test("1,000 rotations under a reader: no torn and no missing read")
    func rotations() throws {
        let node = try Node(grace: 40)
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        func rotate(_ number: Int) throws {
            let text = "\(number)-" + String(repeating: "\(number % 10)", count: 300)
            node.state.secrets = [try secret(version: Int64(number + 1), data: [("a", text), ("b", text)])]
            #expect(try node.sync().failures == [])
        }
        try rotate(0)
        let place = node.path(pod)
        let isOver = Atomic(false), reads = Atomic(0), faults = Atomic(0)
        let reader = Thread {
            while !isOver.load(ordering: .relaxed) {
                let began = ContinuousClock.now
                let directory = open(place + "/..data", O_RDONLY | O_DIRECTORY)
                defer { close(directory) }
                let texts = ["a", "b"].map { name -> String? in
                    let file = openat(directory, name, O_RDONLY)
                    guard file >= 0 else { return nil }
                    defer { close(file) }
                    var buffer = [UInt8](repeating: 0, count: 512)
                    let count = read(file, &buffer, buffer.count)
                    return String(decoding: buffer.prefix(max(count, 0)), as: UTF8.self)
                }
                // A version stays whole for its grace after it was current: a reader that was slower than that was promised nothing.
                guard ContinuousClock.now - began < .milliseconds(35) else { continue }
                reads.add(1, ordering: .relaxed)
                if texts[0] == nil || texts[0] != texts[1] || (texts[0]?.utf8.count ?? 0) < 300 { faults.add(1, ordering: .relaxed) }
            }
        }
        reader.start()
        for number in 1...1_000 { try rotate(number) }
        // What had to wait for the grace of older versions is written when its time comes.
        #expect(try eventually {
            _ = try node.work()
            return node.text(pod, "v", "a")?.hasPrefix("1000-") == true
        })
        isOver.store(true, ordering: .relaxed)
        #expect(eventually { reader.isFinished })
        #expect(faults.load(ordering: .relaxed) == 0)
        #expect(reads.load(ordering: .relaxed) > 100)
    }

    @Test("removal overwrites before it truncates and truncates before it unlinks: an open descriptor loses the bytes")
    func openDescriptors() throws {
        let node = try Node()
        var seen: [MountStep: String] = [:]
        let file = Mutex<Int32>(-1)
        try node.start { step in
            let descriptor = file.withLock { $0 }
            guard descriptor >= 0 else { return }
            var buffer = [UInt8](repeating: 0xff, count: 64)
            let count = pread(descriptor, &buffer, buffer.count, 0)
            seen[step] = buffer.prefix(max(count, 0)).map { $0 == 0 ? "0" : String(UnicodeScalar($0)) }.joined()
        }
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "canary")])]
        try node.sync()
        let descriptor = open(node.path(pod, "v", "k"), O_RDONLY)
        defer { close(descriptor) }
        file.withLock { $0 = descriptor }
        node.state.pods = []
        #expect(try node.sync().failures == [])
        #expect(seen[.overwrite] == "canary")
        #expect(seen[.truncate] == "000000")
        #expect(seen[.unlink] == "")
        #expect(seen[.unmount] == "")
        // Busy because of the descriptor: detached all the same.
        #expect(try node.mounts.isEmpty)
        #expect(node.leftovers == [])
    }

    @Test("a bind mount that a container keeps loses the bytes too")
    func otherMounts() throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "canary")])]
        try node.sync()
        let container = node.root + "/container"
        try FileManager.default.createDirectory(atPath: container, withIntermediateDirectories: true)
        #expect(mount(node.path(pod), container, nil, UInt(MS_BIND), nil) == 0)
        #expect(try String(contentsOfFile: container + "/k", encoding: .utf8) == "canary")
        node.state.pods = []
        #expect(try node.sync().failures == [])
        #expect(try FileManager.default.contentsOfDirectory(atPath: container) == [])
        #expect(umount2(container, 0) == 0)
    }

    /// Writes into the volume as nobody else can: through another mount of it that is made writable.
    private func filled(_ node: Node, _ pod: DesiredPod, inodes: Bool) throws -> String {
        let side = node.root + "/side"
        try FileManager.default.createDirectory(atPath: side, withIntermediateDirectories: true)
        try #require(mount(node.path(pod), side, nil, UInt(MS_BIND), nil) == 0)
        try #require(mount(nil, side, nil, UInt(MS_BIND | MS_REMOUNT), nil) == 0)
        try FileManager.default.createDirectory(atPath: side + "/filler", withIntermediateDirectories: false)
        var number = 0, isFull = false
        let block = [UInt8](repeating: 0x78, count: 4_096)
        while !isFull, number < 1_000 {
            number += 1
            let file = open(side + "/filler/\(number)", O_WRONLY | O_CREAT, 0o600)
            guard file >= 0 else { break }
            defer { close(file) }
            guard !inodes else { continue }
            while true {
                let count = write(file, block, block.count)
                if count < block.count { isFull = true; break }
            }
        }
        #expect(errno == ENOSPC)
        return side
    }

    @Test("a tmpfs that is really full, of bytes or of files, fails the update with its reason, and it is done once there is room", arguments: [false, true])
    func reallyFull(inodes: Bool) throws {
        let node = try Node()
        try node.start()
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "one"), ("l", "one")])]
        #expect(try node.sync().failures == [])
        let side = try filled(node, pod, inodes: inodes)
        node.state.secrets = [try secret(version: 2, data: [("k", String(repeating: "two", count: 3_000)), ("l", "two")])]
        let failed = try node.sync()
        #expect(failed.failures.count == 1 && failed.failures[0].contains("No space left on device"), "\(failed.failures)")
        #expect(failed.reports.map(\.reason.code) == [.failed])
        #expect(node.text(pod, "v", "k") == "one" && node.text(pod, "v", "l") == "one")
        for name in try FileManager.default.contentsOfDirectory(atPath: side + "/filler") { unlink(side + "/filler/" + name) }
        rmdir(side + "/filler")
        #expect(umount2(side, 0) == 0)
        #expect(try eventually {
            _ = try node.work()
            return node.text(pod, "v", "l") == "two"
        })
        #expect(node.text(pod, "v", "k")?.count == 9_000)
        node.state.pods = []
        #expect(try node.sync().failures == [])
        #expect(node.leftovers == [])
    }

    @Test("an update that meets a full tmpfs fails with its reason, leaves the old version whole, and is tried again")
    func noSpace() throws {
        let node = try Node()
        let failing = Mutex(false)
        try node.start { step in
            if step == .linkCurrent, failing.withLock({ $0 }) { throw SystemFailure("writing", code: ENOSPC) }
        }
        let pod = pod(1)
        node.state.pods = [pod]
        node.state.secrets = [try secret(data: [("k", "one")])]
        try node.sync()
        failing.withLock { $0 = true }
        node.state.secrets = [try secret(version: 2, data: [("k", "two")])]
        let failed = try node.sync()
        #expect(failed.failures.count == 1)
        #expect(node.text(pod, "v", "k") == "one")
        #expect(failed.reports.map(\.reason.code) == [.failed])
        failing.withLock { $0 = false }
        #expect(try eventually {
            _ = try node.work()
            return node.text(pod, "v", "k") == "two"
        })
        #expect(try eventually {
            _ = try node.work()
            return try FileManager.default.contentsOfDirectory(atPath: node.path(pod)).filter { $0.hasPrefix("..2") }.count == 1
        })
    }
}
