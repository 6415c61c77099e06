import Basics
import MVCC
import ReplicaService
import Sealing
import Synchronization

/// Which values are being looked after, and for which nobody can do anything.
struct DoubtedValues: Sendable {
    static let underWayMax = 64
    static let hopelessMax = 4_096
    /// By stored key.
    var underWay: Set<Bytes> = []
    /// Revisions whose value is the same at other members.
    var hopeless: Set<Revision> = []
}

extension Barrier {
    /// A value that was read here does not open. Was it damaged here, another member has it whole: it is fetched and takes the damaged one's
    /// place, while everything goes on; whoever asks again finds it. Is it the same elsewhere (its key was destroyed), it stays as it is.
    func doubt(_ value: SealedValue, storedKey: Bytes) {
        guard service.hasPeers else { return }
        let begins = doubted.withLock { doubted in
            doubted.underWay.count < DoubtedValues.underWayMax && doubted.underWay.insert(storedKey).inserted
        }
        guard begins else { return }
        Task { [self] in
            await repair(value, storedKey: storedKey)
            doubted.withLock { _ = $0.underWay.remove(storedKey) }
        }
    }

    private func repair(_ value: SealedValue, storedKey: Bytes) async {
        guard let versions = try? await service.versions(of: storedKey, holding: value) else { return }
        for version in versions where !doubted.withLock({ $0.hopeless.contains(version.revision) }) {
            let outcome = await service.repair(version, holding: value) { fetched in
                (try? self.keyring.open(fetched, key: storedKey)) != nil
            }
            guard outcome == .sameElsewhere else { continue }
            doubted.withLock { doubted in
                if doubted.hopeless.count >= DoubtedValues.hopelessMax { doubted.hopeless.removeAll() }
                doubted.hopeless.insert(version.revision)
            }
        }
    }
}
