import Basics
import Mounts
import MVCC
import NodeProtocol
import Replica
import SecretMemory

/// A pod as clients write it: bound or not, alive, ending or over.
struct PodManifest: Equatable {
    var key: Bytes
    var namespace: String
    var name: String
    var uid: String
    var node: String?
    var phase = PodPhase.running
    /// In the server's time.
    var deadline: Int64?
    /// By volume, the names of its secrets.
    var volumes: [[String]]

    func isLive(at serverMilliseconds: Int64) -> Bool {
        guard node != nil, phase != .succeeded, phase != .failed else { return false }
        return deadline.map { serverMilliseconds < $0 } ?? true
    }
    var desired: DesiredPod {
        DesiredPod(namespace: namespace, name: name, uid: uid, phase: phase, graceDeadlineMilliseconds: deadline, volumes: volumes.enumerated().map { number, secrets in
            DesiredVolume(name: "v\(number)", sources: secrets.map { secret in
                .secret(SecretSource(secretName: secret, items: [KeyToPath(key: "value", path: secret)]))
            })
        })
    }
}

/// Nodes, the streams that members serve them, and the pods and secrets that clients change meanwhile.
struct StoreNodes {
    /// A member's stream to a node: what the node was told.
    struct Stream {
        var number: Int
        var member: Int
        var incarnation: Int32
        var decoder = SyncDecoder()
        var told: DesiredState?
        var isConfirming = false
        var lastArrival: UInt32 = 0
    }
    struct Wire {
        var node: Int
        var stream: Int
        var frames: [SecretValue]
    }
    var nodes: [SimulatedNode] = []
    var streams: [Stream?] = []
    var wires: [Wire?] = []
    private var lastStream = 0
    private var lastUID: UInt32 = 0
    /// What the values of pods and secrets say, by their tags.
    var pods: [Bytes: PodManifest] = [:]
    var secrets: [Bytes: Bytes] = [:]

    static let namespaces = ["a", "b"], secretNames = ["s0", "s1", "s2"], podsPerNamespace = 4
    /// Sorted.
    static let podKeys: [Bytes] = namespaces.flatMap { space in (0..<podsPerNamespace).map { Secrecy.keyMarker + Bytes("pods/\(space)/p\($0)".utf8) } }
    static let secretKeys: [Bytes] = namespaces.flatMap { space in secretNames.map { secretKey(SecretName(namespace: space, name: $0)) } }
    static func secretKey(_ name: SecretName) -> Bytes { Secrecy.keyMarker + Bytes("secrets/\(name.namespace)/\(name.name)".utf8) }

    mutating func nextStream() -> Int {
        lastStream += 1
        return lastStream
    }
    mutating func nextUID() -> String {
        lastUID += 1
        let digits = String(lastUID, radix: 16)
        return "00000000-0000-4000-8000-" + String(repeating: "0", count: 12 - digits.count) + digits
    }
}

// MARK: - What the store says of pods and secrets

extension StoreWorld {
    /// The tag of the value that a key had as of `version`.
    private func tag(_ key: Bytes, _ version: KeyVersion?) -> Bytes? {
        guard let version else { return nil }
        return model.events(of: version.revision.main).last { $0.version.key == key && $0.version.revision == version.revision }?.value.map { Bytes($0.tag) }
    }
    private func pod(_ key: Bytes, _ version: KeyVersion?) -> PodManifest? { tag(key, version).flatMap { fleet.pods[$0] } }
    private func secret(_ key: Bytes, _ version: KeyVersion?) -> Bytes? { tag(key, version).flatMap { fleet.secrets[$0] } }

    /// As the published history has it.
    func pod(_ key: Bytes, at revision: Int64) -> PodManifest? { pod(key, model.version(of: key, at: revision)) }
    func secret(_ name: SecretName, at revision: Int64) -> Bytes? {
        let key = StoreNodes.secretKey(name)
        return secret(key, model.version(of: key, at: revision))
    }
    /// What a member has it serve one node: as `NodeProjection`, from its own state.
    func desiredState(of node: String, at member: StoreMember) -> DesiredState {
        let time = member.wall(now)
        var state = DesiredState(revision: member.replica.store.revision, serverTimeMilliseconds: time)
        var names: Set<SecretName> = []
        for key in StoreNodes.podKeys {
            guard let pod = pod(key, member.replica.store.version(of: key)), pod.node == node, pod.isLive(at: time) else { continue }
            state.pods.append(pod.desired)
            for secret in pod.volumes.joined() { names.insert(SecretName(namespace: pod.namespace, name: secret)) }
        }
        state.pods.sort { $0.uid < $1.uid }
        for name in names.sorted() {
            let key = StoreNodes.secretKey(name)
            guard let version = member.replica.store.version(of: key), let bytes = secret(key, version), let value = try? SecretValue(copying: bytes) else { continue }
            state.secrets.append(DeliveredSecret(
                namespace: name.namespace, name: name.name, uid: "u\(version.createRevision)", resourceVersion: version.revision.main,
                content: .data([SecretEntry(key: "value", value: value)])))
        }
        return state
    }
}

// MARK: - Streams

extension StoreWorld {
    /// A node's agent looks around: connects if it must, is told what is new, and does what is due.
    mutating func tend(_ number: Int) {
        queue.schedule(.node(Int32(number)), at: now + UInt32(nodeChance.among(40...300)))
        let member = nodeChance.below(members.count)
        guard fleet.nodes[number].isUp else { return }
        if let stream = fleet.streams[number], fleet.nodes[number].isCut || !isServing(stream) { hangUp(number) }
        if fleet.streams[number] == nil, !fleet.nodes[number].isCut, members[member].isUp, !isPaused(member) {
            fleet.streams[number] = StoreNodes.Stream(number: fleet.nextStream(), member: member, incarnation: members[member].incarnation)
        }
        tell(number)
        reconcile(number)
    }
    private func isServing(_ stream: StoreNodes.Stream) -> Bool {
        let member = members[stream.member]
        return member.isUp && member.incarnation == stream.incarnation
    }
    private mutating func hangUp(_ number: Int) {
        fleet.streams[number] = nil
        fleet.nodes[number].disconnect()
    }

    /// The member tells what it may at once; before it releases a secret it asks a quorum whether it is up to date.
    private mutating func tell(_ number: Int) {
        guard let stream = fleet.streams[number], isServing(stream), !isPaused(stream.member) else { return }
        let state = desiredState(of: fleet.nodes[number].name, at: members[stream.member])
        guard releases(state, stream) else { return send(state, number) }
        guard !stream.isConfirming else { return }
        fleet.streams[number]?.isConfirming = true
        let request = clients.nextNumber()
        clients.asks(StoreClients.Request(number: request, client: -1 - number, member: stream.member, kind: .release(node: number, stream: stream.number),
                                          isLinearizable: true, askedAt: now, acknowledgedBefore: model.acknowledged))
        step(stream.member, .asked([Question(ticket: Ticket(request), .revision)]))
    }
    private func releases(_ state: DesiredState, _ stream: StoreNodes.Stream) -> Bool {
        state.secrets.contains { secret in
            !(stream.told?.secrets.contains { $0.identity == secret.identity && $0.uid == secret.uid && $0.resourceVersion == secret.resourceVersion } ?? false)
        }
    }
    /// The answer to the member's question: `nil`, nobody confirmed anything.
    mutating func released(_ request: StoreClients.Request, at revision: Int64?) {
        guard case .release(let number, let name) = request.kind, let stream = fleet.streams[number], stream.number == name else { return }
        fleet.streams[number]?.isConfirming = false
        guard let revision else { return }
        if revision < request.acknowledgedBefore {
            model.fail(.linearizableRead, "a member confirms revision \(revision), though \(request.acknowledgedBefore) was acknowledged before")
        }
        guard isServing(stream), !isPaused(stream.member) else { return }
        let state = desiredState(of: fleet.nodes[number].name, at: members[stream.member])
        if state.revision < revision { model.fail(.binding, "a member releases secrets as of revision \(state.revision), before \(revision) which it confirmed") }
        send(state, number)
    }

    /// What is new in `state`, in the shipping frames. Nothing new: a heartbeat.
    private mutating func send(_ state: DesiredState, _ number: Int) {
        guard var stream = fleet.streams[number] else { return }
        let message: SyncMessage
        if let told = stream.told {
            guard state.revision >= told.revision else { return }
            var delta = DesiredDelta(fromRevision: told.revision, revision: state.revision, serverTimeMilliseconds: state.serverTimeMilliseconds)
            delta.pods = state.pods.filter { pod in !told.pods.contains(pod) }
            delta.removedPodUIDs = told.pods.map(\.uid).filter { uid in !state.pods.contains { $0.uid == uid } }
            delta.secrets = state.secrets.filter { secret in
                !told.secrets.contains { $0.identity == secret.identity && $0.uid == secret.uid && $0.resourceVersion == secret.resourceVersion }
            }
            delta.removedSecrets = told.secrets.map(\.identity).filter { name in !state.secrets.contains { $0.identity == name } }
            let isSame = delta.pods.isEmpty && delta.removedPodUIDs.isEmpty && delta.secrets.isEmpty && delta.removedSecrets.isEmpty
            message = isSame ? .heartbeat(revision: told.revision, serverTimeMilliseconds: state.serverTimeMilliseconds) : .delta(delta)
            stream.told = isSame ? told : state
        } else {
            message = .snapshot(state)
            stream.told = state
        }
        stream.lastArrival = max(stream.lastArrival + 1, now + UInt32(nodeChance.among(1...max(2, profile.delayMax))))
        fleet.streams[number] = stream
        do {
            fleet.wires.append(StoreNodes.Wire(node: number, stream: stream.number, frames: try message.frames()))
            queue.schedule(.told(Int32(fleet.wires.count - 1)), at: stream.lastArrival)
        } catch { model.fail(.recovery, "a node's frames cannot be made: \(error)") }
    }

    mutating func hear(_ slot: Int) {
        guard let wire = fleet.wires[slot] else { return }
        fleet.wires[slot] = nil
        let number = wire.node
        guard fleet.nodes[number].isUp, var stream = fleet.streams[number], stream.number == wire.stream else { return }
        // A stream never goes on behind something that was lost.
        if fleet.nodes[number].isCut { return hangUp(number) }
        steps += 1
        var messages: [SyncMessage] = []
        do {
            for frame in wire.frames { messages += try frame.withUnsafeBytes { try stream.decoder.consume($0) } }
        } catch { return model.fail(.recovery, "a node's frames do not decode: \(error)") }
        fleet.streams[number] = stream
        hash.mix(UInt64(number) << 48 | UInt64(wire.frames.count))
        for message in messages {
            guard case .refused(let reason) = fleet.nodes[number].receive(message, now) else { continue }
            show { "node \(number + 1) leaves its server: \(reason)" }
            return hangUp(number)
        }
        reconcile(number)
    }

    // MARK: - What a node does

    private mutating func reconcile(_ number: Int) {
        steps += 1
        do { try fleet.nodes[number].reconcile(now) } catch {
            show { "the agent of node \(number + 1) dies in the middle of its work" }
            return stopAgent(number)
        }
        check(number)
    }
    mutating func stopAgent(_ number: Int) {
        fleet.nodes[number].die()
        fleet.streams[number] = nil
        queue.schedule(.agentStarts(Int32(number)), at: now + lasting(storeChance.below(profile.outageMax)))
    }
    mutating func startAgent(_ number: Int) {
        guard !fleet.nodes[number].isUp else { return }
        fleet.nodes[number].start(now)
        show { "the agent of node \(number + 1) starts again" }
    }

    /// After every round of an agent that came to its end.
    private mutating func check(_ number: Int) {
        let node = fleet.nodes[number]
        if let what = node.leftBehind { return model.fail(.binding, what) }
        guard let desired = node.view.desired, node.isSettled else { return }
        let time = node.time(now).serverMilliseconds
        for removal in node.removals where removal.cause == .noConsumer || removal.cause == .graceEnded {
            // What the newest state that this node ever heard of wants is never taken away.
            let owner = StoreNodes.podKeys.compactMap { pod($0, at: node.view.revision) }.first { $0.uid == removal.id.podUID && $0.node == node.name }
            if let owner, owner.deadline == nil, owner.isLive(at: time) {
                return model.fail(.secretKept, "\(node.name) takes \(removal.id) away, which is bound there at revision \(node.view.revision)")
            }
        }
        let bound = StoreNodes.podKeys.compactMap { pod($0, at: desired.revision) }.filter { $0.node == node.name && $0.isLive(at: time) }
        for place in node.places where place.failure == nil {
            guard let mount = place.mount, mount.holdsContent else { continue }
            guard let pod = bound.first(where: { $0.uid == place.id.podUID }) else {
                return model.fail(.binding, "\(node.name) keeps \(place.id) at revision \(desired.revision), whose pod is not bound there")
            }
            if mount.owner != VolumeOwner.name(of: place.id, namespace: pod.namespace, podName: pod.name) {
                return model.fail(.binding, "\(node.name) shows \(place.id) to a pod that it was not made for")
            }
            let allowed = Set(pod.desired.volumes.first { $0.name == place.id.volume }?.sources.compactMap { source -> SecretName? in
                if case .secret(let wanted) = source { SecretName(namespace: pod.namespace, name: wanted.secretName) } else { nil }
            } ?? [])
            for version in mount.versions {
                for file in version.files where !file.content.isEmpty { check(file, allowed, at: desired.revision, in: place.id, node.name) }
            }
        }
        for secret in desired.secrets where !bound.contains(where: { $0.namespace == secret.namespace && $0.volumes.joined().contains(secret.name) }) {
            return model.fail(.binding, "\(node.name) holds secret \(secret.namespace)/\(secret.name) in memory, and no pod there references it")
        }
    }
    private mutating func check(_ file: SimulatedNode.File, _ allowed: Set<SecretName>, at revision: Int64, in volume: VolumeID, _ node: String) {
        if !allowed.contains(file.secret) {
            return model.fail(.binding, "\(node) shows \(file.secret.namespace)/\(file.secret.name) in \(volume), whose pod does not reference it")
        }
        if file.resourceVersion > revision || secret(file.secret, at: file.resourceVersion) != file.content {
            model.fail(.binding, "\(node) shows in \(volume) what \(file.secret.namespace)/\(file.secret.name) never was at revision \(file.resourceVersion)")
        }
    }

    /// After everything was healed: why a node is not as the last revision wants it; nothing, if it is.
    func nodeObjection() -> String? {
        let last = model.last
        for (number, node) in fleet.nodes.enumerated() {
            guard node.isUp, node.view.isConnected else {
                let stream = fleet.streams[number]
                return "\(node.name) is \(node.isUp ? "not connected" : "down")"
                    + (stream.map { ", served by member \($0.member + 1)\($0.isConfirming ? ", which asks a quorum" : "")" } ?? "")
            }
            let time = node.time(now).serverMilliseconds
            let bound = StoreNodes.podKeys.compactMap { pod($0, at: last) }.filter { $0.node == node.name && $0.isLive(at: time) }
            for place in node.places where place.mount != nil && !bound.contains(where: { $0.uid == place.id.podUID }) { return "\(node.name) keeps \(place.id)" }
            for pod in bound {
                for (number, names) in pod.volumes.enumerated() {
                    let wanted = names.map { secret(SecretName(namespace: pod.namespace, name: $0), at: last) }
                    guard let id = VolumeID(podUID: pod.uid, volume: "v\(number)"), !wanted.contains(nil) else { continue }
                    guard let mount = node.places.first(where: { $0.id == id })?.mount else { return "\(node.name) lacks \(id)" }
                    if mount.versions.count != 1 { return "\(node.name) keeps \(mount.versions.count) versions of \(id)" }
                    let shown = zip(names, wanted).sorted { $0.0 < $1.0 }.map(\.1)
                    if mount.currentFiles.map({ Optional($0.content) }) != shown { return "\(node.name) shows an old version of \(id)" }
                }
            }
        }
        return nil
    }
}

// MARK: - Whoever schedules

extension StoreWorld {
    static let schedulerClient = 1_000
    /// Binds, unbinds, ends and deletes pods; changes and deletes their secrets.
    mutating func schedule() {
        queue.schedule(.schedule, at: now + UInt32(nodeChance.among(50...600)))
        let member = nodeChance.below(members.count), choice = nodeChance.below(100)
        let space = nodeChance.pick(StoreNodes.namespaces), slot = nodeChance.below(StoreNodes.podsPerNamespace)
        let name = SecretName(namespace: space, name: nodeChance.pick(StoreNodes.secretNames))
        guard clients.hasDomain, !clients.isResting, !clients.isBusy(Self.schedulerClient), members[member].isUp, !isPaused(member) else { return }
        let key = Secrecy.keyMarker + Bytes("pods/\(space)/p\(slot)".utf8)
        switch choice {
        case 0..<30: putSecret(name, member)
        case 30..<36: delete(StoreNodes.secretKey(name), member)
        default: change(pod(key, at: model.last), key, space, "p\(slot)", choice, member)
        }
    }
    private mutating func change(_ old: PodManifest?, _ key: Bytes, _ space: String, _ name: String, _ choice: Int, _ member: Int) {
        let node = nodeChance.pick(fleet.nodes.map(\.name))
        guard var pod = old else {
            let volumes = (0..<nodeChance.pick([1, 1, 2])).map { _ in
                var names = [nodeChance.pick(StoreNodes.secretNames)]
                if nodeChance.below(3) == 0 { names = Array(StoreNodes.secretNames.prefix(2)) }
                return names
            }
            return put(PodManifest(key: key, namespace: space, name: name, uid: fleet.nextUID(), node: choice < 90 ? node : nil, volumes: volumes), member)
        }
        switch choice {
        case 36..<50: return delete(key, member)
        case 50..<62: pod.node = nil
        case 62..<74: pod.node = node
        case 74..<88: pod.deadline = members[member].wall(now) + Int64(nodeChance.among(500...5_000))
        case 88..<93: pod.phase = .succeeded
        default: // The same name, another pod.
            pod.uid = fleet.nextUID()
            pod.node = node
            pod.phase = .running
            pod.deadline = nil
        }
        put(pod, member)
    }
    private mutating func put(_ pod: PodManifest, _ member: Int) {
        let number = clients.nextNumber()
        guard let value = clients.seal(number, key: pod.key) else { return model.fail(.keyNeeded, "the active data key does not seal") }
        fleet.pods[Bytes(value.tag)] = pod
        model.sends(value, request: number)
        propose(.put(PutRequest(key: pod.key, value: .sealed(value))), Self.schedulerClient, member, number: number, .write(value))
    }
    private mutating func putSecret(_ name: SecretName, _ member: Int) {
        let number = clients.nextNumber(), key = StoreNodes.secretKey(name)
        guard let value = clients.seal(number, key: key) else { return model.fail(.keyNeeded, "the active data key does not seal") }
        fleet.secrets[Bytes(value.tag)] = Secrecy.canary + key + Bytes(" \(number)".utf8)
        model.sends(value, request: number)
        propose(.put(PutRequest(key: key, value: .sealed(value))), Self.schedulerClient, member, number: number, .write(value))
    }
    private mutating func delete(_ key: Bytes, _ member: Int) {
        propose(.deleteRange(DeleteRangeRequest(KeyRange(key))), Self.schedulerClient, member, .write(nil))
    }
}
