import RPC

/// Why a request was not answered. What the code says of a write's fate holds: only `.outcomeUnknown` and `.unreadable` leave it open.
public struct CofferClientError: Error, Sendable, Hashable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// The configuration cannot be used: an endpoint that is none, certificates that cannot be read.
        case cannotConnect
        /// No member served the request in time. It was not carried out; or it was a read.
        case unavailable
        /// The request left and no answer came. It may have been carried out, or be carried out yet: read before you repeat it.
        case outcomeUnknown
        case conditionFailed
        case notFound
        case alreadyExists
        /// The name, value or request is not one that can be.
        case invalid
        /// That revision was compacted (`revision` says up to where, if the server did), or is yet to come.
        case revisionGone
        /// A value that the member could not open: damaged, or its key was destroyed.
        case unreadable
        /// The store takes no more: a quota or a bound is reached.
        case full
        /// The client's identity may not do this.
        case forbidden
        /// The server does not know this request.
        case unsupported
        /// The client was closed, or its task cancelled, before the request left.
        case cancelled
        case outOfMemory
    }
    public let code: Code
    /// For people. Never contains a value.
    public let message: String
    /// With `.revisionGone`: history before this revision was compacted. 0: not known.
    public let revision: Int64
    init(_ code: Code, _ message: String, revision: Int64 = 0) { self.code = code; self.message = message; self.revision = revision }
    public var description: String { message }

    /// A refusal that no retry would change.
    init(refusal status: Status) {
        let code: Code = switch status.code {
        case .notFound: .notFound
        case .alreadyExists: .alreadyExists
        case .failedPrecondition where status.message.hasSuffix("already exists"): .alreadyExists
        case .outOfRange where status.message.hasSuffix("lease TTL"): .invalid
        case .outOfRange: .revisionGone
        case .permissionDenied, .unauthenticated: .forbidden
        case .unimplemented: .unsupported
        case .resourceExhausted where status.message.hasPrefix("grpc:"): .invalid
        case .resourceExhausted: .full
        case .dataLoss: .unreadable
        case .ok, .cancelled, .unknown, .deadlineExceeded, .aborted, .internal, .unavailable: .unavailable
        case .invalidArgument, .failedPrecondition: .invalid
        }
        self.init(code, status.message)
    }
}
