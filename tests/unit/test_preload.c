/* preload: pages become present, in any cut of spans; stopping is safe at every moment; a file that lost its end is no crash.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "scratch.h"

#include <cmocka.h>

enum { BYTES = 5 << 20 };
static char dir[64];

static int make_file(void **state)
{
    static char bytes[BYTES];
    (void)state;
    scratch_make(dir);
    memset(bytes, 'q', sizeof bytes);
    scratch_write(dir, "file", bytes, sizeof bytes);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

static struct map map_file(void)
{
    struct map m;
    struct err e = {0};
    if (vfs_map(scratch_path(dir, "file"), &m, &e) < 0) fail_msg("%s", e.msg);
    return m;
}

#ifdef __linux__
/* KiB of the mapping that this process has pages for. */
static size_t resident_kib(const struct map *m)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512], start[40];
    size_t kib = 0;
    bool inside = false;
    assert_non_null(f);
    snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)m->p);
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, start, strlen(start)) == 0) inside = true;
        if (inside && sscanf(line, "Rss: %zu kB", &kib) == 1) break;
    }
    fclose(f);
    return kib;
}

static void pages_are_there_after_wait(void **state)
{
    (void)state;
    struct map m = map_file();
    const struct region spans[] = {{m.p + 3, 1}, {m.p + 4000, 2 << 20}, {m.p + BYTES - 9, 9}, {m.p, BYTES}};
    struct preload *p;
    struct err e = {0};
    assert_int_equal(preload_start(spans, COUNT_OF(spans), &p, &e), 0);
    preload_wait(&p);
    assert_null(p);
    /* Where mappings are valgrind's or an emulator's, the system's list of them says nothing. */
    if (madvise((void *)(uintptr_t)m.p, BYTES, 22) == 0 && !scratch_slow()) assert_int_equal(resident_kib(&m), BYTES / 1024);
    vfs_unmap(&m);
}
#endif

static void stops_at_any_moment(void **state)
{
    (void)state;
    struct map m = map_file();
    static struct region spans[4096];
    for (size_t i = 0; i < COUNT_OF(spans); i++) spans[i] = (struct region){m.p + i * 1000, 4096};
    for (int i = 0; i < 50; i++) {
        struct preload *p;
        struct err e = {0};
        assert_int_equal(preload_start(spans, COUNT_OF(spans), &p, &e), 0);
        for (volatile int spin = 0; spin < i * 500; spin++) continue;
        preload_stop(&p);
        assert_null(p);
        preload_stop(&p);
    }
    vfs_unmap(&m);
}

static void a_file_that_lost_its_end_is_no_crash(void **state)
{
    (void)state;
    struct map m = map_file();
    struct preload *p;
    struct err e = {0};
    assert_int_equal(truncate(scratch_path(dir, "file"), 1 << 20), 0);
    assert_int_equal(preload_start(&(struct region){m.p, BYTES}, 1, &p, &e), 0);
    preload_wait(&p);
    assert_int_equal(preload_start(&(struct region){m.p + (2 << 20), 1 << 20}, 1, &p, &e), 0);
    preload_wait(&p);
    vfs_unmap(&m);
}

#ifdef __linux__
static size_t cached_pages(const struct map *m, size_t from, size_t n)
{
    unsigned char there[BYTES / 4096];
    size_t pages = 0;
    assert_int_equal(mincore((void *)(uintptr_t)(m->p + from), n, there), 0);
    for (size_t i = 0; i < n / 4096; i++) pages += there[i] & 1;
    return pages;
}

/* Where the file system keeps its files in memory alone nothing can be dropped, and nothing is seen here; nor where an emulator
 * passes no advice on. */
static void what_is_asked_for_comes_alone(void **state)
{
    enum { FROM = 1 << 20, N = 700 * 1024, STEP = 4096 };
    (void)state;
    struct map m = map_file();
    preload_sparse((struct region){m.p, m.n});
    int fd = open(scratch_path(dir, "file"), O_RDONLY);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
    if (cached_pages(&m, 0, BYTES) == 0 && !scratch_slow()) {
        preload_ask((struct region){m.p + FROM + 1, N - 2});
        for (unsigned i = 0; i < 1000 && cached_pages(&m, FROM, N) < N / STEP; i++) usleep(10000);
        assert_int_equal(cached_pages(&m, FROM, N), N / STEP);
        assert_int_equal(cached_pages(&m, 0, BYTES), N / STEP);
    }
    vfs_unmap(&m);
}
#endif

static void start_may_fail(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_ALLOC, FAULT_THREAD};
    size_t before = mem_stats().current;
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        struct scratch_nth nth = {.kind = kinds[k], .at = 1};
        struct preload *p;
        struct err e = {0};
        fault_set(scratch_fail_nth, &nth);
        int rc = preload_start(&(struct region){(const uint8_t *)dir, 1}, 1, &p, &e);
        fault_set(NULL, NULL);
        assert_true(rc < 0 && p == NULL && e.msg[0]);
        preload_stop(&p);
    }
    assert_int_equal(mem_stats().current, before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef __linux__
        cmocka_unit_test(pages_are_there_after_wait),
        cmocka_unit_test(what_is_asked_for_comes_alone),
#endif
        cmocka_unit_test(stops_at_any_moment),
        cmocka_unit_test(a_file_that_lost_its_end_is_no_crash),
        cmocka_unit_test(start_may_fail),
    };
    return cmocka_run_group_tests_name("preload", tests, make_file, remove_dir);
}
