import Basics
import Mounts
import NodeProtocol
import SecretMemory
import Testing

/// A node in memory: carries out actions, or fails at them, without a kernel. Slow and obvious on purpose.
private struct ModelNode {
    var mounted: [VolumeID: VolumeRecord] = [:]
    /// Mounted, but the record was lost in a crash.
    var unrecorded: Set<VolumeID> = []
    var foreign: Set<VolumeID> = []
    var failures: [VolumeID: VolumeFailure] = [:]

    func observed(heard: Int64, isConnected: Bool) -> ObservedNode {
        let ids = Set(mounted.keys).union(foreign).sorted()
        return ObservedNode(volumes: ids.map { id in
            ObservedVolume(id: id, mount: foreign.contains(id) ? .foreign("ext4 of /dev/sda") : .ours,
                           owner: mounted[id].map { VolumeOwner.name(of: id, namespace: $0.namespace, podName: $0.podName) } ?? "",
                           record: unrecorded.contains(id) ? nil : mounted[id], failure: failures[id])
        }, heardMilliseconds: heard, isConnected: isConnected)
    }

    mutating func carryOut(_ action: MountAction) {
        switch action {
        case .create(let id, let record, _), .update(let id, let record, _), .note(let id, let record):
            mounted[id] = record
            unrecorded.remove(id)
        case .wipeVersions(let id, let names): mounted[id]?.retired.removeAll { names.contains($0.name) }
        case .remove(let id, _):
            mounted[id] = nil
            unrecorded.remove(id)
        case .removeStray: break
        }
        if let id = action.volume { failures[id] = nil }
    }
}

/// A cluster in memory: pods come, change and go; secrets too. Some views are old, empty or lost.
private struct Story {
    var generator: SeededGenerator
    var state = DesiredState(revision: 1, serverTimeMilliseconds: 0)
    var node = ModelNode()
    var view = SyncView(revision: 0, heardMilliseconds: 0, serverOffsetMilliseconds: 0)
    var time: Int64 = 0
    var policy = MountPolicy(volumeBytesMax: 64, filesPerVolumeMax: 8, versionGraceMilliseconds: 20, retiredVersionsMax: 2)

    init(seed: UInt64) {
        generator = SeededGenerator(seed: seed)
        if Bool.random(using: &generator) { policy.staleMillisecondsMax = 400 }
    }

    mutating func pick(_ count: Int) -> Int { Int.random(in: 0..<count, using: &generator) }
    static func uid(_ number: Int) -> String { "00000000-0000-4000-8000-00000000000\(number)" }

    mutating func changeCluster() throws {
        state.revision += Int64(1 + pick(3))
        let namespace = ["blue", "green"][pick(2)], number = pick(5)
        switch pick(8) {
        case 0, 1, 2:
            let sources = (0..<(1 + pick(2))).map { _ in
                VolumeSource.secret(SecretSource(secretName: "s\(pick(3))", isOptional: pick(4) == 0))
            } + (pick(12) == 0 ? [.unsupported(kind: "configMap")] : [])
            let pod = DesiredPod(namespace: namespace, name: "p\(pick(3))", uid: Self.uid(number), phase: [.pending, .running][pick(2)],
                                 fsGroup: pick(3) == 0 ? 7 : nil, volumes: [DesiredVolume(name: "v", sources: sources)])
            state.pods.removeAll { $0.uid == pod.uid }
            state.pods.append(pod)
        case 3: state.pods.removeAll { $0.uid == Self.uid(number) }
        case 4:
            guard let place = state.pods.firstIndex(where: { $0.uid == Self.uid(number) }) else { return }
            if pick(2) == 0 { state.pods[place].phase = [.succeeded, .failed][pick(2)] } else { state.pods[place].graceDeadlineMilliseconds = time + Int64(pick(60)) }
        case 5, 6:
            let name = "s\(pick(3))"
            state.secrets.removeAll { $0.namespace == namespace && $0.name == name }
            let value = try SecretValue(copying: Array("\(namespace)-\(pick(4))".utf8) + Bytes(repeating: 0, count: pick(20)))
            let content: SecretContent = [.data([SecretEntry(key: "k\(pick(3))", value: value)]), .revoked, .unreadable(reason: "no key")][pick(9) < 7 ? 0 : 1 + pick(2)]
            state.secrets.append(DeliveredSecret(namespace: namespace, name: name, uid: "\(namespace)\(name)", resourceVersion: state.revision, content: content))
        default:
            let name = "s\(pick(3))"
            state.secrets.removeAll { $0.namespace == namespace && $0.name == name }
        }
    }

    mutating func hear() -> SyncView.Verdict {
        var told = state
        told.serverTimeMilliseconds = time
        switch pick(10) {
        case 0: told.revision = max(0, view.revision - 1 - Int64(pick(5)))
        case 1:
            // A server that lost everything, at a revision that was seen before.
            told = DesiredState(revision: view.revision, serverTimeMilliseconds: time)
        default: break
        }
        return view.receive(.snapshot(told), localMilliseconds: time, mountedVolumes: node.mounted.count)
    }

    func makePlan() -> MountPlan {
        plan(view: view.desired, observed: node.observed(heard: view.heardMilliseconds, isConnected: view.isConnected),
             now: view.now(localMilliseconds: time), policy: policy) { reference in
            reference.entry.value.withUnsafeBytes { Array($0) }
        }
    }

    var isStale: Bool { policy.staleMillisecondsMax.map { time - view.heardMilliseconds >= $0 } ?? false }
}

@Suite struct PlanPropertyTests {
    @Test("no file without a live consumer once quiet, nothing across namespaces, nothing deleted on what is not known", arguments: 0..<16)
    func model(block: Int) throws {
        for seed in (block * 25)..<(block * 25 + 25) {
            var story = Story(seed: UInt64(seed))
            for _ in 0..<80 { try step(&story, seed: seed) }
            try settle(&story, seed: seed)
        }
    }

    private func step(_ story: inout Story, seed: Int) throws {
        story.time += Int64(story.pick(15))
        try story.changeCluster()
        let before = story.view
        switch story.pick(12) {
        case 0: story.view.disconnect()
        case 1:
            // The agent is killed and started again: the view is gone, its revision is not; now and then a record is.
            story.view = SyncView(revision: before.revision, heardMilliseconds: before.heardMilliseconds, serverOffsetMilliseconds: before.serverOffsetMilliseconds)
            if story.pick(3) == 0, let id = story.node.mounted.keys.sorted().first { story.node.unrecorded.insert(id) }
        case 2:
            let id = try #require(VolumeID(podUID: Story.uid(story.pick(5)), volume: "v"))
            if story.node.mounted[id] == nil { story.node.foreign.formSymmetricDifference([id]) }
        default: _ = story.hear()
        }
        #expect(story.view.revision >= before.revision, "seed \(seed)")
        for action in story.makePlan().actions {
            try check(action, story, seed: seed)
            if story.pick(6) == 0, let id = action.volume {
                story.node.failures[id] = VolumeFailure(message: "no space", retryMilliseconds: story.time + Int64(story.pick(30)))
            } else {
                story.node.carryOut(action)
            }
        }
    }

    private func check(_ action: MountAction, _ story: Story, seed: Int) throws {
        let now = story.view.now(localMilliseconds: story.time)
        if let id = action.volume { #expect(!story.node.foreign.contains(id), "a foreign mount was touched, seed \(seed)") }
        switch action {
        case .create(let id, let record, let layout), .update(let id, let record, let layout):
            let pod = try #require(story.view.desired?.pods.first { $0.uid == id.podUID }, "seed \(seed)")
            #expect(pod.isConsumer(at: now.serverMilliseconds) && story.view.isConnected && !story.isStale, "seed \(seed)")
            #expect(record.namespace == pod.namespace && record.podName == pod.name, "seed \(seed)")
            #expect(layout.holdings.allSatisfy { $0.secret.namespace == pod.namespace }, "seed \(seed)")
            #expect(layout.contents.allSatisfy { $0.secret.namespace == pod.namespace }, "seed \(seed)")
            // The content itself names its namespace.
            let prefix = Array(pod.namespace.utf8)
            #expect(layout.shape.files.allSatisfy { $0.fingerprint.starts(with: prefix) }, "seed \(seed)")
            if let old = story.node.mounted[id], !story.node.unrecorded.contains(id) {
                #expect(old.namespace == pod.namespace && old.podName == pod.name, "written over another pod's files, seed \(seed)")
                #expect(record.revision >= old.revision, "seed \(seed)")
            }
        case .remove(let id, let cause):
            let pod = story.view.desired?.pods.first { $0.uid == id.podUID }
            let isConsumer = pod?.isConsumer(at: now.serverMilliseconds) ?? false
            switch cause {
            case .noConsumer: #expect(story.view.desired != nil && !isConsumer, "seed \(seed)")
            case .graceEnded: #expect(story.node.mounted[id]?.graceDeadlineMilliseconds.map { $0 <= now.serverMilliseconds } == true, "seed \(seed)")
            case .podReplaced: #expect(pod.map { $0.name != story.node.mounted[id]?.podName || $0.namespace != story.node.mounted[id]?.namespace } == true, "seed \(seed)")
            case .revoked: #expect(story.view.desired?.secrets.contains { $0.content == .revoked } == true, "seed \(seed)")
            case .stale: #expect(story.isStale, "seed \(seed)")
            case .drained: Issue.record("a plan never drains, seed \(seed)")
            }
        case .note, .wipeVersions, .removeStray: break
        }
    }

    /// A healthy server, no more changes: in a few rounds nothing is left to do, and what stands is what consumers want.
    private func settle(_ story: inout Story, seed: Int) throws {
        story.state.revision += 10
        story.state.serverTimeMilliseconds = story.time
        #expect(story.view.receive(.snapshot(story.state), localMilliseconds: story.time, mountedVolumes: story.node.mounted.count) == .accepted, "seed \(seed)")
        var rounds = 0
        while rounds < 50 {
            let plan = story.makePlan()
            for action in plan.actions { story.node.carryOut(action) }
            if plan.actions.isEmpty {
                guard let wake = plan.wakeMilliseconds, wake < story.time + 100 else { break }
                story.time = max(wake, story.time)
            }
            rounds += 1
        }
        #expect(rounds < 50, "never quiet, seed \(seed)")
        let now = story.view.now(localMilliseconds: story.time)
        let consumers = story.state.pods.filter { $0.isConsumer(at: now.serverMilliseconds) }
        for (id, record) in story.node.mounted {
            let pod = try #require(consumers.first { $0.uid == id.podUID }, "a volume without a consumer, seed \(seed)")
            #expect(record.namespace == pod.namespace && record.podName == pod.name, "seed \(seed)")
        }
        let secrets = SecretLookup(story.state.secrets)
        for pod in consumers {
            let id = try #require(VolumeID(podUID: pod.uid, volume: "v"))
            let verdict = pod.volumes[0].verdict(namespace: pod.namespace, group: pod.fsGroup, policy: story.policy, secrets: secrets) {
                $0.entry.value.withUnsafeBytes { Array($0) }
            }
            let report = try #require(story.makePlan().reports.first { $0.podUID == pod.uid })
            switch verdict {
            case _ where story.node.foreign.contains(id): #expect(report.reason.code == .foreignMount, "seed \(seed)")
            case .layout(let layout):
                #expect(story.node.mounted[id]?.shape == layout.shape, "seed \(seed)")
                #expect(report.isReady, "seed \(seed)")
            case .revoked:
                #expect(story.node.mounted[id] == nil, "seed \(seed)")
                #expect(!report.isReady, "seed \(seed)")
            case .unavailable(let reason): #expect(report.reason.code == reason.code && report.isReady == (story.node.mounted[id] != nil), "seed \(seed)")
            }
        }
        #expect(Set(story.view.release(at: now)).isSubset(of: consumers.flatMap { pod in
            pod.volumes.flatMap(\.sources).compactMap { source in
                guard case .secret(let secret) = source else { return nil }
                return SecretName(namespace: pod.namespace, name: secret.secretName)
            }
        }), "seed \(seed)")
    }

    @Test("no byte comes before the file system is verified, none is visible before all are there, and none is left when its name goes")
    func order() throws {
        let id = try #require(VolumeID(podUID: Story.uid(1), volume: "v"))
        let record = VolumeRecord(namespace: "n", podName: "p", revision: 1, graceDeadlineMilliseconds: nil, shape: VolumeShape(files: [], group: nil), holdings: [])
        let layout = VolumeLayout(shape: record.shape, contents: [], holdings: [])
        func place(_ step: MountStep, _ action: MountAction) throws -> Int { try #require(action.steps.firstIndex(of: step)) }
        let create = MountAction.create(id, record, layout), update = MountAction.update(id, record, layout)
        for action in [create, update] {
            #expect(try place(.verify, action) < place(.writeVersion, action))
            #expect(try place(.writeVersion, action) < place(.linkCurrent, action))
            #expect(action.steps.last == .record)
        }
        #expect(try place(.linkCurrent, create) < place(.attach, create))
        #expect(try place(.makeReadOnlyClone, create) < place(.attach, create))
        for action in [MountAction.remove(id, .noConsumer), .wipeVersions(id, ["..x"]), .removeStray(StrayMount(mountID: 1, path: "/x"))] {
            #expect(try place(.overwrite, action) < place(.truncate, action))
            #expect(try place(.truncate, action) < place(.unlink, action))
            if let unmount = action.steps.firstIndex(of: .unmount) { #expect(try place(.unlink, action) < unmount) }
        }
        #expect(MountAction.remove(id, .noConsumer).steps.last == .dropRecord)
    }
}
