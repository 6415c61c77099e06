import Dispatch
import Glibc
package import Logging
package import ReplicaService
import Sealing

extension Barrier {
    /// Opens the store in `path`, or makes it, and unseals it with `seal`. Throws `DataDirectoryError`; nothing was changed then.
    package static func open(
        _ path: String, seal: SealSource, options: ReplicaService.Options = ReplicaService.Options(), logger: Logger = Logger(label: "coffer")
    ) async throws -> Barrier {
        let (directory, service) = try await blocking {
            let directory = try DataDirectory.open(path, seal: seal, now: wallMilliseconds())
            do {
                return (directory, try ReplicaService.open(
                    directory: path, fileKey: directory.fileKey, keyring: directory.keyring.id, member: directory.member, options: options, logger: logger))
            } catch {
                directory.unlock()
                throw DataDirectoryError.storage("\(path): \(error)")
            }
        }
        let barrier = Barrier(service: service, directory: directory, now: wallMilliseconds)
        do { try await barrier.start() } catch {
            await barrier.close()
            throw DataDirectoryError.storage("\(path): \(error)")
        }
        return barrier
    }

    /// Finishes what is under way, stores everything, lets go of files and keys.
    package func close() async {
        _ = try? await blocking { [self] in
            service.close()
            directory.unlock()
        }
        keyring.forgetAll()
    }

    /// As a crash would leave it: for tests of what comes back.
    package func abandon() async {
        _ = try? await blocking { [self] in
            service.abandon()
            directory.unlock()
        }
        keyring.forgetAll()
    }
}

/// Runs what blocks, on a thread that may.
private func blocking<R: Sendable>(_ body: @escaping @Sendable () throws -> R) async throws -> R {
    try await withCheckedThrowingContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(with: Result(catching: body)) }
    }
}

/// Milliseconds since 1970.
private func wallMilliseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
}
