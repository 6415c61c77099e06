package import APIClient
package import Basics
package import Resources

/// One run of a command: what it asks, where it reads and where it writes. Made from flags and the environment, or by a test.
package struct Invocation: Sendable {
    /// Where results go, and where messages go.
    package var output: @Sendable (Bytes) -> Void
    package var messages: @Sendable (String) -> Void
    package var input: @Sendable () throws -> Bytes
    /// Answers what a person made of the text in an editor.
    package var edit: @Sendable (Bytes) throws -> Bytes
    package var environment: [String: String]
    package var now: @Sendable () -> Timestamp
    /// How long a shell that asks for names waits for the server.
    package var completionTimeout: Duration
    /// Made when the first request is, so that what needs no server needs no configuration.
    package var connect: @Sendable (GlobalOptions) throws -> (client: APIClient, namespace: String)

    package init(
        output: @escaping @Sendable (Bytes) -> Void, messages: @escaping @Sendable (String) -> Void, input: @escaping @Sendable () throws -> Bytes,
        edit: @escaping @Sendable (Bytes) throws -> Bytes = { $0 }, environment: [String: String], now: @escaping @Sendable () -> Timestamp,
        completionTimeout: Duration = .seconds(3), connect: @escaping @Sendable (GlobalOptions) throws -> (client: APIClient, namespace: String)
    ) {
        self.output = output; self.messages = messages; self.input = input; self.edit = edit; self.environment = environment; self.now = now
        self.completionTimeout = completionTimeout; self.connect = connect
    }

    func print(_ line: String) { output(Bytes((line + "\n").utf8)) }
    func note(_ line: String) { messages(line + "\n") }
}

/// A mistake in what was asked, or an outcome that is a failure. Shown as `error: …`.
package struct CommandError: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}
/// Some of several things failed; each was reported already.
package struct AlreadyReported: Error { package init() {} }

/// All is said; the code says the rest.
package struct ExitWith: Error { package var code: Int32 }

/// How a failure is shown, in `kubectl`'s words.
package enum FailureText {
    package static func of(_ error: any Error) -> String {
        switch error {
        case let status as Status:
            switch status.reason {
            case .invalid where status.message.contains(" is invalid: "): "The \(invalid(status))"
            case .unknown: "Error from server: \(status.message)"
            case .unauthorized: "error: You must be logged in to the server (Unauthorized)"
            default: "Error from server (\(status.reason.rawValue)): \(status.message)"
            }
        case let failure as ConnectionFailure: failure.description
        case let malformed as MalformedDocument: "error: error parsing the input: \(malformed)"
        default: "error: \(error)"
        }
    }

    /// Several faults stand one per line.
    private static func invalid(_ status: Status) -> String {
        guard let causes = status.details?.causes, causes.count > 1, let head = status.message.firstRange(of: " is invalid: ") else { return status.message }
        return status.message[..<head.upperBound] + causes.map { "\n* \($0.field): \($0.message)" }.joined()
    }
}

/// A verb of the command line: its flags are parsed, then it runs against an invocation.
package protocol Verb {
    var global: GlobalOptions { get }
    func run(in invocation: Invocation) async throws
}
