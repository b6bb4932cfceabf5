/* vfs: every file that Quern touches goes through here.
 *
 * Reading: only regular files, decided on the open descriptor, so a pipe or a device is an error and never a hang.
 * Writing: a new file becomes visible under its name only when it is whole and on disk. Bytes go to a temporary file in the
 * same folder; commit flushes, syncs, renames and syncs the folder, in that order. What fails on the way removes the temporary
 * file.
 *
 * Each system call that can fail is asked about first (fault_hit), and then fails with EIO. */
#include "base/base_int.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- errors of the system in plain words, the same in every locale ---- */

static const struct {
    int code;
    const char *text;
} reasons[] = {
    {ENOENT, "no such file or folder"},
    {ENOTDIR, "a part of the path is not a folder"},
    {EACCES, "permission denied"},
    {EPERM, "operation not permitted"},
    {EISDIR, "it is a folder"},
    {EIO, "input/output error of the device"},
    {ENOSPC, "no space left on the device"},
    {EDQUOT, "the disk quota is used up"},
    {EFBIG, "file too large for the file system or the limits set"},
    {EROFS, "the file system is read-only"},
    {EMFILE, "too many open files in this process"},
    {ENFILE, "too many open files on this machine"},
    {ENAMETOOLONG, "the name is too long"},
    {ELOOP, "too many symbolic links"},
    {ENOMEM, "out of memory"},
    {EXDEV, "the folder lies on two file systems"},
    {ENXIO, "no such device"},
};

int vfs_fail(struct err *e, const char *path, const char *action, int code)
{
    int rc = code == ENOENT || code == ENOTDIR ? ERR_NOTFOUND : code == ENOMEM ? ERR_NOMEM : ERR_IO;
    for (size_t i = 0; i < COUNT_OF(reasons); i++)
        if (reasons[i].code == code) return fail(e, rc, "%s: cannot %s: %s", path, action, reasons[i].text);
    return fail(e, rc, "%s: cannot %s: system error %d", path, action, code);
}

/* ---- system calls that repeat when a signal interrupts them, and fail when a test says so: -1 and errno ---- */

bool vfs_injected(void)
{
    if (!fault_hit(FAULT_IO)) return false;
    errno = EIO;
    return true;
}

static int sys_open(const char *path, int flags, mode_t mode)
{
    int fd = -1;
    if (vfs_injected()) return -1;
    do fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static ssize_t sys_read(int fd, void *p, size_t n)
{
    ssize_t got = -1;
    if (vfs_injected()) return -1;
    do got = read(fd, p, size_min(n, (size_t)1 << 30));
    while (got < 0 && errno == EINTR);
    return got;
}

static ssize_t sys_write(int fd, const void *p, size_t n)
{
    ssize_t put = -1;
    if (vfs_injected()) return -1;
    do put = write(fd, p, size_min(n, (size_t)1 << 30));
    while (put < 0 && errno == EINTR);
    return put;
}

static ssize_t sys_pwrite(int fd, const void *p, size_t n, off_t at)
{
    ssize_t put = -1;
    if (vfs_injected()) return -1;
    do put = pwrite(fd, p, n, at);
    while (put < 0 && errno == EINTR);
    return put;
}

static int sys_sync(int fd)
{
    int rc = -1;
    if (vfs_injected()) return -1;
#ifdef F_FULLFSYNC
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0; /* macOS: fsync alone stops at the drive's cache */
#endif
    do rc = fsync(fd);
    while (rc < 0 && errno == EINTR);
    return rc;
}

/* ---- reading ---- */

/* Opens a regular file for reading; its size goes to *n. */
static int open_regular(const char *path, int *out, size_t *n, struct err *e)
{
    int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return vfs_fail(e, path, "open", errno);
    struct stat st;
    int rc = 0;
    if (vfs_injected() || fstat(fd, &st) != 0)
        rc = vfs_fail(e, path, "look at", errno);
    else if (S_ISDIR(st.st_mode))
        rc = fail(e, ERR_IO, "%s: expected a file, found a folder", path);
    else if (!S_ISREG(st.st_mode))
        rc = fail(e, ERR_IO, "%s: expected a regular file, found a device, pipe or socket", path);
    else if (st.st_size < 0 || (uint64_t)st.st_size > PTRDIFF_MAX)
        rc = fail(e, ERR_LIMIT, "%s: the file is too large for this machine", path);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    *out = fd;
    *n = (size_t)st.st_size;
    return 0;
}

int vfs_map(const char *path, struct map *out, struct err *e)
{
    int fd;
    size_t n;
    *out = (struct map){0};
    TRY(open_regular(path, &fd, &n, e));
    void *p = NULL;
    int rc = 0;
    if (n) {
        p = vfs_injected() ? MAP_FAILED : mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) rc = vfs_fail(e, path, "map", errno);
#ifdef MADV_HUGEPAGE
        /* What is not in the page cache yet is then read in huge pages, where the file system can. */
        if (rc == 0) (void)madvise(p, n, MADV_HUGEPAGE);
#endif
    }
    close(fd); /* the mapping stays */
    if (rc == 0 && n) *out = (struct map){.p = p, .n = n};
    return rc;
}

void vfs_unmap(struct map *m)
{
    if (m->copied)
        mem_pages_free((void *)(uintptr_t)m->p, m->n);
    else if (m->n)
        munmap((void *)(uintptr_t)m->p, m->n);
    *m = (struct map){0};
}

/* Reads until n bytes are there or the file ends; the number read, or -1. */
static ssize_t read_full(int fd, char *p, size_t n)
{
    size_t have = 0;
    while (have < n) {
        ssize_t got = sys_read(fd, p + have, n - have);
        if (got < 0) return -1;
        if (got == 0) break;
        have += (size_t)got;
    }
    return (ssize_t)have;
}

/* n bytes of the file at p. */
static int read_exactly(int fd, const char *path, char *p, size_t n, struct err *e)
{
    ssize_t got = read_full(fd, p, n);
    if (got < 0) return vfs_fail(e, path, "read", errno);
    if ((size_t)got == n) return 0;
    return fail(e, ERR_IO, "%s: the file became shorter while it was read (%zd of %zu bytes)", path, got, n);
}

int vfs_copy(const char *path, struct map *out, struct err *e)
{
    int fd, rc = 0;
    size_t n;
    *out = (struct map){0};
    TRY(open_regular(path, &fd, &n, e));
    char *p = n ? mem_pages(n) : NULL;
    if (n) rc = p ? read_exactly(fd, path, p, n, e) : fail_nomem(e, path, n);
    close(fd);
    if (rc < 0)
        mem_pages_free(p, n);
    else if (n)
        *out = (struct map){(const uint8_t *)p, n, true};
    return rc;
}

int vfs_lock(const struct map *m, const char *path, struct err *e)
{
    struct rlimit limit = {0};
    if (m->n == 0) return 0;
    if (!vfs_injected() && mlock(m->p, m->n) == 0) return 0;
    int code = errno;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur >= m->n) return vfs_fail(e, path, "lock it in memory", code);
    return fail(e, ERR_LIMIT,
                "%s: cannot lock its %zu MiB in memory: this process may lock %llu MiB; raise the limit (ulimit -l, or "
                "LimitMEMLOCK of a service) or do without locking",
                path, (m->n >> 20) + 1, (unsigned long long)limit.rlim_cur >> 20);
}

int vfs_read(const char *path, size_t max, struct arena *a, struct str *out, struct err *e)
{
    int fd, rc = 0;
    size_t n;
    *out = (struct str){0};
    TRY(open_regular(path, &fd, &n, e));
    char *p = NULL;
    if (n > max)
        rc = fail(e, ERR_LIMIT, "%s: %zu bytes, expected at most %zu", path, n, max);
    else if (!(p = arena_alloc(a, n + 1)))
        rc = fail_nomem(e, path, n + 1);
    else
        rc = read_exactly(fd, path, p, n, e);
    close(fd);
    if (rc == 0) *out = (struct str){p, n};
    return rc;
}

long read_small(const char *path, char *out, size_t cap)
{
    int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return -1;
    ssize_t got = read_full(fd, out, cap - 1);
    close(fd);
    if (got < 0) return -1;
    out[got] = 0;
    return (long)got;
}

bool vfs_is_dir(const char *path)
{
    struct stat st;
    return !vfs_injected() && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int vfs_look(const char *path, struct err *e)
{
    struct stat st;
    if (!vfs_injected() && stat(path, &st) == 0) return 0;
    if (errno == ENOENT) return fail(e, ERR_NOTFOUND, "%s: no such file or folder", path);
    return vfs_fail(e, path, "look at", errno);
}

bool vfs_exists(const char *path)
{
    return vfs_look(path, NULL) == 0;
}

int vfs_join(struct arena *a, const char *dir, const char *name, char **out, struct err *e)
{
    size_t d = strlen(dir), n = strlen(name);
    bool slash = d > 0 && dir[d - 1] != '/';
    char *p = arena_alloc(a, d + slash + n + 1);
    if (!p) return fail_nomem(e, "a path", d + slash + n + 1);
    memcpy(p, dir, d);
    if (slash) p[d] = '/';
    memcpy(p + d + slash, name, n + 1);
    *out = p;
    return 0;
}

/* ---- durable replacement ---- */

/* Files are written in pieces of a huge page, each at a multiple of its size: file systems that can (ext4 and XFS of recent
 * kernels) then keep them in huge pages of the page cache, and a model that was just made is mapped with these. */
#define OUT_BUFFER ((size_t)2 << 20)
#define TMP_TRIES 16
#define TMP_BEGIN ".quern-"
#define TMP_END ".tmp"
#define TMP_NS (uint64_t)3600000000000u /* age at which a temporary file may be what a crash left */

struct out {
    int fd, dir;        /* the temporary file, its folder; -1: not open */
    int lock;           /* the file again, locked until it has its name: a process that is gone has no locks */
    bool broken;        /* a write failed: commit must not succeed */
    bool exists;        /* the temporary file is there and must go */
    uint64_t pos;       /* bytes accepted */
    size_t n;           /* bytes in buffer */
    char *buffer;       /* [OUT_BUFFER] */
    char *path;         /* the file to replace: a symbolic link was followed */
    char *tmp;          /* the temporary file */
    char *folder;       /* of both */
    struct arena arena; /* holds buffer and paths */
};

static void out_free(struct out *o)
{
    if (o->fd >= 0) close(o->fd);
    if (o->exists) unlink(o->tmp);
    if (o->lock >= 0) close(o->lock);
    if (o->dir >= 0) close(o->dir);
    arena_fini(&o->arena);
    mem_free(o);
}

/* What path names now must be nothing or a regular file: a rename over a device or a folder would destroy or fail late. A link
 * is followed, so that the file behind it is replaced and the link stays. */
static int resolve(struct out *o, const char *path, struct err *e)
{
    struct stat st;
    char real[PATH_MAX];
    if (vfs_injected()) return vfs_fail(e, path, "look at", errno);
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        if (!realpath(path, real)) return vfs_fail(e, path, "follow the symbolic link", errno);
        path = real;
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail(e, ERR_IO, "%s: cannot write: expected a regular file, found a %s", path,
                    S_ISDIR(st.st_mode) ? "folder" : "device, pipe or socket");
    o->path = arena_dup(&o->arena, path, strlen(path));
    return o->path ? 0 : fail_nomem(e, "a path", strlen(path));
}

/* The temporary file is in the folder of path, so that the rename stays inside one file system. */
static int open_tmp(struct out *o, struct err *e)
{
    const char *slash = strrchr(o->path, '/');
    size_t dir_n = slash ? (size_t)(slash - o->path) + 1 : 0;
    const size_t name_n = 40;
    o->tmp = arena_alloc(&o->arena, dir_n + name_n);
    o->folder = arena_dup(&o->arena, dir_n ? o->path : "./", dir_n ? dir_n : 2);
    if (!o->tmp || !o->folder) return fail_nomem(e, "a path", dir_n + name_n);
    o->dir = sys_open(o->folder, O_RDONLY | O_DIRECTORY, 0);
    if (o->dir < 0) return vfs_fail(e, o->folder, "open the folder", errno);
    memcpy(o->tmp, o->path, dir_n);
    for (int i = 0; i < TMP_TRIES; i++) {
        uint64_t id;
        random_bytes(&id, sizeof id);
        snprintf(o->tmp + dir_n, name_n, TMP_BEGIN "%016llx" TMP_END, (unsigned long long)id);
        o->fd = sys_open(o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
        if (o->fd >= 0 || errno != EEXIST) break;
    }
    if (o->fd < 0) return vfs_fail(e, o->path, "create a temporary file beside it", errno);
    o->exists = true;
    o->lock = fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
    if (o->lock >= 0) (void)flock(o->lock, LOCK_EX | LOCK_NB); /* where there are no locks, vfs_sweep leaves files alone */
    return 0;
}

int out_open(const char *path, struct out **out, struct err *e)
{
    *out = NULL;
    struct out *o = mem_zalloc(sizeof *o);
    if (!o) return fail_nomem(e, path, sizeof *o);
    o->fd = o->dir = o->lock = -1;
    o->buffer = arena_alloc(&o->arena, OUT_BUFFER);
    int rc = o->buffer ? resolve(o, path, e) : fail_nomem(e, path, OUT_BUFFER);
    if (rc == 0) rc = open_tmp(o, e);
    if (rc < 0)
        out_free(o);
    else
        *out = o;
    return rc;
}

static int write_full(struct out *o, const char *p, size_t n, struct err *e)
{
    while (n) {
        ssize_t put = sys_write(o->fd, p, n);
        if (put < 0 || put == 0) {
            o->broken = true;
            return vfs_fail(e, o->path, "write", put < 0 ? errno : ENOSPC);
        }
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static int flush(struct out *o, struct err *e)
{
    size_t n = o->n;
    o->n = 0;
    return write_full(o, o->buffer, n, e);
}

int out_write(struct out *o, const void *p, size_t n, struct err *e)
{
    if (o->broken) return fail(e, ERR_IO, "%s: an earlier write failed", o->path);
    const char *from = p;
    o->pos += n;
    while (n) {
        size_t piece = size_min(n, OUT_BUFFER - o->n);
        memcpy(o->buffer + o->n, from, piece);
        o->n += piece;
        from += piece;
        n -= piece;
        if (o->n == OUT_BUFFER) TRY(flush(o, e));
    }
    return 0;
}

uint64_t out_pos(const struct out *o)
{
    return o->pos;
}

int out_peek(struct out *o, const char **tmp_path, struct err *e)
{
    if (o->broken) return fail(e, ERR_IO, "%s: an earlier write failed", o->path);
    *tmp_path = o->tmp;
    return flush(o, e);
}

int out_patch(struct out *o, uint64_t pos, const void *p, size_t n, struct err *e)
{
    if (o->broken) return fail(e, ERR_IO, "%s: an earlier write failed", o->path);
    if (pos > o->pos || n > o->pos - pos) return fail(e, ERR_ARG, "%s: bytes that are not written yet", o->path);
    TRY(flush(o, e));
    if (sys_pwrite(o->fd, p, n, (off_t)pos) == (ssize_t)n) return 0;
    o->broken = true;
    return vfs_fail(e, o->path, "write", errno ? errno : ENOSPC);
}

/* Some file systems cannot sync a folder and say so with EINVAL: their renames are as durable as they get. */
static int sync_folder(struct out *o, struct err *e)
{
    if (sys_sync(o->dir) == 0 || errno == EINVAL || errno == ENOTSUP) return 0;
    return vfs_fail(e, o->path, "make the new name durable", errno);
}

static int commit(struct out *o, struct err *e)
{
    if (o->broken) return fail(e, ERR_IO, "%s: an earlier write failed", o->path);
    TRY(flush(o, e));
    if (sys_sync(o->fd) != 0) return vfs_fail(e, o->path, "make the file durable", errno);
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) != 0 && errno != EINTR) return vfs_fail(e, o->path, "close", errno);
    if (vfs_injected() || rename(o->tmp, o->path) != 0) return vfs_fail(e, o->path, "rename the temporary file", errno);
    o->exists = false;
    return sync_folder(o, e);
}

int out_commit(struct out **po, struct err *e)
{
    struct out *o = *po;
    *po = NULL;
    int rc = commit(o, e);
    out_free(o);
    return rc;
}

void out_abort(struct out **po)
{
    if (*po) out_free(*po);
    *po = NULL;
}

/* ---- what was left behind ---- */

struct sweep {
    const char *folder;
    uint64_t now;
};

static int sweep_one(void *ctx, const struct vfs_entry *f)
{
    const struct sweep *s = ctx;
    const struct str name = str_of(f->name);
    char path[PATH_MAX];
    if (!str_starts(name, STR(TMP_BEGIN)) || !str_ends(name, STR(TMP_END))) return 0;
    if (s->now < f->ns || s->now - f->ns < TMP_NS) return 0;
    if (snprintf(path, sizeof path, "%s/%s", s->folder, f->name) >= PATH_MAX) return 0;
    const int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
    if (fd < 0) return 0;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) (void)vfs_remove(path, NULL);
    close(fd);
    return 0;
}

void vfs_sweep(const char *folder)
{
    struct sweep s = {folder, clock_utc_ns()};
    (void)vfs_list(folder, sweep_one, &s, NULL);
}

void out_sweep(const struct out *o)
{
    vfs_sweep(o->folder);
}
