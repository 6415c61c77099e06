import Foundation
import Glibc
import Synchronization

/// A small file system of its own that can be filled, and that loses what was not synced: ext4 in a file, by a loop device. Where a machine has no
/// loop devices it is in memory, and loses nothing.
package final class SmallDisk: Disk {
    package let path: String
    /// The file that holds it; without one it is in memory.
    private let image_: Mutex<String?>
    private var image: String? { image_.withLock { $0 } }
    private var ballast: String { path + "/.ballast" }
    package var losesPower: Bool { image != nil }

    /// Throws where mounting is not allowed.
    package static func mount(at path: String, megabytes: Int) async throws -> SmallDisk {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        let image = path + ".ext4"
        do {
            try await Subprocess.run("truncate", "-s", "\(megabytes)M", image)
            try await Subprocess.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
            let disk = SmallDisk(path, image)
            try await disk.mount()
            return disk
        } catch {
            unlink(image)
            try await Subprocess.run("mount", "-t", "tmpfs", "-o", "size=\(megabytes)m,mode=700", "tmpfs", path)
            return SmallDisk(path, nil)
        }
    }
    private init(_ path: String, _ image: String?) {
        self.path = path
        image_ = Mutex(image)
    }
    private func mount() async throws { try await Subprocess.run("mount", "-o", "loop", image ?? "", path) }

    package func fill(leaving kilobytes: Int) throws {
        var room = statvfs()
        guard statvfs(path, &room) == 0 else { throw FaultFailure("statvfs: \(errno)") }
        let bytes = Int(room.f_bavail) * Int(room.f_frsize) - kilobytes << 10
        let descriptor = open(ballast, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw FaultFailure("\(ballast): \(errno)") }
        defer { close(descriptor) }
        if bytes > 0 { _ = posix_fallocate(descriptor, 0, bytes) }
    }
    package func empty() { unlink(ballast) }

    /// From now on nothing reaches the disk, not even what ext4 had yet to write: what survives the next `powerUp` does not depend on `seed`.
    package func losePower(seed: UInt64) throws {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FaultFailure("\(path): \(errno)") }
        defer { close(descriptor) }
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH
        var flags: UInt32 = 2
        guard ioctl(descriptor, 0x8004_587d, &flags) == 0 else { throw FaultFailure("ext4 does not shut down: \(errno)") }
    }
    package func powerUp() async throws {
        var reason = ""
        try await eventually("\(path) is free: \(reason)", withinSeconds: 20) {
            do { try await Subprocess.run("umount", path) } catch {
                reason = "\(error)"
                return false
            }
            return true
        }
        // Another mount namespace may have a copy of the mount, and would keep the dead file system alive: it gets the old image, this one a copy.
        if let old = image, let users = try? await Subprocess.run("losetup", "-j", old), !users.isEmpty {
            try await Subprocess.run("cp", "--sparse=always", old, old + "+")
            unlink(old)
            image_.withLock { $0 = old + "+" }
        }
        try await mount()
    }

    package func unmount() async {
        _ = try? await Subprocess.run("umount", "-l", path)
        if let image { unlink(image) }
    }
}

/// A pipe that nobody reads, full to the brim: who writes into it waits for ever.
package struct BlockedPipe: ~Copyable {
    package let writing: Int32
    private let reading: Int32
    package init() throws {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw FaultFailure("pipe: \(errno)") }
        (reading, writing) = (ends[0], ends[1])
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let flags = fcntl(writing, F_GETFL)
        _ = fcntl(writing, F_SETFL, flags | O_NONBLOCK)
        let page = [UInt8](repeating: 0x2e, count: 4_096)
        while write(writing, page, page.count) > 0 {}
        _ = fcntl(writing, F_SETFL, flags)
    }
    deinit {
        close(reading)
        close(writing)
    }
}
