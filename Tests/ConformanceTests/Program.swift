import Foundation
import Testing

/// A program run to its end, off the cooperative pool, with everything it printed.
struct Program {
    var status: Int32
    var output: String

    /// Where the build put `cofferd` and the others: beside the tests themselves.
    static let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let isRoot = getuid() == 0

    /// The program's path, if this machine has it.
    static func find(_ name: String) -> URL? {
        let paths = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map(String.init)
        return paths.map { URL(fileURLWithPath: $0).appendingPathComponent(name) }.first { FileManager.default.isExecutableFile(atPath: $0.path) }
    }

    static func run(_ path: URL, _ arguments: [String] = [], environment: [String: String] = [:]) async throws -> Program {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(with: Result {
                    let process = Process(), pipe = Pipe()
                    process.executableURL = path
                    process.arguments = arguments
                    process.currentDirectoryURL = root
                    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
                    process.standardOutput = pipe
                    process.standardError = pipe
                    process.standardInput = FileHandle.nullDevice
                    try process.run()
                    let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
                    process.waitUntilExit()
                    return Program(status: process.terminationStatus, output: String(decoding: output, as: UTF8.self))
                })
            }
        }
    }
}
