/* pool: every thread runs every job, barriers order memory, no wake-up is lost, more threads than cores make progress. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <stdatomic.h>
#include <time.h>

#include "base/base.h"
#include "scratch.h"

#include <cmocka.h>

struct job {
    struct pool *pool;
    unsigned hits[16]; /* by thread; not atomic on purpose */
    unsigned slots[16];
    atomic_uint wrong;
};

static void hit(void *ctx, unsigned ith, unsigned nth)
{
    struct job *j = ctx;
    j->hits[ith]++;
    if (nth != pool_size(j->pool)) atomic_fetch_add(&j->wrong, 1);
}

static void nap(long ns)
{
    struct timespec t = {0, ns};
    nanosleep(&t, NULL);
}

static void every_thread_runs_every_job(void **state)
{
    (void)state;
    static const unsigned sizes[] = {1, 2, 3, 8};
    for (size_t k = 0; k < COUNT_OF(sizes); k++) {
        struct job j = {0};
        struct err e;
        assert_int_equal(pool_new(sizes[k], &j.pool, &e), 0);
        for (unsigned i = 1; i <= 1000; i++) {
            pool_run(j.pool, hit, &j);
            for (unsigned t = 0; t < sizes[k]; t++) assert_int_equal(j.hits[t], i);
        }
        assert_int_equal(atomic_load(&j.wrong), 0);
        pool_free(&j.pool);
        assert_null(j.pool);
    }
}

/* Pauses around the time after which workers go to sleep: they must be found in every state. */
static void no_wake_up_is_lost(void **state)
{
    (void)state;
    struct job j = {0};
    struct err e;
    assert_int_equal(pool_new(3, &j.pool, &e), 0);
    unsigned runs = 0;
    for (long pause = 0; pause < 200000; pause += 500) {
        for (int i = 0; i < 3; i++, runs++) {
            uint64_t until = clock_ns() + (uint64_t)pause;
            while (clock_ns() < until) {
            }
            pool_run(j.pool, hit, &j);
        }
    }
    for (int i = 0; i < 5; i++, runs++) {
        nap(2000000);
        pool_run(j.pool, hit, &j);
    }
    for (unsigned t = 0; t < 3; t++) assert_int_equal(j.hits[t], runs);
    pool_free(&j.pool);
}

#define ROUNDS 500

/* Each thread writes its slot, meets the others, and then must see all slots of this round. */
static void rounds(void *ctx, unsigned ith, unsigned nth)
{
    struct job *j = ctx;
    for (unsigned r = 1; r <= ROUNDS; r++) {
        j->slots[ith] = r;
        pool_barrier(j->pool);
        for (unsigned t = 0; t < nth; t++)
            if (j->slots[t] != r) atomic_fetch_add(&j->wrong, 1);
        pool_barrier(j->pool);
    }
}

static void barriers_order_memory(void **state)
{
    (void)state;
    static const unsigned sizes[] = {1, 2, 4, 16}; /* 16: more threads than most machines that build this have cores */
    for (size_t k = 0; k < COUNT_OF(sizes); k++) {
        struct job j = {0};
        struct err e;
        assert_int_equal(pool_new(sizes[k], &j.pool, &e), 0);
        pool_run(j.pool, rounds, &j);
        pool_run(j.pool, rounds, &j);
        assert_int_equal(atomic_load(&j.wrong), 0);
        pool_free(&j.pool);
    }
}

static void refuses_impossible_sizes(void **state)
{
    (void)state;
    struct pool *p = (struct pool *)&p;
    struct err e;
    assert_int_equal(pool_new(0, &p, &e), ERR_ARG);
    assert_null(p);
    assert_int_equal(pool_new(UINT32_MAX, &p, &e), ERR_ARG);
    pool_free(&p);
}

static bool fail_kind(void *ctx, enum fault_kind kind)
{
    struct scratch_nth *n = ctx;
    return (kind == FAULT_THREAD || kind == FAULT_ALLOC) && ++n->seen == n->at;
}

static void start_may_fail_at_any_point(void **state)
{
    (void)state;
    size_t before = mem_stats().current, k = 1;
    for (;; k++) {
        struct scratch_nth nth = {FAULT_THREAD, k, 0};
        struct job j = {0};
        struct err e = {0};
        fault_set(fail_kind, &nth);
        int rc = pool_new(6, &j.pool, &e);
        fault_set(NULL, NULL);
        if (rc == 0) {
            pool_run(j.pool, hit, &j);
            pool_free(&j.pool);
        } else {
            assert_int_equal(rc, ERR_NOMEM);
            assert_null(j.pool);
            assert_true(strlen(e.msg) > 10);
        }
        assert_int_equal(mem_stats().current, before);
        if (nth.seen < k) break;
        assert_int_equal(rc, ERR_NOMEM);
    }
    assert_int_equal(k, 8); /* two blocks and five threads */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_every_job), cmocka_unit_test(no_wake_up_is_lost),
        cmocka_unit_test(barriers_order_memory),       cmocka_unit_test(refuses_impossible_sizes),
        cmocka_unit_test(start_may_fail_at_any_point),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
