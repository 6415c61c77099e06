import CLinux
import Glibc

/// What keeps a process' memory from disk and from its neighbours.
package enum ProcessHardening {
    /// No core, no ptrace, every page locked. Answers what could not be had, in words to be said loudly.
    package static func apply() -> [String] {
        var warnings: [String] = []
        if clinux_forbid_core() < 0 { warnings.append("core dumps could not be forbidden") }
        if clinux_forbid_dump() < 0 { warnings.append("this process can be dumped and traced (PR_SET_DUMPABLE refused)") }
        if clinux_lock_memory() < 0 {
            warnings.append("memory could not be locked: secrets held by this process may reach swap (raise the memlock limit, now \(memoryLockLimit))")
        }
        return warnings
    }

    package static var memoryLockLimit: String {
        let limit = clinux_memory_lock_limit()
        return limit == .max ? "unlimited" : "\(limit) bytes"
    }
}

/// One question about this machine, and its answer.
package struct Finding: Codable, Sendable, Equatable {
    package enum Level: String, Codable, Sendable { case ok, warning, error }
    package var topic: String
    package var level: Level
    package var message: String
}

/// Looks at what the agent needs of this machine and changes nothing.
package enum Doctor {
    package static func examine(rootDirectory: String) -> [Finding] {
        [noswap(), swap(), memoryLock(), corePattern(), mountCalls(), propagation(rootDirectory)]
    }

    private static func noswap() -> Finding {
        do {
            let probe = try TemporaryFileSystem.make(source: MountEntry.sourcePrefix + "probe", bytes: 64 << 10, inodes: 16, mode: "0700", noswap: true)
            try TemporaryFileSystem.verify(probe, noswap: true)
            return Finding(topic: "noswap", level: .ok, message: "tmpfs can be kept from swap, and says so when asked")
        } catch {
            // Without swap any tmpfs will do; where none can be mounted, nothing will.
            guard canMount else { return Finding(topic: "noswap", level: .error, message: "\(error): no tmpfs can be mounted, which needs root") }
            return Finding(topic: "noswap", level: SwapAreas.isNone ? .warning : .error, message: "\(error)")
        }
    }
    private static var canMount: Bool {
        do {
            _ = try TemporaryFileSystem.make(source: MountEntry.sourcePrefix + "probe", bytes: 64 << 10, inodes: 16, mode: "0700", noswap: false)
            return true
        } catch { return false }
    }
    private static func swap() -> Finding {
        do {
            let areas = try SwapAreas.list()
            return areas.isEmpty ? Finding(topic: "swap", level: .ok, message: "no swap is on")
                : Finding(topic: "swap", level: .warning, message: "swap is on: \(areas.joined(separator: ", "))")
        } catch {
            return Finding(topic: "swap", level: .warning, message: "\(error)")
        }
    }
    private static func memoryLock() -> Finding {
        let limit = clinux_memory_lock_limit()
        if geteuid() == 0 || limit == .max {
            return Finding(topic: "memlock", level: .ok, message: "memory can be locked (limit \(ProcessHardening.memoryLockLimit))")
        }
        return Finding(topic: "memlock", level: .warning, message: "memory locking is limited to \(ProcessHardening.memoryLockLimit)")
    }
    private static func corePattern() -> Finding {
        guard let file = try? Descriptor(unsafe open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC), "core_pattern"),
              let bytes = try? file.readAll(max: 4_096)
        else {
            return Finding(topic: "core_pattern", level: .warning, message: "cannot be read")
        }
        let pattern = String(decoding: bytes, as: UTF8.self).trimmingNewline
        let message = "cores of pods go to \"\(pattern)\": one that maps a secret has it in its core"
        return Finding(topic: "core_pattern", level: pattern.isEmpty ? .ok : .warning, message: pattern.isEmpty ? "no cores are written" : message)
    }
    private static func mountCalls() -> Finding {
        var ids: [UInt64] = [0]
        let listed = unsafe clinux_listmount(.max, 0, &ids, 1)
        var mount = clinux_mount()
        let told = listed == 1 ? unsafe clinux_statmount(ids[0], &mount) : listed
        return told >= 0 ? Finding(topic: "mount calls", level: .ok, message: "fsopen, move_mount, openat2 and statmount are there")
            : Finding(topic: "mount calls", level: .warning, message: "statmount is missing (Linux 6.8): the mount table is read from /proc")
    }
    private static func propagation(_ root: String) -> Finding {
        do {
            let table = try MountTable.read()
            let holder = table.filter { root == $0.point || root.hasPrefix($0.point == "/" ? "/" : $0.point + "/") }.max { $0.point.count < $1.point.count }
            guard let holder else { return Finding(topic: "propagation", level: .warning, message: "the mount of \(root) was not found") }
            let isShared = holder.propagation.contains { $0.hasPrefix("shared:") }
            return isShared ? Finding(topic: "propagation", level: .ok, message: "\(holder.point) is shared: containers that began before a mount see it")
                : Finding(topic: "propagation", level: .warning, message: "\(holder.point) is not shared: only containers started after a mount see it")
        } catch {
            return Finding(topic: "propagation", level: .error, message: "\(error)")
        }
    }
}

extension String {
    fileprivate var trimmingNewline: String { last == "\n" ? String(dropLast()) : self }
}

/// The clock of plans and records.
package enum AgentClock {
    package static var milliseconds: Int64 { clinux_boot_milliseconds() }
}
