package import SecretMemory

/// What the server wants on one node, complete at one revision: the pods bound to it that may still consume secrets, and
/// once per secret that they are entitled to, its data. The node never names a secret; what it may have is computed for it.
///
/// Times are the server's, in milliseconds since 1970; every transfer and heartbeat carries the server's present time, so
/// that a node with a wrong clock still ends a termination grace when the server means it to end.
package struct DesiredState: Sendable, Equatable {
    package var revision: Int64
    package var serverTimeMilliseconds: Int64
    /// Unique by uid.
    package var pods: [DesiredPod]
    /// Unique by namespace and name.
    package var secrets: [DeliveredSecret]
    package init(revision: Int64, serverTimeMilliseconds: Int64, pods: [DesiredPod] = [], secrets: [DeliveredSecret] = []) {
        self.revision = revision; self.serverTimeMilliseconds = serverTimeMilliseconds; self.pods = pods; self.secrets = secrets
    }
}

/// What changed from one revision to another.
package struct DesiredDelta: Sendable, Equatable {
    package var fromRevision: Int64
    package var revision: Int64
    package var serverTimeMilliseconds: Int64
    package var pods: [DesiredPod]
    package var removedPodUIDs: [String]
    package var secrets: [DeliveredSecret]
    package var removedSecrets: [SecretName]
    package init(fromRevision: Int64, revision: Int64, serverTimeMilliseconds: Int64, pods: [DesiredPod] = [], removedPodUIDs: [String] = [],
                 secrets: [DeliveredSecret] = [], removedSecrets: [SecretName] = []) {
        self.fromRevision = fromRevision; self.revision = revision; self.serverTimeMilliseconds = serverTimeMilliseconds
        self.pods = pods; self.removedPodUIDs = removedPodUIDs; self.secrets = secrets; self.removedSecrets = removedSecrets
    }
}

package enum PodPhase: UInt8, Sendable, CaseIterable {
    case pending = 1, running, succeeded, failed, unknown
}

package struct DesiredPod: Sendable, Equatable {
    package var namespace: String
    package var name: String
    package var uid: String
    package var phase: PodPhase
    /// Set once the pod is being deleted: when its grace ends, capped by the server.
    package var graceDeadlineMilliseconds: Int64?
    /// `spec.securityContext.fsGroup`.
    package var fsGroup: UInt32?
    package var volumes: [DesiredVolume]
    package init(namespace: String, name: String, uid: String, phase: PodPhase, graceDeadlineMilliseconds: Int64? = nil,
                 fsGroup: UInt32? = nil, volumes: [DesiredVolume] = []) {
        self.namespace = namespace; self.name = name; self.uid = uid; self.phase = phase
        self.graceDeadlineMilliseconds = graceDeadlineMilliseconds; self.fsGroup = fsGroup; self.volumes = volumes
    }
}

/// A volume with at least one secret in it, or a projected one: a plain `secret` volume has one source, a `projected` one several.
package struct DesiredVolume: Sendable, Equatable {
    /// Kubernetes' default, when the manifest names none.
    package static let defaultModeBits: UInt16 = 0o644
    package var name: String
    package var defaultMode: UInt16
    package var sources: [VolumeSource]
    package init(name: String, defaultMode: UInt16 = DesiredVolume.defaultModeBits, sources: [VolumeSource]) {
        self.name = name; self.defaultMode = defaultMode; self.sources = sources
    }
}

package enum VolumeSource: Sendable, Equatable {
    case secret(SecretSource)
    /// A source that this agent does not do (`configMap`, `downwardAPI`, …): carried so that it can be refused by name.
    case unsupported(kind: String)
}

package struct SecretSource: Sendable, Equatable {
    package var secretName: String
    /// Empty: every key, under its own name.
    package var items: [KeyToPath]
    package var isOptional: Bool
    package init(secretName: String, items: [KeyToPath] = [], isOptional: Bool = false) {
        self.secretName = secretName; self.items = items; self.isOptional = isOptional
    }
}

package struct KeyToPath: Sendable, Equatable {
    package var key: String
    package var path: String
    package var mode: UInt16?
    package init(key: String, path: String, mode: UInt16? = nil) { self.key = key; self.path = path; self.mode = mode }
}

package struct SecretName: Sendable, Hashable, Comparable {
    package var namespace: String
    package var name: String
    package init(namespace: String, name: String) { self.namespace = namespace; self.name = name }
    package static func < (a: SecretName, b: SecretName) -> Bool { (a.namespace, a.name) < (b.namespace, b.name) }
}

package struct DeliveredSecret: Sendable, Equatable {
    package var namespace: String
    package var name: String
    package var uid: String
    /// The modification revision, as `metadata.resourceVersion` tells it.
    package var resourceVersion: Int64
    package var content: SecretContent
    package init(namespace: String, name: String, uid: String, resourceVersion: Int64, content: SecretContent) {
        self.namespace = namespace; self.name = name; self.uid = uid; self.resourceVersion = resourceVersion; self.content = content
    }
    package var identity: SecretName { SecretName(namespace: namespace, name: name) }
}

package enum SecretContent: Sendable, Equatable {
    case data([SecretEntry])
    /// The store has it and cannot open it. What is mounted stays; nothing new is.
    case unreadable(reason: String)
    /// Wipe it wherever it is, though pods still want it.
    case revoked
}

package struct SecretEntry: Sendable, Equatable {
    package var key: String
    package var value: SecretValue
    package init(key: String, value: SecretValue) { self.key = key; self.value = value }
}

/// A delta that does not begin where the state is.
package struct DeltaMismatch: Error, Equatable, CustomStringConvertible {
    package var expected: Int64
    package var got: Int64
    package init(expected: Int64, got: Int64) { self.expected = expected; self.got = got }
    package var description: String { "a change from revision \(got) does not continue revision \(expected)" }
}

extension DesiredState {
    /// The state after `delta`. The order of what stays is kept; what is new goes last.
    package func applying(_ delta: DesiredDelta) throws(DeltaMismatch) -> DesiredState {
        guard delta.fromRevision == revision, delta.revision >= revision else { throw DeltaMismatch(expected: revision, got: delta.fromRevision) }
        let goneUIDs = Set(delta.removedPodUIDs), goneSecrets = Set(delta.removedSecrets)
        var next = DesiredState(revision: delta.revision, serverTimeMilliseconds: delta.serverTimeMilliseconds)
        next.pods = Self.merge(pods.filter { !goneUIDs.contains($0.uid) }, delta.pods, by: \.uid)
        next.secrets = Self.merge(secrets.filter { !goneSecrets.contains($0.identity) }, delta.secrets, by: \.identity)
        return next
    }

    private static func merge<Element, Key: Hashable>(_ old: [Element], _ new: [Element], by key: (Element) -> Key) -> [Element] {
        var merged = old
        var places: [Key: Int] = [:]
        for (place, element) in merged.enumerated() { places[key(element)] = place }
        for element in new {
            if let place = places[key(element)] {
                merged[place] = element
            } else {
                places[key(element)] = merged.count
                merged.append(element)
            }
        }
        return merged
    }
}
