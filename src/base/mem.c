/* mem: counted allocation, arenas, large pages, and the hook that makes the N-th call fail.
 *
 * Every block carries its size in a header of 16 bytes, which keeps the alignment of malloc and lets mem_free count without
 * asking the C library. The counters are process-wide atomics: they are statistics, never used to decide anything.
 *
 * Arena blocks come zeroed from the system and are handed out once, so arena memory is zero without being written. In an
 * AddressSanitizer build what an arena has not handed out is poisoned, with a gap behind each allocation. */
#include "base/base_int.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define HAVE_ASAN 1
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region(p, n)
#define UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#define ARENA_GAP 16u
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#define ARENA_GAP 0u
#endif

/* ---- the hook ---- */

static struct {
    fault_fn *fn;
    void *ctx;
} fault;

void fault_set(fault_fn *fn, void *ctx)
{
    fault.fn = fn;
    fault.ctx = ctx;
}

bool fault_hit(enum fault_kind kind)
{
    return fault.fn && fault.fn(fault.ctx, kind);
}

/* ---- counted blocks ---- */

#define HEAD 16u

static atomic_size_t stat_current, stat_peak, stat_calls, stat_pages;

static void count_add(size_t bytes)
{
    size_t now = atomic_fetch_add_explicit(&stat_current, bytes, memory_order_relaxed) + bytes;
    size_t peak = atomic_load_explicit(&stat_peak, memory_order_relaxed);
    while (now > peak &&
           !atomic_compare_exchange_weak_explicit(&stat_peak, &peak, now, memory_order_relaxed, memory_order_relaxed)) {
    }
}

static void count_sub(size_t bytes)
{
    atomic_fetch_sub_explicit(&stat_current, bytes, memory_order_relaxed);
}

/* Common to all requests: counts the call, adds the header; false where it must fail. */
static bool request(size_t bytes, size_t *total)
{
    atomic_fetch_add_explicit(&stat_calls, 1, memory_order_relaxed);
    return !fault_hit(FAULT_ALLOC) && size_add(bytes, HEAD, total) && *total <= PTRDIFF_MAX;
}

static void *finish(char *block, size_t bytes)
{
    if (!block) return NULL;
    memcpy(block, &bytes, sizeof bytes);
    count_add(bytes);
    return block + HEAD;
}

static size_t block_bytes(const void *p)
{
    size_t bytes;
    memcpy(&bytes, (const char *)p - HEAD, sizeof bytes);
    return bytes;
}

void *mem_alloc(size_t bytes)
{
    size_t total;
    if (!request(bytes, &total)) return NULL;
    return finish(malloc(total), bytes);
}

void *mem_zalloc(size_t bytes)
{
    size_t total;
    if (!request(bytes, &total)) return NULL;
    return finish(calloc(1, total), bytes);
}

void *mem_realloc(void *p, size_t bytes)
{
    if (!p) return mem_alloc(bytes);
    size_t total, old = block_bytes(p);
    if (!request(bytes, &total)) return NULL;
    char *block = realloc((char *)p - HEAD, total);
    if (!block) return NULL;
    count_sub(old);
    return finish(block, bytes);
}

void mem_free(void *p)
{
    if (!p) return;
    count_sub(block_bytes(p));
    free((char *)p - HEAD);
}

void *mem_array(size_t n, size_t size)
{
    size_t bytes;
    return size_mul(n, size, &bytes) ? mem_zalloc(bytes) : NULL;
}

struct mem_stats mem_stats(void)
{
    return (struct mem_stats){
        .current = atomic_load_explicit(&stat_current, memory_order_relaxed),
        .peak = atomic_load_explicit(&stat_peak, memory_order_relaxed),
        .calls = atomic_load_explicit(&stat_calls, memory_order_relaxed),
        .pages = atomic_load_explicit(&stat_pages, memory_order_relaxed),
    };
}

void mem_peak_reset(void)
{
    size_t now = atomic_load_explicit(&stat_current, memory_order_relaxed);
    atomic_store_explicit(&stat_peak, now, memory_order_relaxed);
}

/* ---- large pages ---- */

#define HUGE_PAGE ((size_t)2 << 20)

static bool round_pages(size_t bytes, size_t *out)
{
    long page = sysconf(_SC_PAGESIZE);
    uint64_t n;
    if (!u64_align(bytes ? bytes : 1, page > 0 ? (uint64_t)page : 4096, &n) || n > PTRDIFF_MAX) return false;
    *out = (size_t)n;
    return true;
}

void *mem_pages(size_t bytes)
{
    size_t n, span;
    if (fault_hit(FAULT_ALLOC) || !round_pages(bytes, &n)) return NULL;
    size_t slack = n >= HUGE_PAGE ? HUGE_PAGE : 0;
    if (!size_add(n, slack, &span)) return NULL;
    char *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (slack) {
        /* Keep the aligned n bytes and give back what is before and behind them. */
        size_t skip = (size_t)(-(uintptr_t)p & (HUGE_PAGE - 1));
        if (skip) munmap(p, skip);
        p += skip;
        if (slack > skip) munmap(p + n, slack - skip);
#ifdef MADV_HUGEPAGE
        madvise(p, n, MADV_HUGEPAGE);
#endif
    }
    atomic_fetch_add_explicit(&stat_pages, n, memory_order_relaxed);
    return p;
}

void mem_pages_free(void *p, size_t bytes)
{
    size_t n;
    if (!p || !round_pages(bytes, &n)) return;
    munmap(p, n);
    atomic_fetch_sub_explicit(&stat_pages, n, memory_order_relaxed);
}

/* ---- arenas ---- */

struct arena_block {
    struct arena_block *next;
    size_t cap; /* bytes behind this header */
};

#define BLOCK_MIN ((size_t)4096)
#define BLOCK_MAX ((size_t)4 << 20)

_Static_assert(sizeof(struct arena_block) == 16, "arena memory is 16-aligned because the header is 16 bytes");

/* A new block of cap bytes, or of fewer but at least need bytes where the limit asks for it. */
static struct arena_block *block_new(struct arena *a, size_t need, size_t cap)
{
    if (a->limit) {
        size_t left = a->limit > a->total ? a->limit - a->total : 0;
        if (left < sizeof(struct arena_block) || left - sizeof(struct arena_block) < need) return NULL;
        cap = size_min(cap, left - sizeof(struct arena_block)) & ~(size_t)15;
        if (cap < need) return NULL;
    }
    size_t bytes;
    if (!size_add(cap, sizeof(struct arena_block), &bytes)) return NULL;
    struct arena_block *b = mem_zalloc(bytes);
    if (!b) return NULL;
    b->cap = cap;
    a->total += bytes;
    POISON(b + 1, cap);
    return b;
}

static void *hand_out(struct arena_block *b, size_t at, size_t bytes)
{
    char *p = (char *)(b + 1) + at;
    UNPOISON(p, bytes);
    return p;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t need;
    if (!size_add(bytes ? bytes : 1, 15 + ARENA_GAP, &need)) return NULL;
    need &= ~(size_t)15;
    if (need > a->cap - a->used) {
        size_t grow = size_min(size_max(a->total / 2, BLOCK_MIN), BLOCK_MAX) & ~(size_t)15;
        struct arena_block *b = block_new(a, need, size_max(need, grow));
        if (!b) return NULL;
        if (a->head && b->cap - need < a->cap - a->used) {
            /* A large request gets a block of its own behind the head, which has more room left. */
            b->next = a->head->next;
            a->head->next = b;
            return hand_out(b, 0, bytes);
        }
        b->next = a->head;
        a->head = b;
        a->used = 0;
        a->cap = b->cap;
    }
    void *p = hand_out(a->head, a->used, bytes);
    a->used += need;
    return p;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    return size_mul(n, size, &bytes) ? arena_alloc(a, bytes) : NULL;
}

char *arena_dup(struct arena *a, const char *p, size_t n)
{
    size_t bytes;
    if (!size_add(n, 1, &bytes)) return NULL;
    char *z = arena_alloc(a, bytes);
    if (z && n) memcpy(z, p, n);
    return z;
}

void arena_fini(struct arena *a)
{
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        UNPOISON(b + 1, b->cap);
        mem_free(b);
    }
    *a = (struct arena){.limit = a->limit};
}
