/* pool: persistent worker threads that run one function together.
 *
 * The caller publishes a job by raising the generation counter; every worker compares it with the generation it has seen. An
 * idle worker looks at the counter for about 50 us, because the next op of a forward pass comes within microseconds, and then
 * sleeps on a condition variable. No wake-up is lost: a worker announces itself in `sleepers` before it looks at the counter
 * for the last time, the caller raises the counter before it looks at `sleepers`, and both do so in the one
 * sequentially consistent order, so at least one of them sees the other.
 *
 * A waiter that has spun for its share yields the core, so more threads than cores still make progress. Where other programs
 * run on these cores, too, the thread that is waited for often has none, and spinning only takes the time it lacks: small
 * models run ten thousands of ops a second. So each wait that spinning does not end halves the share of that thread's next one.
 */
#include "base/base_int.h"

#include <sched.h>
#include <stdatomic.h>

#define SPIN_NS 50000u
#define SPIN_BATCH 64 /* looks between two looks at the clock */
#define THREADS_MAX 1024u
#define LINE 128 /* words that different threads write live in different cache lines */

struct worker {
    struct pool *pool;
    unsigned ith;
    pthread_t thread;
};

struct pool {
    unsigned n;             /* threads, with the caller */
    unsigned started;       /* workers that run */
    struct worker *workers; /* [n - 1] */
    pthread_mutex_t lock;   /* guards the sleep */
    pthread_cond_t wake;
    pool_fn *fn; /* the job; written before the generation is raised. NULL: leave */
    void *ctx;
    _Alignas(LINE) atomic_uint generation;
    atomic_uint sleepers;
    _Alignas(LINE) atomic_uint pending; /* workers that have not finished the job */
    _Alignas(LINE) atomic_uint arrived; /* threads at the barrier */
    _Alignas(LINE) atomic_uint phase;   /* raised by the last to arrive */
};

/* Looks at *word for about max_ns; true as soon as it is no longer `old`. */
static bool spin_while(atomic_uint *word, unsigned old, uint64_t max_ns)
{
    uint64_t start = 0;
    for (;;) {
        for (int i = 0; i < SPIN_BATCH; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old) return true;
            spin_pause();
        }
        uint64_t now = clock_ns();
        if (!start) start = now;
        if (now - start >= max_ns) return false;
    }
}

/* Returns when *word is no longer `old`: a thread that runs is to change it. */
static void await(atomic_uint *word, unsigned old)
{
    static _Thread_local uint64_t share = SPIN_NS;
    if (spin_while(word, old, share)) {
        share = SPIN_NS;
        return;
    }
    share /= 2;
    while (atomic_load_explicit(word, memory_order_acquire) == old) sched_yield();
}

static void sleep_until_job(struct pool *p, unsigned seen)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void publish(struct pool *p, pool_fn *fn, void *ctx)
{
    p->fn = fn;
    p->ctx = ctx;
    atomic_store_explicit(&p->pending, p->started, memory_order_relaxed);
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    for (unsigned seen = 0;; seen++) {
        if (!spin_while(&p->generation, seen, SPIN_NS)) sleep_until_job(p, seen);
        if (!p->fn) return NULL;
        p->fn(p->ctx, w->ith, p->n);
        atomic_fetch_sub_explicit(&p->pending, 1, memory_order_release);
    }
}

int pool_new(unsigned n, struct pool **out, struct err *e)
{
    *out = NULL;
    if (n < 1 || n > THREADS_MAX) return fail(e, ERR_ARG, "%u threads: expected 1 to %u", n, THREADS_MAX);
    /* mem_alloc aligns to 16; the pool wants whole cache lines. The block starts with the pointer to free. */
    char *block = mem_zalloc(sizeof(struct pool) + 2 * LINE);
    struct worker *workers = n > 1 ? mem_array(n - 1, sizeof *workers) : NULL;
    if (!block || (n > 1 && !workers)) {
        mem_free(block);
        mem_free(workers);
        return fail_nomem(e, "the thread pool", sizeof(struct pool) + n * sizeof *workers);
    }
    char *at = block + LINE + (-(uintptr_t)block & (LINE - 1));
    memcpy(at - sizeof block, &block, sizeof block);
    struct pool *p = (struct pool *)(void *)at;
    p->n = n;
    p->workers = workers;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (unsigned i = 0; i + 1 < n; i++) {
        workers[i] = (struct worker){.pool = p, .ith = i + 1};
        int rc = thread_start(&workers[i].thread, work, &workers[i]);
        if (rc) {
            pool_free(&p);
            return fail(e, ERR_NOMEM, "thread %u of %u could not be started (system error %d); use fewer threads", i + 2, n,
                        rc);
        }
        p->started++;
    }
    *out = p;
    return 0;
}

void pool_free(struct pool **pp)
{
    struct pool *p = *pp;
    if (!p) return;
    *pp = NULL;
    publish(p, NULL, NULL);
    for (unsigned i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mem_free(p->workers);
    char *block;
    memcpy(&block, (char *)p - sizeof block, sizeof block);
    mem_free(block);
}

unsigned pool_size(const struct pool *p)
{
    return p->n;
}

void pool_run(struct pool *p, pool_fn *fn, void *ctx)
{
    if (p->n == 1) {
        fn(ctx, 0, 1);
        return;
    }
    publish(p, fn, ctx);
    fn(ctx, 0, p->n);
    for (unsigned left; (left = atomic_load_explicit(&p->pending, memory_order_acquire)) != 0;) await(&p->pending, left);
}

void pool_barrier(struct pool *p)
{
    if (p->n == 1) return;
    /* The phase cannot change before this thread has arrived, so reading it first is safe. */
    unsigned phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == p->n) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->phase, phase + 1, memory_order_release);
        return;
    }
    await(&p->phase, phase);
}
