import Basics

/// What must be done on the node. Every action can be repeated after it was cut off anywhere.
package enum MountAction: Hashable, Sendable {
    case create(VolumeID, VolumeRecord, VolumeLayout)
    case update(VolumeID, VolumeRecord, VolumeLayout)
    /// The content stands; what is known of it changes.
    case note(VolumeID, VolumeRecord)
    /// Superseded versions whose grace is over.
    case wipeVersions(VolumeID, [String])
    case remove(VolumeID, RemovalCause)
    /// A mount of ours that belongs to no volume.
    case removeStray(StrayMount)

    package enum RemovalCause: String, Hashable, Sendable, CaseIterable {
        case noConsumer, graceEnded, podReplaced, revoked, stale, drained
    }

    package var volume: VolumeID? {
        switch self {
        case .create(let id, _, _), .update(let id, _, _), .note(let id, _), .wipeVersions(let id, _), .remove(let id, _): id
        case .removeStray: nil
        }
    }

    /// The steps, in their order. Order is data: the shell carries out this list and nothing else, and a test can ask it
    /// whether a byte could come before the verification.
    package var steps: [MountStep] {
        switch self {
        case .create: [.makeDirectory, .makeFileSystem, .verify, .writeVersion, .linkCurrent, .makeReadOnlyClone, .attach, .verifyAttached, .record]
        case .update: [.recoverHandle, .verify, .clearUnfinished, .grow, .writeVersion, .linkCurrent, .unlinkOldNames, .record]
        case .note: [.record]
        case .wipeVersions: [.recoverHandle, .overwrite, .truncate, .unlink, .record]
        case .remove where Mutant.isActive(.wipeSkipped): [.recoverHandle, .unmount, .removeDirectory, .dropRecord]
        case .remove: [.recoverHandle, .overwrite, .truncate, .unlink, .unmount, .removeDirectory, .dropRecord]
        case .removeStray: [.recoverHandle, .overwrite, .truncate, .unlink, .unmount]
        }
    }
}

/// One step of an action; also the labels at which tests kill the process.
package enum MountStep: String, Hashable, Sendable, CaseIterable {
    /// The mount point, below the root, by descriptor and without following a link.
    case makeDirectory
    /// A detached tmpfs: sized, capped, `noswap`, nosuid, nodev, noexec.
    case makeFileSystem
    /// On the descriptor: tmpfs it is, and never swapped. Before the first byte.
    case verify
    case writeVersion
    /// `..data` (and the names beside it) point at the version.
    case linkCurrent
    case makeReadOnlyClone
    case attach
    /// In the mount table: ours, read-only, nosuid, nodev, noexec.
    case verifyAttached
    case record
    /// A writable handle, cloned from the read-only mount.
    case recoverHandle
    /// `..data_tmp` and versions that never became current.
    case clearUnfinished
    case grow
    case unlinkOldNames
    case overwrite
    case truncate
    case unlink
    case unmount
    case removeDirectory
    case dropRecord
}

/// The opaque name that a mount bears in the mount table: of one pod's volume, and saying nothing to a reader.
package enum VolumeOwner {
    /// Two FNV-1a sums over uid, volume, namespace and name. It guards against mix-ups, not against forgers: who can mount is root.
    package static func name(of id: VolumeID, namespace: String, podName: String) -> String {
        let text = [id.podUID, id.volume, namespace, podName].joined(separator: "/")
        var sums: [UInt64] = [0xcbf2_9ce4_8422_2325, 0x6c62_272e_07bb_0142]
        for byte in text.utf8 {
            for place in sums.indices { sums[place] = (sums[place] ^ UInt64(byte)) &* (0x100_0000_01b3 &+ UInt64(place) &* 2) }
        }
        return sums.map { sum in
            let digits = String(sum, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }.joined()
    }
}

/// A mount of this agent's making whose place is no volume's.
package struct StrayMount: Hashable, Sendable {
    package var mountID: UInt64
    package var path: String
    package init(mountID: UInt64, path: String) { self.mountID = mountID; self.path = path }
}

/// A superseded version directory and when it goes, in local milliseconds.
package struct RetiredVersion: Hashable, Sendable {
    package var name: String
    package var dueMilliseconds: Int64
    package init(name: String, dueMilliseconds: Int64) { self.name = name; self.dueMilliseconds = dueMilliseconds }
}

/// What the agent remembers of a volume beside its bytes: ids, revisions, keyed hashes; no value.
package struct VolumeRecord: Hashable, Sendable {
    package var namespace: String
    package var podName: String
    /// Of the view it was last written for.
    package var revision: Int64
    /// In the server's time.
    package var graceDeadlineMilliseconds: Int64?
    package var shape: VolumeShape
    package var holdings: [Holding]
    package var retired: [RetiredVersion]
    package init(namespace: String, podName: String, revision: Int64, graceDeadlineMilliseconds: Int64?, shape: VolumeShape, holdings: [Holding],
                 retired: [RetiredVersion] = []) {
        self.namespace = namespace; self.podName = podName; self.revision = revision; self.graceDeadlineMilliseconds = graceDeadlineMilliseconds
        self.shape = shape; self.holdings = holdings; self.retired = retired
    }
}

/// What is at a volume's place. The mount table says it; records only add to it.
package enum ObservedMount: Hashable, Sendable {
    /// A directory at most.
    case none
    case ours
    /// Something that this agent did not mount. It is never touched.
    case foreign(String)
}

package struct ObservedVolume: Hashable, Sendable {
    package var id: VolumeID
    package var mount: ObservedMount
    /// Who it was made for, as the mount itself says (`VolumeOwner`): known even when the record is lost.
    package var owner: String
    /// Nil after a crash that lost it: then the content is not known, and written anew if it is wanted for the same pod.
    package var record: VolumeRecord?
    /// The last attempt failed; not before `retryMilliseconds`.
    package var failure: VolumeFailure?
    package init(id: VolumeID, mount: ObservedMount, owner: String = "", record: VolumeRecord? = nil, failure: VolumeFailure? = nil) {
        self.id = id; self.mount = mount; self.owner = owner; self.record = record; self.failure = failure
    }
}

package struct VolumeFailure: Hashable, Sendable {
    package var message: String
    package var retryMilliseconds: Int64
    package init(message: String, retryMilliseconds: Int64) { self.message = message; self.retryMilliseconds = retryMilliseconds }
}

/// The node as it is.
package struct ObservedNode: Hashable, Sendable {
    /// Sorted by id.
    package var volumes: [ObservedVolume]
    /// Sorted by path.
    package var strays: [StrayMount]
    /// When the server was last heard, in local milliseconds.
    package var heardMilliseconds: Int64
    /// The view is being kept up to date now. Without that nothing new is materialized; removals go on.
    package var isConnected: Bool
    package init(volumes: [ObservedVolume] = [], strays: [StrayMount] = [], heardMilliseconds: Int64 = 0, isConnected: Bool = true) {
        self.volumes = volumes; self.strays = strays; self.heardMilliseconds = heardMilliseconds; self.isConnected = isConnected
    }
}

/// Two clocks: this machine's, which never goes back, and the server's as last told.
package struct NodeTime: Hashable, Sendable {
    package var localMilliseconds: Int64
    package var serverMilliseconds: Int64
    package init(localMilliseconds: Int64, serverMilliseconds: Int64) {
        self.localMilliseconds = localMilliseconds; self.serverMilliseconds = serverMilliseconds
    }
}

/// The pod's `coffer.dev/SecretsReady` condition.
package struct PodReport: Hashable, Sendable {
    package var podUID: String
    package var namespace: String
    package var podName: String
    package var isReady: Bool
    package var reason: Reason
    package init(podUID: String, namespace: String, podName: String, isReady: Bool, reason: Reason) {
        self.podUID = podUID; self.namespace = namespace; self.podName = podName; self.isReady = isReady; self.reason = reason
    }
}
