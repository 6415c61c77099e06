import Basics
import Mounts
import NodeProtocol
import SecretMemory
import Testing

private func value(_ text: String) throws -> SecretValue { try SecretValue(copying: Array(text.utf8)) }

private func secret(_ name: String, namespace: String = "prod", _ entries: [(String, String)]) throws -> DeliveredSecret {
    DeliveredSecret(namespace: namespace, name: name, uid: name, resourceVersion: 3, content: .data(try entries.map { SecretEntry(key: $0.0, value: try value($0.1)) }))
}

private func verdict(_ volume: DesiredVolume, _ secrets: [DeliveredSecret], group: UInt32? = nil, policy: MountPolicy = MountPolicy()) -> VolumeVerdict {
    volume.verdict(namespace: "prod", group: group, policy: policy, secrets: SecretLookup(secrets)) { $0.entry.value.withUnsafeBytes { Array($0) } }
}

private func files(_ verdict: VolumeVerdict) -> [String: String]? {
    guard case .layout(let layout) = verdict else { return nil }
    return Dictionary(uniqueKeysWithValues: layout.shape.files.map { ($0.path, "\(String($0.mode, radix: 8)) \(String(decoding: $0.fingerprint, as: UTF8.self))") })
}

private func code(_ verdict: VolumeVerdict) -> Reason.Code? {
    switch verdict {
    case .layout: nil
    case .unavailable(let reason), .revoked(let reason): reason.code
    }
}

@Suite struct VolumeLayoutTests {
    @Test("every key becomes a file with the default mode, 0644 if none is named")
    func whole() throws {
        let secrets = [try secret("db", [("user", "root"), (".hidden", "h")])]
        #expect(files(verdict(DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db"))]), secrets)) == ["user": "644 root", ".hidden": "644 h"])
        let strict = DesiredVolume(name: "v", defaultMode: 0o400, sources: [.secret(SecretSource(secretName: "db"))])
        #expect(files(verdict(strict, secrets)) == ["user": "400 root", ".hidden": "400 h"])
    }

    @Test("items choose keys, paths and modes, and fsGroup adds what its group needs to read")
    func items() throws {
        let source = SecretSource(secretName: "db", items: [KeyToPath(key: "user", path: "a/b/user", mode: 0o400), KeyToPath(key: "password", path: "pw")])
        let volume = DesiredVolume(name: "v", defaultMode: 0o600, sources: [.secret(source)])
        let secrets = [try secret("db", [("user", "root"), ("password", "x"), ("other", "y")])]
        #expect(files(verdict(volume, secrets)) == ["a/b/user": "400 root", "pw": "600 x"])
        #expect(files(verdict(volume, secrets, group: 5)) == ["a/b/user": "440 root", "pw": "640 x"])
    }

    @Test("later projected sources win over earlier ones on the same path")
    func projected() throws {
        let secrets = [try secret("one", [("k", "1"), ("a", "x")]), try secret("two", [("k", "2")])]
        let volume = DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "one")), .secret(SecretSource(secretName: "two"))])
        #expect(files(verdict(volume, secrets)) == ["k": "644 2", "a": "644 x"])
    }

    @Test("what is missing, unreadable, revoked or unsupported is said by its reason")
    func reasons() throws {
        let one = [try secret("db", [("k", "1")])]
        func volume(_ source: SecretSource) -> DesiredVolume { DesiredVolume(name: "v", sources: [.secret(source)]) }
        #expect(code(verdict(volume(SecretSource(secretName: "nope")), one)) == .secretMissing)
        #expect(files(verdict(volume(SecretSource(secretName: "nope", isOptional: true)), one)) == [:])
        let item = [KeyToPath(key: "nope", path: "p")]
        #expect(code(verdict(volume(SecretSource(secretName: "db", items: item)), one)) == .keyMissing)
        #expect(files(verdict(volume(SecretSource(secretName: "db", items: item, isOptional: true)), one)) == [:])
        let broken = [DeliveredSecret(namespace: "prod", name: "db", uid: "u", resourceVersion: 1, content: .unreadable(reason: "x"))]
        #expect(code(verdict(volume(SecretSource(secretName: "db")), broken)) == .secretUnreadable)
        let revoked = [DeliveredSecret(namespace: "prod", name: "db", uid: "u", resourceVersion: 1, content: .revoked)]
        #expect(code(verdict(volume(SecretSource(secretName: "db")), revoked)) == .secretRevoked)
        let mixed = verdict(DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db")), .unsupported(kind: "serviceAccountToken")]), one)
        #expect(code(mixed) == .unsupportedSource)
        if case .unavailable(let reason) = mixed { #expect(reason.message.contains("serviceAccountToken")) }
    }

    @Test("another namespace's secret of the same name is never looked at")
    func namespaces() throws {
        let foreign = [try secret("db", namespace: "other", [("k", "stolen")])]
        #expect(code(verdict(DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db"))]), foreign)) == .secretMissing)
    }

    @Test("hostile paths are refused", arguments: [
        "", "/etc/passwd", "..", "../x", "a/../b", "..data", "..data_tmp", "a/..b", ".", "a/./b", "a//b", "a/", "a\nb", "a\0b", "\u{7f}",
        String(repeating: "x", count: 256), String(repeating: "d/", count: 20) + "f",
    ])
    func hostilePaths(path: String) throws {
        let source = SecretSource(secretName: "db", items: [KeyToPath(key: "k", path: path)])
        #expect(code(verdict(DesiredVolume(name: "v", sources: [.secret(source)]), [try secret("db", [("k", "1")])])) == .invalidPath)
    }

    @Test("a key that is no file name is refused", arguments: ["a/b", "..x", ".", "", "a b", "ü", String(repeating: "k", count: 254)])
    func hostileKeys(key: String) throws {
        #expect(code(verdict(DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db"))]), [try secret("db", [(key, "1")])])) == .invalidPath)
    }

    @Test("a file beside a path through it is refused")
    func conflict() throws {
        let source = SecretSource(secretName: "db", items: [KeyToPath(key: "k", path: "a"), KeyToPath(key: "k", path: "a/b")])
        #expect(code(verdict(DesiredVolume(name: "v", sources: [.secret(source)]), [try secret("db", [("k", "1")])])) == .invalidPath)
    }

    @Test("a volume beyond its bound of bytes or files is refused, at the bound it is not")
    func bounds() throws {
        let secrets = [try secret("db", [("a", "12345"), ("b", "67890")])]
        let volume = DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "db"))])
        #expect(code(verdict(volume, secrets, policy: MountPolicy(volumeBytesMax: 10, filesPerVolumeMax: 2))) == nil)
        #expect(code(verdict(volume, secrets, policy: MountPolicy(volumeBytesMax: 9))) == .volumeTooLarge)
        #expect(code(verdict(volume, secrets, policy: MountPolicy(filesPerVolumeMax: 1))) == .volumeTooLarge)
    }

    @Test("only lower-case UUIDs and DNS labels name a place")
    func names() {
        let uid = "0a000000-0000-4000-8000-000000000001"
        #expect(VolumeID(podUID: uid, volume: "v") != nil)
        for bad in ["", "..", uid.uppercased(), uid + "/", String(uid.dropLast()), "../" + uid, "g" + uid.dropFirst()] { #expect(VolumeID(podUID: bad, volume: "v") == nil) }
        for bad in ["", "..", "A", "-a", "a-", "a/b", "a.b", "a\0", String(repeating: "a", count: 64)] { #expect(VolumeID(podUID: uid, volume: bad) == nil) }
    }
}

@Suite struct SyncViewTests {
    private let pod = DesiredPod(namespace: "n", name: "p", uid: "0a000000-0000-4000-8000-000000000001", phase: .running,
                                 volumes: [DesiredVolume(name: "v", sources: [.secret(SecretSource(secretName: "s"))])])

    @Test("a view older than one seen before, in this run or an earlier one, is refused")
    func older() {
        var view = SyncView(revision: 10, heardMilliseconds: 0, serverOffsetMilliseconds: 0)
        guard case .refused = view.receive(.snapshot(DesiredState(revision: 9, serverTimeMilliseconds: 0, pods: [pod])), localMilliseconds: 1, mountedVolumes: 0) else {
            Issue.record("accepted")
            return
        }
        #expect(view.desired == nil)
        #expect(view.receive(.snapshot(DesiredState(revision: 10, serverTimeMilliseconds: 0, pods: [pod])), localMilliseconds: 1, mountedVolumes: 0) == .accepted)
    }

    @Test("an empty view at the revision last seen wipes nothing; a newer one counts")
    func empty() {
        var view = SyncView(revision: 10, heardMilliseconds: 0, serverOffsetMilliseconds: 0)
        guard case .refused = view.receive(.snapshot(DesiredState(revision: 10, serverTimeMilliseconds: 0)), localMilliseconds: 1, mountedVolumes: 1) else {
            Issue.record("accepted")
            return
        }
        #expect(view.receive(.snapshot(DesiredState(revision: 11, serverTimeMilliseconds: 0)), localMilliseconds: 1, mountedVolumes: 1) == .accepted)
    }

    @Test("deltas and heartbeats count only on a connected, complete view")
    func order() {
        var view = SyncView(revision: 0, heardMilliseconds: 0, serverOffsetMilliseconds: 0)
        let delta = SyncMessage.delta(DesiredDelta(fromRevision: 5, revision: 6, serverTimeMilliseconds: 0))
        func refused(_ message: SyncMessage) -> Bool {
            if case .refused = view.receive(message, localMilliseconds: 1, mountedVolumes: 0) { return true }
            return false
        }
        #expect(refused(delta))
        #expect(refused(.heartbeat(revision: 5, serverTimeMilliseconds: 0)))
        #expect(!refused(.snapshot(DesiredState(revision: 5, serverTimeMilliseconds: 0, pods: [pod]))))
        #expect(!refused(delta))
        #expect(refused(delta))
        #expect(!refused(.heartbeat(revision: 9, serverTimeMilliseconds: 0)))
        #expect(view.revision == 9)
        view.disconnect()
        #expect(refused(.heartbeat(revision: 10, serverTimeMilliseconds: 0)))
        #expect(refused(.goodbye(reason: "x")))
    }

    @Test("a secret let go here and wanted again without being told again makes the node ask anew")
    func letGo() throws {
        var view = SyncView(revision: 0, heardMilliseconds: 0, serverOffsetMilliseconds: 0)
        var ending = pod
        ending.graceDeadlineMilliseconds = 50
        let secret = DeliveredSecret(namespace: "n", name: "s", uid: "u", resourceVersion: 1, content: .data([SecretEntry(key: "k", value: try value("v"))]))
        let first = DesiredState(revision: 1, serverTimeMilliseconds: 0, pods: [ending], secrets: [secret])
        #expect(view.receive(.snapshot(first), localMilliseconds: 0, mountedVolumes: 0) == .accepted)
        #expect(view.release(at: NodeTime(localMilliseconds: 49, serverMilliseconds: 49)).count == 1)
        #expect(view.release(at: NodeTime(localMilliseconds: 50, serverMilliseconds: 50)).isEmpty)
        var other = pod
        other.uid = "0a000000-0000-4000-8000-000000000002"
        var delta = DesiredDelta(fromRevision: 1, revision: 2, serverTimeMilliseconds: 51, pods: [other])
        guard case .refused = view.receive(.delta(delta), localMilliseconds: 51, mountedVolumes: 0) else {
            Issue.record("accepted")
            return
        }
        delta.secrets = [secret]
        #expect(view.receive(.delta(delta), localMilliseconds: 51, mountedVolumes: 0) == .accepted)
    }
}
