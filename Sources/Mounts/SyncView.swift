import Basics
package import NodeProtocol

/// What this node believes of the server's state: the gate before every plan.
///
/// Invariants:
/// 1. The revision never goes back; it is kept across restarts, and a stream that begins below it is refused.
/// 2. A view is only ever whole: a snapshot, or one continued by deltas without a gap.
/// 3. A view without pods counts only when it is newer than what was last seen: an emptied or wrong server at the same
///    revision wipes nothing.
/// 4. A secret is held only while a consumer on this node names it; otherwise it is let go, and with that wiped.
package struct SyncView: Sendable {
    package private(set) var desired: DesiredState?
    /// A stream has told its state and lives.
    package private(set) var isConnected = false
    /// The greatest complete revision seen, in this run or an earlier one.
    package private(set) var revision: Int64
    /// When the server was last heard, in local milliseconds.
    package private(set) var heardMilliseconds: Int64
    /// Server time less local time, as last told.
    package private(set) var serverOffsetMilliseconds: Int64
    /// Secrets that the server told and this node let go since the last snapshot: the server does not know that they are not here.
    private var letGo: Set<SecretName> = []
    /// The node is drained: whatever is told, no secret is kept.
    private var keepsNothing = false

    package init(revision: Int64, heardMilliseconds: Int64, serverOffsetMilliseconds: Int64) {
        self.revision = revision; self.heardMilliseconds = heardMilliseconds; self.serverOffsetMilliseconds = serverOffsetMilliseconds
    }

    package enum Verdict: Equatable, Sendable {
        /// The view changed; plan again.
        case accepted
        /// Nothing changed but that the server lives.
        case heard
        /// Leave this server and ask again later.
        case refused(String)
    }

    package func now(localMilliseconds: Int64) -> NodeTime {
        let (server, overflow) = localMilliseconds.addingReportingOverflow(serverOffsetMilliseconds)
        return NodeTime(localMilliseconds: localMilliseconds, serverMilliseconds: overflow ? .max : server)
    }

    package mutating func receive(_ message: SyncMessage, localMilliseconds: Int64, mountedVolumes: Int) -> Verdict {
        switch message {
        case .snapshot(let state):
            guard state.revision >= revision || Mutant.isActive(.olderViewAccepted) else {
                return .refused("the server is at revision \(state.revision), older than \(revision) which was seen before")
            }
            if state.pods.isEmpty, desired?.pods.isEmpty != true, mountedVolumes > 0, state.revision == revision {
                return .refused("the server knows no pods at revision \(revision), at which there were some")
            }
            letGo = []
            accept(state, localMilliseconds)
            return .accepted
        case .delta(let delta):
            guard isConnected, let desired else { return .refused("a change came before the state it changes") }
            do {
                let next = try desired.applying(delta)
                letGo.subtract(delta.secrets.map(\.identity))
                letGo.subtract(delta.removedSecrets)
                if !keepsNothing, let wanted = Self.wanted(in: next, at: now(localMilliseconds: localMilliseconds)).first(where: letGo.contains) {
                    // Its last consumer's grace ended here a moment before a new one came there: only a snapshot brings it back.
                    return .refused("secret \(wanted.namespace)/\(wanted.name) was let go and is wanted again")
                }
                accept(next, localMilliseconds)
                return .accepted
            } catch {
                return .refused("\(error)")
            }
        case .heartbeat(let told, let time):
            guard isConnected, let current = desired, told >= current.revision else {
                return .refused("a heartbeat at revision \(told) without the state before it")
            }
            desired?.revision = told
            revision = max(revision, told)
            hear(serverTime: time, localMilliseconds)
            return .heard
        case .goodbye(let reason):
            return .refused("the server ends the stream: \(reason)")
        }
    }

    private mutating func accept(_ state: DesiredState, _ localMilliseconds: Int64) {
        revision = max(revision, state.revision)
        desired = state
        isConnected = true
        hear(serverTime: state.serverTimeMilliseconds, localMilliseconds)
        release(at: now(localMilliseconds: localMilliseconds))
    }

    private mutating func hear(serverTime: Int64, _ localMilliseconds: Int64) {
        heardMilliseconds = max(heardMilliseconds, localMilliseconds)
        let (offset, overflow) = serverTime.subtractingReportingOverflow(localMilliseconds)
        if !overflow { serverOffsetMilliseconds = offset }
    }

    /// Lets go of secrets without a consumer; answers those that are left, sorted.
    @discardableResult
    package mutating func release(at now: NodeTime) -> [SecretName] {
        guard var state = desired else { return [] }
        let named = keepsNothing ? [] : Set(Self.wanted(in: state, at: now))
        for secret in state.secrets where !named.contains(secret.identity) { letGo.insert(secret.identity) }
        state.secrets.removeAll { !named.contains($0.identity) }
        desired = state
        return state.secrets.map(\.identity).sorted()
    }

    /// From now on, without a way back.
    package mutating func keepNothing(at now: NodeTime) {
        keepsNothing = true
        release(at: now)
    }

    /// What consumers mount, in the order of their volumes.
    private static func wanted(in state: DesiredState, at now: NodeTime) -> [SecretName] {
        var names: [SecretName] = []
        for pod in consumers(in: state, at: now) {
            for volume in pod.volumes {
                for case .secret(let source) in volume.sources { names.append(SecretName(namespace: pod.namespace, name: source.secretName)) }
            }
        }
        return names
    }

    /// The stream is gone. The last good view stays: what is mounted does, and pods that ended in it still go;
    /// nothing new is made of it until a server tells its state again.
    package mutating func disconnect() { isConnected = false }
}

extension DesiredPod {
    /// One that is not being deleted is.
    func isWithinGrace(at serverMilliseconds: Int64) -> Bool {
        guard let deadline = graceDeadlineMilliseconds else { return true }
        return serverMilliseconds < deadline || Mutant.isActive(.graceNeverEnds)
    }
}
