package import Basics
import Dispatch
import Glibc
package import Logging
package import ReplicaService
import Sealing

extension Barrier {
    /// Opens the store in `path`, or makes it, and unseals it with `seal`. Throws `DataDirectoryError`; nothing was changed then.
    ///
    /// A member of a cluster has a `lane` to the others, and returns when it has caught up with a leader. `founding`: whose the directory
    /// becomes, if it is new. `connect` is called once the store is open, before anything is asked of the others.
    package static func open(
        _ path: String, seal: SealSource, founding: NewMember? = nil, cluster: ClusterOpening = .alone, lane: (any PeerLane)? = nil,
        options: ReplicaService.Options = ReplicaService.Options(), logger: Logger = Logger(label: "coffer"),
        connect: @escaping @Sendable (KeyringID, ReplicaService) -> Void = { _, _ in }
    ) async throws -> Barrier {
        let (directory, service) = try await blocking {
            let directory = try DataDirectory.open(path, seal: seal, founding: founding, now: wallMilliseconds())
            do {
                let service = try ReplicaService.open(
                    directory: path, fileKey: directory.fileKey, keyring: directory.keyring.id, member: directory.member, cluster: cluster, lane: lane,
                    options: options, logger: logger)
                connect(directory.keyring.id, service)
                return (directory, service)
            } catch {
                directory.unlock()
                throw DataDirectoryError.storage("\(path): \(error)")
            }
        }
        let barrier = Barrier(service: service, directory: directory, now: wallMilliseconds)
        do { try await barrier.start(waits: lane != nil) } catch {
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
