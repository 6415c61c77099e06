import Foundation
import Glibc
import Synchronization

/// A library that a process loads before all others (`LD_PRELOAD`), in which syncs fail, are slow or lie, disks are full and the clock jumps,
/// as a file that both map says. Made by the machine's C compiler.
package final class SystemCallShim: Sendable {
    /// Offsets into the control file.
    private enum Field: Int { case syncError = 0, syncDelayMilliseconds = 4, writeError = 8, clockOffsetSeconds = 16 }
    package let environment: [String: String]
    private let control: Mutex<FileHandle>
    /// Syncs do nothing, and say that they did: a server that acknowledges too early.
    private let syncsLie: Bool

    /// Compiles it into `folder`. Throws when this machine has no `cc`.
    package static func make(in folder: String) async throws -> String {
        let source = folder + "/shim.c", library = folder + "/shim.so"
        try Data(code.utf8).write(to: URL(fileURLWithPath: source))
        try await Subprocess.run("cc", "-shared", "-fPIC", "-O1", "-o", library, source)
        return library
    }

    /// A control file for one process.
    package init(library: String, control path: String, syncsLie: Bool = false) throws {
        self.syncsLie = syncsLie
        try Data(count: 24).write(to: URL(fileURLWithPath: path))
        guard let handle = FileHandle(forUpdatingAtPath: path) else { throw FaultFailure("cannot open \(path)") }
        control = Mutex(handle)
        environment = ["LD_PRELOAD": library, "FAULT_CONTROL": path]
        try failSyncs(0)
    }

    /// 0: syncs work.
    package func failSyncs(_ error: Int32) throws { try set(.syncError, error == 0 && syncsLie ? -1 : error) }
    package func delaySyncs(milliseconds: Int32) throws { try set(.syncDelayMilliseconds, milliseconds) }
    /// Writes to files fail; 0: they work.
    package func failWrites(_ error: Int32) throws { try set(.writeError, error) }
    /// Of the wall clock.
    package func jump(seconds: Int64) throws { try set(.clockOffsetSeconds, seconds) }
    package func heal() throws {
        try failSyncs(0)
        try delaySyncs(milliseconds: 0)
        try failWrites(0)
    }

    private func set(_ field: Field, _ value: some FixedWidthInteger) throws {
        try control.withLock { handle in
            try handle.seek(toOffset: UInt64(field.rawValue))
            try handle.write(contentsOf: withUnsafeBytes(of: value.littleEndian) { Data($0) })
        }
    }

    private static let code = """
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <stdint.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <sys/time.h>
        #include <sys/uio.h>
        #include <time.h>
        #include <unistd.h>
        struct control { volatile int32_t sync_error, sync_delay_ms, write_error, unused; volatile int64_t clock_offset_s; };
        static struct control *control;
        __attribute__((constructor)) static void begin(void) {
            const char *path = getenv("FAULT_CONTROL");
            int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
            if (fd < 0) return;
            void *map = mmap(0, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (map != MAP_FAILED) control = map;
            close(fd);
        }
        static int bad_sync(void) {
            if (!control) return 0;
            int32_t delay = control->sync_delay_ms;
            if (delay > 0) { struct timespec t = { delay / 1000, (delay % 1000) * 1000000L }; syscall(SYS_nanosleep, &t, 0); }
            return control->sync_error;
        }
        int fdatasync(int fd) { int e = bad_sync(); if (e < 0) return 0; if (e) { errno = e; return -1; } return syscall(SYS_fdatasync, fd); }
        int fsync(int fd) { int e = bad_sync(); if (e < 0) return 0; if (e) { errno = e; return -1; } return syscall(SYS_fsync, fd); }
        int msync(void *a, size_t n, int f) { int e = bad_sync(); if (e < 0) return 0; if (e) { errno = e; return -1; } return syscall(SYS_msync, a, n, f); }
        static int bad_write(int fd) {
            struct stat s;
            if (!control || !control->write_error || fstat(fd, &s) || !S_ISREG(s.st_mode)) return 0;
            errno = control->write_error;
            return 1;
        }
        ssize_t write(int fd, const void *p, size_t n) { return bad_write(fd) ? -1 : syscall(SYS_write, fd, p, n); }
        ssize_t pwrite(int fd, const void *p, size_t n, off_t o) { return bad_write(fd) ? -1 : syscall(SYS_pwrite64, fd, p, n, o); }
        ssize_t pwrite64(int fd, const void *p, size_t n, off_t o) { return bad_write(fd) ? -1 : syscall(SYS_pwrite64, fd, p, n, o); }
        ssize_t writev(int fd, const struct iovec *v, int n) { return bad_write(fd) ? -1 : syscall(SYS_writev, fd, v, n); }
        ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) { return bad_write(fd) ? -1 : syscall(SYS_pwritev, fd, v, n, o, 0L); }
        int clock_gettime(clockid_t id, struct timespec *t) {
            int code = syscall(SYS_clock_gettime, id, t);
            if (!code && id == CLOCK_REALTIME && control) t->tv_sec += control->clock_offset_s;
            return code;
        }
        int gettimeofday(struct timeval *restrict t, void *restrict z) {
            int code = syscall(SYS_gettimeofday, t, z);
            if (!code && t && control) t->tv_sec += control->clock_offset_s;
            return code;
        }
        time_t time(time_t *out) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); if (out) *out = t.tv_sec; return t.tv_sec; }
        """
}
