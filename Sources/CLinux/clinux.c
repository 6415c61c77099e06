#define _GNU_SOURCE
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// System calls since 5.1 have one number on all architectures but alpha.
enum {
    NR_OPEN_TREE = 428,
    NR_MOVE_MOUNT = 429,
    NR_FSOPEN = 430,
    NR_FSCONFIG = 431,
    NR_FSMOUNT = 432,
    NR_FSPICK = 433,
    NR_OPENAT2 = 437,
    NR_MOUNT_SETATTR = 442,
    NR_STATMOUNT = 457,
    NR_LISTMOUNT = 458,
};
enum { CONFIG_FLAG = 0, CONFIG_STRING = 1, CONFIG_CREATE = 6, CONFIG_RECONFIGURE = 7 };
enum { FSOPEN_CLOSE_ON_EXEC = 1, FSMOUNT_CLOSE_ON_EXEC = 1, FSPICK_CLOSE_ON_EXEC = 1, FSPICK_EMPTY = 8 };
enum { MOVE_FROM_EMPTY = 0x04, MOVE_TO_EMPTY = 0x40 };
enum { TREE_CLONE = 1, EMPTY_PATH = 0x1000 };

static int answer(long result) { return result < 0 ? -errno : (int)result; }

int clinux_fsopen(const char *type) { return answer(syscall(NR_FSOPEN, type, FSOPEN_CLOSE_ON_EXEC)); }
int clinux_fsconfig_string(int context, const char *key, const char *value) {
    return answer(syscall(NR_FSCONFIG, context, CONFIG_STRING, key, value, 0));
}
int clinux_fsconfig_flag(int context, const char *key) { return answer(syscall(NR_FSCONFIG, context, CONFIG_FLAG, key, NULL, 0)); }
int clinux_fsconfig_create(int context) { return answer(syscall(NR_FSCONFIG, context, CONFIG_CREATE, NULL, NULL, 0)); }
int clinux_fsconfig_reconfigure(int context) { return answer(syscall(NR_FSCONFIG, context, CONFIG_RECONFIGURE, NULL, NULL, 0)); }
int clinux_fsmount(int context, unsigned int attributes) { return answer(syscall(NR_FSMOUNT, context, FSMOUNT_CLOSE_ON_EXEC, attributes)); }
int clinux_fspick(int mount) { return answer(syscall(NR_FSPICK, mount, "", FSPICK_CLOSE_ON_EXEC | FSPICK_EMPTY)); }
int clinux_clone_mount(int directory) { return answer(syscall(NR_OPEN_TREE, directory, "", TREE_CLONE | O_CLOEXEC | EMPTY_PATH)); }
int clinux_attach(int mount, int target) { return answer(syscall(NR_MOVE_MOUNT, mount, "", target, "", MOVE_FROM_EMPTY | MOVE_TO_EMPTY)); }

int clinux_mount_setattr(int mount, uint64_t set, uint64_t clear) {
    struct { uint64_t set, clear, propagation, user_namespace; } attributes = {set, clear, 0, 0};
    return answer(syscall(NR_MOUNT_SETATTR, mount, "", EMPTY_PATH, &attributes, sizeof attributes));
}
int clinux_unmount(const char *path, int detach) { return answer(umount2(path, UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0))); }
int clinux_make_shared(const char *path) { return answer(mount(NULL, path, NULL, MS_SHARED, NULL)); }

int clinux_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct { uint64_t flags, mode, resolve; } how = {flags | O_CLOEXEC, mode, resolve};
    return answer(syscall(NR_OPENAT2, directory, path, &how, sizeof how));
}

int clinux_filesystem_magic(int descriptor, uint64_t *magic) {
    struct statfs information;
    if (fstatfs(descriptor, &information) < 0) return -errno;
    *magic = (uint64_t)information.f_type;
    return 0;
}

static int mount_id(int descriptor, uint32_t wanted, uint64_t *id) {
    enum { ID_OFFSET = 0x90 };
    unsigned char buffer[256] = {0};
    if (syscall(SYS_statx, descriptor, "", EMPTY_PATH, wanted, buffer) < 0) return -errno;
    uint32_t mask;
    memcpy(&mask, buffer, sizeof mask);
    if (!(mask & wanted)) return -ENOSYS;
    memcpy(id, buffer + ID_OFFSET, sizeof *id);
    return 0;
}
int clinux_mount_id(int descriptor, uint64_t *id) { return mount_id(descriptor, 0x4000, id); }
int clinux_table_id(int descriptor, uint64_t *id) { return mount_id(descriptor, 0x1000, id); }

int clinux_capacity(int descriptor, uint64_t *bytes, uint64_t *inodes) {
    struct statfs information;
    if (fstatfs(descriptor, &information) < 0) return -errno;
    *bytes = (uint64_t)information.f_blocks * (uint64_t)information.f_bsize;
    *inodes = (uint64_t)information.f_files;
    return 0;
}

// struct statmount of <linux/mount.h>; the strings follow it, and the fields name their offsets.
struct statmount_reply {
    uint32_t size, options;
    uint64_t mask;
    uint32_t device_major, device_minor;
    uint64_t magic;
    uint32_t superblock_flags, type;
    uint64_t id, parent;
    uint32_t old_id, old_parent;
    uint64_t attributes, propagation, peer_group, master, propagate_from;
    uint32_t root, point;
    uint64_t namespace_id;
    uint32_t subtype, source;
    uint64_t spare[48];
    char text[8192];
};
enum {
    STAT_SUPERBLOCK = 0x1, STAT_MOUNT = 0x2, STAT_ROOT = 0x8, STAT_POINT = 0x10, STAT_TYPE = 0x20, STAT_OPTIONS = 0x80, STAT_SOURCE = 0x200,
};

static void copy_text(char *target, size_t size, const struct statmount_reply *reply, uint64_t bit, uint32_t offset) {
    target[0] = 0;
    if (!(reply->mask & bit) || offset >= sizeof reply->text) return;
    size_t length = strnlen(reply->text + offset, sizeof reply->text - offset);
    if (length >= size) length = size - 1;
    memcpy(target, reply->text + offset, length);
    target[length] = 0;
}

int clinux_statmount(uint64_t id, struct clinux_mount *mount) {
    struct { uint32_t size, spare; uint64_t id, mask, namespace_id; } request = {
        32, 0, id, STAT_SUPERBLOCK | STAT_MOUNT | STAT_ROOT | STAT_POINT | STAT_TYPE | STAT_OPTIONS | STAT_SOURCE, 0};
    struct statmount_reply reply;
    memset(&reply, 0, sizeof reply);
    if (syscall(NR_STATMOUNT, &request, &reply, sizeof reply, 0) < 0) return -errno;
    memset(mount, 0, sizeof *mount);
    mount->id = reply.id;
    mount->parent = reply.parent;
    mount->attributes = reply.attributes;
    mount->propagation = reply.propagation;
    copy_text(mount->type, sizeof mount->type, &reply, STAT_TYPE, reply.type);
    copy_text(mount->source, sizeof mount->source, &reply, STAT_SOURCE, reply.source);
    copy_text(mount->options, sizeof mount->options, &reply, STAT_OPTIONS, reply.options);
    copy_text(mount->root, sizeof mount->root, &reply, STAT_ROOT, reply.root);
    copy_text(mount->point, sizeof mount->point, &reply, STAT_POINT, reply.point);
    return 0;
}

int clinux_listmount(uint64_t parent, uint64_t last, uint64_t *ids, size_t capacity) {
    struct { uint32_t size, spare; uint64_t id, last, namespace_id; } request = {32, 0, parent, last, 0};
    return answer(syscall(NR_LISTMOUNT, &request, ids, capacity, 0));
}

int clinux_forbid_dump(void) { return answer(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); }
int clinux_forbid_core(void) {
    struct rlimit none = {0, 0};
    return answer(setrlimit(RLIMIT_CORE, &none));
}
int64_t clinux_raise_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -1;
    struct rlimit raised = {limit.rlim_max, limit.rlim_max};
    if (limit.rlim_cur < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    return limit.rlim_cur > INT32_MAX ? INT32_MAX : (int64_t)limit.rlim_cur;
}
// Pages are locked as they come into being: locking whole mappings would make every thread's unused stack resident.
int clinux_lock_memory(void) { return answer(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)); }
uint64_t clinux_memory_lock_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0) return 0;
    return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit.rlim_cur;
}

int clinux_reserve(int file, int64_t from, int64_t count) { return answer(fallocate(file, FALLOC_FL_KEEP_SIZE, from, count)); }

int clinux_bypass_cache(int file, int bypass) {
    int flags = fcntl(file, F_GETFL);
    return flags < 0 ? -errno : answer(fcntl(file, F_SETFL, bypass ? flags | O_DIRECT : flags & ~O_DIRECT));
}

void clinux_wipe(void *memory, size_t count) { explicit_bzero(memory, count); }
int64_t clinux_boot_milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
void clinux_kill_self(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

int clinux_futex_wait(const uint32_t *word, uint32_t expected, uint64_t deadline) {
    struct timespec time = {.tv_sec = (time_t)(deadline / 1000000000), .tv_nsec = (long)(deadline % 1000000000)};
    long status = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected, deadline == UINT64_MAX ? NULL : &time, NULL, FUTEX_BITSET_MATCH_ANY);
    return status < 0 ? -errno : 0;
}
void clinux_futex_wake(const uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
