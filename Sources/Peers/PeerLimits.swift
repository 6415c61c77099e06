/// The bounds of the peer lane.
package enum PeerLimits {
    /// A frame: an append of the largest entry (half a frame of the log), with its head, several times over.
    package static let frameBytesMax = 16 << 20
    /// Before the other side is known to be a member of this cluster it may say its greeting, and no more.
    package static let greetingBytesMax = 8 << 10
    /// Messages are gathered into one frame up to here: what is written while the network takes them.
    static let gatheredBytesMax = 1 << 20
    /// What waits for one peer. Raft sends again what is dropped.
    package static let queuedBytesMax = 64 << 20
    package static let queuedMessagesMax = 16_384
    /// From the connection to the accepted greeting, TLS included.
    static let greetingSeconds: Int64 = 5
    /// A peer that acknowledges nothing for so long is connected to anew.
    static let unacknowledgedMilliseconds: Int32 = 5_000
    /// A peer that says nothing for so long, though it could, is given up; each says something three times as often. As etcd.
    static let silenceMilliseconds: Int64 = 5_000
    static let pingMilliseconds: Int64 = 5_000 / 3
    static let connectSeconds: Int64 = 3
    static let backoffMillisecondsMin: Int64 = 20
    static let backoffMillisecondsMax: Int64 = 1_000
    package static let inboundConnectionsMax = 256
    static let urlsMax = 8
    static let textBytesMax = 1_024
    /// The largest is one value.
    static let answerBytesMax = 4 << 20
    static let requestSeconds: Int64 = 10
    /// How often certificate files are looked at.
    static let reloadSeconds: Int64 = 1
    static let snapshotChunkBytes = 256 << 10
}
