import Basics
import Mounts
import NodeProtocol
import SecretMemory

/// A node. Its agent's mind is the shipping one (`SyncView` and `plan`); what the agent does to the kernel is a model here, step for step.
///
/// What survives what: an agent that dies loses its view and whatever was not attached; mounts, records and the mark stay. A node that
/// boots anew has nothing left. An action may be cut off before any of its steps, by a crash or a failure.
struct SimulatedNode {
    struct File: Equatable {
        var path: String
        var secret: SecretName
        var resourceVersion: Int64
        /// Empty once it was overwritten.
        var content: Bytes
    }
    struct Version {
        var name: String
        var files: [File]
    }
    struct Mount {
        var owner: String
        var versions: [Version] = []
        var current: String?
        var currentFiles: [File] { versions.first { $0.name == current }?.files ?? [] }
        var holdsContent: Bool { versions.contains { $0.files.contains { !$0.content.isEmpty } } }
    }
    /// What is known of one volume's place.
    struct Place {
        var id: VolumeID
        var mount: Mount?
        var record: VolumeRecord?
        var failure: VolumeFailure?
    }
    enum Interruption: Error { case crash, failure }

    let name: String
    private let salt: UInt64
    private let clockRate: Int64
    private var clockOffset: Int64
    let policy: MountPolicy
    /// Sorted by id.
    private(set) var places: [Place] = []
    private var mark: (revision: Int64, heard: Int64, offset: Int64)
    private(set) var view: SyncView
    private(set) var isUp = true
    /// The server does not hear it, nor it the server.
    var isCut = false
    /// The steps that are still carried out, and what comes instead of the next one.
    var interruption: (stepsLeft: Int, kind: Interruption)?
    private var versionCount = 0
    /// An unmount that left bytes behind.
    private(set) var leftBehind: String?
    /// Whether the last reconciliation came to its end.
    private(set) var isSettled = false
    /// Volumes taken away by the last reconciliation, and why.
    private(set) var removals: [(id: VolumeID, cause: MountAction.RemovalCause)] = []

    init(name: String, chance: inout Chance) {
        self.name = name
        salt = chance.next()
        clockRate = Int64(chance.among(980...1_020))
        clockOffset = Int64(chance.below(100_000))
        policy = MountPolicy(staleMillisecondsMax: chance.pick([nil, nil, 8_000]))
        mark = (0, clockOffset, 0)
        view = SyncView(revision: 0, heardMilliseconds: clockOffset, serverOffsetMilliseconds: 0)
    }

    func clock(_ now: UInt32) -> Int64 { clockOffset + Int64(now) * clockRate / 1_000 }
    var mountCount: Int { places.count { $0.mount != nil } }
    private static func isBefore(_ a: Place, _ b: Place) -> Bool { a.id < b.id }

    // MARK: - Life

    mutating func die() {
        isUp = false
        interruption = nil
        isSettled = false
    }
    /// The kernel forgets too. Its clock begins again.
    mutating func boot(_ now: UInt32, clockOffset: Int64) {
        die()
        places.removeAll()
        self.clockOffset = clockOffset
        mark = (0, clock(now), 0)
    }
    /// As the engine's `adopt`: nothing but current versions with the content that their record names is kept as known.
    mutating func start(_ now: UInt32) {
        view = SyncView(revision: mark.revision, heardMilliseconds: min(mark.heard, clock(now)), serverOffsetMilliseconds: mark.offset)
        isUp = true
        for position in places.indices {
            places[position].failure = nil
            guard var mount = places[position].mount else { continue }
            mount.versions.removeAll { $0.name != mount.current }
            places[position].mount = mount
            guard var record = places[position].record else { continue }
            record.retired = []
            let isEqual = mount.currentFiles.map(\.path) == record.shape.files.map(\.path)
                && zip(mount.currentFiles, record.shape.files).allSatisfy { fingerprint($0.content) == $1.fingerprint }
            places[position].record = isEqual ? record : nil
        }
        places.removeAll { $0.mount == nil && $0.record == nil }
    }

    // MARK: - The agent's round

    mutating func receive(_ message: SyncMessage, _ now: UInt32) -> SyncView.Verdict {
        view.receive(message, localMilliseconds: clock(now), mountedVolumes: mountCount)
    }
    mutating func disconnect() { view.disconnect() }
    func time(_ now: UInt32) -> NodeTime { view.now(localMilliseconds: clock(now)) }

    private func fingerprint(_ bytes: Bytes) -> Bytes {
        var hash = EventHash()
        hash.mix(salt)
        for byte in bytes { hash.mix(UInt64(byte)) }
        return withUnsafeBytes(of: hash.value) { Bytes($0) }
    }

    /// Plans and acts until there is nothing left to do, as `NodeReconciler` does. Throws when a crash cuts it off.
    mutating func reconcile(_ now: UInt32) throws {
        isSettled = false
        removals.removeAll()
        mark = (view.revision, view.heardMilliseconds, view.serverOffsetMilliseconds)
        for _ in 0..<16 {
            let time = time(now)
            view.release(at: time)
            let observed = ObservedNode(
                volumes: places.map { ObservedVolume(id: $0.id, mount: $0.mount == nil ? .none : .ours, owner: $0.mount?.owner ?? "", record: $0.record, failure: $0.failure) },
                heardMilliseconds: view.heardMilliseconds, isConnected: view.isConnected)
            let result = plan(view: view.desired, observed: observed, now: time, policy: policy) { reference in
                reference.entry.value.withUnsafeBytes { fingerprint(Bytes($0)) }
            }
            guard !result.actions.isEmpty else {
                isSettled = true
                return
            }
            let secrets = SecretLookup(view.desired?.secrets ?? [])
            for action in result.actions {
                do { try perform(action, secrets, now) } catch Interruption.crash { throw Interruption.crash } catch {
                    guard let id = action.volume else { continue }
                    let failure = VolumeFailure(message: "\(error)", retryMilliseconds: clock(now) + 400)
                    change(id) { $0.failure = failure }
                }
            }
        }
    }

    private mutating func change(_ id: VolumeID, _ body: (inout Place) -> Void) {
        if let position = places.firstIndex(where: { $0.id == id }) { return body(&places[position]) }
        var place = Place(id: id)
        body(&place)
        places.append(place)
        places.sort(by: Self.isBefore)
    }
    private func place(_ id: VolumeID) -> Place? { places.first { $0.id == id } }

    // MARK: - Actions

    private mutating func perform(_ action: MountAction, _ secrets: SecretLookup, _ now: UInt32) throws {
        switch action {
        case .create(let id, let record, let layout), .update(let id, let record, let layout): try write(action, id, record, layout, secrets, now)
        case .note(let id, let record):
            try mayBeCutOff()
            change(id) { $0.record = record }
        case .wipeVersions(let id, let names): try wipe(action, id, names)
        case .remove(let id, let cause):
            removals.append((id, cause))
            try remove(action, id)
        case .removeStray: break // none is ever made here
        }
        if let id = action.volume, place(id) != nil { change(id) { $0.failure = nil } }
    }
    private mutating func mayBeCutOff() throws {
        guard let (stepsLeft, kind) = interruption else { return }
        guard stepsLeft == 0 else { return interruption = (stepsLeft - 1, kind) }
        interruption = nil
        throw kind
    }

    private mutating func write(
        _ action: MountAction, _ id: VolumeID, _ wanted: VolumeRecord, _ layout: VolumeLayout, _ secrets: SecretLookup, _ now: UInt32
    ) throws {
        var record = wanted, detached: Mount?
        versionCount += 1
        let version = "..v\(versionCount)"
        func edit(_ places: inout [Place], _ body: (inout Mount) -> Void) {
            if var mount = detached {
                body(&mount)
                detached = mount
            } else if let position = places.firstIndex(where: { $0.id == id }), var mount = places[position].mount {
                body(&mount)
                places[position].mount = mount
            }
        }
        for step in action.steps {
            try mayBeCutOff()
            switch step {
            case .makeDirectory: change(id) { _ in }
            case .makeFileSystem: detached = Mount(owner: VolumeOwner.name(of: id, namespace: record.namespace, podName: record.podName))
            case .recoverHandle: guard place(id)?.mount != nil else { throw Interruption.failure }
            case .clearUnfinished:
                let kept = record.retired.map(\.name)
                edit(&places) { mount in mount.versions.removeAll { $0.name != mount.current && !kept.contains($0.name) } }
            case .writeVersion:
                var files: [File] = []
                for (file, content) in zip(layout.shape.files, layout.contents) {
                    guard let entry = secrets.entry(content), let secret = secrets[content.secret] else { throw Interruption.failure }
                    files.append(File(path: file.path, secret: content.secret, resourceVersion: secret.resourceVersion,
                                      content: entry.value.withUnsafeBytes { Bytes($0) }))
                }
                edit(&places) { $0.versions.append(Version(name: version, files: files)) }
            case .linkCurrent:
                if let superseded = (detached ?? place(id)?.mount)?.current {
                    record.retired.append(RetiredVersion(name: superseded, dueMilliseconds: clock(now) + policy.versionGraceMilliseconds))
                }
                edit(&places) { $0.current = version }
            case .attach:
                let made = detached
                detached = nil
                change(id) { $0.mount = made }
            case .record: change(id) { $0.record = record }
            default: break // nothing that this model could see
            }
        }
    }

    private mutating func wipe(_ action: MountAction, _ id: VolumeID, _ names: [String]) throws {
        for step in action.steps {
            try mayBeCutOff()
            change(id) { place in
                switch step {
                case .overwrite: place.mount?.overwrite(names)
                case .unlink: place.mount?.versions.removeAll { names.contains($0.name) }
                case .record: place.record?.retired.removeAll { names.contains($0.name) }
                default: break
                }
            }
        }
    }

    private mutating func remove(_ action: MountAction, _ id: VolumeID) throws {
        for step in action.steps {
            try mayBeCutOff()
            if step == .unmount, let mount = place(id)?.mount, mount.holdsContent { leftBehind = "\(name) unmounts \(id) before its bytes are overwritten" }
            change(id) { place in
                switch step {
                case .overwrite: place.mount?.overwrite(nil)
                case .unlink:
                    place.mount?.versions.removeAll()
                    place.mount?.current = nil
                case .unmount: place.mount = nil
                case .dropRecord: place.record = nil
                default: break
                }
            }
        }
        places.removeAll { $0.id == id && $0.mount == nil && $0.record == nil }
    }
}

extension SimulatedNode.Mount {
    /// `names` nil: everything.
    fileprivate mutating func overwrite(_ names: [String]?) {
        for version in versions.indices where names?.contains(versions[version].name) ?? true {
            for file in versions[version].files.indices { versions[version].files[file].content = [] }
        }
    }
}
