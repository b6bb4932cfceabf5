/* preload: pages of mapped files are made present ahead of their first use, by a thread of its own, in the order of use. A page
 * fault costs a compute thread about a microsecond each, and a page that is not in the page cache a wait for the disk; the
 * system call that is used here takes whole pieces of a file, and reads ahead in units as large as huge pages.
 *
 * The bytes themselves are never touched: a page that the file no longer has (somebody made it shorter) ends the preloading and
 * not the process. Where the system has no such call (before Linux 5.14, macOS) it is only told what will be needed. */
#include "base/base_int.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE ((size_t)32 << 20) /* bytes between two looks at stop */
#define ASK ((size_t)512 << 10)  /* bytes of one request: Linux reads no more of it than the device takes at once */

#if defined(__linux__) && !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22
#endif

struct preload {
    pthread_t thread;
    atomic_bool stop;
    size_t n;
    struct region spans[];
};

/* The same span in whole pages. */
static struct region whole_pages(struct region s)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), skip = (uintptr_t)s.p % page;
    return (struct region){s.p - skip, (s.n + skip + page - 1) / page * page};
}

/* False where there is no use in going on. */
static bool populate(struct region s)
{
    s = whole_pages(s);
    void *start = (void *)(uintptr_t)s.p;
#ifdef MADV_POPULATE_READ
    if (madvise(start, s.n, MADV_POPULATE_READ) == 0) return true;
    if (errno != EINVAL) return false;
#endif
    return posix_madvise(start, s.n, POSIX_MADV_WILLNEED) == 0;
}

static void *work(void *arg)
{
    struct preload *p = arg;
    for (size_t i = 0; i < p->n; i++)
        for (struct region s = p->spans[i]; s.n > 0;) {
            size_t n = size_min(s.n, PIECE);
            if (atomic_load_explicit(&p->stop, memory_order_relaxed) || !populate((struct region){s.p, n})) return NULL;
            s = (struct region){s.p + n, s.n - n};
        }
    return NULL;
}

int preload_start(const struct region *spans, size_t n, struct preload **out, struct err *e)
{
    size_t bytes;
    *out = NULL;
    bool fits = size_mul(n, sizeof *spans, &bytes) && size_add(bytes, sizeof **out, &bytes);
    struct preload *p = fits ? mem_zalloc(bytes) : NULL;
    if (!p) return fail_nomem(e, "reading weights ahead", n * sizeof *spans);
    p->n = n;
    if (n) memcpy(p->spans, spans, n * sizeof *spans);
    int rc = thread_start(&p->thread, work, p);
    if (rc) {
        mem_free(p);
        return fail(e, ERR_LIMIT, "no thread to read weights ahead (system error %d)", rc);
    }
    *out = p;
    return 0;
}

static void end(struct preload **pp, bool now)
{
    struct preload *p = *pp;
    if (!p) return;
    *pp = NULL;
    if (now) atomic_store_explicit(&p->stop, true, memory_order_relaxed);
    pthread_join(p->thread, NULL);
    mem_free(p);
}

void preload_wait(struct preload **p)
{
    end(p, false);
}

void preload_stop(struct preload **p)
{
    end(p, true);
}

void preload_sparse(struct region s)
{
    s = whole_pages(s);
    void *start = (void *)(uintptr_t)s.p;
#ifdef MADV_NOHUGEPAGE
    (void)madvise(start, s.n, MADV_NOHUGEPAGE); /* else Linux reads a huge page, whatever else it is told */
#endif
    (void)posix_madvise(start, s.n, POSIX_MADV_RANDOM);
}

/* Not MADV_POPULATE_READ, which waits, and which reads page after page where nothing is read ahead. */
void preload_ask(struct region s)
{
    for (s = whole_pages(s); s.n > 0;) {
        const size_t n = size_min(s.n, ASK);
        if (posix_madvise((void *)(uintptr_t)s.p, n, POSIX_MADV_WILLNEED) != 0) return;
        s = (struct region){s.p + n, s.n - n};
    }
}
