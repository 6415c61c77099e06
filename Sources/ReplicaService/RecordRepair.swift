package import Basics
import Logging
package import MVCC
import Replica
import Storage
import Synchronization

/// Values that other members sent in the place of damaged ones here, on their way to the replica's thread.
struct Replacement: Sendable {
    var version: KeyVersion
    var damaged: SealedValue
    var value: SealedValue
    var completion: @Sendable (Bool) -> Void
}

// One value is damaged, and everything around it is well: it alone is fetched from another member, while all goes on.
extension ReplicaService {
    package enum RepairOutcome: Hashable, Sendable {
        case repaired
        /// Somebody who was asked holds the very same.
        case sameElsewhere
        /// Nobody to ask, or nobody who answers with anything better.
        case noHelp
    }

    /// The versions of a key, in the order of their revisions, whose record holds exactly `value`.
    package func versions(of key: Bytes, holding value: SealedValue) async throws(ReplicaError) -> [KeyVersion] {
        let versions = try await inspect { store in
            let from = max(1, store.compactRevision)
            let history = (try? store.changes(in: KeyRange(key), from: from, through: store.revision, limit: 4_096))?.events.map(\.version) ?? []
            return history + (store.version(of: key).map { [$0] } ?? [])
        }
        var found: [KeyVersion] = []
        for version in versions where !found.contains(where: { $0.revision == version.revision }) {
            if let stored = try? sealedValue(of: version), stored == value { found.append(version) }
        }
        return found
    }

    /// What is stored for `version` is `damaged`: the others are asked, one after the other, until one has another value that `opens`, which
    /// takes the damaged one's place, here and on the disk.
    package func repair(_ version: KeyVersion, holding damaged: SealedValue, opens: @Sendable (SealedValue) -> Bool) async -> RepairOutcome {
        guard let lane else { return .noHelp }
        var outcome = RepairOutcome.noHelp
        let own = status().member
        for member in members() where member.id != own {
            guard let value = try? await lane.value(at: version.revision, from: member.id) else { continue }
            if value == damaged { outcome = .sameElsewhere }
            guard value != damaged, opens(value) else { continue }
            let isDone = await withCheckedContinuation { continuation in
                let replacement = Replacement(version: version, damaged: damaged, value: value) { continuation.resume(returning: $0) }
                let isAbandoned = shared.mailbox.change { mailbox in
                    if !mailbox.isAbandoned { mailbox.mail.replacements.append(replacement) }
                    return mailbox.isAbandoned
                }
                if isAbandoned { replacement.completion(false) }
            }
            return isDone ? .repaired : .noHelp
        }
        return outcome
    }
}

extension ReplicaThread {
    /// Unless another value took the damaged one's place meanwhile.
    func replace(_ replacement: Replacement) {
        let revision = replacement.version.revision
        var stored: SealedValue?
        if case .sealed(let value)? = shared.overlay[revision] { stored = value } else if shared.overlay[revision] == nil { stored = try? records.read([revision])[0] }
        guard failure == nil, stored == replacement.damaged, replica.restore(Record(version: replacement.version, value: .sealed(replacement.value))) else {
            return replacement.completion(false)
        }
        shared.overlay.insert([Record(version: replacement.version, value: .sealed(replacement.value))])
        logger.warning("a damaged value was fetched from another member", metadata: ["revision": "\(revision.main)"])
        replacement.completion(true)
    }
}
