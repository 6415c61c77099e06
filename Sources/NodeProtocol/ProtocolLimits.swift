import Basics

/// Bounds of one stream and its requests, each with its reason.
package enum ProtocolLimits {
    package static let version: UInt16 = 1
    /// One secret of 1 MiB with all its names fits, and little more: a receiver never buffers more than this.
    package static let frameBytesMax = 4 << 20
    /// Kubernetes' bound on object names; namespaces and keys are no longer.
    package static let nameBytesMax = 253
    package static let uidBytesMax = 128
    /// Linux' PATH_MAX is 4,096, and the mount point comes before it.
    package static let pathBytesMax = 1_024
    package static let reasonBytesMax = 1_024
    package static let podsMax = Limits.podsPerNodeMax
    /// Far above what Kubernetes nodes carry; a bound on counts, not on practice.
    package static let volumesPerPodMax = 256
    package static let sourcesPerVolumeMax = 256
    package static let itemsPerSourceMax = 10_000
    /// The same bound, for the keys of one secret: 1 MiB in keys of a hundred bytes.
    package static let keysPerSecretMax = 10_000
    package static let secretsMax = 20_000
    package static let acknowledgementsMax = 10_000
    /// A body of `sync` or `acks`: ten thousand entries of four names.
    package static let requestBytesMax = 16 << 20
}
