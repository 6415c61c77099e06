import Faults
import Synchronization

/// What is done to daemons while clients use them.
package enum Fault: String, Sendable, CaseIterable {
    // The process
    case kill, terminate, stop, blockedLog
    // The disk; what was not synced is lost with the power of one member, or of all at once (see `DiskKind`)
    case failingSync, slowSync, fullDisk, powerCut, blackout, bitRot
    // The clock
    case clockJump
    // The network
    case cutClients, holdClients, cutPeers, holdPeers, losePackets
    // The cluster
    case membership, moveLeader

    /// Those of one kind hurt one after the other, those of different kinds at the same time.
    enum Kind: CaseIterable { case member, network, cluster }
    var kind: Kind {
        switch self {
        case .kill, .terminate, .stop, .blockedLog, .failingSync, .slowSync, .fullDisk, .powerCut, .blackout, .bitRot, .clockJump: .member
        case .cutClients, .holdClients, .cutPeers, .holdPeers, .losePackets: .network
        case .membership, .moveLeader: .cluster
        }
    }
}

/// What members keep their files on.
package enum DiskKind: String, Sendable, CaseIterable {
    /// By a loop device. Without power it has what its journal has.
    case ext4
    /// FUSE. Without power it has what was synced, and any part of the rest.
    case lossy
}

/// A deliberate fault of the server itself, or of what it stands on, to show that this program notices one.
package enum Plant: String, Sendable, CaseIterable {
    /// It acknowledges what it has not synced; the power is cut now and then.
    case lyingSyncs
    /// The disk says so of what it has not.
    case lyingDisk
    /// Now and then it goes on with the disk that it had some time ago.
    case oldDisk
}

/// What was done, and what came of it.
final class Tally: Sendable {
    private struct Content {
        var counts: [Fault: Int] = [:]
        var recoveries: [Double] = []
        var notes: [String] = []
        var under = 0
        var most = 0
    }
    private let content = Mutex(Content())
    func began(_ fault: Fault) {
        content.withLock { content in
            content.counts[fault, default: 0] += 1
            content.under += 1
            content.most = max(content.most, content.under)
        }
    }
    func ended() { content.withLock { $0.under -= 1 } }
    func recovered(milliseconds: Double) { content.withLock { $0.recoveries.append(milliseconds) } }
    func note(_ text: String) { content.withLock { $0.notes.append(text) } }
    var counts: [Fault: Int] { content.withLock { $0.counts } }
    var recoveries: [Double] { content.withLock { $0.recoveries.sorted() } }
    var notes: [String] { content.withLock { $0.notes } }
    /// Faults at the same time, at most.
    var most: Int { content.withLock { $0.most } }
}
