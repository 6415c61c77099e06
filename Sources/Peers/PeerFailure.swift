/// Why a connection to or from a peer ended, or never was.
package enum PeerFailure: Error, Equatable, Sendable, CustomStringConvertible {
    /// The other side said why.
    case refused(PeerRefusal)
    /// We said why.
    case refusing(PeerRefusal)
    case violation(PeerViolation)
    case tls(String)
    case unreachable(String)
    case noGreeting
    case closed
    /// What comes and goes while members start and stop.
    var isExpected: Bool {
        switch self {
        case .closed, .unreachable: true
        case .refused(let refusal), .refusing(let refusal): refusal.reason == .notReady
        case .violation, .tls, .noGreeting: false
        }
    }
    package var description: String {
        switch self {
        case .refused(let refusal): "refused by the peer: \(refusal)"
        case .refusing(let refusal): "refused: \(refusal)"
        case .violation(let violation): "the peer sent \(violation)"
        case .tls(let reason): "TLS: \(reason)"
        case .unreachable(let reason): "unreachable: \(reason)"
        case .noGreeting: "no greeting within \(PeerLimits.greetingSeconds) s"
        case .closed: "closed"
        }
    }
}
