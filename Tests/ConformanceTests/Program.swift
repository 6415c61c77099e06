import Foundation
import Testing

/// A program run to its end, off the cooperative pool, with everything it printed.
struct Program: Sendable {
    /// The exit code; 128 and the signal's number for one that was killed.
    var status: Int32
    var output: String
    var errors: String
    /// Both, for comments and searches.
    var text: String { output + errors }

    /// Where the build put `cofferd` and the others: beside the tests themselves.
    static let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let isRoot = getuid() == 0
    /// By itself etcdctl gives up after 2 and 5 s, which a busy machine may take. What a test gives after these counts instead.
    static let etcdctlPatience = ["--dial-timeout", "30s", "--command-timeout", "60s"]
    static let etcdctl = find("etcdctl"), kubectl = find("kubectl"), curl = find("curl")

    /// The program's path, if this machine has it.
    static func find(_ name: String) -> URL? {
        let paths = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map(String.init)
        return paths.map { URL(fileURLWithPath: $0).appendingPathComponent(name) }.first { FileManager.default.isExecutableFile(atPath: $0.path) }
    }

    /// Starts it in `folder`, where its output is kept too.
    static func start(
        _ path: URL, _ arguments: [String] = [], environment: [String: String] = [:], input: String? = nil, in folder: TemporaryDirectory
    ) throws -> Child {
        let name = folder.path + "/.run-" + UUID().uuidString
        if let input { try Data(input.utf8).write(to: URL(fileURLWithPath: name + ".in")) }
        return try Child(
            path.path, arguments, environment: ProcessInfo.processInfo.environment.merging(environment) { $1 }, folder: folder.path,
            input: input == nil ? "/dev/null" : name + ".in", output: name + ".out", errors: name + ".err")
    }

    static func run(
        _ path: URL, _ arguments: [String] = [], environment: [String: String] = [:], input: String? = nil, in folder: TemporaryDirectory? = nil,
        withinSeconds seconds: Double = 120
    ) async throws -> Program {
        let folder = try folder ?? TemporaryDirectory()
        let child = try start(path, arguments, environment: environment, input: input, in: folder)
        let status: Int32 = switch try await child.ended(withinSeconds: seconds) {
        case .exited(let code): code
        case .killed(let signal): 128 + signal
        }
        return Program(status: status, output: child.output, errors: child.errors)
    }
}

/// A directory of its own that goes with the test.
final class TemporaryDirectory: Sendable {
    let path: String
    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-conformance-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ text: String, to name: String) throws -> String {
        try Data(text.utf8).write(to: URL(fileURLWithPath: path + "/" + name))
        return path + "/" + name
    }
}

/// Polls until `condition` holds; `what` names it when it does not in time.
func eventually(
    _ what: @autoclosure () -> String, withinSeconds seconds: Double = 60, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool
) async throws {
    let clock = ContinuousClock(), deadline = clock.now + .seconds(seconds)
    while try await !condition() {
        guard clock.now < deadline else {
            Issue.record("not within \(seconds) s: \(what())", sourceLocation: sourceLocation)
            throw Child.Failure(description: what())
        }
        try await Task.sleep(for: .milliseconds(10))
    }
}
