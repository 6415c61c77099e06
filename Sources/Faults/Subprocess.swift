package import Foundation
import Glibc
import Synchronization

package struct FaultFailure: Error, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// A program that runs in a folder and prints into a file.
///
/// Invariant: no signal is sent to a process id that has been waited for.
package final class Subprocess: Sendable {
    package enum Ending: Equatable, Sendable { case exited(Int32), killed(signal: Int32) }

    package let pid: pid_t
    package let logPath: String
    private let ending_ = Mutex<Ending?>(nil)

    /// Prints into a file named after the program; errors go to a descriptor instead, if one is given, which stays the caller's to close.
    package init(_ program: String, _ arguments: [String], environment: [String: String] = [:], folder: String, errors: Int32? = nil) throws {
        logPath = folder + "/" + (program as NSString).lastPathComponent + ".log"
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, logPath, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_adddup2(&actions, errors ?? 1, 2)
        // SwiftNIO's sockets are inherited otherwise: a connection that a proxy here cuts would stay open, and silent, for as long as the child lives.
        try Self.closesOthers(&actions, from: 3)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none) // a blocked SIGTERM would be inherited
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        var argv: [UnsafeMutablePointer<CChar>?] = (["env", "--chdir", folder, program] + arguments).map { strdup($0) } + [nil]
        var environ: [UnsafeMutablePointer<CChar>?] = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for text in argv + environ { free(text) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, "/usr/bin/env", &actions, &attributes, &argv, &environ)
        guard code == 0 else { throw FaultFailure("\(program): \(String(cString: strerror(code)))") }
        self.pid = pid
        Thread.detachNewThread { [self] in wait() }
    }

    /// glibc has it since 2.34; Swift's module of glibc does not show it.
    private static func closesOthers(_ actions: inout posix_spawn_file_actions_t, from first: Int32) throws {
        typealias AddCloseFrom = @convention(c) (UnsafeMutablePointer<posix_spawn_file_actions_t>, Int32) -> Int32
        guard let symbol = dlsym(nil, "posix_spawn_file_actions_addclosefrom_np") else { throw FaultFailure("this glibc is older than 2.34") }
        guard unsafeBitCast(symbol, to: AddCloseFrom.self)(&actions, first) == 0 else { throw FaultFailure("no memory") }
    }

    private func wait() {
        var info = siginfo_t()
        while waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) != 0, errno == EINTR {}
        ending_.withLock { ending in
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
            ending = status & 0x7f == 0 ? .exited(status >> 8 & 0xff) : .killed(signal: status & 0x7f)
        }
    }

    /// How it ended; `nil` while it runs.
    package var ending: Ending? { ending_.withLock { $0 } }
    package var isRunning: Bool { ending == nil }
    package var log: String { String(decoding: FileManager.default.contents(atPath: logPath) ?? Data(), as: UTF8.self) }

    package func signal(_ number: Int32) { ending_.withLock { if $0 == nil { _ = kill(pid, number) } } }

    /// Ends it by `number` and waits until it is gone.
    package func end(_ number: Int32 = SIGKILL, withinSeconds seconds: Double = 30) async throws {
        signal(number)
        signal(SIGCONT)
        try await eventually("process \(pid) ends", withinSeconds: seconds) { !isRunning }
    }

    /// The program's path, if this machine has it.
    package static func find(_ name: String) -> String? {
        (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map { "\($0)/\(name)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Runs it to its end; throws what it printed if that was no success.
    @discardableResult
    package static func run(_ program: String, _ arguments: String..., withinSeconds seconds: Double = 120) async throws -> String {
        guard let path = program.hasPrefix("/") ? program : find(program) else { throw FaultFailure("this machine has no \(program)") }
        let folder = try TemporaryFolder("run")
        let process = try Subprocess(path, arguments, folder: folder.path)
        try await eventually("\(program) ends", withinSeconds: seconds) { !process.isRunning }
        guard process.ending == .exited(0) else { throw FaultFailure("\(program) \(arguments.joined(separator: " ")): \(process.log)") }
        return process.log
    }
}

/// A folder of its own that goes with the last reference.
package final class TemporaryFolder: Sendable {
    package let path: String
    package init(_ name: String) throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-\(name)-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Polls until `condition` holds; throws `what` when it does not in time.
package func eventually(_ what: @autoclosure () -> String, withinSeconds seconds: Double = 60, _ condition: () async throws -> Bool) async throws {
    let clock = ContinuousClock(), deadline = clock.now + .seconds(seconds)
    while try await !condition() {
        guard clock.now < deadline else { throw FaultFailure("not within \(seconds) s: \(what())") }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// Ports that nobody listens on just now, for programs that cannot be asked which one they chose.
package func freePorts(_ count: Int) throws -> [Int] { try takePorts([Int](repeating: 0, count: count)) }

/// Takes these, 0 for any, all at the same time, and lets them go again: throws if one of them is in use.
@discardableResult
package func takePorts(_ ports: [Int]) throws -> [Int] {
    let descriptors = ports.map { _ in socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0) }
    defer { for descriptor in descriptors { close(descriptor) } } // only at the end: so they differ
    return try zip(descriptors, ports).map { descriptor, port in
        var address = sockaddr_in(), length = socklen_t(MemoryLayout<sockaddr_in>.size)
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let code = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) == 0 ? getsockname(descriptor, $0, &length) : -1 }
        }
        guard code == 0 else { throw FaultFailure("bind: \(errno)") }
        return Int(in_port_t(bigEndian: address.sin_port))
    }
}
