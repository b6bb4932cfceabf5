/* machine: see machine.h.
 *
 * Bandwidth is measured as weights are read: all threads at once, each its own contiguous range of a buffer that no cache
 * holds, again and again; the best pass counts, since whatever disturbs a pass only makes it slower. The loop takes one word of
 * each cache line. Memory moves whole lines, so every byte crosses the bus, and with so few instructions per line the core
 * keeps as many lines in flight as it can: as many as with 64-byte loads, on every instruction set. A prefetch two KiB ahead
 * carries the stream over the page boundaries where the hardware's own prefetchers stop. */
#include "machine/machine.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#ifdef __linux__
#include <fcntl.h>
#endif
#ifdef __APPLE__
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif

/* ---- small system files -------------------------------------------------------------------------------- */

#define PATH_BYTES 1024
#define TEXT_BYTES 16384

/* Takes the next line off *s, without its newline. */
static bool next_line(struct str *s, struct str *line)
{
    if (s->n == 0) return false;
    const char *nl = memchr(s->p, '\n', s->n);
    size_t n = nl ? (size_t)(nl - s->p) : s->n;
    *line = (struct str){s->p, n};
    n += nl != NULL;
    s->p += n;
    s->n -= n;
    return true;
}

static struct str trim(struct str s)
{
    while (s.n > 0 && (*s.p == ' ' || *s.p == '\t' || *s.p == ':')) s.p++, s.n--;
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\n' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

/* What follows key on the first line that begins with it, and with no name that only begins alike. */
static bool find_value(struct str text, const char *key, struct str *out)
{
    struct str line;
    size_t n = strlen(key);
    while (next_line(&text, &line)) {
        if (!str_starts(line, str_of(key)) || line.n == n || !strchr(" \t:", line.p[n])) continue;
        *out = trim((struct str){line.p + n, line.n - n});
        return true;
    }
    return false;
}

/* A number at the beginning of what follows key; 0 where there is none. */
static uint64_t find_number(struct str text, const char *key)
{
    struct str s;
    uint64_t v = 0;
    if (!find_value(text, key, &s)) return 0;
    size_t n = 0;
    while (n < s.n && s.p[n] >= '0' && s.p[n] <= '9') n++;
    s.n = n;
    return str_u64(s, &v) ? v : 0;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

/* The names that the two versions of control groups give to the same things. */
static const struct group_version {
    const char *line; /* how the process's line in /proc/self/cgroup goes on after its number */
    const char *mount, *limit, *used, *active_file, *inactive_file;
} group_versions[] = {
    {"::", "/sys/fs/cgroup", "memory.max", "memory.current", "active_file", "inactive_file"},
    {":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file",
     "total_inactive_file"},
};

static bool group_number(const char *folder, const char *name, uint64_t *out)
{
    char path[PATH_BYTES + 64], text[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    long n = read_small(path, text, sizeof text);
    return n > 0 && str_u64(trim((struct str){text, (size_t)n}), out); /* "max" is no limit */
}

/* Lowers total and available to what one group allows. Pages of files count as used there, but the system takes them back. */
static void apply_group(const struct group_version *v, const char *folder, char *text, uint64_t *total, uint64_t *available)
{
    uint64_t limit, used = 0;
    char path[PATH_BYTES + 64];
    if (!group_number(folder, v->limit, &limit)) return;
    group_number(folder, v->used, &used);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    long n = read_small(path, text, TEXT_BYTES);
    struct str stat = {text, n > 0 ? (size_t)n : 0};
    uint64_t files = find_number(stat, v->active_file) + find_number(stat, v->inactive_file);
    used = used > files ? used - files : 0;
    uint64_t left = limit > used ? limit - used : 0;
    if (limit < *total) *total = limit;
    if (left < *available) *available = left;
}

/* A limit holds for everything below it, so the group at path and all above it count. */
static void apply_path(const char *root, const struct group_version *v, struct str path, char *text, uint64_t *total,
                       uint64_t *available)
{
    char folder[PATH_BYTES];
    for (size_t end = path.n;; end--) {
        if (end < path.n && end > 0 && path.p[end] != '/') continue;
        int n = snprintf(folder, sizeof folder, "%s%s%.*s", root, v->mount, (int)end, path.p);
        if (n > 0 && (size_t)n < sizeof folder) apply_group(v, folder, text, total, available);
        if (end == 0) return;
    }
}

static void apply_groups(const char *root, char *text, uint64_t *total, uint64_t *available)
{
    char path[PATH_BYTES], groups[4096];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    long n = read_small(path, groups, sizeof groups);
    struct str rest = {groups, n > 0 ? (size_t)n : 0}, line;
    while (next_line(&rest, &line)) {
        const char *colon = memchr(line.p, ':', line.n);
        if (!colon) continue;
        struct str after = {colon, line.n - (size_t)(colon - line.p)};
        for (size_t i = 0; i < COUNT_OF(group_versions); i++) {
            const struct group_version *v = &group_versions[i];
            struct str key = str_of(v->line);
            if (!str_starts(after, key)) continue;
            apply_path(root, v, (struct str){after.p + key.n, after.n - key.n}, text, total, available);
        }
    }
}

#ifdef __APPLE__

void machine_memory_under(const char *root, uint64_t *total, uint64_t *available)
{
    (void)root;
    size_t n = sizeof *total;
    *total = 0;
    sysctlbyname("hw.memsize", total, &n, NULL, 0);
    vm_statistics64_data_t stat;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    *available = *total / 2;
    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&stat, &count) != KERN_SUCCESS) return;
    uint64_t pages = (uint64_t)stat.free_count + stat.inactive_count + stat.purgeable_count;
    *available = pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

#else

void machine_memory_under(const char *root, uint64_t *total, uint64_t *available)
{
    char path[PATH_BYTES], text[TEXT_BYTES];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    long n = read_small(path, text, sizeof text);
    struct str info = {text, n > 0 ? (size_t)n : 0};
    *total = find_number(info, "MemTotal") * 1024;
    *available = find_number(info, "MemAvailable") * 1024;
    if (*total == 0) *total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (*available == 0) *available = *total / 2;
    apply_groups(root, text, total, available);
}

#endif

/* ---- processor -------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__) || defined(__i386__)

/* The brand string: leaves 0x80000002 to 0x80000004, 16 characters each. */
static bool cpu_name(char out[96])
{
    unsigned r[12], top, unused;
    if (!__get_cpuid(0x80000000u, &top, &unused, &unused, &unused) || top < 0x80000004u) return false;
    for (unsigned i = 0; i < 3; i++) __get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    memcpy(out, r, sizeof r);
    out[sizeof r] = '\0';
    return true;
}

#elif defined(__APPLE__)

static bool cpu_name(char out[96])
{
    size_t n = 96;
    return sysctlbyname("machdep.cpu.brand_string", out, &n, NULL, 0) == 0;
}

#else

/* Arm boards name themselves in the device tree; servers only give numbers of implementer and part. */
static bool cpu_name(char out[96])
{
    char text[TEXT_BYTES];
    struct str implementer, part, name;
    long n = read_small("/proc/cpuinfo", text, sizeof text);
    struct str info = {text, n > 0 ? (size_t)n : 0};
    if (find_value(info, "model name", &name) || find_value(info, "Model", &name) || find_value(info, "Hardware", &name)) {
        snprintf(out, 96, "%.*s", STR_ARG(name));
        return true;
    }
    if (!find_value(info, "CPU implementer", &implementer) || !find_value(info, "CPU part", &part)) return false;
    snprintf(out, 96, "implementer %.*s, part %.*s", STR_ARG(implementer), STR_ARG(part));
    return true;
}

#endif

static void name_cpu(char out[96])
{
    char raw[96] = "";
    struct str s = {raw, 0};
    if (cpu_name(raw)) s = trim(str_of(raw));
    if (s.n == 0) s = STR("unknown");
    snprintf(out, 96, "%.*s", STR_ARG(s));
}

static void list_levels(char *out, size_t size)
{
    size_t n = 0;
    out[0] = '\0';
    for (unsigned i = 0; cpu_level(i); i++) {
        int more = snprintf(out + n, size - n, "%s%s", i ? " " : "", cpu_level(i));
        if (more < 0 || (size_t)more >= size - n) break;
        n += (size_t)more;
    }
}

/* Bytes of the last-level cache, 0 where unknown. */
static uint64_t last_cache(void)
{
#if defined(__APPLE__)
    uint64_t v = 0;
    size_t n = sizeof v;
    return sysctlbyname("hw.perflevel0.l2cachesize", &v, &n, NULL, 0) == 0 ? v : 0;
#elif defined(_SC_LEVEL3_CACHE_SIZE)
    long v = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return v > 0 ? (uint64_t)v : 0;
#else
    return 0;
#endif
}

/* ---- bandwidth ------------------------------------------------------------------------------------------------------ */

#define MEASURE_MIN ((uint64_t)16 << 20)
#define MEASURE_USUAL ((uint64_t)512 << 20)
#define MEASURE_MAX ((uint64_t)1 << 30)
#define MEASURE_NS (UINT64_C(250) * 1000 * 1000) /* of passes, per kind of memory */
#define MEASURE_PASSES 64

#define PAGE_BYTES 4096
#define LINE_BYTES 64
#define STEP_BYTES (8 * LINE_BYTES)
#define AHEAD_BYTES 2048

/* Each thread has one range of the bytes, in multiples of a step, and leaves what it read in a slot, without which the compiler
 * would drop the reading. */
struct pass {
    const struct region *spans; /* as if they were one after the other */
    size_t n_spans;
    size_t bytes; /* of all */
    uint64_t *sums;
};

/* Anonymous pages come into being when they are written to; until then all of them are the one page of zeros. */
static void touch_range(void *ctx, unsigned ith, unsigned nth)
{
    const struct pass *pass = ctx;
    uint8_t *p = (uint8_t *)(uintptr_t)pass->spans[0].p;
    size_t n = pass->bytes / nth;
    for (size_t i = 0; i < n; i += PAGE_BYTES) p[ith * n + i] = 1;
}

/* Bytes that do not fill a step are left out. */
static uint64_t read_span(const uint8_t *p, size_t n)
{
    uint64_t sum[8] = {0}, all = 0;
    for (size_t i = 0; i + STEP_BYTES <= n; i += STEP_BYTES) {
        for (size_t k = 0; k < 8; k++) {
            const uint8_t *line = p + i + k * LINE_BYTES;
            __builtin_prefetch(line + AHEAD_BYTES, 0, 3);
            uint64_t word;
            memcpy(&word, line, sizeof word);
            sum[k] += word;
        }
    }
    for (size_t k = 0; k < 8; k++) all += sum[k];
    return all;
}

static void read_range(void *ctx, unsigned ith, unsigned nth)
{
    const struct pass *pass = ctx;
    size_t from = pass->bytes / nth * ith, to = ith + 1 == nth ? pass->bytes : pass->bytes / nth * (ith + 1);
    uint64_t all = 0;
    for (size_t i = 0, at = 0; i < pass->n_spans && at < to; at += pass->spans[i].n, i++) {
        const struct region s = pass->spans[i];
        size_t skip = from > at ? size_min(from - at, s.n) : 0, end = size_min(to - at, s.n);
        if (skip < end) all += read_span(s.p + skip, end - skip);
    }
    pass->sums[ith] = all;
}

/* GB/s of the best pass. */
static double best_pass(struct pool *pool, struct pass *pass)
{
    uint64_t best = UINT64_MAX, spent = 0;
    for (unsigned i = 0; i < MEASURE_PASSES && (i < 3 || spent < MEASURE_NS); i++) {
        uint64_t start = clock_ns();
        pool_run(pool, read_range, pass);
        uint64_t ns = clock_ns() - start;
        if (ns < best) best = ns;
        spent += ns;
    }
    return best > 0 ? (double)pass->bytes / (double)best : 0;
}

/* Memory as a mapped file gives it: 4 KiB pages of the page cache. Where the system has no files without a name, plain
 * anonymous memory, whose pages are of the same kind there. */
static uint8_t *map_small_pages(size_t bytes)
{
#ifdef __linux__
    int fd = memfd_create("quern-bandwidth", MFD_CLOEXEC);
    if (fd < 0) return NULL;
    /* The pages are made here, and not by reading: one that cannot be had would then end the process. */
    bool reserved = posix_fallocate(fd, 0, (off_t)bytes) == 0;
    void *p = reserved ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
#else
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
#endif
    return p == MAP_FAILED ? NULL : p;
}

/* From anonymous memory with huge pages. */
static int measure_huge(struct pool *pool, struct pass *pass, double *out, struct err *e)
{
    struct region all = {mem_pages(pass->bytes), pass->bytes};
    if (!all.p) return fail_nomem(e, "measuring the memory bandwidth", pass->bytes);
    pass->spans = &all;
    pass->n_spans = 1;
    pool_run(pool, touch_range, pass);
    *out = best_pass(pool, pass);
    mem_pages_free((void *)(uintptr_t)all.p, all.n);
    return 0;
}

static int measure_both(struct pool *pool, struct pass *pass, struct machine_info *out, struct err *e)
{
    struct region all = {map_small_pages(pass->bytes), pass->bytes};
    if (!all.p) return fail_nomem(e, "measuring the memory bandwidth", pass->bytes);
    pass->spans = &all;
    pass->n_spans = 1;
#ifndef __linux__
    pool_run(pool, touch_range, pass);
#endif
    out->bandwidth_gb_s = best_pass(pool, pass);
    munmap((void *)(uintptr_t)all.p, all.n);
    return measure_huge(pool, pass, &out->bandwidth_huge_gb_s, e);
}

/* At least four times the last-level cache, so that little of a pass comes from it; a quarter of what is available at most. */
static size_t measure_bytes(uint64_t available, unsigned n_threads)
{
    uint64_t n = 4 * last_cache();
    if (n < MEASURE_USUAL) n = MEASURE_USUAL;
    if (n > MEASURE_MAX) n = MEASURE_MAX;
    if (n > available / 4) n = available / 4;
    if (n < MEASURE_MIN) n = MEASURE_MIN;
    return (size_t)(n - n % (STEP_BYTES * (uint64_t)n_threads));
}

static int measure_bandwidth(struct machine_info *out, struct err *e)
{
    struct pool *pool;
    struct pass pass = {.bytes = measure_bytes(out->available_bytes, out->threads)};
    TRY(pool_new(out->threads, &pool, e));
    pass.sums = mem_array(out->threads, sizeof *pass.sums);
    int rc = pass.sums ? measure_both(pool, &pass, out, e) : fail_nomem(e, "measuring the memory bandwidth", 0);
    mem_free(pass.sums);
    pool_free(&pool);
    return rc;
}

/* ---- limits of a model ------------------------------------------------------------------------------------------------- */

#define PEAK_NS (UINT64_C(100) * 1000 * 1000)
#define PEAK_CALLS 4 /* of a tenth of a millisecond or so: runs are so short that some of them meet no other program */

struct peak {
    uint64_t (*macs)(void);
    uint64_t *sums; /* [threads] multiply-adds done */
};

static void peak_part(void *ctx, unsigned ith, unsigned nth)
{
    const struct peak *p = ctx;
    (void)nth;
    p->sums[ith] = 0;
    for (int i = 0; i < PEAK_CALLS; i++) p->sums[ith] += p->macs();
}

/* 10^12 operations a second of all threads; a multiply-add is two. */
static double best_peak(struct pool *pool, uint64_t (*macs)(void), uint64_t *sums)
{
    struct peak p = {macs, sums};
    double best = 0;
    for (uint64_t begin = clock_ns(); clock_ns() - begin < PEAK_NS;) {
        uint64_t start = clock_ns(), all = 0;
        pool_run(pool, peak_part, &p);
        uint64_t ns = clock_ns() - start;
        for (unsigned t = 0; t < pool_size(pool); t++) all += sums[t];
        double tops = 2e-3 * (double)all / (double)ns;
        if (tops > best) best = tops;
    }
    return best;
}

static int limits(struct pool *pool, struct pass *weights, const struct kernels *k, struct machine_limits *out, struct err *e)
{
    uint64_t total, available;
    machine_memory_under("", &total, &available);
    struct pass huge = {.bytes = measure_bytes(available, pool_size(pool)), .sums = weights->sums};
    out->bandwidth_gb_s = best_pass(pool, weights);
    out->int8_tops = best_peak(pool, k->peak_int8, weights->sums);
    out->f32_tops = best_peak(pool, k->peak_f32, weights->sums);
    return measure_huge(pool, &huge, &out->bandwidth_huge_gb_s, e);
}

int machine_measure(const struct region *weights, size_t n, const struct kernels *k, unsigned n_threads,
                    struct machine_limits *out, struct err *e)
{
    struct pool *pool;
    struct pass pass = {.spans = weights, .n_spans = n};
    for (size_t i = 0; i < n; i++) pass.bytes += weights[i].n;
    TRY(pool_new(n_threads, &pool, e));
    pass.sums = mem_array(n_threads, sizeof *pass.sums);
    int rc = pass.sums ? limits(pool, &pass, k, out, e) : fail_nomem(e, "measuring the machine", 0);
    mem_free(pass.sums);
    pool_free(&pool);
    return rc;
}

int machine_probe(bool measure, unsigned n_threads, struct machine_info *out, struct err *e)
{
    struct machine_info info = {0};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    name_cpu(info.cpu);
    list_levels(info.cpu_levels, sizeof info.cpu_levels);
    info.cores = cores > 0 ? (uint32_t)cores : 1;
    info.threads = n_threads ? n_threads : cpu_threads();
    machine_memory_under("", &info.memory_bytes, &info.available_bytes);
    if (measure) TRY(measure_bandwidth(&info, e));
    *out = info;
    return 0;
}
