#pragma once
#include <stddef.h>
#include <stdint.h>

// The kernel's mount API and what else the node agent needs of Linux, as plain functions with constants of our own:
// Debian 12's headers lack half of them. Every function answers a value >= 0, or -errno.

// Attributes of a mount (MOUNT_ATTR_*).
enum {
    CLINUX_MOUNT_RDONLY = 0x1,
    CLINUX_MOUNT_NOSUID = 0x2,
    CLINUX_MOUNT_NODEV = 0x4,
    CLINUX_MOUNT_NOEXEC = 0x8,
};

// How a path may resolve (RESOLVE_*).
enum {
    CLINUX_RESOLVE_NO_XDEV = 0x01,
    CLINUX_RESOLVE_NO_MAGICLINKS = 0x02,
    CLINUX_RESOLVE_NO_SYMLINKS = 0x04,
    CLINUX_RESOLVE_BENEATH = 0x08,
};

// Flags that glibc shows only to GNU sources.
#define CLINUX_OPEN_PATH 010000000
#define CLINUX_EMPTY_PATH 0x1000

#define CLINUX_TMPFS_MAGIC 0x01021994

// A file system being configured.
int clinux_fsopen(const char *type);
int clinux_fsconfig_string(int context, const char *key, const char *value);
int clinux_fsconfig_flag(int context, const char *key);
int clinux_fsconfig_create(int context);
int clinux_fsconfig_reconfigure(int context);
// A detached mount of it: in no namespace, gone with its last descriptor.
int clinux_fsmount(int context, unsigned int attributes);
// The file system under a mount, to be reconfigured.
int clinux_fspick(int mount);
// A detached clone of the mount that `directory` is the root of, or of the tree from there.
int clinux_clone_mount(int directory);
int clinux_mount_setattr(int mount, uint64_t set, uint64_t clear);
// Attaches the detached `mount` at the directory that `target` is open on. Follows no path.
int clinux_attach(int mount, int target);
int clinux_unmount(const char *path, int detach);
int clinux_make_shared(const char *path);

int clinux_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

// `fstatfs` f_type of an open file.
int clinux_filesystem_magic(int descriptor, uint64_t *magic);
// The kernel's unique id of the mount a descriptor lies on (STATX_MNT_ID_UNIQUE, Linux 6.8).
int clinux_mount_id(int descriptor, uint64_t *id);
// The number that /proc/self/mountinfo shows (STATX_MNT_ID).
int clinux_table_id(int descriptor, uint64_t *id);
// Bounds of the file system that a descriptor lies on.
int clinux_capacity(int descriptor, uint64_t *bytes, uint64_t *inodes);

struct clinux_mount {
    uint64_t id;
    uint64_t parent;
    uint64_t attributes;
    uint64_t propagation;
    // Empty when the kernel does not tell.
    char type[64];
    char source[256];
    char options[1024];
    char root[1024];
    char point[4096];
};
int clinux_statmount(uint64_t id, struct clinux_mount *mount);
// Ids of the mounts beneath `parent` (all mounts for UINT64_MAX), after `last`; at most `capacity`.
int clinux_listmount(uint64_t parent, uint64_t last, uint64_t *ids, size_t capacity);

// No core, no ptrace by others of the same user, no /proc/PID/mem.
int clinux_forbid_dump(void);
int clinux_forbid_core(void);
/// Raises the limit on open files as far as it goes; answers it.
int64_t clinux_raise_files(void);
// All pages, present and future, stay in memory.
int clinux_lock_memory(void);
// RLIMIT_MEMLOCK in bytes; UINT64_MAX for none.
uint64_t clinux_memory_lock_limit(void);

// Blocks for `count` bytes from `from` on, past the end of the file too, whose size stays as it is.
int clinux_reserve(int file, int64_t from, int64_t count);
// Reads and writes go past the page cache from now on, or through it again: whole blocks only.
int clinux_bypass_cache(int file, int bypass);

// Sleeps while `*word` is `expected`, until woken or until the monotonic clock shows `deadline` nanoseconds; UINT64_MAX: without end.
// -EAGAIN, -EINTR, -ETIMEDOUT: look again.
int clinux_futex_wait(const uint32_t *word, uint32_t expected, uint64_t deadline);
// Wakes all that sleep on it in this process.
void clinux_futex_wake(const uint32_t *word);

void clinux_wipe(void *memory, size_t count);
// CRC-32C (Castagnoli) of further bytes, by the processor's own instruction where it has one. Begins with, and ends by, inverting the remainder.
uint32_t clinux_crc32c(uint32_t remainder, const void *bytes, size_t count);
// Asks for the cache line at `address`, whatever that is, and does not wait for it.
static inline void clinux_prefetch(const void *address) { __builtin_prefetch(address); }
/// Whether so many bytes are the same.
static inline int clinux_is_same(const void *one, const void *other, size_t count) { return __builtin_memcmp(one, other, count) == 0; }
// Milliseconds since boot, sleep included.
int64_t clinux_boot_milliseconds(void);
// Ends this process at once, as SIGKILL from outside would.
void clinux_kill_self(void);
