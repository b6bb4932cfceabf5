/* folder: folders, and what may be done to files by name alone. */
#include "base/base_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NS_IN_S 1000000000u

static int make_one(const char *path, struct err *e)
{
    if (!vfs_injected() && (mkdir(path, 0700) == 0 || errno == EEXIST)) return 0;
    return vfs_fail(e, path, "make the folder", errno);
}

int vfs_make_folder(const char *path, struct err *e)
{
    char part[PATH_MAX];
    const size_t n = strlen(path);
    if (n == 0 || n >= sizeof part) return vfs_fail(e, path, "make the folder", n ? ENAMETOOLONG : ENOENT);
    memcpy(part, path, n + 1);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        TRY(make_one(part, e));
        *slash = '/';
    }
    TRY(make_one(part, e));
    return vfs_is_dir(path) ? 0 : vfs_fail(e, path, "make the folder", ENOTDIR);
}

static uint64_t changed(const struct stat *st)
{
#ifdef __APPLE__
    const struct timespec t = st->st_mtimespec;
#else
    const struct timespec t = st->st_mtim;
#endif
    return t.tv_sec < 0 ? 0 : (uint64_t)t.tv_sec * NS_IN_S + (uint64_t)t.tv_nsec;
}

int vfs_list(const char *folder, int (*each)(void *ctx, const struct vfs_entry *f), void *ctx, struct err *e)
{
    DIR *d = vfs_injected() ? NULL : opendir(folder);
    int rc = 0;
    if (!d) return vfs_fail(e, folder, "list the folder", errno);
    for (struct dirent *entry; rc == 0 && (entry = readdir(d));) {
        struct stat st;
        if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) continue;
        const struct vfs_entry f = {entry->d_name, st.st_size < 0 ? 0 : (uint64_t)st.st_size, changed(&st)};
        rc = each(ctx, &f);
    }
    closedir(d);
    return rc;
}

int vfs_remove(const char *path, struct err *e)
{
    if (!vfs_injected() && unlink(path) == 0) return 0;
    return vfs_fail(e, path, "remove", errno);
}

int vfs_touch(const char *path, uint64_t ns, struct err *e)
{
    const struct timespec t = {.tv_sec = (time_t)(ns / NS_IN_S), .tv_nsec = (long)(ns % NS_IN_S)};
    const struct timespec times[2] = {t, t};
    if (!vfs_injected() && utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) == 0) return 0;
    return vfs_fail(e, path, "set the time", errno);
}

uint64_t vfs_free_bytes(const char *path)
{
    struct statvfs s;
    uint64_t bytes;
    if (vfs_injected() || statvfs(path, &s) != 0 || !u64_mul(s.f_bavail, s.f_frsize, &bytes)) return UINT64_MAX;
    return bytes;
}
