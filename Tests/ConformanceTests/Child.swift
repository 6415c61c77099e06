import Foundation
import Glibc
import Synchronization

/// A child process. Its output goes to files, so that neither a full pipe nor a descriptor that another child inherited can hold anybody up.
///
/// Invariant: no signal is sent to a process id that has been waited for.
final class Child: Sendable {
    enum Ending: Equatable, Sendable { case exited(Int32), killed(signal: Int32) }
    struct Failure: Error, CustomStringConvertible { var description: String }

    private struct State {
        var ending: Ending?
        var waiting: [CheckedContinuation<Ending, Never>] = []
    }
    let pid: pid_t
    let outputPath: String
    let errorsPath: String
    private let state = Mutex(State())

    /// Starts `program` in `folder`; `output` and `errors` are files to append to, `input` a file to read.
    init(_ program: String, _ arguments: [String], environment: [String: String], folder: String, input: String = "/dev/null", output: String, errors: String) throws {
        outputPath = output
        errorsPath = errors
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none) // a blocked SIGTERM would be inherited
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var argv: [UnsafeMutablePointer<CChar>?] = (["env", "--chdir", folder, program] + arguments).map { strdup($0) } + [nil]
        var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for text in argv + variables { free(text) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, "/usr/bin/env", &actions, &attributes, &argv, &variables)
        guard code == 0 else { throw Failure(description: "\(program): \(String(cString: strerror(code)))") }
        self.pid = pid
        Thread.detachNewThread { [self] in wait() }
    }

    private func wait() {
        var info = siginfo_t()
        while waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) != 0, errno == EINTR {}
        let (waiting, ending) = state.withLock { state in
            var status: Int32 = 0
            while waitpid(pid, &status, 0) < 0, errno == EINTR {}
            let ending = status & 0x7f == 0 ? Ending.exited(status >> 8 & 0xff) : .killed(signal: status & 0x7f)
            state.ending = ending
            defer { state.waiting = [] }
            return (state.waiting, ending)
        }
        for continuation in waiting { continuation.resume(returning: ending) }
    }

    /// How it ended; `nil` while it runs.
    var ending: Ending? { state.withLock { $0.ending } }
    /// What it has printed so far.
    var output: String { Self.text(outputPath) }
    var errors: String { Self.text(errorsPath) }
    private static func text(_ path: String) -> String { String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self) }

    /// Waits for the end.
    func ended() async -> Ending {
        await withCheckedContinuation { continuation in
            let ending = state.withLock { state -> Ending? in
                if state.ending == nil { state.waiting.append(continuation) }
                return state.ending
            }
            if let ending { continuation.resume(returning: ending) }
        }
    }

    /// The end, if it comes within `seconds`; otherwise the child is killed, and that is the failure.
    func ended(withinSeconds seconds: Double) async throws -> Ending {
        let killer = Task {
            try await Task.sleep(for: .seconds(seconds))
            signal(SIGTERM) // a script ends what it started
            try? await Task.sleep(for: .seconds(10))
            signal(SIGKILL)
            return true
        }
        let ending = await ended()
        killer.cancel()
        if (try? await killer.value) == true { throw Failure(description: "still running after \(seconds) s\n\(output)\(errors)") }
        return ending
    }

    func signal(_ number: Int32) {
        state.withLock { if $0.ending == nil { _ = kill(pid, number) } }
    }
}
