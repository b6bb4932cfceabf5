/* scratch: what tests of files share. A temporary folder, files written into it, and a fault that fails the N-th call. */
#ifndef QUERN_TEST_SCRATCH_H
#define QUERN_TEST_SCRATCH_H

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

/* Whether everything takes many times as long: under valgrind, an emulator, ThreadSanitizer. */
static inline bool scratch_slow(void)
{
    return getenv("QUERN_TEST_SLOW") != NULL;
}

/* Rounds of a test with random cases, or bytes of a long text. */
static inline size_t scratch_rounds(size_t n)
{
    return scratch_slow() ? n / 50 : n;
}

/* CPU seconds of this thread: for tests of how time grows, which must not depend on what else the machine does. */
static inline double scratch_cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A number below n, the next one of a sequence that *state, its seed at first, decides. */
static inline uint32_t scratch_below(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % n);
}

/* A fresh folder; its path goes into dir. */
static inline void scratch_make(char dir[64])
{
    strcpy(dir, "/tmp/quern-test-XXXXXX");
    if (!mkdtemp(dir)) perror("mkdtemp"), exit(1);
}

static inline int scratch_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static inline void scratch_remove(const char *dir)
{
    nftw(dir, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* dir/name in a static buffer, one of four in turn. */
static inline const char *scratch_path(const char *dir, const char *name)
{
    static char paths[4][512];
    static unsigned turn;
    char *p = paths[turn++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

static inline void scratch_write(const char *dir, const char *name, const void *p, size_t n)
{
    FILE *f = fopen(scratch_path(dir, name), "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0) perror(name), exit(1);
}

/* A heap copy of exactly n bytes, so that a sanitizer sees every read beyond them. */
static inline void *scratch_exact(const void *p, size_t n)
{
    void *copy = malloc(n ? n : 1);
    if (!copy) exit(1);
    if (n) memcpy(copy, p, n);
    return n ? copy : (free(copy), NULL);
}

/* Files made for the project that are not in it: QUERN_SHARED, else beside the source folder. NULL when missing. */
static inline const char *scratch_shared(const char *name)
{
    const char *root = getenv("QUERN_SHARED");
    const char *path = scratch_path(root ? root : SOURCE_ROOT "/../shared", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

/* fault_set(scratch_fail_nth, &n) fails call number n.at of its kind, counted from 1. */
struct scratch_nth {
    enum fault_kind kind;
    size_t at, seen;
};
static inline bool scratch_fail_nth(void *ctx, enum fault_kind kind)
{
    struct scratch_nth *n = ctx;
    return kind == n->kind && ++n->seen == n->at;
}

#endif
