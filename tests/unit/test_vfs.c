/* vfs: only regular files, and a file that is replaced is either the old one or the new one, whatever fails on the way. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/base.h"
#include "scratch.h"

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    scratch_make(dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

static unsigned files_in_dir(void)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void check_content(const char *path, const char *expected)
{
    struct arena a = {0};
    struct str s;
    struct err e = {0};
    if (vfs_read(path, 1000000, &a, &s, &e) < 0) fail_msg("%s", e.msg);
    assert_string_equal(s.p, expected);
    assert_int_equal(s.n, strlen(expected));
    arena_fini(&a);
}

static void maps_and_reads(void **state)
{
    (void)state;
    struct map m;
    struct err e = {0};
    struct arena a = {0};
    struct str s;
    scratch_write(dir, "five", "hello", 5);
    scratch_write(dir, "empty", "", 0);
    assert_int_equal(vfs_map(scratch_path(dir, "five"), &m, &e), 0);
    assert_int_equal(m.n, 5);
    assert_memory_equal(m.p, "hello", 5);
    vfs_unmap(&m);
    assert_null(m.p);
    vfs_unmap(&m);
    assert_int_equal(vfs_map(scratch_path(dir, "empty"), &m, &e), 0);
    assert_true(m.p == NULL && m.n == 0);
    assert_int_equal(vfs_read(scratch_path(dir, "five"), 5, &a, &s, &e), 0);
    assert_string_equal(s.p, "hello");
    assert_int_equal(vfs_read(scratch_path(dir, "five"), 4, &a, &s, &e), ERR_LIMIT);
    assert_non_null(strstr(e.msg, "5 bytes, expected at most 4"));
    assert_int_equal(vfs_read(scratch_path(dir, "none"), 4, &a, &s, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "/none: cannot open: no such file or folder"));
    assert_int_equal(vfs_map(scratch_path(dir, "five/x"), &m, &e), ERR_NOTFOUND);
    arena_fini(&a);
}

/* A copy is the file's bytes, and stays what it was. */
static void copies(void **state)
{
    (void)state;
    struct map m;
    struct err e = {0};
    scratch_write(dir, "copied", "hello", 5);
    scratch_write(dir, "empty", "", 0);
    size_t before = mem_stats().pages;
    assert_int_equal(vfs_copy(scratch_path(dir, "copied"), &m, &e), 0);
    scratch_write(dir, "copied", "other", 5);
    assert_int_equal(m.n, 5);
    assert_memory_equal(m.p, "hello", 5);
    vfs_unmap(&m);
    assert_int_equal(vfs_copy(scratch_path(dir, "empty"), &m, &e), 0);
    assert_true(m.p == NULL && m.n == 0);
    assert_int_equal(vfs_copy(scratch_path(dir, "none"), &m, &e), ERR_NOTFOUND);
    assert_int_equal(mem_stats().pages, before);
}

/* Where the system forbids to lock so much, the message says how much it allows. In a child, which gives up its rights. */
/* Sanitizers replace mlock by a function that does nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MLOCK_IS_REAL false
#elif defined(__has_feature)
#define MLOCK_IS_REAL (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define MLOCK_IS_REAL true
#endif

static void locks_or_says_why_not(void **state)
{
    (void)state;
    if (!MLOCK_IS_REAL) skip();
    enum { N = 3 << 20 };
    static char bytes[N];
    struct err e = {0};
    struct map m;
    scratch_write(dir, "lock", bytes, N);
    assert_int_equal(vfs_map(scratch_path(dir, "lock"), &m, &e), 0);
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit one_mib = {1 << 20, 1 << 20};
        bool poor = setrlimit(RLIMIT_MEMLOCK, &one_mib) == 0 && (getuid() != 0 || setuid(65534) == 0);
        int rc = vfs_lock(&m, "lock", &e);
        _exit(poor && rc == ERR_LIMIT && strstr(e.msg, "cannot lock its 4 MiB") && strstr(e.msg, "may lock 1 MiB") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    vfs_unmap(&m);
}

/* A pipe would block and a device would never end: both are refused at once. */
static void refuses_what_is_not_a_file(void **state)
{
    (void)state;
    struct map m;
    struct arena a = {0};
    struct str s;
    struct err e = {0};
    assert_int_equal(mkfifo(scratch_path(dir, "pipe"), 0600), 0);
    const char *const paths[] = {scratch_path(dir, "pipe"), "/dev/zero", "/dev/null", dir};
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        assert_int_equal(vfs_map(paths[i], &m, &e), ERR_IO);
        assert_int_equal(vfs_read(paths[i], 100, &a, &s, &e), ERR_IO);
        assert_non_null(strstr(e.msg, "expected a "));
        struct out *o;
        assert_int_equal(out_open(paths[i], &o, &e), ERR_IO);
        assert_null(o);
    }
    assert_true(vfs_is_dir(dir) && vfs_exists(dir) && !vfs_is_dir("/dev/null") && !vfs_exists(scratch_path(dir, "none")));
    arena_fini(&a);
    unlink(scratch_path(dir, "pipe"));
}

static void joins_paths(void **state)
{
    (void)state;
    struct arena a = {0};
    struct err e;
    char *p;
    assert_int_equal(vfs_join(&a, "a/b", "c", &p, &e), 0);
    assert_string_equal(p, "a/b/c");
    vfs_join(&a, "/", "c", &p, &e);
    assert_string_equal(p, "/c");
    vfs_join(&a, "", "c", &p, &e);
    assert_string_equal(p, "c");
    arena_fini(&a);
}

static void replaces_a_file(void **state)
{
    (void)state;
    struct out *o;
    struct err e = {0};
    unsigned before = files_in_dir();
    const char *path = scratch_path(dir, "new");
    assert_int_equal(out_open(path, &o, &e), 0);
    assert_int_equal(out_write(o, "abc", 3, &e), 0);
    assert_int_equal(out_write(o, "", 0, &e), 0);
    assert_int_equal(out_write(o, "def", 3, &e), 0);
    assert_int_equal(out_pos(o), 6);
    assert_false(vfs_exists(path));
    assert_int_equal(out_commit(&o, &e), 0);
    assert_null(o);
    check_content(path, "abcdef");
    assert_int_equal(files_in_dir(), before + 1);

    assert_int_equal(out_open(path, &o, &e), 0);
    out_write(o, "other", 5, &e);
    out_abort(&o);
    out_abort(&o);
    check_content(path, "abcdef");

    /* a symbolic link stays, and the file behind it is replaced */
    assert_int_equal(symlink("new", scratch_path(dir, "link")), 0);
    assert_int_equal(out_open(scratch_path(dir, "link"), &o, &e), 0);
    out_write(o, "through", 7, &e);
    assert_int_equal(out_commit(&o, &e), 0);
    check_content(path, "through");
    char target[16] = {0};
    assert_int_equal(readlink(scratch_path(dir, "link"), target, sizeof target - 1), 3);
    assert_int_equal(out_open(scratch_path(dir, "nowhere/new"), &o, &e), ERR_NOTFOUND);
    assert_int_equal(files_in_dir(), before + 2);
}

static void large_and_small_writes_keep_their_order(void **state)
{
    (void)state;
    enum { N = 7000000 };
    static uint8_t bytes[N];
    struct out *o;
    struct err e = {0};
    struct map m;
    for (size_t i = 0; i < N; i++) bytes[i] = (uint8_t)(i * 7 + i / 251);
    assert_int_equal(out_open(scratch_path(dir, "big"), &o, &e), 0);
    for (size_t at = 0, step = 1; at < N; at += step, step = step * 3 % 2700001 + 1) {
        step = size_min(step, N - at);
        assert_int_equal(out_write(o, bytes + at, step, &e), 0);
    }
    assert_int_equal(out_commit(&o, &e), 0);
    assert_int_equal(vfs_map(scratch_path(dir, "big"), &m, &e), 0);
    assert_int_equal(m.n, N);
    assert_memory_equal(m.p, bytes, N);
    vfs_unmap(&m);
}

/* Writes "new content" over path; whatever fails, the code says so. */
static int replace(const char *path, struct err *e)
{
    static char filler[3 << 20]; /* larger than the buffer, so that a write happens before the commit */
    struct out *o;
    TRY(out_open(path, &o, e));
    int rc = out_write(o, "new ", 4, e);
    if (rc == 0) rc = out_write(o, filler, sizeof filler, e);
    if (rc == 0) return out_commit(&o, e);
    out_abort(&o);
    return rc;
}

static void each_call_may_fail(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_IO, FAULT_ALLOC};
    const char *path = scratch_path(dir, "target");
    struct map m;
    struct err e = {0};
    size_t memory = mem_stats().current;
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        size_t failures = 0;
        for (size_t k = 1;; k++) {
            scratch_write(dir, "target", "old", 3);
            unsigned files = files_in_dir();
            struct scratch_nth nth = {kinds[i], k, 0};
            e = (struct err){0};
            fault_set(scratch_fail_nth, &nth);
            int rc = replace(path, &e);
            fault_set(NULL, NULL);
            assert_int_equal(mem_stats().current, memory);
            assert_int_equal(files_in_dir(), files); /* no temporary file is left */
            assert_int_equal(vfs_map(path, &m, &e), 0);
            /* Old or new, whole. Only where the folder could not be synced is it new in spite of the failure. */
            bool old = m.n == 3 && memcmp(m.p, "old", 3) == 0;
            assert_true(old || m.n == (3 << 20) + 4);
            vfs_unmap(&m);
            if (nth.seen < k) {
                assert_int_equal(rc, 0);
                assert_false(old);
                break;
            }
            failures++;
            assert_true(rc == (kinds[i] == FAULT_IO ? ERR_IO : ERR_NOMEM));
            if (!old) assert_non_null(strstr(e.msg, "durable"));
        }
        assert_true(failures >= (kinds[i] == FAULT_IO ? 8 : 2));
    }
}

static void reading_may_fail_at_any_call(void **state)
{
    (void)state;
    scratch_write(dir, "read", "text", 4);
    for (size_t k = 1;; k++) {
        struct scratch_nth nth = {FAULT_IO, k, 0};
        struct arena a = {0};
        struct map m;
        struct str s;
        struct err e = {0};
        fault_set(scratch_fail_nth, &nth);
        int rc = vfs_copy(scratch_path(dir, "read"), &m, &e);
        vfs_unmap(&m);
        if (rc == 0) rc = vfs_map(scratch_path(dir, "read"), &m, &e);
        if (rc == 0) rc = vfs_read(scratch_path(dir, "read"), 10, &a, &s, &e);
        fault_set(NULL, NULL);
        vfs_unmap(&m);
        arena_fini(&a);
        if (nth.seen < k) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, ERR_IO);
        assert_non_null(strstr(e.msg, "/read: cannot "));
    }
}

/* A real failure of the system, with a short write before it. */
static void size_limit_leaves_no_partial_file(void **state)
{
    (void)state;
    struct rlimit old, low = {2500000, 2500000};
    struct err e = {0};
    getrlimit(RLIMIT_FSIZE, &old);
    low.rlim_max = old.rlim_max;
    unsigned files = files_in_dir();
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &low);
    int rc = replace(scratch_path(dir, "limited"), &e);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(e.msg, "file too large"));
    assert_int_equal(files_in_dir(), files);
}

static void age(const char *path)
{
    struct err e;
    if (vfs_touch(path, 1000000000u, &e) < 0) fail_msg("%s", e.msg);
}

/* A writer that is killed leaves its file behind. */
static void be_killed(void)
{
    struct out *o;
    const pid_t pid = fork();
    if (pid == 0) {
        if (out_open(scratch_path(dir, "killed"), &o, NULL) == 0) raise(SIGKILL);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static int age_tmp(void *ctx, const struct vfs_entry *f)
{
    (void)ctx;
    if (str_ends(str_of(f->name), STR(".tmp"))) age(scratch_path(dir, f->name));
    return 0;
}

static void sweeps_up_what_the_dead_left(void **state)
{
    struct out *o, *other;
    struct err e = {0};
    (void)state;
    const unsigned before = files_in_dir();
    scratch_write(dir, ".quern-notes", "", 0);
    scratch_write(dir, ".other.tmp", "", 0);
    age(scratch_path(dir, ".quern-notes"));
    age(scratch_path(dir, ".other.tmp"));
    be_killed();
    assert_int_equal(files_in_dir(), before + 3);
    vfs_sweep(dir); /* it is new */
    assert_int_equal(files_in_dir(), before + 3);
    if (out_open(scratch_path(dir, "slow"), &o, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(vfs_list(dir, age_tmp, NULL, &e), 0);
    if (out_open(scratch_path(dir, "fast"), &other, &e) < 0) fail_msg("%s", e.msg);
    out_sweep(other);
    out_abort(&other);
    assert_int_equal(files_in_dir(), before + 3); /* that of the dead is gone; slow's writer lives */
    assert_int_equal(out_commit(&o, &e), 0);
    assert_int_equal(vfs_exists(scratch_path(dir, "slow")), 1);
    vfs_sweep("/no/such/folder");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_and_reads),
        cmocka_unit_test(copies),
        cmocka_unit_test(locks_or_says_why_not),
        cmocka_unit_test(refuses_what_is_not_a_file),
        cmocka_unit_test(joins_paths),
        cmocka_unit_test(replaces_a_file),
        cmocka_unit_test(large_and_small_writes_keep_their_order),
        cmocka_unit_test(each_call_may_fail),
        cmocka_unit_test(reading_may_fail_at_any_call),
        cmocka_unit_test(size_limit_leaves_no_partial_file),
        cmocka_unit_test(sweeps_up_what_the_dead_left),
    };
    return cmocka_run_group_tests_name("vfs", tests, make_dir, remove_dir);
}
