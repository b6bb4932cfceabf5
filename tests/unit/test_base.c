/* base: errors, memory, strings, numbers, the reader, the count of CPUs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>

#include "base/base_int.h"
#include "scratch.h"

#include <cmocka.h>
#undef fail /* the one of base is meant */

static struct str view(const char *z)
{
    return str_of(z);
}

/* ---- errors ---- */

static void errors_are_one_plain_line(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(fail(&e, ERR_FORMAT, "%s: dim %d", "a\nb\x1b[31m\xff\xc2\x9b", 3), ERR_FORMAT);
    assert_string_equal(e.msg, "a b?[31m??: dim 3");
    assert_int_equal(fail_prefix(&e, "part %d", 2), ERR_FORMAT);
    assert_string_equal(e.msg, "part 2: a b?[31m??: dim 3");
    fail(&e, ERR_IO, "again: %s", e.msg);
    assert_string_equal(e.msg, "again: part 2: a b?[31m??: dim 3");
    assert_int_equal(fail(NULL, ERR_ARG, "nobody listens"), ERR_ARG);
    assert_string_equal(err_text(ERR_NOTFOUND), "not found");
    assert_string_equal(err_text(77), "unknown error");
}

static void long_messages_end_at_a_character(void **state)
{
    (void)state;
    struct err e = {0};
    char text[600];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'a', sizeof text);
        for (size_t i = shift; i + 3 < sizeof text; i += 3) memcpy(text + i, "\xe2\x82\xac", 3);
        text[sizeof text - 1] = 0;
        fail(&e, ERR_FORMAT, "%s", text);
        assert_true(utf8_valid(view(e.msg)));
        assert_true(strlen(e.msg) > 490);
        fail_prefix(&e, "%s", text);
        assert_true(utf8_valid(view(e.msg)));
    }
}

/* ---- memory ---- */

static void memory_is_counted(void **state)
{
    (void)state;
    struct mem_stats before = mem_stats();
    mem_peak_reset();
    char *p = mem_alloc(100), *q = mem_zalloc(1000), *empty = mem_alloc(0);
    assert_non_null(p);
    assert_non_null(q);
    assert_non_null(empty);
    assert_int_equal((uintptr_t)p % 16, 0);
    for (size_t i = 0; i < 1000; i++) assert_int_equal(q[i], 0);
    memset(p, 7, 100);
    p = mem_realloc(p, 5000);
    assert_non_null(p);
    assert_int_equal(p[99], 7);
    assert_int_equal(mem_stats().current - before.current, 6000);
    assert_int_equal(mem_stats().calls - before.calls, 4);
    mem_free(p);
    mem_free(q);
    mem_free(empty);
    mem_free(NULL);
    assert_int_equal(mem_stats().current, before.current);
    assert_int_equal(mem_stats().peak - before.current, 6000);
    assert_null(mem_array(SIZE_MAX / 2, 3));
    assert_null(mem_alloc(SIZE_MAX));
    assert_null(mem_alloc((size_t)PTRDIFF_MAX));
}

static void failed_realloc_keeps_the_block(void **state)
{
    (void)state;
    struct scratch_nth nth = {FAULT_ALLOC, 1, 0};
    char *p = mem_alloc(10);
    assert_non_null(p);
    memset(p, 5, 10);
    fault_set(scratch_fail_nth, &nth);
    assert_null(mem_realloc(p, 20));
    fault_set(NULL, NULL);
    assert_int_equal(p[9], 5);
    mem_free(p);
}

static void pages_are_zero_and_counted(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4096, 100000, (size_t)2 << 20, ((size_t)5 << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t before = mem_stats().pages;
        char *p = mem_pages(sizes[i]);
        assert_non_null(p);
        if (sizes[i] >= (size_t)2 << 20) assert_int_equal((uintptr_t)p % ((size_t)2 << 20), 0);
        assert_true(mem_stats().pages - before >= sizes[i]);
        for (size_t k = 0; k < sizes[i]; k += 1000) assert_int_equal(p[k], 0);
        if (sizes[i]) p[sizes[i] - 1] = 1;
        mem_pages_free(p, sizes[i]);
        assert_int_equal(mem_stats().pages, before);
    }
    assert_null(mem_pages(SIZE_MAX));
    assert_null(mem_pages(SIZE_MAX - 100000));
}

static void arena_hands_out_zeroed_aligned_memory(void **state)
{
    (void)state;
    struct mem_stats before = mem_stats();
    struct arena a = {0};
    char *kept[200];
    for (size_t i = 0; i < COUNT_OF(kept); i++) {
        size_t n = i * i % 977;
        kept[i] = arena_alloc(&a, n);
        assert_non_null(kept[i]);
        assert_int_equal((uintptr_t)kept[i] % 16, 0);
        for (size_t k = 0; k < n; k++) assert_int_equal(kept[i][k], 0);
        memset(kept[i], (int)i, n);
    }
    for (size_t i = 0; i < COUNT_OF(kept); i++)
        for (size_t k = 0; k < i * i % 977; k++) assert_int_equal((uint8_t)kept[i][k], i);
    assert_null(arena_array(&a, SIZE_MAX / 4, 8));
    assert_null(arena_alloc(&a, SIZE_MAX));
    char *z = arena_dup(&a, "abc", 2);
    assert_string_equal(z, "ab");
    /* a large block must not end the use of the current one */
    size_t total = a.total;
    assert_non_null(arena_alloc(&a, (size_t)20 << 20));
    assert_non_null(arena_alloc(&a, 16));
    assert_true(a.total - total < ((size_t)20 << 20) + 256);
    arena_fini(&a);
    assert_null(a.head);
    assert_int_equal(mem_stats().current, before.current);
    assert_non_null(arena_alloc(&a, 1));
    arena_fini(&a);
}

static void arena_keeps_its_limit(void **state)
{
    (void)state;
    struct arena a = {.limit = 10000};
    size_t got = 0;
    while (arena_alloc(&a, 100)) got += 100;
    assert_true(a.total <= 10000);
    assert_true(got > 7000);
    assert_null(arena_alloc(&a, 20000));
    arena_fini(&a);
    assert_int_equal(a.limit, 10000);
}

/* ---- strings ---- */

static void strings_compare(void **state)
{
    (void)state;
    assert_int_equal(str_cmp(STR("a"), STR("ab")), -1);
    assert_int_equal(str_cmp(STR("b"), STR("ab")), 1);
    assert_int_equal(str_cmp(STR("\xff"), STR("a")), 1);
    assert_int_equal(str_cmp((struct str){0}, (struct str){0}), 0);
    assert_true(str_starts(STR("abc"), STR("ab")) && !str_starts(STR("a"), STR("ab")));
    assert_true(str_ends(STR("abc"), STR("bc")) && !str_ends(STR("c"), STR("bc")));
}

static void hash_depends_on_every_byte(void **state)
{
    (void)state;
    char text[32] = {0};
    for (size_t n = 0; n < sizeof text; n++) {
        uint64_t h = str_hash((struct str){text, n});
        assert_true(h == str_hash((struct str){text, n}));
        assert_true(h != str_hash((struct str){text, n + 1}));
        for (size_t i = 0; i < n; i++) {
            text[i] ^= 1;
            assert_true(h != str_hash((struct str){text, n}));
            text[i] ^= 1;
        }
    }
}

static void whole_numbers(void **state)
{
    (void)state;
    static const char *const bad[] = {"",   " 1", "1 ", "+1", "-", "1a", "18446744073709551616", "99999999999999999999999",
                                      "0x1"};
    uint64_t u = 7;
    int64_t i = 7;
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        assert_false(str_u64(view(bad[k]), &u));
        assert_false(str_i64(view(bad[k]), &i));
    }
    assert_true(u == 7 && i == 7);
    assert_true(str_u64(STR("18446744073709551615"), &u) && u == UINT64_MAX);
    assert_true(str_i64(STR("-9223372036854775808"), &i) && i == INT64_MIN);
    assert_true(str_i64(STR("9223372036854775807"), &i) && i == INT64_MAX);
    assert_false(str_i64(STR("-9223372036854775809"), &i));
    assert_false(str_i64(STR("9223372036854775808"), &i));
    assert_true(str_i64(STR("-0"), &i) && i == 0);
    assert_false(str_u64(STR("-1"), &u));
}

static void decimals_are_rounded_correctly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"0", 0},
        {"-0", -0.0},
        {"1.5", 1.5},
        {"+.5", 0.5},
        {"5.", 5},
        {"1e-07", 1e-7},
        {"1E5", 1e5},
        {"0.1", 0.1},
        {"123456789012345678", 123456789012345678.0},
        {"2.2250738585072011e-308", 0x0.fffffffffffffp-1022},
        {"4.9406564584124654e-324", 0x1p-1074},
        {"2.4703282292062327208e-324", 0}, /* a hair below half of the smallest */
        {"2.4703282292062328e-324", 0x1p-1074},
        {"9007199254740993", 9007199254740992.0}, /* halfway: to even */
        {"9007199254740993.0000000000000000000000001", 9007199254740994.0},
        {"1.7976931348623157e308", DBL_MAX},
        {"1e-99999999999999999999", 0},
        {"0e99999999999999999999", 0},
    };
    static const char *const bad[] = {"",    ".",   "-",   "1e", "1e+", "e5",   "0x10",
                                      "inf", "nan", "1_0", " 1", "1 ",  "1..2", "1e400"};
    double v = 0;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        assert_true(str_f64(view(cases[i].text), &v));
        assert_memory_equal(&v, &cases[i].value, sizeof v);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) assert_false(str_f64(view(bad[i]), &v));
}

/* The digit that decides a halfway case may come after any number of others. */
static void long_decimals(void **state)
{
    (void)state;
    struct buf b = {0};
    double v;
    assert_int_equal(buf_z(&b, "9007199254740993."), 0);
    for (int i = 0; i < 5000; i++) buf_c(&b, '0');
    assert_true(str_f64(buf_view(&b), &v) && v == 9007199254740992.0);
    buf_c(&b, '1');
    assert_true(str_f64(buf_view(&b), &v) && v == 9007199254740994.0);
    b.n = 0;
    buf_z(&b, "0.");
    for (int i = 0; i < 5000; i++) buf_c(&b, '0');
    buf_z(&b, "25e5000");
    assert_true(str_f64(buf_view(&b), &v) && v == 0.25);
    b.n = 0;
    buf_z(&b, "25");
    for (int i = 0; i < 5000; i++) buf_c(&b, '0');
    buf_z(&b, "e-5001");
    assert_true(str_f64(buf_view(&b), &v) && v == 2.5);
    buf_fini(&b);
}

static void check_text(double v, const char *expected)
{
    char text[F64_TEXT_MAX];
    size_t n = f64_text(v, text);
    assert_string_equal(text, expected);
    assert_int_equal(n, strlen(expected));
}

/* Expected texts are those of Python's repr(). */
static void doubles_print_as_python_does(void **state)
{
    (void)state;
    check_text(0, "0.0");
    check_text(-0.0, "-0.0");
    check_text(1, "1.0");
    check_text(-1.5, "-1.5");
    check_text(0.1, "0.1");
    check_text(100, "100.0");
    check_text(1e-7, "1e-07");
    check_text(1e-4, "0.0001");
    check_text(0.00012345, "0.00012345");
    check_text(1e15, "1000000000000000.0");
    check_text(1e16, "1e+16");
    check_text(123456789012345680.0, "1.2345678901234568e+17");
    check_text(9007199254740993.0, "9007199254740992.0");
    check_text(0x1p-44, "5.684341886080802e-14");
    check_text(0x1p-1074, "5e-324");
    check_text(-DBL_MAX, "-1.7976931348623157e+308");
    check_text(1.0 / 3, "0.3333333333333333");
    check_text(2.0 / 3, "0.6666666666666666");
    check_text((double)INFINITY, "inf");
    check_text(-(double)INFINITY, "-inf");
    check_text((double)NAN, "nan");
}

static void texts_of_doubles_read_back(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        double v, back;
        char text[F64_TEXT_MAX];
        memcpy(&v, &x, sizeof v);
        if (!isfinite(v)) continue;
        size_t n = f64_text(v, text);
        assert_true(str_f64((struct str){text, n}, &back));
        assert_memory_equal(&v, &back, sizeof v);
    }
}

static void numbers_ignore_the_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    size_t i = 0;
    while (i < COUNT_OF(names) && !setlocale(LC_ALL, names[i])) i++;
    if (i == COUNT_OF(names)) skip(); /* none with a decimal comma is installed */
    double v;
    bool ok = str_f64(STR("1234.5678901234567890123"), &v);
    setlocale(LC_ALL, "C");
    assert_true(ok && v == 1234.5678901234567890123);
    check_text(v, "1234.567890123457");
}

static void utf8_accepts_exactly_the_valid_forms(void **state)
{
    (void)state;
    char text[4];
    uint32_t cp;
    for (uint32_t c = 0; c < 0x110000; c += c < 0x11000 ? 1 : 97) {
        size_t n = utf8_encode(c, text);
        assert_int_equal(utf8_decode((struct str){text, n}, &cp), n);
        assert_int_equal(cp, c >= 0xd800 && c < 0xe000 ? 0xfffd : c);
        if (n > 1) assert_int_equal(utf8_decode((struct str){text, n - 1}, &cp), 0);
    }
    assert_int_equal(utf8_encode(0x110000, text), 3);
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf",
                                      "\xf4\x90\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xc3\x28",
                                      "\xe2\x28\xa1",
                                      "\xe2\x82\x28",
                                      "\xf0\x28\x8c\xbc",
                                      "\xf0\x9f\x98\x28"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) assert_int_equal(utf8_decode(view(bad[i]), &cp), 0);
    assert_true(utf8_valid(STR("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80")));
    assert_false(utf8_valid(STR("a\xc3")));
}

static void buffers_grow_and_stop_at_their_limit(void **state)
{
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 1000; i++) assert_int_equal(buf_printf(&b, "%d,", i), 0);
    assert_int_equal(b.n, 3890);
    assert_true(str_starts(buf_view(&b), STR("0,1,2,3")) && str_ends(buf_view(&b), STR(",998,999,")));
    b.n = 0;
    assert_int_equal(buf_printf(&b, "%0600d", 7), 0);
    assert_int_equal(b.n, 600);
    buf_fini(&b);
    assert_null(b.p);
    struct buf small = {.limit = 10};
    assert_int_equal(buf_z(&small, "0123456789"), 0);
    assert_int_equal(buf_c(&small, 'x'), ERR_LIMIT);
    assert_int_equal(small.n, 10);
    assert_int_equal(buf_reserve(&small, SIZE_MAX), ERR_NOMEM);
    buf_fini(&small);
    struct scratch_nth nth = {FAULT_ALLOC, 1, 0};
    fault_set(scratch_fail_nth, &nth);
    assert_int_equal(buf_z(&b, "x"), ERR_NOMEM);
    fault_set(NULL, NULL);
}

/* ---- reader ---- */

static void reader_reads_little_endian(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 0x34, 0x12, 4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0x80, 0x3f, 9, 9, 9};
    uint8_t *copy = scratch_exact(bytes, sizeof bytes);
    struct reader r = rd_of(copy, sizeof bytes);
    assert_int_equal(rd_u8(&r), 1);
    assert_int_equal(rd_u16(&r), 0x1234);
    assert_int_equal(rd_u32(&r), 0x01020304);
    assert_true(rd_u64(&r) == 0x0102030405060708u);
    assert_true(rd_f32(&r) == 1.0f);
    assert_int_equal(rd_pos(&r), 19);
    assert_int_equal(rd_left(&r), 3);
    assert_true(rd_count_ok(&r, 3, 1));
    assert_int_equal(rd_u32(&r), 0);
    assert_true(r.bad);
    assert_int_equal(rd_u8(&r), 0);
    assert_null(rd_bytes(&r, 0));
    free(copy);
}

static void reader_checks_counts(void **state)
{
    (void)state;
    uint8_t bytes[16] = {0};
    struct reader r = rd_of(bytes, sizeof bytes);
    assert_true(rd_count_ok(&r, 2, 8));
    assert_false(rd_count_ok(&r, 3, 8));
    assert_true(r.bad);
    r = rd_of(bytes, sizeof bytes);
    assert_false(rd_count_ok(&r, UINT64_MAX, 8));
    r = rd_of(bytes, sizeof bytes);
    assert_false(rd_count_ok(&r, UINT64_MAX / 8 + 2, 8)); /* times 8 would wrap to 8 */
    r = rd_of(bytes, sizeof bytes);
    assert_null(rd_bytes(&r, UINT64_MAX));
    r = rd_of(NULL, 0);
    assert_int_equal(rd_left(&r), 0);
    assert_int_equal(rd_u8(&r), 0);
    assert_true(r.bad);
}

static void checked_sizes(void **state)
{
    (void)state;
    size_t n = 5;
    uint64_t u = 5;
    assert_false(size_add(SIZE_MAX, 1, &n) || size_mul(SIZE_MAX / 2 + 1, 2, &n));
    assert_false(u64_align(UINT64_MAX - 30, 32, &u));
    assert_true(n == 5 && u == 5);
    assert_true(u64_align(33, 32, &u) && u == 64);
    assert_true(u64_align(UINT64_MAX - 31, 32, &u) && u == UINT64_MAX - 31);
}

/* ---- CPUs: fake /proc and /sys trees ---- */

static char root[64];

static void put(const char *path, const char *text)
{
    char full[512], *slash;
    snprintf(full, sizeof full, "%s%s", root, path);
    for (slash = strchr(full + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    scratch_write(root, path + 1, text, strlen(text));
}

static unsigned count_cpus(unsigned n)
{
    unsigned cpus[64];
    for (unsigned i = 0; i < n; i++) cpus[i] = i;
    unsigned count = cpu_threads_under(root, cpus, n);
    scratch_remove(root);
    scratch_make(root);
    return count;
}

#define MOUNT_V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
#define MOUNT_V1 "33 32 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,relatime master:13 - cgroup cgroup rw,cpu,cpuacct\n"

static void threads_follow_the_quota(void **state)
{
    (void)state;
    scratch_make(root);
    assert_int_equal(count_cpus(8), 8);

    put("/proc/self/cgroup", "0::/user/app\n");
    put("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda rw\n" MOUNT_V2);
    put("/sys/fs/cgroup/user/app/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/user/cpu.max", "390000 100000\n"); /* the parent's quota counts too, rounded down */
    assert_int_equal(count_cpus(8), 3);

    put("/proc/self/cgroup", "0::/\n");
    put("/proc/self/mountinfo", MOUNT_V2);
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n"); /* half a CPU is still one thread */
    assert_int_equal(count_cpus(8), 1);

    put("/proc/self/cgroup", "12:cpuset:/docker/abc\n4:cpu,cpuacct:/docker/abc/in\n0::/x\n");
    put("/proc/self/mountinfo", MOUNT_V1);
    put("/sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    assert_int_equal(count_cpus(8), 2);

    put("/proc/self/cgroup", "nonsense");
    put("/proc/self/mountinfo", "1 2 3\n- - - - -\n\n30 23 0:26 / /m - cgroup2\n" MOUNT_V2);
    assert_int_equal(count_cpus(8), 8);
}

static void threads_prefer_performance_cores(void **state)
{
    (void)state;
    put("/sys/devices/cpu_core/cpus", "0-3,6\n");
    assert_int_equal(count_cpus(8), 5);
    put("/sys/devices/cpu_core/cpus", "40-43\n"); /* none of them is ours: take what we have */
    assert_int_equal(count_cpus(8), 8);
    static const char *const capacity[] = {"300\n", "300\n", "300\n", "300\n", "800\n", "800\n", "1024\n", "1024\n"};
    char path[80];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cpu_capacity", i);
        put(path, capacity[i]);
    }
    assert_int_equal(count_cpus(8), 4);
    scratch_remove(root);
    unsigned n = cpu_threads();
    assert_true(n >= 1 && n <= 4096);
}

/* ---- log and clock ---- */

static void keep_line(void *ctx, enum log_level level, const char *line)
{
    snprintf(ctx, 100, "%d %s", (int)level, line);
}

static void log_goes_where_it_is_told(void **state)
{
    (void)state;
    char line[100] = "";
    log_set(LOG_INFO, keep_line, line);
    log_msg(LOG_DEBUG, "not %s", "this");
    assert_string_equal(line, "");
    log_msg(LOG_INFO, "a\tb %d", 7);
    assert_string_equal(line, "2 a b 7");
    log_set(LOG_WARN, NULL, NULL);
    uint64_t t = clock_ns();
    assert_true(t > 0 && clock_ns() >= t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_one_plain_line),
        cmocka_unit_test(long_messages_end_at_a_character),
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(failed_realloc_keeps_the_block),
        cmocka_unit_test(pages_are_zero_and_counted),
        cmocka_unit_test(arena_hands_out_zeroed_aligned_memory),
        cmocka_unit_test(arena_keeps_its_limit),
        cmocka_unit_test(strings_compare),
        cmocka_unit_test(hash_depends_on_every_byte),
        cmocka_unit_test(whole_numbers),
        cmocka_unit_test(decimals_are_rounded_correctly),
        cmocka_unit_test(long_decimals),
        cmocka_unit_test(doubles_print_as_python_does),
        cmocka_unit_test(texts_of_doubles_read_back),
        cmocka_unit_test(numbers_ignore_the_locale),
        cmocka_unit_test(utf8_accepts_exactly_the_valid_forms),
        cmocka_unit_test(buffers_grow_and_stop_at_their_limit),
        cmocka_unit_test(reader_reads_little_endian),
        cmocka_unit_test(reader_checks_counts),
        cmocka_unit_test(checked_sizes),
        cmocka_unit_test(threads_follow_the_quota),
        cmocka_unit_test(threads_prefer_performance_cores),
        cmocka_unit_test(log_goes_where_it_is_told),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
