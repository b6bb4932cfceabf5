/* The facts about this machine are sane, limits of control groups are honoured (on trees of files made here), and a failing
 * allocation while the bandwidth is measured is an error and leaks nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include "machine/machine.h"
#include "scratch.h"

#include <sys/stat.h>

#undef fail
#include <cmocka.h>

static void test_facts(void **state)
{
    (void)state;
    struct machine_info info;
    struct err e;
    assert_int_equal(machine_probe(false, 0, &info, &e), 0);
    assert_true(strlen(info.cpu) > 0);
    assert_true(info.cpu[0] != ' ');
    assert_int_equal(strncmp(info.cpu_levels, "scalar", 6), 0);
    assert_true(info.cores >= 1);
    assert_int_equal(info.threads, cpu_threads());
    assert_true(info.memory_bytes > (uint64_t)64 << 20);
    assert_true(info.available_bytes > 0 && info.available_bytes <= info.memory_bytes);
    assert_true(info.bandwidth_gb_s == 0 && info.bandwidth_huge_gb_s == 0);
    assert_int_equal(machine_probe(false, 3, &info, &e), 0);
    assert_int_equal(info.threads, 3);
}

/* Measuring takes seconds where a sanitizer watches, and does so once: when no call fails any more. */
static void test_bandwidth_and_failing_calls(void **state)
{
    (void)state;
    size_t measured = 0;
    static const enum fault_kind kinds[] = {FAULT_ALLOC, FAULT_THREAD};
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        for (size_t at = 1; at <= 3; at++) {
            struct machine_info info = {.cores = 77};
            struct err e = {0};
            struct scratch_nth nth = {.kind = kinds[k], .at = at};
            size_t before = mem_stats().current + mem_stats().pages;
            /* cpu_threads and the name of the CPU may use calls that they can do without, so success is fine too. */
            fault_set(scratch_fail_nth, &nth);
            int rc = machine_probe(true, 2, &info, &e);
            fault_set(NULL, NULL);
            if (rc < 0) {
                assert_true(strlen(e.msg) > 0);
                assert_int_equal(info.cores, 77);
            } else {
                /* No machine that runs this reads slower than a disk or faster than 4 TB/s from two cores. */
                assert_true(info.bandwidth_gb_s > 0.05 && info.bandwidth_gb_s < 4000);
                assert_true(info.bandwidth_huge_gb_s > 0.05 && info.bandwidth_huge_gb_s < 4000);
                measured++;
            }
            assert_int_equal(mem_stats().current + mem_stats().pages, before);
            if (nth.seen < at) break;
        }
    }
    assert_true(measured > 0);
}

#ifndef __APPLE__

static void put(const char *root, const char *path, const char *text)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *f = fopen(full, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static const char meminfo[] = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n";

static void check_memory(const char *root, uint64_t total, uint64_t available)
{
    uint64_t got_total, got_available;
    machine_memory_under(root, &got_total, &got_available);
    assert_int_equal(got_total, total);
    assert_int_equal(got_available, available);
}

static void test_memory(void **state)
{
    (void)state;
    const uint64_t kb = 1024, gb = 1000000000;
    char root[64];
    scratch_make(root);
    put(root, "/proc/meminfo", meminfo);
    check_memory(root, 16000000 * kb, 12000000 * kb);

    /* Version 2: no limit of its own, but one above it; pages of files do not count as used. */
    put(root, "/proc/self/cgroup", "0::/user/job\n");
    put(root, "/sys/fs/cgroup/user/job/memory.max", "max\n");
    put(root, "/sys/fs/cgroup/user/memory.max", "8000000000\n");
    put(root, "/sys/fs/cgroup/user/memory.current", "5000000000\n");
    put(root, "/sys/fs/cgroup/user/memory.stat", "anon 1\ninactive_anon 7\nactive_file 1000000000\ninactive_file 2000000000\n");
    check_memory(root, 8 * gb, 6 * gb);

    /* The tighter limit of the group itself wins; more used than allowed leaves nothing. */
    put(root, "/sys/fs/cgroup/user/job/memory.max", "1000000000\n");
    put(root, "/sys/fs/cgroup/user/job/memory.current", "1000000001\n");
    check_memory(root, 1 * gb, 0);

    /* Version 1 beside it. */
    put(root, "/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/box\n0::/\n");
    put(root, "/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "4000000000\n");
    put(root, "/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "3500000000\n");
    put(root, "/sys/fs/cgroup/memory/box/memory.stat", "total_active_file 0\ntotal_inactive_file 500000000\n");
    check_memory(root, 4 * gb, 1 * gb);

    /* Files that say nothing sensible change nothing. */
    put(root, "/proc/self/cgroup", "4:memory\n:::\n\n0::");
    put(root, "/sys/fs/cgroup/memory.max", "-5\n");
    check_memory(root, 16000000 * kb, 12000000 * kb);
    scratch_remove(root);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_bandwidth_and_failing_calls),
#ifndef __APPLE__
        cmocka_unit_test(test_memory),
#endif
    };
    return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
