/* cpus: how many threads are worth starting. Three limits, the smallest wins:
 *  - the affinity mask (taskset, cpusets of containers);
 *  - the CPU quota of the process's cgroup and of every group above it, rounded down: a thread too many makes the
 *    group run out of quota and stops all of them for the rest of the period;
 *  - the performance cores, where the system tells cores apart: all threads wait for the slowest at each barrier.
 *
 * Formats: /proc/self/cgroup and mountinfo as in proc(5), cpu.max and cpu.cfs_*_us as in the kernel's cgroup documents. Paths
 * are put together below a root folder so that a test can show this file any machine. */
#include "base/base_int.h"

#include <stdio.h>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#include <unistd.h>
#endif

#define CPUS_MAX 4096u
#define PATH_BYTES 1024
#define PROC_BYTES ((size_t)64 << 10)

/* ---- small text files ---- */

/* Cuts the next piece up to sep off *s; false at the end. */
static bool next_piece(struct str *s, char sep, struct str *out)
{
    if (s->n == 0) return false;
    const char *hit = memchr(s->p, sep, s->n);
    size_t n = hit ? (size_t)(hit - s->p) : s->n;
    *out = (struct str){s->p, n};
    size_t used = n + (hit ? 1 : 0);
    *s = (struct str){s->p + used, s->n - used};
    return true;
}

/* Reads root/path; the text up to the first newline. */
static bool read_line(const char *root, const char *path, char *text, size_t cap, struct str *out)
{
    char full[PATH_BYTES];
    int n = snprintf(full, sizeof full, "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof full) return false;
    long got = read_small(full, text, cap);
    if (got <= 0) return false;
    struct str all = {text, (size_t)got};
    return next_piece(&all, '\n', out);
}

static bool read_number(const char *root, const char *path, uint64_t *out)
{
    char text[64];
    struct str line;
    return read_line(root, path, text, sizeof text, &line) && str_u64(line, out);
}

/* ---- cgroup quota ---- */

/* quota and period in microseconds -> whole CPUs, at least 1. */
static unsigned whole_cpus(uint64_t quota, uint64_t period)
{
    uint64_t n = period ? quota / period : CPUS_MAX;
    return n < 1 ? 1 : n > CPUS_MAX ? CPUS_MAX : (unsigned)n;
}

static unsigned quota_v2(const char *root, const char *dir)
{
    char path[PATH_BYTES], text[64];
    struct str line, field;
    uint64_t quota, period;
    int n = snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (n < 0 || (size_t)n >= sizeof path || !read_line(root, path, text, sizeof text, &line)) return CPUS_MAX;
    if (!next_piece(&line, ' ', &field) || !str_u64(field, &quota) || !str_u64(line, &period)) return CPUS_MAX; /* "max" too */
    return whole_cpus(quota, period);
}

static unsigned quota_v1(const char *root, const char *dir)
{
    char path[PATH_BYTES];
    uint64_t quota, period;
    int n = snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (n < 0 || (size_t)n >= sizeof path || !read_number(root, path, &quota)) return CPUS_MAX; /* -1: no quota */
    n = snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (n < 0 || (size_t)n >= sizeof path || !read_number(root, path, &period)) return CPUS_MAX;
    return whole_cpus(quota, period);
}

/* The tightest quota of the group at mount/rel and of those above it, up to the mount point. */
static unsigned quota_up(const char *root, struct str mount, struct str rel, bool v2)
{
    char dir[PATH_BYTES];
    unsigned best = CPUS_MAX;
    if (mount.n + rel.n + 2 > sizeof dir) return best;
    memcpy(dir, mount.p, mount.n);
    if (rel.n) memcpy(dir + mount.n, rel.p, rel.n);
    for (size_t n = mount.n + rel.n;; n--) {
        bool edge = n == mount.n + rel.n || n == mount.n || dir[n] == '/';
        if (edge) {
            dir[n] = 0;
            unsigned q = v2 ? quota_v2(root, dir) : quota_v1(root, dir);
            if (q < best) best = q;
        }
        if (n == mount.n) return best;
    }
}

static bool has_word(struct str list, const char *word)
{
    struct str w;
    while (next_piece(&list, ',', &w))
        if (str_is(w, word)) return true;
    return false;
}

/* The path of this process in the hierarchy of v2, or of v1's cpu controller: lines "id:controllers:path". */
static bool own_group(struct str text, bool v2, struct str *out)
{
    struct str line, id, controllers;
    while (next_piece(&text, '\n', &line)) {
        if (!next_piece(&line, ':', &id) || !next_piece(&line, ':', &controllers)) continue;
        if (v2 ? controllers.n != 0 || !str_is(id, "0") : !has_word(controllers, "cpu")) continue;
        *out = line;
        return true;
    }
    return false;
}

/* Looks at one line of mountinfo: "id parent dev ROOT MOUNT options... - TYPE source SUPER". */
static unsigned quota_of_mount(const char *root, struct str line, struct str groups)
{
    struct str f, mount_root = {0}, mount = {0}, type = {0}, super = {0};
    for (int i = 0; i < 5; i++) {
        if (!next_piece(&line, ' ', &f)) return CPUS_MAX;
        if (i == 3) mount_root = f;
        if (i == 4) mount = f;
    }
    while (next_piece(&line, ' ', &f) && !str_is(f, "-")) {
    }
    if (!next_piece(&line, ' ', &type) || !next_piece(&line, ' ', &f)) return CPUS_MAX;
    super = line;
    bool v2 = str_is(type, "cgroup2");
    struct str group;
    if (!v2 && !(str_is(type, "cgroup") && has_word(super, "cpu"))) return CPUS_MAX;
    if (!own_group(groups, v2, &group)) return CPUS_MAX;
    /* In a container the mount may show only a part of the hierarchy: its root is then a prefix of the group. */
    if (str_is(mount_root, "/")) mount_root.n = 0;
    if (str_starts(group, mount_root))
        group = (struct str){group.p + mount_root.n, group.n - mount_root.n};
    else
        group = (struct str){0};
    while (group.n && group.p[group.n - 1] == '/') group.n--;
    return quota_up(root, mount, group, v2);
}

static unsigned cgroup_quota(const char *root)
{
    unsigned best = CPUS_MAX;
    char path[PATH_BYTES], *text = mem_alloc(2 * PROC_BYTES);
    if (!text) return best;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    long n_groups = read_small(path, text, PROC_BYTES);
    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    long n_mounts = read_small(path, text + PROC_BYTES, PROC_BYTES);
    struct str line, mounts = {text + PROC_BYTES, n_mounts > 0 ? (size_t)n_mounts : 0};
    while (n_groups > 0 && next_piece(&mounts, '\n', &line)) {
        unsigned q = quota_of_mount(root, line, (struct str){text, (size_t)n_groups});
        if (q < best) best = q;
    }
    mem_free(text);
    return best;
}

/* ---- performance cores ---- */

/* Is cpu in a list like "0-3,8,10-11"? */
static bool in_list(struct str list, unsigned cpu)
{
    struct str range, low;
    uint64_t a, b;
    while (next_piece(&list, ',', &range)) {
        if (!next_piece(&range, '-', &low) || !str_u64(low, &a)) return false;
        if (!range.n)
            b = a;
        else if (!str_u64(range, &b))
            return false;
        if (cpu >= a && cpu <= b) return true;
    }
    return false;
}

/* x86 hybrids list their performance cores; on arm each core tells its capacity, the best being 1024. Cores above half of the
 * best count: the middle cluster of three is worth having, the small one is not. */
static unsigned performance_cores(const char *root, const unsigned *cpus, unsigned n)
{
    char text[512], path[96];
    struct str list;
    unsigned count = 0;
    if (read_line(root, "/sys/devices/cpu_core/cpus", text, sizeof text, &list)) {
        for (unsigned i = 0; i < n; i++) count += in_list(list, cpus[i]);
        return count ? count : n;
    }
    uint64_t best = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < n; i++) {
            uint64_t capacity;
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/cpu_capacity", cpus[i]);
            if (!read_number(root, path, &capacity)) return n;
            if (pass == 0 && capacity > best) best = capacity;
            if (pass == 1 && capacity > best / 2) count++;
        }
    }
    return count ? count : n;
}

unsigned cpu_threads_under(const char *root, const unsigned *allowed, unsigned n_allowed)
{
    unsigned quota = cgroup_quota(root), cores = performance_cores(root, allowed, n_allowed);
    unsigned n = quota < cores ? quota : cores;
    return n ? n : 1;
}

#if defined(__linux__)

unsigned cpu_threads(void)
{
    unsigned allowed[CPUS_MAX], n = 0;
    union {
        cpu_set_t set;
        unsigned long words[CPUS_MAX / (8 * sizeof(unsigned long))];
    } mask;
    memset(&mask, 0, sizeof mask);
    if (sched_getaffinity(0, sizeof mask, &mask.set) != 0) return 1;
    for (unsigned i = 0; i < CPUS_MAX; i++)
        if (CPU_ISSET_S(i, sizeof mask, &mask.set)) allowed[n++] = i;
    return cpu_threads_under("", allowed, n);
}

#elif defined(__APPLE__)

unsigned cpu_threads(void)
{
    static const char *const names[] = {"hw.perflevel0.physicalcpu", "hw.physicalcpu"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        int n = 0;
        size_t bytes = sizeof n;
        if (sysctlbyname(names[i], &n, &bytes, NULL, 0) == 0 && n > 0) return (unsigned)n;
    }
    return 1;
}

#else

#include <unistd.h>

unsigned cpu_threads(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}

#endif
