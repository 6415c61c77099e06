package import Mounts
import NodeProtocol

/// What the agent says of itself on its socket: names, versions and counts; no value and no hash.
package struct NodeStatus: Codable, Sendable, Equatable {
    package struct Volume: Codable, Sendable, Equatable {
        package var podUID: String
        package var volume: String
        package var namespace: String?
        package var pod: String?
        /// `mounted`, `none` or `foreign`.
        package var state: String
        package var files: Int
        package var bytes: Int
        /// `name@resourceVersion`.
        package var secrets: [String]
        package var retiredVersions: Int
        package var failure: String?

        package init(_ observed: ObservedVolume) {
            podUID = observed.id.podUID; volume = observed.id.volume
            namespace = observed.record?.namespace; pod = observed.record?.podName
            state = switch observed.mount {
            case .none: "none"
            case .ours: observed.record == nil ? "unrecorded" : "mounted"
            case .foreign: "foreign"
            }
            files = observed.record?.shape.files.count ?? 0
            bytes = observed.record?.shape.files.reduce(0) { $0 + $1.byteCount } ?? 0
            secrets = observed.record?.holdings.map { "\($0.secret.name)@\($0.resourceVersion)" } ?? []
            retiredVersions = observed.record?.retired.count ?? 0
            failure = observed.failure?.message
        }
    }
    package struct Report: Codable, Sendable, Equatable {
        package var namespace: String
        package var pod: String
        package var ready: Bool
        package var reason: String
        package var message: String
        package init(_ report: PodReport) {
            namespace = report.namespace; pod = report.podName; ready = report.isReady; reason = report.reason.code.rawValue; message = report.reason.message
        }
    }
    package var node: String
    package var root: String
    package var revision: Int64
    package var isConnected: Bool
    package var isDrained: Bool
    package var isNoswap: Bool
    package var heardMillisecondsAgo: Int64
    package var pods: Int
    package var secretsHeld: Int
    package var volumes: [Volume]
    package var strays: [String]
    package var reports: [Report]
}
