import CLinux
import Foundation
package import Mounts
package import SecretMemory

/// What a node's engine is told at its start.
package struct EngineOptions: Sendable {
    package var rootDirectory: String
    /// Nil: `state` below the root.
    package var stateDirectory: String?
    /// Go on where tmpfs cannot be kept from swap, though swap exists.
    package var allowSwap: Bool
    package var policy: MountPolicy
    package init(rootDirectory: String, stateDirectory: String? = nil, allowSwap: Bool = false, policy: MountPolicy = MountPolicy()) {
        self.rootDirectory = rootDirectory; self.stateDirectory = stateDirectory; self.allowSwap = allowSwap; self.policy = policy
    }
}

/// Carries out `MountAction`s on this machine and says what it sees. It decides nothing; one thread uses it.
///
/// Each action is its list of steps, in order, each repeatable. When one throws, the action ends there, what it held is
/// closed, and the next plan sees what is left.
package final class VolumeEngine {
    private let root: NodeRoot
    private let records: NodeRecords
    private let options: EngineOptions
    /// tmpfs is made, and demanded, with `noswap`.
    package let noswap: Bool
    private let crashPoint: CrashPoint
    private var known: [VolumeID: VolumeRecord]
    private var failures: [VolumeID: VolumeFailure] = [:]
    private var failureCounts: [VolumeID: Int] = [:]
    private var versionCount = 0
    package private(set) var node: NodeMark

    /// What is kept of the view across restarts.
    package struct NodeMark: Equatable, Sendable {
        package var revision: Int64
        package var heardMilliseconds: Int64
        package var serverOffsetMilliseconds: Int64
    }

    package init(_ options: EngineOptions, crashPoint: @escaping CrashPoint = { _ in }) throws {
        let root = try NodeRoot(path: options.rootDirectory)
        noswap = try Self.decideNoswap(allowSwap: options.allowSwap)
        records = try NodeRecords(directory: try root.openState(at: options.stateDirectory, noswap: noswap))
        self.root = root
        self.options = options
        self.crashPoint = crashPoint
        known = try records.loadVolumes()
        let stored = records.loadNode()
        let heard = min(stored.heard, clinux_boot_milliseconds())
        node = NodeMark(revision: stored.revision, heardMilliseconds: heard, serverOffsetMilliseconds: stored.serverOffset)
        if stored.heard == 0 {
            node.heardMilliseconds = clinux_boot_milliseconds()
            node.serverOffsetMilliseconds = Int64(Date().timeIntervalSince1970 * 1_000) - clinux_boot_milliseconds()
        }
        try adopt()
    }

    /// Fails closed: without `noswap` secrets may go only where no swap is, or where the operator said that they may.
    private static func decideNoswap(allowSwap: Bool) throws -> Bool {
        do {
            let probe = try TemporaryFileSystem.make(source: MountEntry.sourcePrefix + "probe", bytes: 64 << 10, inodes: 16, mode: "0700", noswap: true)
            try TemporaryFileSystem.verify(probe, noswap: true)
            return true
        } catch {
            guard allowSwap || SwapAreas.isNone else {
                throw PlaceRefusal("tmpfs cannot be kept from swap here (\(error)), and swap is on: refused. Turn swap off, or say --allow-swap")
            }
            return false
        }
    }

    package var rootPath: String { root.path }
    package func fingerprint(_ value: SecretValue) -> [UInt8] { records.fingerprint(value) }
    package func record(of id: VolumeID) -> VolumeRecord? { known[id] }

    /// In order of their places.
    package var recorded: [(id: VolumeID, record: VolumeRecord)] { known.keys.sorted().compactMap { id in known[id].map { (id, $0) } } }
    package func hasRecords(ofPod uid: String) -> Bool { known.keys.contains { $0.podUID == uid } }

    package func save(_ mark: NodeMark) throws {
        guard mark != node else { return }
        try records.save(NodeRecords.Node(revision: mark.revision, heard: mark.heardMilliseconds, serverOffset: mark.serverOffsetMilliseconds))
        node = mark
    }

    // MARK: observing

    /// The mount table, the directories, and what is remembered of them; the table wins.
    package func observe() throws -> (volumes: [ObservedVolume], strays: [StrayMount]) {
        let base = root.path + "/pods/"
        var mounts: [VolumeID: ObservedMount] = [:]
        var owners: [VolumeID: String] = [:]
        var strays: [StrayMount] = []
        for entry in try MountTable.read() where entry.point.hasPrefix(base) {
            let parts = entry.point.dropFirst(base.count).split(separator: "/", omittingEmptySubsequences: false).map(String.init)
            if parts.count == 2, let id = VolumeID(podUID: parts[0], volume: parts[1]) {
                // Later rows lie on top of earlier ones.
                owners[id] = String(entry.source.dropFirst(MountEntry.sourcePrefix.count))
                mounts[id] = entry.isOurs ? .ours : .foreign("\(entry.type) of \(entry.source)")
            } else if entry.isOurs {
                strays.append(StrayMount(mountID: entry.id, path: entry.point))
            }
        }
        for id in try directories() where mounts[id] == nil { mounts[id] = ObservedMount.none }
        for id in known.keys where mounts[id] == nil { mounts[id] = ObservedMount.none }
        let volumes = mounts.sorted { $0.key < $1.key }.map { id, mount in
            ObservedVolume(id: id, mount: mount, owner: owners[id] ?? "", record: known[id], failure: failures[id])
        }
        return (volumes, strays.sorted { $0.path < $1.path })
    }

    private func directories() throws -> [VolumeID] {
        var found: [VolumeID] = []
        for uid in try root.pods.names() where VolumeNames.isPodUID(uid) {
            guard let pod = try? root.pods.open(uid, Descriptor.pathOnly, resolve: Resolve.sameMount) else { continue }
            let names = try pod.names()
            if names.isEmpty { try? root.pods.remove(uid, directory: true) }
            found += names.compactMap { VolumeID(podUID: uid, volume: $0) }
        }
        return found
    }

    // MARK: after a start

    /// Everything of ours that stands is looked at again: tmpfs and never swapped, nothing in it but the current version, and
    /// that with the content that the record names. What does not fit loses its record, and is written anew when the server
    /// wants it. Nothing is removed here but unfinished and superseded versions.
    private func adopt() throws {
        for volume in try observe().volumes where volume.mount == .ours {
            do {
                var work = self.work(on: volume.id)
                guard try work.recoverHandle() else { continue }
                try work.verify()
                try work.clearUnfinished(keeping: [])
                guard var record = volume.record else { continue }
                if try work.matches(record.shape, fingerprint: { self.records.fingerprint($0) }) {
                    guard !record.retired.isEmpty else { continue }
                    record.retired = []
                    try remember(record, for: volume.id)
                } else {
                    try forget(volume.id)
                }
            } catch is VerificationFailure {
                // It may be swapped: not to be kept as it is. The plan sees a volume without a record.
                try forget(volume.id)
            } catch {
                failures[volume.id] = VolumeFailure(message: "\(error)", retryMilliseconds: 0)
            }
        }
    }

    private func remember(_ record: VolumeRecord, for id: VolumeID) throws {
        try records.save(record, for: id)
        known[id] = record
    }
    private func forget(_ id: VolumeID) throws {
        try records.drop(id)
        known[id] = nil
    }

    // MARK: acting

    /// Carries out one action. A failure is remembered, with the time before which it is not tried again.
    package func perform(_ action: MountAction, secrets: SecretLookup) throws {
        do {
            try run(action, secrets)
            if let id = action.volume {
                failures[id] = nil
                failureCounts[id] = nil
            }
        } catch let crash as CrashRequest {
            throw crash
        } catch {
            guard let id = action.volume else { throw error }
            let count = failureCounts[id, default: 0] + 1
            failureCounts[id] = count
            let pause = min(Int64(100) << Int64(min(count, 9)), 30_000)
            failures[id] = VolumeFailure(message: "\(error)", retryMilliseconds: clinux_boot_milliseconds() + pause)
            throw error
        }
    }

    private func work(on id: VolumeID) -> VolumeWork {
        versionCount += 1
        return VolumeWork(id: id, noswap: noswap, pods: root.pods, version: VersionName.make(at: Date(), count: versionCount))
    }

    private func run(_ action: MountAction, _ secrets: SecretLookup) throws {
        switch action {
        case .create(let id, let record, let layout):
            do {
                try write(action, id, record, layout, secrets)
            } catch let error where !(error is CrashRequest) {
                removeEmptyDirectories(of: id)
                throw error
            }
        case .update(let id, let record, let layout):
            do {
                try write(action, id, record, layout, secrets)
            } catch is VerificationFailure {
                // What stands may be swapped: it goes, and is made anew.
                try run(.remove(id, .drained), secrets)
            }
        case .note(let id, let record): try step(.record) { try remember(record, for: id) }
        case .wipeVersions(let id, let names): try wipeVersions(action, id, names)
        case .remove(let id, _): try remove(action, id)
        case .removeStray(let stray): try removeStray(action, stray)
        }
    }

    private func step(_ step: MountStep, _ body: () throws -> Void) throws {
        try crashPoint(step)
        try body()
    }

    private func write(_ action: MountAction, _ id: VolumeID, _ record: VolumeRecord, _ layout: VolumeLayout, _ secrets: SecretLookup) throws {
        var work = self.work(on: id)
        var record = record
        let old = known[id]
        for step in action.steps {
            try crashPoint(step)
            switch step {
            case .makeDirectory: try work.makeDirectory()
            case .makeFileSystem: try work.makeFileSystem(record)
            case .verify: try work.verify()
            case .writeVersion: try work.writeVersion(layout, secrets)
            case .linkCurrent:
                if let superseded = try work.currentVersion() {
                    let due = clinux_boot_milliseconds() + options.policy.versionGraceMilliseconds
                    record.retired.append(RetiredVersion(name: superseded, dueMilliseconds: due))
                }
                try work.linkCurrent(layout.shape)
            case .makeReadOnlyClone: try work.makeReadOnlyClone()
            case .attach: try work.attach()
            case .verifyAttached: try work.verifyAttached()
            case .recoverHandle:
                guard try work.recoverHandle() else { throw PlaceRefusal("the mount of \(id) is gone") }
            case .clearUnfinished: try work.clearUnfinished(keeping: record.retired.map(\.name))
            case .grow: try work.grow(to: layout.shape, from: old?.shape, standing: record.retired.count + 1)
            case .unlinkOldNames: try work.unlinkOldNames(layout.shape)
            case .record: try remember(record, for: id)
            case .overwrite, .truncate, .unlink, .unmount, .removeDirectory, .dropRecord: preconditionFailure("no step of a write")
            }
        }
    }

    private func wipeVersions(_ action: MountAction, _ id: VolumeID, _ names: [String]) throws {
        var work = self.work(on: id)
        guard var record = known[id] else { return }
        for step in action.steps {
            try crashPoint(step)
            switch step {
            case .recoverHandle: try work.recoverHandle()
            case .overwrite: try work.wipe(.overwrite, names)
            case .truncate: try work.wipe(.truncate, names)
            case .unlink: try work.wipe(.unlink, names)
            default:
                record.retired.removeAll { names.contains($0.name) }
                try remember(record, for: id)
            }
        }
    }

    private func remove(_ action: MountAction, _ id: VolumeID) throws {
        var work = self.work(on: id)
        for step in action.steps {
            try crashPoint(step)
            switch step {
            case .recoverHandle: try work.recoverHandle()
            case .overwrite: try work.wipe(.overwrite, nil)
            case .truncate: try work.wipe(.truncate, nil)
            case .unlink: try work.wipe(.unlink, nil)
            case .unmount: try work.unmount()
            case .removeDirectory: try work.removeDirectory()
            default: try forget(id)
            }
        }
    }

    /// A stray lies somewhere below `pods` under a name that is no volume's.
    private func removeStray(_ action: MountAction, _ stray: StrayMount) throws {
        let base = root.path + "/pods/"
        guard stray.path.hasPrefix(base) else { throw PlaceRefusal("the mount is not below the root") }
        var components = stray.path.dropFirst(base.count).split(separator: "/").map(String.init)
        guard let name = components.popLast() else { throw PlaceRefusal("the mount is not below the root") }
        let parent = components.isEmpty ? try root.pods.open(".", Descriptor.pathOnly)
            : try root.pods.open(components.joined(separator: "/"), Descriptor.pathOnly)
        let handle: Descriptor
        do {
            let place = try parent.open(name, Descriptor.pathOnly)
            guard let entry = try MountTable.entry(of: place), entry.isOurs, entry.id == stray.mountID else {
                throw PlaceRefusal("the mount is no longer there")
            }
            handle = try TemporaryFileSystem.writableClone(of: place)
        }
        for step in action.steps {
            try crashPoint(step)
            switch step {
            case .overwrite: for child in try handle.names() { try VersionTree.wipe(.overwrite, child, in: handle) }
            case .truncate: for child in try handle.names() { try VersionTree.wipe(.truncate, child, in: handle) }
            case .unlink: for child in try handle.names() { try VersionTree.wipe(.unlink, child, in: handle) }
            case .unmount: try TemporaryFileSystem.unmount(name, in: parent)
            default: break
            }
        }
    }

    /// After a create that failed before its mount was attached: no empty directory is left to wonder about.
    private func removeEmptyDirectories(of id: VolumeID) {
        guard let pod = try? root.pods.open(id.podUID, Descriptor.pathOnly, resolve: Resolve.sameMount) else { return }
        try? pod.remove(id.volume, directory: true)
        try? root.pods.remove(id.podUID, directory: true)
    }
}

/// Thrown by a crash point that stands for a kill: the engine unwinds without doing anything more.
package struct CrashRequest: Error {
    package var step: MountStep
    package init(_ step: MountStep) { self.step = step }
}

enum VersionName {
    /// `..2026_11_23_19_03_00.` and a number, as the kubelet names its versions.
    static func make(at date: Date, count: Int) -> String {
        var noise = SystemRandomNumberGenerator()
        let parts = Calendar(identifier: .gregorian).dateComponents(in: .gmt, from: date)
        let numbers = [parts.year, parts.month, parts.day, parts.hour, parts.minute, parts.second].map { number in
            let text = String(number ?? 0)
            return text.count < 2 ? "0" + text : text
        }
        return ".." + numbers.joined(separator: "_") + ".\(UInt32.random(in: 0...UInt32.max, using: &noise))\(count)"
    }
}

/// `/proc/swaps`.
enum SwapAreas {
    static func list() throws(SystemFailure) -> [String] {
        let file = try Descriptor(unsafe open("/proc/swaps", O_RDONLY | O_CLOEXEC), "reading /proc/swaps")
        let lines = String(decoding: try file.readAll(max: 1 << 20), as: UTF8.self).split(separator: "\n").dropFirst()
        return lines.compactMap { $0.split(separator: " ").first.map(String.init) }
    }
    /// Unknown counts as swap.
    static var isNone: Bool { (try? list())?.isEmpty ?? false }
}
